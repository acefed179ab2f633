"""Recurrent networks, WaveNets and the transformer on one text at equal CPU time: bits a held-out character costs.

    export PELLUCID_DATA=FOLDER      # with tinyshakespeare/input.txt; without it the generated text alone
    .venv/bin/python benchmarks/sequences.py --seconds 40

Each family learns the first nine tenths with its own settings, in windows of 64 characters, for so many CPU seconds of
one thread: a few steps right before say how many steps that is, and the CPU time that it then took is written down. The
last tenth is scored in blocks (each window from nothing) and sliding (at least half a window before each character).

    plays    the first 200,000 characters of tinyshakespeare
    chain    60,000 characters of a Markov chain over 12 letters in which two letters decide the next, whose own bits
             a character, the least that any model can need on average, are known

Writes benchmarks/results/sequences.json, one row at a time; --add keeps the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import about_this_machine

import pellucid
from pellucid.domains.text_files import TextData, text_of
from pellucid.tasks.likelihood import likelihood

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "gru": ("lstm", {"cell": "gru"}),
    "wavenet": ("wavenet", {}),
    "autoregressive": ("autoregressive", {}),
}
WINDOW, LETTERS = 64, "abcdefghijkl"
FEW, MANY = 3, 9  # steps of the two fits whose difference says what a step takes
MARGIN = 0.97


def chain(length: int = 60_000, seed: int = 0) -> tuple[str, float]:
    """A text of a Markov chain of order two, and its entropy in bits a letter under the chain's own frequencies."""
    draw, size = np.random.default_rng(seed), len(LETTERS)
    p = draw.dirichlet(np.full(size, 0.25), size=(size, size))  # of the next letter, given two
    u, text = draw.random(length), [0, 1]
    upto = p.cumsum(-1)
    for t in range(length):
        text.append(min(size - 1, int(np.searchsorted(upto[text[-2], text[-1]], u[t]))))
    pairs = np.zeros((size, size))
    np.add.at(pairs, (text[:-1], text[1:]), 1.0 / (length + 1))
    entropy = -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1)
    return "".join(LETTERS[k] for k in text[2:]), float((pairs * entropy).sum())


def texts(asked: list[str]) -> dict[str, tuple[TextData, float | None]]:
    found: dict[str, tuple[TextData, float | None]] = {}
    for name in asked:
        if name == "chain":
            text, least = chain()
            found[name] = (text_of(text, window=WINDOW), least)
        elif "PELLUCID_DATA" in os.environ:
            file = Path(os.environ["PELLUCID_DATA"]) / "tinyshakespeare" / "input.txt"
            found[name] = (text_of(file.read_text("utf-8")[:200_000], window=WINDOW), None)
        else:
            sys.exit("Set PELLUCID_DATA to the folder with tinyshakespeare, or say --texts chain.")
    return found


def row(name: str, data: TextData, seconds: float, seed: int) -> dict[str, Any]:
    """Train one family for so long, and score the last tenth of the text."""
    family, settings = FAMILIES[name]

    def fitted(steps: int) -> tuple[pellucid.Fitted, float]:
        began = time.process_time()
        model = pellucid.fit(data, family=family, settings=settings or None, steps=steps, seed=seed, watch=False)
        return model, time.process_time() - began

    fitted(1)  # loads modules
    few, many = (fitted(steps)[1] for steps in (FEW, MANY))
    each = max(many - few, 1e-3) / (MANY - FEW)
    steps = max(1, int((MARGIN * seconds - max(0.0, few - FEW * each)) / each))
    model, used = fitted(steps)
    found = likelihood(model, data.take(data.halves(0.1)[1]))
    assert found.blocks_nats_per_symbol is not None
    return {
        "model": name,
        "bits_in_blocks": round(found.blocks_nats_per_symbol / math.log(2), 4),
        "bits_sliding": round(found.bits_per_symbol, 4),
        "characters_scored": found.symbols,
        "cpu_seconds": round(used, 1),
        "steps": steps,
        "parameters": sum(p.numel() for p in model.engine.parameters()),
        "settings": model.recipe["settings"],
        "seed": seed,
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=40.0, help="CPU seconds of each model's training")
    words.add_argument("--families", default=",".join(FAMILIES))
    words.add_argument("--texts", default="chain,plays")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--add", action="store_true", help="keep the rows that are there")
    words.add_argument("--result", type=Path, default=Path(__file__).parent / "results" / "sequences.json")
    asked = words.parse_args()
    os.environ["PELLUCID_THREADS"] = "1"
    torch.set_num_threads(1)
    for text, (data, least) in texts(asked.texts.split(",")).items():
        for name in asked.families.split(","):
            found = {"text": text, "seconds": asked.seconds, **row(name, data, asked.seconds, asked.seed)}
            found |= {"least_possible": round(least, 4)} if least is not None else {}
            found["machine"] = about_this_machine()
            keep = asked.add and asked.result.is_file()
            rows = json.loads(asked.result.read_text())["rows"] if keep else []
            asked.result.write_text(
                json.dumps({"window": WINDOW, "threads": 1, "rows": [*rows, found]}, indent=1) + "\n"
            )
            asked.add = True
            beside = "" if least is None else f" (least possible {least:.3f})"
            print(f"{text:6s} {name:15s} {found['bits_in_blocks']:.3f} bits in blocks, {found['bits_sliding']:.3f} "
                  f"sliding{beside}, {found['cpu_seconds']:.0f} CPU-s, {found['steps']} steps", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
