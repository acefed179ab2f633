"""A column's own ruler: a strictly increasing map from its values to standard normal scores, and back.

With F the column's distribution function, drawn as straight lines between knots, and Phi that of the standard
normal, a value v gets the score z = Phi^-1(F(v)): long tails, lumps and units disappear, order stays. Beyond the
knots the score goes on in a straight line, so that every value has a score and every score a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pellucid.core.errors import BadInput

__all__ = ["Floats", "Scale"]

Floats = NDArray[np.floating[Any]]

ROWS_PER_KNOT = 50  # with fewer rows between two knots the map would follow single rows
FEWEST_KNOTS = 8
LOG_ROOT_TAU = 0.5 * float(np.log(2.0 * np.pi))
# Where float32 changes its spacing; half of it is 2^(exponent - 24).
BINADES = 2.0 ** np.arange(-6.0, 4.0)


@dataclass(frozen=True, eq=False)
class Scale:
    """Knots of the distribution function; everything is worked out in float64.

    Args:
        knots: (K,) values, strictly increasing, K >= 2.
        shares: (K,) the distribution function at the knots, strictly increasing inside (0, 1).

    >>> scale = Scale.learn(np.arange(101.0))
    >>> scale.scores(np.array([50.0]))
    array([0.])
    >>> bool(np.allclose(scale.values(scale.scores(np.array([-7.0, 3.5, 99.0]))), [-7.0, 3.5, 99.0]))
    True
    """

    knots: NDArray[np.float64]
    shares: NDArray[np.float64]
    z: NDArray[np.float64] = field(init=False, repr=False)  # (K,) scores of the knots

    def __post_init__(self) -> None:
        knots, shares = self.knots, self.shares
        rising = knots.ndim == 1 and knots.shape == shares.shape and len(knots) >= 2
        rising = rising and bool((np.diff(knots) > 0).all() and (np.diff(shares) > 0).all())
        if not rising or not 0.0 < shares[0] < shares[-1] < 1.0:
            raise BadInput(
                f"a scale has knots of shape {knots.shape} and shares of shape {shares.shape}",
                accepted="two knots or more, values and shares strictly increasing, shares between 0 and 1",
            )
        object.__setattr__(self, "z", ndtri(shares))

    @classmethod
    def learn(cls, values: Floats, knots: int = 256, straight: float = 0.0) -> Scale:
        """The scale of these values (N,), of which at least two differ.

        Args:
            knots: at most so many; half of them lie evenly in the share of rows, half evenly in the score, which
                follows the tails; one knot needs 50 rows.
            straight: this much of the distribution function is a straight line from the lowest to the highest
                value. A little of it keeps wide gaps between values readable in float32.
        """
        unique, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
        if len(unique) < 2:
            raise BadInput(f"a scale got {len(unique)} different values", accepted="two or more")
        # the middle of each value's own rows, so that an atom sits at its mean rank
        middle = (np.cumsum(counts) - 0.5 * counts) / counts.sum()
        most = min(knots, max(FEWEST_KNOTS, len(values) // ROWS_PER_KNOT))
        if len(unique) > most:
            even = np.linspace(middle[0], middle[-1], most - most // 2)
            tails = ndtr(np.linspace(ndtri(middle[0]), ndtri(middle[-1]), most // 2 + 2)[1:-1])
            at = np.searchsorted(middle, np.concatenate([even, tails])).clip(0, len(unique) - 1)
            at = np.unique(np.concatenate([at, [0, len(unique) - 1]]))
            unique, middle = unique[at], middle[at]
        line = middle[0] + (middle[-1] - middle[0]) * (unique - unique[0]) / (unique[-1] - unique[0])
        return cls(unique, (1.0 - straight) * middle + straight * line)

    def scores(self, values: Floats) -> NDArray[np.float64]:
        """z of each value, any shape."""
        values = np.asarray(values, dtype=np.float64)
        inside = ndtri(np.interp(values, self.knots, self.shares))
        slopes = self._end_slopes()
        below = self.z[0] + (values - self.knots[0]) * slopes[0]
        above = self.z[-1] + (values - self.knots[-1]) * slopes[1]
        out = np.where(values < self.knots[0], below, np.where(values > self.knots[-1], above, inside))
        return np.asarray(out, dtype=np.float64)

    def values(self, scores: Floats) -> NDArray[np.float64]:
        """The inverse of `scores`."""
        scores = np.asarray(scores, dtype=np.float64)
        inside = np.interp(ndtr(scores), self.shares, self.knots)
        slopes = self._end_slopes()
        below = self.knots[0] + (scores - self.z[0]) / slopes[0]
        above = self.knots[-1] + (scores - self.z[-1]) / slopes[1]
        out = np.where(scores < self.z[0], below, np.where(scores > self.z[-1], above, inside))
        return np.asarray(out, dtype=np.float64)

    def log_slope(self, scores: Floats) -> NDArray[np.float64]:
        """log dz/dv at each score: log F'(v) - log phi(z), and the slope of the end knot beyond the knots."""
        held = np.clip(np.asarray(scores, dtype=np.float64), self.z[0], self.z[-1])
        density = np.log(np.diff(self.shares)) - np.log(np.diff(self.knots))  # (K - 1,)
        segment = np.searchsorted(self.z, held, side="right").clip(1, len(self.knots) - 1) - 1
        return np.asarray(density[segment] + 0.5 * held**2 + LOG_ROOT_TAU, dtype=np.float64)

    def coarseness(self) -> float:
        """Largest error of a value between the knots whose score was stored in float32.

        Half a float32 step of z times dv/dz = phi(z) / F'(v). Inside one power of two that falls as |z| grows, so
        its largest value is at a segment's end nearest to 0 or at a power of two inside the segment.
        """
        z, away = self.z, np.abs(self.z)
        near, far = np.minimum(away[:-1], away[1:]), np.maximum(away[:-1], away[1:])
        near = np.where((z[:-1] < 0) & (z[1:] > 0), 0.0, near)  # a segment across 0 holds every small |z|
        inside = (near[:, None] < BINADES) & (far[:, None] >= BINADES)
        worst = np.maximum(_lost(near), np.where(inside, _lost(BINADES), 0.0).max(axis=1))
        return float((worst * np.diff(self.knots) / np.diff(self.shares)).max())

    def _end_slopes(self) -> tuple[float, float]:
        """dz/dv at the lowest and at the highest knot."""
        first, last = np.exp(self.log_slope(self.z[[0, -1]]))
        return float(first), float(last)


def _lost(z: Floats) -> NDArray[np.float64]:
    """Half a float32 step at z times the normal density there."""
    half = 2.0 ** (np.floor(np.log2(np.maximum(z, BINADES[0] / 2.0))) - 24.0)
    return np.asarray(half * np.exp(-0.5 * z**2 - LOG_ROOT_TAU), dtype=np.float64)
