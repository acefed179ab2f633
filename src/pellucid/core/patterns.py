r"""Regular expressions as deterministic automata of our own: which strings match, and which beginnings still can.

A pattern is read by recursive descent, made a nondeterministic automaton (Thompson 1968,
https://doi.org/10.1145/363347.363387) and then a deterministic one by subsets of its states (Rabin & Scott 1959,
https://doi.org/10.1147/rd.32.0114). A whole string must match: both ends are anchored without being said.

    abc  [a-z_]  [^,]  .   a literal, a class, its complement, anything but a newline
    a|b  (ab)  (?:ab)      either, a group
    a*  a+  a?  a{2}  a{2,}  a{,3}  a{2,3}
    \d  \w  \s             digits, letters and digits and _, white space, all of ASCII; \n \t \r; \. is the dot itself
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput

__all__ = ["Automaton", "Units", "compiled"]

Units: TypeAlias = Literal["characters", "bytes"]
Ranges: TypeAlias = tuple[tuple[int, int], ...]  # code points or bytes from first to last, both included

LAST = 0x10FFFF  # of all code points
SURROGATES = (0xD800, 0xDFFF)  # they are no characters, and have no bytes
MOST_TIMES = 1000  # of a repetition
MOST_PARTS = 50_000  # states before they become deterministic
MOST_STATES = 20_000
MOST_NESTED = 100  # groups inside one another
SPECIAL = ".|*+?{}()[]\\^$"
NAMED: dict[str, Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
    "n": ((10, 10),),
    "t": ((9, 9),),
    "r": ((13, 13),),
}
# a UTF-8 sequence of n bytes holds code points up to (RFC 3629, section 3)
UPTO = {1: 0x7F, 2: 0x7FF, 3: 0xFFFF, 4: LAST}


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton; state 0 is the first, -1 is the state in which nothing can match any more.

    Args:
        table: (S, K) int32, the state after a unit of class k; from every state in it a match can be reached.
        accepting: (S,) bool. classes: (K,) the first unit of each class, in order, from 0.
        units: what it reads, characters or bytes. pattern: as it was written.

    >>> compiled("a(b|c)+").matches("abcb"), compiled("a(b|c)+").matches("a")
    (True, False)
    """

    table: NDArray[np.int32]
    accepting: NDArray[np.bool_]
    classes: NDArray[np.int64]
    units: Units = "characters"
    pattern: str = ""

    @property
    def states(self) -> int:
        return len(self.accepting)

    def read(self, text: str | bytes, state: int = 0) -> int:
        """The state after a text that is read from `state` on; -1 where no match begins like that."""
        for unit in text if isinstance(text, bytes) else map(ord, text):
            if state < 0:
                break
            state = int(self.table[state, np.searchsorted(self.classes, unit, side="right") - 1])
        return state

    def after(self, states: NDArray[np.int32], units: NDArray[np.int64]) -> NDArray[np.int32]:
        """The states after one unit each; both broadcast against one another, and -1 stays."""
        kinds = np.searchsorted(self.classes, units, side="right") - 1
        found = self.table[np.maximum(states, 0), kinds]
        return np.where(states < 0, np.int32(-1), found)

    def matches(self, text: str | bytes) -> bool:
        """Does the whole text match?"""
        state = self.read(text)
        return state >= 0 and bool(self.accepting[state])


def compiled(pattern: str, units: Units = "characters") -> Automaton:
    """The automaton of a regular expression.

    Args:
        units: "bytes" reads the UTF-8 bytes of the text instead of its characters.

    Raises:
        BadInput: names the place of what is no part of the language above, of a group that never ends, or of a
            repetition too large; also a pattern that nothing matches.
    """
    parser = _Parser(pattern, units)
    start, end = parser.whole()
    return _determined(parser.parts, start, end, units, pattern)


@dataclass
class _Parts:
    """A nondeterministic automaton under construction: free moves, and moves over ranges of units."""

    free: list[list[int]] = field(default_factory=list)
    over: list[list[tuple[Ranges, int]]] = field(default_factory=list)

    def new(self) -> int:
        self.free.append([])
        self.over.append([])
        if len(self.free) > MOST_PARTS:
            raise BadInput(
                f"the pattern has more than {MOST_PARTS:,} parts once its repetitions are written out",
                next="Repeat less, or use * or + where the number does not matter.",
            )
        return len(self.free) - 1


class _Parser:
    """Reads a pattern from left to right; every piece becomes a pair of states (in, out)."""

    def __init__(self, pattern: str, units: Units) -> None:
        self.pattern, self.units, self.at, self.parts, self.nested = pattern, units, 0, _Parts(), 0

    def whole(self) -> tuple[int, int]:
        found = self._either()
        if self.at < len(self.pattern):
            raise self._wrong("a ) that closes nothing", self.at)
        return found

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _either(self) -> tuple[int, int]:
        branches = [self._row()]
        while self._next() == "|":
            self.at += 1
            branches.append(self._row())
        if len(branches) == 1:
            return branches[0]
        start, end = self.parts.new(), self.parts.new()
        for first, last in branches:
            self.parts.free[start].append(first)
            self.parts.free[last].append(end)
        return start, end

    def _row(self) -> tuple[int, int]:
        start = end = self.parts.new()
        while self._next() not in ("", "|", ")"):
            began = self.at
            first, last = self._one()
            times = self._times()
            if times is not None:
                first, last = self._repeated(began, first, last, times)
            self.parts.free[end].append(first)
            end = last
        return start, end

    def _one(self) -> tuple[int, int]:
        """A literal, a class or a group, without what repeats it."""
        began, sign = self.at, self._next()
        self.at += 1
        if sign == "(":
            if self._next() == "?":
                if self.pattern[self.at : self.at + 2] != "?:":
                    raise self._wrong("a group that looks around or has options", began)
                self.at += 2
            self.nested += 1
            if self.nested > MOST_NESTED:
                raise self._wrong("a group", began, f"at most {MOST_NESTED} groups inside one another")
            found = self._either()
            if self._next() != ")":
                raise self._wrong("a ( that is never closed", began)
            self.at += 1
            self.nested -= 1
            return found
        if sign == "[":
            return self._over(self._class(began))
        if sign == ".":
            return self._over(_without(((10, 10),)))
        if sign == "\\":
            return self._over(self._escaped(began))
        if sign in "*+?{":
            raise self._wrong(f"a {sign} with nothing to repeat before it", began)
        if sign in "^$":
            raise self._wrong(f"a {sign}, which is not needed: the whole text must match", began)
        if sign in "]}":
            raise self._wrong(f"a {sign} that closes nothing", began)
        return self._over(((ord(sign), ord(sign)),))

    def _times(self) -> tuple[int, int | None] | None:
        """How often what was read is repeated; None for once."""
        began, sign = self.at, self._next()
        if not sign or sign not in "*+?{":
            return None
        self.at += 1
        if sign == "{":
            close = self.pattern.find("}", self.at)
            low, comma, high = self.pattern[self.at : max(close, self.at)].partition(",")
            fits = (low.isdecimal() or (not low and comma and high)) and (not high or high.isdecimal())
            if close < 0 or not fits or not (low + high).isascii():
                raise self._wrong("a { that begins no {2}, {2,} or {2,3}", began)
            self.at = close + 1
            least = int(low or 0)
            most = int(high) if high else (None if comma else least)
            if max(least, most or 0) > MOST_TIMES or (most is not None and most < least):
                raise self._wrong(
                    f"a repetition from {least} to {most}", began, f"numbers in order, up to {MOST_TIMES}"
                )
            times: tuple[int, int | None] = (least, most)
        else:
            times = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        if self._next() and self._next() in "*+?{":
            raise self._wrong(
                f"a {self._next()} behind a repetition", self.at, "one repetition; (...)* repeats a group"
            )
        return times

    def _repeated(self, began: int, first: int, last: int, times: tuple[int, int | None]) -> tuple[int, int]:
        """What stands from `began` to here, so many times; further copies are read again."""
        here, (least, most) = self.at, times
        piece = (first, last)
        start = end = self.parts.new()
        copies = least if most is None else most
        for k in range(max(1, copies)):
            if k:
                self.at = began
                piece = self._one()
            if k < copies:
                if k >= least:  # from here on each copy may be left out
                    stop = self.parts.new()
                    self.parts.free[end] += [piece[0], stop]
                    self.parts.free[piece[1]].append(stop)
                    end = stop
                else:
                    self.parts.free[end].append(piece[0])
                    end = piece[1]
        if most is None:  # the last copy may be gone through again
            around = self.parts.new()
            self.parts.free[end].append(around)
            self.parts.free[around].append(piece[0])
            if not least:
                self.parts.free[piece[1]].append(around)
            end = around
        self.at = here
        return start, end

    def _class(self, began: int) -> Ranges:
        """What [...] holds, the bracket being read already."""
        inverted = self._next() == "^"
        self.at += inverted
        found: list[tuple[int, int]] = []
        while True:
            place, sign = self.at, self._next()
            if not sign:
                raise self._wrong("a [ that is never closed", began)
            self.at += 1
            if sign == "]" and found:
                break
            if sign == "]":
                raise self._wrong("a class that holds nothing", began, r"\] for the bracket itself")
            if sign == "[":
                raise self._wrong("a [ inside a class", place, r"\[ for the bracket itself")
            low = self._escaped(place) if sign == "\\" else ((ord(sign), ord(sign)),)
            if self._next() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                sign = self._next()
                self.at += 1
                high = self._escaped(self.at - 1) if sign == "\\" else ((ord(sign), ord(sign)),)
                if len(low) > 1 or len(high) > 1 or low[0][0] != low[0][1] or not low[0][0] <= high[0][0] == high[0][1]:
                    raise self._wrong(f"the range '{self.pattern[place : self.at]}'", place, "two characters in order")
                low = ((low[0][0], high[0][0]),)
            found += low
        return _without(found) if inverted else _joined(found)

    def _escaped(self, began: int) -> Ranges:
        sign = self._next()
        self.at += 1
        if sign in NAMED:
            return NAMED[sign]
        if not sign or sign.isalnum():
            raise self._wrong(f"\\{sign}", began, r"\d \w \s \n \t \r, or \ before a sign")
        return ((ord(sign), ord(sign)),)

    def _over(self, ranges: Ranges) -> tuple[int, int]:
        start, end = self.parts.new(), self.parts.new()
        if self.units == "characters":
            self.parts.over[start].append((ranges, end))
            return start, end
        for low, high in ranges:
            for sequence in _in_bytes(low, high):
                here = start
                for k, pair in enumerate(sequence):
                    there = end if k == len(sequence) - 1 else self.parts.new()
                    self.parts.over[here].append(((pair,), there))
                    here = there
        return start, end

    def _wrong(self, what: str, at: int, accepted: str = "") -> BadInput:
        shown = f"'{self.pattern}'" if len(self.pattern) <= 80 else f"'{self.pattern[max(0, at - 30) : at + 30]}'"
        return BadInput(
            f"the pattern {shown} has, at character {at + 1}, {what}",
            accepted=accepted or r"literals, [classes], ., |, *, +, ?, {m,n}, (groups); \ makes a sign a literal",
        )


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same units in ranges that are in order and apart."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def _without(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All other code points.

    >>> _without([(10, 10)])
    ((0, 9), (11, 1114111))
    """
    out, at = [], 0
    for low, high in _joined(ranges):
        if at < low:
            out.append((at, low - 1))
        at = high + 1
    return (*out, (at, LAST)) if at <= LAST else tuple(out)


def _in_bytes(low: int, high: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The UTF-8 sequences of the code points from low to high, each a row of ranges of bytes.

    >>> list(_in_bytes(0x61, 0x80))
    [((97, 127),), ((194, 194), (128, 128))]
    """
    if low > high:
        return
    if low <= SURROGATES[1] and high >= SURROGATES[0]:
        yield from _in_bytes(low, SURROGATES[0] - 1)
        yield from _in_bytes(SURROGATES[1] + 1, high)
        return
    for upto in UPTO.values():  # one length of sequence at a time
        if low <= upto < high:
            yield from _in_bytes(low, upto)
            yield from _in_bytes(upto + 1, high)
            return
    size = next(n for n, upto in UPTO.items() if high <= upto)
    for k in range(1, size):  # the last k bytes run from 80 to BF in the middle of a range, and only there
        rest = (1 << (6 * k)) - 1
        if low & ~rest != high & ~rest:
            if low & rest:
                yield from _in_bytes(low, low | rest)
                yield from _in_bytes((low | rest) + 1, high)
                return
            if high & rest != rest:
                yield from _in_bytes(low, (high & ~rest) - 1)
                yield from _in_bytes(high & ~rest, high)
                return
    pairs = zip(chr(low).encode(), chr(high).encode(), strict=True)
    yield tuple(pairs)


def _determined(parts: _Parts, start: int, end: int, units: Units, pattern: str) -> Automaton:
    """Subsets of the states that can be reached by the same text; those from which nothing matches are left out."""
    edges = {0}
    for moves in parts.over:
        for ranges, _ in moves:
            edges |= {low for low, _ in ranges} | {high + 1 for _, high in ranges}
    classes = np.array(sorted(edge for edge in edges if edge <= LAST), np.int64)
    spans = [  # of each state: (first class, last class, where to)
        [
            (int(np.searchsorted(classes, low)), int(np.searchsorted(classes, high, side="right")), there)
            for ranges, there in moves
            for low, high in ranges
        ]
        for moves in parts.over
    ]
    first = _closed(parts, {start})
    numbers = {first: 0}
    rows: list[list[int]] = []
    waiting = [first]
    for subset in waiting:  # grows while it is read
        reached: list[set[int]] = [set() for _ in classes]
        for state in subset:
            for low, high, there in spans[state]:
                for k in range(low, high):
                    reached[k].add(there)
        row, known = [], dict[frozenset[int], int]()
        for targets in map(frozenset, reached):
            if targets not in known:
                found = _closed(parts, targets)
                if found and found not in numbers:
                    numbers[found] = len(numbers)
                    waiting.append(found)
                    if len(numbers) > MOST_STATES:
                        raise BadInput(
                            f"the pattern needs more than {MOST_STATES:,} states",
                            next="Make it simpler, or repeat less.",
                        )
                known[targets] = numbers[found] if found else -1
            row.append(known[targets])
        rows.append(row)
    accepting = np.array([end in subset for subset in waiting])
    return _living(np.array(rows, np.int32), accepting, classes, units, pattern)


def _closed(parts: _Parts, states: Iterable[int]) -> frozenset[int]:
    """The states, and those that free moves lead to."""
    found = set(states)
    waiting = list(found)
    while waiting:
        for there in parts.free[waiting.pop()]:
            if there not in found:
                found.add(there)
                waiting.append(there)
    return frozenset(found)


def _living(
    table: NDArray[np.int32], accepting: NDArray[np.bool_], classes: NDArray[np.int64], units: Units, pattern: str
) -> Automaton:
    """Without the states from which nothing matches any more."""
    alive = accepting.copy()
    while True:
        more = alive | (alive[np.maximum(table, 0)] & (table >= 0)).any(axis=1)
        if (more == alive).all():
            break
        alive = more
    if not alive[0]:
        raise BadInput(f"nothing matches the pattern '{pattern}'", accepted="a pattern that some text matches")
    number = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
    kept = np.where(table >= 0, number[np.maximum(table, 0)], -1)[alive]
    return Automaton(kept.astype(np.int32), accepting[alive], classes, units, pattern)
