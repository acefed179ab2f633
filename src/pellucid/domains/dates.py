"""Dates in text: the one format that fits every value, found among those that people use.

A format is tried on a few values first and then on all. Where day and month could change places the day is read first,
and the reader is told; times from several zones are turned into UTC, since a column holds one clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Dates", "NotDates", "clock_step", "find_dates", "shown_format"]

FORMATS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m",
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d-%m-%Y", "%d-%m-%Y %H:%M", "%d-%m-%Y %H:%M:%S",
    "%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p", "%m-%d-%Y",
    "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y", "%b %Y", "%B %Y",
)  # fmt: skip
COMPACT = "%Y%m%d"  # only when dates were asked for: eight digits are a number otherwise
OFFSET = r"(?P<offset>Z|[+-]\d{2}:?\d{2})$"
CLOCK = (86400.0, 3600.0, 60.0, 1.0, 0.001, 0.000001)  # steps of a date, in seconds
DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True, kw_only=True)
class Dates:
    """Texts that are dates in one format, or in several time zones and now in UTC.

    moments: (N,), in microseconds, one for each text. format: how they were written, for strftime.
    ambiguous: whether they would all be dates with day and month exchanged as well.
    from_zones: whether they were turned into UTC.
    """

    moments: NDArray[np.datetime64]
    format: str
    ambiguous: bool = False
    from_zones: bool = False


@dataclass(frozen=True, kw_only=True)
class NotDates:
    """Texts that no one format fits.

    misfits: those outside the format that fits most; partly: whether some format fits at least the first of them.
    """

    misfits: tuple[str, ...]
    partly: bool


def find_dates(texts: pa.Array, *, asked: bool = False, format: str = "") -> Dates | NotDates | None:
    """Dates in the one format that fits all texts; None where nothing speaks for dates.

    Args:
        texts: distinct values, none missing.
        asked: dates are wanted, so that even the unlikely is tried.
        format: the one format to try.

    >>> found = find_dates(pa.array(["03.04.2024", "31.12.2024"]))
    >>> found.format, str(found.moments[0])[:10]
    ('%d.%m.%Y', '2024-04-03')
    """
    sample = texts.slice(0, 50).to_pylist()
    if not asked and not all(6 <= len(t) <= 35 and re.search(r"\d", t) for t in sample):
        return None
    ending = ""
    if not format and pc.all(pc.match_substring_regex(texts, r"\d\d:\d\d.*" + OFFSET)).as_py():
        offsets = pc.unique(pc.struct_field(pc.extract_regex(texts, OFFSET), "offset")).to_pylist()
        if len(offsets) > 1:
            return _in_utc(texts)
        ending = offsets[0]
        texts = pc.utf8_slice_codeunits(texts, 0, -len(ending))
        sample = [t.removesuffix(ending) for t in sample]
    formats = FORMATS + ((COMPACT,) if asked else ())
    fitting = [format] if format else [f for f in formats if _parsed(sample, f).notna().all()]
    fitting.sort(key=lambda f: _parsed(sample, f).dt.strftime(f).tolist() != sample)
    all_texts, missed = texts.to_pylist(), texts.to_pylist()
    for one in fitting:
        dates = _parsed(all_texts, one)
        if dates.notna().all():
            twin = one.replace("%d/%m", "%m/%d").replace("%d-%m", "%m-%d")
            ambiguous = not format and twin != one and bool(_parsed(all_texts, twin).notna().all())
            return Dates(moments=dates.to_numpy("datetime64[us]"), format=one + ending, ambiguous=ambiguous)
        missed = min(missed, [t for t, d in zip(all_texts, dates, strict=True) if pd.isna(d)], key=len)
    return NotDates(misfits=tuple(missed), partly=bool(fitting))


def clock_step(moments: NDArray[np.int64]) -> float | None:
    """The coarsest step of the clock, in seconds, that every gap between sorted microseconds is a multiple of.

    >>> clock_step(np.array([0, 7_200_000_000, 10_800_000_000]))
    3600.0
    """
    gaps = np.diff(moments)
    return next((s for s in CLOCK if not (gaps % round(s * 1e6)).any()), None)


def shown_format(moments: NDArray[np.int64]) -> str:
    """How microseconds since 1970 are written that came without a format: days alone when all are midnight."""
    return FORMATS[0 if not (moments % DAY).any() else 1]


def _in_utc(texts: pa.Array) -> Dates | None:
    dates = pd.to_datetime(pd.Series(texts.to_pylist()), format="ISO8601", utc=True, errors="coerce")
    if dates.isna().any():
        return None
    moments = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
    return Dates(moments=moments, format="%Y-%m-%dT%H:%M:%SZ", from_zones=True)


def _parsed(texts: list[str], format: str) -> pd.Series:
    """Dates, NaT where the text does not have the format."""
    try:
        return pd.to_datetime(pd.Series(texts, dtype=object), format=format, errors="coerce")
    except ValueError:  # the format itself is wrong
        return pd.Series([pd.NaT] * len(texts))
