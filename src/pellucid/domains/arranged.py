"""Keeps constraints: columns are arranged so that rows that break them cannot be written down, or are moved back.

Before cells are learned, three things happen to the columns that constraints name:

    total = a + b             the total leaves the table and is computed when rows are read
    together: city, country   the columns become one, whose symbols are the combinations that occur
    start <= end              where the distance is spread less than `end` itself, it takes the place of `end`

Each has one way back, so that nothing is lost and likelihoods stay what they were (a distance has the volume of the
column that it replaces; what is computed has probability 1). An order that cannot be written so is watched: whoever
draws rows draws those again that break it (`moved`), and what is broken still is moved to the nearest bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.settings import to_plain
from pellucid.domains.cells import Bools, Dtype, Symbols, dtype_of, fresh, kind_of, numbers_in, series_of
from pellucid.domains.columns import Column, infer
from pellucid.domains.constraint_words import read_constraint
from pellucid.domains.constraints import (
    DAY,
    Constraint,
    Order,
    Sum,
    Together,
    breaking,
    check_together,
    holds,
    refusal,
    total_of,
)
from pellucid.domains.stored import stored_settings

__all__ = ["Arrangement", "Distance", "Joined"]

SECOND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Columns that only occur in some combinations, as one column of symbols.

    name: of the one column. cells: how each column's values are numbered. combinations: (k, columns) of these numbers.
    """

    name: str
    cells: tuple[Symbols, ...]
    combinations: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        sizes = [c.size for c in self.cells]
        fits = len(set(self.combinations)) == len(self.combinations) > 0
        fits = fits and all(
            len(one) == len(sizes) and all(0 <= k < n for k, n in zip(one, sizes, strict=True))
            for one in self.combinations
        )
        if not fits:
            raise BadInput(f"combinations of '{self.name}' are stored wrongly", accepted="distinct numbers of values")

    @classmethod
    def learn(cls, name: str, frame: pd.DataFrame, columns: Sequence[Column]) -> Joined:
        """The combinations that occur, in the order of their values."""
        cells = tuple(Symbols.learn(c, frame[c.name], bool(frame[c.name].isna().any())) for c in columns)
        numbers = np.stack([c.write(frame[c.column.name])[0] for c in cells], axis=1).astype(np.int64)
        return cls(name=name, cells=cells, combinations=tuple(map(tuple, np.unique(numbers, axis=0).tolist())))

    @property
    def labels(self) -> tuple[str, ...]:
        """Each combination as people read it; all are different."""
        texts = [[*map(str, c.values), "missing"] for c in self.cells]
        found, taken = [], set[str]()
        for one in self.combinations:
            found.append(fresh(" | ".join(t[k] for t, k in zip(texts, one, strict=True)), taken))
        return tuple(found)

    def column(self) -> Column:
        """The one column."""
        labels = self.labels
        return Column(name=self.name, kind="category", stored="text", missing=0, distinct=len(labels), levels=labels)

    def inward(self, frame: pd.DataFrame) -> pd.Series:
        """The one column of these rows. Raises BadInput for combinations that never occurred."""
        numbers = np.stack([c.write(frame[c.column.name])[0] for c in self.cells], axis=1).astype(np.int64)
        place = {one: k for k, one in enumerate(self.combinations)}
        at = np.array([place.get(tuple(one), -1) for one in numbers.tolist()], dtype=np.int64)
        if (at < 0).any():
            row = frame.iloc[int(np.argmax(at < 0))]
            came = ", ".join(f"{c.column.name}={row[c.column.name]}" for c in self.cells)
            raise BadInput(
                f"{(at < 0).sum():,} rows hold combinations that never occurred in training, the first is {came}",
                accepted=f"combinations of {', '.join(c.column.name for c in self.cells)} that occurred",
            )
        labels = np.array(self.labels, dtype=object)
        return series_of(labels[at], np.zeros(len(at), np.bool_), "str")

    def outward(self, series: pd.Series) -> dict[str, pd.Series]:
        """The columns again."""
        at = pd.Index(self.labels).get_indexer(pd.Index(series))
        numbers = np.array(self.combinations, dtype=np.float64).reshape(-1, len(self.cells))[at]
        return {c.column.name: c.read([numbers[:, j]], len(at)) for j, c in enumerate(self.cells)}


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A column as its distance from a lower one.

    name: of the distance. column, over: the column that it replaces, and the lower one. dtype: of the column.
    unit: microseconds in which distances of dates are counted; 1 for numbers. decimals: of a distance between numbers.
    low, high: bounds of the column.
    """

    name: str
    column: Column
    over: Column
    dtype: Dtype
    unit: int
    decimals: int | None
    low: int | float
    high: int | float

    @classmethod
    def learn(cls, name: str, frame: pd.DataFrame, column: Column, over: Column) -> Distance:
        """Units and bounds, from rows without a missing cell."""
        values = numbers_in(frame[column.name], column)[0]
        unit, decimals = 1, None
        if kind_of(column) == "date":
            gaps = values - numbers_in(frame[over.name], over)[0]
            unit = next(u for u in (DAY, SECOND, 1) if not (gaps % u).any())
        elif column.decimals is not None and over.decimals is not None:
            decimals = max(column.decimals, over.decimals)
        return cls(
            name=name,
            column=column,
            over=over,
            dtype=dtype_of(frame[column.name], column),
            unit=unit,
            decimals=decimals,
            low=values.min().item(),
            high=values.max().item(),
        )

    @property
    def whole(self) -> bool:
        return "number" not in (kind_of(self.column), kind_of(self.over))

    @property
    def log_scale(self) -> float:
        """log of the units in what the column's density is said of: a day, or 1."""
        return math.log(DAY / self.unit) if kind_of(self.column) == "date" else 0.0

    def inward(self, frame: pd.DataFrame) -> pd.Series:
        """The distances: int64 between whole numbers and dates, else float64."""
        (high, absent), (low, missing) = (numbers_in(frame[c.name], c) for c in (self.column, self.over))
        if (absent | missing).any():
            raise BadInput(
                f"'{self.column.name}' or '{self.over.name}' is missing in {(absent | missing).sum():,} rows",
                accepted="no missing cells, as in training",
            )
        if self.whole:
            return pd.Series((high - low) // self.unit)
        away = high.astype(np.float64) - low
        return pd.Series(away if self.decimals is None else np.round(away, self.decimals) + 0.0)

    def outward(self, frame: pd.DataFrame) -> pd.Series:
        """The column again, inside its bounds."""
        distance, low = frame[self.name].to_numpy(), numbers_in(frame[self.over.name], self.over)[0]
        value: NDArray[Any] = (low + distance * self.unit).clip(self.low, self.high)
        if kind_of(self.column) == "number" and self.column.decimals is not None:
            value = np.round(value, self.column.decimals) + 0.0
        elif kind_of(self.column) != "number" and not self.whole:
            value = np.rint(value).astype(np.int64)
        return series_of(value, np.zeros(len(value), np.bool_), self.dtype)


@dataclass(frozen=True, kw_only=True)
class Total:
    """A column that is computed, and what it is in the table."""

    name: str
    dtype: Dtype


@dataclass(frozen=True, kw_only=True)
class _Stored:
    constraints: tuple[str, ...]
    target: str | None
    order: tuple[str, ...]
    columns: tuple[Column, ...]
    joined: tuple[Joined, ...]
    distances: tuple[Distance, ...]
    totals: tuple[Total, ...]


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The columns of a table as users see them (outer) and as cells are learned for them (inner).

    outer: in the table's order. target: the column that is the condition. Without constraints both are the same.
    """

    outer: tuple[Column, ...]
    target: str | None = None
    constraints: tuple[Constraint, ...] = ()
    joined: tuple[Joined, ...] = ()
    distances: tuple[Distance, ...] = ()
    totals: tuple[Total, ...] = ()
    by_name: Mapping[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {c.name: c for c in self.outer})

    @classmethod
    def learn(
        cls, frame: pd.DataFrame, columns: tuple[Column, ...], constraints: Sequence[Constraint], target: str | None
    ) -> Arrangement:
        """How the rows (N) keep the constraints. Raises BadInput for rows that break them."""
        if not constraints:
            return cls(outer=columns, target=target)
        if broken := breaking(constraints, frame, columns):
            raise refusal(broken)
        kept = check_together(constraints, target)
        by_name, taken = {c.name: c for c in columns}, {c.name for c in columns}
        groups = [c for c in kept if isinstance(c, Together)]
        sums = [c for c in kept if isinstance(c, Sum)]
        joined = tuple(
            Joined.learn(fresh(" & ".join(g.columns), taken), frame, [by_name[n] for n in g.columns]) for g in groups
        )
        settled = {n for g in groups for n in g.columns} | {s.total for s in sums} | {target or ""}
        distances: list[Distance] = []
        for o in (c for c in kept if isinstance(c, Order)):
            if isinstance(o.low, str) and isinstance(o.high, str) and not {o.low, o.high} & settled:
                ends = [by_name[o.low], by_name[o.high]]
                free = o.high not in {d.column.name for d in distances}
                if free and not _leads(o.low, o.high, distances) and _worth(frame, *ends):
                    name = fresh(f"{o.high} - {o.low}", taken)
                    distances.append(Distance.learn(name, frame, by_name[o.high], by_name[o.low]))
        totals = tuple(Total(name=s.total, dtype=dtype_of(frame[s.total], by_name[s.total])) for s in sums)
        return cls(
            outer=columns,
            target=target,
            constraints=kept,
            joined=joined,
            distances=tuple(distances),
            totals=totals,
        )

    # ------------------------------------------------------------------------------------------------ there and back

    def inward(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows as cells are learned for them. Raises BadInput for rows that break a constraint."""
        if not self.constraints:
            return frame
        needed = [n for c in self.constraints for n in c.names if n not in frame.columns and n != self.target]
        if needed:
            raise BadInput(
                f"the table has no column '{needed[0]}'",
                accepted=", ".join(c.name for c in self.outer),
                why="A constraint of the model names it.",
            )
        known = [c for c in self.constraints if all(n in frame.columns for n in c.names)]
        if broken := breaking(known, frame, self.outer):
            raise refusal(broken)
        out = {str(name): frame[name] for name in frame.columns if name not in self.replaced}
        for group in self.joined:
            out[group.name] = group.inward(frame)
        for distance in self.distances:
            out[distance.name] = distance.inward(frame)
        return pd.DataFrame(out, index=frame.index)

    def inner(self, frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Column, ...]]:
        """The rows that cells are learned from, and their columns, in the order of the table."""
        rows = self.inward(frame)
        columns: list[Column] = []
        for column in self.outer:
            group = next((g for g in self.joined if g.cells[0].column.name == column.name), None)
            distance = next((d for d in self.distances if d.column.name == column.name), None)
            if group is not None:
                columns.append(group.column())
            elif distance is not None:
                series = rows[distance.name]
                wanted = {} if series.nunique() == 1 else {distance.name: "integer" if distance.whole else "number"}
                columns.append(infer(pd.DataFrame({distance.name: series}), wanted)[1][0])
            elif column.name not in self.replaced:
                columns.append(column)
        return rows, tuple(columns)

    @property
    def replaced(self) -> frozenset[str]:
        """Outer columns that no cells are learned for."""
        grouped = {c.column.name for g in self.joined for c in g.cells}
        return frozenset(grouped | {d.column.name for d in self.distances} | {t.name for t in self.totals})

    def place_of(self, name: str) -> str | None:
        """The inner column that holds an outer one, or decides over it; None for one that is computed."""
        found = [g.name for g in self.joined if name in {c.column.name for c in g.cells}]
        found += [d.name for d in self.distances if d.column.name == name]
        return found[0] if found else None if name in self.replaced else name

    def outward(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows as users see them; every one keeps the constraints that can be kept by moving a number."""
        return self._computed(self._settled(self._opened(rows)))

    def moved(self, rows: pd.DataFrame) -> Bools:
        """(N,) bool: inner rows that `outward` has to move, or that break a constraint even so."""
        whole = self._computed(self._opened(rows))
        return ~np.logical_and.reduce([holds(c, whole, self.by_name) for c in self.watched], initial=True) | np.zeros(
            len(rows), np.bool_
        )

    @property
    def watched(self) -> tuple[Order, ...]:
        """Orders that cells alone do not keep."""
        totals = {t.name for t in self.totals}
        written = {(d.over.name, d.column.name) for d in self.distances}
        return tuple(
            c
            for c in self.constraints
            if isinstance(c, Order) and (c.low, c.high) not in written and (len(c.names) == 2 or totals & set(c.names))
        )

    def broken(self, frame: pd.DataFrame) -> Bools:
        """(N,) bool: outer rows that break a constraint."""
        out = np.zeros(len(frame), dtype=np.bool_)
        for c in self.constraints:
            out |= ~holds(c, frame, self.by_name)
        return out

    def _opened(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Combinations and distances as the columns that they stand for; totals are still to come."""
        if not self.constraints:
            return rows
        out = {str(name): rows[name] for name in rows.columns}
        for group in self.joined:
            out |= group.outward(out.pop(group.name))
        for distance in self._in_order():
            both = pd.DataFrame({distance.name: out.pop(distance.name), distance.over.name: out[distance.over.name]})
            out[distance.column.name] = distance.outward(both)
        return pd.DataFrame(out)

    def _in_order(self) -> list[Distance]:
        """Each distance after the one that gives its lower column."""
        by_column = {d.column.name: d for d in self.distances}
        graph = {n: [d.over.name] if d.over.name in by_column else [] for n, d in by_column.items()}
        return [by_column[n] for n in TopologicalSorter(graph).static_order()]

    def _computed(self, frame: pd.DataFrame) -> pd.DataFrame:
        sums = {c.total: c for c in self.constraints if isinstance(c, Sum)}
        dtypes = {t.name: t.dtype for t in self.totals}
        out = {str(name): frame[name] for name in frame.columns}
        for name, sum_ in sums.items():  # in the order in which they can be computed
            values, missing = total_of(sum_, pd.DataFrame(out), self.by_name)
            dtype: Dtype = "Int64" if dtypes[name] == "int64" and missing.any() else dtypes[name]
            out[name] = series_of(values, missing, dtype)
        return pd.DataFrame({c.name: out[c.name] for c in self.outer if c.name in out})

    def _settled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Numbers that break an order moved to its bound: upwards first, then what lies below a fixed column down."""
        orders = [c for c in self.constraints if isinstance(c, Order)]
        if (
            not orders
            or not len(frame)
            or all(holds(c, frame, self.by_name).all() for c in orders if self._here(c, frame))
        ):
            return frame
        fixed = {t.name for t in self.totals} | {self.target} | {c.column.name for g in self.joined for c in g.cells}
        names = sorted({n for o in orders for n in o.names} - {t.name for t in self.totals})
        held = {n: numbers_in(frame[n], self.by_name[n]) for n in names if n in frame.columns}
        graph: dict[str, list[str]] = {n: [] for n in held}
        for o in orders:
            if isinstance(o.low, str) and o.high in graph and o.low in graph:
                graph[str(o.high)].append(o.low)
        order = list(TopologicalSorter(graph).static_order())
        for up in (True, False):
            for name in order if up else reversed(order):
                for o in (c for c in orders if (c.high if up else c.low) == name and name not in fixed):
                    other = o.low if up else o.high
                    if not isinstance(other, str) or other in held:
                        self._push(held, name, other, o.strict, up)
        out = {str(n): frame[n] for n in frame.columns}
        for name in set(held) - fixed:
            values, missing = held[name]
            out[name] = series_of(values, missing, dtype_of(frame[name], self.by_name[name]))
        return pd.DataFrame(out)

    def _here(self, c: Constraint, frame: pd.DataFrame) -> bool:
        return all(n in frame.columns for n in c.names)

    def _push(
        self, held: dict[str, tuple[NDArray[Any], Bools]], name: str, other: str | float, strict: bool, up: bool
    ) -> None:
        """Move a column's values in place to where the order with another column, or a number, holds."""
        values, missing = held[name]
        bound, absent = held[other] if isinstance(other, str) else (np.full(len(values), other), np.zeros_like(missing))
        column = self.by_name[name]
        whole = values.dtype.kind == "i"
        if whole and bound.dtype.kind != "i":
            edge = np.ceil(bound) if up else np.floor(bound)
            inside = edge != bound  # the whole number beside it is already on the right side
            bound = edge.astype(np.int64)
        else:
            bound, inside = bound.astype(values.dtype), np.zeros_like(missing)
        if strict:
            step = _least_step(column)
            near = bound + (step if up else -step)
            if not whole:
                near = near if step else np.nextafter(bound, np.inf if up else -np.inf)
            bound = np.where(inside, bound, near)
        wrong = (values < bound if up else values > bound) & ~missing & ~absent
        held[name] = (np.where(wrong, bound, values), missing)

    # ------------------------------------------------------------------------------------------------------- storing

    def plain(self) -> dict[str, Any]:
        return to_plain(
            _Stored(
                constraints=tuple(c.text for c in self.constraints),
                target=self.target,
                order=tuple(c.name for c in self.outer),
                columns=tuple(c for c in self.outer if c.name in self.replaced),
                joined=self.joined,
                distances=self.distances,
                totals=self.totals,
            )
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], inner: Sequence[Column]) -> Arrangement:
        """The inverse of `plain`, given the columns that cells were learned for."""
        stored = stored_settings(_Stored, plain)
        names = {c.name: c for c in (*inner, *stored.columns)}
        if strange := [n for n in stored.order if n not in names]:
            raise BadInput(f"the stored column '{strange[0]}' is not described", accepted="every column's kind")
        outer = tuple(names[n] for n in stored.order)
        read = [read_constraint(text, outer) for text in stored.constraints]
        found = cls(outer=outer, target=stored.target)
        found = replace(
            found,
            constraints=check_together(read, stored.target),
            joined=stored.joined,
            distances=stored.distances,
            totals=stored.totals,
        )
        computed = {c.total for c in found.constraints if isinstance(c, Sum)}
        grouped = {n for c in found.constraints if isinstance(c, Together) for n in c.columns}
        wanted = (set(stored.order) - found.replaced) | {g.name for g in found.joined}
        wanted |= {d.name for d in found.distances}
        if (
            computed != {t.name for t in stored.totals}
            or grouped != {c.column.name for g in stored.joined for c in g.cells}
            or wanted != {c.name for c in inner}
            or any(d.over.name not in names for d in stored.distances)
        ):
            raise BadInput("the stored columns do not fit the stored constraints", accepted="what a codec wrote")
        return found


def _leads(name: str, to: str, distances: Sequence[Distance]) -> bool:
    """Is a column read from another one, over however many distances?"""
    over = {d.column.name: d.over.name for d in distances}
    while name in over:
        name = over[name]
        if name == to:
            return True
    return False


def _worth(frame: pd.DataFrame, low: Column, high: Column) -> bool:
    """Is the distance there in every row, and spread less than the higher column itself?"""
    (a, missing), (b, absent) = numbers_in(frame[low.name], low), numbers_in(frame[high.name], high)
    if missing.any() or absent.any() or "constant" in (low.kind, high.kind) or not len(a):
        return False
    return bool(np.std(b.astype(np.float64) - a) < np.std(b.astype(np.float64)))


def _least_step(column: Column) -> int | float:
    """The least step of a column: whole for integers and dates (microseconds); 0 for numbers without a grid."""
    if kind_of(column) == "date":
        return max(1, round((column.step or 1e-6) * SECOND))
    if kind_of(column) == "integer":
        return 1
    return column.step or (10.0**-column.decimals if column.decimals is not None else 0.0)
