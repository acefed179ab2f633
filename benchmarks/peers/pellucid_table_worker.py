"""Our side of `table_vae_gan.py`, in a process of its own.

python pellucid_table_worker.py fit job.json         one fit from reading to weights, rows drawn, CPU seconds
python pellucid_table_worker.py memory job.json      a fit and a draw of a wide column, peak memory of the process
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import pellucid
from pellucid.domains.frames import TableData


def fit(job: Mapping[str, Any]) -> dict[str, Any]:
    """Everything from reading the table to averaged weights counts; drawing is told beside it."""
    began = time.process_time()
    data = pellucid.read(job["data"])
    model = pellucid.fit(data, job["family"], steps=job["steps"], seed=job["seed"], held_out=0.0)
    took, drawing = time.process_time() - began, time.process_time()
    for draw in range(job["draws"]):
        rows = model.sample(job["rows"], seed=draw, batch=2000).items
        assert isinstance(rows, TableData)
        rows.written().to_csv(Path(job["folder"], f"{job['name']}_{draw}.csv"), index=False)
    return {
        "steps": job["steps"],
        "cpu_seconds": round(took, 2),
        "sampling_cpu_seconds": round((time.process_time() - drawing) / job["draws"], 2),
        "settings": model.recipe["settings"],
        "training": model.recipe["training"],
        "bridge": type(model.bridge).__name__,
    }


def memory(job: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a column with many values beside three ordinary ones, fitted and drawn from."""
    generator = np.random.default_rng(job["seed"])
    n, values = job["rows"], job["values"]
    code = np.concatenate(
        [np.arange(values), generator.zipf(1.3, n - values) % values]
    )  # every value, few of them often
    frame = pd.DataFrame({
        "code": [f"v{k}" for k in generator.permutation(code)],
        "kind": generator.choice(list("abcde"), n),
        "size": generator.lognormal(size=n),
        "age": generator.integers(18, 90, n),
    })  # fmt: skip
    path = Path(job["folder"], "wide.csv")
    frame.to_csv(path, index=False)
    del frame, code
    began = time.process_time()
    before = _peak()
    model = pellucid.fit(pellucid.read(path, kinds={"code": "category"}), job["family"], steps=job["steps"], seed=0)
    fitted = _peak()
    drawn = model.sample(1000, seed=1)
    return {
        "rows": n,
        "values": values,
        "steps": job["steps"],
        "drawn": len(drawn),
        "space": model.describe().facts[4][1],
        "peak_mb": {"made the table": before, "fitted": fitted, "drawn": _peak()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _peak() -> int:
    """Largest resident memory of this process so far, in 10^6 bytes (Linux tells it in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def main() -> None:
    what, path = sys.argv[1:]
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text())
    Path(job["result"]).write_text(json.dumps({"fit": fit, "memory": memory}[what](job)))


if __name__ == "__main__":
    main()
