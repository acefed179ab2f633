"""Diffusion over pixels against diffusion through a learned latent space: 64x64 colour pictures, equal CPU time.

    PELLUCID_DATA=/path/to/data OMP_NUM_THREADS=1 python benchmarks/latent_diffusion.py --models pixels vae

Real blood cells, cropped from the photographs at 64x64. Over pixels a diffusion trains for all of the CPU seconds;
through a latent space the autoencoder has the first half and the diffusion the second. One thread, no classes, one
seed. Steps come from a probe of each model's CPU time a step; what was used is in the results. Fréchet distances are
over a small network trained on the training cells, with 500 samples against 500 held-out cells; beside them the floor,
500 training cells against the same ones. Results go to benchmarks/results/latent_diffusion.json, a sheet of samples of
each model to docs/gallery/.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about_this_machine
from PIL import Image

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Encodes, Family, parameters_of
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.features import Encoder
from pellucid.evaluate.frechet import frechet
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.vae import VAE
from pellucid.families.vq import VQ
from pellucid.fitting import fit
from pellucid.model import Fitted

HERE = Path(__file__).parent
SIDE, SAMPLES, PROBE, ROUND = 64, 500, 4, 8
CODECS: Mapping[str, Family | None] = {"pixels": None, "vae": VAE(grid=4), "vq": VQ(grid=4)}


def cells() -> tuple[Pictures, Pictures]:
    """Training and held-out cells: squares around the annotated boxes, the border repeated, at 64x64."""
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds bccd_blood_cells/")
    folder = Path(os.environ["PELLUCID_DATA"], "bccd_blood_cells")
    with (folder / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept: dict[bool, list[tuple[np.ndarray[Any, Any], str]]] = {True: [], False: []}
    opened: dict[str, np.ndarray[Any, Any]] = {}
    with zipfile.ZipFile(folder / "images.zip") as archive:
        for row in rows:
            if row["image"] not in opened:
                with archive.open(f"images/{row['image']}") as photograph:
                    opened = {row["image"]: np.asarray(Image.open(photograph).convert("RGB"))}
            left, top, right, bottom = (int(row[k]) for k in ("xmin", "ymin", "xmax", "ymax"))
            square = around(
                opened[row["image"]], (left + right) // 2, (top + bottom) // 2, max(right - left, bottom - top)
            )
            small = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
            kept[row["split"] == "train"].append((small, row["label"]))
    found = [Pictures(pixels=np.stack([p for p, _ in k]), labels=tuple(n for _, n in k)) for k in kept.values()]
    return found[0], found[1]


def around(photograph: np.ndarray[Any, Any], x: int, y: int, side: int) -> np.ndarray[Any, Any]:
    """(side, side, 3) with its centre at (x, y)."""
    padded = np.pad(photograph, ((side, side), (side, side), (0, 0)), mode="edge")
    top, left = y + side - side // 2, x + side - side // 2
    return padded[top : top + side, left : left + side]


def train(
    data: Pictures, family: Family, seconds: float, through: Fitted | None = None
) -> tuple[Fitted, dict[str, Any]]:
    """A model after about so many CPU seconds, and what it took."""
    used = []
    for steps in (PROBE, PROBE + ROUND):
        start = time.process_time()
        fit(data, family, steps=steps, through=through)
        used.append(time.process_time() - start)
    each = (used[1] - used[0]) / ROUND
    steps = max(1, round(seconds / each))
    start = time.process_time()
    model = fit(data, family, steps=steps, through=through)
    facts = {"cpu_seconds": round(time.process_time() - start, 1), "steps": steps, "ms_a_step": round(1000 * each, 1)}
    return model, {**facts, "parameters": parameters_of(model.engine), "precision": model.recipe["precision"]}


def rebuilt(model: Fitted, held: Pictures) -> tuple[Pictures, float]:
    """Held-out pictures after encoding and decoding, and the mean squared difference in units of the variance."""
    x, engine = model.codec.encode(held), model.engine
    assert isinstance(engine, Encodes)
    assert isinstance(engine, Decodes)
    with torch.no_grad():
        back = torch.cat([engine.decode(engine.encode(part, Condition()), Condition()) for part in x.split(100)])
    share = float((back - x).square().mean() / x.var(0).mean())
    pixels = ((back + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return replace(held, pixels=np.ascontiguousarray(pixels)), share


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--seconds", type=float, default=120.0, help="CPU seconds of training for each way")
    words.add_argument("--models", nargs="+", default=list(CODECS), choices=list(CODECS))
    asked = words.parse_args()
    torch.set_num_threads(1)
    learned, held = cells()
    encoder = Encoder.learn(learned, seed=0)
    some = np.random.default_rng(0).permutation(len(held))[:SAMPLES]
    held = held.take(np.sort(some))
    real = encoder.features(held)
    floor = frechet(real, encoder.features(learned.take(np.random.default_rng(1).permutation(len(learned))[:SAMPLES])))
    results: dict[str, Any] = {
        "machine": about_this_machine(),
        "data": {"set": "bccd_blood_cells", "side": SIDE, "training": len(learned), "held out": len(held)},
        "extractor": {"name": encoder.name, "fingerprint": encoder.fingerprint()},
        "budget_cpu_seconds": asked.seconds,
        "seed": 0,
        "floor": round(floor.value, 2),
        "models": {},
    }
    data = replace(learned, labels=None)
    for name in asked.models:
        codec, row, through = CODECS[name], dict[str, Any](), None
        if codec is not None:
            through, row["autoencoder"] = train(data, codec, asked.seconds / 2)
            back, row["rebuilt_error_share_of_variance"] = rebuilt(through, replace(held, labels=None))
            row["rebuilt_frechet"] = round(frechet(real, encoder.features(back)).value, 2)
        spent = row["autoencoder"]["cpu_seconds"] if codec is not None else 0.0
        model, row["diffusion"] = train(data, FlowMatching(), asked.seconds - spent, through)
        start = time.process_time()
        draw = model.sample(SAMPLES, seed=1)
        row["sampling_ms_an_image"] = round(1000 * (time.process_time() - start) / SAMPLES, 2)
        assert isinstance(draw.items, Pictures)
        estimate = frechet(real, encoder.features(draw.items))
        known = estimate.interval()
        row["frechet"], row["interval"] = round(known.value, 2), [round(known.low, 2), round(known.high, 2)]
        model.sample(64, seed=7).save(HERE.parent / "docs" / "gallery" / f"cells_{name}.png", force=True)
        results["models"][name] = row
        sys.stdout.write(json.dumps({name: row}) + "\n")
        sys.stdout.flush()
        (HERE / "results" / "latent_diffusion.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
