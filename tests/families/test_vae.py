"""The autoencoder's probabilities against enumeration and quadrature."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.vae import VAE, NetName, VAEEngine, VAEHow
from pellucid.nets.convolution import ConvEncoder
from pellucid.nets.mlp import MLP
from pellucid.nets.observation import ObservationName
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
        assert engine.region is not None
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


class Linear(nn.Module):
    """A x + b, whatever it is told beside x."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return x @ self.a.T + self.b


def principal_components(importance: int, blur: float) -> tuple[VAEEngine, MultivariateNormal]:
    """A linear autoencoder, and the Gaussian that its items have: x = W z + b + s noise.

    Tipping and Bishop 1999, "Probabilistic principal component analysis", section 3: p(z | x) = N(M^-1 W'(x - b),
    s^2 M^-1) with M = W'W + s^2 I, which the encoder gives where W's columns are orthogonal. With `blur` its centre and
    its spread are off by that share of the spread.
    """
    s, b = 0.6, torch.tensor([0.5, -1.0, 0.0, 2.0, 0.3], dtype=torch.float64)
    columns = torch.linalg.qr(Rows(3, torch.arange(5)).normal(2, dtype=torch.float64)).Q
    w = columns * torch.tensor([1.5, 0.4], dtype=torch.float64)
    m = torch.diag(w.T @ w) + s**2
    log_spread = (s / m.sqrt()).log() + math.log(1 + blur)
    read = torch.cat((w.T / m[:, None], torch.zeros(2, 5, dtype=torch.float64)))
    about = torch.cat((-w.T @ b / m + blur * s / m.sqrt(), 6 * torch.atanh(log_spread / 6)))  # as the engine bounds it
    family = VAE(latent=2, observation="gaussian", spread=s, importance=importance, beta=1.0, forget=0.0)
    engine = family.build(Real((5,)), {}, Rows(0, torch.arange(1))).double()
    engine.encoder, engine.decoder = Linear(read, about), Linear(w, b)
    return engine, MultivariateNormal(b, w @ w.T + s**2 * torch.eye(5, dtype=torch.float64))


@torch.no_grad()
def test_with_the_true_posterior_one_draw_gives_the_exact_likelihood() -> None:
    engine, truth = principal_components(importance=1, blur=0.0)
    x = truth.mean + 2 * Rows(1, torch.arange(20)).normal(5, dtype=torch.float64)
    found = engine.log_prob(Batch(x, torch.arange(20)), Rows(0, torch.arange(20)))
    assert found.kind == "lower_bound"
    assert found.error is None, "one draw says nothing of its spread"
    torch.testing.assert_close(found.value, truth.log_prob(x), rtol=0, atol=1e-9)
    negative_bound = 5 * engine.losses(Batch(x, torch.arange(20)), Rows(0, torch.arange(20)))
    exact_elbo = truth.log_prob(x).mean()  # the gap of the bound is KL(q || p(z | x)) = 0
    assert float(-negative_bound.mean()) == pytest.approx(float(exact_elbo), abs=1.0)


@torch.no_grad()
def test_the_bound_rises_with_its_draws_to_the_exact_likelihood_within_its_error() -> None:
    """Burda et al. 2016, theorem 1: L_1 <= L_5 <= L_50 <= log p(x), and L_K goes to log p(x)."""
    copies = 400  # of one item, each with draws of its own
    rows, means = Rows(0, torch.arange(copies)), []
    for many in (1, 5, 50, 1000):
        engine, truth = principal_components(many, blur=1.0)
        x = (truth.mean + torch.tensor([1.0, -0.5, 0.2, 0.4, -1.0])).expand(copies, 5)
        found = engine.log_prob(Batch(x, rows.ids), rows)
        means.append((float(found.value.mean()), float(found.value.std()) / math.sqrt(copies)))
        if found.error is not None and many >= 50:
            # the error of each is the spread among them
            assert float(found.error.square().mean().sqrt()) == pytest.approx(float(found.value.std()), rel=0.25)
    exact = float(truth.log_prob(x)[0])
    for (low, a), (high, b) in pairwise(means):
        assert low < high + 3 * math.hypot(a, b)
    assert means[0][0] < means[1][0] - 0.1 < means[2][0]
    assert means[2][0] <= exact + 3 * means[2][1]
    assert means[3][0] == pytest.approx(exact, abs=3 * means[3][1] + 2e-3)


@torch.no_grad()
def test_draws_of_the_bound_do_not_depend_on_how_many_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build(TABLE, VAE(latent=2, width=16, depth=1, importance=39)).double()
    batch, rows = batch_of(TABLE, 6), Rows(0, torch.arange(6))
    batch = Batch(batch.x.double(), batch.ids, batch.condition)
    whole = engine.log_prob(batch, rows)
    monkeypatch.setattr("pellucid.families.vae.TOGETHER", 12)
    parts = engine.log_prob(batch, rows)
    torch.testing.assert_close(parts.value, whole.value)
    torch.testing.assert_close(parts.error, whole.error)


@torch.no_grad()
def test_a_larger_beta_and_fewer_free_bits_only_weigh_the_divergence() -> None:
    """The loss is linear in beta, and free bits are a floor under each direction of each row."""
    batch, rows = batch_of(Real((3,)), 5), Rows(0, torch.arange(5))
    losses = {}
    for beta in (0.0, 1.0, 3.0):
        engine = build(Real((3,)), VAE(latent=2, width=16, depth=1, beta=beta, forget=0.0))
        losses[beta] = 3 * engine.losses(batch, rows)
    mean, log_spread = engine._posterior(batch.x, batch.condition)
    kl = kl_divergence(Normal(mean, log_spread.exp()), Normal(0.0, 1.0))  # (B, latent)
    torch.testing.assert_close(losses[1.0] - losses[0.0], kl.sum(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(losses[3.0] - losses[0.0], 3 * kl.sum(-1), rtol=1e-3, atol=1e-4)
    floor = float(kl.median())
    free = build(Real((3,)), VAE(latent=2, width=16, depth=1, beta=1.0, free_bits=floor, forget=0.0))
    costs = 3 * free.losses(batch, rows) - losses[0.0]
    torch.testing.assert_close(costs, kl.clamp_min(floor).sum(-1), rtol=1e-3, atol=1e-4)
    assert (costs > kl.sum(-1) + 1e-6).any(), "the floor lies above some of them"


@pytest.mark.parametrize("net", ["dense", "convolution"])
@pytest.mark.parametrize("observation", ["bernoulli", "logistic"])
def test_both_nets_and_observations_take_pictures(net: NetName, observation: ObservationName) -> None:
    space = Real((2, 8, 9), levels=3)
    family = VAE(latent=2, width=16, depth=1, net=net, observation=observation, components=2)
    engine = build(space, family)
    assert isinstance(engine.encoder, MLP if net == "dense" else ConvEncoder)
    check_rowwise(engine, batch_of(space, 3))
    drawn = engine.sample(Rows(0, torch.arange(4)), batch_of(space, 4).condition, VAEHow(), Silent())
    torch.testing.assert_close(drawn, drawn.round(), rtol=0, atol=1e-5)
    centre = engine.sample(Rows(0, torch.arange(4)), batch_of(space, 4).condition, VAEHow(mean=True), Silent())
    assert centre.shape == (4, 2, 8, 9)
    assert centre.abs().max() <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "latent is 0. Accepted: 1 to 4096"),
        ({"latent": 5000}, "latent is 5000. Accepted: 1 to 4096"),
        ({"width": 0}, "width is 0. Accepted: 1 to 4096"),
        ({"width": 100_000}, "width is 100000"),
        ({"depth": 65}, "depth is 65. Accepted: 1 to 64"),
        ({"components": 0}, "components is 0. Accepted: 1 to 32"),
        ({"importance": 0}, "importance is 0. Accepted: 1 to 100000"),
        ({"net": "dens"}, "net is 'dens'. Accepted: convolution, dense. Did you mean 'dense'"),
        ({"observation": "normal"}, "observation is 'normal'. Accepted: logistic, bernoulli, gaussian"),
        ({"net": "dense", "grid": 4}, "net is 'dense' with a grid. Accepted: convolution"),
        ({"spread": 0.0}, "spread is 0.0. Accepted: a finite number above 0"),
        ({"spread": math.nan}, "spread is nan"),
        ({"beta": -1.0}, "beta is -1.0. Accepted: 0 or more"),
        ({"beta": math.inf}, "beta is inf"),
        ({"free_bits": -0.1}, "free_bits is -0.1"),
        ({"forget": 1.0}, "forget is 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        VAE(**settings)


@pytest.mark.parametrize(
    ("family", "space", "message"),
    [
        (VAE(), Tokens(5, 3), "knows no order of symbols"),
        (VAE(net="convolution"), Real((6,)), "convolutions need channels, a height and a width"),
        (VAE(observation="bernoulli"), Real((6,)), "over whole levels, and these numbers are continuous"),
        (VAE(observation="logistic"), TABLE, "these rows hold several kinds of columns"),
        (VAE(observation="gaussian"), Real((1, 8, 8), levels=4), "a density, and these items lie on whole levels"),
        (VAE(), Real((3, 200, 200)), "one item has 120000 numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(family: VAE, space: Space, message: str) -> None:
    assert family.accepts(space, {}) is not None
    with pytest.raises(BadInput, match=message):
        family.build(space, {}, Rows(0, torch.arange(1)))


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
