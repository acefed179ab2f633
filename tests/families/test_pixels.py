"""Pixel by pixel: enumeration of all small pictures, its cache, and the frequencies of its samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.masked import MaskedHow
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.families.pixels import Pixels, PixelsEngine
from pellucid.training.loop import train
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

GREY, COLOUR, FINE = Real((1, 2, 3), levels=3), Real((3, 1, 2), levels=3), Real((2, 4, 3), levels=300)
BOTH = [(output, space) for output in ("softmax", "logistic") for space in (GREY, COLOUR)]


def build(space: Real, output: str | None = None, **settings: float) -> PixelsEngine:
    family = replace(Pixels(width=8, depth=2, output=output, components=3), **settings)  # type: ignore[arg-type]
    engine = family.build(space, CLASS, Rows(0, torch.arange(1)))
    stir(engine, 0.4)
    return engine.eval()


def every(space: Real) -> Tensor:
    """(N, C, H, W) all pictures, in float64."""
    assert space.levels is not None
    levels = torch.linspace(space.low, space.high, space.levels, dtype=torch.float64).tolist()
    return torch.tensor(list(itertools.product(levels, repeat=space.size)), dtype=torch.float64).reshape(
        -1, *space.shape
    )


@torch.no_grad()
@pytest.mark.parametrize(("output", "space"), BOTH)
def test_probabilities_of_all_pictures_sum_to_one(output: str, space: Real) -> None:
    engine, x = build(space, output).double(), every(space)
    condition = batch_of(space, 2).condition.take(torch.ones(len(x), dtype=torch.int64))
    found = engine.log_prob(Batch(x, torch.arange(len(x)), condition), Rows(0, torch.arange(len(x))))
    assert (found.kind, found.value.dtype) == ("exact", torch.float64)
    assert float(found.value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(found.value.exp().max()) > 1.5 / len(x)  # far from even, or the sum would prove little


@torch.no_grad()
@pytest.mark.parametrize("space", [GREY, COLOUR, FINE])
def test_log_prob_is_the_sum_over_pixels_and_channels(space: Real) -> None:
    engine, batch = build(space).double(), batch_of(space, 5)
    each = engine.level_logits(batch.x.double(), batch.condition)  # (B, H, W, C, levels)
    level = ((batch.x - space.low) / space.step).round().long().permute(0, 2, 3, 1)
    value = each.gather(-1, level[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(value, engine.log_prob(batch.with_x(batch.x.double()), Rows(0, batch.ids)).value)


@torch.no_grad()
@pytest.mark.parametrize("space", [GREY, COLOUR, FINE])
def test_the_future_is_not_seen(space: Real) -> None:
    """In reading order, the channels of a pixel one after another."""
    engine, batch = build(space, depth=4).double(), batch_of(space, 3)
    before = engine.level_logits(batch.x.double(), batch.condition).flatten(1, 3)
    flat = batch.x.double().permute(0, 2, 3, 1).flatten(1)
    channels, height, across = space.shape
    for place in range(space.size):
        changed = flat.clone()
        changed[:, place] = torch.where(flat[:, place] > 0, space.low, space.high)
        x = changed.reshape(-1, height, across, channels).permute(0, 3, 1, 2)
        after = engine.level_logits(x, batch.condition).flatten(1, 3)
        assert (after[:, : place + 1] == before[:, : place + 1]).all()
        assert (after[:, place + 1 :] != before[:, place + 1 :]).any(-1).all()


@torch.no_grad()
@pytest.mark.parametrize("space", [GREY, COLOUR, FINE])
def test_samples_by_the_cache_are_those_without(space: Real) -> None:
    engine, rows, condition = build(space).double(), Rows(1, torch.arange(5)), batch_of(space, 5).condition
    found = engine.sample(rows, condition, SymbolHow(), Silent())
    channels, height, across = space.shape
    u = rows.fork("pixels").uniform(height, across, channels, dtype=torch.float64)
    x = torch.full((5, *space.shape), space.low, dtype=torch.float64)
    for r, c, k in itertools.product(range(height), range(across), range(channels)):  # a pass over all for each
        level = draw_symbols(engine.level_logits(x, condition)[:, r, c, k], u[:, r, c, k], SymbolHow())
        x[:, k, r, c] = level * space.step + space.low
    torch.testing.assert_close(found, x)
    alone = engine.sample(rows.take(slice(3, 4)), condition.take(slice(3, 4)), SymbolHow(), Silent())
    torch.testing.assert_close(alone, found[3:4], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("output", "space"), BOTH)
def test_samples_come_as_often_as_they_are_probable(output: str, space: Real) -> None:
    engine, x, count = build(space, output), every(space).float(), 20_000
    drawn = engine.sample(Rows(3, torch.arange(count)), Condition(), SymbolHow(), Silent())
    with torch.no_grad():
        p = engine.log_prob(Batch(x, torch.arange(len(x))), Rows(0, torch.arange(len(x)))).value.exp()
    code = 3 ** torch.arange(space.size).flip(0)  # as `every` counts
    place = (((drawn - space.low) / space.step).round().long().flatten(1) * code).sum(1)
    found = place.bincount(minlength=len(x)) / count
    assert ((found - p).abs() < 5 * (p / count).sqrt() + 2e-4).all()


@pytest.mark.parametrize("space", [GREY, COLOUR])
def test_losses_are_row_by_row(space: Real) -> None:
    check_rowwise(build(space, dropout=0.2).train(), batch_of(space, 4))


def test_stripes_are_learned_and_follow_the_class() -> None:
    """Class 0 has rows of one level, class 1 columns: a picture is known from its first column or row."""
    rows = Rows(0, torch.arange(300))
    line, kind = rows.integers(2, 4).float() * 2 - 1, rows.fork("class").integers(2, 1)
    x = torch.where(kind[:, :, None, None] == 0, line[:, None, :, None].expand(-1, 1, 4, 4), line[:, None, None])
    condition = Condition({"class": kind}, {"class": torch.ones(300, dtype=torch.bool)})
    space = Real((1, 4, 4), levels=2)
    family = Pixels(width=16, depth=3, dropout=0.0)
    engine = family.build(space, {"class": Tokens(2, 1)}, Rows(0, torch.arange(1)))
    settings = replace(family.training(space, 300), batch=64, rate=1e-2, weight_decay=0.0, ema=None)
    train(engine, TensorExamples(x, condition), settings=settings, steps=100, seed=0, run=Run())
    with torch.no_grad():
        bits = -engine.eval().log_prob(Batch(x, rows.ids, condition), rows).value / torch.tensor(2.0).log()
    assert float(bits.mean()) == pytest.approx(4.0, abs=0.3)  # four coins
    asked = Condition({"class": torch.tensor([[0]] * 50 + [[1]] * 50)}, {"class": torch.ones(100, dtype=torch.bool)})
    drawn = engine.sample(Rows(7, torch.arange(100)), asked, SymbolHow(), Silent())[:, 0]
    alike = torch.cat(((drawn[:50] == drawn[:50, :, :1]).all((1, 2)), (drawn[50:] == drawn[50:, :1]).all((1, 2))))
    assert float(alike.double().mean()) > 0.8


def test_levels_choose_the_output() -> None:
    first = Rows(0, torch.arange(1))
    assert not Pixels().build(Real((1, 4, 4), levels=17), {}, first).logistic
    assert Pixels().build(Real((1, 4, 4), levels=256), {}, first).logistic
    assert not Pixels(output="softmax").build(Real((1, 4, 4), levels=256), {}, first).logistic


MIXED = Mixed((Field("a", Real((1,))), Field("b", Tokens(2, 1))))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Tokens(4, 3), "stand in one row"),
        (MIXED, "height and width"),
        (Real((5,), levels=4), "height and width"),
        (Real((1, 4, 4)), "continuous"),
        (Real((1, 4, 4), levels=4, ragged=True), "different sizes"),
        (Real((1, 100, 100), levels=4), "max_pixels is 4096"),
    ],
)
def test_what_it_does_not_take_is_refused_in_words(space: Space, words: str) -> None:
    refusal = Pixels().accepts(space, {})
    assert refusal is not None
    assert words in refusal.reason
    assert refusal.instead
    with pytest.raises(BadInput, match=words):
        Pixels().build(space, {}, Rows(0, torch.arange(1)))


def test_odd_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="kernel is 4"):
        Pixels(kernel=4)
    with pytest.raises(BadInput, match="output is 'coins'"):
        Pixels(output="coins")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="depth is 0"):
        Pixels(depth=0)
    with pytest.raises(BadInput, match="dropout is 1.0"):
        Pixels(dropout=1.0)
    with pytest.raises(BadInput, match="how is MaskedHow"):
        build(GREY).sample(Rows(0, torch.arange(2)), Condition(), MaskedHow(), Silent())
