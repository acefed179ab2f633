"""A GAN's training step: our DCGAN against the same DCGAN in plain PyTorch, 28x28, batch 64.

    make peers
    .venv/bin/python benchmarks/peers/gan_step.py

Both sides take whole steps of the classic game, critic then generator, with nets of equal shapes and Adam. Two
processes of one thread each take turns on command (A, B, A, B, ...), CPU time of the process is counted, and medians
are compared. Ours also averages its weights and checks every loss and gradient for numbers that are not finite, as it
does in every fit; it normalises the generator by groups of channels where the peer does by the batch.

Rows: both in float32 and both in bfloat16, where the peer is given a fused Adam; ours in bfloat16, as `fit` chooses for
pictures where the processor computes with it, against eager float32 with torch's default Adam, as tutorials have it.
Writes benchmarks/results/gan_step.json; exits with 1 when a row misses its bar.
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

OURS, PEER = "pellucid_gan_worker.py", "dcgan_worker.py"
NETS = {"batch": 64, "latent": 64, "width": 64}
ROWS: dict[str, dict[str, Any]] = {
    "float32": {"ours": "float32", "peer": "float32", "lean": True, "bar": 1.0},
    "bfloat16": {"ours": "bfloat16", "peer": "bfloat16", "lean": True, "bar": 1.0},
    "default": {"ours": "bfloat16", "peer": "float32", "lean": False, "bar": 1.6},
}


def compare(row: str, blocks: int, steps: int) -> dict[str, Any]:
    """Medians over alternating blocks, after one block each that is not counted."""
    wanted = ROWS[row]
    peer = {**NETS, "precision": wanted["peer"], "lean": wanted["lean"]}
    ours = {**NETS, "precision": wanted["ours"], "loss": "non_saturating"}
    with tempfile.TemporaryDirectory() as folder, Turns(PEER, peer, Path(folder)) as b:
        with Turns(OURS, ours, Path(folder)) as a:
            a.take(2), b.take(2)
            load = os.getloadavg()[0]
            pairs = [(a.take(steps), b.take(steps)) for _ in range(blocks)]
        found = {"ours": a.about, "peer": b.about}
    times = {"ours": [p[0] for p in pairs], "peer": [p[1] for p in pairs]}
    middle = {side: statistics.median(t) for side, t in times.items()}
    ratio = middle["peer"] / middle["ours"]
    return {
        "row": row,
        "ratio": round(ratio, 3),
        "bar": wanted["bar"],
        "met": ratio >= wanted["bar"],
        "ratios_of_blocks": [round(p[1] / p[0], 3) for p in pairs],
        **{side: {**found[side], "milliseconds_a_step": round(1e3 * middle[side], 2)} for side in ("ours", "peer")},
        "load": round(load, 2),
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=9, help="blocks of each side that are counted")
    words.add_argument("--steps", type=int, default=8, help="steps in a block")
    words.add_argument("--rows", default=",".join(ROWS))
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "gan_step.json")
    asked = words.parse_args()
    peers_python()
    rows: list[dict[str, Any]] = []
    result = {"machine": about_this_machine(), **NETS, "threads": 1, "blocks": asked.blocks, "seed": 0}
    result |= {"steps_a_block": asked.steps, "rows": rows}
    for row in asked.rows.split(","):
        rows.append(compare(row, asked.blocks, asked.steps))
        last = rows[-1]
        speeds = " against ".join(f"{last[s]['milliseconds_a_step']:.1f}" for s in ("ours", "peer"))
        print(f"{row}: {last['ratio']:.2f}x ({speeds} ms a step), bar {last['bar']}", flush=True)
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
