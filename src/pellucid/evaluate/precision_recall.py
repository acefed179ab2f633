"""Are the samples like real data (precision, density), and is all real data like some sample (recall, coverage)?

A sample counts as real-like when it lies in the ball of some real point that reaches to that point's k-th nearest real
neighbour; recall swaps the roles.

    precision = share of samples in some real ball        Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 2
    recall    = share of real points in some sample's ball                                           eq. 3
    density   = real balls that hold a sample, on average, divided by k   Naeem et al. 2020, arXiv:2002.09797, eq. 4
    coverage  = share of real balls that hold some sample                                            eq. 5

Copies are at distance 0 and count as inside. One far outlier widens a ball: that is why density and coverage, which
use only real balls, stand beside precision and recall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.evaluate.neighbours import Near, Points, nearest, within
from pellucid.evaluate.resampling import Estimate, check_rows, halves

__all__ = ["PrecisionRecall", "precision_recall"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

KEPT = 24  # neighbours kept of each point: of 24, a random half holds fewer than 3 in 1 of 50,000 cases


@dataclass(frozen=True)
class PrecisionRecall:
    """Four shares (density can pass 1), each with its variation over half-samples of both sets."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def precision_recall(
    real: Points, generated: Points, *, k: int = 3, seed: int = 0, name: str = "samples"
) -> PrecisionRecall:
    """Precision, recall, density and coverage of two sets of features of equal size.

    Args:
        real, generated: N points each.
        k: the neighbour that a ball reaches to.
        name: of the generator; its half-samples are its own, those of the real points are shared.

    Raises:
        BadInput: fewer than 10 points, unequal numbers, or k too large for half of them.
    """
    n = len(real)
    check_rows(n, "precision and recall", len(generated))
    if not 1 <= k < n // 2:
        raise BadInput(f"k is {k} for {n} points", accepted=f"1 to {n // 2 - 1}", why="half of them need k neighbours")
    chosen = np.vstack([np.ones((1, n), bool), halves(n, "real", seed=seed)])  # the first row is everything
    chosen_2 = np.vstack([np.ones((1, n), bool), halves(n, name, seed=seed)])
    kept = min(KEPT, n - 1)
    balls = _radii(nearest(real, real, kept, themselves=True), chosen, k)
    balls_2 = _radii(nearest(generated, generated, kept, themselves=True), chosen_2, k)

    times = len(chosen)
    inside, met, held = np.zeros((times, n)), np.zeros((times, n), bool), np.zeros((times, n), bool)
    for i, j, squared in within(generated, real, balls.max(0), balls_2.max(0)):
        for r in range(times):
            both = chosen_2[r, i] & chosen[r, j]
            in_real = both & (squared <= balls[r, j])
            inside[r] += np.bincount(i[in_real], minlength=n)
            held[r, j[in_real]] = True
            met[r, j[both & (squared <= balls_2[r, i])]] = True
    sizes, sizes_2 = chosen.sum(1), chosen_2.sum(1)
    return PrecisionRecall(
        precision=_estimate((inside > 0).sum(1) / sizes_2, n, 1.0),
        recall=_estimate(met.sum(1) / sizes, n, 1.0),
        density=_estimate(inside.sum(1) / sizes_2 / k, n, np.inf),
        coverage=_estimate(held.sum(1) / sizes, n, 1.0),
    )


def _radii(near: Near, chosen: Flags, k: int) -> Floats:
    """Squared distance to the k-th nearest chosen neighbour: chosen (R, N) gives (R, N)."""
    radii = np.empty(chosen.shape)
    for r, mask in enumerate(chosen):
        reached = mask[near.places].cumsum(axis=1) >= k
        place = np.where(reached[:, -1], reached.argmax(axis=1), near.places.shape[1] - 1)
        radii[r] = near.squared[np.arange(len(place)), place]
    return radii


def _estimate(values: Floats, n: int, most: float) -> Estimate:
    """values[0] is that of all points, the others those of the half-samples."""
    return Estimate(float(values[0]), values[1:] - values[1:].mean(), n, (0.0, most))
