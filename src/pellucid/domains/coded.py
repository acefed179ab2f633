"""A column of any dtype as its distinct values and a code for each row, which is all that the kinds are decided on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.remarks import Remark

__all__ = ["MISSING", "Coded", "Stored", "coded_column", "number_text"]

Stored = Literal["text", "integer", "number", "boolean", "date"]

# "None" and "-" are left out: they are answers in forms and laboratory results.
MISSING = ("", "?", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "NULL", "Null", "null")


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A column as distinct values and codes: row i holds values[codes[i]], or nothing where the code is -1."""

    codes: NDArray[np.int64]  # (N,)
    values: Any  # pa.Array of str, or a numpy array of int64, float64, bool or datetime64[us]
    stored: Stored
    missing_as: str = ""
    format: str | None = None
    levels: tuple[str, ...] | None = None

    @property
    def is_text(self) -> bool:
        return isinstance(self.values, pa.Array)

    def counts(self) -> NDArray[np.int64]:
        """How many rows hold each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def tidy(self) -> Coded:
        """The same column with its values sorted, different, and each in use."""
        if self.is_text:
            texts = self.values.to_pylist()
            used = self.counts() > 0
            order = [i for i in _sorted_texts(texts) if used[i]]
            at = np.full(len(texts) + 1, -1)
            at[order] = np.arange(len(order))
            return replace(self, codes=at[self.codes], values=pa.array([texts[i] for i in order], pa.string()))
        known = self.codes >= 0
        values, codes = np.unique(self.values[self.codes[known]], return_inverse=True)
        out = np.full(len(self.codes), -1)
        out[known] = codes
        return replace(self, codes=out, values=values)

    def texts(self) -> list[str]:
        """The values as they would be written."""
        if self.is_text:
            return self.values.to_pylist()
        kind = self.values.dtype.kind
        if kind == "M":
            return pd.Series(self.values).dt.strftime(self.format or "%Y-%m-%d %H:%M:%S").tolist()
        if kind == "b":
            return [(self.levels or ("False", "True"))[int(v)] for v in self.values]
        return [number_text(v, self.format) for v in self.values.tolist()]

    def series(self) -> pd.Series:
        """The column itself, as a series in normal form."""
        codes, values = self.codes, self.values
        absent = codes < 0
        if self.is_text:
            array = pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), values).cast(pa.string())
            return array.to_pandas()
        taken = values[codes]
        if not absent.any():
            return pd.Series(taken)
        if values.dtype.kind == "i":
            return pd.Series(pd.arrays.IntegerArray(taken, absent))
        if values.dtype.kind == "b":
            return pd.Series(pd.arrays.BooleanArray(taken, absent))
        taken[absent] = np.nan if values.dtype.kind == "f" else np.datetime64("NaT")
        return pd.Series(taken)


def coded_column(series: pd.Series, name: str, remarks: list[Remark]) -> Coded:
    """Distinct values and codes, whatever the dtype."""
    if isinstance(series.dtype, pd.ArrowDtype):
        whole = series.dtype.kind in "biu"
        series = series.convert_dtypes(dtype_backend="numpy_nullable") if whole else pa.array(series).to_pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        found = coded_column(pd.Series(series.cat.categories), name, remarks)
        texts = found if found.is_text else replace(found, values=pa.array(found.texts(), pa.string()))
        return replace(texts, codes=np.append(texts.codes, -1)[series.cat.codes.to_numpy(np.int64)])
    if series.dtype == object:
        series = _from_objects(series, name, remarks)
    kind = series.dtype.kind
    if kind == "c":
        raise BadInput(f"column '{name}' holds complex numbers", accepted="numbers, text, dates, booleans")
    if isinstance(series.dtype, pd.PeriodDtype):
        series, kind = series.dt.to_timestamp(), "M"
    if kind == "m":
        remarks.append(Remark("seconds", name))
        series, kind = series.dt.total_seconds(), "f"
    if kind == "M" and getattr(series.dtype, "tz", None) is not None:
        remarks.append(Remark("utc", name))
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    if kind == "u" and series.notna().any() and series.max() > np.iinfo(np.int64).max:
        series, kind = series.map(str, na_action="ignore"), "O"
    if isinstance(series.dtype, pd.IntervalDtype):
        series = series.map(str, na_action="ignore")
    if kind == "f" and series.dtype == np.float16:
        series = series.astype(str).astype(np.float64)
    if kind not in "biufM" or isinstance(series.dtype, pd.StringDtype):
        return _from_text(series, name, remarks)
    codes, values = pd.factorize(series)
    dtype = {"b": "bool", "f": "float64", "M": "datetime64[us]"}.get(kind, "int64")
    array = pd.Series(values).to_numpy()
    if array.dtype == np.float32:  # 0.1 in 32 bits is meant as 0.1, not as 0.10000000149
        array = array.astype(str)
    stored: Stored = {"b": "boolean", "f": "number", "M": "date"}.get(kind, "integer")  # type: ignore[assignment]
    return Coded(
        codes=codes.astype(np.int64),
        values=array.astype(dtype),
        stored=stored,
        levels=("False", "True") if kind == "b" else None,
        format="r" if kind == "f" else None,
    )


def _from_objects(series: pd.Series, name: str, remarks: list[Remark]) -> pd.Series:
    """A column of Python objects as one of numbers, booleans, dates or text."""
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found == "boolean":
        return series.astype("boolean")
    if found == "integer":
        if series.dropna().map(abs).max() > np.iinfo(np.int64).max:
            return series.map(str, na_action="ignore")
        return series.astype("Int64")
    if found in ("floating", "mixed-integer-float", "decimal"):
        return pd.to_numeric(series.map(float, na_action="ignore"))
    if found in ("datetime", "datetime64", "date"):
        return pd.to_datetime(series)
    if found == "bytes":
        return series.map(lambda b: b.decode("utf-8", "replace"), na_action="ignore")
    if found not in ("string", "empty"):
        nested = next((v for v in series if isinstance(v, (list, tuple, dict, set, np.ndarray))), None)
        if nested is not None:
            raise BadInput(
                f"column '{name}' holds a {type(nested).__name__} in a cell",
                accepted="one number, text, date or boolean in a cell",
                next="Spread it over several columns",
            )
        kinds = sorted({type(v).__name__ for v in series[series.notna()]})
        remarks.append(Remark("mixed", name, detail=", ".join(kinds)))
        series = series.map(str, na_action="ignore")
    return series


def _from_text(series: pd.Series, name: str, remarks: list[Remark]) -> Coded:
    """Trimmed distinct texts; what stands for a missing value is taken out."""
    try:
        array = pa.array(series, from_pandas=True)
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
        clean = series.map(lambda v: str(v).encode("utf-8", "replace").decode(), na_action="ignore")
        array = pa.array(clean, from_pandas=True)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    encoded = array.cast(pa.string()).dictionary_encode()
    trimmed = pc.utf8_trim_whitespace(encoded.dictionary)
    again = trimmed.dictionary_encode()
    texts, at = again.dictionary, again.indices.to_numpy()
    codes = np.append(at, -1)[encoded.indices.fill_null(-1).to_numpy()]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    spaced = pc.not_equal(trimmed, encoded.dictionary).to_numpy(zero_copy_only=False)
    found = Coded(codes=encoded.indices.fill_null(-1).to_numpy(), values=encoded.dictionary, stored="text")
    not_blank = pc.not_equal(trimmed, "").to_numpy(zero_copy_only=False)
    if (spaced & not_blank).any():
        remarks.append(Remark("spaces", name, int(found.counts()[spaced & not_blank].sum())))
    absent = pc.is_in(texts, value_set=pa.array(MISSING)).to_numpy(zero_copy_only=False)
    marks = sorted(zip(counts[absent].tolist(), texts.filter(pa.array(absent)).to_pylist(), strict=True))[::-1]
    if marks:
        written = " and ".join(f"'{m}'" if m else "empty" for _, m in marks[:4])
        remarks.append(Remark("missing", name, sum(n for n, _ in marks), f"as {written}"))
    kept = np.where(absent, -1, np.cumsum(~absent) - 1)
    return Coded(
        codes=np.append(kept, -1)[codes],
        values=texts.filter(pa.array(~absent)),
        stored="text",
        missing_as=marks[0][1] if marks else "",
    )


def _sorted_texts(texts: list[str]) -> list[int]:
    """Positions in order: by number when all are whole numbers, else by letters."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        return sorted(range(len(texts)), key=lambda i: (int(texts[i]), texts[i]))
    return sorted(range(len(texts)), key=texts.__getitem__)


def number_text(value: float, form: str | None) -> str:
    """A number as it was written: in its form, with its point where that is "r", else without a needless one.

    >>> number_text(2.5, ".2f"), number_text(13.0, "r"), number_text(13.0, None)
    ('2.50', '13.0', '13')
    """
    if form == "r":
        return repr(float(value))
    return format(float(value), form) if form else repr(value).removesuffix(".0")
