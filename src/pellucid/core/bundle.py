"""A run on disk: plain files named in a manifest that is written last and hashes everything, itself included.

Nothing in a bundle can execute: JSON and safetensors only. Opening checks the manifest before anything else is
read and refuses what it does not list. A hash says that a file is as it was written, not that its writer meant well:
whoever reads a file checks every value in it (see `model.from_bundle`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import BadBundle, BadInput, fault, shown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PREVIEW",
    "Bundle",
    "canonical",
    "disk_errors",
    "open_bundle",
    "seal",
    "sha256_of",
    "write_atomic",
    "write_json",
]

FORMAT = 1
PREVIEW = re.compile(r"previews/step_[0-9]{6,}\.(png|csv|txt|smi)")
"""Samples for people, one form for each kind of data; nothing of ours reads them back."""
_ENDINGS = (".json", ".jsonl", ".safetensors")
_LARGEST_JSON = 256 * 2**20  # bytes; a longer text is not one that we wrote
_DEEPEST_JSON = 40  # objects inside objects; ours need fewer than ten
_MADE_BY = "a folder that `pellucid fit --out` made"


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into one sentence; what was saved before is untouched."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BadInput(
                f"the disk is full while saving {what}",
                why="Nothing that was saved before is lost.",
                next="Free some space or choose another folder.",
            ) from error
        raise BadInput(
            f"{what} cannot be written ({error.strerror or error})", next="Choose a folder you may write to."
        ) from error


def write_atomic(path: Path, data: bytes | Sequence[bytes | memoryview]) -> None:
    """Write a file so that a crash leaves either the old one or the whole new one.

    Temp file in the same folder, fsync, rename, fsync of the folder.

    Args:
        data: the bytes, or parts of them in a row, which are not put together in memory.
    """
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temp = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                for part in [data] if isinstance(data, bytes) else data:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temp, 0o644)
            os.replace(temp, path)
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def canonical(value: Any) -> bytes:
    """JSON text that is the same for equal values: sorted keys, no NaN.

    >>> canonical({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, written atomically."""
    write_atomic(path, _readable(value))


def _readable(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _listed(folder: Path, name: str) -> list[str]:
    """Names (with / between folders) of the regular files below; refuses links and odd things."""

    def refused(error: OSError) -> None:
        raise BadBundle(f"a folder in '{name}' cannot be read ({error.strerror})") from error

    found = []
    for root, folders, files in os.walk(folder, followlinks=False, onerror=refused):
        for entry in [*folders, *files]:
            path = Path(root, entry)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BadBundle(
                    f"'{name}' holds '{path.relative_to(folder)}', which is a link or a device",
                    accepted="ordinary files and folders",
                    why="A run is trusted only if all of it lies in its folder.",
                )
        found += [Path(root, f).relative_to(folder).as_posix() for f in files]
    return sorted(found)


def seal(
    folder: Path, facts: Mapping[str, Any], manifest: str = "manifest.json", only: list[str] | None = None
) -> None:
    """Write the manifest: sha256 and size of every file below (or of `only`), the facts, and its own hash."""
    with disk_errors(manifest):
        names = [n for n in _listed(folder, folder.name) if n != manifest] if only is None else only
        files = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_of(folder / n)} for n in names}
    body = {"format": FORMAT, "files": files, **facts}
    write_json(folder / manifest, {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


@dataclass(frozen=True)
class Bundle:
    """A folder whose manifest was checked; reads only what the manifest lists."""

    folder: Path
    manifest: Mapping[str, Any]

    def json(self, name: str) -> Any:
        """A listed JSON file."""
        data = self._bytes(name)
        return _parse(data, name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A listed safetensors file."""
        from safetensors.torch import load

        data = self._bytes(name)
        try:
            return load(data)
        except Exception as error:  # a strange header fails in many ways; none of them executes anything
            raise BadBundle(f"'{self.folder.name}/{name}' is not a safetensors file", why=fault(error)) from error

    def has(self, name: str) -> bool:
        """Does the manifest list this file?"""
        return name in self.manifest["files"]

    def _bytes(self, name: str) -> bytes:
        if not self.has(name):
            raise BadBundle(
                f"'{self.folder.name}' lacks '{name}': its manifest does not list it",
                accepted=", ".join(self.manifest["files"]),
            )
        data = _content(self.folder / name, f"{self.folder.name}/{name}", self.manifest["files"][name]["bytes"])
        # hashed again on the very bytes that are used, so nothing can be swapped between check and use
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise _changed(self.folder.name, name)
        return data


def open_bundle(
    folder: Path, manifest: str = "manifest.json", *, partial: bool = False, leftovers: Sequence[str] = ()
) -> Bundle:
    """Check a run folder and give access to its files.

    Args:
        partial: the manifest covers only part of the folder (a run that has not finished).
        leftovers: names, or folders ending in "/", that a run may have left behind if it was killed while it tidied
            up; a folder with these is not opened, but the error says how to finish the job.

    Raises:
        BadInput: no such folder, or no run in it. BadBundle: damaged, incomplete, or with files it does not list.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no run folder '{folder}'", accepted=_MADE_BY)
    name = folder.resolve().name
    found = _manifest(folder, manifest, name)
    files: Mapping[str, Mapping[str, Any]] = found["files"]
    present = _listed(folder, name)
    extra = [n for n in present if n != manifest and n not in files]
    if extra and not partial:
        if all(n in leftovers or n.startswith(tuple(w for w in leftovers if w.endswith("/"))) for n in extra):
            raise BadInput(
                f"the run '{name}' was interrupted while it tidied up",
                next=f"Let it finish: pellucid fit --resume {folder}",
            )
        raise BadBundle(
            f"'{name}' holds {len(extra)} file(s) that its manifest does not list, the first is '{extra[0]}'",
            why="A run is trusted only whole.",
            next="Move what is not part of the run somewhere else.",
        )
    for listed, entry in files.items():
        if listed not in present:
            raise BadBundle(f"'{name}' lacks '{_cut(listed)}', which its manifest lists", next="Copy the run again.")
        if not _is_as_listed(folder / listed, entry):
            raise _changed(name, listed)
    return Bundle(folder, found)


def _manifest(folder: Path, manifest: str, name: str) -> dict[str, Any]:
    """The manifest, itself unchanged and listing nothing but JSON and safetensors files inside the folder."""
    path = folder / manifest
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BadBundle(f"'{name}/{manifest}' is a link or a device", accepted="an ordinary file")
    if not path.exists():
        if (folder / "resume.json").is_file():
            raise BadInput(f"the run '{name}' has not finished", next=f"Resume it: pellucid fit --resume {folder}")
        raise BadInput(f"'{folder}' holds no {manifest}, so it is no finished run", accepted=_MADE_BY)
    data = _content(path, f"{name}/{manifest}", _LARGEST_JSON, exactly=False)
    found = _parse(data, f"{name}/{manifest}")
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise BadBundle(f"'{name}/{manifest}' is not the manifest of a run", accepted="a JSON object with 'files'")
    # as bytes, because a changed byte may leave the values as they were
    body = {k: v for k, v in found.items() if k != "sha256"}
    if hashlib.sha256(canonical(body)).hexdigest() != found.get("sha256") or _readable(found) != data:
        raise BadBundle(
            f"'{name}/{manifest}' was changed after it was written",
            why="Its own hash does not fit.",
            next="Copy the run again.",
        )
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise BadBundle(
            f"'{name}' has format {shown(found.get('format'))}", accepted=f"format {FORMAT}", next="Update pellucid."
        )
    for listed, entry in found["files"].items():
        inside = listed and not listed.startswith("/") and not set(listed) & set("\\:\0")
        if (
            not inside
            or ".." in PurePosixPath(listed).parts
            or not (listed.endswith(_ENDINGS) or PREVIEW.fullmatch(listed))
        ):
            raise BadBundle(
                f"the manifest of '{name}' lists '{_cut(listed)}'",
                accepted="JSON and safetensors files inside the folder, and samples in previews/",
                why="Other files could execute, or lie elsewhere.",
            )
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if type(size) is not int or size < 0 or not isinstance(entry.get("sha256"), str):
            raise BadBundle(f"the manifest of '{name}' lists '{_cut(listed)}' without its size and hash")
    return found


def _content(path: Path, label: str, size: int, exactly: bool = True) -> bytes:
    """All bytes of a file that has this size, or at most this size."""
    try:
        with path.open("rb") as file:
            data = file.read(size + 1)
    except (OSError, ValueError) as error:
        raise BadBundle(f"'{_cut(label)}' cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > size or (exactly and len(data) < size):
        raise BadBundle(f"'{_cut(label)}' does not have the size that is allowed", accepted=f"{size:,} bytes")
    return data


def _is_as_listed(path: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return bool(path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"])
    except OSError as error:
        raise BadBundle(f"'{path.name}' cannot be read ({error.strerror})") from error


def _changed(name: str, listed: str) -> BadBundle:
    return BadBundle(
        f"'{name}/{_cut(listed)}' was cut or changed after the run was made",
        why="It does not have the size and hash that the manifest says.",
        next="Copy the run again.",
    )


def _parse(data: bytes, name: str) -> Any:
    """JSON as we write it: UTF-8, no name twice in an object, numbers finite, nesting shallow."""
    if len(data) > _LARGEST_JSON:
        raise BadBundle(f"'{name}' has {len(data):,} bytes", accepted=f"at most {_LARGEST_JSON:,}")
    try:
        text = data.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # half a character is not text
        if _depth(found) > _DEEPEST_JSON:
            raise ValueError(f"it is nested more than {_DEEPEST_JSON} deep")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadBundle(f"'{name}' is not JSON as pellucid writes it", why=why) from error
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has two values named {shown(twice)}")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _depth(value: Any) -> int:
    """How deep lists and objects are nested."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, (dict, list))]:
        depth += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


def _cut(name: str) -> str:
    return name if len(name) <= 80 else name[:80] + "..."
