"""Writes items as a user would keep them; the ending of the path decides the form."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pellucid.core.bundle import disk_errors, write_atomic
from pellucid.core.errors import BadInput, nearest
from pellucid.domains.caption_files import CAPTION_TABLE, COLUMNS
from pellucid.domains.frames import TableData
from pellucid.domains.kinds import Data, kind_of_data
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import separated

__all__ = ["check_target", "forms", "write_items"]

FOLDER = "a folder (a name without an ending)"
_FORMS = {
    "images": (FOLDER, ".npz", ".png"),
    "table": (".csv", ".csv.gz", ".tsv", ".parquet"),
    "text": (".txt",),
    "molecules": (".smi", ".csv", ".txt"),
}
_NAMES = {"images": "pictures", "table": "rows of a table", "text": "texts", "molecules": "molecules"}
_LATER = {  # endings of kinds of data that a model cannot be fitted on yet
    ".wav": "A sound file is for models of sound, and pellucid fits none yet.",
}
_LONGEST = 100  # letters of a class in a folder's name


def forms(kind: str) -> tuple[str, ...]:
    """Endings that this kind of data can be written in.

    >>> forms("table")
    ('.csv', '.csv.gz', '.tsv', '.parquet')
    """
    return _FORMS[kind]


def write_items(items: Data, path: str | Path, *, force: bool = False) -> Path:
    """Write pictures as a folder of PNGs, `.npz` or one `.png` sheet, a table as CSV, TSV or Parquet, texts as `.txt`,
    molecules as `.smi`, `.txt` or a CSV with one column.

    A folder gets one subfolder a class when the pictures have labels, and captions.csv when they have captions. A text
    file looks like the one the table was read from: decimals, formats of dates and marks for missing values; Parquet
    has the types the values had. Files appear whole or not at all.

    Raises:
        BadInput: the ending does not fit the kind, or the path exists and `force` is not set.
    """
    path = Path(path)
    check_target(path, kind_of_data(items), force=force)
    if isinstance(items, TableData):
        _write_table(items, path)
    elif isinstance(items, TextData):
        header = "smiles\n" if _ending(path) == ".csv" else ""  # no symbol of a SMILES string needs quotes
        write_atomic(path, (header + separated(items) + "\n").encode("utf-8", "replace"))
    elif not _ending(path):
        _write_folder(items, path)
    else:
        _write_pictures(items, path)
    return path


def check_target(path: Path, kind: str, *, force: bool) -> None:
    """Refuse what `write_items` would refuse, before any work is done."""
    ending, known = _ending(path), _FORMS[kind]
    if ending and ending not in known:
        other = next((f"{ending} is for {_NAMES[of]}." for of, those in _FORMS.items() if ending in those), "")
        raise BadInput(
            f"{_NAMES[kind]} cannot be written as '{path.name}'",
            accepted=", ".join(known),
            why=_LATER.get(ending, other),
            next=nearest(ending, [f for f in known if f.startswith(".")]),
        )
    if not ending and FOLDER not in known:
        raise BadInput(
            f"'{path.name}' has no ending, which says how {_NAMES[kind]} are to be written",
            accepted=f"a file that ends in {', '.join(known)}",
        )
    with disk_errors(f"'{path}'"):
        if not os.path.lexists(path):
            return
        if not force:
            raise BadInput(f"'{path}' exists already", next="Choose another name, or add --force to replace it.")
        if path.is_symlink():
            raise BadInput(
                f"'{path}' is a link", why="Only what samples wrote is replaced.", next="Choose another name."
            )
        if path.is_dir() != (not ending):
            what, form = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
            raise BadInput(f"'{path}' is {what} and cannot be replaced by {form}", next="Choose another name.")
        ours = (path / CAPTION_TABLE,)
        others = [
            p for p in sorted(path.rglob("*")) if p.is_symlink() or not (p.is_dir() or p.suffix == ".png" or p in ours)
        ]
        if others:
            raise BadInput(
                f"the folder '{path}' holds more than sample pictures: '{others[0].relative_to(path)}'",
                why="Only what samples wrote is replaced.",
                next="Choose another name; nothing was removed.",
            )


def _ending(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    return ".csv.gz" if suffixes[-2:] == [".csv", ".gz"] else (suffixes[-1] if suffixes else "")


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return out.getvalue()


def _write_pictures(items: Pictures, path: Path) -> None:
    """One file."""
    shown = items.shown()
    if _ending(path) == ".png":
        write_atomic(path, _png(_sheet(shown)))
        return
    arrays = {"images": shown}
    if items.labels is not None:
        arrays["labels"] = np.array(items.labels, dtype=np.str_)
    if items.captions is not None:
        arrays["captions"] = np.array(items.captions, dtype=np.str_)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    write_atomic(path, out.getvalue())


def _write_folder(items: Pictures, path: Path) -> None:
    """Written beside the path and then renamed; what it replaces goes last."""
    names = _folder_names(items.labels or ())
    digits = max(5, len(str(len(items))))
    with disk_errors(f"'{path}'"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        temp.chmod(0o755)
        try:
            files = []
            for i, pixels in enumerate(items.shown()):
                folder = temp if items.labels is None else temp / names[items.labels[i]]
                folder.mkdir(exist_ok=True)
                file = folder / f"{i:0{digits}d}.png"
                file.write_bytes(_png(pixels))
                files.append(file.relative_to(temp).as_posix())
            if items.captions is not None:
                with (temp / CAPTION_TABLE).open("w", newline="", encoding="utf-8") as stream:
                    csv.writer(stream).writerows([COLUMNS, *zip(files, items.captions, strict=True)])
            if path.exists():
                old = temp.with_suffix(".old")
                path.rename(old)
                temp.rename(path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                temp.rename(path)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise


def _folder_names(labels: Sequence[str]) -> dict[str, str]:
    """A folder name for each class, no two of them alike even where a file system does not tell A from a.

    >>> _folder_names(["7", "a/b", "a:b", "..", "A:B"])
    {'7': '7', 'a/b': 'a_b', 'a:b': 'a_b-2', '..': '_', 'A:B': 'A_B-3'}
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in dict.fromkeys(labels):
        plain = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in label)
        name = first = plain[:_LONGEST].strip(". ") or "_"
        count = 1
        while name.casefold() in taken:
            count += 1
            name = f"{first}-{count}"
        taken.add(name.casefold())
        names[label] = name
    return names


def _sheet(shown: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W[, 3]) side by side in a near-square sheet with a one-pixel gap."""
    n, h, w = shown.shape[:3]
    columns = max(1, round(n**0.5))
    lines = -(-n // columns)
    sheet = np.full((lines * (h + 1) + 1, columns * (w + 1) + 1, *shown.shape[3:]), 128, np.uint8)
    for i, pixels in enumerate(shown):
        top, left = 1 + (i // columns) * (h + 1), 1 + (i % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = pixels
    return sheet


def _write_table(items: TableData, path: Path) -> None:
    ending, out = _ending(path), io.BytesIO()
    if ending == ".parquet":
        items.given().to_parquet(out, index=False)
        write_atomic(path, out.getvalue())
        return
    text = items.written().to_csv(index=False, sep="\t" if ending == ".tsv" else ",").encode()
    write_atomic(path, gzip.compress(text, mtime=0) if ending == ".csv.gz" else text)
