"""Every solver on a Gaussian mixture with its exact denoiser: where it ends, and how fast more steps bring it there."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording
from pellucid.solvers.ancestral import ancestral
from pellucid.solvers.ddim import ddim
from pellucid.solvers.dpm_solver import dpm_2m, dpm_2m_sde
from pellucid.solvers.euler import euler
from pellucid.solvers.heun import heun
from tests.solvers.mixture import WEIGHTS, component, denoise, log_density, moments

N = 4000
FIRST = 60.0
DRAWN: dict[str, Callable[..., Tensor]] = {
    "euler": euler,
    "heun": heun,
    "ancestral": ancestral,
    "dpm_2m": dpm_2m,
    "dpm_2m_sde": dpm_2m_sde,
    "ddim, eta 0": ddim,
    "ddim, eta 0.5": functools.partial(ddim, eta=0.5),
    "ddim, eta 1": functools.partial(ddim, eta=1.0),
}


def ladder(steps: int, first: float = FIRST, last: float = 0.0) -> Tensor:
    """Noise levels even in sigma^(1/7), as in Karras et al. 2022, eq. 5."""
    return torch.linspace(first ** (1 / 7), last ** (1 / 7), steps + 1, dtype=torch.float64) ** 7


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def start(many: Rows, first: float = FIRST) -> Tensor:
    return first * many.fork("start").normal(2, dtype=torch.float64)


@pytest.mark.parametrize("name", DRAWN)
def test_ends_are_distributed_as_the_data(name: str) -> None:
    many, steps = rows(N), 240 if name in ("ancestral", "ddim, eta 1") else 80  # the random walks near it slowest
    end = DRAWN[name](denoise, start(many), ladder(steps), many)
    mean, covariance = moments()
    error = (covariance.diagonal() / N).sqrt()
    assert ((end.mean(0) - mean).abs() < 4 * error + 0.02).all()
    torch.testing.assert_close(end.T.cov(), covariance, atol=0.12, rtol=0.0)
    shares = torch.bincount(component(end), minlength=3) / N
    assert ((shares - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / N).sqrt()).all(), shares
    # the mean log-density of right draws is minus the mixture's entropy
    fresh = log_density(end)
    assert abs(float(fresh.mean()) - ENTROPY) < 0.1


def _entropy() -> float:
    """E log p over the mixture, by a fine sum over the plane."""
    axis = torch.linspace(-5.0, 5.0, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    log = log_density(grid)
    return float((log.exp() * log).sum() * (10.0 / 600) ** 2)


ENTROPY = _entropy()


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (ddim, 1), (heun, 2), (dpm_2m, 2)])
def test_order_of_convergence(solver: Callable[..., Tensor], order: int) -> None:
    """Against a walk of 3,000 of Heun's steps; levels end above 0, where the last step would be of first order."""
    many = rows(40)
    x = start(many, 10.0)
    true = heun(denoise, x, ladder(3000, 10.0, 0.1))
    levels = [ladder(k, 10.0, 0.1) for k in (80, 160, 320)]
    wrong = [float((solver(denoise, x, at, many) - true).norm(dim=1).median()) for at in levels]
    measured = [math.log2(a / b) for a, b in itertools.pairwise(wrong)]
    assert all(abs(m - order) < 0.35 for m in measured), measured


def test_second_order_needs_fewer_steps() -> None:
    x = start(rows(200))
    true = heun(denoise, x, ladder(600))
    wrong = {s.__name__: float((s(denoise, x, ladder(25)) - true).norm(dim=1).median()) for s in (euler, dpm_2m, heun)}
    assert wrong["dpm_2m"] < wrong["euler"] / 2
    assert wrong["heun"] < wrong["euler"] / 2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_the_papers_formula_in_alpha_bar(eta: float) -> None:
    """Song et al. 2021, arXiv:2010.02502, eq. 12 and 16, written out for x / sqrt(1 + sigma^2)."""
    many, levels = rows(5), [4.0, 1.5, 0.6, 0.0]
    bar = [1 / (1 + s * s) for s in levels]
    x = start(many, 4.0)
    got = ddim(denoise, x, torch.tensor(levels, dtype=torch.float64), many, eta=eta)
    x = x * math.sqrt(bar[0])
    for k, (a, b) in enumerate(itertools.pairwise(bar)):
        data = denoise(x / math.sqrt(a), x.new_full((5,), levels[k]))
        eps = (x - math.sqrt(a) * data) / math.sqrt(1 - a)
        s = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        noise = many.fork("ancestral", k).normal(2, dtype=torch.float64)
        x = math.sqrt(b) * data + math.sqrt(max(0.0, 1 - b - s * s)) * eps + s * noise
    torch.testing.assert_close(got, x, atol=1e-12, rtol=0.0)


def test_dpm_2m_is_the_papers_formula() -> None:
    """Lu et al. 2022, arXiv:2211.01095, algorithm 2, in alpha and sigma of the variance-preserving process."""
    levels = [4.0, 1.5, 0.6, 0.2]
    alpha = [1 / math.sqrt(1 + s * s) for s in levels]
    sigma = [s * a for s, a in zip(levels, alpha, strict=True)]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x = start(rows(5), 4.0)
    got = dpm_2m(denoise, x, torch.tensor(levels, dtype=torch.float64))
    x = x * alpha[0]
    kept: list[Tensor] = []
    for i in range(1, 4):
        kept.append(denoise(x / alpha[i - 1], x.new_full((5,), levels[i - 1])))
        h = lam[i] - lam[i - 1]
        if i == 1:
            line = kept[0]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            line = (1 + 1 / (2 * r)) * kept[i - 1] - 1 / (2 * r) * kept[i - 2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * math.expm1(-h) * line
    torch.testing.assert_close(got, x / alpha[3], atol=1e-12, rtol=0.0)


def test_the_stochastic_solver_is_exact_for_a_point() -> None:
    """Around one point the reverse process is a bridge: at each level x is the point plus that much fresh noise."""
    point = torch.tensor([[3.0]], dtype=torch.float64)
    many, levels = rows(N), torch.tensor([5.0, 2.0, 0.7], dtype=torch.float64)
    x = 3.0 + 5.0 * many.fork("start").normal(1, dtype=torch.float64)
    end = dpm_2m_sde(lambda x, sigma: point.expand_as(x), x, levels, many)
    assert float(end.std()) == pytest.approx(0.7, rel=4 / math.sqrt(2 * N))
    assert float(end.mean()) == pytest.approx(3.0, abs=4 * 0.7 / math.sqrt(N))


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_sample_does_not_depend_on_its_batch(name: str, dtype: torch.dtype, near: float) -> None:
    def walk(r: Rows) -> Tensor:
        x = FIRST * r.fork("start").normal(2, dtype=dtype)
        return DRAWN[name](lambda x, s: denoise(x.double(), s.double()).to(dtype), x, ladder(9), r)

    whole = walk(rows(7))
    torch.testing.assert_close(whole[4:5], walk(rows(7).take(torch.tensor([4]))), atol=near, rtol=0.0)
    assert whole.dtype == dtype


@pytest.mark.parametrize("name", DRAWN)
def test_one_step_is_the_first_guess(name: str) -> None:
    x = start(rows(3))
    one = DRAWN[name](denoise, x, ladder(1), rows(3))
    torch.testing.assert_close(one, denoise(x, x.new_full((3,), FIRST)), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", DRAWN)
def test_what_a_trace_hears(name: str) -> None:
    trace, levels = Recording(["x_t", "denoised", "sigma"]), ladder(4)
    end = DRAWN[name](denoise, start(rows(2)), levels, rows(2), trace)
    assert list(trace.kept["denoised"]) == [0, 1, 2, 3]
    assert list(trace.kept["x_t"]) == list(trace.kept["sigma"]) == [0, 1, 2, 3, 4]
    assert torch.equal(trace.kept["x_t"][4], end)
    for step in range(4):
        expected = denoise(trace.kept["x_t"][step], trace.kept["sigma"][step])
        torch.testing.assert_close(trace.kept["denoised"][step], expected)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    "levels", [[1.0], [0.0, 1.0], [1.0, 1.0], [math.inf, 1.0], [1.0, -1.0], [math.nan, 0.0], [2.0, math.nan, 0.0]]
)
def test_wrong_noise_levels_are_refused(name: str, levels: list[float]) -> None:
    with pytest.raises(BadInput, match="sigmas"):
        DRAWN[name](denoise, torch.zeros(1, 2).double(), torch.tensor(levels), rows(1))


@pytest.mark.parametrize("solver", [ddim, ancestral])
@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_a_share_of_noise_out_of_range_is_refused(solver: Callable[..., Tensor], eta: float) -> None:
    with pytest.raises(BadInput, match="eta"):
        solver(denoise, torch.zeros(1, 2).double(), ladder(2), rows(1), eta=eta)
