"""Inversion undoes Euler's walk: the item comes back, and the noise that was found is noise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.solvers.euler import euler
from pellucid.solvers.inversion import invert, reversible_sigmas
from tests.solvers.mixture import denoise, draw


def rows(n: int) -> Rows:
    return Rows(5, torch.arange(n))


@pytest.mark.parametrize(("steps", "highest"), [(50, 60.0), (100, 300.0), (30, 10.0)])
def test_the_item_comes_back(steps: int, highest: float) -> None:
    """Between the mixture's parts the denoiser is so steep that a plain fixed-point iteration runs away."""
    x, sigmas = draw(rows(300)), reversible_sigmas(steps, highest)
    found = invert(denoise, x, sigmas)
    assert found.x.shape == x.shape
    assert float((euler(denoise, found.x, sigmas) - x).abs().max()) < 1e-4
    assert float(found.residual.max()) < 2e-6 * highest
    assert steps <= found.evaluations <= 8 * steps


def test_the_start_of_a_sample_is_found_again() -> None:
    sigmas = reversible_sigmas(60, 40.0)
    start = 40.0 * rows(50).normal(2, dtype=torch.float64)
    found = invert(denoise, euler(denoise, start, sigmas), sigmas, tolerance=1e-9)
    torch.testing.assert_close(found.x, start, atol=1e-3, rtol=0.0)


def test_the_noise_of_items_of_its_own_is_standard_normal() -> None:
    """Each item carries the noise of the lowest level, as it does where the walk ends."""
    many, sigmas = rows(2000), reversible_sigmas(120, 60.0)
    x = draw(many) + 0.01 * many.fork("last").normal(2, dtype=torch.float64)
    noise = invert(denoise, x, sigmas).x / sigmas[0]
    for axis in range(2):
        assert stats.kstest(noise[:, axis].numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(noise.T)[0, 1])) < 4 / math.sqrt(2000)


def test_what_did_not_settle_is_said() -> None:
    """No start leads to the middle of a step that only ever lands on one of two sides."""
    sides = lambda x, sigma: torch.where(x < 0, -1.0, 1.0).double()  # noqa: E731
    x = torch.tensor([[0.2], [1.5]], dtype=torch.float64)
    sigmas = torch.tensor([4.0, 0.1], dtype=torch.float64)
    found = invert(sides, x, sigmas)
    missed = (euler(sides, found.x, sigmas) - x).abs()[:, 0]
    torch.testing.assert_close(found.residual, missed, atol=1e-5, rtol=0.0)
    assert float(found.residual[0]) > 0.1
    assert float(found.residual[1]) < 1e-5


def test_rows_do_not_touch_each_other() -> None:
    x, sigmas = draw(rows(8)), reversible_sigmas(40, 60.0)
    whole, alone = invert(denoise, x, sigmas), invert(denoise, x[3:4], sigmas)
    torch.testing.assert_close(whole.x[3:4], alone.x, atol=1e-8, rtol=0.0)


def test_no_rows() -> None:
    found = invert(denoise, torch.zeros(0, 2).double(), reversible_sigmas(3, 10.0))
    assert found.x.shape == (0, 2)
    assert found.residual.shape == (0,)


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"tolerance": math.nan}, {"most": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="tolerance"):
        invert(denoise, torch.zeros(1, 2).double(), reversible_sigmas(3, 10.0), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("steps", "highest"), [(0, 1.0), (5, 0.001), (5, math.nan)])
def test_levels_that_cannot_be_are_refused(steps: int, highest: float) -> None:
    with pytest.raises(BadInput, match="steps from"):
        reversible_sigmas(steps, highest)


def test_a_walk_to_no_noise_cannot_be_undone() -> None:
    with pytest.raises(BadInput, match="last noise level is 0"):
        invert(denoise, torch.zeros(1, 2).double(), torch.tensor([1.0, 0.0]))
