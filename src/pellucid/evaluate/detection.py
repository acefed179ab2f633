"""Can boosted trees tell generated rows from real ones?

Classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545) with the area under the ROC curve instead of
accuracy: 0.5 when nothing tells them apart, 1 when everything does. Each row is scored by a classifier that was
trained on the other half of both sets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pellucid.domains.frames import TableData
from pellucid.evaluate.matrices import TreeCells
from pellucid.evaluate.resampling import Estimate, check_rows, halves
from pellucid.evaluate.utility import area

__all__ = ["detection"]

Floats = NDArray[np.float64]


def detection(
    real: TableData, generated: TableData, cells: TreeCells, *, seed: int = 0, name: str = "samples"
) -> Estimate:
    """Area under the ROC curve of real against generated rows, 2-fold.

    Args:
        real, generated: N rows each.
        cells: how columns become numbers, learned from training rows.

    Raises:
        BadInput: fewer than 20 rows, or unequal numbers.
    """
    n = len(real)
    check_rows(n // 2, "half of the rows of the detection test", len(generated) // 2)
    check_rows(n, "the detection test", len(generated))
    fold, fold_2 = (halves(n, f"fold {side}", seed=seed, times=1)[0] for side in ("real", name))
    x, x_2 = cells.matrix(real), cells.matrix(generated)
    score, score_2 = np.empty(n), np.empty(n)
    for side in (True, False):
        here, here_2 = fold == side, fold_2 == side
        model = HistGradientBoostingClassifier(
            max_iter=100, early_stopping=False, categorical_features=cells.categorical(), random_state=seed
        )
        rows = np.vstack([x[~here], x_2[~here_2]])
        model.fit(rows, np.repeat([0, 1], [int((~here).sum()), int((~here_2).sum())]))
        score[here], score_2[here_2] = model.predict_proba(x[here])[:, 1], model.predict_proba(x_2[here_2])[:, 1]

    def by_fold(chosen: NDArray[np.bool_], chosen_2: NDArray[np.bool_]) -> list[float]:
        """One area per fold: scores of two classifiers are not on one scale."""
        return [area(score[chosen & (fold == side)], score_2[chosen_2 & (fold_2 == side)]) for side in (True, False)]

    everything = np.ones(n, bool)
    areas = by_fold(everything, everything)
    pairs = zip(halves(n, "real", seed=seed), halves(n, name, seed=seed), strict=True)
    on_halves = np.array([np.mean(by_fold(a, b)) for a, b in pairs])
    return Estimate(float(np.mean(areas)), on_halves - on_halves.mean(), n, (0.0, 1.0))
