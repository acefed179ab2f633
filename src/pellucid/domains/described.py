"""What a data set holds, before anything is learned from it: kinds, counts, ranges, gaps, repeats, and a look at it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core import report
from pellucid.core.errors import BadInput
from pellucid.core.report import Block
from pellucid.core.run import Noticed
from pellucid.core.wording import number
from pellucid.domains.columns import Column
from pellucid.domains.described_molecules import MoleculeReport, describe_molecules
from pellucid.domains.described_text import TextReport, describe_text
from pellucid.domains.frames import TableData
from pellucid.domains.kinds import Data
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures, spread
from pellucid.domains.text_files import TextData

__all__ = ["DataReport", "Histogram", "describe_data"]

SHOWN = 40  # pictures in the look at a set
BARS = 12  # of a histogram
LONG_TAIL = 2.0
SMALL_CLASS = 20


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often each value, or each stretch of values, occurs; `labels` and `counts` are as many."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class DataReport(report.Report):
    """What a data set holds.

    kind: "images" or "table". source, fingerprint: where it came from, and its sha256.
    count: N pictures or rows. shape: (height, width, channels) of pictures, None for tables. levels: values of a pixel.
    classes: the distinct labels, or the target's values when it is a category, with their counts.
    columns, histograms: one each for each column of a table.
    missing: empty cells of a table. duplicates: items equal to an earlier one; row numbers are not compared.
    conflicting: pictures whose equals have another label.
    ignored: identifiers, left out when rows are compared.
    samples: (n, H, W) or (n, H, W, 3) uint8, a spread over the set, with `captions`.
    captioned: pictures that have a caption.
    """

    kind: str
    source: str
    fingerprint: str
    count: int
    shape: tuple[int, int, int] | None = None
    levels: int | None = None
    target: str | None = None
    classes: tuple[tuple[str, int], ...] = ()
    columns: tuple[Column, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    missing: int = 0
    duplicates: int = 0
    conflicting: int = 0
    ignored: tuple[str, ...] = ()
    notices: tuple[Noticed, ...] = ()
    samples: NDArray[np.uint8] | None = None
    captions: tuple[str, ...] = ()
    captioned: int = 0

    @property
    def title(self) -> str:
        return f"Data: {self.source}"

    def blocks(self) -> tuple[Block, ...]:
        """A sentence, what to look at, the classes, the pictures or columns, and what was noticed while reading."""
        out: list[Block] = [report.Prose(self._sentence()), *self._verdicts()]
        if self.samples is not None and len(self.samples):
            out.append(
                report.Pictures(
                    self.samples,
                    captions=self.captions,
                    caption=f"{len(self.samples)} of {self.count:,} pictures, spread evenly over the set",
                    alt=f"Sample pictures of {self.source}",
                )
            )
        if self.classes:
            of = f" of '{self.target}'" if self.target else ""
            names, counts = zip(*self.classes[:40], strict=True)
            more = f", the {len(names)} largest of {len(self.classes):,}" if len(self.classes) > 40 else ""
            out += [
                report.Heading("Classes"),
                report.Bars(names, counts, caption=f"Items in each class{of}{more}", value_label="items"),
            ]
        if self.columns:
            rows = [_column_row(column) for column in self.columns]
            charts = [
                report.Bars(h.labels, h.counts, caption=h.name, value_label="rows") for h in self.histograms if h.labels
            ]
            beside = tuple(report.Row(charts[i : i + 3]) for i in range(0, len(charts), 3))
            names_ = ("column", "kind", "missing", "distinct", "lowest", "highest", "step", "remark")
            out += [
                report.Heading("Columns"),
                report.Table(names_, rows, align=("left", "left", "right", "right", "right", "right", "right", "left")),
                report.Details(f"Distributions of {len(charts)} columns", beside, open=len(charts) <= 12),
            ]
        if self.notices:
            out += [
                report.Heading("Noticed while reading"),
                report.Table(("topic", "what"), [(n.topic, n.text) for n in self.notices]),
            ]
        return (*out, report.Prose(f"Fingerprint `{self.fingerprint}`."))

    def _sentence(self) -> str:
        if self.shape is not None:
            height, width, channels = self.shape
            colour = "grey" if channels == 1 else "colour"
            classes = f" in **{len(self.classes)} classes**" if self.classes else ", without classes"
            some = "each" if self.captioned == self.count else f"{self.captioned:,}"
            captions = f", **{some} with a caption**" if self.captioned else ""
            return f"**{self.count:,} {colour} pictures** of {width} x {height} pixels{classes}{captions}."
        kinds = Counter(column.kind for column in self.columns)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        cells = self.count * len(self.columns)
        gaps = f"{self.missing:,} cells ({self.missing / max(1, cells):.1%}) are" if self.missing else "No cell is"
        target = f" The target is '{self.target}'." if self.target else ""
        return f"**{self.count:,} rows** of **{len(self.columns)} columns** ({listed}). {gaps} missing.{target}"

    def _verdicts(self) -> list[Block]:
        out: list[Block] = []
        what = "pictures" if self.shape is not None else "rows"
        apart = f", not counting {', '.join(repr(name) for name in self.ignored)}" if self.ignored else ""
        if self.duplicates:
            share = self.duplicates / self.count
            text = f"{self.duplicates:,} {what} ({share:.1%}) are exact copies of an earlier one{apart}."
            out.append(report.Verdict("warn" if share > 0.05 else "note", text))
        else:
            out.append(report.Verdict("ok", f"No two {what} are equal{apart}."))
        if self.conflicting:
            out.append(report.Verdict("warn", f"{self.conflicting:,} pictures have an equal with another label."))
        small = [name for name, count in self.classes if count < SMALL_CLASS]
        if small:
            text = f"{len(small)} classes have fewer than {SMALL_CLASS} items: {', '.join(small[:5])}"
            out.append(report.Verdict("note", text + (", ..." if len(small) > 5 else ".")))
        return out


@overload
def describe_data(data: Pictures | TableData) -> DataReport: ...


@overload
def describe_data(data: Data) -> DataReport | TextReport | MoleculeReport: ...


def describe_data(data: Data) -> DataReport | TextReport | MoleculeReport:
    """Counts, ranges, gaps and repeats of pictures, a table, a text or molecules.

    >>> found = describe_data(Pictures(pixels=np.zeros((3, 2, 2, 1), np.uint8), labels=("a", "b", "a")))
    >>> found.count, found.duplicates, found.conflicting, found.classes
    (3, 2, 3, (('a', 2), ('b', 1)))
    """
    if isinstance(data, Pictures):
        return _describe_pictures(data)
    if isinstance(data, TableData):
        return _describe_table(data)
    if isinstance(data, MoleculeData):
        return describe_molecules(data)
    if isinstance(data, TextData):
        return describe_text(data)
    raise BadInput(f"data is a {type(data).__name__}", accepted="what pellucid.read returns")


def _describe_pictures(data: Pictures) -> DataReport:
    keys = [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in data.pixels]
    labels_of: dict[bytes, set[str]] = {}
    for key, label in zip(keys, data.labels or [""] * len(keys), strict=True):
        labels_of.setdefault(key, set()).add(label)
    order = list(range(len(data)))
    if data.labels is not None:
        rank = {name: i for i, name in enumerate(data.classes())}
        order.sort(key=[rank[label] for label in data.labels].__getitem__)
    look = data.take([order[i] for i in spread(len(order), SHOWN)])
    counts = Counter(data.labels or ())
    height, width, channels = data.pixels.shape[1:]
    return DataReport(
        kind="images",
        source=data.source,
        fingerprint=data.fingerprint(),
        count=len(data),
        shape=(height, width, channels),
        levels=data.levels,
        classes=tuple((name, counts[name]) for name in data.classes()),
        duplicates=len(keys) - len(labels_of),
        conflicting=sum(len(labels_of[key]) > 1 for key in keys),
        notices=data.notices,
        samples=look.shown(),
        captioned=sum(bool(caption) for caption in data.captions or ()),
        captions=look.under(),
    )


def _describe_table(data: TableData) -> DataReport:
    frame = data.frame
    ignored = tuple(c.name for c in data.columns if _numbers_rows(c, frame[c.name]))
    compared = frame.drop(columns=list(ignored)) if len(ignored) < len(data.columns) else frame
    classes: tuple[tuple[str, int], ...] = ()
    if data.target is not None and data.column(data.target).kind in ("category", "boolean", "integer"):
        counts = frame[data.target].value_counts()
        if data.column(data.target).kind != "integer" or len(counts) <= SMALL_CLASS:
            classes = tuple((str(name), int(count)) for name, count in counts.items())
    return DataReport(
        kind="table",
        source=data.source,
        fingerprint=data.fingerprint(),
        count=len(data),
        target=data.target,
        classes=classes,
        columns=data.columns,
        histograms=tuple(_histogram(c, frame[c.name]) for c in data.columns),
        missing=int(frame.isna().sum().sum()),
        duplicates=int(compared.duplicated().sum()),
        ignored=ignored if compared is not frame else (),
        notices=data.notices,
    )


def _numbers_rows(column: Column, values: pd.Series) -> bool:
    """Is the column an identifier, or n whole numbers in a row, each once?"""
    if column.kind == "key":
        return True
    if column.kind != "integer" or len(values) < 2 or values.isna().any():
        return False
    return bool(values.is_unique and int(values.max()) - int(values.min()) == len(values) - 1)


def _histogram(column: Column, values: pd.Series) -> Histogram:
    known = values.dropna()
    told_apart = column.kind == "category" and column.distinct > 0.9 * len(known)  # every bar would be 1
    if column.kind in ("constant", "empty", "key") or not len(known) or told_apart:
        return Histogram(name=column.name, labels=(), counts=())
    few = known.nunique() <= BARS
    if column.kind in ("category", "boolean") or (column.kind == "integer" and few):
        counts = known.value_counts()
        counts = counts.sort_index() if column.kind == "integer" else counts
        labels = [str(name)[:40] for name in counts.index[:BARS]]
        numbers = [int(n) for n in counts.iloc[:BARS]]
        if len(counts) > BARS:
            labels.append(f"{len(counts) - BARS:,} others")
            numbers.append(int(counts.iloc[BARS:].sum()))
        return Histogram(name=column.name, labels=tuple(labels), counts=tuple(numbers))
    if column.kind == "date":
        places = known.astype("datetime64[us]").astype("int64").to_numpy() / 1e6
    else:
        places = known.to_numpy(dtype=np.float64)
    heights, edges = np.histogram(places, bins=BARS)
    labels = [_place(column, low) for low in edges[:-1]]
    return Histogram(name=column.name, labels=_distinct(labels, edges), counts=tuple(int(h) for h in heights))


def _distinct(labels: Sequence[str], edges: NDArray[np.float64]) -> tuple[str, ...]:
    """Left ends of the bars; with more figures where four do not tell them apart."""
    return tuple(labels) if len(set(labels)) == len(labels) else tuple(f"{edge:.9g}" for edge in edges[:-1])


def _place(column: Column, value: float) -> str:
    if column.kind != "date":
        return number(value)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
    return moment.strftime("%Y-%m-%d" if (column.step or 0) >= 86400 else "%Y-%m-%d %H:%M:%S")


def _column_row(column: Column) -> tuple[report.Cell, ...]:
    low = "" if column.low is None else _place(column, column.low)
    high = "" if column.high is None or column.kind == "constant" else _place(column, column.high)
    step = "" if column.step is None or column.kind == "constant" else _step(column)
    remarks = ["made anew, never learned"] if column.kind == "key" else []
    if column.kind == "constant" and column.levels:
        remarks.append(f"always {column.levels[0]}")
    if column.skew is not None and abs(column.skew) > LONG_TAIL:
        side = "high" if column.skew > 0 else "low"
        remarks.append(f"long tail of {side} values (skew {column.skew:.1f})")
    if column.kind == "date" and column.stored == "text":
        remarks.append(f"written {column.format}")
    return (column.name, column.kind, column.missing, column.distinct, low, high, step, "; ".join(remarks))


def _step(column: Column) -> str:
    assert column.step is not None
    if column.kind != "date":
        return f"{column.step:g}"
    return {86400.0: "day", 3600.0: "hour", 60.0: "minute", 1.0: "second"}.get(column.step, f"{column.step:g} s")
