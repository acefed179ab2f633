"""Identifiers are found, left out of what is learned, and made anew: distinct, beyond those seen, of the same form."""

from __future__ import annotations

import re
import uuid

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.columns import infer
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.identifiers import form_of_numbers, form_of_texts
from pellucid.domains.tables import Tables

N = 60


def customers(n: int = N) -> pd.DataFrame:
    random = np.random.default_rng(3)
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    codes = ["".join([*random.choice(letters, 4), *random.choice(list("0123456789"), 6)]) for _ in range(n)]
    return pd.DataFrame(
        {
            "row": random.permutation(n) + 1,
            "uid": [str(uuid.UUID(int=int(v))) for v in random.integers(0, 2**62, n)],
            "case": [f"P-{k:04d}" for k in range(n)],
            "token": codes,
            "amount": random.integers(10**6, 10**9, n),
            "size": random.normal(size=n),
        }
    )


def made(data: TableData, n: int, seed: int = 5) -> pd.DataFrame:
    codec = Tables().learn(data)
    rows = Rows(seed, torch.arange(n))
    return codec.decode(torch.zeros(n, *codec.space.shape), codec.prior(rows), rows.fork("decode")).frame


def test_identifiers_are_found_and_numbers_that_merely_differ_are_not() -> None:
    data = read_table(customers())
    kinds = {c.name: c.kind for c in data.columns}
    assert kinds == {
        "row": "key",
        "uid": "key",
        "case": "key",
        "token": "key",
        "amount": "integer",
        "size": "number",
    }
    said = {n.topic: n for n in data.notices}
    assert said["key"].count == 4
    assert "'row' (new rows get 61, 62, ...)" in said["key"].text
    assert "'amount'" in said["identifier"].text


def test_they_take_no_part_in_what_is_learned() -> None:
    codec = Tables().learn(read_table(customers()))
    assert [f.name for f in codec.space.fields if not f.name.startswith("amount")] == ["size"]
    assert codec.fields("uid") == ()


def test_new_ones_are_distinct_new_and_of_the_same_form() -> None:
    frame = customers()
    new = made(read_table(frame), 500)
    for name in ("row", "uid", "case", "token"):
        assert new[name].is_unique
        assert not set(new[name]) & set(frame[name])
    assert new["row"].tolist() == list(range(N + 1, N + 501))
    assert new["case"].iloc[0] == "P-0060"
    assert all(str(uuid.UUID(v)) == v for v in new["uid"])
    assert all(re.fullmatch("[A-Z]{4}[0-9]{6}", v) for v in new["token"])


def test_a_row_has_its_identifier_in_any_batch() -> None:
    data = read_table(customers())
    codec = Tables().learn(data)
    rows = Rows(5, torch.tensor([40, 7]))
    some = codec.decode(torch.zeros(2, *codec.space.shape), codec.prior(rows), rows).frame
    assert some["uid"].tolist() == made(data, 50)["uid"].iloc[[40, 7]].tolist()
    assert some["row"].tolist() == [N + 41, N + 8]


def test_a_column_that_is_one_to_one_with_an_identifier_is_one_too() -> None:
    frame = customers().assign(name=[f"Mr {k % 7} of {'x' * k}" for k in range(N)])
    data = read_table(frame)
    assert data.column("name").kind == "key"
    assert made(data, 3)["name"].tolist() == ["name-1", "name-2", "name-3"]


def test_columns_that_say_the_same_are_named() -> None:
    city = np.random.default_rng(0).choice(["Bonn", "Lyon", "Rome"], N)
    frame = customers().assign(city=city, country=pd.Series(city).map({"Bonn": "DE", "Lyon": "FR", "Rome": "IT"}))
    said = {n.topic: n.text for n in read_table(frame).notices}
    assert "--constraint 'together: A, B'" in said["paired"]
    assert "'city, country'" in said["paired"]


def test_the_user_has_the_last_word() -> None:
    data = read_table(customers(), kinds={"row": "integer", "amount": "key", "case": "category"})
    assert [data.column(n).kind for n in ("row", "amount", "case")] == ["integer", "key", "category"]
    with pytest.raises(BadInput, match="'a' cannot be read as key: 2 of its 4 cells are missing or repeat"):
        infer(pd.DataFrame({"a": [1, 1, 1, 2]}), {"a": "key"})
    with pytest.raises(BadInput, match="no whole numbers and no text"):
        infer(pd.DataFrame({"a": [0.5, 1.5, 2.5]}), {"a": "key"})


def test_names_are_believed_earlier_than_values() -> None:
    few = pd.DataFrame({"PassengerId": range(12), "order_no": range(5, 17), "points": range(12), "x": np.ones(12)})
    few["x"] = np.random.default_rng(0).normal(size=12)
    kinds = {c.name: c.kind for c in read_table(few).columns}
    assert kinds == {"PassengerId": "key", "order_no": "key", "points": "integer", "x": "number"}


def test_a_table_of_nothing_else_is_learned_after_all() -> None:
    columns = infer(pd.DataFrame({"id": range(100), "same": ["a"] * 100}))[1]
    assert [c.kind for c in columns] == ["integer", "constant"]


def test_an_identifier_is_no_target() -> None:
    with pytest.raises(BadInput, match="the target 'row' is an identifier.*--column row=category"):
        Tables().learn(read_table(customers(), target="row"))


def test_what_was_asked_about_identifiers_is_refused() -> None:
    codec = Tables().learn(read_table(customers()))
    with pytest.raises(BadInput, match="'row' is an identifier.*made anew"):
        codec.possible({"row": "7"})


@settings(max_examples=60, deadline=None)
@given(
    texts=st.one_of(
        st.sets(st.text("abc019-_ é", min_size=1, max_size=6), min_size=1, max_size=30),
        st.sets(st.integers(0, 10**12), min_size=1, max_size=30).map(lambda v: {f"K{k:07d}/x" for k in v}),
        st.sets(st.integers(0, 10**9), min_size=1, max_size=30).map(lambda v: {f"{k:010d}" for k in v}),
        st.sets(st.uuids(), min_size=1, max_size=30).map(lambda v: {str(k) for k in v}),
    ),
    seed=st.integers(0, 10),
)
def test_whatever_the_form_new_ones_are_distinct_and_those_that_count_are_new(texts: set[str], seed: int) -> None:
    form = form_of_texts(sorted(texts), "thing")
    new = [form.made(seed, row) for row in range(200)]
    assert len(set(new)) == 200
    if form.how in ("numbered", "uuid"):
        assert form.prefix == "thing-" or not set(new) & texts


def test_numbers_go_on_beyond_the_largest() -> None:
    assert [form_of_numbers(7).made(3, row) for row in range(3)] == [8, 9, 10]
