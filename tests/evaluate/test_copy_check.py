"""Copies are found, real data is not accused, and a collapsed model is not taken for n independent witnesses."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.evaluate.baseline import independent_columns, independent_pixels
from pellucid.evaluate.copy_check import copy_check, identical
from tests.evaluate.made import bars, people


def test_copies_read_one_and_real_data_a_half() -> None:
    for make in (bars, people):
        train, held_out, fresh = make(300, 1), make(300, 2), make(300, 3)
        copied = copy_check(train, train, held_out)
        assert copied.closer.value > 0.99
        assert copied.identical.value == 1.0
        real = copy_check(fresh, train, held_out).closer.interval()
        assert real.low < 0.5 < real.high
        assert copied.closer.minus(copy_check(fresh, train, held_out, name="real").closer).decided


def test_copies_of_half_of_the_training_data_read_three_quarters() -> None:
    train, held_out = people(400, 4), people(200, 5)
    found = copy_check(train, train, held_out)
    assert found.compared == 200
    assert found.closer.value == pytest.approx(0.75, abs=0.06)


def test_near_copies_are_found_in_pictures() -> None:
    train, held_out = bars(200, 6), bars(200, 7)
    pixels = train.pixels.copy()
    pixels[:, 0, 0] ^= 1
    near = copy_check(type(train)(pixels=pixels, levels=train.levels), train, held_out)
    assert near.closer.value > 0.95
    assert near.identical.value == 0.0


def test_ties_count_half() -> None:
    train = bars(100, 8)
    assert copy_check(train, train, train).closer.value == 0.5


def test_a_collapsed_model_is_one_witness() -> None:
    train, held_out = bars(200, 9), bars(200, 10)
    same = train.take(np.zeros(150, np.int64))
    found = copy_check(same, train, held_out)
    interval = found.closer.interval()
    assert (interval.value, found.groups) == (1.0, 1)
    assert interval.low < 0.5  # all samples have the same nearest item


def test_order_of_magnitude_of_columns_does_not_matter() -> None:
    train, held_out, fresh = people(150, 11), people(150, 12), people(150, 13)
    scaled = [t.frame.assign(weight=t.frame["weight"] * 1000) for t in (fresh, train, held_out)]
    again = [type(train)(frame=f, columns=train.columns) for f in scaled]
    assert copy_check(*again).closer.value == copy_check(fresh, train, held_out).closer.value


def test_identical_rows_with_missing_cells() -> None:
    table = people(50, 14, gaps=0.5)
    assert identical(table, table).all()
    assert not identical(people(50, 15), table).any()


def test_baselines_do_not_copy() -> None:
    table, pictures = people(200, 16), bars(200, 17)
    assert len(independent_columns(table, 123)) == 123
    assert not identical(independent_pixels(pictures, 200), pictures).any()
    assert set(independent_pixels(pictures, 50).labels or ()) <= set(pictures.classes())


def test_two_kinds_of_data_are_refused() -> None:
    with pytest.raises(BadInput, match="all of one kind"):
        copy_check(bars(20, 0), people(20, 0), people(20, 1))
    with pytest.raises(BadInput, match="has 9 rows"):
        copy_check(bars(9, 0), bars(20, 0), bars(20, 1))
