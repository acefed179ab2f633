"""Slots of a table's columns in any order: each holds the column before it and asks for the next one.

Slot k of a row visited in the order o_1, ..., o_T holds

    value(x_{o_k}) + column(o_k) + asked(o_{k+1}) + condition

(slot 0 a start vector instead of a value), sees the slots before it, and answers for column o_{k+1}: an order-agnostic
decoder that is told what comes next, as in Yang et al. 2019, XLNet, https://arxiv.org/abs/1906.08237, section 2.2,
whose second stream of slots is not needed when every slot is told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.space import Space, Tokens
from pellucid.nets.condition import ConditionEncoder
from pellucid.nets.symbol_table import SymbolTable
from pellucid.nets.transformer import Cache, Places, Transformer

__all__ = ["ColumnTransformer"]


class ColumnTransformer(nn.Module):
    """From columns in an order to a feature for each column asked, and from that to logits over its alphabet.

    Args:
        space: an alphabet for each column. conditions: what rows are given. width, heads, depth: of the transformer.
    """

    def __init__(self, space: Tokens, conditions: Mapping[str, Space], width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.space, self.width = space, width
        starts = torch.tensor([0, *itertools.accumulate(space.sizes)][:-1])
        self.register_buffer("start", starts, persistent=False)  # (T,) where each alphabet begins
        self.value = SymbolTable(space.sizes, width, ordered=space.ordered)
        self.column = nn.Parameter(torch.randn(space.length, width) * 0.5)
        self.asked = nn.Parameter(torch.randn(space.length, width) * 0.5)
        self.first = nn.Parameter(torch.randn(width) * 0.5)
        self.condition = ConditionEncoder(conditions, width)
        self.body = Transformer(width, heads, depth, rotary=False)
        self.head = SymbolTable(space.sizes, width, spread=0.0, ordered=space.ordered)
        self.bias = nn.Parameter(torch.zeros(sum(space.sizes)))

    def forward(self, tokens: Tensor, order: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """Features (B, k, width), the j-th for column order[:, j] given those before it.

        Args:
            tokens: (B, T); only columns order[:, :k - 1] are read. order: (B, k) columns as they are visited.
            keep: (B, 2 * depth, width) factors of dropout, or None.
        """
        out: Tensor = self.body(self.slots(tokens, order, self.vector(condition, order)), keep)
        return out

    def given(self, tokens: Tensor, told: Tensor, asked: Tensor, condition: Condition) -> Tensor:
        """Features (B, k, width) of columns that are each asked for given the told ones alone.

        Args:
            tokens: (B, T). told: (B, m) columns that are known, in table order. asked: (B, k) columns.
        """
        m, k = told.shape[1], asked.shape[1]
        vector = self.vector(condition, asked)
        before = told[:, -1:].expand(-1, k) if m else asked[:, :0]
        ends = self._values(tokens, before) if m else self.first.expand(*asked.shape, -1)
        ends = ends + self.asked[asked] + vector[:, None]
        x = torch.cat((self.slots(tokens, told, vector), ends), dim=1)  # (B, m + k, width)
        future = torch.full((m + k, m + k), -math.inf, dtype=torch.float32, device=x.device)
        future[:, :m].triu_(1)  # every slot sees the told ones before it,
        future.fill_diagonal_(0.0)  # and of those that ask only itself
        places = Places(None, None, future)
        for layer, block in enumerate(self.body.blocks):
            x = block(x, places, layer)
        out: Tensor = self.body.norm(x[:, m:])
        return out

    def step(self, tokens: Tensor, done: int, vector: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """In table order: the slots that follow the `done` ones in the cache.

        Args:
            tokens: (B, n) symbols of the columns in front of the new slots; (B, n - 1) when none is done, since the
                start has none. vector: (B, width) of the condition.

        Returns: features (B, n, width), and the longer cache.
        """
        new = tokens.shape[1] + (done == 0)
        columns = torch.arange(done, done + new, device=tokens.device)
        x = nn.functional.embedding(tokens + self.get_buffer("start")[columns[columns > 0] - 1], self.value())
        x = x + self.column[columns[columns > 0] - 1]
        if done == 0:
            x = torch.cat((self.first.expand(len(tokens), 1, -1).to(x.dtype), x), dim=1)
        return self.body.step(x + self.asked[columns] + vector[:, None], cache)

    def slots(self, tokens: Tensor, order: Tensor, vector: Tensor) -> Tensor:
        """(B, k, width) for the columns order (B, k): the value before each, and the mark of the one asked."""
        if not order.shape[1]:
            return vector.new_zeros(len(order), 0, self.width)
        start = self.first.expand(len(order), 1, -1)
        x = torch.cat((start, self._values(tokens, order[:, :-1])), dim=1)
        return x + nn.functional.embedding(order, self.asked) + vector[:, None]

    def vector(self, condition: Condition, like: Tensor) -> Tensor:
        """(B, width) of the condition, for the rows of `like` (B, ...)."""
        out: Tensor = self.condition(condition, self.first.new_zeros(1).expand(len(like), 1))
        return out

    def logits(self, h: Tensor, t: int, head: Tensor | None = None) -> Tensor:
        """Features (M, width) to logits (M, size) over the alphabet of column t, in float32 at least.

        head: what `self.head()` gives, where it is asked for column after column.
        """
        low, size = sum(self.space.sizes[:t]), self.space.sizes[t]
        weight = (self.head() if head is None else head)[low : low + size]
        found = nn.functional.linear(h, weight, self.bias[low : low + size])
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _values(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """(B, k, width) of what stands in columns (B, k)."""
        symbols = tokens.gather(1, columns) + self.get_buffer("start")[columns]
        return nn.functional.embedding(symbols, self.value()) + nn.functional.embedding(columns, self.column)
