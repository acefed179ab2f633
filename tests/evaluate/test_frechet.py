"""The Fréchet distance against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from pellucid.core.errors import BadInput
from pellucid.evaluate.frechet import frechet, frechet_of_gaussians


def test_diagonal_gaussians() -> None:
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    gap = np.array([1.0, -2.0, 0.5])
    known = gap @ gap + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_of_gaussians(gap, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(known)


def test_general_gaussians_match_the_matrix_root() -> None:
    generator = np.random.default_rng(0)
    a, b = (x @ x.T for x in generator.normal(size=(2, 5, 7)))
    known = np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_of_gaussians(np.zeros(5), a, np.zeros(5), b) == pytest.approx(known)


def test_singular_covariances_are_no_trouble() -> None:
    generator = np.random.default_rng(1)
    real = generator.normal(size=(30, 50))  # fewer rows than features
    assert frechet(real, real.copy()).value == pytest.approx(0.0, abs=1e-8)
    assert np.isfinite(frechet(real, real + 1.0).value)
    assert frechet(real, real + 1.0).value == pytest.approx(50.0)


def test_samples_of_two_gaussians() -> None:
    generator = np.random.default_rng(2)
    real, generated = generator.normal(size=(5000, 3)), generator.normal(0.5, 2.0, size=(5000, 3))
    estimate = frechet(real, generated)
    interval = estimate.interval()
    assert interval.low < 3 * 0.25 + 3 * 1.0 < interval.high
    assert interval.n == 5000


def test_equal_distributions_are_near_the_floor() -> None:
    generator = np.random.default_rng(3)
    real, fresh, same, other = (generator.normal(m, 1, size=(400, 6)) for m in (0.0, 0.0, 0.0, 0.4))
    floor = frechet(real, fresh, name="floor")
    assert not frechet(real, same, name="same").minus(floor).decided
    assert frechet(real, other, name="other").minus(floor).low > 0


def test_the_distance_falls_with_n_so_unequal_sets_are_refused() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(2, 1000, 20))
    assert frechet(a[:50], b[:50]).value > 4 * frechet(a, b).value
    with pytest.raises(BadInput, match="1,000 real with 50 generated"):
        frechet(a, b[:50])
    with pytest.raises(BadInput, match="has 9 rows"):
        frechet(a[:9], b[:9])
