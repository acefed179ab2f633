"""What must hold between the columns of a table: an order, a sum, or combinations that occur.

Constraints are written as people say them (`constraint_words.py` reads them). Here they are checked against a table
and against each other; `arranged.py` keeps them when rows are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.cells import Bools, kind_of, numbers_in
from pellucid.domains.columns import Column

__all__ = [
    "DAY",
    "Constraint",
    "Order",
    "Sum",
    "Together",
    "breaking",
    "check_together",
    "holds",
    "refusal",
    "total_of",
]

DAY = 86_400_000_000  # microseconds, in which dates are counted
NEAR = 1e-9  # of the largest number: what a sum of decimal numbers may differ by
ROWS = 5  # named in an error


@dataclass(frozen=True, kw_only=True)
class Order:
    """low <= high, or low < high where `strict`: column names, or a number (dates: microseconds) on one side."""

    text: str
    low: str | float
    high: str | float
    strict: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(side for side in (self.low, self.high) if isinstance(side, str))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """total = sum of `plus` - sum of `minus` + constant; the total is computed, never learned. Dates count in days."""

    text: str
    total: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    constant: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return (self.total, *self.plus, *self.minus)

    def solved(self, for_: str) -> Sum:
        """The same said of another column: total = a + b as b = total - a."""
        if for_ in self.plus:
            plus = (self.total, *self.minus)
            minus = tuple(n for n in self.plus if n != for_)
            return Sum(text=self.text, total=for_, plus=plus, minus=minus, constant=0.0 - self.constant)
        minus = (self.total, *(n for n in self.minus if n != for_))
        return Sum(text=self.text, total=for_, plus=self.plus, minus=minus, constant=self.constant)


@dataclass(frozen=True, kw_only=True)
class Together:
    """Only combinations of these columns' values that occur."""

    text: str
    columns: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns


Constraint = Order | Sum | Together


# ------------------------------------------------------------------------------------------------- do rows keep them?


def total_of(sum_: Sum, frame: pd.DataFrame, columns: Mapping[str, Column]) -> tuple[NDArray[Any], Bools]:
    """(N,) the total as its column holds it (int64 for whole numbers and dates), and which are missing."""
    total = columns[sum_.total]
    kinds = {n: kind_of(columns[n]) for n in sum_.names}
    dated = "date" in kinds.values()
    exact = dated or (all(k != "number" for k in kinds.values()) and float(sum_.constant).is_integer())
    out: NDArray[Any] = np.zeros(len(frame), dtype=np.int64 if exact else np.float64)
    missing = np.zeros(len(frame), dtype=np.bool_)
    for names, sign in ((sum_.plus, 1), (sum_.minus, -1)):
        for name in names:
            found, absent = numbers_in(frame[name], columns[name])
            if dated and kinds[name] != "date":
                found = np.rint(found * float(DAY)).astype(np.int64)
            out = out + sign * found
            missing |= absent
    constant = sum_.constant * (DAY if dated else 1)
    out = out + (round(constant) if exact else constant)
    if dated and kinds[sum_.total] != "date":
        out = out / DAY
    if kinds[sum_.total] == "number":
        out = out.astype(np.float64)
        return (out if total.decimals is None else np.round(out, total.decimals) + 0.0), missing
    return np.rint(out).astype(np.int64), missing


def holds(constraint: Constraint, frame: pd.DataFrame, columns: Mapping[str, Column]) -> Bools:
    """(N,) bool: which rows keep it.

    An order with a missing cell holds. A total must be missing exactly where a part of it is. What occurs is decided
    by the training rows, so that these keep every `Together`.
    """
    if isinstance(constraint, Together):
        return np.ones(len(frame), dtype=np.bool_)
    if isinstance(constraint, Sum):
        computed, absent = total_of(constraint, frame, columns)
        found, missing = numbers_in(frame[constraint.total], columns[constraint.total])
        near = NEAR * max(1.0, float(np.abs(computed).max(initial=0.0)))
        equal = np.abs(found - computed) <= (near if computed.dtype.kind == "f" else 0)
        return np.asarray((missing == absent) & (equal | missing), dtype=np.bool_)
    sides, there = [], np.ones(len(frame), dtype=np.bool_)
    for side in (constraint.low, constraint.high):
        if isinstance(side, str):
            found, missing = numbers_in(frame[side], columns[side])
            there &= ~missing
            sides.append(found)
        else:
            sides.append(np.full(len(frame), side))
    kept = sides[0] < sides[1] if constraint.strict else sides[0] <= sides[1]
    return np.asarray(kept | ~there, dtype=np.bool_)


def breaking(constraints: Iterable[Constraint], frame: pd.DataFrame, columns: Sequence[Column]) -> dict[str, Bools]:
    """(N,) bool for each constraint that some rows break: which rows do."""
    by_name = {c.name: c for c in columns}
    found = {c.text: ~holds(c, frame, by_name) for c in constraints}
    return {text: rows for text, rows in found.items() if rows.any()}


def refusal(broken: Mapping[str, Bools]) -> BadInput:
    """The error for a table whose own rows break constraints: how many, and which come first."""
    said = []
    for text, rows in broken.items():
        first = np.flatnonzero(rows)[:ROWS] + 1
        more = ", ..." if rows.sum() > ROWS else ""
        said.append(
            f"{int(rows.sum()):,} of {len(rows):,} rows break the constraint '{text}' (the first: "
            f"{', '.join(f'{n:,}' for n in first)}{more})"
        )
    return BadInput(
        "; ".join(said),
        accepted="constraints that the data keeps (rows are counted from 1, below the header)",
        next="Correct these rows, or leave them out: --drop-breaking, or drop_breaking=True in Python.",
    )


# -------------------------------------------------------------------------------------------- do they fit each other?


def check_together(constraints: Sequence[Constraint], target: str | None = None) -> tuple[Constraint, ...]:
    """The constraints without repetitions, each sum said of a column that can be computed.

    Raises BadInput for constraints that contradict each other.
    """
    kept = tuple(dict.fromkeys(constraints))
    _check_groups([c for c in kept if isinstance(c, Together)], target)
    _check_orders([c for c in kept if isinstance(c, Order)])
    grouped = {n for c in kept if isinstance(c, Together) for n in c.columns}
    fixed = grouped | ({target} if target else set())
    done: list[Sum] = []
    for sum_ in (c for c in kept if isinstance(c, Sum)):
        taken = fixed | {d.total for d in done}
        free = [n for n in (sum_.total, *reversed(sum_.names[1:])) if n not in taken]
        if not free:
            raise BadInput(
                f"the constraint '{sum_.text}' leaves no column to compute",
                accepted="a sum with a column that no other sum, no 'together' and no target settles",
                why=f"Settled already: {', '.join(n for n in sum_.names if n in taken)}",
            )
        done.append(sum_ if free[0] == sum_.total else sum_.solved(free[0]))
    by_total = {s.total: s for s in done}
    sorter = TopologicalSorter({s.total: [n for n in s.names[1:] if n in by_total] for s in done})
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        names = [by_total[n] for n in dict.fromkeys(error.args[1])]
        raise _contradiction([s.text for s in names], "Each needs the other's total") from error
    return (*(c for c in kept if not isinstance(c, Sum)), *(by_total[n] for n in order))


def _contradiction(texts: Sequence[str], why: str) -> BadInput:
    quoted = " and ".join(f"'{t}'" for t in dict.fromkeys(texts))
    return BadInput(
        f"the constraints {quoted} contradict each other", accepted="constraints that can all hold", why=why
    )


def _check_groups(groups: Sequence[Together], target: str | None) -> None:
    seen: dict[str, str] = {}
    for group in groups:
        for name in group.columns:
            if name == target:
                raise BadInput(
                    f"the constraint '{group.text}' holds the target '{name}'",
                    accepted="columns beside the target",
                    why="The target is drawn before the rest of its row.",
                    next="Fit without --target, and ask for its values with --where.",
                )
            if name in seen:
                raise BadInput(
                    f"'{name}' stands in '{seen[name]}' and in '{group.text}'",
                    accepted="each column in one 'together'",
                    next="Say them as one.",
                )
            seen[name] = group.text


def _check_orders(orders: Sequence[Order]) -> None:
    """Refuse circles, and bounds that leave nothing between them."""
    edges = [o for o in orders if isinstance(o.low, str) and isinstance(o.high, str)]
    before: dict[str, set[str]] = {}
    for o in edges:
        before.setdefault(str(o.high), set()).add(str(o.low))
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as error:
        ring = error.args[1]
        steps = set(pairwise(ring))
        round_ = [o for o in edges if (o.low, o.high) in steps]
        strict = any(o.strict for o in round_)
        why = "A column cannot be below itself" if strict else "All of them would be equal; say so: a = b"
        raise _contradiction([o.text for o in round_], why) from error
    low: dict[str, tuple[float, bool, list[str]]] = {}
    high: dict[str, tuple[float, bool, list[str]]] = {}
    for o in orders:
        if isinstance(o.low, str) and not isinstance(o.high, str):
            high[o.low] = min(high.get(o.low, (math.inf, False, [])), (o.high, not o.strict, [o.text]), key=_tight_high)
        elif isinstance(o.high, str) and not isinstance(o.low, str):
            low[o.high] = max(low.get(o.high, (-math.inf, False, [])), (o.low, o.strict, [o.text]), key=_tight_low)
    for name in order:  # what bounds a column from below bounds all that lie above it
        for o in (e for e in edges if e.high == name and e.low in low):
            value, strict, texts = low[str(o.low)]
            low[name] = max(
                low.get(name, (-math.inf, False, [])), (value, strict or o.strict, [*texts, o.text]), key=_tight_low
            )
    for name in sorted(set(low) & set(high)):
        (least, above, first), (most, reached, second) = low[name], high[name]
        if least > most or (least == most and (above or not reached)):
            raise _contradiction([*first, *second], f"Nothing is left for '{name}'")


def _tight_low(bound: tuple[float, bool, list[str]]) -> tuple[float, bool]:
    return bound[0], bound[1]


def _tight_high(bound: tuple[float, bool, list[str]]) -> tuple[float, bool]:
    return bound[0], bound[1]
