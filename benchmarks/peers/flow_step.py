"""A training step of flows on rows, and what it buys: ours beside zuko's and normflows'.

    make peers
    export PELLUCID_DATA=FOLDER      # with california_housing/housing.csv and fashion_mnist/*.gz
    .venv/bin/python benchmarks/peers/flow_step.py

Steps: processes of one thread each take turns on command (A, B, C, ...), CPU time of the process is counted, medians
are compared. All in float32, 512 rows a step, networks of equal hidden layers, so that numbers of parameters agree to
1% (for zuko's NSF ours gets the smallest width with at least as many). Ours is the whole step of `fit`: rows, loss,
backward, clip, optimizer, averaged weights. Each peer is measured twice, its trainings being a plain loop:

    as shown    as its tutorials have it: torch's default Adam and routes
    tuned       fused Adam, and float32 products by oneDNN where that is faster for it

The bars are held against the fastest peer as shown; what is left against the fastest tuned peer stands beside it.

    RealNVP      six couplings of two hidden layers: 8 columns (housing, layers of 128), 63 (8x8 patches, layers of 256)
    spline flow  as many splines: three autoregressive transforms of zuko's NSF, six couplings of ours, 8 bins

RealNVP's held-out log-likelihood (nats a row) after equal CPU time of each side, calibration not counted; the peers
are tuned and get our schedule, clipping and averaged weights. Housing is spread evenly within its grid and its four
counts are taken as logarithms; patches are taken as in the preparation of BSDS300 by Papamakarios et al. 2017,
arXiv:1705.07057: noise, less the mean, one pixel dropped. Both are scaled to mean 0 and spread 1, so values compare
here and nowhere else.

Our weights in zuko's coupling and our knots in zuko's spline, in float64, stand under "oracle".
Writes benchmarks/results/flow_step.json; exits with 1 when a row misses its bar.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from machine import about_this_machine  # noqa: E402
from peers.worker import Turns, peers_python, run_job  # noqa: E402

from pellucid.core.rows import Rows  # noqa: E402
from pellucid.core.space import Real  # noqa: E402
from pellucid.families.coupling import Coupling, RowNet  # noqa: E402
from pellucid.families.realnvp import Affine  # noqa: E402
from pellucid.families.spline_flow import Spline, SplineFlow  # noqa: E402

OURS, PEER = "pellucid_flow_worker.py", "flow_worker.py"
SEED, BATCH, RATE, BINS = 0, 512, 1e-3, 8
WORK: dict[str, dict[str, Any]] = {
    "RealNVP, 8 columns": {"family": "flow", "data": "housing", "width": 128, "bar": 1.3},
    "RealNVP, 63 columns": {"family": "flow", "data": "patches", "width": 256, "bar": 1.7},
    "spline flow, 8 columns": {"family": "spline_flow", "data": "housing", "width": 128, "bar": 1.3},
    "spline flow, 63 columns": {"family": "spline_flow", "data": "patches", "width": 256, "bar": 1.3},
}
PEERS = {"flow": ("zuko RealNVP", "normflows RealNVP"), "spline_flow": ("zuko NSF",)}


def housing(folder: Path) -> tuple[np.ndarray[Any, Any], int]:
    """The eight columns that describe a block of houses, and how many rows are held out."""
    table = pd.read_csv(folder / "california_housing" / "housing.csv").dropna()
    grid = np.array([0.01, 0.01, 1, 1, 1, 1, 1, 0.0001])
    rng = np.random.default_rng(SEED)
    x = table.iloc[:, :8].to_numpy() + grid * (rng.random((len(table), 8)) - 0.5)
    x[:, 3:7] = np.log(x[:, 3:7])
    return x[rng.permutation(len(x))], 4000


def patches(folder: Path) -> tuple[np.ndarray[Any, Any], int]:
    """63 numbers of 8x8 patches of Fashion-MNIST that are not nearly one grey, one a picture."""
    with gzip.open(folder / "fashion_mnist" / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    rng = np.random.default_rng(SEED)
    corners = rng.integers(0, 21, (len(pixels), 2))
    x = np.stack([p[i : i + 8, j : j + 8] for p, (i, j) in zip(pixels, corners, strict=True)]).reshape(-1, 64)
    x = x[x.std(1) > 8]
    x = (x + rng.random(x.shape)) / 256
    return (x - x.mean(1, keepdims=True))[:, :63], 8000


def write(folder: Path, data: Path) -> dict[str, str]:
    """The sets as .npz of float32, scaled by their training rows."""
    found = {}
    for name, (x, held) in {"housing": housing(folder), "patches": patches(folder)}.items():
        train, test = x[:-held], x[-held:]
        mean, spread = train.mean(0), train.std(0)
        scaled = {"train": (train - mean) / spread, "test": (test - mean) / spread}
        found[name] = str(data / f"{name}.npz")
        np.savez(found[name], **{k: v.astype(np.float32) for k, v in scaled.items()})
    return found


def jobs(name: str, files: dict[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """side -> script and job; all peers as shown and tuned, and ours."""
    work = WORK[name]
    shared = {"data": files[work["data"]], "batch": BATCH, "rate": RATE, "seed": SEED}
    spline = work["family"] == "spline_flow"
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for peer in PEERS[work["family"]]:
        told = {"peer": peer, "width": work["width"], "depth": 2, "steps": 3 if spline else 6, "bins": BINS}
        for tuned in (False, True):
            found[f"{peer}, {'tuned' if tuned else 'as shown'}"] = (PEER, {**shared, **told, "tuned": tuned})
    width = spline_width(63 if work["data"] == "patches" else 8, work["width"]) if spline else work["width"]
    settings = {"width": width, "depth": 2, "steps": 6} | ({"bins": BINS} if spline else {})
    return {"ours": (OURS, {**shared, "family": work["family"], "settings": settings}), **found}


def spline_width(columns: int, hidden: int) -> int:
    """The smallest width with which ours has at least as many parameters as three transforms of zuko's NSF."""
    told = columns * (3 * BINS - 1)
    theirs = 3 * ((columns + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * told)

    def count(width: int) -> int:
        family = SplineFlow(width=width, depth=2, steps=6, bins=BINS)
        engine = family.build(Real((columns,)), {}, Rows(0, torch.arange(1)))
        return sum(p.numel() for p in engine.parameters())

    return next(width for width in range(8, 1024, 2) if count(width) >= theirs)


def steps(name: str, files: dict[str, str], blocks: int, size: int) -> dict[str, Any]:
    """Medians of CPU milliseconds a step over blocks in turn, after one each that is not counted."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = {}
        for k, (side, (script, job)) in enumerate(jobs(name, files).items()):
            own = Path(folder) / str(k)
            own.mkdir()
            sides[side] = stack.enter_context(Turns(script, job, own))
        for turns in sides.values():
            turns.take(size)
        load = os.getloadavg()[0]
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(blocks):
            for side, turns in sides.items():
                times[side].append(1e3 * turns.take(size))
    middle = {side: statistics.median(t) for side, t in times.items()}
    found = {
        kind: min(v for side, v in middle.items() if side.endswith(kind)) / middle["ours"]
        for kind in ("as shown", "tuned")
    }
    return {
        "bar": WORK[name]["bar"],
        "ratio": round(found["as shown"], 3),
        "ratio_against_tuned": round(found["tuned"], 3),
        "met": found["as shown"] >= WORK[name]["bar"],
        "milliseconds": {side: round(v, 2) for side, v in middle.items()},
        "blocks": {side: [round(v, 2) for v in t] for side, t in times.items()},
        "about": {side: turns.about for side, turns in sides.items()},
        "load": round(load, 2),
    }


def likelihoods(name: str, files: dict[str, str], seconds: float) -> dict[str, Any]:
    """Held-out log-likelihood of ours and of every tuned peer after so many CPU seconds each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, (script, job) in jobs(name, files).items():
            if not side.endswith("as shown"):
                told = run_job(script, "fit", {**job, "seconds": seconds}, Path(folder), "fit")
                found[side] = {**told, "held_out": round(told["held_out"], 3)}
                print(f"  {side}: {told['held_out']:.3f} nats a row after {told['steps']} steps", flush=True)
    best = max(v["held_out"] for side, v in found.items() if side != "ours")
    return {"cpu_seconds": seconds, "equal_or_better": found["ours"]["held_out"] >= best, "sides": found}


def oracle(folder: Path) -> dict[str, Any]:
    """Largest difference between our coupling and spline and zuko's, given the same weights and knots, in float64."""
    rows = Rows(SEED, torch.arange(200))
    kept, moved, width = 4, 3, 16
    with rows.take(slice(1)).seeding():
        net = RowNet(kept, 2 * moved, steer=0, width=width, depth=2)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    bend = Affine(moved)
    torch.nn.init.constant_(bend.scale, 1.5)
    coupling = Coupling((kept, moved), net, bend).double()
    x = rows.fork("x").normal(kept + moved, dtype=torch.float64)
    spline = Spline(BINS, 5.0)
    told = 1.5 * rows.fork("told").normal(spline.needs * moved, dtype=torch.float64)
    wide = 4.0 * rows.fork("wide").normal(moved, dtype=torch.float64)
    with torch.no_grad():
        y, log_scale = coupling(x, x)
        bent = spline(wide, told)[0]
        one = [spline(wide[:, j : j + 1], told[:, j::moved])[1] for j in range(moved)]
        table = spline._laid_out(wide, told)[2][0].reshape(3, BINS + 1, moved, len(wide)).permute(0, 3, 2, 1)
    layers = [net.first, *net.hidden, net.last]
    given = {f"{k}.{part}": getattr(layer, part) for k, layer in enumerate(layers) for part in ("weight", "bias")}
    given |= {"keep": torch.arange(kept + moved) < kept, "scale": bend.scale, "x": x, "y": y, "log_scale": log_scale}
    given |= {
        "widths": table[0].diff(dim=-1) / 10,
        "heights": table[1].diff(dim=-1) / 10,
        "slopes": table[2, :, :, 1:-1],
    }
    given |= {"bound": torch.tensor(5.0), "spline_x": wide, "spline_y": bent, "spline_log_slope": torch.stack(one, 1)}
    path = folder / "oracle.npz"
    np.savez(path, **{k: v.detach().numpy() for k, v in given.items()})
    return run_job(PEER, "oracle", {"data": str(path)}, folder, "oracle")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=9, help="blocks of each side that are counted")
    words.add_argument("--steps", type=int, default=10, help="steps in a block")
    words.add_argument("--seconds", type=float, default=30.0, help="CPU seconds of each training; 0 for none")
    words.add_argument("--work", default=";".join(WORK))
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "flow_step.json")
    asked = words.parse_args()
    peers_python()
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("Set PELLUCID_DATA to the folder with california_housing and fashion_mnist.")
    rows: dict[str, Any] = {}
    result = {"machine": about_this_machine(), "threads": 1, "batch": BATCH, "seed": SEED, "rate": RATE}
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(os.environ["PELLUCID_DATA"]), Path(folder))
        result |= {"blocks": asked.blocks, "steps_a_block": asked.steps, "oracle": oracle(Path(folder)), "rows": rows}
        print(f"oracle: {result['oracle']}", flush=True)
        for name in asked.work.split(";"):
            rows[name] = steps(name, files, asked.blocks, asked.steps)
            row = rows[name]
            print(f"{name}: {row['ratio']:.2f}x, bar {row['bar']}, {row['ratio_against_tuned']:.2f}x against tuned; "
                  f"{row['milliseconds']}", flush=True)  # fmt: skip
            if asked.seconds and WORK[name]["family"] == "flow":
                row["likelihood"] = likelihoods(name, files, asked.seconds)
                row["met"] = row["met"] and row["likelihood"]["equal_or_better"]
            asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row["met"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
