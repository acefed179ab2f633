"""Rows of a table in a GAN: what the players see, and the category that a row is asked to have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Tokens
from pellucid.core.trace import Silent
from pellucid.families.gan import GAN, GANEngine, GANHow
from pellucid.families.gan_rows import Categories, RowsOfTable
from tests.families.rowwise import batch_of, check_rowwise, events, stir

TABLE = Mixed(
    (
        Field("age", Real((1,))),
        Field("job", Tokens(5, 1)),
        Field("gain state", Tokens(3, 1)),
        Field("gain", Real((2,)), present=("gain state", 1)),
        Field("city", Tokens(300, 1)),
        Field("pair", Tokens((2, 4), 2)),
    )
)
FIRST = Rows(0, torch.zeros(1, dtype=torch.int64))


def build(**settings: object) -> GANEngine:
    engine = GAN(latent=4, width=8, depth=1, **settings).build(TABLE, {}, FIRST)  # type: ignore[arg-type]
    stir(engine, 0.2)
    engine.prepare(Batch(events(TABLE, 200), torch.arange(200)))
    return engine


def test_a_real_row_is_seen_as_numbers_zeros_and_ones() -> None:
    table = build().face
    assert isinstance(table, RowsOfTable)
    x = torch.tensor([[0.5, 3.0, 1.0, 0.7, -0.2, 299.0, 1.0, 2.0], [0.5, 0.0, 2.0, 0.7, -0.2, 7.0, 0.0, 3.0]])
    seen = table.seen(x)
    assert seen.shape == (2, 3 + 5 + 3 + 32 + 2 + 4)
    torch.testing.assert_close(seen[0, :3], torch.tensor([0.5, 0.7, -0.2]))
    assert seen[1, :3].tolist() == [0.5, 0.0, 0.0], "a number that does not exist is 0, whatever stands there"
    assert seen[0, 3:8].tolist() == [0, 0, 0, 1, 0]
    assert seen[0, 8:11].tolist() == [0, 1, 0]
    torch.testing.assert_close(seen[0, 11:43], table.codes[299])
    torch.testing.assert_close(table.codes.norm(dim=-1), torch.ones(300))
    assert seen[0, 43:].tolist() == [0, 1, 0, 0, 1, 0]


def test_a_forged_row_is_seen_as_its_sample_would_be() -> None:
    """What the critic is shown of a forged row is what it would be shown of the event drawn with the same noise."""
    table = build().face
    assert isinstance(table, RowsOfTable)
    rows = Rows(3, torch.arange(50))
    raw = rows.fork("raw").normal(table.outputs).requires_grad_()
    shown = table.forged(raw, rows)
    torch.testing.assert_close(shown, table.seen(table.item(raw, rows)), rtol=1e-5, atol=1e-5)
    weight = Rows(1, torch.arange(1)).normal(table.outputs)
    slope = torch.autograd.grad((shown * weight).sum(), raw)[0]
    assert (slope != 0).float().mean() > 0.8, "symbols have a gradient"


def test_symbols_are_drawn_as_often_as_said() -> None:
    table = build().face
    assert isinstance(table, RowsOfTable)
    raw = torch.zeros(20_000, table.outputs)
    raw[:, 3:8] = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05]).log()
    drawn = table.space.split(table.item(raw, Rows(0, torch.arange(20_000))))["job"][:, 0]
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05]), rtol=0, atol=0.015)
    assert table.space.split(table.item(raw, None))["job"].unique().tolist() == [1]


def skewed(n: int) -> Tensor:
    """Rows whose job is 0 in about 90 of 100, and 4 never."""
    x = events(TABLE, n)
    u = Rows(9, torch.arange(n)).uniform(1)[:, 0]
    x[:, 1] = (u > 0.9).float() + (u > 0.95).float() + (u > 0.99).float()
    return x


def test_asked_symbols_follow_the_logarithm_of_their_counts() -> None:
    """Weighted, rows name the columns evenly and their symbols by log(1 + count), as CTGAN draws them."""
    engine, n = build(asking=1.0), 20_000
    x, categories = skewed(n), engine.categories
    assert isinstance(categories, Categories)
    categories.count(x)
    asked = categories.named(x, Rows(1, torch.arange(n)), 0.0)
    own = categories._symbols(x)
    assert (own == asked.index[:, None]).any(1).all(), "each row names a symbol that it has"
    assert asked.weight.max() < 10.0, "no row of these was too heavy"
    found = torch.zeros(categories.none).index_add(0, asked.index, asked.weight) / n
    wanted = []
    for counts in categories.counts.split(categories.sizes):
        log = (2 + counts).log()
        wanted.append(log / log.sum() / len(categories.sizes))
    expected = torch.cat(wanted)
    often = categories.counts > 0  # job 4 is in no row
    torch.testing.assert_close(found[often], expected[often], rtol=0.12, atol=0.004)
    some = categories.named(x, Rows(1, torch.arange(n)), 0.4)
    assert float((some.index == categories.none).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert (some.weight[some.index == categories.none] == 1).all()


def test_new_rows_ask_for_symbols_by_their_frequency() -> None:
    engine, n = build(asking=1.0), 20_000
    categories = engine.categories
    assert categories is not None
    categories.count(skewed(5000))
    drawn = torch.bincount(categories.drawn(Rows(0, torch.arange(n))), minlength=categories.none) / n
    wanted = torch.cat([c / c.sum() / len(categories.sizes) for c in categories.counts.split(categories.sizes)])
    torch.testing.assert_close(drawn, wanted, rtol=0, atol=0.01)
    assert drawn[4] == 0, "what was never counted is not asked for"


def test_the_generator_pays_the_cross_entropy_of_what_was_asked() -> None:
    asking, silent = build(asking=1.0), build(asking=1.0)
    categories = asking.categories
    assert categories is not None
    assert isinstance(asking.face, RowsOfTable)
    assert asking.turns()[0].penalty is None
    batch, rows = batch_of(TABLE, 6, {}), Rows(2, torch.arange(6) + 100)
    asked = categories.named(batch.x, rows, 0.0)
    silent.categories.cross_entropy = lambda logits, asked: torch.zeros(6)  # type: ignore[union-attr,method-assign]
    logits = asking.face.said(asking._forge(rows, batch.condition, asked)[1])[1]
    expected = []
    for row, index in enumerate(asked.index.tolist()):
        column = next(c for c in range(len(categories.sizes)) if index < sum(categories.sizes[: c + 1]))
        symbol = index - sum(categories.sizes[:column])
        chances = logits[categories.columns[column]][row].softmax(-1)
        expected.append(-chances[symbol].log() * asked.weight[row])
    torch.testing.assert_close(
        asking.generator_losses(batch, rows) - silent.generator_losses(batch, rows), torch.stack(expected),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_the_category_that_is_asked_for_changes_the_row_and_the_score() -> None:
    engine = build(asking=1.0)
    z, none = Rows(0, torch.arange(5)).normal(4), torch.full((5,), 14)
    assert engine.categories is not None
    assert engine.categories.none == 14
    told = [engine._raw(z, Condition(), torch.full((5,), k)) for k in (0, 1)]
    assert (told[0] - told[1]).abs().max() > 1e-3
    assert not torch.equal(engine._raw(z, Condition(), none), told[0])


@pytest.mark.parametrize("settings", [{}, {"asking": 1.0}, {"loss": "wasserstein"}, {"loss": "hinge"}], ids=str)
def test_losses_of_a_table_are_row_by_row(settings: dict[str, object]) -> None:
    check_rowwise(build(**settings), batch_of(TABLE, 4, {}))


def test_every_weight_has_one_player() -> None:
    engine = build(asking=0.5)
    critic, generator = (set(turn.parameters) for turn in engine.turns())
    assert not critic & generator
    assert critic | generator == set(engine.parameters())


def test_a_table_of_numbers_alone_asks_for_nothing() -> None:
    space = Mixed((Field("a", Real((1,))), Field("b", Real((1,)))))
    engine = GAN(latent=3, width=8).build(space, {}, FIRST)
    assert engine.categories is None
    x = engine.sample(Rows(0, torch.arange(3)), Condition(), GANHow(), Silent())
    assert x.shape == (3, 2)
