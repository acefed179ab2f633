"""A chart as a table: for readers who do not see it, and for media that cannot draw."""

from __future__ import annotations

import functools
import math

from pellucid.core.blocks import Bars, Cell, Curve, Measured, Scatter, Table

__all__ = ["numbers_of"]


@functools.singledispatch
def numbers_of(block: Curve | Bars | Scatter, most: int = 40) -> Table:
    """The numbers of a chart; of a curve at most so many points, evenly taken.

    >>> numbers_of(Bars(["a", "b"], [0.5, 0.25], value_label="share")).rows
    (('a', 0.5), ('b', 0.25))
    """
    raise TypeError(f"{type(block).__name__} is not a chart; register its numbers in chart_tables.")


@numbers_of.register
def _(block: Curve, most: int = 40) -> Table:
    several = len(block.series) > 1
    banded = any(s.low is not None for s in block.series)
    rows: list[list[Cell]] = []
    for s in block.series:
        n = len(s.x)
        share = min(n, max(2, most // max(1, len(block.series))))
        for k in range(share):
            i = k * (n - 1) // (share - 1) if share > 1 else 0
            ends: list[Cell] = [s.low[i] if s.low is not None else None, s.high[i] if s.high is not None else None]
            rows.append([*([s.name] if several else []), s.x[i], s.y[i], *(ends if banded else [])])
    total = sum(len(s.x) for s in block.series)
    caption = f"{len(rows)} of {total:,} points" if len(rows) < total else ""
    columns = [
        *(["line"] if several else []),
        block.x_label or "x",
        block.y_label or "y",
        *(["low", "high"] if banded else []),
    ]
    return Table(columns, rows, caption)


@numbers_of.register
def _(block: Bars, most: int = 40) -> Table:
    rows: list[list[Cell]] = []
    for i, (label, value) in enumerate(zip(block.labels, block.values, strict=True)):
        low, high = (block.low[i], block.high[i]) if block.low is not None and block.high is not None else (None, None)
        rows.append([label, value if low is None else Measured(value, low, high)])
    return Table(["", block.value_label or "value"], rows)


@numbers_of.register
def _(block: Scatter, most: int = 40) -> Table:
    """Size, middle and spread of each group of points."""
    rows: list[list[Cell]] = []
    for name, points in block.groups.items():
        finite = points[(abs(points) < math.inf).all(axis=1)]
        middle, spread = (finite.mean(axis=0), finite.std(axis=0)) if len(finite) else ([math.nan] * 2, [math.nan] * 2)
        rows.append([name, len(points), *(float(v) for pair in zip(middle, spread, strict=True) for v in pair)])
    x, y = block.x_label or "x", block.y_label or "y"
    return Table(["group", "points", f"{x}: mean", f"{x}: spread", f"{y}: mean", f"{y}: spread"], rows)
