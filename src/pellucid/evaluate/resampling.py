"""How sure a measurement is: the same statistic on random halves of the rows.

A bootstrap repeats rows, and a repeated row has a neighbour at distance zero: nearest-neighbour metrics and Fréchet
distances are then wrong in every resample. Half-samples repeat nothing. Drawn without replacement, m = n / 2 rows have

    Var(statistic of m rows | the n rows) = s^2 (1/m - 1/n) = s^2 / n

so that deviations of half-samples from their own mean vary as the statistic of all n rows does
(McCarthy 1969, "Pseudo-replication: half samples"; Politis and Romano 1994, section 2, for why it is general).
Half r of the real rows is the same for every model: what two models share cancels in their difference.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import t

from pellucid.core.errors import BadInput, MissingCapability, NonFiniteLoss, PellucidError
from pellucid.core.interval import Z95, Difference, Interval, wilson

__all__ = [
    "FEWEST",
    "REFITS",
    "REPLICATES",
    "Absent",
    "Estimate",
    "check_rows",
    "halves",
    "noise_of_gaps",
    "of_rows",
    "share",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

REPLICATES = 200
FEWEST = 10  # rows below which a half-sample says nothing
REFITS = 3  # pairs of fits on halves, from which the noise of training is read


@dataclass(frozen=True)
class Absent:
    """Why there is no number.

    topic: "capability" (the family cannot), "input" (too few rows, no classes, no target), "failed" (it went wrong).
    why: one plain sentence.
    """

    topic: Literal["capability", "input", "failed"]
    why: str

    @staticmethod
    def of(error: PellucidError) -> Absent:
        """The error as a reason."""
        if isinstance(error, MissingCapability):
            return Absent("capability", str(error))
        return Absent("failed" if isinstance(error, NonFiniteLoss) else "input", str(error))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value and how it varies over half-samples.

    value: on all n rows. spread: (R,) deviations of the half-samples from their mean; replicate r of the real rows is
    shared by every estimate made with the same seed. limits: values that cannot be passed. ends: (low, high) where a
    better interval than the half-samples' is known. kind: what number or interval it is.
    """

    value: float
    spread: Floats
    n: int
    limits: tuple[float, float] = (-math.inf, math.inf)
    ends: tuple[float, float] | None = None
    kind: str = "95% of half-samples"

    def interval(self) -> Interval:
        """The value with its 95% interval.

        >>> of_rows(np.arange(100.0), halves(100, "real", seed=0)).interval().value
        49.5
        """
        if self.ends is not None:
            return Interval(self.value, *self.ends, self.n)
        low, high = np.percentile(self.spread, [2.5, 97.5]) + self.value
        return Interval(self.value, max(float(low), self.limits[0]), min(float(high), self.limits[1]), self.n)

    def minus(self, other: Estimate, pairs: int = 1) -> Difference:
        """self - other with a 95% interval, made wider when it is one of several `pairs` looked at (Bonferroni)."""
        if self.n != other.n or self.spread.shape != other.spread.shape:
            raise BadInput(
                f"values on {self.n:,} and {other.n:,} rows ({len(self.spread)} and {len(other.spread)} half-samples)",
                accepted="the same numbers of both",
                why="most metrics move with n, so a difference would measure n",
            )
        value = self.value - other.value
        half = float(ndtri(1 - 0.025 / pairs) * (self.spread - other.spread).std(ddof=1))
        return Difference(value, value - half, value + half, self.n)


def halves(n: int, name: str, *, seed: int, times: int = REPLICATES) -> Flags:
    """(times, n) bool: random halves of n rows; the same name, n and seed give the same halves.

    >>> halves(5, "real", seed=0, times=3).sum(1)
    array([2, 2, 2])
    """
    generator = np.random.default_rng([seed % 2**32, zlib.crc32(name.encode()), n])
    order = generator.random((times, n)).argsort(axis=1)
    return order < n // 2


def check_rows(n: int, what: str, other: int | None = None) -> None:
    """Refuse fewer rows than a half-sample needs, and sets of unequal size."""
    if n < FEWEST:
        raise BadInput(f"{what} has {n} rows", accepted=f"{FEWEST} or more", why="no interval can be given on so few")
    if other is not None and other != n:
        raise BadInput(
            f"{what} compares {n:,} real with {other:,} generated rows",
            accepted="as many of both",
            why="it moves with n",
        )


def noise_of_gaps(gaps: Floats, times: int, name: str, *, seed: int) -> Floats:
    """Draws of the noise that training brings, from pairs of fits on both halves h, h' of the training rows.

    gap = (score(h) - score(h')) / 2 has the variance of a score after training on all rows: half of the rows double
    it, the difference doubles it again, and the factor 1/2 divides it by four. Student's t makes up for few pairs.

    Args:
        gaps: (P, S), P pairs and S scores.

    Returns:
        (times, S), each column with mean 0.
    """
    deviation = np.sqrt(np.square(gaps).mean(0)) * t.ppf(0.975, len(gaps)) / Z95
    generator = np.random.default_rng([seed % 2**32, zlib.crc32(f"{name} training".encode())])
    draws: Floats = generator.standard_normal((times, 1)) * deviation
    return draws - draws.mean(0)


def of_rows(rows: Floats, masks: Flags, statistic: Callable[[Floats], float] | None = None) -> Estimate:
    """Mean (or another statistic) of numbers that each belong to one row.

    Args:
        rows: (N,). masks: (R, N).
    """
    if statistic is None:
        on_halves = masks @ rows / masks.sum(1)
        return Estimate(float(rows.mean()), on_halves - on_halves.mean(), len(rows))
    on_halves = np.array([statistic(rows[mask]) for mask in masks])
    return Estimate(statistic(rows), on_halves - on_halves.mean(), len(rows))


def share(hits: Floats, masks: Flags) -> Estimate:
    """Share of hits (N,), 0 to 1 each, with its Wilson interval.

    >>> share(np.ones(50), halves(50, "samples", seed=0)).interval().high
    1.0
    """
    score = wilson(round(float(hits.sum())), len(hits))
    estimate = of_rows(hits.astype(np.float64), masks)
    ends = (min(score.low, estimate.value), max(score.high, estimate.value))
    return Estimate(estimate.value, estimate.spread, estimate.n, (0.0, 1.0), ends, "Wilson 95%")
