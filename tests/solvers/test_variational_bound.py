"""The variational bound stays below the exact log-density, and near it when the denoiser is exact."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.solvers.variational_bound import variational_bound
from tests.solvers.mixture import denoise, draw, log_density

GRID = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64)
EVENTS = torch.tensor(list(itertools.product(GRID.tolist(), repeat=2)), dtype=torch.float64)  # (16, 2)
CHANCES = (2.0 * torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))).softmax(0)
LOW = float(GRID[1] - GRID[0]) / 4


def rows(n: int) -> Rows:
    return Rows(5, torch.arange(n))


def on_the_grid(x: Tensor, sigma: Tensor) -> Tensor:
    """E[data | x] by enumeration, x (B, 2)."""
    square = (x[:, None] - EVENTS).square().sum(-1) / (2 * sigma[:, None] ** 2)
    return (CHANCES.log() - square).softmax(-1) @ EVENTS


def repeated(x: Tensor, times: int, **settings: float | Tensor) -> tuple[Tensor, Tensor]:
    """(B,) mean of the bound over draws of its noise and the standard error of that mean."""
    many = x.repeat_interleave(times, 0)
    model = on_the_grid if "grid" in settings else denoise
    value = variational_bound(model, many, rows(len(many)), **settings).value  # type: ignore[arg-type]
    each = value.reshape(len(x), times)
    return each.mean(1), each.std(1) / math.sqrt(times)


def test_numbers_lose_little_with_the_exact_denoiser() -> None:
    """The whole gap is what the items know beyond the lowest level, here little; the mean gap is no less than 0."""
    x = draw(rows(40))
    value, error = repeated(x, 200, highest=60.0, lowest=0.01, looks=16)
    gap = log_density(x) - value
    assert (gap > -4 * error).all()
    mean, sure = float(gap.mean()), float(error.square().sum().sqrt()) / 40
    assert -3 * sure < mean < 0.02 + 3 * sure, (mean, sure)


def test_a_worse_denoiser_has_a_lower_bound() -> None:
    x = draw(rows(40))
    settings = {"highest": 60.0, "lowest": 0.01, "looks": 16}
    good = variational_bound(denoise, x, rows(40), **settings).value  # type: ignore[arg-type]
    poor = variational_bound(lambda x, s: 0.9 * denoise(x, s), x, rows(40), **settings).value  # type: ignore[arg-type]
    assert float((good - poor).mean()) > 1.0


def test_on_a_grid_it_nears_the_enumerated_probabilities() -> None:
    """Where the last level confuses neighbours, likely events lend to unlikely ones: only the mean is bounded."""
    value, error = repeated(EVENTS, 1500, highest=40.0, lowest=LOW, looks=16, grid=GRID)
    gap, sure = CHANCES.log() - value, 4 * float((CHANCES * error).square().sum().sqrt())
    assert -sure < float(CHANCES @ gap) < 0.15 + sure
    assert float(value.exp().sum()) <= 1.0 + 4 * float((value.exp() * error).square().sum().sqrt())
    value, error = repeated(EVENTS, 1500, highest=40.0, lowest=LOW / 3, looks=16, grid=GRID)
    gap = CHANCES.log() - value
    assert (gap > -4 * error).all()
    assert (gap < 0.01 + 4 * error).all(), gap


def test_a_denoiser_that_errs_never_gives_more_than_one_in_all() -> None:
    """exp of the expected bound, summed over every event there is."""
    many = EVENTS.repeat_interleave(400, 0)
    for wrong in (lambda x, s: 0.0 * x, lambda x, s: on_the_grid(x, 2 * s), lambda x, s: x.clamp(-1.0, 1.0)):
        found = variational_bound(wrong, many, rows(len(many)), highest=40.0, lowest=LOW, looks=8, grid=GRID)
        assert found.kind == "lower_bound"
        assert found.error is None
        assert float(found.value.reshape(16, -1).mean(1).exp().sum()) < 1.0


def test_more_looks_are_the_same_bound_with_less_noise() -> None:
    x = draw(rows(1)).expand(1500, 2)
    few = variational_bound(denoise, x, rows(1500), highest=60.0, lowest=0.05, looks=2).value
    more = variational_bound(denoise, x, rows(1500), highest=60.0, lowest=0.05, looks=16).value
    assert float(few.mean() - more.mean()) == pytest.approx(0.0, abs=4 * float(few.std()) / math.sqrt(1500))
    assert float(more.std()) < float(few.std()) / 2


def test_rows_do_not_touch_each_other() -> None:
    whole = variational_bound(on_the_grid, EVENTS, rows(16), highest=40.0, lowest=LOW, grid=GRID).value
    alone = variational_bound(
        on_the_grid, EVENTS[9:10], rows(16).take(torch.tensor([9])), highest=40.0, lowest=LOW, grid=GRID
    ).value
    torch.testing.assert_close(whole[9:10], alone, atol=1e-10, rtol=0.0)
