"""Rows as they are asked for: known parts, ranges, shares, no gaps; each route says what it promises and cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from pellucid.core.capabilities import Denoises
from pellucid.core.errors import BadInput, Stopped
from pellucid.core.run import Run
from pellucid.domains.frames import TableData, read_table
from pellucid.fitting import fit
from pellucid.model import Draw, Fitted

N = 400


def people(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    city = random.choice(["Paris", "Lyon", "Rome"], N, p=[0.6, 0.3, 0.1])
    frame = pd.DataFrame(
        {
            "id": np.arange(N) + 1,
            "sex": random.choice(["f", "m"], N, p=[0.3, 0.7]),
            "age": random.integers(18, 90, N),
            "city": city,
            "country": pd.Series(city).map({"Paris": "FR", "Lyon": "FR", "Rome": "IT"}),
            "zone": "EU",
            "low": random.normal(size=N),
            "rich": random.choice(["no", "yes"], N, p=[0.8, 0.2]),
        }
    )
    frame["high"] = frame["low"] + random.random(N)
    frame["lab"] = pd.Series(random.normal(size=N)).mask(random.random(N) < 0.4)
    frame["grade"] = pd.Series(random.choice(["a", "b"], N)).mask(random.random(N) < 0.4)
    return frame


CONSTRAINTS = ("together: city, country", "low <= high", "age >= 18")


@pytest.fixture(scope="module")
def models() -> dict[str, Fitted]:
    data = read_table(people(), target="rich", constraints=CONSTRAINTS)
    return {name: fit(data, name, steps=20, watch=False) for name in ("ngram", "masked", "vae", "diffusion")}


@pytest.fixture(scope="module")
def small() -> Fitted:
    random = np.random.default_rng(1)
    a = random.integers(0, 3, 400)
    b = (a + random.integers(0, 2, 400)) % 4
    frame = pd.DataFrame({"a": a.astype(str), "b": b.astype(str), "c": ((a + b) % 2).astype(str)})
    return fit(read_table(frame, kinds=dict.fromkeys("abc", "category")), "ngram", watch=False)


def frame_of(draw: Draw) -> pd.DataFrame:
    assert isinstance(draw.items, TableData)
    return draw.items.frame


# ------------------------------------------------------------------------------------------------------ what is asked


def test_a_known_beginning_is_completed_from_the_models_own_distribution(small: Fitted) -> None:
    """P(b, c | a = 1) by enumeration, against the shares of completed rows."""
    pairs = list(itertools.product("012", "0123", "01"))
    items = read_table(pd.DataFrame(pairs, columns=["a", "b", "c"]), kinds=dict.fromkeys("abc", "category"))
    p = dict(zip(pairs, small.log_prob(items).value.exp().tolist(), strict=True))
    n = 3000
    draw = small.sample(n, where={"a": "1"}, seed=4)
    assert (draw.route, draw.promise, draw.tried, draw.acceptance) == ("completion", "exact", n, 1.0)
    whole = sum(v for (a, _, _), v in p.items() if a == "1")
    seen = frame_of(draw).value_counts()
    for one, value in p.items():
        share = value / whole if one[0] == "1" else 0.0
        assert abs(seen.get(one, 0) / n - share) < 5 * math.sqrt(share * (1 - share) / n) + 1e-9


def test_what_comes_later_is_met_by_drawing_again(small: Fitted) -> None:
    draw = small.sample(50, where={"a": "1", "c": "0"}, seed=4)
    assert draw.route == "completion"  # a is known, c is waited for
    assert draw.tried > 50
    assert draw.acceptance == 50 / draw.tried
    assert [n.topic for n in draw.notices] == ["route", "where"]
    assert (frame_of(draw)[["a", "c"]] == ["1", "0"]).all(axis=None)
    assert small.sample(20, where={"b": "!=1"}, seed=4).route == "rejection"
    assert "1" not in set(frame_of(small.sample(20, where={"b": "!=1"}, seed=4))["b"])


@pytest.mark.parametrize("name", ["ngram", "masked", "vae", "diffusion"])
def test_every_family_serves_words_about_any_columns(models: dict[str, Fitted], name: str) -> None:
    where = {"sex": "f", "age": "30..70", "city": "Paris", "rich": "yes"}
    draw = models[name].sample(20, where=where, seed=2)
    frame = frame_of(draw)
    assert len(frame) == 20
    assert set(frame["sex"]) == {"f"}
    assert frame["age"].between(30, 70).all()
    assert set(zip(frame["city"], frame["country"], strict=True)) == {("Paris", "FR")}
    assert set(frame["rich"]) == {"yes"}
    assert set(frame["zone"]) == {"EU"}
    assert (frame["low"] <= frame["high"]).all()
    assert frame["id"].is_unique
    assert draw.promise == "exact"
    assert draw.route == ("completion" if name in ("masked", "ngram") else "rejection")


def test_a_denoiser_goes_round_what_is_known_where_waiting_would_take_too_long(
    models: dict[str, Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["diffusion"]
    assert isinstance(model.engine, Denoises)
    monkeypatch.setattr("pellucid.drawing.sampler.PILOT", 200)
    monkeypatch.setattr("pellucid.drawing.sampler.CANDIDATES", 1)
    where = {"age": 83, "city": "Rome", "sex": "f", "grade": "a"}
    n = 2000
    monkeypatch.setattr(type(model.codec), "meets", _hardly(type(model.codec).meets))
    draw = model.sample(8, where=where, seed=3)
    assert n > len(draw) == 8
    assert (draw.route, draw.promise) == ("completion", "approximate")
    frame = frame_of(draw)
    assert set(frame["age"]) == {83}
    assert set(zip(frame["city"], frame["country"], strict=True)) == {("Rome", "IT")}
    assert "approximate: denoised around what is known" in draw.notices[0].text


def _hardly(meets):
    """Words as before, but for the first few hundred candidates, of which none meets them."""
    seen = {"rows": 0}

    def counted(self, items, where):
        seen["rows"] += len(items)
        found = meets(self, items, where)
        return np.zeros(len(items), bool) if seen["rows"] <= 1000 else found

    return counted


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ({"sex": "x"}, "sex is 'x'. Accepted: f, m"),
        ({"age": "200"}, "age is '200', as no row of the training data is. Accepted: 18 to 89"),
        ({"age": "<10"}, "age is '<10', as no row"),
        ({"zone": "US"}, "zone is 'US'"),
        ({"sex": None}, "sex is missing, as no row"),
        ({"city": "Rome", "country": "FR"}, "country is 'FR' never occurs together with city=Rome.*country: IT"),
        ({"low": ">2", "high": "<-1"}, "low=>2 and high=<-1 break the constraint 'low <= high'"),
        ({"id": "7"}, "'id' is an identifier"),
        ({"rich": "maybe"}, "rich is 'maybe'"),
        ({"sx": "f"}, "no column 'sx'.*Did you mean 'sex'"),
    ],
)
def test_words_that_no_row_can_meet_are_refused_before_any_work(
    models: dict[str, Fitted], where: dict[str, object], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (models["vae"], models["masked"]):
        monkeypatch.setattr(type(model.engine), "sample", lambda *a: pytest.fail("sampled before checking"))
        with pytest.raises(BadInput, match=match):
            model.sample(3, where=where)


def test_words_that_hardly_any_row_meets_say_which_of_them_costs(
    models: dict[str, Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["vae"]
    monkeypatch.setattr(
        type(model.codec),
        "meets",
        lambda self, items, where: np.full(len(items), "sex" in where),
    )
    with pytest.raises(BadInput, match=r"only 0 of 20,000.*Met one by one: sex=f 20,000; age=>80 0"):
        model.sample(3, where={"sex": "f", "age": ">80"}, batch=2000)


def test_a_condition_may_be_asked_for_as_a_range_too(models: dict[str, Fitted]) -> None:
    draw = models["vae"].sample(20, where={"rich": "!=yes"}, seed=2)
    assert draw.route == "rejection"
    assert set(frame_of(draw)["rich"]) == {"no"}


def test_a_draw_can_be_stopped(models: dict[str, Fitted]) -> None:
    run = Run()
    run.stop()
    with pytest.raises(Stopped):
        models["vae"].sample(3, where={"sex": "f"}, run=run)


# ---------------------------------------------------------------------------------------------- constraints that move


def test_rows_with_words_of_their_own_are_drawn_again_one_by_one() -> None:
    frame = people().drop(columns=["high", "city", "country"])
    random = np.random.default_rng(2)
    frame["high"] = (frame["low"] + random.random(N)).mask(random.random(N) < 0.1)  # missing: no distance
    model = fit(read_table(frame, target="rich", constraints=["low <= high"]), "vae", steps=5, watch=False)
    words = ["yes", "no", "no"] * 20
    draws = [model.sample(60, where={"rich": words}, seed=3, batch=batch) for batch in (7, 250)]
    assert torch.allclose(draws[0].x, draws[1].x, atol=1e-4)
    assert torch.equal(draws[0].ids, draws[1].ids)
    made = frame_of(draws[0])
    assert made["rich"].tolist() == words
    assert made["id"].is_unique
    both = made[["low", "high"]].dropna()
    assert (both["low"] <= both["high"]).all()
    assert draws[0].tried > 60
    free = model.sample(60, seed=3)
    assert free.notices[0].topic == "constraints"
    again = model.sample(ids=free.ids, seed=3)
    assert torch.allclose(again.x, free.x, atol=1e-4), "its ids name a sample wherever it was found"


def test_a_sum_that_cannot_be_moved_is_drawn_again_or_refused() -> None:
    random = np.random.default_rng(5)
    frame = pd.DataFrame({"a": random.integers(0, 60, N), "b": random.integers(0, 60, N), "x": random.normal(size=N)})
    frame["total"] = frame["a"] + frame["b"]
    frame = frame[frame["total"] <= 70].reset_index(drop=True)
    model = fit(read_table(frame, constraints=["total = a + b", "total <= 70"]), "vae", steps=5, watch=False)
    draw = model.sample(100, seed=1)
    made = frame_of(draw)
    assert (made["total"] == made["a"] + made["b"]).all()
    assert (made["total"] <= 70).all()
    assert draw.tried > 100
    with pytest.raises(BadInput, match="rows break a constraint and cannot be moved"):
        model.sample(ids=range(100), seed=1)


# ------------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("name", ["ngram", "masked", "vae"])
@pytest.mark.parametrize("column", ["rich", "sex", "city"])
def test_a_class_can_be_balanced(models: dict[str, Fitted], name: str, column: str) -> None:
    draw = models[name].sample(30, balance=column, seed=6)
    frame = frame_of(draw)
    counts = frame[column].value_counts()
    assert set(counts) == {30 // len(counts)}
    assert len(counts) == people()[column].nunique()
    assert frame["id"].is_unique
    assert len(set(draw.ids.tolist())) == 30
    assert draw.notices[-1].topic == "shares"
    assert frame[column].tolist() != sorted(frame[column])


def test_some_values_can_have_their_share_and_the_others_keep_their_own(models: dict[str, Fitted]) -> None:
    frame = frame_of(models["masked"].sample(60, shares={"city": {"Rome": 0.5}}, where={"age": ">=20"}, seed=1))
    counts = frame["city"].value_counts()
    assert counts["Rome"] == 30
    assert counts["Paris"] + counts["Lyon"] == 30
    assert counts["Paris"] > counts["Lyon"]
    assert frame["age"].min() >= 20
    exact = frame_of(models["vae"].sample(10, shares={"rich": {"yes": 0.7, "no": 0.3}}, seed=1))
    assert (exact["rich"] == "yes").sum() == 7


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"balance": "age"}, "'age' is a column of the kind integer"),
        ({"balance": "aeg"}, "no column 'aeg'.*Did you mean 'age'"),
        ({"balance": "sex", "shares": {"city": {"Rome": 0.1}}}, "one column at a time"),
        ({"shares": {"city": {"Roma": 0.1}}}, "share of city is for 'Roma'.*Did you mean 'Rome'"),
        ({"shares": {"sex": {"f": 0.6, "m": 0.6}}}, "shares of sex sum to 1.2"),
        ({"shares": {"sex": {"f": 0.2, "m": 0.2}}}, "shares of sex sum to 0.4. Accepted: 1"),
        ({"shares": {"sex": {"f": 1.5}}}, "share of sex:f is 1.5"),
        ({"balance": "sex", "where": {"sex": "f"}}, "'sex' is asked for and shared out"),
    ],
)
def test_shares_that_cannot_be_are_refused(models: dict[str, Fitted], options: dict[str, object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        models["vae"].sample(10, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ missing cells


@pytest.mark.parametrize("name", ["ngram", "vae", "diffusion"])
def test_missing_cells_are_as_in_the_data_or_filled(models: dict[str, Fitted], name: str) -> None:
    gaps = frame_of(models[name].sample(40, seed=1))
    assert gaps["lab"].isna().any()
    assert gaps["grade"].isna().any()
    draw = models[name].sample(40, seed=1, missing=False)
    full = frame_of(draw)
    assert not full.isna().any(axis=None)
    there = gaps["lab"].notna()
    assert full.loc[there, "lab"].tolist() == gaps.loc[there, "lab"].tolist()
    assert draw.notices[-1].topic == "missing"
    fewer = frame_of(models[name].sample(9, seed=1, missing=False, batch=4))
    assert fewer["grade"].tolist() == full["grade"].tolist()[:9]


def test_pictures_have_no_missing_cells() -> None:
    from pellucid.domains.read import read

    model = fit(read("digits", limit=40), "gan", steps=1, watch=False)
    with pytest.raises(BadInput, match="tables, which have missing cells"):
        model.sample(2, missing=False)
    with pytest.raises(BadInput, match="Give a list"):
        model.sample(2, balance="class")


# ------------------------------------------------------------------------------------------------------- sparse tables


def test_a_rare_category_survives_and_what_is_too_sparse_is_said() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=N), "kind": ["rare"] * 8 + ["usual"] * (N - 8), "same": 7})
    model = fit(read_table(frame), "ngram", watch=False)
    made = frame_of(model.sample(2000, seed=0))
    assert 5 <= (made["kind"] == "rare").sum() <= 120
    assert set(made["same"]) == {7}
    alone = read_table(frame.assign(kind=["rare"] + ["usual"] * (N - 1)), target="kind")
    assert "1 values of the target 'kind' have one row each" in {n.topic: n.text for n in alone.notices}["rare"]
    wide = read_table(pd.DataFrame(random.normal(size=(12, 20)), columns=[f"v{k}" for k in range(20)]))
    assert "20 columns and 12 rows" in {n.topic: n.text for n in wide.notices}["wide"]
    few = fit(wide, "vae", steps=2, watch=False)
    assert len(few.sample(5)) == 5


def test_fewer_rows_than_values_cannot_be_balanced() -> None:
    from pellucid.domains.tables import Tables
    from pellucid.drawing.shares import groups_of

    table = read_table(pd.DataFrame({"city": ["Rome", "Bonn", "Oslo"] * 10, "x": range(30)}))
    codec = Tables().learn(table)
    assert sum(count for _, count in groups_of(codec, 3, "city", {})[1]) == 3
    with pytest.raises(BadInput, match="2 rows are to be balanced over the 3 values of city"):
        groups_of(codec, 2, "city", {})
