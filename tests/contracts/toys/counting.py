"""Counts how often each pair of neighbours occurs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Counts, LogProb, Scores
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens

__all__ = ["Neighbours"]


class Neighbours(nn.Module, Counts, Scores):
    """P(x) = product of P(x_t | x_{t-1}), each (count + 1) / (total + V); the first symbol follows a symbol V."""

    def __init__(self, space: Tokens) -> None:
        super().__init__()
        self.V = space.symbols
        self.counts = torch.zeros(self.V + 1, self.V, dtype=torch.int64)
        self.log_p = torch.zeros(0)

    def pairs(self, x: Tensor) -> Tensor:
        """(B, T) places in the flat table of pairs."""
        before = nn.functional.pad(x[:, :-1], (1, 0), value=self.V)
        return before * self.V + x

    def absorb(self, batch: Batch) -> None:
        found = torch.bincount(self.pairs(batch.x).flatten(), minlength=self.counts.numel())
        self.counts = self.counts + found.reshape(self.counts.shape)

    def settle(self) -> None:
        smooth = self.counts.double() + 1
        self.log_p = (smooth / smooth.sum(1, keepdim=True)).log()

    def tables(self) -> dict[str, Tensor]:
        return {"counts": self.counts.clone()}

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        counts = tables["counts"]
        if counts.shape != self.counts.shape or counts.dtype != torch.int64 or bool((counts < 0).any()):
            raise BadInput(
                f"table of counts has shape {tuple(counts.shape)}", accepted=f"whole numbers {tuple(self.counts.shape)}"
            )
        self.counts = counts.clone()

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.log_p.flatten()[self.pairs(batch.x)].sum(1), "exact")
