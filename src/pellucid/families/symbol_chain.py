"""What engines share that write one symbol after another through a network with a state.

    log p(x | c) = sum_t log p(x_t | x_1, ..., x_{t-1}, c)

exactly, by the chain rule. Slot t of the network holds the embedding of symbol t - 1 (a start vector in slot 0) and of
position t, and answers for symbol t; the network sees slots up to its own. They differ in that network alone:
`lstm.py`, `wavenet.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Family, How, Learns, LogProb, Predicts, Refusal, Samples, Scores, Spells, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.nets.causal import Causal
from pellucid.nets.condition import ConditionEncoder, drop_conditions

__all__ = ["ChainCache", "SymbolChainEngine", "SymbolChainFamily", "is_text"]


@dataclass(frozen=True)
class ChainCache:
    """What was computed for the symbols so far.

    Args:
        state: of the network. vector: (B, width) of the condition, None without conditions.
        ended: (B,) bool, rows whose symbol 0 has come. slots: how many were computed, the start among them.
    """

    state: Any
    vector: Tensor | None
    ended: Tensor
    slots: int = 0


@dataclass(frozen=True, kw_only=True)
class SymbolChainFamily(Family):
    """Settings that these families share; a subclass adds those of its network, its parts and its training.

    Args:
        width: numbers in a slot; None chooses by the data. dropout: share of the channels that each layer adds which
            are left out in training, chosen once a row. forget: share of rows whose conditions are dropped in training.
        max_length: longest sequence that is taken.
        tied: read and write symbols by one table; it has fewer weights and learns slower at first.
    """

    engine: ClassVar[type[SymbolChainEngine]]

    width: int | None = None
    dropout: float = 0.1
    forget: float = 0.1
    max_length: int = 4096
    tied: bool = False

    def __post_init__(self) -> None:
        for name, value in {"width": self.width, "max_length": self.max_length}.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        for name, share in {"dropout": self.dropout, "forget": self.forget}.items():
            if not 0.0 <= share < 1.0:
                raise BadInput(f"{name} is {share}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family predicts symbols, and the space has real numbers",
                           instead="cut the numbers into symbols, or wavenet_real")  # fmt: skip
        if space.length > self.max_length:
            return Refusal(
                f"items have {space.length} symbols, and max_length is {self.max_length}",
                instead="shorter items, or a higher max_length",
            )
        return None


class SymbolChainEngine(nn.Module, Learns, Samples, Scores, Spells, Predicts):
    """One embedding table for all symbols of all positions, read by slices at both ends.

    Args:
        body: the network. conditions: name -> space of what can be known.
    """

    def __init__(self, family: SymbolChainFamily, space: Tokens, conditions: Mapping[str, Space], body: Causal) -> None:
        super().__init__()
        self.family, self.space, self.body, width = family, space, body, body.width
        self.one_alphabet = isinstance(space.vocab, int)
        total = space.symbols if self.one_alphabet else sum(space.sizes)
        starts = torch.tensor([0, *space.sizes[:-1]]).cumsum(0)
        self.register_buffer("start", starts * (not self.one_alphabet), persistent=False)  # (T,) of each alphabet
        self.symbol = nn.Embedding(total, width)
        # windows of a running text begin anywhere, so a place in them means nothing
        self.position = None if space.running else nn.Parameter(torch.randn(space.length, width) * 0.1)
        self.first = nn.Parameter(torch.randn(width) * 0.1)
        self.condition = ConditionEncoder(conditions, width)
        self.head = nn.Linear(width, total)
        nn.init.normal_(self.symbol.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.loud: nn.Parameter | None = None
        if family.tied:
            self.head.weight = self.symbol.weight
            self.loud = nn.Parameter(torch.full((), width**-0.5))

    def turns(self) -> tuple[Turn, ...]:
        tables = [p for m in (self.symbol, self.head) for p in m.parameters()]
        return (Turn("next symbol", list(self.parameters()), self.losses, tables=tables),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / length in nats (B,)."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep, share = None, self.family.dropout
        if self.training and share > 0.0:
            keep = (rows.fork("dropout").uniform(self.body.masks, self.body.width) >= share) / (1.0 - share)
        return -self._spelled(batch.x, condition, keep).sum(-1) / self.space.length

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self._spelled(batch.x, batch.condition).sum(-1), "exact")

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        return self._spelled(batch.x, batch.condition)

    def settings(self) -> SymbolHow:
        return SymbolHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T). The uniform numbers behind all symbols of a row are drawn at once."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        device = self.first.device
        u = rows.fork("symbols").uniform(self.space.length, dtype=torch.float64).to(device)
        cache = self.begin(condition, len(rows))
        tokens = torch.zeros(len(rows), self.space.length, dtype=torch.int64, device=device)
        for t in range(self.space.length):
            logits, cache = self.step(cache, tokens[:, max(0, t - 1) : t])
            tokens[:, t] = draw_symbols(logits, u[:, t], how, tokens[:, :t])
            if trace.wants("logits"):
                trace.keep("logits", t, logits)
            if trace.wants("token"):
                trace.keep("token", t, tokens[:, t])
            if self.space.ends and bool((tokens[:, t] == 0).all()):
                break  # every row has ended, and the rest is padding
        return tokens

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        h, ended = self._features(tokens, condition), self._ended_before(tokens)
        found = [
            self._padded_logits(h[:, t] if t < self.space.length else None, t, ended[:, t])
            for t in (range(tokens.shape[1] + 1) if at is None else [at])
        ]
        return torch.stack(found, dim=1) if at is None else found[0]

    def begin(self, condition: Condition, batch: int) -> ChainCache:
        like = self.first.new_zeros(batch, 1)
        return ChainCache(self.body.begin(batch, self.space.length, like), self._known(condition, like), like[:, 0] > 0)

    @torch.no_grad()
    def step(self, cache: ChainCache, tokens: Tensor) -> tuple[Tensor, ChainCache]:
        """tokens (B, k) to the logits (B, V) of the next symbol; the cache is for asking, so no gradient is kept."""
        done = cache.slots
        seen = max(0, done - 1) + tokens.shape[1]
        ended = cache.ended | (tokens == 0).any(dim=1) if self.space.ends else cache.ended
        new = tokens if done else torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)
        new = new[:, : self.space.length - done]  # the last symbol of all has no slot: nothing follows it
        h, state = None, cache.state
        if new.shape[1]:
            features, state = self.body.step(self._embed(new, done), state, cache.vector)
            h = features[:, -1] if seen < self.space.length else None
        return self._padded_logits(h, seen, ended), ChainCache(state, cache.vector, ended, done + new.shape[1])

    def _spelled(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """(B, T) log p of each symbol, in float32 at least; 0 after an end."""
        h = self._features(x[:, :-1], condition, keep)  # (B, T, width)
        if self.one_alphabet:
            each = self._logits(h, 0).log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
        else:  # position by position, so that a column of many symbols costs nothing in the others
            columns = [self._logits(h[:, t], t).log_softmax(-1).gather(-1, x[:, t, None]) for t in range(x.shape[1])]
            each = torch.cat(columns, dim=1)
        return torch.where(self._ended_before(x)[:, :-1], 0.0, each) if self.space.ends else each

    def _logits(self, h: Tensor, t: int) -> Tensor:
        """h (..., width) to logits over the alphabet of position t, in float32 at least: their sums need it."""
        low = 0 if self.one_alphabet else sum(self.space.sizes[:t])
        part = slice(low, low + self.space.sizes[t])
        loud = h if self.loud is None else h * self.loud
        logits = nn.functional.linear(loud, self.head.weight[part], self.head.bias[part])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _padded_logits(self, h: Tensor | None, t: int, ended: Tensor) -> Tensor:
        """h (B, width) to (B, V); None for the position after the last. Ended rows continue with 0 for certain."""
        if h is None:
            wide = torch.promote_types(self.first.dtype, torch.float32)
            return self.first.new_full((len(ended), self.space.symbols), -math.inf, dtype=wide)
        logits = self._logits(h, t)
        logits = nn.functional.pad(logits, (0, self.space.symbols - logits.shape[1]), value=-math.inf)
        if self.space.ends:
            certain = torch.where(torch.arange(logits.shape[1], device=h.device) == 0, 0.0, -math.inf)
            logits = torch.where(ended[:, None], certain.to(logits.dtype), logits)
        return logits

    def _features(self, tokens: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """tokens (B, T) to features (B, min(T + 1, length), width); feature t answers for symbol t."""
        before = torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)[:, : self.space.length]
        like = self.first.new_zeros(1).expand(len(tokens), 1)
        out: Tensor = self.body(self._embed(before, 0), self._known(condition, like), keep)
        return out

    def _known(self, condition: Condition, like: Tensor) -> Tensor | None:
        """(B, width) of what is known of each row of `like` (B, 1); None where nothing can be."""
        return self.condition(condition, like) if self.condition.names else None

    def _embed(self, before: Tensor, slot: int) -> Tensor:
        """Slots from `slot` on: before (B, k) is each slot's preceding symbol."""
        slots = torch.arange(slot, slot + before.shape[1], device=before.device)
        x = self.symbol(before + self.get_buffer("start")[(slots - 1).clamp_min(0)])
        if slot == 0:
            x = torch.cat((self.first.expand(len(before), 1, -1).to(x.dtype), x[:, 1:]), dim=1)
        return x if self.position is None else x + self.position[slot : slot + before.shape[1]]

    def _ended_before(self, tokens: Tensor) -> Tensor:
        """(B, T + 1) bool: has symbol 0 come before position t?"""
        if not self.space.ends:
            return torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.bool, device=tokens.device)
        ended = (tokens == 0).cumsum(1) > 0
        return torch.cat((ended.new_zeros(len(tokens), 1), ended), dim=1)


def is_text(space: Space) -> bool:
    """A running text, or strings of one alphabet that end."""
    return isinstance(space, Tokens) and isinstance(space.vocab, int) and (space.running or space.ends)
