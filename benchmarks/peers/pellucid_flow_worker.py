"""Our side of the flow benchmark, in a process of its own.

    python pellucid_flow_worker.py fit job.json        rows (.npz) -> held-out log-likelihood after so many CPU seconds
    python pellucid_flow_worker.py turns job.json      steps on command, CPU seconds back

Both take the very steps of training (rows, losses, backward, clip, optimizer, average: `training.walk.Walk`), with the
learning rate's schedule of `fit`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_command import steps_on_command
from torch import nn

from pellucid.catalog import family_class
from pellucid.core.batch import Batch, TensorExamples
from pellucid.core.capabilities import Family, Scores, Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.core.space import Real
from pellucid.training.loop import prepare_engine
from pellucid.training.precision import matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk


class Trainer:
    """An engine on rows (N, columns), and its walk."""

    def __init__(self, job: dict[str, Any], x: torch.Tensor, planned: int) -> None:
        family = from_plain(family_class(job["family"]), job["settings"])
        assert isinstance(family, Family)
        space = Real((x.shape[1],))
        self.engine: nn.Module = family.build(space, {}, Rows(job["seed"], torch.arange(1)))
        self.training: Training = replace(family.training(space, len(x)), batch=job["batch"], rate=job["rate"])
        self.examples, self.run, self.seed, self.k = TensorExamples(x), Run(), job["seed"], 0
        prepare_engine(self.engine, self.examples, self.training, self.seed, None, self.run)
        ids = torch.arange(job["batch"])
        batch = self.examples.take(ids)
        self.arithmetic = settle(self.run, self.engine, batch, Rows(0, ids))
        self.schedule = Schedule(planned, self.training)

    def walk(self) -> Walk:
        return Walk(Step(self.engine), self.examples, self.training, self.seed, self.run)

    def about(self) -> dict[str, Any]:
        return {
            "parameters": sum(p.numel() for p in self.engine.parameters()),
            "matmul": self.arithmetic.matmul,
            "matmul_error": self.arithmetic.matmul_error,
        }


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the job's CPU seconds, with a schedule that a short calibration planned."""
    with np.load(job["data"]) as file:
        x, test = torch.from_numpy(file["train"]), torch.from_numpy(file["test"])
    took = [_train(job, x, count)[1] for count in (3, 20, 60)]
    planned = max(1, int(job["seconds"] * 0.985 / ((took[2] - took[1]) / 40)))
    trainer, used, done = _train(job, x, planned, job["seconds"])
    engine, values = trainer.engine.eval(), []
    assert isinstance(engine, Scores)
    with torch.no_grad():
        for rows in test.split(1000):
            ids = torch.arange(len(rows))
            values.append(engine.log_prob(Batch(rows, ids), Rows(0, ids)).value.double())
    return {
        "held_out": float(torch.cat(values).mean()),
        "steps": done,
        "cpu_seconds": round(used, 2),
        **trainer.about(),
    }


def _train(
    job: dict[str, Any], x: torch.Tensor, steps: int, seconds: float = float("inf")
) -> tuple[Trainer, float, int]:
    """The trainer, CPU seconds without its building, and steps taken."""
    trainer = Trainer(job, x, steps)
    began, k = time.process_time(), 0
    with matmul_route(trainer.arithmetic.matmul), trainer.walk() as walk:
        while k < steps and time.process_time() - began < seconds:
            walk.move(k, trainer.schedule)
            k += 1
        used = time.process_time() - began
        if walk.average is not None:
            walk.average.put()
    return trainer, used, k


def turns(job: dict[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    with np.load(job["data"]) as file:
        trainer = Trainer(job, torch.from_numpy(file["train"]), 100_000)
    with matmul_route(trainer.arithmetic.matmul), trainer.walk() as walk:
        steps_on_command(trainer.about(), lambda k: walk.move(k, trainer.schedule))


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        Path(job["result"]).write_text(json.dumps(fit(job)))


if __name__ == "__main__":
    main()
