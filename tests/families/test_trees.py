"""Trees against LightGBM's own sums, enumeration, and tables in which something was planted."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.core.batch import Batch, Condition
from pellucid.core.bundle import seal
from pellucid.core.errors import BadBundle, BadInput, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real, Space, Tokens, space_from_plain, space_to_plain
from pellucid.core.trace import Silent
from pellucid.core.weights import write_tensors
from pellucid.domains.frames import TableData
from pellucid.families.dichotomies import Boosting, Dichotomies, grow
from pellucid.families.forest import CODES, Forest, Stage, joined
from pellucid.families.trees import Trees, TreesEngine, TreesHow, coded
from pellucid.fitting import fit
from pellucid.model import Fitted, load

FIRST = Rows(0, torch.arange(1))
QUICK = Trees(members=2, rounds=60, rate=0.2)
CART = Trees(learner="cart", leaf=5)
BOTH = pytest.mark.parametrize("family", [QUICK, CART], ids=["boosted", "cart"])


def fitted(x: Tensor, space: Tokens, family: Trees = QUICK, condition: Condition | None = None) -> TreesEngine:
    conditions: dict[str, Space] = {k: Tokens(3, 1) for k in (condition.values if condition else ())}
    engine = family.build(space, conditions, FIRST)
    engine.absorb(Batch(x, torch.arange(len(x)), condition or Condition()))
    engine.settle()
    return engine


def drawn(engine: TreesEngine, n: int, how: TreesHow | None = None, condition: Condition | None = None) -> Tensor:
    rows = Rows(7, torch.arange(n))
    return engine.sample(rows, condition or Condition(), how or engine.settings(), Silent())


def told(value: int, n: int) -> Condition:
    return Condition({"a": torch.full((n, 1), value)}, {"a": torch.ones(n, dtype=torch.bool)})


def mixed(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a number, a name and a number (N, 3), and an answer that depends on all three."""
    random = np.random.default_rng(seed)
    x = np.stack([random.integers(40, size=n), random.integers(100, size=n), random.integers(5, size=n)], 1)
    odds = 0.1 * (x[:, 0] - 20) + 2.0 * np.isin(x[:, 1] % 7, (1, 4)) - 0.8 * (x[:, 2] == 3)
    return x, random.uniform(size=n) < 1 / (1 + np.exp(-odds))


# ------------------------------------------------------------------ trees as tables


def boosted(x: np.ndarray, y: np.ndarray, leaves: int) -> lightgbm.Booster:
    settings = {"objective": "binary", "num_leaves": leaves, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    data = lightgbm.Dataset(x.astype(np.float32), y.astype(np.float32), categorical_feature=[1], params=settings)
    return lightgbm.train(settings, data, 30)


@pytest.mark.parametrize("leaves", [2, 7, 16])
def test_sums_are_those_of_lightgbm(leaves: int) -> None:
    x, y = mixed(1500)
    booster = boosted(x, y, leaves)
    new = np.stack(np.meshgrid(np.arange(41), np.arange(101), np.arange(5)), -1).reshape(-1, 3)[::7]  # also unseen ones
    forest = Forest.of_text(booster.model_to_string(), 30)
    assert forest.trees == 30
    stage = Stage(forest, np.array([0, 30]), np.array([41, 101, 5]))
    expected = booster.predict(new.astype(np.float32), raw_score=True)
    np.testing.assert_allclose(stage(new, np.zeros(len(new), int)), expected, atol=1e-6)
    first = Stage(Forest.of_text(booster.model_to_string(), 4), np.array([0, 4]), np.array([41, 101, 5]))
    expected = booster.predict(new.astype(np.float32), raw_score=True, num_iteration=4)
    np.testing.assert_allclose(first(new, np.zeros(len(new), int)), expected, atol=1e-6)


def test_rows_ask_different_sums_at_once() -> None:
    x, y = mixed(800)
    one, other = (Forest.of_text(boosted(x, said, 8).model_to_string(), n) for said, n in ((y, 30), (~y, 11)))
    stage = Stage(joined([one, Forest.empty(), other]), np.array([0, 30, 30, 41]), np.array([40, 100, 5]))
    which = np.arange(len(x)) % 3
    alone = [Stage(f, np.array([0, f.trees]), np.array([40, 100, 5]))(x, which * 0) for f in (one, other)]
    expected = np.where(which == 0, alone[0], np.where(which == 2, alone[1], 0.0))
    np.testing.assert_allclose(stage(x, which), expected, atol=1e-6)


def test_tables_of_a_forest_come_back_and_odd_ones_are_refused() -> None:
    x, y = mixed(500)
    forest = Forest.of_text(boosted(x, y, 6).model_to_string(), 30)
    tables = forest.tensors()
    again = Forest.of_tensors(tables, 3)
    codes, which = np.array([40, 100, 5]), np.zeros(len(x), int)
    bounds = np.array([0, 30])
    assert (Stage(again, bounds, codes)(x, which) == Stage(forest, bounds, codes)(x, which)).all()
    for name, odd in {"feature": 3, "left": 0, "right": 99, "threshold": CODES, "first_leaf": 5}.items():
        broken = {**tables, name: tables[name].copy()}
        broken[name][1] = odd
        with pytest.raises(BadInput, match="no forest"):
            Forest.of_tensors(broken, 3)


# ------------------------------------------------------------------ questions


def test_questions_are_a_distribution_that_is_drawn_from() -> None:
    x, y = mixed(3000)
    symbol = np.where(y, x[:, 0] // 8, 5 + x[:, 1] % 4)  # 9 symbols, 5 in order
    aside = np.arange(3000) % 5 == 0
    model = grow(x, [1], np.array([40, 100, 5]), symbol, 9, 5, aside, Boosting(rounds=40), np.random.default_rng(0))
    p = model.distribution(x[:500])
    np.testing.assert_allclose(p.sum(1), 1.0)
    np.testing.assert_allclose(np.log(p[np.arange(500), symbol[:500]]), model.log_prob(x[:500], symbol[:500]))
    u = (np.arange(4000) + 0.5) / 4000  # every quantile of one row
    found = np.bincount(model.draw(np.repeat(x[:1], 4000, 0), u), minlength=9) / 4000
    np.testing.assert_allclose(found, p[0], atol=5e-4)
    loss = -model.log_prob(x[aside], symbol[aside]).mean()
    share = np.bincount(symbol, minlength=9) / 3000
    assert loss < -np.log(share[symbol[aside]]).mean() - 0.5


def test_names_are_halved_by_likeness() -> None:
    """Four names that come with one value and four that come with another, in no order: the first question is which."""
    random = np.random.default_rng(0)
    side = random.integers(2, size=4000)
    symbol = np.array([[0, 3, 5, 6], [1, 2, 4, 7]])[side, random.integers(4, size=4000)]
    model = grow(side[:, None], [0], np.array([2]), symbol, 8, 0, np.arange(4000) % 5 == 0, Boosting(rounds=20), random)
    nodes, sides = model._nodes, model._sides
    assert (nodes[:, 0] == 0).all()
    first = sides[model.end, 0]
    assert {frozenset(np.flatnonzero(first)), frozenset(np.flatnonzero(~first))} == {
        frozenset({0, 3, 5, 6}),
        frozenset({1, 2, 4, 7}),
    }


def test_tables_of_questions_come_back_and_odd_ones_are_refused() -> None:
    x, y = mixed(1000)
    symbol, codes = x[:, 2] + 5 * y, np.array([40, 100, 5])
    model = grow(x, [1], codes, symbol, 10, 0, np.arange(1000) % 5 == 0, Boosting(rounds=9), np.random.default_rng(0))
    tables = model.tensors()
    again = Dichotomies.of_tensors(tables, codes, 10)
    assert (again.log_prob(x, symbol) == model.log_prob(x, symbol)).all()
    for name, odd in {"if_left": 0, "if_right": 77, "end": 55, "share": 3.0, "base": math.nan, "trees": 400}.items():
        broken = {**tables, name: tables[name].copy()}
        broken[name][0] = odd
        with pytest.raises(BadInput):
            Dichotomies.of_tensors(broken, codes, 10)


# ------------------------------------------------------------------ the family


def every(space: Tokens) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, space.sizes))))


@BOTH
@pytest.mark.parametrize("space", [Tokens(3, 4), Tokens((2, 9, 1, 5), 4, ordered=(0, 9, 0, 3))], ids=["one", "four"])
def test_probabilities_of_all_rows_sum_to_one(space: Tokens, family: Trees) -> None:
    everything = every(space)
    rows = Rows(1, torch.arange(600))
    x = everything[(rows.uniform() ** 2 * len(everything)).long()]
    condition = Condition({"a": x[:, :1] % 3}, {"a": torch.ones(600, dtype=torch.bool)})
    engine = fitted(x, space, family, condition)
    for asked in (told(1, len(everything)), told(1, len(everything)).without("a"), Condition()):
        value = engine.log_prob(Batch(everything, torch.arange(len(everything)), asked), FIRST)
        assert value.kind == "exact"
        assert float(value.value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
        logits = engine.next_logits(everything[:, :-1], asked)
        each = logits.log_softmax(-1).gather(-1, everything[..., None]).squeeze(-1).sum(1)
        torch.testing.assert_close(each, value.value)


@BOTH
def test_a_planted_dependency_is_found(family: Trees) -> None:
    """The third symbol says, nine times of ten, whether the first two are equal; alone neither tells anything."""
    rows = Rows(2, torch.arange(4000))
    x = rows.integers(3, 3)
    x[:, 2] = ((x[:, 0] == x[:, 1]) ^ (rows.fork("odd").uniform() < 0.1)).long()
    engine = fitted(x, Tokens((3, 3, 2), 3), family)
    found = drawn(engine, 4000)
    right = (found[:, 2] == (found[:, 0] == found[:, 1]).long()).double().mean()
    assert 0.87 < float(right) < 0.92
    assert 0.28 < float((found[:, 0] == found[:, 1]).double().mean()) < 0.39


@BOTH
def test_a_rare_category_a_constant_and_a_class_of_one_row_survive(family: Trees) -> None:
    x = torch.zeros(3000, 4, dtype=torch.int64)
    x[:, 0] = Rows(3, torch.arange(3000)).integers(5)
    x[::50, 1] = 7  # 2 rows of 100
    x[17, 2] = 1
    x[:, 3] = 4
    engine = fitted(x, Tokens((5, 8, 2, 6), 4), family)
    found = drawn(engine, 20_000)
    assert 0.015 < float((found[:, 1] == 7).double().mean()) < 0.026
    assert float((found[:, 3] == 4).double().mean()) > 0.995
    value = engine.log_prob(Batch(x[17:18], torch.arange(1)), FIRST).value
    assert float(value) > math.log(1 / 5 * 1 / 3000) - 2.0


@BOTH
def test_more_columns_than_rows_and_a_single_row(family: Trees) -> None:
    x = Rows(1, torch.arange(6)).integers(4, 30)
    for few in (x, x[:1]):
        engine = fitted(few, Tokens(4, 30), family)
        assert engine.log_prob(Batch(x, torch.arange(6)), FIRST).value.isfinite().all()
        assert drawn(engine, 50).shape == (50, 30)


@BOTH
def test_samples_come_as_often_as_they_are_probable_in_any_batch(family: Trees) -> None:
    space, count = Tokens((2, 3, 2), 3), 20_000
    x = every(space)[[0, 0, 0, 3, 5, 5, 9, 11] * 40]
    engine = fitted(x, space, family)
    found = drawn(engine, count)
    value = engine.log_prob(Batch(every(space), torch.arange(12)), FIRST).value.exp()
    share = torch.stack([(found == row).all(1).double().mean() for row in every(space)])
    assert ((share - value).abs() < 5 * (value / count).sqrt() + 1e-4).all()
    rows = Rows(7, torch.arange(count))
    alone = [engine.sample(rows.take(slice(j, j + 3)), Condition(), TreesHow(), Silent()) for j in range(0, 30, 3)]
    assert torch.equal(torch.cat(alone), found[:30])


def test_ten_thousand_names_and_numbers_in_order() -> None:
    """A column too fine for codes and questions: near numbers stay near, and names keep how often they come."""
    rows = Rows(5, torch.arange(6000))
    first = rows.integers(1000, 1)
    second = (first // 2 + rows.fork("near").integers(20, 1)).clamp(max=999)
    name = (rows.fork("name").uniform(1) ** 4 * 10_000).long()
    space, quick = Tokens((1000, 1000, 10_000), 3, ordered=(1000, 1000, 0)), Trees(members=1, rounds=25, rate=0.3)
    engine = fitted(torch.cat((first, second, name), 1), space, quick)
    found = drawn(engine, 3000)
    assert float((found[:, 1] - found[:, 0] // 2).abs().double().median()) < 30
    assert float((found[:, 2] < 10).double().mean()) == pytest.approx(float((name < 10).double().mean()), abs=0.03)


def test_temperature_zero_takes_the_likeliest_and_the_label_has_its_own() -> None:
    x = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 0], [1, 0, 0]] * 100)
    engine = fitted(x, Tokens(2, 3))
    assert drawn(engine, 20, TreesHow(temperature=0.0)).tolist() == [[0, 1, 1]] * 20
    plain, cold = drawn(engine, 500), drawn(engine, 500, TreesHow(label_temperature=0.0))
    assert torch.equal(plain[:, :2], cold[:, :2])
    assert set(map(tuple, cold.tolist())) == {(0, 1, 1), (1, 0, 0)}
    warm = drawn(engine, 4000, TreesHow(temperature=3.0))
    assert float((warm[:, 0] == 1).double().mean()) > float((plain[:, 0] == 1).double().mean()) + 0.08


@BOTH
def test_what_is_kept_are_trees_and_no_rows(family: Trees) -> None:
    x = Rows(1, torch.arange(300)).integers(5, 4)
    engine = fitted(x, Tokens(5, 4), family)
    tables = engine.tables()
    assert len(tables["rows"]) == len(tables["counts"]) == 0
    again = family.build(engine.space, {}, Rows(9, torch.arange(1)))
    again.restore(tables)
    assert torch.equal(drawn(again, 100), drawn(engine, 100))
    batch = Batch(x, torch.arange(300))
    assert torch.equal(again.log_prob(batch, FIRST).value, engine.log_prob(batch, FIRST).value)


@BOTH
def test_tables_that_do_not_fit_are_refused(family: Trees) -> None:
    tables = fitted(Rows(1, torch.arange(300)).integers(5, 4), Tokens(5, 4), family).tables()
    other = family.build(Tokens(3, 4), {}, FIRST)
    with pytest.raises(BadInput):
        other.restore(tables)
    engine = family.build(Tokens(5, 4), {}, FIRST)
    for name, odd in {"position": 4, "learned": 0, "codes": 200}.items():
        broken = {k: v.clone() for k, v in tables.items()}
        broken[name][0] = odd
        with pytest.raises(BadInput):
            engine.restore(broken)
    with pytest.raises(BadInput, match=r"model\.feature"):
        engine.restore({k: v for k, v in tables.items() if k != "model.feature"})


def test_going_on_from_a_model_adds_members_by_the_rows_they_saw() -> None:
    space, ones, twos = Tokens(3, 2), torch.ones(300, 2, dtype=torch.int64), torch.full((100, 2), 2)
    first = fitted(ones, space)
    second = QUICK.build(space, {}, FIRST, first)
    second.absorb(Batch(twos, torch.arange(100)))
    second.settle()
    assert len(second.members) == 2 * len(first.members)
    found = drawn(second, 8000)
    assert float((found[:, 0] == 2).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_an_unfitted_model_gives_every_symbol_the_same_chance() -> None:
    engine = Trees().build(Tokens((2, 4), 2), {}, FIRST)
    engine.settle()
    value = engine.log_prob(Batch(torch.tensor([[1, 3]]), torch.arange(1)), FIRST).value
    assert float(value) == pytest.approx(-math.log(8))
    assert drawn(engine, 200).max(0).values.tolist() == [1, 3]


def test_what_trees_cannot_do_is_refused_in_words() -> None:
    assert Trees().accepts(Real((2,)), {}) is not None
    assert Trees().accepts(Tokens(3, 5, ends=True), {}) is not None
    assert Trees().accepts(Tokens(3, 2), {"size": Real((1,))}) is not None
    for name, odd in {"learner": "forest", "members": 0, "rate": 0.0, "leaf": 0, "forget": 1.0}.items():
        with pytest.raises(BadInput, match=name):
            Trees(**{name: odd})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="label_temperature"):
        TreesHow(label_temperature=-1.0)


def test_symbols_say_what_is_in_order() -> None:
    space = Tokens((4, 3), 2, ordered=(3, 0))
    assert space_from_plain(space_to_plain(space)) == space == Tokens((4, 3), 2)
    again = space_from_plain(space_to_plain(space))
    assert isinstance(again, Tokens)
    assert again.ordered == (3, 0)
    with pytest.raises(BadInput, match="ordered"):
        Tokens((4, 3), 2, ordered=(5, 0))
    assert coded(np.r_[np.full(300, 5), 1, 90, 2], 300)[[0, 299, 301, 302, 300]].tolist() == [0, 95, 96, 97, 98]


# ------------------------------------------------------------------ tables


def people(n: int = 900, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    age = random.integers(18, 80, size=n)
    height = np.round(random.normal(170, 9, size=n), 1)
    town = np.array(["Ulm", "Bonn", "Kiel", "Jena"])[random.choice(4, p=[0.5, 0.3, 0.18, 0.02], size=n)]
    old = random.uniform(size=n) < 1 / (1 + np.exp(-(age - 50) / 4))
    frame = pd.DataFrame({"age": age, "height": height, "town": town, "same": "x", "old": np.where(old, "yes", "no")})
    frame.loc[random.uniform(size=n) < 0.1, "height"] = np.nan
    return frame


def rows_of(model: Fitted, n: int, seed: int, batch: int = 250, where: dict[str, object] | None = None) -> pd.DataFrame:
    items = model.sample(n, seed=seed, batch=batch, where=where).items
    assert isinstance(items, TableData)
    return items.frame


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit(people(), QUICK, out=tmp_path_factory.mktemp("runs") / "people", held_out=0.0)


def test_a_table_keeps_what_its_columns_have_in_common(model: Fitted) -> None:
    found = rows_of(model, 3000, 1)
    assert (found["same"] == "x").all()
    assert found["height"].isna().mean() == pytest.approx(0.1, abs=0.03)
    assert 0.008 < (found["town"] == "Jena").mean() < 0.035
    assert (found.loc[found["age"] > 60, "old"] == "yes").mean() > 0.85
    assert (found.loc[found["age"] < 40, "old"] == "yes").mean() < 0.15
    space = model.bridge.target
    assert isinstance(space, Tokens)
    assert space.ordered == (space.sizes[0], space.sizes[1] - 1, 0, 0)  # the missing height stands after the bins
    assert model.recipe["steps_done"] == 4 * QUICK.members


def test_a_bundle_gives_the_same_rows_and_runs_no_code(model: Fitted) -> None:
    assert model.folder is not None
    again = load(model.folder)
    assert rows_of(again, 200, 3).equals(rows_of(model, 200, 3, batch=17))
    data = pl.read(people(200, seed=5))
    assert torch.equal(again.log_prob(data).value, model.log_prob(data).value)
    assert model.log_prob(data).kind == "exact"


def test_a_bundle_with_odd_trees_is_refused(model: Fitted, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "odd")
    tables = {k: v.clone() for k, v in model.engine.tables().items()}  # type: ignore[operator]
    tables["model.feature"][0] = 40
    write_tensors(folder / "weights" / "engine.safetensors", tables)
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    seal(folder, {}, only=names)
    with pytest.raises(BadBundle, match="forest"):
        load(folder)


def test_budgets_are_pieces_or_minutes() -> None:
    frame = people(300)
    assert fit(frame, Trees(rounds=5), steps=7, held_out=0.0).recipe["steps_done"] == 7
    hurried = fit(frame, QUICK, minutes=1e-6, held_out=0.0)
    assert hurried.recipe["steps_done"] == 4  # a whole model in any case
    assert len(hurried.sample(20).items) == 20


def test_growing_can_be_stopped() -> None:
    run = Run()
    run.listeners.append(lambda event: run.stop() if getattr(event, "stage", "") == "grow" else None)
    with pytest.raises(Stopped, match="pieces"):
        fit(people(200), QUICK, held_out=0.0, run=run)


def test_a_target_is_a_condition_that_columns_follow() -> None:
    made = fit(people(), QUICK, target="old", held_out=0.0)
    found = {word: rows_of(made, 800, 2, where={"old": word})["age"].mean() for word in ("yes", "no")}
    assert found["yes"] > found["no"] + 20
    free = rows_of(made, 2000, 4)
    assert (free["old"] == "yes").mean() == pytest.approx((people()["old"] == "yes").mean(), abs=0.04)


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    engines = [fit(people(300), dataclasses.replace(QUICK, rounds=10), seed=s, held_out=0.0) for s in (1, 1, 2)]
    tables = [m.engine.tables()["model.values"] for m in engines]  # type: ignore[operator]
    assert torch.equal(tables[0], tables[1])
    assert tables[0].shape != tables[2].shape or not torch.equal(tables[0], tables[2])


def test_questions_that_are_too_deep_or_too_many_are_refused() -> None:
    """A small file may not ask for much memory: a chain of questions, each under the one before."""
    many = 2000
    tables = dict(Forest.empty().tensors())
    node = np.arange(many)
    tables |= {"if_left": -1 - node, "if_right": np.where(node < many - 1, node + 1, -1 - many)}
    tables |= {"trees": np.zeros(many, np.int64), "base": np.zeros(many)}
    tables |= {"end": np.arange(many + 1), "share": np.ones(many + 1)}
    with pytest.raises(BadInput, match="tables are no questions"):
        Dichotomies.of_tensors(tables, np.array([4]), many + 1)
