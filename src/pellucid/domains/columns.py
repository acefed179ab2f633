"""What kind each column of a table is, found from its values, and the table in one normal form.

Every column becomes its distinct values and a code for each row; kinds are decided on the distinct values alone,
so that a long column costs little. What was decided is recorded such that `as_given` and `as_written` lead back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed

__all__ = ["MISSING", "Column", "Kind", "Stored", "as_given", "as_written", "infer"]

Kind = Literal["number", "integer", "category", "boolean", "date", "constant", "empty"]
Stored = Literal["text", "integer", "number", "boolean", "date"]

# "None" and "-" are left out: they are answers in forms and laboratory results.
MISSING = ("", "?", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NaT", "NULL", "Null", "null")
ASKED = ("number", "integer", "category", "boolean", "date", "drop")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
INFINITE = r"(?i)^[+-]?inf(inity)?$"
DATES = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m",
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d-%m-%Y", "%d-%m-%Y %H:%M", "%d-%m-%Y %H:%M:%S",
    "%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p", "%m-%d-%Y",
    "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y", "%b %Y", "%B %Y",
)  # fmt: skip
OFFSET = r"(?P<offset>Z|[+-]\d{2}:?\d{2})$"
MOST_DECIMALS = 9
CLOCK = (86400.0, 3600.0, 60.0, 1.0, 0.001, 0.000001)  # steps of a date, in seconds
MANY = 10  # so many different numbers with a common divisor do not come about by chance
MANY_ROWS = 50  # from so many different values on, all of them different is worth a word
EXACT = 2**53  # float64 holds every whole number up to here
SENTENCES = {
    "missing": "cells read as missing",
    "infinite": "values read as missing because they are infinite",
    "spaces": "values with spaces around them, removed",
    "whole": "columns of decimal numbers that are all whole, read as integers",
    "comma": "columns of numbers with a decimal comma; they are written back with a point",
    "text-numbers": "columns of text that holds only numbers, read as numbers",
    "zeros": "columns of digits with leading zeros, kept as text",
    "long": "columns of numbers with more digits than can be held exactly, kept as text",
    "mixed": "columns of mixed types, kept as text",
    "dates": "columns read as dates",
    "ambiguous": "columns of dates that can be read day first or month first, read day first (kinds={name: "
    "'date:%m/%d/%Y'} changes it)",
    "utc": "columns of times from several time zones, turned into UTC",
    "seconds": "columns of time spans, read as seconds",
    "identifier": "columns whose values hardly ever repeat: identifiers or free text, which a model can only copy "
    "(kinds={name: 'drop'} leaves a column out)",
    "rows": "columns with nothing but row numbers (kinds={name: 'drop'} leaves a column out)",
    "constant": "columns with one value only, reproduced as they are",
    "empty": "columns without any value, kept empty",
    "asked": "columns whose kind is as you asked",
    "dropped": "columns left out as you asked",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """What was found out about one column; plain values only, so it can be saved as JSON.

    name, kind: the kind decides the dtype in the normalised frame:
        number float64 (missing NaN); integer int64, or Int64 where values are missing; category str;
        boolean bool, or boolean where values are missing; date datetime64[us];
        constant: as the value is stored; empty: float64, all NaN.
    stored: what the values were: a category may have been stored as an integer, an integer as a number ("63.0").
    missing, distinct: how many cells are missing, and how many different values the others have.
    low, high: smallest and largest value (dates: seconds since 1970-01-01); None for text.
    step: every value lies on low + k * step, k whole (dates: seconds); None when there is no such grid.
    decimals: digits after the point that hold every number, None when more than 9.
    format: the strftime format of dates; for numbers ".2f" and the like where all were written with the same decimals,
        "r" where whole numbers were written with a point (13.0).
    skew: third standardised moment of numbers and integers; beyond about 2 in size there is a long tail.
    levels: the values of a category in order; a boolean's two, false first, as written; the one value of a constant.
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


@dataclass(frozen=True)
class _Remark:
    topic: str
    column: str
    count: int
    detail: str


@dataclass(frozen=True, kw_only=True)
class _Coded:
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

    def tidy(self) -> _Coded:
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


def infer(
    frame: pd.DataFrame, override: Mapping[str, str] | None = None, *, typed: bool = True
) -> tuple[pd.DataFrame, tuple[Column, ...], tuple[Noticed, ...]]:
    """The frame in normal form, what its columns are, and what was noticed.

    Args:
        override: kinds by column name that replace the inference: number, integer, category, boolean, date,
            date:FORMAT (such as "date:%d/%m/%Y"), or drop.
        typed: False for a file of text, where a column of digits is no surprise.

    Raises:
        BadInput: a kind that the values do not allow, or values that are no numbers, text or dates.

    >>> found = infer(pd.DataFrame({"age": ["31", "?"], "sex": ["f", "m"]}), typed=False)
    >>> [(c.name, c.kind, c.missing) for c in found[1]]
    [('age', 'category', 1), ('sex', 'category', 0)]
    """
    asked = _checked_override(frame, override or {})
    remarks: list[_Remark] = []
    series, columns = {}, []
    for name in frame.columns:
        wanted = asked.get(name)
        if wanted == "drop":
            remarks.append(_Remark("dropped", name, 1, ""))
            continue
        series[name], column = _Reader(name, wanted, typed, remarks).read(frame[name])
        columns.append(column)
        if wanted:
            remarks.append(_Remark("asked", name, 1, wanted))
    return pd.DataFrame(series), tuple(columns), _notices(remarks)


def as_given(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """A normalised frame with the types the values had before: dates as text in their format, integers for codes.

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
        text = _given(values, column).map(lambda v: _number_text(float(v), column.format), na_action="ignore")
    elif column.kind == "boolean" and column.levels is not None:
        text = values.map({False: column.levels[0], True: column.levels[1]})
    elif column.kind == "date":
        text = values.dt.strftime(column.format or "%Y-%m-%d %H:%M:%S")
    else:
        text = values.map(str, na_action="ignore")
    return text.astype(object).where(values.notna(), column.missing_as)


# ------------------------------------------------------------------------------------------------ reading one column


@dataclass(frozen=True)
class _Reader:
    """Reads one column; what it notices goes to `remarks`."""

    name: str
    wanted: str | None
    typed: bool
    remarks: list[_Remark]

    def read(self, series: pd.Series) -> tuple[pd.Series, Column]:
        coded = self.coded(series)
        kept = {"boolean": "b", "date": "M"}.get((self.wanted or "").partition(":")[0], "")
        if not coded.is_text and self.wanted not in (None, "number", "integer") and coded.values.dtype.kind != kept:
            coded = replace(coded, values=pa.array(_texts(coded), pa.string()))
        settled = self.wanted is None and isinstance(series.dtype, pd.CategoricalDtype)
        if coded.is_text and len(coded.values) and not settled:
            coded = self.understood(coded)
        if not coded.is_text and coded.values.dtype.kind == "f":
            coded = self.whole(self.finite(coded))
        if self.wanted == "number" and not coded.is_text and coded.values.dtype.kind == "i":
            coded = replace(coded, values=coded.values.astype(np.float64), stored="number")
        if self.wanted in ("number", "integer") and (coded.is_text or coded.values.dtype.kind not in "if"):
            raise self.refused("its values are not numbers")
        return self.described(coded.tidy())

    def say(self, topic: str, count: int = 1, detail: str = "") -> None:
        self.remarks.append(_Remark(topic, self.name, count, detail))

    def refused(self, why: str, next: str = "") -> BadInput:
        return BadInput(f"column '{self.name}' cannot be read as {self.wanted}: {why}", next=next)

    def coded(self, series: pd.Series) -> _Coded:
        """Distinct values and codes, whatever the dtype."""
        if isinstance(series.dtype, pd.ArrowDtype):
            whole = series.dtype.kind in "biu"
            series = series.convert_dtypes(dtype_backend="numpy_nullable") if whole else pa.array(series).to_pandas()
        if isinstance(series.dtype, pd.CategoricalDtype):
            found = self.coded(pd.Series(series.cat.categories))
            texts = found if found.is_text else replace(found, values=pa.array(_texts(found), pa.string()))
            return replace(texts, codes=np.append(texts.codes, -1)[series.cat.codes.to_numpy(np.int64)])
        if series.dtype == object:
            series = self.from_objects(series)
        kind = series.dtype.kind
        if kind == "c":
            raise BadInput(f"column '{self.name}' holds complex numbers", accepted="numbers, text, dates, booleans")
        if isinstance(series.dtype, pd.PeriodDtype):
            series, kind = series.dt.to_timestamp(), "M"
        if kind == "m":
            self.say("seconds")
            series, kind = series.dt.total_seconds(), "f"
        if kind == "M" and getattr(series.dtype, "tz", None) is not None:
            self.say("utc")
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        if kind == "u" and series.notna().any() and series.max() > np.iinfo(np.int64).max:
            series, kind = series.map(str, na_action="ignore"), "O"
        if isinstance(series.dtype, pd.IntervalDtype):
            series = series.map(str, na_action="ignore")
        if kind == "f" and series.dtype == np.float16:
            series = series.astype(str).astype(np.float64)
        if kind not in "biufM" or isinstance(series.dtype, pd.StringDtype):
            return self.from_text(series)
        codes, values = pd.factorize(series)
        dtype = {"b": "bool", "f": "float64", "M": "datetime64[us]"}.get(kind, "int64")
        array = pd.Series(values).to_numpy()
        if array.dtype == np.float32:  # 0.1 in 32 bits is meant as 0.1, not as 0.10000000149
            array = array.astype(str)
        stored: Stored = {"b": "boolean", "f": "number", "M": "date"}.get(kind, "integer")  # type: ignore[assignment]
        return _Coded(
            codes=codes.astype(np.int64),
            values=array.astype(dtype),
            stored=stored,
            levels=("False", "True") if kind == "b" else None,
            format="r" if kind == "f" else None,
        )

    def from_objects(self, series: pd.Series) -> pd.Series:
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
                    f"column '{self.name}' holds a {type(nested).__name__} in a cell",
                    accepted="one number, text, date or boolean in a cell",
                    next="Spread it over several columns",
                )
            kinds = sorted({type(v).__name__ for v in series[series.notna()]})
            self.say("mixed", detail=", ".join(kinds))
            series = series.map(str, na_action="ignore")
        return series

    def from_text(self, series: pd.Series) -> _Coded:
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
        found = _Coded(codes=encoded.indices.fill_null(-1).to_numpy(), values=encoded.dictionary, stored="text")
        not_blank = pc.not_equal(trimmed, "").to_numpy(zero_copy_only=False)
        if (spaced & not_blank).any():
            self.say("spaces", int(found.counts()[spaced & not_blank].sum()))
        absent = pc.is_in(texts, value_set=pa.array(MISSING)).to_numpy(zero_copy_only=False)
        marks = sorted(zip(counts[absent].tolist(), texts.filter(pa.array(absent)).to_pylist(), strict=True))[::-1]
        if marks:
            written = " and ".join(f"'{m}'" if m else "empty" for _, m in marks[:4])
            self.say("missing", sum(n for n, _ in marks), f"as {written}")
        kept = np.where(absent, -1, np.cumsum(~absent) - 1)
        return _Coded(
            codes=np.append(kept, -1)[codes],
            values=texts.filter(pa.array(~absent)),
            stored="text",
            missing_as=marks[0][1] if marks else "",
        )

    def understood(self, coded: _Coded) -> _Coded:
        """Texts read as booleans, numbers or dates where all of them can be; as text otherwise."""
        wanted, texts = self.wanted, coded.values
        if wanted == "category":
            return coded
        spelled = set(texts.to_pylist()) if len(texts) == 2 else set()
        if wanted == "boolean" or spelled in ({"true", "false"}, {"True", "False"}, {"TRUE", "FALSE"}):
            return self.as_boolean(coded)
        if wanted is not None and wanted.startswith("date"):
            return self.as_dates(coded) or coded
        numeric = pc.or_(pc.match_substring_regex(texts, NUMBER), pc.match_substring_regex(texts, INFINITE))
        if pc.all(numeric).as_py():
            return self.as_numbers(coded)
        commas = self.with_commas(coded)
        if commas is not None:
            return commas
        others = texts.filter(pc.invert(numeric)).to_pylist()
        if wanted is not None:
            raise self.refused(f"{len(others):,} of its values are not numbers: {_quoted(others)}", "Clean them first")
        dated = self.as_dates(coded)
        if dated is not None:
            return dated
        counts = coded.counts()
        numbers, rest = int(counts[numeric.to_numpy(zero_copy_only=False)].sum()), int(counts.sum())
        if 2 * numbers >= rest > 0 and not any(r.topic == "mixed" and r.column == self.name for r in self.remarks):
            others_too = f"{rest - numbers:,} others such as {_quoted(others)}"
            self.say("mixed", detail=f"{numbers:,} numbers, {others_too}")
        return coded

    def as_boolean(self, coded: _Coded) -> _Coded:
        texts = coded.tidy().values.to_pylist()
        if len(texts) != 2:
            raise self.refused(f"it has {len(texts)} different values, a boolean has two: {_quoted(texts)}")
        order = (texts[0], texts[1])  # sorted, which puts 0, f, false, n and no before 1, t, true, y and yes
        values = np.array([text == order[1] for text in coded.values.to_pylist()])
        return replace(coded, values=values, levels=order)

    def as_numbers(self, coded: _Coded) -> _Coded:
        texts = pc.utf8_ltrim(pc.utf8_lower(coded.values), "+")
        zeros = pc.match_substring_regex(texts, r"^-?0[0-9]")
        if self.wanted is None and pc.any(zeros).as_py():
            self.say("zeros", detail=f"such as {_quoted(coded.values.filter(zeros).to_pylist())}")
            return coded
        whole = pc.all(pc.match_substring_regex(texts, r"^-?[0-9]+$")).as_py()
        if whole and pc.max(pc.utf8_length(texts)).as_py() > 18:
            if self.wanted is None:
                self.say("long")
                return coded
            whole = False
        if self.typed:
            self.say("text-numbers")
        if whole:
            return replace(coded, values=texts.cast(pa.int64()).to_numpy(), stored="integer")
        values = texts.cast(pa.float64()).to_numpy()
        return replace(coded, values=values, stored="number", format=_form(texts))

    def with_commas(self, coded: _Coded) -> _Coded | None:
        """Numbers as 1.234,5 for 1234.5, unless each comma could as well part thousands."""
        texts = coded.values
        if not pc.all(pc.match_substring_regex(texts, r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$")).as_py():
            return None
        if not pc.any(pc.match_substring_regex(texts, r",(\d{1,2}|\d{4,})$")).as_py():
            return None
        self.say("comma")
        plain = pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")
        return replace(self.as_numbers(replace(coded, values=plain)), format=None)

    def as_dates(self, coded: _Coded) -> _Coded | None:
        """Dates in the one format that fits all; without one None, or a refusal when dates were asked for."""
        texts, asked = coded.values, (self.wanted or "").partition(":")[2]
        sample = texts.slice(0, 50).to_pylist()
        if self.wanted is None and not all(6 <= len(t) <= 35 and re.search(r"\d", t) for t in sample):
            return None
        ending = ""
        if not asked and pc.all(pc.match_substring_regex(texts, r"\d\d:\d\d.*" + OFFSET)).as_py():
            offsets = pc.unique(pc.struct_field(pc.extract_regex(texts, OFFSET), "offset")).to_pylist()
            if len(offsets) > 1:
                return self.in_utc(coded)
            ending = offsets[0]
            texts = pc.utf8_slice_codeunits(texts, 0, -len(ending))
            sample = [t.removesuffix(ending) for t in sample]
        formats = DATES + (("%Y%m%d",) if self.wanted else ())
        fitting = [asked] if asked else [f for f in formats if _parsed(sample, f).notna().all()]
        fitting.sort(key=lambda f: _parsed(sample, f).dt.strftime(f).tolist() != sample)
        all_texts, missed = texts.to_pylist(), texts.to_pylist()
        for format in fitting:
            dates = _parsed(all_texts, format)
            if dates.notna().all():
                twin = format.replace("%d/%m", "%m/%d").replace("%d-%m", "%m-%d")
                if not asked and twin != format and _parsed(all_texts, twin).notna().all():
                    self.say("ambiguous")
                self.say("dates", detail=f"{format}{ending}")
                values = dates.to_numpy("datetime64[us]")
                return replace(coded, values=values, stored="text", format=format + ending)
            missed = min(missed, [t for t, d in zip(all_texts, dates, strict=True) if pd.isna(d)], key=len)
        if self.wanted is not None:
            accepted = f"its format {asked}" if asked else "any known format, date:%d.%m.%Y names another"
            raise self.refused(f"{len(missed):,} of its values do not fit {accepted}: {_quoted(missed)}")
        if fitting:
            self.say("mixed", detail=f"dates, and {len(missed):,} others such as {_quoted(missed)}")
        return None

    def in_utc(self, coded: _Coded) -> _Coded | None:
        dates = pd.to_datetime(pd.Series(coded.values.to_pylist()), format="ISO8601", utc=True, errors="coerce")
        if dates.isna().any():
            return None
        self.say("utc")
        values = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
        return replace(coded, values=values, stored="text", format="%Y-%m-%dT%H:%M:%SZ")

    def finite(self, coded: _Coded) -> _Coded:
        bad = ~np.isfinite(coded.values)
        if not bad.any():
            return coded
        self.say("infinite", int(coded.counts()[bad].sum()))
        return replace(coded, codes=np.where(np.append(bad, True)[coded.codes], -1, coded.codes))

    def whole(self, coded: _Coded) -> _Coded:
        """Decimal numbers that are all whole become integers, unless numbers were asked for."""
        used = coded.values[coded.counts() > 0]
        if self.wanted == "number" or not len(used):
            return coded
        if not ((used == np.round(used)) & (np.abs(used) <= EXACT)).all():
            if self.wanted == "integer":
                fractions = [f"{v:g}" for v in used if v != round(v)]
                raise self.refused(f"{len(fractions):,} of its values are not whole: {_quoted(fractions)}")
            return coded
        if self.wanted is None:
            self.say("whole")
        values = np.where(coded.counts() > 0, coded.values, 0).astype(np.int64)
        return replace(coded, values=values)

    def described(self, coded: _Coded) -> tuple[pd.Series, Column]:
        """The normalised column and what it is."""
        rows, missing, distinct = len(coded.codes), int((coded.codes < 0).sum()), len(coded.values)
        if not distinct:
            self.say("empty")
            column = Column(name=self.name, kind="empty", stored="text", missing=missing, distinct=0)
            return pd.Series(np.full(rows, np.nan)), replace(column, missing_as=coded.missing_as)
        constant = distinct == 1 and self.wanted is None
        if constant and missing and not coded.is_text:  # present or not is all there is to know
            coded, constant = replace(coded, values=pa.array(_texts(coded), pa.string())), False
        column = Column(
            name=self.name,
            kind=_kind(coded),
            stored=coded.stored,
            missing=missing,
            distinct=distinct,
            missing_as=coded.missing_as,
            levels=coded.levels,
            format=coded.format,
        )
        if coded.is_text:
            column = replace(column, levels=tuple(coded.values.to_pylist()), format=None)
        elif column.kind in ("number", "integer"):
            column = _measured(column, coded)
        elif column.kind == "date":
            moments = coded.values.astype(np.int64)
            low, high = float(moments[0]) / 1e6, float(moments[-1]) / 1e6
            gaps = np.diff(moments)
            step = next((s for s in CLOCK if not (gaps % round(s * 1e6)).any()), None)
            shown = column.format or DATES[0 if not (moments % 86_400_000_000).any() else 1]
            column = replace(column, low=low, high=high, step=step, format=shown)
        if constant and not missing:
            self.say("constant", detail=_texts(coded)[0])
            column = replace(column, kind="constant", levels=(_texts(coded)[0],))
        elif self.wanted is None and distinct >= MANY_ROWS:
            unique = distinct == rows and column.kind == "integer"
            if unique and column.high - column.low == rows - 1:  # type: ignore[operator]
                self.say("rows", detail=f"{column.low:.0f} to {column.high:.0f}")
            elif unique or (column.kind == "category" and distinct > 0.9 * (rows - missing)):
                self.say("identifier", detail=f"{distinct:,} different")
        return _series(coded), column


# ---------------------------------------------------------------------------------------------------- in order of use


def _checked_override(frame: pd.DataFrame, override: Mapping[str, str]) -> dict[str, str]:
    names = [str(name) for name in frame.columns]
    for name, kind in override.items():
        if name not in names:
            raise BadInput(
                f"kinds names a column '{name}' that the table does not have",
                accepted=", ".join(names[:20]) + (", ..." if len(names) > 20 else ""),
                next=nearest(name, names),
            )
        if kind not in ASKED and not (kind.startswith("date:") and "%" in kind):
            raise BadInput(
                f"the kind of column '{name}' is '{kind}'",
                accepted=", ".join(ASKED) + ", or a date's format such as date:%d/%m/%Y",
                next=nearest(kind, ASKED),
            )
    return dict(override)


def _sorted_texts(texts: list[str]) -> list[int]:
    """Positions in order: by number when all are whole numbers, else by letters."""
    if all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in texts):
        return sorted(range(len(texts)), key=lambda i: (int(texts[i]), texts[i]))
    return sorted(range(len(texts)), key=texts.__getitem__)


def _texts(coded: _Coded) -> list[str]:
    """The values as they would be written."""
    if coded.is_text:
        return coded.values.to_pylist()
    kind = coded.values.dtype.kind
    if kind == "M":
        return pd.Series(coded.values).dt.strftime(coded.format or "%Y-%m-%d %H:%M:%S").tolist()
    if kind == "b":
        return [(coded.levels or ("False", "True"))[int(v)] for v in coded.values]
    return [_number_text(v, coded.format) for v in coded.values.tolist()]


def _number_text(value: float, form: str | None) -> str:
    if form == "r":
        return repr(float(value))
    return format(float(value), form) if form else repr(value).removesuffix(".0")


def _form(texts: pa.Array) -> str | None:
    """ ".2f" when every text has two digits after its point, "r" when their number differs, None without points."""
    if not pc.all(pc.match_substring_regex(texts, r"^-?\d+\.\d+(e.*)?$")).as_py():
        return None
    digits = pc.unique(pc.subtract(pc.utf8_length(texts), pc.find_substring(texts, "."))).to_pylist()
    same = len(digits) == 1 and digits[0] <= MOST_DECIMALS + 1 and not pc.any(pc.match_substring(texts, "e")).as_py()
    return f".{digits[0] - 1}f" if same else "r"


def _parsed(texts: list[str], format: str) -> pd.Series:
    """Dates, NaT where the text does not have the format."""
    try:
        return pd.to_datetime(pd.Series(texts, dtype=object), format=format, errors="coerce")
    except ValueError:  # the format itself is wrong
        return pd.Series([pd.NaT] * len(texts))


def _kind(coded: _Coded) -> Kind:
    if coded.is_text:
        return "category"
    kinds: dict[str, Kind] = {"i": "integer", "f": "number", "b": "boolean", "M": "date"}
    return kinds[coded.values.dtype.kind]


def _measured(column: Column, coded: _Coded) -> Column:
    """With range, grid and skew; values are sorted."""
    values, counts = coded.values, coded.counts()
    floats = values.astype(np.float64)
    mean = np.average(floats, weights=counts)
    away = (floats - mean) / max(float(np.abs(floats - mean).max()), np.finfo(float).tiny)
    spread = np.average(away**2, weights=counts)
    skew = float(np.average(away**3, weights=counts) / spread**1.5) if spread > 0 else 0.0
    decimals = 0 if column.kind == "integer" else _decimals(floats)
    units = values if column.kind == "integer" else None
    if decimals and np.abs(floats).max() * 10**decimals < EXACT:
        units = np.rint(floats * 10**decimals).astype(np.int64)
    step = None if units is None else _step(units)
    return replace(
        column,
        low=float(values[0]),
        high=float(values[-1]),
        step=None if step is None else step / 10 ** (decimals or 0),
        decimals=decimals,
        skew=skew,
    )


def _decimals(values: NDArray[np.float64]) -> int | None:
    return next((d for d in range(MOST_DECIMALS + 1) if (np.round(values, d) == values).all()), None)


def _step(values: NDArray[np.int64]) -> int | None:
    """Common step of whole numbers in rising order: 1, or what divides all gaps when there are enough to tell."""
    gaps = np.diff(values)
    if not (gaps > 0).all():  # a gap beyond 64 bits
        return None
    return int(np.gcd.reduce(gaps)) if len(values) >= MANY else 1


def _series(coded: _Coded) -> pd.Series:
    codes, values = coded.codes, coded.values
    absent = codes < 0
    if coded.is_text:
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


def _quoted(texts: Sequence[str], most: int = 3) -> str:
    return ", ".join(f"'{t}'" for t in texts[:most]) + (", ..." if len(texts) > most else "")


def _notices(remarks: Sequence[_Remark]) -> tuple[Noticed, ...]:
    """One notice for each topic, which names the first columns and counts the rest."""
    said = []
    for topic in dict.fromkeys(remark.topic for remark in remarks):
        group = [remark for remark in remarks if remark.topic == topic]
        total = sum(remark.count for remark in group)
        first = []
        for remark in group[:6]:
            counted = f"{remark.count:,}" if remark.count != 1 else ""
            inside = ", ".join(part for part in (counted, remark.detail) if part)
            first.append(f"'{remark.column}'" + (f" ({inside})" if inside else ""))
        sentence = SENTENCES[topic]
        if total == 1:
            sentence = re.sub(r"^(columns|values|cells)", lambda m: m[0][:-1], sentence)
        more = f" and {len(group) - 6} more" if len(group) > 6 else ""
        said.append(Noticed(topic=topic, text=f"{total:,} {sentence}: {', '.join(first)}{more}", count=total))
    return tuple(said)
