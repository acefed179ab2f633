"""Into which class does an item fall? A judge made from the data a model was fitted on, with its own error rate.

Pictures with classes get a judge trained on a part of the training pictures and scored on the rest. Tables are read
by one of their columns; a column that the model takes as a request is judged from the others, as reading it would
only give the request back. Data without classes is grouped by k-means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.labels import Judge

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Sorter", "sorter_for"]

Integers = NDArray[np.int64]

MOST_ITEMS = 4000  # that a judge is taught with
GROUPS = 8  # found by k-means where data has no classes
LEVELS = 20  # values of a column that still make classes


@dataclass(frozen=True, eq=False)
class Sorter:
    """Tells the class of each item.

    names: of the C classes. says: items to (N,) numbers from 0 to C - 1.
    accuracy: on real items it was not taught with; None where classes are read off and cannot be wrong.
    words: what it is, in one plain sentence.
    request: name of the model's condition that these classes are, if they are one.
    """

    names: tuple[str, ...]
    says: Callable[[Data], Integers]
    accuracy: Interval | None
    words: str
    request: str | None = None


def sorter_for(
    model: Fitted,
    data: Data,
    *,
    seed: int = 0,
    column: str | None = None,
    classifier: Callable[[Data], Sequence[str]] | None = None,
) -> Sorter:
    """The sorter that fits the data.

    Args:
        data: the items that the model was fitted on. column: of a table, whose values are the classes.
        classifier: a judge of your own: items to one class name each.
    """
    if len(data) < 20:
        raise BadInput(f"there are {len(data)} items to learn classes from", accepted="20 or more")
    if classifier is not None:
        return _own(classifier, data)
    if isinstance(data, Pictures):
        return _by_judge(data, seed) if len(data.classes()) > 1 else _by_groups(model, data, seed)
    if not isinstance(data, TableData):
        return _by_groups(model, data, seed)
    column = column or _column_of(model, data)
    if column is None:
        return _by_groups(model, data, seed)
    return _by_forest(model, data, column, seed) if column in model.codec.conditions else _by_column(data, column)


def _parted(n: int, seed: int) -> tuple[Integers, Integers]:
    """Indices to teach with and indices to score on, a quarter."""
    order = np.random.default_rng(seed).permutation(n)
    held = max(1, min(n // 4, 1000))
    return order[held:][:MOST_ITEMS], order[:held]


def _own(classifier: Callable[[Data], Sequence[str]], data: Data) -> Sorter:
    names = tuple(sorted(set(classifier(data.take(np.arange(min(len(data), 2000)))))))
    if len(names) < 2:
        raise BadInput(f"the classifier gives {len(names)} classes on the data", accepted="2 or more")
    place = {name: k for k, name in enumerate(names)}

    def says(items: Data) -> Integers:
        return np.array([place.get(name, len(names)) for name in classifier(items)], dtype=np.int64)

    return Sorter(names, says, None, "the classifier that was handed in, whose errors are not known here")


def _by_judge(data: Pictures, seed: int) -> Sorter:
    labels = data.labels or ()
    data = data.take([i for i, label in enumerate(labels) if label])
    teach, held = _parted(len(data), seed)
    judge = Judge.learn(data.take(teach), seed=seed)
    unseen = data.take(held)
    hits = sum(a == b for a, b in zip(judge.says(unseen), unseen.labels or (), strict=True))
    place = {name: k for k, name in enumerate(judge.classes)}

    def says(items: Data) -> Integers:
        assert isinstance(items, Pictures)
        return np.array([place[name] for name in judge.says(items)], dtype=np.int64)

    return Sorter(judge.classes, says, wilson(hits, len(unseen)), judge.name, "class")


def _column_of(model: Fitted, data: TableData) -> str | None:
    """The request's column, or the first one with few different values."""
    if model.codec.conditions:
        return next(iter(model.codec.conditions))
    usable = (c.name for c in data.columns if c.kind in ("category", "boolean") and 2 <= c.distinct <= LEVELS)
    return next(usable, None)


def _levels(data: TableData, column: str) -> tuple[tuple[str, ...], Callable[[TableData], Integers]]:
    """Classes of a column: its values, or thirds of its range where there are too many."""
    found = data.column(column)
    series = data.frame[column]
    if found.kind in ("category", "boolean") or series.nunique() <= LEVELS:
        names = tuple(sorted(series.dropna().astype(str).unique())[:LEVELS])
        place = {name: k for k, name in enumerate(names)}
        other = len(names)

        def says(items: TableData) -> Integers:
            texts = items.frame[column].astype(object)
            return np.array([place.get(str(v), other) for v in texts], dtype=np.int64)

        return (*names, "missing or other"), says
    low, high = np.nanquantile(_numbers(series), [1 / 3, 2 / 3])

    def thirds(items: TableData) -> Integers:
        return np.asarray(np.digitize(_numbers(items.frame[column]), [low, high]), dtype=np.int64)

    return tuple(f"{column} in its {which} third" for which in ("lowest", "middle", "highest")), thirds


def _numbers(series: pd.Series) -> NDArray[np.float64]:
    if pd.api.types.is_datetime64_any_dtype(series):
        days = (series - pd.Timestamp(0)) / pd.Timedelta(days=1)
        return np.asarray(days, dtype=np.float64)
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)


def _by_column(data: TableData, column: str) -> Sorter:
    names, says = _levels(data, column)

    def read(items: Data) -> Integers:
        assert isinstance(items, TableData)
        return says(items)

    return Sorter(names, read, None, f"the column '{column}' of the generated row, read off")


def _by_forest(model: Fitted, data: TableData, column: str, seed: int) -> Sorter:
    from sklearn.ensemble import RandomForestClassifier

    names, label = _levels(data, column)
    teach, held = _parted(len(data), seed)
    forest = RandomForestClassifier(100, random_state=seed)
    forest.fit(_vectors(model, data.take(teach)), label(data.take(teach)))

    def says(items: Data) -> Integers:
        return np.asarray(forest.predict(_vectors(model, items)), dtype=np.int64)

    unseen = data.take(held)
    hits = int((says(unseen) == label(unseen)).sum())
    words = f"a random forest that tells '{column}' from the other columns, trained on {len(teach):,} real rows"
    return Sorter(names, says, wilson(hits, len(unseen)), words, column)


def _by_groups(model: Fitted, data: Data, seed: int) -> Sorter:
    from sklearn.cluster import KMeans

    teach, _ = _parted(len(data), seed)
    groups = KMeans(min(GROUPS, len(teach) // 4), n_init=4, random_state=seed).fit(_vectors(model, data.take(teach)))

    def says(items: Data) -> Integers:
        return np.asarray(groups.predict(_vectors(model, items)), dtype=np.int64)

    words = f"one of {groups.n_clusters} groups that k-means found in {len(teach):,} training items without being told"
    return Sorter(tuple(f"group {k + 1}" for k in range(groups.n_clusters)), says, None, words)


def _vectors(model: Fitted, items: Data) -> NDArray[np.float64]:
    """(N, D) events as the engine sees them."""
    y, _ = model.event(items, Rows(0, torch.arange(len(items))))
    return y.flatten(1).double().numpy()
