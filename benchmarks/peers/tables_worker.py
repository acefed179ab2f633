"""SMOTE and ctgan, in an environment of their own that has imbalanced-learn, ctgan and pandas.

    python tables_worker.py smote|ctgan JOB.json

The job names a CSV file of training rows, the target, the names of its numbers, a seed, how many draws of how many
rows, and the folder for them; what it took is written as JSON to the job's result.

SMOTE as TabDDPM's authors use it to generate (Kotelnikov et al. 2023, https://arxiv.org/abs/2209.15421, section 5): a
new row lies between a row and one of its 5 nearest rows of the same class; a numeric target is a number like the
others, and its halves are the classes. Missing numbers are filled by the median, missing names are a name of their own.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def filled(job: dict[str, Any]) -> pd.DataFrame:
    frame = pd.read_csv(job["train"], dtype=str, keep_default_na=False)
    for name in frame.columns:
        if name in job["numbers"]:
            values = pd.to_numeric(frame[name], errors="coerce")
            frame[name] = values.fillna(values.median())
    return frame


def smote(job: dict[str, Any], frame: pd.DataFrame, draw: int) -> pd.DataFrame:
    from imblearn.over_sampling import SMOTENC  # type: ignore[import-not-found]

    target = job["target"]
    numeric = target in job["numbers"]
    said = (frame[target] > frame[target].median()).astype(int) if numeric else frame[target]
    x = frame if numeric else frame.drop(columns=target)
    names = [k for k, name in enumerate(x.columns) if name not in job["numbers"]]
    want = {k: 2 * int(n) for k, n in said.value_counts().items()}
    if not names:
        raise SystemExit("SMOTENC needs a column of names")
    made, label = SMOTENC(names, sampling_strategy=want, random_state=draw, k_neighbors=5).fit_resample(x, said)
    rows = made.iloc[len(frame) :].copy()
    if not numeric:
        rows[target] = label.iloc[len(frame) :].to_numpy()
    for name in job["whole"]:
        rows[name] = rows[name].round()
    return rows[list(frame.columns)]


def main() -> None:
    job = json.loads(Path(sys.argv[2]).read_text())
    kind, frame, folder = sys.argv[1], filled(job), Path(job["folder"])
    began = time.process_time()
    model: Any = None
    if kind == "ctgan":
        import torch
        from ctgan import CTGAN  # type: ignore[import-not-found]

        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])  # noqa: NPY002  ctgan draws from the global generator
        model = CTGAN(epochs=job["epochs"], enable_gpu=False)
        model.fit(frame, [name for name in frame.columns if name not in job["numbers"]])
    trained, files = time.process_time() - began, []
    for draw in range(job["draws"]):
        made = model.sample(job["rows"]) if model is not None else smote(job, frame, 1000 * job["seed"] + draw)
        path = folder / f"{job['name']}_{draw}.csv"
        made.to_csv(path, index=False)
        files.append(str(path))
    package = "ctgan" if kind == "ctgan" else "imbalanced-learn"
    took = {"train_cpu_seconds": round(trained, 1), "files": files, package: version(package)}
    took["draw_cpu_seconds"] = round((time.process_time() - began - trained) / job["draws"], 1)
    Path(job["result"]).write_text(json.dumps(took))


if __name__ == "__main__":
    main()
