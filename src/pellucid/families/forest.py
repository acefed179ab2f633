"""Many small decision trees as plain tables, and all of them asked at once.

A tree is a list of splits. A split sends a row left when the code of one feature is at most a threshold, or is one of
a set of codes. Features are codes from 0 to 127, so a set is 128 bits. Nothing here can execute: a forest that came
from a file is integers and numbers, which are checked.

Asking follows Lucchese et al. 2015, "QuickScorer: a fast algorithm to rank documents with additive ensembles of
regression trees", section 3: a tree has at most 16 leaves, numbered from left to right, and every split that is
decided rules leaves out. As features are few codes, what all splits of one tree on one feature leave over is looked up
by the code at once; what is left over by all features is one leaf. No path is followed and no row waits for another.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput

__all__ = ["CODES", "LEAVES", "Forest", "Stage", "joined"]

Ints: TypeAlias = NDArray[Any]  # of any width
Floats: TypeAlias = NDArray[Any]

CODES = 128  # of a feature
LEAVES = 16  # of a tree
AT_ONCE = 2**17  # rows times trees asked together: what fits into a processor's cache

_LOWEST = np.zeros(2**16, np.uint8)  # place of the lowest bit
for _bit in reversed(range(16)):
    _LOWEST[1 << _bit :: 1 << (_bit + 1)] = _bit


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees one after another.

    Args:
        first_split, first_leaf: (T + 1,) where each tree's splits and leaves begin; a tree has one leaf more than
            splits.
        feature: (S,) that a split looks at. threshold: (S,) codes up to it go left; -1 - k for set k.
        left, right: (S,) the split of the same tree that follows, or -1 - leaf.
        sets: (K, 128) bool, codes that go left.
        values: (L,) float32 of the leaves.

    A tree's splits stand before those that follow them, and its leaves are numbered from left to right.
    """

    first_split: Ints
    first_leaf: Ints
    feature: Ints
    threshold: Ints
    left: Ints
    right: Ints
    sets: NDArray[np.bool_]
    values: Floats

    @property
    def trees(self) -> int:
        return len(self.first_split) - 1

    @staticmethod
    def empty() -> Forest:
        one, none = np.zeros(1, np.int32), np.zeros(0, np.int16)
        return Forest(one, one, none, none, none, none, np.zeros((0, CODES), np.bool_), np.zeros(0, np.float32))

    @staticmethod
    def of_text(text: str, trees: int) -> Forest:
        """The first trees of a LightGBM model in its own text form.

        Each feature is whole numbers from 0 to 127 without missing ones, and a tree has at most 16 leaves.
        """
        found = []
        for block in text.split("\nTree=")[1 : trees + 1]:
            words = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines() if "=" in line)
            found.append(_of_words(words))
        return joined(found) if found else Forest.empty()

    def part(self, low: int, high: int) -> Forest:
        """Trees `low` to `high` - 1."""
        splits, leaves = self.first_split[low : high + 1], self.first_leaf[low : high + 1]
        here, ends = slice(int(splits[0]), int(splits[-1])), slice(int(leaves[0]), int(leaves[-1]))
        return Forest(
            splits - splits[0], leaves - leaves[0], self.feature[here], self.threshold[here], self.left[here],
            self.right[here], self.sets, self.values[ends],
        )  # fmt: skip

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables, the sets packed to 16 bytes each."""
        return {
            "first_split": self.first_split.astype(np.int32),
            "first_leaf": self.first_leaf.astype(np.int32),
            "feature": self.feature.astype(np.int16),
            "threshold": self.threshold.astype(np.int32),
            "left": self.left.astype(np.int8),
            "right": self.right.astype(np.int8),
            "sets": np.packbits(self.sets, axis=1),
            "values": self.values.astype(np.float32),
        }

    @staticmethod
    def of_tensors(tables: Mapping[str, NDArray[Any]], features: int) -> Forest:
        """The inverse of `tensors`, for rows of so many features; BadInput when a table is none of a forest."""
        first_split, first_leaf = tables["first_split"].astype(np.int64), tables["first_leaf"].astype(np.int64)
        feature, threshold = tables["feature"].astype(np.int64), tables["threshold"].astype(np.int64)
        left, right = tables["left"].astype(np.int64), tables["right"].astype(np.int64)
        packed, values = tables["sets"], tables["values"]
        fits = first_split.ndim == first_leaf.ndim == 1 and len(first_split) == len(first_leaf) > 0
        fits = fits and packed.ndim == 2 and packed.shape[1:] == (CODES // 8,) and packed.dtype == np.uint8
        splits = np.diff(first_split)
        fits = fits and first_split[0] == first_leaf[0] == 0 and bool(((splits >= 0) & (splits < LEAVES)).all())
        fits = fits and bool((np.diff(first_leaf) == splits + 1).all())
        fits = fits and feature.shape == threshold.shape == left.shape == right.shape == (int(first_split[-1]),)
        fits = fits and values.shape == (int(first_leaf[-1]),) and bool(np.isfinite(values).all())
        if fits:
            own = np.arange(len(feature)) - np.repeat(first_split[:-1], splits)
            many = np.repeat(splits, splits)
            fits = bool(((feature >= 0) & (feature < features)).all())
            fits = fits and bool(((threshold >= -len(packed)) & (threshold < CODES)).all())
            for child in (left, right):  # a split is followed by a later one, so that no walk goes round
                fits = fits and bool((((child > own) & (child < many)) | ((child < 0) & (child >= -1 - many))).all())
        if not fits:
            raise BadInput("tables are no forest", accepted="splits that lead to later splits or leaves of their tree")
        sets = np.unpackbits(packed, axis=1).astype(np.bool_)
        return Forest(first_split, first_leaf, feature, threshold, left, right, sets, values.astype(np.float32))

    def masks(self) -> tuple[Ints, Ints, NDArray[np.uint16]]:
        """What is left of each tree's leaves after one feature was seen.

        Returns (P,) trees and (P,) features, each pair once, and (P, 128) masks of 16 bits, one a code.
        """
        tree = np.repeat(np.arange(self.trees), np.diff(self.first_split))
        below_left, below_right = self._below(tree)
        codes = np.arange(CODES)
        goes = codes <= self.threshold[:, None]  # (S, 128)
        among = self.threshold < 0
        goes[among] = self.sets[-1 - self.threshold[among]]
        kept = np.where(goes, ~below_right[:, None], ~below_left[:, None]).astype(np.uint16)
        order = np.lexsort((self.feature, tree))
        pair = np.stack((tree[order], self.feature[order]), 1)
        start = np.flatnonzero(np.r_[True, (np.diff(pair, axis=0) != 0).any(1)]) if len(pair) else np.zeros(0, np.int64)
        if not len(start):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, CODES), np.uint16)
        return pair[start, 0], pair[start, 1], np.bitwise_and.reduceat(kept[order], start, axis=0)

    def _below(self, tree: Ints) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """(S,) leaves below each split's left and right side as 16 bits; later splits come first."""
        sides = []
        at = self.first_split[:-1][tree] if len(tree) else np.zeros(0, np.int64)
        own = np.arange(len(tree)) - at
        masks = [np.where(c < 0, np.uint16(1) << np.clip(-1 - c, 0, 15).astype(np.uint16), 0).astype(np.uint16)
                 for c in (self.left, self.right)]  # fmt: skip
        for place in reversed(range(int(own.max(initial=-1)) + 1)):
            here = np.flatnonzero(own == place)
            for child, mask in zip((self.left, self.right), masks, strict=True):
                inner = here[child[here] >= 0]
                following = at[inner] + child[inner]
                mask[inner] = masks[0][following] | masks[1][following]
        sides += masks
        return sides[0], sides[1]


def joined(forests: Sequence[Forest]) -> Forest:
    """One forest after another."""
    if not forests:
        return Forest.empty()
    splits = np.cumsum([0, *(int(f.first_split[-1]) for f in forests)])
    leaves = np.cumsum([0, *(int(f.first_leaf[-1]) for f in forests)])
    sets = np.cumsum([0, *(len(f.sets) for f in forests)])
    each = list(zip(forests, splits[:-1], leaves[:-1], sets[:-1], strict=True))
    return Forest(
        np.concatenate([[0], *(f.first_split[1:] + s for f, s, _, _ in each)]),
        np.concatenate([[0], *(f.first_leaf[1:] + n for f, _, n, _ in each)]),
        np.concatenate([f.feature for f in forests]),
        np.concatenate([np.where(f.threshold < 0, f.threshold - k, f.threshold) for f, _, _, k in each]),
        np.concatenate([f.left for f in forests]),
        np.concatenate([f.right for f in forests]),
        np.concatenate([f.sets for f in forests]),
        np.concatenate([f.values for f in forests]),
    )


@dataclass(frozen=True, eq=False)
class Stage:
    """Several sums of trees, of which each row asks one.

    Args:
        forest: the trees of all sums, one sum after another. first: (N + 1,) where each sum's trees begin.
        codes: (F,) how many codes each feature has.
    """

    forest: Forest
    first: Ints
    codes: Ints
    _masks: dict[int, NDArray[np.uint16]] = field(init=False, repr=False)
    _values: NDArray[np.float32] = field(init=False, repr=False)
    _widest: int = field(init=False)

    def __post_init__(self) -> None:
        sums = len(self.first) - 1
        widest = int(np.diff(self.first).max(initial=0))
        object.__setattr__(self, "_widest", widest)
        if not widest:
            return
        of, place = np.repeat(np.arange(sums), np.diff(self.first)), np.arange(self.forest.trees)
        place = place - np.repeat(self.first[:-1], np.diff(self.first))
        values = np.zeros((sums, widest, LEAVES), np.float32)  # a tree that a sum lacks is one leaf of 0
        leaves = np.diff(self.forest.first_leaf)
        leaf = np.arange(int(leaves.sum())) - np.repeat(self.forest.first_leaf[:-1], leaves)
        values[np.repeat(of, leaves), np.repeat(place, leaves), leaf] = self.forest.values
        start = np.full((sums, widest), 1, np.uint16)
        start[of, place] = ((1 << leaves.astype(np.int64)) - 1).astype(np.uint16)
        tree, feature, kept = self.forest.masks()
        masks = {-1: start[:, None, :]}
        for f in np.unique(feature).tolist():
            those = feature == f
            table = np.full((sums, int(self.codes[f]), widest), 0xFFFF, np.uint16)
            table[of[tree[those]], :, place[tree[those]]] = kept[those][:, : int(self.codes[f])]
            masks[f] = table
        object.__setattr__(self, "_masks", {f: m.reshape(-1, widest) for f, m in masks.items()})
        object.__setattr__(self, "_values", values.reshape(-1))

    def __call__(self, features: Ints, which: Ints) -> NDArray[np.float32]:
        """(B,) the sum that each row asks: features (B, F) of codes and which (B,) sum."""
        out = np.zeros(len(which), np.float32)
        if not self._widest:
            return out
        step = max(1, AT_ONCE // self._widest)
        places = np.arange(self._widest, dtype=np.int32)[None] * LEAVES
        for i in range(0, len(which), step):
            here = which[i : i + step]
            left = self._masks[-1].take(here, axis=0)
            for f, table in self._masks.items():
                if f >= 0:
                    left &= table.take(here * int(self.codes[f]) + features[i : i + step, f], axis=0)
            leaf = _LOWEST.take(left).astype(np.int32)
            leaf += places + (here * (self._widest * LEAVES)).astype(np.int32)[:, None]
            out[i : i + step] = self._values.take(leaf).sum(axis=1)
        return out


def _of_words(words: Mapping[str, str]) -> Forest:
    """One tree of LightGBM's text form, its leaves numbered anew from left to right and its splits from the root."""
    leaves = int(words["num_leaves"])
    values = np.array(words["leaf_value"].split(), np.float64)
    if leaves == 1:
        end = Forest.empty()
        one = np.array([0, 1], np.int32)
        none = end.feature
        return Forest(np.zeros(2, np.int32), one, none, none, none, none, end.sets, values.astype(np.float32))
    feature, kind = np.array(words["split_feature"].split(), np.int64), np.array(words["decision_type"].split(), int)
    raw = np.array(words["threshold"].split(), np.float64)
    child = np.stack([np.array(words[f"{side}_child"].split(), np.int64) for side in ("left", "right")])
    sets = np.zeros((0, CODES), np.bool_)
    threshold = np.floor(np.clip(raw, 0.0, CODES - 1)).astype(np.int64)
    among = (kind & 1).astype(bool)
    if among.any():
        bounds = np.array(words["cat_boundaries"].split(), np.int64)
        parts = np.array(words["cat_threshold"].split(), np.uint32)
        sets = np.zeros((len(bounds) - 1, CODES), np.bool_)
        for k, (low, high) in enumerate(itertools.pairwise(bounds.tolist())):
            bits = np.unpackbits(parts[low:high].view(np.uint8), bitorder="little")[:CODES]
            sets[k, : len(bits)] = bits
        threshold[among] = -1 - raw[among].astype(np.int64)
    order, found, stack = [], [], [0]
    while stack:  # the left side first: splits in the order of the walk, leaves from left to right
        node = stack.pop()
        if node < 0:
            found.append(-1 - node)
        else:
            order.append(node)
            stack += [int(child[1, node]), int(child[0, node])]
    split_at, leaf_at = np.argsort(order), np.argsort(found)
    new = np.where(child >= 0, split_at[child.clip(min=0)], -1 - leaf_at[(-1 - child).clip(min=0)])
    return Forest(
        np.array([0, len(order)]),
        np.array([0, leaves]),
        feature[order],
        threshold[order],
        new[0][order],
        new[1][order],
        sets,
        values[found].astype(np.float32),
    )
