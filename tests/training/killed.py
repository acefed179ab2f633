"""What a process that will be killed does in test_resume.py; a module of its own, since a new process imports it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pellucid.core.errors import Stopped
from pellucid.core.run import Run, stoppable
from pellucid.training.checkpoint import Checkpoints, State
from pellucid.training.loop import train
from tests.training.toys import SETTINGS, Dropping, rows_of_numbers

__all__ = ["STEPS", "die_at", "go"]

STEPS = 60


def go(folder: str, pause: float = 0.0, ballast: int = 0, every: int = 7) -> None:
    """Train in the folder, from its newest checkpoint if it has one, and leave the result's weights there."""
    torch.set_num_threads(1)
    path = Path(folder)
    run, keep = Run(folder=path), Checkpoints(path / "checkpoints", steps=every)
    engine = Dropping(ballast=ballast, pause=pause)
    try:
        with stoppable(run):
            start = keep.latest(run)
            train(engine, rows_of_numbers(), settings=SETTINGS, steps=STEPS, seed=11, run=run, keep=keep, start=start)
    except Stopped as stop:
        os.write(2, f"{stop}\n".encode())
        sys.exit(stop.exit_code)


def die_at(folder: str, call: int) -> None:
    """Save the checkpoints of steps 1, 2 and 3, and die right before the `call`-th call that touches the disk."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return counting

    keep = Checkpoints(Path(folder), keep=2)
    for name in ("open", "fdopen", "fsync", "chmod", "replace", "unlink", "close"):
        setattr(os, name, counted(getattr(os, name)))
    for step in (1, 2, 3):
        keep.save(State(step, {"weights/a": torch.full((7,), float(step))}), Run())
