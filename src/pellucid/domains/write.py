"""Writes items as a user would keep them; the ending of the path decides the form."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pellucid.core.bundle import disk_errors, write_atomic
from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures

__all__ = ["check_target", "forms", "write_items"]

_FORMS = {
    "images": ("a folder", ".npz", ".png"),
    "table": (".csv", ".csv.gz", ".tsv", ".parquet"),
}


def forms(kind: str) -> tuple[str, ...]:
    """Endings that this kind of data can be written in.

    >>> forms("table")
    ('.csv', '.csv.gz', '.tsv', '.parquet')
    """
    return _FORMS[kind]


def write_items(items: Pictures | TableData, path: str | Path, *, force: bool = False) -> Path:
    """Write pictures as a folder of PNGs, `.npz` or one `.png` sheet, a table as CSV, TSV or Parquet.

    A folder gets one subfolder a class when the pictures have labels. Files appear whole or not at all.

    Raises:
        BadInput: the ending does not fit the kind, or the path exists and `force` is not set.
    """
    path = Path(path)
    check_target(path, "images" if isinstance(items, Pictures) else "table", force=force)
    if isinstance(items, Pictures):
        _write_pictures(items, path, force)
    else:
        _write_table(items, path)
    return path


def check_target(path: Path, kind: str, *, force: bool) -> None:
    """Refuse what `write_items` would refuse, before any work is done."""
    ending = _ending(path)
    known = _FORMS[kind]
    if (ending or "a folder") not in known:
        raise BadInput(f"samples of this {kind} model cannot be written as '{path.name}'", accepted=", ".join(known))
    if path.exists() and not force:
        raise BadInput(f"'{path}' exists already", next="Choose another path, or add --force to replace it.")
    if force and path.is_dir() and any(p.suffix != ".png" for p in path.rglob("*") if p.is_file()):
        raise BadInput(f"'{path}' holds more than sample pictures", next="Choose another folder; nothing was removed.")


def _ending(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    return ".csv.gz" if suffixes[-2:] == [".csv", ".gz"] else (suffixes[-1] if suffixes else "")


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return out.getvalue()


def _write_pictures(items: Pictures, path: Path, force: bool) -> None:
    shown = items.shown()
    ending = _ending(path)
    if ending == ".npz":
        out = io.BytesIO()
        labels = {} if items.labels is None else {"labels": np.array(items.labels, dtype=np.str_)}
        np.savez_compressed(out, images=shown, **labels)
        write_atomic(path, out.getvalue())
        return
    if ending == ".png":
        write_atomic(path, _png(_sheet(shown)))
        return
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        temp.chmod(0o755)
        try:
            digits = max(5, len(str(len(items))))
            for i, pixels in enumerate(shown):
                label = items.labels[i] if items.labels is not None else None
                folder = temp / _folder_name(label) if label is not None else temp
                folder.mkdir(exist_ok=True)
                (folder / f"{i:0{digits}d}.png").write_bytes(_png(pixels))
            if path.exists() and force:
                shutil.rmtree(path)
            temp.rename(path)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise


def _folder_name(label: str) -> str:
    name = "".join("_" if c in '/\\:*?"<>|\0' else c for c in label).strip(". ")
    return name or "_"


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
    frame, ending = items.frame, _ending(path)
    out = io.BytesIO()
    if ending == ".parquet":
        frame.to_parquet(out, index=False)
    else:
        text = _as_text(items).to_csv(index=False, sep="\t" if ending == ".tsv" else ",")
        if ending == ".csv.gz":
            import gzip

            out.write(gzip.compress(text.encode(), mtime=0))
        else:
            out.write(text.encode())
    write_atomic(path, out.getvalue())


def _as_text(items: TableData) -> pd.DataFrame:
    """The frame with dates in the format they were read in and booleans in their own words."""
    frame = items.frame.copy()
    for column in items.columns:
        if column.kind == "date" and column.format and pd.api.types.is_datetime64_any_dtype(frame[column.name]):
            frame[column.name] = frame[column.name].dt.strftime(column.format)
    return frame
