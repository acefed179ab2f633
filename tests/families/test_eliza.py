"""ELIZA: keywords by rank, parts handed back with I and you exchanged, memory, and scripts that are broken."""

from __future__ import annotations

import pytest

from pellucid.core.errors import BadInput
from pellucid.families.eliza import Conversation, doctor, match, read_script

SCRIPT = """
hello: Hi.
goodbye: Ciao.
quit: bye, see you
swap: i -> you, you -> I, my -> your, am -> are
read: dont -> don't, i'm -> i am
same: kin = mother, father
key: i 1
    i am *
        -> Why are you {3}?
        -> {3}, you say.
    i * you
        -> What if I {2} you?
    * 2
        -> =next
key: mother 5
    * my @kin *
        -> Your {3}?
    *
        -> =father
key: father 5
    *
        -> Families!
memory: my
    * my *
        -> Before, your {3}.
none:
    -> Go on.
    -> I see.
"""


def talk(text: str = SCRIPT) -> Conversation:
    return Conversation(read_script(text))


def test_the_keyword_of_the_highest_rank_answers() -> None:
    found = talk().answer("I am sad, and my mother knows")
    assert found.text == "Why are you sad?", "only the first clause with a keyword is heard"
    assert talk().answer("I said my mother knows").text == "Your mother?"
    assert "keyword 'mother' (rank 5, ranked above i)" in talk().answer("I said my mother knows").why


def test_answers_of_a_pattern_take_turns() -> None:
    conversation = talk()
    assert [conversation.answer(said).text for said in ("I'm late", "I am LATE!", "well; i am late")] == [
        "Why are you late?",
        "late, you say.",
        "Why are you late?",
    ]


def test_i_and_you_are_exchanged_in_parts_only() -> None:
    assert talk().answer("I am what you see in my eyes").text == "Why are you what I see in your eyes?"
    assert talk().answer("i dont understand you").text == "What if I don't understand you?"


def test_a_keyword_can_pass_on_to_another_or_to_the_next() -> None:
    assert talk().answer("mother").text == "Families!"
    assert talk().answer("i eat fish").text == "Go on."


def test_what_was_kept_comes_back_when_nothing_else_is_left() -> None:
    conversation = talk()
    assert conversation.answer("The house is my castle").text == "Before, your castle."
    assert conversation.answer("Hm.").text == "Go on."
    found = conversation.answer("")
    assert (found.text, found.ends) == ("I see.", False)
    assert "no keyword" in found.why


def test_words_that_end_the_conversation() -> None:
    for said in ("Bye!", "see you.", "SEE YOU"):
        found = talk().answer(said)
        assert (found.text, found.ends) == ("Ciao.", True)


@pytest.mark.parametrize("said", ["", "   ", "!!!", "Здравствуйте", "😀", "i " * 50_000, "{1} =next * 2", "\x1b[2J"])
def test_whatever_is_said_is_answered(said: str) -> None:
    conversation = Conversation(doctor())
    for _ in range(3):
        found = conversation.answer(said)
        assert found.text
        assert found.line


def test_a_pattern_cuts_words_into_parts() -> None:
    assert match(("*",), []) == [[]]
    assert match((2, "*"), ["a", "b", "c"]) == [["a", "b"], ["c"]]
    assert match(("*", frozenset({"x"}), 1, "*", frozenset({"x"})), list("axbcx")) == [
        ["a"],
        ["x"],
        ["b"],
        ["c"],
        ["x"],
    ]
    assert match((frozenset({"a", "b"}),), ["c"]) is None
    assert match(("*", frozenset({"a"}), frozenset({"b"})), list("aaab")) == [["a", "a"], ["a"], ["b"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("key: x\n  [a\n   -> y", r"line 2: the pattern '\[a' is broken at '\[a'"),
        ("key: x\n  * @pets\n   -> y", "line 2: no words are listed as 'pets'"),
        ("key: x\n  * a\n   -> {3}?", "line 3 asks for part 3. Accepted: 1 to 2"),
        ("key: x\n  * a\n   -> {b}?", "line 3 has a broken part"),
        ("key: x\n  * a\n   -> {" + "1" * 5000 + "}", "line 3 has a broken part"),
        ("key: x\n  *\n   -> =y", "line 3 goes on with 'y'"),
        ("key: x\n  *", "line 2: the pattern '\\*' has no answer"),
        ("key: x", "line 1: 'x' has no pattern"),
        ("key: x 1\nkey: x 2", "line 2: the key 'x' stands there twice"),
        ("key: x high", "key: x high"),
        ("keys: x", "line 1 of 'script' is no rule"),
        ("swap: i you", "'i you' is no pair"),
        ("same: kin", "same: kin"),
        ("  * lost\n   -> y", "pattern without a keyword"),
        ("   -> lost", "answer without a pattern"),
        ("key: x\n  *\n   ->", "line 3 has an empty answer"),
    ],
)  # fmt: skip
def test_a_broken_script_is_refused_with_its_line(change: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_script(change + "\nnone:\n  -> Go on.")


def test_a_script_without_a_last_word_is_refused() -> None:
    with pytest.raises(BadInput, match="has no 'none:' rule"):
        read_script("key: x\n *\n  -> y")


def test_the_doctor_answers_and_says_why() -> None:
    conversation = Conversation(doctor())
    answers = [conversation.answer(s).text for s in ("My father is always angry with me", "You are a machine")]
    assert answers == ["Tell me more about your father.", "Do machines trouble you?"]
    assert len(doctor().keys) > 25
