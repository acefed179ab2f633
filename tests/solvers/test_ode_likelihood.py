"""Likelihood by the probability-flow equation against the exact density of a mixture, and against scipy's solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from pellucid.core.capabilities import expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.solvers.ode_likelihood import EXACT_TRACE, ode_log_prob
from tests.solvers.mixture import denoise, draw, log_density

HIGH, LOW = 60.0, 0.01


def rows(n: int) -> Rows:
    return Rows(5, torch.arange(n))


def test_nears_the_exact_density_with_the_square_of_the_steps() -> None:
    many = rows(60)
    x = draw(many)
    true = log_density(x, LOW)
    wrong, stated = {}, {}
    for steps in (24, 48, 96):
        found = ode_log_prob(denoise, x, many, highest=HIGH, lowest=LOW, steps=steps)
        assert found.kind == "estimate"
        assert found.error is not None
        wrong[steps], stated[steps] = (found.value - true).abs(), found.error
    assert float(wrong[24].mean()) < 0.05
    assert float(wrong[96].mean()) < 0.003
    assert float(wrong[48].mean()) < float(wrong[24].mean()) / 3
    for steps in wrong:  # a standard error covers the truth most of the time, and three of it nearly always
        assert float((wrong[steps] <= stated[steps] + 1e-3).double().mean()) > 0.5
        assert float((wrong[steps] <= 3 * stated[steps] + 3e-3).double().mean()) > 0.9
        assert float(stated[steps].mean()) < 20 * float(wrong[steps].mean())


def test_agrees_with_a_solver_of_high_accuracy() -> None:
    """The same equation and the same ends, by DOP853 to 1e-9, with the trace by differences."""
    x = draw(rows(4))

    def slopes(u: float, flat: np.ndarray) -> np.ndarray:
        sigma, at = math.exp(u), torch.from_numpy(flat[:2])[None]
        level, h = torch.full((1,), sigma, dtype=torch.float64), 1e-6
        trace = 0.0
        for axis in range(2):
            step = torch.zeros(1, 2, dtype=torch.float64)
            step[0, axis] = h
            trace += float((denoise(at + step, level) - denoise(at - step, level))[0, axis]) / (2 * h)
        return np.append((at - denoise(at, level))[0].numpy(), 2 - trace)

    found = ode_log_prob(denoise, x, rows(4), highest=HIGH, lowest=LOW, steps=200)
    for i in range(4):
        start = np.append(x[i].numpy(), 0.0)
        ends = (math.log(LOW), math.log(HIGH))
        end = solve_ivp(slopes, ends, start, method="DOP853", rtol=1e-9, atol=1e-9).y[:, -1]
        prior = -0.5 * float((end[:2] ** 2).sum()) / HIGH**2 - 2 * math.log(HIGH) - math.log(2 * math.pi)
        assert float(found.value[i]) == pytest.approx(prior + end[2], abs=2e-3)


D = EXACT_TRACE + 8
SHIFT = torch.linspace(0.1, 1.5, D, dtype=torch.float64)
PUSH = 0.3 * torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
COVARIANCE = PUSH @ PUSH.T + torch.diag(SHIFT)


def correlated(x: Tensor, sigma: Tensor) -> Tensor:
    """Denoiser of N(0, COVARIANCE), whose derivative has entries everywhere, so that probes err."""
    whole = COVARIANCE + expand_like(sigma.square(), torch.empty(1, 1, 1)) * torch.eye(D, dtype=torch.float64)
    return torch.linalg.solve(whole, x[..., None])[..., 0] @ COVARIANCE


def test_probes_state_their_error() -> None:
    many = rows(200)
    x = many.normal(D, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    seen = COVARIANCE + LOW**2 * torch.eye(D, dtype=torch.float64)
    true = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), seen).log_prob(x)
    kept = []
    for probes in (4, 16):
        found = ode_log_prob(correlated, x, many, highest=100.0, lowest=LOW, steps=48, probes=probes)
        assert found.error is not None
        kept.append(found.value - true)
        ratio = kept[-1] / found.error
        assert abs(float(kept[-1].mean())) < 4 * float(kept[-1].std()) / math.sqrt(200) + 0.02  # no bias
        assert 0.5 < float((ratio.abs() < 1).double().mean()) < 0.9
        assert float((ratio.abs() < 4).double().mean()) > 0.93
    assert float(kept[1].std()) < 0.7 * float(kept[0].std())  # a half, for four times the probes


def test_more_numbers_than_the_exact_trace_takes_are_probed_row_by_row() -> None:
    many = rows(6)
    x = many.normal(D, dtype=torch.float64)
    whole = ode_log_prob(correlated, x, many, highest=50.0, lowest=0.05, steps=8)
    alone = ode_log_prob(correlated, x[4:5], many.take(torch.tensor([4])), highest=50.0, lowest=0.05, steps=8)
    torch.testing.assert_close(whole.value[4:5], alone.value, atol=1e-10, rtol=0.0)
    assert whole.error is not None
    assert alone.error is not None
    torch.testing.assert_close(whole.error[4:5], alone.error, atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("shape", [(2,), (1, 2, 3), (3, 2, 2), (1, 4, 4)])
def test_events_of_any_shape(shape: tuple[int, ...]) -> None:
    """Independent standard normals: the probes are exact, since the derivative is diagonal."""
    many = rows(3)
    x = many.normal(*shape, dtype=torch.float64)

    def standard(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + expand_like(sigma.square(), x))

    found = ode_log_prob(standard, x, many, highest=50.0, lowest=1e-3, steps=96)
    n = math.prod(shape)
    true = -0.5 * x.flatten(1).square().sum(1) - 0.5 * n * math.log(2 * math.pi)
    torch.testing.assert_close(found.value, true, atol=0.01, rtol=0.0)


def test_no_rows() -> None:
    found = ode_log_prob(correlated, torch.zeros(0, D).double(), rows(0), highest=HIGH, lowest=LOW, steps=2)
    assert found.value.shape == (0,)
    assert found.error is not None
    assert found.error.shape == (0,)


def test_it_works_while_gradients_are_off_and_leaves_the_item_alone() -> None:
    x = draw(rows(2))
    before = x.clone()
    with torch.no_grad():
        found = ode_log_prob(denoise, x, rows(2), highest=HIGH, lowest=LOW, steps=8)
    assert not found.value.requires_grad
    assert torch.equal(x, before)
    assert not x.requires_grad


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 7}, {"probes": 1}, {"lowest": 0.0}, {"lowest": 70.0}, {"highest": math.nan}]
)
def test_what_cannot_be_walked_is_refused(wrong: dict[str, float]) -> None:
    settings: dict[str, float] = {"highest": HIGH, "lowest": LOW, **wrong}
    with pytest.raises(BadInput, match="steps="):
        ode_log_prob(denoise, draw(rows(1)), rows(1), **settings)  # type: ignore[arg-type]
