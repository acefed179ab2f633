"""Peak memory of a fit, beside what it cannot do without: data, 4 x parameters, averages, activations of one step.

    .venv/bin/python benchmarks/memory_of_a_fit.py

Each case is a process of its own with one thread. Its peak resident memory is taken by the system, less what the
process held before the data was made, when all libraries were loaded and a tiny fit had run. The allowance is

    data          the pictures as they are given (uint8), and the rows that they are encoded to (float32)
    4 x weights   weights, gradients and the two moments of Adam, in float32, and the averaged weights
    activations   tensors that one training step keeps for its backward pass, each storage once

Not in it, and so to be kept small: work space of kernels, copies, the held-out rows' share, what Python itself takes.
Cases differ in steps and in rows: memory must not grow with steps, and with rows only by the data held in memory.
Writes benchmarks/results/memory_of_a_fit.json; exits with 1 when a case takes more than its allowance.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about_this_machine
from torch import Tensor

import pellucid
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.domains.pictures import Pictures
from pellucid.training.precision import autocast
from pellucid.training.step import Step
from pellucid.training.walk import encoded

MB = 2**20
GROWTH = 0.05  # of the allowance: peaks of two equal runs differ by pages and by the order of frees


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def noise(rows: int, side: int) -> Pictures:
    """Random pictures, made as bytes so that making them takes no more than they do."""
    pixels = np.frombuffer(np.random.default_rng(0).bytes(rows * side * side), np.uint8)
    return Pictures(pixels=pixels.reshape(rows, side, side, 1))


def case(family: str, rows: int, steps: int) -> dict[str, Any]:
    """Fit once and say what it took, in MB."""
    torch.set_num_threads(1)
    pellucid.fit(noise(64, 8), family=family, steps=2)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    items = noise(rows, 28)
    model = pellucid.fit(items, family=family, steps=steps)
    peak = resident("VmHWM") - before
    weights = sum(p.numel() * 4 for p in model.engine.parameters()) / MB
    batch = int(model.recipe["training"]["batch"])
    allowed = {
        "data_given": items.pixels.nbytes / MB,
        "data_encoded": items.pixels.size * 4 / MB,
        "weights_gradients_moments": 4 * weights,
        "averages": weights if model.recipe["training"]["ema"] is not None else 0.0,
        "activations": activations(model, items.take(np.arange(batch))) / MB,
    }
    return {
        "family": family,
        "rows": rows,
        "steps": steps,
        "batch": batch,
        "precision": model.recipe["precision"],
        "peak_mb": round(peak, 1),
        "allowed_mb": round(sum(allowed.values()), 1),
        "allowance": {name: round(size, 1) for name, size in allowed.items()},
    }


def activations(model: pellucid.Fitted, items: Pictures) -> int:
    """Bytes that one step keeps for its backward pass, besides parameters."""
    ids = torch.arange(len(items))
    batch, rows = encoded(model.examples(items), ids, Rows(0, ids), model.bridge, "cpu")
    step = Step(model.engine.train())
    own = {p.untyped_storage().data_ptr() for p in step.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(Run(precision=model.recipe["precision"])):
            losses = [step(turn, batch, rows)[0] for turn in range(len(step.turns))]
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del losses
    return size


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--family", default="diffusion")
    words.add_argument("--rows", default="5000,40000")
    words.add_argument("--steps", default="15,60")
    words.add_argument("--one", action="store_true", help="the first case alone, in this process, as JSON")
    words.add_argument("--result", type=Path, default=Path(__file__).with_name("results") / "memory_of_a_fit.json")
    asked = words.parse_args()
    rows, steps = ([int(word) for word in text.split(",")] for text in (asked.rows, asked.steps))
    if asked.one:
        print(json.dumps(case(asked.family, rows[0], steps[0])))
        return 0
    one = {**os.environ, "OMP_NUM_THREADS": "1", "PELLUCID_THREADS": "1"}
    cases = []
    for n in rows:
        for k in steps:
            command = [sys.executable, __file__, "--one", "--family", asked.family, "--rows", str(n), "--steps", str(k)]
            said = subprocess.run(command, env=one, check=True, capture_output=True, text=True).stdout
            cases.append(json.loads(said.splitlines()[-1]))
            cases[-1]["met"] = cases[-1]["peak_mb"] <= cases[-1]["allowed_mb"]
            print(json.dumps(cases[-1]), flush=True)
    peak = {(c["rows"], c["steps"]): c["peak_mb"] for c in cases}
    data = {c["rows"]: c["allowance"]["data_given"] + c["allowance"]["data_encoded"] for c in cases}
    by_steps = [round(peak[n, steps[-1]] - peak[n, steps[0]], 1) for n in rows]
    by_rows = [round(peak[rows[-1], k] - peak[rows[0], k], 1) for k in steps]
    more_data = round(data[rows[-1]] - data[rows[0]], 1)
    slack = GROWTH * min(c["allowed_mb"] for c in cases)
    result = {
        "machine": about_this_machine(),
        "threads": 1,
        "seed": 0,
        "cases": cases,
        "growth_by_steps_mb": by_steps,
        "growth_by_rows_mb": by_rows,
        "growth_of_data_mb": more_data,
        "no_growth_by_steps": max(by_steps) <= slack,
        "growth_by_rows_is_data": max(by_rows) <= more_data + slack,
    }
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    print(f"by steps {by_steps} MB, by rows {by_rows} MB, where the data grew by {more_data} MB")
    return 0 if all(c["met"] for c in cases) and result["no_growth_by_steps"] else 1


if __name__ == "__main__":
    sys.exit(main())
