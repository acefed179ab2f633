"""Sequences that end: a model with fading memory, computed in one pass or step by step from a cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, Learns, LogProb, Predicts, Samples, Scores, Turn
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Trace

__all__ = ["FadingMemory"]


class FadingMemory(nn.Module, Learns, Predicts, Samples, Scores):
    """logits_t = R tanh(sum_{j < t} decay^(t - 1 - j) E[symbol_j]); after symbol 0 there is only symbol 0."""

    def __init__(self, space: Tokens, width: int, seed: int = 0) -> None:
        super().__init__()
        self.space, self.decay = space, 0.6
        with Rows(seed, torch.tensor([0])).seeding():
            self.embed = nn.Embedding(space.symbols, width)
            self.read = nn.Linear(width, space.symbols)

    def logits(self, memory: Tensor, ended: Tensor) -> Tensor:
        """memory (..., width) and ended (...) to (..., V)."""
        only_zero = torch.full((self.space.symbols,), -torch.inf).index_fill(0, torch.tensor([0]), 0.0)
        return torch.where(ended[..., None], only_zero.to(memory), self.read(memory.tanh()))

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        T = tokens.shape[1]
        age = torch.arange(T + 1)[:, None] - 1 - torch.arange(T)  # (T + 1, T)
        weight = torch.where(age >= 0, self.decay ** age.clamp(min=0).to(self.embed.weight.dtype), 0.0)
        memory = torch.einsum("ij,bjw->biw", weight, self.embed(tokens))
        ended = (tokens == 0).long().cumsum(1) > 0
        out = self.logits(memory, nn.functional.pad(ended, (1, 0)))
        return out if at is None else out[:, at]

    def begin(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor]:
        return self.embed.weight.new_zeros(batch, self.embed.embedding_dim), torch.zeros(batch, dtype=torch.bool)

    def step(self, cache: tuple[Tensor, Tensor], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        memory, ended = cache
        for token in tokens.unbind(1):
            memory, ended = self.decay * memory + self.embed(token), ended | (token == 0)
        return self.logits(memory, ended), (memory, ended)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        log_p = self.next_logits(batch.x[:, :-1], batch.condition).log_softmax(-1)  # (B, T, V)
        padding = (batch.x == 0).long().cumsum(1) - (batch.x == 0).long() > 0  # after the end nothing counts
        each = log_p.gather(-1, batch.x[..., None])[..., 0]
        return LogProb(torch.where(padding, 0.0, each).sum(1), "exact")

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("likelihood", tuple(self.parameters()), lambda batch, rows: -self.log_prob(batch, rows).value),)

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        logits, cache = self.step(self.begin(condition, len(rows)), torch.zeros(len(rows), 0, dtype=torch.int64))
        tokens: list[Tensor] = []
        for t in range(self.space.length):
            tokens.append(rows.fork("token", t).categorical(logits))
            logits, cache = self.step(cache, tokens[-1][:, None])
        return torch.stack(tokens, 1)
