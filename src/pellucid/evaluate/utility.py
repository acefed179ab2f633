"""Is a model trained on generated rows as good on real rows as one trained on real rows?

Train on synthetic, test on real (Esteban, Hyland and Rätsch 2017, arXiv:1706.02633, section 4.1), with boosted trees,
since weak learners mislead: some score higher on synthetic than on real data. Utility alone proves little, as copies
have all of it: read it beside the copy check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from pellucid.core.errors import BadInput
from pellucid.domains.columns import Column
from pellucid.domains.frames import TableData
from pellucid.evaluate.matrices import TreeCells, codes, is_choice, is_number, levels, measured, numbers
from pellucid.evaluate.resampling import REFITS, Estimate, check_rows, halves, noise_of_gaps

__all__ = ["Target", "Utility", "area", "choose_target", "utility"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]

CLASSES = 20  # most frequent classes that are predicted; rows of others are left out


@dataclass(frozen=True)
class Target:
    """What is predicted.

    column: the column. classes: its values, most frequent first; empty for a number. asked: did the user name it?
    """

    column: Column
    classes: tuple[str, ...]
    asked: bool


@dataclass(frozen=True)
class Utility:
    """Scores on real test rows: area (macro over classes), macro-F1 and accuracy, or R^2 alone for a number."""

    area: Estimate | None = None
    macro_f1: Estimate | None = None
    accuracy: Estimate | None = None
    r2: Estimate | None = None


def choose_target(train: TableData) -> Target:
    """The target the user named, else the last choice of up to 20 values, else the last choice, else the last number.

    Raises:
        BadInput: there are fewer than two columns that vary.
    """
    columns = measured(train)
    if len(columns) < 2:
        raise BadInput(f"the table has {len(columns)} columns that vary", accepted="2 or more, one of them the target")
    named = [c for c in columns if c.name == train.target]
    few = [c for c in columns if is_choice(c) and len(levels(train, c)) <= CLASSES]
    column = (named or few or [c for c in columns if is_choice(c)] or list(columns))[-1]
    return Target(column, () if is_number(column) else levels(train, column, CLASSES), bool(named))


def utility(
    rows: TableData, test: TableData, target: Target, cells: TreeCells, *, seed: int = 0, name: str = "samples"
) -> Utility:
    """Train on `rows`, real or generated, and score on real test rows.

    The interval holds two sources of chance: which test rows (half-samples, the same for every `rows`), and which
    training rows. Fits on both halves h, h' of the training rows show the latter: ((s(h) - s(h')) / 2)^2 has the
    variance of s(rows) as its mean.

    Raises:
        BadInput: fewer than 20 training or 10 test rows that have the target.
    """
    y, y_test = _target_of(rows, target), _target_of(test, target)
    known, known_test = ~np.isnan(y), ~np.isnan(y_test)
    check_rows(int(known.sum()) // 2, f"half of the rows with a known '{target.column.name}'")
    check_rows(int(known_test.sum()), f"the test set with a known '{target.column.name}'")
    x, y, x_test, y_test = cells.matrix(rows)[known], y[known], cells.matrix(test)[known_test], y_test[known_test]
    score = _scores_of_number if not target.classes else _scores_of_classes
    masks = halves(len(y_test), "test", seed=seed)

    def scores(chosen: Flags, on: Flags) -> Floats:
        """(1 + len(on), S): scores on all test rows, and on each half-sample of them."""
        said = _fit_and_say(x[chosen], y[chosen], x_test, target, cells, seed)
        return np.array([score(y_test, said), *(score(y_test[mask], said[mask]) for mask in on)])

    everything = scores(np.ones(len(y), bool), masks)
    gaps = []
    for half in halves(len(y), f"{name} refits", seed=seed, times=REFITS):
        gaps.append((scores(half, masks[:0])[0] - scores(~half, masks[:0])[0]) / 2)
    spread = everything[1:] - everything[1:].mean(0) + noise_of_gaps(np.array(gaps), len(masks), name, seed=seed)
    found = [
        Estimate(float(everything[0, i]), spread[:, i], len(y), (0.0 if target.classes else -np.inf, 1.0))
        for i in range(everything.shape[1])
    ]
    return Utility(r2=found[0]) if not target.classes else Utility(*found)


def area(negative: Floats, positive: Floats) -> float:
    """Area under the ROC curve; 0.5 when one side is empty.

    >>> area(np.array([0.1, 0.4]), np.array([0.4, 0.9]))
    0.875
    """
    if not len(negative) or not len(positive):
        return 0.5
    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    return float((ranks.mean() - (len(positive) + 1) / 2) / len(negative))


def _target_of(data: TableData, target: Target) -> Floats:
    """(N,) numbers, or positions among the classes; NaN where missing or another class."""
    if not target.classes:
        return numbers(data, target.column)
    code = codes(data, target.column, target.classes).astype(np.float64)
    return np.where(code < len(target.classes), code, np.nan)


def _fit_and_say(x: Floats, y: Floats, x_test: Floats, target: Target, cells: TreeCells, seed: int) -> Floats:
    """(N,) predicted numbers, or (N, K) probabilities of the classes. One setting for all, tuned to none."""
    settings = dict(
        learning_rate=0.08,
        max_iter=200,
        max_leaf_nodes=15,
        min_samples_leaf=min(20, max(2, len(y) // 50)),
        l2_regularization=1.0,
        early_stopping=False,
        categorical_features=cells.categorical(),
        random_state=seed,
    )
    if not target.classes:
        said: Floats = HistGradientBoostingRegressor(**settings).fit(x, y).predict(x_test)
        return said
    probabilities = np.zeros((len(x_test), len(target.classes)))
    present = np.unique(y).astype(np.int64)
    if len(present) == 1:
        probabilities[:, present] = 1.0
    else:
        model = HistGradientBoostingClassifier(**settings).fit(x, y.astype(np.int64))
        probabilities[:, model.classes_] = model.predict_proba(x_test)
    return probabilities


def _scores_of_number(y: Floats, said: Floats) -> tuple[float, ...]:
    return (float(1 - np.square(y - said).mean() / max(y.var(), 1e-300)),)


def _scores_of_classes(y: Floats, said: Floats) -> tuple[float, ...]:
    """Area, macro-F1 and accuracy over the classes that occur in y."""
    true, best = y.astype(np.int64), said.argmax(1)
    classes = np.unique(true)
    looked_at = classes[-1:] if said.shape[1] == 2 else classes  # of two classes both areas are the same
    areas = [area(said[true != c, c], said[true == c, c]) for c in looked_at]
    hits = np.bincount(true[true == best], minlength=said.shape[1])
    sizes = np.bincount(true, minlength=said.shape[1]) + np.bincount(best, minlength=said.shape[1])
    f1 = 2 * hits[classes] / sizes[classes]
    return float(np.mean(areas)), float(f1.mean()), float((true == best).mean())
