"""28x28 likelihoods side by side: bits per dimension of held-out Fashion-MNIST, family by family, after equal CPU time.

    export PELLUCID_DATA=FOLDER      # with fashion_mnist/*.gz, the four original files
    .venv/bin/python benchmarks/likelihoods.py --minutes 5

Each family is trained on the 60,000 training pictures with its default settings ("autoregressive" is a transformer
over pixels), without classes, for so many CPU minutes of one thread: two short fits right before say how many steps
that is, and the CPU time that it then took is written down. Likelihoods
are those of the first pictures of the test set, the same for all, in the pixels' own measure (256 levels), which is
what makes families comparable:

    exact        log p of the pixels themselves
    upper bound  from a lower bound of log p: of a density over dequantised pixels (flows are exact for the noisy
                 picture, Theis et al. 2016, arXiv:1511.01844, section 3.1), importance-weighted (VAE), or variational
    estimate     with the error of its own noise

Intervals are over which pictures were drawn. Published figures are for other sets and for hours of a GPU; they stand
beside for the order of magnitude.
Writes benchmarks/results/likelihoods.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about_this_machine

import pellucid
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.bits import bits_per_dimension

FAMILIES: dict[str, dict[str, Any]] = {
    "vae": {"importance": 64},
    "glow": {},
    "flow": {},
    "spline_flow": {},
    "autoregressive": {},
    "diffusion": {},
    "ddpm": {},
}
PUBLISHED = {
    "set": "MNIST with uniform dequantisation, bits per dimension; for Fashion-MNIST no table of this kind was found",
    "RealNVP": 1.06,
    "Glow": 1.05,
    "FFJORD": 0.99,
    "source": "Grathwohl et al. 2019, https://arxiv.org/abs/1810.01367, table 2",
}
FEW, MANY = 4, 16  # steps of the two fits whose difference says what a step takes
MARGIN = 0.97


def pictures(folder: Path, part: str) -> Pictures:
    """The training ("train") or test ("t10k") set without labels."""
    with gzip.open(folder / "fashion_mnist" / f"{part}-images-idx3-ubyte.gz") as file:
        return Pictures(pixels=np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1))


def fitted(items: Pictures, family: str, steps: int, seed: int) -> tuple[pellucid.Fitted, float]:
    """A model after so many steps, and the CPU seconds that it took."""
    began = time.process_time()
    model = pellucid.fit(items, family=family, steps=steps, seed=seed, settings=FAMILIES[family] or None, watch=False)
    return model, time.process_time() - began


def row(family: str, train: Pictures, test: Pictures, minutes: float, seed: int) -> dict[str, Any]:
    """Train one family for so long, and score the test pictures."""
    fitted(train.take(np.arange(600)), family, 2, seed)  # loads modules
    few, many = (fitted(train, family, steps, seed)[1] for steps in (FEW, MANY))
    each = max(many - few, 1e-3) / (MANY - FEW)
    once = max(0.0, few - FEW * each)
    steps = max(1, int((60.0 * minutes * MARGIN - once) / each))
    model, used = fitted(train, family, steps, seed)
    began = time.process_time()
    found = bits_per_dimension(model, test, seed=seed)
    interval = found.bits.interval()
    kind = {"upper_bound": "upper bound"}.get(found.kind, found.kind)
    return {
        "family": family,
        "bits_per_dimension": round(float(found.bits.value), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "kind": kind,
        "bridge": type(model.bridge).__name__,
        "cpu_seconds": round(used, 1),
        "steps": steps,
        "parameters": sum(p.numel() for p in model.engine.parameters()),
        "scoring_cpu_seconds": round(time.process_time() - began, 1),
        "precision": model.recipe["precision"],
        "settings": model.recipe["settings"],
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of each family's training")
    words.add_argument("--items", type=int, default=500, help="test pictures that are scored")
    words.add_argument("--families", default=",".join(FAMILIES))
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "likelihoods.json")
    asked = words.parse_args()
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("Set PELLUCID_DATA to the folder with fashion_mnist.")
    os.environ["PELLUCID_THREADS"] = "1"
    torch.set_num_threads(1)
    folder = Path(os.environ["PELLUCID_DATA"])
    train, test = pictures(folder, "train"), pictures(folder, "t10k").take(np.arange(asked.items))
    rows: list[dict[str, Any]] = []
    result = {"machine": about_this_machine(), "minutes": asked.minutes, "items": asked.items, "seed": asked.seed}
    result |= {"threads": 1, "published": PUBLISHED, "rows": rows}
    for family in asked.families.split(","):
        rows.append(row(family, train, test, asked.minutes, asked.seed))
        last = rows[-1]
        print(f"{family:15s} {last['bits_per_dimension']:.3f} bits per dimension ({last['kind']}), interval "
              f"{last['interval']}, {last['cpu_seconds']:.0f} CPU-s, {last['steps']} steps", flush=True)  # fmt: skip
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
