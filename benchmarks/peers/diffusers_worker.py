"""The peer of the diffusion benchmarks: diffusers' UNet2DModel, its schedulers and its EMA, trained as in its examples.

Runs in the peers' environment and knows nothing of Pellucid. Jobs come as a JSON file (`fit`, `sample`), or as lines
of JSON when two processes take turns (`turns`):

    python diffusers_worker.py fit job.json        pictures (.npz) -> weights (.safetensors) and result.json
    python diffusers_worker.py sample job.json     weights -> samples (.npz)
    python diffusers_worker.py turns job.json      steps on command, CPU seconds back

What follows diffusers' own training examples (unconditional image generation, and Stable Diffusion 3 for flow
matching): AdamW with betas (.95, .999) and weight decay 1e-6, gradients clipped at 1, a cosine rate after a warm-up,
averaged weights with decay 1 - (1 + k)^(-3/4), at most .9999. What is kinder to the peer than they are: pictures lie
in memory as one tensor instead of a DataLoader, and, if `lean`, AdamW is fused, the average takes all weights at once,
and attention in bfloat16 is written out (its fused kernel is so slow on a CPU that bfloat16 would gain nothing: 78
against 133 pictures a second were measured).
"""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.training_utils import (
    EMAModel,
    compute_density_for_timestep_sampling,
)
from on_command import steps_on_command
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

NOISE_LEVELS = 1000
DROPPED = 0.1  # share of training rows whose class is forgotten, for guidance
MARGIN = 0.985  # of the budget that is planned for; both sides plan with the same


def network(job: dict[str, Any]) -> nn.Module:
    """UNet2DModel for 28x28 grey pictures: three levels, one block each, attention at the lowest (7x7) alone.

    Args:
        job: channels, classes (0 for none; else one more embedding stands for "no class"), lean, precision.
    """
    channels, classes = job["channels"], job["classes"]
    levels = len(channels)
    net: nn.Module = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        norm_num_groups=8,
        num_class_embeds=classes + 1 if classes else None,
    )
    if job["lean"] and job["precision"] == "bfloat16":
        for part in net.modules():
            if isinstance(part, Attention):
                part.set_processor(AttnProcessor())
    return net


def autocast(precision: str) -> AbstractContextManager[Any]:
    """bfloat16 where torch thinks it safe, or nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


class Trainer:
    """A network and everything that one step of training touches.

    Args:
        job: method ("ddpm" or "flow"), precision, rate, channels, classes, batch, lean, seed.
        x: (N, 1, 28, 28) in [-1, 1]. labels: (N,) or None.
        steps: over which the rate falls.
    """

    def __init__(self, job: dict[str, Any], x: Tensor, labels: Tensor | None, steps: int) -> None:
        torch.manual_seed(job["seed"])
        self.job, self.x, self.labels, self.steps, self.k = job, x, labels, steps, 0
        self.net = network(job)
        self.parameters = list(self.net.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=job["rate"], betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8, fused=job["lean"] or None
        )
        self.average = EMAModel(
            self.parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=job["lean"]
        )
        self.warmup = max(1, min(500, steps // 10))
        self.noising = DDPMScheduler(num_train_timesteps=NOISE_LEVELS, beta_schedule="linear")
        self.flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NOISE_LEVELS)
        self.order = torch.randperm(len(x))
        self.net.train()

    def rate(self, k: int) -> float:
        """Linear warm-up, then half a cosine to 0, as diffusers' "cosine" schedule has it."""
        if k < self.warmup:
            return k / self.warmup
        part = (k - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, part)))

    def batch(self) -> tuple[Tensor, dict[str, Tensor]]:
        size = self.job["batch"]
        at = self.k * size % len(self.order)
        if at + size > len(self.order):
            self.order, at = torch.randperm(len(self.x)), 0
        ids = self.order[at : at + size]
        if self.labels is None:
            return self.x[ids], {}
        classes = self.labels[ids]
        return self.x[ids], {"class_labels": torch.where(torch.rand(len(ids)) < DROPPED, self.job["classes"], classes)}

    def step(self) -> float:
        """One step: noise, forward, backward, clip, AdamW, average."""
        x, classes = self.batch()
        noise = torch.randn_like(x)
        if self.job["method"] == "ddpm":
            t = torch.randint(0, NOISE_LEVELS, (len(x),))
            seen, target = self.noising.add_noise(x, noise, t), noise
        else:
            u = compute_density_for_timestep_sampling("logit_normal", len(x), logit_mean=0.0, logit_std=1.0)
            place = (u * NOISE_LEVELS).long()
            t, sigma = self.flow.timesteps[place], self.flow.sigmas[place].view(-1, 1, 1, 1)
            seen, target = (1.0 - sigma) * x + sigma * noise, noise - x
        with autocast(self.job["precision"]):
            guess = self.net(seen, t, **classes).sample
        loss = mse_loss(guess.float(), target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.job["rate"] * self.rate(self.k)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.parameters)
        self.k += 1
        return float(loss.detach())


def pictures(job: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Pixels (N, 1, 28, 28) in [-1, 1], and labels (N,) when the job has classes."""
    with np.load(job["data"]) as file:
        pixels, labels = file["pixels"], file["labels"]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    return x, torch.from_numpy(labels).long() if job["classes"] else None


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the job's CPU seconds: preparation included, imports and the calibration before it not."""
    few, many = job["calibration"]
    took = []
    for count in (2, few, many):  # the first warms up; the difference of the others is free of what comes once
        began = time.process_time()
        train(job, count, math.inf)
        took.append(time.process_time() - began)
    each = (took[2] - took[1]) / (many - few)
    each = each if each > 0 else took[2] / many  # too short to tell
    once = max(0.0, took[1] - few * each)
    steps = job.get("steps") or max(1, int((job["seconds"] * MARGIN - once) / each))
    began, wall = time.process_time(), time.monotonic()
    trainer, losses = train(job, steps, began + job["seconds"])
    trainer.average.copy_to(trainer.parameters)
    used, waited = time.process_time() - began, time.monotonic() - wall
    save_file({k: v.contiguous() for k, v in trainer.net.state_dict().items()}, job["out"])
    return {
        "steps": trainer.k,
        "planned_steps": steps,
        "cpu_seconds": round(used, 2),
        "wall_seconds": round(waited, 2),
        "seconds_a_step": round(each, 5),
        "parameters": sum(p.numel() for p in trainer.parameters),
        "last_loss": round(float(np.mean(losses[-50:])), 5),
    }


def train(job: dict[str, Any], steps: int, end: float) -> tuple[Trainer, list[float]]:
    """So many steps, or fewer when the process's CPU clock passes `end`."""
    x, labels = pictures(job)
    trainer, losses = Trainer(job, x, labels, steps), []
    while trainer.k < steps and time.process_time() < end:
        losses.append(trainer.step())
    return trainer, losses


@torch.no_grad()
def sample(job: dict[str, Any]) -> dict[str, Any]:
    """Draw `n` pictures: DDIM for "ddpm", Euler for "flow"; classes in turn, with guidance."""
    net = network(job)
    net.load_state_dict(load_file(job["model"]))
    net.eval()
    generator = torch.Generator().manual_seed(job["seed"])
    began, drawn = time.process_time(), []
    labels = torch.arange(job["n"]) % job["classes"] if job["classes"] else None
    for start in range(0, job["n"], 250):
        size = min(250, job["n"] - start)
        asked = None if labels is None else labels[start : start + size]
        x = torch.randn(size, 1, 28, 28, generator=generator)
        drawn.append(walk(net, job, x, asked))
    used = time.process_time() - began
    pixels = torch.cat(drawn).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.savez(job["out"], pixels=pixels.numpy(), labels=np.zeros(0) if labels is None else labels.numpy())
    return {"n": job["n"], "steps": job["steps"], "cpu_seconds": round(used, 2)}


def walk(net: nn.Module, job: dict[str, Any], x: Tensor, labels: Tensor | None) -> Tensor:
    """(B, 1, 28, 28) from noise to pictures."""
    scheduler = (
        DDIMScheduler(num_train_timesteps=NOISE_LEVELS, beta_schedule="linear")
        if job["method"] == "ddpm"
        else FlowMatchEulerDiscreteScheduler(num_train_timesteps=NOISE_LEVELS)
    )
    scheduler.set_timesteps(job["steps"])
    for t in scheduler.timesteps:
        with autocast(job["precision"]):
            guess = guided(net, x, t, labels, job)
        x = scheduler.step(guess.float(), t, x).prev_sample
    return x


def guided(net: nn.Module, x: Tensor, t: Tensor, labels: Tensor | None, job: dict[str, Any]) -> Tensor:
    """Ho and Salimans 2022, arXiv:2207.12598, eq. 6, with weight w: nothing + w (class - nothing)."""
    at = t.expand(len(x))
    if labels is None:
        out: Tensor = net(x, at).sample
    elif job["guidance"] == 1.0:
        out = net(x, at, class_labels=labels).sample
    else:
        both = torch.cat((labels, torch.full_like(labels, job["classes"])))
        known, unknown = net(torch.cat((x, x)), torch.cat((at, at)), class_labels=both).sample.chunk(2)
        out = unknown + job["guidance"] * (known - unknown)
    return out


def turns(job: dict[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    torch.manual_seed(0)
    trainer = Trainer(job, torch.rand(4 * job["batch"], 1, 28, 28) * 2 - 1, None, 10_000)
    with FlopCounterMode(display=False) as counter:
        mse_loss(trainer.net(trainer.x[:2], torch.tensor([3, 700])).sample, trainer.x[:2]).backward()
    trainer.optimizer.zero_grad()
    about = {
        "parameters": sum(p.numel() for p in trainer.parameters),
        "mflop_a_picture": round(counter.get_total_flops() / 2e6),
        "versions": {name: version(name) for name in ("torch", "diffusers")},
    }
    steps_on_command(about, lambda _: trainer.step())


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        found = {"fit": fit, "sample": sample}[what](job)
        found["versions"] = {name: version(name) for name in ("torch", "diffusers")}
        Path(job["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
