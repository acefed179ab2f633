"""Modified Kneser-Ney on a running text against a program that follows the paper with dictionaries, and enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from pellucid.core.batch import Batch
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.text_files import TextData, text_of
from pellucid.domains.texts import TextCodec, TextExamples, Texts
from pellucid.families.kneser_ney import Places, tally_columns
from pellucid.families.ngram import NGram, NGramEngine

FIRST = Rows(0, torch.arange(1))
VERSE = """the fox and the crow sat on the wall and the crow had a piece of cheese
the fox said good crow how black your feathers are and how fine your voice must be
so the crow began to sing and the cheese fell and the fox had it and the crow had none
the wolf and the lamb came to the same brook and the wolf stood above the lamb below
why do you make my water muddy said the wolf and the lamb said how can that be
"""


class Paper:
    """Chen & Goodman's modified method with dictionaries: counts of a text, and p(w | h) by the recursion."""

    def __init__(self, text: list[int], order: int, vocabulary: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        longest = Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
        self.counts: dict[int, dict[tuple[int, ...], int]] = {order: dict(longest)}
        for n in range(order - 1, 0, -1):
            left: dict[tuple[int, ...], set[int]] = defaultdict(set)
            for gram in self.counts[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = {gram: len(symbols) for gram, symbols in left.items()}
            first = tuple(text[:n])  # nothing stands to the left of the text's beginning: it counts as one more place
            self.counts[n][first] = self.counts[n].get(first, 0) + 1
        self.after: dict[int, dict[tuple[int, ...], dict[int, int]]] = {}
        self.off: dict[int, list[float]] = {}
        for n, counts in self.counts.items():
            table: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in counts.items():
                table[gram[:-1]][gram[-1]] = count
            self.after[n] = table
            n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
            y = n1 / (n1 + 2 * n2)
            self.off[n] = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]

    def p(self, context: tuple[int, ...], symbol: int) -> float:
        n = len(context) + 1
        shorter = 1.0 / self.vocabulary if n == 1 else self.p(context[1:], symbol)
        seen = self.after[n].get(context)
        if not seen:
            return shorter
        off, total = self.off[n], sum(seen.values())
        count = seen.get(symbol, 0)
        left = sum(off[min(c, 3)] for c in seen.values()) / total
        return (count - off[min(count, 3)]) / total + left * shorter


def learned(
    text: str, order: int, window: int = 16, floor: float | None = None
) -> tuple[NGramEngine, TextCodec, TextData]:
    data = text_of(text, window=window)
    codec = Texts().learn(data)
    engine = NGram(order=order, floor=floor).build(codec.space, {}, FIRST)
    examples = TextExamples(codec, data)
    for part in torch.arange(len(examples)).chunk(5):  # shards change nothing
        engine.absorb(examples.take(part))
    engine.settle()
    return engine, codec, data


@pytest.mark.parametrize("order", [2, 3])
def test_every_symbol_of_a_running_text_costs_what_the_paper_says(order: int) -> None:
    engine, codec, data = learned(VERSE, order)
    symbols = codec.symbols(data.whole()).tolist()
    paper = Paper(symbols, order, codec.space.symbols)
    x = torch.tensor([symbols[30:46], symbols[200:216]])
    found = engine.spell(Batch(x, torch.arange(2)), FIRST).exp()
    for row, costs in zip(x.tolist(), found.tolist(), strict=True):
        for t, p in enumerate(costs):
            context = tuple(row[max(0, t - order + 1) : t])
            assert p == pytest.approx(paper.p(context, row[t]), abs=1e-9)
    unseen = tuple(symbols[:3])[: order - 1]
    said = engine.next_logits(torch.tensor([unseen], dtype=torch.int64).reshape(1, -1), Batch(x, x[:, 0]).condition)
    assert said[0, -1].exp().tolist() == pytest.approx(
        [paper.p(unseen, s) for s in range(codec.space.symbols)], abs=1e-9
    )


def test_each_symbol_of_a_text_is_counted_once_however_windows_overlap() -> None:
    engine, codec, data = learned(VERSE, 3)
    whole = np.concatenate((engine.counts, ()))
    assert whole.sum() == len(data.codes)
    apart = NGram(order=3).build(codec.space, {}, FIRST)
    examples = TextExamples(codec, data.take(np.arange(0, len(data), 5)))
    apart.absorb(examples.take(torch.arange(len(examples))))
    assert apart.counts.sum() == 0, "counts wait until they are asked for"
    apart.settle()
    assert apart.counts.sum() == 16 + 5 * (len(examples) - 1)


@pytest.mark.parametrize("floor", [None, 0.01])
def test_windows_over_a_small_alphabet_sum_to_one(floor: float | None) -> None:
    engine, codec, _ = learned("abcab abcca bcabc " * 12, 3, window=5, floor=floor)
    everything = torch.tensor(list(itertools.product(range(codec.space.symbols), repeat=5)))
    value = engine.log_prob(Batch(everything, torch.arange(len(everything))), FIRST).value
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    logits = engine.next_logits(everything[:, :-1], Batch(everything, everything[:, 0]).condition)
    each = logits.log_softmax(-1).gather(-1, everything[..., None]).squeeze(-1)
    torch.testing.assert_close(each, engine.spell(Batch(everything, everything[:, 0]), FIRST))


def test_a_markov_chain_has_the_plain_shares_of_the_counts() -> None:
    engine, codec, data = learned("ab" * 100 + "aab" * 20, 2, floor=0.01)
    text = data.whole().texts()[0]
    a, b = (codec.symbols(text_of([c]))[0] for c in "ab")
    share = text.count("ab") / (text.count("ab") + len([i for i in range(len(text) - 1) if text[i : i + 2] == "aa"]))
    lower = 0.99 * text.count("b") / len(text) + 0.01 / codec.space.symbols
    found = engine.next_logits(torch.tensor([[int(a)]]), Batch(torch.zeros(1, 1), FIRST.ids).condition)[0, 1, int(b)]
    assert float(found.exp()) == pytest.approx(0.99 * share + 0.01 * lower, abs=1e-9)


def test_places_are_found_by_table_and_by_search_alike() -> None:
    keys = np.array([3, 5, 6, 90])
    wanted = np.array([-1, 0, 3, 4, 5, 6, 89, 90, 91, 10**12])
    expected = [-1, -1, 0, -1, 1, 2, -1, 3, -1, -1]
    assert Places(keys).find(np.tile(wanted, 50))[:10].tolist() == expected
    assert Places(np.append(keys[:3], 10**11)).find(wanted).tolist() == [-1, -1, 0, -1, 1, 2, -1, -1, -1, -1]


def test_columns_too_wide_for_one_key_are_counted_as_well() -> None:
    big = 2**40
    columns = [np.array([big, 1, big]), np.array([big, 0, big]), np.array([7, 2, 7])]
    grams, counts = tally_columns(columns, np.array([1, 2, 3]))
    assert [column.tolist() for column in grams] == [[1, big], [0, big], [2, 7]]
    assert counts.tolist() == [2, 4]


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"order": 0}, {"order": 65}, {"floor": 0.0}, {"floor": 1.0}):
        with pytest.raises(BadInput):
            NGram(**change)
    with pytest.raises(BadInput, match="endless"):
        Tokens(4, 3, ends=True, running=True)
    assert math.isclose(Tokens(4, 3, running=True).size, 3)
