"""Blocked neighbours against all distances at once; precision and recall against planted faults."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.evaluate import neighbours
from pellucid.evaluate.neighbours import Points, nearest, within
from pellucid.evaluate.precision_recall import precision_recall


def cloud(n: int, seed: int) -> Points:
    generator = np.random.default_rng(seed)
    return Points(generator.normal(size=(n, 3)), generator.integers(0, 3, (n, 2)))


def all_distances(a: Points, b: Points) -> np.ndarray:
    numbers = ((a.numbers[:, None] - b.numbers[None]) ** 2).sum(-1)
    return numbers + (a.symbols[:, None] != b.symbols[None]).sum(-1)


def test_nearest_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    a, b = cloud(47, 0), cloud(31, 1)
    squared = all_distances(a, b)
    found = nearest(a, b, 4)
    assert np.allclose(found.squared, np.sort(squared, axis=1)[:, :4])
    assert np.allclose(np.take_along_axis(squared, found.places, axis=1), found.squared)
    own = all_distances(a, a) + np.diag(np.full(47, np.inf))
    assert np.allclose(nearest(a, a, 46, themselves=True).squared, np.sort(own, axis=1)[:, :46])


def test_pairs_within_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    a, b = cloud(47, 2), cloud(31, 3)
    squared, limit = all_distances(a, b), np.linspace(0.5, 4, 31)
    found = {(i, j) for pairs in within(a, b, limit) for i, j in zip(pairs.point, pairs.other, strict=True)}
    assert found == set(zip(*np.nonzero(squared <= limit), strict=True))


def test_copies_are_at_distance_zero() -> None:
    generator = np.random.default_rng(4)
    for numbers in (generator.normal(1e4, 1, size=(60, 784)), generator.integers(0, 256, (60, 784)).astype(float)):
        assert (nearest(Points(numbers), Points(numbers), 1).squared == 0).all()


def test_precision_sees_planted_outliers() -> None:
    generator = np.random.default_rng(5)
    real, good = generator.normal(size=(2, 400, 5))
    odd = good.copy()
    odd[:100] += 50.0
    clean, spoiled = (precision_recall(Points(real), Points(x), name=n) for x, n in ((good, "good"), (odd, "odd")))
    assert spoiled.precision.value == pytest.approx(clean.precision.value * 0.75, abs=0.06)
    assert clean.precision.minus(spoiled.precision).decided
    assert spoiled.density.value < clean.density.value


def test_recall_and_coverage_see_a_dropped_mode() -> None:
    generator = np.random.default_rng(6)
    real = generator.normal(size=(400, 5)) + 30.0 * (np.arange(400) % 2)[:, None]
    whole = generator.normal(size=(400, 5)) + 30.0 * (np.arange(400) % 2)[:, None]
    half = generator.normal(size=(400, 5))
    full, dropped = (precision_recall(Points(real), Points(x), name=n) for x, n in ((whole, "whole"), (half, "half")))
    assert dropped.recall.value <= 0.5 < full.recall.value
    assert dropped.coverage.value <= 0.5 < full.coverage.value
    assert full.recall.minus(dropped.recall).decided
    assert dropped.precision.value > 0.6


def test_copies_are_precise_and_cover_everything() -> None:
    real = np.random.default_rng(7).normal(size=(100, 5))
    found = precision_recall(Points(real), Points(real.copy()))
    assert (found.precision.value, found.recall.value, found.coverage.value) == (1.0, 1.0, 1.0)


def test_duplicates_do_no_harm() -> None:
    real = np.repeat(np.arange(10.0), 10)[:, None]
    found = precision_recall(Points(real), Points(real + 0.4))
    assert found.precision.value == 0.0  # balls of repeated points have no width
    assert precision_recall(Points(real), Points(real.copy())).precision.value == 1.0


def test_small_and_unequal_sets_are_refused() -> None:
    few, more = Points(np.zeros((9, 2))), Points(np.zeros((12, 2)))
    for a, b, k in ((few, few, 3), (more, few, 3), (more, more, 6)):
        with pytest.raises(BadInput):
            precision_recall(a, b, k=k)
