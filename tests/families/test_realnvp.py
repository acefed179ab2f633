"""The flow against autograd's Jacobian, its own inverse, and quadrature."""

from __future__ import annotations

import pytest
import torch

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.families.coupling import keeps
from pellucid.families.realnvp import RealNVP
from pellucid.families.reversible import ActNorm, FlowEngine, Squash, Step
from tests.families.flows import built, check_change_of_variables, check_density, check_inverse, check_samples, double
from tests.families.rowwise import batch_of, check_rowwise, events

SPACES = [Real((1,)), Real((2,)), Real((5,)), Real((2, 3)), Real((1, 8, 8)), Real((2, 8, 12)), Real((1, 5, 4))]


def build(space: Real, family: RealNVP | None = None) -> FlowEngine:
    return built(space, family or RealNVP(steps=3, width=8), 0.03)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bounded", [True, False])
def test_log_prob_is_the_change_of_variables_with_autograds_jacobian(space: Real, bounded: bool) -> None:
    check_change_of_variables(build(space, RealNVP(steps=3, width=8, bounded=bounded)), double(space, 3))


@pytest.mark.parametrize("space", SPACES)
def test_decoding_undoes_encoding_and_encoding_undoes_decoding(space: Real) -> None:
    check_inverse(build(space), double(space, 6))


@pytest.mark.parametrize("bounded", [True, False])
def test_densities_integrate_to_one(bounded: bool) -> None:
    space = Real((1,))
    check_density(build(space, RealNVP(steps=2, width=8, bounded=bounded)), space, 40.0, 80_001, 1e-4)


def test_the_density_of_two_numbers_integrates_to_one() -> None:
    space = Real((2,))
    check_density(build(space, RealNVP(steps=4, width=8)), space, 12.0, 241, 1e-4)


def test_every_kind_of_step_is_undone_and_says_its_volume() -> None:
    """Each step of a whole chain alone: autograd's Jacobian on what the steps before made of an item."""
    space = Real((1, 8, 8))
    engine, batch = build(space), double(space, 1)
    vector, h, kinds = engine.condition(batch.condition, batch.x), batch.x, set()
    for step in engine.chain:
        assert isinstance(step, Step)
        y, log_scale = step(h, vector)
        jacobian = torch.func.jacrev(lambda v, s=step: s(v[None], vector)[0][0])(h[0]).reshape(64, 64)
        said = torch.zeros(()) if log_scale is None else log_scale[0]
        torch.testing.assert_close(said.double(), torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(step.inverse(y, vector), h, rtol=1e-9, atol=1e-9)
        kinds.add(type(step).__name__)
        h = y
    assert kinds == {"Squash", "Squeeze", "Arrange", "ActNorm", "Coupling", "Flatten"}


def test_squash_is_smooth_across_its_ends_and_undone_everywhere() -> None:
    squash = Squash(0.05).double()
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None].requires_grad_()
    y, log_slope = squash(x, x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope[:, 0].log(), log_slope)
    torch.testing.assert_close(squash.inverse(y, x), x)
    assert float((slope[1:] - slope[:-1]).abs().max()) < 1.0  # no jump, neither at -1 nor at 1
    assert (y[1:] > y[:-1]).all()


def test_prepare_brings_every_channel_to_mean_0_and_spread_1() -> None:
    space = Real((4,))
    engine = RealNVP(steps=2, width=8).build(space, {}, Rows(0, torch.arange(1)))
    x = 5.0 + 3.0 * events(space, 500)
    engine.prepare(Batch(x, torch.arange(500)))
    z = engine.encode(x, Condition())
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4), rtol=0, atol=1e-3)
    assert not any(m.waiting for m in engine.modules() if isinstance(m, ActNorm | Squash))


@pytest.mark.parametrize("count", [2, 3, 4, 7, 16])
def test_couplings_take_turns_and_tell_any_two_numbers_apart(count: int) -> None:
    masks = [keeps(count, step) for step in range(12)]
    assert all(bool(m.any()) and not bool(m.all()) for m in masks)
    assert all((a ^ b).all() for a, b in zip(masks[::2], masks[1::2], strict=True))
    for a in range(count):
        for b in range(a):
            assert any(bool(m[a] != m[b]) for m in masks)


def test_the_first_pair_of_couplings_is_the_checkerboard() -> None:
    kept = keeps(4, 0).reshape(2, 2)  # channel (row, column) of a squeezed square of pixels
    assert kept.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("space", [Real((1,)), Real((5,)), Real((1, 8, 8))])
def test_losses_are_row_by_row(space: Real) -> None:
    engine = build(space).float()
    check_rowwise(engine, batch_of(space, 4))


@pytest.mark.parametrize("space", [Real((1,)), Real((5,)), Real((1, 8, 8))])
def test_samples_do_not_depend_on_the_batch(space: Real) -> None:
    check_samples(build(space), double(space, 7).condition)


def test_grids_and_symbols_are_refused() -> None:
    assert RealNVP().accepts(Real((2,), levels=4), {}) is not None
    assert RealNVP().accepts(Tokens(3, 2), {}) is not None
    with pytest.raises(BadInput, match="margin"):
        RealNVP(margin=0.0)
