"""Pairs of equal noise on a known causal table, beside an oracle that draws from the true graph."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData
from pellucid.domains.teaching.causal import causal_table
from pellucid.explain.redraw import redrawn
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit

__all__ = ["BAR", "measure"]

BAR = "on a known causal table error at most 1.1x of an oracle"
MOST, PAIRS, SLOPES = 1.1, 64, {"m": 0.5, "y": 1.1}
CHANGES = ((-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0), (-0.5, 1.5), (0.5, -0.5), (1.0, -1.5))


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Root mean square error of 12 effects of x on m and y, and of an oracle with as many rows but without pairs."""
    table = causal_table("linear", n=1500, seed=seed + 1)
    start = time.process_time()
    family = FlowMatching(width=64, depth=2)
    model = fit(replace(table.data, target="x"), family, steps=500 if quick else 2000, held_out=0.1, seed=seed)
    trained = time.process_time() - start
    wrong, oracle = [], []
    for k, (low, high) in enumerate(CHANGES):
        ids = torch.arange(PAIRS) + PAIRS * k
        sides = []
        for value in (low, high):
            condition = model.codec.asked({"x": value}, 1).repeat(PAIRS)
            items, _ = redrawn(model, seed, ids, condition, model.how())
            assert isinstance(items, TableData)
            sides.append(items.frame)
        fresh = [
            table.graph.evaluate(table.graph.noise(Rows(9 + side + seed, ids)), {"x": value})
            for side, value in enumerate((low, high))
        ]
        for name, slope in SLOPES.items():
            truth = slope * (high - low)
            wrong.append(float((sides[1][name] - sides[0][name]).mean()) - truth)
            oracle.append(float((fresh[1][name] - fresh[0][name]).mean()) - truth)
    ours, theirs = (float(np.sqrt(np.square(e).mean())) for e in (wrong, oracle))
    return {
        "error": round(ours, 4),
        "error_of_the_oracle": round(theirs, 4),
        "times": round(ours / theirs, 3),
        "training_cpu_seconds": round(trained, 1),
        "met": ours <= MOST * theirs,
    }
