"""Intervals: no number without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput

__all__ = ["Difference", "Interval", "bootstrap", "paired_difference", "wilson"]

Floats = NDArray[np.float64]
Z95 = 1.959963984540054  # two-sided 95% point of the standard normal


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The difference of two values on the same resamples; a winner may be named only when `decided`."""

    value: float
    low: float
    high: float
    n: int

    @property
    def decided(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


def wilson(hits: float, n: float) -> Interval:
    """Share of hits with its 95% score interval (Wilson 1927, eq. 4 in modern form).

    Args:
        n: items; what they are worth in independent ones, where they hang together.

    >>> i = wilson(9, 10)
    >>> round(i.low, 3), round(i.high, 3)
    (0.596, 0.982)
    """
    if not 0 <= hits <= n:
        raise BadInput(f"{hits} hits of {n}", accepted="hits from 0 to n")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    p, z2 = hits / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)  # rounding would leave 3e-18 there
    return Interval(p, low, 1.0 if hits == n else min(1.0, centre + half), int(n))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], n: int, *, seed: int, times: int = 200) -> Interval:
    """Statistic of all n items with the percentile interval over resampled indices.

    Args:
        statistic: takes (n,) indices, gives one number.

    >>> x = np.arange(100.0)
    >>> i = bootstrap(lambda k: float(x[k].mean()), 100, seed=0)
    >>> i.value, i.low < 49.5 < i.high
    (49.5, True)
    """
    if n < 1 or times < 1:
        raise BadInput(f"{n} items resampled {times} times", accepted="at least one item and one time")
    generator = np.random.default_rng(seed)
    low, high = _middle([statistic(generator.integers(0, n, n)) for _ in range(times)])
    return Interval(statistic(np.arange(n)), low, high, n)


def paired_difference(
    first: Callable[[NDArray[np.int64]], float],
    second: Callable[[NDArray[np.int64]], float],
    n: int,
    *,
    seed: int,
    times: int = 200,
) -> Difference:
    """first - second over the same resampled indices, so that what both share cancels."""
    if n < 1 or times < 1:
        raise BadInput(f"{n} items resampled {times} times", accepted="at least one item and one time")
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(times):
        index = generator.integers(0, n, n)
        values.append(first(index) - second(index))
    low, high = _middle(values)
    everything = np.arange(n)
    return Difference(first(everything) - second(everything), low, high, n)


def _middle(values: list[float]) -> tuple[float, float]:
    """Ends of the middle 95% of the numbers among `values`; NaN when there is none."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(np.array(known), [2.5, 97.5])
    return float(low), float(high)
