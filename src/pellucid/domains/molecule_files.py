"""Molecules read from files of SMILES strings: .smi with one a line, or a column of a CSV or TSV table.

Strings that are no molecules are left out, counted and named. What stands behind a string in a .smi file (a name) is
not read.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pellucid.core.errors import BadInput, shown
from pellucid.core.run import Noticed
from pellucid.core.smiles import read_smiles
from pellucid.domains.text_files import LARGEST, TextData, as_text, text_of

__all__ = ["ENDINGS", "MoleculeData", "molecules_of", "read_molecules", "smiles_column"]

ENDINGS = (".smi", ".smiles")
TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smile")  # of a column
LONGEST = 1000  # characters of a string; longer ones are left out
NAMED = 3  # strings that are no molecules, in the notice
HEAD = 2**16  # bytes in which the first line of a table ends


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeData(TextData):
    """SMILES strings, each a list of symbols; see `TextData` for the fields.

    >>> data = molecules_of(["CCO", "c1ccccc1Br", "C(C"])
    >>> len(data), data.pieces, data.notices[0].count
    (2, ('C', 'O', '\\n', 'c', '1', 'Br'), 1)
    """


def molecules_of(
    strings: Sequence[str], *, source: str = "molecules", places: Sequence[int] | None = None
) -> MoleculeData:
    """Molecules from SMILES strings that are at hand.

    Args:
        places: the line of each, for the notice; by default 1 for the first.

    Raises BadInput when none of them is a molecule.
    """
    kept: list[str] = []
    refused: list[str] = []
    for k, string in enumerate(strings):
        text = string.strip()
        try:
            if len(text) > LONGEST:
                raise BadInput(f"the SMILES {shown(text, 30)} has {len(text)} characters")
            read_smiles(text)
        except BadInput as error:
            if len(refused) < NAMED:
                line = places[k] if places is not None else k + 1
                refused.append(f"line {line:,}: {error.came}")
            else:
                refused.append("")
        else:
            kept.append(text)
    if not kept:
        raise BadInput(
            f"none of {len(strings):,} strings of '{source}' is a molecule",
            accepted="SMILES strings",
            why="; ".join(refused[:NAMED]),
        )
    said = []
    if refused:
        listed = "; ".join(filter(None, refused)) + ("; ..." if len(refused) > NAMED else "")
        text = f"{len(refused):,} of {len(strings):,} strings are no molecules and were left out ({listed})."
        said.append(Noticed(topic="invalid", text=text, count=len(refused)))
    data = text_of(kept, unit="symbols")
    return MoleculeData(
        codes=data.codes,
        pieces=data.pieces,
        starts=data.starts,
        lengths=data.lengths,
        form="lines",
        unit="symbols",
        notices=(*said, *data.notices),
        source=source,
    )


def read_molecules(source: str | os.PathLike[str], *, limit: int | None = None) -> MoleculeData:
    """Molecules from a .smi file or a table with a column named smiles; either may be packed as .gz.

    Args:
        limit: read so many, spread evenly.

    Raises:
        BadInput: a binary file, no column of SMILES strings, or no molecule at all.
    """
    path = Path(source)
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}", accepted="1 or more, or None for all items")
    text = _text(path)
    separator = TABLES.get(_ending(path))
    strings, places = _lines(text) if separator is None else _column(text, separator, path)
    if not strings:
        raise BadInput(f"'{path}' is empty", accepted="SMILES strings, one a line")
    data = molecules_of(strings, source=path.name, places=places)
    return data if limit is None or limit >= len(data) else data.take(np.arange(limit) * len(data) // limit)


def smiles_column(path: Path) -> str | None:
    """The name of a table's column of SMILES strings, by its first line; None where it has none."""
    separator = TABLES.get(_ending(path))
    if separator is None:
        return None
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            head = file.read(HEAD).decode("utf-8-sig", "replace")
    except (OSError, EOFError, zlib.error):
        return None  # whoever reads it says what is wrong
    header = next(csv.reader(io.StringIO(head.split("\n", 1)[0]), delimiter=separator), [])
    return next((name for name in header if name.strip().lower() in NAMES), None)


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise BadInput(f"'{path}' has {path.stat().st_size:,} bytes", accepted=f"at most {LARGEST:,}")
    raw = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"'{path}' cannot be unpacked ({error})", accepted="a whole .gz file") from error
        if len(raw) > LARGEST:
            raise BadInput(f"'{path}' has more than {LARGEST:,} bytes unpacked", accepted=f"at most {LARGEST:,}")
    return as_text(raw, path)[0].replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> tuple[list[str], list[int]]:
    """The first word of each line that has one, without a header, and the numbers of the lines."""
    strings, places = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split(maxsplit=1)
        if words and not (number == 1 and words[0].strip(",;").lower() in NAMES):
            strings.append(words[0])
            places.append(number)
    return strings, places


def _column(text: str, separator: str, path: Path) -> tuple[list[str], list[int]]:
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        header = next(reader, [])
        at = next((k for k, name in enumerate(header) if name.strip().lower() in NAMES), None)
        if at is None:
            raise BadInput(
                f"'{path}' has the columns {', '.join(map(shown, header[:8]))}",
                accepted="a column named smiles",
                next="Rename the column, or save the strings as a .smi file.",
            )
        strings, places = [], []
        for row in reader:
            if any(row):
                strings.append(row[at] if at < len(row) else "")
                places.append(reader.line_num)
    except csv.Error as error:
        raise BadInput(f"'{path}' is no table from line {reader.line_num} on ({error})") from error
    return strings, places
