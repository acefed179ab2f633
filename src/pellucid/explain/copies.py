"""Which runs of one sequence also stand in a body of sequences, and how surprising it is that they do.

At each place the longest run that the body holds is looked up; those that no other such run covers are the maximal
ones (Liu et al. 2025, "OLMoTrace", https://arxiv.org/abs/2504.07096, section 3, with the suffix array of the training
symbols as there). A run of frequent symbols that often follow each other says little. So each has a surprise: what it
costs in nats to spell it with symbol pairs counted in the body, its own copies left out. Where that is more than
log(n m) for a body of n symbols and a sequence of m, such a run would stand in both by chance less than once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.explain.suffix_array import SuffixArray

__all__ = ["Body", "Copied", "novelty", "passages"]

Whole = NDArray[np.int64]
PAIRS = 10.0  # symbols of evidence that a pair's own count must outweigh
PLACES = 20  # of one run that are named at most


@dataclass(frozen=True)
class Copied:
    """A run of one sequence that stands in the body.

    start, length: in the sequence. count: how often it stands in the body.
    surprise: nats that it costs by the body's symbol pairs, its own copies left out.
    sources: (item, place in the item) of the copies, the first ones.
    """

    start: int
    length: int
    count: int
    surprise: float
    sources: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        """One behind its last symbol."""
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Body:
    """Sequences that can be searched.

    Args:
        index: of all sequences one after another, each with a 0 behind it and its symbols raised by 1.
        starts: (N,) where each begins in it.

    >>> body = Body.of([np.array([7, 8, 9]), np.array([8, 9, 7])])
    >>> [(r.start, r.length, r.sources) for r in body.copies(np.array([9, 8, 9, 7]), least=2)]
    [(1, 3, ((1, 0),))]
    """

    index: SuffixArray
    starts: Whole

    @classmethod
    def of(cls, sequences: Sequence[NDArray[Any]]) -> Body:
        """Index sequences of whole numbers from 0 to 2^31 - 3."""
        if not len(sequences) or not any(len(s) for s in sequences):
            raise BadInput("there is nothing to search in", accepted="at least one sequence with a symbol")
        lengths = np.array([len(s) for s in sequences], np.int64)
        if any(len(s) and int(np.min(s)) < 0 for s in sequences):
            raise BadInput("a symbol is below 0", accepted="whole numbers from 0 on")
        starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
        text = np.zeros(int((lengths + 1).sum()), np.int32)
        for start, sequence in zip(starts.tolist(), sequences, strict=True):
            text[start : start + len(sequence)] = np.asarray(sequence) + 1
        return cls(SuffixArray.of(text), starts)

    @property
    def symbols(self) -> int:
        """How many symbols the sequences have together."""
        return len(self.index) - len(self.starts)

    def longest(self, sequence: NDArray[Any]) -> Whole:
        """(m,) the longest run from each place on that stands in the body; symbols below 0 stand nowhere."""
        return self.index.longest(_raised(sequence))

    def chance(self, m: int) -> float:
        """Nats above which a run of a sequence of m symbols is in the body by chance less than once."""
        return math.log(max(1, self.symbols) * max(1, m))

    def copies(self, sequence: NDArray[Any], least: int = 1, longest: Whole | None = None) -> tuple[Copied, ...]:
        """Every maximal run of at least so many symbols, in the order of the sequence.

        Args:
            sequence: (m,). longest: what `longest` said of it, if it was asked before.
        """
        query = _raised(sequence)
        reach = self.longest(sequence) if longest is None else longest
        before = np.concatenate(([0], reach[:-1]))
        # the run before covers this one when it ends at the same place
        chosen = np.flatnonzero((reach >= max(1, least)) & (reach >= before))
        if not len(chosen):
            return ()
        single, double = self.index.counts(query), self.index.find(query, 2).count
        found = self.index.find(query, reach[chosen], chosen)
        out = []
        for at, low, high in zip(chosen.tolist(), found.low.tolist(), found.high.tolist(), strict=True):
            length = int(reach[at])
            places = self.index.places(low, high, PLACES)
            item = np.searchsorted(self.starts, places, side="right") - 1
            sources = tuple(zip(item.tolist(), (places - self.starts[item]).tolist(), strict=True))
            cost = self._surprise(single[at : at + length], double[at : at + length - 1], high - low)
            out.append(Copied(at, length, high - low, cost, sources))
        return tuple(out)

    def _surprise(self, single: Whole, double: Whole, own: int) -> float:
        """-log p of a run by pairs of symbols; single (k,) and double (k - 1,) are its counts in the body."""
        alone = np.maximum(single - own, 0.5) / max(1, self.symbols)
        first, pair = np.maximum(single[:-1] - own, 0), np.maximum(double - own, 0)
        p = (pair + PAIRS * alone[1:]) / (first + PAIRS)
        return -float(np.log(alone[0]) + np.log(np.minimum(p, 1.0)).sum())


def novelty(longest: Whole, n: int) -> tuple[int, int]:
    """How many runs of n symbols stand nowhere in the body, and how many there are.

    Args:
        longest: (m,) of the sequence, as `Body.longest` gives it.

    >>> novelty(np.array([3, 2, 1, 0]), 2)
    (1, 3)
    """
    reach = longest[: max(0, len(longest) - n + 1)]
    return int((reach < n).sum()), len(reach)


def passages(found: Sequence[Copied]) -> tuple[tuple[int, int], ...]:
    """Stretches of the sequence that runs cover, those that overlap joined: (start, end) in order.

    >>> passages([Copied(0, 3, 1, 9.0, ()), Copied(2, 4, 1, 9.0, ()), Copied(8, 1, 1, 9.0, ())])
    ((0, 6), (8, 9))
    """
    out: list[tuple[int, int]] = []
    for run in sorted(found, key=lambda r: r.start):
        if out and run.start < out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], run.end))
        else:
            out.append((run.start, run.end))
    return tuple(out)


def _raised(sequence: NDArray[Any]) -> Whole:
    """Symbols as the index has them; what stands nowhere is below 0."""
    found = np.asarray(sequence, dtype=np.int64)
    return np.where(found >= 0, found + 1, -1)
