"""Are samples closer to the training data than new real data would be?

For each sample: is its nearest training item nearer than its nearest held-out item, the two sets being of equal size?
New real items say yes in half of the cases, copies always do. Ties count half. Distances only detect copying; they are
no measure of privacy (Yao et al. 2025, "The DCR delusion", arXiv:2505.01524): an audit of membership is.

Pictures are compared in pixels; tables by numbers on the range of the training rows and choices that differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.matrices import measured, points
from pellucid.evaluate.neighbours import Points, nearest
from pellucid.evaluate.resampling import Estimate, check_rows, halves, share

__all__ = ["CopyCheck", "copy_check", "identical", "points_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CopyCheck:
    """How close samples come to training data.

    closer: share of samples nearer to training items than to as many held-out items; about 0.5 without copying.
    identical: share of samples that equal some training item in every pixel or cell.
    compared: items in each of the two sets. median: median distance to the nearest of those training items.
    """

    closer: Estimate
    identical: Estimate
    compared: int
    median: float


def copy_check(
    samples: Pictures | TableData,
    train: Pictures | TableData,
    held_out: Pictures | TableData,
    *,
    seed: int = 0,
    name: str = "samples",
) -> CopyCheck:
    """Compare samples with training items and as many held-out items.

    The larger of both sets is cut at random to the size of the smaller. Real items given as samples, to see what no
    copying looks like, must be in neither.

    Args:
        name: of the generator, for its half-samples.

    Raises:
        BadInput: fewer than 10 samples, training or held-out items, or items of different kinds.
    """
    check_rows(len(samples), "the copy check")
    size = min(len(train), len(held_out))
    check_rows(size, "the smaller of training and held-out data")
    generator = np.random.default_rng(seed)
    some, others = (d.take(np.sort(generator.permutation(len(d))[:size])) for d in (train, held_out))
    here = points_of(samples, train)
    to_train = nearest(here, points_of(some, train), 1).squared[:, 0]
    to_held_out = nearest(here, points_of(others, train), 1).squared[:, 0]
    tied = np.isclose(to_train, to_held_out, rtol=1e-9, atol=1e-12)
    closer = np.where(tied, 0.5, to_train < to_held_out)
    masks = halves(len(samples), name, seed=seed)
    same = identical(samples, train).astype(np.float64)
    return CopyCheck(share(closer, masks), share(same, masks), size, float(np.median(np.sqrt(to_train))))


def identical(samples: Pictures | TableData, others: Pictures | TableData) -> NDArray[np.bool_]:
    """(N,) which samples equal one of the others in every pixel or measured cell."""
    if isinstance(samples, Pictures) and isinstance(others, Pictures):
        known = {picture.tobytes() for picture in others.pixels}
        return np.array([picture.tobytes() in known for picture in samples.pixels], bool)
    both = [points_of(d, others) for d in (samples, others)]
    rows = [pd.DataFrame(np.hstack([p.numbers, p.symbols])) for p in both]
    hashes = [pd.util.hash_pandas_object(frame, index=False).to_numpy() for frame in rows]
    return np.isin(hashes[0], hashes[1])


def points_of(items: Pictures | TableData, train: Pictures | TableData) -> Points:
    """Items as points for the copy check: pixels as whole numbers, or cells scaled by the training rows."""
    if isinstance(items, Pictures) and isinstance(train, Pictures):
        if items.pixels.shape[1:] != train.pixels.shape[1:]:
            raise BadInput(
                f"pictures of shape {items.pixels.shape[1:]}", accepted=f"{train.pixels.shape[1:]}, as in training"
            )
        return Points(items.pixels.reshape(len(items), -1).astype(np.float64))
    if isinstance(items, TableData) and isinstance(train, TableData) and measured(train):
        return points(items, train)
    raise BadInput(
        f"{type(items).__name__} beside {type(train).__name__}", accepted="pictures or tables, all of one kind"
    )
