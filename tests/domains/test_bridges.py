"""Bridges: what goes there comes back, and likelihoods change by the right amount, held against integrals and sums."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.domains import bridges
from pellucid.domains.bridges import Analog, ColumnTokens, Dequantise, OneHot, Quantise
from pellucid.domains.bridges.bins import Bins
from pellucid.domains.grid import grid_of

ALL = [getattr(bridges, name) for name in bridges.__all__]

STATE = Field("debt state", Tokens(4, 1))
DEBT = Field("debt", Real((1,)), ("debt state", 1))  # the number exists in state 1, so that symbols move on both sides
FINE = Field("debt fine", Real((1,)), ("debt state", 1))
TABLE = Mixed((STATE, DEBT, FINE, Field("city", Tokens(21, 1)), Field("age", Real((2,))), Field("sex", Tokens(2, 1))))
PICTURE = Real((3, 2, 4), levels=17)
TOKENS = Tokens((3, 1, 5), 3)


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def table(n: int) -> Tensor:
    r = rows(n, seed=1)
    state = r.fork("state").integers(4, 1)
    there = state == 1
    return TABLE.join(
        {
            "debt state": state,
            "debt": torch.where(there, r.fork("debt").normal(1), 0.0),
            "debt fine": torch.where(there, r.fork("fine").uniform(1), 0.0),
            "city": r.fork("city").integers(21, 1),
            "age": r.fork("age").normal(2).round(decimals=1),
            "sex": r.fork("sex").integers(2, 1),
        }
    )


def example(kind: type[Any], n: int = 500) -> tuple[Bridge, Tensor]:
    """A learned bridge of each kind and events of its source."""
    r = rows(n, seed=2)
    if kind in (Dequantise, Quantise):
        x = grid_of(PICTURE)[r.integers(17, *PICTURE.shape)]
        return (Quantise.learn(PICTURE, x, bins=5) if kind is Quantise else Dequantise.learn(PICTURE, x)), x
    if kind is OneHot:
        tokens = torch.stack([r.fork("t", t).integers(size) for t, size in enumerate(TOKENS.sizes)], dim=-1)
        return OneHot.learn(TOKENS, tokens), tokens
    x = table(n)
    return (ColumnTokens.learn(TABLE, x, bins=8, pieces=3) if kind is ColumnTokens else Analog.learn(TABLE, x)), x


def lifted(bridge: Bridge, value: Tensor, x: Tensor, r: Rows) -> Tensor:
    return bridge.lift(LogProb(value, "exact"), x, r).value


each = pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)


@each
def test_events_have_the_shapes_and_kinds_of_their_spaces(kind: type[Any]) -> None:
    bridge, x = example(kind)
    y = bridge.there(x, rows(500))
    assert y.shape == (500, *bridge.target.shape)
    assert y.dtype == (torch.int64 if isinstance(bridge.target, Tokens) else torch.float32)
    if isinstance(bridge.target, Tokens):
        assert bool((y >= 0).all() and (y.amax(0) < torch.tensor(bridge.target.sizes)).all())
    assert bridge.back(y, rows(500)).dtype == x.dtype


@each
def test_back_after_there_returns(kind: type[Any]) -> None:
    bridge, x = example(kind)
    y = bridge.there(x, rows(500))
    z = bridge.back(y, rows(500, seed=8))
    if kind in (Quantise, ColumnTokens):  # what is inside a bin is drawn anew
        assert torch.equal(bridge.there(z, rows(500)), y)
    else:
        assert torch.equal(z, x)


@each
def test_anything_comes_back_as_a_possible_event(kind: type[Any]) -> None:
    bridge, _ = example(kind)
    if isinstance(bridge.target, Tokens):
        y = rows(300, seed=5).integers(1000, *bridge.target.shape)
    else:
        y = 9.0 * rows(300, seed=5).normal(*bridge.target.shape)
    z = bridge.back(y, rows(300))
    assert bool(torch.isfinite(z.float()).all())
    if isinstance(bridge.source, Mixed):
        parts = bridge.source.split(z)
        for field in bridge.source.fields:
            if isinstance(field.space, Tokens):
                assert bool((parts[field.name] >= 0).all() and (parts[field.name] < field.space.symbols).all())
            if field.present is not None:
                absent = ~bridge.source.present(parts, field)
                assert absent.any()
                assert bool((parts[field.name][absent] == 0).all())
    elif isinstance(bridge.source, Real):
        assert bool(torch.isin(z, grid_of(bridge.source)).all())


@each
def test_a_row_does_not_depend_on_its_batch(kind: type[Any]) -> None:
    bridge, x = example(kind)
    r, some = rows(500), torch.tensor([411, 3, 77])
    y = bridge.there(x, r)
    assert torch.equal(bridge.there(x[some], r.take(some)), y[some])
    assert torch.equal(bridge.back(y[some], r.take(some)), bridge.back(y, r)[some])
    value = torch.zeros(500)
    assert torch.equal(lifted(bridge, value[:3], x[some], r.take(some)), lifted(bridge, value, x, r)[some])


@each
def test_storing_changes_nothing(kind: type[Any]) -> None:
    bridge, x = example(kind)
    again = kind.from_plain(json.loads(json.dumps(bridge.plain(), allow_nan=False)), bridge.tensors())
    r = rows(500)
    y = bridge.there(x, r)
    assert (again.source, again.target, again.name) == (bridge.source, bridge.target, bridge.name)
    assert torch.equal(again.there(x, r), y)
    assert torch.equal(again.back(y, r), bridge.back(y, r))
    assert torch.equal(lifted(again, torch.zeros(500), x, r), lifted(bridge, torch.zeros(500), x, r))


@each
def test_what_is_stored_is_checked(kind: type[Any]) -> None:
    bridge, _ = example(kind)
    plain, tensors = bridge.plain(), bridge.tensors()
    wrong = [
        ({**plain, "extra": 1}, tensors),
        ({}, tensors),
        ({**plain, "source": {"space": "Real"}}, tensors),
        ({**plain, "source": {"space": "Tokens", "vocab": 3, "length": 10_000, "ends": False}}, tensors),
        ({**plain, "source": None}, tensors),
        (plain, {**tensors, "other": torch.zeros(1)}),
    ]
    wrong += [(plain, {k: t for k, t in tensors.items() if k != name}) for name in tensors]
    wrong += [(plain, {**tensors, name: tensors[name][:-1]}) for name in tensors]
    wrong += [(plain, {**tensors, name: -(tensors[name] + 1)}) for name in tensors]
    wrong += [(plain, {**tensors, name: tensors[name].float()}) for name in tensors]
    for stored, held in wrong:
        with pytest.raises(BadInput):
            kind.from_plain(stored, held)


@each
def test_an_estimate_stays_one(kind: type[Any]) -> None:
    bridge, x = example(kind, 4)
    log_prob = bridge.lift(LogProb(torch.zeros(4), "estimate", torch.ones(4)), x, rows(4))
    assert log_prob.kind == "estimate"
    assert log_prob.error is not None


@each
def test_a_bound_never_becomes_exact(kind: type[Any]) -> None:
    bridge, x = example(kind, 4)
    assert bridge.lift(LogProb(torch.zeros(4), "lower_bound"), x, rows(4)).kind == "lower_bound"
    strict = kind in (Quantise, ColumnTokens)
    assert bridge.lift(LogProb(torch.zeros(4), "exact"), x, rows(4)).kind == ("exact" if strict else "lower_bound")


@pytest.mark.parametrize(
    ("space", "takers"),
    [
        (PICTURE, {Dequantise, Quantise}),
        (Real((3,)), set()),
        (Real((3,), ragged=True, levels=4), set()),
        (TOKENS, {OneHot}),
        (Tokens(65, 64), set()),
        (TABLE, {Analog, ColumnTokens}),
        (Mixed((Field("a", Real((2,), levels=3)),)), set()),
        (Mixed((Field("a", Tokens(1, 1)),)), {ColumnTokens}),
    ],
)
def test_which_bridge_takes_which_space(space: Space, takers: set[type[Any]]) -> None:
    assert {kind for kind in ALL if kind.fits(space)} == takers
    for kind in set(ALL) - takers:
        with pytest.raises(BadInput):
            kind.learn(space, torch.zeros(2, *space.shape))


# ------------------------------------------------------------------------------------------------------- dequantise


def test_dequantise_bounds_the_probability_of_every_level() -> None:
    space = Real((1,), levels=5)
    bridge, r = Dequantise(space), rows(20_000)
    density = stats.norm(0.3, 0.4)
    total = 0.0
    for level in grid_of(space).tolist():
        x = torch.full((20_000, 1), level)
        y = bridge.there(x, r)
        bound = lifted(bridge, torch.from_numpy(density.logpdf(y[:, 0].double())), x, r)
        exact = math.log(density.cdf(level + space.step / 2) - density.cdf(level - space.step / 2))
        # E_u[log p(y)] + log step by quadrature, then the bound itself
        mean = integrate.quad(lambda u, v=level: density.logpdf(v + space.step * (u - 0.5)), 0, 1)[0]
        assert float(bound.mean()) == pytest.approx(mean + math.log(space.step), abs=4 * float(bound.std()) / 141)
        assert mean + math.log(space.step) <= exact
        total += math.exp(mean + math.log(space.step))
    assert 0.9 < total <= 1.0


def test_dequantise_loses_nothing_where_the_density_is_even_in_each_cell() -> None:
    space = Real((2,), levels=3)
    bridge, r = Dequantise(space), rows(9)
    log_p = torch.tensor([[0.1, 0.2, 0.0], [0.05, 0.25, 0.1], [0.1, 0.1, 0.1]]).double().log()
    levels = torch.tensor(list(itertools.product(range(3), range(3))))
    x = grid_of(space)[levels]
    y = bridge.there(x, r)
    cell = (y + 1.0).round().long()  # what a density that is even in each cell sees
    inside = log_p[cell[:, 0], cell[:, 1]] - 2 * math.log(space.step)
    assert torch.allclose(lifted(bridge, inside, x, r), log_p[levels[:, 0], levels[:, 1]])


# --------------------------------------------------------------------------------------------------------- quantise


def test_quantise_keeps_probabilities_exact_over_every_picture() -> None:
    space = Real((1, 2, 2), levels=6)
    levels = torch.tensor(list(itertools.product(range(6), repeat=4)))
    x = grid_of(space)[levels].reshape(-1, 1, 2, 2)
    seen = grid_of(space)[rows(300).fork("s").integers(5, 1, 2, 2)]  # level 5 is never seen
    bridge = Quantise.learn(space, seen, bins=4)
    sizes = [4] * 4
    joint = torch.log_softmax(rows(1).normal(4**4)[0].double(), 0).reshape(sizes)  # any distribution over bins
    bins = bridge.there(x, rows(len(x)))
    total = lifted(bridge, joint[tuple(bins.T)], x, rows(len(x)))
    assert float(total.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert bool(torch.isfinite(total).all())


def test_quantise_draws_levels_at_their_frequencies_in_the_bin() -> None:
    space, n = Real((1, 1, 3), levels=256), 40_000
    u = rows(n).uniform(1, 1, 3)
    x = grid_of(space)[(u**2 * 256).long().clamp(max=255)]
    bridge = Quantise.learn(space, x)
    assert bridge.target == Tokens(16, 3)
    drawn = bridge.back(torch.zeros(n, 3, dtype=torch.int64), rows(n, seed=9))
    found = torch.bincount(((drawn + 1) / space.step).round().long().flatten(), minlength=256)[:16]
    inside = lifted(bridge, torch.zeros(16), grid_of(space)[:16, None, None, None].expand(16, 1, 1, 3), rows(16))
    expected = (inside / 3).exp().numpy() * found.sum().item()
    assert found.sum() == 3 * n
    assert stats.chisquare(found.numpy(), expected).pvalue > 1e-3


def test_quantise_keeps_all_levels_of_a_coarse_grid_and_reads_pixels_in_raster_order() -> None:
    x = grid_of(PICTURE)[torch.arange(24).reshape(1, 3, 2, 4) % 17]
    bridge = Quantise.learn(PICTURE, x)
    assert bridge.target == Tokens(17, 24)
    tokens = bridge.there(x, rows(1))[0]
    assert tokens[:6].tolist() == [0, 8, 16, 1, 9, 0]  # red, green, blue of the first pixel, then of its neighbour
    assert torch.equal(bridge.back(tokens[None], rows(1)), x)


# ------------------------------------------------------------------------------------------------ analog and one-hot


def one_hot_probability(means: list[float], spread: float, k: int) -> float:
    """P(number k is the largest) of independent normals, by quadrature."""

    def density(y: float) -> float:
        below = [stats.norm.cdf(y, m, spread) for j, m in enumerate(means) if j != k]
        return float(stats.norm.pdf(y, means[k], spread) * math.prod(below))

    return float(integrate.quad(density, -12, 12)[0])


def log_normal(y: Tensor, means: Tensor, spread: float) -> Tensor:
    """(B, D) to (B,): independent normals."""
    return torch.distributions.Normal(means.double(), spread).log_prob(y.double()).sum(1)


@pytest.mark.parametrize("kind", [OneHot, Analog])
def test_a_one_hot_symbol_is_bounded_by_its_region(kind: type[OneHot] | type[Analog]) -> None:
    tokens = Tokens(3, 1)
    bridge = OneHot(tokens) if kind is OneHot else Analog(Mixed((Field("a", tokens),)))
    means, spread, n = [0.4, -0.7, -0.1], 0.8, 20_000
    for k in range(3):
        x = torch.full((n, 1), k) if kind is OneHot else torch.full((n, 1), float(k))
        y = bridge.there(x, rows(n))
        bound = lifted(bridge, log_normal(y, torch.tensor(means), spread), x, rows(n))
        assert float(bound.mean() - 4 * bound.std() / n**0.5) <= math.log(one_hot_probability(means, spread, k))


def test_bits_are_bounded_by_their_region_and_impossible_codes_go_to_the_nearest() -> None:
    space = Mixed((Field("city", Tokens(21, 1)),))
    bridge, n = Analog(space), 4000
    assert bridge.target.shape == (5,)
    means, spread = torch.tensor([0.2, -0.3, 0.5, 0.1, -0.2]), 0.9
    above = torch.from_numpy(1.0 - stats.norm.cdf(0.0, means.numpy(), spread))
    inside = torch.zeros(21, dtype=torch.float64)
    for k in range(21):
        x = torch.full((n, 1), float(k))
        y = bridge.there(x, rows(n))
        bound = lifted(bridge, log_normal(y, means, spread), x, rows(n))
        bits = torch.tensor([k >> p & 1 for p in (4, 3, 2, 1, 0)], dtype=torch.bool)
        inside[k] = torch.where(bits, above, 1.0 - above).prod()  # the orthant alone; impossible codes add to it
        assert float(bound.mean()) <= float(inside[k].log()) + 4 * float(bound.std()) / n**0.5
    assert float(inside.sum()) < 1.0
    codes = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.1], [2.0, -0.1, 3.0, 0.2, -1.0]])  # 31 and 22: no such symbol
    # 31: dropping the two strong bits of 8 and 2 or the 16 keeps most; the best score is sought among all symbols
    scores = (2.0 * torch.tensor([[k >> p & 1 for p in (4, 3, 2, 1, 0)] for k in range(21)]) - 1.0) @ codes.T
    assert bridge.back(codes, rows(2))[:, 0].tolist() == scores.argmax(0).tolist()


def test_the_bound_is_tight_where_the_density_is_even_in_each_cell() -> None:
    p = torch.tensor([0.2, 0.5, 0.3]).double()
    for bridge in (OneHot(Tokens(3, 1)), Analog(Mixed((Field("a", Tokens(3, 1)),)))):
        x = torch.arange(3)[:, None].to(torch.int64 if isinstance(bridge, OneHot) else torch.float32)
        y = bridge.there(x, rows(3))
        inside = p[y.argmax(1)].log()  # density of a cell of volume 1
        assert torch.allclose(lifted(bridge, inside, x, rows(3)), p.log())


def test_a_missing_number_costs_the_distance_of_its_density_from_the_noise() -> None:
    space = Mixed((Field("debt state", Tokens(2, 1)), Field("debt", Real((1,)), ("debt state", 0))))
    bridge, n = Analog(space), 40_000
    absent, here = torch.tensor([1.0, 0.0]).repeat(n, 1), torch.tensor([0.0, 0.7]).repeat(n, 1)
    for mean, spread in ((0.0, 1.0), (0.5, 0.8)):
        number = stats.norm(mean, spread)
        # the density that knows the answer: state bit even in its cell with P(absent) = 0.3, the number normal
        y = bridge.there(absent, rows(n))
        value = math.log(0.3) + torch.from_numpy(number.logpdf(y[:, 1].double()))
        bound = lifted(bridge, value, absent, rows(n))
        gap = math.log(spread / 1.0) + (1.0 + mean**2) / (2 * spread**2) - 0.5  # KL(noise, the model's number)
        assert float(bound.mean()) == pytest.approx(math.log(0.3) - gap, abs=4 * float(bound.std()) / n**0.5 + 1e-6)
        y = bridge.there(here, rows(n))
        value = math.log(0.7) + torch.from_numpy(number.logpdf(y[:, 1].double()))
        bound = lifted(bridge, value, here, rows(n))
        assert float(bound[0]) == pytest.approx(math.log(0.7) + number.logpdf(0.7), abs=1e-5)


def test_analog_is_small_for_large_categories_and_exact_without_symbols() -> None:
    assert Analog(Mixed((Field("zip", Tokens(10_000, 1)),))).target.shape == (14,)
    assert (
        Analog(Mixed((Field("a", Tokens(16, 2)), Field("b", Tokens(2, 1)), Field("c", Tokens(1, 1))))).target.size == 33
    )
    numbers = Analog(Mixed((Field("a", Real((2,))),)))
    log_prob = numbers.lift(LogProb(torch.ones(3), "exact"), torch.zeros(3, 2), rows(3))
    assert log_prob.kind == "exact"
    assert log_prob.value.tolist() == [1.0] * 3


# ---------------------------------------------------------------------------------------------------- column tokens


def test_column_tokens_give_one_position_to_a_number_and_its_state() -> None:
    bridge, _ = example(ColumnTokens)
    assert isinstance(bridge, ColumnTokens)
    assert bridge.names == ("debt", "debt fine", "city", "age", "age", "sex")
    assert bridge.target.sizes == (8 + 3, 8 + 1, 21, 8, 8, 2)


def test_column_tokens_keep_the_density_exact() -> None:
    """Any distribution over symbols, times the densities inside bins, sums and integrates to one."""
    space = Mixed((Field("s", Tokens(3, 1)), Field("x", Real((1,)), ("s", 2)), Field("k", Tokens(2, 1))))
    r = rows(400)
    s = r.fork("s").integers(3, 1)
    x = torch.where(s == 2, r.fork("x").normal(1).round(decimals=1), 0.0)
    data = space.join({"s": s, "x": x, "k": r.fork("k").integers(2, 1)})
    bridge = ColumnTokens.learn(space, data, bins=5, pieces=3)
    joint = torch.log_softmax(rows(1, seed=4).normal(bridge.target.sizes[0] * 2)[0].double(), 0)
    joint = joint.reshape(bridge.target.sizes)

    def log_p(event: Tensor) -> Tensor:
        tokens = bridge.there(event, rows(len(event)))
        return lifted(bridge, joint[tuple(tokens.T)], event, rows(len(event)))

    symbols = torch.tensor([[a, 0.0, k] for a in (0.0, 1.0) for k in (0.0, 1.0)])
    total = float(log_p(symbols).exp().sum())
    grid = torch.linspace(-15.0, 15.0, 600_001, dtype=torch.float64)
    for k in (0.0, 1.0):
        event = torch.stack([torch.full_like(grid, 2.0), grid, torch.full_like(grid, k)], dim=-1)
        total += float(log_p(event).exp().sum() * (grid[1] - grid[0]))
    assert total == pytest.approx(1.0, abs=1e-4)


def test_numbers_are_drawn_from_the_density_inside_their_bin() -> None:
    bins = Bins.learn(rows(500).normal()[:, None].flatten().double(), bins=4, pieces=8)
    n = 20_000
    for symbol in range(bins.count):
        drawn = bins.draw(torch.full((n,), symbol), rows(n).uniform(dtype=torch.float64))
        assert bool((bins.of(drawn) == symbol).all())
        grid = torch.linspace(-12.0, 12.0, 240_001, dtype=torch.float64)
        density = torch.where(bins.of(grid) == symbol, bins.log_density(grid).exp(), 0.0)
        cdf = (density.cumsum(0) * (grid[1] - grid[0])).numpy()
        assert cdf[-1] == pytest.approx(1.0, abs=1e-3)
        assert (
            stats.kstest(drawn.numpy(), lambda v, c=cdf: c[((v + 12.0) * 10_000).astype(int).clip(0, 240_000)]).pvalue
            > 1e-3
        )


def test_bins_hold_equally_many_rows_and_follow_values_that_repeat() -> None:
    even = Bins.learn(torch.arange(6400.0).double(), bins=64, pieces=8)
    assert even.count == 64
    assert torch.bincount(even.of(torch.arange(6400.0))).unique().tolist() == [100]
    ages = rows(5000).integers(40).double() + 20
    few = Bins.learn(ages, bins=64, pieces=8)
    assert few.count == 40  # one bin for each value
    drawn = few.draw(few.of(ages), rows(5000).fork("u").uniform(dtype=torch.float64))
    away = (drawn - ages).abs()
    assert float((away <= 0.5).double().mean()) > 0.999  # but for the tails, draws round back to the value
    mostly = torch.cat([torch.zeros(900), torch.arange(1.0, 101.0)]).double()
    spike = Bins.learn(mostly, bins=10, pieces=2)
    assert int((spike.of(mostly) == spike.of(torch.zeros(1))).sum()) in range(900, 952)


@pytest.mark.parametrize("values", [[], [2.0], [2.0, 2.0], [1.0, 1.0 + 1e-7]])
def test_bins_of_hardly_anything(values: list[float]) -> None:
    bins = Bins.learn(torch.tensor(values, dtype=torch.float64), bins=64, pieces=8)
    some = torch.tensor([-1e6, 0.0, 2.0, 1e6], dtype=torch.float64)
    assert bool(torch.isfinite(bins.log_density(some)).all())
    assert bool(torch.isfinite(bins.draw(bins.of(some), rows(4).uniform(dtype=torch.float64))).all())
