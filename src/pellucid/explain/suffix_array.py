"""Every place of a long row of symbols where a run of symbols stands, found in a sorted list of its endings.

The suffix array lists where each ending of the text starts, in the order of the endings; a run of symbols then is one
stretch of the list, found by halving (Manber & Myers 1993, https://doi.org/10.1137/0222058, section 2). It is built by
prefix doubling: endings are sorted by their first symbols, as many as fit in one 64-bit number, then twice as many,
and only those that still stand beside an equal one go on (Larsson & Sadakane 2007,
https://doi.org/10.1016/j.tcs.2007.07.017, section 3). All work is done on whole arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput

__all__ = ["Found", "SuffixArray"]

Whole = NDArray[np.int64]
WIDTH, WIDEST = 8, 128  # symbols compared at once: first, and after some that were all equal


@dataclass(frozen=True, eq=False)
class Found:
    """Where in the sorted endings each run of symbols stands.

    low, high: (M,) the stretch of the list, high not included; empty where the run does not occur.
    length: (M,) longest beginning of the run that occurs anywhere; place: (M,) one place where that beginning stands.
    """

    low: Whole
    high: Whole
    length: Whole
    place: Whole

    @property
    def count(self) -> Whole:
        """(M,) how often each whole run occurs."""
        return self.high - self.low


@dataclass(frozen=True, eq=False)
class SuffixArray:
    """The endings of one text in order.

    Args:
        text: (n,) symbols from 0 on. order: (n,) int32 or int64, where each ending starts, smallest ending first.
        symbols: (S,) those that occur, rising. first: (S + 1,) place in the order from which endings begin with each.

    >>> index = SuffixArray.of(np.array([1, 2, 0, 1, 2]))
    >>> index.order.tolist()
    [2, 3, 0, 4, 1]
    >>> index.longest(np.array([2, 0, 1, 3])).tolist()
    [3, 2, 1, 0]
    """

    text: NDArray[np.int32]
    order: NDArray[Any]
    symbols: Whole
    first: Whole

    @classmethod
    def of(cls, symbols: NDArray[Any]) -> SuffixArray:
        """Sort the endings of symbols (n,), whole numbers from 0 to 2^31 - 2."""
        text = np.asarray(symbols)
        if text.ndim != 1 or not np.issubdtype(text.dtype, np.integer):
            raise BadInput(f"symbols are {text.dtype} of shape {text.shape}", accepted="whole numbers of shape (n,)")
        if len(text) and (int(text.min()) < 0 or int(text.max()) > 2**31 - 2):
            raise BadInput(f"symbols run from {text.min()} to {text.max()}", accepted="from 0 to 2^31 - 2")
        text = text.astype(np.int32)
        symbols, counts = np.unique(text, return_counts=True)
        return cls(text, _sorted_endings(text), symbols.astype(np.int64), np.concatenate(([0], np.cumsum(counts))))

    def __len__(self) -> int:
        return len(self.text)

    def find(self, query: NDArray[Any], length: int | Whole | None = None, starts: Whole | None = None) -> Found:
        """Look up every ending of the query, or every run of so many symbols in it.

        Args:
            query: (m,) symbols; those below 0 stand for symbols that the text does not have.
            length: of the runs, M = m - length + 1 of them. None: each ending to its last symbol, M = m.
            starts: (M,) where the runs begin, if not everywhere; `length` is then (M,) too.
        """
        m = len(query)
        asked = np.asarray(query, dtype=np.int64)
        if starts is None:
            starts = np.arange(m if length is None else max(0, m - int(length) + 1))
        lengths = m - starts if length is None else np.broadcast_to(np.asarray(length, dtype=np.int64), starts.shape)
        low, below = self._halve(asked, starts, lengths, after=False)
        high, above = self._halve(asked, starts, lengths, after=True)
        best = np.maximum(below[0], above[0])
        place = np.where(above[0] > below[0], above[1], below[1])
        return Found(low, high, best, place)

    def longest(self, query: NDArray[Any]) -> Whole:
        """(m,) for each place of the query, the longest run from there on that occurs in the text."""
        asked = np.asarray(query, dtype=np.int64)
        starts = np.arange(len(asked))
        return self._halve(asked, starts, len(asked) - starts, after=False)[1][0]

    def counts(self, query: NDArray[Any]) -> Whole:
        """(m,) how often each single symbol occurs."""
        low, high = self._bucket(np.asarray(query, dtype=np.int64))
        return high - low

    def _bucket(self, symbol: Whole) -> tuple[Whole, Whole]:
        """Stretch of the list of endings that begin with each symbol (M,)."""
        if not len(self.symbols):
            return np.zeros_like(symbol), np.zeros_like(symbol)
        at = np.searchsorted(self.symbols, symbol)
        known = self.symbols[np.minimum(at, len(self.symbols) - 1)] == symbol
        return self.first[at], np.where(known, self.first[np.minimum(at + 1, len(self.symbols))], self.first[at])

    def places(self, low: int, high: int, most: int) -> Whole:
        """Starts in the text of one stretch of the list, the first ones in the text if there are more than `most`."""
        found = np.asarray(self.order[low:high], dtype=np.int64)
        return np.sort(found if len(found) <= most else np.partition(found, most - 1)[:most])

    def _halve(self, query: Whole, starts: Whole, lengths: Whole, after: bool) -> tuple[Whole, tuple[Whole, Whole]]:
        """First ending that is not smaller than each run (`after`: that is larger and does not begin with it).

        Also the longest beginning in common with any ending met on the way, and that ending's place; the neighbours
        of the run in the sorted list are always met, and no other ending has more in common with it.
        """
        low, high = self._bucket(query[starts])
        low_common, high_common = np.ones_like(low), np.ones_like(low)  # all between begin with the run's first symbol
        best, place = np.zeros_like(low), np.zeros_like(low)
        active = np.flatnonzero(low < high)
        while len(active):
            middle = (low[active] + high[active]) // 2
            there = np.asarray(self.order[middle], dtype=np.int64)
            # both neighbours begin with so many symbols of the run, and so does everything between them
            common = np.minimum(low_common[active], high_common[active])
            common, smaller = self._compare(query, starts[active], lengths[active], there, common, after)
            more = common > best[active]
            best[active[more]], place[active[more]] = common[more], there[more]
            up, down = active[smaller], active[~smaller]
            low[up], low_common[up] = middle[smaller] + 1, common[smaller]
            high[down], high_common[down] = middle[~smaller], common[~smaller]
            active = active[low[active] < high[active]]
        return low, (best, place)

    def _compare(
        self, query: Whole, starts: Whole, lengths: Whole, there: Whole, common: Whole, after: bool
    ) -> tuple[Whole, NDArray[np.bool_]]:
        """Symbols in common of each run and the ending at `there`, and whether that ending comes before the run."""
        n, m = len(self.text), len(query)
        common = common.copy()
        smaller = np.empty(len(starts), bool)
        width = WIDTH
        active = np.arange(len(starts))
        while len(active):
            step = np.arange(width)
            at = common[active, None] + step
            inside = at < lengths[active, None]
            here, far = starts[active, None] + at, there[active, None] + at
            a = np.where(inside, query[np.minimum(here, m - 1)], -2)  # the run is over
            b = np.where(far < n, self.text[np.minimum(far, n - 1)], -3)  # the text is over
            equal = inside & (a == b)
            same = np.where(equal.all(axis=1), width, (~equal).argmax(axis=1))
            common[active] += same
            decided = same < width
            k = np.flatnonzero(decided)
            run, text = a[k, same[k]], b[k, same[k]]
            # an ending that begins with the whole run is not smaller, or counts as such when looking behind them all
            smaller[active[k]] = np.where(run == -2, after, text < run)
            active = active[~decided]
            width = min(2 * width, WIDEST)
        return common, smaller


def _sorted_endings(text: NDArray[np.int32]) -> NDArray[Any]:
    """(n,) starts of the endings, smallest first; one that is over comes before any that goes on."""
    n = len(text)
    index = np.int32 if n < 2**31 - 1 else np.int64
    if n < 2:
        return np.zeros(n, index)
    bits = int(text.max() + 1).bit_length()
    h = max(1, 62 // bits)
    key = text.astype(np.int64) + 1  # 0 is for what lies behind the end
    width = 1
    while 2 * width <= h:
        key = _joined(key, key, width, bits)
        width *= 2
    h = width
    order = np.argsort(key).astype(index)
    key = key[order]
    first = np.empty(n, bool)
    first[0] = True
    np.not_equal(key[1:], key[:-1], out=first[1:])
    del key
    rank = np.empty(n, index)  # of each ending: the first place of its group of equals
    rank[order] = np.maximum.accumulate(np.where(first, np.arange(n, dtype=index), 0))
    active = _undecided(np.arange(n, dtype=index), first)
    while len(active):
        start = order[active]
        behind = start.astype(np.int64) + h
        later = np.where(behind < n, rank[np.minimum(behind, n - 1)].astype(np.int64) + 1, 0)
        key = rank[start].astype(np.int64) * (n + 1) + later
        del behind, later
        new = np.argsort(key)
        key, start = key[new], start[new]
        del new
        order[active] = start
        first = np.empty(len(active), bool)
        first[0] = True
        np.not_equal(key[1:], key[:-1], out=first[1:])
        del key
        rank[start] = np.maximum.accumulate(np.where(first, active, 0))
        active = _undecided(active, first)
        h *= 2
    return order


def _joined(left: Whole, right: Whole, width: int, bits: int) -> Whole:
    """Keys of `width` symbols to keys of twice as many: each followed by the one that starts behind it."""
    out = left << (width * bits)
    out[: max(0, len(right) - width)] |= right[width:]
    return out


def _undecided(places: NDArray[Any], first: NDArray[np.bool_]) -> NDArray[Any]:
    """Places in groups of two and more; `first` marks where a group begins."""
    last = np.empty_like(first)
    last[:-1], last[-1] = first[1:], True
    return places[~(first & last)]
