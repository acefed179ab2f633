"""A module trained elsewhere, behind a thin adapter: solvers, guidance and completion work on it unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import offers
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent
from pellucid.solvers.denoiser import at_condition
from pellucid.solvers.euler import euler
from pellucid.solvers.heun import heun
from pellucid.solvers.known import complete
from tests.contracts.toys.foreign import ForeignAdapter, ForeignHow, NoisePredictor

MEAN = torch.tensor([1.0, -2.0, 0.5])
COVARIANCE = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]])
FOREIGN = NoisePredictor(MEAN, COVARIANCE)
ENGINE = ForeignAdapter(FOREIGN, FOREIGN.alphas_cumprod, 3)
N = 3000


def follows(x: Tensor, mean: Tensor, covariance: Tensor, share: float = 0.05) -> None:
    """Mean and covariance of x (B, D) within sampling error and a small share for the solver's steps."""
    n = len(x)
    error = covariance.diagonal().sqrt() / math.sqrt(n)
    assert ((x.mean(0) - mean).abs() < 5 * error + share * covariance.diagonal().sqrt()).all()
    assert (torch.cov(x.T).reshape(covariance.shape) - covariance).abs().max() < 5 * math.sqrt(2 / n) + share


def test_the_adapter_denoises_in_our_scale() -> None:
    """E[data | data + sigma noise] of a Gaussian, at the foreign model's own noise levels."""
    sigma = ENGINE.levels[torch.tensor([3, 150, 500, 800, 999])]
    x = MEAN + (1 + sigma)[:, None] * Rows(0, torch.arange(5)).normal(3)
    noisy = COVARIANCE + sigma[:, None, None] ** 2 * torch.eye(3)
    expected = MEAN + (COVARIANCE @ torch.linalg.solve(noisy, (x - MEAN)[..., None]))[..., 0]
    assert torch.allclose(ENGINE.denoise(x, sigma, Condition()), expected, atol=1e-3)


def test_it_offers_what_the_adapter_lists() -> None:
    assert offers(ENGINE) == ("Samples", "Denoises")
    assert offers(FOREIGN) == ()


@pytest.mark.parametrize("solver", [euler, heun])
def test_our_solvers_sample_it(solver: Callable[..., Tensor]) -> None:
    sigmas = ENGINE.sigmas(ForeignHow(steps=120))
    start = float(sigmas[0]) * Rows(1, torch.arange(N)).normal(3)
    follows(solver(at_condition(ENGINE, Condition()), start, sigmas), MEAN, COVARIANCE)


def test_its_own_sample_is_a_function_of_seed_and_id() -> None:
    whole = ENGINE.sample(Rows(2, torch.arange(N)), Condition(), ENGINE.settings(), Silent())
    follows(whole, MEAN, COVARIANCE)
    some = torch.tensor([77, 5])
    alone = ENGINE.sample(Rows(2, some), Condition(), ENGINE.settings(), Silent())
    assert torch.allclose(alone, whole[some], atol=1e-4)


def test_what_is_known_is_completed_around() -> None:
    """x_1 given: the rest is Gaussian with a mean and a covariance in closed form, approximately met."""
    known, mask = torch.tensor([[2.5, 0.0, 0.0]]).expand(N, 3), torch.tensor([[True, False, False]])
    done = complete(ENGINE, known, mask, Condition(), Rows(3, torch.arange(N)), ForeignHow(steps=40))
    assert done.exactness == "approximate"
    assert torch.equal(done.x[:, 0], known[:, 0])
    gain = COVARIANCE[1:, :1] / COVARIANCE[0, 0]
    mean = MEAN[1:] + gain[:, 0] * (2.5 - MEAN[0])
    follows(done.x[:, 1:], mean, COVARIANCE[1:, 1:] - gain @ COVARIANCE[:1, 1:], share=0.2)
