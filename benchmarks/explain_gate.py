"""Does the gate tell true explanations from fakes? 200 of each, in worlds where the truth is a formula.

    .venv/bin/python benchmarks/explain_gate.py            # about 2 minutes of one core

Worlds, oracles and fakes are described in `pellucid.explain.bench.planted_answers`. Bars: at least 190 of the 200
oracles are green, at most 2 of the 200 fakes. Writes benchmarks/results/explain_gate.json; exits with 1 when a bar is
missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from machine import about_this_machine

from pellucid.explain.bench.gate import BAR, measure


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--quick", action="store_true", help="20 of each")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "explain_gate.json")
    asked = words.parse_args()
    torch.set_num_threads(1)
    found = {"bar": BAR, "seed": asked.seed, **measure(quick=asked.quick, seed=asked.seed)}
    print(json.dumps(found, indent=1))
    asked.out.write_text(json.dumps({**found, "machine": about_this_machine()}, indent=1) + "\n")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
