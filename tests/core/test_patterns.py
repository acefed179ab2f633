"""Patterns against Python's own regular expressions, by enumeration and on drawn ones; errors name the place."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core.errors import BadInput
from pellucid.core.patterns import compiled

WRITTEN = (
    *("", "a", "ab|c", "(ab|c)*", "a{2,3}b?", "[^a]b*", "[a-b]+c", "(a|b){2}", "(a?b?){2}", "a{,2}", "a{1,}"),
    *("(ab){0}", "(a{1,2}){2}", "a(b(c|a)*|)", "[abc-]", "(a|ab)(c|bc)?", "(?:a|bc){1,2}-", ".", ".*c", r"\w+"),
    *(r"[\d-]*", r"a\-", "()", "(|a)b", "a|", "(a*)*", "(a*b){0,2}", "[^-a]", "(ab|ba){2,}"),
)
TEXTS = ["".join(text) for n in range(6) for text in itertools.product("abc-", repeat=n)]


@pytest.mark.parametrize("pattern", WRITTEN)
def test_the_same_texts_match_as_in_the_language_itself(pattern: str) -> None:
    ours, in_bytes, theirs = compiled(pattern), compiled(pattern, "bytes"), re.compile(pattern, re.ASCII)
    for text in TEXTS:
        said = theirs.fullmatch(text) is not None
        assert ours.matches(text) is said, (pattern, text)
        assert in_bytes.matches(text.encode()) is said, (pattern, text)


@pytest.mark.parametrize("pattern", [".", "[é-中]+", "[^é]*x", "[\u07ff-\U00010001]", "[\ud7ff-\ue000]", r"\s|[α-ω]+"])
def test_other_letters_are_characters_and_bytes_alike(pattern: str) -> None:
    ours, in_bytes, theirs = compiled(pattern), compiled(pattern, "bytes"), re.compile(pattern, re.ASCII)
    odd = [
        "é",
        "ü中",
        "x",
        "😀x",
        "\u07ff",
        "\u0800",
        "\uffff",
        "\U00010000",
        "\U00010001",
        "\U00010002",
        "",
        " ",
        "\n",
    ]
    for text in [*odd, "\ud7ff", "\ue000", "ωα", "\x7f", "\x80", "ÿx", "Āx", "\U0010ffff"]:
        said = theirs.fullmatch(text) is not None
        assert ours.matches(text) is said, (pattern, text)
        assert in_bytes.matches(text.encode()) is said, (pattern, text)


PIECES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\w"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=6,
)


@given(PIECES, st.text("abc", max_size=8))
@settings(max_examples=100)
def test_drawn_patterns_match_the_same(pattern: str, text: str) -> None:
    assert compiled(pattern).matches(text) is (re.fullmatch(pattern, text) is not None)


def test_from_every_state_a_match_can_be_reached() -> None:
    found = compiled("a(b|c[^a-z])d|x{3}")
    alive = {int(s) for s in range(found.states) if found.accepting[s]}
    while more := {s for s in range(found.states) if s not in alive and any(int(t) in alive for t in found.table[s])}:
        alive |= more
    assert alive == set(range(found.states))
    assert found.read("ab") >= 0 > found.read("ax")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", "at character 1, a ( that is never closed"),
        ("ab)", "at character 3, a ) that closes nothing"),
        ("*a", "at character 1, a * with nothing to repeat"),
        ("a**", "at character 3, a * behind a repetition"),
        ("a+?", "at character 3, a ? behind a repetition"),
        ("a[b", "at character 2, a [ that is never closed"),
        ("a{2", "at character 2, a { that begins no"),
        ("a{x}", "at character 2, a { that begins no"),
        ("a{3,2}", "at character 2, a repetition from 3 to 2"),
        ("a{2000}", "at character 2, a repetition from 2000"),
        (r"a\q", r"at character 2, \\q"),
        ("a\\", "at character 2"),
        ("^a", "at character 1, a ^, which is not needed"),
        ("a$", "at character 2, a $, which is not needed"),
        ("a(?=b)", "at character 2, a group that looks around"),
        ("[]", "at character 1, a class that holds nothing"),
        ("[z-a]", "at character 2, the range 'z-a'"),
        ("[a[b]]", "at character 3, a [ inside a class"),
        ("a]", "at character 2, a ] that closes nothing"),
    ],
    ids=lambda value: value if len(value) < 8 else "",
)
def test_what_is_no_pattern_is_named_with_its_place(pattern: str, words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words).replace(r"\\\\", r"\\")):
        compiled(pattern)


def test_patterns_that_grow_beyond_reason_are_refused() -> None:
    with pytest.raises(BadInput, match="more than 50,000 parts"):
        compiled("((a{1000}){1000}){1000}")
    with pytest.raises(BadInput, match="more than 20,000 states"):
        compiled("(a|b)*a(a|b){15}")
    with pytest.raises(BadInput, match="at character 101, a group. Accepted: at most 100"):
        compiled("(" * 2000 + "a" + ")" * 2000)
    with pytest.raises(BadInput, match="nothing matches"):
        compiled("[^\x00-\U0010ffff]")


def test_nested_repetitions_are_read_once() -> None:
    deep = compiled("(" * 20 + "a" + ")+" * 20)
    assert deep.matches("aaa")
    assert not deep.matches("")
    assert deep.states <= 3
