"""What kind each column of a table is, found from its values, and the table in one normal form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "Kind"]

Kind = Literal["number", "integer", "category", "boolean", "date", "constant", "empty"]
Stored = Literal["text", "integer", "number", "boolean", "date"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What was found out about one column; plain values only, so it can be saved as JSON.

    name, kind: the kind decides the dtype in the normalised frame:
        number float64 (missing NaN); integer int64, or Int64 where values are missing; category str;
        boolean bool, or boolean where values are missing; date datetime64[us]; constant: as its `stored` says; empty float64 NaN.
    stored: what the values were before: a category may have been stored as an integer, an integer as a number ("63.0").
    missing, distinct: how many cells are missing, and how many different values the others have.
    low, high: smallest and largest value (dates: seconds since 1970-01-01), None for text.
    step: every value lies on low + k * step, k whole (dates: seconds); None when there is no such grid.
    decimals: digits after the point that hold every value, None when more than 9.
    format: the strftime format of dates; ".2f" and the like where every number was written with the same decimals.
    skew: third standardised moment of numbers and integers; beyond about 2 in size there is a long tail.
    levels: the values of a category in order; ("false", "true") as written for a boolean; the one value of a constant.
    missing_as: how a missing cell was written, so that it can be written so again.
    """

    name: str
    kind: Kind
    stored: Stored
    missing: int
    distinct: int
    low: float | None = None
    high: float | None = None
    step: float | None = None
    decimals: int | None = None
    format: str | None = None
    skew: float | None = None
    levels: tuple[str, ...] | None = None
    missing_as: str = ""
