"""Does a trained reader's most important symbol turn out to be the true cause? Copying and brackets, trained here.

    .venv/bin/python benchmarks/saliency.py [--steps 1500]

The tasks and what is counted are described in `pellucid.explain.bench.causes`. Writes benchmarks/results/saliency.json;
exits with 1 when leaving out names the true cause in less than 98% (the bar).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from machine import about_this_machine

from pellucid.explain.bench.causes import LEAST, STEPS, measured, passes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "saliency.json")
    asked = parser.parse_args()
    rows = []
    for name in ("copy", "brackets"):
        rows.append(measured(name, asked.steps))
        print(json.dumps(rows[-1]), flush=True)
    passed = all(passes(row) for row in rows)
    found = {"bar": LEAST, "passed": passed, "seed": 0, "rows": rows, "machine": about_this_machine()}
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
