"""What a process that will be killed does in test_resume.py; a module of its own, since a new process imports it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from pellucid.core.errors import Stopped
from pellucid.core.run import Run, stoppable
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.loop import train
from tests.training.toys import SETTINGS, Dropping, rows_of_numbers

__all__ = ["STEPS", "go"]

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
