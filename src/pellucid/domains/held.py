"""Data that would take too much memory: how much is too much, and arrays that lie in a file instead."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.bundle import disk_errors
from pellucid.core.errors import BadInput

__all__ = ["in_file", "most_held", "release", "spilled"]

SHARE = 0.25  # of the machine's memory that one set of data may take


def most_held() -> int:
    """Bytes of data that are held in memory; what is larger lies in a file that only this process sees.

    A quarter of the machine's memory, or as many megabytes as the environment variable PELLUCID_DATA_MEMORY says.
    """
    said = os.environ.get("PELLUCID_DATA_MEMORY")
    if said is None:
        try:
            return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, ValueError, OSError):  # not on Windows
            return 2**31
    if not said.isdigit():
        raise BadInput(f"PELLUCID_DATA_MEMORY is '{said}'", accepted="a whole number of megabytes")
    return int(said) * 2**20


def spilled(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros in a file without a name, which is gone with the array: TMPDIR says on which disk."""
    with disk_errors("data that is too large for memory"):
        file = tempfile.TemporaryFile()  # noqa: SIM115, the map keeps it
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk is said now, not by a crash later
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        return np.memmap(file, dtype=dtype, mode="r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)


def in_file(array: NDArray[Any]) -> bool:
    """Does this array lie in a file?"""
    return _map_of(array) is not None


def release(array: NDArray[Any]) -> None:
    """Let go of the pages of a spilled array that were read or written; they come back from the file when asked."""
    found = _map_of(array)
    if found is not None and hasattr(mmap, "MADV_DONTNEED"):
        found.madvise(mmap.MADV_DONTNEED)


def _map_of(array: NDArray[Any]) -> mmap.mmap | None:
    found: Any = array
    while found is not None and not isinstance(found, mmap.mmap):
        found = getattr(found, "base", None)
    return found
