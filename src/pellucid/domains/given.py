"""A normalised table back in the form it came in: with the types its values had, or as the text of a file."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pellucid.domains.coded import Stored, number_text
from pellucid.domains.columns import Column

__all__ = ["as_given", "as_written"]


def as_given(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """A normalised frame with the types the values had before: dates as text in their format, integers for codes.

    >>> from pellucid.domains.columns import infer
    >>> normal, columns, _ = infer(pd.DataFrame({"zip": [12345, 99, 12345]}), {"zip": "category"})
    >>> normal["zip"].tolist(), as_given(normal, columns)["zip"].tolist()
    (['12345', '99', '12345'], [12345, 99, 12345])
    """
    return pd.DataFrame({c.name: _given(frame[c.name], c) for c in columns}, index=frame.index)


def as_written(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """A normalised frame as the text of a file: decimals, date formats and marks for missing values as they were."""
    return pd.DataFrame({c.name: _written(frame[c.name], c) for c in columns}, index=frame.index)


def _given(values: pd.Series, column: Column) -> pd.Series:
    kind, stored = column.kind, column.stored
    if kind == "number" and column.decimals is not None:
        return values.round(column.decimals)
    if kind == "integer" and stored == "number":
        return values.astype("Float64").astype("float64")
    if kind == "date" and stored == "text":
        return values.dt.strftime(column.format or "%Y-%m-%d %H:%M:%S")
    if kind == "boolean" and stored != "boolean":
        assert column.levels is not None
        text = values.map({False: column.levels[0], True: column.levels[1]})
        return text if stored == "text" else _retyped(text, stored)
    if kind == "category" and stored != "text":
        return _retyped(values, stored)
    return values


def _retyped(text: pd.Series, stored: Stored) -> pd.Series:
    if stored == "date":
        return pd.to_datetime(text)
    if stored == "boolean":
        return text.map({"False": False, "True": True}).astype("boolean")
    numbers = pd.to_numeric(text)
    return numbers.astype("Int64") if stored == "integer" and numbers.isna().any() else numbers


def _written(values: pd.Series, column: Column) -> pd.Series:
    if column.kind == "constant":
        text = pd.Series(column.levels[0] if column.levels else "", index=values.index)
    elif column.kind == "number" or (column.kind == "integer" and column.format):
        text = _given(values, column).map(lambda v: number_text(float(v), column.format), na_action="ignore")
    elif column.kind == "boolean" and column.levels is not None:
        text = values.map({False: column.levels[0], True: column.levels[1]})
    elif column.kind == "date":
        text = values.dt.strftime(column.format or "%Y-%m-%d %H:%M:%S")
    else:
        text = values.map(str, na_action="ignore")
    return text.astype(object).where(values.notna(), column.missing_as)
