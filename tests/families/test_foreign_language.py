"""A language model made elsewhere: exact probabilities, its own loop, and rows that stand alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, offers
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.foreign_attention import recording
from pellucid.families.foreign_language import AttendingLanguage, ForeignLanguage
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from tests.families.foreign_models import language

KINDS = ("gpt2", "llama")


def lines(kind: str, size: int = 6, length: int = 5, attention: str = "sdpa") -> AttendingLanguage:
    """Texts that end: the model's own number of the end is 4, and of the start 5."""
    return AttendingLanguage(
        language(kind, size, attention), Tokens(size, length, ends=True), 5 if size > 5 else 2, 4 if size > 5 else 3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_texts_add_up_to_one(kind: str) -> None:
    made = lines(kind, size=4, length=3)
    every = {x[: (*x, 0).index(0)] for x in itertools.product(range(4), repeat=3)}
    x = torch.tensor([(*text, *[0] * (3 - len(text))) for text in sorted(every)])
    found = made.log_prob(Batch(x, torch.arange(len(x)), Condition()), Rows(0, torch.arange(len(x))))
    assert found.kind == "exact"
    assert float(found.value.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_are_the_models_own_numbers(kind: str) -> None:
    """Log-probabilities by the model itself, asked in its own numbers."""
    made = lines(kind)
    x = torch.tensor([[1, 2, 4, 0, 0], [3, 5, 0, 0, 0]])  # symbol 0 is number 4, symbol 4 is number 0
    own = torch.tensor([[5, 1, 2, 0, 4], [5, 3, 5, 4, 4]])
    each = made.model(own[:, :-1]).logits.log_softmax(-1).gather(-1, own[:, 1:, None])[..., 0]
    found = made.spell(Batch(x, torch.arange(2), Condition()), Rows(0, torch.arange(2)))
    assert torch.allclose(found[0, :4], each[0], atol=1e-5)
    assert torch.allclose(found[1, :3], each[1, :3], atol=1e-5)
    assert found[1, 3:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_cached_steps_agree_and_a_cache_can_be_used_twice(kind: str) -> None:
    made = lines(kind)
    x = torch.tensor([[1, 2, 4, 3, 1], [3, 5, 0, 0, 0]])
    whole = made.next_logits(x, Condition())
    assert whole.shape == (2, 6, 6)
    assert torch.isinf(whole[:, 5]).all()
    cache = made.begin(Condition(), 2)
    logits, cache = made.step(cache, x[:, :0])
    assert torch.allclose(logits, whole[:, 0], atol=1e-5)
    for t in range(5):
        made.step(cache, (x[:, t : t + 1] + 1) % 6)  # another way on, which must not touch the cache
        logits, cache = made.step(cache, x[:, t : t + 1])
        assert torch.allclose(logits, whole[:, t + 1], atol=1e-5)
        assert torch.allclose(made.next_logits(x, Condition(), at=t), whole[:, t])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_its_own_probabilities_and_recording_changes_none(kind: str, attention: str) -> None:
    made = lines(kind, attention=attention)
    rows, how = Rows(3, torch.arange(9)), SymbolHow(temperature=0.8, top_k=5)
    kept = made.model.generation_config
    plain = made.sample(rows, Condition(), how, Silent())
    assert made.model.generation_config is kept
    trace = Recording(["logits", "token"])
    with recording(made.places()) as seen:
        watched = made.sample(rows, Condition(), how, trace)
    assert torch.equal(plain, watched)
    assert seen.require().gap < 2e-6
    u = rows.fork("symbols").uniform(5, dtype=torch.float64)
    cache, tokens = made.begin(Condition(), 9), torch.zeros(9, 0, dtype=torch.int64)
    for t in range(5):
        logits, cache = made.step(cache, tokens[:, -1:] if t else tokens)
        tokens = torch.cat((tokens, draw_symbols(logits, u[:, t], how, tokens)[:, None]), dim=1)
        if t in trace.kept["logits"]:
            going = (tokens[:, :t] != 0).all(1)
            assert torch.allclose(trace.kept["logits"][t][going], logits[going], atol=1e-5)
    assert torch.equal(plain, tokens)
    some = torch.tensor([7, 2])
    assert torch.equal(made.sample(Rows(3, some), Condition(), how, Silent()), plain[some])


def test_a_running_text_goes_on_beyond_its_end() -> None:
    model = language("gpt2", 6)
    model.generation_config.eos_token_id = 4
    made = ForeignLanguage(model, Tokens(6, 12, running=True), 5)
    drawn = made.sample(Rows(0, torch.arange(40)), Condition(), SymbolHow(), Silent())
    ended = (drawn[:, :-1] == 4).nonzero()
    after = drawn[ended[:, 0], ended[:, 1] + 1]
    assert len(after) > 20
    assert len(after.unique()) > 3
    assert offers(made) == ("Samples", "Scores", "Spells", "Predicts")
    assert made.sample(Rows(0, torch.arange(0)), Condition(), SymbolHow(), Silent()).shape == (0, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_looks_at_the_start_and_what_was_before(kind: str) -> None:
    made = lines(kind)
    x = torch.tensor([[1, 2, 4, 3, 1], [3, 5, 0, 0, 0]])
    for site in made.sites():
        weights = made.attention(site, x, Condition())
        assert weights.shape == (2, 4, 5, 5)
        assert torch.equal(weights.triu(1), torch.zeros_like(weights))
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


def test_a_space_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadInput, match="and end is None"):
        ForeignLanguage(language("gpt2", 6), Tokens(6, 5, ends=True), 5)
    with pytest.raises(BadInput, match="how is How"):
        lines("gpt2").sample(Rows(0, torch.arange(1)), Condition(), How(), Silent())
