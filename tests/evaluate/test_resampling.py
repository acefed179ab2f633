"""Half-samples vary as the statistic itself does, and differences name no winner where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.evaluate.frechet import frechet
from pellucid.evaluate.neighbours import Points
from pellucid.evaluate.precision_recall import precision_recall
from pellucid.evaluate.resampling import Estimate, halves, noise_of_gaps, of_rows, share


def test_spread_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=400)
    estimate = of_rows(x, halves(400, "samples", seed=0, times=4000))
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.spread.std() == pytest.approx(x.std(ddof=1) / 20, rel=0.05)


def test_spread_of_a_median_is_its_standard_error() -> None:
    generator = np.random.default_rng(1)
    medians = [np.median(generator.normal(size=201)) for _ in range(3000)]
    spreads = [
        of_rows(generator.normal(size=201), halves(201, "samples", seed=s), lambda v: float(np.median(v))).spread.std()
        for s in range(40)
    ]
    assert np.mean(spreads) == pytest.approx(np.std(medians), rel=0.15)


def test_halves_are_fixed_by_name_seed_and_n() -> None:
    assert (halves(9, "a", seed=3) == halves(9, "a", seed=3)).all()
    assert (halves(9, "a", seed=3) != halves(9, "b", seed=3)).any()
    assert (halves(9, "a", seed=3).sum(1) == 4).all()


def test_what_two_models_share_cancels() -> None:
    generator = np.random.default_rng(2)
    rows = generator.normal(size=300)
    masks = halves(300, "real", seed=0)
    first, second = of_rows(rows + 0.01, masks), of_rows(rows, masks)
    assert not of_rows(rows, halves(300, "other", seed=0)).minus(first).decided
    assert first.minus(second).decided
    assert first.minus(second).value == pytest.approx(0.01)


def test_several_rivals_widen_the_interval() -> None:
    a, b = (of_rows(np.random.default_rng(s).normal(size=50), halves(50, str(s), seed=0)) for s in (0, 1))
    one, four = a.minus(b), a.minus(b, pairs=4)
    assert four.low < one.low < one.high < four.high


def test_unequal_n_is_not_compared() -> None:
    a, b = (of_rows(np.arange(float(n)), halves(n, "a", seed=0)) for n in (40, 50))
    with pytest.raises(BadInput, match="40 and 50 rows"):
        a.minus(b)


def test_share_has_a_wilson_interval() -> None:
    none = share(np.zeros(100), halves(100, "a", seed=0)).interval()
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.037, abs=1e-3)


def test_noise_of_training_is_read_from_pairs_of_fits() -> None:
    # a score whose training noise is sd s / sqrt(rows): halves have s * sqrt(2), their half difference s
    generator = np.random.default_rng(3)
    gaps = (generator.normal(size=(4000, 1)) - generator.normal(size=(4000, 1))) * np.sqrt(2) / 2
    assert noise_of_gaps(gaps, 4000, "a", seed=0).std() == pytest.approx(1.0, rel=0.05)
    few = noise_of_gaps(np.ones((3, 1)), 4000, "a", seed=0).std()
    assert few == pytest.approx(3.182 / 1.96, rel=0.05)  # Student's t with 3 degrees of freedom


def test_identical_models_get_no_winner() -> None:
    generator = np.random.default_rng(4)
    named: dict[str, int] = {"frechet": 0, "precision": 0, "recall": 0, "density": 0, "coverage": 0}
    repeats = 40
    for seed in range(repeats):
        real = generator.normal(size=(120, 4))
        first, second = (generator.normal(0.2, 1.2, size=(120, 4)) for _ in range(2))
        named["frechet"] += _decided(*(frechet(real, x, seed=seed, name=str(i)) for i, x in enumerate((first, second))))
        found = [precision_recall(Points(real), Points(x), seed=seed, name=n) for x, n in ((first, "a"), (second, "b"))]
        for key in ("precision", "recall", "density", "coverage"):
            named[key] += _decided(*(getattr(f, key) for f in found))
    assert all(count <= 0.1 * repeats for count in named.values()), named


def test_different_models_do_get_one() -> None:
    generator = np.random.default_rng(5)
    real, near, far = (generator.normal(m, 1, size=(200, 4)) for m in (0.0, 0.1, 1.0))
    assert frechet(real, far, name="far").minus(frechet(real, near, name="near")).low > 0


def _decided(first: Estimate, second: Estimate) -> bool:
    return first.minus(second).decided
