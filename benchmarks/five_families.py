"""Five families on Fashion-MNIST, five CPU minutes each: is what is commonly said of them so?

    PELLUCID_DATA=/path/to/data OMP_NUM_THREADS=1 python benchmarks/five_families.py --minutes 5 --seeds 3

Each family learns the same 50,000 pictures with their classes, by its own defaults, for so much CPU time of one thread.
Of each model 2,000 samples, 200 a class, are held against 10,000 pictures that nobody saw, in the features of the
classifier of `peers/fashion.py`: Fréchet distance, precision, recall and coverage (k = 3, against 2,000 of them), the
share that has the class asked for, sharpness (mean square of the Laplacian, real pictures = 1), variety within a class
(mean distance of two samples of a class, real pictures = 1), milliseconds a sample, and the distance's
spread over seeds. Real pictures that nobody saw stand in the first row.
Said of them, and held against the figures: GANs are sharp and unstable, VAEs blurry and smooth, diffusion slow and
diverse. Each model is kept as it ends, so --resume repeats none. Writes benchmarks/results/five_families.json and
docs/gallery/five_families.html.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from few_steps import MARGIN, PROBE, WARM
from machine import about_this_machine
from peers.fashion import CLASSES, Judge, read_fashion

from pellucid.core.capabilities import Counts
from pellucid.core.report import Heading, Page, Prose, Table
from pellucid.core.report import Pictures as Sheet
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.neighbours import Points
from pellucid.evaluate.precision_recall import precision_recall
from pellucid.fitting import fit

HERE = Path(__file__).parent
FAMILIES = ("vae", "gan", "flow", "autoregressive", "diffusion")
SAMPLES = 2000


def fitted(family: str, items: Pictures, seconds: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A fit of so many CPU seconds, its probe not counted."""
    used = []
    for steps in (1, WARM, WARM + PROBE):  # the first one loads modules
        began = time.process_time()
        fit(items, family, steps=steps, seed=seed, watch=False)
        used.append(time.process_time() - began)
    each = max(1e-4, (used[2] - used[1]) / PROBE)
    steps = max(1, int((MARGIN * seconds - max(0.0, used[1] - WARM * each)) / each))
    began = time.process_time()
    model = fit(items, family, steps=steps, seed=seed, watch=False)
    took = time.process_time() - began
    assert not isinstance(model.engine, Counts)
    size = sum(p.numel() for p in model.engine.parameters())
    return model, {"cpu_seconds": round(took, 1), "steps": steps, "parameters": size}


def laplacian(items: Pictures) -> float:
    """Mean square of the Laplacian of the pictures, in units of the full range."""
    x = items.pixels[..., 0].astype(np.float64) / 255
    inner = x[:, 1:-1, 1:-1]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float(np.square(4 * inner - around).mean())


def variety(items: Pictures) -> float:
    """Mean distance of two pictures of one class."""
    x = items.pixels.reshape(len(items), -1).astype(np.float64) / 255
    labels = np.array(items.labels)
    found = []
    for label in sorted(set(labels)):
        own = x[labels == label][:200]
        gaps = np.square(own).sum(1)[:, None] + np.square(own).sum(1)[None] - 2 * own @ own.T
        found.append(np.sqrt(np.maximum(gaps, 0.0)).sum() / (len(own) * (len(own) - 1)))
    return float(np.mean(found))


def measured(items: Pictures, judge: Judge, real: Pictures) -> dict[str, float]:
    """Everything that is read from a set of pictures with the classes they were asked for."""
    features, seen = judge._run(items)
    near = precision_recall(Points(judge._run(real)[0]), Points(features))
    asked = np.array([int(label) for label in items.labels or ()])
    found = {"distance": judge.distance(items), "precision": near.precision.value, "recall": near.recall.value}
    found["coverage"] = near.coverage.value
    found |= {"asked_class": float((seen == asked).mean()), "sharpness": laplacian(items) / laplacian(real)}
    return {k: round(v, 4) for k, v in (found | {"variety": variety(items) / variety(real)}).items()}


def verdicts(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """What is commonly said, and what the figures say to it."""

    def of(family: str, what: str) -> list[float]:
        return [row[what] for row in rows.get(family, [])]

    def compare(family: str, what: str, more: bool) -> str:
        own = of(family, what)
        others = {name: of(name, what) for name in rows if name != family}
        if not own or not others:
            return "not measured"
        clear = [
            name for name, values in others.items() if (min(own) > max(values) if more else max(own) < min(values))
        ]
        numbers = ", ".join(f"{name} {statistics.mean(v):.3g}" for name, v in ((family, own), *others.items()))
        word = (
            "confirmed" if len(clear) == len(others) else "refuted" if not clear else f"only beside {', '.join(clear)}"
        )
        return f"{word} ({numbers})"

    spread = {name: [statistics.stdev(of(name, "distance"))] for name in rows if len(rows[name]) > 1}
    unstable = "needs more seeds"
    if "gan" in spread and len(spread) > 1:
        most = max(spread, key=lambda name: spread[name][0])
        numbers = ", ".join(f"{name} {value[0]:.3g}" for name, value in spread.items())
        unstable = f"{'confirmed' if most == 'gan' else 'refuted'} (spread of the distance over seeds: {numbers})"
    return [
        ("GANs are sharp", compare("gan", "sharpness", True)),
        ("GANs are unstable", unstable),
        ("VAEs are blurry", compare("vae", "sharpness", False)),
        ("Diffusion is slow to sample", compare("diffusion", "ms_a_sample", True)),
        ("Diffusion is diverse", compare("diffusion", "recall", True)),
    ]


def page(
    rows: dict[str, list[dict[str, Any]]], real: dict[str, float], sheets: dict[str, Pictures], minutes: float
) -> Page:
    """One page to read."""
    names = ("distance", "precision", "recall", "coverage", "asked_class", "sharpness", "variety", "ms_a_sample")
    heads = ("family", "seeds", "Fréchet distance", "precision", "recall", "coverage", "class as asked", "sharpness",
             "variety", "ms a sample")  # fmt: skip
    lines: list[tuple[str, ...]] = [("real pictures", "", *(f"{real[k]:.3f}" if k in real else "" for k in names))]
    for family, found in rows.items():
        cells = []
        for name in names:
            values = [row[name] for row in found]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append((family, str(len(found)), *cells))
    blocks: list[Any] = [
        Prose(f"Each family had {minutes:g} CPU minutes of one thread on the same pictures, by its own defaults."),
        Table(heads, lines, caption="Mean over seeds and their standard deviation; sharpness and variety: real = 1."),
        Heading("What is commonly said"),
        Table(("said", "found"), verdicts(rows)),
    ]
    for name, items in sheets.items():
        blocks += [Heading(name, 3), Sheet(items.pixels[..., 0], columns=20)]
    return Page("Five families, the same pictures, the same time", blocks)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of each fit")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--families", nargs="+", default=list(FAMILIES))
    words.add_argument("--work", type=Path, default=Path("runs/five_families"))
    words.add_argument("--judge", type=Path, default=Path("runs/judge"), help="folder where the judge is kept")
    words.add_argument("--resume", action="store_true")
    words.add_argument("--result", type=Path, default=HERE / "results" / "five_families.json")
    words.add_argument("--page", type=Path, default=HERE.parent / "docs" / "gallery" / "five_families.html")
    asked = words.parse_args()
    if "PELLUCID_DATA" not in os.environ:
        words.error("PELLUCID_DATA is not set; it names the folder that holds fashion_mnist/")
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    asked.judge.mkdir(parents=True, exist_ok=True)
    fashion = read_fashion(Path(os.environ["PELLUCID_DATA"], "fashion_mnist"))
    judge = Judge(fashion, asked.judge)
    order = np.random.default_rng(0).permutation(len(fashion.reference))[:SAMPLES]
    real = fashion.reference.take(np.sort(order))
    own = measured(fashion.floor.take(np.arange(SAMPLES)), judge, real)
    rows: dict[str, list[dict[str, Any]]] = {}
    sheets: dict[str, Pictures] = {"real pictures": fashion.floor.take(np.arange(40))}
    for family in asked.families:
        for seed in range(asked.seeds):
            state, kept = asked.work / f"{family}_{seed}.json", asked.work / f"{family}_{seed}.npz"
            if not (asked.resume and state.exists() and kept.exists()):
                model, facts = fitted(family, fashion.training, 60 * asked.minutes, seed)
                began = time.process_time()
                where = {"class": [str(k % CLASSES) for k in range(SAMPLES)]}
                items = model.sample(SAMPLES, seed=1, where=where).items
                facts["ms_a_sample"] = round(1000 * (time.process_time() - began) / SAMPLES, 3)
                np.savez(kept, pixels=items.pixels, labels=np.array(items.labels))
                state.write_text(json.dumps(facts | measured(items, judge, real)))
            found = json.loads(state.read_text())
            rows.setdefault(family, []).append(found)
            with np.load(kept) as file:
                sheets.setdefault(family, Pictures(pixels=file["pixels"][:40]))
            print(family, seed, json.dumps(found), flush=True)
            result = {"machine": about_this_machine(), "minutes": asked.minutes, "judge": judge.about, "real": own}
            result |= {"rows": rows, "said": verdicts(rows)}
            asked.result.write_text(json.dumps(result, indent=1) + "\n")
            page(rows, own, sheets, asked.minutes).save(asked.page)


if __name__ == "__main__":
    main()
