"""How alike are two items, by themselves? Items as vectors, distances, and the kernel that they give.

The cheapest answer to the question where a sample comes from, and a strong one: every other is measured beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from pellucid.core.space import Real, Space, Tokens

__all__ = ["Metric", "gaussian", "vectors"]

Floats = NDArray[np.float64]

WIDEST = 4096  # numbers in a vector; longer one-hot rows are counted instead, or folded
FOLD = 2048  # columns that counts of neighbouring symbols are folded into
FLOOR = 1e-2  # of the largest variance: directions below are not blown up


def vectors(space: Space, x: Tensor) -> Floats:
    """Events (N, *event) as vectors (N, D) in which distance means something.

    Numbers as they are; a symbol as a corner of a simplex whose sides are 1; long rows of symbols of one alphabet as
    counts of single symbols and neighbouring pairs, so that the same words at another place are alike.
    """
    if isinstance(space, Real):
        return np.asarray(x.reshape(len(x), math.prod(x.shape[1:])).double().cpu().numpy())
    if isinstance(space, Tokens):
        x = x.reshape(len(x), math.prod(x.shape[1:])).long().cpu()
        if isinstance(space.vocab, tuple) or (not space.ends and sum(space.sizes) <= WIDEST):
            return np.concatenate([_corners(x[:, t], v) for t, v in enumerate(space.sizes)], axis=1)
        return _counts(x.numpy(), space)
    parts = space.split(x.cpu())
    return np.concatenate([vectors(f.space, parts[f.name]) for f in space.fields], axis=1)


def _corners(symbols: Tensor, alphabet: int) -> Floats:
    if alphabet > WIDEST:
        return np.asarray(one_hot(symbols % FOLD, FOLD).double().numpy()) / np.sqrt(2.0)
    return np.asarray(one_hot(symbols, alphabet).double().numpy()) / np.sqrt(2.0)


def _counts(x: NDArray[np.int64], space: Tokens) -> Floats:
    """(N, D) square roots of the shares of symbols and of pairs of neighbours, ends left out."""
    V = space.symbols
    pairs = x[:, :-1] * V + x[:, 1:]
    real = x != 0 if space.ends else np.ones_like(x, dtype=np.bool_)
    out = np.zeros((len(x), V + min(V * V, FOLD)))
    each = np.repeat(np.arange(len(x))[:, None], x.shape[1], axis=1)
    np.add.at(out, (each[real], x[real]), 1.0)
    both = real[:, :-1] & real[:, 1:]
    folded = pairs if V * V <= FOLD else (pairs * 2654435761 >> 7) % FOLD  # Knuth's multiplicative hash
    np.add.at(out, (each[:, :-1][both], V + folded[both]), 1.0)
    return np.asarray(np.sqrt(out / np.maximum(real.sum(axis=1, keepdims=True), 1)))


@dataclass(frozen=True, eq=False)
class Metric:
    """Squared distances from vectors, on the scale where two training items are 1 apart on average.

    Directions in which the training items vary much are drawn together: with gamma 1/2 a direction counts by the
    fourth root of what it would count whitened. Built by `Metric.learn`.

    among: (n, n) between training items. to: (Q, n) from queries to them.
    """

    among: Floats
    to: Floats

    @staticmethod
    def learn(train: Floats, queries: Floats, gamma: float = 0.0) -> Metric:
        """Distances with direction j of variance v_j weighted by (v_j + floor)^-gamma.

        Args:
            train: (n, D). queries: (Q, D). gamma: 0 for plain Euclid, 1 for Mahalanobis.
        """
        mean = train.mean(axis=0)
        a, b = train - mean, queries - mean
        if gamma and a.any():  # items that are all alike have no directions
            rows = a if len(a) <= WIDEST else a[np.random.default_rng(0).permutation(len(a))[:WIDEST]]
            _, s, V = np.linalg.svd(rows, full_matrices=False)
            v = np.square(s) / len(rows)
            weight = ((v + FLOOR * v[0]) / v[0]) ** (-gamma / 2)
            # what lies outside the directions that the items span counts as the weakest of them
            outside = ((FLOOR * v[0]) / v[0]) ** (-gamma / 2) if len(v) < a.shape[1] else 0.0
            a, b = (_turned(part, V, weight, outside) for part in (a, b))
        among, to = _squared(a, a), _squared(b, a)
        n = len(a)
        scale = among.sum() / max(1, n * (n - 1))
        return Metric(among / max(scale, 1e-12), to / max(scale, 1e-12))


def _turned(x: Floats, V: Floats, weight: Floats, outside: float) -> Floats:
    """(N, D) in the directions V (k, D), weighted, and the length of the rest as one more number."""
    inside = x @ V.T
    if not outside:
        return np.asarray(inside * weight)
    rest = np.sqrt(np.maximum(np.square(x).sum(axis=1) - np.square(inside).sum(axis=1), 0.0))
    return np.concatenate((inside * weight, outside * rest[:, None]), axis=1)


def _squared(a: Floats, b: Floats) -> Floats:
    """(A, B) squared distances."""
    found = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(found, 0.0))


def gaussian(squared: Floats, width: float) -> Floats:
    """exp(-d^2 / (2 width)) of squared distances on the scale of `Metric`.

    >>> gaussian(np.zeros(1), 0.5)
    array([1.])
    """
    return np.asarray(np.exp(-squared / (2.0 * width)))
