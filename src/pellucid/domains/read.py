"""One door for data: the kind of a path or an object is found out, said in a notice, and the reader of it is called."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed
from pellucid.domains.frames import ArrowStream, TableData, TableSource, read_table
from pellucid.domains.idx import IDX
from pellucid.domains.pictures import SUFFIXES, Colour, Pictures, Size, pictures_from_array, read_pictures
from pellucid.domains.teaching.shapes import shapes

__all__ = ["NAMED", "DataSource", "ReadKind", "read", "require_items"]

ReadKind = Literal["auto", "images", "table"]
DataSource: TypeAlias = "TableSource | NDArray[np.generic] | Pictures | TableData"

TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")
ARRAYS = (".npz", ".npy")
NAMED = {"digits": "scikit-learn's handwritten digits", "shapes": "generated pictures of shapes with captions"}
ACCEPTED = "a folder of pictures, .npz, .npy, idx files, .csv, .tsv, .parquet, a data frame, an array, " + " or ".join(
    f"'{name}'" for name in NAMED
)
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
    limit: int | None = None,
) -> Pictures | TableData:
    """Pictures or a table from a path, a data frame, an array, or a name.

    "digits" are scikit-learn's 1,797 handwritten digits, "shapes" generated coloured shapes with a caption each.

    Args:
        kind: "images" or "table" replaces the inference.
        target: the column to be predicted, or the label array of an `.npz`.
        size, colour: of pictures, see `read_pictures`.
        kinds: of columns, see `read_table`.
        limit: read so many items, spread evenly.

    Raises:
        BadInput: nothing there, nothing of a known kind, or what the readers refuse.

    >>> data = read("digits", limit=10)
    >>> data.pixels.shape, data.levels, data.notices[0].text
    ((10, 8, 8, 1), 17, "read as images because 'digits' names scikit-learn's handwritten digits")
    """
    if isinstance(source, (Pictures, TableData)):
        return source
    if kind not in ("auto", "images", "table"):
        raise BadInput(
            f"kind is {kind!r}", accepted="auto, images, table", next=nearest(str(kind), ("images", "table"))
        )
    if isinstance(source, str) and source in NAMED and kind != "table":
        found, why = "images", f"'{source}' names {NAMED[source]}"
        if Path(source).exists():
            why += f" (./{source} is the one in this folder)"
    elif isinstance(source, (str, os.PathLike)):
        found, why = _kind_of_path(Path(source), kind)
    else:
        found, why = _kind_of_object(source)
    if kind not in ("auto", found):
        raise BadInput(f"kind is '{kind}', but {why}", accepted=f"kind='{found}' for this")
    _check_options(found, size=size is not None, colour=colour != "auto", kinds=bool(kinds))
    said = f"read as {_words(found)} " + ("as asked" if kind != "auto" else f"because {why}")
    data: Pictures | TableData
    if found == "table":
        assert not isinstance(source, np.ndarray)
        data = read_table(source, kinds=kinds, target=target, limit=limit)
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


def require_items(data: Pictures | TableData, minimum: int = FEWEST) -> None:
    """Refuse a set too small to hold a part of it out.

    >>> require_items(read("digits", limit=4))
    Traceback (most recent call last):
    ...
    pellucid.core.errors.BadInput: 'digits' has 4 pictures. Accepted: 10 or more. A part is held out to measure ...
    """
    if len(data) < minimum:
        raise BadInput(
            f"'{data.source}' has {len(data)} {'pictures' if isinstance(data, Pictures) else 'rows'}",
            accepted=f"{minimum} or more",
            why="A part is held out to measure whether the model learned or copied",
        )


def _kind_of_path(path: Path, asked: ReadKind) -> tuple[str, str]:
    """The kind, and the half sentence that says why."""
    if not path.exists():
        raise _missing(path)
    if path.is_dir():
        return _kind_of_folder(path)
    name = path.name.lower()
    ending = path.with_suffix("").suffix.lower() + ".gz" if name.endswith(".gz") else path.suffix.lower()
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
        next="If it is a table of text, say kind='table'",
    )


def _kind_of_folder(path: Path) -> tuple[str, str]:
    """Pictures, unless it holds tables and no pictures."""
    names = [name for _, _, files in os.walk(path) for name in files]
    if any(IDX.search(name) for name in os.listdir(path)):
        return "images", "the folder holds idx files"
    endings = Counter(Path(name).suffix.lower() for name in names)
    pictures = sum(endings[suffix] for suffix in SUFFIXES)
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


def _check_options(found: str, *, size: bool, colour: bool, kinds: bool) -> None:
    strange = [n for n, given in (("size", size), ("colour", colour)) if given and found == "table"]
    strange += ["kinds"] if kinds and found == "images" else []
    if strange:
        other = "pictures" if found == "table" else "columns of a table"
        raise BadInput(f"{' and '.join(strange)} is given for {_words(found)}", why=f"Of use for {other} only")


def _words(found: str) -> str:
    return "a table" if found == "table" else "images"


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
