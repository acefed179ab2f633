"""N-gram: count which symbol came after which, and smooth the counts.

The probability of a symbol is estimated from the last n - 1 symbols, mixed with the estimate from one symbol fewer, and
so on down to an even chance for every symbol: interpolated, modified Kneser-Ney, see kneser_ney.py, which counts and
looks up. Nothing is trained by gradients, one look at the data is enough, and every probability can be traced to
counts: the honest yardstick for the other families. With `floor` it is a plain Markov chain of order n - 1.

Conditions enter as symbols in front of every context. Each row is counted once for every choice of conditions that
are told or kept quiet, so the same tables answer with and without them; a model with conditions rests on the one
without. Of a running text each symbol is counted once, after those before it in the text; the first symbols of a
window, whose past is not seen, are estimated from fewer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

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
    Spells,
    Training,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.kneser_ney import Array, Floats, Smoothed, tally_columns
from pellucid.families.next_symbol import SymbolHow, draw_symbols

__all__ = ["MOST_ORDER", "NGram", "NGramCache", "NGramEngine", "tally"]

MOST_CONDITIONS = 3  # every subset of them is counted: 2^3 times the rows
MOST_ROOTS = 2**31 - 1  # classes times positions, stored in 32 bits
MOST_ORDER = 64
PENDING = 4_000_000  # counted rows that may wait before they are merged


@dataclass(frozen=True, kw_only=True)
class NGram(Family):
    """Settings of an n-gram model.

    Args:
        order: n; a symbol is guessed from the n - 1 before it.
        positional: count every position by itself. None: when each position has its own alphabet (columns of a table).
        floor: None smooths by Kneser-Ney. A number makes a Markov chain of it: what was seen keeps its plain share of
            the counts, and so much is left at each length to the estimate from a shorter context.
    """

    name: ClassVar[str] = "ngram"
    title: ClassVar[str] = "n-gram counts"
    engine: ClassVar[type[nn.Module]]

    order: int = 5
    positional: bool | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MOST_ORDER:
            raise BadInput(f"order is {self.order}", accepted=f"1 to {MOST_ORDER}")
        if self.floor is not None and not 0.0 < self.floor < 1.0:
            raise BadInput(f"floor is {self.floor}", accepted="between 0 and 1, or None")

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
        if self.floor is not None:
            return (
                Part("counts", f"How often each symbol followed each run of up to {self.order - 1} symbols.", "c(h w)"),
                Part("shares", f"What was seen keeps its share of the counts; {self.floor:g} is left to shorter runs.",
                     "(1 - floor) c(h w) / c(h) + floor p(w | shorter h)", "Markov 1913"),
                Part("sampling", "Draw one symbol after another.", "x_t ~ p(. | x_{t-n+1..t-1})"),
            )  # fmt: skip
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
class NGramCache:
    """The symbols so far (B, t), and the classes (B,) as `NGramEngine.classes` numbers them."""

    tokens: Tensor
    classes: Tensor


class NGramEngine(nn.Module, Counts, Samples, Scores, Spells, Predicts):
    """Counted grams [root, newest symbol of the context, ..., oldest, next symbol], and what is smoothed of them.

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
        self.grams: list[Array] = [np.zeros(0, np.int64)] * (family.order + 1)
        self.counts: Array = np.zeros(0, np.int64)
        self.pending: list[tuple[list[Array], Array]] = []
        self.settled = False
        self.smoothed = self._smooth()

    # Counts

    def absorb(self, batch: Batch) -> None:
        x = batch.x.cpu().numpy()
        given = {k: batch.condition.given[k].cpu().numpy() for k in self.kinds if k in batch.condition.values}
        for told in itertools.chain.from_iterable(itertools.combinations(given, n) for n in range(len(given) + 1)):
            rows = np.ones(len(x), bool)
            for name in told:
                rows &= given[name]
            quiet = batch.condition.drop({k: torch.full_like(batch.condition.given[k], k in told) for k in given})
            classes = self.classes(quiet, len(x), x_device=batch.x.device).cpu().numpy()
            taken = slice(None) if rows.all() else rows  # a slice copies nothing
            for part, start in self._unseen(
                x[taken], None if batch.fresh is None else batch.fresh.cpu().numpy()[taken]
            ):
                self.pending.append(tally_columns(self._flat(x[taken][part], classes[taken][part], start)))
        if sum(len(counts) for _, counts in self.pending) > PENDING:
            self._merge()

    def settle(self) -> None:
        self._merge()
        self.settled = True
        self.smoothed = self._smooth()

    def tables(self) -> dict[str, Tensor]:
        self._merge()
        return {
            "grams": torch.from_numpy(np.stack(self.grams).astype(np.int32)),
            "counts": torch.from_numpy(self.counts.copy()),
            "settled": torch.tensor(self.settled),
        }

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        if set(tables) != {"grams", "counts", "settled"}:
            raise BadInput(f"tables are {sorted(tables)}", accepted="grams, counts, settled")
        grams, counts = tables["grams"].cpu().numpy().astype(np.int64), tables["counts"].cpu().numpy().astype(np.int64)
        width = self.family.order + 1
        if grams.ndim != 2 or len(grams) != width or counts.shape != grams.shape[1:]:
            raise BadInput(f"tables have shapes {grams.shape} and {counts.shape}", accepted=f"({width}, N) and (N,)")
        largest = np.array([self._roots(), *[self.s] * (width - 2), self.space.symbols])[:, None]
        if (grams < 0).any() or (grams >= largest).any() or (counts < 1).any():
            raise BadInput("tables hold symbols or counts out of range", why="they were counted for other data")
        self.pending, self.settled = [(list(grams), counts)], False
        self.grams, self.counts = [np.zeros(0, np.int64)] * width, np.zeros(0, np.int64)
        if bool(tables["settled"]):
            self.settle()

    # Scores, Spells, Predicts, Samples

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.spell(batch, rows).sum(1), "exact")

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, T) in float64."""
        x = batch.x.cpu().numpy()
        classes = self.classes(batch.condition, len(x), batch.x.device).cpu().numpy()
        sizes = np.broadcast_to(np.array(self.space.sizes), x.shape).reshape(-1)
        each = np.log(self._probability(x, classes, 1.0 / sizes)).reshape(x.shape)
        if self.space.ends and x.size:
            each[:, 1:][np.cumsum(x == 0, axis=1)[:, :-1] > 0] = 0.0
        return torch.from_numpy(each).to(batch.x.device)

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
            token = draw_symbols(logits, u[:, t].to(logits.device), how, cache.tokens)
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
            shards = [(self.grams, self.counts), *self.pending] if len(self.counts) else self.pending
            if len(shards) == 1 and not len(self.counts):
                columns, counts = shards[0]
            else:
                columns = [np.concatenate(parts) for parts in zip(*(grams for grams, _ in shards), strict=True)]
                counts = np.concatenate([c for _, c in shards])
            self.grams, self.counts = tally_columns(columns, counts)
            self.pending = []

    def _smooth(self) -> Smoothed:
        grams, counts = (self.grams, self.counts) if self.settled else ([c[:0] for c in self.grams], self.counts[:0])
        return Smoothed(grams, counts, self.s, self.nothing, self.family.floor)

    def _unseen(self, x: Array, fresh: Array | None) -> Iterator[tuple[slice | Array, int]]:
        """Rows of x (B, T), and the position from which each of their symbols is to be counted."""
        if fresh is None:
            yield slice(None), 0
            return
        for many in np.unique(fresh[fresh > 0]).tolist():
            rows = fresh == many
            few = np.flatnonzero(rows)
            # neighbours in a text are neighbours in memory: a slice of them copies nothing
            dense = len(few) == few[-1] - few[0] + 1
            yield (slice(int(few[0]), int(few[-1]) + 1) if dense else few), x.shape[1] - many

    def columns(self, x: Array, classes: Array, start: int) -> list[Array]:
        """x (B, T), classes (B,) to the grams of positions from `start` on: order + 1 columns (B, T - start)."""
        back, length = self.family.order - 1, x.shape[1]
        if start < back:
            past = np.full((len(x), back - start), self.nothing, np.int64)
            if not start and self.places == 1 and not self.space.running:
                past[:, -1] = self.begin_symbol
            x, shift = np.concatenate((past, x), axis=1), back - start
        else:
            shift = 0
        place = np.arange(start, length) if self.places > 1 else np.zeros(length - start, np.int64)
        root = classes[:, None] * self.places + place
        steps = [x[:, start + shift - j : length + shift - j] for j in range(1, back + 1)]
        return [root, *steps, x[:, start + shift :]]

    def _flat(self, x: Array, classes: Array, start: int) -> list[Array]:
        """The grams of `columns`, one after another and without those after an end: columns (N,)."""
        columns = self.columns(x, classes, start)
        if self.space.ends:
            alive = np.ones(x.shape, bool)
            alive[:, 1:] = np.cumsum(x == 0, axis=1)[:, :-1] == 0
            return [column[alive[:, start:]] for column in columns]
        return [column.reshape(-1) for column in columns]

    def _context(self, before: Array, classes: Array) -> list[Array]:
        """before (B, t) to the context of the symbol that follows: order columns (B,)."""
        following = np.concatenate((before, np.zeros((len(before), 1), np.int64)), axis=1)
        return [column[:, -1] for column in self.columns(following, classes, 0)[:-1]]

    def _probability(self, x: Array, classes: Array, p: Floats) -> Floats:
        """(B T,) probabilities of the symbols of x (B, T), of which p (B T,) is the estimate from nothing."""
        grams = [column.reshape(-1) for column in self.columns(x, np.zeros_like(classes), 0)]
        a, b = self.smoothed.mixed(grams)
        p = a + b * p
        if self.kinds and (classes > 0).any():
            told = self.columns(x, classes, 0)[0].reshape(-1)
            a, b = self.smoothed.mixed([told, *grams[1:]])
            p = np.where(np.repeat(classes > 0, x.shape[1]), a + b * p, p)
        return p

    def _distribution(self, before: Array, classes: Array, t: int) -> Floats:
        """(B, V) probabilities of all symbols at position t."""
        p = np.zeros((len(classes), self.space.symbols))
        p[:, : self.space.sizes[t]] = 1.0 / self.space.sizes[t]
        p = self.smoothed.spread(p, self._context(before, np.zeros_like(classes)))
        told = np.flatnonzero(classes > 0) if self.kinds else np.zeros(0, np.int64)
        if len(told):
            p[told] = self.smoothed.spread(p[told], self._context(before[told], classes[told]))
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


def tally(rows: Array, counts: Array | None = None) -> tuple[Array, Array]:
    """Different rows of (N, K), sorted, and the sum of `counts` (N,) over equal ones (one each if None).

    >>> tally(np.array([[3, 1], [0, 2], [3, 1]]))
    (array([[0, 2], [3, 1]]), array([1, 2]))
    """
    columns, sums = tally_columns(list(rows.T), counts)
    return np.column_stack(columns), sums


def _kinds(space: Space) -> int:
    """How many values a condition of symbols has."""
    return math.prod(space.sizes) if isinstance(space, Tokens) else 0


NGram.engine = NGramEngine
