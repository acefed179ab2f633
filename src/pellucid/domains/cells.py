"""How the cells of one column become fields of an event, and how fields become cells again.

Three ways: a column that never changes takes no field (`Fixed`); categories, booleans and few different numbers
become symbols (`Symbols`); other numbers and dates become scores on the column's own ruler (`Numbers`, in
rulers.py).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.errors import BadInput, nearest
from pellucid.core.settings import to_plain
from pellucid.core.space import Field, Tokens
from pellucid.domains.columns import Column
from pellucid.domains.scales import Floats

__all__ = ["Bools", "Cells", "Dtype", "Fixed", "Symbols", "Value", "fresh", "kind_of", "numbers_in", "series_of"]

Bools = NDArray[np.bool_]
Value = int | float | str | bool
Dtype = Literal["str", "int64", "Int64", "float64", "bool", "boolean", "datetime64[us]"]

TEXT = pd.Series(["text"]).dtype  # what this pandas calls text


class Cells(abc.ABC):
    """One column's way into an event and back. dtype: of the normalised series."""

    how: ClassVar[str]
    column: Column
    dtype: Dtype

    @abc.abstractmethod
    def fields(self, taken: set[str]) -> tuple[Field, ...]:
        """The column's fields; helper fields get names that are not in `taken`."""

    @abc.abstractmethod
    def write(self, series: pd.Series) -> list[Floats]:
        """One array (N,) a field, from N cells."""

    @abc.abstractmethod
    def read(self, parts: Sequence[Floats], rows: int) -> pd.Series:
        """The inverse of `write`; impossible symbols and numbers go to the nearest possible ones."""

    @abc.abstractmethod
    def log_volume(self, parts: Sequence[Floats], rows: int) -> Floats:
        """(N,) log |d fields / d cell| per unit of the column (dates: per day); 0 where the cell is a symbol."""

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """Everything but tensors, as JSON values."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Learned tensors."""


@dataclass(frozen=True, kw_only=True)
class Fixed(Cells):
    """A column with one value, or with none: written down once and reproduced.

    value: the one value (a date in microseconds since 1970-01-01); None when every cell is missing.
    """

    how = "fixed"

    column: Column
    dtype: Dtype
    value: Value | None = None

    @classmethod
    def learn(cls, column: Column, series: pd.Series) -> Fixed:
        """The value of the first cell."""
        dtype = dtype_of(series, column)
        if column.kind == "empty" or bool(series.isna().all()):
            return cls(column=column, dtype=dtype)
        if dtype == "str":
            return cls(column=column, dtype=dtype, value=str(series.iloc[0]))
        return cls(column=column, dtype=dtype, value=numbers_in(series, column)[0][0].item())

    def fields(self, taken: set[str]) -> tuple[Field, ...]:
        return ()

    def write(self, series: pd.Series) -> list[Floats]:
        """No field; a cell that differs from the one value is refused, because it would be lost."""
        if self.value is None:
            same = series.isna().to_numpy()
        elif self.dtype == "str":
            text = texts_in(series, self.column)
            same = (text == self.value).to_numpy(dtype=np.bool_, na_value=False)
        else:
            found, missing = numbers_in(series, self.column)
            same = (found == self.value) & ~missing
        if not same.all():
            raise BadInput(
                f"column '{self.column.name}' holds '{series[~same].iloc[0]}' ({(~same).sum():,} cells differ)",
                accepted="empty cells only" if self.value is None else f"'{self.value}' in every row",
                why="it never changed in training, so that nothing was learned about it",
            )
        return []

    def read(self, parts: Sequence[Floats], rows: int) -> pd.Series:
        value = ("" if self.dtype == "str" else 0) if self.value is None else self.value
        return series_of(np.full(rows, value), np.full(rows, self.value is None), self.dtype)

    def log_volume(self, parts: Sequence[Floats], rows: int) -> Floats:
        return np.zeros(rows)

    def plain(self) -> dict[str, Any]:
        return {"how": self.how, **to_plain(self)}

    def tensors(self) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Symbols(Cells):
    """One symbol a value, in order, and one more for a missing cell.

    values: k of them: text, False and True, numbers, or dates in microseconds since 1970-01-01.
    gap: may cells be missing? Their symbol is k.
    """

    how = "symbols"

    column: Column
    dtype: Dtype
    values: tuple[Value, ...]
    gap: bool

    def __post_init__(self) -> None:
        types: dict[str, tuple[type, ...]] = {"category": (str,), "boolean": (bool,), "number": (int, float)}
        kind = kind_of(self.column)
        fits = all(type(v) in types.get(kind, (int,)) for v in self.values)
        fits = fits and len(set(self.values)) == len(self.values)
        if not fits or (kind != "category" and list(self.values) != sorted(self.values)):
            raise BadInput(
                f"column '{self.column.name}' has symbols for {self.values[:5]}",
                accepted=f"distinct values of a {kind}, in order",
            )
        if not self.values and not self.gap:
            raise BadInput(f"column '{self.column.name}' has no symbol", accepted="one or more")

    @classmethod
    def learn(cls, column: Column, series: pd.Series, gap: bool) -> Symbols:
        """A symbol for each level of a category, else for each value seen."""
        kind, dtype = kind_of(column), dtype_of(series, column)
        if kind == "category":
            values: tuple[Value, ...] = column.levels or tuple(sorted(map(str, series.dropna().unique())))
        elif kind == "boolean":
            values = (False, True)
        else:
            found, missing = numbers_in(series, column)
            values = tuple(np.unique(found[~missing]).tolist())
        return cls(column=column, dtype=dtype, values=values, gap=gap)

    @property
    def size(self) -> int:
        """Symbols, the missing one included."""
        return len(self.values) + self.gap

    def fields(self, taken: set[str]) -> tuple[Field, ...]:
        ordered = 0 if kind_of(self.column) == "category" else len(self.values)
        return (Field(self.column.name, Tokens(self.size, 1, ordered=(ordered,))),)

    def write(self, series: pd.Series) -> list[Floats]:
        """A number that was not seen in training takes the symbol of the nearest one; an unknown text is refused."""
        if kind_of(self.column) == "category":
            text = texts_in(series, self.column)
            missing = text.isna().to_numpy()
            symbol = pd.Index(self.values, dtype=object).get_indexer(pd.Index(text.astype(object)))
            if (strange := ~missing & (symbol < 0)).any():
                word = str(text[strange].iloc[0])
                raise BadInput(
                    f"column '{self.column.name}' holds '{word}' ({strange.sum():,} cells are unknown)",
                    accepted="values of the training table",
                    next=nearest(word, [str(v) for v in self.values]),
                )
        else:
            found, missing = numbers_in(series, self.column)
            symbol = self._nearest(found, missing)
        if missing.any() and not self.gap:
            raise BadInput(
                f"column '{self.column.name}' has {missing.sum():,} missing cells",
                accepted="no missing cells, as in training",
            )
        return [np.where(missing, len(self.values), symbol).astype(np.float64)]

    def _nearest(self, found: NDArray[Any], missing: Bools) -> NDArray[np.int64]:
        if not self.values:
            if not missing.all():
                raise BadInput(f"column '{self.column.name}' has values", accepted="missing cells only, as in training")
            return np.zeros(len(found), dtype=np.int64)
        values = np.array(self.values, dtype=found.dtype)
        right = np.searchsorted(values, found).clip(0, len(values) - 1)
        left = (right - 1).clip(0)
        return np.where(np.abs(found - values[left]) <= np.abs(values[right] - found), left, right)

    def read(self, parts: Sequence[Floats], rows: int) -> pd.Series:
        symbol = np.rint(parts[0]).clip(0, self.size - 1).astype(np.int64)
        kind = kind_of(self.column)
        filler: Value = "" if kind == "category" else self.values[0] if self.values else 0
        dtype = {"category": object, "boolean": np.bool_, "number": np.float64}.get(kind, np.int64)
        values: NDArray[Any] = np.array([*self.values, filler], dtype=dtype)
        return series_of(values[symbol], symbol == len(self.values), self.dtype)

    def log_volume(self, parts: Sequence[Floats], rows: int) -> Floats:
        return np.zeros(rows)

    def plain(self) -> dict[str, Any]:
        return {"how": self.how, **to_plain(self)}

    def tensors(self) -> dict[str, Tensor]:
        return {}


def kind_of(column: Column) -> Literal["number", "integer", "category", "boolean", "date"]:
    """What a column's cells are, also when they never change."""
    if column.kind in ("constant", "empty"):
        return "category" if column.stored == "text" else column.stored
    return column.kind  # type: ignore[return-value]


def dtype_of(series: pd.Series, column: Column) -> Dtype:
    """The name of a normalised series' dtype."""
    name = str(series.dtype)
    if name in ("int64", "Int64", "float64", "bool", "boolean", "datetime64[us]"):
        return name  # type: ignore[return-value]
    if kind_of(column) == "category":
        return "str"
    raise BadInput(
        f"column '{column.name}' is {name} but its kind is {column.kind}",
        accepted="a table as the reader gives it",
        next="Read the data frame with pellucid.read",
    )


def numbers_in(series: pd.Series, column: Column) -> tuple[NDArray[Any], Bools]:
    """Cells as int64 (integers; dates in microseconds; booleans) or float64, 0 where missing; and which are missing."""
    kind = kind_of(column)
    try:
        if kind == "date":
            moments = pd.to_datetime(series, format=None if series.dtype.kind == "M" else column.format)
            missing = moments.isna().to_numpy()
            return np.where(missing, 0, moments.astype("datetime64[us]").to_numpy().astype(np.int64)), missing
        if kind == "boolean" and series.dtype.kind not in "biuf":
            levels = column.levels or ("False", "True")
            series = series.map({levels[0]: False, levels[1]: True, False: False, True: True})
        missing = series.isna().to_numpy()
        if kind == "number":
            return pd.to_numeric(series).astype("Float64").to_numpy(np.float64, na_value=0.0), missing
        return pd.to_numeric(series).astype("Int64").to_numpy(np.int64, na_value=0), missing
    except (TypeError, ValueError) as error:
        came = f"column '{column.name}' does not hold what it did in training ({error})"
        raise BadInput(came, accepted=f"cells of the kind {kind}") from error


def texts_in(series: pd.Series, column: Column) -> pd.Series:
    """Cells of a category as text, the way the reader writes numbers and booleans that stand for classes."""
    if pd.api.types.is_numeric_dtype(series) or series.dtype.kind == "b":
        return series.map(lambda v: str(v).removesuffix(".0"), na_action="ignore")
    return series.map(str, na_action="ignore") if series.dtype.kind == "M" else series


def series_of(values: NDArray[Any], missing: Bools, dtype: Dtype) -> pd.Series:
    """A column of this dtype; values that are missing are not looked at."""
    if dtype == "str":
        return pd.Series(np.where(missing, np.nan, values.astype(object)), dtype=TEXT)
    if dtype == "Int64":
        return pd.Series(pd.arrays.IntegerArray(values.astype(np.int64), missing.copy()))
    if dtype == "boolean":
        return pd.Series(pd.arrays.BooleanArray(values.astype(np.bool_), missing.copy()))
    if dtype == "float64":
        return pd.Series(np.where(missing, np.nan, values.astype(np.float64)))
    if dtype == "datetime64[us]":
        moments = values.astype(np.int64).astype("datetime64[us]")
        return pd.Series(np.where(missing, np.datetime64("NaT", "us"), moments))
    return pd.Series(values.astype(dtype))


def fresh(name: str, taken: set[str]) -> str:
    """The name, with a mark when something else already has it; added to `taken`.

    >>> fresh("age state", {"age", "age state"})
    "age state'"
    """
    while name in taken:
        name += "'"
    taken.add(name)
    return name
