"""The table codec: every cell comes back, likelihoods are in the columns' units, and users' words are understood."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Tokens
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.rulers import TOLERANCE
from pellucid.domains.scales import Scale
from pellucid.domains.tables import TableCodec, Tables

DAY = 86_400_000_000


def rows(n: int, seed: int = 7) -> Rows:
    return Rows(seed, torch.arange(n))


def round_trip(data: TableData, codec: TableCodec) -> TableData:
    return codec.decode(codec.encode(data), codec.known(data), rows(len(data)))


def assert_same(back: TableData, data: TableData) -> None:
    """Same columns, dtypes, missing cells and values; numbers up to the tolerance."""
    assert list(back.frame.columns) == list(data.frame.columns)
    assert back.columns == data.columns
    assert back.target == data.target
    for column in data.columns:
        new, old = back.frame[column.name], data.frame[column.name]
        assert new.dtype == old.dtype, column
        assert new.isna().tolist() == old.isna().tolist(), column
        if column.kind == "number":
            assert column.low is not None
            assert column.high is not None
            away = (new - old).abs().max()
            assert math.isnan(away) or away <= TOLERANCE * (column.high - column.low), column
        else:
            assert new.dropna().tolist() == old.dropna().tolist(), column


def patients(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """One column of every kind."""
    random = np.random.default_rng(seed)
    income = np.round(np.exp(random.normal(10.0, 1.2, n)), 2)
    frame = pd.DataFrame(
        {
            "age": random.integers(18, 90, n),
            "sex": random.choice(["Female", "Male"], n),
            "smokes": random.random(n) < 0.3,
            "weight": random.normal(70.0, 12.0, n),
            "debt": np.where(random.random(n) < 0.6, 0.0, income),
            "account": random.integers(10**9, 10**12, n),
            "seen": pd.Timestamp("2021-03-01") + pd.to_timedelta(random.integers(0, 900, n), unit="D"),
            "stamp": pd.Timestamp("2021-03-01 12:00") + pd.to_timedelta(random.integers(0, 10**8, n), unit="s"),
            "clinic": "north",
            "visits": random.poisson(3.0, n),
        }
    )
    frame["lab"] = pd.Series(random.normal(0.0, 1.0, n)).mask(random.random(n) < 0.2)
    frame["grade"] = pd.Series(random.choice(["low", "high"], n)).mask(random.random(n) < 0.1)
    frame["empty"] = np.nan
    return frame


@pytest.fixture(scope="module")
def data() -> TableData:
    return read_table(patients())


@pytest.fixture(scope="module")
def codec(data: TableData) -> TableCodec:
    return Tables().learn(data)


# -------------------------------------------------------------------------------------------------------- round trips


def test_every_cell_comes_back(data: TableData, codec: TableCodec) -> None:
    assert_same(round_trip(data, codec), data)


def test_a_table_of_whole_numbers_words_and_dates_comes_back_with_its_fingerprint() -> None:
    data = read_table(patients().drop(columns=["weight", "lab", "debt"]))
    assert round_trip(data, Tables().learn(data)).fingerprint() == data.fingerprint()


def test_columns_become_fields(codec: TableCodec) -> None:
    assert codec.fields("sex") == (Field("sex", Tokens(2, 1)),)
    assert codec.fields("smokes") == (Field("smokes", Tokens(2, 1)),)
    assert codec.fields("grade") == (Field("grade", Tokens(3, 1)),)  # high, low and missing
    assert codec.fields("weight") == (Field("weight", Real((1,))),)
    assert codec.fields("age") == (Field("age", Real((1,))),)
    assert codec.fields("lab") == (Field("lab state", Tokens(2, 1)), Field("lab", Real((1,)), ("lab state", 0)))
    assert codec.fields("debt") == (Field("debt state", Tokens(2, 1)), Field("debt", Real((1,)), ("debt state", 0)))
    assert codec.fields("account") == (Field("account", Real((1,))), Field("account fine", Real((1,))))
    assert [f.name for f in codec.fields("stamp")] == ["stamp", "stamp fine"]
    assert codec.fields("clinic") == codec.fields("empty") == ()
    assert isinstance(codec.fields("visits")[0].space, Tokens)
    assert codec.dimensions() == 11


def test_absent_numbers_are_zero_and_spikes_are_exact(data: TableData, codec: TableCodec) -> None:
    parts = codec.space.split(codec.encode(data))
    free = torch.from_numpy((data.frame["debt"] == 0.0).to_numpy(copy=True))
    assert torch.equal(parts["debt state"][:, 0] == 1, free)
    assert bool((parts["debt"][free] == 0).all())
    assert bool((parts["debt"][~free].abs() < 6).all())


numbers = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6).map(lambda v: round(v, 2)),
    st.sampled_from([0.0, 1.0, -1.0]),
    st.floats(1e-12, 1e12),
)
whole = st.one_of(st.integers(-100, 100), st.integers(-(10**6), 10**6), st.integers(-(2**60), 2**60))
moments = st.one_of(
    st.integers(0, 20_000).map(lambda d: d * DAY),
    st.integers(-(10**9), 2 * 10**9).map(lambda s: s * 1_000_000),
    st.integers(-(10**15), 10**16),
)
words = st.text("abcXYZ éß0 ", min_size=1, max_size=4).map(str.strip).filter(bool)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    n = draw(st.sampled_from([1, 2, 9, 70, 300]))
    columns: dict[str, Any] = {}
    for at in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["number", "whole", "date", "word", "truth"]))
        source: Any = {"number": numbers, "whole": whole, "date": moments, "word": words, "truth": st.booleans()}[kind]
        base = draw(st.lists(source, min_size=1, max_size=40))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        values = np.array(base)[random.integers(0, len(base), n)]
        if kind in ("number", "whole") and draw(st.booleans()):  # many different values instead of a few
            values = (
                values // 2 + random.integers(-(10**9), 10**9, n) if kind == "whole" else values + random.normal(size=n)
            )
        series: Any = pd.Series(pd.to_datetime(values, unit="us") if kind == "date" else values)
        if draw(st.booleans()):
            nullable = {"whole": "Int64", "truth": "boolean"}.get(kind)
            series = (series.astype(nullable) if nullable else series).mask(random.random(n) < 0.2)
        columns[f"c{at}"] = series
    return pd.DataFrame(columns)


def learned_from(frame: pd.DataFrame) -> tuple[TableData, TableCodec] | None:
    """None for a table of which no column changes, which is refused in words."""
    try:
        data = read_table(frame)
        return data, Tables().learn(data)
    except BadInput as error:
        if "no value in any column" not in str(error) and "no column of the table changes" not in str(error):
            raise
        return None


@settings(max_examples=120)
@given(frame=tables())
def test_random_tables_come_back(frame: pd.DataFrame) -> None:
    learned = learned_from(frame)
    if learned is None:
        return
    data, codec = learned
    x = codec.encode(data)
    assert x.dtype == torch.float32
    assert bool(torch.isfinite(x).all())
    assert bool(torch.isfinite(codec.log_volume(x)).all())
    assert_same(codec.decode(x, Condition(), rows(len(data))), data)
    again = TableCodec.from_plain(json.loads(json.dumps(codec.plain(), allow_nan=False)), codec.tensors())
    assert torch.equal(again.encode(data), x)
    assert again.space == codec.space


@settings(max_examples=40)
@given(frame=tables(), seed=st.integers(0, 99))
def test_any_event_becomes_a_possible_table(frame: pd.DataFrame, seed: int) -> None:
    learned = learned_from(frame)
    if learned is None:
        return
    data, codec = learned
    wild = 30.0 * rows(40, seed).normal(codec.space.size)
    wild[0], wild[1] = torch.inf, -torch.inf
    made = codec.decode(wild, Condition(), rows(40))
    for column in data.columns:
        old, new = data.frame[column.name].dropna(), made.frame[column.name].dropna()
        assert made.frame[column.name].dtype == data.frame[column.name].dtype
        if column.kind in ("number", "integer", "date") and len(new):
            assert new.min() >= old.min()
            assert new.max() <= old.max()
        elif len(new):
            assert set(new) <= set(old) | ({True, False} if column.kind == "boolean" else set())
        if not column.missing:
            assert made.frame[column.name].notna().all()
    assert codec.encode(made).shape == wild.shape


def test_rows_do_not_depend_on_their_batch(data: TableData, codec: TableCodec) -> None:
    x, some = codec.encode(data), [311, 5, 17]
    assert torch.equal(codec.encode(data.take(some)), x[some])
    assert torch.equal(codec.log_volume(x[some]), codec.log_volume(x)[some])
    assert_same(codec.decode(x[some], Condition(), rows(3)), data.take(some))


def test_rows_held_out_of_training_come_back(data: TableData) -> None:
    codec = Tables().learn(data.take(range(0, 300)))
    held = data.take(range(300, 400))
    drop = held.frame["visits"].isin(data.frame["visits"][:300])  # a new number of few takes the nearest symbol
    held = held.take(np.flatnonzero(drop.to_numpy()))
    assert len(held) > 90
    assert_same(round_trip(held, codec), held)


@pytest.mark.parametrize("span", [10**4, 10**7, 10**9, 10**12, 10**15, 2**61])
def test_account_numbers_are_exact_at_any_length(span: int) -> None:
    random = np.random.default_rng(1)
    data = read_table(pd.DataFrame({"account": random.integers(0, span, 3000) - span // 3}))
    codec = Tables().learn(data)
    assert_same(round_trip(data, codec), data)
    count = len(codec.fields("account"))
    assert count == (1 if span < 10**6 * 2 else 2 if span <= 10**12 else 3) or span == 10**7
    made = codec.decode(rows(500).normal(count), Condition(), rows(500)).frame["account"]
    assert made.nunique() > 450  # every digit is drawn, not only those of the training rows


def test_moments_keep_their_microseconds() -> None:
    random = np.random.default_rng(2)
    at = pd.Series(pd.to_datetime(random.integers(10**15, 17 * 10**14, 2000), unit="us"))
    one_day = pd.Series(pd.Timestamp("2024-02-29") + pd.to_timedelta(random.integers(0, 10**10, 2000), unit="us"))
    data = read_table(pd.DataFrame({"at": at, "one_day": one_day, "old": at - pd.Timedelta(days=90_000)}))
    assert_same(round_trip(data, Tables().learn(data)), data)


def test_categories_of_any_size_are_one_field() -> None:
    data = read_table(pd.DataFrame({"zip": [f"Z{k % 12_000:05d}" for k in range(24_000)]}))
    codec = Tables().learn(data)
    assert codec.space == Mixed((Field("zip", Tokens(12_000, 1)),))
    assert_same(round_trip(data, codec), data)


def test_names_that_clash_are_told_apart() -> None:
    frame = patients()[["lab", "sex"]].rename(columns={"sex": "lab state"})
    data = read_table(frame)
    codec = Tables().learn(data)
    assert [f.name for f in codec.space.fields] == ["lab state'", "lab", "lab state"]
    assert_same(round_trip(data, codec), data)


# ------------------------------------------------------------------------------------------------------ ruler, spikes


def test_scores_of_a_smooth_column_are_standard_normal() -> None:
    random = np.random.default_rng(3)
    for values in (np.exp(2.0 * random.normal(size=4000)), random.uniform(size=4000), random.standard_t(3, 4000)):
        z = Scale.learn(values).scores(values)
        assert stats.kstest(z, "norm").statistic < 0.01
        held = Scale.learn(values[:3000]).scores(values[3000:])
        assert stats.kstest(held, "norm").pvalue > 1e-3


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=200),
    straight=st.sampled_from([0.0, 0.1]),
    at=st.lists(st.floats(-2e9, 2e9), min_size=1, max_size=30),
)
def test_a_scale_is_strictly_increasing_and_invertible(values: list[float], straight: float, at: list[float]) -> None:
    if len(set(values)) < 2:
        return
    scale = Scale.learn(np.array(values), straight=straight)
    span = scale.knots[-1] - scale.knots[0]
    inside = np.clip(np.array(at), scale.knots[0], scale.knots[-1])
    z = scale.scores(inside)
    assert np.abs(scale.values(z) - inside).max() <= 1e-6 * span
    order = np.argsort(inside)
    assert (np.diff(z[order]) >= 0).all()
    stored = scale.values(z.astype(np.float32))
    assert np.abs(stored - inside).max() <= scale.coarseness() * 1.001 + 1e-12 * np.abs(inside).max()


def test_a_scale_goes_on_beyond_its_knots() -> None:
    scale = Scale.learn(np.random.default_rng(4).normal(size=1000))
    far = np.array([-9.0, -4.0, 4.0, 9.0])
    assert np.allclose(scale.values(scale.scores(far)), far)


def test_only_values_unlike_their_neighbours_are_spikes() -> None:
    random = np.random.default_rng(5)
    ages = random.integers(18, 98, 5000)  # each age is above one percent, none stands out
    hours = np.where(random.random(5000) < 0.4, 40, random.integers(1, 99, 5000))
    codec = Tables(spike=0.01).learn(read_table(pd.DataFrame({"age": ages, "hours": hours})))
    assert codec.fields("age") == (Field("age", Real((1,))),)
    assert codec.fields("hours")[0] == Field("hours state", Tokens(2, 1))


def test_few_different_numbers_are_symbols() -> None:
    frame = pd.DataFrame({"grade": np.tile([1.0, 1.3, 1.7, 2.0], 50), "size": np.arange(200) * 3})
    codec = Tables(symbols=10).learn(read_table(frame))
    assert codec.fields("grade") == (Field("grade", Tokens(4, 1)),)
    assert codec.fields("size") == (Field("size", Real((1,))),)
    unseen = read_table(pd.DataFrame({"grade": [1.4, 9.0], "size": [3, 4]}))
    assert round_trip(unseen, codec).frame["grade"].tolist() == [1.3, 2.0]


def test_more_numbers_are_symbols_where_they_repeat_and_stand_apart() -> None:
    random = np.random.default_rng(8)
    limits = random.choice(random.integers(0, 10**6, 150), 6000)  # 150 amounts out of a million
    ages = random.integers(0, 150, 6000)  # every whole number in between
    rare = np.concatenate([limits[:150], random.integers(0, 10**6, 5850)])
    codec = Tables().learn(read_table(pd.DataFrame({"limit": limits, "age": ages, "rare": rare})))
    assert isinstance(codec.fields("limit")[0].space, Tokens)
    assert codec.fields("age") == (Field("age", Real((1,))),)
    assert codec.fields("rare")[0] == Field("rare", Real((1,)))


# -------------------------------------------------------------------------------------------------------- likelihoods


def test_log_volume_is_the_slope_of_the_encoding(codec: TableCodec, data: TableData) -> None:
    """d event / d cell by a difference quotient, in each column's own unit."""
    x = codec.encode(data)
    start = codec.log_volume(x).numpy()
    frame = data.frame.copy()
    total = np.zeros(len(frame))
    for name, unit in (("weight", 1.0), ("lab", 1.0), ("debt", 1.0)):
        at = [f.name for f in codec.space.fields].index(name)
        step = 1e-3 * float(frame[name].std())
        moved = frame.copy()
        moved[name] = frame[name] + step
        slope = (codec.encode(TableData(frame=moved, columns=data.columns))[:, at].double() - x[:, at].double()) / step
        there = (x[:, at] != 0).numpy()
        total[there] += np.log(slope.numpy()[there] / unit)
    # ages, accounts and dates: the slope between neighbouring whole numbers
    alone = Tables().learn(read_table(frame[["weight", "lab", "debt"]]))
    mine = alone.log_volume(alone.encode(read_table(frame[["weight", "lab", "debt"]]))).numpy()
    assert np.median(np.abs(mine - total)) < 0.01
    assert np.isfinite(start).all()


def test_densities_integrate_to_one_in_the_column_s_unit() -> None:
    """exp(log N(z) + log volume) is the density of a sample that the normal draws."""
    values = np.random.default_rng(6).gamma(2.0, 30.0, 5000)
    data = read_table(pd.DataFrame({"x": values}))
    codec = Tables().learn(data)
    grid = np.linspace(values.min(), values.max(), 20_001)
    fine = TableData(frame=pd.DataFrame({"x": grid}), columns=data.columns)
    z = codec.encode(fine)
    density = np.exp(stats.norm.logpdf(z[:, 0].double().numpy()) + codec.log_volume(z).numpy())
    assert float((density * (grid[1] - grid[0])).sum()) == pytest.approx(1.0, abs=2e-3)
    near = np.abs(density - stats.gamma.pdf(grid, 2.0, scale=30.0))
    assert float((near * (grid[1] - grid[0])).sum()) < 0.12


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (pd.Series(np.random.default_rng(7).integers(0, 5000, 4000)), 5000),
        (pd.Series(np.random.default_rng(7).integers(0, 10**11, 4000)), 10**11),
        (pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(5000) % 2500, unit="D")), 2500),
        (
            pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(4000) * 9973, unit="s")),
            4000 * 9973 / 86400,
        ),
    ],
    ids=["integers", "packed integers", "days", "packed moments"],
)
def test_a_uniform_column_costs_the_logarithm_of_its_range(column: pd.Series, cells: float) -> None:
    """Per whole number, or per day, an even column has density 1 / range, packed or not."""
    data = read_table(pd.DataFrame({"x": column}))
    codec = Tables().learn(data)
    x = codec.encode(data)
    ruler = stats.norm.logpdf(x[:, 0].double().numpy())
    digits = -math.log(2.0 * math.sqrt(3.0)) * (x.shape[1] - 1)  # even on [-sqrt 3, sqrt 3]
    found = ruler + digits + codec.log_volume(x).numpy()
    assert float(np.median(found)) == pytest.approx(-math.log(cells), abs=0.05)


def test_symbols_have_no_volume() -> None:
    data = read_table(patients()[["sex", "visits", "grade"]])
    codec = Tables().learn(data)
    assert codec.log_volume(codec.encode(data)).tolist() == [0.0] * len(data)


# ------------------------------------------------------------------------------------------------------------- target


@pytest.mark.parametrize("target", ["sex", "smokes", "grade", "age", "weight", "visits", "seen", "lab", "debt"])
def test_the_target_is_a_condition_and_comes_back(target: str) -> None:
    data = read_table(patients(), target=target)
    codec = Tables().learn(data)
    assert list(codec.conditions) == [target]
    assert target not in {f.name for f in codec.space.fields}
    known = codec.known(data)
    assert known.given[target].tolist() == data.frame[target].notna().tolist()
    assert known.values[target].shape == (len(data), *codec.conditions[target].shape)
    assert_same(round_trip(data, codec), data)
    prior = codec.prior(rows(3000))
    assert bool(prior.given[target].all())
    drawn = codec.decode(codec.encode(data)[:1].repeat(3000, 1), prior, rows(3000)).frame[target]
    seen = data.frame[target].dropna()
    if target in ("age", "weight", "lab", "debt"):
        assert stats.ks_2samp(drawn.astype(float), seen.astype(float)).statistic < 0.08
    elif target != "seen":
        far = (drawn.value_counts(normalize=True) - seen.value_counts(normalize=True)).abs()
        assert far.max() < 0.05


def test_a_target_that_is_not_given_is_missing() -> None:
    for target, dtype in (("age", "Int64"), ("smokes", "boolean"), ("sex", None)):
        data = read_table(patients(), target=target)
        codec = Tables().learn(data)
        frame = codec.decode(codec.encode(data), codec.known(data).nothing(), rows(len(data))).frame
        assert frame[target].isna().all()
        assert dtype is None or str(frame[target].dtype) == dtype
        unlabelled = TableData(frame=data.frame.drop(columns=[target]), columns=data.columns)
        assert not codec.known(unlabelled).given[target].any()
        assert torch.equal(codec.encode(unlabelled), codec.encode(data))


def test_words_about_the_target_are_understood() -> None:
    def asked(target: str, word: object) -> float:
        codec = Tables().learn(read_table(patients(), target=target))
        return float(codec.asked({target: word}, 2).values[target][1, 0])

    assert asked("sex", "Male") == 1
    assert asked("smokes", "true") == asked("smokes", True) == asked("smokes", "Yes") == 1
    assert asked("visits", "3") == asked("visits", 3) == 3
    ages = read_table(patients(), target="age")
    codec = Tables().learn(ages)
    condition = codec.asked({"age": "42"}, len(ages))
    assert set(codec.decode(codec.encode(ages), condition, rows(len(ages))).frame["age"]) == {42}
    dates = Tables().learn(read_table(patients(), target="seen"))
    condition = dates.asked({"seen": "2022-01-05"}, 400)
    made = dates.decode(dates.encode(read_table(patients())), condition, rows(400)).frame["seen"]
    assert set(made) == {pd.Timestamp("2022-01-05")}


def test_words_that_mean_nothing_are_refused() -> None:
    codec = Tables().learn(read_table(patients(), target="sex"))
    with pytest.raises(BadInput, match="sex is 'female'. Accepted: Female, Male. Did you mean 'Female'?"):
        codec.asked({"sex": "female"}, 1)
    with pytest.raises(BadInput, match="'age' is a column, not a condition. Accepted: sex"):
        codec.asked({"age": 3}, 1)
    with pytest.raises(BadInput, match="there is no column 'agee'.*Did you mean 'age'?"):
        codec.asked({"agee": 3}, 1)
    numbers = Tables().learn(read_table(patients(), target="age"))
    for word in ("forty", "nan", "200", "30..40"):
        with pytest.raises(BadInput):
            numbers.asked({"age": word}, 1)
    with pytest.raises(BadInput, match="'yes'|smokes"):
        Tables().learn(read_table(patients(), target="smokes")).asked({"smokes": "perhaps"}, 1)


def test_a_target_must_change_and_be_a_column() -> None:
    for target in ("clinic", "empty"):
        with pytest.raises(BadInput, match="at least two different values"):
            Tables().learn(read_table(patients(), target=target))
    data = read_table(patients())
    with pytest.raises(BadInput, match="target 'sexx' is no column.*Did you mean 'sex'?"):
        Tables().learn(TableData(frame=data.frame, columns=data.columns, target="sexx"))


# -------------------------------------------------------------------------------------------------------------- meets


@pytest.mark.parametrize(
    ("where", "truth"),
    [
        ({"sex": "Female"}, lambda f: f["sex"] == "Female"),
        ({"smokes": "no"}, lambda f: ~f["smokes"]),
        ({"age": "42"}, lambda f: f["age"] == 42),
        ({"age": 42.0}, lambda f: f["age"] == 42),
        ({"age": "30..40"}, lambda f: f["age"].between(30, 40)),
        ({"age": ">=30", "sex": "Male"}, lambda f: (f["age"] >= 30) & (f["sex"] == "Male")),
        ({"age": "<30"}, lambda f: f["age"] < 30),
        ({"age": "> 30"}, lambda f: f["age"] > 30),
        ({"weight": "<= 70"}, lambda f: f["weight"] <= 70),
        ({"weight": "-10 .. 65.5"}, lambda f: f["weight"].between(-10, 65.5)),
        ({"lab": "<0"}, lambda f: f["lab"] < 0),
        ({"lab": None}, lambda f: f["lab"].isna()),
        ({"debt": 0}, lambda f: f["debt"] == 0),
        ({"seen": "2022-01-05"}, lambda f: f["seen"] == "2022-01-05"),
        ({"seen": "2022-01-05..2022-02-05"}, lambda f: f["seen"].between("2022-01-05", "2022-02-05")),
        ({"stamp": "2022-01-05"}, lambda f: f["stamp"].dt.normalize() == "2022-01-05"),
        ({"stamp": "2022-01-05..2022-02-05"}, lambda f: f["stamp"].between("2022-01-05", "2022-02-06", "left")),
        ({"stamp": ">2022-01-05"}, lambda f: f["stamp"] >= "2022-01-06"),
        ({"stamp": "<2022-01-05 13:00"}, lambda f: f["stamp"] < "2022-01-05 13:00"),
        ({"clinic": "north"}, lambda f: f["clinic"] == "north"),
        ({}, lambda f: f["age"] > 0),
    ],
)
def test_meets_compares_cells_with_words(data: TableData, codec: TableCodec, where: dict[str, Any], truth: Any) -> None:
    assert codec.meets(data, where).tolist() == truth(data.frame).fillna(False).astype(bool).tolist()


@pytest.mark.parametrize(
    "where", [{"agee": 3}, {"age": "old"}, {"sex": "F"}, {"seen": "soon"}, {"smokes": "2"}, {"age": "..3"}]
)
def test_meets_refuses_what_it_does_not_understand(data: TableData, codec: TableCodec, where: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        codec.meets(data, where)


def test_dates_are_understood_in_the_column_s_own_format() -> None:
    text = pd.DataFrame({"day": [f"{d:02d}.{m:02d}.2023" for d in range(1, 29) for m in range(1, 13)]})
    data = read_table(text)
    codec = Tables().learn(data)
    assert data.column("day").format == "%d.%m.%Y"
    assert codec.meets(data, {"day": "05.03.2023"}).sum() == codec.meets(data, {"day": "2023-03-05"}).sum() == 1


# --------------------------------------------------------------------------------------------- refusals, show, storing


def test_tables_that_do_not_fit_are_refused(data: TableData, codec: TableCodec) -> None:
    def changed(**columns: Any) -> TableData:
        return TableData(frame=data.frame.assign(**columns), columns=data.columns)

    with pytest.raises(BadInput, match="no column 'age'.*It has 'agee'"):
        codec.encode(TableData(frame=data.frame.rename(columns={"age": "agee"}), columns=data.columns))
    for column, value, words in (
        ("sex", "Diverse", "holds 'Diverse'"),
        ("clinic", "south", "differ"),
        ("empty", 3.0, "differ"),
        ("age", "old", "does not hold what it did"),
        ("age", None, "missing"),
        ("sex", None, "missing"),
        ("seen", "soon", "does not hold what it did"),
    ):
        with pytest.raises(BadInput, match=words):
            codec.encode(changed(**{column: value}))
    with pytest.raises(BadInput, match="NaN"):
        codec.decode(torch.full((1, codec.space.size), torch.nan), Condition(), rows(1))


def test_tables_of_which_nothing_changes_are_refused(data: TableData) -> None:
    with pytest.raises(BadInput, match="no column of the table changes"):
        Tables().learn(read_table(pd.DataFrame({"a": [1, 1, 1]})))
    with pytest.raises(BadInput, match="no rows"):
        Tables().learn(data.take([]))
    for wrong in ({"symbols": 1}, {"spike": 0.0}, {"knots": 1}):
        with pytest.raises(BadInput):
            Tables(**wrong)


def test_a_table_shows_its_first_rows(data: TableData, codec: TableCodec) -> None:
    block = codec.show(data, limit=5)
    assert list(block.columns) == list(data.frame.columns)
    assert len(block.rows) == 5
    assert block.caption == "5 of 400 rows"
    cells = dict(zip(block.columns, block.rows[0], strict=True))
    assert isinstance(cells["age"], int)
    assert isinstance(cells["seen"], str)
    assert cells["empty"] is None


@pytest.mark.parametrize("target", [None, "sex", "weight"])
def test_storing_changes_nothing(target: str | None) -> None:
    data = read_table(patients(), target=target)
    codec = Tables().learn(data)
    again = TableCodec.from_plain(json.loads(json.dumps(codec.plain(), allow_nan=False)), codec.tensors())
    assert again.plain() == codec.plain()
    assert (again.space, again.conditions, again.columns) == (codec.space, codec.conditions, codec.columns)
    x = codec.encode(data)
    assert torch.equal(again.encode(data), x)
    assert torch.equal(again.log_volume(x), codec.log_volume(x))
    assert_same(again.decode(x, codec.known(data), rows(len(data))), round_trip(data, codec))
    if target is not None:
        assert torch.equal(again.prior(rows(50)).values[target], codec.prior(rows(50)).values[target])


def test_what_is_stored_is_checked() -> None:
    codec = Tables().learn(read_table(patients(), target="weight"))
    plain, tensors = codec.plain(), codec.tensors()
    cells = plain["cells"]
    at = {c["column"]["name"]: k for k, c in enumerate(cells)}

    def cell(name: str, **changes: Any) -> dict[str, Any]:
        return {**plain, "cells": [c | changes if k == at[name] else c for k, c in enumerate(cells)]}

    age = at["age"]
    falling = {**tensors, f"{age}.knots": tensors[f"{age}.knots"].flip(0)}
    beyond = {**tensors, f"{age}.shares": tensors[f"{age}.shares"] + 1.0}
    wrong: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
        ({**plain, "extra": 1}, tensors),
        ({"cells": cells}, tensors),
        ({**plain, "cells": [*cells, cells[0]]}, tensors),
        ({**plain, "cells": "none"}, tensors),
        ({**plain, "target": {"name": "height", "counts": []}}, tensors),
        ({**plain, "target": {"name": "sex", "counts": [1]}}, tensors),
        ({**plain, "target": {**plain["target"], "extra": 1}}, tensors),
        (cell("age", how="magic"), tensors),
        (cell("age", colour="red"), tensors),
        (cell("age", step=0), tensors),
        (cell("age", low="young"), tensors),
        (cell("age", bases=[1]), tensors),
        (cell("age", dtype="object"), tensors),
        (cell("age", column={"name": "age"}), tensors),
        (cell("sex", values=[]), tensors),
        (cell("sex", values=["Male", "Male"]), tensors),
        (cell("sex", values=[1, 2]), tensors),
        (cell("visits", values=[3, 2, 1]), tensors),
        (cell("clinic", value=[1]), tensors),
        (plain, falling),
        (plain, beyond),
        (plain, {**tensors, "99.knots": torch.zeros(3)}),
        (plain, {**tensors, "target.quantiles": torch.tensor([1.0, 0.0], dtype=torch.float64)}),
        (plain, {k: t for k, t in tensors.items() if not k.startswith(f"{age}.")}),
        (plain, {**tensors, f"{at['sex']}.knots": torch.zeros(3, dtype=torch.float64)}),
    ]
    for stored, held in wrong:
        with pytest.raises(BadInput):
            TableCodec.from_plain(stored, held)
