"""Cells of a table as numbers: what nearest neighbours, boosted trees and feature matrices each need.

All are learned from real training rows and applied to real and generated rows alike; a value that training did not
have is counted as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.columns import Column
from pellucid.domains.frames import TableData
from pellucid.evaluate.neighbours import Points

__all__ = ["TreeCells", "choices", "codes", "is_choice", "is_number", "levels", "measured", "numbers", "points"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

TREE_LEVELS = 250  # scikit-learn's boosted trees split a category of up to 255 values
SEEN_OFTEN = 5  # rarer values count as one: else any value that training did not have would give real rows away


def is_number(column: Column) -> bool:
    """Is the column one of numbers (whole numbers and dates too)?"""
    return column.kind in ("number", "integer", "date")


def is_choice(column: Column) -> bool:
    """Does the column hold one of some values?"""
    return column.kind in ("category", "boolean")


def measured(data: TableData) -> tuple[Column, ...]:
    """The columns that say something: constant and empty ones are left out."""
    return tuple(c for c in data.columns if is_number(c) or is_choice(c))


def numbers(data: TableData, column: Column) -> Floats:
    """(N,) float64; missing and infinite values are NaN, dates are seconds."""
    cells = _cells(data, column)
    if column.kind == "date":
        stamps = pd.to_datetime(cells, errors="coerce").astype("datetime64[us]")
        seconds = stamps.to_numpy().astype("int64") / 1e6
        return np.where(stamps.isna().to_numpy(), np.nan, seconds)
    values = pd.to_numeric(cells, errors="coerce").to_numpy("float64", na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def choices(data: TableData, column: Column) -> pd.Series[str]:
    """(N,) text, with pandas' own missing value where the cell is missing."""
    cells = _cells(data, column)
    return cells.astype(object).map(str, na_action="ignore").astype("str")


def levels(data: TableData, column: Column, most: int | None = None) -> tuple[str, ...]:
    """The values of a choice, the most frequent first; ties in the order of the alphabet."""
    counts = choices(data, column).value_counts()
    return tuple(sorted(counts.index, key=lambda v: (-counts[v], v))[:most])


def codes(data: TableData, column: Column, known: Sequence[str]) -> Whole:
    """(N,) position among the known values; len(known) for any other value, len(known) + 1 for a missing one."""
    cells = choices(data, column)
    place = {value: i for i, value in enumerate(known)}
    found = cells.map(place).fillna(len(known)).to_numpy(np.int64)
    return np.where(cells.isna(), len(known) + 1, found)


def points(data: TableData, train: TableData) -> Points:
    """Rows as points: numbers on the range of the training rows, choices as symbols.

    Two rows that differ in one choice are as far apart as two at both ends of a column of numbers. A missing number
    stands in the middle, and being missing is a choice of its own.
    """
    columns, symbols = [np.zeros((len(data), 0))], [np.zeros((len(data), 0), np.int64)]
    for column in measured(train):
        if is_number(column):
            seen = numbers(train, column)
            low, high = (np.nanmin(seen), np.nanmax(seen)) if np.isfinite(seen).any() else (0.0, 1.0)
            values = (numbers(data, column) - low) / ((high - low) or 1.0)
            columns.append(np.nan_to_num(values, nan=0.5)[:, None])
            if np.isnan(values).any() or np.isnan(seen).any():
                symbols.append(np.isnan(values).astype(np.int64)[:, None])
        else:
            symbols.append(codes(data, column, levels(train, column))[:, None])
    return Points(np.hstack(columns), np.hstack(symbols))


@dataclass(frozen=True)
class TreeCells:
    """Columns as boosted trees take them: numbers as they are, choices as codes, NaN where missing.

    columns, known: the columns used, and the frequent values of each choice; all others share a code.
    """

    columns: tuple[Column, ...]
    known: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(cls, train: TableData, without: str | None = None) -> TreeCells:
        """From the training rows, leaving one column out."""
        columns = tuple(c for c in measured(train) if c.name != without)
        return cls(columns, tuple(_frequent(train, c) if is_choice(c) else () for c in columns))

    def categorical(self) -> list[bool]:
        """Which columns are categories."""
        return [is_choice(column) for column in self.columns]

    def matrix(self, data: TableData) -> Floats:
        """(N, D) float64."""
        out = np.full((len(data), len(self.columns)), np.nan)
        for j, (column, known) in enumerate(zip(self.columns, self.known, strict=True)):
            if is_number(column):
                out[:, j] = numbers(data, column)
            else:
                code = codes(data, column, known).astype(np.float64)
                out[:, j] = np.where(code <= len(known), code, np.nan)
        return out


def _frequent(train: TableData, column: Column) -> tuple[str, ...]:
    counts = choices(train, column).value_counts()
    return tuple(v for v in levels(train, column, TREE_LEVELS) if counts[v] >= SEEN_OFTEN)


def _cells(data: TableData, column: Column) -> pd.Series:
    if column.name not in data.frame.columns:
        raise BadInput(f"the table has no column '{column.name}'", accepted="the columns that the model was trained on")
    return data.frame[column.name]
