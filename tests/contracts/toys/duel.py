"""Two players on a line: a maker shifts and stretches noise, a critic tells its numbers from real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, Learns, Samples, Turn
from pellucid.core.rows import Rows
from pellucid.core.trace import Trace

__all__ = ["Duel"]


class Duel(nn.Module, Learns, Samples):
    """x = a z + b against d(x) = u x + v x^2 + c; the critic pays for its size, which is a term of no single row."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with Rows(seed, torch.tensor([0])).seeding():
            self.maker, self.critic = nn.Linear(1, 1), nn.Linear(2, 1)

    def make(self, rows: Rows) -> Tensor:
        """(B, 1)"""
        made: Tensor = self.maker(rows.fork("z").normal(1, dtype=self.maker.weight.dtype))
        return made

    def judge(self, x: Tensor) -> Tensor:
        """(B, 1) to (B,): large for what looks real."""
        score: Tensor = self.critic(torch.cat((x, x.square()), 1))
        return score[:, 0]

    def critic_losses(self, batch: Batch, rows: Rows) -> Tensor:
        return softplus(-self.judge(batch.x)) + softplus(self.judge(self.make(rows)))

    def maker_losses(self, batch: Batch, rows: Rows) -> Tensor:
        return softplus(-self.judge(self.make(rows)))

    def size(self, batch: Batch, rows: Rows) -> Tensor:
        return 0.05 * self.critic.weight.square().sum()

    def turns(self) -> tuple[Turn, ...]:
        return (
            Turn("critic", tuple(self.critic.parameters()), self.critic_losses, self.size, betas=(0.0, 0.9)),
            Turn("maker", tuple(self.maker.parameters()), self.maker_losses, every=2, rate=0.5, betas=(0.0, 0.9)),
        )

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        return self.make(rows)
