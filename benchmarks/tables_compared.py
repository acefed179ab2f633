"""Trees on other tables than Adult: bank marketing, credit default, housing, beside what is simpler and what is known.

    make peers
    PELLUCID_DATA=/path/to/data python benchmarks/tables_compared.py [--tables bank credit housing] [--draws 3]

Beside boosted trees: one tree a column (CART, a second), columns drawn independently, the training rows themselves
(copying), SMOTE and ctgan in an environment of their own. A fifth of the rows is the test set, a fifth of the others
trains no generator. As many rows are drawn as there are training rows.

- utility: a LightGBM with fixed settings learns the target from drawn rows and is scored on real test rows: macro-F1
  and area under the ROC curve, for housing the share of variance explained.
- told: how well boosted trees tell drawn from real test rows (area, 2-fold; 0.5 is not at all).
- closer: share of drawn rows nearer to training rows than to as many test rows; half without copying.

Utility alone is worth little: copying has the best. Who copies is said beside it. Writes
benchmarks/results/tables_compared.json; exits with 1 where boosted trees are behind CART or another that does not copy,
by more than both spreads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import torch
from machine import about_this_machine
from peers.worker import run_job
from sklearn.metrics import f1_score, r2_score, roc_auc_score

import pellucid as pl
from pellucid.domains.frames import TableData
from pellucid.evaluate.copy_check import copy_check
from pellucid.fitting import fit, split

TABLES = {
    "bank": ("bank_marketing/bank_full.csv.gz", "y"),
    "credit": ("credit_default/credit_default.csv.gz", "default.payment.next.month"),
    "housing": ("california_housing/housing.csv", "median_house_value"),
}
JUDGE: dict[str, Any] = {"num_leaves": 15, "learning_rate": 0.05, "n_estimators": 300, "verbosity": -1, "n_jobs": 1}
TELLER: dict[str, Any] = {"num_leaves": 15, "learning_rate": 0.1, "n_estimators": 100, "verbosity": -1, "n_jobs": 1}
CHECKED = 5000  # drawn rows in the copy check
COPIES = 0.55  # share closer to training rows from which a generator is said to copy
SETTINGS: dict[str, dict[str, Any]] = {"trees": {}, "cart": {"learner": "cart"}}


def matrices(like: pd.DataFrame, *frames: pd.DataFrame) -> list[pd.DataFrame]:
    """Frames with numbers as they are and the other columns as categories of the first frame."""
    found = []
    for frame in frames:
        made = frame[list(like.columns)].copy()
        for name in like.columns:
            if pd.api.types.is_numeric_dtype(like[name]) and not pd.api.types.is_bool_dtype(like[name]):
                made[name] = made[name].astype(float)
            else:
                levels = sorted(like[name].dropna().astype(str).unique())
                text = made[name].astype(object).where(made[name].notna(), None)
                made[name] = pd.Categorical(text.map(str, na_action="ignore"), categories=levels)
        found.append(made)
    return found


def utility(train: pd.DataFrame, test: pd.DataFrame, target: str) -> dict[str, float]:
    """What a judge that learned from `train` says of real test rows."""
    x, x_test = matrices(test.drop(columns=target), train.drop(columns=target), test.drop(columns=target))
    if test[target].nunique() > 10:
        model = lightgbm.LGBMRegressor(**JUDGE).fit(x, train[target].astype(float))
        return {"r2": float(r2_score(test[target].astype(float), model.predict(x_test)))}
    classes = sorted(test[target].astype(str).unique())
    y, y_test = (frame[target].astype(str) == classes[1] for frame in (train, test))
    p = np.asarray(lightgbm.LGBMClassifier(**JUDGE).fit(x, y).predict_proba(x_test))[:, 1]
    f1 = float(f1_score(y_test, p > 0.5, average="macro"))
    return {"macro_f1": f1, "area": float(roc_auc_score(y_test, p))}


def told(real: pd.DataFrame, drawn: pd.DataFrame, seed: int = 0) -> float:
    """Area under the ROC curve of drawn against as many real rows, each scored by what the other half taught."""
    n, random = min(len(real), len(drawn)), np.random.default_rng(seed)
    some = [frame.iloc[random.permutation(len(frame))[:n]] for frame in (real, drawn)]
    x = pd.concat(matrices(real, *some), ignore_index=True)
    y, fold, score = np.repeat([0, 1], n), random.integers(2, size=2 * n), np.zeros(2 * n)
    for k in (0, 1):
        model = lightgbm.LGBMClassifier(**TELLER).fit(x[fold != k], y[fold != k])
        score[fold == k] = np.asarray(model.predict_proba(x[fold == k]))[:, 1]
    return float(roc_auc_score(y, score))


def independent(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every column shuffled by itself."""
    random = np.random.default_rng(seed)
    return pd.DataFrame({name: frame[name].to_numpy()[random.permutation(len(frame))] for name in frame.columns})


def drawn_by_us(name: str, train: TableData, draws: int, seed: int) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    began = time.process_time()
    model = fit(train, "trees", seed=seed, held_out=0.0, settings=SETTINGS[name])
    about: dict[str, Any] = {"train_cpu_seconds": round(time.process_time() - began, 1)}
    began, frames = time.process_time(), []
    for draw in range(draws):
        items = model.sample(len(train), seed=draw, batch=4000).items
        assert isinstance(items, TableData)
        frames.append(items.frame)
    about["draw_cpu_seconds"] = round((time.process_time() - began) / draws, 1)
    return frames, about


def drawn_by_peer(
    name: str, train: TableData, target: str, draws: int, seed: int, epochs: int, folder: Path
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    frame = train.frame
    path = folder / "train.csv"
    train.written().to_csv(path, index=False)
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 2]
    numbers = [c for c in numbers if c != target or frame[c].nunique() > 10]
    job = {
        "train": str(path), "target": target, "numbers": numbers, "seed": seed, "draws": draws,
        "whole": [c for c in numbers if pd.api.types.is_integer_dtype(frame[c])], "rows": len(frame),
        "epochs": epochs, "folder": str(folder), "name": f"{name}_{seed}",
    }  # fmt: skip
    found = run_job("tables_worker.py", name, job, folder, f"{name}_{seed}")
    frames = []
    for file in found.pop("files"):
        made = pl.read(file, kinds={})
        assert isinstance(made, TableData)
        frames.append(made.frame)
    return frames, {**found, **({"epochs": epochs} if name == "ctgan" else {})}


def spread(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 4), "sd": round(sd, 4), "draws": [round(v, 4) for v in values]}


def judged(frames: list[pd.DataFrame], train: TableData, test: TableData, target: str) -> dict[str, Any]:
    each = [utility(frame, test.frame, target) for frame in frames]
    about: dict[str, Any] = {key: spread([scores[key] for scores in each]) for key in each[0]}
    about["told"] = spread([told(test.frame, frame, seed) for seed, frame in enumerate(frames)])
    random = np.random.default_rng(0)
    some = frames[0].iloc[random.permutation(len(frames[0]))[:CHECKED]].reset_index(drop=True)
    some = some[list(train.frame.columns)]
    check = copy_check(TableData(frame=some, columns=train.columns, source="drawn"), train, test, seed=0)
    about["closer"], about["identical"] = round(check.closer.value, 4), round(check.identical.value, 4)
    about["copies"] = check.closer.value > COPIES
    return about


def compared(name: str, source: Path, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every generator on one table."""
    path, target = TABLES[name]
    data = pl.read(source / path)
    assert isinstance(data, TableData)
    if keys := {c.name: "drop" for c in data.columns if c.kind == "key"}:
        data = pl.read(source / path, kinds=keys)  # new identifiers are never real ones, and tell rows apart at once
    assert isinstance(data, TableData)
    rest, aside = split(len(data), 0.2, 123)
    if asked.rows:
        rest = rest[np.sort(np.random.default_rng(0).permutation(len(rest))[: asked.rows])]
    train, test = data.take(rest), data.take(aside)
    found: dict[str, Any] = {"rows": {"train": len(train), "test": len(test)}, "target": target, "generators": {}}
    for generator in asked.generators:
        frames: list[pd.DataFrame] = []
        about: dict[str, Any] = {}
        for seed in asked.seeds:
            if generator in SETTINGS:
                made, about = drawn_by_us(generator, train, asked.draws, seed)
            elif generator == "independent":
                made = [independent(train.frame, 1000 * seed + draw) for draw in range(asked.draws)]
            elif generator == "copying":
                made = [train.frame]
            else:
                made, about = drawn_by_peer(generator, train, target, asked.draws, seed, asked.ctgan_epochs, folder)
            frames += made
        found["generators"][generator] = about | judged(frames, train, test, target)
        print(name, generator, json.dumps(found["generators"][generator]), flush=True)
    found["behind"] = behind(found["generators"])
    return found


def behind(generators: dict[str, Any]) -> list[str]:
    """Who that does not copy is above boosted trees, by which figure; ties within both spreads are none."""
    said: list[str] = []
    if "trees" not in generators:
        return said
    ours = generators["trees"]
    for name, other in generators.items():
        for key in ("macro_f1", "area", "r2"):
            if name != "trees" and key in ours and not other["copies"]:
                gap = other[key]["mean"] - ours[key]["mean"]
                if gap > ours[key]["sd"] + other[key]["sd"]:
                    said.append(f"{name} by {key}: {gap:.4f}")
    return said


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    kinds = ["trees", "cart", "independent", "copying", "smote", "ctgan"]
    words.add_argument("--generators", nargs="+", default=kinds, choices=kinds)
    words.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    words.add_argument("--draws", type=int, default=3)
    words.add_argument("--rows", type=int, default=0, help="train on so many rows only: to try it out")
    words.add_argument("--ctgan-epochs", type=int, default=30, help="its own default is 300")
    asked = words.parse_args()
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("PELLUCID_DATA is not set; it names the folder that holds bank_marketing/")
    os.environ["PELLUCID_THREADS"] = "1"
    torch.set_num_threads(1)
    path = Path(__file__).parent / "results" / "tables_compared.json"
    result: dict[str, Any] = {
        "machine": about_this_machine(), "threads": 1, "judge": JUDGE, "teller": TELLER, "seeds": asked.seeds,
        "draws": asked.draws, "tables": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.tables:
            result["tables"][name] = compared(name, Path(os.environ["PELLUCID_DATA"]), asked, Path(folder))
            print(name, "behind:", result["tables"][name]["behind"] or "nobody", flush=True)
    if asked.rows:
        print("Tried on some rows only: nothing is written.")
        return 0
    if path.is_file():
        before = json.loads(path.read_text())
        if all(before[key] == result[key] for key in ("judge", "teller", "seeds", "draws")):
            result["tables"] = before["tables"] | result["tables"]
    path.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if any(table["behind"] for table in result["tables"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
