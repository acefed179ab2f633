"""Which of many symbols? One decision tree, and how often each symbol stood in its leaf.

Breiman, Friedman, Olshen & Stone 1984, "Classification and regression trees", drawn from as in synthpop (Nowok, Raab &
Dibben 2016, https://doi.org/10.18637/jss.v074.i11, section 2.1): go down the tree and take the value of one of the rows
in the leaf. A second or less a table, and what every dearer generator of tables has to beat. A departure: each leaf
holds a twentieth of a row of the whole column besides its own, so that no symbol is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput

__all__ = ["Leaves", "grow_leaves"]

Ints: TypeAlias = NDArray[Any]  # of any width
Floats: TypeAlias = NDArray[Any]

WHOLE = 0.05  # rows of the whole column in each leaf
MOST_CLASSES = 256  # told apart while the tree grows; rarer symbols count as one


@dataclass(frozen=True, eq=False)
class Leaves:
    """A tree, and the symbols in its leaves.

    Args:
        feature, threshold: (S,) a row goes left when the code of the feature is at most the threshold.
        left, right: (S,) the split that follows, a later one, or -1 - leaf.
        key: (E,) sorted, leaf * V + symbol; rows: (E,) how many. count: (V,) of the whole column.
    """

    feature: Ints
    threshold: Ints
    left: Ints
    right: Ints
    key: Ints
    rows: Ints
    count: Ints
    # rows up to each entry, and before each leaf; P(symbol) of the whole column
    _upto: Floats = field(init=False, repr=False)
    _before: Floats = field(init=False, repr=False)
    _share: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        size = len(self.count)
        leaves = len(self.feature) + 1
        upto = np.r_[0.0, np.cumsum(self.rows, dtype=np.float64)]
        starts = np.searchsorted(self.key, np.arange(leaves + 1) * size)
        mass = self.count + 1.0 / size
        for name, value in {"upto": upto, "before": upto[starts], "share": mass / mass.sum()}.items():
            object.__setattr__(self, "_" + name, value)

    def leaf(self, features: Ints) -> Ints:
        """(B,) the leaf of each row of features (B, F)."""
        at = np.full(len(features), 0 if len(self.feature) else -1)
        while len(rows := np.flatnonzero(at >= 0)):
            node = at[rows]
            goes = features[rows, self.feature[node]] <= self.threshold[node]
            at[rows] = np.where(goes, self.left[node], self.right[node])
        return -1 - at

    def draw(self, features: Ints, u: Floats) -> Ints:
        """(B,) symbols by inverting the distribution at u (B,) in (0, 1)."""
        leaf = self.leaf(features)
        own = self._before[leaf + 1] - self._before[leaf]
        place = u * (own + WHOLE)
        inside = place < own
        at = np.searchsorted(self._upto, self._before[leaf] + np.where(inside, place, 0.0), side="right") - 1
        whole = np.searchsorted(np.cumsum(self._share), np.clip((place - own) / WHOLE, 0.0, 1.0 - 1e-9), side="right")
        size = len(self.count)
        key = self.key[np.minimum(at, len(self.key) - 1)] if len(self.key) else np.zeros_like(at)
        return np.where(inside, key % size, np.minimum(whole, size - 1))

    def log_prob(self, features: Ints, symbol: Ints) -> Floats:
        """(B,) log-probability of each row's symbol."""
        leaf = self.leaf(features)
        key = leaf * len(self.count) + symbol
        found = np.zeros(len(leaf))
        if len(self.key):
            at = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
            found = np.where(self.key[at] == key, self.rows[at], 0)
        own = self._before[leaf + 1] - self._before[leaf]
        return np.log((found + WHOLE * self._share[symbol]) / (own + WHOLE))

    def distribution(self, features: Ints) -> Floats:
        """(B, V) probabilities of all symbols."""
        size, leaf = len(self.count), self.leaf(features)
        kinds, which = np.unique(leaf, return_inverse=True)
        table = np.tile(WHOLE * self._share, (len(kinds), 1))
        mine = np.isin(self.key // size, kinds)
        np.add.at(table, (np.searchsorted(kinds, self.key[mine] // size), self.key[mine] % size), self.rows[mine])
        return (table / table.sum(1, keepdims=True))[which]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables."""
        kinds = {"feature": np.int16, "threshold": np.int16, "left": np.int32, "right": np.int32}
        kinds |= {"key": np.int64, "rows": np.int32, "count": np.int64}
        return {name: getattr(self, name).astype(kind) for name, kind in kinds.items()}

    @staticmethod
    def of_tensors(tables: Mapping[str, NDArray[Any]], codes: Ints, size: int) -> Leaves:
        """The inverse of `tensors`; BadInput when a table is none of a tree with such features and symbols."""
        found = {name: tables[name].astype(np.int64) for name in Leaves.__dataclass_fields__ if name[0] != "_"}
        feature, key, rows, count = (found[name] for name in ("feature", "key", "rows", "count"))
        many = len(feature)
        fits = all(a.ndim == 1 for a in found.values()) and count.shape == (size,) and key.shape == rows.shape
        fits = fits and all(found[name].shape == feature.shape for name in ("threshold", "left", "right"))
        fits = fits and bool(((feature >= 0) & (feature < len(codes))).all())
        fits = fits and bool((count >= 0).all() and (rows > 0).all() and (np.diff(key) > 0).all())
        fits = fits and (not len(key) or (key[0] >= 0 and key[-1] < (many + 1) * size))
        for side in ("left", "right"):
            child = found[side]
            fits = fits and bool(
                (((child > np.arange(many)) & (child < many)) | ((child < 0) & (child >= -1 - many))).all()
            )
        if not fits:
            raise BadInput("tables are no tree", accepted="splits that lead to later splits or to leaves with counts")
        return Leaves(**found)


def grow_leaves(features: Ints, symbol: Ints, size: int, leaf: int, seed: int) -> Leaves:
    """A tree for one column, learned from rows.

    Args:
        features: (N, F) codes of the columns before. symbol: (N,) of `size` symbols. leaf: fewest rows of a leaf.
    """
    from sklearn.tree import DecisionTreeClassifier

    count = np.bincount(symbol, minlength=size)
    none, at = np.zeros(0, np.int64), np.zeros(len(symbol), np.int64)
    feature = threshold = left = right = none
    if features.shape[1] and len(symbol) >= 2 * leaf and (count > 0).sum() > 1:
        rare = np.ones(size, np.bool_)
        rare[np.argsort(-count, kind="stable")[: MOST_CLASSES - 1]] = False
        said = np.where(rare[symbol], size, symbol)
        table = np.ascontiguousarray(features, dtype=np.float32)
        tree = DecisionTreeClassifier(min_samples_leaf=leaf, random_state=seed).fit(table, said).tree_
        inner = tree.children_left >= 0
        number = np.where(inner, np.cumsum(inner) - 1, -np.cumsum(~inner))  # splits from 0 up, leaf k is -1 - k
        feature, threshold = tree.feature[inner], np.floor(tree.threshold[inner]).astype(np.int64)
        left, right = number[tree.children_left[inner]], number[tree.children_right[inner]]
        at = -1 - number[tree.apply(table)]
    key, rows = np.unique(at * size + symbol, return_counts=True)
    return Leaves(feature, threshold, left, right, key, rows, count)
