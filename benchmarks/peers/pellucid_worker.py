"""Our side of the diffusion benchmarks, in a process of its own, through the public interface alone where it fits.

    python pellucid_worker.py fit job.json        pictures (.npz) -> a run folder and result.json
    python pellucid_worker.py sample job.json     run folder -> samples (.npz)
    python pellucid_worker.py turns job.json      steps on command, CPU seconds back

`turns` takes the very steps of training (rows, losses, backward, clip, optimizer, average: `training.walk.Walk`),
since `fit` cannot be stopped and started between two blocks of a measurement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_command import steps_on_command
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pellucid
from pellucid.catalog import domain_class, family_class
from pellucid.core.capabilities import Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.domains.pictures import Pictures
from pellucid.training.precision import matmul_route, settle
from pellucid.training.schedule import Schedule
from pellucid.training.step import Step
from pellucid.training.walk import Walk, encoded

MARGIN = 0.985  # of the budget that is planned for; both sides plan with the same
FAMILY = "diffusion"


def pictures(job: Mapping[str, Any]) -> Pictures:
    """The job's pictures, with their classes when it has any."""
    with np.load(job["data"]) as file:
        pixels, labels = file["pixels"], file["labels"]
    return Pictures(pixels=pixels, labels=tuple(str(k) for k in labels) if job["classes"] else None)


def fit(job: Mapping[str, Any]) -> dict[str, Any]:
    """`pellucid.fit` for the job's CPU seconds: everything inside it counts, imports and the calibration before do not.

    The number of steps comes from two short fits on the same machine right before, so the rate ends its cosine in the
    budget.
    """
    items = pictures(job)
    few, many = job["calibration"]
    took = []
    for count in (2, few, many):  # the first one loads modules
        began = time.process_time()
        _fitted(items, job, count)
        took.append(time.process_time() - began)
    each = (took[2] - took[1]) / (many - few)
    each = each if each > 0 else took[2] / many  # too short to tell
    once = max(0.0, took[1] - few * each)
    steps = job.get("steps") or max(1, int((job["seconds"] * MARGIN - once) / each))
    began, wall = time.process_time(), time.monotonic()
    model = _fitted(items, job, steps)
    used, waited = time.process_time() - began, time.monotonic() - wall
    model.save(job["out"], force=True)
    recipe = model.recipe
    return {
        "steps": steps,
        "planned_steps": steps,
        "cpu_seconds": round(used, 2),
        "wall_seconds": round(waited, 2),
        "seconds_a_step": round(each, 5),
        "parameters": sum(p.numel() for p in model.engine.parameters()),
        "recipe": {k: recipe[k] for k in ("settings", "training", "precision", "threads", "held_out", "seed")},
        "how": str(model.how()),
    }


def _fitted(items: Pictures, job: Mapping[str, Any], steps: int) -> pellucid.Fitted:
    settings = job.get("settings") or None
    return pellucid.fit(items, family=FAMILY, steps=steps, precision="auto", seed=job["seed"], settings=settings)


def sample(job: Mapping[str, Any]) -> dict[str, Any]:
    """Draw `n` pictures as the family does by default; classes in turn."""
    model = pellucid.load(job["model"])
    classes = job["classes"]
    labels = np.arange(job["n"]) % classes if classes else np.zeros(0)
    (name,) = model.codec.conditions if classes else ("",)
    began = time.process_time()
    draw = model.sample(job["n"], seed=job["seed"], where={name: [str(k) for k in labels]} if classes else None)
    used = time.process_time() - began
    assert isinstance(draw.items, Pictures)
    np.savez(job["out"], pixels=draw.items.pixels, labels=labels)
    return {"n": job["n"], "how": str(draw.how), "cpu_seconds": round(used, 2)}


def turns(job: Mapping[str, Any]) -> None:
    """Answer each line {"steps": n} with the CPU seconds that n steps took; an empty line ends."""
    rows = Rows(0, torch.arange(8 * job["batch"]))
    items = Pictures(pixels=(rows.uniform(28, 28, 1) * 255).to(torch.uint8).numpy())
    model = pellucid.fit(
        items, family=FAMILY, steps=1, held_out=0.0, precision=job["precision"], settings=job["settings"]
    )
    engine, bridge, examples = model.engine.train(), model.bridge, model.examples(items)
    training = replace(from_plain(Training, model.recipe["training"]), batch=job["batch"])
    run = Run(precision=model.recipe["precision"])
    batch, noise = encoded(examples, rows.ids[: job["batch"]], rows.take(slice(job["batch"])), bridge, run.device)
    arithmetic = settle(run, engine, batch, noise)
    step, schedule = Step(engine), Schedule(10_000, training)
    about = {
        "parameters": sum(p.numel() for p in engine.parameters()),
        "mflop_a_picture": _mflop(step, batch.take(slice(2)), noise.take(slice(2))),
        "precision": run.precision,
        "matmul": arithmetic.matmul,
        "matmul_error": arithmetic.matmul_error,
        "optimizer": training.optimizer,
        "settings": job["settings"],
    }
    with matmul_route(arithmetic.matmul), Walk(step, examples, training, 0, run, bridge) as walk:
        steps_on_command(about, lambda k: walk.move(k, schedule))


def _mflop(step: Step, batch: Any, rows: Rows) -> int:
    """Million operations of products and convolutions for one picture, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step(0, batch, rows)[0].sum().backward()
    for p in step.parameters():
        p.grad = None
    return round(counter.get_total_flops() / 2e6)


def width_for(parameters: int) -> int:
    """The smallest width of the network, in eights, with which the family has at least so many parameters."""
    return next(width for width in range(8, 513, 8) if _parameters(width) >= parameters)


def _parameters(width: int) -> int:
    family = from_plain(family_class(FAMILY), {"width": width})
    space = domain_class("images")().learn(Pictures(pixels=np.zeros((2, 28, 28, 1), np.uint8))).space
    engine: nn.Module = family.build(space, {}, Rows(0, torch.arange(1)))
    return sum(p.numel() for p in engine.parameters())


def main() -> None:
    what, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    if what == "turns":
        turns(job)
    else:
        found = {"fit": fit, "sample": sample}[what](job)
        Path(job["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
