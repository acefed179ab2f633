"""The n-gram inside a network: cross-fitted answers, the mixture as written, and what each part adds."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadBundle, BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.weights import pour, state_of
from pellucid.domains.text_files import text_of
from pellucid.families.autoregressive import Autoregressive, AutoregressiveEngine
from pellucid.families.ngram import NGram
from pellucid.families.ngram_prior import FOLDS, NGramPrior
from pellucid.fitting import fit
from pellucid.model import load
from pellucid.tasks.likelihood import likelihood
from pellucid.testing import check_family

VERSE = "the cat sat on the mat and the dog sat on the cat; then the rat ran off. " * 12
LINES = Tokens(5, 6, ends=True)
FIRST = Rows(0, torch.zeros(1, dtype=torch.int64))


def lines(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 6) words that follow a habit: a symbol is often followed by the next one."""
    rows, columns = Rows(seed, torch.arange(count)), [torch.full((count,), 1)]
    for t in range(5):
        jump = (rows.fork("jump", t).uniform() < 0.3).long() * rows.fork("to", t).integers(5)
        columns.append((columns[-1] + 1 + jump) % 5)
    x = torch.stack(columns, 1)
    return torch.where((x == 0).long().cumsum(1) > 0, 0, x)


def surveyed(order: int, x: torch.Tensor) -> NGramPrior:
    prior = NGramPrior(order, LINES)
    prior.survey(lambda ids: Batch(x[ids], ids), len(x))
    return prior


def counted(order: int, x: torch.Tensor) -> torch.Tensor:
    """(len(x), 6, 5) log p of an n-gram of its own, symbol by symbol, for the first rows of `lines`."""
    engine = NGram(order=order, positional=False).build(LINES, {}, FIRST)
    engine.absorb(Batch(x, torch.arange(len(x))))
    engine.settle()
    asked = lines(80)[:10]
    return torch.stack([engine.next_logits(asked, Condition(), at=t) for t in range(6)], dim=1)


def alive(x: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: no end has come before."""
    return torch.cat((torch.ones(len(x), 1, dtype=torch.bool), (x == 0).cumsum(1)[:, :-1] == 0), dim=1)


@pytest.mark.parametrize("order", [1, 2])
def test_other_rows_are_answered_by_all_counts_and_trained_rows_without_their_part(order: int) -> None:
    x = lines(80)
    prior = surveyed(order, x)
    asked, here = x[:10], alive(x[:10])
    torch.testing.assert_close(prior.log_probs(asked)[here], counted(order, x)[here].float(), rtol=1e-4, atol=1e-4)
    # rows 0 to 9 are the first part of eight: their answers are those of an n-gram that never saw them
    found, alone = prior.log_probs(asked, torch.arange(10)), counted(order, x[80 // FOLDS :])
    # discounts are estimated over all parts together, so a part's own are close and not equal
    torch.testing.assert_close(found[here].exp(), alone[here].float().exp(), rtol=0.0, atol=0.05)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(10, 6))
    assert (found - prior.log_probs(asked))[here].abs().max() > 0.01, "leaving a part out changes its answers"


def test_answers_after_a_prefix_are_those_of_the_whole_row() -> None:
    x = lines(60)
    prior = surveyed(3, x)
    whole = prior.log_probs(x[:7])
    for t in range(6):
        torch.testing.assert_close(prior.following(x[:7, :t]), whole[:, t])


def fitted(space: Tokens = LINES, order: int = 3) -> AutoregressiveEngine:
    engine = Autoregressive(width=16, heads=2, depth=1, prior=order).build(space, {}, FIRST)
    x = (
        lines(80)
        if space == LINES
        else torch.randint(3, (80, space.length), generator=torch.Generator().manual_seed(0))
    )
    engine.survey(lambda ids: Batch(x[ids], ids), len(x))
    with FIRST.fork("stir").seeding(), torch.no_grad():
        for p in engine.parameters():
            nn.init.normal_(p, std=0.3)
    return engine.eval()


@torch.no_grad()
def test_the_ngram_is_mixed_as_written() -> None:
    engine, x = fitted(), lines(80)[:5]
    features = engine._features(x[:, :-1], Condition())
    logits = engine.head(features) + engine.trust(features) * engine.prior.log_probs(x)  # type: ignore[misc, union-attr]
    each = logits.log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
    torch.testing.assert_close(engine.spell(Batch(x, torch.arange(5)), FIRST), torch.where(alive(x), each, 0.0))


def test_a_fresh_network_says_what_the_ngram_says() -> None:
    engine = Autoregressive(width=16, heads=2, depth=1, prior=3).build(LINES, {}, FIRST).eval()
    x = lines(80)
    engine.survey(lambda ids: Batch(x[ids], ids), len(x))
    said = engine.next_logits(x[:10], Condition())[:, :6].log_softmax(-1)
    here = alive(x[:10])
    torch.testing.assert_close(said[here], counted(3, x)[here].float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("space", [LINES, Tokens(3, 4, running=True), Tokens(3, 4)])
def test_probabilities_of_all_rows_sum_to_one(space: Tokens) -> None:
    engine = fitted(space).double()
    x = torch.tensor(list(itertools.product(range(space.symbols), repeat=space.length)))
    if space.ends:
        x = x[(alive(x) | (x == 0)).all(1)]
    value = engine.log_prob(Batch(x, torch.arange(len(x))), FIRST).value
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=1e-6)


@torch.no_grad()
def test_what_the_parts_add_is_shared_out_whole() -> None:
    engine, x = fitted(), lines(80)[:9]
    batch = Batch(x, torch.arange(9))
    parts = engine.blend(batch, FIRST)
    assert set(parts) == {"network", "n-gram"}
    over = engine.spell(batch, FIRST) + math.log(5) * alive(x)
    torch.testing.assert_close(parts["network"] + parts["n-gram"], over)
    mute = fitted()
    nn.init.zeros_(mute.head.weight)
    nn.init.zeros_(mute.head.bias)
    assert mute.blend(batch, FIRST)["network"].abs().max() < 1e-5, "a network that says nothing adds nothing"


@pytest.mark.parametrize("space", [LINES, Tokens(3, 4), Tokens(4, 9)])
def test_the_laws_hold_with_an_ngram_inside(space: Tokens) -> None:
    check_family(Autoregressive(width=16, heads=2, depth=1, prior=3), space)


def test_tables_of_columns_and_strange_tables_are_refused() -> None:
    refusal = Autoregressive(prior=3).accepts(Tokens((2, 3), 2), {})
    assert refusal is not None
    assert "one alphabet" in refusal.reason
    with pytest.raises(BadInput, match="prior is 0"):
        Autoregressive(prior=0)
    with_tables, plain = fitted(), Autoregressive(width=16, heads=2, depth=1).build(LINES, {}, FIRST)
    stored = state_of(with_tables)
    with pytest.raises(BadBundle):
        pour(plain, stored, "run")
    spoiled = {name: -table if name == "surveyed/counts" else table for name, table in stored.items()}
    with pytest.raises(BadBundle, match="tables"):
        pour(with_tables, spoiled, "run")


def test_a_run_is_saved_loaded_and_says_how_much_each_part_gave(tmp_path: Path) -> None:
    family = Autoregressive(width=16, heads=2, depth=1, prior=4)
    model = fit(text_of(VERSE, window=12), family, steps=12, out=tmp_path / "run", watch=False)
    again = load(tmp_path / "run")
    data = text_of(VERSE[30:174], window=12)  # twelve whole blocks
    one, two = likelihood(model, data), likelihood(again, data)
    assert one.nats == pytest.approx(two.nats)
    assert dict(one.parts).keys() == {"network", "n-gram"}
    assert isinstance(model.codec.space, Tokens)
    assert one.blocks_nats_per_symbol is not None
    over = math.log(model.codec.space.symbols) - one.blocks_nats_per_symbol
    assert sum(share for _, share in one.parts) == pytest.approx(over, abs=1e-4)
    assert dict(one.parts)["n-gram"] > dict(one.parts)["network"], "after 12 steps the counts do the work"
    assert "n-gram" in one.to_text()


def test_going_on_from_a_run_adds_to_its_counts() -> None:
    family = Autoregressive(width=16, heads=2, depth=1, prior=3)
    base = fit(text_of(VERSE, window=12), family, steps=3, watch=False)
    more = fit(text_of(VERSE, window=12), family, base=base, steps=3, watch=False)
    old, new = (m.engine.surveyed()["counts"] for m in (base, more))  # type: ignore[operator]
    assert torch.equal(new, 2 * old)
