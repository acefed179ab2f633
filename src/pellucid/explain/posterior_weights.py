"""Which training items would the best possible denoiser have answered with? Their posterior weights, over the noise.

Had a network all the room there is, it would answer with the mean of the training items, each weighted by how likely
the noisy item came from it:

    D(x_t) = sum_i w_i x_i,    w_i proportional to exp(-|x_t - x_i|^2 / 2 (sigma^2 + h^2)),    x_t = q + sigma * noise
                                        empirical Bayes (Robbins 1956); Karras et al. 2022, arXiv:2206.00364, eq. 57

A network smooths more than that; the width h says by how much. No gradient is taken, and nothing of the network is
asked, so these weights say what the data would have a denoiser do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["posterior_weights"]

Floats = NDArray[np.float64]

LEVELS = (0.1, 0.2, 0.35, 0.6, 1.0)  # noise, in mean distances between training items


def posterior_weights(to: Floats, *, width: float) -> Floats:
    """(Q, n) weights, summing to 1 a query, averaged over noise levels.

    The noise of x_t shifts all distances by about the same and is averaged out, which leaves those of q itself.

    Args:
        to: (Q, n) squared distances on the scale of `Metric`. width: h^2 on that scale.

    >>> posterior_weights(np.array([[0.0, 0.0]]), width=0.1)
    array([[0.5, 0.5]])
    """
    total = np.zeros(to.shape)
    for level in LEVELS:
        log_w = -to / (2.0 * (level * level + width))
        w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
        total += w / w.sum(axis=1, keepdims=True)
    return total / len(LEVELS)
