"""Losses are row by row and vmap-safe: the gradients of all rows at once equal those of one row after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Learns
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from tests.contracts.toys.duel import Duel
from tests.contracts.toys.ending import FadingMemory
from tests.contracts.toys.linear import LinearLatent
from tests.contracts.toys.prepared import InOwnUnits

B = 5
NOISE = Rows(0, torch.arange(40, 40 + B))
BATCHES: dict[str, tuple[nn.Module, Tensor]] = {
    "memory": (FadingMemory(Tokens(4, 3, ends=True), 6).double(), NOISE.integers(4, 3)),
    "latent": (LinearLatent(7, 2, slack=1.5).double(), NOISE.normal(7, dtype=torch.float64)),
    "duel": (Duel().double(), NOISE.normal(1, dtype=torch.float64)),
    "units": (InOwnUnits(3).double(), NOISE.normal(3, dtype=torch.float64)),
}
TURNS = [(name, turn.name) for name, (e, _) in BATCHES.items() if isinstance(e, Learns) for turn in e.turns()]


class Losses(nn.Module):
    """One turn's losses as a module's forward, which `functional_call` can hand other weights."""

    def __init__(self, engine: nn.Module, turn: str) -> None:
        super().__init__()
        self.engine, self.turn = engine, turn

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        assert isinstance(self.engine, Learns)
        turn = next(turn for turn in self.engine.turns() if turn.name == self.turn)
        return turn.losses(Batch(x, ids), Rows(3, ids).fork("train"))


@pytest.mark.parametrize(("name", "turn"), TURNS)
def test_vmap_of_grad_equals_a_loop(name: str, turn: str) -> None:
    engine, x = BATCHES[name]
    losses = Losses(engine, turn)
    weights = {k: p.detach() for k, p in losses.named_parameters()}

    def one(weights: dict[str, Tensor], x: Tensor, id: Tensor) -> Tensor:
        found: Tensor = functional_call(losses, weights, (x[None], id[None]))
        return found[0]

    at_once = vmap(grad(one), in_dims=(None, 0, 0))(weights, x, NOISE.ids)
    for i in range(B):
        loss = losses(x[i : i + 1], NOISE.ids[i : i + 1]).sum()
        alone = torch.autograd.grad(loss, list(losses.parameters()), allow_unused=True)
        for (k, p), gradient in zip(losses.named_parameters(), alone, strict=True):
            expected = torch.zeros_like(p) if gradient is None else gradient
            assert torch.allclose(at_once[k][i], expected, rtol=1e-9, atol=1e-12), k


@pytest.mark.parametrize(("name", "turn"), TURNS)
def test_their_mean_is_the_gradient_of_the_batch(name: str, turn: str) -> None:
    engine, x = BATCHES[name]
    losses = Losses(engine, turn)
    whole = losses(x, NOISE.ids)
    assert whole.shape == (B,)
    alone = torch.cat([losses(x[i : i + 1], NOISE.ids[i : i + 1]) for i in range(B)])
    assert torch.allclose(whole, alone, rtol=1e-9)
