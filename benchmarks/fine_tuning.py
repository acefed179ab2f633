"""Fine-tuning against training from scratch: 200 pictures of one garment class, from a model of the nine others.

    PELLUCID_DATA=/path/to/data OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py

For each class a base learns the nine other classes of Fashion-MNIST for `--base-seconds`. Then, for each seed, 200
pictures of the class are drawn, and for `--seconds` each (a) the base is trained on with them, whole, its last layers,
or by low-rank adapters, and (b) a new model of the same family and settings learns them from scratch. Seconds are CPU
seconds of one thread: a probe of each way's steps turns them into steps, and what was used is in the results.

Judged by the Fréchet distance of samples of the class to real pictures of it that no model saw, in the features of the
classifier of `peers/fashion.py`; beside it the floor, as many other real pictures of the class. The interval is
Student's over the paired differences of the seeds (and classes): fine-tuned less from scratch, below 0 is better.
Results go to benchmarks/results/fine_tuning.json, a sheet of samples to docs/gallery/.
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
from peers.fashion import Judge, read_fashion
from PIL import Image
from scipy import stats

from pellucid.core.capabilities import Family
from pellucid.core.settings import from_plain
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.copy_check import copy_check
from pellucid.evaluate.frechet import frechet_of_gaussians
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit
from pellucid.model import Fitted
from pellucid.training.adapt import Adapt

HERE = Path(__file__).parent
PICTURES = 200
WARM, PROBE = 3, 12  # steps before, and steps of, a probe


def of(items: Pictures, label: str, *, others: bool = False) -> Pictures:
    """The pictures of a class, or all others."""
    return items.take([i for i, found in enumerate(items.labels or ()) if (found != label) == others])


def timed(items: Pictures, seconds: float, seed: int, **words: Any) -> tuple[Fitted, dict[str, Any]]:
    """A fit of so many CPU seconds, its probe included, and what was used."""
    began = time.process_time()
    short = time.process_time()
    fit(items, steps=WARM, seed=seed, held_out=0.0, **words)
    first = time.process_time() - short
    longer = time.process_time()
    fit(items, steps=WARM + PROBE, seed=seed, held_out=0.0, **words)
    each = max(1e-4, (time.process_time() - longer - first) / PROBE)
    left = seconds - (time.process_time() - began) - first
    steps = max(1, int(left / each))
    model = fit(items, steps=steps, seed=seed, held_out=0.0, **words)
    used = {"cpu_seconds": round(time.process_time() - began, 1), "steps": steps, "seconds_a_step": round(each, 4)}
    return model, used


def adaptation(way: str) -> Adapt:
    """The settings that a word such as whole or lora+renew names."""
    how, _, renew = way.partition("+")
    return from_plain(Adapt, {"how": how, "statistics": renew or "keep"})


def judged(model: Fitted, label: str, n: int, judge: Judge, real: Pictures, learned: Pictures, seed: int) -> Any:
    """(what was measured, the samples)."""
    where = {"class": label} if model.codec.conditions else None
    items = model.sample(n, seed=seed, where=where).items
    assert isinstance(items, Pictures)
    half = min(len(learned), len(real))
    copies = copy_check(items, learned.take(np.arange(half)), real.take(np.arange(half)))
    found = {"distance": round(between(judge, items, real), 3), "closer_to_training": round(copies.closer.value, 3)}
    return found, items


def between(judge: Judge, one: Pictures, two: Pictures) -> float:
    """Fréchet distance in the judge's features."""
    moments = [(f.mean(0), np.cov(f, rowvar=False)) for f in (judge._run(items)[0] for items in (one, two))]
    return frechet_of_gaussians(*moments[0], *moments[1])


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of paired differences and its 95% interval by Student's t."""
    d = np.array(differences)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5 if len(d) > 1 else float("nan")
    low, high = float(d.mean() - half), float(d.mean() + half)
    ends = [round(low, 3), round(high, 3)] if len(d) > 1 else None
    return {"mean": round(float(d.mean()), 3), "interval": ends, "pairs": len(d), "better": bool(high < 0)}


def sheet(rows: Sequence[Pictures], path: Path) -> None:
    """Sixteen pictures of each, a row each."""
    lines = [np.concatenate([np.pad(p[..., 0], 1, constant_values=96) for p in r.pixels[:16]], axis=1) for r in rows]
    whole = np.concatenate(lines)
    Image.fromarray(whole).resize((2 * whole.shape[1], 2 * whole.shape[0]), Image.Resampling.NEAREST).save(path)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--classes", default="9", help="labels of the garment classes, commas between")
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--base-seconds", type=float, default=100.0)
    words.add_argument("--seconds", type=float, default=30.0)
    words.add_argument(
        "--adapt", default="whole+renew", help="whole, last, lora, each also with +renew; several with commas"
    )
    words.add_argument("--samples", type=int, default=1000)
    words.add_argument("--width", type=int, default=None, help="of the net; the family's own by default")
    words.add_argument("--judge", type=Path, default=Path("runs/judge"), help="folder where the judge is kept")
    words.add_argument("--result", type=Path, default=HERE / "results" / "fine_tuning.json")
    words.add_argument("--gallery", type=Path, default=HERE.parent / "docs" / "gallery" / "fine_tuning.png")
    asked = words.parse_args()
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds fashion_mnist/")
    torch.set_num_threads(1)
    os.environ["PELLUCID_THREADS"] = "1"
    asked.judge.mkdir(parents=True, exist_ok=True)
    fashion = read_fashion(Path(os.environ["PELLUCID_DATA"], "fashion_mnist"))
    judge = Judge(fashion, asked.judge)
    family: Family = FlowMatching() if asked.width is None else replace(FlowMatching(), width=asked.width)
    ways = asked.adapt.split(",")
    rows: list[dict[str, Any]] = []
    floors: dict[str, float] = {}
    bases: dict[str, Any] = {}
    shown: list[Pictures] = []
    for label in asked.classes.split(","):
        real = of(fashion.reference, label).take(np.arange(asked.samples))
        floor = of(fashion.test, label).take(np.arange(asked.samples))
        floors[label] = round(between(judge, floor, real), 3)
        others = of(fashion.training, label, others=True)
        base, bases[label] = timed(others, asked.base_seconds, 0, family=family)
        mine = of(fashion.training, label)
        shown.append(real)
        for seed in range(asked.seeds):
            few = mine.take(np.sort(np.random.default_rng([seed, 3]).permutation(len(mine))[:PICTURES]))
            for way in ("scratch", *ways):
                how: dict[str, Any] = {} if way == "scratch" else {"base": base, "adapt": adaptation(way)}
                model, used = timed(few, asked.seconds, seed, family=family, **how)
                found, items = judged(model, label, len(real), judge, real, few, seed)
                rows.append({"class": label, "seed": seed, "way": way, **found, **used})
                if "changed" in model.recipe:
                    rows[-1]["changed"] = {k: model.recipe["changed"][k] for k in ("trained", "total", "whole")}
                print(json.dumps(rows[-1]), flush=True)
                if seed == 0:
                    shown.append(items)
    at = {(r["class"], r["seed"], r["way"]): r["distance"] for r in rows}
    pairs = [(r["class"], r["seed"]) for r in rows if r["way"] == "scratch"]
    differences = {way: interval([at[(*p, way)] - at[(*p, "scratch")] for p in pairs]) for way in ways}
    result = {
        "machine": about_this_machine(),
        "threads": 1,
        "judge": judge.about,
        "pictures": PICTURES,
        "samples": asked.samples,
        "family": family.name,
        "base_seconds": asked.base_seconds,
        "seconds": asked.seconds,
        "floor": floors,
        "bases": bases,
        "rows": rows,
        "fine_tuned_less_scratch": differences,
    }
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    sheet(shown, asked.gallery)
    for way, difference in differences.items():
        print(f"{way}: {difference}")


if __name__ == "__main__":
    main()
