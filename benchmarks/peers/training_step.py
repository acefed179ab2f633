"""Pictures a second in training: ours against diffusers' UNet2DModel of as many parameters, 28x28, batch 64.

    make peers
    .venv/bin/python benchmarks/peers/training_step.py

Both sides take whole steps: draw a batch, noise it, forward, backward, clip, optimizer, averaged weights. Two
processes of one thread each take turns on command (A, B, A, B, ...), CPU time of the process is counted, and medians
are compared.

Rows: both in float32; both in bfloat16 (autocast); default against default, where ours is what `fit` chooses by
itself on this processor and the peer is eager float32 with torch's default AdamW, as its training examples have it. In
the first two the peer is given what its examples lack: fused AdamW, an average of all weights at once, and in bfloat16
attention written out, which is what makes bfloat16 faster for it at all.
Ours gets the smallest width with which it has at least as many parameters as the peer. Numbers of operations differ;
both are given beside the ratio.
Writes benchmarks/results/training_step.json; exits with 1 when a row misses its bar.
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
from peers.pellucid_worker import width_for  # noqa: E402
from peers.worker import OURS, PEER, Turns, peers_python  # noqa: E402

# millions of parameters -> channels of UNet2DModel
CHANNELS = {1.5: [24, 48, 96], 2.7: [32, 64, 128], 6.0: [48, 96, 192]}
BATCH = 64
ROWS: dict[str, dict[str, Any]] = {
    "float32": {"ours": "float32", "peer": "float32", "lean": True, "bar": 1.05},
    "bfloat16": {"ours": "bfloat16", "peer": "bfloat16", "lean": True, "bar": 1.2},
    "default": {"ours": "auto", "peer": "float32", "lean": False, "bar": 1.7},
}


def compare(millions: float, row: str, blocks: int, steps: int) -> dict[str, Any]:
    """Medians over alternating blocks, after one block each that is not counted."""
    wanted = ROWS[row]
    peer = {"precision": wanted["peer"], "lean": wanted["lean"], "channels": CHANNELS[millions], "batch": BATCH}
    peer |= {"method": "ddpm", "rate": 1e-4, "classes": 0, "seed": 0}
    with tempfile.TemporaryDirectory() as folder, Turns(PEER, peer, Path(folder)) as b:
        width = width_for(b.about["parameters"])
        ours = {"precision": wanted["ours"], "settings": {"width": width}, "batch": BATCH}
        with Turns(OURS, ours, Path(folder)) as a:
            a.take(2), b.take(2)
            load = os.getloadavg()[0]
            pairs = [(a.take(steps), b.take(steps)) for _ in range(blocks)]
        found = {"ours": a.about, "peer": b.about}
    times = {"ours": [p[0] for p in pairs], "peer": [p[1] for p in pairs]}
    rate = {side: BATCH / statistics.median(t) for side, t in times.items()}
    ratio = rate["ours"] / rate["peer"]
    return {
        "millions": millions,
        "row": row,
        "ratio": round(ratio, 3),
        "bar": wanted["bar"],
        "met": ratio >= wanted["bar"],
        "ratios_of_blocks": [round(p[1] / p[0], 3) for p in pairs],
        **{
            side: {
                **found[side],
                "pictures_a_second": round(rate[side], 1),
                "seconds": [round(t, 4) for t in times[side]],
            }
            for side in ("ours", "peer")
        },
        "load": round(load, 2),
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=5, help="blocks of each side that are counted")
    words.add_argument("--steps", type=int, default=2, help="steps in a block")
    words.add_argument("--sizes", default="1.5,2.7,6", help="millions of parameters")
    words.add_argument("--rows", default=",".join(ROWS))
    words.add_argument("--result", type=Path, default=HERE.parent / "results" / "training_step.json")
    asked = words.parse_args()
    peers_python()
    rows: list[dict[str, Any]] = []
    result = {"machine": about_this_machine(), "batch": BATCH, "threads": 1, "blocks": asked.blocks}
    result |= {"steps_a_block": asked.steps, "rows": rows}
    for millions in [float(word) for word in asked.sizes.split(",")]:
        for row in asked.rows.split(","):
            rows.append(compare(millions, row, asked.blocks, asked.steps))
            last = rows[-1]
            speeds = " against ".join(f"{last[s]['pictures_a_second']:.0f}" for s in ("ours", "peer"))
            print(f"{millions} M, {row}: {last['ratio']:.2f}x ({speeds} pictures/s), bar {last['bar']}", flush=True)
            asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
