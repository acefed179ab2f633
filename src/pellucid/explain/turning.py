"""Directions of a latent space, and what turning along them does.

Four ways to find them, none of which trains anything:

    spread      principal components of the latents of real items; Harkonen et al. 2020, GANSpace, arXiv:2004.02546
    first layer right singular vectors of the first layer's weights; Shen and Zhou 2021, SeFa, arXiv:2007.06600, eq. 6
    class mean  difference between the mean latents of two classes of real items
    factor      least-squares direction of a measured factor over the latents of real items, the others held fixed

What a direction does is measured: items are drawn along it and their factors read off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.explain.ablation import agreement

__all__ = ["Direction", "Turned", "class_means", "factor_directions", "first_layer", "principal", "turned"]

Floats = NDArray[np.float64]
RIDGE = 1e-3  # of the latents' own variance
VALID = 0.5  # share of the fitted straightness that both halves of a range must keep


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector (D,) in the latent space; found: how. step: its natural length, the latents' spread along it."""

    name: str
    found: str
    vector: Floats
    step: float


@dataclass(frozen=True, eq=False)
class Turned:
    """What turning along a direction does to F factors.

    at: (S,) places along the direction, in units of its step. means: (S, F) of the factors, in standard deviations of
    real items. effect: (F,) slope of each factor a step. straight: (F,) R2 of a straight line through the means of a
    sample, averaged over the samples. monotone: (F,) rank correlation with the place. main: the factor it moves most.
    leakage: the largest slope of another factor, as a share of the main one's. low, high: where the main factor still
    follows the line.
    """

    at: Floats
    means: Floats
    effect: Floats
    straight: Floats
    monotone: Floats
    main: int
    leakage: float
    low: float
    high: float


def principal(z: Floats, count: int) -> tuple[Direction, ...]:
    """First principal components of latents z (N, D).

    >>> z = np.outer(np.linspace(-1, 1, 9), [3.0, 4.0])
    >>> principal(z, 1)[0].vector.round(6).tolist()
    [0.6, 0.8]
    """
    centred = z - z.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    found = min(count, int((sizes > 1e-9 * max(1e-300, sizes[0])).sum()))
    spreads = sizes / np.sqrt(max(1, len(z) - 1))
    return tuple(Direction(f"component {k + 1}", "spread", _signed(axes[k]), float(spreads[k])) for k in range(found))


def first_layer(weight: Floats, count: int) -> tuple[Direction, ...]:
    """Right singular vectors of the first layer's weights (outputs, D): what a latent moves most, in closed form."""
    _, _, axes = np.linalg.svd(weight, full_matrices=False)
    return tuple(Direction(f"axis {k + 1}", "first layer", _signed(axes[k]), 1.0) for k in range(min(count, len(axes))))


def class_means(z: Floats, labels: Sequence[int], names: Sequence[str]) -> tuple[Direction, ...]:
    """From the mean of all latents z (N, D) towards the mean of each class with 5 items or more."""
    number, out = np.asarray(labels), []
    for k, name in enumerate(names):
        own = z[number == k]
        if len(own) >= 5 and len(own) < len(z):
            away = own.mean(axis=0) - z[number != k].mean(axis=0)
            size = float(np.linalg.norm(away))
            if size > 0.0:
                out.append(Direction(f"towards {name}", "class mean", away / size, size / 2.0))
    return tuple(out)


def factor_directions(z: Floats, factors: Floats, names: Sequence[str]) -> tuple[Direction, ...]:
    """For each factor (N, F) the direction in which latents move with it alone.

    The factors are regressed out of one another: z = mean + factors A + rest, fitted by least squares, and row k of A
    is how latents move when factor k rises by one standard deviation and the others stay.
    """
    known = np.isfinite(factors).all(axis=1)
    z, f = z[known], factors[known]
    if len(z) < 2 * f.shape[1] + 5:
        raise BadInput(f"there are {len(z)} items for {f.shape[1]} factors", accepted="more than twice as many")
    f = f - f.mean(axis=0)
    spread = f.std(axis=0)
    use = np.flatnonzero(spread > 1e-9)
    f = f[:, use] / spread[use]
    moved = np.linalg.solve(f.T @ f + RIDGE * len(f) * np.eye(len(use)), f.T @ (z - z.mean(axis=0)))
    out = []
    for row, k in zip(moved, use, strict=True):
        size = float(np.linalg.norm(row))
        if size > 1e-12:
            out.append(Direction(names[int(k)], "factor", row / size, size))
    return tuple(out)


def turned(
    measure: Callable[[Tensor], Floats],
    z: Floats,
    direction: Direction,
    *,
    reach: float = 2.0,
    steps: int = 7,
) -> Turned:
    """Draw every latent of z (N, D) at places along a direction and measure what becomes of it.

    Args:
        measure: latents (M, D) float64 to (M, F) factors, in standard deviations of real items.
        reach: how far to both sides, in units of the direction's step. steps: places, an odd number of them.
    """
    if steps < 5 or steps % 2 == 0 or reach <= 0.0:
        raise BadInput(f"steps is {steps}, reach {reach}", accepted="an odd number from 5 on, and a reach above 0")
    at = np.linspace(-reach, reach, steps)
    points = z[:, None] + (at * direction.step)[None, :, None] * direction.vector
    found = measure(torch.from_numpy(points.reshape(-1, z.shape[1])))
    values = found.reshape(len(z), steps, -1)  # (N, S, F)
    with np.errstate(invalid="ignore"):
        filled = np.where(np.isfinite(values), values, np.nanmean(values, axis=1, keepdims=True))
    filled = np.nan_to_num(filled)
    centred = filled - filled.mean(axis=1, keepdims=True)
    slope = np.einsum("nsf,s->nf", centred, at) / float(at @ at)  # (N, F)
    line = at[None, :, None] * slope[:, None]
    total = np.square(centred).sum(axis=(0, 1))
    rest = np.square(centred - line).sum(axis=(0, 1))
    straight = np.where(total > 1e-12, 1.0 - rest / np.maximum(total, 1e-12), 0.0)
    means = filled.mean(axis=0)
    effect = slope.mean(axis=0)
    main = int(np.abs(effect).argmax())
    others = np.delete(np.abs(effect), main)
    leakage = float(others.max() / abs(effect[main])) if len(others) and effect[main] else 0.0
    monotone = np.array([agreement(at, means[:, k].round(9)) for k in range(means.shape[1])])
    low, high = _valid(at, means[:, main], float(effect[main]))
    return Turned(at, means, effect, straight, monotone, main, leakage, low, high)


def _valid(at: Floats, values: Floats, slope: float) -> tuple[float, float]:
    """How far from the middle each step still moves the factor by at least half of the mean slope."""
    middle = len(at) // 2
    moves = np.diff(values) / np.diff(at) * np.sign(slope) >= VALID * abs(slope)
    high = middle
    while high < len(moves) and moves[high]:
        high += 1
    low = middle
    while low > 0 and moves[low - 1]:
        low -= 1
    return float(at[low]), float(at[high])


def _signed(vector: Floats) -> Floats:
    """The same axis with its largest entry positive."""
    return np.asarray(vector * np.sign(vector[np.abs(vector).argmax()]), dtype=np.float64)
