"""Solvers against a Gaussian, whose denoiser and whose exact path from noise to data are known in closed form.

For data N(mean, s^2):  D(x; sigma) = mean + s^2 / (s^2 + sigma^2) * (x - mean), and the probability-flow path is
x(sigma) = mean + (x(sigma_0) - mean) * sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording, Silent
from pellucid.solvers.ancestral import ancestral, ancestral_step
from pellucid.solvers.euler import euler
from pellucid.solvers.guidance import guided
from pellucid.solvers.heun import heun

Solver: TypeAlias = Callable[..., Tensor]

MEAN, SPREAD = 2.0, 0.7
FIRST = 20.0
SOLVERS = [euler, heun, ancestral]


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    gain = SPREAD**2 / (SPREAD**2 + sigma**2)
    return MEAN + expand_like(gain, x) * (x - MEAN)


def exact_end(x: Tensor, first: float = FIRST, last: float = 0.0) -> Tensor:
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + last**2) / (SPREAD**2 + first**2))


def ladder(steps: int, last: float = 0.0) -> Tensor:
    """Noise levels even in sigma^(1/3), falling."""
    return torch.linspace(FIRST ** (1 / 3), last ** (1 / 3), steps + 1, dtype=torch.float64) ** 3


def rows(n: int) -> Rows:
    return Rows(3, torch.arange(n))


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence(solver: Solver, order: int) -> None:
    x = FIRST * rows(7).normal(3, dtype=torch.float64)
    wrong = [float((solver(gaussian, x, ladder(k, 0.05)) - exact_end(x, last=0.05)).abs().max()) for k in (40, 80, 160)]
    measured = [math.log2(a / b) for a, b in itertools.pairwise(wrong)]
    assert all(abs(m - order) < 0.15 for m in measured), measured


@pytest.mark.parametrize("solver", [euler, heun])
def test_the_last_step_reaches_the_end(solver: Solver) -> None:
    x = FIRST * rows(5).normal(2, dtype=torch.float64)
    end = solver(gaussian, x, ladder(400))
    torch.testing.assert_close(end, exact_end(x), atol=0.02, rtol=0.0)


def test_ancestral_ends_are_distributed_like_the_data() -> None:
    many = rows(20_000)
    x = MEAN + math.hypot(FIRST, SPREAD) * many.fork("start").normal(1, dtype=torch.float64)
    end = ancestral(gaussian, x, ladder(200), many)
    assert abs(float(end.mean()) - MEAN) < 4 * SPREAD / math.sqrt(20_000)
    assert abs(float(end.std()) - SPREAD) < 0.02


def test_ancestral_forgets_its_start_and_euler_does_not() -> None:
    many = rows(4000)
    x = FIRST * many.fork("start").normal(1, dtype=torch.float64)
    pair = lambda end: float(torch.corrcoef(torch.stack((x[:, 0], end[:, 0])))[0, 1])  # noqa: E731
    assert pair(euler(gaussian, x, ladder(50))) > 0.999
    assert abs(pair(ancestral(gaussian, x, ladder(50), many))) < 0.1


def test_ancestral_without_fresh_noise_is_euler() -> None:
    x = FIRST * rows(5).normal(2, dtype=torch.float64)
    torch.testing.assert_close(ancestral(gaussian, x, ladder(9), rows(5), eta=0.0), euler(gaussian, x, ladder(9)))


def test_ancestral_step_is_the_posterior_of_ddpm() -> None:
    """q(x_after | x, D) is the product of N(x; x_after, sigma^2 - after^2) and N(x_after; D, after^2)."""
    sigma, after = 3.0, 1.2
    precision = 1 / (sigma**2 - after**2) + 1 / after**2
    mean = (5.0 / (sigma**2 - after**2) + 2.0 / after**2) / precision
    x, clean = torch.tensor([[5.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    at_mean = ancestral_step(x, clean, sigma, after, zero)
    assert float(at_mean) == pytest.approx(mean)
    assert float(ancestral_step(x, clean, sigma, after, one) - at_mean) == pytest.approx(precision**-0.5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_sample_does_not_depend_on_its_batch(solver: Solver, dtype: torch.dtype, near: float) -> None:
    whole = rows(6)
    alone = whole.take(torch.tensor([4]))
    walk = lambda r: solver(gaussian, FIRST * r.normal(2, 3, dtype=dtype), ladder(12), r)  # noqa: E731
    torch.testing.assert_close(walk(whole)[4:5], walk(alone), atol=near, rtol=0.0)
    assert walk(whole).dtype == dtype


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_a_trace_hears(solver: Solver) -> None:
    trace = Recording(["x_t", "denoised", "sigma"])
    levels = ladder(4)
    end = solver(gaussian, FIRST * rows(2).normal(3, dtype=torch.float64), levels, rows(2), trace)
    assert list(trace.kept["denoised"]) == [0, 1, 2, 3]
    assert list(trace.kept["x_t"]) == list(trace.kept["sigma"]) == [0, 1, 2, 3, 4]
    assert (trace.kept["x_t"][4] == end).all()
    for step in range(4):
        sigma = trace.kept["sigma"][step]
        assert (sigma == levels[step]).all()
        torch.testing.assert_close(trace.kept["denoised"][step], gaussian(trace.kept["x_t"][step], sigma))


@pytest.mark.parametrize("solver", SOLVERS)
def test_listening_changes_nothing(solver: Solver) -> None:
    x = FIRST * rows(2).normal(3)
    heard = solver(gaussian, x, ladder(5), rows(2), Recording(["x_t"]))
    assert (heard == solver(gaussian, x, ladder(5), rows(2), Silent())).all()


@pytest.mark.parametrize("levels", [[1.0], [0.0, 1.0], [1.0, 1.0], [math.inf, 1.0], [1.0, -1.0], [math.nan, 0.0]])
@pytest.mark.parametrize("solver", SOLVERS)
def test_wrong_noise_levels_are_refused(solver: Solver, levels: list[float]) -> None:
    with pytest.raises(BadInput, match="sigmas"):
        solver(gaussian, torch.zeros(1, 1), torch.tensor(levels), rows(1))


class Shifted(Denoises):
    """A Gaussian around the number that is asked for, around 0 when nothing is; counts its rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.rows.append(x_t.shape[0])
        mean = torch.where(condition.given["mean"], condition.values["mean"][:, 0], 0.0)
        gain = SPREAD**2 / (SPREAD**2 + sigma**2)
        return expand_like(mean, x_t) + expand_like(gain, x_t) * (x_t - expand_like(mean, x_t))

    def sigmas(self, how: How) -> Tensor:
        return ladder(4)


def asked(*means: float) -> Condition:
    return Condition({"mean": torch.tensor(means)[:, None]}, {"mean": torch.ones(len(means), dtype=torch.bool)})


class TestGuidance:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 1.0, 2.0])

    @pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.5])
    def test_is_the_straight_line_through_both_answers(self, weight: float) -> None:
        engine, condition = Shifted(), asked(1.0, 2.0, 3.0)
        without = engine.denoise(self.x, self.sigma, condition.nothing())
        given = engine.denoise(self.x, self.sigma, condition)
        expected = without + weight * (given - without)
        torch.testing.assert_close(guided(engine, condition, weight)(self.x, self.sigma), expected)

    def test_both_sides_share_one_batch_and_weight_one_needs_one(self) -> None:
        engine = Shifted()
        guided(engine, asked(1.0, 2.0, 3.0), 2.0)(self.x, self.sigma)
        guided(engine, asked(1.0, 2.0, 3.0), 1.0)(self.x, self.sigma)
        assert engine.rows == [6, 3]

    def test_rows_without_a_condition_are_left_alone(self) -> None:
        engine, nothing = Shifted(), asked(1.0, 2.0, 3.0).nothing()
        torch.testing.assert_close(
            guided(engine, nothing, 3.0)(self.x, self.sigma), engine.denoise(self.x, self.sigma, nothing)
        )

    def test_away_from_another_condition(self) -> None:
        engine = Shifted()
        towards, away = asked(1.0, 1.0, 1.0), asked(-1.0, -1.0, -1.0)
        got = guided(engine, towards, 2.0, against=away)(self.x, self.sigma)
        plain, other = engine.denoise(self.x, self.sigma, towards), engine.denoise(self.x, self.sigma, away)
        torch.testing.assert_close(got, 2 * plain - other)

    def test_outside_its_levels_the_other_side_is_not_evaluated(self) -> None:
        engine, condition = Shifted(), asked(1.0, 2.0, 3.0)
        denoise = guided(engine, condition, 3.0, between=(0.5, 2.0))
        for sigma in (0.4999, 0.5, 1.0, 2.0, 2.0001):
            level = torch.full((3,), sigma)
            plain, without = (engine.denoise(self.x, level, c) for c in (condition, condition.nothing()))
            engine.rows.clear()
            inside = 0.5 <= sigma <= 2.0
            torch.testing.assert_close(denoise(self.x, level), without + 3 * (plain - without) if inside else plain)
            assert engine.rows == [6 if inside else 3]

    def test_rows_at_different_levels_are_pushed_each_for_itself(self) -> None:
        engine, condition = Shifted(), asked(1.0, 2.0, 3.0)
        got = guided(engine, condition, 3.0, between=(0.9, 1.1))(self.x, self.sigma)
        plain, without = (engine.denoise(self.x, self.sigma, c) for c in (condition, condition.nothing()))
        torch.testing.assert_close(got[1], (without + 3 * (plain - without))[1])
        torch.testing.assert_close(got[[0, 2]], plain[[0, 2]])

    def test_no_condition_at_all(self) -> None:
        class Plain(Denoises):
            def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
                return x_t

            def sigmas(self, how: How) -> Tensor:
                return ladder(2)

        assert (guided(Plain(), Condition(), 2.0)(self.x, self.sigma) == self.x).all()
