"""Nearest neighbours in blocks: no matrix of all distances is ever held, so 10,000 x 10,000 is fine.

Points have numbers and symbols; the squared distance adds squared differences of numbers and counts symbols that
differ (what one-hot vectors divided by sqrt(2) give, without 10,000 columns for 10,000 values). In float64, so that
identical whole numbers are at distance exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Near", "Pairs", "Points", "nearest", "within"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

BLOCK = 2**22  # distances held at once: 32 MB
SAME = 1e-12  # squared distances below this part of the squared lengths are rounding


@dataclass(frozen=True, eq=False)
class Points:
    """N points.

    numbers: (N, D) finite float64. symbols: (N, K) whole numbers, compared for being equal only.
    """

    numbers: Floats
    symbols: Whole = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if not self.symbols.size:
            object.__setattr__(self, "symbols", np.zeros((len(self.numbers), 0), np.int64))

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: Whole | slice) -> Points:
        """Some of the points."""
        return Points(self.numbers[index], self.symbols[index])


class Near(NamedTuple):
    """The k nearest of other points, nearest first: squared distances (N, k) and positions (N, k)."""

    squared: Floats
    places: Whole


class Pairs(NamedTuple):
    """Pairs of a point and another, with their squared distance; each (P,)."""

    point: Whole
    other: Whole
    squared: Floats


def nearest(points: Points, others: Points, k: int, *, themselves: bool = False) -> Near:
    """The k nearest of `others` (M of them, k <= M) for each point.

    Args:
        themselves: points and others are the same; a point is then not its own neighbour (k < M).

    >>> line = Points(np.array([[0.0], [1.0], [3.0]]))
    >>> nearest(line, line, 1, themselves=True).places.ravel().tolist()
    [1, 0, 1]
    """
    squared, places = np.empty((len(points), k)), np.empty((len(points), k), np.int64)
    for start, block in _blocks(points, others):
        rows = np.arange(len(block))
        if themselves:
            block[rows, start + rows] = np.inf
        found = np.argpartition(block, min(k, block.shape[1]) - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(block, found, axis=1), axis=1, kind="stable")
        found = np.take_along_axis(found, order, axis=1)
        places[start : start + len(block)] = found
        squared[start : start + len(block)] = np.take_along_axis(block, found, axis=1)
    return Near(squared, places)


def within(points: Points, others: Points, limit: Floats, own: Floats | None = None) -> Iterator[Pairs]:
    """Blocks of the pairs that are no further apart than limit (M,) of the other point, or `own` (N,) of the point."""
    for start, block in _blocks(points, others):
        close = block <= limit
        if own is not None:
            close |= block <= own[start : start + len(block), None]
        i, j = np.nonzero(close)
        yield Pairs(i + start, j, block[i, j])


def _blocks(points: Points, others: Points) -> Iterator[tuple[int, Floats]]:
    """(first row, squared distances (b, M)) over all points."""
    centre = others.numbers.mean(0) if (others.numbers % 1).any() else 0.0  # whole numbers stay whole, so exact
    here, there = points.numbers - centre, others.numbers - centre
    lengths_here, lengths_there = (here * here).sum(1), (there * there).sum(1)
    rows = max(1, BLOCK // max(1, len(others)))
    for start in range(0, len(points), rows):
        some = slice(start, min(start + rows, len(points)))
        sums = lengths_here[some, None] + lengths_there
        block = sums - 2 * here[some] @ there.T
        block[block < SAME * sums] = 0.0
        for column in range(points.symbols.shape[1]):
            block += points.symbols[some, column, None] != others.symbols[:, column]
        yield start, block
