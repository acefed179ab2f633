"""The transformer over symbols against enumeration, its own cache, and the frequencies of its samples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.autoregressive import Autoregressive, AutoregressiveEngine, SymbolHow, draw_symbols
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

SPACES = [Tokens(3, 4), Tokens((2, 5, 1, 3), 4), Tokens(3, 4, ends=True), Tokens((3, 2, 4), 3, ends=True)]


def build(space: Tokens, family: Autoregressive | None = None) -> AutoregressiveEngine:
    engine = (family or Autoregressive(width=16, heads=2, depth=2)).build(space, CLASS, Rows(0, torch.arange(1)))
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
@pytest.mark.parametrize("space", SPACES)
def test_probabilities_of_all_sequences_sum_to_one(space: Tokens) -> None:
    engine, x = build(space).double(), every(space)
    condition = batch_of(space, 1).condition.repeat(len(x))
    value = engine.log_prob(Batch(x, torch.arange(len(x)), condition), Rows(0, torch.arange(len(x)))).value
    assert value.dtype == torch.float64
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(value.exp().max()) > 1.5 / len(x)  # far from even, or the sum would prove little


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES)
def test_log_prob_is_the_sum_of_next_logits(space: Tokens) -> None:
    engine, batch = build(space).double(), batch_of(space, 9)
    x = every(space)[:9]
    batch = batch.take(slice(0, len(x))).with_x(x)
    each = engine.next_logits(x[:, :-1], batch.condition).log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
    torch.testing.assert_close(each.sum(1), engine.log_prob(batch, Rows(0, batch.ids)).value)


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES)
def test_cached_steps_equal_the_full_pass(space: Tokens) -> None:
    engine, batch = build(space).double(), batch_of(space, 6)
    x = every(space)[-6:]
    full = engine.next_logits(x, batch.condition.take(slice(0, 6)))
    assert full.shape == (6, space.length + 1, space.symbols)
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
def test_the_future_is_not_seen() -> None:
    engine, x = build(Tokens(5, 8)).double(), Rows(0, torch.arange(4)).integers(5, 8)
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 5
    before, after = (engine.next_logits(v, Condition()) for v in (x, changed))
    assert (before[:, :6] == after[:, :6]).all()
    assert (before[:, 6:8] != after[:, 6:8]).any()


def test_symbols_after_an_end_count_nothing() -> None:
    space = Tokens(4, 5, ends=True)
    engine, batch = build(space), batch_of(space, 2)
    batch = batch.with_x(torch.tensor([[2, 0, 0, 0, 0], [2, 0, 3, 1, 2]]))
    batch = Batch(batch.x, batch.ids, Condition())
    value = engine.log_prob(batch, Rows(0, batch.ids)).value
    torch.testing.assert_close(value[0], value[1])


@pytest.mark.parametrize("space", SPACES)
def test_samples_come_as_often_as_they_are_probable(space: Tokens) -> None:
    engine, x, count = build(space), every(space), 20_000
    rows = Rows(3, torch.arange(count))
    drawn = engine.sample(rows, Condition(), engine.settings(), Silent())
    value = engine.log_prob(Batch(x, torch.arange(len(x))), rows.take(slice(0, len(x)))).value.exp()
    code = torch.tensor([math.prod(space.sizes[t + 1 :]) for t in range(space.length)])
    place = {int(c): i for i, c in enumerate((x * code).sum(1))}
    found = torch.zeros(len(x))
    for c, n in zip(*(drawn * code).sum(1).unique(return_counts=True), strict=True):
        found[place[int(c)]] = float(n) / count
    assert ((found - value).abs() < 5 * (value / count).sqrt() + 1e-4).all()


def test_samples_do_not_depend_on_the_batch() -> None:
    space = Tokens((7, 9, 40, 3), 4)
    engine, rows, condition = build(space), Rows(1, torch.arange(30)), batch_of(space, 30).condition
    x = engine.sample(rows, condition, engine.settings(), Silent())
    alone = [engine.sample(rows.take(slice(j, j + 1)), condition.take(slice(j, j + 1)), SymbolHow(), Silent())
             for j in range(30)]  # fmt: skip
    assert (x == torch.cat(alone)).all(1).double().mean() >= 0.99
    assert (x < torch.tensor(space.sizes)).all()


def test_the_trace_sees_each_token_and_its_logits() -> None:
    engine, rows, trace = build(Tokens(3, 4)), Rows(1, torch.arange(5)), Recording(["token", "logits"])
    x = engine.sample(rows, Condition(), engine.settings(), trace)
    torch.testing.assert_close(torch.stack(list(trace.kept["token"].values()), dim=1), x)
    assert trace.kept["logits"][3].shape == (5, 3)


def test_drawing_follows_temperature_top_k_and_top_p() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    count = 40_000
    u = Rows(0, torch.arange(count)).uniform(dtype=torch.float64)
    expected = {
        SymbolHow(): p,
        SymbolHow(temperature=0.0): torch.tensor([1.0, 0, 0, 0, 0]),
        SymbolHow(temperature=0.5): p**2 / (p**2).sum(),
        SymbolHow(top_k=2): torch.tensor([0.625, 0.375, 0, 0, 0]),
        SymbolHow(top_p=0.6): torch.tensor([0.625, 0.375, 0, 0, 0]),
        SymbolHow(top_p=0.5): torch.tensor([1.0, 0, 0, 0, 0]),
        SymbolHow(top_p=0.01): torch.tensor([1.0, 0, 0, 0, 0]),
    }
    for how, share in expected.items():
        found = draw_symbols(p.log().expand(count, 5), u, how).bincount(minlength=5) / count
        torch.testing.assert_close(found.double(), share.double(), rtol=0, atol=0.01)
        assert (found[share == 0] == 0).all()


@pytest.mark.parametrize("space", [SPACES[0], SPACES[1], SPACES[2]])
def test_losses_are_row_by_row(space: Tokens) -> None:
    family = Autoregressive(width=16, heads=2, depth=2, dropout=0.2)
    check_rowwise(build(space, family).train(), batch_of(space, 4))


def test_a_column_of_many_symbols_costs_nothing_in_the_others() -> None:
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[:1] == (32,):
                largest = max(largest, out.numel())
            return out

    space = Tokens((2,) * 9 + (10_000,) + (3,) * 10, 20)
    engine = build(space)
    assert engine.symbol.weight.shape[0] == sum(space.sizes)
    batch = batch_of(space, 32)
    with Largest():
        engine.losses(batch, Rows(0, batch.ids)).sum().backward()
    assert largest == 32 * 10_000  # not 32 * 20 * 10,000


def test_attention_maps_of_every_site_sum_to_one_and_ignore_the_future() -> None:
    space = Tokens(5, 6)
    engine, batch = build(space), batch_of(space, 3)
    for site in engine.sites():
        maps = engine.attention(site, batch.x, batch.condition)
        assert maps.shape == (3, 2, 6, 6)
        torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 6))
        assert (maps.triu(1) == 0).all()


def test_long_sequences_and_real_numbers_are_refused() -> None:
    refusal = Autoregressive().accepts(Tokens(4, 2000), {})
    assert refusal is not None
    assert "max_length is 1024" in refusal.reason
    assert Autoregressive().accepts(Real((3,)), {}) is not None
    with pytest.raises(BadInput, match="twice the heads"):
        Autoregressive(width=20, heads=4)
