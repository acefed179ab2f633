"""Intervals against closed forms, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.interval import bootstrap, paired_difference, wilson


def test_wilson_solves_its_equation() -> None:
    """The ends p of the interval are where |hits/n - p| is 1.96 standard errors of p itself."""
    for hits, n in ((0, 7), (3, 11), (11, 11), (450, 1000)):
        found = wilson(hits, n)
        for p in (found.low, found.high):
            if 1e-9 < p < 1.0 - 1e-9:  # an end at 0 or 1 has no standard error
                assert abs(hits / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959963984540054)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    for n in range(1, 200):
        assert wilson(0, n).low == 0.0
        assert wilson(n, n).high == 1.0
    for hits, n in ((-1, 3), (4, 3)):
        with pytest.raises(BadInput, match="hits from 0 to n"):
            wilson(hits, n)


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap(lambda k: float(x[k].mean()), 400, seed=1, times=2000)
    half = 1.96 * x.std() / 20
    assert found.value == x.mean()
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_a_difference_of_equal_things_is_nothing() -> None:
    x = np.arange(30.0)
    same = paired_difference(lambda k: float(x[k].mean()), lambda k: float(x[k].mean()), 30, seed=0)
    assert (same.value, same.low, same.high, same.decided) == (0.0, 0.0, 0.0, False)
    more = paired_difference(lambda k: float(x[k].mean()) + 1, lambda k: float(x[k].mean()), 30, seed=0)
    assert more.decided


def test_statistics_that_are_not_defined_everywhere() -> None:
    """Resamples without a value are left out; without any value the interval is not known."""
    some = bootstrap(lambda k: float(k[0]) if k[0] else math.nan, 3, seed=0)
    assert (some.low, some.high) == (1.0, 2.0)
    none = bootstrap(lambda k: math.nan, 3, seed=0)
    assert math.isnan(none.low)
    assert math.isnan(none.high)
    with pytest.raises(BadInput, match="at least one item"):
        bootstrap(lambda k: 0.0, 0, seed=0)
    with pytest.raises(BadInput, match="at least one item"):
        paired_difference(lambda k: 0.0, lambda k: 0.0, 0, seed=0)
