"""LightGBM as the judge of generated rows, for an environment of its own that has lightgbm, pandas and scikit-learn.

    python adult_lightgbm.py FOLDER TARGET POSITIVE NAME [NAME ...]      reads FOLDER/{test,NAME}.csv, prints JSON

Its default settings, trained on the rows of NAME, scored on real test rows by macro-F1 and area under the ROC curve.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.metrics import f1_score, roc_auc_score


def main() -> None:
    folder, target, positive, *names = sys.argv[1:]
    test = pd.read_csv(Path(folder, "test.csv"), keep_default_na=False, na_values=[""])
    numbers = [c for c in test if c != target and pd.api.types.is_numeric_dtype(test[c])]
    choices = [c for c in test if c != target and c not in numbers]
    known = {c: pd.CategoricalDtype(sorted(test[c].dropna().astype(str).unique())) for c in choices}

    def cells(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
        x = frame[numbers].apply(pd.to_numeric, errors="coerce")
        for c in choices:
            x[c] = frame[c].astype(str).astype(known[c])
        return x, (frame[target].astype(str) == positive).astype(int)

    x_test, y_test = cells(test)
    scores = []
    for name in names:
        x, y = cells(pd.read_csv(Path(folder, f"{name}.csv"), keep_default_na=False, na_values=[""]))
        if y.nunique() < 2:  # a generator of one class alone teaches nothing
            scores.append({"name": name, "rows": len(x), "macro_f1": 0.0, "area": 0.5})
            continue
        p = np.asarray(LGBMClassifier(n_jobs=1, random_state=0, verbose=-1).fit(x, y).predict_proba(x_test))[:, 1]
        f1, area = f1_score(y_test, p > 0.5, average="macro"), roc_auc_score(y_test, p)
        scores.append({"name": name, "rows": len(x), "macro_f1": round(float(f1), 4), "area": round(float(area), 4)})
    print(json.dumps({"lightgbm": version("lightgbm"), "scores": scores}))


if __name__ == "__main__":
    main()
