"""Columns in any order: one network that says what any column holds, given any others.

    log p(x) = sum_t log p(x_t | x_1, ..., x_{t-1})                       the columns in the table's order

exactly, by the chain rule, and the same for every other order: a causal transformer reads the columns in the order in
which they are visited, each slot is told which column comes next, and every pass trains all T conditionals of its
order (Uria et al. 2014, https://arxiv.org/abs/1310.1757, section 4, with a network of slots instead of masks).

What the network says of a column is a function of the *set* of columns that are known, which it reads in the table's
order. So p(x_t | x_K) is one number for each set K, and the distribution of the unknown columns U given the known K,

    p(x_U | x_K) = product over u_1 < u_2 < ... of p(x_{u_j} | x_K, x_{u_1}, ..., x_{u_{j-1}}),

is the exact conditional of the joint distribution p(x_K) p(x_U | x_K) that asks for K first. Joints of other orders
come from the same conditionals, but a network is only about consistent: they agree as far as it has learned to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Family,
    How,
    Learns,
    LogProb,
    Part,
    Predicts,
    Refusal,
    Samples,
    Scores,
    Spells,
    Training,
    Turn,
    Unmasks,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.columns import ColumnTransformer
from pellucid.nets.condition import drop_conditions
from pellucid.nets.inherit import inherit
from pellucid.nets.transformer import Cache
from pellucid.solvers.unmasking import Order, draw

__all__ = ["Columns", "ColumnsCache", "ColumnsEngine", "ColumnsHow"]

MOST_COLUMNS = 1024  # time and memory grow with the square


@dataclass(frozen=True)
class ColumnsHow(How):
    """How to draw.

    Args:
        temperature: 1 is the model itself; below 1 likelier symbols become likelier still, 0 takes the likeliest.
        order: columns from first to last ("forward"), which is the distribution that `log_prob` scores; or in an
            order drawn for each row ("random"), several times slower.
    """

    temperature: float = 1.0
    order: Order = "forward"

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")
        if self.order not in ("random", "forward"):
            raise BadInput(f"order is '{self.order}'", accepted="random, forward")


@dataclass(frozen=True, kw_only=True)
class Columns(Family):
    """Settings of an any-order column transformer.

    Args:
        width, heads, depth: size of a slot, attention heads, blocks.
        dropout: share of channels that each block's additions lose in training, chosen once a row.
        forward: share of rows that are trained in the table's order, in which rows are drawn and scored. The others
            begin with a random set of columns, and half of these go on in random order.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "columns"
    title: ClassVar[str] = "columns in any order"
    engine: ClassVar[type[nn.Module]]

    width: int = 64
    heads: int = 4
    depth: int = 3
    dropout: float = 0.1
    forward: float = 0.5
    forget: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "heads", "depth"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}", accepted="1 or more")
        if self.width % self.heads:
            raise BadInput(f"width is {self.width} for {self.heads} heads", accepted="a multiple of the heads")
        for name in ("dropout", "forget"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise BadInput(f"{name} is {getattr(self, name)}", accepted="from 0 to below 1")
        if not 0.0 <= self.forward <= 1.0:
            raise BadInput(f"forward is {self.forward}", accepted="from 0 to 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family draws symbols, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if space.ends or space.running:
            return Refusal("every position is a column that all rows have, and these are sequences that end or go on")
        if space.length > MOST_COLUMNS:
            return Refusal(f"items have {space.length} columns, and the most is {MOST_COLUMNS}",
                           instead="trees, or fewer columns")  # fmt: skip
        return None

    def parts(self) -> tuple[Part, ...]:
        orders = "Uria et al. 2014, https://arxiv.org/abs/1310.1757"
        told = "Yang et al. 2019, https://arxiv.org/abs/1906.08237"
        return (
            Part("chain rule", "A row's probability is that of one column, times that of a second given the first, and "
                 "so on, in whatever order the columns are taken. Nothing is approximated.",
                 "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})"),
            Part("any order", "In training each row comes in an order of its own, so that the network learns to guess "
                 "any column from any others.", "o = a random set of columns, then the rest", orders),
            Part("slots", "A slot holds the value and the name of one column and the name of the column that is asked "
                 "next; numbers that lie close together begin alike.",
                 "slot_k = value(x_{o_k}) + column(o_k) + asked(o_{k+1})", told + ", section 2.2"),
            Part("attention", "At each slot the network looks back at the columns it has been told and takes up what "
                 "seems useful there; it cannot look ahead.", "softmax(q k' / sqrt(d)) v",
                 "Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1"),
            Part("sampling", "Draw the first column, then the second given the first, and so on to the last. Columns "
                 "that are known from the start are told first, and the others drawn given them.",
                 "x_u ~ p(. | x_known)"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        """Without a budget about 20 passes over the rows, in batches of a sixteenth of few rows.

        With more passes few rows are learned by heart: of 178 wines and 569 tumours in batches of 32 the rows held out
        were likeliest after 8 and 19 passes; in batches of 256, sooner and less likely.
        """
        batch = max(16, min(256, 4096 // space.size, items // 16))
        return Training(
            batch=batch, rate=2e-3, optimizer="muon", matrix_rate=0.02, betas=(0.9, 0.98), weight_decay=0.01,
            warmup=0.05, ema=0.998, steps=max(100, min(4000, 20 * items // batch)),
        )  # fmt: skip

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> ColumnsEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = ColumnsEngine(self, space, conditions)
        inherit(engine, base)
        return engine


@dataclass(frozen=True)
class ColumnsCache:
    """What was computed for the first columns: their slots, how many columns they are, and the condition's vector."""

    slots: Cache
    columns: int
    vector: Tensor


class ColumnsEngine(nn.Module, Learns, Samples, Scores, Spells, Predicts, Unmasks):
    """One table of vectors for the symbols of all columns, read by slices, and one network for all orders.

    `log_prob`, `spell`, `next_logits` and `step` take the columns in the table's order; `fill_logits` any set of them.
    """

    def __init__(self, family: Columns, space: Tokens, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.net = ColumnTransformer(space, conditions, family.width, family.heads, family.depth)

    def turns(self) -> tuple[Turn, ...]:
        blocks = {id(p) for p in self.net.body.parameters()}
        tables = [p for p in self.parameters() if id(p) not in blocks]
        return (Turn("columns", list(self.parameters()), self.losses, tables=tables),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / columns in nats (B,), in one order of the columns for each row."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep = None
        if self.training and self.family.dropout > 0.0:
            share, event = self.family.dropout, (2 * self.family.depth, self.family.width)
            keep = (rows.fork("dropout").uniform(*event) >= share) / (1.0 - share)
        order = visits(rows.fork("order"), self.space.length, self.family.forward)
        return -self._spelled(batch.x, order, condition, keep).sum(1) / self.space.length

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.spell(batch, rows).sum(1), "exact")

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        return self._spelled(batch.x, self._forward(batch.x), batch.condition)

    def settings(self) -> ColumnsHow:
        return ColumnsHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T). The uniform number behind each column is the same in every order."""
        if not isinstance(how, ColumnsHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="ColumnsHow", next="Start from engine.settings()")
        device, length = self.net.bias.device, self.space.length
        rows = rows.to(device)
        u = rows.fork("symbols").uniform(length, dtype=torch.float64)
        tokens = torch.zeros(len(rows), length, dtype=torch.int64, device=device)
        order = self._forward(tokens)
        if how.order == "random":
            order = rows.fork("order").uniform(length, dtype=torch.float64).argsort(1)
        cache = self.begin(condition, len(rows))
        for k in range(length):
            at = order[:, k]
            if how.order == "forward":
                logits, cache = self.step(cache, tokens[:, max(0, k - 1) : k])
            else:
                told = order[:, :k].sort(1).values
                logits = self._each(self.net.given(tokens, told, at[:, None], condition)[:, 0], at)
            symbol = draw(logits, u.gather(1, at[:, None])[:, 0], how.temperature)
            tokens = tokens.scatter(1, at[:, None], symbol[:, None])
            if trace.wants("logits"):
                trace.keep("logits", k, logits)
            if trace.wants("token"):
                trace.keep("token", k, symbol)
        return tokens

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, k) to (B, k + 1, V), or (B, V) with `at`. Past the last column every symbol is -inf."""
        length = self.space.length
        many = min(tokens.shape[1] + 1, length)
        padded = nn.functional.pad(tokens, (0, max(0, length - tokens.shape[1])))
        h = self.net(padded, self._forward(tokens)[:, :many], condition)
        head = self.net.head()
        wanted = range(tokens.shape[1] + 1) if at is None else [at]
        found = [self._padded(h[:, t], t, head) if t < length else self._nothing(len(tokens)) for t in wanted]
        return torch.stack(found, dim=1) if at is None else found[0]

    def begin(self, condition: Condition, batch: int) -> ColumnsCache:
        like = self.net.first.new_zeros(batch, 1)
        return ColumnsCache(self.net.body.begin(batch, self.space.length, like), 0, self.net.vector(condition, like))

    @torch.no_grad()
    def step(self, cache: ColumnsCache, tokens: Tensor) -> tuple[Tensor, ColumnsCache]:
        """tokens (B, n) to the logits (B, V) of the next column; the cache is for asking, so no gradient is kept."""
        columns, slots = cache.columns + tokens.shape[1], cache.slots
        done = slots.length
        room = self.space.length - done - (done == 0)  # the last column of all has no slot: nothing follows it
        h = None
        if done < self.space.length and (tokens.shape[1] or done == 0):
            h, slots = self.net.step(tokens[:, :room], done, cache.vector, slots)
        cache = ColumnsCache(slots, columns, cache.vector)
        if h is None or columns >= self.space.length:
            return self._nothing(len(tokens)), cache
        return self._padded(h[:, -1], columns, self.net.head()), cache

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """(B, T, V), or (B, V) with `at`: at known columns the known symbol is certain."""
        length, many = self.space.length, known.sum(1)
        order = (~known).long().argsort(dim=1, stable=True)  # known ones first, each in table order
        places = range(length) if at is None else [at]
        h = self.net.first.new_zeros(len(tokens), len(places), self.net.width)
        for m in many.unique().tolist():  # rows that know equally many columns are asked together
            here = (many == m).nonzero()[:, 0]
            told, asked = order[here, :m], order[here, m:]
            if at is not None:
                asked = torch.full_like(order[here, :1], at)
            if asked.shape[1]:
                said = self.net.given(tokens[here], told, asked, condition.take(here))
                to = asked if at is None else torch.zeros_like(asked)
                h = h.index_put((here[:, None].expand_as(to), to), said.to(h.dtype))
        head = self.net.head()
        found = torch.stack([self._padded(h[:, j], t, head) for j, t in enumerate(places)], dim=1)
        symbols = torch.arange(found.shape[-1], device=found.device)
        certain = torch.where(symbols == tokens[:, places, None], 0.0, -math.inf).to(found.dtype)
        found = torch.where(known[:, places, None], certain, found)
        return found if at is None else found[:, 0]

    def _forward(self, like: Tensor) -> Tensor:
        """(B, T) the columns in table order, for the rows of `like` (B, ...)."""
        return torch.arange(self.space.length, device=like.device).expand(len(like), -1)

    def _spelled(self, x: Tensor, order: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """(B, T) log p of each column of x given those before it in order (B, T); in table order again."""
        h = self.net(x, order, condition, keep)  # (B, T, width), as visited
        place = order.argsort(1)
        h = h.gather(1, place[..., None].expand_as(h))
        head = self.net.head()
        each = [self.net.logits(h[:, t], t, head).log_softmax(-1).gather(-1, x[:, t, None]) for t in range(x.shape[1])]
        return torch.cat(each, dim=1)

    def _each(self, h: Tensor, at: Tensor) -> Tensor:
        """Features (B, width) of the columns at (B,) to logits (B, V)."""
        out, head = self._nothing(len(h)), self.net.head()
        for t in at.unique().tolist():
            here = (at == t).nonzero()[:, 0]
            out[here] = self._padded(h[here], t, head)
        return out

    def _padded(self, h: Tensor, t: int, head: Tensor) -> Tensor:
        """(B, V) logits of column t, -inf for symbols that it does not have."""
        logits = self.net.logits(h, t, head)
        return nn.functional.pad(logits, (0, self.space.symbols - logits.shape[1]), value=-math.inf)

    def _nothing(self, batch: int) -> Tensor:
        """(B, V) of -inf."""
        like = self.net.bias
        wide = torch.promote_types(like.dtype, torch.float32)
        return torch.full((batch, self.space.symbols), -math.inf, dtype=wide, device=like.device)


def visits(rows: Rows, length: int, forward: float) -> Tensor:
    """(B, length) columns in the order in which each row is read in training.

    A share `forward` of the rows goes in table order. The others begin with a random set, of any size from 0 to all
    but one alike often, in table order; the rest follows in table order or, in half of these rows, in random order.

    >>> visits(Rows(0, torch.arange(2)), 4, forward=1.0)
    tensor([[0, 1, 2, 3],
            [0, 1, 2, 3]])
    """
    at = torch.arange(length, device=rows.ids.device) / length
    u, kind = rows.fork("columns").uniform(length), rows.fork("kind").uniform()[:, None]
    size = (rows.fork("size").uniform()[:, None] * length).floor()
    size = torch.where(kind < forward, 0.0, size)
    first = u.argsort(1).argsort(1) < size
    rest = torch.where(kind < (1.0 + forward) / 2, at, rows.fork("rest").uniform(length))
    return torch.where(first, at - 2.0, rest).argsort(1)


Columns.engine = ColumnsEngine
