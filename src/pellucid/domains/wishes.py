"""What a user's words mean for a column: "Female", "42", "30..40", ">=30", "!=7", "2024-03-01"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pellucid.core.errors import BadInput, nearest
from pellucid.domains.cells import Bools, kind_of, numbers_in, texts_in
from pellucid.domains.columns import Column

__all__ = ["Others", "fulfils", "interval_of", "level_of", "range_of"]

DAY = 86_400_000_000  # microseconds
SHOWN = 12  # accepted values named in an error
COMPARED = re.compile(r"\s*(>=|<=|>|<|=)\s*(.+)")
BETWEEN = re.compile(r"\s*(.+?)\s*\.\.\s*(.+?)\s*")
DAY_ALONE = re.compile(r"\d{4}-\d{2}-\d{2}")
HOURS = re.compile("%[HIcXTs]")
TRUTHS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Others:
    """Any value but these."""

    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"none of {', '.join(self.values)}"


def fulfils(series: pd.Series, column: Column, word: object) -> Bools:
    """(N,) bool: which cells are as the word says. None asks for missing cells; a missing cell fulfils nothing else.

    Categories, booleans and numbers are compared for equality; numbers and dates also take ranges with both ends
    ("30..40") and comparisons (">=30", "<5"). A day without a time is the whole day. "!=7" is any other value.
    """
    if word is None:
        return series.isna().to_numpy(dtype=np.bool_)
    if isinstance(word, str) and word.startswith("!=") and word not in (column.levels or ()):
        word = Others((word[2:].strip(),))
    if isinstance(word, Others):
        unlike = [~fulfils(series, column, value) for value in word.values]
        return np.logical_and.reduce([series.notna().to_numpy(dtype=np.bool_), *unlike])
    if kind_of(column) == "category":
        level = level_of(column, word)
        return (texts_in(series, column) == level).to_numpy(dtype=np.bool_, na_value=False)
    found, missing = numbers_in(series, column)
    low, high = range_of(column, word)
    return np.asarray((found >= low) & (found <= high) & ~missing, dtype=np.bool_)


def level_of(column: Column, word: object) -> str:
    """The level of a category that is meant."""
    levels = column.levels or ()
    if str(word) not in levels:
        raise BadInput(f"{column.name} is '{word}'", accepted=_listed(levels), next=nearest(str(word), levels))
    return str(word)


def interval_of(column: Column, word: object) -> tuple[float, float]:
    """Lowest and highest cell (booleans 0 and 1; dates in microseconds) that one value stands for.

    >>> interval_of(Column(name="age", kind="integer", stored="integer", missing=0, distinct=9), "42")
    (42, 42)
    """
    kind = kind_of(column)
    if kind == "boolean":
        return (_truth(column, word),) * 2
    if kind == "date":
        return _moment(column, word)
    number = _number(column, word)
    if kind == "integer":
        return number, number
    # a decimal number is met by what rounds to it: half a step, or a billionth of the range where there is none
    range_ = (column.high or 0.0) - (column.low or 0.0)
    near = 0.49 * column.step if column.step else 1e-9 * max(range_, abs(number))
    return number - near, number + near


def range_of(column: Column, word: object) -> tuple[float, float]:
    """Lowest and highest cell (as `interval_of` counts them) that fulfil a value, a range or a comparison."""
    if isinstance(word, str) and kind_of(column) != "boolean":
        if found := BETWEEN.fullmatch(word):
            return interval_of(column, found[1])[0], interval_of(column, found[2])[1]
        if found := COMPARED.fullmatch(word):
            low, high = interval_of(column, found[2])
            whole = kind_of(column) != "number"
            below = low - 1 if whole else math.nextafter(low, -math.inf)
            above = high + 1 if whole else math.nextafter(high, math.inf)
            ends = {">=": (low, math.inf), "<=": (-math.inf, high), ">": (above, math.inf), "<": (-math.inf, below)}
            return ends.get(found[1], (low, high))
    return interval_of(column, word)


def _number(column: Column, word: object) -> int | float:
    text = str(word).strip()
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            whole = kind_of(column) == "integer" and float(number).is_integer()
            return int(number) if whole else number
    low, high = (column.low, column.high) if column.low is not None and column.high is not None else (30.0, 40.0)
    raise BadInput(f"{column.name} is '{word}'", accepted=f"a number, a range such as {low:g}..{high:g}, or >={low:g}")


def _truth(column: Column, word: object) -> int:
    levels = column.levels or ("False", "True")
    text = str(word)
    if text in levels:
        return levels.index(text)
    if text.lower() in TRUTHS:
        return int(TRUTHS[text.lower()])
    raise BadInput(f"{column.name} is '{word}'", accepted=_listed(levels), next=nearest(text, levels))


def _moment(column: Column, word: object) -> tuple[int, int]:
    """First and last microsecond of what the word says: a day, or a moment."""
    text = str(word).strip()
    for format_ in (column.format or "ISO8601", "ISO8601"):
        stamp = pd.to_datetime(text, format=format_, errors="coerce")
        if not isinstance(stamp, pd.Timestamp) or pd.isna(stamp):
            continue
        whole_day = DAY_ALONE.fullmatch(text) if format_ == "ISO8601" else not HOURS.search(format_)
        stamp = stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo else stamp
        first = int(stamp.to_datetime64().astype("datetime64[us]").astype(np.int64))
        return first, first + (DAY - 1 if whole_day else 0)
    formats = f"2024-03-01 or as {column.format}" if column.format else "2024-03-01"
    raise BadInput(f"{column.name} is '{word}'", accepted=f"a date as {formats}, or a range a..b")


def _listed(levels: tuple[str, ...]) -> str:
    more = f" and {len(levels) - SHOWN:,} more" if len(levels) > SHOWN else ""
    return ", ".join(levels[:SHOWN]) + more
