"""Counts of runs of symbols, smoothed by modified Kneser-Ney, in sorted keys that NumPy looks up by the million.

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + gamma(h) * p(w | h without its oldest symbol)

Chen & Goodman 1998, "An empirical study of smoothing techniques for language modeling" (TR-10-98; the modified method
of section 3.3 of the article of 1999), interpolated at every length as in Heafield et al. 2013, "Scalable modified
Kneser-Ney language model estimation". The longest contexts count how often; a shorter one counts in how many places
(h w) was seen, that is its different left neighbours, unless nothing can stand to its left.

A gram is [root, newest symbol of the context, ..., oldest, next symbol]: columns (N,), not rows, so that equal grams
are found by sorting one packed number each. Sorted grams have the contexts of every length side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Array", "Floats", "Level", "Places", "Smoothed", "discounts", "tally_columns"]

Array: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

FULL = 2**63  # a packed key must stay below
DENSE = 2**24  # keys up to here may have a table of all places
SPARSE = 64  # of which so many for each key there is, at most


def discounts(counts: Array) -> Floats:
    """D of counts 0, 1, 2, and 3 or more, from how many entries have each count        Chen & Goodman, section 3.3

    Y = n1 / (n1 + 2 n2);  D1 = 1 - 2 Y n2 / n1;  D2 = 2 - 3 Y n3 / n2;  D3+ = 3 - 4 Y n4 / n3

    Kept between a tenth and the count: small tables give wild values, and what is never discounted backs off nowhere.

    >>> discounts(np.array([1] * 6 + [2] * 3 + [3] * 2 + [4]))
    array([0. , 0.5, 1. , 2. ])
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3):
        return np.array([0.0, 0.5, 1.0, 1.5])  # too few to estimate: KenLM's fallback
    y = n1 / (n1 + 2 * n2)
    wished = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(wished, [0.0, 0.1, 0.1, 0.1], [0.0, 1.0, 2.0, 3.0])


def tally_columns(columns: Sequence[Array], counts: Array | None = None) -> tuple[list[Array], Array]:
    """Different grams of columns (N,) each, sorted by the first column, then the second, and so on; and their counts.

    Args:
        counts: (N,) summed over equal grams; None: one each.

    >>> grams, counts = tally_columns([np.array([3, 0, 3]), np.array([1, 2, 1])])
    >>> [column.tolist() for column in grams], counts.tolist()
    ([[0, 3], [2, 1]], [1, 2])
    """
    if not len(columns[0]):
        return [column[:0] for column in columns], np.zeros(0, np.int64)
    key, sizes = packed(columns)
    order = None
    if counts is None and sizes is not None:
        key.sort()
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    sums = np.diff(np.append(first, len(key))) if counts is None else np.add.reduceat(counts[order], first)
    if sizes is None:  # ranks tell grams apart but do not hold them
        assert order is not None
        return [column[order[first]] for column in columns], sums
    rest, out = key[first], []
    for size in reversed(sizes[1:]):
        rest, column = np.divmod(rest, size)
        out.append(column)
    return [rest, *reversed(out)], sums


def packed(columns: Sequence[Array], sizes: Sequence[int] | None = None) -> tuple[Array, list[int] | None]:
    """One 64-bit key a gram, ordered as the grams are, and the sizes to unpack it by.

    Where the columns do not fit into one key, what is full is replaced by its rank, and the sizes are None.
    """
    sizes = [int(column.max(initial=0)) + 1 for column in columns] if sizes is None else list(sizes)
    key, room, fits = columns[0].astype(np.int64), sizes[0], True
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        if room * size >= FULL:
            ranks, key = np.unique(key, return_inverse=True)
            room, fits = len(ranks), False
        key *= size
        key += column
        room *= size
    return key, sizes if fits else None


@dataclass(eq=False)
class Places:
    """Sorted keys (E,) whose places are looked up; where keys lie close, by a table of all of them."""

    keys: Array
    _table: np.ndarray[Any, np.dtype[np.int32]] | None = field(default=None, repr=False)

    def find(self, wanted: Array) -> Array:
        """The place of each wanted key (N,), -1 where it is not there or the key is below 0."""
        if not len(self.keys):
            return np.full(wanted.shape, -1, np.int64)
        last = int(self.keys[-1])
        if last < min(DENSE, SPARSE * len(self.keys)) and (self._table is not None or len(wanted) > last // 16):
            if self._table is None:
                table = np.full(last + 2, -1, np.int32)
                table[self.keys] = np.arange(len(self.keys), dtype=np.int32)
                self._table = table
            inside = (wanted >= 0) & (wanted <= last)
            return self._table[np.where(inside, wanted, last + 1)].astype(np.int64)
        place = np.searchsorted(self.keys, wanted)
        np.minimum(place, len(self.keys) - 1, out=place)
        return np.where(self.keys[place] == wanted, place, -1)


@dataclass(frozen=True, eq=False)
class Level:
    """Smoothed counts for contexts of one length k.

    Args:
        contexts: (C,) keys: number of the context one shorter * S + oldest symbol; for k = 0 the roots.
        entries: (E,) keys: number of the context * S + symbol.
        share: (E + 1,) discounted share of the symbol, gamma: (C + 1,) what is left for the shorter context; their last
            elements, 0 and 1, answer for number -1, which was never seen.
        first: (C + 1,) where each context's entries start.
    """

    contexts: Places
    entries: Places
    share: Floats
    gamma: Floats
    first: Array


class Smoothed:
    """The levels made of counted grams, coarsest first.

    Args:
        grams: order + 1 columns (U,), different and sorted, as `tally_columns` gives them. counts: (U,).
        s: S, symbols and marks in all. nothing: the mark of places of a context that hold nothing.
        floor: None for Kneser-Ney; else plain shares of raw counts, less this share for the shorter context.
    """

    def __init__(self, grams: Sequence[Array], counts: Array, s: int, nothing: int, floor: float | None = None) -> None:
        self.s, self.order = s, len(grams) - 1
        found: list[tuple[list[Array], Array]] = []
        columns: list[Array] = []
        for k in reversed(range(self.order)):  # contexts of k symbols: columns 1 to k
            own = np.ones(len(counts), bool) if k == self.order - 1 else grams[k + 1] == nothing
            own = own & (grams[k] != nothing) if k else own
            head = [column[own] for column in (*grams[: k + 1], grams[-1])]
            shorter = [*columns[: k + 1], columns[-1]] if columns else [column[:0] for column in head]
            # what could have been longer counts its left neighbours, what could not counts how often it was seen
            weight = np.ones(len(shorter[0]), np.int64) if floor is None or not found else found[-1][1]
            plain = floor is None and not own.any()
            columns, sums = tally_columns(
                [np.concatenate(pair) for pair in zip(shorter, head, strict=True)],
                None if plain else np.concatenate((weight, counts[own])),
            )
            found.append((columns, sums))
        self.levels: list[Level] = []
        for k, (columns, sums) in enumerate(reversed(found)):
            self.levels.append(self._level(k, columns, sums, floor))

    def _level(self, k: int, columns: list[Array], counts: Array, floor: float | None) -> Level:
        """k + 2 sorted columns (E,) with their counts (E,) to a level; the levels below are ready."""
        if not len(counts):
            none = Places(np.zeros(0, np.int64))
            return Level(none, none, np.zeros(1), np.ones(1), np.zeros(1, np.int64))
        new = np.append(True, np.zeros(len(counts) - 1, bool))
        for column in columns[:-1]:
            new[1:] |= column[1:] != column[:-1]
        number, first = np.cumsum(new) - 1, np.flatnonzero(new)
        heads = [column[first] for column in columns[:-1]]
        below = self.numbers(heads[:k])[-1] if k else heads[0]
        key = below * self.s + heads[-1] if k else heads[0]
        total = np.add.reduceat(counts, first)
        if floor is None:
            off = discounts(counts)[np.minimum(counts, 3)]
            share, gamma = (counts - off) / total[number], np.add.reduceat(off, first) / total
        else:
            share, gamma = (1.0 - floor) * counts / total[number], np.full(len(first), floor)
        return Level(
            Places(key),
            Places(number * self.s + columns[-1]),
            np.append(share, 0.0),
            np.append(gamma, 1.0),
            np.append(first, len(counts)),
        )

    def numbers(self, contexts: Sequence[Array]) -> list[Array]:
        """Contexts [root, newest, ..., oldest] of columns (N,) to the number of each at every length; -1 if never seen.

        Of length 0 up to len(contexts) - 1 symbols.
        """
        number, out = contexts[0], []
        for k, column in enumerate(contexts):
            found = self.levels[k].contexts
            number = found.find(number if k == 0 else np.where(number >= 0, number * self.s + column, -1))
            out.append(number)
        return out

    def mixed(self, grams: Sequence[Array]) -> tuple[Floats, Floats]:
        """order + 1 columns (N,) to (a, b), (N,) each: the probability is a + b * that of the estimate below all.

        Equal grams are looked up once, in sorted order, which is kind to the processor's caches.
        """
        key, sizes = packed(grams)
        if sizes is None or len(key) < 1000:
            return self._mixed(grams)
        order = np.argsort(key)
        key = key[order]
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        a, b = self._mixed([column[order[first]] for column in grams])
        times = np.diff(np.append(first, len(key)))
        out_a, out_b = np.empty(len(key)), np.empty(len(key))
        out_a[order], out_b[order] = np.repeat(a, times), np.repeat(b, times)
        return out_a, out_b

    def _mixed(self, grams: Sequence[Array]) -> tuple[Floats, Floats]:
        a, b = np.zeros(len(grams[0])), np.ones(len(grams[0]))
        for level, number in zip(self.levels, self.numbers(grams[:-1]), strict=True):
            entry = level.entries.find(np.where(number >= 0, number * self.s + grams[-1], -1))
            gamma = level.gamma[number]
            a, b = gamma * a + level.share[entry], gamma * b
        return a, b

    def spread(self, p: Floats, contexts: Sequence[Array]) -> Floats:
        """p (N, V), the estimate below all, to the probabilities of all symbols after these contexts, in place."""
        for level, number in zip(self.levels, self.numbers(contexts), strict=True):
            p *= level.gamma[number, None]
            rows = np.flatnonzero(number >= 0)
            number = number[rows]
            size = level.first[number + 1] - level.first[number]
            entry = np.repeat(level.first[number] - (size.cumsum() - size), size) + np.arange(size.sum())
            p[np.repeat(rows, size), level.entries.keys[entry] % self.s] += level.share[entry]
        return p
