"""Our side of the text benchmark, in a process of its own.

    python pellucid_text_worker.py fit job.json         a text -> validation loss after so many CPU seconds
    python pellucid_text_worker.py turns job.json       steps on command, CPU seconds back
    python pellucid_text_worker.py generate job.json    CPU seconds of writing

All take the very steps of training (`training.walk.Walk`) and of writing (`families.autoregressive`), with the schedule
of `fit`. CPU seconds of `fit` count everything but reading the text and the calibration, the n-gram's counting as well.
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

from pellucid.core.batch import Batch
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.core.space import Tokens
from pellucid.domains.text_files import TextReading, read_text
from pellucid.domains.texts import TextExamples, Texts
from pellucid.families.autoregressive import Autoregressive
from pellucid.tasks.continuation import written
from pellucid.training.loop import survey
from pellucid.training.precision import matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk

REPLAN = 50  # steps between two looks at the clock


class Trainer:
    """An engine on windows of a text, and its walk; the first symbol of a window is read and not scored by the peer."""

    def __init__(self, job: dict[str, Any], planned: int) -> None:
        data = read_text(job["text"], TextReading(window=job["context"] + 1))
        self.codec, (kept, _) = Texts().learn(data), data.halves(0.1)
        codes = self.codec.symbols(data).astype(np.int64)
        self.held = codes[len(codes) - round(len(codes) * 0.1) :]
        self.examples, self.run, self.seed = TextExamples(self.codec, data.take(kept)), Run(), job["seed"]
        self.run.precision = job.get("precision", "float32")
        family = from_plain(Autoregressive, job["settings"])
        own = family.training(self.codec.space, len(kept))
        self.training = replace(own, **job.get("training", {}))
        self.context, self.schedule = job["context"], Schedule(planned, self.training)
        self.began = time.process_time()
        self.engine = family.build(self.codec.space, {}, Rows(self.seed, torch.arange(1)))
        survey(self.engine, self.examples, self.seed, None, self.run)
        ids = torch.arange(self.training.batch)
        self.arithmetic = settle(self.run, self.engine, self.examples.take(ids), Rows(0, ids))
        self.prepared = time.process_time() - self.began

    def walk(self) -> Walk:
        return Walk(Step(self.engine), self.examples, self.training, self.seed, self.run)

    def about(self) -> dict[str, Any]:
        return {
            "parameters": sum(p.numel() for p in self.engine.parameters()),
            "matmul": self.arithmetic.matmul,
            "precision": self.run.precision,
            "batch": self.training.batch,
            "prepared_seconds": round(self.prepared, 2),
        }

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Nats a symbol of the held-out text: in blocks as the peer counts them, and sliding by half a window."""
        self.engine.eval()
        size, found = self.context + 1, {}
        for name, step in (("blocks", self.context), ("sliding", self.context // 2)):
            starts = np.arange(0, len(self.held) - size + 1, step)
            rows = torch.from_numpy(self.held[starts[:, None] + np.arange(size)])
            each = torch.cat([self.engine.spell(Batch(x, torch.arange(len(x))), Rows(0, torch.arange(len(x))))
                              for x in rows.split(64)])  # fmt: skip
            found[name] = -float(each[:, -step:].double().mean())
        return found


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the job's CPU seconds; a short calibration plans the schedule."""
    trial, times = Trainer(job, 30), []
    with matmul_route(trial.arithmetic.matmul), trial.walk() as walk:
        for k in range(25):
            began = time.process_time()
            walk.move(k, trial.schedule)
            times.append(time.process_time() - began)
    planned = max(1, int((job["seconds"] - trial.prepared) * 0.97 / sorted(times)[12]))
    trainer, k, end = Trainer(job, planned), 0, job["seconds"]
    with matmul_route(trainer.arithmetic.matmul), trainer.walk() as walk:
        at, since = time.process_time() - trainer.began, 0
        while k < trainer.schedule.steps and time.process_time() - trainer.began < end:
            walk.move(k, trainer.schedule)
            k += 1
            if (
                k - since == REPLAN
            ):  # as the loop of `fit` does when the clock will not suffice, or will leave time over
                now = time.process_time() - trainer.began
                steps = k + max(1, int((0.995 * end - now) / ((now - at) / REPLAN)))
                trainer.schedule = trainer.schedule.replan(k, steps)
                at, since = now, k
        used = time.process_time() - trainer.began
        assert walk.average is not None
        walk.average.put()
    return {**trainer.losses(), "steps": k, "planned": planned, "cpu_seconds": used, **trainer.about()}


def turns(job: dict[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    trainer = Trainer(job, 100_000)
    with matmul_route(trainer.arithmetic.matmul), trainer.walk() as walk:
        steps_on_command(trainer.about(), lambda k: walk.move(k, trainer.schedule))


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of each round: so many symbols after one for so many texts at once, temperature .8."""
    space = Tokens(job["symbols"], job["context"] + 1, running=True)
    family = from_plain(Autoregressive, job["settings"])
    engine = family.build(space, {}, Rows(0, torch.arange(1))).eval()
    how, times = replace(engine.settings(), temperature=0.8), []
    for k in range(job["rounds"]):
        began, prompt = time.process_time(), torch.ones(job["batch"], 1, dtype=torch.int64)
        for _ in written(engine, space, prompt, job["tokens"], Rows(k, torch.arange(job["batch"])), how):
            pass
        times.append(time.process_time() - began)
    return {"seconds": times, "parameters": sum(p.numel() for p in engine.parameters())}


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        Path(job["result"]).write_text(json.dumps({"fit": fit, "generate": generate}[what](job)))


if __name__ == "__main__":
    main()
