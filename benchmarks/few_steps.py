"""Few steps: a model distilled to 1 to 4 steps beside its own 20 steps, on Fashion-MNIST.

    PELLUCID_DATA=/path/to/data OMP_NUM_THREADS=1 python benchmarks/few_steps.py --minutes 5

For each kind (with classes, without) a base is fitted for so many CPU minutes, then distilled by the objective
`few_steps` for as many CPU minutes again, both with the defaults of `pellucid.fit` and on one thread. Steps come from a
probe of each one's CPU time a step; what was used is in the results. Judged by the Fréchet distance of `--samples`
samples to 10,000 real pictures that no model saw, in the features of the classifier of `peers/fashion.py`; beside it
the floor, as many other real pictures. The bars: 4 steps within 1.3 times the base's distance at 20 steps, 1 step
within 2 times. Beside them the base itself in as few steps.
Results go to benchmarks/results/few_steps.json, a sheet of samples, a line for each way of drawing, to docs/gallery/.
Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about_this_machine
from peers.fashion import CLASSES, Judge, read_fashion
from PIL import Image

from pellucid.domains.pictures import Pictures
from pellucid.families.denoising import DiffusionHow
from pellucid.fitting import fit
from pellucid.model import Fitted

HERE = Path(__file__).parent
WARM, PROBE = 4, 16  # steps before, and steps of, a probe; a multiple of the rounds in which all turns come up
MARGIN = 0.985  # of the CPU time that is planned for
BARS = {4: 1.3, 1: 2.0}  # steps -> times the base's distance at 20 steps


def timed(items: Pictures, seconds: float, seed: int, **words: Any) -> tuple[Fitted, dict[str, Any]]:
    """A fit of so many CPU seconds, its probe not counted, and what was used."""
    used = []
    for steps in (1, WARM, WARM + PROBE):  # the first one loads modules
        began = time.process_time()
        fit(items, "diffusion", steps=steps, seed=seed, watch=False, **words)
        used.append(time.process_time() - began)
    each = max(1e-4, (used[2] - used[1]) / PROBE)
    steps = max(1, int((MARGIN * seconds - max(0.0, used[1] - WARM * each)) / each))
    began = time.process_time()
    model = fit(items, "diffusion", steps=steps, seed=seed, watch=False, **words)
    took = time.process_time() - began
    facts = {"cpu_seconds": round(took, 1), "steps": steps, "ms_a_step": round(1000 * took / steps, 1)}
    return model, {**facts, "precision": model.recipe["precision"]}


def drawn(model: Fitted, how: DiffusionHow, n: int, judge: Judge) -> tuple[dict[str, Any], Pictures]:
    """The distance of n samples, classes in turn, what they cost, and the samples."""
    where = {"class": [str(k % CLASSES) for k in range(n)]} if model.codec.conditions else None
    began = time.process_time()
    items = model.sample(n, seed=1, where=where, how=how).items
    took = time.process_time() - began
    assert isinstance(items, Pictures)
    cost = {"steps": how.steps, "solver": how.solver, "guidance": how.guidance}
    return {**cost, "distance": round(judge.distance(items), 3), "ms_an_image": round(1000 * took / n, 2)}, items


def sheet(lines: Sequence[Pictures], path: Path) -> None:
    """Twenty pictures of each way of drawing, a line each, twice as large."""
    rows = [np.concatenate([np.pad(p[..., 0], 1, constant_values=96) for p in line.pixels[:20]], 1) for line in lines]
    whole = np.concatenate(rows)
    size = (2 * whole.shape[1], 2 * whole.shape[0])
    Image.fromarray(whole).resize(size, Image.Resampling.NEAREST).save(path, optimize=True)


def measured(items: Pictures, asked: argparse.Namespace, judge: Judge, name: str) -> dict[str, Any]:
    """One kind: the base, its student, and their distances."""
    seconds = 60 * asked.minutes
    base, fitted = timed(items, seconds, asked.seed)
    student, taught = timed(items, fitted["cpu_seconds"], asked.seed, base=base, objective="few_steps")
    own, few = base.how(), student.how()
    assert isinstance(own, DiffusionHow)
    assert isinstance(few, DiffusionHow)
    row: dict[str, Any] = {"base": fitted, "student": taught}
    row["base"]["draws"], row["student"]["draws"], lines = [], [], []
    plans = [("base", base, replace(own, steps=steps)) for steps in (20, 4, 1)]
    plans += [("student", student, replace(few, steps=steps)) for steps in (4, 3, 2, 1)]
    for side, model, how in plans:
        found, drawing = drawn(model, how, asked.samples, judge)
        row[side]["draws"].append(found)
        lines.append(drawing)
        print(json.dumps({"kind": name, "model": side, **found}), flush=True)
    aim = row["base"]["draws"][0]["distance"]
    ratios = {d["steps"]: round(d["distance"] / aim, 3) for d in row["student"]["draws"]}
    row["times_the_base_at_20_steps"] = ratios
    row["bars"] = [{"steps": k, "bar": bar, "met": ratios[k] <= bar} for k, bar in BARS.items()]
    sheet(lines, asked.gallery / f"few_steps_{name}.png")
    return row


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of the base, and of the distillation")
    words.add_argument("--kinds", nargs="+", default=["classes", "plain"], choices=["classes", "plain"])
    words.add_argument("--samples", type=int, default=5000)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--judge", type=Path, default=Path("runs/judge"), help="folder where the judge is kept")
    words.add_argument("--result", type=Path, default=HERE / "results" / "few_steps.json")
    words.add_argument("--gallery", type=Path, default=HERE.parent / "docs" / "gallery")
    asked = words.parse_args()
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds fashion_mnist/")
    torch.set_num_threads(1)
    os.environ["PELLUCID_THREADS"] = "1"
    asked.judge.mkdir(parents=True, exist_ok=True)
    fashion = read_fashion(Path(os.environ["PELLUCID_DATA"], "fashion_mnist"))
    judge = Judge(fashion, asked.judge)
    result: dict[str, Any] = {
        "machine": about_this_machine(),
        "threads": 1,
        "judge": judge.about,
        "samples": asked.samples,
        "seed": asked.seed,
        "budget_cpu_minutes": asked.minutes,
        "floor": round(judge.floor(asked.samples), 3),
        "kinds": {},
    }
    for name in asked.kinds:
        items = fashion.training if name == "classes" else replace(fashion.training, labels=None)
        result["kinds"][name] = measured(items, asked, judge, name)
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    if not all(bar["met"] for row in result["kinds"].values() for bar in row["bars"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
