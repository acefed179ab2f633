"""How many threads to compute with: all that are free, read once at the start.

Two threads next to one busy neighbour train at half the speed of one thread (a convolutional net on two cores:
133 pictures a second with one thread; with two, 218 alone and 64 beside a neighbour). So threads are counted by
what the machine has left, and written down, since the count changes the last bits of a sum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pellucid.core.errors import BadInput

__all__ = ["busy_cores", "choose_threads", "threads"]

VARIABLE = "PELLUCID_THREADS"
_LOOK = 0.1  # seconds of watching the machine: ten ticks of its clock


def choose_threads() -> int:
    """Threads to use: PELLUCID_THREADS if set, else the cores that nobody else keeps busy, one at least.

    Never more than torch was started with (OMP_NUM_THREADS).
    """
    asked = os.environ.get(VARIABLE, "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise BadInput(f"{VARIABLE} is '{asked}'", accepted="a whole number of at least 1")
        return int(asked)
    cores = min(torch.get_num_threads(), _cores())
    return cores if cores == 1 else max(1, cores - int(busy_cores()))


def busy_cores() -> float:
    """How many cores the rest of the machine keeps busy at the moment.

    Watched for a tenth of a second in which this process sleeps, where the system says what its cores do: the load
    average would count what this process did in the minute before.
    """
    before = _ticks()
    if before is None:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    time.sleep(_LOOK)
    after = _ticks()
    if after is None or after[1] <= before[1]:
        return 0.0
    share = (after[0] - before[0]) / (after[1] - before[1])
    return round(share * (os.cpu_count() or 1), 1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with `count` threads while the block runs.

    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ticks() -> tuple[int, int] | None:
    """(busy, all) clock ticks of all cores since the machine started, or None where the system does not say."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    idle = fields[3] + fields[4]  # idle, and idle while a disk is awaited
    return sum(fields) - idle, sum(fields)
