"""Characters of tinyshakespeare: loss after equal CPU time, training steps and writing, beside nanoGPT's CPU recipe.

    make peers
    export PELLUCID_DATA=FOLDER      # with tinyshakespeare/input.txt
    .venv/bin/python benchmarks/peers/text.py --seconds 110

Both sides have 4 layers of 4 heads, 128 wide, and see 64 symbols, one process of one thread each, CPU time counted. The
peer is the recipe written in plain PyTorch (nanogpt_worker.py says how); ours is `autoregressive` as `fit` trains it.

    loss        nats a symbol of the last tenth, cut into consecutive windows of 64 symbols that follow one which is
                read only, as the peer has it; our sliding value beside it. Ours alone, with an n-gram of order 7
                inside, and the peer; means over seeds. The budget holds all but reading the text and calibrating: our
                n-gram's counting is in it. "quarter": ours after a quarter of the time.
    step        processes take turns on command (A, B, A, B, ...), medians, symbols a second at equal settings: 12
                windows a step, AdamW on both sides, both in float32 and both in bfloat16. Ours is the whole step of
                `fit` with clipping and averaged weights. With Muon, as `fit` chooses, it stands beside them.
    generation  250 symbols after one, for 1 text and for 16 at once, against the peer without a cache, as it is.

Writes benchmarks/results/text.json; exits with 1 when a row misses its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from machine import about_this_machine  # noqa: E402
from peers.worker import Turns, peers_python, run_job  # noqa: E402

from pellucid.domains.text_files import read_text  # noqa: E402

OURS, PEER = "pellucid_text_worker.py", "nanogpt_worker.py"
CONTEXT, BATCH, TOKENS = 64, 12, 250
SETTINGS: dict[str, Any] = {"width": 128, "heads": 4, "depth": 4, "dropout": 0.0}
FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": (OURS, {"settings": SETTINGS, "precision": "bfloat16"}),
    "ours with an n-gram inside": (OURS, {"settings": {**SETTINGS, "prior": 7}, "precision": "bfloat16"}),
    "nanoGPT": (PEER, {}),
}
LOSS_BARS = {"ours": 1.51, "ours with an n-gram inside": 1.465}
STEP_BARS = {"float32": 1.25, "bfloat16": 1.3}
GENERATION_BARS = {1: 7.0, 16: None}  # the bar at 16 is against another peer, with a cache


def write(text: Path, folder: Path) -> dict[str, Any]:
    """The text's codes for the peer, split as ours is; and what both jobs share."""
    data = read_text(text)
    codes = data.codes.astype("int64")
    cut, path = len(codes) - round(len(codes) * 0.1), folder / "codes.npz"
    np.savez(path, train=codes[:cut], held=codes[cut:], symbols=len(data.pieces))
    return {"data": str(path), "text": str(text), "context": CONTEXT, "symbols": len(data.pieces)}


def losses(shared: dict[str, Any], folder: Path, seconds: float, seeds: int, sides: list[str]) -> dict[str, Any]:
    """Each side after so many CPU seconds, for each seed; sides alternate."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in range(seeds):
        for side in sides:
            script, job = FITS[side]
            told = run_job(script, "fit", {**shared, **job, "seconds": seconds, "seed": seed}, folder, "fit")
            told["nats"] = round(float(told["nats" if "nats" in told else "blocks"]), 4)
            print(f"  {side}, seed {seed}, {seconds:g} CPU-s: {told['nats']} ({told['steps']} steps)", flush=True)
            found[side].append({"seed": seed, **told})
    rows = {}
    for side, runs in found.items():
        mean = statistics.mean(run["nats"] for run in runs)
        bar = LOSS_BARS.get(side)
        rows[side] = {"nats": round(mean, 4), "bar": bar, "met": None if bar is None else mean <= bar, "runs": runs}
    return {"cpu_seconds": seconds, "seeds": seeds, "sides": rows}


def steps(
    shared: dict[str, Any], folder: Path, precision: str, optimizer: str, blocks: int, size: int
) -> dict[str, Any]:
    """Symbols a second of both sides, medians over blocks in turn after one each that is not counted."""
    job = {**shared, "precision": precision, "seed": 0, "batch": BATCH}
    ours = {**job, "settings": SETTINGS, "training": {"batch": BATCH, "optimizer": optimizer}}
    with Turns(OURS, ours, folder) as a, Turns(PEER, job, folder) as b:
        a.take(size), b.take(size)
        load = os.getloadavg()[0]
        pairs = [(a.take(size), b.take(size)) for _ in range(blocks)]
    middle = {"ours": statistics.median(p[0] for p in pairs), "nanoGPT": statistics.median(p[1] for p in pairs)}
    ratio, bar = middle["nanoGPT"] / middle["ours"], STEP_BARS[precision] if optimizer == "adam" else None
    return {
        "ratio": round(ratio, 3),
        "bar": bar,
        "met": None if bar is None else ratio >= bar,
        "symbols_per_second": {side: round(BATCH * CONTEXT / t) for side, t in middle.items()},
        "blocks": [[round(1e3 * x, 2) for x in pair] for pair in pairs],
        "about": {"ours": a.about, "nanoGPT": b.about},
        "load": round(load, 2),
    }


def generation(shared: dict[str, Any], folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Symbols a second of both sides, medians of rounds after one that is not counted; sides alternate."""
    job = {**shared, "batch": batch, "tokens": TOKENS, "rounds": 1 + max(1, rounds // 3), "settings": SETTINGS}
    times: dict[str, list[float]] = {"ours": [], "nanoGPT": []}
    for _ in range(3):
        for side, script in (("ours", OURS), ("nanoGPT", PEER)):
            times[side] += run_job(script, "generate", job, folder, "generate")["seconds"][1:]
    middle = {side: statistics.median(t) for side, t in times.items()}
    ratio, bar = middle["nanoGPT"] / middle["ours"], GENERATION_BARS[batch]
    return {
        "ratio": round(ratio, 2),
        "bar": bar,
        "met": None if bar is None else ratio >= bar,
        "symbols_per_second": {side: round(batch * TOKENS / t) for side, t in middle.items()},
        "seconds": {side: [round(x, 3) for x in t] for side, t in times.items()},
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=110.0, help="CPU seconds of each training; 0 for none")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--sides", default=";".join(FITS))
    words.add_argument("--quarter", action="store_true", help="ours after a quarter of the seconds too, one seed")
    words.add_argument("--blocks", type=int, default=9, help="blocks of steps that are counted; 0 for none")
    words.add_argument("--steps", type=int, default=10, help="steps in a block")
    words.add_argument("--rounds", type=int, default=6, help="rounds of writing; 0 for none")
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "text.json")
    asked = words.parse_args()
    peers_python()
    text = Path(os.environ.get("PELLUCID_DATA", "")) / "tinyshakespeare" / "input.txt"
    if not text.is_file():
        sys.exit("Set PELLUCID_DATA to the folder with tinyshakespeare/input.txt.")
    old = json.loads(asked.result.read_text()) if asked.result.is_file() else {}
    result: dict[str, Any] = {**old, "machine": about_this_machine(), "threads": 1, "settings": SETTINGS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = write(text, folder)
        if asked.blocks:
            kinds = [*((p, "adam") for p in STEP_BARS), ("bfloat16", "muon")]
            size = (asked.blocks, asked.steps)
            result["step"] = {f"{p}, {o}": steps(shared, folder, p, o, *size) for p, o in kinds}
            print({p: (row["ratio"], row["symbols_per_second"]) for p, row in result["step"].items()}, flush=True)
        if asked.rounds:
            result["generation"] = {str(b): generation(shared, folder, b, asked.rounds) for b in GENERATION_BARS}
            print({b: (row["ratio"], row["symbols_per_second"]) for b, row in result["generation"].items()}, flush=True)
        if asked.seconds:
            if asked.quarter:
                result["quarter"] = losses(shared, folder, asked.seconds / 4, 1, ["ours"])
            result["loss"] = losses(shared, folder, asked.seconds, asked.seeds, asked.sides.split(";"))
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    rows = [*result.get("step", {}).values(), *result.get("generation", {}).values()]
    rows += list(result.get("loss", {}).get("sides", {}).values())
    return 0 if all(row["met"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
