"""The peer's side of `table_vae_gan.py`, for an environment of its own that has ctgan.

    python ctgan_worker.py curve job.json      one training, rows drawn at some of its epochs, CPU seconds of each

Default settings but for the number of epochs. What is drawn between two epochs stops the clock; reading the table,
fitting the transformer and applying it are part of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ctgan import CTGAN, TVAE  # type: ignore[import-not-found]
from ctgan.synthesizers import ctgan as ctgan_module  # type: ignore[import-not-found]
from ctgan.synthesizers import tvae as tvae_module

MODULES = {"vae": tvae_module, "gan": ctgan_module}


def curve(job: Mapping[str, Any]) -> dict[str, Any]:
    """CPU seconds at each epoch of the job's list, and files of rows drawn there."""
    torch.manual_seed(job["seed"])
    points: list[dict[str, Any]] = []
    paused, at = [0.0], set(job["epochs"])
    began = time.process_time()
    frame = pd.read_csv(job["data"], keep_default_na=False)
    kind = TVAE if job["family"] == "vae" else CTGAN
    model = kind(epochs=max(at), **({"enable_gpu": False}))

    def epochs(count: Any, **_: object) -> Iterator[int]:
        """Stands where the trainer counts its epochs, and looks at the model between two of them."""
        for epoch in count:
            yield epoch
            if epoch + 1 not in at:
                continue
            look = time.process_time()
            for draw in range(job["draws"]):
                torch.manual_seed(1000 + draw)
                name = f"{job['name']}_{epoch + 1}_{draw}"
                model.sample(job["rows"]).to_csv(Path(job["folder"], f"{name}.csv"), index=False)
            took = time.process_time() - look
            points.append({"epochs": epoch + 1, "cpu_seconds": round(look - began - paused[0], 2)})
            points[-1]["sampling_cpu_seconds"] = round(took / job["draws"], 2)
            paused[0] += took

    class Counter:
        """tqdm's face: something to iterate over that can be given a description."""

        def __init__(self, count: Any, **_: object) -> None:
            self.each = epochs(count)

        def __iter__(self) -> Iterator[int]:
            return self.each

        def set_description(self, text: str) -> None:
            """Nobody reads it."""

    vars(MODULES[job["family"]])["tqdm"] = Counter
    model.fit(frame, job["discrete"])
    return {"points": points, "versions": {name: version(name) for name in ("ctgan", "torch")}}


def main() -> None:
    _, path = sys.argv[1:]
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text())
    Path(job["result"]).write_text(json.dumps(curve(job)))


if __name__ == "__main__":
    main()
