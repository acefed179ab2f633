"""Spline flow: couplings that bend each number by a smooth rising curve, where RealNVP can only stretch and shift it.

The curve goes through K + 1 knots (x_k, y_k) from (-B, -B) to (B, B) with slopes delta_k that the network chooses, a
quotient of two quadratics between each two knots, and is the straight line y = x outside. Curve, inverse and slope
have closed forms:

    xi = (x - x_k) / (x_(k+1) - x_k),   s_k = (y_(k+1) - y_k) / (x_(k+1) - x_k)
    y = y_k + (y_(k+1) - y_k) [s_k xi^2 + delta_k xi (1 - xi)] / [s_k + (delta_(k+1) + delta_k - 2 s_k) xi (1 - xi)]

Durkan et al. 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032, eq. 4 (the curve), 5 (its slope), 6 to 8
(its inverse), section 3.1; the coupling layout of its RQ-NSF (C), with `keeps` in place of its mixing layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pellucid.core.capabilities import Part
from pellucid.core.errors import BadInput
from pellucid.core.space import Real
from pellucid.families.coupling import Bend, squeezed_chain
from pellucid.families.reversible import FlowEngine, FlowFamily, Step

__all__ = ["Knots", "Spline", "SplineFlow", "SplineFlowEngine"]

SMALLEST = 1e-3  # width or height of a bin as a share of all, and slope at a knot (the paper's own code has the same)
MOST_BINS = 128


@dataclass(frozen=True, kw_only=True)
class SplineFlow(FlowFamily):
    """Settings of a spline flow: those of `FlowFamily`, and:

    Args:
        bins: K, pieces of each curve.
        bound: B, the curve bends numbers from -B to B, in spreads of the data; others pass as they are.
    """

    name: ClassVar[str] = "spline_flow"
    title: ClassVar[str] = "neural spline flow"

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.bins <= MOST_BINS:
            raise BadInput(f"bins is {self.bins}", accepted=f"from 2 to {MOST_BINS}")
        if not 0.0 < self.bound < math.inf:
            raise BadInput(f"bound is {self.bound}", accepted="more than 0, and finite")

    def parts(self) -> tuple[Part, ...]:
        source = "Durkan et al. 2019, https://arxiv.org/abs/1906.04032"
        return (
            Part("coupling", "Keeps one half of the numbers and uses it to choose a curve for each number of the other "
                 "half. The kept half is still there afterwards, so the step can be undone exactly.",
                 "y_move = curve(x_move; net(x_keep))", source + ", section 2.1, eq. 3"),
            Part("curve", "Each curve rises smoothly through its knots, with the slopes that the network gave it, and "
                 "so can pull apart what lies together and make several humps of one.",
                 "y = y_k + h_k [s xi^2 + d_k xi (1 - xi)] / [s + (d_(k+1) + d_k - 2 s) xi (1 - xi)]",
                 source + ", eq. 4"),
            Part("chain", "Many couplings in a row, each keeping another half, bend the cloud of data until it is a "
                 "round Gaussian cloud.", "z = f_K(... f_1(x))", source + ", section 2"),
            *self.exact(),
        )  # fmt: skip


class SplineFlowEngine(FlowEngine):
    """Spline couplings over squeezed pictures, then over all numbers as one row, if those are few."""

    def laid_out(self, family: FlowFamily, space: Real, steer: int) -> Iterator[Step]:
        assert isinstance(family, SplineFlow)
        return squeezed_chain(family, space, steer, lambda moved: Spline(family.bins, family.bound))


class Knots(NamedTuple):
    """Both ends of the piece that each number lies in, all (G, N): x_k, y_k, delta_k and those of k + 1."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    d0: Tensor
    d1: Tensor


class Spline(Bend):
    """Rational-quadratic curves with linear tails, one a number.

    Of the network's 3K - 1 numbers for a curve the first K give widths, the next K heights, the last the slopes at
    inner knots. Zeros give the straight line y = x.

    Args:
        bins: K. bound: B.
    """

    by_column = True
    sums: Tensor
    start: Tensor

    def __init__(self, bins: int, bound: float) -> None:
        super().__init__()
        self.bins, self.bound, self.needs = bins, bound, 3 * bins - 1
        # knots = start + sums @ shares: a product with a triangle (K + 1, K) sums from the left quicker than cumsum
        spare = 1.0 - SMALLEST * bins  # what is left to share out when each bin has its least
        wide = torch.float64  # so that the last knot is at B in any precision that is asked for
        sums = 2 * bound * spare * torch.ones(bins + 1, bins, dtype=wide).tril(-1)
        self.register_buffer("sums", sums, persistent=False)
        start = -bound + 2 * bound * SMALLEST * torch.arange(bins + 1, dtype=wide)
        self.register_buffer("start", start, persistent=False)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        flat, inside, table = self._laid_out(x, raw)
        y, slope = rational_quadratic(inside, _piece(table, inside, 0))
        y, log_slope = y + (flat - inside), slope.log()
        if x.ndim == 2:
            return y.reshape(x.shape[::-1]).t(), log_slope.reshape(x.shape[::-1]).sum(0)
        return y.reshape(x.shape), log_slope.sum(1)

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        flat, inside, table = self._laid_out(y, raw)
        x = inverse_rational_quadratic(inside, _piece(table, inside, 1)) + (flat - inside)
        return x.reshape(y.shape[::-1]).t() if y.ndim == 2 else x.reshape(y.shape)

    def _laid_out(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers (G, N), the nearest to each from -B to B, and their knots (G, 3, K + 1, N): x, y, slopes.

        A number outside passes as its nearest, and what it lies beyond is put back on: the slope is 1 out there.
        Rows (B, C) become one group of C * B numbers, pictures stay apart: what is computed for all curves at once
        then lies together in memory.
        """
        if x.ndim == 2:
            flat, told = x.t().reshape(1, -1), raw.t().reshape(1, self.needs, -1)
        else:
            flat, told = x.flatten(1), raw.reshape(raw.shape[0], self.needs, -1)
        return flat, flat.clamp(-self.bound, self.bound), self._table(told)

    def _table(self, told: Tensor) -> Tensor:
        """(G, 3K - 1, N) to knots (G, 3, K + 1, N)."""
        groups, _, count = told.shape
        shares = told[:, : 2 * self.bins].reshape(groups, 2, self.bins, count).softmax(2)
        knots = torch.matmul(self.sums.to(told.dtype), shares) + self.start.to(told.dtype)[:, None]
        slopes = SMALLEST + softplus(told[:, 2 * self.bins :] + _at_one())
        end = torch.ones_like(slopes[:, :1])
        return torch.cat((knots, torch.cat((end, slopes, end), dim=1)[:, None]), dim=1)


def rational_quadratic(x: Tensor, at: Knots) -> tuple[Tensor, Tensor]:
    """y and dy / dx for x (G, N) inside its piece.

    Durkan et al. 2019, https://arxiv.org/abs/1906.04032, eq. 4 and 5.

    >>> one = torch.ones(1, 1)
    >>> rational_quadratic(one / 4, Knots(0 * one, one, 0 * one, one, one, one))
    (tensor([[0.2500]]), tensor([[1.]]))
    """
    width, height = at.x1 - at.x0, at.y1 - at.y0
    s, xi = height / width, (x - at.x0) / width
    rest = 1.0 - xi
    both = xi * rest
    below = s + (at.d1 + at.d0 - 2.0 * s) * both
    above = s * xi.square() + at.d0 * both
    slope = s.square() * (at.d1 * xi.square() + 2.0 * s * both + at.d0 * rest.square()) / below.square()
    return at.y0 + height * above / below, slope


def inverse_rational_quadratic(y: Tensor, at: Knots) -> Tensor:
    """x (G, N) of y inside its piece: xi is the root of a xi^2 + b xi + c = 0 that lies between 0 and 1.

    Durkan et al. 2019, https://arxiv.org/abs/1906.04032, eq. 6 to 8, with the root written so that nothing cancels.
    """
    width, height = at.x1 - at.x0, at.y1 - at.y0
    s, above = height / width, y - at.y0
    bent = above * (at.d1 + at.d0 - 2.0 * s)
    a = height * (s - at.d0) + bent
    b = height * at.d0 - bent
    c = -s * above
    xi = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp_min(0.0).sqrt())
    return at.x0 + xi * width


def _piece(table: Tensor, value: Tensor, row: int) -> Knots:
    """The piece of each value (G, N), found in the table's row 0 (x) or 1 (y): one search and one gather for all."""
    bins = table.shape[2] - 1
    k = (value[:, None] >= table[:, row, 1:bins]).sum(1)  # as many inner knots lie to the left: (G, N)
    ends = torch.stack((k, k + 1), dim=1)[:, None].expand(-1, 3, -1, -1)
    (x0, x1), (y0, y1), (d0, d1) = (row.unbind(1) for row in table.gather(2, ends).unbind(1))
    return Knots(x0, x1, y0, y1, d0, d1)


@functools.cache
def _at_one() -> float:
    """Where softplus is 1 - SMALLEST, so that a network's zero means slope 1."""
    return math.log(math.expm1(1.0 - SMALLEST))


SplineFlow.engine = SplineFlowEngine
