"""Recurrent networks and WaveNets over symbols against enumeration, their own caches, and their samples."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Mixed, Real, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.lstm import LSTM
from pellucid.families.masked import MaskedHow
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.symbol_chain import SymbolChainEngine, SymbolChainFamily
from pellucid.families.wavenet import WaveNet
from pellucid.solvers.known import complete
from pellucid.training.loop import train
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

SPACES = [Tokens(3, 4), Tokens((2, 5, 1, 3), 4), Tokens(3, 4, ends=True), Tokens((3, 2, 4), 3, ends=True)]
FAMILIES: dict[str, SymbolChainFamily] = {
    "lstm": LSTM(width=16),
    "gru": LSTM(width=16, cell="gru", tied=True),
    "wavenet": WaveNet(width=16),
}
BOTH = [(name, space) for name in FAMILIES for space in SPACES]
each_family = pytest.mark.parametrize("name", FAMILIES)


def build(name: str, space: Tokens, **settings: float) -> SymbolChainEngine:
    engine = replace(FAMILIES[name], **settings).build(space, CLASS, Rows(0, torch.arange(1)))  # type: ignore[arg-type]
    assert isinstance(engine, SymbolChainEngine)
    stir(engine, 0.4)
    return engine.eval()


def every(space: Tokens) -> Tensor:
    """(N, T) all events; after an end only padding."""
    x = torch.tensor(list(itertools.product(*map(range, space.sizes))))
    if space.ends:
        ended = (x == 0).cumsum(1) - (x == 0).long() > 0
        x = x[~(ended & (x != 0)).any(1)]
    return x


@torch.no_grad()
@pytest.mark.parametrize(("name", "space"), BOTH)
def test_probabilities_of_all_sequences_sum_to_one(name: str, space: Tokens) -> None:
    engine, x = build(name, space).double(), every(space)
    condition = batch_of(space, 1).condition.repeat(len(x))
    value = engine.log_prob(Batch(x, torch.arange(len(x)), condition), Rows(0, torch.arange(len(x)))).value
    assert value.dtype == torch.float64
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(value.exp().max()) > 1.5 / len(x)  # far from even, or the sum would prove little


@torch.no_grad()
@pytest.mark.parametrize(("name", "space"), BOTH)
def test_cached_steps_equal_the_full_pass(name: str, space: Tokens) -> None:
    engine, batch = build(name, space).double(), batch_of(space, 6)
    x = every(space)[-6:]
    full = engine.next_logits(x, batch.condition)
    assert full[:, -1].isneginf().all()
    for piece in (1, 2, space.length):
        logits, cache = engine.step(engine.begin(batch.condition, 6), x[:, :0])
        torch.testing.assert_close(logits, full[:, 0])
        for start in range(0, space.length, piece):
            logits, cache = engine.step(cache, x[:, start : start + piece])
            torch.testing.assert_close(logits, full[:, min(start + piece, space.length)])
    for at in range(space.length + 1):
        torch.testing.assert_close(engine.next_logits(x, batch.condition, at=at), full[:, at])


@torch.no_grad()
@each_family
def test_a_long_text_is_read_the_same_in_pieces(name: str) -> None:
    """Places beyond the first round of every ring."""
    space = Tokens(7, 50, running=True)
    engine, x = build(name, space).double(), Rows(0, torch.arange(3)).integers(7, 50)
    full = engine.next_logits(x, Condition())
    logits, cache = engine.step(engine.begin(Condition(), 3), x[:, :11])
    for t in range(11, 49):
        torch.testing.assert_close(logits, full[:, t])
        logits, cache = engine.step(cache, x[:, t : t + 1])


@torch.no_grad()
@each_family
def test_the_future_is_not_seen_and_the_past_is(name: str) -> None:
    engine, x = build(name, Tokens(5, 20)).double(), Rows(0, torch.arange(4)).integers(5, 20)
    for t in (0, 7, 18):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 5
        before, after = (engine.next_logits(v, Condition()) for v in (x, changed))
        assert (before[:, : t + 1] == after[:, : t + 1]).all()
        assert (before[:, t + 1 : 20] != after[:, t + 1 : 20]).any(-1).all()  # every later place, also the last


@pytest.mark.parametrize(("name", "space"), BOTH)
def test_samples_come_as_often_as_they_are_probable(name: str, space: Tokens) -> None:
    engine, x, count = build(name, space), every(space), 10_000
    rows = Rows(3, torch.arange(count))
    drawn = engine.sample(rows, Condition(), engine.settings(), Silent())
    value = engine.log_prob(Batch(x, torch.arange(len(x))), rows.take(slice(0, len(x)))).value.exp()
    code = torch.tensor([math.prod(space.sizes[t + 1 :]) for t in range(space.length)])
    place = {int(c): i for i, c in enumerate((x * code).sum(1))}
    found = torch.zeros(len(x))
    for c, n in zip(*(drawn * code).sum(1).unique(return_counts=True), strict=True):
        found[place[int(c)]] = float(n) / count
    assert ((found - value).abs() < 5 * (value / count).sqrt() + 2e-4).all()


@each_family
def test_samples_do_not_depend_on_the_batch(name: str) -> None:
    space = Tokens((7, 9, 40, 3), 4)
    engine, rows, condition = build(name, space), Rows(1, torch.arange(30)), batch_of(space, 30).condition
    x = engine.sample(rows, condition, engine.settings(), Silent())
    alone = [engine.sample(rows.take(slice(j, j + 1)), condition.take(slice(j, j + 1)), SymbolHow(), Silent())
             for j in range(30)]  # fmt: skip
    assert (x == torch.cat(alone)).all(1).double().mean() >= 0.99
    assert (x < torch.tensor(space.sizes)).all()


@each_family
def test_the_trace_sees_each_token_and_its_logits(name: str) -> None:
    engine, rows, trace = build(name, Tokens(3, 4)), Rows(1, torch.arange(5)), Recording(["token", "logits"])
    x = engine.sample(rows, Condition(), engine.settings(), trace)
    torch.testing.assert_close(torch.stack(list(trace.kept["token"].values()), dim=1), x)
    assert trace.kept["logits"][3].shape == (5, 3)


@each_family
def test_a_beginning_is_completed_from_the_models_own_distribution(name: str) -> None:
    space, count = Tokens(3, 4), 8000
    engine, x = build(name, space), every(space)
    known, mask = torch.tensor([2, 1, 0, 0]).expand(count, 4), torch.tensor([True, True, False, False]).expand(count, 4)
    done = complete(engine, known, mask, Condition(), Rows(4, torch.arange(count)), engine.settings())
    assert (done.route, done.exactness) == ("Predicts", "exact")
    kept = x[(x[:, :2] == torch.tensor([2, 1])).all(1)]
    with torch.no_grad():
        p = engine.log_prob(Batch(kept, torch.arange(len(kept))), Rows(0, torch.arange(len(kept)))).value.softmax(0)
    found = (done.x[:, None] == kept).all(-1).double().mean(0)
    assert ((found - p).abs() < 5 * (p / count).sqrt() + 1e-3).all()


@pytest.mark.parametrize(("name", "space"), [(name, space) for name in FAMILIES for space in SPACES[:3]])
def test_losses_are_row_by_row(name: str, space: Tokens) -> None:
    check_rowwise(build(name, space, dropout=0.2).train(), batch_of(space, 4))


@each_family
def test_a_rule_over_many_places_is_learned(name: str) -> None:
    """The last symbol repeats the first, which a chain of neighbours cannot know."""
    space, rows = Tokens(4, 6), Rows(0, torch.arange(256))
    x = rows.integers(4, 6)
    x[:, -1] = x[:, 0]
    engine = build(name, space, width=32, dropout=0.0).train()
    settings = replace(engine.family.training(space, 256), batch=64, rate=1e-2, ema=None)
    train(engine, TensorExamples(x), settings=settings, steps=120, seed=0, run=Run())
    with torch.no_grad():
        last = engine.eval().spell(Batch(x, rows.ids), rows)[:, -1]
    assert float(last.mean()) > -0.7  # log 4 = 1.39 nats for who knows only the neighbours


@each_family
def test_what_it_does_not_take_is_refused_in_words(name: str) -> None:
    family = FAMILIES[name]
    long = family.accepts(Tokens(4, 5000), {})
    assert long is not None
    assert "max_length is 4096" in long.reason
    for space in (Real((3,)), Mixed.__new__(Mixed)):
        refusal = family.accepts(space, {})
        assert refusal is not None
        assert "real numbers" in refusal.reason
    with pytest.raises(BadInput, match="the space is"):
        family.build(Real((3,)), {}, Rows(0, torch.arange(1)))


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (LSTM, {"cell": "rnn"}, "cell is 'rnn'"),
        (LSTM, {"depth": 0}, "depth is 0"),
        (LSTM, {"width": 0}, "width is 0"),
        (LSTM, {"dropout": 1.0}, "dropout is 1.0"),
        (LSTM, {"forget": -0.1}, "forget is -0.1"),
        (WaveNet, {"cycles": 0}, "cycles is 0"),
        (WaveNet, {"dilation": 0}, "dilation is 0"),
        (WaveNet, {"max_length": 0}, "max_length is 0"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: type[SymbolChainFamily], change: dict[str, object], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        kind(**change)  # type: ignore[arg-type]


@each_family
def test_another_engines_way_to_sample_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="how is MaskedHow"):
        build(name, Tokens(3, 4)).sample(Rows(0, torch.arange(2)), Condition(), MaskedHow(), Silent())
