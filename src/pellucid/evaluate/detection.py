"""Can boosted trees tell generated rows from real ones?

Classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545) with the area under the ROC curve instead of
accuracy: 0.5 when nothing tells them apart, 1 when everything does. Each row is scored by a classifier that was
trained on the other half of both sets. The interval holds the chance of which rows score and of which rows train.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pellucid.domains.frames import TableData
from pellucid.evaluate.matrices import TreeCells
from pellucid.evaluate.resampling import REFITS, Estimate, check_rows, halves, noise_of_gaps
from pellucid.evaluate.utility import area

__all__ = ["detection"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def detection(
    real: TableData, generated: TableData, cells: TreeCells, *, seed: int = 0, name: str = "samples"
) -> Estimate:
    """Area under the ROC curve of real against generated rows, 2-fold.

    Args:
        real, generated: N rows each.
        cells: how columns become numbers, learned from training rows.

    Raises:
        BadInput: fewer than 40 rows, or unequal numbers.
    """
    n = len(real)
    check_rows(n // 4, "a quarter of the rows of the detection test", len(generated) // 4)
    check_rows(n, "the detection test", len(generated))
    x, x_2 = cells.matrix(real), cells.matrix(generated)

    def score(chosen: Flags, chosen_2: Flags, on: Flags, on_2: Flags) -> tuple[Floats, Floats]:
        """Train on the chosen rows; how generated the other rows look, NaN where not asked."""
        model = HistGradientBoostingClassifier(
            max_iter=100, early_stopping=False, categorical_features=cells.categorical(), random_state=seed
        )
        model.fit(np.vstack([x[chosen], x_2[chosen_2]]), np.repeat([0, 1], [int(chosen.sum()), int(chosen_2.sum())]))
        out, out_2 = np.full(n, np.nan), np.full(n, np.nan)
        out[on], out_2[on_2] = model.predict_proba(x[on])[:, 1], model.predict_proba(x_2[on_2])[:, 1]
        return out, out_2

    fold, fold_2 = (halves(n, f"fold {side}", seed=seed, times=1)[0] for side in ("real", name))
    sides = [(fold, fold_2), (~fold, ~fold_2)]  # rows that are scored; the others train
    scores = [score(~on, ~on_2, on, on_2) for on, on_2 in sides]
    gaps = []
    for on, on_2 in sides:
        for r in range(REFITS - 1):
            part, part_2 = (halves(n, f"quarter {r} {side}", seed=seed, times=1)[0] for side in ("real", name))
            first, second = (score(~on & a, ~on_2 & b, on, on_2) for a, b in [(part, part_2), (~part, ~part_2)])
            gaps.append((area(first[0][on], first[1][on_2]) - area(second[0][on], second[1][on_2])) / 2)

    def mean_area(chosen: Flags, chosen_2: Flags) -> float:
        """One area for each fold: scores of two classifiers are not on one scale."""
        found = zip(scores, sides, strict=True)
        return float(np.mean([area(a[chosen & on], b[chosen_2 & on_2]) for (a, b), (on, on_2) in found]))

    pairs = zip(halves(n, "real", seed=seed), halves(n, name, seed=seed), strict=True)
    on_halves = np.array([mean_area(a, b) for a, b in pairs])
    # the mean of two folds has half the variance that training brings to each
    noise = noise_of_gaps(np.array(gaps)[:, None] / np.sqrt(2), len(on_halves), name, seed=seed)[:, 0]
    everything = np.ones(n, bool)
    return Estimate(mean_area(everything, everything), on_halves - on_halves.mean() + noise, n, (0.0, 1.0))
