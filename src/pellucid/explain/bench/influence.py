"""Influence where the truth is a formula or was planted, without training anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from pellucid.core.interval import bootstrap
from pellucid.core.space import Real
from pellucid.explain.forecast import DEFAULT, Grounds, helps
from pellucid.explain.posterior_variance import left_out
from pellucid.explain.similarity import vectors

__all__ = ["AUC", "BAR", "EXACT", "exact_error", "measure", "stamped", "stamped_set"]

BAR = "linear-Gaussian influence to 1e-6; stamped training items before others, AUC .99"
EXACT, AUC = 1e-6, 0.99

Pixels = NDArray[np.uint8]


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """The largest error against the closed form, and the area under the curve of a stamp of 3 x 3 pixels."""
    error = max(exact_error(seed + k) for k in range(2 if quick else 10))
    areas = stamped_set(3, seed + 1)
    found = bootstrap(lambda k: float(areas[k].mean()), len(areas), seed=seed)
    return {
        "largest_error": error,
        "stamp_auc": [round(v, 4) for v in (found.value, found.low, found.high)],
        "met": error <= EXACT and found.value >= AUC,
    }


def exact_error(seed: int = 0) -> float:
    """Of leaving each of 60 items out of a linear-Gaussian model, at 20 queries, against solving it anew."""
    g = np.random.default_rng([seed, 4])
    X, Q, lam = g.normal(size=(60, 8)), g.normal(size=(20, 8)), 0.3

    def spread(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(lam * np.linalg.inv(rows.T @ rows + lam * np.eye(8)), dtype=np.float64)

    closed = [np.einsum("qd,de,qe->q", Q, spread(np.delete(X, i, 0)) - spread(X), Q) for i in range(60)]
    return float(np.abs(left_out(X @ X.T, Q @ X.T, lam) - np.stack(closed, 1)).max())


def stamped(pixels: Pixels, size: int) -> Pixels:
    """Pictures (N, H, W) with a chessboard of so many pixels in their upper right corner."""
    out = pixels.copy()
    out[:, :size, -size:] = 255 * (np.indices((size, size)).sum(axis=0) % 2)
    return out


def stamped_set(size: int, seed: int = 1) -> NDArray[np.float64]:
    """(100,) areas under the curve: 30 of 600 digits carry the stamp, and 100 others that do are asked about."""
    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.images))[:700]
    pixels = found.images[order].astype(np.uint8) * 15
    carries = np.zeros(600, dtype=np.bool_)
    carries[np.random.default_rng(seed).permutation(600)[:30]] = True
    train, asked = pixels[:600].copy(), stamped(pixels[600:], size)
    train[carries] = stamped(train[carries], size)
    space = Real((1, 8, 8))
    a, b = (torch.from_numpy(p[:, None] / 127.5 - 1.0).float() for p in (train, asked))
    worth = helps(Grounds(vectors(space, a), vectors(space, b)), DEFAULT, np.arange(len(asked)))
    return np.array([roc_auc_score(carries, w) for w in worth])
