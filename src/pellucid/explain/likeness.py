"""How far do two answers to the same question say the same? Correlation of scores over places, row by row.

Ranks see an order and no sizes (Spearman 1904); plain correlation sees sizes, and so is not shaken by the order of
places that do not matter; of maps, the correlation within small windows sees edges that have moved as a whole
(the structure term of Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, eq. 10, each window weighed by its
contrast: on flat ground two maps agree about nothing). The largest of them counts: what any of them sees is there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

from pellucid.core.errors import BadInput

__all__ = ["likeness"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

WINDOW = 5  # pixels, or half the shorter side where that is less


def likeness(a: Floats, b: Floats, allowed: Flags | None = None, shape: tuple[int, int] | None = None) -> Floats:
    """(N,) from -1 to 1 for scores a, b (N, P): 1 says the same, 0 nothing in common, 0 too where one of them is flat.

    Args:
        allowed: (N, P) places that count, all when None. shape: (H, W) where places are pixels in reading order.

    >>> likeness(np.array([[1.0, 2.0, 9.0]]), np.array([[0.0, 5.0, 6.0]])).tolist()
    [1.0]

    Raises:
        BadInput: shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise BadInput(f"scores have shapes {a.shape} and {b.shape}", accepted="(N, P), twice the same")
    out = np.zeros(len(a))
    for i in range(len(a)):
        pick = slice(None) if allowed is None else allowed[i]
        one, two = a[i][pick], b[i][pick]
        found = [_correlation(rankdata(one), rankdata(two)), _correlation(one, two)]
        if shape is not None and allowed is None:
            found.append(_structure(one.reshape(shape), two.reshape(shape)))
        out[i] = max(found)
    return out


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's; 0 where one is flat."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    flat = size <= 1e-12 * max(1e-300, float(np.abs(a).max() * np.abs(b).max())) * len(a)
    return 0.0 if flat else float(np.clip((x @ y) / size, -1.0, 1.0).round(12))


def _structure(a: Floats, b: Floats) -> float:
    """Covariance within windows over the product of spreads within them, both summed over all windows."""
    side = max(2, min(WINDOW, min(a.shape) // 2))

    def mean(x: Floats) -> Floats:
        return np.asarray(uniform_filter(x, side, mode="reflect"), dtype=np.float64)

    va, vb = (np.maximum(mean(x * x) - mean(x) ** 2, 0.0) for x in (a, b))
    both = mean(a * b) - mean(a) * mean(b)
    size = float(np.sqrt(va * vb).sum())
    least = 1e-9 * float(np.ptp(a) * np.ptp(b)) * a.size
    return 0.0 if size <= least else float(np.clip(both.sum() / size, -1.0, 1.0))
