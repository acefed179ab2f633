"""What a model learned wrong: planted errors are named, honest halves are left alone."""

import numpy as np
import pandas as pd
import pytest

import pellucid as pl
from pellucid.core.errors import BadInput
from pellucid.explain.errors import dependencies, errors, holm, regions


def frame(n, seed, *, linked=True):
    g = np.random.default_rng(seed)
    a = g.normal(size=n)
    b = a + 0.5 * g.normal(size=n) if linked else 1.1 * g.normal(size=n)
    c = g.choice(list("xyz"), n)
    return pd.DataFrame({"a": a, "b": b, "c": c, "d": np.where(c == "x", g.normal(size=n) + 3, g.normal(size=n))})


@pytest.fixture(scope="module")
def real():
    return pl.read(frame(1500, 0))


def named(found):
    return {d.pair: d for d, s in zip(found, holm([d.p for d in found], 0.05), strict=True) if s}


def test_another_draw_of_the_same_has_no_errors(real):
    alarms = [bool(named(dependencies(real, pl.read(frame(1500, seed))))) for seed in range(1, 13)]
    assert sum(alarms) <= 2  # 5% each


def many_names(n, seed, *, linked=True):
    g = np.random.default_rng(seed)
    place = np.minimum(g.geometric(0.25, n), 14)
    return pd.DataFrame({
        "place": [f"p{k}" for k in place],
        "code": [f"c{k}" for k in (place if linked else g.permutation(place))],
        **{name: [f"{name}{k}" for k in np.minimum(g.geometric(0.2, n), 14)] for name in "uvw"},
    })  # fmt: skip


def test_few_real_rows_of_many_names_beside_many_samples_raise_no_alarm():
    alarms = 0
    for seed in range(12):
        found = dependencies(pl.read(many_names(100, 2 * seed)), pl.read(many_names(1000, 2 * seed + 1)))
        alarms += bool(named(found))
    assert alarms <= 2  # 5% each
    missed = named(dependencies(pl.read(many_names(100, 0)), pl.read(many_names(1000, 1, linked=False))))
    assert missed["place", "code"].kind == "missed"


def test_a_missed_dependency_is_named_and_the_others_are_not(real):
    found = named(dependencies(real, pl.read(frame(1500, 1, linked=False))))
    assert set(found) == {("a", "b")}
    assert found["a", "b"].kind == "missed"


def test_an_invented_dependency_is_named(real):
    made = frame(1500, 2)
    made["c"] = np.where(made["a"] > 0, "x", "y")
    found = named(dependencies(real, pl.read(made)))
    assert found["a", "c"].kind == "invented"
    assert found["c", "d"].kind in ("missed", "weaker")


def test_information_of_a_known_table():
    """Two coins that agree in 9 of 10 throws: ln 2 - H(0.1)."""
    g = np.random.default_rng(0)
    a = g.integers(0, 2, 20000)
    b = np.where(g.random(20000) < 0.9, a, 1 - a)
    data = pl.read(pd.DataFrame({"a": a.astype(str), "b": b.astype(str)}), kinds={"a": "category", "b": "category"})
    exact = np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1)
    (found,) = dependencies(data, data)
    assert found.real == pytest.approx(exact, abs=0.01)
    assert found.error == pytest.approx(np.hypot(1, 1) * 0.0047, rel=0.5)


def test_a_region_without_samples_is_named():
    g = np.random.default_rng(1)
    centres = 8 * g.normal(size=(5, 4))
    real = np.concatenate([c + g.normal(size=(200, 4)) for c in centres])
    made = np.concatenate([c + g.normal(size=(200, 4)) for c in centres[1:]])
    found, groups = regions(real, made)
    gone = {r.group for r, s in zip(found, holm([r.p for r in found], 0.05), strict=True) if s and r.made.value == 0}
    assert gone == set(np.unique(groups[:200]))


def test_items_that_are_mostly_alike_make_fewer_regions():
    real = np.array([[0.0], [1.0]])[np.arange(200) % 2]
    found, _ = regions(real, real[:50])
    assert len(found) == 2
    assert not any(holm([r.p for r in found], 0.05))


def test_holm_stops_at_the_first_that_fails():
    assert holm([0.04, 0.01, 0.03], 0.05) == [False, True, False]
    assert holm([], 0.05) == []


def test_the_report_says_what_a_hasty_model_missed(real):
    model = pl.fit(real, "vae", steps=2, watch=False, held_out=0.3)
    report = errors(model, data=real, seed=1)
    assert ("a", "b") in {d.pair for d in report.wrong}
    assert "Columns that hang together otherwise" in report.to_text()
    assert report.check.score.n == report.check.baseline.n


def test_classes_that_are_not_drawn_as_asked_are_named():
    digits = pl.read("digits").take(np.arange(600))
    model = pl.fit(digits, "vae", steps=2, watch=False)
    assert errors(model, data=digits).confused


def test_too_few_items(real):
    small = real.take(np.arange(60))
    with pytest.raises(BadInput, match="there are 60 items"):
        errors(pl.fit(small, "vae", steps=1, watch=False), data=small)


def test_identifiers_are_no_dependency():
    table = frame(300, 0)
    table["customer_id"] = [f"C-{i:05d}" for i in range(300)]
    data = pl.read(table)
    assert not [d for d in dependencies(data, data) if "customer_id" in d.pair]
