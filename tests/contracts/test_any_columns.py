"""Any columns given any others: completions are drawn from the exact conditional, which enumeration knows."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Recording
from pellucid.solvers.known import complete
from tests.contracts.toys.counting import Neighbours
from tests.contracts.toys.ending import FadingMemory
from tests.contracts.toys.gaussians import GaussianClasses, Walk
from tests.contracts.toys.table import JointTable

COLUMNS = Tokens((2, 3, 2, 2, 3, 2), 6)
ENGINE = JointTable(COLUMNS)
P = ENGINE.log_p.exp()  # (E,)
THREE = [torch.tensor([t in given for t in range(6)]) for given in itertools.combinations(range(6), 3)]
ROW = torch.tensor([1, 2, 0, 1, 1, 0])


def conditional(mask: Tensor, row: Tensor) -> Tensor:
    """(E,) P(event | the masked columns of row), by enumeration."""
    agree = (ENGINE.events[:, mask] == row[mask]).all(1)
    return torch.where(agree, P, 0.0) / P[agree].sum()


def fits(counts: Tensor, p: Tensor) -> float:
    """p-value of a chi-square test of counts (E,) against probabilities (E,); impossible events never happened."""
    assert not counts[p == 0].any()
    return float(stats.chisquare(counts[p > 0].numpy(), (counts.sum() * p[p > 0]).numpy()).pvalue)


def counted(x: Tensor) -> Tensor:
    """(E,) how often each event occurs among x (B, 6)."""
    return (x[:, None] == ENGINE.events).all(-1).sum(0)


@pytest.mark.parametrize("mask", THREE, ids=lambda mask: "".join("x" if known else "." for known in mask.tolist()))
def test_logits_of_each_missing_column_are_exact(mask: Tensor) -> None:
    others = torch.where(mask, ROW, 0)  # what is not known must not be read
    logits = ENGINE.fill_logits(others[None], mask[None], Condition())
    p = conditional(mask, ROW)
    for t in range(6):
        expected = torch.stack([p[ENGINE.events[:, t] == v].sum() for v in range(COLUMNS.symbols)])
        assert torch.allclose(logits[0, t].softmax(-1), expected, atol=1e-12)
        assert torch.equal(ENGINE.fill_logits(others[None], mask[None], Condition(), at=t), logits[:, t])


def test_three_columns_given_are_completed_exactly() -> None:
    """Every choice of three columns at once, 2,000 rows each: rows of one batch may know different columns."""
    n = 2000
    mask = torch.stack(THREE).repeat_interleave(n, 0)
    rows = Rows(4, torch.arange(len(mask)))
    done = complete(ENGINE, ROW.expand(len(mask), 6), mask, Condition(), rows, How())
    assert (done.route, done.exactness) == ("Unmasks", "exact")
    assert torch.equal(done.x[mask], ROW.expand(len(mask), 6)[mask])
    worst = min(fits(counted(done.x[i * n : (i + 1) * n]), conditional(m, ROW)) for i, m in enumerate(THREE))
    assert worst > 1e-3 / len(THREE)


def test_nothing_given_draws_from_the_joint_and_everything_given_draws_nothing() -> None:
    rows = Rows(5, torch.arange(20_000))
    nothing, everything = torch.zeros(1, 6, dtype=torch.bool), torch.ones(1, 6, dtype=torch.bool)
    x = complete(ENGINE, torch.full((20_000, 6), -1), nothing, Condition(), rows, How()).x
    assert fits(counted(x), P) > 1e-3
    assert torch.equal(complete(ENGINE, x, everything, Condition(), rows, How()).x, x)


def test_a_completion_does_not_know_its_batch() -> None:
    mask, rows = torch.stack(THREE), Rows(6, torch.arange(len(THREE)))
    known = ROW.expand(len(THREE), 6)
    whole = complete(ENGINE, known, mask, Condition(), rows, How()).x
    some = torch.tensor([17, 3])
    assert torch.equal(complete(ENGINE, known[some], mask[some], Condition(), rows.take(some), How()).x, whole[some])
    assert complete(ENGINE, known[:0], mask[:0], Condition(), rows.take(some[:0]), How()).x.shape == (0, 6)


def test_a_trace_follows_the_filling() -> None:
    trace = Recording(["token"])
    mask = THREE[0][None]
    x = complete(ENGINE, ROW[None], mask, Condition(), Rows(7, torch.arange(1)), How(), trace).x
    assert sorted(trace.kept["token"]) == [0, 1, 2]
    assert torch.equal(trace.kept["token"][2], x)


def test_a_known_beginning_is_continued_exactly() -> None:
    """An engine that reads from left to right, against enumeration of what can follow."""
    space, n = Tokens(3, 4, ends=True), 6000
    engine = FadingMemory(space, 5).double()
    known, mask = torch.tensor([2, 1, 0, 0]).expand(n, 4), torch.tensor([[True, True, False, False]])
    done = complete(engine, known, mask, Condition(), Rows(8, torch.arange(n)), How(), ends=True)
    assert (done.route, done.exactness) == ("Predicts", "exact")
    counts, p = [], []
    for a, b in itertools.product(range(3), repeat=2):
        x = torch.tensor([[2, 1, a, b]])
        logits = engine.next_logits(x, Condition()).softmax(-1)
        p.append(logits[0, 2, a] * logits[0, 3, b])
        counts.append((done.x == x).all(1).sum())
    assert torch.stack(p).sum().item() == pytest.approx(1.0)
    assert fits(torch.stack(counts), torch.stack(p).detach()) > 1e-3
    with pytest.raises(MissingCapability, match="known beginning"):
        complete(engine, known, ~mask, Condition(), Rows(8, torch.arange(n)), How())


def test_a_denoiser_completes_approximately() -> None:
    """x_1 tells the class, so x_2 must come from that class: mean and spread in closed form, loosely met."""
    engine = GaussianClasses(torch.tensor([[3.0, 2.0], [-3.0, -2.0]]), s=0.3, t=0.01)
    known = torch.tensor([[3.0, 0.0]]).expand(500, 2)
    mask = torch.tensor([[True, False]])
    done = complete(engine, known, mask, Condition(), Rows(9, torch.arange(500)), Walk(steps=30))
    assert (done.route, done.exactness) == ("Denoises", "approximate")
    assert torch.equal(done.x[:, 0], known[:, 0])
    assert done.x[:, 1].mean().item() == pytest.approx(2.0, abs=0.1)
    assert done.x[:, 1].std().item() == pytest.approx(0.3, abs=0.1)


def test_what_cannot_complete_says_what_it_offers() -> None:
    with pytest.raises(MissingCapability, match="Neighbours offers Counts, Scores"):
        complete(Neighbours(COLUMNS), ROW[None], THREE[0][None], Condition(), Rows(0, torch.arange(1)), How())
    with pytest.raises(BadInput, match="mask is"):
        complete(ENGINE, ROW[None], THREE[0], Condition(), Rows(0, torch.arange(1)), How())
