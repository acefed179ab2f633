"""Smoothed counts against sums done by hand, a naive program, and enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.kneser_ney import discounts
from pellucid.families.ngram import NGram, NGramEngine, tally

FIRST = Rows(0, torch.arange(1))


def fitted(x: Tensor, space: Tokens, family: NGram | None = None, condition: Condition | None = None) -> NGramEngine:
    conditions: dict[str, Space] = {k: Tokens(9, 1) for k in (condition.values if condition else ())}
    engine = (family or NGram(order=3)).build(space, conditions, FIRST)
    engine.absorb(Batch(x, torch.arange(len(x)), condition or Condition()))
    engine.settle()
    return engine


def told(**classes: list[int]) -> Condition:
    values = {k: torch.tensor(v)[:, None] for k, v in classes.items()}
    return Condition(values, {k: torch.ones(len(v), dtype=torch.bool) for k, v in values.items()})


def probabilities(engine: NGramEngine, *prefix: int, condition: Condition | None = None) -> list[float]:
    tokens = torch.tensor([prefix], dtype=torch.int64).reshape(1, -1)
    out: list[float] = engine.next_logits(tokens, condition or Condition(), at=len(prefix))[0].exp().tolist()
    return out


def test_a_sum_done_by_hand() -> None:
    """The row 0 1 0 1 over three symbols, order 2. Three counts of 1 and 2 are too few: discounts .5, 1, 1.5.

    Pairs: start-0 once, 0-1 twice, 1-0 once. Left neighbours: symbol 0 has two (start, 1), symbol 1 has one (0).
    p(0) = (2-1)/3 + (1+.5)/3 * 1/3 = .5;  p(1) = (1-.5)/3 + 1/6 = 1/3;  p(2) = 1/6
    p(1 | 0) = (2-1)/2 + 1/2 * p(1) = 2/3;  p(0 | 0) = 1/2 * .5;  p(2 | 0) = 1/2 * 1/6
    """
    engine = fitted(torch.tensor([[0, 1, 0, 1]]), Tokens(3, 4), NGram(order=2))
    assert probabilities(engine, 0) == pytest.approx([1 / 4, 2 / 3, 1 / 12])
    assert probabilities(engine, 2) == pytest.approx([1 / 2, 1 / 3, 1 / 6])  # never seen: one symbol fewer
    assert probabilities(engine) == pytest.approx([0.5 + 0.5 * 0.5, 0.5 / 3, 0.5 / 6])  # after the start


def naive(x: Tensor, vocabulary: int, order: int, prefix: list[int], symbol: int) -> float:
    """Interpolated modified Kneser-Ney with dictionaries, one start symbol, as the paper tells it."""
    raw: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for row in x.tolist():
        padded = [-1, *row]
        for i in range(1, len(padded)):
            for n in range(1, order + 1):
                if i - n + 1 >= 0:
                    raw[n][tuple(padded[i - n + 1 : i + 1])] += 1
    used: dict[int, Counter[tuple[int, ...]]] = {order: raw[order]}
    for n in range(1, order):
        left = {g: {big[0] for big in raw[n + 1] if big[1:] == g} for g in raw[n]}
        used[n] = Counter({g: raw[n][g] if g[0] == -1 else len(left[g]) for g in raw[n]})

    def p(context: tuple[int, ...], n: int) -> float:
        if n == 0:
            return 1 / vocabulary
        d = discounts(np.array(list(used[n].values())))
        after = {g[-1]: c for g, c in used[n].items() if g[:-1] == context}
        shorter = p(context[1:], n - 1)
        if not after:
            return shorter
        total = sum(after.values())
        count = after.get(symbol, 0)
        off = sum(d[min(c, 3)] for c in after.values())
        return float((count - d[min(count, 3)] + off * shorter) / total)

    context = tuple([-1, *prefix][-(order - 1) :]) if order > 1 else ()
    return p(context, len(context) + 1)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_naive_program_agrees(order: int) -> None:
    x = Rows(4, torch.arange(25)).integers(4, 6).clamp(max=3)
    x[:, 1::2] = x[:, ::2] // 2  # something to find
    engine = fitted(x, Tokens(4, 6), NGram(order=order))
    for prefix in ([], [1], [3, 1], [0, 0, 2], [2, 1, 3, 3, 0]):
        found = probabilities(engine, *prefix)
        assert found == pytest.approx([naive(x, 4, order, prefix, s) for s in range(4)], abs=1e-12)


def every(space: Tokens) -> Tensor:
    x = torch.tensor(list(itertools.product(*map(range, space.sizes))))
    if space.ends:
        ended = (x == 0).cumsum(1) - (x == 0).long() > 0
        x = x[~(ended & (x != 0)).any(1)]
    return x


@pytest.mark.parametrize("positional", [None, True])
@pytest.mark.parametrize("space", [Tokens(3, 5), Tokens((2, 4, 1, 3), 4), Tokens(3, 5, ends=True)])
def test_probabilities_of_all_sequences_sum_to_one(space: Tokens, positional: bool | None) -> None:
    x = every(space)[::3]
    condition = told(a=(torch.arange(len(x)) % 4).tolist(), b=(torch.arange(len(x)) % 3).tolist())
    engine = fitted(x, space, NGram(order=3, positional=positional), condition)
    everything = every(space)
    for a, b, given in ((1, 2, True), (8, 8, True), (1, 2, False)):
        asked = told(a=[a] * len(everything), b=[b] * len(everything))
        asked = asked if given else asked.without("a")
        value = engine.log_prob(Batch(everything, torch.arange(len(everything)), asked), FIRST)
        assert value.kind == "exact"
        assert float(value.value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
        logits = engine.next_logits(everything[:, :-1], asked)
        each = logits.log_softmax(-1).gather(-1, everything[..., None]).squeeze(-1).sum(1)
        torch.testing.assert_close(each, value.value)


def test_shards_and_their_order_change_nothing_and_tables_restore_everything() -> None:
    space, x = Tokens(5, 7), Rows(1, torch.arange(60)).integers(5, 7)
    whole = fitted(x, space)
    pieces = NGram(order=3).build(space, {}, FIRST)
    for part in (x[40:], x[:13], x[13:40]):
        pieces.absorb(Batch(part, torch.arange(len(part))))
    again = NGram(order=3).build(space, {}, FIRST)
    again.restore(pieces.tables())  # in the middle of counting
    for engine in (pieces, again):
        engine.settle()
        batch = Batch(x, torch.arange(60))
        assert torch.equal(engine.log_prob(batch, FIRST).value, whole.log_prob(batch, FIRST).value)
    settled = NGram(order=3).build(space, {}, FIRST)
    settled.restore(whole.tables())
    assert torch.equal(settled.log_prob(batch, FIRST).value, whole.log_prob(batch, FIRST).value)


def test_tables_of_other_data_are_refused() -> None:
    tables = fitted(torch.tensor([[0, 4, 2]]), Tokens(5, 3)).tables()
    with pytest.raises(BadInput, match="out of range"):
        NGram(order=3).build(Tokens(3, 3), {}, FIRST).restore(tables)
    with pytest.raises(BadInput, match="shapes"):
        NGram(order=4).build(Tokens(5, 3), {}, FIRST).restore(tables)


def test_conditions_count_with_and_without() -> None:
    x = torch.tensor([[0, 0, 0], [1, 1, 1]] * 20)
    engine = fitted(x, Tokens(3, 3), NGram(order=2), told(a=[0, 1] * 20))
    assert probabilities(engine, condition=told(a=[0]))[0] > 0.9
    assert probabilities(engine, condition=told(a=[1]))[1] > 0.9
    quiet = told(a=[1]).without("a")
    assert probabilities(engine, condition=quiet)[0] == pytest.approx(probabilities(engine, condition=quiet)[1])
    assert probabilities(engine, condition=told(a=[7])) == probabilities(engine, condition=quiet)  # never seen
    assert probabilities(engine, condition=Condition()) == probabilities(engine, condition=quiet)


def test_samples_come_as_often_as_they_are_probable_in_any_batch() -> None:
    space, count = Tokens((2, 3, 2), 3), 20_000
    engine = fitted(every(space)[[0, 0, 0, 3, 5, 5, 9, 11]], space)
    rows = Rows(3, torch.arange(count))
    drawn = engine.sample(rows, Condition(), engine.settings(), Silent())
    x = every(space)
    value = engine.log_prob(Batch(x, torch.arange(len(x))), FIRST).value.exp()
    found = torch.stack([(drawn == row).all(1).double().mean() for row in x])
    assert ((found - value).abs() < 5 * (value / count).sqrt() + 1e-4).all()
    alone = [engine.sample(rows.take(slice(j, j + 1)), Condition(), engine.settings(), Silent()) for j in range(20)]
    assert torch.equal(torch.cat(alone), drawn[:20])


def test_cached_steps_equal_the_full_pass() -> None:
    x = Rows(1, torch.arange(30)).integers(4, 6)
    engine = fitted(x, Tokens(4, 6))
    full = engine.next_logits(x[:5], Condition())
    logits, cache = engine.step(engine.begin(Condition(), 5), x[:5, :0])
    for t in range(6):
        assert torch.equal(logits, full[:, t])
        logits, cache = engine.step(cache, x[:5, t : t + 1])
    assert full[:, 6].isneginf().all()


def test_tally_sums_equal_rows_also_when_they_do_not_fit_into_one_key() -> None:
    rows = np.array([[7, 2**31 - 2, 5, 2**31 - 2], [7, 0, 5, 1], [7, 2**31 - 2, 5, 2**31 - 2]] * 2)
    found, counts = tally(rows, np.array([1, 2, 3, 4, 5, 6]))
    assert found.tolist() == [[7, 0, 5, 1], [7, 2**31 - 2, 5, 2**31 - 2]]
    assert counts.tolist() == [7, 14]


def test_an_uncounted_model_gives_every_symbol_the_same_chance() -> None:
    engine = NGram().build(Tokens((2, 4), 2), {}, FIRST)
    engine.settle()
    value = engine.log_prob(Batch(torch.tensor([[1, 3]]), torch.arange(1)), FIRST).value
    assert float(value) == pytest.approx(-math.log(8))


def test_what_cannot_be_counted_is_refused() -> None:
    assert NGram().accepts(Real((2,)), {}) is not None
    assert NGram().accepts(Tokens(3, 2), {"size": Real((1,))}) is not None
    assert NGram(positional=False).accepts(Tokens((3, 2), 2), {}) is not None
    assert NGram().accepts(Tokens(3, 2), {f"c{i}": Tokens(2, 1) for i in range(4)}) is not None
    with pytest.raises(BadInput, match="order"):
        NGram(order=0)
