"""What decoders say of items: distributions that sum to one, draws that follow them, slopes that are finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.nets import observation as module
from pellucid.nets.observation import (
    BernoulliObservation,
    FieldsObservation,
    GaussianObservation,
    LogisticObservation,
    Observation,
    ObservationName,
    observation_of,
    refused_observation,
)

GRIDS: dict[str, tuple[ObservationName, int, int]] = {
    "one logistic": ("logistic", 17, 1),
    "three logistics": ("logistic", 17, 3),
    "a coin": ("bernoulli", 2, 1),
    "a tilt over grey levels": ("bernoulli", 17, 1),
}
TABLE = Mixed(
    (
        Field("sex", Tokens(3, 1)),
        Field("age", Real((1,))),
        Field("gain", Real((2,)), ("sex", 1)),
        Field("job", Tokens((4, 2), 2)),
    )
)


def made(kind: str, count: int = 40, scale: float = 3.0) -> tuple[Observation, Real, Tensor]:
    """The observation of one number, its space, and `count` rows of parameters."""
    name, levels, components = GRIDS[kind]
    space = Real((1,), levels=levels, low=-2.0, high=6.0)
    observation = observation_of(space, name, components=components)
    return observation, space, scale * Rows(0, torch.arange(count)).normal(observation.outputs, dtype=torch.float64)


def grid(space: Real) -> Tensor:
    assert space.levels is not None
    return torch.linspace(space.low, space.high, space.levels, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 3.0, 100.0])
@pytest.mark.parametrize("kind", GRIDS)
def test_probabilities_of_all_levels_sum_to_one(kind: str, scale: float) -> None:
    observation, space, said = made(kind, scale=scale)
    total = sum(observation.log_prob(said, level.expand(40, 1)).exp() for level in grid(space))
    torch.testing.assert_close(total, torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", GRIDS)
def test_draws_lie_on_the_grid_as_often_as_is_said(kind: str) -> None:
    observation, space, said = made(kind, 3, 1.5)
    count = 8000
    for row in said:
        many = row.expand(count, -1)
        drawn = observation.draw(many, Rows(0, torch.arange(count)), 1.0).reshape(-1)
        nearest = (drawn[:, None] - grid(space)).abs().min(1)
        assert float(nearest.values.max()) < 1e-6
        met = torch.bincount(nearest.indices, minlength=len(grid(space))).double() / count
        p = torch.stack([observation.log_prob(row[None], level.reshape(1, 1)).exp()[0] for level in grid(space)])
        assert ((met - p).abs() <= 4.5 * (p * (1 - p) / count).sqrt() + 1e-4).all()


@pytest.mark.parametrize("kind", GRIDS)
def test_slopes_are_finite_where_levels_are_certain_and_where_nothing_is(kind: str) -> None:
    observation, space, _ = made(kind)
    for value in (-200.0, -1e-4, 0.0, 0.2, 30.0, 200.0):
        said = torch.full((3, observation.outputs), value, requires_grad=True)
        x = torch.tensor([[space.low], [float(grid(space)[len(grid(space)) // 2])], [space.high]])
        loss = observation.log_prob(said, x).sum()
        loss.backward()
        assert loss.isfinite()
        assert said.grad is not None
        assert said.grad.isfinite().all()


@pytest.mark.parametrize("levels", [2, 3, 256])
def test_the_centre_of_a_tilt_is_its_mean_and_two_levels_are_a_coin(levels: int) -> None:
    space = Real((1,), levels=levels, low=0.0, high=1.0)
    observation = BernoulliObservation(space)
    said = torch.tensor([-300.0, -7.0, -0.3, -1e-3, 0.0, 1e-3, 0.3, 7.0, 300.0], dtype=torch.float64)[:, None]
    x = torch.linspace(0, 1, levels, dtype=torch.float64)
    mean = sum(observation.log_prob(said, level.expand(9, 1)).exp() * level for level in x)
    torch.testing.assert_close(observation.centre(said)[:, 0], mean, rtol=1e-9, atol=1e-9)
    if levels == 2:
        torch.testing.assert_close(observation.centre(said), said.sigmoid())


def test_one_logistic_is_the_mixture_of_equal_ones() -> None:
    space = Real((2, 3), levels=9)
    one, three = LogisticObservation(space), LogisticObservation(space, 3)
    three.get_buffer("beside").zero_()
    said = Rows(0, torch.arange(5)).normal(2, 6)
    mixed = torch.cat((said.new_zeros(5, 3, 6), *(said[:, [k]].expand(-1, 3, -1) for k in (0, 1))), 1).flatten(1)
    x = ((Rows(1, torch.arange(5)).uniform(2, 3) * 8).round() - 4) / 4
    torch.testing.assert_close(three.log_prob(mixed, x), one.log_prob(said.flatten(1), x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(three.centre(mixed), one.centre(said.flatten(1)))
    assert LogisticObservation(space, 3).get_buffer("beside").flatten().tolist() == pytest.approx([-2 / 3, 0, 2 / 3])


@pytest.mark.parametrize("spread", [None, 0.7])
def test_the_gaussian_is_the_normal_density_with_a_learned_or_a_given_spread(spread: float | None) -> None:
    observation = GaussianObservation(Real((2, 3)), spread)
    s = math.exp(-0.5) if spread is None else spread
    assert (len(list(observation.parameters())) == 1) == (spread is None)
    said, x = Rows(0, torch.arange(4)).normal(6), Rows(1, torch.arange(4)).normal(2, 3)
    expected = Normal(said, s).log_prob(x.flatten(1)).sum(-1)
    torch.testing.assert_close(observation.log_prob(said, x), expected)
    torch.testing.assert_close(observation.each(said, x).sum(-1), expected)
    drawn = observation.draw(said[:1].expand(4000, -1), Rows(0, torch.arange(4000)), 1.0).flatten(1).detach()
    assert float((drawn.std(0) / s - 1).abs().max()) < 0.06


def test_a_row_is_worth_its_columns_whatever_the_size_of_their_alphabets(monkeypatch: pytest.MonkeyPatch) -> None:
    """One softmax for the small alphabets and one each for large ones give what torch's own gives column by column."""
    observation = FieldsObservation(TABLE)
    x = torch.tensor([[1.0, 0.3, 0.1, -0.2, 3.0, 1.0], [2.0, -1.0, 0.0, 0.0, 0.0, 0.0]])
    said = 40 * Rows(0, torch.arange(2)).normal(observation.outputs)  # far enough apart that exponentials overflow
    said[1, 3:6] = -500.0
    normal = Normal(said[:, :3], math.exp(-0.5)).log_prob(x[:, 1:4])
    logits = said[:, 3:].split([3, 4, 2], -1)
    symbols = [
        torch.log_softmax(z, -1).gather(1, x[:, [k]].long())[:, 0] for z, k in zip(logits, (0, 4, 5), strict=True)
    ]
    expected = normal[:, 0] + torch.tensor([1.0, 0.0]) * normal[:, 1:].sum(-1) + sum(symbols)
    torch.testing.assert_close(observation.log_prob(said, x), expected, rtol=1e-5, atol=1e-3)
    for segmented in (3, 0):
        monkeypatch.setattr(module, "SEGMENTED", segmented)
        torch.testing.assert_close(FieldsObservation(TABLE).log_prob(said, x), expected, rtol=1e-5, atol=1e-3)


def test_slopes_of_the_joint_softmax_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[1.0, 0.3, 0.1, -0.2, 3.0, 1.0]])
    slopes = []
    for segmented in (1024, 0):
        monkeypatch.setattr(module, "SEGMENTED", segmented)
        observation = FieldsObservation(TABLE)
        said = (3 * Rows(0, torch.arange(1)).normal(observation.outputs)).requires_grad_()
        observation.log_prob(said, x).sum().backward()
        slopes.append(said.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-6)


def test_rows_are_joined_as_the_space_splits_them() -> None:
    observation = FieldsObservation(TABLE)
    said = 3 * Rows(0, torch.arange(200)).normal(observation.outputs)
    for x in (observation.centre(said), observation.draw(said, Rows(1, torch.arange(200)), 1.0)):
        parts = TABLE.split(x)
        assert torch.equal(TABLE.join(parts), x)
        assert (parts["gain"][parts["sex"][:, 0] != 1] == 0).all()
        assert (parts["job"] < torch.tensor([4, 2])).all()
        assert set(parts["sex"].flatten().tolist()) == {0, 1, 2}
    alone = FieldsObservation(Mixed((Field("a", Tokens(3, 1)),)))
    assert alone.draw(torch.zeros(50, 3), Rows(0, torch.arange(50)), 1.0).shape == (50, 1)
    numbers = FieldsObservation(Mixed((Field("a", Real((2,))),)))
    assert numbers.draw(torch.zeros(50, 2), Rows(0, torch.arange(50)), 0.0).abs().max() == 0


@pytest.mark.parametrize(
    ("space", "name", "why"),
    [
        (Real((3,)), "logistic", "over whole levels, and these numbers are continuous"),
        (Real((3,)), "bernoulli", "over whole levels, and these numbers are continuous"),
        (TABLE, "bernoulli", "these rows hold several kinds of columns"),
        (Real((3,), levels=4), "gaussian", "a density, and these items lie on whole levels"),
        (Tokens(3, 2), None, "symbols have no observation"),
    ],
)
def test_what_does_not_suit_the_space_is_refused(space: Space, name: ObservationName | None, why: str) -> None:
    assert why in refused_observation(space, name)
    with pytest.raises(BadInput, match=why):
        observation_of(space, name)
