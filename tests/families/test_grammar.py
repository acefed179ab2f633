"""Grammars: what is drawn has the probability that is said, agreement holds, and broken rules are named."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent
from pellucid.families.grammar import Grammar, GrammarEngine, read_grammar
from pellucid.tasks.likelihood import likelihood
from pellucid.tasks.rules import rules_model

TALE = """
# agreement by N, weights, hooks
tale: <who/N.capital> <live/N>. | [2] <very><thing.a>!
who/one: <thing.a>
who/many: [3] two <thing.s> | <thing.upper>S
live/one: lives
live/many: live
thing: owl
    [2] fox
    city
very: <> | very <>
"""
TREE = "tree: x | (<tree><tree>)"


def engine_of(grammar: Grammar) -> GrammarEngine:
    return GrammarEngine(grammar, grammar.alphabet)


def sentences(grammar: Grammar, count: int) -> list[str]:
    engine = engine_of(grammar)
    drawn = engine.sample(Rows(1, torch.arange(count)), Condition(), engine.settings(), Silent())
    return [engine._text(row) for row in drawn.tolist()]


def test_sentences_come_as_often_as_they_are_probable_and_agree() -> None:
    grammar = read_grammar(TALE.replace("<thing.a>\n", "one <thing>\n").replace("<who/N.capital>", "<who/N>"))
    count = 4000
    found = Counter(sentences(grammar, count))
    total = 0.0
    for text, times in found.items():
        p = math.exp(grammar.log_prob(text))
        total += p
        assert abs(times / count - p) < 5 * math.sqrt(p / count) + 1e-3, text
        assert ("one" in text) <= ("live." not in text)
    assert 0.99 < total < 1.0 + 1e-9


def test_every_sentence_of_a_finite_grammar_has_its_share() -> None:
    grammar = read_grammar("s: <n/F> <v/F>\nn/a: [3] x | y\nn/b: z\nv/a: 1\nv/b: 2 | 1")
    shares = {"x 1": 3 / 8, "y 1": 1 / 8, "z 2": 1 / 4, "z 1": 1 / 4}
    assert {s: math.exp(grammar.log_prob(s)) for s in shares} == pytest.approx(shares)
    assert grammar.log_prob("x 2") == grammar.log_prob("") == -math.inf


def test_hooks_change_what_was_drawn() -> None:
    grammar = read_grammar(TALE.replace("<who/N.capital>", "<who/N>"))
    made = set(sentences(grammar, 300))
    assert {
        "an owl lives.",
        "a fox lives.",
        "two foxes live.",
        "two cities live.",
        "CITYS live.",
        "very an owl!",
    } <= made
    assert not any("a owl" in text or "an fox" in text for text in made)
    article = read_grammar("s: <p.capital> and <p>.\np: <n.a>\nn: owl | fox")
    assert set(sentences(article, 40)) == {f"{a} and {b}." for a in ("An owl", "A fox") for b in ("an owl", "a fox")}
    assert math.exp(article.log_prob("An owl and a fox.")) == pytest.approx(0.25)
    assert article.log_prob("A owl and a fox.") == -math.inf
    capital = read_grammar("s: <b.capital>.\nb: the <c> | <c>\nc: end | É")
    assert {"The end.", "End.", "É."} <= set(sentences(capital, 60))


def test_a_sum_over_derivations_counts_every_one() -> None:
    """Catalan: (xx)x and x(xx) are told apart by brackets; without them a string has several derivations."""
    p = read_grammar("s: a | [1] <s><s>", depth=3)
    # depth 3: s -> a, or ss with one level less; at depth 1 only a is left
    two = 0.5 * 0.5 * 0.5  # aa: the root splits, both stop
    assert math.exp(p.log_prob("aa")) == pytest.approx(two)
    assert math.exp(p.log_prob("aaa")) == pytest.approx(
        2 * 0.5 * 0.5 * 0.5
    )  # the root splits, one side splits and must stop
    total = sum(math.exp(p.log_prob("a" * n)) for n in range(1, 5))
    assert total == pytest.approx(1.0)


def test_recursion_ends_at_the_depth() -> None:
    grammar = read_grammar(TREE, depth=4)
    assert (grammar.depth, grammar.longest) == (4, 8 + 2 * 7)
    made = Counter(sentences(grammar, 2000))
    assert max(len(text) for text in made) <= grammar.longest
    assert sum(math.exp(grammar.log_prob(text)) for text in made) == pytest.approx(1.0, abs=0.05)
    assert read_grammar(TREE).depth < 40, "sentences would become too long"


def test_a_sample_depends_on_its_seed_and_id_alone() -> None:
    engine = engine_of(read_grammar(TALE.replace("<who/N.capital>", "<who/N>")))
    rows = Rows(5, torch.arange(9))
    whole = engine.sample(rows, Condition(), engine.settings(), Silent())
    alone = engine.sample(rows.take(torch.tensor([7])), Condition(), engine.settings(), Silent())
    assert torch.equal(whole[7:8], alone)
    value = engine.log_prob(Batch(whole, rows.ids), rows)
    assert value.kind == "exact"
    assert bool(value.value.isfinite().all())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: <b> x", "line 1: rule 'b' is missing"),
        ("a: <b>\nb: <c> | x\nc: <c> y", "line 3: rule 'c' never comes to an end"),
        ("a: <b>\nb: <a>", "never comes to an end"),
        ("a: x\na: y", "line 2: rule 'a' stands in line 1"),
        ("a: x |", "line 1 has an empty alternative"),
        ("a:\nb: x", "line 1: rule 'a' has no alternative"),
        ("  x", "line 1 is indented"),
        ("no rule here", "line 1 of 'grammar' is no rule"),
        ("a: [0] x", r"weight is \[0\]"),
        ("a: [many] x", r"weight is \[many\]"),
        ("a: <b.shout>\nb: x", "hook '.shout' is unknown"),
        ("a: <b.a.s>\nb: x", "follows the hook '.a'"),
        ("a: <b", "without its other half"),
        ("a: <b c>\nb: x", "names no rule"),
        ("a: <n/N> <v/N>\nn/one: x\nv/two: y", "no form serves n/N and v/N"),
        ("a: <n/two>\nn/one: x", "rule 'n/two' is missing"),
        ("a: <b.capital>\nb: <> | x", "can be nothing"),
        ("# nothing", "holds no rule"),
    ],
)  # fmt: skip
def test_broken_rules_are_named_with_their_line(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_grammar(text)


def test_a_rule_that_needs_more_depth_than_there_is_is_refused() -> None:
    with pytest.raises(BadInput, match="needs a depth of 3"):
        read_grammar("a: <b>\nb: <c>\nc: x", depth=2)
    with pytest.raises(BadInput, match="depth is 0"):
        read_grammar("a: x", depth=0)


def test_a_grammar_file_is_a_model_that_is_asked_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("greeting: [3] Hello, <who>! | Hi!\nwho: world | you\n")
    model = rules_model(path)
    draw = model.sample(5, seed=3)
    assert set(draw.items.texts()) <= {"Hello, world!", "Hello, you!", "Hi!"}  # type: ignore[union-attr]
    found = likelihood(model, draw.items)
    assert (found.route, found.kind, found.items) == ("scored", "exact", 5)
    assert set(model.offers()) == {"Samples", "Scores"}
    with pytest.raises(BadInput, match="no file"):
        rules_model(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: <b.s> x | y\nb: <b.s> | z", "hooks upon hooks"),
        (
            "s: " + " ".join(f"<n{i}/{chr(65 + i)}>" for i in range(12)) + "\n"
            + "\n".join(f"n{i}/f{j}: w" for i in range(12) for j in range(8)),
            "more than 10,000 combinations",
        ),
        ("s: x" + "<a>" * 900 + "\na: " + "<b>" * 900 + "\nb: <>", "draw up to"),
    ],
    ids=["hooks", "forms", "draws"],
)  # fmt: skip
def test_a_grammar_that_would_grow_without_end_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_grammar(text)


def test_a_capital_of_its_own_capital_is_one_rule() -> None:
    grammar = read_grammar("s: <a.capital>\na: <a.capital>, x | y")
    assert set(grammar.rules) == {"s", "a.capital"}
    assert grammar.log_prob("Y, x") == pytest.approx(2 * math.log(0.5))


def test_branches_that_write_nothing_are_bounded_like_those_that_write() -> None:
    grammar = read_grammar("s: x <a>\na: [9] <a><a> | <>")
    assert grammar.depth < 20
    assert sentences(grammar, 2) == ["x ", "x "]


def test_rules_may_follow_each_other_further_than_python_calls_itself() -> None:
    rules = [f"r{i}: x | <r{i + 1}>" for i in range(3000)]
    grammar = read_grammar("\n".join([*rules, "r3000: x"]))
    assert grammar.log_prob("x") == pytest.approx(0.0)
