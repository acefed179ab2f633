"""Are mistakes that were planted into real items found where they are? Defects in digits, wrong cells in a table.

    .venv/bin/python benchmarks/unusual_parts.py [--steps 800]

The tasks are described in `pellucid.explain.bench.mistakes`. Writes benchmarks/results/unusual_parts.json; exits with 1
when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from machine import about_this_machine

from pellucid.explain.bench.mistakes import BARS, STEPS, defects, wrong_cells


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "unusual_parts.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for measure in (wrong_cells, defects):
        rows.append(measure(asked.steps))
        print(json.dumps(rows[-1]), flush=True)
    passed = all(row["score"][0] >= BARS[row["task"]] for row in rows)
    found = {"bars": BARS, "passed": passed, "seed": 0, "rows": rows, "machine": about_this_machine()}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
