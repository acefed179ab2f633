"""The terminal as a listener: notices as lines, progress as one live bar with the time left."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING

from pellucid.core.run import Alarmed, Checkpointed, Event, Noticed, Planned, Previewed, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Terminal", "clock"]


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(75), clock(3700), clock(4.2)
    ('1 min 15 s', '1 h 1 min', '4 s')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


class Terminal:
    """Shows events on standard error, so that standard output stays the command's answer.

    On a terminal progress is a live bar; written to a file it is a line every ten percent.
    `quiet` shows alarms only. `label` is put before the stage of each bar.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.label = ""
        self.notices: list[Noticed] = []
        self._console: Console | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._last = -1
        self._checkpoints = 0
        self._previews = 0
        self._drawn = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self.notices.append(event)
        if isinstance(event, Alarmed):
            self.say(f"[bold red]alarm[/] at step {event.step}: ", event.text)
        elif self.quiet:
            return
        elif isinstance(event, Noticed):
            self.say("[dim]·[/] ", event.text)
        elif isinstance(event, Planned):
            self.say("[bold]plan[/] ", event.text)
        elif isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Previewed):
            self._previews += 1
            if self._previews == 1 and event.path is not None:
                where = os.path.dirname(event.path)
                self.say("[dim]·[/] ", f"Samples of the model as it learns, always of the same noise, are in {where}.")
        elif isinstance(event, Checkpointed):
            self._checkpoints += 1

    def say(self, mark: str, text: str = "") -> None:
        """One line: `mark` may hold markup, `text` is shown as it is."""
        from rich.markup import escape

        self._close()
        self.console.print(mark + escape(text), highlight=False)

    @property
    def console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, soft_wrap=True)
        return self._console

    def _progress(self, event: Progress) -> None:
        stage = f"{self.label}{event.stage}"
        losses = "  ".join(f"{name} {value:.4g}" for name, value in event.losses.items())
        left = f"{clock(event.seconds_left)} left" if math.isfinite(event.seconds_left) else ""
        if not self.console.is_terminal:
            tenth = 10 * event.done // max(1, event.total)
            now = time.monotonic()
            # a new stage is worth a line, but many short ones are not worth a line each
            if (stage == self._stage and tenth > self._last) or (stage != self._stage and now - self._drawn > 2.0):
                self._stage, self._last, self._drawn = stage, tenth, now
                print(
                    f"{stage}: {event.done:,} of {event.total:,}  {left}  {losses}".rstrip(),
                    file=sys.stderr,
                    flush=True,
                )
            return
        if self._bar is None or stage != self._stage:
            self._close()
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}"),
            )
            self._bar = Bar(*columns, console=self.console, refresh_per_second=4)
            self._bar.start()
            self._task = self._bar.add_task(stage, total=event.total, note="")
            self._stage = stage
        if self._task is not None and (time.monotonic() - self._drawn > 0.1 or event.done >= event.total):
            self._drawn = time.monotonic()
            self._bar.update(self._task, completed=event.done, total=event.total, note=f"{left}  {losses}".strip())
        if event.done >= event.total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._stage, self._last = None, None, "", -1

    def close(self) -> None:
        """Take the live bar away."""
        self._close()
