"""Autoregressive transformer: guess the next symbol from those before it, one after another.

    log p(x | c) = sum_t log p(x_t | x_1, ..., x_{t-1}, c)

exactly, by the chain rule. A causal transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) gives all
terms in one pass. Slot t holds the embedding of symbol t - 1 (a start vector in slot 0), of position t and of the
condition, and answers for symbol t. Text, pixels in reading order and the columns of a table are all such rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Attends,
    Blends,
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
    Surveys,
    Training,
    Turn,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.families.ngram import MOST_ORDER
from pellucid.families.ngram_prior import NGramPrior
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.inherit import inherit
from pellucid.nets.transformer import Cache, Transformer

__all__ = ["Autoregressive", "AutoregressiveCache", "AutoregressiveEngine", "SymbolHow", "draw_symbols"]


FEW = 1_000_000  # symbols that a net of the default size would learn by heart


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Family):
    """Settings of an autoregressive transformer.

    Args:
        width, heads, depth: size of a slot, attention heads, blocks; None: 64 up to 128 symbols, 128 beyond.
        rotary: tell slots apart also by rotating queries and keys, so that distances are seen directly.
        dropout: share of channels that each block's additions lose in training, chosen once a row.
        max_length: longest sequence that is taken; time and memory grow with its square.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
        shift: mix what a slot reads with the slot before it, channel by channel. None: for texts.
        tied: read and write symbols by one table; it has fewer weights and learns slower at first.
        prior: order of an n-gram whose log-probabilities the network corrects; see ngram_prior.py. None: no n-gram.
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
    shift: bool | None = None
    tied: bool = False
    prior: int | None = None

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
        if self.prior is not None and not 1 <= self.prior <= MOST_ORDER:
            raise BadInput(f"prior is {self.prior}", accepted=f"1 to {MOST_ORDER}, or None")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family predicts symbols, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if space.length > self.max_length:
            return Refusal(
                f"items have {space.length} symbols, and max_length is {self.max_length}; time grows with the square",
                instead="shorter items, or a higher max_length",
            )
        if self.prior is not None and isinstance(space.vocab, tuple):
            return Refusal("an n-gram inside needs one alphabet, and each position has its own", instead="prior=None")
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762"
        ngram = (
            Part("n-gram inside", f"Counts of runs of {self.prior} symbols say first what comes next, and the network "
                 "corrects them. In training each row is answered by counts without it and its neighbours.",
                 "logits = network + trust * log p_ngram", "Chen & Goodman 1999; Breiman 1996"),
        ) if self.prior is not None else ()  # fmt: skip
        return (
            Part("chain rule", "An item is a row of symbols. Its probability is the probability of the first, times "
                 "that of the second given the first, and so on. Nothing is approximated.",
                 "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})"),
            Part("embedding", "Each symbol and each position becomes a list of learned numbers.",
                 "slot_t = symbol(x_{t-1}) + position(t) + condition", source + ", section 3.4"),
            Part("attention", "At each place the network looks back at earlier places and takes up what seems useful "
                 "there; it cannot look ahead.", "softmax(q k' / sqrt(d)) v", source + ", eq. 1"),
            *ngram,
            Part("next-symbol probabilities", "The last layer gives every possible next symbol a probability; training "
                 "raises that of the symbol which really came next.", "softmax(W h_t)", source),
            Part("sampling", "Draw the first symbol, then the second given the first, and so on. What was computed for "
                 "earlier places is kept, so each step only adds one place.", "x_t ~ p(. | x_1, ..., x_{t-1})"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if is_text(space):
            batch = max(8, min(256, 1536 // space.size))
            return Training(batch=batch, rate=4e-3, optimizer="muon", matrix_rate=0.02, betas=(0.9, 0.98), steps=2000)
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
        old, new = getattr(base, "prior", None), engine.prior
        if isinstance(old, NGramPrior) and new is not None and (old.order, old.space) == (new.order, new.space):
            new.restore(old.tables())
        return engine


@dataclass(frozen=True)
class AutoregressiveCache:
    """What was computed for the symbols so far.

    Args:
        slots: keys and values. vector: (B, width) of the condition. ended: (B,) bool, rows whose symbol 0 has come.
        recent: (B, t) the last symbols, as many as the n-gram inside reads.
    """

    slots: Cache
    vector: Tensor
    ended: Tensor
    recent: Tensor


class AutoregressiveEngine(nn.Module, Learns, Surveys, Samples, Scores, Spells, Blends, Predicts, Attends):
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
        shift = is_text(space) if family.shift is None else family.shift
        self.symbol = nn.Embedding(total, width)
        # windows of a running text begin anywhere, so a place in them means nothing
        self.position = None if space.running else nn.Parameter(torch.randn(space.length, width) * 0.1)
        self.first = nn.Parameter(torch.randn(width) * 0.1)
        self.condition = ConditionEncoder(conditions, width)
        self.body = Transformer(width, family.heads, family.depth, rotary=family.rotary, shift=shift)
        self.head = nn.Linear(width, total)
        nn.init.normal_(self.symbol.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.loud: nn.Parameter | None = None
        if family.tied:
            self.head.weight = self.symbol.weight
            self.loud = nn.Parameter(torch.full((), width**-0.5))
        self.prior = None if family.prior is None else NGramPrior(family.prior, space)
        self.trust = None if family.prior is None else nn.Linear(width, 1)
        if self.trust is not None:
            nn.init.zeros_(self.trust.weight)
            nn.init.ones_(self.trust.bias)

    def turns(self) -> tuple[Turn, ...]:
        tables = [p for m in (self.symbol, self.head) for p in m.parameters()] if is_text(self.space) else []
        return (Turn("next symbol", list(self.parameters()), self.losses, tables=tables),)

    def survey(self, rows: Callable[[Tensor], Batch], items: int) -> None:
        if self.prior is not None:
            self.prior.survey(rows, items)

    def surveyed(self) -> dict[str, Tensor]:
        return {} if self.prior is None else self.prior.tables()

    def restore_surveyed(self, tables: Mapping[str, Tensor]) -> None:
        if self.prior is not None:
            self.prior.restore(tables)
        elif tables:
            raise BadInput(f"tables are {sorted(tables)}", accepted="none: there is no n-gram inside")

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / length in nats (B,)."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep = None
        if self.training and self.family.dropout > 0.0:
            share, event = self.family.dropout, (2 * self.family.depth, self.body.width)
            keep = (rows.fork("dropout").uniform(*event) >= share) / (1.0 - share)
        ids = batch.ids if self.training else None
        return -self._log_prob(batch.x, condition, keep, ids).sum(-1) / self.space.length

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

    def blend(self, batch: Batch, rows: Rows) -> dict[str, Tensor]:
        x = batch.x
        if self.prior is None:
            return {"network": self.spell(batch, rows) + self._even(x)}
        network, ngram = self._both(self._features(x[:, :-1], batch.condition), x, None)
        assert ngram is not None
        alone = [self._spelled(part, x) + self._even(x) for part in (network, ngram, network + ngram)]
        first, second, whole = alone
        # two players share what they reach together: each the mean of what it adds first and what it adds last
        return {"network": (first + whole - second) / 2, "n-gram": (second + whole - first) / 2}

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        h = self._features(tokens, condition)
        ended = self._ended_before(tokens)
        wanted = range(tokens.shape[1] + 1) if at is None else [at]
        ngram = None
        if self.prior is not None:
            padded = torch.cat((tokens, tokens.new_zeros(len(tokens), 1)), dim=1)[:, : self.space.length]
            ngram = self._trusted(h, self.prior.log_probs(padded))
        found = [
            self._padded_logits(h[:, t], t, ended[:, t], None if ngram is None else ngram[:, t])
            if t < self.space.length
            else self._padded_logits(None, t, ended[:, t])
            for t in wanted
        ]
        return torch.stack(found, dim=1) if at is None else found[0]

    def begin(self, condition: Condition, batch: int) -> AutoregressiveCache:
        like = self.first.new_zeros(batch, 1)
        slots = self.body.begin(batch, self.space.length, like)
        recent = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        return AutoregressiveCache(slots, self.condition(condition, like), like[:, 0] > 0, recent)

    @torch.no_grad()
    def step(self, cache: AutoregressiveCache, tokens: Tensor) -> tuple[Tensor, AutoregressiveCache]:
        """tokens (B, k) to the logits (B, V) of the next symbol; the cache is for asking, so no gradient is kept."""
        done = cache.slots.length  # slots filled: the start and all symbols but the last
        seen = max(0, done - 1) + tokens.shape[1]
        ended, recent, slots = cache.ended, cache.recent, cache.slots
        if self.space.ends:
            ended = ended | (tokens == 0).any(dim=1)
        if self.prior is not None:
            recent = torch.cat((recent, tokens), dim=1)[:, -self.prior.order - 1 :]
        new = tokens if done else torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)
        new = new[:, : self.space.length - done]  # the last symbol of all has no slot: nothing follows it
        h, ngram = None, None
        if new.shape[1]:
            features, slots = self.body.step(self._embed(new, done, cache.vector), slots)
            if seen < self.space.length:
                h = features[:, -1]
                if self.prior is not None:
                    ngram = self._trusted(h, self.prior.following(recent))
        cache = AutoregressiveCache(slots, cache.vector, ended, recent)
        return self._padded_logits(h, seen, ended, ngram), cache

    def sites(self) -> tuple[Site, ...]:
        what = "symbols, the start first"
        return tuple(Site(f"block {i + 1}", "next symbols", what, self.family.heads) for i in range(self.family.depth))

    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        """x (B, T) to (B, heads, T, T): row t is where the guess of symbol t looked, column 0 the start."""
        names = [known.name for known in self.sites()]
        if site.name not in names:
            raise BadInput(f"site is '{site.name}'", accepted=", ".join(names))
        tokens = torch.cat((x[:, :1], x[:, :-1]), dim=1)
        slots = self._embed(tokens, 0, self.condition(condition, self.first.new_zeros(1).expand(len(x), 1)))
        return self.body.attention(names.index(site.name), slots)

    def _log_prob(
        self, x: Tensor, condition: Condition, keep: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """(B, T) in float32 at least; of symbols after the end nothing counts."""
        h = self._features(x[:, :-1], condition, keep)  # (B, T, width)
        if self.one_alphabet:
            network, ngram = self._both(h, x, ids)
            return self._spelled(network if ngram is None else network + ngram, x)
        each = torch.stack([self._column_log_prob(h[:, t], x[:, t], t) for t in range(x.shape[1])], dim=1)
        return torch.where(self._ended_before(x)[:, :-1], 0.0, each) if self.space.ends else each

    def _both(self, h: Tensor, x: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the network, and what is added by the n-gram inside."""
        network = _wide(self._written(h, self.head.weight, self.head.bias))
        return network, None if self.prior is None else self._trusted(h, self.prior.log_probs(x, ids))

    def _trusted(self, h: Tensor, log_probs: Tensor) -> Tensor:
        """The n-gram's log p (..., V), as far as the network trusts it at features h (..., width)."""
        assert self.trust is not None
        return _wide(self.trust(h)) * log_probs

    def _spelled(self, logits: Tensor, x: Tensor) -> Tensor:
        """(B, T) log p of symbols x (B, T) by logits (B, T, V); 0 after an end."""
        each = logits.log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
        return torch.where(self._ended_before(x)[:, :-1], 0.0, each) if self.space.ends else each

    def _even(self, x: Tensor) -> Tensor:
        """(B, T) logarithms of the alphabets' sizes, what an even chance costs; 0 after an end."""
        even = torch.tensor(self.space.sizes, device=x.device).log().expand(x.shape)
        return torch.where(self._ended_before(x)[:, :-1], 0.0, even) if self.space.ends else even

    def _written(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.linear(h if self.loud is None else h * self.loud, weight, bias)

    def _column_log_prob(self, h: Tensor, x: Tensor, t: int) -> Tensor:
        """h (B, width) and x (B,) of position t: (B,)."""
        return self._column_logits(h, t).log_softmax(-1).gather(-1, x[:, None]).squeeze(-1)

    def _column_logits(self, h: Tensor, t: int) -> Tensor:
        """h (B, width) to logits over the alphabet of position t."""
        if self.one_alphabet:
            return _wide(self._written(h, self.head.weight, self.head.bias))
        low, size = int(self._starts[t]), self.space.sizes[t]
        return _wide(self._written(h, self.head.weight[low : low + size], self.head.bias[low : low + size]))

    def _padded_logits(self, h: Tensor | None, t: int, ended: Tensor, ngram: Tensor | None = None) -> Tensor:
        """h (B, width) to (B, V); None for the position after the last. Ended rows continue with 0 for certain."""
        if h is None:
            return _wide(self.first).new_full((len(ended), self.space.symbols), -math.inf)
        logits = self._column_logits(h, t)
        if ngram is not None:
            logits = logits + ngram
        if logits.shape[1] < self.space.symbols:
            more = logits.new_full((len(logits), self.space.symbols - logits.shape[1]), -math.inf)
            logits = torch.cat((logits, more), dim=1)
        if self.space.ends:
            certain = torch.where(torch.arange(logits.shape[1], device=h.device) == 0, 0.0, -math.inf)
            logits = torch.where(ended[:, None], certain.to(logits.dtype), logits)
        return logits

    def _features(self, tokens: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """tokens (B, T) to features (B, min(T + 1, length), width); feature t answers for symbol t."""
        before = torch.cat((tokens.new_zeros(len(tokens), 1), tokens), dim=1)[:, : self.space.length]
        like = self.first.new_zeros(1).expand(len(tokens), 1)
        return self.body(self._embed(before, 0, self.condition(condition, like)), keep)

    def _embed(self, before: Tensor, slot: int, vector: Tensor) -> Tensor:
        """Slots from `slot` on: before (B, k) is each slot's preceding symbol, vector (B, width)."""
        if self.one_alphabet:
            embedded = self.symbol(before)
        else:
            slots = torch.arange(slot, slot + before.shape[1], device=before.device)
            embedded = self.symbol(before + self.get_buffer("start")[(slots - 1).clamp_min(0)])
        if slot == 0:
            start = self.first.expand(len(before), 1, -1).to(embedded.dtype)
            embedded = torch.cat((start, embedded[:, 1:]), dim=1)
        if self.position is not None:
            embedded = embedded + self.position[slot : slot + before.shape[1]]
        return embedded + vector[:, None] if self.condition.names else embedded

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


Autoregressive.engine = AutoregressiveEngine


def is_text(space: Space) -> bool:
    """A running text, or strings of one alphabet that end."""
    return isinstance(space, Tokens) and isinstance(space.vocab, int) and (space.running or space.ends)


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
