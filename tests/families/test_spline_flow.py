"""Splines against a table of knots, autograd's slopes and quadrature; the flow against its Jacobian and its inverse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.families.spline_flow import SMALLEST, Spline, SplineFlow, SplineFlowEngine
from tests.families.flows import built, check_change_of_variables, check_density, check_inverse, check_samples, double
from tests.families.rowwise import batch_of, check_rowwise

SPACES = [Real((1,)), Real((2,)), Real((5,)), Real((2, 3)), Real((1, 8, 8)), Real((1, 5, 4))]


def build(space: Real, family: SplineFlow | None = None, amount: float = 0.1) -> SplineFlowEngine:
    engine = built(space, family or SplineFlow(steps=3, width=8, bins=4), amount)
    assert isinstance(engine, SplineFlowEngine)
    return engine


def told(count: int, columns: int, bins: int, size: float = 2.0) -> Tensor:
    """What a network might say of `columns` curves in each of `count` rows."""
    return size * Rows(4, torch.arange(count)).normal((3 * bins - 1) * columns, dtype=torch.float64)


# ------------------------------------------------------------------ one curve


@pytest.mark.parametrize("bins", [2, 3, 8])
def test_a_curve_goes_through_its_knots_with_its_slopes(bins: int) -> None:
    raw = told(1, 1, bins)
    spline = Spline(bins, 3.0)
    shares = raw[0, : 2 * bins].reshape(2, bins).softmax(1)
    knots = torch.zeros(2, bins + 1, dtype=torch.float64)
    for row in range(2):  # sums by hand
        for k in range(bins):
            knots[row, k + 1] = knots[row, k] + 6.0 * (SMALLEST + (1 - SMALLEST * bins) * shares[row, k])
    knots -= 3.0
    slopes = SMALLEST + torch.nn.functional.softplus(raw[0, 2 * bins :] + math.log(math.expm1(1 - SMALLEST)))
    x = knots[0, 1:-1, None]  # inner knots, one a row
    y, log_slope = spline(x, raw.expand(len(x), -1))
    torch.testing.assert_close(y, knots[1, 1:-1, None], rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope, slopes.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("bins", [2, 5])
def test_a_curve_rises_has_the_slope_it_says_and_is_undone(bins: int) -> None:
    spline = Spline(bins, 2.0)
    x = torch.linspace(-3, 3, 1201, dtype=torch.float64)[:, None].requires_grad_()
    raw = told(1, 1, bins).expand(1201, -1)
    y, log_slope = spline(x, raw)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope[:, 0].log(), log_slope, rtol=1e-7, atol=1e-7)
    assert bool((y[1:] > y[:-1]).all())
    torch.testing.assert_close(spline.inverse(y, raw), x, rtol=0, atol=1e-9)
    outside = x.detach().abs() > 2.0
    torch.testing.assert_close(y[outside], x[outside], rtol=0, atol=1e-12)
    assert float(log_slope[outside[:, 0]].detach().abs().max()) < 1e-12
    assert float((y - x).detach().abs().max()) > 0.1  # and inside it is bent


def test_zeros_are_the_straight_line() -> None:
    x = torch.linspace(-4, 4, 33)[:, None]
    y, log_slope = Spline(6, 3.0)(x, torch.zeros(33, 17))
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_slope, torch.zeros(33), rtol=0, atol=1e-5)


def test_rows_and_pictures_are_bent_alike() -> None:
    """The same curves whether numbers come as rows or as channels of a picture."""
    spline, x = Spline(4, 3.0), Rows(1, torch.arange(5)).normal(6, dtype=torch.float64)
    raw = told(5, 6, 4)
    y, log_slope = spline(x, raw)
    as_picture = spline(x.reshape(5, 2, 3, 1), raw.reshape(5, 22, 3, 1))
    torch.testing.assert_close(as_picture[0].reshape(5, 6), y)
    torch.testing.assert_close(as_picture[1], log_slope)
    torch.testing.assert_close(spline.inverse(as_picture[0], raw.reshape(5, 22, 3, 1)).reshape(5, 6), x)


def test_every_gradient_of_a_curve_is_right() -> None:
    spline = Spline(3, 2.0)
    x = Rows(2, torch.arange(4)).normal(2, dtype=torch.float64).requires_grad_()
    raw = told(4, 2, 3, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, raw: spline(x, raw), (x, raw))


# ------------------------------------------------------------------ the flow


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bounded", [True, False])
def test_log_prob_is_the_change_of_variables_with_autograds_jacobian(space: Real, bounded: bool) -> None:
    check_change_of_variables(build(space, SplineFlow(steps=3, width=8, bins=4, bounded=bounded)), double(space, 2))


@pytest.mark.parametrize("space", SPACES)
def test_decoding_undoes_encoding_and_encoding_undoes_decoding(space: Real) -> None:
    check_inverse(build(space), double(space, 6), tolerance=1e-7)


def test_the_density_of_two_numbers_integrates_to_one() -> None:
    space = Real((2,))
    check_density(build(space, SplineFlow(steps=4, width=8, bins=5)), space, 9.0, 601, 2e-3)


@pytest.mark.parametrize("space", [Real((1,)), Real((5,)), Real((1, 8, 8))])
def test_losses_are_row_by_row(space: Real) -> None:
    check_rowwise(build(space).float(), batch_of(space, 4))


def test_samples_do_not_depend_on_the_batch() -> None:
    space = Real((5,))
    check_samples(build(space), double(space, 7).condition, tolerance=1e-9)


def test_the_condition_steers() -> None:
    """Two classes at two places: the likelihood under the right class is the higher one after a short training."""
    space = Real((2,))
    engine = SplineFlow(steps=2, width=16, forget=0.0).build(space, {"class": Tokens(2, 1)}, Rows(0, torch.arange(1)))
    assert isinstance(engine, SplineFlowEngine)
    rows = Rows(3, torch.arange(256))
    label = torch.arange(256) % 2
    x = 0.3 * rows.normal(2) + 2.0 * label[:, None] - 1.0
    right, wrong = ({"class": torch.stack((c,), dim=1)} for c in (label, 1 - label))
    given = {"class": torch.ones(256, dtype=torch.bool)}
    batch = Batch(x, torch.arange(256), Condition(right, given))
    engine.prepare(batch)
    optimizer = torch.optim.Adam(engine.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        engine.losses(batch, rows).mean().backward()
        optimizer.step()
    with torch.no_grad():
        gap = (
            engine.log_prob(batch, rows).value
            - engine.log_prob(Batch(x, torch.arange(256), Condition(wrong, given)), rows).value
        )
    assert float(gap.mean()) > 2.0


@pytest.mark.parametrize(
    ("settings", "name"), [({"bins": 1}, "bins"), ({"bins": 1000}, "bins"), ({"bound": 0.0}, "bound"),
                           ({"bound": math.inf}, "bound"), ({"steps": 0}, "steps")]
)  # fmt: skip
def test_bad_settings_are_one_clear_error(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(BadInput, match=name):
        SplineFlow(**settings)


def test_grids_and_symbols_are_refused() -> None:
    assert SplineFlow().accepts(Real((2,), levels=4), {}) is not None
    assert SplineFlow().accepts(Tokens(3, 2), {}) is not None


def test_in_half_precision_curves_are_not_rounded() -> None:
    """Networks may be rounded, since both ways round them alike; knots and curves are not."""
    space = Real((1, 8, 8))
    engine, batch = build(space).float(), batch_of(space, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = engine.encode(batch.x, batch.condition)
        back = engine.decode(z, batch.condition)
    assert z.dtype == torch.float32
    torch.testing.assert_close(back, batch.x, rtol=0, atol=2e-2)
