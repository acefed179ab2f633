"""A run: where it computes, where it writes, whom it tells, and whether it was asked to stop.

Library code never prints. It emits frozen events; the terminal, the studio and the tests are listeners.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pellucid.core.errors import Stopped

__all__ = [
    "Alarmed",
    "Checkpointed",
    "Event",
    "Listener",
    "Measured",
    "Noticed",
    "Planned",
    "Previewed",
    "Progress",
    "Run",
    "event_record",
    "stoppable",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, for whoever listens."""


@dataclass(frozen=True, kw_only=True)
class Noticed(Event):
    """Something the user should know: an inference, a conversion, a skipped item.

    `topic` is a stable word for programs, `text` one plain sentence, `count` how many items it touches.
    """

    topic: str
    text: str
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Alarmed(Event):
    """A measured sign of trouble, such as copying or collapse."""

    topic: str
    text: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Measured(Event):
    """Numbers seen of the model after this step, by name: how its players stand, what its samples cover."""

    topic: str
    step: int
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Planned(Event):
    """What is about to be trained: steps, expected seconds, parameters."""

    steps: int
    seconds: float
    parameters: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """`done` of `total` steps of `stage`; `seconds_left` is an estimate (NaN when unknown)."""

    stage: str
    done: int
    total: int
    seconds_left: float = math.nan
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Event):
    """A checkpoint was committed to disk at this step."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Previewed(Event):
    """Samples of the model as it is after this step; always `count` of the same noise.

    `path` is where they were written, None for nowhere; `items` are they themselves, for whoever shows them.
    """

    step: int
    path: str | None
    count: int
    items: Any = field(default=None, repr=False, compare=False, metadata={"recorded": False})


Listener = Callable[[Event], None]


def event_record(event: Event) -> dict[str, Any]:
    """The event as one flat JSON object, its class name first; what is too large for a line is left out.

    >>> event_record(Noticed(topic="kind", text="a table"))
    {'event': 'Noticed', 'topic': 'kind', 'text': 'a table', 'count': None}
    """
    told = [f.name for f in fields(event) if f.metadata.get("recorded", True)]
    return {"event": type(event).__name__, **{name: getattr(event, name) for name in told}}


@dataclass
class Run:
    """Device, precision, folder, listeners and the wish to stop, handed to every long job.

    device: "cpu" or "cuda"; `Run.on("auto")` picks cuda when there is one.
    precision: "float32" (the reference) or "bfloat16" (autocast of matrix work).
    folder: where checkpoints and events go; None keeps everything in memory.
    """

    device: str = "cpu"
    precision: str = "float32"
    folder: Path | None = None
    listeners: list[Listener] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _signal: int = field(default=signal.SIGINT, repr=False)
    _pace: dict[str, tuple[float, int]] = field(default_factory=dict, repr=False)  # stage -> when it began, and where

    def emit(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            listener(event)

    def notice(self, topic: str, text: str, count: int | None = None) -> None:
        """Emit one `Noticed`."""
        self.emit(Noticed(topic=topic, text=text, count=count))

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Ask the job to stop at its next step; safe from a signal handler or another thread."""
        self._signal = signum
        self._stop.set()

    def stopping(self) -> bool:
        """Was a stop asked for? Long jobs ask once a step."""
        return self._stop.is_set()

    def stopped(self, came: str, next: str = "Nothing was written.") -> Stopped:
        """The error of a job that stops as it was asked to, with the exit code that shells expect after its signal.

        >>> run = Run()
        >>> run.stop(signal.SIGTERM)
        >>> run.stopped("sampling stopped").exit_code
        143
        """
        error = Stopped(came, next=next)
        vars(error)["exit_code"] = 128 + int(self._signal)  # the class knows Ctrl-C alone
        return error

    def go_on(self, came: str = "the work was stopped", next: str = "Nothing was written.") -> None:
        """Raise `Stopped` if a stop was asked for."""
        if self.stopping():
            raise self.stopped(came, next)

    def step(self, stage: str, done: int, total: int, *, came: str = "", next: str = "", tell: bool = True) -> None:
        """Stop if that was asked for; otherwise tell how far a stage is, and by its own pace how long it will take.

        Args:
            came, next: of the error, "{stage} stopped after {done} of {total}" when empty.
            tell: False for stages that are over in a moment, which need no bar.

        Raises:
            Stopped: a stop was asked for.
        """
        self.go_on(came or f"{stage}: stopped after {done:,} of {total:,}", next or "Nothing was written.")
        now = time.monotonic()
        began, first = self._pace.get(stage, (now, done))
        if done < first or done == 0:
            began, first = now, done
        self._pace[stage] = began, first
        left = (now - began) / (done - first) * (total - done) if done > first else math.nan
        if tell:
            self.emit(Progress(stage=stage, done=done, total=total, seconds_left=left))

    def seconds(self) -> float:
        """Wall seconds since this run was made."""
        return time.monotonic() - self.started


@contextmanager
def stoppable(run: Run) -> Iterator[Run]:
    """Turn Ctrl-C and SIGTERM into `run.stop` for the time of the block; a second Ctrl-C interrupts at once."""

    def handler(signum: int, frame: object) -> None:
        if run.stopping() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        run.stop(signum)

    if threading.current_thread() is not threading.main_thread():
        yield run
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield run
    finally:
        for number, old in previous.items():
            if old is not None:  # None: a handler that Python did not set and cannot put back
                signal.signal(number, old)
