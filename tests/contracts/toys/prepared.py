"""A Gaussian fitted in units that the first batch decides."""

from __future__ import annotations

import math

import torch
from torch import nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Learns, LogProb, Prepares, Scores, Turn
from pellucid.core.rows import Rows

__all__ = ["InOwnUnits"]


class InOwnUnits(nn.Module, Learns, Prepares, Scores):
    """x = centre + spread * (m + exp(s) * noise), with centre and spread from the first rows; counts its calls."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.centre, self.spread = nn.Buffer(torch.zeros(size)), nn.Buffer(torch.ones(size))
        self.calls = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.m, self.s = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        self.centre.copy_(batch.x.mean(0))
        self.spread.copy_(batch.x.std(0, correction=0).clamp(min=1e-6))
        self.calls.add_(1)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        z = ((batch.x - self.centre) / self.spread - self.m) * (-self.s).exp()
        each = -0.5 * z.square() - self.s - self.spread.log() - 0.5 * math.log(2 * math.pi)
        return LogProb(each.sum(1), "exact")

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("likelihood", (self.m, self.s), lambda batch, rows: -self.log_prob(batch, rows).value),)
