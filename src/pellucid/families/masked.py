"""Masked diffusion: symbols are hidden one after another, and a network learns to guess them back.

A training item loses a random part of its symbols, and the network guesses each of them from those that are left.
Sampling starts with everything hidden and fills in step by step. With the probability t of being hidden as the time,

    log p(x) >= -E_t [1/t sum over hidden i of -log p(x_i | the symbols not hidden)],   t uniform in (0, 1)

Sahoo et al. 2024, https://arxiv.org/abs/2406.07524, eq. 10; Shi et al. 2024, https://arxiv.org/abs/2406.04329, eq. 5.
A departure that changes no expectation: of T positions, m are hidden with weight 1/t on average 1/m of the time, for
every m alike, so m is drawn evenly from 1 to T with weight T/m and t is never drawn. What is left is less noisy, and
is Hoogeboom et al. 2022, https://arxiv.org/abs/2110.02037, eq. 3: a model of all orders of filling at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Family,
    How,
    Learns,
    LogProb,
    Part,
    Refusal,
    Samples,
    Scores,
    Training,
    Turn,
    Unmasks,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.bidirectional import Bidirectional
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import ResidualBlock
from pellucid.nets.symbol_table import SymbolTable
from pellucid.solvers.unmasking import Order, unmask

__all__ = ["Masked", "MaskedEngine", "MaskedHow"]

Net = Literal["auto", "transformer", "mlp"]

STEPS = 64  # of sampling, unless there are fewer positions
PASSES = 32  # of the network for one bound: up to so many positions each number of hidden ones is visited


@dataclass(frozen=True)
class MaskedHow(How):
    """How to fill in.

    Args:
        steps: as many as positions, or more, fill one position at a time, which is the model's own distribution;
            fewer fill several at once, faster and less true to how they depend on each other.
        temperature: 1 is the model itself; below 1 likelier symbols become likelier still, 0 takes the likeliest.
        guidance: 1 is the plain conditional model, above 1 goes further towards what was asked for.
        order: positions in an order drawn for each sample ("random"), or from first to last ("forward").
    """

    steps: int = STEPS
    temperature: float = 1.0
    guidance: float = 1.0
    order: Order = "random"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadInput(f"steps is {self.steps}", accepted="a whole number of at least 1")
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")
        if not math.isfinite(self.guidance):
            raise BadInput(f"guidance is {self.guidance}", accepted="a finite number")
        if self.order not in ("random", "forward"):
            raise BadInput(f"order is '{self.order}'", accepted="random, forward")


@dataclass(frozen=True, kw_only=True)
class Masked(Family):
    """Settings of a masked diffusion model.

    Args:
        net: "mlp" sees all positions as one vector, "transformer" lets positions look at each other; "auto" takes
            the first for columns of a table (an alphabet for each position) and the second for sequences. On the 15
            columns of Adult, after 40 CPU-seconds of one thread, the MLP was at 19.31 nats a held-out row, the
            transformer of width 64, after 45, at 19.89: it had made a fifth of the steps.
        width, depth: of the network; None chooses by the net.
        dropout: share of activations dropped in training; None is .35 for the MLP and .1 for the transformer.
        max_length: longest sequence that is taken; time and memory grow with its square.
        forget: share of rows whose conditions are dropped in training, so that guidance is possible.
    """

    name: ClassVar[str] = "masked"
    title: ClassVar[str] = "masked diffusion"
    engine: ClassVar[type[nn.Module]]

    net: Net = "auto"
    width: int | None = None
    depth: int | None = None
    dropout: float | None = None
    max_length: int = 1024
    forget: float = 0.1

    def __post_init__(self) -> None:
        if self.net not in ("auto", "transformer", "mlp"):
            raise BadInput(f"net is '{self.net}'", accepted="auto, transformer, mlp")
        sizes = {"width": self.width, "depth": self.depth, "max_length": self.max_length}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        for name, share in {"dropout": self.dropout, "forget": self.forget}.items():
            if share is not None and not 0.0 <= share < 1.0:
                raise BadInput(f"{name} is {share}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family hides and guesses symbols, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if space.length > self.max_length:
            return Refusal(
                f"items have {space.length} symbols, and max_length is {self.max_length}; time grows with the square",
                instead="shorter items, or a higher max_length",
            )
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Sahoo et al. 2024, https://arxiv.org/abs/2406.07524"
        return (
            Part("hiding", "A random number of an item's symbols, at random positions, is replaced by a mark that says "
                 "nothing but where it stands.", "m ~ uniform(1, ..., T); m of T positions hidden", source),
            Part("network", "From the symbols that are left, on all sides, the network gives each hidden position a "
                 "probability for every symbol. What is known is copied, never guessed.",
                 "p(x_i | x_known)", source + ", section 3.2.3"),
            Part("loss", "Training raises the probability of the symbols that were hidden. Averaged over what is "
                 "hidden it bounds how probable the whole item is.",
                 "(T / m) sum over hidden i of -log p(x_i | x_known)", source + ", eq. 10"),
            Part("unmasking", "Sampling begins with everything hidden. In each step some positions, in random order, "
                 "get a symbol drawn from what the network says, until none is hidden.",
                 "x_i ~ p(. | x_known)", "Shi et al. 2024, https://arxiv.org/abs/2406.04329, eq. 3"),
            Part("guidance", "With a condition the network is asked with and without it, and the difference is "
                 "stretched.", "log p(. | nothing) + w (log p(. | condition) - log p(. | nothing))",
                 "Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, eq. 6"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Tokens) and self._net(space) == "mlp":
            return Training(batch=256, rate=3e-3, betas=(0.9, 0.98), weight_decay=0.03, steps=3000)
        batch = max(8, min(128, 4096 // space.size))
        return Training(batch=batch, rate=2e-3, betas=(0.9, 0.98), weight_decay=0.01, steps=3000)

    def _net(self, space: Tokens) -> Literal["transformer", "mlp"]:
        if self.net != "auto":
            return self.net
        return "transformer" if isinstance(space.vocab, int) else "mlp"

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> MaskedEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = MaskedEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class MaskedEngine(nn.Module, Learns, Samples, Scores, Unmasks):
    """Embeds what is known and a mark for what is not, and reads a distribution for each position.

    A transformer over one alphabet has one table for all positions; else every position has symbols of its own, so
    that a column of 10,000 symbols costs nothing in the others.
    """

    def __init__(self, family: Masked, space: Tokens, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.net = family._net(space)
        self.shared = self.net == "transformer" and isinstance(space.vocab, int)
        sizes = (space.symbols,) if self.shared else space.sizes
        starts = [0] * space.length if self.shared else [0, *itertools.accumulate(space.sizes)][:-1]
        self.register_buffer("start", torch.tensor(starts), persistent=False)  # (T,) where each alphabet begins
        self.total = sum(sizes)
        if self.net == "mlp":
            width, depth = family.width or 256, family.depth or 3
            dropout = 0.35 if family.dropout is None else family.dropout
            self.blocks = nn.ModuleList(ResidualBlock(width, 0, dropout=dropout) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
        else:
            width, depth = family.width or (64 if space.length <= 128 else 128), family.depth or 3
            self.position = nn.Parameter(torch.randn(space.length, width) * 0.1)
            dropout = 0.1 if family.dropout is None else family.dropout
            self.body = Bidirectional(width, depth, dropout=dropout)
        self.symbol = SymbolTable(sizes, width)
        self.hidden = nn.Parameter(torch.randn(space.length, width) * 0.5)  # the mark of each position
        self.condition = ConditionEncoder(conditions, width)
        self.head = SymbolTable(sizes, width, spread=0.0)
        self.bias = nn.Parameter(torch.zeros(self.total))
        if space.ends:
            self.register_buffer("possible", _possible(space), persistent=False)  # (T, V) bool

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("unmask", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """The bound on -log p(x | c) / length in nats (B,), from one number of hidden positions a row."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        length = self.space.length
        place = rows.fork("order").uniform(length).argsort(dim=1).argsort(dim=1)
        m = (rows.fork("hidden").uniform() * length).long().clamp(max=length - 1) + 1
        return self._bound(batch.x, place >= m[:, None], condition)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        """The bound, from up to 32 passes: numbers m of hidden positions evenly spread, in one random order a row."""
        length = self.space.length
        place = rows.fork("order").uniform(length).argsort(dim=1).argsort(dim=1)
        passes = min(PASSES, length)
        u = rows.fork("hidden").uniform(passes, dtype=torch.float64)
        value = torch.zeros(len(batch.x), dtype=torch.float64, device=batch.x.device)
        for k in range(passes):
            m = ((k + u[:, k]) * length / passes).long().clamp(max=length - 1) + 1
            value = value - self._bound(batch.x, place >= m[:, None], batch.condition).double() * length / passes
        return LogProb(value, "lower_bound")

    def settings(self) -> MaskedHow:
        return MaskedHow(steps=min(STEPS, self.space.length))

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)."""
        if not isinstance(how, MaskedHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="MaskedHow", next="Start from engine.settings()")
        tokens = torch.zeros(len(rows), self.space.length, dtype=torch.int64, device=self.bias.device)
        return unmask(
            self,
            tokens,
            torch.zeros_like(tokens, dtype=torch.bool),
            condition,
            rows,
            steps=how.steps,
            temperature=how.temperature,
            guidance=how.guidance,
            order=how.order,
            ends=self.space.ends,
            trace=trace,
        )

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """(B, T, V), or (B, V) with `at`: at known positions the known symbol is certain."""
        logits = self._logits(tokens, known, condition)
        symbols = torch.arange(logits.shape[-1], device=logits.device)
        certain = torch.where(symbols == tokens[..., None], 0.0, -math.inf).to(logits.dtype)
        logits = torch.where(known[..., None], certain, logits)
        return logits if at is None else logits[:, at]

    def _bound(self, x: Tensor, known: Tensor, condition: Condition) -> Tensor:
        """(B,): mean over the hidden positions of -log p(x_i | x_known), in float32 at least."""
        if self.shared or self.space.ends:
            each = self._logits(x, known, condition).log_softmax(-1).gather(-1, x[..., None]).squeeze(-1)
        else:
            columns = self._columns(self._features(x, known, condition))
            logs = [_wide(c).log_softmax(-1).gather(-1, x[:, t, None]) for t, c in enumerate(columns)]
            each = torch.cat(logs, dim=1)
        hidden = ~known
        return -torch.where(hidden, each, 0.0).sum(1) / hidden.sum(1).clamp(min=1)

    def _features(self, tokens: Tensor, known: Tensor, condition: Condition) -> Tensor:
        """(B, width) of the MLP or (B, T, width) of the transformer; what stands at unknown positions is not read."""
        marks = self.total + torch.arange(self.space.length, device=tokens.device)
        index = torch.where(known, tokens + self.get_buffer("start"), marks)
        embedded = nn.functional.embedding(index, torch.cat((self.symbol(), self.hidden)))  # (B, T, width)
        vector = self.condition(condition, self.bias.new_zeros(1).expand(len(tokens), 1))
        if self.net == "transformer":
            out: Tensor = self.body(embedded + self.position + vector[:, None])
            return out
        h = embedded.sum(1) * self.space.length**-0.5 + vector
        for block in self.blocks:
            h = block(h)
        normed: Tensor = self.norm(h)
        return normed

    def _columns(self, h: Tensor) -> list[Tensor]:
        """Logits (B, size) over each position's own alphabet."""
        weight = self.head()
        if h.ndim == 2:
            return list(nn.functional.linear(h, weight, self.bias).split(self.space.sizes, dim=-1))
        parts = zip(weight.split(self.space.sizes), self.bias.split(self.space.sizes), strict=True)
        return [nn.functional.linear(h[:, t], w, b) for t, (w, b) in enumerate(parts)]

    def _logits(self, tokens: Tensor, known: Tensor, condition: Condition) -> Tensor:
        """(B, T, V) in float32 at least; -inf for symbols that a position does not have or that cannot be there."""
        h = self._features(tokens, known, condition)
        if self.shared:
            logits = _wide(nn.functional.linear(h, self.head(), self.bias))
        else:
            most = self.space.symbols
            padded = [nn.functional.pad(_wide(c), (0, most - c.shape[-1]), value=-math.inf) for c in self._columns(h)]
            logits = torch.stack(padded, dim=1)
        if not self.space.ends:
            return logits
        # what is known to be behind an end is padding; what is known to be before a symbol is no end
        zero, other = known & (tokens == 0), known & (tokens != 0)
        after = zero.long().cumsum(1) > 0
        before = other.long().flip(1).cumsum(1).flip(1) > 0
        end = torch.arange(logits.shape[-1], device=logits.device) == 0
        fits = self.get_buffer("possible") & ~(after[..., None] & ~end) & ~(before[..., None] & end)
        return logits.masked_fill(~fits, -math.inf)


def _possible(space: Tokens) -> Tensor:
    """(T, V) bool: symbols that each position of a sequence that ends can hold.

    Behind a position whose only symbol is the end stands the end too.

    >>> _possible(Tokens((2, 1, 2), 3, ends=True)).int().tolist()
    [[1, 1], [1, 0], [1, 0]]
    """
    fits = torch.arange(space.symbols) < torch.tensor(space.sizes)[:, None]
    closed = (torch.tensor(space.sizes) == 1).long().cumsum(0) > 0
    return fits & ~(closed[:, None] & (torch.arange(space.symbols) > 0))


Masked.engine = MaskedEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
