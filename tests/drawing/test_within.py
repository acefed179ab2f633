"""Constraints on symbols: the stated distribution by enumeration, no bit changed where nothing is asked."""

from __future__ import annotations

import itertools
import json
import math
import re
from functools import cache

import numpy as np
import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.json_text import JsonText
from pellucid.core.patterns import compiled
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent
from pellucid.domains.text_files import text_of
from pellucid.drawing.within import NEVER, Finite, Leash, Nested, Within
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.ngram import NGram
from pellucid.fitting import fit
from pellucid.model import Fitted

WORDS = ["a", "b", "ab", "abab", "bba", "aab", "ba"] * 4
SPELLED = [None, "\ufffd", "a", "b"]


@cache
def counted() -> Fitted:
    return fit(text_of(WORDS), NGram(order=3), seed=1)


@cache
def network() -> Fitted:
    return fit(text_of(WORDS), Autoregressive(width=16, heads=2, depth=1), steps=20, watch=False)


def texts_of(x: torch.Tensor) -> list[str]:
    whole = [row[: row.index(0)] if 0 in row else row for row in x.tolist()]
    return ["".join("?\ufffdab"[symbol] for symbol in row) for row in whole]


def allowed_by_hand(pattern: str, before: str, room: int) -> set[str]:
    """Symbols, "" for the end, after which some text of the alphabet matches in time."""
    ends = ["".join(t) for n in range(room) for t in itertools.product("\ufffdab", repeat=n)]
    good = {c for c in "\ufffdab" if any(re.fullmatch(pattern, before + c + rest) for rest in ends)}
    return good | ({""} if re.fullmatch(pattern, before) else set())


@pytest.mark.parametrize("pattern", ["[ab]*", "a.*b", "b|a{4}", "(ab)*b?"])
@pytest.mark.parametrize("make", [counted, network])
def test_the_distribution_is_the_locally_renormalised_one(pattern: str, make: object) -> None:
    model = make()  # type: ignore[operator]
    length = model.codec.space.length
    finite = Finite(compiled(pattern), SPELLED)
    total = 0.0
    stated: dict[str, float] = {}

    def go(before: list[int], text: str, p: float) -> None:
        nonlocal total
        room = length - len(before)
        logits = model.engine.next_logits(
            torch.tensor([before], dtype=torch.int64).reshape(1, -1), Condition(), len(before)
        )
        leash = Leash(finite, 1, ends=True)
        for symbol in before:
            leash.took(torch.tensor([symbol]))
        narrowed = leash.narrow(logits.detach(), room).double().softmax(-1)[0]
        hand = allowed_by_hand(pattern, text, room)
        assert {s for s in range(4) if narrowed[s] > 0} == {0 if c == "" else "?\ufffdab".index(c) for c in hand}
        plain = logits.detach().double().softmax(-1)[0]
        kept = sum(float(plain[s]) for s in range(4) if narrowed[s] > 0)
        for s in range(4):
            if narrowed[s] > 0:
                assert float(narrowed[s]) == pytest.approx(float(plain[s]) / kept)
                if s == 0 or room == 1:
                    whole = text if s == 0 else text + "?\ufffdab"[s]
                    stated[whole] = p * float(narrowed[s])
                    total += stated[whole]
                else:
                    go([*before, s], text + "?\ufffdab"[s], p * float(narrowed[s]))

    go([], "", 1.0)
    assert total == pytest.approx(1.0)
    assert all(re.fullmatch(pattern, text) for text in stated)
    engine = Within(model.engine, model.codec.space, finite)
    n = 3000
    drawn = texts_of(engine.sample(Rows(2, torch.arange(n)), Condition(), SymbolHow(), Silent()))
    for text, p in stated.items():
        assert abs(drawn.count(text) / n - p) < 4.5 * math.sqrt(p * (1 - p) / n) + 1e-9, text


@pytest.mark.parametrize("make", [counted, network])
@pytest.mark.parametrize(
    "how", [SymbolHow(), SymbolHow(temperature=0.0), SymbolHow(top_k=2, temperature=0.7, penalty=0.5)]
)
def test_what_asks_for_nothing_changes_no_bit(make: object, how: SymbolHow) -> None:
    model = make()  # type: ignore[operator]
    everything = Finite(compiled("(.|\n)*"), SPELLED)
    rows = Rows(3, torch.arange(40))
    free = model.engine.sample(rows, Condition(), how, Silent())
    kept = Within(model.engine, model.codec.space, everything).sample(rows, Condition(), how, Silent())
    assert torch.equal(free, kept)


@pytest.mark.parametrize(
    "how", [SymbolHow(temperature=t, top_p=p, min_p=m) for t, p, m in [(1, 0.5, 0), (3, 1, 0.2), (0, 1, 0)]]
)
def test_it_is_kept_whatever_the_way_to_draw(how: SymbolHow) -> None:
    engine = Within(network().engine, network().codec.space, Finite(compiled("b(ab|ba)?b"), SPELLED))  # type: ignore[arg-type]
    drawn = texts_of(engine.sample(Rows(0, torch.arange(50)), Condition(), how, Silent()))
    assert all(re.fullmatch("b(ab|ba)?b", text) for text in drawn)


def test_a_row_is_the_same_in_any_batch() -> None:
    model = counted()
    engine = Within(model.engine, model.codec.space, Finite(compiled("[ab]{2,3}"), SPELLED))  # type: ignore[arg-type]
    many = engine.sample(Rows(4, torch.arange(20)), Condition(), SymbolHow(), Silent())
    alone = engine.sample(Rows(4, torch.tensor([13])), Condition(), SymbolHow(), Silent())
    assert torch.equal(many[13:14], alone)


def test_symbols_of_several_characters_cost_one() -> None:
    finite = Finite(compiled("the cat( sat)*"), ["the", " cat", " sat", "t", "h", "e", " the", None])
    costs = finite.costs([0])[0].tolist()
    assert finite.cost(0) == 2
    assert [c if c < NEVER else -1 for c in costs] == [1, -1, -1, 3, -1, -1, -1, -1]


def test_bytes_are_read_one_by_one() -> None:
    spelled = [None, *(bytes([b]) for b in range(256))]
    finite = Finite(compiled("é+", "bytes"), spelled)
    assert finite.cost(0) == 2
    nested = Nested(JsonText(map(chr, range(256))), spelled)
    state = nested.start()
    for byte in '{"é':
        for unit in byte.encode():
            assert nested.costs([state])[0, unit + 1] < NEVER
            state = nested.after(state, unit + 1)
    half = nested.after(state, 0xE4 + 1)
    assert not nested.complete(half)
    assert nested.costs([state])[0, 0xFF + 1] == NEVER
    assert nested.cost(half) == nested.cost(state) + 2
    assert nested.reads([b + 1 for b in '{"é": 1}'.encode()])
    assert not nested.reads([b + 1 for b in b'"\xe4"'])


def test_costs_of_what_nests_are_those_of_a_way_to_its_end() -> None:
    spelled = [None, "\ufffd", *'{}":,0[]', '{"', '": 0}', " "]
    nested, draw = Nested(JsonText("".join(s for s in spelled if s)), spelled), np.random.default_rng(1)
    for _ in range(100):
        state, text, room = nested.start(), "", 9
        while room and not (nested.complete(state) and draw.random() < 0.3):
            costs = nested.costs([state])[0]
            fits = np.flatnonzero(costs < room)
            if not len(fits):
                break
            symbol = int(draw.choice(fits))
            state, text, room = nested.after(state, symbol), text + str(spelled[symbol]), room - 1
            assert nested.cost(state) == costs[symbol] <= room
        assert nested.complete(state)
        json.loads(text)


def test_what_nothing_satisfies_is_one_clear_error() -> None:
    model = counted()
    space = model.codec.space
    with pytest.raises(BadInput, match="no token can satisfy the pattern 'x\\+'"):
        Within(model.engine, space, Finite(compiled("x+"), SPELLED))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at least 9 symbols, and there is room for 5"):
        Within(model.engine, space, Finite(compiled("a{9,}"), SPELLED))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="pairs of a state and a symbol"):
        Finite(compiled("a{1000}"), ["a"] * 70_000)
    with pytest.raises(MissingCapability, match="does not predict"):
        Within(torch.nn.Linear(1, 1), space, Finite(compiled("a"), SPELLED))  # type: ignore[arg-type]
    leash = Leash(Finite(compiled("a"), SPELLED), 1, ends=True)
    with pytest.raises(BadInput, match="no symbol that the model holds possible"):
        leash.narrow(torch.tensor([[0.0, 0.0, -math.inf, 0.0]]), 5)
