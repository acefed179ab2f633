"""Columns, pairs, utility and detection of tables against planted answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData, read_table
from pellucid.evaluate.detection import detection
from pellucid.evaluate.features import TableFeatures
from pellucid.evaluate.marginals import associations, marginals
from pellucid.evaluate.matrices import TreeCells
from pellucid.evaluate.utility import area, choose_target, utility
from tests.evaluate.made import people, shuffled


def table(**columns: object) -> TableData:
    return read_table(pd.DataFrame(columns))


def test_distance_of_a_shifted_number_and_of_other_shares() -> None:
    generator = np.random.default_rng(0)
    n = 4000
    real = table(x=generator.normal(size=n), c=np.repeat(["a", "b"], n // 2))
    made = table(x=generator.normal(1, 1, n), c=np.repeat(["a", "b"], [int(0.8 * n), int(0.2 * n)]))
    x, c = marginals(real, made).columns
    assert (x.measure, c.measure) == ("KS", "TV")
    assert x.distance.value == pytest.approx(2 * norm.cdf(0.5) - 1, abs=0.03)
    assert c.distance.value == pytest.approx(0.3)
    assert x.distance.interval().low < 2 * norm.cdf(0.5) - 1 < x.distance.interval().high


def test_missing_cells_are_part_of_a_column() -> None:
    real, made = people(500, 1, gaps=0.0), people(500, 2, gaps=0.4)
    found = {c.name: c.distance.value for c in marginals(real, made).columns}
    assert found["income"] == pytest.approx(0.4, abs=0.08)
    assert found["age"] < 0.15


def test_real_data_is_at_the_floor_and_a_shift_is_not() -> None:
    real, fresh, moved = people(400, 3), people(400, 4), people(400, 5, shift=8.0)
    floor = marginals(real, fresh, name="fresh").mean
    assert marginals(real, moved, name="moved").mean.minus(floor).low > 0
    assert not marginals(real, people(400, 6), name="again").mean.minus(floor).decided


def test_strengths_of_pairs_are_known_ones() -> None:
    generator = np.random.default_rng(7)
    n = 5000
    c = generator.integers(0, 3, n)
    x = generator.normal(size=n)
    y = 0.6 * x + 0.8 * generator.normal(size=n)
    real = table(
        x=x, y=y, z=c + 0.0 + 1e-3 * generator.normal(size=n),
        c=np.array(["a", "b", "c"])[c], same=np.array(["k", "l", "m"])[c],
        free=np.array(["u", "v"])[generator.integers(0, 2, n)],
    )  # fmt: skip
    found = associations(real, real)
    place = {name: i for i, name in enumerate(found.names)}

    def strength(first: str, second: str) -> float:
        return float(found.real[place[first], place[second]])

    assert strength("x", "y") == pytest.approx(6 / np.pi * np.arcsin(0.6 / 2), abs=0.03)  # Spearman's, of a Gaussian
    assert strength("c", "same") == pytest.approx(1.0, abs=0.01)
    assert strength("z", "c") > 0.9
    assert strength("c", "free") == pytest.approx(0.0, abs=0.03)
    assert strength("x", "free") == pytest.approx(0.0, abs=0.04)
    assert (found.real == found.real.T).all()
    assert found.difference.value == 0.0


def test_shuffled_columns_lose_their_pairs_but_not_their_columns() -> None:
    real, fresh = people(500, 8), people(500, 9)
    mixed = shuffled(people(500, 10), 0)
    floor, broken = (associations(real, t, name=n).difference for t, n in ((fresh, "fresh"), (mixed, "mixed")))
    assert broken.minus(floor).low > 0
    assert not marginals(real, mixed, name="mixed").mean.minus(marginals(real, fresh, name="fresh").mean).decided


def test_utility_of_real_rows_is_the_ceiling_and_of_shuffled_ones_is_chance() -> None:
    train, other, test = people(600, 11), people(600, 12), people(800, 13)
    target, cells = choose_target(train), TreeCells.learn(train, without="ill")
    assert target.asked
    real, again, mixed = (
        utility(rows, test, target, cells, name=name)
        for rows, name in ((train, "real"), (other, "again"), (shuffled(train, 1), "mixed"))
    )
    assert real.area is not None
    assert again.area is not None
    assert mixed.area is not None
    assert real.macro_f1 is not None
    assert real.area.value > 0.9
    assert not real.area.minus(again.area).decided
    assert real.area.minus(mixed.area).decided
    low, high = mixed.area.interval().low, mixed.area.interval().high
    assert low < 0.5 < high
    assert 0.5 < real.macro_f1.value < real.area.value
    assert real.r2 is None


def test_utility_of_a_number_is_explained_variance() -> None:
    train, test = (replace(people(500, s), target="weight") for s in (14, 15))
    target = choose_target(train)
    found = utility(train, test, target, TreeCells.learn(train, without="weight"))
    assert found.area is None
    assert found.r2 is not None
    assert 0.3 < found.r2.value < 0.65  # 0.59 is what age explains


def test_utility_with_ten_thousand_values_missing_cells_and_a_class_that_is_never_made() -> None:
    generator = np.random.default_rng(16)

    def rows(seed: int) -> TableData:
        made = people(600, seed)
        frame = made.frame.assign(code=[f"v{i}" for i in generator.integers(0, 10_000, 600)])
        frame.loc[::7, "group"] = None
        return read_table(frame, target="ill", kinds={"code": "category"})

    train, test = rows(17), rows(18)
    target, cells = choose_target(train), TreeCells.learn(train, without="ill")
    found = utility(train, test, target, cells)
    assert found.area is not None
    assert found.area.value > 0.8
    one_sided = train.take(np.flatnonzero(train.frame["ill"] == "no"))
    never = utility(one_sided, test, target, cells)
    assert never.area is not None
    assert never.area.value == pytest.approx(0.5)
    # values that the training rows did not have must not give unseen real rows away
    assert detection(test, train, TreeCells.learn(train)).value == pytest.approx(0.5, abs=0.1)


def test_the_target_is_the_last_small_choice_when_none_is_named() -> None:
    unnamed = replace(people(100, 19), target=None)
    assert choose_target(unnamed).column.name == "ill"
    assert not choose_target(unnamed).asked
    numbers = table(x=np.linspace(0, 1, 50), y=np.linspace(0, 1, 50) ** 2)
    assert choose_target(numbers).classes == ()


def test_detection_of_split_halves_is_a_half_and_of_shuffled_rows_is_not() -> None:
    real, fresh = people(500, 20), people(500, 21)
    cells = TreeCells.learn(people(500, 22))
    same = detection(real, fresh, cells).interval()
    assert same.low < 0.5 < same.high
    assert detection(real, shuffled(fresh, 2), cells).interval().low > 0.6
    with pytest.raises(BadInput, match="quarter"):
        detection(real.take(np.arange(30)), fresh.take(np.arange(30)), cells)


def test_area_counts_ties_half() -> None:
    assert area(np.zeros(5), np.ones(3)) == 1.0
    assert area(np.ones(5), np.ones(3)) == 0.5
    assert area(np.zeros(0), np.ones(3)) == 0.5


def test_features_of_a_table_are_finite_whatever_comes() -> None:
    train = people(200, 23)
    features = TableFeatures(train)
    strange = people(30, 24)
    strange.frame.loc[0, "group"] = "never seen"
    strange.frame.loc[1, "income"] = np.inf
    x = features.features(strange)
    assert np.isfinite(x).all()
    assert x.shape == (30, features.features(train).shape[1])
    assert features.features(train)[:, 0].std() == pytest.approx(1.0, abs=0.05)
    assert features.fingerprint() == TableFeatures(train).fingerprint() != TableFeatures(people(200, 25)).fingerprint()


def test_unequal_tables_and_missing_columns_are_refused() -> None:
    real = people(100, 26)
    with pytest.raises(BadInput, match="100 real with 50"):
        marginals(real, real.take(np.arange(50)))
    without = replace(real, frame=real.frame.drop(columns="age"))
    with pytest.raises(BadInput, match="no column 'age'"):
        associations(real, without)
