"""The folder of a run: which files belong to it, when it may be replaced, and what is left to tidy up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pellucid.core.bundle import PREVIEW, disk_errors
from pellucid.core.errors import BadInput

__all__ = ["LEFTOVERS", "check_free", "claimed", "kept", "preview_name", "tidy"]

LEFTOVERS = (
    "resume.json",
    "start.safetensors",
    "checkpoints/",
)  # of an unfinished run; gone after the manifest is there
KEPT = (
    *("recipe.json", "outcome.json", "source.json", "codec.json", "codec.safetensors", "events.jsonl"),
    *("weights/engine.safetensors", "weights/raw.safetensors"),
)
"""What a finished run may hold, besides its manifest and its previews."""


def preview_name(step: int, ending: str) -> str:
    """Where samples of the model after `step` steps lie in the run's folder.

    >>> preview_name(120, ".png")
    'previews/step_000120.png'
    """
    return f"previews/step_{step:06d}{ending}"


def kept(folder: Path) -> list[str]:
    """Names of the files that a finished run's manifest lists, of those that are there."""
    previews = sorted(p.relative_to(folder).as_posix() for p in (folder / "previews").glob("*"))
    return [*(n for n in KEPT if (folder / n).is_file()), *(n for n in previews if PREVIEW.fullmatch(n))]


def check_free(out: Path, force: bool) -> None:
    """Refuse a folder that cannot be written, or that exists and may not be replaced; writes nothing itself."""
    with disk_errors(f"'{out}'"):
        if not out.exists():
            _check_writable(out)
            return
        if out.is_symlink() or not out.is_dir():
            what = "a link" if out.is_symlink() else "a file"
            raise BadInput(f"'{out}' is {what}", accepted="a new folder")
        _check_writable(out)
        if not any(out.iterdir()):
            return
        if not force:
            unfinished = (out / "resume.json").is_file() and not (out / "manifest.json").is_file()
            step = f"Resume it with `pellucid fit --resume {out}`, choose" if unfinished else "Choose"
            raise BadInput(
                f"the folder '{out}' exists already", next=f"{step} another folder, or add --force to replace it."
            )
        names = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_symlink() or not p.is_dir()]
        strange = [n for n in names if not _is_of_a_run(n)]
        if strange or "recipe.json" not in names:
            raise BadInput(
                f"'{out}' is not a run folder" + (f": it holds '{strange[0]}'" if strange else ""),
                why="Only runs are replaced.",
                next="Choose another folder.",
            )


def _check_writable(out: Path) -> None:
    """The folder, or the nearest one above it that exists."""
    there = next((p for p in (out, *out.parents) if p.exists()), Path())
    if not there.is_dir():
        raise BadInput(f"'{there}' is a file, so '{out}' cannot be made", accepted="a new folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"the folder '{there}' may not be written to", next="Choose another folder.")


def _is_of_a_run(name: str) -> bool:
    """Does `fit` write files of this name (with / between folders)?"""
    if name in (*KEPT, "manifest.json", "resume.json", "start.safetensors") or PREVIEW.fullmatch(name):
        return True
    folder, _, file = name.rpartition("/")
    temp = file.startswith(".") and file.endswith(".tmp") and folder in ("", "weights", "checkpoints", "previews")
    endings = {"checkpoints": ".safetensors", "reports": ".json"}
    return temp or (folder in endings and file.endswith(endings[folder]))


@contextmanager
def claimed(out: Path, force: bool) -> Iterator[None]:
    """An empty folder for the block; what it replaces goes when the block has ended well, and else comes back."""
    check_free(out, force)
    old = None
    with disk_errors(f"'{out}'"):
        if out.is_dir() and any(out.iterdir()):
            old = out.rename(out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.replaced"))
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        if old is not None:
            old.rename(out)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what only an unfinished run needs, and temp files of a killed process."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with disk_errors(folder.name):
        for path in (folder / "start.safetensors", *folder.rglob(".*.tmp"), folder / "resume.json"):
            path.unlink(missing_ok=True)
