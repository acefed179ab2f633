"""events.jsonl: one compact JSON line a step with its losses, and every event as a line between them.

On the disk before each checkpoint. A resumed run cuts what came after its checkpoint, so the finished file holds
each step once, with the very numbers of an unbroken run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pellucid.core.bundle import disk_errors, write_atomic
from pellucid.core.run import Event, Progress, event_record
from pellucid.training.checkpoint import sweep
from pellucid.training.schedule import Replanned

__all__ = ["Journal", "read_losses", "read_replans"]


class Journal:
    """Appends to the file; lines wait in memory until `flush`.

    Args:
        path: made when it is not there.
        step: the step that training starts from; lines of this step and later ones are cut.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._waiting: list[str] = []
        with disk_errors(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            _cut(path, step)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """The losses of one step; the numbers read back are equal bit by bit."""
        self._waiting.append(json.dumps({"step": step, "loss": dict(values)}, separators=(",", ":")))

    def listen(self, event: Event) -> None:
        """Take any event but progress; a listener of the run."""
        if not isinstance(event, Progress):
            self._waiting.append(json.dumps(event_record(event), separators=(",", ":"), default=str))

    def flush(self, sync: bool = False) -> None:
        """Hand the waiting lines to the system; with `sync`, return when they are on the disk."""
        lines, self._waiting = self._waiting, []
        data = memoryview("".join(line + "\n" for line in lines).encode())
        with disk_errors(self.path.name):
            while data:
                data = data[os.write(self._file, data) :]
            if sync:
                os.fsync(self._file)

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def read_losses(path: Path) -> dict[int, dict[str, float]]:
    """step -> turn -> loss, of a whole file."""
    return {r["step"]: r["loss"] for _, r in _records(path) if "loss" in r}


def read_replans(path: Path) -> tuple[Replanned, ...]:
    """The re-plans of a run, which a replay follows."""
    return tuple(Replanned(at=r["at"], steps=r["steps"]) for _, r in _records(path) if r.get("event") == "Replanned")


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(where the line ends, its record) of each whole line that is a JSON object; ends at the first that is not."""
    if not path.is_file():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if not isinstance(record, dict):
                return
            end += len(line)
            yield end, record


def _cut(path: Path, step: int) -> None:
    """Drop everything from the first loss of `step` or later, and a torn last line."""
    if not path.is_file():
        return
    end = 0
    for after, record in _records(path):
        if "loss" in record and record.get("step", 0) >= step:
            break
        end = after
    if end < path.stat().st_size:
        write_atomic(path, path.read_bytes()[:end])
