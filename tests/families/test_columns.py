"""The any-order column model against enumeration: every order, every set of known columns, every row."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.domains.frames import TableData, read_table
from pellucid.explain.errors import errors
from pellucid.explain.parts import parts
from pellucid.explain.saliency import saliency
from pellucid.families.columns import Columns, ColumnsEngine, ColumnsHow, visits
from pellucid.fitting import fit
from pellucid.model import Fitted, load
from pellucid.solvers.known import complete
from pellucid.training.loop import train
from tests.contracts.toys.table import JointTable
from tests.families.rowwise import CLASS, batch_of, check_rowwise, events, stir

SMALL = Tokens((2, 3, 2, 2, 3), 5)
THREE = list(itertools.combinations(range(5), 3))
NAMED = pytest.mark.parametrize("known", THREE, ids=lambda known: "-".join(map(str, known)))


def build(space: Tokens = SMALL, **settings: float) -> ColumnsEngine:
    family = Columns(width=16, depth=2, **settings)  # type: ignore[arg-type]
    engine = family.build(space, {}, Rows(0, torch.arange(1)))
    stir(engine, 0.4)
    return engine.eval()


def every(space: Tokens = SMALL) -> Tensor:
    """(N, T) all rows."""
    return torch.tensor(list(itertools.product(*map(range, space.sizes))))


@torch.no_grad()
def joint(engine: ColumnsEngine, x: Tensor, order: tuple[int, ...]) -> Tensor:
    """(N,) log-probability of x, by one question for each column in this order."""
    out = torch.zeros(len(x))
    for k, at in enumerate(order):
        known = torch.tensor([t in order[:k] for t in range(x.shape[1])]).expand(x.shape)
        logits = engine.fill_logits(torch.where(known, x, 0), known, Condition())[:, at]
        out += logits.log_softmax(-1).gather(-1, x[:, at, None])[:, 0]
    return out


def fits(drawn: Tensor, x: Tensor, p: Tensor) -> float:
    """p-value of a chi-square test of drawn (B, T) against probabilities p (N,) of the rows x (N, T)."""
    counts = (drawn[:, None] == x).all(-1).sum(0)
    assert int(counts.sum()) == len(drawn)  # nothing else was drawn
    assert not counts[p == 0].any()
    usual = p * len(drawn) > 5
    counts, expected = counts[usual].double(), p[usual].double()
    return float(stats.chisquare(counts.numpy(), (expected * counts.sum() / expected.sum()).numpy()).pvalue)


# ---------------------------------------------------------------------------------------------- against enumeration


def test_the_likelihood_is_the_tables_order_and_sums_to_one() -> None:
    engine, x = build(), every()
    with torch.no_grad():
        found = engine.log_prob(Batch(x, torch.arange(len(x))), Rows(0, torch.arange(len(x))))
    assert found.kind == "exact"
    assert float(found.value.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(found.value, joint(engine, x, (0, 1, 2, 3, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (2, 0, 4, 1, 3)], ids=["back", "mixed"])
def test_every_order_is_a_distribution(order: tuple[int, ...]) -> None:
    engine, x = build(), every()
    found, forward = (joint(engine, x, o).double().exp() for o in (order, (0, 1, 2, 3, 4)))
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((found - forward).abs().sum()) > 0.01  # an unfitted network does not make the orders agree


@NAMED
def test_any_three_columns_can_be_the_condition(known: tuple[int, ...]) -> None:
    """Rows drawn around three known columns, against the conditional of the joint that asks for these first."""
    engine, x = build(), every()
    row = torch.tensor([1, 2, 0, 1, 1])
    p = joint(engine, x, (*known, *(t for t in range(5) if t not in known))).double().exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    agrees = (x[:, list(known)] == row[list(known)]).all(1)
    p = torch.where(agrees, p, 0.0) / p[agrees].sum()
    mask, n = torch.tensor([[t in known for t in range(5)]]), 4000
    with torch.no_grad():
        done = complete(engine, row.expand(n, -1), mask, Condition(), Rows(5, torch.arange(n)), engine.settings())
    assert (done.route, done.exactness) == ("Unmasks", "exact")
    assert torch.equal(done.x[:, list(known)], row[list(known)].expand(n, -1))
    assert fits(done.x, x, p) > 1e-3 / len(THREE)


def test_rows_are_drawn_as_they_are_scored() -> None:
    engine, x, n = build(), every(), 20_000
    drawn = engine.sample(Rows(3, torch.arange(n)), Condition(), ColumnsHow(), Silent())
    assert fits(drawn, x, joint(engine, x, (0, 1, 2, 3, 4)).double().exp()) > 1e-3


def test_a_random_order_draws_the_mean_over_orders() -> None:
    space, n = Tokens((2, 3, 2), 3), 20_000
    engine, x = build(space), every(space)
    orders = list(itertools.permutations(range(3)))
    p = torch.stack([joint(engine, x, order).double().exp() for order in orders]).mean(0)
    drawn = engine.sample(Rows(3, torch.arange(n)), Condition(), ColumnsHow(order="random"), Silent())
    assert fits(drawn, x, p) > 1e-3
    assert fits(drawn, x, joint(engine, x, (2, 1, 0)).double().exp()) < 1e-6


@torch.no_grad()
def test_what_is_asked_of_a_set_is_what_was_trained_in_an_order() -> None:
    """The slot that answers for a column after a sorted set, in the pass of training, and asked by `fill_logits`."""
    engine, x = build(), events(SMALL, 12)
    order = torch.tensor([0, 2, 4, 3, 1]).expand(12, 5)
    spelled = engine._spelled(x, order, Condition())
    known = torch.tensor([True, False, True, False, True]).expand(12, 5)
    said = engine.fill_logits(x, known, Condition()).log_softmax(-1).gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(said[:, 3], spelled[:, 3], rtol=1e-4, atol=1e-5)
    assert float((said[:, 1] - spelled[:, 1]).abs().max()) > 1e-3  # column 1 was told column 3 as well


@torch.no_grad()
def test_rows_of_one_batch_may_know_different_columns() -> None:
    engine, x = build(), events(SMALL, 40)
    known = Rows(1, torch.arange(40)).uniform(5) < torch.linspace(0.0, 1.0, 40)[:, None]
    whole = engine.fill_logits(x, known, Condition())
    for i in range(40):
        torch.testing.assert_close(engine.fill_logits(x[i : i + 1], known[i : i + 1], Condition())[0], whole[i])
    assert known.sum(1).unique().numel() == 6
    assert engine.fill_logits(x[:0], known[:0], Condition()).shape == (0, 5, 3)


def test_a_fitted_model_fills_like_the_joint_that_it_learned() -> None:
    space = Tokens((2, 3, 2, 3), 4)
    truth, ids = JointTable(space), torch.arange(4000)
    x = truth.events[Rows(0, ids).categorical(truth.log_p.expand(len(ids), -1))]
    family = Columns(width=32, depth=2, dropout=0.0)
    engine = family.build(space, {}, Rows(0, torch.arange(1)))
    before = distance(engine, truth)
    train(engine, TensorExamples(x), settings=family.training(space, 4000), steps=200, seed=0, run=Run())
    assert before > 0.2
    assert distance(engine.eval(), truth) < 0.06


@torch.no_grad()
def distance(engine: ColumnsEngine, truth: JointTable) -> float:
    """Mean total variation between what both say of an unknown column, over all sets of known ones."""
    weight, apart, places = truth.log_p.exp(), 0.0, 0
    for told in list(itertools.product([False, True], repeat=4))[:-1]:
        mask = torch.tensor(told).expand(len(truth.events), 4)
        found, expected = (e.fill_logits(truth.events, mask, Condition()).softmax(-1) for e in (engine, truth))
        apart += float(weight @ (found - expected).abs().sum(-1).div(2).masked_fill(mask, 0.0).sum(1))
        places += 4 - sum(told)
    return apart / places


# --------------------------------------------------------------------------------------------------------- the rest


def test_orders_of_training_begin_with_a_set_in_table_order() -> None:
    n, length = 6000, 5
    order = visits(Rows(0, torch.arange(n)), length, 0.25)
    assert torch.equal(order.sort(1).values, torch.arange(length).expand(n, -1))
    table = (order == torch.arange(length)).all(1).double().mean()
    assert float(table) > 0.25 + 0.375 * 0.2  # a quarter, and where the first set is empty
    first = order[:, 0].bincount(minlength=length) / n
    assert float(first.min()) > 0.03  # every column comes first at times
    assert torch.equal(visits(Rows(0, torch.arange(4)), 3, 1.0), torch.arange(3).expand(4, -1))
    descents = (order[:, 1:] < order[:, :-1]).sum(1)
    assert 0.2 < float((descents == 1).double().mean()) < 0.7  # a set, then the rest
    assert float((descents > 1).double().mean()) > 0.1  # and orders that are none


def test_losses_are_row_by_row() -> None:
    family = Columns(width=8, heads=2, depth=1)
    engine = family.build(SMALL, CLASS, Rows(0, torch.arange(1)))
    stir(engine, 0.4)
    check_rowwise(engine, batch_of(SMALL, 4))


def test_a_trace_follows_the_columns() -> None:
    trace = Recording(["token", "logits"])
    for order in ("forward", "random"):
        x = build().sample(Rows(1, torch.arange(6)), Condition(), ColumnsHow(order=order), trace)
        drawn = torch.stack([trace.kept["token"][k] for k in range(5)], 1)
        assert torch.equal(drawn.sort(1).values, x.sort(1).values)
        assert trace.kept["logits"][4].shape == (6, 3)


def test_temperature_zero_takes_the_likeliest() -> None:
    engine = build(Tokens((5, 1), 2))
    likeliest = engine.next_logits(torch.zeros(1, 0, dtype=torch.int64), Condition())[0, 0].argmax()
    drawn = engine.sample(Rows(3, torch.arange(50)), Condition(), ColumnsHow(temperature=0.0), Silent())
    assert (drawn == torch.tensor([int(likeliest), 0])).all()


def test_what_cannot_be_is_refused_in_words() -> None:
    for space, words in ((Real((3,)), "real numbers"), (Tokens(3, 5, ends=True), "end"),
                         (Tokens(3, 2000), "the most is 1024")):  # fmt: skip
        refusal = Columns().accepts(space, {})
        assert refusal is not None
        assert words in refusal.reason
    odd: tuple[tuple[dict[str, Any], str], ...] = (
        ({"width": 10}, "width is 10 for 4 heads"),
        ({"depth": 0}, "depth is 0"),
        ({"forward": 1.5}, "forward is 1.5"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"forget": math.nan}, "forget is nan"),
    )
    for settings, words in odd:
        with pytest.raises(BadInput, match=words):
            Columns(**settings)
    ways: tuple[tuple[dict[str, Any], str], ...] = (
        ({"temperature": -1.0}, "temperature is -1"),
        ({"order": "table"}, "order is 'table'"),
    )
    for way, words in ways:
        with pytest.raises(BadInput, match=words):
            ColumnsHow(**way)


# ----------------------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def model() -> Fitted:
    random = np.random.default_rng(0)
    city = random.choice(["Paris", "Lyon", "Rome"], 600, p=[0.5, 0.3, 0.2])
    age = random.integers(18, 80, 600)
    frame = pd.DataFrame({"age": age, "city": city, "rich": np.where(random.random(600) < age / 90, "yes", "no")})
    frame["fee"] = pd.Series(np.round(age * 0.5 + 10 * (city == "Rome") + random.normal(size=600), 2))
    frame["grade"] = pd.Series(random.choice(["a", "b"], 600)).mask(random.random(600) < 0.3)
    return fit(read_table(frame), Columns(width=32, depth=2), steps=60, watch=False)


def test_words_about_any_columns_are_completed_and_not_waited_for(model: Fitted) -> None:
    for where in ({"grade": "b", "city": "Rome", "rich": "yes"}, {"rich": "no"}, {"grade": "a", "age": 40}):
        drawn = model.sample(30, where=where, seed=2)
        assert (drawn.route, drawn.promise, drawn.tried) == ("completion", "exact", 30)
        assert isinstance(drawn.items, TableData)
        for name, value in where.items():
            assert set(drawn.items.frame[name]) == {value}


def test_a_saved_model_comes_back(model: Fitted, tmp_path: object) -> None:
    again = load(model.save(f"{tmp_path}/run"))
    x, y = (m.sample(20, where={"city": "Rome"}, seed=1).items for m in (model, again))
    assert isinstance(x, TableData)
    assert isinstance(y, TableData)
    pd.testing.assert_frame_equal(x.frame, y.frame)
    assert model.data is not None
    scored = [m.log_prob(model.data.take(range(50))) for m in (model, again)]
    assert scored[0].kind == "exact"
    torch.testing.assert_close(scored[0].value, scored[1].value)


def test_a_row_is_explained_by_what_each_column_is_given_the_others(model: Fitted) -> None:
    report = parts(model, seed=1)
    assert (report.route, report.exactness) == ("rest", "exact")
    assert report.shares is not None
    assert report.shares.exact  # Shapley values over all sets of the five columns
    known = torch.ones(1, 5, dtype=torch.bool)
    known[0, 2] = False
    y, condition = model.event(model.sample(1, seed=1).items, Rows(1, torch.zeros(1, dtype=torch.int64)))
    with torch.no_grad():
        said = model.engine.fill_logits(y, known, condition, at=2)[0].log_softmax(-1)  # type: ignore[operator]
    assert float(report.amount[2]) == pytest.approx(-float(said[y[0, 2]]), abs=1e-4)
    assert saliency(model, seed=1).blocks()
    assert errors(model, seed=1).blocks()
