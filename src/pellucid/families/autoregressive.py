"""Autoregressive transformer: guess the next symbol from those before it, one after another.

    log p(x | c) = sum_t log p(x_t | x_1, ..., x_{t-1}, c)

exactly, by the chain rule. A causal transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) gives all
terms in one pass. Slot t holds the embedding of symbol t - 1 (a start vector in slot 0), of position t and of the
condition, and answers for symbol t. Text, pixels in reading order and the columns of a table are all such rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Attends,
    Family,
    How,
    Learns,
    LogProb,
    Part,
    Predicts,
    Refusal,
    Samples,
    Scores,
    Site,
    Spells,
    Training,
    Turn,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.inherit import inherit
from pellucid.nets.transformer import Cache, Transformer

__all__ = ["Autoregressive", "AutoregressiveCache", "AutoregressiveEngine", "SymbolHow", "draw_symbols"]


FEW = 1_000_000  # symbols that a net of the default size would learn by heart


@dataclass(frozen=True)
class SymbolHow(How):
    """How to draw each next symbol.

    Args:
        temperature: 1 is the model itself; below 1 likelier symbols become likelier still, 0 takes the likeliest.
        top_k: draw among the k likeliest only. top_p: among the fewest that together have this probability.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"top_k is {self.top_k}", accepted="1 or more, or None")
        if not 0.0 < self.top_p <= 1.0:
            raise BadInput(f"top_p is {self.top_p}", accepted="above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Family):
    """Settings of an autoregressive transformer.

    Args:
        width, heads, depth: size of a slot, attention heads, blocks; None: 64 up to 128 symbols, 128 beyond.
        rotary: tell slots apart also by rotating queries and keys, so that distances are seen directly.
        dropout: share of channels that each block's additions lose in training, chosen once a row.
        max_length: longest sequence that is taken; time and memory grow with its square.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "autoregressive"
    title: ClassVar[str] = "autoregressive transformer"
    engine: ClassVar[type[nn.Module]]

    width: int | None = None
    heads: int = 4
    depth: int = 3
    rotary: bool = True
    dropout: float = 0.1
    max_length: int = 1024
    forget: float = 0.1

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "heads": self.heads, "depth": self.depth, "max_length": self.max_length}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if (self.width or 64) % (2 * self.heads):
            raise BadInput(f"width is {self.width} for {self.heads} heads", accepted="a multiple of twice the heads")
        for name, share in {"dropout": self.dropout, "forget": self.forget}.items():
            if not 0.0 <= share < 1.0:
                raise BadInput(f"{name} is {share}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family predicts symbols, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if space.length > self.max_length:
            return Refusal(
                f"items have {space.length} symbols, and max_length is {self.max_length}; time grows with the square",
                instead="shorter items, or a higher max_length",
            )
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762"
        return (
            Part("chain rule", "An item is a row of symbols. Its probability is the probability of the first, times "
                 "that of the second given the first, and so on. Nothing is approximated.",
                 "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})"),
            Part("embedding", "Each symbol and each position becomes a list of learned numbers.",
                 "slot_t = symbol(x_{t-1}) + position(t) + condition", source + ", section 3.4"),
            Part("attention", "At each place the network looks back at earlier places and takes up what seems useful "
                 "there; it cannot look ahead.", "softmax(q k' / sqrt(d)) v", source + ", eq. 1"),
            Part("next-symbol probabilities", "The last layer gives every possible next symbol a probability; training "
                 "raises that of the symbol which really came next.", "softmax(W h_t)", source),
            Part("sampling", "Draw the first symbol, then the second given the first, and so on. What was computed for "
                 "earlier places is kept, so each step only adds one place.", "x_t ~ p(. | x_1, ..., x_{t-1})"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        batch = max(8, min(256, 2048 // space.size))
        few = items * space.size < FEW
        rate = 5e-3 if self._width(space) <= 64 else 3e-3
        return Training(batch=batch, rate=rate, betas=(0.9, 0.98), weight_decay=0.3 if few else 0.01, steps=2000)

    def _width(self, space: Space) -> int:
        return self.width or (64 if space.size <= 128 else 128)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> AutoregressiveEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = AutoregressiveEngine(self, space, conditions)
        inherit(engine, base)
        return engine


@dataclass(frozen=True)
class AutoregressiveCache:
    """What was computed for the symbols so far.

    Args:
        slots: keys and values. vector: (B, width) of the condition. ended: (B,) bool, rows whose symbol 0 has come.
    """

    slots: Cache
    vector: Tensor
    ended: Tensor


class AutoregressiveEngine(nn.Module, Learns, Samples, Scores, Spells, Predicts, Attends):
    """One embedding table for all symbols of all positions, read by slices at both ends.

    With one alphabet a position the tables hold the sum of the alphabets' sizes; the loss visits position by position,
    so a column of 10,000 symbols costs nothing in the others.
    """

    def __init__(self, family: Autoregressive, space: Tokens, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space, width = family, space, family._width(space)
        self.one_alphabet = isinstance(space.vocab, int)
        sizes = torch.tensor(space.sizes)
        start = torch.zeros_like(sizes) if self.one_alphabet else torch.cat((sizes.new_zeros(1), sizes.cumsum(0)[:-1]))
        self.register_buffer("start", start, persistent=False)  # (T,) first row of each position's alphabet
        total = space.symbols if self.one_alphabet else int(sizes.sum())
        self.symbol = nn.Embedding(total, width)
        self.position = nn.Parameter(torch.randn(space.length, width) * 0.1)
        self.first = nn.Parameter(torch.randn(width) * 0.1)
        self.condition = ConditionEncoder(conditions, width)
        self.body = Transformer(width, family.heads, family.depth, rotary=family.rotary)
        self.head = nn.Linear(width, total)
        nn.init.normal_(self.symbol.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("next symbol", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / length in nats (B,)."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep = None
        if self.training and self.family.dropout > 0.0:
            share, event = self.family.dropout, (2 * self.family.depth, self.body.width)
            keep = (rows.fork("dropout").uniform(*event) >= share) / (1.0 - share)
        return -self._log_prob(batch.x, condition, keep).sum(-1) / self.space.length

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self._log_prob(batch.x, batch.condition).sum(-1), "exact")

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        return self._log_prob(batch.x, batch.condition)

    def settings(self) -> SymbolHow:
        return SymbolHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T). The uniform numbers behind all symbols of a row are drawn at once."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        device = self.position.device
        u = rows.fork("symbols").uniform(self.space.length, dtype=torch.float64).to(device)
        cache = self.begin(condition, len(rows))
        tokens = torch.zeros(len(rows), self.space.length, dtype=torch.int64, device=device)
        for t in range(self.space.length):
            logits, cache = self.step(cache, tokens[:, max(0, t - 1) : t])
            tokens[:, t] = draw_symbols(logits, u[:, t], how)
            if trace.wants("logits"):
                trace.keep("logits", t, logits)
            if trace.wants("token"):
                trace.keep("token", t, tokens[:, t])
            if self.space.ends and bool((tokens[:, t] == 0).all()):
                break  # every row has ended, and the rest is padding
        return tokens

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        h = self._features(tokens, condition)
        ended = self._ended_before(tokens)
        if at is not None:
            return self._padded_logits(h[:, at] if at < self.space.length else None, at, ended[:, at])
        rows = [
            self._padded_logits(h[:, t] if t < self.space.length else None, t, ended[:, t])
            for t in range(tokens.shape[1] + 1)
        ]
        return torch.stack(rows, dim=1)

    def begin(self, condition: Condition, batch: int) -> AutoregressiveCache:
        like = self.position.new_zeros(batch, 1)
        slots = self.body.begin(batch, self.space.length, like)
        return AutoregressiveCache(slots, self.condition(condition, like), like[:, 0] > 0)

    @torch.no_grad()
    def step(self, cache: AutoregressiveCache, tokens: Tensor) -> tuple[Tensor, AutoregressiveCache]:
        """tokens (B, k) to the logits (B, V) of the next symbol; the cache is for asking, so no gradient is kept."""
        done = cache.slots.length  # slots filled: the start and all symbols but the last
        seen = max(0, done - 1) + tokens.shape[1]
        if self.space.ends:
            cache = replace(cache, ended=cache.ended | (tokens == 0).any(dim=1))
        new = torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)[:, 0 if done == 0 else 1 :]
        new = new[:, : self.space.length - done]  # the last symbol of all has no slot: nothing follows it
        h = None
        if new.shape[1]:
            features, slots = self.body.step(self._embed(new, done, cache.vector), cache.slots)
            cache, h = replace(cache, slots=slots), features[:, -1]
        return self._padded_logits(h if seen < self.space.length else None, seen, cache.ended), cache

    def sites(self) -> tuple[Site, ...]:
        what = "symbols, the start first"
        return tuple(Site(f"block {i + 1}", "next symbols", what, self.family.heads) for i in range(self.family.depth))

    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        """x (B, T) to (B, heads, T, T): row t is where the guess of symbol t looked, column 0 the start."""
        names = [known.name for known in self.sites()]
        if site.name not in names:
            raise BadInput(f"site is '{site.name}'", accepted=", ".join(names))
        tokens = torch.cat((x[:, :1], x[:, :-1]), dim=1)
        slots = self._embed(tokens, 0, self.condition(condition, self.position.new_zeros(1).expand(len(x), 1)))
        return self.body.attention(names.index(site.name), slots)

    def _log_prob(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """(B, T) in float32 at least; of symbols after the end nothing counts."""
        h = self._features(x[:, :-1], condition, keep)  # (B, T, width)
        if self.one_alphabet:
            each = _wide(self.head(h)).log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)  # (B, T)
        else:
            each = torch.stack([self._column_log_prob(h[:, t], x[:, t], t) for t in range(x.shape[1])], dim=1)
        if self.space.ends:
            each = torch.where(self._ended_before(x)[:, :-1], 0.0, each)
        return each

    def _column_log_prob(self, h: Tensor, x: Tensor, t: int) -> Tensor:
        """h (B, width) and x (B,) of position t: (B,)."""
        return self._column_logits(h, t).log_softmax(-1).gather(-1, x[:, None]).squeeze(-1)

    def _column_logits(self, h: Tensor, t: int) -> Tensor:
        """h (B, width) to logits over the alphabet of position t."""
        low, size = int(self._starts[t]), self.space.sizes[t]
        return _wide(nn.functional.linear(h, self.head.weight[low : low + size], self.head.bias[low : low + size]))

    def _padded_logits(self, h: Tensor | None, t: int, ended: Tensor) -> Tensor:
        """h (B, width) to (B, V); None for the position after the last. Ended rows continue with 0 for certain."""
        logits = _wide(self.position).new_full((len(ended), self.space.symbols), -math.inf)
        if h is not None:
            own = self._column_logits(h, t)
            logits = torch.cat((own, logits[:, own.shape[1] :].to(own.dtype)), dim=1)
            if self.space.ends:
                certain = torch.where(torch.arange(logits.shape[1], device=h.device) == 0, 0.0, -math.inf)
                logits = torch.where(ended[:, None], certain.to(logits.dtype), logits)
        return logits

    def _features(self, tokens: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """tokens (B, T) to features (B, min(T + 1, length), width); feature t answers for symbol t."""
        before = torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)[:, : self.space.length]
        like = self.position.new_zeros(1).expand(len(tokens), 1)
        return self.body(self._embed(before, 0, self.condition(condition, like)), keep)

    def _embed(self, before: Tensor, slot: int, vector: Tensor) -> Tensor:
        """Slots from `slot` on: before (B, k) is each slot's preceding symbol, vector (B, width)."""
        slots = torch.arange(slot, slot + before.shape[1], device=before.device)
        embedded = self.symbol(before + self.get_buffer("start")[(slots - 1).clamp_min(0)])
        embedded = torch.where((slots == 0)[:, None], self.first, embedded)
        return embedded + self.position[slots] + vector[:, None]

    def _ended_before(self, tokens: Tensor) -> Tensor:
        """(B, T + 1) bool: has symbol 0 come before position t?"""
        if not self.space.ends:
            return torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.bool, device=tokens.device)
        ended = (tokens == 0).cumsum(1) > 0
        return torch.cat((ended.new_zeros(len(tokens), 1), ended), dim=1)

    @property
    def _starts(self) -> tuple[int, ...]:
        if self.one_alphabet:
            return (0,) * self.space.length
        out, total = [], 0
        for size in self.space.sizes:
            out.append(total)
            total += size
        return tuple(out)


def draw_symbols(logits: Tensor, u: Tensor, how: SymbolHow) -> Tensor:
    """One symbol a row, by inverting the cumulative distribution.

    Args:
        logits: (B, V), -inf where impossible. u: (B,) uniform in (0, 1), float64.

    >>> logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(2, 3)
    >>> draw_symbols(logits, torch.tensor([0.2, 0.7], dtype=torch.float64), SymbolHow())
    tensor([0, 2])
    """
    if how.temperature == 0.0:
        return logits.argmax(-1)
    logits = logits.to(torch.float64) / how.temperature
    if how.top_k is not None and how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if how.top_p < 1.0:
        mass, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        enough = (mass.cumsum(-1) - mass) >= how.top_p  # those before already suffice
        logits = logits.masked_fill(torch.zeros_like(enough).scatter(-1, order, enough), -math.inf)
    upto = logits.softmax(-1).cumsum(-1)
    return (upto <= u[:, None] * upto[:, -1:]).sum(-1)


Autoregressive.engine = AutoregressiveEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
