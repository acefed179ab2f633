"""The autoencoder's probabilities against enumeration and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.vae import VAE, VAEEngine, VAEHow
from pellucid.nets.observation import LogisticObservation
from tests.families.rowwise import CLASS, batch_of, check_rowwise, events, stir

TABLE = Mixed(
    (
        Field("sex", Tokens(3, 1)),
        Field("age", Real((1,))),
        Field("gain", Real((2,)), ("sex", 1)),
        Field("job", Tokens((4, 2), 2)),
    )
)
SMALL = VAE(latent=2, width=16, depth=1)


def build(space: Space, family: VAE = SMALL) -> VAEEngine:
    engine = family.build(space, CLASS, Rows(0, torch.arange(1)))
    stir(engine)
    return engine


def test_the_grid_observation_sums_to_one_over_the_levels() -> None:
    space = Real((1,), levels=17, low=0.0, high=16.0)
    observation = LogisticObservation(space)
    said = 3.0 * Rows(0, torch.arange(50)).normal(2, dtype=torch.float64)
    levels = torch.arange(17, dtype=torch.float64)
    total = sum(observation.log_prob(said, level.expand(50, 1)).exp() for level in levels)
    torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_grid_observation_draws_what_it_says() -> None:
    space = Real((1,), levels=5)
    observation, count = LogisticObservation(space), 20_000
    said = torch.tensor([[0.3, 0.8]], dtype=torch.float64).expand(count, 2)
    drawn = observation.draw(said, Rows(0, torch.arange(count)), 1.0)
    for level in (-1.0, -0.5, 0.0, 0.5, 1.0):
        p = float(observation.log_prob(said[:1], torch.tensor([[level]], dtype=torch.float64)).exp())
        assert float((drawn == level).double().mean()) == pytest.approx(p, abs=4 * math.sqrt(p / count))


def exact(engine: VAEEngine, batch: Batch) -> torch.Tensor:
    """log of the integral of N(z) p(x | z) over z in one dimension, by the trapezoid rule."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    out = []
    for j in range(len(batch)):
        row = batch.take(torch.full((len(z),), j))
        said = engine.observation.log_prob(engine._said(z, row.condition), row.x)
        joint = said + Normal(0.0, 1.0).log_prob(z[:, 0])
        out.append(joint.logsumexp(0) + math.log(18 / 2000))
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("space", [Real((3,)), Real((2,), levels=5), TABLE])
def test_the_importance_weighted_bound_lies_below_the_exact_value_and_nears_it(space: Space) -> None:
    gaps = []
    for importance in (1, 16, 256):
        engine = build(space, VAE(latent=1, width=16, depth=1, importance=importance)).double()
        for p in (*engine.encoder.parameters(), *engine.region.parameters()):
            p.mul_(0.5)  # a random q must not be much narrower than the posterior, or no K is enough
        batch = batch_of(space, 6)
        batch = Batch(batch.x.double(), batch.ids, batch.condition)
        values = torch.stack([engine.log_prob(batch, Rows(s, batch.ids)).value for s in range(400 // importance + 8)])
        gap, error = exact(engine, batch) - values.mean(0), values.std(0) / math.sqrt(len(values))
        assert (gap > -4 * error - 1e-9).all()
        gaps.append(float(gap.mean()))
    assert gaps[0] > gaps[1] > gaps[2] - 1e-6
    assert gaps[2] < 0.1


@torch.no_grad()
def test_symbols_of_a_table_sum_to_one() -> None:
    space = Mixed((Field("a", Tokens(3, 1)), Field("b", Tokens(2, 1))))
    engine = build(space, VAE(latent=1, width=16, depth=1)).double()
    x = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0)).double()
    batch = Batch(x, torch.arange(6), Condition.blank(CLASS, 6))
    assert float(exact(engine, batch).exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_the_loss_is_the_bound_with_the_closed_kl() -> None:
    engine = build(Real((3,)), VAE(latent=2, width=16, depth=1, beta=0.7, forget=0.0))
    batch, rows = batch_of(Real((3,)), 5), Rows(0, torch.arange(5))
    mean, log_spread = engine._posterior(batch.x, batch.condition)
    kl = kl_divergence(Normal(mean, log_spread.exp()), Normal(0.0, 1.0)).sum(-1)
    z = engine.encode(batch.x, batch.condition, rows)
    said = engine.observation.log_prob(engine._said(z, batch.condition), batch.x)
    torch.testing.assert_close(engine.losses(batch, rows), (0.7 * kl - said) / 3)


def test_free_bits_cost_nothing_below_the_floor() -> None:
    engine = build(Real((3,)), VAE(latent=2, width=16, depth=1, beta=1.0, free_bits=50.0, forget=0.0))
    batch, rows = batch_of(Real((3,)), 5), Rows(0, torch.arange(5))
    z = engine.encode(batch.x, batch.condition, rows)
    said = engine.observation.log_prob(engine._said(z, batch.condition), batch.x)
    torch.testing.assert_close(engine.losses(batch, rows), (100.0 - said) / 3)


def test_numbers_count_only_where_they_are_present() -> None:
    engine = build(TABLE)
    batch = batch_of(TABLE, 30)
    changed = batch.x.clone()
    changed[:, 2:4] += 1.0
    there = batch.x[:, 0] == 1
    moved = engine.observation.log_prob(torch.zeros(30, engine.observation.outputs), changed)
    still = engine.observation.log_prob(torch.zeros(30, engine.observation.outputs), batch.x)
    assert (moved[~there] == still[~there]).all()
    assert (moved[there] != still[there]).all()


@pytest.mark.parametrize("space", [Real((1, 8, 8), levels=17), Real((3, 9, 10)), Real((4,)), TABLE])
def test_samples_lie_in_the_space_and_do_not_depend_on_the_batch(space: Space) -> None:
    engine = build(space)
    batch, rows = batch_of(space, 9), Rows(1, torch.arange(9))
    for how in (VAEHow(), VAEHow(mean=True), VAEHow(temperature=0.0)):
        x = engine.sample(rows, batch.condition, how, Silent())
        assert x.shape == batch.x.shape
        alone = [engine.sample(rows.take(slice(j, j + 1)), batch.condition.take(slice(j, j + 1)), how, Silent())
                 for j in range(9)]  # fmt: skip
        torch.testing.assert_close(x, torch.cat(alone), rtol=1e-4, atol=1e-4)
        if isinstance(space, Real) and space.levels and not how.mean:
            torch.testing.assert_close((x + 1) * 8, ((x + 1) * 8).round(), rtol=0, atol=1e-5)
        if isinstance(space, Mixed):
            parts = space.split(x)
            assert all((parts[f.name] >= 0).all() for f in space.fields if isinstance(f.space, Tokens))
            assert (parts["job"] < torch.tensor([4, 2])).all()
            assert (parts["gain"][parts["sex"][:, 0] != 1] == 0).all()
    assert engine.sample(rows, Condition(), engine.settings(), Silent()).shape == batch.x.shape


@pytest.mark.parametrize("space", [Real((1, 8, 8), levels=17), Real((4,)), TABLE])
def test_losses_are_row_by_row(space: Space) -> None:
    check_rowwise(build(space), batch_of(space, 4))


def test_latents_have_the_said_size() -> None:
    engine, x = build(TABLE), events(TABLE, 5)
    z = engine.encode(x, Condition())
    assert z.shape == (5, *engine.latent().shape)
    assert engine.decode(z, Condition()).shape == x.shape


def test_a_base_of_the_same_shape_is_taken_over() -> None:
    base = build(Real((4,)))
    engine = SMALL.build(Real((4,)), CLASS, Rows(1, torch.arange(1)), base)
    assert all((a == b).all() for a, b in zip(engine.parameters(), base.parameters(), strict=True))


def test_symbols_alone_are_refused_and_so_are_bad_settings() -> None:
    assert VAE().accepts(Tokens(5, 3), {}) is not None
    with pytest.raises(BadInput, match="latent"):
        VAE(latent=0)
    with pytest.raises(BadInput, match="Tokens"):
        VAE().build(Tokens(5, 3), {}, Rows(0, torch.arange(1)))


GRID = VAE(grid=4, channels=3, width=16, depth=1)


@torch.no_grad()
def test_a_latent_grid_is_a_small_picture_and_costs_what_its_numbers_cost() -> None:
    space = Real((1, 10, 8), levels=17)
    engine, batch = build(space, GRID), batch_of(space, 5)
    assert engine.latent() == Real((3, 3, 2))
    rows = Rows(0, batch.ids)
    z = engine.encode(batch.x, batch.condition, rows)
    assert z.shape == (5, 3, 3, 2)
    assert engine.decode(z, batch.condition).shape == batch.x.shape
    mean, log_spread = engine._posterior(batch.x, batch.condition)
    log_q = Normal(mean, log_spread.exp()).log_prob(z.flatten(1)).sum(-1)
    said = engine.observation.log_prob(engine._said(z.flatten(1), batch.condition), batch.x)
    torch.testing.assert_close(engine.log_weight(batch.x, z, batch.condition), said - log_q, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_latent_grid_rebuilds_without_being_told_conditions() -> None:
    """What is trained through it never tells them: the same item comes back with them and without."""
    space = Real((1, 10, 8), levels=17)
    engine, batch = build(space, GRID), batch_of(space, 5)
    told = engine.decode(engine.encode(batch.x, batch.condition), batch.condition)
    untold = engine.decode(engine.encode(batch.x, Condition()), Condition())
    torch.testing.assert_close(told, untold, rtol=1e-4, atol=1e-5)


def test_latent_grids_out_of_range_are_refused() -> None:
    with pytest.raises(BadInput, match="grid is 5. Accepted: a power of two from 1 to 16"):
        VAE(grid=5)
    with pytest.raises(BadInput, match="channels is 65. Accepted: 1 to 64"):
        VAE(grid=4, channels=65)
    with pytest.raises(BadInput, match="one place of the grid would cover 16 pixels a side"):
        VAE(grid=16).build(Real((1, 12, 40)), {}, Rows(0, torch.arange(1)))
    with pytest.raises(BadInput, match="a latent grid lies over pictures"):
        VAE(grid=4).build(Real((6,)), {}, Rows(0, torch.arange(1)))
