"""WaveNet over numbers: integrals, enumeration over levels, its queues, and a series whose law is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.wavenet_real import NumberHow, WaveNetReal, WaveNetRealEngine
from pellucid.nets.logistics import number
from pellucid.testing.scoring import visit
from pellucid.training.loop import train
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

SPACES = [Real((6,)), Real((3, 4)), Real((4,), levels=5), Real((2, 3), levels=300, low=0.0, high=10.0)]


def build(space: Real, **settings: float) -> WaveNetRealEngine:
    family = replace(WaveNetReal(width=16, components=3), **settings)  # type: ignore[arg-type]
    engine = family.build(space, CLASS, Rows(0, torch.arange(1)))
    engine.prepare(batch_of(space, 50))
    stir(engine, 0.2)
    return engine.eval()


@torch.no_grad()
@pytest.mark.parametrize("space", [Real((4,), levels=5), Real((2, 2), levels=5), Real((1,)), Real((2,))])
def test_probabilities_sum_and_densities_integrate_to_one(space: Real) -> None:
    found = visit(space)
    assert found is not None
    x, weight = found
    condition = batch_of(space, 2).condition.take(torch.ones(len(x), dtype=torch.int64))
    value = build(space).double().log_prob(Batch(x.double(), torch.arange(len(x)), condition), Rows(0, x[:, 0].long()))
    assert value.kind == "exact"
    assert float((value.value.exp() * weight).sum()) == pytest.approx(1.0, abs=2e-3 if space.levels is None else 1e-9)


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES)
def test_the_future_is_not_seen(space: Real) -> None:
    engine, batch = build(space).double(), batch_of(space, 4)
    flat = engine._read(batch.x)
    before = engine.answers(batch.x, batch.condition)
    for t in range(space.size):
        changed = flat.clone()
        changed[:, t] = flat[:, t] + space.step + 0.5 * (space.levels is None)
        after = engine.answers(engine._written(changed), batch.condition)
        assert (after[:, : t + 1] == before[:, : t + 1]).all()
        assert (after[:, t + 1 :] != before[:, t + 1 :]).any(-1).all()


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES)
def test_samples_by_queues_are_those_without(space: Real) -> None:
    engine, rows, condition = build(space).double(), Rows(1, torch.arange(5)), batch_of(space, 5).condition
    found = engine.sample(rows, condition, engine.settings(), Silent())
    u = rows.fork("numbers").uniform(space.size, 2, dtype=torch.float64)
    x = torch.zeros(5, space.size, dtype=torch.float64)
    for t in range(space.size):  # every number with a pass over the whole item
        said = engine.answers(engine._written(x), condition)[:, t]
        x[:, t] = engine._rounded(number(said, u[:, t])) * engine.spread[t] + engine.centre[t]
    torch.testing.assert_close(found, engine._written(x))
    alone = engine.sample(rows.take(slice(3, 4)), condition.take(slice(3, 4)), engine.settings(), Silent())
    torch.testing.assert_close(alone, found[3:4], rtol=0, atol=1e-10)


def test_a_series_is_read_time_by_time() -> None:
    engine = build(Real((2, 3)))
    x = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert engine._read(x).tolist() == [[1, 10, 2, 20, 3, 30]]
    assert torch.equal(engine._written(engine._read(x)), x)


def test_units_are_those_of_the_first_rows() -> None:
    rows = Rows(0, torch.arange(400))
    x = rows.normal(2, 5) * torch.tensor([[3.0], [0.0]]) + torch.tensor([[7.0], [-4.0]])
    engine = WaveNetReal(width=8).build(Real((2, 5)), {}, Rows(0, torch.arange(1)))
    engine.prepare(Batch(x, rows.ids))
    spread = engine._written(engine.spread[None])[0]
    assert spread[0].tolist() == pytest.approx([3.0] * 5, rel=0.1)
    assert spread[1].tolist() == [1.0] * 5  # a constant channel is left as it is
    assert engine._written(engine.centre[None])[0, 1].tolist() == pytest.approx([-4.0] * 5)
    assert engine.log_prob(Batch(x, rows.ids), rows).value.isfinite().all()


def test_a_known_series_is_learned() -> None:
    """x_t = 0.9 x_{t-1} + noise: its entropy is that of the noise, from the second number on."""
    count, size = 1500, 8
    noise = Rows(0, torch.arange(count)).normal(size) * math.sqrt(1 - 0.81)
    x = noise / math.sqrt(1 - 0.81)
    for t in range(1, size):
        x[:, t] = 0.9 * x[:, t - 1] + noise[:, t]
    first = 0.5 * math.log(2 * math.pi * math.e)
    entropy = size * first + (size - 1) * 0.5 * math.log(1 - 0.81)
    family, space = WaveNetReal(width=16, cycles=1, dropout=0.0), Real((size,))
    engine = family.build(space, {}, Rows(0, torch.arange(1)))
    settings = replace(family.training(space, count), batch=64, rate=1e-2)
    train(engine, TensorExamples(x[:1200]), settings=settings, steps=150, seed=0, run=Run())
    with torch.no_grad():
        rows = Rows(0, torch.arange(300))
        held = -float(engine.eval().log_prob(Batch(x[1200:], rows.ids), rows).value.mean())
        drawn = engine.sample(Rows(5, torch.arange(1000)), Condition(), NumberHow(), Silent())
    assert held < entropy + 0.4  # independent numbers cost 5.8 nats more
    both = torch.corrcoef(drawn.t())
    assert float(both[3, 4]) == pytest.approx(0.9, abs=0.06)
    assert float(drawn[:, 6].std()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("space", [SPACES[0], SPACES[1], SPACES[2]])
def test_losses_are_row_by_row(space: Real) -> None:
    check_rowwise(build(space, dropout=0.2).train(), batch_of(space, 4))


def test_samples_lie_on_the_levels() -> None:
    space = SPACES[3]
    x = build(space).sample(Rows(0, torch.arange(40)), Condition(), NumberHow(), Silent())
    level = (x - space.low) / space.step
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-3)
    assert 0.0 <= float(x.min()) < float(x.max()) <= 10.0


MIXED = Mixed((Field("a", Real((1,))), Field("b", Tokens(2, 1))))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Tokens(4, 3), "has symbols"),
        (MIXED, "several kinds of columns"),
        (Real((8,), ragged=True), "different lengths"),
        (Real((1, 4, 6), levels=17), "two directions"),
        (Real((20_000,)), "max_length is 16384"),
    ],
)
def test_what_it_does_not_take_is_refused_in_words(space: Space, words: str) -> None:
    refusal = WaveNetReal().accepts(space, {})
    assert refusal is not None
    assert words in refusal.reason
    assert refusal.instead
    with pytest.raises(BadInput, match=words):
        WaveNetReal().build(space, {}, Rows(0, torch.arange(1)))


def test_odd_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="components is 0"):
        WaveNetReal(components=0)
    with pytest.raises(BadInput, match="forget is 1.0"):
        WaveNetReal(forget=1.0)
    with pytest.raises(BadInput, match="temperature is -1.0"):
        NumberHow(temperature=-1.0)
    with pytest.raises(BadInput, match="how is SymbolHow"):
        build(SPACES[0]).sample(Rows(0, torch.arange(2)), Condition(), SymbolHow(), Silent())
