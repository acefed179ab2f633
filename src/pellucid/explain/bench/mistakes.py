"""Are mistakes that were planted into real items found where they are? Defects in digits, wrong cells in a table.

defects: a 2x2 patch of a digit that the model has not seen is inverted, where that moves each of its pixels by half the
range or more; area under the ROC curve of changed against unchanged pixels, for the model's map and for each pixel's
distance from its mean. wrong cells: rows of four linked columns with one cell of another hidden state; how often the
wrong one comes first, by a model that fills gaps.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pandas as pd

from pellucid.core.interval import bootstrap, wilson
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read
from pellucid.explain.parts import parts
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.masked import Masked
from pellucid.fitting import fit, halves

__all__ = ["BAR", "BARS", "STEPS", "defects", "linked", "measure", "wrong_cells"]

BAR = "planted wrong cell first in 95%, defect pixels AUROC .97"
BARS = {"defects": 0.97, "wrong cells": 0.95}
STEPS, PICTURES, ROWS = 800, 60, 100


def defects(steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Area under the curve of changed against unchanged pixels of digits that the model has not seen."""
    digits = read("digits")
    assert isinstance(digits, Pictures)
    start = time.process_time()
    model = fit(digits, FlowMatching(width=24, depth=1), steps=steps, seed=seed, held_out=0.2)
    trained = time.process_time() - start
    kept, held = halves(digits, 0.2, seed)
    known = digits.take(kept).pixels.astype(float)
    mean, spread = known.mean(0), known.std(0) + 0.1 * known.std(0).mean()
    random = np.random.default_rng(seed)
    own: list[float] = []
    rival: list[float] = []
    for i in held:
        whole = digits.take([int(i)])
        pixels = np.array(whole.pixels)
        sharp = np.abs(16 - 2 * pixels[0, :, :, 0].astype(int)) >= 8
        places = np.argwhere(sharp[:-1, :-1] & sharp[1:, :-1] & sharp[:-1, 1:] & sharp[1:, 1:])
        if not len(places):
            continue
        top, left = places[int(random.integers(0, len(places)))]
        pixels[0, top : top + 2, left : left + 2] = 16 - pixels[0, top : top + 2, left : left + 2]
        changed = (pixels != whole.pixels).reshape(-1)
        found = parts(model, items=dataclasses.replace(whole, pixels=pixels), index=0, seed=seed)
        plain = (np.abs(pixels[0] - mean) / spread).reshape(-1)
        for score, out in ((found.excess.numpy(), own), (plain, rival)):
            out.append(float((score[changed][:, None] > score[~changed]).mean()))
        if len(own) == PICTURES:
            break
    areas, others = np.array(own), np.array(rival)
    mine = bootstrap(lambda k: float(areas[k].mean()), len(areas), seed=seed)
    return {
        "task": "defects",
        "score": [round(v, 4) for v in (mine.value, mine.low, mine.high)],
        "distance_from_the_mean_picture": round(float(others.mean()), 4),
        "pictures": len(areas),
        "steps": steps,
        "training_cpu_seconds": round(trained, 1),
    }


def linked(n: int, seed: int) -> pd.DataFrame:
    """Two columns of symbols and one of numbers that tell the same hidden state, and one that tells nothing."""
    random = np.random.default_rng(seed)
    hidden = random.integers(0, 4, n)
    return pd.DataFrame(
        {
            "kind": np.array(list("abcd"))[hidden],
            "colour": np.array(["red", "green", "blue", "grey"])[hidden],
            "size": 10.0 * hidden + random.normal(0.0, 1.0, n),
            "side": np.array(["left", "right"])[random.integers(0, 2, n)],
        }
    )


def wrong_cells(steps: int = STEPS, seed: int = 0, rows: int = ROWS) -> dict[str, Any]:
    """How often the wrong cell of a row comes first."""
    start = time.process_time()
    model = fit(read_table(linked(2000, 0)), Masked(width=64, depth=2), steps=steps, seed=seed, held_out=0.2)
    trained = time.process_time() - start
    frame, random, wrong = linked(rows, 1), np.random.default_rng(seed), []
    source = linked(2000, 2)
    for i in range(rows):
        column = ["kind", "colour", "size"][int(random.integers(0, 3))]
        other = source[source["kind"] != frame.loc[i, "kind"]]
        frame.loc[i, column] = other[column].iloc[int(random.integers(0, len(other)))]
        wrong.append(column)
    items = read_table(pd.concat([frame, linked(200, 3)], ignore_index=True))
    found = [parts(model, items=items, index=i, share=False, seed=seed) for i in range(rows)]
    hits = sum(r.places.names[r.order[0]] == name for r, name in zip(found, wrong, strict=True))
    share = wilson(hits, rows)
    return {
        "task": "wrong cells",
        "score": [round(v, 4) for v in (share.value, share.low, share.high)],
        "rows": rows,
        "steps": steps,
        "training_cpu_seconds": round(trained, 1),
    }


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Both tasks; wrong cells alone, after a shorter training, when quick."""
    tasks = [wrong_cells(400, seed, 60)] if quick else [wrong_cells(STEPS, seed), defects(STEPS, seed)]
    return {"tasks": tasks, "met": all(task["score"][0] >= BARS[task["task"]] for task in tasks)}
