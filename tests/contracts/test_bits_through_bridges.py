"""Bits per dimension through every bridge, against quadrature: exact where it says exact, never too good elsewhere.

Each bridge of the catalogue has a case: a small source space whose events can all be visited (numbers by a
quadrature rule), a density over its target that is known in closed form, and, for a bridge that gives a bound, what
the probability of an event really is and how `there` spreads it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from pellucid import catalog
from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge, Chain
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Tokens
from pellucid.domains.bridges.analog import Analog
from pellucid.domains.bridges.column_tokens import ColumnTokens
from pellucid.domains.bridges.dequantise import Dequantise
from pellucid.domains.bridges.one_hot import OneHot
from pellucid.domains.bridges.quantise import Quantise

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Case:
    """A bridge and what is known about it.

    x: (N, *event), every event or the nodes of a quadrature rule over them. weight: (N,) of that rule.
    log_p: log-probability over the target, y to (B,).
    truth: (N,) log-probability of x when y follows log_p and `back` reads it; None for exact bridges.
    spread: for bounds, (y, x) to (B,): log q(y | x), how `there` spreads an event.
    """

    bridge: Bridge
    x: Tensor
    weight: Tensor
    log_p: Callable[[Tensor], Tensor]
    truth: Tensor | None = None
    spread: Callable[[Tensor, Tensor], Tensor] | None = None


class Bells:
    """Independent Gaussians, one for each of D numbers."""

    def __init__(self, size: int) -> None:
        self.mean = torch.linspace(-0.7, 0.9, size, dtype=torch.float64)
        self.spread = torch.linspace(1.3, 0.6, size, dtype=torch.float64)

    def __call__(self, y: Tensor) -> Tensor:
        z = (y.double().flatten(1) - self.mean) / self.spread
        return (-0.5 * z.square() - self.spread.log() - HALF_LOG_2PI).sum(1)

    def between(self, at: int, low: float, high: float) -> float:
        """P(low < y_at < high)."""
        bell = stats.norm(float(self.mean[at]), float(self.spread[at]))
        return float(bell.cdf(high) - bell.cdf(low))

    def largest(self, at: int, among: range) -> float:
        """P(y_at is the largest among these)."""
        bells = {k: stats.norm(float(self.mean[k]), float(self.spread[k])) for k in among}

        def chance(y: float) -> float:
            return float(bells[at].pdf(y) * math.prod(bells[k].cdf(y) for k in among if k != at))

        return float(integrate.quad(chance, -12, 12, epsabs=1e-11)[0])


def table(space: Tokens) -> Callable[[Tensor], Tensor]:
    """A probability for each event of a small Tokens space."""
    log_p = Rows(11, torch.tensor([0])).normal(math.prod(space.sizes), dtype=torch.float64)[0].log_softmax(0)
    return lambda y: log_p.reshape(space.sizes)[tuple(y.unbind(1))]


def every(*choices: tuple[float, ...]) -> Tensor:
    return torch.tensor(list(itertools.product(*choices)), dtype=torch.float64)


def log(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def dequantise() -> Case:
    """Four levels of two numbers; the outermost levels are read from all that lies beyond them."""
    bells, levels = Bells(2), (-1.5, -0.5, 0.5, 1.5)
    x = every(levels, levels)

    def region(v: float) -> tuple[float, float]:
        return (v - 0.5 if v > -1.5 else -math.inf, v + 0.5 if v < 1.5 else math.inf)

    truth = log([math.prod(bells.between(d, *region(v)) for d, v in enumerate(row)) for row in x.tolist()])
    bridge = Dequantise(Real((2,), levels=4, low=-1.5, high=1.5))
    return Case(bridge, x, torch.ones(len(x)), bells, truth, lambda y, x: torch.zeros(len(x)))


def quantise() -> Case:
    """Six levels of a picture of 1 x 2 pixels in two channels, in four bins of unlike sizes and frequencies."""
    bridge = Quantise(Real((2, 1, 2), levels=6, low=0.0, high=5.0), 4, torch.tensor([9.0, 0, 3, 1, 1, 40]).double())
    x = every(*[tuple(map(float, range(6)))] * 4).reshape(-1, 2, 1, 2)
    return Case(bridge, x, torch.ones(len(x)), table(bridge.target))


def one_hot() -> Case:
    """Alphabets of three and of four symbols: each number is spread over a cell of volume 1."""
    bells, x = Bells(7), every((0, 1, 2), (0, 1, 2, 3)).long()
    truth = log([bells.largest(a, range(3)) * bells.largest(3 + b, range(3, 7)) for a, b in x.tolist()])
    return Case(OneHot(Tokens((3, 4), 2)), x, torch.ones(len(x)), bells, truth, lambda y, x: torch.zeros(len(x)))


NODES = np.linspace(-9.0, 9.0, 73)  # the trapezoidal rule is exact to rounding for a Gaussian at this step


def analog() -> Case:
    """A kind in one-hot, a code of five symbols in bits, and a number that exists only where a flag is set."""
    fields = (
        Field("kind", Tokens(3, 1)),
        Field("size", Real((1,)), present=("flag", 1)),
        Field("flag", Tokens(2, 1)),
        Field("code", Tokens(5, 1)),
    )
    bridge, bells, rows = Analog(Mixed(fields), one_hot=4), Bells(3 + 1 + 1 + 3), []
    for kind, flag, code in itertools.product(range(3), range(2), range(5)):
        chance = bells.largest(kind, range(3)) * bells.between(4, *((0.0, math.inf) if flag else (-math.inf, 0.0)))
        for place, digit in enumerate(f"{code:03b}"):  # codes that no symbol has make the truth larger still
            chance *= bells.between(5 + place, *((0.0, math.inf) if digit == "1" else (-math.inf, 0.0)))
        sizes = NODES if flag else [0.0]
        for size in sizes:
            density = stats.norm.pdf(size, bells.mean[3], bells.spread[3]) if flag else 1.0
            rows.append((kind, size, flag, code, 0.25 if flag else 1.0, math.log(chance * density)))
    found = torch.tensor(rows, dtype=torch.float64)

    def spread(y: Tensor, x: Tensor) -> Tensor:
        return torch.where(x[:, 2] == 1, 0.0, -0.5 * y[:, 3].square() - HALF_LOG_2PI)

    return Case(bridge, found[:, :4], found[:, 4], bells, found[:, 5], spread)


def column_tokens() -> Case:
    """Two numbers, one of which may be absent in two ways; inside their bins they are even, beyond them exponential."""
    fields = (
        Field("size", Real((1,)), present=("state", 1)),
        Field("state", Tokens(3, 1)),
        Field("weight", Real((1,))),
        Field("kind", Tokens(2, 1)),
    )
    space, n = Mixed(fields), 60
    draw = Rows(13, torch.arange(n))
    state = draw.integers(3, 1)
    seen = {"size": torch.where(state == 1, draw.normal(1).double().round(decimals=1), 0.0), "state": state}
    seen |= {"weight": draw.fork("weight").normal(1).double().exp(), "kind": draw.fork("kind").integers(2, 1)}
    bridge = ColumnTokens.learn(space, space.join(seen), bins=3, pieces=2)
    numbers = [piecewise_rule(bridge.tensors()[f"{k}.cuts"].tolist()) for k in range(2)]
    rows = []
    for state_, kind in itertools.product(range(3), range(2)):
        for (size, w), (weight, v) in itertools.product(numbers[0] if state_ == 1 else [(0.0, 1.0)], numbers[1]):
            rows.append((size, state_, weight, kind, w * v))
    found = torch.tensor(rows, dtype=torch.float64)
    return Case(bridge, found[:, :4], found[:, 4], table(bridge.target))


def piecewise_rule(cuts: list[float]) -> list[tuple[float, float]]:
    """(node, weight) of a rule that is exact for constants between cuts and for exponential tails beyond them."""
    pieces = [((a + b) / 2, b - a) for a, b in itertools.pairwise(cuts)]
    at, weight = np.polynomial.laguerre.laggauss(12)
    scale = (cuts[-1] - cuts[0]) / 16  # any scale would do; this one makes the rule exact
    tails = [(s, w * math.exp(s)) for s, w in zip(at, weight, strict=True)]
    below = [(cuts[0] - scale * s, scale * w) for s, w in tails]
    return [*below, *pieces, *[(cuts[-1] + scale * s, scale * w) for s, w in tails]]


CASES: dict[str, Callable[[], Case]] = {
    "dequantise": dequantise,
    "quantise": quantise,
    "analog": analog,
    "column_tokens": column_tokens,
    "one_hot": one_hot,
}
BUILT = {name: make() for name, make in CASES.items()}
EXACT = [name for name, case in BUILT.items() if case.truth is None]
BOUNDS = [name for name, case in BUILT.items() if case.truth is not None]
DRAWS = 300


def lifted(case: Case, log_p: Callable[[Tensor], Tensor], draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(N, draws) values of `lift`, and the y (N * draws, ...) at which they were taken."""
    x = case.x.repeat_interleave(draws, 0)
    rows = Rows(seed, torch.arange(len(x)))
    y = case.bridge.there(x, rows)
    found = case.bridge.lift(LogProb(log_p(y), "exact"), x, rows)
    assert found.kind == ("exact" if case.truth is None else "lower_bound")
    return found.value.reshape(len(case.x), draws), y


def test_every_bridge_of_the_catalogue_has_a_case() -> None:
    assert CASES.keys() == catalog.BRIDGES.keys()
    for name, case in BUILT.items():
        assert type(case.bridge) is catalog.bridge_class(name)


@pytest.mark.parametrize("name", CASES)
def test_back_undoes_there(name: str) -> None:
    case = BUILT[name]
    rows = Rows(1, torch.arange(len(case.x)))
    y = case.bridge.there(case.x, rows)
    assert y.shape == (len(case.x), *case.bridge.target.shape)
    if name != "column_tokens" and name != "quantise":  # these two draw inside a bin
        assert torch.allclose(case.bridge.back(y, rows).double(), case.x.double(), atol=1e-6)
    again = case.bridge.there(case.bridge.back(y, rows), rows)
    assert torch.allclose(again.double(), y.double(), atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_bridge_splits_each_probability_among_what_leads_to_it(name: str) -> None:
    """The mass of all x that lead to y is P(y), for every y that something leads to; so all of it sums to one."""
    case = BUILT[name]
    values, y = lifted(case, case.log_p, 1)
    mass = case.weight * values[:, 0].exp()
    leads, place = y.unique(dim=0, return_inverse=True)
    split = torch.zeros(len(leads), dtype=torch.float64).index_add_(0, place, mass)
    assert torch.allclose(split, case.log_p(leads).exp(), rtol=1e-5, atol=1e-12)
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_never_too_good(name: str) -> None:
    case = BUILT[name]
    assert case.truth is not None
    values, _ = lifted(case, case.log_p, DRAWS)
    error = values.std(1) / math.sqrt(DRAWS)
    assert (values.mean(1) <= case.truth + 5 * error).all()
    total = (case.weight * case.truth.exp()).sum().item()
    assert total <= 1.0 + 1e-6
    assert total == pytest.approx(1.0, abs=1e-5) or name == "analog", "the truth of this case does not sum to one"


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_tight_for_a_density_that_is_spread_as_the_bridge_spreads(name: str) -> None:
    case = BUILT[name]
    assert case.spread is not None
    share = Rows(12, torch.arange(len(case.x))).normal(dtype=torch.float64)
    many = share.repeat_interleave(3), case.x.repeat_interleave(3, 0)
    values, _ = lifted(case, lambda y: many[0] + case.spread(y, many[1]), 3)  # type: ignore[misc]
    assert torch.allclose(values, share[:, None].expand(-1, 3), atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_no_bridge_makes_a_number_better_than_it_was(name: str) -> None:
    case = BUILT[name]
    rows = Rows(1, torch.arange(len(case.x)))
    value, error = torch.zeros(len(case.x)), torch.ones(len(case.x))
    assert case.bridge.lift(LogProb(value, "lower_bound"), case.x, rows).kind == "lower_bound"
    estimate = case.bridge.lift(LogProb(value, "estimate", error), case.x, rows)
    assert estimate.kind == "estimate"
    assert estimate.error is not None
    assert torch.equal(estimate.error, error)


@pytest.mark.parametrize("name", CASES)
def test_a_stored_bridge_gives_the_same_numbers(name: str) -> None:
    case = BUILT[name]
    kind: Any = type(case.bridge)
    again: Bridge = kind.from_plain(json.loads(json.dumps(case.bridge.plain())), case.bridge.tensors())
    assert (again.source, again.target) == (case.bridge.source, case.bridge.target)
    copy = Case(again, case.x, case.weight, case.log_p, case.truth, case.spread)
    for one, other in zip(lifted(case, case.log_p, 2), lifted(copy, case.log_p, 2), strict=True):
        assert torch.equal(one, other)


def test_bridges_one_after_the_other_add_up() -> None:
    """Levels to bins to one-hot numbers: for a density that is even on each code's cell the bound is no loss."""
    first = BUILT["quantise"].bridge
    assert isinstance(first, Quantise)
    chain, x = Chain(first, OneHot(first.target)), BUILT["quantise"].x
    rows, log_p = Rows(3, torch.arange(len(x))), table(first.target)
    y = chain.there(x, rows)
    symbols = y.reshape(len(x), first.target.length, -1).argmax(-1)
    found = chain.lift(LogProb(log_p(symbols), "exact"), x, rows)
    assert found.kind == "lower_bound"
    assert found.value.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    again = chain.back(y, rows)
    assert torch.equal(first.there(again, rows), first.there(x, rows))
