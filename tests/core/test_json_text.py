"""JSON as a language against the standard library's reader: what it takes, and how it always ends."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.json_text import JsonText
from pellucid.core.language import State

ALL = [chr(c) for c in range(32, 127)] + ["\n", "\t", "é"]


def reads(text: str) -> bool:
    try:
        json.loads(text, parse_constant=lambda word: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return False
    return True


@pytest.mark.parametrize("alphabet", ['{}":,1', "[],0", "-0.1e+", '"\\u0n', "[]{} :"])
def test_every_short_text_is_judged_as_the_reader_does(alphabet: str) -> None:
    language = JsonText(ALL)
    for n in range(6):
        for characters in itertools.product(alphabet, repeat=n):
            text = "".join(characters)
            assert language.accepts(text) is (reads(text) and text == text.strip()), text


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e-3, true, null, {"é": "x\\u00e9\\n"}], "b": {}}',
        "[ \n]",
        '"a\\"b"',
        "false",
        "-0",
        "1E5",
        "[[[]]]",
    ],
)
def test_texts_of_all_kinds_are_taken_and_every_beginning_can_be_closed(text: str) -> None:
    language = JsonText(ALL)
    assert language.accepts(text)
    state: State | None = language.start()
    for k, character in enumerate(text):
        assert state is not None
        assert reads(text[:k] + language.closing(state))
        state = language.after(state, character)


def test_a_closing_is_followed_to_its_end() -> None:
    language, draw = JsonText(ALL), np.random.default_rng(0)
    for _ in range(200):
        state: State | None = language.start()
        written = ""
        for _ in range(30):
            assert state is not None
            closing = language.closing(state)
            assert language.complete(state) is (closing == "")
            if closing:
                rest = language.after(state, closing[0])
                assert rest is not None
                assert language.closing(rest) == closing[1:]
            alive = [c for c in ALL if language.after(state, c) is not None]
            if not alive:
                break
            written += str(draw.choice(alive))
            state = language.after(state, written[-1])
        assert state is not None
        assert reads(written + language.closing(state))


@pytest.mark.parametrize(
    "text", ["", "nul", "01", "1.", "+1", "[1,]", '{"a"}', '{"a":}', "{a:1}", "NaN", "'a'", "[1 2]", '"\n"']
)
def test_what_is_no_json_is_refused(text: str) -> None:
    assert not JsonText(ALL).accepts(text)


def test_an_alphabet_that_spells_no_value_is_refused() -> None:
    with pytest.raises(BadInput, match="spell no JSON value"):
        JsonText("abc,:")
    language = JsonText('nul{}:"')
    assert language.closing(language.start()) == '""'
