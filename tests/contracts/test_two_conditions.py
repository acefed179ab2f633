"""Two conditions, either one left out, and guidance between them: a denoiser in closed form against its own density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import expand_like
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording, Silent
from pellucid.solvers.guidance import guided
from pellucid.solvers.heun import heun
from tests.contracts.toys.gaussians import GaussianClasses, Walk

MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]], dtype=torch.float64)
ENGINE = GaussianClasses(MEANS)
B = 5
ASKED = Condition(
    {
        "class": torch.tensor([[0], [1], [2], [0], [1]]),
        "shift": Rows(3, torch.arange(B)).normal(2, dtype=torch.float64),
    },
    {"class": torch.ones(B, dtype=torch.bool), "shift": torch.ones(B, dtype=torch.bool)},
)
SOME = ASKED.drop({"class": torch.tensor([True, False, True, False, True]), "shift": torch.arange(B) > 1})
CONDITIONS = {
    "both": ASKED,
    "class left out": ASKED.without("class"),
    "shift left out": ASKED.without("shift"),
    "nothing": ASKED.nothing(),
    "each row its own": SOME,
}


def log_density(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """(B,) log p(x_t | what is given): a mixture of Gaussians, widened by the noise."""
    log_weight, centres, variance = ENGINE.mixture(condition, len(x))
    total = (variance + sigma**2)[:, None]
    square = (x[:, None] - centres).square().sum(-1)
    return (log_weight - square / (2 * total) - (2 * math.pi * total).log()).logsumexp(-1)


def score(x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """(B, 2) gradient of `log_density`, by autograd."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(x, sigma, condition).sum(), x)
    return gradient


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_follows_the_product_of_densities(name: str, weight: float) -> None:
    """x + sigma^2 grad log [p(x | given)^w p(x)^(1 - w)], Tweedie's formula on the guided density."""
    condition = CONDITIONS[name]
    x, sigma = 3 * Rows(0, torch.arange(B)).normal(2, dtype=torch.float64), torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0])
    slope = weight * score(x, sigma, condition) + (1 - weight) * score(x, sigma, condition.nothing())
    expected = x + expand_like(sigma**2, x) * slope
    assert torch.allclose(guided(ENGINE, condition, weight)(x, sigma), expected, atol=1e-6)


def test_guidance_away_from_another_condition() -> None:
    x, sigma = Rows(1, torch.arange(B)).normal(2, dtype=torch.float64), torch.full((B,), 0.7)
    other = ASKED.without("shift")
    slope = 1.8 * score(x, sigma, ASKED) - 0.8 * score(x, sigma, other)
    found = guided(ENGINE, ASKED, 1.8, against=other)(x, sigma)
    assert torch.allclose(found, x + expand_like(sigma**2, x) * slope, atol=1e-6)


def test_a_value_that_is_not_given_is_not_read() -> None:
    x, sigma = Rows(1, torch.arange(B)).normal(2, dtype=torch.float64), torch.full((B,), 0.7)
    lies = Condition(
        {
            "class": torch.where(SOME.given["class"][:, None], SOME.values["class"], 2 - SOME.values["class"]),
            "shift": torch.where(SOME.given["shift"][:, None], SOME.values["shift"], 99.0),
        },
        SOME.given,
    )
    assert torch.equal(ENGINE.denoise(x, sigma, lies), ENGINE.denoise(x, sigma, SOME))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_guided_walk_ends_where_its_equation_ends(weight: float) -> None:
    """With one class the guided field is linear and the path has a closed form.

    dx / ds = s [(1 - w)(x - m) / (a + s^2) + w (x - m - c) / (b + s^2)], with a = s0^2 + t^2 and b = s0^2, so with
    h(s) = (a + s^2)^((1 - w) / 2) (b + s^2)^(w / 2) the point (x(s) - m) / h(s) changes by the integral of
    -w c s / ((b + s^2) h(s)).
    """
    mean = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    engine = GaussianClasses(mean)
    condition = Condition({"class": torch.zeros(B, 1, dtype=torch.int64), "shift": ASKED.values["shift"]}, ASKED.given)
    start = 10.0 * Rows(2, torch.arange(B)).normal(2, dtype=torch.float64)
    a, b = engine.s**2 + engine.t**2, engine.s**2

    def h(s: float) -> float:
        return float((a + s * s) ** ((1 - weight) / 2) * (b + s * s) ** (weight / 2))

    pull = integrate.quad(lambda s: weight * s / ((b + s * s) * h(s)), 0.0, 10.0, epsabs=1e-12)[0]
    expected = mean + h(0.0) * ((start - mean) / h(10.0) + ASKED.values["shift"] * pull)
    sigmas = engine.sigmas(Walk(steps=400)).double()
    assert torch.allclose(heun(guided(engine, condition, weight), start, sigmas), expected, atol=2e-3)


def test_samples_follow_the_marginal_when_a_condition_is_left_out() -> None:
    rows = Rows(5, torch.arange(4000))
    where = Condition(
        {"class": torch.full((4000, 1), 1), "shift": torch.zeros(4000, 2)},
        {"class": torch.zeros(4000, dtype=torch.bool), "shift": torch.ones(4000, dtype=torch.bool)},
    )
    drawn = ENGINE.sample(rows, where, Walk(), Silent()).numpy()

    def cdf(x: np.ndarray) -> np.ndarray:
        return np.mean([stats.norm.cdf(x, m, ENGINE.s) for m in MEANS[:, 0].tolist()], axis=0)

    # the walk starts from noise alone, not from noise plus data: at 10 times the spread that costs a little
    assert stats.kstest(drawn[:, 0], cdf).statistic < 0.05
    one = ENGINE.sample(rows, where.drop({}).nothing().without("shift"), Walk(), Silent())
    assert torch.equal(one, ENGINE.sample(rows, Condition(), Walk(), Silent()))


def test_a_trace_sees_the_walk_and_changes_nothing() -> None:
    rows, how = Rows(5, torch.arange(B)), Walk(steps=7, guidance=2.0)
    trace = Recording(["x_t", "denoised", "sigma"])
    drawn = ENGINE.sample(rows, ASKED, how, trace)
    assert torch.equal(drawn, ENGINE.sample(rows, ASKED, how, Silent()))
    assert torch.equal(trace.kept["x_t"][7], drawn)
    assert sorted(trace.kept["denoised"]) == list(range(7))
