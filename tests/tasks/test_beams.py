"""Beam search against enumeration, alone and on a leash."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache

import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.domains.text_files import text_of
from pellucid.domains.texts import TextCodec
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.ngram import NGram
from pellucid.fitting import fit
from pellucid.model import Fitted
from pellucid.tasks.beams import likeliest
from pellucid.tasks.constrained import symbols_of
from pellucid.tasks.continuation import go_on_many

WORDS = ["ab", "ba", "aab", "b", "bbb", "abb"] * 4


@cache
def counted() -> Fitted:
    return fit(text_of(WORDS), NGram(order=3))


@cache
def network() -> Fitted:
    return fit(text_of(WORDS), Autoregressive(width=16, heads=2, depth=1), steps=15, watch=False)


def enumerated(model: Fitted, prompt: str) -> dict[str, float]:
    """log p of every continuation, the unknown symbol never being written."""
    assert isinstance(model.codec, TextCodec)
    length = model.codec.space.length
    found = {}
    for n in range(length - len(prompt) + 1):
        for letters in itertools.product("ab", repeat=n):
            symbols = [model.codec.pieces.index(c) + 2 for c in prompt + "".join(letters)]
            nats = 0.0
            rest = [*symbols[len(prompt) :], 0][: length - len(prompt)]
            for k, symbol in enumerate(rest):
                seen = torch.tensor([symbols[: len(prompt) + k]], dtype=torch.int64).reshape(1, -1)
                logits = model.engine.next_logits(seen, Condition(), at=seen.shape[1]).detach().double()  # type: ignore[operator]
                logits[:, 1] = -torch.inf
                nats += float(logits.log_softmax(-1)[0, symbol])
            found["".join(letters)] = nats
    return found


@pytest.mark.parametrize("make", [counted, network])
@pytest.mark.parametrize("prompt", ["", "a"])
def test_with_a_beam_for_every_beginning_nothing_likelier_is_left(make: object, prompt: str) -> None:
    model = make()  # type: ignore[operator]
    by_hand = sorted(enumerated(model, prompt).items(), key=lambda item: -item[1])
    found = likeliest(model, prompt, beams=40)
    for beam, (_, nats) in zip(found[:8], by_hand, strict=False):
        assert beam.nats == pytest.approx(nats, abs=1e-5)
        assert dict(by_hand)[beam.text] == pytest.approx(beam.nats, abs=1e-5)
    narrow = likeliest(model, prompt, beams=1)
    assert narrow[0].nats <= found[0].nats + 1e-9


def test_one_beam_is_greedy_on_a_running_text() -> None:
    model = fit(text_of("the cat sat on the mat. " * 30, window=10), NGram(order=4))
    greedy = go_on_many(model, "the c", 1, length=25, how=SymbolHow(temperature=0.0))[0]
    assert likeliest(model, "the c", beams=1, length=25)[0].text == greedy
    wide = likeliest(model, "the c", beams=4, length=25)
    assert [len(beam.text) for beam in wide] == [25] * 4
    assert wide[0].nats >= likeliest(model, "the c", beams=1, length=25)[0].nats - 1e-9


def test_beams_keep_a_constraint() -> None:
    found = likeliest(counted(), "", beams=6, within=symbols_of(counted(), match="b(ab?)+"))
    assert found
    assert all(re.fullmatch("b(ab?)+", beam.text) for beam in found)
    lines = fit(text_of(["[1, 2]", '{"a": 1}', "[[]]"] * 9), NGram(order=4))
    for beam in likeliest(lines, "[", beams=4, within=symbols_of(lines, grammar="json")):
        json.loads("[" + beam.text)


def test_beams_out_of_range_are_refused() -> None:
    for beams in (0, 2000):
        with pytest.raises(BadInput, match=f"beams is {beams}"):
            likeliest(counted(), "a", beams=beams)
