"""How two players stand: a GAN's scores and its critic's accuracy, told while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pellucid.core.capabilities import Contends
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Measured
from pellucid.training.walk import encoded
from pellucid.training.watch import Seen, Watch

__all__ = ["Balance"]


@dataclass(frozen=True, kw_only=True)
class Balance(Watch):
    """Emits `Measured(topic="balance")`: what the engine's `balance` says of some training rows.

    An accuracy near 1 that stays there: the critic wins, and the generator learns little. One at a half: the critic
    cannot tell, since the items are good or since it has been driven from one side to the other. It sees the weights
    that move, not their average.
    """

    averaged: ClassVar[bool] = False

    rows: int = 128
    """Rows looked at."""
    looks: int = 20
    """Looks, spread evenly over training."""

    def __post_init__(self) -> None:
        if min(self.rows, self.looks) < 1:
            raise BadInput(f"{self}", accepted="rows and looks of at least 1")

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> float | None:
        if not isinstance(seen.engine, Contends):
            raise MissingCapability(f"{type(seen.engine).__name__} has no two players")
        draw = Rows(seen.seed, torch.arange(min(self.rows, len(seen.examples)))).fork("balance", seen.step)
        ids = draw.integers(len(seen.examples))
        batch, rows = encoded(seen.examples, ids, draw, seen.bridge, seen.run.device)
        seen.run.emit(Measured(topic="balance", step=seen.step, values=seen.engine.balance(batch, rows)))
        return None
