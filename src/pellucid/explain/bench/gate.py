"""The gate on trial: 200 explanations that are true by construction, 200 fakes, and how many get a green badge."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from pellucid.core.interval import wilson
from pellucid.explain.bench.planted_answers import FAKES, WORLDS, judged, seed_of

__all__ = ["BAR", "measure"]

BAR = "at least 95% of oracles green, at most 1% of fakes"
ORACLES, FAKED = 200, 200
QUICK = 20  # of each
ENOUGH, MOST = 0.95, 0.01


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Green oracles and green fakes, by world and by fake; `met` when both bars are."""
    began = time.process_time()
    oracles, fakes = (QUICK, QUICK) if quick else (ORACLES, FAKED)
    green: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    colours: Counter[str] = Counter()
    for world, made in WORLDS.items():
        names = ["oracle"] * (oracles // len(WORLDS)) + list(FAKES) * (fakes // len(WORLDS) // len(FAKES))
        for trial, name in enumerate(names):
            at = seed_of(world, name, trial + 1000 * seed)
            colour = judged(made(at), name, at).colour
            group = f"{world}: {name}"
            tried[group] += 1
            green[group] += colour == "green"
            colours[f"{'oracle' if name == 'oracle' else 'fake'} {colour}"] += 1
    ours = {kind: wilson(sum(v for k, v in green.items() if k.endswith("oracle") == (kind == "oracles")), n)
            for kind, n in (("oracles", oracles), ("fakes", fakes))}  # fmt: skip
    return {
        **{kind: [round(i.value, 4), round(i.low, 4), round(i.high, 4), i.n] for kind, i in ours.items()},
        "green": {k: [green[k], tried[k]] for k in tried},
        "badges": dict(colours),
        "met": ours["oracles"].value >= ENOUGH and ours["fakes"].value <= MOST,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
