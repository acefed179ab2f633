"""A full table of the joint probabilities of a few columns: fills any of them given any others, exactly."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import LogProb, Scores, Unmasks
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens

__all__ = ["JointTable"]


class JointTable(nn.Module, Unmasks, Scores):
    """P(x) for each event of a small Tokens space, drawn once from a seed."""

    def __init__(self, space: Tokens, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.events = nn.Buffer(torch.tensor(list(itertools.product(*map(range, space.sizes)))))  # (E, T)
        logits = 1.5 * Rows(seed, torch.tensor([0])).normal(len(self.events), dtype=torch.float64)[0]
        self.log_p = nn.Buffer(logits.log_softmax(0))  # (E,)

    def agreeing(self, tokens: Tensor, known: Tensor) -> Tensor:
        """(B, E) log P of each event, -inf where it contradicts what is known."""
        agrees = ((tokens[:, None] == self.events) | ~known[:, None]).all(-1)
        return torch.where(agrees, self.log_p, -torch.inf)

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        symbols = torch.arange(self.space.symbols)
        holds = (self.events[..., None] == symbols).flatten(1).to(self.log_p)  # (E, T * V)
        p = self.agreeing(tokens, known).exp() @ holds
        filled = p.log().reshape(len(tokens), self.space.length, self.space.symbols)
        return filled if at is None else filled[:, at]

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.agreeing(batch.x, torch.ones_like(batch.x, dtype=torch.bool)).logsumexp(1), "exact")
