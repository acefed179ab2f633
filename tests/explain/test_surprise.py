"""Surprise of each part, against closed forms: a normal distribution's conditionals, and a table of probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import LogProb, Predicts, Scores, Unmasks
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.explain.surprise import by_alternatives, by_grid, chain, given


class Normal(Scores):
    """A correlated normal distribution, whose density is exact."""

    def __init__(self, mean: Tensor, covariance: Tensor, kind: str = "exact") -> None:
        self.law = torch.distributions.MultivariateNormal(mean, covariance)
        self.kind = kind

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.law.log_prob(batch.x), self.kind)  # type: ignore[arg-type]


def conditional(law: torch.distributions.MultivariateNormal, x: Tensor) -> Tensor:
    """-log p(x_i | rest): the precision matrix's diagonal is the conditional precision."""
    precision = law.precision_matrix
    far = (precision @ (x - law.mean)[:, :, None])[..., 0] / precision.diagonal()  # x_i minus its conditional mean
    return 0.5 * far.square() * precision.diagonal() + 0.5 * (2 * math.pi / precision.diagonal()).log()


@pytest.mark.parametrize("strength", [0.3, 0.9, 0.999])
def test_a_normal_distributions_conditional_surprise(strength: float) -> None:
    """To 1e-3 nats, also for rows far outside and for dimensions that are almost told by the others."""
    d = 5
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    common = mix @ mix.T
    scale = common.diagonal().sqrt()
    covariance = strength * common / (scale[:, None] * scale) + (1 - strength) * torch.eye(d, dtype=torch.float64)
    mean = torch.linspace(-3, 3, d, dtype=torch.float64)
    engine = Normal(mean, covariance)
    drawn = torch.randn(400, d, generator=generator, dtype=torch.float64)
    data = mean + drawn @ engine.law.scale_tril.T
    x = torch.cat((data[:6], data[:1] + 4.0, data[1:2] * 2.0))
    rows = Rows(0, torch.arange(len(x)))
    found = by_grid(engine, x, Condition(), rows, data.amin(0), data.amax(0))
    assert float((found - conditional(engine.law, x)).abs().max()) < 1e-3


def test_bounds_are_refused() -> None:
    engine = Normal(torch.zeros(2), torch.eye(2), "lower_bound")
    with pytest.raises(MissingCapability, match="lower bound"):
        by_grid(engine, torch.zeros(1, 2), Condition(), Rows(0, torch.arange(1)), -torch.ones(2), torch.ones(2))


class Listed(Scores, Unmasks, Predicts):
    """A distribution over (3, 2, 4) symbols given as a table; everything asked of it is a sum over the table."""

    space = Tokens((3, 2, 4), 3)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        table = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64) ** 3
        self.table = table / table.sum()

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        a, b, c = batch.x.T
        return LogProb(self.table[a, b, c].log(), "exact")

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        out = torch.full((len(tokens), 3, 4), -math.inf, dtype=torch.float64)
        for m, (row, told) in enumerate(zip(tokens.tolist(), known.tolist(), strict=True)):
            part = self.table
            for axis in range(3):
                if told[axis]:
                    only = torch.zeros(part.shape[axis], dtype=torch.float64)
                    only[row[axis]] = 1.0
                    part = part * only.reshape([-1 if k == axis else 1 for k in range(3)])
            for axis in range(3):
                others = [k for k in range(3) if k != axis]
                out[m, axis, : self.table.shape[axis]] = part.sum(others).log()
        return out

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        filled = []
        for t in range(tokens.shape[1] + 1):
            known = (torch.arange(3) < t).expand(len(tokens), -1)
            padded = torch.nn.functional.pad(tokens[:, :t], (0, 3 - t))
            last = torch.full((len(tokens), 4), -math.inf, dtype=torch.float64)
            filled.append(self.fill_logits(padded, known, condition)[:, t] if t < 3 else last)
        return torch.stack(filled, dim=1)

    def begin(self, condition: Condition, batch: int) -> Tensor:
        return torch.zeros(batch, 0, dtype=torch.int64)

    def step(self, cache: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        cache = torch.cat((cache, tokens), dim=1)
        return self.next_logits(cache, Condition())[:, -1], cache


ALL = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4))


def test_the_chain_rule_adds_up_to_the_whole() -> None:
    engine = Listed()
    found = chain(engine, ALL, Condition())
    a, b, c = ALL.T
    first = engine.table.sum((1, 2))
    torch.testing.assert_close(found[:, 0], -first.log()[a])
    torch.testing.assert_close(found[:, 1], -(engine.table.sum(2)[a, b] / first[a]).log())
    torch.testing.assert_close(found.sum(1), -engine.table[a, b, c].log())


def test_filling_and_trying_alternatives_give_the_same_conditional_surprise() -> None:
    engine = Listed()
    rows = Rows(0, torch.arange(len(ALL)))
    tried = by_alternatives(engine, Listed.space, ALL, Condition(), rows)
    a, b, c = ALL.T
    for axis in range(3):
        rest = engine.table.sum(axis, keepdim=True).expand_as(engine.table)[a, b, c]
        torch.testing.assert_close(tried[:, axis], (rest / engine.table[a, b, c]).log())
    groups = [torch.tensor([k]) for k in range(3)]
    known = ~torch.eye(3, dtype=torch.bool)
    for k, row in enumerate(ALL):
        filled = given(engine, row.expand(3, -1), Condition(), known, groups, 3)
        torch.testing.assert_close(filled.diagonal(), tried[k])


def test_a_group_of_positions_is_surprising_as_one() -> None:
    engine = Listed()
    groups = [torch.tensor([0, 2]), torch.tensor([1])]
    row = torch.tensor([[2, 1, 3]])
    found = given(engine, row, Condition(), torch.tensor([[False, True]]), groups, 3)
    joint = engine.table[2, 1, 3] / engine.table[:, 1].sum()
    torch.testing.assert_close(found, torch.tensor([[-joint.log(), 0.0]], dtype=torch.float64))


def test_sequences_that_end_have_no_alternatives_in_place() -> None:
    with pytest.raises(MissingCapability, match="end"):
        by_alternatives(Listed(), Tokens(3, 2, ends=True), ALL[:, :2], Condition(), Rows(0, torch.arange(len(ALL))))
