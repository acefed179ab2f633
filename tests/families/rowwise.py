"""Checks that every engine's losses are row by row: one row's gradient by `vmap` is that row's gradient alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Learns
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens

CLASS: Mapping[str, Space] = {"class": Tokens(3, 1), "size": Real((2,))}


def events(space: Space, count: int, seed: int = 0) -> Tensor:
    """(count, *event) of random events of a space."""
    rows = Rows(seed, torch.arange(count))
    if isinstance(space, Tokens):
        return torch.stack([rows.fork("x", t).integers(size) for t, size in enumerate(space.sizes)], dim=1)
    if isinstance(space, Mixed):
        parts = {f.name: events(f.space, count, seed + i) for i, f in enumerate(space.fields)}
        for f in space.fields:
            if f.present is not None:
                there = space.present(parts, f).reshape(-1, *[1] * len(f.space.shape))
                parts[f.name] = torch.where(there, parts[f.name], 0.0)
        return space.join(parts)
    x = rows.normal(*space.shape)
    if space.levels is None:
        return x
    return ((x.clamp(-1, 1) + 1) / 2 * (space.levels - 1)).round() * space.step + space.low


def batch_of(space: Space, count: int, conditions: Mapping[str, Space] = CLASS) -> Batch:
    """`count` random rows, of whose conditions a third are not given."""
    ids = torch.arange(count) + 100
    values = {k: events(s, count, seed=7) for k, s in conditions.items()}
    given = {k: torch.arange(count) % 3 > 0 for k in conditions}
    return Batch(events(space, count), ids, Condition(values, given))


def stir(engine: nn.Module, amount: float = 0.05) -> None:
    """Move all weights a little, so that nothing is zero only because training starts there."""
    with torch.no_grad():
        for index, p in enumerate(engine.parameters()):
            p.add_(amount * Rows(index, torch.arange(1)).normal(*p.shape)[0].to(p))


class _Turn(nn.Module):
    def __init__(self, engine: nn.Module, turn: int) -> None:
        super().__init__()
        self.engine, self.turn = engine, turn

    def forward(self, batch: Batch, rows: Rows) -> Tensor:
        assert isinstance(self.engine, Learns)
        return self.engine.turns()[self.turn].losses(batch, rows)


def check_rowwise(engine: nn.Module, batch: Batch) -> None:
    """Each row's loss and gradient are the same alone, in the batch and under vmap, for every turn."""
    assert isinstance(engine, Learns)
    for index, _ in enumerate(engine.turns()):
        player = _Turn(engine, index)
        weights = {k: v.detach() for k, v in player.named_parameters()}

        def loss(
            weights: dict[str, Tensor],
            x: Tensor,
            id: Tensor,
            values: dict[str, Tensor],
            given: dict[str, Tensor],
            player: _Turn = player,
        ) -> Tensor:
            condition = Condition({k: v[None] for k, v in values.items()}, {k: g[None] for k, g in given.items()})
            row = (Batch(x[None], id[None], condition), Rows(3, id[None]))
            out: Tensor = functional_call(player, weights, row)
            return out.squeeze(0)

        condition = (dict(batch.condition.values), dict(batch.condition.given))
        mapped = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(weights, batch.x, batch.ids, *condition)
        together = player(batch, Rows(3, batch.ids))
        assert together.shape == (len(batch),)
        for j in range(len(batch)):
            row = batch.take(slice(j, j + 1))
            alone = player(row, Rows(3, row.ids))
            torch.testing.assert_close(alone[0], together[j], rtol=1e-4, atol=1e-5)
            slopes = torch.autograd.grad(alone.sum(), list(player.parameters()), allow_unused=True)
            for (name, p), slope in zip(player.named_parameters(), slopes, strict=True):
                expected = torch.zeros_like(p) if slope is None else slope
                torch.testing.assert_close(mapped[name][j], expected, rtol=1e-3, atol=1e-4, msg=f"{name}, row {j}")
