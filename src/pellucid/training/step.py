"""The one door to losses: training calls `Step.forward` and nothing else.

Wrappers that spread a model over processes work through forward hooks. A direct call of an engine's losses would
train each process on its own without a word, so every turn of every engine is reached through one module.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Learns, Objective, Turn
from pellucid.core.errors import BadInput, MissingCapability, nearest
from pellucid.core.rows import Rows

__all__ = ["Step"]


class Step(nn.Module):
    """An engine and the turns that train it.

    Args:
        engine: the model; what it learns lies in its parameters.
        objective: its turns replace the engine's own.
        base: the frozen model that an objective compares with; not part of this module.
        turns: turns given outright, in place of the engine's and the objective's.

    Parameters that a turn moves and the engine does not own (an objective's critic) are kept in `extra`, so that
    they too are spread and saved.
    """

    def __init__(
        self,
        engine: nn.Module,
        objective: Objective | None = None,
        base: nn.Module | None = None,
        turns: Sequence[Turn] | None = None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self._made_from = (objective, base, turns)  # in a tuple, so that none becomes a child of this module
        self.turns = _turns(engine, objective, base, turns)
        owned = {id(p) for p in engine.parameters()}
        strange = {id(p): p for turn in self.turns for p in turn.parameters if id(p) not in owned}
        self.extra = nn.ParameterList(strange.values())
        self.own_outputs = False

    def forward(self, turn: str | int, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor]:
        """Losses (B,) of one turn and its penalty (), both in float32 at least."""
        move = self.turns[self.index(turn)]
        losses = move.losses(batch, rows)
        if losses.shape != (len(batch),):
            raise BadInput(
                f"turn '{move.name}' gave losses of shape {tuple(losses.shape)} for {len(batch)} rows",
                accepted=f"({len(batch)},), one loss a row",
            )
        penalty = _zero(losses.device) if move.penalty is None else move.penalty(batch, rows)
        if self.own_outputs:
            losses, penalty = losses.clone(), penalty.clone()
        return _wide(losses), _wide(penalty)

    def index(self, turn: str | int) -> int:
        """Place of a turn, by name or place."""
        if isinstance(turn, int):
            return turn
        names = [t.name for t in self.turns]
        if turn not in names:
            raise BadInput(f"turn '{turn}' does not exist", accepted=", ".join(names), next=nearest(turn, names))
        return names.index(turn)

    def refresh(self) -> None:
        """Ask for the turns again, after a wrapper has put other parameters in place of the engine's."""
        self.turns = _turns(self.engine, *self._made_from)

    def named(self, turn: int) -> dict[str, nn.Parameter]:
        """The turn's parameters under the names they have in the engine ("extra.0" for others), each once."""
        wanted = {id(p) for p in self.turns[turn].parameters}
        return {name.removeprefix("engine."): p for name, p in self.named_parameters() if id(p) in wanted}

    @contextmanager
    def moving(self, turn: int | None) -> Iterator[None]:
        """Let gradients reach only this turn's parameters (those of every turn for None) while the block runs."""
        before = [(p, p.requires_grad) for p in self.parameters()]
        chosen = self.turns if turn is None else self.turns[turn : turn + 1]
        wanted = {id(p) for t in chosen for p in t.parameters}
        for p, _ in before:
            p.requires_grad_(id(p) in wanted)
        try:
            yield
        finally:
            for p, flag in before:
                p.requires_grad_(flag)


def _turns(
    engine: nn.Module, objective: Objective | None, base: nn.Module | None, given: Sequence[Turn] | None
) -> tuple[Turn, ...]:
    if given is not None:
        turns = tuple(given)
    elif objective is not None:
        turns = tuple(objective.turns(engine, base))
    elif isinstance(engine, Learns):
        turns = tuple(engine.turns())
    else:
        raise MissingCapability(
            f"{type(engine).__name__} is not trained by gradients", next="Fit it by counting, or give an objective."
        )
    names = [t.name for t in turns]
    if not turns or len(set(names)) != len(names) or any("/" in name for name in names):
        raise BadInput(
            f"{type(engine).__name__} has the turns {names}", accepted="one at least, names distinct and without /"
        )
    for turn in turns:
        if not turn.parameters or turn.every < 1:
            raise BadInput(
                f"turn '{turn.name}' moves {len(turn.parameters)} parameters every {turn.every} steps",
                accepted="one parameter at least, every 1 step or more",
            )
    return turns


@functools.cache
def _zero(device: torch.device) -> Tensor:
    """The penalty of a turn without one, made once."""
    return torch.zeros((), device=device)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
