"""The other side of the GAN benchmark: DCGAN as one writes it in plain PyTorch, steps on command.

    python dcgan_worker.py turns job.json

Nets of the paper (Radford et al. 2016, arXiv:1511.06434) at 28x28, of the shapes that ours has: batch normalisation in
the generator, leaky ReLU and no normalisation in the critic. A step is the usual one: the critic on a real and on a
forged batch, the forged pictures detached; then the generator through the critic, on the same forged pictures.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from on_command import steps_on_command
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


def generator(latent: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(latent, 2 * width * 49),
        nn.Unflatten(1, (2 * width, 7, 7)),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, 2, 1),
        nn.Tanh(),
    )


def critic(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 128),
        nn.LeakyReLU(0.2),
        nn.Linear(128, 1),
    )


def turns(job: Mapping[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batch, latent = job["batch"], job["latent"]
    forger, judge = generator(latent, job["width"]), critic(job["width"])
    fused = True if job["lean"] else None
    adam = {side: torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=fused)
            for side, net in (("forger", forger), ("judge", judge))}  # fmt: skip
    pictures = torch.rand(8 * batch, 1, 28, 28) * 2 - 1
    ones, zeros = torch.ones(batch, 1), torch.zeros(batch, 1)
    bfloat16 = job["precision"] == "bfloat16"

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def move() -> None:
        real = pictures[torch.randint(len(pictures), (batch,))]
        adam["judge"].zero_grad(set_to_none=True)
        with autocast():
            loss = binary_cross_entropy_with_logits(judge(real), ones)
        loss.backward()
        with autocast():
            fake = forger(torch.randn(batch, latent))
            loss = binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        loss.backward()
        adam["judge"].step()
        adam["forger"].zero_grad(set_to_none=True)
        with autocast():
            loss = binary_cross_entropy_with_logits(judge(fake), ones)
        loss.backward()
        adam["forger"].step()

    parameters = [sum(p.numel() for p in net.parameters()) for net in (forger, judge)]
    about = {"generator": parameters[0], "critic": parameters[1], "torch": torch.__version__}
    steps_on_command(
        {**about, "precision": job["precision"], "optimizer": "fused Adam" if fused else "Adam"}, lambda _: move()
    )


if __name__ == "__main__":
    turns(json.loads(Path(sys.argv[2]).read_text()))
