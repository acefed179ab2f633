"""The contest's losses against their formulas, and what the generator may and may not do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Scores
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.core.trace import Silent
from pellucid.families.gan import GAN, GANEngine, GANHow
from pellucid.families.gan_rows import Items
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

SPACES = [Real((1, 8, 8), levels=17), Real((2, 9, 12)), Real((4,)), Real((3,), levels=5, low=0.0, high=8.0)]


def build(space: Real, gamma: float = 0.5) -> GANEngine:
    engine = GAN(latent=6, width=8, depth=1, gamma=gamma, forget=0.0).build(space, CLASS, Rows(0, torch.arange(1)))
    stir(engine)
    return engine


@pytest.mark.parametrize("space", SPACES)
def test_both_losses_follow_the_paper(space: Real) -> None:
    engine = build(space).double()
    batch, rows = batch_of(space, 5), Rows(2, torch.arange(5) + 100)
    assert isinstance(engine.face, Items)
    real = (batch.x.double() - engine.face.middle) / engine.face.reach
    fake = engine._forge(rows, batch.condition, None)[0].detach()
    vector = engine.critic_condition(batch.condition, real)
    scores, slopes = [], []
    for x in (real, fake):
        x = x.clone().requires_grad_()
        score = engine.critic(x, vector)
        scores.append(score)
        slopes.append(torch.autograd.grad(score.sum(), x)[0].flatten(1).square().sum(1))
    expected = softplus(scores[1] - scores[0]) + 0.25 * (slopes[0] + slopes[1])
    double = batch.with_x(batch.x.double())
    torch.testing.assert_close(engine.critic_losses(double, rows), expected)
    torch.testing.assert_close(engine.generator_losses(double, rows), softplus(scores[0] - scores[1]))


def test_each_player_moves_its_own_weights_and_all_weights_have_a_player() -> None:
    engine = build(SPACES[0])
    critic, generator = (set(turn.parameters) for turn in engine.turns())
    assert not critic & generator
    assert critic | generator == set(engine.parameters())
    batch, rows = batch_of(SPACES[0], 5), Rows(2, torch.arange(5))
    for turn in engine.turns():
        slopes = torch.autograd.grad(turn.losses(batch, rows).sum(), list(turn.parameters), allow_unused=True)
        assert sum(s is not None and bool((s != 0).any()) for s in slopes) > len(slopes) / 2
    slopes = torch.autograd.grad(engine.critic_losses(batch, rows).sum(), list(generator), allow_unused=True)
    assert all(s is None for s in slopes)


@pytest.mark.parametrize("space", [SPACES[0], SPACES[2]])
def test_losses_are_row_by_row(space: Real) -> None:
    check_rowwise(build(space), batch_of(space, 4))


@pytest.mark.parametrize("space", SPACES)
def test_samples_lie_in_the_space_and_do_not_depend_on_the_batch(space: Real) -> None:
    engine = build(space)
    condition, rows = batch_of(space, 7).condition, Rows(1, torch.arange(7))
    x = engine.sample(rows, condition, engine.settings(), Silent())
    assert x.shape == (7, *space.shape)
    alone = [engine.sample(rows.take(slice(j, j + 1)), condition.take(slice(j, j + 1)), GANHow(), Silent())
             for j in range(7)]  # fmt: skip
    torch.testing.assert_close(x, torch.cat(alone), rtol=1e-4, atol=1e-4)
    if space.levels is not None:
        level = (x - space.low) / space.step
        torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-4)
        assert level.min() > -0.01
        assert level.max() < space.levels - 0.99
    assert engine.sample(rows, Condition(), GANHow(temperature=0.0), Silent()).std(0).max() < 1e-5


def test_conditions_change_what_is_made_and_how_it_is_judged() -> None:
    engine, rows = build(Real((4,))), Rows(1, torch.arange(5))
    stir(engine, 0.3)
    made = [engine.sample(rows, Condition({"class": torch.full((5, 1), k)}, {"class": torch.ones(5, dtype=torch.bool)}),
                          GANHow(), Silent()) for k in range(2)]  # fmt: skip
    assert (made[0] - made[1]).abs().max() > 1e-3


def test_there_is_no_likelihood_and_no_place_for_symbols() -> None:
    assert not issubclass(GANEngine, Scores)
    assert GAN().accepts(Tokens(3, 2), {}) is not None
    with pytest.raises(BadInput, match="gamma"):
        GAN(gamma=-1.0)
