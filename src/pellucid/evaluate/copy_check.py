"""Are samples closer to the training data than new real data would be?

For each sample: is its nearest training item nearer than its nearest held-out item, the two sets being of equal size?
New real items say yes in half of the cases, copies always do. Ties count half. Distances only detect copying; they are
no measure of privacy (Yao et al. 2025, "The DCR delusion", arXiv:2505.01524): an audit of membership is.

Samples that share a nearest item say the same thing: a model that makes one picture again and again says one thing n
times. So the interval counts groups of such samples, by the effective number n^2 / sum of squared group sizes
(Kish 1965, section 8.2), and half-samples leave out whole groups.

Pictures are compared in pixels; tables by numbers on the range of the training rows and choices that differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.interval import wilson
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
    compared: items in each of the two sets. groups: effective number of groups of samples with one nearest item.
    median: median distance to the nearest of the training items compared.
    """

    closer: Estimate
    identical: Estimate
    compared: int
    groups: int
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
        name: of the generator, for the half-samples of identical ones.

    Raises:
        BadInput: fewer than 10 samples, training or held-out items, or items of different kinds.
    """
    check_rows(len(samples), "the copy check")
    size = min(len(train), len(held_out))
    check_rows(size, "the smaller of training and held-out data")
    generator = np.random.default_rng(seed)
    some, others = (d.take(np.sort(generator.permutation(len(d))[:size])) for d in (train, held_out))
    here = points_of(samples, train)
    near, near_2 = (nearest(here, points_of(items, train), 1) for items in (some, others))
    to_train, to_held_out = near.squared[:, 0], near_2.squared[:, 0]
    tied = np.isclose(to_train, to_held_out, rtol=1e-9, atol=1e-12)
    closer = np.where(tied, 0.5, to_train < to_held_out)
    group = np.where(to_train <= to_held_out, near.places[:, 0], size + near_2.places[:, 0])
    same = share(identical(samples, train).astype(np.float64), halves(len(samples), name, seed=seed))
    share_closer, effective = _share_of_groups(closer, group, 2 * size, seed)
    return CopyCheck(share_closer, same, size, effective, float(np.median(np.sqrt(to_train))))


def _share_of_groups(closer: Floats, group: NDArray[np.int64], groups: int, seed: int) -> tuple[Estimate, int]:
    """Share of samples, with half-samples of the groups they fall into (shared by all generators); their number."""
    value, sizes = float(closer.mean()), np.bincount(group, minlength=groups)
    sums = np.bincount(group, weights=closer, minlength=groups)
    masks = halves(groups, "items compared with", seed=seed).astype(np.float64)
    counted = masks @ sizes
    on_halves = np.where(counted > 0, masks @ sums / np.maximum(counted, 1), value)
    effective = max(1, round(len(closer) ** 2 / float(np.square(sizes).sum())))
    score = wilson(round(value * effective), effective)
    ends = (min(score.low, value), max(score.high, value))
    spread = on_halves - on_halves.mean()
    return Estimate(value, spread, len(closer), (0.0, 1.0), ends, "Wilson 95%"), effective


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
