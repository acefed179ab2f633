"""One door for data: the kind of a path or an object is found out, said in a notice, and the reader of it is called."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed
from pellucid.core.settings import from_plain
from pellucid.domains.constraint_words import constraint_lines
from pellucid.domains.frames import ArrowStream, TableSource, read_table
from pellucid.domains.idx import IDX
from pellucid.domains.kinds import Data, kind_of_data, words_for
from pellucid.domains.molecule_files import ENDINGS as MOLECULES
from pellucid.domains.molecule_files import read_molecules, smiles_column
from pellucid.domains.pictures import SUFFIXES, Colour, Pictures, Size, pictures_from_array, read_pictures
from pellucid.domains.teaching.shapes import shapes
from pellucid.domains.text_files import ENDINGS, TextReading, read_text

__all__ = ["NAMED", "DataSource", "ReadKind", "read", "require_items"]

ReadKind = Literal["auto", "images", "table", "text", "molecules"]
DataSource: TypeAlias = "TableSource | NDArray[np.generic] | Data"

TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")
ARRAYS = (".npz", ".npy")
NAMED = {"digits": "scikit-learn's handwritten digits", "shapes": "generated pictures of shapes with captions"}
ACCEPTED = (
    "a folder of pictures, .npz, .npy, idx files, .csv, .tsv, .parquet, .txt, .smi, a data frame, an array, "
    + " or ".join(f"'{name}'" for name in NAMED)
)
OF_KIND = {"size": "images", "colour": "images", "text": "text"}  # options of read; others are of tables
SHAPES = 4000  # pictures, when no limit says otherwise
FEWEST = 10  # of which one, a tenth, can be held out


def read(
    source: DataSource,
    *,
    kind: ReadKind = "auto",
    target: str | None = None,
    size: Size = None,
    colour: Colour = "auto",
    kinds: Mapping[str, str] | None = None,
    text: Mapping[str, object] | None = None,
    limit: int | None = None,
    constraints: Iterable[str] | Path = (),
    drop_breaking: bool = False,
) -> Data:
    """Pictures, a table, a text or molecules from a path, a data frame, an array, or a name.

    "digits" are scikit-learn's 1,797 handwritten digits, "shapes" generated coloured shapes with a caption each.

    Args:
        kind: "images", "table", "text" or "molecules" replaces the inference.
        target: the column to be predicted, or the label array of an `.npz`.
        size, colour: of pictures, see `read_pictures`.
        kinds, constraints, drop_breaking: of columns, see `read_table`.
        text: how a text is read, such as {"form": "lines"}, see `TextReading`.
        limit: read so many items, spread evenly.

    Raises:
        BadInput: nothing there, nothing of a known kind, or what the readers refuse.

    >>> data = read("digits", limit=10)
    >>> data.pixels.shape, data.levels, data.notices[0].text
    ((10, 8, 8, 1), 17, "read as images because 'digits' names scikit-learn's handwritten digits")
    """
    if isinstance(source, Data):
        return source
    known = get_args(ReadKind)
    if kind not in known:
        raise BadInput(f"kind is {kind!r}", accepted=", ".join(known), next=nearest(str(kind), known))
    if isinstance(source, str) and source in NAMED and kind in ("auto", "images"):
        found, why = "images", f"'{source}' names {NAMED[source]}"
        if Path(source).exists():
            why += f" (./{source} is the one in this folder)"
    elif isinstance(source, (str, os.PathLike)):
        found, why = _kind_of_path(Path(source), kind)
    else:
        found, why = _kind_of_object(source)
    if kind not in ("auto", found):
        raise BadInput(f"kind is '{kind}', but {why}", accepted=f"kind='{found}' for this")
    constraints = constraint_lines(constraints)
    given = {"size": size is not None, "colour": colour != "auto", "kinds": bool(kinds), "text": bool(text)}
    _check_options(found, given | {"constraints": bool(constraints), "drop_breaking": drop_breaking})
    said = f"read as {_words(found)} " + ("as asked" if kind != "auto" else f"because {why}")
    data: Data
    if found == "text":
        assert isinstance(source, (str, os.PathLike))
        _no_target(target, "a text")
        data = read_text(source, from_plain(TextReading, text or {}), limit=limit)
    elif found == "molecules":
        assert isinstance(source, (str, os.PathLike))
        _no_target(target, "molecules")
        data = read_molecules(source, limit=limit)
    elif found == "table":
        assert not isinstance(source, np.ndarray)
        data = read_table(
            source, kinds=kinds, target=target, limit=limit, constraints=constraints, drop_breaking=drop_breaking
        )
    elif isinstance(source, np.ndarray):
        _no_target(target, "an array")
        data = pictures_from_array(source, size=size, colour=colour, limit=limit)
    elif isinstance(source, str) and source in NAMED:
        _no_target(target, f"'{source}'")
        data = _digits(size, colour, limit) if source == "digits" else _shapes(size, colour, limit)
    else:
        assert isinstance(source, (str, os.PathLike))
        data = read_pictures(source, size=size, colour=colour, target=target, limit=limit)
    return replace(data, notices=(Noticed(topic="kind", text=said, count=len(data)), *data.notices))


def require_items(data: Data, minimum: int = FEWEST) -> None:
    """Refuse a set too small to hold a part of it out.

    >>> require_items(read("digits", limit=4))
    Traceback (most recent call last):
    ...
    pellucid.core.errors.BadInput: 'digits' has 4 pictures. Accepted: 10 or more. A part is held out to measure ...
    """
    if len(data) < minimum:
        raise BadInput(
            f"'{data.source}' has {len(data)} {words_for(kind_of_data(data))}",
            accepted=f"{minimum} or more",
            why="A part is held out to measure whether the model learned or copied",
        )


def _kind_of_path(path: Path, asked: ReadKind) -> tuple[str, str]:
    """The kind, and the half sentence that says why."""
    if not path.exists():
        raise _missing(path)
    if path.is_dir():
        return _kind_of_folder(path, asked)
    name = path.name.lower()
    ending = path.with_suffix("").suffix.lower() + ".gz" if name.endswith(".gz") else path.suffix.lower()
    if asked == "text" or (ending in ENDINGS and asked == "auto"):
        return "text", f"its name ends in {ending}" if ending in ENDINGS else "you say so"
    if asked == "molecules" or (asked == "auto" and ending.removesuffix(".gz") in MOLECULES):
        return "molecules", f"its name ends in {ending}" if ending.removesuffix(".gz") in MOLECULES else "you say so"
    if asked == "auto" and (column := smiles_column(path)) is not None:
        return "molecules", f"it has the column '{column}'; kind='table' reads all its columns"
    if ending.removesuffix(".gz") in TABLES or asked == "table":
        return "table", f"its name ends in {ending}" if ending else "you say so"
    if ending in ARRAYS:
        return "images", f"its name ends in {ending}"
    if IDX.search(name):
        return "images", "it is named as an idx file"
    if ending in SUFFIXES:
        raise BadInput(f"'{path}' is one picture", accepted=ACCEPTED, next="Name the folder it lies in")
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return "table", "it is a Parquet file inside"
    if head[:3] == b"\0\0\x08":
        return "images", "it is an idx file inside"
    if head == b"PK\x03\x04":
        raise BadInput(f"'{path}' is an archive or a workbook", accepted=ACCEPTED, next="Unpack it, or save it as CSV")
    if asked == "images":
        return "images", "you say so"
    raise BadInput(
        f"'{path}' has the ending '{path.suffix}', which says nothing about its kind",
        accepted=ACCEPTED,
        next="If it is a table or a text, say kind='table' or kind='text'",
    )


def _kind_of_folder(path: Path, asked: ReadKind) -> tuple[str, str]:
    """Pictures, unless it holds texts or tables and no pictures."""
    names = [name for _, _, files in os.walk(path) for name in files]
    if any(IDX.search(name) for name in os.listdir(path)):
        return "images", "the folder holds idx files"
    endings = Counter(Path(name).suffix.lower() for name in names)
    pictures = sum(endings[suffix] for suffix in SUFFIXES)
    texts = sum(endings[suffix] for suffix in ENDINGS)
    if (
        texts
        and asked in ("auto", "text")
        and not pictures
        and any(p.suffix.lower() in ENDINGS for p in path.iterdir())
    ):
        return "text", f"the folder holds {texts:,} text files and no pictures"
    tables = sorted(name for name in names if re.search(rf"({'|'.join(map(re.escape, TABLES))})(\.gz)?$", name.lower()))
    others = sorted(name for name in names if Path(name).suffix.lower() in ARRAYS)
    if not pictures and (tables or others):
        listed = tables + others
        raise BadInput(
            f"'{path}' is a folder with {', '.join(listed[:5])}" + (", ..." if len(listed) > 5 else ""),
            accepted="one of these files, or a folder of pictures",
            next=f"Name one: {path / listed[0]}" if (path / listed[0]).exists() else "Name one of them",
        )
    count = ", ".join(f"{endings[s]:,} {s}" for s in SUFFIXES if endings[s])
    return "images", f"the folder holds {count} files" if pictures else "it is a folder"


def _kind_of_object(source: object) -> tuple[str, str]:
    if isinstance(source, pd.DataFrame):
        return "table", "it is a data frame"
    if isinstance(source, np.ndarray):
        if source.ndim in (3, 4):
            return "images", f"it is an array of shape {source.shape}"
        raise BadInput(
            f"the array has shape {source.shape}",
            accepted="pictures: (N, H, W) or (N, H, W, C)",
            next="A table is pandas.DataFrame(array, columns=[...])" if source.ndim == 2 else "",
        )
    if isinstance(source, ArrowStream):
        return "table", "it streams Arrow"
    raise BadInput(f"data is a {type(source).__name__}", accepted=ACCEPTED)


def _missing(path: Path) -> BadInput:
    """Points at the first part of the path that is not there, and at its nearest neighbour."""
    part = path
    while not part.parent.exists():
        part = part.parent
    beside = sorted(p.name for p in part.parent.iterdir()) if part.parent.is_dir() else []
    return BadInput(
        f"there is nothing at '{path}'" + (f": '{part}' does not exist" if part != path else ""),
        accepted=ACCEPTED,
        next=nearest(part.name, beside),
    )


def _check_options(found: str, said: Mapping[str, bool]) -> None:
    """Refuse options that are of use for another kind of data."""
    given = {name: (OF_KIND.get(name, "table"), is_said) for name, is_said in said.items()}
    strange = [name for name, (of, is_said) in given.items() if is_said and of != found]
    if strange:
        uses = {"images": "pictures", "table": "columns of a table", "text": "texts"}  # no option is for molecules only
        other = uses[given[strange[0]][0]]
        raise BadInput(f"{' and '.join(strange)} is given for {_words(found)}", why=f"Of use for {other} only")


def _words(found: str) -> str:
    return {"images": "images", "table": "a table", "text": "a text", "molecules": "molecules"}[found]


def _no_target(target: str | None, what: str) -> None:
    if target is not None:
        raise BadInput(f"target is '{target}' for {what}", accepted="target for tables and .npz files")


def _digits(size: Size, colour: Colour, limit: int | None) -> Pictures:
    from sklearn.datasets import load_digits  # a second to import, and only needed here

    bunch = load_digits()
    labels = tuple(str(label) for label in bunch.target)
    whole = Pictures(pixels=bunch.images.astype(np.uint8)[..., None], labels=labels, levels=17, source="digits")
    if size is None and colour != "rgb" and limit is None:
        return whole
    shown = size is not None or colour == "rgb"
    pixels = whole.shown() if shown else whole.pixels
    taken = pictures_from_array(pixels, labels, size=size, colour=colour, limit=limit, source="digits")
    return taken if shown else replace(taken, levels=17)


def _shapes(size: Size, colour: Colour, limit: int | None) -> Pictures:
    """Drawn at the size that is asked for."""
    height, width = (size, size) if isinstance(size, int) or size is None else size
    if height != width:
        raise BadInput(f"size is {size} for 'shapes'", accepted="one side: shapes stand in squares")
    made = shapes(SHAPES if limit is None else limit, size=32 if height is None else height).captioned()
    return pictures_from_array(made.pixels, captions=made.captions, size=height, colour=colour, source="shapes")
