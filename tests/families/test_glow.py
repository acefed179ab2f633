"""Glow against autograd's Jacobian, dense matrices, its own inverse and quadrature."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.families.glow import Aside, Glow, InvertibleConv
from pellucid.families.reversible import FlowEngine, Step
from tests.families.flows import built, check_change_of_variables, check_density, check_inverse, check_samples, double
from tests.families.rowwise import batch_of, check_rowwise, stir

SPACES = [Real((1, 2, 2)), Real((1, 8, 4)), Real((2, 3, 5)), Real((3, 8, 12)), Real((1, 8, 8))]


def build(space: Real, family: Glow | None = None) -> FlowEngine:
    return built(space, family or Glow(steps=2, width=8), 0.05)


def convolution(channels: int) -> InvertibleConv:
    with Rows(3, torch.arange(1)).seeding():
        return InvertibleConv(channels).double()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_1x1_convolution_is_a_dense_matrix_with_that_determinant(channels: int) -> None:
    step = convolution(channels)
    start = step(torch.eye(channels, dtype=torch.float64)[:, :, None, None], torch.zeros(1))[0][:, :, 0, 0].t()
    eye = torch.eye(channels, dtype=torch.float64)
    torch.testing.assert_close(start @ start.t(), eye, rtol=0, atol=1e-6)  # a rotation, made in float32
    stir(step, 0.3)
    x = Rows(1, torch.arange(2)).normal(channels, 2, 3, dtype=torch.float64)
    y, log_scale = step(x, torch.zeros(2, 0))
    W = step(eye[:, :, None, None], torch.zeros(1))[0][:, :, 0, 0].t()
    torch.testing.assert_close(y, torch.einsum("oc,bchw->bohw", W, x))
    torch.testing.assert_close(log_scale, 6 * torch.linalg.slogdet(W).logabsdet.expand(2))
    torch.testing.assert_close(step.inverse(y, torch.zeros(2, 0)), x)


def test_every_kind_of_step_is_undone_and_says_its_volume() -> None:
    """Each step of a whole chain alone: autograd's Jacobian on what the steps before made of an item."""
    space = Real((1, 8, 8))
    engine = build(space, Glow(steps=1, width=8))
    batch = double(space, 1)
    vector = engine.condition(batch.condition, batch.x)
    h, kinds = batch.x, set()
    for step in engine.chain:
        assert isinstance(step, Step)
        y, log_scale = step(h, vector)
        jacobian = torch.func.jacrev(lambda v, s=step: s(v[None], vector)[0][0])(h[0]).reshape(64, 64)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        said = torch.zeros(()) if log_scale is None else log_scale[0]
        torch.testing.assert_close(said.double(), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(step.inverse(y, vector), h, rtol=1e-9, atol=1e-9)
        kinds.add(type(step).__name__)
        h = y
    assert kinds == {"Squash", "Squeeze", "ActNorm", "InvertibleConv", "Coupling", "Aside"}


@pytest.mark.parametrize("space", SPACES[:3])
@pytest.mark.parametrize("bounded", [True, False])
def test_log_prob_is_the_change_of_variables_with_autograds_jacobian(space: Real, bounded: bool) -> None:
    check_change_of_variables(build(space, Glow(steps=2, width=8, bounded=bounded)), double(space, 2))


@pytest.mark.parametrize("space", SPACES)
def test_decoding_undoes_encoding_and_encoding_undoes_decoding(space: Real) -> None:
    check_inverse(build(space), double(space, 6))


def test_in_half_precision_the_inverse_holds_still() -> None:
    """Networks may be rounded, since both ways round them alike; the steps themselves are not."""
    space = Real((1, 8, 8))
    engine, batch = build(space).float(), batch_of(space, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = engine.encode(batch.x, batch.condition)
        back = engine.decode(z, batch.condition)
    assert z.dtype == torch.float32
    torch.testing.assert_close(back, batch.x, rtol=0, atol=2e-2)


def test_the_density_of_four_pixels_integrates_to_one() -> None:
    space = Real((1, 2, 2))
    check_density(build(space, Glow(steps=2, width=4, bounded=False)), space, 7.0, 21, 1e-3)


def test_scales_set_half_of_the_channels_aside() -> None:
    engine = Glow(steps=1, width=8).build(Real((1, 28, 28)), {}, Rows(0, torch.arange(1)))
    asides = [m for m in engine.modules() if isinstance(m, Aside)]
    assert [(m.on, m.done) for m in asides] == [((2, 14, 14), (2, 14, 14))]
    deep = Glow(steps=1, width=8).build(Real((3, 32, 32)), {}, Rows(0, torch.arange(1)))
    assert [m.done for m in deep.modules() if isinstance(m, Aside)] == [(6, 16, 16), (12, 8, 8)]


@pytest.mark.parametrize("space", SPACES[1:3])
def test_losses_are_row_by_row(space: Real) -> None:
    check_rowwise(build(space).float(), batch_of(space, 4))


def test_samples_do_not_depend_on_the_batch() -> None:
    space = Real((1, 8, 4))
    check_samples(build(space), double(space, 5).condition)


@pytest.mark.parametrize(
    ("settings", "name"), [({"scales": 0}, "scales"), ({"steps": 0}, "steps"), ({"width": 0}, "width")]
)
def test_bad_settings_are_one_clear_error(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(BadInput, match=name):
        Glow(**settings)


@pytest.mark.parametrize("space", [Real((5,)), Real((1, 5, 4)), Real((1, 4, 4), levels=4), Tokens(3, 2)])
def test_what_is_no_picture_of_several_channels_is_refused(space: Real | Tokens) -> None:
    assert Glow().accepts(space, {}) is not None
    with pytest.raises(BadInput, match="space"):
        Glow().build(space, {}, Rows(0, torch.arange(1)))
