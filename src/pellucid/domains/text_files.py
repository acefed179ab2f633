"""Texts as they come: a file or a folder of plain text becomes one running text, or a list of short strings.

Whatever had to be guessed is said: the encoding, the line ends, and whether the lines belong together.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.run import Noticed
from pellucid.core.settings import from_words
from pellucid.domains.pieces import UNITS, Unit, cut, joined

__all__ = ["ENDINGS", "TextData", "TextReading", "as_text", "read_text", "reading_of", "text_of"]

ENDINGS = (".txt", ".text", ".md")
LARGEST = 2**30  # bytes of a text
FEWEST = 100  # pieces of a running text: a tenth is held out, and something must be left to be learned
WINDOW = {"characters": 128, "bytes": 128, "words": 64, "symbols": 128}
WINDOWS = 8  # a short text is cut into so many windows at least
MOST_STARTS = 2**24  # windows of a longer text start further apart
LONGEST_ITEM = 256  # characters of a line that is taken for an item of a list
WORDS_IN_ITEM = 3.0  # on average, at most
SAMPLE = 2**20  # bytes that a binary file is known by
FOREIGN = {  # first bytes of files that people take for texts
    b"PK\x03\x04": "a zip archive or a document of an office program",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x1f\x8b": "a gzip archive",
    b"{\\rtf": "a document of a word processor",
}

Codes = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class TextReading:
    """How a text file is read; what is None is found out and said.

    Args:
        form: running (one text, learned in windows) or lines (a list: one item a line).
        unit: what a symbol is: characters, bytes, words, or the symbols of SMILES strings.
        window: pieces in one window of a running text.
        encoding: such as utf-8 or latin-1.
    """

    form: Literal["running", "lines"] | None = None
    unit: Unit = "characters"
    window: int | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not 2 <= self.window <= 100_000:
            raise BadInput(f"window is {self.window}", accepted="from 2 to 100,000 pieces")
        if self.window is not None and self.form == "lines":
            raise BadInput("a window was given for a list of lines", accepted="a window of a running text")
        if self.encoding is not None:
            try:
                "a".encode(self.encoding)
            except LookupError as error:
                raise BadInput(f"encoding is '{self.encoding}'", accepted="utf-8, latin-1, utf-16, ...") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class TextData:
    r"""Strings, each a stretch of one long row of numbered pieces: windows of a text, or the lines of a list.

    codes: (n,) number of each piece of the text. pieces: what each number stands for; empty for bytes.
    starts, lengths: (N,) of the items.
    form: "running" or "lines". unit: what a piece is.
    notices: what was inferred or converted while reading. source: a short label of where it came from.

    >>> data = text_of(["Ada", "Bo"])
    >>> len(data), data.texts(), data.take([1]).texts()
    (2, ['Ada', 'Bo'], ['Bo'])
    """

    codes: Codes
    pieces: tuple[str, ...]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    form: Literal["running", "lines"]
    unit: Unit
    notices: tuple[Noticed, ...] = ()
    source: str = "text"

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def window(self) -> int:
        """Pieces of one item of a running text, of the longest line of a list."""
        return int(self.lengths.max(initial=0))

    def take(self, index: NDArray[np.integer] | Sequence[int]) -> Self:
        """The items at these positions, in this order."""
        at = np.asarray(index, dtype=np.int64)
        return replace(self, starts=self.starts[at], lengths=self.lengths[at])

    def texts(self, limit: int | None = None) -> list[str]:
        """The items as strings, the first `limit` of them."""
        stop = len(self) if limit is None else min(limit, len(self))
        return [self._string(int(s), int(n)) for s, n in zip(self.starts[:stop], self.lengths[:stop], strict=True)]

    def whole(self) -> TextData:
        """The text from its first item's start to its last item's end, as one item; a list as it is."""
        if self.form == "lines" or not len(self):
            return self
        first, last = int(self.starts.min()), int((self.starts + self.lengths).max())
        return replace(self, starts=np.array([first]), lengths=np.array([last - first]))

    def halves(self, held_out: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the items to learn from and of those to hold out, by position in the text.

        The last share of a running text is held out, cut into windows one after another; no window to learn from
        reaches into it. Lists have no position: see `fitting.halves`.
        """
        size, end = self.window, len(self.codes)
        cut_at = end - round(end * held_out)
        kept = np.flatnonzero(self.starts + self.lengths <= cut_at)
        aside = np.unique(np.searchsorted(self.starts, np.arange(cut_at, end - size + 1, size)))
        return kept, aside[aside < len(self)] if held_out else aside[:0]

    def nbytes(self) -> int:
        """Bytes of memory."""
        return int(self.codes.nbytes + self.starts.nbytes + self.lengths.nbytes)

    def fingerprint(self) -> str:
        """sha256 over form, pieces and items: equal for equal texts, wherever they were read from."""
        digest = hashlib.sha256(f"{self.form} {self.unit} {len(self.pieces)}".encode())
        for piece in self.pieces:
            digest.update(f"{len(piece)}:{piece}".encode("utf-8", "surrogatepass"))
        for array in (self.codes, self.starts, self.lengths):
            digest.update(f"{array.dtype.itemsize}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _string(self, start: int, length: int) -> str:
        return joined(self.codes[start : start + length], self.pieces, self.unit)


def read_text(
    source: str | os.PathLike[str],
    reading: TextReading | None = None,
    *,
    limit: int | None = None,
    fewest: int = FEWEST,
) -> TextData:
    """A text from a file of plain text, or from a folder of them, one after another in the order of their names.

    Args:
        reading: how; None finds it out.
        limit: read so many items.
        fewest: pieces that a running text must have; 1 where nothing is learned from it.

    Raises:
        BadInput: a binary file, an empty one, one that is no text in the named encoding, a text too short or too large.
    """
    path, reading = Path(source), reading or TextReading()
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}", accepted="1 or more, or None for all items")
    said: list[Noticed] = []
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
        text = "\n".join(_decoded(file, reading, said) for file in files)
        form = reading.form or "running"
        said.append(Noticed(topic="files", text=f"{len(files)} files were joined in the order of their names.",
                            count=len(files)))  # fmt: skip
    else:
        text = _decoded(path, reading, said)
        form = reading.form or _form_of(text, said)
    if not text.strip():
        raise BadInput(f"'{path}' is empty" + (": it holds white space only" if text else ""), accepted="a text")
    data = _lines(text, reading, said) if form == "lines" else _windows(text, reading, said, str(path), fewest)
    data = replace(data, source=path.name, notices=tuple(said))
    return data if limit is None or limit >= len(data) else data.take(np.arange(limit) * len(data) // limit)


def reading_of(words: dict[str, str] | None) -> TextReading:
    """How to read, from words as `unit=words`."""
    return from_words(TextReading, words or {})


def text_of(
    items: str | Sequence[str], *, unit: Unit = "characters", window: int | None = None, source: str = "text"
) -> TextData:
    """A text that is at hand: one string is a running text, several are the items of a list."""
    if unit not in UNITS:
        raise BadInput(f"unit is '{unit}'", accepted=", ".join(UNITS))
    reading = TextReading(unit=unit, window=window)
    said: list[Noticed] = []
    data = _windows(items, reading, said, source) if isinstance(items, str) else _lines("\n".join(items), reading, said)
    return replace(data, source=source, notices=tuple(said))


def _decoded(path: Path, reading: TextReading, said: list[Noticed]) -> str:
    """The file's text with line ends of one kind."""
    if path.stat().st_size > LARGEST:
        raise BadInput(f"'{path}' has {path.stat().st_size:,} bytes", accepted=f"at most {LARGEST:,}")
    raw = path.read_bytes()
    text, encoding = as_text(raw, path, reading.encoding)
    if encoding not in ("utf-8", reading.encoding):
        said.append(Noticed(topic="encoding", text=f"'{path.name}' is no UTF-8 and was read as {encoding}."))
    kinds = {"Windows": text.count("\r\n")}
    kinds["old Mac"] = text.count("\r") - kinds["Windows"]
    if any(kinds.values()):
        kinds["Unix"] = text.count("\n") - kinds["Windows"]
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        listed = ", ".join(f"{count:,} {name}" for name, count in kinds.items() if count)
        mixed = "of several kinds " if sum(c > 0 for c in kinds.values()) > 1 else ""
        said.append(Noticed(topic="line ends", text=f"Line ends {mixed}({listed}) were made newlines.",
                            count=sum(kinds.values())))  # fmt: skip
    return text


def as_text(raw: bytes, path: Path, asked: str | None = None) -> tuple[str, str]:
    """The text and the encoding it was read in. Raises BadInput for a binary file, or text in another encoding."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((name for mark, name in marks.items() if raw.startswith(mark)), None)
    if asked is not None:
        try:
            return raw.decode(asked), asked
        except UnicodeError as error:
            why = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
            raise BadInput(
                f"'{path}' is no text in {asked} ({why})", next="Leave the encoding out to have it found."
            ) from error
    kind = next((name for mark, name in FOREIGN.items() if raw.startswith(mark)), None)
    if kind is not None:
        raise BadInput(f"'{path}' is {kind}, no plain text", next="Export it as plain text (.txt).")
    if marked is not None:
        try:
            return raw.decode(marked), "utf-8" if marked == "utf-8-sig" else marked
        except UnicodeError as error:
            raise BadInput(f"'{path}' begins as {marked} and does not go on so", accepted="one encoding") from error
    head = np.frombuffer(raw[:SAMPLE], np.uint8)
    steering = int(((head < 32) & (head != 9) & (head != 10) & (head != 12) & (head != 13)).sum())
    if b"\0" in raw[:SAMPLE] or steering > 0.01 * len(head):
        raise BadInput(
            f"'{path}' is a binary file, no plain text",
            accepted="text in UTF-8 or in an encoding that is named",
            next="If it is a text, name its encoding: --text encoding=utf-16.",
        )
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252"), "Windows-1252 (Western European)"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "Latin-1 (Western European)"


def _form_of(text: str, said: list[Noticed]) -> Literal["running", "lines"]:
    """A list of short strings, or a text whose lines belong together."""
    lines = text[: 2**22].split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    longest = max((len(line) for line in lines), default=0)
    words = sum(len(line.split()) for line in lines) / max(1, len(lines))
    blank = sum(not line.strip() for line in lines)
    if len(lines) >= 10 and longest <= LONGEST_ITEM and words <= WORDS_IN_ITEM and blank <= len(lines) // 100:
        why = f"its lines are short ({words:.1f} words each) and none is empty"
        form: Literal["running", "lines"] = "lines"
    else:
        why = "its lines belong together"
        form = "running"
    what, other = ("a list, one item a line,", "running") if form == "lines" else ("one running text", "lines")
    said.append(Noticed(topic="form", text=f"Read as {what} because {why}; --text form={other} reads it otherwise."))
    return form


def _windows(text: str, reading: TextReading, said: list[Noticed], source: str, fewest: int = FEWEST) -> TextData:
    """Windows that start at every piece, of a very long text at every few."""
    codes, pieces = cut(text, reading.unit)
    if len(codes) < fewest:
        raise BadInput(
            f"'{source}' has {len(codes)} {reading.unit}",
            accepted=f"{fewest} or more of a running text",
            why="A tenth is held out to measure whether the model learned.",
        )
    size = min(reading.window or WINDOW[reading.unit], max(1, len(codes) // (2 * WINDOWS)))
    if reading.window is not None and size < reading.window:
        said.append(Noticed(topic="window", text=f"The text is short, so windows have {size} {reading.unit}."))
    starts = np.arange(0, len(codes) - size + 1, -(-len(codes) // MOST_STARTS))
    return TextData(
        codes=codes,
        pieces=pieces,
        starts=starts,
        lengths=np.full(len(starts), size),
        form="running",
        unit=reading.unit,
    )


def _lines(text: str, reading: TextReading, said: list[Noticed]) -> TextData:
    """One item a line; empty lines are left out and counted."""
    lines = text.split("\n")
    lines = lines[:-1] if lines and not lines[-1] else lines
    kept = [line for line in lines if line.strip()]
    if len(kept) < len(lines):
        empty = len(lines) - len(kept)
        said.append(Noticed(topic="empty", text=f"{empty:,} empty lines were left out.", count=empty))
    longest = max((len(line) for line in kept), default=0)
    if longest > 100_000:
        raise BadInput(f"a line has {longest:,} characters", accepted="at most 100,000 in an item of a list",
                       next="Read it as one text: --text form=running.")  # fmt: skip
    codes, pieces = cut("\n".join(kept), reading.unit)
    newline = 10 if reading.unit == "bytes" else pieces.index("\n") if "\n" in pieces else -1
    ends = np.flatnonzero(codes == newline)
    starts = np.concatenate((np.zeros(1, np.int64), ends + 1)) if kept else np.zeros(0, np.int64)
    stops = np.append(ends, len(codes)) if kept else np.zeros(0, np.int64)
    return TextData(codes=codes, pieces=pieces, starts=starts, lengths=stops - starts, form="lines", unit=reading.unit)
