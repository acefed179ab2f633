"""The true cause comes first, on tasks whose causes are known: copying, and closing brackets."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Predicts
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.frames import read_table
from pellucid.domains.text_files import text_of
from pellucid.explain.saliency import gradient, left_out, rolled_out, saliency, swapped, unknown
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.masked import Masked
from pellucid.families.ngram import NGram
from pellucid.fitting import fit
from pellucid.model import Fitted

SLIP = 0.02  # chance that the planted rule is broken


class Planted(Predicts):
    """An engine whose rule is written down: `rule` gives the chances of the next symbol from those before."""

    def __init__(self, space: Tokens) -> None:
        self.space = space

    def rule(self, before: list[int]) -> Tensor:
        raise AssertionError

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        rows = []
        for row in tokens.tolist():
            said = [self.rule(row[:t]).log() for t in range(min(len(row), self.space.length - 1) + 1)]
            said += [torch.full((self.space.symbols,), -math.inf)] * (len(row) + 1 - len(said))
            rows.append(torch.stack(said))
        return torch.stack(rows)

    def begin(self, condition: Condition, batch: int) -> Tensor:
        return torch.zeros(batch, 0, dtype=torch.int64)

    def step(self, cache: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        cache = torch.cat((cache, tokens), dim=1)
        return self.next_logits(cache, Condition())[:, -1], cache

    def drawn(self, seed: int) -> tuple[Tensor, Rows]:
        """One item (1, T), drawn from the rule."""
        generator = torch.Generator().manual_seed(seed)
        row: list[int] = []
        while len(row) < self.space.length:
            row.append(int(torch.multinomial(self.rule(row), 1, generator=generator)))
        return torch.tensor([row]), Rows(seed, torch.zeros(1, dtype=torch.int64))


class Copying(Planted):
    """Seven free symbols, then the same seven again."""

    def rule(self, before: list[int]) -> Tensor:
        even = torch.full((5,), 1.0 / 5)
        if len(before) < 7:
            return even
        return SLIP * even + (1 - SLIP) * nn.functional.one_hot(torch.tensor(before[-7]), 5)


class Brackets(Planted):
    """Four kinds of brackets: 0 to 3 open, 4 to 7 close the last one that is open; `shape` says where which stands."""

    def __init__(self, seed: int) -> None:
        super().__init__(Tokens(8, 12))
        random, depth = np.random.default_rng(seed), 0
        self.partner: dict[int, int] = {}
        self.shape, stack = "", list[int]()
        for t in range(12):
            opens = depth == 0 or (depth < 12 - t and random.random() < 0.5)
            depth += 1 if opens else -1
            self.shape += "(" if opens else ")"
            if opens:
                stack.append(t)
            else:
                self.partner[t] = stack.pop()

    def rule(self, before: list[int]) -> Tensor:
        out = torch.zeros(8)
        if self.shape[len(before)] == "(":
            out[:4] = 1.0 / 4
        else:
            out[4:] = SLIP / 4
            out[4 + before[self.partner[len(before)]] % 4] += 1 - SLIP
        return out


def test_the_true_cause_of_a_copied_symbol_comes_first_in_98_of_100() -> None:
    engine = Copying(Tokens(5, 14))
    hits, n = 0, 0
    for seed in range(8):
        row, rows = engine.drawn(seed)
        effect, _ = left_out(engine, engine.space, row, Condition(), rows)
        for t in range(7, 14):
            if row[0, t] == row[0, t - 7]:
                hits, n = hits + (int(effect[:t, t].argmax()) == t - 7), n + 1
    assert n > 40
    assert hits >= 0.98 * n


def test_the_true_cause_of_a_closing_bracket_comes_first_in_98_of_100() -> None:
    hits, n = 0, 0
    for seed in range(12):
        engine = Brackets(seed)
        row, rows = engine.drawn(seed)
        effect, _ = left_out(engine, engine.space, row, Condition(), rows)
        for t, start in engine.partner.items():
            if row[0, t] == 4 + row[0, start]:
                hits, n = hits + (int(effect[:t, t].argmax()) == start), n + 1
    assert n > 60
    assert hits >= 0.98 * n


def test_what_comes_later_changes_nothing_and_what_is_free_rests_on_nothing() -> None:
    engine = Copying(Tokens(5, 14))
    row, rows = engine.drawn(1)
    effect, error = left_out(engine, engine.space, row, Condition(), rows)
    assert float(effect.tril().abs().max()) == 0.0
    assert float(effect[:, :7].abs().max()) < 1e-6
    assert float(error[0, 7]) < 1e-6, "any other symbol makes the copy as unlikely"
    exact = math.log((1 - SLIP + SLIP / 5) / (SLIP / 5))
    kept = [t for t in range(7, 14) if row[0, t] == row[0, t - 7]]
    for t in kept:
        assert float(effect[t - 7, t]) == pytest.approx(exact, rel=1e-5)


class Linear(nn.Module, Predicts):
    """Logits of the last symbol that are linear in the embeddings of the others, so that gradients are exact."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.space = Tokens(4, 5)
        self.table = nn.Embedding(4, 3)
        self.weight = nn.Parameter(torch.randn(5, 3, 4, generator=generator))

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        before = torch.cat((torch.zeros_like(tokens[:, :1]), tokens), dim=1)
        slots = self.table(before)  # (B, T + 1, 3)
        moved = torch.einsum("btk,tkv->btv", slots[:, 1:], self.weight[: tokens.shape[1]])
        upto = moved.cumsum(1) - moved
        even = torch.zeros(len(tokens), 1, 4)
        # all but the last symbol are free
        return torch.cat((even.expand(-1, tokens.shape[1] - 1, -1), upto[:, -1:], even), dim=1)

    def begin(self, condition: Condition, batch: int) -> Tensor:
        return torch.zeros(batch, 0, dtype=torch.int64)

    def step(self, cache: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        cache = torch.cat((cache, tokens), dim=1)
        return self.next_logits(cache, Condition())[:, -1], cache


def test_gradients_are_the_first_order_change() -> None:
    """Against a step by hand: each embedding moved a little towards the mean of the four."""
    engine = Linear()
    tokens = torch.tensor([[1, 3, 0, 2, 2]])
    found = gradient(engine, engine.space, tokens, Condition(), 4)
    assert found is not None
    with torch.no_grad():
        logits = engine.next_logits(tokens, Condition())[0, 4].double()
        for j in range(4):
            away = engine.table.weight[tokens[0, j]] - engine.table.weight.mean(0)
            moved = logits - 1e-4 * (away @ engine.weight[j]).double()
            step = (logits.log_softmax(-1) - moved.log_softmax(-1))[2] / 1e-4
            assert float(found[j]) == pytest.approx(float(step), rel=2e-3, abs=1e-5)
    assert float(found[4]) == 0.0


def names(n: int) -> list[str]:
    random = np.random.default_rng(0)
    return ["".join(w) + "-" + "".join(w) for w in random.choice(list("abcde"), (n, 4))]


@pytest.fixture(scope="module")
def reader() -> Fitted:
    return fit(text_of(names(300)), Autoregressive(width=16, depth=2, heads=2), steps=40, held_out=0.1)


def test_attention_rolled_out_is_a_share_that_never_looks_ahead(reader: Fitted) -> None:
    y, condition = reader.event(text_of(["abcd-abcd"]), Rows(0, torch.arange(1)))
    with torch.no_grad():
        looks = rolled_out(reader.engine, y, condition)
    assert looks.shape == (10, 10)
    assert float(looks.min()) >= 0.0
    assert float(looks.sum(1).max()) <= 1.0 + 1e-6
    assert float(looks.triu().abs().max()) == 0.0, "no symbol stands before its own guess"


def test_a_trained_reader_from_end_to_end(reader: Fitted) -> None:
    found = saliency(reader, items=text_of(["abcd-abcd"]), at=7)
    assert found.places.values[7] == "c"
    assert sorted(found.order) == list(range(7))
    assert found.slope is not None
    assert found.looks is not None
    text = " ".join(found.to_text().split())
    for word in ("2005.00928", "drawn from the model's own chances", "rank correlation", "Faithfulness"):
        assert word in text, word
    assert '"gradient"' in found.to_json()
    sample = saliency(reader, seed=2, index=1)
    assert sample.at == len(sample.places) - 1


def test_a_model_that_fills_gaps_is_told_that_a_symbol_is_unknown() -> None:
    random = np.random.default_rng(0)
    kind = random.integers(0, 4, 800)
    frame = pd.DataFrame(
        {
            "first": np.array(list("abcd"))[kind],
            "noise": np.array(list("xyz"))[random.integers(0, 3, 800)],
            "second": np.array(list("efgh"))[kind],
        }
    )
    model = fit(read_table(frame), Masked(width=32, depth=1), steps=150, held_out=0.2)
    found = saliency(model, items=read_table(frame), index=0, at=2)
    assert found.places.names[found.order[0]] == "first"
    assert found.route == "Unmasks, exact"
    assert float(found.effect[0]) > 0.5 > abs(float(found.effect[1]))
    assert found.effect[2].isnan()
    assert found.check.passed
    y, condition = model.event(read_table(frame).take([0]), Rows(0, torch.arange(1)))
    with torch.no_grad():
        hidden = unknown(model.engine, y, condition, [2])  # type: ignore[arg-type]
        other = swapped(model.engine, y, condition, [2], Rows(0, torch.arange(1)))  # type: ignore[arg-type]
    assert int(hidden[:, 2].argmax()) == int(other[:, 2].argmax()) == int(torch.argmax(hidden[:, 2]))
    assert float(hidden[2, 2]) == float(other[2, 2]) == 0.0


def test_counts_have_no_gradients_and_no_attention_but_are_asked_all_the_same() -> None:
    model = fit(text_of(names(300)), NGram(order=6), held_out=0.1)
    found = saliency(model, items=text_of(["abcd-abcd"]), at=5)
    assert found.slope is None
    assert found.looks is None
    assert float(found.effect[:5].max()) > 0.1
    later = saliency(model, items=text_of(["abcd-abcd"]), at=8)
    assert later.effect[:3].tolist() == pytest.approx([0.0] * 3, abs=1e-9), "counts of six see five places back"
    assert found.check.passed


def test_what_cannot_be_asked_is_refused(digits_model: Fitted, reader: Fitted) -> None:
    with pytest.raises(MissingCapability, match="why a symbol"):
        saliency(digits_model)
    with pytest.raises(BadInput, match="at is 40"):
        saliency(reader, items=text_of(["abcd-abcd"]), at=40)
    with pytest.raises(BadInput, match="index"):
        saliency(reader, items=text_of(["abcd-abcd"]), index=3)
