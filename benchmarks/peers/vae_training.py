"""Pictures a second in training an autoencoder: ours against pythae's trainer, 28x28, batch 128, equal nets and loss.

    make peers
    .venv/bin/python benchmarks/peers/vae_training.py

Both have pythae's default nets (one hidden layer of 512 each way, 10 latent numbers) and its default loss (half the
squared distance, which is a Gaussian of spread 1, plus the closed KL divergence). Two processes of one thread each take
turns (A, B, A, B, ...), a block is one epoch of the peer, CPU time of the process is counted, medians are compared.

float32: ours in float32. bfloat16: ours in bfloat16, the peer in float32, as it has no other precision on a CPU.
default: ours in float32 with all that `fit` does besides: averaged weights, clipped gradients.
Writes benchmarks/results/vae_training.json; exits with 1 when a row misses its bar.
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

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from machine import about_this_machine  # noqa: E402
from peers.worker import Turns, peers_python  # noqa: E402

OURS, PEER = "pellucid_vae_worker.py", "pythae_worker.py"
BATCH, LATENT, RATE = 128, 10, 1e-4
ROWS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32", "plain": True, "bar": 1.8},
    "bfloat16": {"precision": "bfloat16", "plain": True, "bar": 2.2},
    "default": {"precision": "float32", "plain": False, "bar": None},
}


def compare(row: str, blocks: int, steps: int) -> dict[str, Any]:
    """Medians over alternating blocks, after one block each that is not counted."""
    wanted = dict(ROWS[row])
    bar = wanted.pop("bar")
    same = {"epoch": steps, "batch": BATCH, "latent": LATENT, "rate": RATE}
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        with Turns(OURS, same | wanted, where) as ours, Turns(PEER, same, where) as peer:
            ours.take(steps), peer.take(steps)
            load = os.getloadavg()[0]
            pairs = [(ours.take(steps), peer.take(steps)) for _ in range(blocks)]
            about = {"ours": ours.about, "peer": peer.about}
    times = {"ours": [p[0] for p in pairs], "peer": [p[1] for p in pairs]}
    rate = {side: BATCH / statistics.median(t) for side, t in times.items()}
    ratio = rate["ours"] / rate["peer"]
    return {
        "row": row,
        "ratio": round(ratio, 3),
        "bar": bar,
        "met": None if bar is None else ratio >= bar,
        "ratios_of_blocks": [round(p[1] / p[0], 3) for p in pairs],
        **{
            side: {
                **about[side],
                "pictures_a_second": round(rate[side]),
                "milliseconds": [round(1e3 * t, 3) for t in times[side]],
            }
            for side in ("ours", "peer")
        },
        "load": round(load, 2),
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=9, help="blocks of each side that are counted")
    words.add_argument("--steps", type=int, default=60, help="steps in a block")
    words.add_argument("--rows", default=",".join(ROWS))
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "vae_training.json")
    asked = words.parse_args()
    peers_python()
    rows: list[dict[str, Any]] = []
    result = {"machine": about_this_machine(), "batch": BATCH, "latent": LATENT, "threads": 1, "seed": 0}
    result |= {"blocks": asked.blocks, "steps_a_block": asked.steps, "rows": rows}
    for row in asked.rows.split(","):
        rows.append(compare(row, asked.blocks, asked.steps))
        last = rows[-1]
        speeds = " against ".join(f"{last[s]['pictures_a_second']:,}" for s in ("ours", "peer"))
        print(f"{row}: {last['ratio']:.2f}x ({speeds} pictures/s), bar {last['bar']}", flush=True)
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row["met"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
