"""What holds between columns: read from a user's words, checked against the data, kept in every row that is made."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.catalog import families, family_class
from pellucid.core.capabilities import Samples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.constraint_words import constraint_lines, read_constraint
from pellucid.domains.constraints import Order, Sum
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.tables import TableCodec, Tables
from pellucid.testing.domains import check_domain
from pellucid.testing.subject import made_up

N = 300
DECLARED = (
    "start <= end",
    "together: city, country",
    "gross = net + tax",
    "low < high",
    "age >= 18",
    "first <= second",
    "net <= gross",
)


def stays(n: int = N, seed: int = 0) -> pd.DataFrame:
    """A table that keeps all of DECLARED, with a target."""
    random = np.random.default_rng(seed)
    start = pd.Timestamp("2021-01-01") + pd.to_timedelta(random.integers(0, 900, n), unit="D")
    city = random.choice(["Paris", "Lyon", "Rome", "Bonn"], n)
    frame = pd.DataFrame(
        {
            "start": start,
            "end": start + pd.to_timedelta(random.integers(0, 9, n), unit="D"),
            "city": city,
            "country": pd.Series(city).map({"Paris": "FR", "Lyon": "FR", "Rome": "IT", "Bonn": "DE"}),
            "net": np.round(random.gamma(2.0, 30.0, n), 2),
            "tax": np.round(random.gamma(2.0, 5.0, n), 2),
            "age": random.integers(18, 90, n),
            "low": random.normal(size=n),
            "first": pd.Series(random.normal(size=n)).mask(random.random(n) < 0.3),
            "ill": random.choice(["yes", "no"], n),
        }
    )
    frame["gross"] = np.round(frame["net"] + frame["tax"], 2)
    frame["high"] = frame["low"] + random.gamma(1.0, 0.5, n) + 0.01
    frame["second"] = (frame["first"] + random.random(n)).mask(random.random(n) < 0.1)
    return frame


def assert_kept(frame: pd.DataFrame, of: pd.DataFrame) -> None:
    """The constraints, checked without the code under test."""
    assert (frame["start"] <= frame["end"]).all()
    assert set(zip(frame["city"], frame["country"], strict=True)) <= set(zip(of["city"], of["country"], strict=True))
    assert ((frame["gross"] - frame["net"] - frame["tax"]).abs() < 1e-6).all()
    assert (frame["low"] < frame["high"]).all()
    assert (frame["age"] >= 18).all()
    both = frame[["first", "second"]].dropna()
    assert (both["first"] <= both["second"]).all()
    assert (frame["net"] <= frame["gross"]).all()


@pytest.fixture(scope="module")
def data() -> TableData:
    return read_table(stays(), constraints=DECLARED, target="ill")


@pytest.fixture(scope="module")
def codec(data: TableData) -> TableCodec:
    return Tables().learn(data)


# -------------------------------------------------------------------------------------------------------------- words


COLUMNS = read_table(pd.concat([stays(), pd.DataFrame({"net-tax": 1.0, "a b": np.arange(N) % 9})], axis=1)).columns


def test_words_are_understood() -> None:
    assert read_constraint("end >= start", COLUMNS) == Order(text="end >= start", low="start", high="end", strict=False)
    day = read_constraint("start < 2024-03-01", COLUMNS)
    assert isinstance(day, Order)
    assert day.high == pd.Timestamp("2024-03-01").value / 1000
    assert read_constraint("gross=net+tax-3", COLUMNS) == Sum(
        text="gross=net+tax-3", total="gross", plus=("net", "tax"), minus=(), constant=-3.0
    )
    assert read_constraint("age > -2.5", COLUMNS).names == ("age",)
    assert read_constraint("a b <= net-tax", COLUMNS).names == ("a b", "net-tax")
    assert read_constraint("'a b' <= \"net\"", COLUMNS).names == ("a b", "net")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("strat <= end", "'strat' at character 1 is no column.*Did you mean 'start'"),
        ("start <= ende", "'ende' at character 10 is no column|'e' at character 13"),
        ("city < age", "'city' at character 1 is a category and has no order"),
        ("start < age", "'start' and 'age' are a date and a number"),
        ("age <= 2024-03-01", "'2024-03-01' stands at character 8. Accepted: a number"),
        ("net + tax <= gross", "a sum stands beside '<=' at character 11.*Declare the sum as a column"),
        ("net <= tax <= gross", "a second '<=' stands at character 12"),
        ("net tax <= 3", "'tax' at character 5 follows no sign"),
        ("net", "it compares nothing"),
        ("net <=", "nothing stands beside '<=' at character 5"),
        ("net <= net", "'net' is compared with itself"),
        ("3 <= 4", "it names no column"),
        ("net + tax = gross + age", "neither side is one column"),
        ("gross = net + net", "a column is named twice"),
        ("gross = end - 3", "dates and numbers do not add up"),
        ("together: city", "two columns or more"),
        ("together: city, city", "a column is named twice"),
        ("'net <= 3", "quotation mark at character 1 is never closed"),
        ("", "it compares nothing"),
    ],
)
def test_words_that_cannot_be_read_are_pointed_at(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        read_constraint(text, COLUMNS)


@settings(max_examples=200, deadline=None)
@given(text=st.text("abnet<=>+-,: '\"\\'0123.#café\n", max_size=30))
def test_any_words_are_read_or_refused(text: str) -> None:
    try:
        read_constraint(text, COLUMNS)
    except BadInput as error:
        assert "constraint '" in str(error)  # noqa: PT017


def test_a_file_holds_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("# rules\nstart <= end   # no stay ends early\n\nage >= 18\n", "utf-8")
    assert constraint_lines(path) == ("start <= end", "age >= 18")
    with pytest.raises(BadInput, match="cannot be read"):
        constraint_lines(tmp_path / "none.txt")


# ------------------------------------------------------------------------------------------ what does not fit is said


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["net < gross", "gross < net"], "'(net < gross|gross < net)' and .* contradict each other.*below itself"),
        (["age < 50", "age > 60"], "contradict each other.*Nothing is left for 'age'"),
        (["low >= 3", "low <= high", "high < 3"], "'low >= 3' and 'low <= high' and 'high < 3' contradict"),
        (["net <= tax", "tax <= net"], "contradict each other.*say so: a = b"),
        (["together: city, country", "together: country, age"], "'country' stands in"),
        (["together: city, ill"], "holds the target 'ill'"),
        (
            ["gross = net + tax", "gross = low + high", "net = low - tax", "tax = net", "low = high"],
            "no column to compute|each|Each",
        ),
    ],
)
def test_contradictions_are_refused(texts: list[str], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        read_table(stays(), constraints=texts, target="ill")


def test_rows_that_break_a_constraint_are_counted_and_can_be_left_out() -> None:
    frame = stays()
    frame.loc[[4, 9, 250], "end"] = frame["start"] - pd.Timedelta(days=3)
    frame.loc[7, "gross"] = 0.0
    with pytest.raises(BadInput, match=r"3 of 300 rows break the constraint 'start <= end' \(the first: 5, 10, 251\)"):
        read_table(frame, constraints=["start <= end"])
    left = read_table(frame, constraints=["start <= end", "gross = net + tax"], drop_breaking=True)
    assert len(left) == N - 4
    said = {n.topic: n for n in left.notices}
    assert said["breaking"].count == 4
    assert "'start <= end' 3, 'gross = net + tax' 1" in said["breaking"].text
    with pytest.raises(BadInput, match="300 of 300 rows break the constraint 'age > 200'"):
        read_table(frame, constraints=["age > 200"], drop_breaking=True)


def test_rows_that_break_one_are_not_encoded(codec: TableCodec, data: TableData) -> None:
    broken = data.frame.assign(city="Rome", country="FR")
    with pytest.raises(BadInput, match="combinations that never occurred.*city=Rome, country=FR"):
        codec.encode(TableData(frame=broken, columns=data.columns))


# ------------------------------------------------------------------------------------------------------------- kept


def test_nothing_is_lost(data: TableData, codec: TableCodec) -> None:
    check_domain(Tables(), data)
    names = [f.name for f in codec.space.fields]
    assert "city & country" in names
    assert "end - start" in names
    assert not {"end", "city", "country", "gross"} & set(names)
    assert codec.watched() == ("first <= second", "net <= gross")


def test_any_event_is_read_as_a_row_that_keeps_them(data: TableData, codec: TableCodec) -> None:
    stored = TableCodec.from_plain(json.loads(json.dumps(codec.plain())), codec.tensors())
    x, rows = made_up(codec.space, {}, 400, seed=3).x, Rows(5, torch.arange(400))
    for one in (codec, stored):
        frame = one.decode(x, one.prior(rows), rows).frame
        assert_kept(frame, data.frame)
        assert list(frame.columns) == list(data.frame.columns)
    assert stored.constraints == codec.constraints
    assert set(stored.constraints) == set(DECLARED)
    moved = codec.moved(x, codec.prior(rows), rows)
    assert 0 < moved.sum() < 400


orders = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=2, max_size=4, unique=True)


@settings(max_examples=30, deadline=None)
@given(
    chain=orders, strict=st.booleans(), kind=st.sampled_from(["whole", "decimal", "number", "day"]), gaps=st.booleans()
)
def test_chains_of_any_columns_are_kept(chain: list[str], strict: bool, kind: str, gaps: bool) -> None:
    random = np.random.default_rng(len(chain))
    steps = random.integers(1, 50, (80, 4)).cumsum(axis=1)
    values: Any = {"whole": steps, "decimal": steps / 100, "number": steps * np.pi}.get(kind, steps)
    frame = pd.DataFrame({name: values[:, k] for k, name in enumerate(chain)})
    if kind == "day":
        frame = pd.DataFrame({c: pd.Timestamp("2020-01-01") + pd.to_timedelta(frame[c], unit="D") for c in frame})
    if gaps:
        frame[chain[0]] = frame[chain[0]].mask(random.random(80) < 0.2)
    frame["other"] = random.normal(size=80)
    sign = "<" if strict else "<="
    data = read_table(frame, constraints=[f"{low} {sign} {high}" for low, high in pairwise(chain)])
    codec = Tables().learn(data)
    rows = Rows(1, torch.arange(60))
    made = codec.decode(made_up(codec.space, {}, 60, seed=1).x * 2, codec.prior(rows), rows).frame
    for low, high in pairwise(chain):
        both = made[[low, high]].dropna()
        assert ((both[low] < both[high]) if strict else (both[low] <= both[high])).all()
    back = codec.decode(codec.encode(data), codec.known(data), Rows(0, torch.arange(80))).frame
    assert (back[chain[-1]].isna() == frame[chain[-1]].isna()).all()


def test_sums_of_dates_count_in_days() -> None:
    frame = stays()[["start", "end", "age"]].assign(days=lambda f: (f["end"] - f["start"]).dt.days)
    for text in ("days = end - start", "end = start + days"):
        data = read_table(frame, constraints=[text])
        codec = Tables().learn(data)
        rows = Rows(2, torch.arange(100))
        made = codec.decode(made_up(codec.space, {}, 100, seed=2).x, codec.prior(rows), rows).frame
        assert ((made["end"] - made["start"]).dt.days == made["days"]).all()


def test_a_sum_with_the_target_is_computed_the_other_way_round() -> None:
    data = read_table(stays().drop(columns="ill"), constraints=["gross = net + tax"], target="gross")
    codec = Tables().learn(data)
    assert codec.fields("tax") == ()
    rows = Rows(2, torch.arange(50))
    made = codec.decode(made_up(codec.space, {}, 50, seed=2).x, codec.prior(rows), rows).frame
    assert ((made["gross"] - made["net"] - made["tax"]).abs() < 1e-6).all()


def test_a_distance_has_the_volume_of_the_column_it_stands_for() -> None:
    """Two columns spread evenly: the density of the pair is the same however it is written."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"a": random.uniform(0, 100, 4000)})
    frame["b"] = frame["a"] + random.uniform(0, 1, 4000)
    plain, written = (Tables().learn(read_table(frame, constraints=c)) for c in ((), ("a <= b",)))
    assert [f.name for f in written.space.fields] == ["a", "b - a"]
    data = read_table(frame, constraints=("a <= b",))
    x = written.encode(data)
    log_normal = (-0.5 * x.double() ** 2 - 0.5 * np.log(2 * np.pi)).sum(1)
    exact = np.log(1 / 100) + np.log(1.0)  # the density of these rows
    assert abs(float((log_normal + written.log_volume(x)).mean()) - exact) < 0.05
    assert plain.space.size == 2


# ------------------------------------------------------------------------------------------------- in every family


TABLED = [name for name in families() if issubclass(family_class(name).engine, Samples)]


@pytest.mark.parametrize("name", TABLED)
def test_every_family_keeps_them_in_every_row(name: str, data: TableData, tmp_path: Path) -> None:
    from pellucid.fitting import fit
    from pellucid.model import load

    try:
        model = fit(data, name, steps=3, watch=False, out=tmp_path / "run")
    except BadInput as refused:  # a family that takes no table of mixed columns says so
        assert "cannot take this data" in str(refused)  # noqa: PT017
        return
    for one in (model, load(tmp_path / "run")):
        draw = one.sample(40, seed=2)
        assert isinstance(draw.items, TableData)
        assert len(draw) == 40
        assert_kept(draw.items.frame, data.frame)
    asked = model.sample(30, where={"ill": ["yes", "no"] * 15}, seed=3)
    assert isinstance(asked.items, TableData)
    assert asked.items.frame["ill"].tolist() == ["yes", "no"] * 15
    assert_kept(asked.items.frame, data.frame)
