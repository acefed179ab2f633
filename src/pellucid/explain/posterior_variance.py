"""How well do the training items cover an item? Posterior variance, and what each training item takes off it.

A network trained to a low loss interpolates, as kernel regression does, and what it gets wrong on an item follows how
far that item lies outside what it was shown. A Gaussian process says this distance in closed form:

    V(q | S) = k(q, q) - k_qS (K_SS + lambda I)^-1 k_Sq        Rasmussen and Williams 2006, eq. 2.26

with S the training items. It foresees how the loss of q changes when items leave, also many at once and alike, which
no sum over single items can say: of two equal items neither is missed while the other stays. With A the inverse,

    V(q | S \\ i) - V(q | S) = (A k_Sq)_i^2 / A_ii             block inversion; ibid. section 5.4.2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

__all__ = ["growing", "joined", "left_out", "variance"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SIZES = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)  # of the sets that an item joins


def variance(K: Floats, k: Floats, own: Floats, lam: float, kept: Flags | None = None) -> Floats:
    """(Q,) V(q | S) of each query.

    Args:
        K: (n, n) kernel among training items. k: (Q, n) between queries and them. own: (Q,) k(q, q).
        lam: lambda, the ridge. kept: (n,) the items in S, all when None.

    >>> K, k = np.eye(2), np.array([[1.0, 0.0]])
    >>> variance(K, k, np.ones(1), 1.0), variance(K, k, np.ones(1), 1.0, np.array([False, True]))
    (array([0.5]), array([1.]))
    """
    K, k = (K, k) if kept is None else (K[np.ix_(kept, kept)], k[:, kept])
    L = cholesky(K + lam * np.eye(len(K)), lower=True, check_finite=False)
    Z = solve_triangular(L, k.T, lower=True, check_finite=False)
    return np.asarray(own - np.square(Z).sum(axis=0), dtype=np.float64)


def growing(K: Floats, k: Floats, own: Floats, lam: float, order: NDArray[np.int64]) -> Floats:
    """(n + 1, Q) V(q | S) with S the first 0, 1, ... n items of `order`; one factorisation for them all.

    The factor of the first m rows and columns is the first m rows and columns of the factor.

    >>> growing(np.eye(2), np.array([[1.0, 0.0]]), np.ones(1), 1.0, np.array([1, 0])).ravel()
    array([1. , 1. , 0.5])
    """
    L = cholesky(K[np.ix_(order, order)] + lam * np.eye(len(K)), lower=True, check_finite=False)
    Z = solve_triangular(L, k[:, order].T, lower=True, check_finite=False)
    fallen = np.vstack((np.zeros(len(k)), np.cumsum(np.square(Z), axis=0)))
    return np.asarray(own - fallen, dtype=np.float64)


def left_out(K: Floats, k: Floats, lam: float, kept: Flags | None = None) -> Floats:
    """(Q, n) by how much V(q | S) grows when item i leaves S; 0 for items that are not in S.

    >>> left_out(np.eye(2), np.array([[1.0, 0.0]]), 1.0)
    array([[0.5, 0. ]])
    """
    out = np.zeros(k.shape)
    K, part = (K, k) if kept is None else (K[np.ix_(kept, kept)], k[:, kept])
    L = cholesky(K + lam * np.eye(len(K)), lower=True, check_finite=False)
    W = solve_triangular(L, np.eye(len(K)), lower=True, check_finite=False)  # A = W' W
    gained = np.square(cho_solve((L, True), part.T, check_finite=False).T) / np.square(W).sum(axis=0)
    out[:, slice(None) if kept is None else kept] = gained
    return out


def joined(
    K: Floats,
    k: Floats,
    lam: float,
    *,
    times: int,
    seed: int,
    sizes: Sequence[float] = SIZES,
    tell: Callable[[int, int], None] | None = None,
) -> Floats:
    """(Q, n) by how much V(q | S) falls, on average, when item i joins a random S, over sizes of S from n/2 to n/32.

    A mean over sizes, as Shapley's value is: in small sets an item counts that lies near, in large ones an item that
    no other stands in for. At the full set alone, an item with an equal beside it would count for nothing.

    Args:
        times: sets of the largest size that each item is met in; of smaller ones in proportion more.
        sizes: of the sets, as shares of all items. tell: is called with (done, total) sizes.
    """
    n = len(K)
    total = np.zeros(k.shape)
    generator = np.random.default_rng([seed, n])
    for done, share in enumerate(sizes):
        if tell is not None:
            tell(done, len(sizes))
        size = max(2, min(n, round(share * n)))
        fallen, met = np.zeros(k.shape), np.zeros(n)
        for _ in range(round(times * max(sizes) / share)):  # small sets differ more, and cost less
            order = generator.permutation(n)
            for start in range(0, n - size + 1, size):  # sets side by side meet every item once
                kept = np.zeros(n, dtype=np.bool_)
                kept[order[start : start + size]] = True
                fallen += left_out(K, k, lam, kept)
                met += kept
        total += fallen / np.maximum(met, 1.0)
    return total / len(sizes)
