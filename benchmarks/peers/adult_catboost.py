"""TabDDPM's evaluator of Adult, for an environment of its own that has catboost, pandas and scikit-learn.

    python adult_catboost.py FOLDER NAME [NAME ...]      reads FOLDER/{validation,test,NAME}.csv, prints JSON

CatBoost with the settings that TabDDPM published for Adult (Kotelnikov et al. 2023, https://arxiv.org/abs/2209.15421;
tuned_models/catboost/adult_cv.json of its repository), stopped early on real validation rows, scored on real test rows
by macro-F1 and the area under the ROC curve.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from catboost import CatBoostClassifier  # type: ignore[import-not-found]
from sklearn.metrics import f1_score, roc_auc_score

NUMBERS = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
TARGET, POSITIVE = "income", ">50K"
SETTINGS = {
    "learning_rate": 0.16886992997713726,
    "depth": 3,
    "l2_leaf_reg": 0.19334681185025449,
    "bagging_temperature": 0.11959130879575816,
    "leaf_estimation_iterations": 8,
    "iterations": 2000,
    "early_stopping_rounds": 50,
    "od_pval": 0.001,
}


def cells(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Features, numbers first and choices as text, and the label as 0 or 1."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    choices = [c for c in frame.columns if c not in (*NUMBERS, TARGET)]
    x = pd.concat([frame[NUMBERS].astype(float), frame[choices].astype(str)], axis=1)
    return x, (frame[TARGET] == POSITIVE).astype(int)


def score(folder: Path, name: str) -> dict[str, object]:
    (x, y), (x_val, y_val), (x_test, y_test) = (cells(folder / f"{n}.csv") for n in (name, "validation", "test"))
    began = time.process_time()
    model = CatBoostClassifier(
        **SETTINGS, cat_features=[c for c in x if c not in NUMBERS], loss_function="Logloss", eval_metric="TotalF1",
        random_seed=0, thread_count=1, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    model.fit(x, y, eval_set=(x_val, y_val))
    p = model.predict_proba(x_test)[:, 1]
    return {
        "name": name,
        "rows": len(x),
        "macro_f1": round(float(f1_score(y_test, p > 0.5, average="macro")), 4),
        "area": round(float(roc_auc_score(y_test, p)), 4),
        "trees": int(model.tree_count_),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


if __name__ == "__main__":
    found = [score(Path(sys.argv[1]), name) for name in sys.argv[2:]]
    print(json.dumps({"catboost": version("catboost"), "settings": SETTINGS, "scores": found}))
