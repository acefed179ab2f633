"""Features, judge and bits of pictures against planted answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pellucid.core.errors import BadInput, MissingCapability, Stopped
from pellucid.core.run import Event, Run
from pellucid.evaluate.bits import bits_per_dimension
from pellucid.evaluate.features import Encoder, PCAFeatures
from pellucid.evaluate.frechet import frechet
from pellucid.evaluate.labels import Judge, asked_class_share
from tests.evaluate.made import LEVELS, bars, replaying, uniform


def test_the_encoder_is_a_function_of_pictures_and_seed() -> None:
    train = bars(150, 0)
    first, again = Encoder.learn(train), Encoder.learn(train)
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != Encoder.learn(train, seed=1).fingerprint()
    assert first.fingerprint() != Encoder.learn(bars(150, 1)).fingerprint()
    x = first.features(train)
    assert x.shape == (150, 64)
    assert np.allclose(x.mean(0), 0, atol=1e-6)
    assert np.allclose(x.std(0), 1, atol=1e-5)
    assert "4 classes" in first.name


def test_features_see_dropped_classes_with_labels_and_without() -> None:
    train, real, fresh, two = bars(400, 2), bars(300, 3), bars(300, 4), bars(300, 5, classes=(0, 1))
    blind = replace(train, labels=None)
    for extractor in (Encoder.learn(train), Encoder.learn(blind), PCAFeatures.learn(train)):
        at = [extractor.features(p) for p in (real, fresh, two)]
        floor, dropped = frechet(at[0], at[1], name="fresh"), frechet(at[0], at[2], name="two")
        assert dropped.minus(floor).low > 0, extractor.name


def test_components_are_standardised_and_have_fixed_signs() -> None:
    train = bars(100, 6)
    features = PCAFeatures.learn(train)
    assert np.allclose(features.features(train).std(0, ddof=1), 1)
    order = np.random.default_rng(0).permutation(100)
    assert np.allclose(features.components, PCAFeatures.learn(train.take(order)).components, atol=1e-8)
    assert len(features.fingerprint()) == 12


def test_constant_and_colour_pictures_are_no_trouble() -> None:
    grey = bars(30, 7)
    colour = replace(grey, pixels=np.repeat(grey.pixels, 3, axis=3))
    assert np.isfinite(Encoder.learn(colour).features(colour)).all()
    flat = replace(grey, pixels=np.full_like(grey.pixels, 3), labels=None)
    assert np.isfinite(Encoder.learn(flat).features(grey)).all()


def test_pictures_of_another_size_are_refused() -> None:
    encoder = Encoder.learn(bars(30, 8))
    wrong = replace(bars(30, 8), pixels=np.zeros((30, 9, 8, 1), np.uint8))
    with pytest.raises(BadInput, match="9, 8, 1, 17"):
        encoder.features(wrong)


def test_training_of_the_encoder_tells_and_stops() -> None:
    heard: list[Event] = []
    Encoder.learn(bars(60, 9), run=Run(listeners=[heard.append]))
    assert heard
    run = Run()
    run.stop()
    with pytest.raises(Stopped):
        Encoder.learn(bars(60, 9), run=run)


def test_the_judge_counts_wrong_labels() -> None:
    judge = Judge.learn(bars(300, 10))
    right = bars(200, 11)
    assert asked_class_share(judge, right).value > 0.97
    labels = list(right.labels or ())
    labels[:60] = [str((int(label) + 1) % 4) for label in labels[:60]]
    wrong = asked_class_share(judge, replace(right, labels=tuple(labels))).interval()
    assert wrong.value == pytest.approx(0.7, abs=0.02)
    assert wrong.low < 0.7 < wrong.high


def test_the_judge_leaves_unlabelled_pictures_out() -> None:
    some = bars(100, 12)
    labels = tuple("" if i < 50 else label for i, label in enumerate(some.labels or ()))
    judge = Judge.learn(replace(some, labels=labels))
    assert judge.trained_on == 50
    assert asked_class_share(judge, replace(some, labels=labels)).n == 50
    with pytest.raises(BadInput, match="carry no class"):
        asked_class_share(judge, replace(some, labels=None))
    with pytest.raises(BadInput, match="1 classes"):
        Judge.learn(bars(30, 13, classes=(2,)))


def test_bits_of_a_uniform_model_are_exact() -> None:
    found = bits_per_dimension(uniform(bars(50, 14)), bars(40, 15))
    assert found.bits.value == pytest.approx(math.log2(LEVELS))
    assert (found.kind, found.given, found.dimensions) == ("exact", (), 64)
    interval = found.bits.interval()
    assert interval.low == pytest.approx(interval.high)


def test_a_model_without_likelihood_says_so() -> None:
    with pytest.raises(MissingCapability):
        bits_per_dimension(replaying(bars(50, 16), "replays"), bars(40, 17))
