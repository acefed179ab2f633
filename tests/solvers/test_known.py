"""Completion against distributions that can be written down: tables over small alphabets, and a Gaussian."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Predicts, Samples, Unmasks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording, Trace
from pellucid.solvers.known import complete

LENGTH, SYMBOLS = 3, 3
EVERY = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=LENGTH)))  # (27, 3)
JOINT = torch.rand(len(EVERY), dtype=torch.float64, generator=torch.Generator().manual_seed(5)) ** 3
JOINT = JOINT / JOINT.sum()


def conditionals(tokens: Tensor, known: Tensor) -> Tensor:
    """(B, T, V) log p(symbol at t | the known symbols), by adding up the table."""
    fits = ((EVERY[None] == tokens[:, None]) | ~known[:, None]).all(-1).double() * JOINT  # (B, 27)
    hot = torch.nn.functional.one_hot(EVERY, SYMBOLS).double()  # (27, T, V)
    return torch.einsum("bn,ntv->btv", fits, hot).log()


class Filler(Unmasks):
    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        logits = conditionals(tokens, known)
        return logits if at is None else logits[:, at]


class Reader(Predicts):
    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        raise AssertionError("not needed here")

    def begin(self, condition: Condition, batch: int) -> Any:
        return torch.zeros(batch, 0, dtype=torch.int64)

    def step(self, cache: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        cache = torch.cat((cache, tokens), dim=1)
        at = cache.shape[1]
        padded = torch.nn.functional.pad(cache, (0, LENGTH - at))
        return conditionals(padded, (torch.arange(LENGTH) < at).expand_as(padded))[:, at], cache


def rows(n: int) -> Rows:
    return Rows(11, torch.arange(n))


def shares(x: Tensor) -> Tensor:
    """(27,) how often each sequence came."""
    return (x[:, None] == EVERY[None]).all(-1).double().mean(0)


N = 6000


@pytest.mark.parametrize(
    ("engine", "route", "place"),
    [(Filler(), "Unmasks", 0), (Filler(), "Unmasks", 1), (Filler(), "Unmasks", 2), (Reader(), "Predicts", 0)],
)
def test_symbols_come_from_the_exact_conditional(engine: object, route: str, place: int) -> None:
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    mask[0, place] = True
    known = torch.full((N, LENGTH), 1)
    done = complete(engine, known, mask, Condition(), rows(N), How())
    assert (done.route, done.exactness) == (route, "exact")
    assert (done.x[:, place] == 1).all()
    truth = JOINT * (EVERY[:, place] == 1)
    truth = truth / truth.sum()
    assert (shares(done.x) - truth).abs().max() < 4 * (0.25 / N) ** 0.5


def test_rows_may_know_different_parts() -> None:
    mask = torch.tensor([[True, True, True], [False, False, False], [True, False, True]])
    known = torch.tensor([[0, 1, 2], [9, 9, 9], [2, 9, 0]])
    x = complete(Filler(), known, mask, Condition(), rows(3), How()).x
    assert (x[mask] == known[mask]).all()
    assert ((x >= 0) & (x < SYMBOLS)).all()


def test_beginnings_may_differ_in_length() -> None:
    lengths = torch.arange(N) % 3
    mask = torch.arange(LENGTH)[None] < lengths[:, None]
    x = complete(Reader(), torch.full((N, LENGTH), 2), mask, Condition(), rows(N), How()).x
    assert (x[mask] == 2).all()
    longest = x[lengths == 2]
    truth = JOINT * ((EVERY[:, 0] == 2) & (EVERY[:, 1] == 2))
    assert (shares(longest) - truth / truth.sum()).abs().max() < 4 * (0.25 / len(longest)) ** 0.5


def test_a_reader_refuses_what_is_no_beginning() -> None:
    mask = torch.tensor([[True, False, True]])
    with pytest.raises(MissingCapability, match="left to right"):
        complete(Reader(), torch.zeros(1, LENGTH, dtype=torch.int64), mask, Condition(), rows(1), How())


def test_an_ended_sequence_is_padded() -> None:
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    x = complete(Reader(), torch.zeros(500, LENGTH).long(), mask, Condition(), rows(500), How(), ends=True).x
    ended = (x == 0).long().cummax(dim=1).values.bool()
    assert (x[ended] == 0).all()
    assert (x[:, 0] != 0).any()


@pytest.mark.parametrize("engine", [Filler(), Reader()])
def test_a_row_does_not_depend_on_its_batch(engine: object) -> None:
    mask, known = torch.zeros(1, LENGTH, dtype=torch.bool), torch.zeros(8, LENGTH, dtype=torch.int64)
    whole = complete(engine, known, mask, Condition(), rows(8), How()).x
    alone = complete(engine, known[5:6], mask, Condition(), rows(8).take(slice(5, 6)), How()).x
    assert (whole[5:6] == alone).all()


@dataclass(frozen=True)
class Warm(How):
    temperature: float = 1.0


def test_temperature_zero_takes_the_likeliest() -> None:
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    x = complete(Reader(), torch.zeros(50, LENGTH).long(), mask, Condition(), rows(50), Warm(0.0)).x
    assert (x == x[:1]).all()


MEAN = torch.tensor([1.0, -1.0], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.9], [0.9, 1.3]], dtype=torch.float64)


class Gaussian(Denoises):
    """Two numbers that know of each other."""

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        noisy = COV + sigma[0] ** 2 * torch.eye(2, dtype=torch.float64)
        return MEAN + (x_t - MEAN) @ torch.linalg.solve(noisy, COV)

    def sigmas(self, how: How) -> Tensor:
        return torch.linspace(20.0 ** (1 / 3), 0.0, 61, dtype=torch.float64) ** 3


class TestDenoising:
    mask = torch.tensor([[True, False]])

    def test_is_near_the_conditional_distribution(self) -> None:
        n = 2000
        known = torch.full((n, 2), 2.5, dtype=torch.float64)
        done = complete(Gaussian(), known, self.mask, Condition(), rows(n), How(), resamplings=10)
        assert (done.route, done.exactness) == ("Denoises", "approximate")
        assert (done.x[:, 0] == 2.5).all()
        mean = MEAN[1] + COV[0, 1] / COV[0, 0] * (2.5 - MEAN[0])
        spread = (COV[1, 1] - COV[0, 1] ** 2 / COV[0, 0]).sqrt()
        assert abs(float(done.x[:, 1].mean() - mean)) < 0.15, "the unconditional mean is 1.35 away"
        assert abs(float(done.x[:, 1].std() / spread) - 1) < 0.15

    def test_resampling_is_what_makes_the_parts_fit(self) -> None:
        n = 1000
        known = torch.full((n, 2), 2.5, dtype=torch.float64)
        mean = MEAN[1] + COV[0, 1] / COV[0, 0] * (2.5 - MEAN[0])
        once, often = (
            abs(
                float(
                    complete(Gaussian(), known, self.mask, Condition(), rows(n), How(), resamplings=k).x[:, 1].mean()
                    - mean
                )
            )
            for k in (1, 10)
        )
        assert often < 0.7 * once

    def test_a_row_does_not_depend_on_its_batch(self) -> None:
        known = torch.ones(5, 2, dtype=torch.float64)
        whole = complete(Gaussian(), known, self.mask, Condition(), rows(5), How()).x
        alone = complete(Gaussian(), known[3:4], self.mask, Condition(), rows(5).take(slice(3, 4)), How()).x
        torch.testing.assert_close(whole[3:4], alone, atol=1e-10, rtol=0.0)

    def test_the_walk_can_be_heard(self) -> None:
        trace = Recording(["x_t", "sigma", "denoised"])
        complete(Gaussian(), torch.ones(2, 2).double(), self.mask, Condition(), rows(2), How(), trace, resamplings=2)
        assert len(trace.kept["x_t"]) == len(trace.kept["denoised"]) == 120

    def test_what_is_known_may_be_a_picture(self) -> None:
        class Still(Denoises):
            def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
                return torch.zeros_like(x_t)

            def sigmas(self, how: How) -> Tensor:
                return torch.tensor([5.0, 1.0, 0.0])

        mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        mask[..., :2] = True
        x = complete(Still(), torch.ones(2, 3, 4, 4), mask, Condition(), rows(2), How()).x
        assert (x[..., :2] == 1).all()
        assert (x[..., 2:] == 0).all()


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 3, dtype=torch.bool), torch.ones(3, dtype=torch.bool), torch.ones(1, 2)]
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor) -> None:
    with pytest.raises(BadInput, match="mask"):
        complete(Gaussian(), torch.zeros(1, 2), mask, Condition(), rows(1), How())


def test_an_engine_that_can_do_none_of_it() -> None:
    class Only(Samples):
        def settings(self) -> How:
            return How()

        def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
            return torch.zeros(len(rows), 2)

    with pytest.raises(MissingCapability, match="Only offers Samples"):
        complete(Only(), torch.zeros(1, 2), torch.ones(1, 2).bool(), Condition(), rows(1), How())
