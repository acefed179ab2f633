"""A run on disk: plain files named in a manifest that is written last and hashes everything, itself included.

Nothing in a bundle can execute: JSON and safetensors only. Opening checks the manifest before anything else is
read and refuses what it does not list.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import BadBundle, BadInput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bundle", "canonical", "disk_errors", "open_bundle", "seal", "sha256_of", "write_atomic", "write_json"]

FORMAT = 1
_ENDINGS = (".json", ".jsonl", ".safetensors")
_LARGEST_JSON = 256 * 2**20  # a longer text is not one that we wrote


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
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            raise BadInput(
                f"{what} cannot be written ({error.strerror})", next="Choose a folder you may write to."
            ) from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the whole new one.

    Temp file in the same folder, fsync, rename, fsync of the folder.
    """
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temp = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
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
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _listed(folder: Path, name: str) -> list[str]:
    """Names (with / between folders) of the regular files below; refuses links and odd things."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=False):
        for entry in [*folders, *files]:
            path = Path(root, entry)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BadBundle(
                    f"{name} contains '{path.relative_to(folder)}', which is not an ordinary file",
                    accepted="ordinary files",
                )
        found += [Path(root, f).relative_to(folder).as_posix() for f in files]
    return sorted(found)


def seal(
    folder: Path, facts: Mapping[str, Any], manifest: str = "manifest.json", only: list[str] | None = None
) -> None:
    """Write the manifest: sha256 and size of every file below (or of `only`), the facts, and its own hash."""
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
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self._bytes(name))
        except (SafetensorError, ValueError) as error:
            raise BadBundle(f"{self.folder.name}/{name} is not a safetensors file", why=str(error)) from error

    def has(self, name: str) -> bool:
        return name in self.manifest["files"]

    def _bytes(self, name: str) -> bytes:
        if not self.has(name):
            raise BadBundle(f"{self.folder.name} does not list '{name}'", accepted=", ".join(self.manifest["files"]))
        data = (self.folder / name).read_bytes()
        # hashed again on the very bytes that are used, so nothing can be swapped between check and use
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise BadBundle(f"{self.folder.name}/{name} does not have the hash that its manifest says")
        return data


def _parse(data: bytes, name: str) -> Any:
    if len(data) > _LARGEST_JSON:
        raise BadBundle(f"{name} has {len(data)} bytes", accepted=f"at most {_LARGEST_JSON}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadBundle(f"{name} is not readable JSON", why=str(error)[:200]) from error


def open_bundle(folder: Path, manifest: str = "manifest.json", *, partial: bool = False) -> Bundle:
    """Check a run folder and give access to its files.

    Args:
        partial: the manifest covers only part of the folder (a run that has not finished).

    Raises:
        BadInput: no such folder, or no run in it. BadBundle: damaged, incomplete, or with files it does not list.
    """
    name = folder.name
    if not folder.is_dir():
        raise BadInput(f"there is no run folder '{folder}'", accepted="a folder that `pellucid fit --out` made")
    path = folder / manifest
    if path.is_symlink() or not path.is_file():
        if (folder / "resume.json").is_file():
            raise BadInput(f"the run '{name}' has not finished", next=f"Resume it: pellucid fit --resume {folder}")
        raise BadInput(
            f"'{name}' holds no {manifest}, so it is no finished run",
            accepted="a folder that `pellucid fit --out` made",
        )
    found = _parse(path.read_bytes(), f"{name}/{manifest}")
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise BadBundle(f"{name}/{manifest} is not a manifest", accepted="a JSON object with 'files'")
    body = {k: v for k, v in found.items() if k != "sha256"}
    if hashlib.sha256(canonical(body)).hexdigest() != found.get("sha256"):
        raise BadBundle(f"{name}/{manifest} was changed after it was written", why="Its own hash does not match.")
    if found.get("format") != FORMAT:
        raise BadBundle(
            f"{name} has format {found.get('format')!r}", accepted=f"format {FORMAT}", next="Update pellucid."
        )
    for listed, entry in found["files"].items():
        parts = PurePosixPath(listed).parts
        if listed.startswith("/") or "\\" in listed or ":" in listed or ".." in parts or not listed.endswith(_ENDINGS):
            raise BadBundle(f"{name} lists '{listed}'", accepted="JSON and safetensors files inside the folder")
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise BadBundle(f"{name} lists '{listed}' without its hash")
    present = _listed(folder, name)
    if not partial and (extra := [n for n in present if n != manifest and n not in found["files"]]):
        raise BadBundle(
            f"{name} holds {len(extra)} file(s) that its manifest does not list, the first '{extra[0]}'",
            why="A run is trusted only whole.",
            next="Remove what is not part of the run.",
        )
    for listed, entry in found["files"].items():
        if listed not in present:
            raise BadBundle(f"{name} lacks '{listed}', which its manifest lists")
        if sha256_of(folder / listed) != entry["sha256"]:
            raise BadBundle(
                f"{name}/{listed} does not have the hash that its manifest says", why="It was cut or changed."
            )
    return Bundle(folder, found)
