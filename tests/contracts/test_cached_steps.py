"""Steps from a cache give what the full pass gives, and nothing looks into the future."""

from __future__ import annotations

import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from tests.contracts.toys.ending import FadingMemory

B, T, V = 3, 6, 5
ENGINE = FadingMemory(Tokens(V, T, ends=True), 4).double()
TOKENS = Rows(2, torch.arange(B)).integers(V - 1, T) + 1  # none ends early
FULL = ENGINE.next_logits(TOKENS, Condition())


@pytest.mark.parametrize("chunks", [(1,) * T, (T,), (2, 1, 3), (4, 2)])
def test_cached_steps_equal_the_full_pass(chunks: tuple[int, ...]) -> None:
    logits, cache = ENGINE.step(ENGINE.begin(Condition(), B), TOKENS[:, :0])
    assert torch.allclose(logits, FULL[:, 0], atol=1e-12)
    for start, k in zip(torch.tensor([0, *chunks]).cumsum(0).tolist(), chunks, strict=False):
        logits, cache = ENGINE.step(cache, TOKENS[:, start : start + k])
        assert torch.allclose(logits, FULL[:, start + k], atol=1e-12)


def test_the_end_is_remembered_by_the_cache() -> None:
    tokens = TOKENS.clone()
    tokens[1, 2] = 0
    full = ENGINE.next_logits(tokens, Condition())
    logits, _ = ENGINE.step(ENGINE.begin(Condition(), B), tokens)
    assert torch.equal(logits.isneginf(), full[:, T].isneginf())
    assert full[1, 3:].softmax(-1)[:, 0].tolist() == [1.0] * (T - 2)


@pytest.mark.parametrize("at", range(T + 1))
def test_one_place_asked_alone(at: int) -> None:
    assert torch.equal(ENGINE.next_logits(TOKENS, Condition(), at=at), FULL[:, at])


@pytest.mark.parametrize("place", range(T))
def test_the_future_is_not_seen(place: int) -> None:
    changed = TOKENS.clone()
    changed[:, place] = 1 + TOKENS[:, place] % (V - 1)
    moved = (ENGINE.next_logits(changed, Condition()) != FULL).any(-1)
    assert not moved[:, : place + 1].any()
    assert moved[:, place + 1].all()
