"""Trees: the columns of a table one after another, each drawn from decision trees that look at the columns before.

    log p(x | c) = sum_t log p(x_t | x_1, ..., x_{t-1}, c)

exactly, by the chain rule. Two learners say how probable each symbol of a column is: boosted trees that answer
questions with two answers (dichotomies.py), of which several ensembles are averaged,

    p(x_t | ...) = sum_m w_m p_m(x_t | ...)

or one tree with the symbols of its leaves (cart.py). Nothing is trained by gradients of a network, a processor
suffices, and what is kept are splits and shares, no row of the data. Drawing asks one member of each column's ensemble,
itself drawn, which is a draw from the average.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Family,
    Grows,
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
from pellucid.families.cart import Leaves, grow_leaves
from pellucid.families.dichotomies import Boosting, Dichotomies, grow
from pellucid.families.forest import CODES
from pellucid.families.ngram import tally

__all__ = ["Trees", "TreesCache", "TreesEngine", "TreesHow", "coded"]

Ints: TypeAlias = NDArray[Any]  # of any width
Floats: TypeAlias = NDArray[Any]

ASIDE = 0.15  # of the rows, another part for each member, that say when to stop
PENDING = 4_000_000  # rows that may wait before equal ones are put together
MOST_MEMBERS = 64
HURRY, FAST = 2e-5, 0.3  # seconds a row that a column wants, and the rate of learning when it gets fewer
ROWS_A_THREAD = 20_000  # fewer, and threads wait for each other longer than they work
ORDERED_CODES = 96  # of a feature in order that has more than 128 symbols


@dataclass(frozen=True)
class TreesHow(How):
    """How to draw.

    Args:
        temperature: 1 is the model itself; below 1 likelier symbols become likelier still, 0 takes the likeliest.
        label_temperature: of the last column, on top; below 1 labels are cleaner than in the data, so that a
            classifier learns more from them, and a judge tells the rows from real ones more easily.
    """

    temperature: float = 1.0
    label_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "label_temperature"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise BadInput(f"{name} is {getattr(self, name)}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class Trees(Family):
    """Settings of a generator of columns by trees.

    Args:
        learner: "boosted" trees, or "cart": one tree a column, in a second or less, and what the first has to beat.
        members: ensembles to average, when no budget is given; more of them fit when there are more minutes. A "cart"
            has one.
        rate: of learning of boosted trees. rounds: trees a question, at most. patience: trees without a gain on rows
            set aside, before it stops.
        leaf: fewest rows of a leaf; None is 20 for boosted trees and 10 for a cart.
        forget: share of rows whose conditions are hidden while learning, so that the model also works without them.
    """

    name: ClassVar[str] = "trees"
    title: ClassVar[str] = "trees, column by column"
    engine: ClassVar[type[nn.Module]]

    learner: Literal["boosted", "cart"] = "boosted"
    members: int = 4
    rate: float = 0.1
    rounds: int = 400
    patience: int = 20
    leaf: int | None = None
    forget: float = 0.1

    def __post_init__(self) -> None:
        if self.learner not in ("boosted", "cart"):
            raise BadInput(f"learner is '{self.learner}'", accepted="boosted, cart")
        if not 1 <= self.members <= MOST_MEMBERS:
            raise BadInput(f"members is {self.members}", accepted=f"1 to {MOST_MEMBERS}")
        if not 0.0 < self.rate <= 1.0:
            raise BadInput(f"rate is {self.rate}", accepted="above 0, at most 1")
        for name, value in {"rounds": self.rounds, "patience": self.patience, "leaf": self.leaf}.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("this family draws symbols, and the space has real numbers",
                           instead="cut the numbers into symbols")  # fmt: skip
        if space.ends or space.length > 2**10:
            return Refusal("each position has trees of its own, which is for columns of a table and not for sequences")
        real = [name for name, of in conditions.items() if not isinstance(of, Tokens)]
        if real:
            return Refusal(f"the condition '{real[0]}' has real numbers, and trees look at symbols",
                           instead="fit without a target: the column is then drawn like the others")  # fmt: skip
        return None

    def parts(self) -> tuple[Part, ...]:
        boosted = "Ke et al. 2017, LightGBM"
        halves = "Frank & Kramer 2004, Ensembles of nested dichotomies for multi-class problems"
        one = "Nowok, Raab & Dibben 2016, https://doi.org/10.18637/jss.v074.i11"
        chain = Part("chain rule", "A row's probability is that of its first column, times that of the second given "
                     "the first, and so on. Nothing is approximated.",
                     "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})")  # fmt: skip
        drawing = Part("sampling", "Draw the first column as often as its values occur, then the second given the "
                       "first, and so on to the last.", "x_t ~ p(. | x_1, ..., x_{t-1})")  # fmt: skip
        if self.learner == "cart":
            tree = Part("tree", "Each column has a tree that splits the rows by columns before it until those that "
                        f"are left are alike, or are fewer than {2 * self.fewest}.",
                        "x_s <= threshold", one)  # fmt: skip
            leaf = Part("leaf", "A leaf says how often each value stood in its rows; a twentieth of a row of the "
                        "whole column is added, so that nothing is impossible.",
                        "(n_leaf(x_t) + p(x_t) / 20) / (n_leaf + 1/20)", one)  # fmt: skip
            return chain, tree, leaf, drawing
        return (
            chain,
            Part("questions", "The values of a column are halved again and again, numbers in their order and names by "
                 "likeness. Each halving is a question with two answers.", "p(x_t) = product of p(answer)", halves),
            Part("boosted trees", "Each question is answered by many small trees, each of which mends what those "
                 "before it left wrong, until rows that are set aside get no likelier.",
                 "log-odds = sum over trees of value(leaf(x_1, ..., x_{t-1}))", boosted),
            Part("members", "Several such ensembles halve otherwise and set other rows aside, and their "
                 "probabilities are averaged.", "sum_m w_m p_m(x_t | x_1, ..., x_{t-1})", halves),
            drawing,
        )  # fmt: skip

    @property
    def fewest(self) -> int:
        """Rows of the smallest leaf."""
        return self.leaf or (20 if self.learner == "boosted" else 10)

    def training(self, space: Space, items: int) -> Training:
        """A step is one column of one member."""
        return Training(batch=1024, steps=space.size * (self.members if self.learner == "boosted" else 1))

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> TreesEngine:
        """Without trees; with a `base` of the same settings and spaces, its members stand beside those to come."""
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        seed = int(rows.fork("trees").integers(2**31 - 1)[0])
        engine = TreesEngine(self, space, {k: of for k, of in conditions.items() if isinstance(of, Tokens)}, seed)
        if isinstance(base, TreesEngine) and (base.family, base.space, base.kinds) == (self, space, engine.kinds):
            engine.restore(base.tables())
        return engine


@dataclass(frozen=True)
class TreesCache:
    """The symbols so far (B, t), and the symbols of the conditions (B, C), 0 where one is not given."""

    tokens: Tensor
    told: Tensor


@dataclass(frozen=True, eq=False)
class _Member:
    """One model of one position, and the rows it learned from."""

    position: int
    rows: int
    model: Dichotomies | Leaves


class TreesEngine(nn.Module, Grows, Samples, Scores, Predicts):
    """Rows that wait to be learned, and the members that were grown from others.

    A row is [conditions, positions], a condition's symbols counted from 1, with 0 for "not given".
    """

    def __init__(self, family: Trees, space: Tokens, conditions: Mapping[str, Tokens], seed: int) -> None:
        super().__init__()
        self.family, self.space, self.conditions, self.seed = family, space, dict(conditions), seed
        self.kinds = {name: of.sizes for name, of in conditions.items()}
        self.told = sum(of.length for of in conditions.values())
        self.sizes = [1 + size for of in conditions.values() for size in of.sizes] + list(space.sizes)
        ordered = list(space.ordered) or [0] * space.length
        self.ordered = [0] * self.told + ordered
        self.waiting: list[tuple[Ints, Ints]] = []
        self.codes: list[Ints] = []  # of each feature: symbol -> code
        self.members: list[_Member] = []
        self._learning: Ints | None = None

    # Counts and Grows

    def absorb(self, batch: Batch) -> None:
        rows = np.concatenate((self._asked(batch.condition, len(batch.x)), batch.x.cpu().numpy()), axis=1)
        self.waiting.append(tally(rows))
        self._learning = None
        if sum(len(counts) for _, counts in self.waiting) > PENDING:
            self._merge()

    def pieces(self) -> tuple[int, int]:
        many = 1 if self.family.learner == "cart" else MOST_MEMBERS
        return self.space.length, self.space.length * many

    def grow(self, piece: int, seconds: float | None = None) -> None:
        """Column `piece` % T of member `piece` // T, learned from the rows that wait."""
        member, t = divmod(piece, self.space.length)
        rows = self._rows()
        if not len(rows):
            return
        family, n, j = self.family, len(rows), self.told + t
        random = np.random.default_rng([self.seed, piece])
        features = self._features(rows, j)
        if self.told:
            features[random.uniform(size=n) < family.forget, : self.told] = self._features(rows[:1] * 0, self.told)
        model: Dichotomies | Leaves
        if family.learner == "cart":
            model = grow_leaves(features, rows[:, j], self.sizes[j], family.fewest, self.seed)
        else:
            order = np.random.default_rng([self.seed, n]).permutation(n)
            part = max(1, round(ASIDE * n))
            aside = np.zeros(n, np.bool_)
            aside[order[(member * part + np.arange(part)) % n]] = True
            short = seconds is not None and seconds < HURRY * n
            how = Boosting(
                rate=max(family.rate, FAST) if short else family.rate,
                rounds=family.rounds, patience=family.patience, leaf=family.fewest,
                threads=max(1, min(torch.get_num_threads(), n // ROWS_A_THREAD)),
                seconds=math.inf if seconds is None else seconds,
            )  # fmt: skip
            names = [f for f in range(j) if not self.ordered[f]]
            model = grow(
                features, names, self._many(j), rows[:, j], self.sizes[j], self.ordered[j], aside, how, random,
                plain=member == 0,
            )  # fmt: skip
        self.members.append(_Member(t, n, model))

    def settle(self) -> None:
        """Forget the rows; what is left are the members. Those that were not grown yet are grown first."""
        if self._rows_waiting() and self._learning is None:
            many = 1 if self.family.learner == "cart" else self.family.members
            for piece in range(self.space.length * many):
                self.grow(piece)
        self.waiting, self._learning = [], None

    def tables(self) -> dict[str, Tensor]:
        self._merge()
        rows, counts = self.waiting[0] if self.waiting else (np.zeros((0, len(self.sizes)), np.int64), np.zeros(0))
        found: dict[str, NDArray[Any]] = {
            "rows": rows.astype(np.int32),
            "counts": counts.astype(np.int64),
            "codes": np.concatenate(self.codes or [np.zeros(0)]).astype(np.uint8),
            "position": np.array([m.position for m in self.members], np.int32),
            "learned": np.array([m.rows for m in self.members], np.int64),
        }
        each = [m.model.tensors() for m in self.members]
        for name, like in self._blank().items():
            parts = [tables[name] for tables in each]
            found[f"model.{name}"] = np.concatenate([like[:0], *parts]).astype(like.dtype)
            found[f"many.{name}"] = np.array([len(part) for part in parts], np.int64)
        return {name: _tensor(value) for name, value in found.items()}

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        blank = self._blank()
        names = {"rows", "counts", "codes", "position", "learned"}
        names |= {f"{kind}.{name}" for name in blank for kind in ("model", "many")}
        if set(tables) != names:
            odd = sorted(set(tables) ^ names)
            raise BadInput(f"tables differ in {', '.join(odd[:5])}", accepted=", ".join(sorted(names)))
        found = {name: table.cpu().numpy().copy() for name, table in tables.items()}
        rows, counts, codes = found["rows"].astype(np.int64), found["counts"], found["codes"]
        fits = rows.ndim == 2 and rows.shape[1] == len(self.sizes) and counts.shape == rows.shape[:1]
        if not fits or (rows < 0).any() or (rows >= np.array(self.sizes)).any() or (counts < 1).any():
            raise BadInput(f"rows are {rows.shape}, or out of range", accepted=f"(N, {len(self.sizes)}) symbols")
        position, learned = found["position"].astype(np.int64), found["learned"].astype(np.int64)
        fits = position.ndim == 1 and position.shape == learned.shape and codes.dtype == np.uint8
        fits = fits and bool(((position >= 0) & (position < self.space.length)).all() and (learned > 0).all())
        fits = fits and codes.shape in ((0,), (sum(self.sizes),)) and bool((codes < CODES).all())
        if not fits or (len(position) and not len(codes)):
            raise BadInput("members or codes are out of range", accepted="codes up to 127, positions of the space")
        bounds = [0, *itertools.accumulate(self.sizes)]
        kept = [codes[a:b].astype(np.int64) for a, b in itertools.pairwise(bounds)] if len(codes) else []
        many = np.array([[int(c.max()) + 1 for c in kept]]).reshape(-1)
        parts: list[dict[str, NDArray[Any]]] = [{} for _ in position]
        for name in blank:
            whole, lengths = found[f"model.{name}"], found[f"many.{name}"].astype(np.int64)
            if lengths.shape != position.shape or (lengths < 0).any() or lengths.sum() != len(whole):
                raise BadInput(f"table '{name}' does not hold what it says", accepted="one length a member")
            for part, a, b in zip(parts, lengths.cumsum() - lengths, lengths.cumsum(), strict=True):
                part[name] = whole[a:b]
        kind = Leaves if self.family.learner == "cart" else Dichotomies
        members = []
        for part, t, n in zip(parts, position.tolist(), learned.tolist(), strict=True):
            j = self.told + t
            members.append(_Member(t, n, kind.of_tensors(part, many[:j], self.sizes[j])))
        self.waiting = [(rows, counts)] if len(rows) else []
        self.codes, self.members, self._learning = kept, members, None

    def _blank(self) -> dict[str, NDArray[Any]]:
        """The tables of a model without splits."""
        if self.family.learner == "cart":
            return grow_leaves(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), 1, 1, 0).tensors()
        none = np.zeros((0, 0), np.int64)
        how = Boosting()
        return grow(none, [], none[0:0, 0:0].reshape(-1), none.reshape(-1), 1, 0, np.zeros(0, np.bool_), how,
                    np.random.default_rng(0)).tensors()  # fmt: skip

    # Scores, Predicts, Samples

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        x = np.concatenate((self._asked(batch.condition, len(batch.x)), batch.x.cpu().numpy()), axis=1)
        features, total = self._features(x, len(self.sizes) - 1), np.zeros(len(x))
        for t in range(self.space.length):
            total += self._log_prob(features, x[:, self.told + t], t)
        return LogProb(torch.from_numpy(total).to(batch.x.device), "exact")

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        told = torch.from_numpy(self._asked(condition, len(tokens)))
        if at is not None:
            return self._logits(TreesCache(tokens[:, :at], told))
        each = [self._logits(TreesCache(tokens[:, :t], told)) for t in range(tokens.shape[1] + 1)]
        return torch.stack(each, dim=1)

    def begin(self, condition: Condition, batch: int) -> TreesCache:
        empty = torch.zeros(batch, 0, dtype=torch.int64)
        return TreesCache(empty, torch.from_numpy(self._asked(condition, batch)))

    def step(self, cache: TreesCache, tokens: Tensor) -> tuple[Tensor, TreesCache]:
        cache = replace(cache, tokens=torch.cat((cache.tokens.to(tokens.device), tokens), dim=1))
        return self._logits(cache), cache

    def settings(self) -> TreesHow:
        return TreesHow()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)"""
        if not isinstance(how, TreesHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="TreesHow", next="Start from engine.settings()")
        length = self.space.length
        u = rows.fork("symbols").uniform(length, dtype=torch.float64).cpu().numpy()
        pick = rows.fork("members").uniform(length, dtype=torch.float64).cpu().numpy()
        x = np.concatenate((self._asked(condition, len(rows)), np.zeros((len(rows), length), np.int64)), axis=1)
        features = np.zeros_like(x)
        features[:, : self.told] = self._features(x, self.told)
        for t in range(length):
            j = self.told + t
            heat = how.temperature * (how.label_temperature if t == length - 1 else 1.0)
            logs = None
            if heat != 1.0 or trace.wants("logits"):
                with np.errstate(divide="ignore"):
                    logs = np.log(self._distribution(features, t))
            x[:, j] = self._draw(features, u[:, t], pick[:, t], t) if heat == 1.0 else _heated(logs, u[:, t], heat)
            if len(self.codes):
                features[:, j] = self.codes[j][x[:, j]]
            if logs is not None and trace.wants("logits"):
                trace.keep("logits", t, self._padded(logs))
            if trace.wants("token"):
                trace.keep("token", t, torch.from_numpy(x[:, j].copy()))
        return torch.from_numpy(x[:, self.told :].copy()).to(rows.ids.device)

    # Members of one position

    def _of(self, t: int) -> tuple[list[Dichotomies | Leaves], Floats]:
        """The members of position t and their weights: as many as the rows that each learned from."""
        found = [m for m in self.members if m.position == t]
        weight = np.array([m.rows for m in found], np.float64)
        return [m.model for m in found], weight / weight.sum() if len(found) else weight

    def _draw(self, features: Ints, u: Floats, pick: Floats, t: int) -> Ints:
        """(B,) symbols at u (B,) of the members that pick (B,) chooses."""
        models, weight = self._of(t)
        if not models:
            return np.minimum((u * self.space.sizes[t]).astype(np.int64), self.space.sizes[t] - 1)
        which = np.searchsorted(np.cumsum(weight)[:-1], pick, side="right")
        out = np.zeros(len(u), np.int64)
        for k, model in enumerate(models):
            rows = np.flatnonzero(which == k)
            out[rows] = model.draw(features[rows, : self.told + t], u[rows])
        return out

    def _log_prob(self, features: Ints, symbol: Ints, t: int) -> Floats:
        models, weight = self._of(t)
        if not models:
            return np.full(len(symbol), -math.log(self.space.sizes[t]))
        each = [model.log_prob(features[:, : self.told + t], symbol) for model in models]
        total: Floats = np.logaddexp.reduce(np.stack(each) + np.log(weight)[:, None], axis=0)
        return total

    def _distribution(self, features: Ints, t: int) -> Floats:
        """(B, size) probabilities of the symbols of position t."""
        models, weight = self._of(t)
        if not models:
            return np.full((len(features), self.space.sizes[t]), 1.0 / self.space.sizes[t])
        each = [model.distribution(features[:, : self.told + t]) for model in models]
        return sum((w * p for w, p in zip(weight, each, strict=True)), np.zeros_like(each[0]))

    def _logits(self, cache: TreesCache) -> Tensor:
        """(B, V) logits of the symbol after those of the cache."""
        t = cache.tokens.shape[1]
        if t >= self.space.length:
            blank = np.zeros((len(cache.tokens), 0))
        else:
            x = np.concatenate((cache.told.numpy(), cache.tokens.cpu().numpy()), axis=1)
            with np.errstate(divide="ignore"):
                blank = np.log(self._distribution(self._features(x, self.told + t), t))
        return self._padded(blank).to(cache.tokens.device)

    def _padded(self, logs: Floats) -> Tensor:
        """(B, size) to (B, V), -inf for symbols that the position does not have."""
        out = torch.full((len(logs), self.space.symbols), -math.inf, dtype=torch.float64)
        out[:, : logs.shape[1]] = torch.from_numpy(logs)
        return out

    # Rows

    def _asked(self, condition: Condition, batch: int) -> Ints:
        """(B, C) symbols of the conditions, from 1 on; 0 where one is not given."""
        out = np.zeros((batch, self.told), np.int64)
        at = 0
        for name, of in self.conditions.items():
            if name in condition.values:
                value = condition.values[name].reshape(batch, of.length).cpu().numpy()
                given = condition.given[name].cpu().numpy()
                out[:, at : at + of.length] = np.where(given[:, None], value + 1, 0)
            at += of.length
        return out

    def _merge(self) -> None:
        if len(self.waiting) > 1:
            rows, counts = zip(*self.waiting, strict=True)
            self.waiting = [tally(np.concatenate(rows), np.concatenate(counts))]

    def _rows_waiting(self) -> bool:
        return any(len(counts) for _, counts in self.waiting)

    def _rows(self) -> Ints:
        """(N, C + T) every row as often as it came, equal ones together; codes are chosen when there are none."""
        if self._learning is None:
            self._merge()
            if not self._rows_waiting():
                return np.zeros((0, len(self.sizes)), np.int64)
            rows, counts = self.waiting[0]
            self._learning = np.repeat(rows, counts, axis=0)
            if not self.codes:
                each = zip(self._learning.T, self.sizes, self.ordered, strict=True)
                self.codes = [coded(np.bincount(column, minlength=size), order) for column, size, order in each]
        return self._learning

    def _features(self, x: Ints, first: int) -> Ints:
        """(B, first) codes of the first columns of x."""
        if not self.codes or not first:
            return np.zeros((len(x), first), np.int64)
        return np.stack([code[column] for code, column in zip(self.codes[:first], x.T, strict=False)], axis=1)

    def _many(self, first: int) -> Ints:
        """(first,) how many codes the first features have."""
        return np.array([int(code.max()) + 1 for code in self.codes[:first]], np.int64)


def coded(count: Ints, ordered: int) -> Ints:
    """(V,) the code, up to 127, of each symbol that came `count` (V,) times, of which the first `ordered` are in order.

    Neighbours in order share a code when there are too many; so do the rarest of the others.

    >>> coded(np.array([5, 1, 2]), 0)
    array([0, 1, 2])
    >>> int(coded(np.ones(1000, int), 1000).max()), int(coded(np.ones(1000, int), 0).max())
    (95, 127)
    """
    size = len(count)
    if size <= CODES:
        return np.arange(size)
    out = np.zeros(size, np.int64)
    if ordered:
        room = min(ordered, ORDERED_CODES)
        upto = np.cumsum(count[:ordered] + 1.0 / size)
        part = np.minimum((upto - upto[0]) / upto[-1] * room, room - 1).astype(np.int64)
        out[:ordered] = np.unique(part, return_inverse=True)[1]
    first = int(out.max()) + 1 if ordered else 0
    order = ordered + np.argsort(-count[ordered:], kind="stable")
    out[order] = np.minimum(first + np.arange(size - ordered), CODES - 1)
    return out


def _tensor(value: NDArray[Any]) -> Tensor:
    """A copy; of an empty array too it has strides with which it can be seen as bytes."""
    found = torch.from_numpy(value)
    return torch.empty(found.shape, dtype=found.dtype).copy_(found)


def _heated(logs: Floats | None, u: Floats, heat: float) -> Ints:
    """(B,) symbols from log-probabilities (B, V) at this temperature, at u (B,); 0 takes the likeliest."""
    assert logs is not None
    if heat == 0.0:
        return logs.argmax(1)
    p = np.exp((logs - logs.max(1, keepdims=True)) / heat).cumsum(1)
    found: Ints = (p <= (u * p[:, -1])[:, None]).sum(1)
    return found


Trees.engine = TreesEngine
