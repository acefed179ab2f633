"""Do maps of words show where the words are? Ablation and attention against the true masks of generated shapes.

    PELLUCID_THREADS=2 .venv/bin/python benchmarks/explain_attention.py

A diffusion learns captions such as "a small red circle at the top left" (benchmarks/captions_to_pictures.py, the same
set and budget). For captions it is then asked for, the shape in each sample is found by the rules that drew the set
(`domains/teaching/recognise.py`), which gives the true mask; samples that are not as their caption says are left out
and counted. Each word's map is cut at half its height (no threshold is tuned) and compared with the mask.

Changing a colour or a place moves the whole thing; changing a form moves its edge alone. So a form word has two
truths: the thing, and where the generator itself would draw the other forms differently. Both are reported.
The same is measured for a model with the same net and random weights, and for a random mask of the same size.
Writes benchmarks/results/explain_attention.json; exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions_to_pictures import say, things_of
from machine import about_this_machine
from numpy.typing import NDArray

from pellucid.core.interval import bootstrap
from pellucid.domains.pictures import Pictures
from pellucid.domains.teaching.recognise import judge, recognise
from pellucid.domains.teaching.shapes import COLOURS, FORMS, Thing, draw_things, held_out_pairs, shapes
from pellucid.explain.ablation import ablate, lower_median, overlap, region
from pellucid.explain.attention import attention_maps
from pellucid.fitting import fit
from pellucid.model import Fitted, build

HERE = Path(__file__).parent
ABLATION_BAR, ATTENTION_BAR, CHANCE_MARGIN = 0.85, 0.70, 0.03
TRAINING = 20_000
PLACES = ("top", "bottom", "left", "right", "centre")
OTHERS = 4  # samples of each request: one is measured, the others give the weights of the heads


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--minutes", type=float, default=15.0, help="of training, by the clock")
    words.add_argument("--size", type=int, default=16, help="side of the pictures in pixels")
    words.add_argument("--requests", type=int, default=100)
    words.add_argument("--net", default=None, help="unet or dit; the family chooses when not said")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path, default=HERE / "results" / "explain_attention.json")
    asked = words.parse_args()

    held = held_out_pairs()
    known = [(c, f) for c in COLOURS for f in FORMS if (c, f) not in held]
    things = things_of(known, asked.requests, seed=2)
    data = shapes(TRAINING, asked.seed, size=asked.size, without=held).captioned()
    start, cpu = time.monotonic(), time.process_time()
    settings = {"net": asked.net} if asked.net else None
    model = fit(data, "diffusion", minutes=asked.minutes, seed=asked.seed, settings=settings)
    results: dict[str, Any] = {
        "machine": about_this_machine(),
        "threads": os.environ.get("PELLUCID_THREADS"),
        "data": {"set": "shapes", "side": asked.size, "training": TRAINING, "seed": asked.seed},
        "bars": {"ablation": ABLATION_BAR, "attention": ATTENTION_BAR, "random weights": CHANCE_MARGIN},
        "training": {
            "minutes_asked": asked.minutes,
            "wall_seconds": round(time.monotonic() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "steps": model.recipe["steps"],
            "net": asked.net,
        },
    }
    say("training", results["training"])
    cpu = time.process_time()
    results["trained"] = measured(model, things, asked.seed, asked.size)
    results["seconds_a_request"] = round((time.process_time() - cpu) / len(things), 2)
    say("trained", results["trained"])
    blank = replace(model, engine=randomised(model))
    few = things[: max(10, len(things) // 4)]
    results["random weights"] = measured(blank, few, asked.seed, asked.size, right=False)
    say("random weights", results["random weights"])
    passed = verdicts(results)
    results["passed"] = passed
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    say("bars", passed)
    sys.exit(0 if all(passed.values()) else 1)


def randomised(model: Fitted) -> torch.nn.Module:
    """The same net with random numbers everywhere, also where training starts from zero."""
    engine = build(replace(model, recipe={**model.recipe, "seed": 1234}), None)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in engine.parameters():
            if not bool(parameter.any()):
                parameter.normal_(0.0, 0.05, generator=generator)
    return engine.eval()


def measured(model: Fitted, things: list[Thing], seed: int, size: int, *, right: bool = True) -> dict[str, Any]:
    """Overlaps with the truth by kind of word, with intervals over requests.

    Args:
        right: leave out samples that are not as their caption says; else the asked thing's own mask is the truth.
    """
    found: dict[str, list[float]] = {}
    left_out, largest = 0, 0.0
    how = model.how()
    for k, thing in enumerate(things):
        ids = [OTHERS * k + i for i in range(OTHERS)]
        condition = model.codec.asked({"caption": thing.words()}, 1)
        ablation = ablate(model, seed, ids, condition, how)
        own = ablation.own.take([0])
        assert isinstance(own, Pictures)
        seen = recognise(own.pixels)[0] if right else thing
        if seen is None or (right and not judge(own.pixels, [thing]).right[0]):
            left_out += 1
            continue
        mask = mask_of(seen, size)
        edge = form_truth(seen, size)
        chance = np.random.default_rng(k).permutation(mask.ravel()).reshape(mask.shape)
        looks = attention_maps(model, seed, ids, condition, how, ablation)
        largest = max(largest, looks.gap)
        maps = ablation.maps(0)
        found.setdefault("attention ceiling", []).append(overlap(region(coarse(mask, looks.side)), mask))
        for part, by_change, by_look in zip(ablation.parts, maps, looks.maps[0], strict=True):
            kind = kind_of(part.part)
            if kind is None:
                continue
            for name, values in (("ablation", by_change), ("attention", by_look)):
                found.setdefault(f"{name} {kind}", []).append(overlap(region(values), mask))
                if kind == "form":
                    found.setdefault(f"{name} form edge", []).append(overlap(region(values), edge))
            found.setdefault("chance", []).append(overlap(chance, mask))
    for name in ("ablation", "attention"):
        found[f"{name} colour and place"] = found.get(f"{name} colour", []) + found.get(f"{name} place", [])
        found[f"{name} all"] = found[f"{name} colour and place"] + found.get(f"{name} form", [])
    scores = {name: share(values) for name, values in found.items()}
    return {"left_out": left_out, "requests": len(things), "rebuilt_to": largest, "overlap": scores}


def kind_of(word: str) -> str | None:
    """Colour, form or place; None for all other words."""
    return "colour" if word in COLOURS else "form" if word in FORMS else "place" if word in PLACES else None


def mask_of(thing: Thing, size: int) -> NDArray[np.bool_]:
    """(size, size): pixels that the thing covers at least by half."""
    return np.asarray(draw_things([[thing]], size)[1][0, 0], dtype=np.bool_)


def form_truth(thing: Thing, size: int) -> NDArray[np.bool_]:
    """Where the generator draws more than half of the other forms differently, at the same place."""
    drawn = draw_things([[replace(thing, form=form)] for form in FORMS], size)[0].astype(np.float64)
    own = drawn[FORMS.index(thing.form)]
    gaps = [np.abs(drawn[k] - own).mean(-1) for k, form in enumerate(FORMS) if form != thing.form]
    return region(lower_median(np.stack(gaps)))


def coarse(mask: NDArray[np.bool_], side: tuple[int, int]) -> NDArray[np.float64]:
    """The mask as it looks at the attention's own resolution: no attention map can be finer."""
    x = torch.from_numpy(mask.astype(np.float64))[None, None]
    small = torch.nn.functional.adaptive_avg_pool2d(x, side)
    grown = torch.nn.functional.interpolate(small, size=mask.shape, mode="bilinear", align_corners=False)
    return np.asarray(grown[0, 0].numpy(), dtype=np.float64)


def share(values: list[float]) -> dict[str, Any]:
    """The mean with its bootstrap interval."""
    x = np.array(values or [0.0])
    i = bootstrap(lambda k: float(x[k].mean()), len(x), seed=0)
    return {"mean": round(i.value, 4), "interval": [round(i.low, 4), round(i.high, 4)], "n": len(values)}


def verdicts(results: dict[str, Any]) -> dict[str, bool]:
    """Each bar, on colour and place words, whose truth is the whole thing; and on all words."""
    trained, blank = (results[name]["overlap"] for name in ("trained", "random weights"))
    bar = blank["chance"]["mean"] + CHANCE_MARGIN
    return {
        "ablation, colour and place": trained["ablation colour and place"]["mean"] >= ABLATION_BAR,
        "ablation, all words": trained["ablation all"]["mean"] >= ABLATION_BAR,
        "attention, colour and place": trained["attention colour and place"]["mean"] >= ATTENTION_BAR,
        "attention, all words": trained["attention all"]["mean"] >= ATTENTION_BAR,
        "ablation of random weights at chance": blank["ablation colour and place"]["mean"] <= bar,
        "attention of random weights at chance": blank["attention colour and place"]["mean"] <= bar,
    }


if __name__ == "__main__":
    main()
