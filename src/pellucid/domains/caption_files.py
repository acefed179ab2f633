"""Captions that lie beside the pictures of a folder: a text file of the same name, or one table for all.

The table is `metadata.csv` with the columns `file_name` and `text`, as Hugging Face's image folders have it
(https://huggingface.co/docs/datasets/image_dataset), or `captions.csv`; `file` and `caption` are understood too.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pellucid.core.run import Noticed

__all__ = ["CAPTION_TABLE", "COLUMNS", "find_captions", "without_words"]

CAPTION_TABLE = "captions.csv"
COLUMNS = ("file_name", "text")
_TABLES = ("metadata.csv", CAPTION_TABLE)
_FILE, _TEXT = ("file_name", "file", "filename"), ("text", "caption")
_LARGEST = 65_536  # bytes of one caption: more is a document
_LARGEST_TABLE = 512 * 2**20


def find_captions(root: Path, pictures: Sequence[str], others: Sequence[str]) -> tuple[dict[str, str], set[str], str]:
    """The caption of each picture that has one, the files they were read from, and where they came from in words.

    Args:
        pictures, others: files under root, relative to it. A table speaks for its own folder and those below.
    """
    wanted, found, used = set(pictures), dict[str, str](), set[str]()
    for name in others:
        at = PurePosixPath(name)
        if at.name.lower() not in _TABLES:
            continue
        rows = _table(root / name)
        if rows is not None:
            used.add(name)
            inside = {(at.parent / file).as_posix(): text for file, text in rows.items()}
            found |= {file: text for file, text in inside.items() if file in wanted}
    tables = sorted(used)
    beside = {str(PurePosixPath(name).with_suffix("")): name for name in others if name.lower().endswith(".txt")}
    for file in pictures:
        note = beside.get(str(PurePosixPath(file).with_suffix("")))
        if note is None:
            continue
        used.add(note)
        if file not in found:
            text = _text(root / note)
            if text is not None:
                found[file] = text
    words = [f"'{name}'" for name in tables] + ([".txt files beside them"] if len(used) > len(tables) else [])
    return found, used, " and ".join(words)


def without_words(files: Sequence[str], captions: dict[str, str]) -> list[Noticed]:
    """A notice when some pictures have no caption; they are learned from without one."""
    bare = [file for file in files if not captions.get(file, "").strip()]
    if not bare:
        return []
    text = f"{len(bare):,} of {len(files):,} pictures have no caption, such as '{bare[0]}'"
    return [Noticed(topic="caption missing", text=text, count=len(bare))]


def _table(path: Path) -> dict[str, str] | None:
    """File to caption, or None when the table is about something else."""
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            return None
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = csv.DictReader(stream)
            names = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
            file = next((names[name] for name in _FILE if name in names), None)
            text = next((names[name] for name in _TEXT if name in names), None)
            if file is None or text is None:
                return None
            return {str(row[file]).strip().replace("\\", "/"): str(row[text] or "").strip() for row in reader}
    except (OSError, csv.Error):
        return None


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        return " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())
    except OSError:
        return None
