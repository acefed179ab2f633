"""Copies are found, all of them and nothing else; the rest of the report says what was measured, also when it fails."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Verdict
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData, text_of
from pellucid.explain.copies import Body, Copied, novelty, passages
from pellucid.explain.provenance import ProvenanceReport, provenance, traced
from pellucid.explain.spelling import spelling_of
from pellucid.families.ngram import NGram
from pellucid.fitting import fit

Whole = NDArray[np.int64]


def brute(output: list[int], training: list[list[int]]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(start, end) of every maximal run with all its places, by comparing everything with everything."""
    spans = {}
    for start in range(len(output)):
        for end in range(start + 1, len(output) + 1):
            there = [
                (k, p)
                for k, item in enumerate(training)
                for p in range(len(item) - (end - start) + 1)
                if item[p : p + end - start] == output[start:end]
            ]
            if there:
                spans[start, end] = there
    inside = lambda a, b: b[0] <= a[0] and a[1] <= b[1] and a != b  # noqa: E731
    return {s: t for s, t in spans.items() if not any(inside(s, other) for other in spans)}


def planted(seed: int) -> tuple[Whole, list[Whole]]:
    """A random output with pieces of random training items in it."""
    random = np.random.default_rng(seed)
    alphabet = int(random.integers(2, 7))
    training = [random.integers(0, alphabet, int(random.integers(1, 40))) for _ in range(6)]
    output = random.integers(0, alphabet + 1, 40)
    for _ in range(3):
        item = training[int(random.integers(0, 6))]
        length = int(random.integers(1, len(item) + 1))
        to = int(random.integers(0, 40))
        piece = item[:length][: 40 - to]
        output[to : to + len(piece)] = piece
    return output, training


@pytest.mark.parametrize("seed", range(25))
def test_recall_and_precision_are_one_against_brute_force(seed: int) -> None:
    output, training = planted(seed)
    expected = brute(output.tolist(), [t.tolist() for t in training])
    found = Body.of(training).copies(output)
    assert {(r.start, r.end) for r in found} == set(expected)
    for run in found:
        there = expected[run.start, run.end]
        assert run.count == len(there)
        assert list(run.sources) == sorted(there)[: len(run.sources)]


def test_a_run_never_crosses_from_one_item_into_the_next() -> None:
    found = Body.of([np.array([1, 2]), np.array([3, 4])]).copies(np.array([1, 2, 3, 4]))
    assert [(r.start, r.end) for r in found] == [(0, 2), (2, 4)]


def test_short_runs_can_be_left_out() -> None:
    body = Body.of([np.array([1, 2, 3, 9, 1])])
    assert [(r.start, r.end) for r in body.copies(np.array([1, 2, 3, 1, 0]), least=2)] == [(0, 3)]


def test_rare_runs_are_more_surprising_than_frequent_ones() -> None:
    """Equally long, but one is spelled of what stands everywhere."""
    random = np.random.default_rng(3)
    common = random.integers(0, 3, 3000)
    common[500:508] = [3, 4, 5, 6, 7, 8, 9, 10]
    body = Body.of([common])
    rare, usual = (body.copies(common[a : a + 8], least=8)[0] for a in (500, 900))
    assert rare.surprise > usual.surprise + 20
    assert rare.surprise > body.chance(8) > usual.surprise


def test_novelty_by_brute_force() -> None:
    output, training = planted(4)
    reach = Body.of(training).longest(output)
    for n in (1, 2, 3, 6):
        runs = [output[i : i + n].tolist() for i in range(len(output) - n + 1)]
        held = [any(t[p : p + n].tolist() == r for t in training for p in range(len(t) - n + 1)) for r in runs]
        assert novelty(reach, n) == (held.count(False), len(runs))


def test_passages_join_what_overlaps() -> None:
    runs = [Copied(s, n, 1, 1.0, ()) for s, n in [(4, 3), (0, 2), (6, 5), (20, 1)]]
    assert passages(runs) == ((0, 2), (4, 11), (20, 21))


WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty"]


def sentences(n: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 9)) for _ in range(n)]


@pytest.fixture(scope="module")
def report() -> ProvenanceReport:
    training = sentences(300, 0)
    return traced([f"quite new {training[17]} at last", *sentences(8, 2)], training, held=sentences(80, 1))


def test_a_copied_sentence_is_found_with_its_source_and_marked(report: ProvenanceReport) -> None:
    assert report.longest is not None
    assert report.longest.text.strip() == sentences(300, 0)[17]
    assert report.longest.source == "item 17, place 1"
    assert report.found[0].copied == report.longest.copied, "the most surprising run is the copy"
    assert report.as_long is not None
    assert report.as_long.high < 0.05
    assert any(isinstance(b, Verdict) and b.level == "warn" for b in report.blocks())
    assert report.check.passed


def test_new_sentences_are_as_new_as_held_out_ones() -> None:
    found = traced(sentences(40, 5), sentences(300, 0), held=sentences(200, 1))
    assert found.as_long is not None
    assert found.as_long.value > 0.1
    assert not any(isinstance(b, Verdict) and b.level == "warn" for b in found.blocks())
    for new, real in zip(found.new, found.real, strict=True):
        assert new.low <= real.high
        assert real.low <= new.high


def test_it_carries_method_cost_and_numbers(report: ProvenanceReport) -> None:
    text = " ".join(report.to_text().split())
    for word in ("2504.07096", "to index", "word for word", "real items", "Faithfulness"):
        assert word in text, word
    assert '"longest"' in report.to_json()
    assert report.to_html()


def test_without_held_out_items_it_says_so() -> None:
    found = traced(["amber birch"], sentences(30, 0))
    assert found.as_long is None
    assert "cannot be said" in " ".join(found.to_text().split())


def test_nothing_copied_at_all() -> None:
    found = traced(["12345"], sentences(30, 0))
    assert found.longest is None
    assert found.covered == 0.0
    assert "Not one of the 5 characters" in found.to_text()


def test_whole_numbers_are_symbols() -> None:
    random = np.random.default_rng(0)
    training = [random.integers(0, 500, 60) for _ in range(20)]
    output = random.integers(0, 500, 40)
    output[5:25] = training[3][10:30]
    found = traced([output], training)
    assert found.longest is not None
    assert found.longest.copied.sources == ((3, 10),)


def test_a_text_model_from_end_to_end() -> None:
    model = fit(text_of(sentences(200, 0)), NGram(order=6), held_out=0.2)
    found = provenance(model, seed=1, index=3)
    draw = model.sample(4, seed=1).items
    assert isinstance(draw, TextData)
    assert isinstance(model.data, TextData)
    assert found.text == draw.texts()[3]
    assert found.real
    assert found.check.passed
    own = provenance(model, items=model.data, index=0)
    assert own.size == len(model.data.texts()[0])


def test_windows_of_a_running_text_are_one_stretch() -> None:
    text = "\n".join(sentences(300, 0))
    data = running(text)
    spelling = spelling_of(data)
    assert len(spelling.training) == 1
    assert spelling.read(spelling.training[0]) == text[: len(spelling.training[0])]


def running(text: str) -> TextData:
    points = sorted(set(text))
    codes = np.array([points.index(c) for c in text])
    starts = np.arange(len(text) - 31)
    return TextData(
        codes=codes, pieces=tuple(points), starts=starts, lengths=np.full(len(starts), 32), form="running",
        unit="characters",
    )  # fmt: skip


def test_rows_of_a_table_are_read_cell_by_cell_and_real_rows_are_not_shown() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.integers(0, 30, 200).astype(str) for name in "abcdef"})
    data = read_table(frame)
    model = fit(data, NGram(order=3), held_out=0.25)
    found = provenance(model, items=data, index=int(np.random.default_rng([0, 200]).permutation(200)[60]))
    assert found.unit == "cells"
    assert found.longest is not None
    assert found.longest.copied.length == 6, "a training row stands in the training data"
    assert found.private
    assert found.longest.before == found.longest.after == ""


def test_what_cannot_be_asked_is_refused(digits: Pictures) -> None:
    with pytest.raises(MissingCapability, match="picture"):
        spelling_of(digits)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one string"):
        spelling_of("text")
    with pytest.raises(BadInput, match="index"):
        traced(["a"], ["a"], index=1)
    with pytest.raises(BadInput, match="nothing to search"):
        Body.of([np.zeros(0, np.int64)])
    with pytest.raises(BadInput, match="an item is"):
        spelling_of([np.array([0.5])])
