"""Tables as they come: a CSV, TSV or Parquet file or a data frame becomes one normalised frame with its columns' kinds.

A text file is read as text throughout and its kinds are found by `columns.infer`, so that "02139" stays a postcode.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed
from pellucid.domains.columns import NUMBER, Column, infer
from pellucid.domains.constraint_words import constraint_lines, read_constraint
from pellucid.domains.constraints import Constraint, breaking, check_together, refusal
from pellucid.domains.given import as_given, as_written
from pellucid.domains.pictures import spread

__all__ = ["ArrowStream", "TableData", "TableSource", "read_table"]

LARGEST_TEXT = 8 * 2**30  # bytes of a text file once unpacked
MOST_RAGGED = 0.01
MOST_CLASSES = 100  # a target with more values is measured, not told apart
SAMPLE = 1 << 18  # bytes that the separator is found from
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
FOREIGN = {  # first bytes of files that people take for tables
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Save the sheet as CSV, or unpack the archive"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as CSV"),
    b"%PDF": ("a PDF", "Export the table as CSV"),
    b"\x89PNG": ("a picture", "Name the folder of the pictures"),
    b"\xff\xd8\xff": ("a picture", "Name the folder of the pictures"),
    b"SQLite format 3": ("a SQLite database", "Export a table as CSV"),
}


@runtime_checkable
class ArrowStream(Protocol):
    """Any table that offers its columns through Arrow, such as a polars or Arrow table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


TableSource: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | ArrowStream"


@dataclass(frozen=True, kw_only=True, eq=False)
class TableData:
    """A table, read and normalised but not encoded.

    frame: N rows, one dtype for each kind of column (see `Column`), index 0 to N - 1.
    columns: what was found out about each column of the frame, in its order.
    notices: what was inferred, converted or skipped while reading.
    source: a short label of where it came from.
    target: the column to be predicted, when one was named.
    constraints: what holds between columns in every row, when something was declared.

    >>> table = read_table(pd.DataFrame({"age": [31, 52, 47], "ill": [True, False, True]}), target="ill")
    >>> len(table), [column.kind for column in table.columns], table.take([1]).frame["age"].tolist()
    (3, ['integer', 'boolean'], [52])
    """

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notices: tuple[Noticed, ...] = ()
    source: str = "table"
    target: str | None = None
    constraints: tuple[Constraint, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, index: NDArray[np.integer] | Sequence[int]) -> TableData:
        """The rows at these positions, in this order; `columns` still describe the table they were taken from."""
        return replace(self, frame=self.frame.iloc[np.asarray(index, dtype=np.int64)].reset_index(drop=True))

    def column(self, name: str) -> Column:
        """What was found out about the column of this name."""
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise BadInput(f"there is no column '{name}'", accepted=_listed(names), next=nearest(name, names))

    def given(self) -> pd.DataFrame:
        """The frame with the types its values had before."""
        return as_given(self.frame, self.columns)

    def written(self) -> pd.DataFrame:
        """The frame as the text that a file of it holds."""
        return as_written(self.frame, self.columns)

    def fingerprint(self) -> str:
        """sha256 over names, kinds and values: equal for equal data, wherever it was read from."""
        digest = hashlib.sha256(f"{len(self.frame)}".encode())
        for column in self.columns:
            digest.update(f"{len(column.name)}:{column.name}:{column.kind};".encode())
            codes, values = pd.factorize(self.frame[column.name])
            digest.update(codes.astype("<i8").tobytes())
            texts = [str(value) for value in pd.Series(values).tolist()]
            digest.update("".join(f"{len(text)}:{text}" for text in texts).encode())
        return digest.hexdigest()


def read_table(
    source: TableSource,
    *,
    kinds: Mapping[str, str] | None = None,
    target: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    limit: int | None = None,
    constraints: Iterable[str] | Path = (),
    drop_breaking: bool = False,
) -> TableData:
    """A table from a CSV or TSV file (also .gz), a Parquet file, a data frame, or anything that streams Arrow.

    Args:
        kinds: kinds by column name that replace the inference, see `infer`.
        target: the column to be predicted later.
        delimiter, encoding: of a text file; None finds them out.
        limit: read so many rows, spread evenly over the table.
        constraints: texts such as "start <= end", "total = a + b", "together: city, country", or a file of them.
        drop_breaking: leave out rows that break a constraint, instead of refusing the table.

    Raises:
        BadInput: no table, no rows, no header, columns of one name, damaged or enormous files, an unknown target,
            constraints that cannot be read, contradict each other or are broken by rows.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}", accepted="1 or more, or None for all rows")
    said: list[Noticed] = []
    header: list[str] | None = None
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        label = path.name
        frame, header = _from_file(path, delimiter, encoding, said)
    elif isinstance(source, pd.DataFrame):
        label, frame = "data frame", _from_frame(source, said)
    elif isinstance(source, ArrowStream):
        label, frame = "Arrow table", _from_arrow(pa.RecordBatchReader.from_stream(source).read_all())
    else:
        raise BadInput(
            f"a table was expected, a {type(source).__name__} came",
            accepted="a CSV, TSV or Parquet file, a data frame, or anything with __arrow_c_stream__",
        )
    _check_names(label, list(frame.columns))
    if target is not None and target not in frame.columns:
        raise BadInput(
            f"target is '{target}', which is no column of '{label}'",
            accepted=_listed(list(frame.columns)),
            next=nearest(target, frame.columns),
        )
    if not len(frame):
        raise BadInput(f"'{label}' has no rows", accepted="a header and one row or more")
    at = spread(len(frame), limit)
    if len(at) < len(frame):
        said.append(_say("limit", f"{len(at):,} of {len(frame):,} rows read, evenly spread", len(at)))
        frame = frame.iloc[at].reset_index(drop=True)
    raw = frame
    frame, columns, noticed = infer(raw, kinds, typed=header is None)
    declared = tuple(dict.fromkeys(read_constraint(text, columns) for text in constraint_lines(constraints)))
    check_together(declared, target)
    if broken := breaking(declared, frame, columns):
        lost = np.logical_or.reduce(list(broken.values()))
        if not drop_breaking or lost.all():
            raise refusal(broken)
        frame, columns, noticed = infer(raw[~lost].reset_index(drop=True), kinds, typed=header is None)
        declared = tuple(read_constraint(c.text, columns) for c in declared)
        each = ", ".join(f"'{text}' {int(rows.sum()):,}" for text, rows in broken.items())
        said.append(_say("breaking", f"{lost.sum():,} rows left out that break a constraint: {each}", int(lost.sum())))
    if header is not None:
        _check_header(label, header, frame, columns)
    if not any(column.kind != "empty" for column in columns):
        raise BadInput(f"'{label}' has {len(frame):,} rows but no value in any column", accepted="a table with values")
    if target is not None and target not in frame.columns:
        raise BadInput(f"target is '{target}', which kinds drops", next="Keep the column or name another target")
    if declared:
        texts = "; ".join(c.text for c in declared)
        said.append(_say("constraints", f"{len(frame):,} rows keep what was declared: {texts}", len(declared)))
    notices = (*said, *noticed, *_sparse(frame, columns, target))
    return TableData(frame=frame, columns=columns, notices=notices, source=label, target=target, constraints=declared)


def _sparse(frame: pd.DataFrame, columns: tuple[Column, ...], target: str | None) -> list[Noticed]:
    """What is said of tables that hold little to learn from."""
    said = []
    if len(columns) > len(frame):
        text = f"{len(columns):,} columns and {len(frame):,} rows: a model of so few rows mostly repeats them"
        said.append(_say("wide", text, len(columns)))
    kind = next((c.kind for c in columns if c.name == target), None)
    if target is not None and kind in ("category", "boolean", "integer"):
        counts = frame[target].value_counts()
        alone = [str(value) for value in counts.index[counts == 1]]
        if alone and len(counts) <= MOST_CLASSES:
            listed = _listed(alone, 5)
            text = f"{len(alone):,} values of the target '{target}' have one row each, which a model can only copy"
            said.append(_say("rare", f"{text} or, where it is held out, never sees: {listed}", len(alone)))
    return said


# -------------------------------------------------------------------------------------------- data frames and Parquet


def _from_frame(source: pd.DataFrame, said: list[Noticed]) -> pd.DataFrame:
    if isinstance(source.columns, pd.MultiIndex):
        raise BadInput(
            f"the columns of the data frame have {source.columns.nlevels} levels",
            accepted="one name for each column",
            next="Join the levels: frame.columns = ['_'.join(map(str, c)) for c in frame.columns]",
        )
    if not isinstance(source.index, pd.RangeIndex):
        name = f"'{source.index.name}' " if source.index.name else ""
        text = f"the index {name}of the data frame is not part of the table; reset_index() makes it a column"
        said.append(_say("index", text))
    frame = source.reset_index(drop=True)
    frame.columns = pd.Index([str(name) for name in source.columns], dtype=object)
    return frame


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    nullable = {
        pa.from_numpy_dtype(name.lower()): pd.array([], dtype=name).dtype
        for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    }
    names = table.column_names
    frame = table.rename_columns([str(i) for i in range(len(names))]).to_pandas(
        types_mapper=nullable.get, ignore_metadata=True
    )
    frame.columns = pd.Index(names, dtype=object)
    return frame


def _from_file(
    path: Path, delimiter: str | None, encoding: str | None, said: list[Noticed]
) -> tuple[pd.DataFrame, list[str] | None]:
    """The frame, and for a text file its first line, which may turn out not to be a header."""
    if not path.is_file():
        raise BadInput(f"there is no file '{path.name}'", accepted="a CSV, TSV or Parquet file")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PAR1"):
        try:
            return _from_arrow(pyarrow.parquet.read_table(path)), None
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"'{path.name}' is a damaged Parquet file", next="Copy it again") from error
    for magic, (what, then) in FOREIGN.items():
        if head.startswith(magic):
            raise BadInput(f"'{path.name}' is {what}", accepted="CSV, TSV or Parquet", next=then)
    raw = _unzipped(path) if head.startswith(b"\x1f\x8b") else path.read_bytes()
    text = _decoded(path.name, raw, encoding, said)
    if announced := re.match(r"sep=(.)\r?\n", text):  # as Excel writes it
        text, delimiter = text[announced.end() :], delimiter or announced[1]
    return _from_text(path.name, text, delimiter or _separator(text, said), said)


# ------------------------------------------------------------------------------------------------------- text files


def _unzipped(path: Path) -> bytes:
    try:
        if path.stat().st_size * 1032 > LARGEST_TEXT:  # no deflate stream grows more than 1032-fold
            with gzip.open(path) as file:
                size = 0
                while part := file.read(1 << 22):
                    size += len(part)
                    if size > LARGEST_TEXT:
                        raise BadInput(
                            f"'{path.name}' holds more than {LARGEST_TEXT / 2**30:.1f} GB once unpacked",
                            accepted=f"at most {LARGEST_TEXT / 2**30:.1f} GB",
                            why="It would not fit into memory, or is made to exhaust it",
                            next="Split it, or save it as Parquet with the rows you need",
                        )
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, OSError) as error:
        raise BadInput(f"'{path.name}' is cut short or damaged ({error})", next="Copy it again") from error


def _decoded(name: str, raw: bytes, encoding: str | None, said: list[Noticed]) -> str:
    """The text, with the byte order mark taken off."""
    if not raw.strip():
        raise BadInput(f"'{name}' is empty", accepted="a header and one row or more")
    if encoding is not None:
        try:
            return raw.decode(encoding).removeprefix("\ufeff")
        except (LookupError, UnicodeError) as error:
            raise BadInput(f"'{name}' cannot be read as {encoding} ({error})", next="Leave encoding out") from error
    found = _encoding(raw)
    if found is None:
        raise BadInput(f"'{name}' is not text: it holds zero bytes", accepted="CSV, TSV or Parquet")
    try:
        text = raw.decode(found)
    except UnicodeError:
        found = "cp1252"
        try:
            text = raw.decode(found)
        except UnicodeError:
            found, text = "latin-1", raw.decode("latin-1")
    controls = sum(text[:SAMPLE].count(c) for c in "\x01\x02\x03\x04\x05\x06\x0e\x0f\x10\x11\x12")
    if controls > 0.005 * len(text[:SAMPLE]):
        raise BadInput(f"'{name}' is not text but some binary format", accepted="CSV, TSV or Parquet")
    if found not in ("utf-8", "utf-8-sig"):
        guess = "" if found.startswith("utf-16") else ", as it is not UTF-8"
        said.append(_say("encoding", f"read as {found}{guess}; check names with accents"))
    return text


def _encoding(raw: bytes) -> str | None:
    """What the first bytes say; None for bytes that are no text."""
    if raw.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = raw[:SAMPLE]
    if b"\0" not in head:
        return None if b"\0" in raw else "utf-8"
    if head[1::2].count(0) > 0.4 * len(head) / 2 and not head[::2].count(0):
        return "utf-16-le"
    if head[::2].count(0) > 0.4 * len(head) / 2 and not head[1::2].count(0):
        return "utf-16-be"
    return None


def _separator(text: str, said: list[Noticed]) -> str:
    """The separator that parts most lines into the same number of cells; the comma when none does."""
    sample = text[:SAMPLE]
    if len(text) > SAMPLE:
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, score = ",", (0.0, 1)
    for separator in SEPARATORS:
        try:
            rows = [len(row) for row in csv.reader(io.StringIO(sample, newline=None), delimiter=separator) if row][:500]
        except csv.Error:
            continue
        width, count = Counter(rows).most_common(1)[0]
        found = (round(count / len(rows), 1), width)
        if width > 1 and found > score:
            best, score = separator, found
    if score[1] == 1:
        text = "one column only: no comma, tab, semicolon or vertical bar parts the lines; delimiter names another sign"
        said.append(_say("delimiter", text))
    elif best != ",":
        said.append(_say("delimiter", f"cells are parted by {SEPARATORS[best]}s"))
    return best


def _from_text(name: str, text: str, delimiter: str, said: list[Noticed]) -> tuple[pd.DataFrame, list[str]]:
    ragged: list[pyarrow.csv.InvalidRow] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    content = text.encode()
    header = _first_row(name, text, delimiter)
    cells = [f"f{i}" for i in range(len(header))]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            read_options=pyarrow.csv.ReadOptions(
                column_names=cells, block_size=min(max(1 << 24, len(content) // 8), 1 << 30), use_threads=False
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(cells, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, ValueError) as error:
        raise BadInput(f"'{name}' cannot be parted into rows and cells ({error})", next="Check its quotes") from error
    _check_quotes(name, text, table)
    rows = table.slice(1)
    _check_ragged(name, ragged, len(rows), len(header), said)
    frame = _from_arrow(rows)
    frame.columns = pd.Index(_named(header, said), dtype=object)
    return frame, header


def _first_row(name: str, text: str, delimiter: str) -> list[str]:
    if len(delimiter) != 1:
        raise BadInput(f"delimiter is {delimiter!r}", accepted="one character, such as ',' or ';'")
    try:
        header = next((row for row in csv.reader(io.StringIO(text, newline=None), delimiter=delimiter) if row), None)
    except csv.Error as error:
        raise BadInput(f"the first line of '{name}' cannot be read ({error})", accepted="column names") from error
    if not header or not any(cell.strip() for cell in header):
        raise BadInput(f"the first line of '{name}' is empty", accepted="column names in the first line")
    return [cell.strip() for cell in header]


def _check_quotes(name: str, text: str, table: pa.Table) -> None:
    """An opening quote that is never closed swallows the rest of the file into its last cell."""
    if text.count('"') % 2 == 0 or not len(table):
        return
    last = table.slice(len(table) - 1).to_pylist()[0]
    if any("\n" in cell for cell in last.values()):
        raise BadInput(
            f"a quotation mark in row {len(table) - 1:,} of '{name}' is never closed",
            why="All that follows it would be one cell",
            next="Close it, or write a quotation mark inside a cell twice",
        )


def _check_ragged(name: str, ragged: list[pyarrow.csv.InvalidRow], good: int, width: int, said: list[Noticed]) -> None:
    if not ragged:
        return
    counts = Counter(row.actual_columns for row in ragged).most_common(3)
    came = ", ".join(f"{count:,} with {cells}" for cells, count in counts)
    if len(ragged) > MOST_RAGGED * (good + len(ragged)):
        raise BadInput(
            f"{len(ragged):,} of {good + len(ragged):,} rows of '{name}' do not have the {width} cells of the header "
            f"({came})",
            accepted=f"at most {MOST_RAGGED:.0%} of such rows",
            next="Check the delimiter, and that the first line names each column and has no remarks above it",
        )
    first = ragged[0].text[:60]
    text = f"{len(ragged):,} rows skipped that do not have {width} cells ({came}), the first is '{first}'"
    said.append(_say("skipped", text, len(ragged)))


def _named(header: list[str], said: list[Noticed]) -> list[str]:
    """Names for columns without one, as data frames leave behind for their index."""
    names = [cell or f"column {i + 1}" for i, cell in enumerate(header)]
    blank = [names[i] for i, cell in enumerate(header) if not cell]
    if blank:
        said.append(_say("names", f"columns without a name are called {', '.join(blank)}", len(blank)))
    return names


def _check_names(label: str, names: list[str]) -> None:
    if not names:
        raise BadInput(f"'{label}' has no columns", accepted="a table with one column or more")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(
            f"'{label}' has several columns named {', '.join(repr(name) for name in twice[:5])}",
            accepted="a different name for each column",
            why="A column is asked for by its name",
            next="If the first line holds data, add a line of names above it" if re.match(NUMBER, twice[0]) else "",
        )


def _check_header(label: str, header: list[str], frame: pd.DataFrame, columns: tuple[Column, ...]) -> None:
    """Refuse a first line that looks like the rows below it; years or wavelengths in rising order are names."""
    numbers = [float(cell) for cell in header if re.match(NUMBER, cell)]
    if len(numbers) == len(header) > 1 and all(a < b for a, b in pairwise(numbers)):
        return
    fits = [
        bool(re.match(NUMBER, cell)) if column.kind in ("number", "integer") else cell in (column.levels or ())
        for cell, column in zip(header, columns, strict=False)
    ]
    if len(columns) == len(header) and sum(fits) >= 0.8 * len(fits):
        raise BadInput(
            f"the first line of '{label}' looks like data, not like names: {_listed(header, 6)}",
            accepted="column names in the first line",
            next="Add a line of names above it",
        )


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _say(topic: str, text: str, count: int | None = None) -> Noticed:
    return Noticed(topic=topic, text=text, count=count)
