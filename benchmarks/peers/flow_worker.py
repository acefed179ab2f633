"""The peers of the flow benchmark: zuko's and normflows' flows, trained by a plain loop as their tutorials write it.

Runs in the peers' environment and knows nothing of Pellucid:

    python flow_worker.py fit job.json        rows (.npz) -> held-out log-likelihood after so many CPU seconds
    python flow_worker.py turns job.json      steps on command, CPU seconds back
    python flow_worker.py oracle job.json     our weights in zuko's coupling and spline: what they give

Their tutorials take Adam and average -log p over a batch. `tuned` adds what a reader of torch's documentation could
add: the fused kernel of Adam, and float32 products by oneDNN (`set_float32_matmul_precision("medium")`, true float32
on this kind of processor). `kept` also lets the C library keep freed memory, as our loop does. For the likelihoods the
peers are given our schedule of the learning rate, a clipped gradient and averaged weights too. Rows lie in memory as
one tensor.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import normflows  # type: ignore[import-not-found]
import numpy as np
import torch
import zuko  # type: ignore[import-not-found]
from on_command import steps_on_command
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def flow(job: dict[str, Any], columns: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A peer's flow, and its mean -log p of rows (B, columns)."""
    hidden = [job["width"]] * job["depth"]
    steps, splines = job["steps"], [(job.get("bins", 8),)] * 2 + [(job.get("bins", 8) - 1,)]
    if job["peer"] == "normflows RealNVP":
        half = (columns + 1) // 2
        chain: list[nn.Module] = []
        for _ in range(steps):
            net = normflows.nets.MLP([half, *hidden, 2 * (columns - half)], init_zeros=True)
            chain += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(columns, mode="swap")]
        made = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(columns, trainable=False), chain)
        return made, made.forward_kld
    if job["peer"] == "zuko RealNVP":
        lazy = zuko.flows.RealNVP(columns, transforms=steps, hidden_features=hidden)
    elif job["peer"] == "zuko NSF":  # autoregressive, its default: every column is bent at every step
        lazy = zuko.flows.NSF(columns, bins=job["bins"], transforms=steps, hidden_features=hidden)
    elif job["peer"] == "zuko spline coupling":
        lazy = zuko.flows.coupling.NICE(
            columns,
            transforms=steps,
            univariate=zuko.transforms.MonotonicRQSTransform,
            shapes=splines,
            hidden_features=hidden,
        )
    else:
        sys.exit(f"peer is {job['peer']!r}")
    return lazy, lambda x: -lazy().log_prob(x).mean()


class Trainer:
    """A flow and one step of its training.

    Args:
        job: peer, width, depth, steps, rate, batch, seed, tuned, kept. planned: steps the rate falls over, or None
            for a constant rate, no clipping and no average.
    """

    def __init__(self, job: dict[str, Any], x: Tensor, planned: int | None) -> None:
        torch.manual_seed(job["seed"])
        if job["tuned"]:
            torch.set_float32_matmul_precision("medium")
        if job.get("kept"):
            c = ctypes.CDLL(None)
            c.mallopt(M_MMAP_THRESHOLD, 2**25), c.mallopt(M_TRIM_THRESHOLD, 2**26)
        self.job, self.x, self.planned, self.k = job, x, planned, 0
        self.flow, self.loss = flow(job, x.shape[1])
        self.parameters = list(self.flow.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=job["rate"], fused=job["tuned"] or None)
        self.average = [p.detach().clone() for p in self.parameters]
        self.order = torch.randperm(len(x))

    def step(self) -> None:
        size = self.job["batch"]
        at = self.k * size % len(self.order)
        if at + size > len(self.order):
            self.order, at = torch.randperm(len(self.x)), 0
        loss = self.loss(self.x[self.order[at : at + size]])
        self.optimizer.zero_grad()
        loss.backward()
        if self.planned is not None:
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            warm = max(1, round(0.02 * self.planned))
            part = (self.k - warm) / max(1, self.planned - warm)
            rise = (
                (self.k + 1) / warm if self.k < warm else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
            )
            self.optimizer.param_groups[0]["lr"] = self.job["rate"] * min(1.0, rise)
        self.optimizer.step()
        if self.planned is not None:
            decay = min(0.999, (1 + self.k) / (25 + self.k))
            get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self.parameters], 0)
        self.k += 1


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """Train for the job's CPU seconds, with a schedule that a short calibration planned."""
    with np.load(job["data"]) as file:
        x, test = torch.from_numpy(file["train"]), torch.from_numpy(file["test"])
    took = []
    for count in (3, 20, 60):
        trainer, began = Trainer(job, x, count), time.process_time()
        for _ in range(count):
            trainer.step()
        took.append(time.process_time() - began)
    planned = max(1, int(job["seconds"] * 0.985 / ((took[2] - took[1]) / 40)))
    trainer, began = Trainer(job, x, planned), time.process_time()
    while trainer.k < planned and time.process_time() - began < job["seconds"]:
        trainer.step()
    used = time.process_time() - began
    with torch.no_grad():
        for p, value in zip(trainer.parameters, trainer.average, strict=True):
            p.copy_(value)
        values = [float(-trainer.loss(row)) * len(row) for row in test.split(1000)]
    return {"held_out": sum(values) / len(test), "steps": trainer.k, "cpu_seconds": round(used, 2), **about(trainer)}


def turns(job: dict[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    with np.load(job["data"]) as file:
        trainer = Trainer(job, torch.from_numpy(file["train"]), None)
    steps_on_command(about(trainer), lambda _: trainer.step())


def about(trainer: Trainer) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in trainer.parameters),
        "versions": {name: version(name) for name in ("torch", "zuko", "normflows")},
    }


def oracle(job: dict[str, Any]) -> dict[str, Any]:
    """Our weights in zuko's coupling, our widths, heights and slopes in zuko's spline, in float64.

    zuko folds its parameters by v / (1 + |v / limit|): they are unfolded before, so that its fold gives ours.
    """
    with np.load(job["data"]) as file:
        ours = {name: torch.from_numpy(file[name]) for name in file.files}
    kept, moved = ours["keep"].nonzero().flatten(), (~ours["keep"]).nonzero().flatten()
    scale = ours["scale"]

    def affine(t: Tensor, raw: Tensor) -> Any:
        s = scale * torch.tanh(raw)
        return zuko.transforms.MonotonicAffineTransform(t, s / (1 - (s / math.log(1e-3)).abs()))

    hidden = [len(ours["0.bias"]), len(ours["1.bias"])]
    made = zuko.flows.coupling.GeneralCouplingTransform(
        len(ours["keep"]), mask=ours["keep"], univariate=affine, hidden_features=hidden
    ).double()
    layers = [part for part in made.hyper if hasattr(part, "weight")]
    assert len(layers) == len(hidden) + 1
    # zuko has (t, s) beside each other for each number, we have all s and then all t
    order = torch.stack((torch.arange(len(moved)) + len(moved), torch.arange(len(moved))), dim=1).flatten()
    with torch.no_grad():
        for k, layer in enumerate(layers):
            rows = order if k == len(layers) - 1 else slice(None)
            layer.weight.copy_(ours[f"{k}.weight"][rows])
            layer.bias.copy_(ours[f"{k}.bias"][rows])
        y, log_scale = made().call_and_ladj(ours["x"])
    assert len(kept) + len(moved) == len(ours["keep"])

    slope = 1e-12  # so wide a fold that it reaches our smallest widths

    def unfold(value: Tensor, limit: float) -> Tensor:
        return value / (1 - (value / limit).abs())

    centred = [(p.log() - p.log().mean(-1, keepdim=True)) for p in (ours["widths"], ours["heights"])]
    half = math.log(slope) / 2
    spline = zuko.transforms.MonotonicRQSTransform(
        *(unfold(p, half) for p in centred),
        unfold(ours["slopes"].log(), math.log(slope)),
        bound=float(ours["bound"]),
        slope=slope,
    )
    with torch.no_grad():
        bent, log_slope = spline.call_and_ladj(ours["spline_x"])
        back = spline.inv(ours["spline_y"])
    return {
        "coupling": _largest(y, ours["y"]),
        "coupling_log_scale": _largest(log_scale, ours["log_scale"]),
        "spline": _largest(bent, ours["spline_y"]),
        "spline_log_slope": _largest(log_slope, ours["spline_log_slope"]),
        "spline_inverse": _largest(back, ours["spline_x"]),
        "rows": len(y),
    }


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        found = {"fit": fit, "oracle": oracle}[what](job)
        Path(job["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
