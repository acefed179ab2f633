"""N-gram: count which symbol came after which, and smooth the counts.

The probability of a symbol is estimated from the last n - 1 symbols, mixed with the estimate from one symbol fewer, and
so on down to an even chance for every symbol (interpolated, modified Kneser-Ney: Chen & Goodman 1999, "An empirical
study of smoothing techniques for language modeling", section 3.3 and eq. 25-26):

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + gamma(h) * p(w | h without its oldest symbol)

where c counts rows at the longest context, and below it the number of different symbols seen to the left. D takes off
a little from counts of 1, 2, 3 and more, and gamma hands out what was taken off. Nothing is trained by gradients, one
look at the data is enough, and every probability can be traced to counts: the honest yardstick for the other families.

Conditions enter as symbols in front of every context. Each row is counted once for every choice of conditions that
are told or kept quiet, so the same tables answer with and without them; a model with conditions rests on the one
without.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Counts,
    Family,
    How,
    LogProb,
    Part,
    Predicts,
    Refusal,
    Samples,
    Scores,
    Training,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.autoregressive import SymbolHow, draw_symbols

__all__ = ["Level", "NGram", "NGramCache", "NGramEngine", "discounts", "tally"]

Array: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

MOST_CONDITIONS = 3  # every subset of them is counted: 2^3 times the rows
MOST_ROOTS = 2**31 - 1  # classes times positions, stored in 32 bits
PENDING = 4_000_000  # counted rows that may wait before they are merged


@dataclass(frozen=True, kw_only=True)
class NGram(Family):
    """Settings of an n-gram model.

    Args:
        order: n; a symbol is guessed from the n - 1 before it.
        positional: count every position by itself. None: when each position has its own alphabet (columns of a table).
    """

    name: ClassVar[str] = "ngram"
    title: ClassVar[str] = "n-gram counts"
    engine: ClassVar[type[nn.Module]]

    order: int = 5
    positional: bool | None = None

    def __post_init__(self) -> None:
        if self.order < 1:
            raise BadInput(f"order is {self.order}", accepted="1 or more")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("only symbols can be counted, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if self.positional is False and isinstance(space.vocab, tuple):
            return Refusal("each position has its own alphabet, so positions cannot share counts",
                           instead="positional=True")  # fmt: skip
        real = [name for name, of in conditions.items() if not isinstance(of, Tokens)]
        if real:
            return Refusal(f"the condition '{real[0]}' has real numbers, and only symbols can be counted")
        if len(conditions) > MOST_CONDITIONS:
            return Refusal(f"every subset of {len(conditions)} conditions would be counted, at most {MOST_CONDITIONS}")
        roots = math.prod(1 + _kinds(of) for of in conditions.values()) * space.length
        if max(roots, space.symbols + 2) > MOST_ROOTS:
            return Refusal("the conditions have too many values to count each", instead="fewer or coarser conditions")
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Chen & Goodman 1999, section 3.3"
        return (
            Part("counts", f"How often each symbol followed each run of up to {self.order - 1} symbols. That is all "
                 "the model knows.", "c(h w)"),
            Part("discount", "A little is taken off every count, because what was seen once was partly luck.",
                 "c - D(c)", source + ", eq. 26"),
            Part("backing off", "What was taken off is handed to the estimate from a shorter context, so nothing is "
                 "impossible only because it was not seen.", "gamma(h) * p(w | shorter h)", source + ", eq. 25"),
            Part("continuation", "Shorter contexts count in how many different places a symbol was seen, not how "
                 "often: 'Francisco' is frequent, but only after 'San'.", "symbols seen left of (h w)", source),
            Part("sampling", "Draw one symbol after another from these probabilities.", "x_t ~ p(. | x_{t-n+1..t-1})"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        return Training(batch=1024, steps=1)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> NGramEngine:
        """Without counts; with a `base` of the same settings and spaces, its counts are where this one starts."""
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        engine = NGramEngine(self, space, {k: of for k, of in conditions.items() if isinstance(of, Tokens)})
        if isinstance(base, NGramEngine) and (base.family, base.space, base.kinds) == (self, space, engine.kinds):
            engine.restore(base.tables())
        return engine


@dataclass(frozen=True)
class Level:
    """Smoothed counts for contexts of one length k.

    Args:
        contexts: (C,) sorted keys: number of the context one shorter * S + oldest symbol; for k = 0 the roots.
        entries: (E,) sorted keys: number of the context * S + symbol.
        share: (E + 1,) discounted share of the symbol, gamma: (C + 1,) what is left for the shorter context; their last
            elements, 0 and 1, answer for number -1, which was never seen.
        first: (C + 1,) where each context's entries start.
    """

    contexts: Array
    entries: Array
    share: Floats
    gamma: Floats
    first: Array


@dataclass(frozen=True)
class NGramCache:
    """The symbols so far (B, t), and the classes (B,) as `NGramEngine.classes` numbers them."""

    tokens: Tensor
    classes: Tensor


class NGramEngine(nn.Module, Counts, Samples, Scores, Predicts):
    """Counted rows [root, oldest symbol of the context, ..., newest, next symbol], and the levels made of them.

    A root is a class (of conditions) and, if positions count by themselves, a position. Context symbols are numbered as
    in the alphabet; S - 2 stands before the first symbol, S - 1 for nothing.
    """

    def __init__(self, family: NGram, space: Tokens, conditions: Mapping[str, Tokens]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.kinds = {name: _kinds(of) for name, of in conditions.items()}
        self.conditions = dict(conditions)
        positional = isinstance(space.vocab, tuple) if family.positional is None else family.positional
        self.places = space.length if positional else 1
        self.begin_symbol, self.nothing, self.s = space.symbols, space.symbols + 1, space.symbols + 2
        self.counted: Array = np.zeros((0, family.order + 1), np.int64)
        self.counts: Array = np.zeros(0, np.int64)
        self.pending: list[tuple[Array, Array]] = []
        self.levels: list[Level] = []

    # Counts

    def absorb(self, batch: Batch) -> None:
        x = batch.x.cpu().numpy()
        alive = np.ones(x.shape, bool)
        if self.space.ends:
            alive[:, 1:] = np.cumsum(x == 0, axis=1)[:, :-1] == 0
        given = {k: batch.condition.given[k].cpu().numpy() for k in self.kinds if k in batch.condition.values}
        for told in itertools.chain.from_iterable(itertools.combinations(given, n) for n in range(len(given) + 1)):
            rows = np.ones(len(x), bool)
            for name in told:
                rows &= given[name]
            quiet = batch.condition.drop({k: torch.full_like(batch.condition.given[k], k in told) for k in given})
            classes = self.classes(quiet, len(x), x_device=batch.x.device).cpu().numpy()
            columns = [
                np.column_stack((self._contexts(x[:, :t], classes, t), x[:, t]))[rows & alive[:, t]]
                for t in range(x.shape[1])
            ]
            self.pending.append(tally(np.concatenate(columns)))
        if sum(len(counts) for _, counts in self.pending) > PENDING:
            self._merge()

    def settle(self) -> None:
        self._merge()
        order = self.family.order
        found: list[tuple[Array, Array]] = []
        rows, counts = self.counted[:0, :], self.counts[:0]
        for k in reversed(range(order)):
            # contexts that could have been longer count their left neighbours; the longest ones count rows
            oldest = order - k  # column of a context's oldest symbol at length k
            longest = (self.counted[:, 1:oldest] == self.nothing).all(1)
            if k:
                longest &= self.counted[:, oldest] != self.nothing
            shorter = np.delete(rows, 1, axis=1) if k < order - 1 else np.zeros((0, k + 2), np.int64)
            own = np.column_stack((self.counted[longest, :1], self.counted[longest, oldest:]))
            rows, counts = tally(
                np.concatenate((shorter, own)),
                np.concatenate((np.ones(len(shorter), np.int64), self.counts[longest])),
            )
            found.append((rows, counts))
        self.levels = []
        for k, (rows, counts) in enumerate(reversed(found)):
            self.levels.append(self._level(k, rows, counts))

    def tables(self) -> dict[str, Tensor]:
        self._merge()
        return {
            "rows": torch.from_numpy(self.counted.astype(np.int32)),
            "counts": torch.from_numpy(self.counts.copy()),
            "settled": torch.tensor(bool(self.levels)),
        }

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        if set(tables) != {"rows", "counts", "settled"}:
            raise BadInput(f"tables are {sorted(tables)}", accepted="rows, counts, settled")
        rows, counts = tables["rows"].cpu().numpy().astype(np.int64), tables["counts"].cpu().numpy().astype(np.int64)
        width = self.family.order + 1
        if rows.ndim != 2 or rows.shape[1] != width or counts.shape != rows.shape[:1]:
            raise BadInput(f"tables have shapes {rows.shape} and {counts.shape}", accepted=f"(N, {width}) and (N,)")
        largest = np.array([self._roots(), *[self.s] * (width - 2), self.space.symbols])
        if (rows < 0).any() or (rows >= largest).any() or (counts < 1).any():
            raise BadInput("tables hold symbols or counts out of range", why="they were counted for other data")
        self.counted, self.counts, self.pending, self.levels = rows, counts, [], []
        if bool(tables["settled"]):
            self.settle()

    # Scores, Predicts, Samples

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        x, device = batch.x.cpu().numpy(), batch.x.device
        classes = self.classes(batch.condition, len(x), device).cpu().numpy()
        total, alive = np.zeros(len(x)), np.ones(len(x), bool)
        for t in range(x.shape[1]):
            total += np.where(alive, np.log(self._probability(x[:, :t], classes, t, x[:, t])), 0.0)
            if self.space.ends:
                alive &= x[:, t] != 0
        return LogProb(torch.from_numpy(total).to(device), "exact")

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        classes = self.classes(condition, len(tokens), tokens.device)
        if at is not None:
            return self._logits(tokens[:, :at], classes)
        return torch.stack([self._logits(tokens[:, :t], classes) for t in range(tokens.shape[1] + 1)], dim=1)

    def begin(self, condition: Condition, batch: int) -> NGramCache:
        device = next((v.device for v in condition.values.values()), torch.device("cpu"))
        empty = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        return NGramCache(empty, self.classes(condition, batch, device))

    def step(self, cache: NGramCache, tokens: Tensor) -> tuple[Tensor, NGramCache]:
        cache = replace(cache, tokens=torch.cat((cache.tokens, tokens), dim=1))
        return self._logits(cache.tokens, cache.classes), cache

    def settings(self) -> SymbolHow:
        return SymbolHow()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)"""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        u = rows.fork("symbols").uniform(self.space.length, dtype=torch.float64)
        cache = self.begin(condition, len(rows))
        for t in range(self.space.length):
            logits = self._logits(cache.tokens, cache.classes)
            token = draw_symbols(logits, u[:, t].to(logits.device), how)
            cache = replace(cache, tokens=torch.cat((cache.tokens, token[:, None]), dim=1))
            if trace.wants("logits"):
                trace.keep("logits", t, logits)
            if trace.wants("token"):
                trace.keep("token", t, token)
        return cache.tokens

    def classes(self, condition: Condition, batch: int, x_device: torch.device) -> Tensor:
        """(B,) one number for the given values of all conditions; 0 when none is given."""
        out = torch.zeros(batch, dtype=torch.int64, device=x_device)
        for name, of in self.conditions.items():
            out = out * (1 + self.kinds[name])
            if name not in condition.values:
                continue
            value = torch.zeros_like(out)
            for column, size in zip(condition.values[name].flatten(1).T, of.sizes, strict=True):
                value = value * size + column.to(out)
            out = out + torch.where(condition.given[name].to(out.device), value + 1, 0)
        return out

    # Counting and looking up

    def _roots(self) -> int:
        return math.prod(1 + kinds for kinds in self.kinds.values()) * self.places

    def _merge(self) -> None:
        if self.pending:
            shards = [(self.counted, self.counts), *self.pending]
            self.counted, self.counts = tally(
                np.concatenate([r for r, _ in shards]), np.concatenate([c for _, c in shards])
            )
            self.pending = []

    def _contexts(self, before: Array, classes: Array, t: int) -> Array:
        """before (B, t or more) to (B, 1 + n - 1): the root, then the last n - 1 symbols, oldest first."""
        out = np.full((len(before), self.family.order), self.nothing, np.int64)
        out[:, 0] = classes * self.places + (t if self.places > 1 else 0)
        seen = min(t, self.family.order - 1)
        if seen:
            out[:, -seen:] = before[:, t - seen : t]
        if self.places == 1 and t < self.family.order - 1:
            out[:, -seen - 1] = self.begin_symbol
        return out

    def _level(self, k: int, rows: Array, counts: Array) -> Level:
        """rows (E, 1 + k + 1) with their counts (E,) to a level; the levels below are ready."""
        below, _ = self._walk(rows[:, :-1], k)
        key = below * self.s + rows[:, 1] if k else rows[:, 0]
        contexts, number = np.unique(key, return_inverse=True)
        entry = number * self.s + rows[:, -1]
        order = np.argsort(entry, kind="stable")
        number, counts, entry = number[order], counts[order], entry[order]
        off = discounts(counts)[np.minimum(counts, 3)]
        total = np.bincount(number, counts, len(contexts))
        gamma = np.bincount(number, off, len(contexts)) / total
        first = np.searchsorted(number, np.arange(len(contexts) + 1))
        return Level(contexts, entry, np.append((counts - off) / total[number], 0.0), np.append(gamma, 1.0), first)

    def _walk(self, contexts: Array, length: int) -> tuple[Array, list[Array]]:
        """contexts (B, 1 + n') to the number of each one's context at lengths 0 to `length` - 1; -1 if never seen."""
        number, numbers = contexts[:, 0], []
        for k in range(length):
            key = number * self.s + contexts[:, -k] if k else number
            number = np.where(number >= 0, _find(self.levels[k].contexts, key), -1)
            numbers.append(number)
        return number, numbers

    def _chain(self, before: Array, classes: Array, t: int) -> list[tuple[Level, Array]]:
        """The levels behind a probability, coarsest first, each with the number (B,) of the context or -1."""
        contexts = self._contexts(before, classes, t)
        chain = list(zip(self.levels, self._walk(contexts, len(self.levels))[1], strict=True))
        if not self.kinds:
            return chain
        quiet = self._contexts(before, np.zeros_like(classes), t)
        alone = zip(self.levels, self._walk(quiet, len(self.levels))[1], strict=True)
        told = [(level, np.where(classes > 0, number, -1)) for level, number in chain]
        return [*alone, *told]

    def _probability(self, before: Array, classes: Array, t: int, symbol: Array) -> Floats:
        """(B,) probability of `symbol` (B,) at position t."""
        p = np.full(len(symbol), 1.0 / self.space.sizes[t])
        for level, number in self._chain(before, classes, t):
            entry = _find(level.entries, number * self.s + symbol)
            p = level.gamma[number] * p + level.share[entry]
        return p

    def _distribution(self, before: Array, classes: Array, t: int) -> Floats:
        """(B, V) probabilities of all symbols at position t."""
        p = np.zeros((len(classes), self.space.symbols))
        p[:, : self.space.sizes[t]] = 1.0 / self.space.sizes[t]
        for level, number in self._chain(before, classes, t):
            p *= level.gamma[number, None]
            rows = np.flatnonzero(number >= 0)
            number = number[rows]
            size = level.first[number + 1] - level.first[number]
            entry = np.repeat(level.first[number] - (size.cumsum() - size), size) + np.arange(size.sum())
            p[np.repeat(rows, size), level.entries[entry] % self.s] += level.share[entry]
        return p

    def _logits(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """(B, V) float64 logits of the symbol after tokens (B, t); after an end, 0 is certain."""
        t = tokens.shape[1]
        if t >= self.space.length:
            return torch.full((len(tokens), self.space.symbols), -math.inf, dtype=torch.float64, device=tokens.device)
        p = self._distribution(tokens.cpu().numpy(), classes.cpu().numpy(), t)
        if self.space.ends and t:
            p[(tokens == 0).any(1).cpu().numpy()] = np.eye(self.space.symbols)[0]
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(p)).to(tokens.device)


def discounts(counts: Array) -> Floats:
    """D of counts 0, 1, 2, and 3 or more, from how many entries have each count        Chen & Goodman 1999, eq. 26

    Kept between a tenth and the count: small tables give wild values, and what is never discounted backs off nowhere.

    >>> discounts(np.array([1] * 6 + [2] * 3 + [3] * 2 + [4]))
    array([0. , 0.5, 1. , 2. ])
    """
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return np.array([0.0, 0.5, 1.0, 1.5])  # too few to estimate: KenLM's fallback
    y = n1 / (n1 + 2 * n2)
    wished = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(wished, [0.0, 0.1, 0.1, 0.1], [0.0, 1.0, 2.0, 3.0])


def tally(rows: Array, counts: Array | None = None) -> tuple[Array, Array]:
    """Different rows of (N, K), sorted, and the sum of `counts` (N,) over equal ones (one each if None).

    Columns are packed into one 64-bit key; when it is full, it is replaced by its rank.

    >>> tally(np.array([[3, 1], [0, 2], [3, 1]]))
    (array([[0, 2], [3, 1]]), array([1, 2]))
    """
    key, room = np.zeros(len(rows), np.int64), 1
    for column in rows.T:
        size = int(column.max(initial=0)) + 1
        if room * size >= 2**63:
            ranks, key = np.unique(key, return_inverse=True)
            room = len(ranks)
        key, room = key * size + column, room * size
    _, first, same = np.unique(key, return_index=True, return_inverse=True)
    sums = np.zeros(len(first), np.int64)
    np.add.at(sums, same, np.ones(len(rows), np.int64) if counts is None else counts)
    return rows[first], sums


def _find(keys: Array, wanted: Array) -> Array:
    """Place of each wanted key (B,) in sorted `keys`, -1 where it is not there."""
    if not len(keys):
        return np.full(wanted.shape, -1, np.int64)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _kinds(space: Space) -> int:
    """How many values a condition of symbols has."""
    return math.prod(space.sizes) if isinstance(space, Tokens) else 0


NGram.engine = NGramEngine
