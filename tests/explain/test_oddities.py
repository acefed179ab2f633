"""Odd items: planted wrong labels come first, formulas equal leaving rows out."""

import numpy as np
import pandas as pd
import pytest

import pellucid as pl
from pellucid.core.errors import BadInput
from pellucid.explain.oddities import contradictions, oddities


def test_contradictions_are_what_is_missed_when_the_item_is_left_out():
    g = np.random.default_rng(0)
    x, labels = g.normal(size=(14, 3)), g.integers(0, 3, 14)
    K = np.exp(-np.square(x[:, None] - x[None]).sum(-1) / 2)
    T = np.eye(3)[labels]
    T = T - T.mean(0)
    found, other = contradictions(np.linalg.inv(K + 0.2 * np.eye(14)), labels, 3)
    for i in range(14):
        rest = np.delete(np.arange(14), i)
        said = K[i, rest] @ np.linalg.solve(K[np.ix_(rest, rest)] + 0.2 * np.eye(13), T[rest])
        assert found[i] == pytest.approx(T[i, labels[i]] - said[labels[i]], abs=1e-9)
        assert other[i] == said.argmax()


def test_mislabelled_digits_come_first():
    digits = pl.read("digits").take(np.arange(700))
    labels = list(digits.labels)
    wrong = {3, 50, 200, 401, 622}
    for i in wrong:
        labels[i] = str((int(labels[i]) + 3) % 10)
    from dataclasses import replace

    data = replace(digits, labels=tuple(labels))
    model = pl.fit(data, "vae", steps=1, watch=False, held_out=0.0)
    report = oddities(model, data=data)
    assert wrong <= {i for i, *_ in report.contradicting}
    for i, label, other, _ in report.contradicting:
        if i in wrong:
            assert label == labels[i]
            assert other == digits.labels[i]
    assert report.check is not None
    assert report.check.passed
    assert "look as if they belonged" in report.to_text()


def test_an_item_far_from_all_others_stands_alone():
    g = np.random.default_rng(0)
    frame = pd.DataFrame({"a": g.normal(size=80), "b": g.normal(size=80)})
    frame.loc[17] = [9.0, -9.0]
    data = pl.read(frame)
    model = pl.fit(data, "vae", steps=1, watch=False, held_out=0.0)
    report = oddities(model, data=data)
    assert report.alone[0][0] == 17
    assert report.check is None
    assert not report.shown


def test_too_few():
    data = pl.read("digits").take(np.arange(12))
    with pytest.raises(BadInput, match="training items"):
        oddities(pl.fit(data, "vae", steps=1, watch=False), data=data)
