"""The gradient of each row's own loss: what private training clips and influence compares.

    g_i = d loss_i / d parameters        one row at a time, vectorised over rows by `torch.func`

Each row is put into a batch of one, so that what an engine computes for it cannot depend on its neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.training.step import Step

__all__ = ["flat_per_example_gradients", "per_example_gradients"]


def per_example_gradients(
    engine: nn.Module, turn: Turn | str | int, batch: Batch, rows: Rows, chunk: int | None = None
) -> dict[str, Tensor]:
    """Gradients of the turn's losses, row by row, with respect to the turn's parameters.

    Row weights are left out. The engine is used as it is: put it into `eval()` unless dropout is wanted, which then
    draws from torch's own generator.

    Args:
        turn: one of the engine's turns by name or place, or a turn of its own.
        batch, rows: B rows and their noise.
        chunk: rows at a time; None takes all at once. A row needs about the memory of a training step of its own,
            and of all gradients.

    Returns:
        name -> (B, *shape of the parameter).
    """
    step = Step(engine, turns=(turn,)) if isinstance(turn, Turn) else Step(engine)
    place = 0 if isinstance(turn, Turn) else step.index(turn)
    for name, module in engine.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise BadInput(
                f"'{name}' is a {type(module).__name__} in training mode",
                why="It mixes the rows of a batch, so no row has a gradient of its own.",
                next="Use GroupNorm or LayerNorm, or call engine.eval() first.",
            )
    names = {id(p): name for name, p in step.named_parameters()}
    moved = {names[id(p)]: p.detach() for p in step.named(place).values()}
    fields = _fields(batch, rows)

    def loss(parameters: dict[str, Tensor], row: dict[str, Any]) -> Tensor:
        one, noise = _alone(row, rows)
        losses, _ = functional_call(step, parameters, (place, one, noise))
        return losses[0]

    each = vmap(grad(loss), in_dims=(None, 0), randomness="different", chunk_size=chunk)
    found: dict[str, Tensor] = each(moved, fields)
    return {name.removeprefix("engine."): g.detach() for name, g in found.items()}


def flat_per_example_gradients(
    engine: nn.Module, turn: Turn | str | int, batch: Batch, rows: Rows, chunk: int | None = None
) -> Tensor:
    """(B, P): the same, each row's gradients side by side in the order of the names."""
    found = per_example_gradients(engine, turn, batch, rows, chunk)
    return torch.cat([g.reshape(g.shape[0], -1) for g in found.values()], dim=1)


def _fields(batch: Batch, rows: Rows) -> dict[str, Any]:
    """Everything of a batch that has a row axis, as a nest that vmap understands."""
    fields: dict[str, Any] = {
        "x": batch.x,
        "ids": batch.ids,
        "noise": rows.ids,
        "values": dict(batch.condition.values),
        "given": dict(batch.condition.given),
    }
    if batch.lengths is not None:
        fields["lengths"] = batch.lengths
    return fields


def _alone(row: dict[str, Any], rows: Rows) -> tuple[Batch, Rows]:
    """One row, its row axis put back."""
    condition = Condition({k: v[None] for k, v in row["values"].items()}, {k: g[None] for k, g in row["given"].items()})
    lengths = row["lengths"][None] if "lengths" in row else None
    return Batch(row["x"][None], row["ids"][None], condition, lengths), Rows(rows.seed, row["noise"][None], rows.key)
