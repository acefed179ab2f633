"""Our side of `vae_training.py`: the autoencoder's engine and the steps that `fit` takes, with the peer's nets in it.

python pellucid_vae_worker.py turns job.json      steps on command, CPU seconds back
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from on_command import steps_on_command
from torch import Tensor, nn

from pellucid.core.batch import TensorExamples
from pellucid.core.capabilities import Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real
from pellucid.families.vae import VAE
from pellucid.training.precision import matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk, encoded

PLAIN: dict[str, Any] = {"clip": None, "ema": None, "weight_decay": 0.0, "warmup": 0.0}  # as the peer does it


class Perceptron(nn.Module):
    """One hidden layer of ReLUs, as pythae's default nets."""

    def __init__(self, inputs: int, outputs: int, last: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, outputs), last)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs); there are no conditions to steer by."""
        out: Tensor = self.net(x)
        return out


def turns(job: Mapping[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    rows = Rows(0, torch.arange(job["epoch"] * job["batch"]))
    examples = TensorExamples(rows.uniform(1, 28, 28))
    family = VAE(latent=job["latent"], net="dense", observation="gaussian", spread=1.0, beta=1.0)
    engine = family.build(Real((1, 28, 28)), {}, rows.take(slice(1))).train()
    with rows.take(slice(1)).seeding():
        engine.encoder = Perceptron(784, 2 * job["latent"], nn.Identity())
        engine.decoder = Perceptron(job["latent"], 784, nn.Sigmoid())
    training = Training(batch=job["batch"], rate=job["rate"], **(PLAIN if job["plain"] else {}))
    run = Run(precision=job["precision"])
    batch, noise = encoded(examples, rows.ids[: job["batch"]], rows.take(slice(job["batch"])), None, run.device)
    arithmetic = settle(run, engine, batch, noise)
    step, schedule = Step(engine), Schedule(100_000, training)
    about = {
        "parameters": sum(p.numel() for p in engine.parameters()),
        "precision": run.precision,
        "matmul": arithmetic.matmul,
        "matmul_error": arithmetic.matmul_error,
        "training": {"clip": training.clip, "ema": training.ema},
    }
    with matmul_route(arithmetic.matmul), Walk(step, examples, training, 0, run) as walk:
        steps_on_command(about, lambda k: walk.move(k, schedule))


def main() -> None:
    _, path = sys.argv[1:]
    torch.set_num_threads(1)
    turns(json.loads(Path(path).read_text()))


if __name__ == "__main__":
    main()
