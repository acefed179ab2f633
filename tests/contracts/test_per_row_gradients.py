"""Losses are row by row and vmap-safe: the gradients of all rows at once equal those of one row after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Learns, Turn
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.training.per_example import flat_per_example_gradients, per_example_gradients
from tests.contracts.toys.duel import Duel
from tests.contracts.toys.ending import FadingMemory
from tests.contracts.toys.linear import LinearLatent
from tests.contracts.toys.prepared import InOwnUnits

B = 5
ROWS = Rows(0, torch.arange(40, 40 + B))
ENGINES: dict[str, tuple[nn.Module, Tensor]] = {
    "memory": (FadingMemory(Tokens(4, 3, ends=True), 6).double(), ROWS.integers(4, 3)),
    "latent": (LinearLatent(7, 2, slack=1.5).double(), ROWS.normal(7, dtype=torch.float64)),
    "duel": (Duel().double(), ROWS.normal(1, dtype=torch.float64)),
    "units": (InOwnUnits(3).double(), ROWS.normal(3, dtype=torch.float64)),
}


def turns_of(name: str) -> tuple[Turn, ...]:
    engine, _ = ENGINES[name]
    assert isinstance(engine, Learns)
    return engine.turns()


TURNS = [(name, turn.name) for name in ENGINES for turn in turns_of(name)]


def asked(name: str, turn: str) -> tuple[nn.Module, Turn, Batch]:
    engine, x = ENGINES[name]
    return engine, next(t for t in turns_of(name) if t.name == turn), Batch(x, ROWS.ids)


@pytest.mark.parametrize(("name", "turn"), TURNS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_vmap_of_grad_equals_a_loop(name: str, turn: str, chunk: int | None) -> None:
    engine, move, batch = asked(name, turn)
    at_once = per_example_gradients(engine, turn, batch, ROWS, chunk)
    names = {id(p): k for k, p in engine.named_parameters()}
    assert set(at_once) == {names[id(p)] for p in move.parameters}
    for i in range(B):
        part = slice(i, i + 1)
        alone = torch.autograd.grad(move.losses(batch.take(part), ROWS.take(part)).sum(), list(move.parameters))
        for p, expected in zip(move.parameters, alone, strict=True):
            assert torch.allclose(at_once[names[id(p)]][i], expected, rtol=1e-9, atol=1e-12), names[id(p)]


@pytest.mark.parametrize(("name", "turn"), TURNS)
def test_their_sum_is_the_gradient_of_the_batch(name: str, turn: str) -> None:
    engine, move, batch = asked(name, turn)
    losses = move.losses(batch, ROWS)
    assert losses.shape == (B,)
    alone = torch.cat([move.losses(batch.take(slice(i, i + 1)), ROWS.take(slice(i, i + 1))) for i in range(B)])
    assert torch.allclose(losses, alone, rtol=1e-9)
    moved = set(map(id, move.parameters))
    whole = torch.autograd.grad(losses.sum(), [p for p in engine.parameters() if id(p) in moved])
    summed = flat_per_example_gradients(engine, turn, batch, ROWS).sum(0)
    assert torch.allclose(summed, torch.cat([g.flatten() for g in whole]), rtol=1e-9)
