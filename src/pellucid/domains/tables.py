"""Tables as events: every column becomes symbols, or a score on its own ruler, and comes back as it was.

cells.py and rulers.py hold what is done with one column; here they stand side by side, with the target (the column
to be predicted) as the condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Condition
from pellucid.core.codec import Codec, Completes, Constrains, Domain, Fills, Measures, Part
from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Space, Tokens
from pellucid.domains.arranged import Arrangement, Distance, Joined
from pellucid.domains.asking import check_orders, fixed, joint, meeting, never, values_of
from pellucid.domains.cells import Cells, Fixed, Symbols, kind_of, numbers_in
from pellucid.domains.columns import Column
from pellucid.domains.frames import TableData
from pellucid.domains.keys import Keys
from pellucid.domains.rulers import TOLERANCE, Numbers
from pellucid.domains.scales import Floats
from pellucid.domains.stored import no_tensors, stored_settings
from pellucid.domains.targets import Target
from pellucid.domains.wishes import Others, fulfils, range_of

__all__ = ["TableCodec", "Tables"]

ALWAYS_SYMBOLS = 8  # numbers with so few different values are symbols even where each occurs once
MORE_SYMBOLS = 4  # so many times the setting where values stand apart
OFTEN = 10  # rows a value, the commonest left out
EMPTY = 10  # points of the grid a value


@dataclass(frozen=True, kw_only=True)
class Tables(Domain[TableData]):
    """Settings of the table domain.

    symbols: numbers and dates with so many different values or fewer become symbols, one a value; up to four times
        as many where each occurs often and most of the column's grid between them is empty (amounts of money that
        are always the same few), because numbers drawn between such values would be invented.
    spike: share of rows from which a value of another number gets a symbol of its own, if its neighbours are rarer.
    knots: of each column's ruler, at most.
    """

    kind = "table"

    symbols: int = 64
    spike: float = 0.02
    knots: int = 256

    def __post_init__(self) -> None:
        if self.symbols < 2 or not 0.001 <= self.spike <= 1.0 or self.knots < 2:
            raise BadInput(
                f"Tables(symbols={self.symbols}, spike={self.spike}, knots={self.knots})",
                accepted="symbols 2 or more, spike from 0.001 to 1, knots 2 or more",
            )

    def learn(self, items: TableData) -> TableCodec:
        """A codec for tables with these columns."""
        if not len(items):
            raise BadInput("the table has no rows", accepted="at least one")
        names = [c.name for c in items.columns]
        if items.target is not None and items.target not in names:
            raise BadInput(
                f"target '{items.target}' is no column", accepted=", ".join(names), next=nearest(items.target, names)
            )
        arranged = Arrangement.learn(items.frame, items.columns, items.constraints, items.target)
        rows, columns = arranged.inner(items.frame)
        cells = [self._cells(c, rows[c.name]) for c in columns if c.name != items.target]
        target = None
        if items.target is not None:
            column = items.columns[names.index(items.target)]
            series = items.frame[items.target]
            seen = series[series.notna()]
            target = Target.learn(self._cells(column, seen, target=True), seen)
        return TableCodec(columns, tuple(cells), target, arranged)

    def _cells(self, column: Column, series: pd.Series, *, target: bool = False) -> Cells:
        gap = not target and (column.missing > 0 or bool(series.isna().any()))
        if column.kind in ("constant", "empty"):
            return Fixed.learn(column, series)
        if column.kind == "key" and target:
            raise BadInput(
                f"the target '{column.name}' is an identifier",
                accepted="a column that says something about its row",
                why="Its values are all different, so that none can be learned.",
                next=f"Say --column {column.name}=category if it is none.",
            )
        if column.kind == "key":
            return Keys.learn(column, series)
        if column.kind in ("category", "boolean"):
            return Symbols.learn(column, series, gap)
        found, missing = numbers_in(series, column)
        values, counts = np.unique(found[~missing], return_counts=True)
        few = len(values) <= min(self.symbols, max(ALWAYS_SYMBOLS, counts.sum() // 2))
        if few or (len(values) <= MORE_SYMBOLS * self.symbols and _stand_apart(values, counts, column)):
            return Symbols.learn(column, series, gap or not len(values))
        spike = None if target else self.spike
        return Numbers.learn(column, series, gap=gap, knots=self.knots, spike=spike, pack=not target)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    cells: tuple[Mapping[str, Any], ...]
    target: Mapping[str, Any] | None
    arranged: Mapping[str, Any] | None


class TableCodec(Codec[TableData], Measures, Constrains, Completes, Fills):
    """Columns side by side in one flat event, in the table's order.

    Args:
        columns: of the table, in order, as cells are learned for them.
        cells: one for each column that is not the target, in that order.
        target: the column that is the condition, if one is.
        arranged: between these columns and those that users see, where constraints make a difference.

    `fields(name)` names the fields of a column.
    """

    kind = "table"

    def __init__(
        self,
        columns: tuple[Column, ...],
        cells: tuple[Cells, ...],
        target: Target | None,
        arranged: Arrangement | None = None,
    ) -> None:
        self._inner, self._cells, self._target = columns, cells, target
        self._arranged = arranged or Arrangement(outer=columns, target=None if target is None else target.name)
        self._columns = self._arranged.outer
        taken = {c.name for c in (*columns, *self._columns)}
        self._fields = [c.fields(taken) for c in cells]
        fields = [field for group in self._fields for field in group]
        if not fields:
            raise BadInput(
                "no column of the table changes" + (" besides the target" if target else ""),
                accepted="a table with at least one column that has two different values",
            )
        self._space = Mixed(tuple(fields))

    @property
    def space(self) -> Mixed:
        return self._space

    @property
    def conditions(self) -> Mapping[str, Space]:
        return {} if self._target is None else {self._target.name: self._target.space}

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is known about each column of the table, the target included."""
        return self._columns

    @property
    def target(self) -> str | None:
        """Name of the column that is the condition."""
        return None if self._target is None else self._target.name

    def fields(self, name: str) -> tuple[Field, ...]:
        """The fields of a column; none for one that never changes and for the target."""
        self._column(name)
        place = self._arranged.place_of(name)
        return next((group for c, group in zip(self._cells, self._fields, strict=True) if c.column.name == place), ())

    def encode(self, items: TableData) -> Tensor:
        """(B, D). Raises BadInput for rows that break a constraint."""
        inner = replace(items, frame=self._arranged.inward(items.frame))
        learned = [c for c in self._cells if not isinstance(c, Keys)]
        parts = [part for c in learned for part in c.write(self._series(inner, c.column.name))]
        return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))

    def _series(self, items: TableData, name: str) -> pd.Series:
        if name not in items.frame.columns:
            found = [str(c) for c in items.frame.columns]
            raise BadInput(
                f"the table has no column '{name}'",
                accepted=", ".join(c.column.name for c in self._cells),
                next=nearest(name, found).replace("Did you mean", "It has"),
            )
        return items.frame[name]

    def known(self, items: TableData) -> Condition:
        """The target of each row; where it is missing it is not given."""
        if self._target is None:
            return Condition()
        if self._target.name not in items.frame.columns:
            return Condition.blank(self.conditions, len(items))
        values, given = self._target.write(items.frame[self._target.name])
        return Condition({self._target.name: values}, {self._target.name: given})

    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        condition = Condition.blank(self.conditions, rows)
        for name, word in where.items():
            if self._target is None or name != self._target.name:
                self._column(name)
                raise BadInput(
                    f"'{name}' is a column, not a condition",
                    accepted=", ".join(self.conditions) or "none: no target was named in training",
                    next="Columns are asked for while sampling, or by naming the column as the target in training",
                )
            value = torch.full_like(condition.values[name], self._target.asked(word))
            given = torch.ones(rows, dtype=torch.bool)
            condition = Condition({name: value}, {name: given})
        return condition

    def prior(self, rows: Rows) -> Condition:
        if self._target is None:
            return Condition()
        values = self._target.draw(rows.fork("prior target"))
        return Condition({self._target.name: values}, {self._target.name: torch.ones_like(rows.ids, dtype=torch.bool)})

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> TableData:
        """A table with the columns of the training table; a target that is not given is missing."""
        frame = self._arranged.outward(self._opened(x, condition, rows))
        frame = pd.DataFrame({c.name: frame[c.name] for c in self._columns})
        return TableData(
            frame=frame,
            columns=self._columns,
            source="decoded",
            target=self.target,
            constraints=self._arranged.constraints,
        )

    def _opened(self, x: Tensor, condition: Condition, rows: Rows) -> pd.DataFrame:
        """The columns that cells are learned for."""
        event = _numpy(x)
        if np.isnan(event).any():
            raise BadInput("events hold NaN", accepted="numbers", why="no cell is nearest to it")
        each = zip(self._cells, self._parts(event), strict=True)
        series = {
            c.column.name: c.made(rows) if isinstance(c, Keys) else c.read(parts, len(event)) for c, parts in each
        }
        if self._target is not None:
            series[self._target.name] = self._target.read(condition, len(event))
        return pd.DataFrame({c.name: series[c.name] for c in self._inner})

    @property
    def constraints(self) -> tuple[str, ...]:
        """What was declared, in the user's words."""
        return tuple(dict.fromkeys(c.text for c in self._arranged.constraints))

    def watched(self) -> tuple[str, ...]:
        return tuple(c.text for c in self._arranged.watched)

    def moved(self, x: Tensor, condition: Condition, rows: Rows) -> NDArray[np.bool_]:
        return self._arranged.moved(self._opened(x, condition, rows))

    def broken(self, items: TableData) -> NDArray[np.bool_]:
        return self._arranged.broken(items.frame)

    def _parts(self, event: Floats) -> Iterable[list[Floats]]:
        """The fields of each column: (B,) each."""
        at = 0
        for group in self._fields:
            yield [event[:, at + k] for k in range(len(group))]
            at += len(group)

    def meets(self, items: TableData, where: Mapping[str, object]) -> NDArray[np.bool_]:
        fulfilled = np.ones(len(items), dtype=np.bool_)
        for name, word in where.items():
            column = self._column(name)
            fulfilled &= fulfils(self._series(items, name), column, word)
        return fulfilled

    # ----------------------------------------------------------------------------------------------- parts of an event

    def _group(self, name: str) -> Joined | None:
        """The joined columns that this one belongs to."""
        return next((g for g in self._arranged.joined if name in {c.column.name for c in g.cells}), None)

    def _own(self, name: str) -> Cells | None:
        """How a column's cells are written by themselves; None where that follows from other columns."""
        self._column(name)
        if name == self.target and self._target is not None:
            return self._target.cells
        return next((c for c in self._cells if c.column.name == name), None)

    def possible(self, where: Mapping[str, object]) -> None:
        for name, word in where.items():
            own, group = self._own(name), self._group(name)
            if own is not None:
                meeting(own, word)
            elif group is not None:
                joint(group, where)
            else:
                fulfils(pd.Series(dtype=object), self._column(name), word)  # refuses what cannot be read
                for distance in self._arranged.distances:
                    if distance.column.name == name and (word is None or not self._reaches(distance, word)):
                        raise never(self._column(name), word, [f"{distance.low} to {distance.high}"])
        check_orders(self._arranged, where)

    def _reaches(self, distance: Distance, word: object) -> bool:
        if isinstance(word, Others) or str(word).startswith("!="):
            return True
        low, high = range_of(distance.column, word)
        return low <= distance.high and high >= distance.low

    def part(self, where: Mapping[str, object]) -> tuple[Part, ...]:
        found, done = [], set[str]()
        for name, word in where.items():
            own, group = self._own(name), self._group(name)
            if group is not None and group.name not in done:
                done.add(group.name)
                numbers = np.flatnonzero(joint(group, where))
                names = tuple(c.column.name for c in group.cells if c.column.name in where)
                if len(numbers) == 1:
                    found.append(self._part(group.name, [float(numbers[0])], names))
            elif own is not None and name != self.target and (values := fixed(own, word)) is not None:
                found.append(self._part(name, values, (name,)))
        return tuple(found)

    def _part(self, place: str, values: Sequence[float], names: tuple[str, ...]) -> Part:
        x, known, at = torch.zeros(self._space.shape), torch.zeros(self._space.shape, dtype=torch.bool), 0
        for cells, group in zip(self._cells, self._fields, strict=True):
            if cells.column.name == place:
                x[at : at + len(group)] = torch.tensor(values)
                known[at : at + len(group)] = True
            at += len(group)
        return Part(x, known, names)

    def levels(self, name: str) -> tuple[str, ...]:
        column, group = self._column(name), self._group(name)
        own = self._own(name)
        if group is not None:
            own = next(c for c in group.cells if c.column.name == name)
        if not isinstance(own, Symbols):
            raise BadInput(
                f"'{name}' is a column of the kind {column.kind}",
                accepted="a column of categories, or of few different numbers",
                why="Its values cannot be counted one by one.",
            )
        words = [str(v) for v in values_of(own)[: len(own.values)]]
        words = list(column.levels) if kind_of(column) == "boolean" and column.levels else words
        counts = self._target.counts if self._target is not None and name == self.target else ()
        return tuple(w for k, w in enumerate(words) if not counts or counts[k])

    def lacks(self, x: Tensor) -> NDArray[np.bool_]:
        event = _numpy(x)
        found = np.zeros(len(event), dtype=np.bool_)
        for cells, parts in zip(self._cells, self._parts(event), strict=True):
            found |= _missing(cells, parts, len(event))
        return found

    def filled(self, x: Tensor, pool: Tensor) -> Tensor:
        out, event, donors, at = x.clone(), _numpy(x), _numpy(pool), 0
        symbols = np.array([isinstance(f.space, Tokens) for f in self._space.fields])
        for cells, group in zip(self._cells, self._fields, strict=True):
            here = slice(at, at + len(group))
            at += len(group)
            parts = [event[:, k] for k in range(here.start, here.stop)]
            gone = np.flatnonzero(_missing(cells, parts, len(event)))
            if not len(gone):
                continue
            there = donors[~_missing(cells, [donors[:, k] for k in range(here.start, here.stop)], len(donors))]
            if not len(there):
                raise BadInput(
                    f"'{cells.column.name}' is missing in each of {len(donors):,} rows that were drawn to fill it from",
                    accepted="columns with values",
                    next="Leave --no-missing out, or fit without this column.",
                )
            rest = np.ones(len(symbols), dtype=np.bool_)
            rest[here] = False
            for row in gone:  # Gower's distance: 1 for another symbol, the difference of scores for numbers
                away = np.abs(there - event[row])
                away = np.where(symbols, away > 0, away.clip(max=1.0))[:, rest].sum(axis=1)
                out[row, here] = torch.from_numpy(there[int(away.argmin()), here]).to(out.dtype)
        return out

    def _column(self, name: str) -> Column:
        for column in self._columns:
            if column.name == name:
                return column
        names = [c.name for c in self._columns]
        raise BadInput(f"there is no column '{name}'", accepted=", ".join(names), next=nearest(name, names))

    def tolerance(self) -> float:
        """Of numbers with decimals; whole numbers, dates and symbols come back exactly."""
        return TOLERANCE

    def log_volume(self, x: Tensor) -> Tensor:
        """(B,) sum of log |dz/dx| over the cells that are numbers, each per unit of its column (dates: per day).

        Symbols count 0: an event's likelihood is then part density and part probability, as the item's is. So do
        computed columns, which have probability 1 given the others; identifiers are no part of what is likely.
        """
        event = _numpy(x)
        total = np.zeros(len(event)) + sum(d.log_scale for d in self._arranged.distances)
        for cells, parts in zip(self._cells, self._parts(event), strict=True):
            total += cells.log_volume(parts, len(event))
        return torch.from_numpy(total).to(x.device)

    def dimensions(self) -> int:
        """Columns of the event that change."""
        return sum(bool(group) for group in self._fields)

    def show(self, items: TableData, limit: int = 64) -> report.Table:
        """The first rows."""
        names = [c.name for c in self._columns if c.name in items.frame.columns]
        columns = {c.name: c for c in self._columns}
        first = items.frame.head(limit)
        cells = [[_cell(value, columns[name]) for value in first[name]] for name in names]
        more = f"{len(first)} of {len(items):,} rows" if len(items) > len(first) else ""
        return report.Table(names, list(zip(*cells, strict=True)), caption=more)

    def plain(self) -> dict[str, Any]:
        return {
            "cells": [c.plain() for c in self._in_order()],
            "target": None if self._target is None else self._target.plain(),
            "arranged": self._arranged.plain() if self._arranged.constraints else None,
        }

    def tensors(self) -> dict[str, Tensor]:
        found = {f"{at}.{k}": t for at, c in enumerate(self._in_order()) for k, t in c.tensors().items()}
        target = {} if self._target is None else self._target.tensors()
        return found | {f"target.{k}": t for k, t in target.items()}

    def _in_order(self) -> list[Cells]:
        """The cells of every column, the target's in its place."""
        by_name: dict[str, Cells] = {c.column.name: c for c in self._cells}
        if self._target is not None:
            by_name[self._target.name] = self._target.cells
        return [by_name[c.name] for c in self._inner]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TableCodec:
        stored = stored_settings(_Stored, plain)
        groups: dict[str, dict[str, Tensor]] = {str(at): {} for at in range(len(stored.cells))}
        groups["target"] = {}
        for name, tensor in tensors.items():
            group, _, key = name.partition(".")
            if group not in groups or key not in ("knots", "shares", "quantiles"):
                raise BadInput(f"tensor '{name}' belongs to no column", accepted="knots and shares of a column")
            groups[group][key] = tensor
        cells = [cells_from_plain(c, groups[str(at)]) for at, c in enumerate(stored.cells)]
        columns = tuple(c.column for c in cells)
        if len({c.name for c in columns}) < len(columns):
            raise BadInput("two stored columns have one name", accepted="distinct names")
        arranged = None if stored.arranged is None else Arrangement.from_plain(stored.arranged, columns)
        if arranged is not None and arranged.target != (None if stored.target is None else stored.target.get("name")):
            raise BadInput(f"the constraints were stored for the target '{arranged.target}'", accepted="one target")
        if stored.target is None:
            return cls(columns, tuple(cells), None, arranged)
        wanted = stored.target.get("name")
        chosen = next((c for c in cells if c.column.name == wanted), None)
        if chosen is None:
            raise BadInput(f"the stored target '{wanted}' is no column", accepted=", ".join(c.name for c in columns))
        target = Target.from_plain(stored.target, groups["target"], chosen)
        return cls(columns, tuple(c for c in cells if c is not chosen), target, arranged)


def _stand_apart(values: NDArray[Any], counts: NDArray[np.int64], column: Column) -> bool:
    """Do the values (k,) occur often, on few points of their grid? A column without a grid has endless points."""
    unit = 1e6 if kind_of(column) == "date" else 1.0
    points = float(values[-1] - values[0]) / (column.step * unit) if column.step else np.inf
    often = counts.sum() - counts.max() >= OFTEN * (len(values) - 1)
    return bool(often and points > EMPTY * len(values))


def cells_from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Cells:
    """One column's cells from what its `plain` and `tensors` gave."""
    how, rest = plain.get("how"), {k: v for k, v in plain.items() if k != "how"}
    if how == "numbers":
        return Numbers.from_plain(rest, tensors)
    no_tensors(tensors)
    if how == "symbols":
        return stored_settings(Symbols, rest)
    if how == "fixed":
        return stored_settings(Fixed, rest)
    if how == "keys":
        return stored_settings(Keys, rest)
    raise BadInput(f"a column is stored as {how!r}", accepted="fixed, symbols, numbers, keys")


def _missing(cells: Cells, parts: Sequence[Floats], rows: int) -> NDArray[np.bool_]:
    """(B,) bool: events in which this column's cell is missing and could be there."""
    gap = (isinstance(cells, Symbols) and cells.gap and len(cells.values) > 0) or (
        isinstance(cells, Numbers) and cells.rule.gap
    )
    if not gap:
        return np.zeros(rows, dtype=np.bool_)
    return cells.read(parts, rows).isna().to_numpy(dtype=np.bool_)


def _numpy(x: Tensor) -> NDArray[np.float64]:
    """(B, D) on the CPU in float64."""
    event: NDArray[np.float64] = x.detach().to("cpu", torch.float64).numpy()
    return event


def _cell(value: Any, column: Column) -> report.Cell:
    """A cell as a report shows it."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return str(value.strftime(column.format or "%Y-%m-%d %H:%M:%S"))
    plain: report.Cell = value.item() if isinstance(value, np.generic) else value
    return plain
