"""Our side of the GAN benchmark: the very steps of training, on command.

python pellucid_gan_worker.py turns job.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from on_command import steps_on_command

from pellucid.core.batch import TensorExamples
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real
from pellucid.families.gan import GAN
from pellucid.training.precision import matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk, encoded

SPACE = Real((1, 28, 28), levels=256)


def turns(job: Mapping[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    torch.set_num_threads(1)
    rows = Rows(0, torch.arange(8 * job["batch"]))
    examples = TensorExamples((rows.uniform(1, 28, 28) * 255).round() / 127.5 - 1)
    family = GAN(generator="dcgan", loss=job["loss"], gamma=0.0, latent=job["latent"], width=job["width"])
    engine = family.build(SPACE, {}, rows.take(slice(0, 1)))
    training, run = family.training(SPACE, len(rows)), Run(precision=job["precision"])
    batch, noise = encoded(examples, rows.ids[: training.batch], rows.take(slice(training.batch)), None, run.device)
    arithmetic = settle(run, engine, batch, noise)
    about = {
        "generator": sum(p.numel() for p in engine.generator.parameters()),
        "critic": sum(p.numel() for p in engine.critic.parameters()),
        "precision": run.precision,
        "matmul": arithmetic.matmul,
        "loss": job["loss"],
        "torch": torch.__version__,
    }
    schedule = Schedule(10_000, training)
    with matmul_route(arithmetic.matmul), Walk(Step(engine), examples, training, 0, run) as walk:
        steps_on_command(about, lambda k: walk.move(k, schedule))


if __name__ == "__main__":
    turns(json.loads(Path(sys.argv[2]).read_text()))
