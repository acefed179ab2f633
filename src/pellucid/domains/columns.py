"""What kind each column of a table is, found from its values, and the table in one normal form.

Every column becomes its distinct values and a code for each row; kinds are decided on the distinct values alone,
so that a long column costs little. What was decided is recorded such that `given.py` finds the way back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed
from pellucid.domains.coded import Coded, Stored, coded_column
from pellucid.domains.dates import Dates, clock_step, find_dates, shown_format
from pellucid.domains.identifiers import form_of_numbers, form_of_texts, is_identifier
from pellucid.domains.remarks import Remark, notices, quoted

__all__ = ["NUMBER", "Column", "Kind", "Stored", "infer"]

Kind = Literal["number", "integer", "category", "boolean", "date", "key", "constant", "empty"]

ASKED = ("number", "integer", "category", "boolean", "date", "key", "drop")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
INFINITE = r"(?i)^[+-]?inf(inity)?$"
MOST_DECIMALS = 9
MANY = 10  # so many different numbers with a common divisor do not come about by chance
MANY_ROWS = 50  # from so many different values on, all of them different is worth a word
PAIRED = (3, 10_000)  # different values of columns that are compared for saying the same
EXACT = 2**53  # float64 holds every whole number up to here


@dataclass(frozen=True, kw_only=True)
class Column:
    """What was found out about one column; plain values only, so it can be saved as JSON.

    name, kind: the kind decides the dtype in the normalised frame:
        number float64 (missing NaN); integer int64, or Int64 where values are missing; category str;
        boolean bool, or boolean where values are missing; date datetime64[us];
        key: an identifier, different in every row, int64 or str, which no model learns;
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


def infer(
    frame: pd.DataFrame, override: Mapping[str, str] | None = None, *, typed: bool = True
) -> tuple[pd.DataFrame, tuple[Column, ...], tuple[Noticed, ...]]:
    """The frame in normal form, what its columns are, and what was noticed.

    Args:
        override: kinds by column name that replace the inference: number, integer, category, boolean, date,
            date:FORMAT (such as "date:%d/%m/%Y"), key (an identifier), or drop.
        typed: False for a file of text, where a column of digits is no surprise.

    Raises:
        BadInput: a kind that the values do not allow, or values that are no numbers, text or dates.

    >>> found = infer(pd.DataFrame({"age": ["31", "?"], "sex": ["f", "m"]}), typed=False)
    >>> [(c.name, c.kind, c.missing) for c in found[1]]
    [('age', 'category', 1), ('sex', 'category', 0)]
    """
    asked = _checked_override(frame, override or {})
    remarks: list[Remark] = []
    series, columns = _columns(frame, asked, typed, remarks, keys=True)
    still = ("key", "constant", "empty")
    if columns and "key" not in asked.values() and all(c.kind in still for c in columns):
        remarks = []  # what is left besides identifiers holds nothing to learn: they may be all that matters
        series, columns = _columns(frame, asked, typed, remarks, keys=False)
    remarks += _paired(series, columns)
    return pd.DataFrame(series), tuple(columns), notices(remarks)


def _columns(
    frame: pd.DataFrame, asked: Mapping[str, str], typed: bool, remarks: list[Remark], keys: bool
) -> tuple[dict[str, pd.Series], list[Column]]:
    series, columns = {}, []
    for name in frame.columns:
        wanted = asked.get(name)
        if wanted == "drop":
            remarks.append(Remark("dropped", name))
            continue
        series[name], column = _Reader(name, wanted, typed, remarks, keys).read(frame[name])
        columns.append(column)
        if wanted:
            remarks.append(Remark("asked", name, detail=wanted))
    return series, columns


def _paired(series: Mapping[str, pd.Series], columns: Sequence[Column]) -> list[Remark]:
    """Columns that say the same in other words: to each value of one belongs one value of the other."""
    alike: dict[tuple[int, int], list[Column]] = {}
    for column in columns:
        if column.kind in ("category", "integer", "number", "date") and PAIRED[0] <= column.distinct <= PAIRED[1]:
            alike.setdefault((column.distinct, column.missing), []).append(column)
    found: dict[bytes, list[str]] = {}
    for group in alike.values():
        for column in group if len(group) > 1 else ():
            codes = pd.factorize(series[column.name])[0]  # numbered as they first appear
            if len(codes) >= 2 * column.distinct:
                found.setdefault(hashlib.sha256(codes.tobytes()).digest(), []).append(column.name)
    return [Remark("paired", ", ".join(names)) for names in found.values() if len(names) > 1]


# ------------------------------------------------------------------------------------------------ reading one column


@dataclass(frozen=True)
class _Reader:
    """Reads one column; what it notices goes to `remarks`."""

    name: str
    wanted: str | None
    typed: bool
    remarks: list[Remark]
    keys: bool = True

    def read(self, series: pd.Series) -> tuple[pd.Series, Column]:
        coded = coded_column(series, self.name, self.remarks)
        kept = {"boolean": "b", "date": "M"}.get((self.wanted or "").partition(":")[0], "")
        replaced = self.wanted not in (None, "number", "integer", "key")
        if not coded.is_text and replaced and coded.values.dtype.kind != kept:
            coded = replace(coded, values=pa.array(coded.texts(), pa.string()))
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
        self.remarks.append(Remark(topic, self.name, count, detail))

    def refused(self, why: str, next: str = "") -> BadInput:
        return BadInput(f"column '{self.name}' cannot be read as {self.wanted}: {why}", next=next)

    def understood(self, coded: Coded) -> Coded:
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
        if wanted not in (None, "key"):
            raise self.refused(f"{len(others):,} of its values are not numbers: {quoted(others)}", "Clean them first")
        dated = self.as_dates(coded) if wanted is None else None
        if dated is not None:
            return dated
        counts = coded.counts()
        numbers, rest = int(counts[numeric.to_numpy(zero_copy_only=False)].sum()), int(counts.sum())
        if 2 * numbers >= rest > 0 and not any(r.topic == "mixed" and r.column == self.name for r in self.remarks):
            others_too = f"{rest - numbers:,} others such as {quoted(others)}"
            self.say("mixed", detail=f"{numbers:,} numbers, {others_too}")
        return coded

    def as_boolean(self, coded: Coded) -> Coded:
        texts = coded.tidy().values.to_pylist()
        if len(texts) != 2:
            raise self.refused(f"it has {len(texts)} different values, a boolean has two: {quoted(texts)}")
        order = (texts[0], texts[1])  # sorted, which puts 0, f, false, n and no before 1, t, true, y and yes
        values = np.array([text == order[1] for text in coded.values.to_pylist()])
        return replace(coded, values=values, levels=order)

    def as_numbers(self, coded: Coded) -> Coded:
        texts = pc.utf8_ltrim(pc.utf8_lower(coded.values), "+")
        zeros = pc.match_substring_regex(texts, r"^-?0[0-9]")
        if self.wanted in (None, "key") and pc.any(zeros).as_py():
            self.say("zeros", detail=f"such as {quoted(coded.values.filter(zeros).to_pylist())}")
            return coded
        whole = pc.all(pc.match_substring_regex(texts, r"^-?[0-9]+$")).as_py()
        if whole and pc.max(pc.utf8_length(texts)).as_py() > 18:
            if self.wanted in (None, "key"):
                self.say("long")
                return coded
            whole = False
        if self.typed:
            self.say("text-numbers")
        if whole:
            return replace(coded, values=texts.cast(pa.int64()).to_numpy(), stored="integer")
        values = texts.cast(pa.float64()).to_numpy()
        return replace(coded, values=values, stored="number", format=_form(texts))

    def with_commas(self, coded: Coded) -> Coded | None:
        """Numbers as 1.234,5 for 1234.5, unless each comma could as well part thousands."""
        texts = coded.values
        if not pc.all(pc.match_substring_regex(texts, r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$")).as_py():
            return None
        if not pc.any(pc.match_substring_regex(texts, r",(\d{1,2}|\d{4,})$")).as_py():
            return None
        self.say("comma")
        plain = pc.replace_substring(pc.replace_substring(texts, ".", ""), ",", ".")
        return replace(self.as_numbers(replace(coded, values=plain)), format=None)

    def as_dates(self, coded: Coded) -> Coded | None:
        """Dates in the one format that fits all; without one None, or a refusal when dates were asked for."""
        asked = (self.wanted or "").partition(":")[2]
        found = find_dates(coded.values, asked=self.wanted is not None, format=asked)
        if isinstance(found, Dates):
            if found.ambiguous:
                self.say("ambiguous")
            if found.from_zones:
                self.say("utc")
            else:
                self.say("dates", detail=found.format)
            return replace(coded, values=found.moments, stored="text", format=found.format)
        if found is not None and self.wanted is not None:
            accepted = f"its format {asked}" if asked else "any known format, date:%d.%m.%Y names another"
            misfits = found.misfits
            raise self.refused(f"{len(misfits):,} of its values do not fit {accepted}: {quoted(misfits)}")
        if found is not None and found.partly:
            self.say("mixed", detail=f"dates, and {len(found.misfits):,} others such as {quoted(found.misfits)}")
        return None

    def finite(self, coded: Coded) -> Coded:
        bad = ~np.isfinite(coded.values)
        if not bad.any():
            return coded
        self.say("infinite", int(coded.counts()[bad].sum()))
        return replace(coded, codes=np.where(np.append(bad, True)[coded.codes], -1, coded.codes))

    def whole(self, coded: Coded) -> Coded:
        """Decimal numbers that are all whole become integers, unless numbers were asked for."""
        used = coded.values[coded.counts() > 0]
        if self.wanted == "number" or not len(used):
            return coded
        if not ((used == np.round(used)) & (np.abs(used) <= EXACT)).all():
            if self.wanted == "integer":
                fractions = [f"{v:g}" for v in used if v != round(v)]
                raise self.refused(f"{len(fractions):,} of its values are not whole: {quoted(fractions)}")
            return coded
        if self.wanted is None:
            self.say("whole")
        values = np.where(coded.counts() > 0, coded.values, 0).astype(np.int64)
        return replace(coded, values=values)

    def described(self, coded: Coded) -> tuple[pd.Series, Column]:
        """The normalised column and what it is."""
        rows, missing, distinct = len(coded.codes), int((coded.codes < 0).sum()), len(coded.values)
        if not distinct:
            self.say("empty")
            column = Column(name=self.name, kind="empty", stored="text", missing=missing, distinct=0)
            return pd.Series(np.full(rows, np.nan)), replace(column, missing_as=coded.missing_as)
        if self.is_key(coded, rows):
            return self.as_key(coded)
        constant = distinct == 1 and self.wanted is None
        if constant and missing and not coded.is_text:  # present or not is all there is to know
            coded, constant = replace(coded, values=pa.array(coded.texts(), pa.string())), False
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
            step, shown = clock_step(moments), column.format or shown_format(moments)
            column = replace(column, low=low, high=high, step=step, format=shown)
        if constant and not missing:
            self.say("constant", detail=coded.texts()[0])
            column = replace(column, kind="constant", levels=(coded.texts()[0],))
        elif self.wanted is None and distinct >= MANY_ROWS:
            unique = distinct == rows and column.kind == "integer"
            if unique or (column.kind == "category" and distinct > 0.9 * (rows - missing)):
                self.say("identifier", detail=f"{distinct:,} different")
        return coded.series(), column

    def is_key(self, coded: Coded, rows: int) -> bool:
        """Is the column an identifier, by its values and its name or because that was asked?"""
        distinct = len(coded.values)
        kind = "t" if coded.is_text else coded.values.dtype.kind
        if self.wanted == "key":
            if distinct < rows or kind not in "ti":
                why = f"{rows - distinct:,} of its {rows:,} cells are missing or repeat another"
                why = why if kind in "ti" else "it holds no whole numbers and no text"
                raise self.refused(why, "An identifier is different in every row; say category, integer or drop")
            return True
        if self.wanted is not None or not self.keys or distinct < rows or kind not in "ti":
            return False
        running = kind == "i" and int(coded.values[-1]) - int(coded.values[0]) == rows - 1
        return is_identifier(self.name, distinct, running, kind == "t")

    def as_key(self, coded: Coded) -> tuple[pd.Series, Column]:
        """The column as an identifier; new ones are said aloud."""
        texts = coded.is_text
        form = form_of_texts(coded.values.to_pylist(), self.name) if texts else form_of_numbers(int(coded.values[-1]))
        self.say("key", detail=f"new rows get {form.words()}")
        stored: Stored = "text" if texts else "integer"
        return coded.series(), Column(name=self.name, kind="key", stored=stored, missing=0, distinct=len(coded.values))


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


def _form(texts: pa.Array) -> str | None:
    """ ".2f" when every text has two digits after its point, "r" when their number differs, None without points."""
    if not pc.all(pc.match_substring_regex(texts, r"^-?\d+\.\d+(e.*)?$")).as_py():
        return None
    digits = pc.unique(pc.subtract(pc.utf8_length(texts), pc.find_substring(texts, "."))).to_pylist()
    same = len(digits) == 1 and digits[0] <= MOST_DECIMALS + 1 and not pc.any(pc.match_substring(texts, "e")).as_py()
    return f".{digits[0] - 1}f" if same else "r"


def _kind(coded: Coded) -> Kind:
    if coded.is_text:
        return "category"
    kinds: dict[str, Kind] = {"i": "integer", "f": "number", "b": "boolean", "M": "date"}
    return kinds[coded.values.dtype.kind]


def _measured(column: Column, coded: Coded) -> Column:
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
