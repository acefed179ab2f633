"""Pictures from captions: are colour, shape and position as the sentence says, for pairs that training never showed?

    PELLUCID_THREADS=2 .venv/bin/python benchmarks/captions_to_pictures.py

A diffusion learns generated shapes with sentences such as "a small red circle at the top left" for 15 minutes by the
clock, calibration included. 4 of the 16 pairs of colour and form, one of each colour and each form, are never drawn in
training. Then it draws 1,000 pictures for captions of those pairs only, and as many for pairs that it knew.
The judge is the rule of the generator turned around (`domains/teaching/recognise.py`), measured on as many real
pictures of the same captions first. Nothing is chosen by hand or drawn twice.
Writes benchmarks/results/captions_to_pictures.json and docs/gallery/captions.png; exits with 1 when the bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import about_this_machine
from PIL import Image, ImageDraw, ImageFont

from pellucid.core.capabilities import parameters_of
from pellucid.core.interval import wilson
from pellucid.core.run import Event, Noticed, Planned, Run
from pellucid.domains.pictures import Pictures
from pellucid.domains.teaching.recognise import Judged, judge
from pellucid.domains.teaching.shapes import COLOURS, FORMS, Thing, draw_things, held_out_pairs, shapes
from pellucid.fitting import fit
from pellucid.model import Fitted

HERE = Path(__file__).parent
BAR, REAL_BAR = 0.95, 0.99
TRAINING = 20_000  # pictures
SHEET = 100  # pictures of the gallery


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--minutes", type=float, default=15.0, help="of training, by the clock")
    words.add_argument("--size", type=int, default=16, help="side of the pictures in pixels")
    words.add_argument("--samples", type=int, default=1000)
    words.add_argument("--family", default="diffusion")
    words.add_argument("--net", default=None, help="unet or dit; the family chooses when not said")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path, default=HERE / "results" / "captions_to_pictures.json")
    words.add_argument("--sheet", type=Path, default=HERE.parent / "docs" / "gallery" / "captions.png")
    asked = words.parse_args()

    held = held_out_pairs()
    known = tuple((c, f) for c in COLOURS for f in FORMS if (c, f) not in held)
    wishes = {"held out": things_of(held, asked.samples, seed=1), "seen": things_of(known, asked.samples, seed=2)}
    results: dict[str, Any] = {
        "machine": about_this_machine(),
        "threads": os.environ.get("PELLUCID_THREADS"),
        "data": {"set": "shapes", "side": asked.size, "training": TRAINING, "seed": asked.seed},
        "held_out_pairs": [" ".join(pair) for pair in held],
        "share_of_pairs_held_out": len(held) / (len(held) + len(known)),
        "bar": BAR,
        "real": {name: shares(real(things, asked.size), things)[0] for name, things in wishes.items()},
    }
    say("real", results["real"])

    data = shapes(TRAINING, asked.seed, size=asked.size, without=held).captioned()
    heard: list[Event] = []
    start, cpu = time.monotonic(), time.process_time()
    model = fit(
        data,
        asked.family,
        minutes=asked.minutes,
        seed=asked.seed,
        settings={"net": asked.net} if asked.net else None,
        run=Run(listeners=[heard.append]),
    )
    results["training"] = {
        "family": asked.family,
        "net": asked.net,
        "minutes_asked": asked.minutes,
        "wall_seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "steps": model.recipe["steps"],
        "threads": model.recipe["threads"],
        "precision": model.recipe["precision"],
        "parameters": parameters_of(model.engine),
        "said": [event.text for event in heard if isinstance(event, (Noticed, Planned))],
    }
    say("training", results["training"])

    for name, things in wishes.items():
        cpu = time.process_time()
        items = drawn(model, things, asked.seed)
        found, by_pair = shares(items.pixels, things)
        results[name] = {**found, "ms_a_picture": round(1000 * (time.process_time() - cpu) / len(things), 1)}
        results[name]["by_pair"] = by_pair
        say(name, results[name])
        if name == "held out":
            sheet(items, things, asked.sheet)
    results["how"] = repr(model.how())
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    reached, judged = results["held out"]["right"]["share"], results["real"]["held out"]["right"]["share"]
    say("bars", {"right": reached >= BAR, f"judge at {REAL_BAR:.0%} on real pictures": judged >= REAL_BAR})
    sys.exit(0 if reached >= BAR else 1)


def things_of(pairs: Sequence[tuple[str, str]], count: int, seed: int) -> list[Thing]:
    """So many things of these pairs of colour and form, with sizes and places as the generator draws them."""
    pool, found = 4 * count, list[Thing]()
    without = [(c, f) for c in COLOURS for f in FORMS if (c, f) not in set(pairs)]
    while len(found) < count:
        found = [group[0] for group in shapes(pool, seed, size=8, without=without).things]
        pool *= 2
    return found[:count]


def real(things: Sequence[Thing], size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The generator's own pictures of these things."""
    return draw_things([[thing] for thing in things], size)[0]


def drawn(model: Fitted, things: Sequence[Thing], seed: int) -> Pictures:
    """One sample for each caption."""
    found = model.sample(len(things), where={"caption": [thing.words() for thing in things]}, seed=seed)
    assert isinstance(found.items, Pictures)
    return found.items


def shares(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], things: Sequence[Thing]
) -> tuple[dict[str, Any], dict[str, float]]:
    """How often each part is as the caption says, with intervals; and how often all three are, pair by pair."""
    found = judge(pixels, things)
    parts = {name: share(getattr(found, name)) for name in ("right", "colour", "form", "place", "size")}
    return parts, by_pair(found, things)


def share(hits: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    known = wilson(float(hits.sum()), float(len(hits)))
    return {"share": round(known.value, 4), "interval": [round(known.low, 4), round(known.high, 4)], "n": len(hits)}


def by_pair(found: Judged, things: Sequence[Thing]) -> dict[str, float]:
    labels = np.array([thing.label() for thing in things])
    return {str(label): round(float(found.right[labels == label].mean()), 3) for label in np.unique(labels)}


def sheet(items: Pictures, things: Sequence[Thing], path: Path) -> None:
    """The first samples side by side, enlarged, each with its caption."""
    count = min(SHEET, len(items))
    columns = max(1, math.isqrt(count))
    rows = -(-count // columns)
    cell, words = 100, 24  # points: a picture's side with its margin, and two lines above it
    drawn = Image.new("RGB", (columns * cell, rows * (cell + words)), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=9)
    for k, (pixels, thing) in enumerate(zip(items.shown()[:count], things, strict=False)):
        left, top = k % columns * cell, k // columns * (cell + words)
        picture = Image.fromarray(pixels).resize((cell - 4, cell - 4), Image.Resampling.NEAREST)
        drawn.paste(picture, (left + 2, top + words))
        text = thing.words().replace(" at the ", "\nat the ")
        draw.multiline_text((left + cell // 2, top), text, "black", font, anchor="ma", spacing=1, align="center")
    drawn.save(path, optimize=True)


def say(name: str, what: object) -> None:
    sys.stdout.write(json.dumps({name: what}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
