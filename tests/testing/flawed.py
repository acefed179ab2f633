"""Small families that keep every law, unless a flaw is planted in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Attends,
    Counts,
    Decodes,
    Denoises,
    Encodes,
    Family,
    How,
    Learns,
    LogProb,
    Part,
    Predicts,
    Prepares,
    Refusal,
    Samples,
    Scores,
    Site,
    Training,
    Turn,
    Unmasks,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.condition import ConditionEncoder
from pellucid.nets.inherit import inherit

__all__ = ["Bell", "BellEngine", "Line", "LineEngine", "Pairs", "PairsEngine"]


@dataclass(frozen=True, kw_only=True)
class Toy(Family):
    """What the three families share: settings, parts and advice; `flaw` names what is wrong with the engine."""

    flaw: str = ""
    size: int = 4

    def __post_init__(self) -> None:
        if self.size < 1:
            if self.flaw == "error without words":
                raise ZeroDivisionError(self.size)
            raise BadInput(f"size is {self.size}", accepted="1 or more")

    def parts(self) -> tuple[Part, ...]:
        return () if self.flaw == "no parts" else (Part("formula", "All of it is one formula, written out below."),)

    def training(self, space: Space, items: int) -> Training:
        return Training(batch=16, rate=0.02, steps=50)

    def refused(self, space: Space, conditions: Mapping[str, Space]) -> None:
        refusal = self.accepts(space, conditions)
        if refusal is not None:
            raise BadInput(f"the space is {space}", why=refusal.reason)


@dataclass(frozen=True, kw_only=True)
class Walk(How):
    steps: int = 20


class Bell(Toy):
    """A Gaussian of every number, whose means move with the conditions."""

    name: ClassVar[str] = "bell"
    title: ClassVar[str] = "independent Gaussians"
    engine: ClassVar[type[nn.Module]]

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Real) or space.levels is not None:
            return Refusal("no" if self.flaw == "curt refusal" else "a Gaussian needs continuous numbers")
        return None

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> BellEngine:
        self.refused(space, conditions)
        if self.flaw == "builds from the global generator":
            return BellEngine(self.flaw, space.shape, conditions)
        with rows.seeding():
            engine = BellEngine(self.flaw, space.shape, conditions)
        if self.flaw != "forgets its base":
            inherit(engine, base)
        return engine


class BellEngine(nn.Module, Learns, Prepares, Samples, Scores, Encodes, Decodes, Denoises):
    """x = centre + spread * (m(c) + exp(s) z), so that everything has a closed form."""

    def __init__(self, flaw: str, shape: tuple[int, ...], conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.flaw, self.shape, size = flaw, shape, math.prod(shape)
        self.centre = nn.Buffer(torch.zeros(size), persistent=flaw != "forgets what it prepared")
        self.spread = nn.Buffer(torch.ones(size))
        self.condition, self.m = ConditionEncoder(conditions, 8), nn.Linear(8, size)
        self.s = nn.Parameter(torch.zeros(size))
        self.norm = nn.BatchNorm1d(size) if flaw == "batch norm" else None

    def prepare(self, batch: Batch) -> None:
        x = batch.x.flatten(1)
        self.centre.copy_(x.mean(0))
        self.spread.copy_(x.std(0, correction=0).clamp(min=0.0 if self.flaw == "divides by zero" else 1e-3))

    def mean(self, condition: Condition, like: Tensor) -> Tensor:
        """(B, size) centre of x given the condition."""
        if self.flaw == "reads what is not given":
            condition = Condition(condition.values, {k: torch.ones_like(g) for k, g in condition.given.items()})
        vector = self.condition(condition, like)
        if self.flaw == "mixes conditions":
            vector = vector.mean(0, keepdim=True).expand_as(vector)
        moved: Tensor = self.centre + self.spread * self.m(vector)
        return moved

    def deviation(self) -> Tensor:
        return self.spread * self.s.exp()

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        z = (x.flatten(1) - self.mean(condition, x)) / self.deviation()
        z = z + torch.randn_like(z) if self.flaw == "encodes with its own noise" else z
        return z if self.norm is None else self.norm(z)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        stretch = 1.1 if self.flaw == "decodes wrongly" else 1.0
        return (self.mean(condition, z) + stretch * self.deviation() * z).reshape(-1, *self.shape)

    def latent(self) -> Real:
        return Real((math.prod(self.shape),))

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        z = self.encode(batch.x, batch.condition)
        value = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi) - self.deviation().log()).sum(1)
        if self.flaw == "too likely":
            value = value + 0.2
        if self.flaw == "noisy exact value":
            value = value + rows.normal()
        return LogProb(value, "estimate" if self.flaw == "estimate without error" else "exact")

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("likelihood", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        value = -self.log_prob(batch, rows).value
        if self.flaw == "rows leak":
            value = value + value.mean()
        if self.flaw == "climbs":
            value = 2 * value.detach() - value
        return value.mean()[None] if self.flaw == "one loss a batch" else value

    def settings(self) -> Walk:
        return Walk()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        if self.flaw == "noise of the place":
            rows = Rows(rows.seed, torch.arange(len(rows)), rows.key)
        noise = rows.normal(math.prod(self.shape)).to(self.s)
        if self.flaw == "global noise":
            noise = torch.randn_like(noise)
        if self.flaw == "normalises the batch":
            noise = noise - noise.mean(0)
        x = self.decode(noise, condition)
        if trace.wants("x_t"):
            trace.keep("x_t", 0, x)
        return x + (1.0 if self.flaw == "moves when traced" and trace.wants("x_t") else 0.0)

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        if self.flaw == "one noise level":
            sigma = sigma[:1].expand_as(sigma)
        x, noise, data = x_t.flatten(1), sigma[:, None] ** 2, self.deviation() ** 2
        return ((self.mean(condition, x) * noise + x * data) / (noise + data)).reshape_as(x_t)

    def sigmas(self, how: How) -> Tensor:
        assert isinstance(how, Walk)
        levels = torch.cat((torch.logspace(1.3, -2, how.steps), torch.zeros(1)))
        return levels.flip(0) if self.flaw == "rising noise" else levels


Bell.engine = BellEngine


class Line(Toy):
    """Symbols from left to right: each place looks back at all before it with equal weight."""

    name: ClassVar[str] = "line"
    title: ClassVar[str] = "averages of what came before"
    engine: ClassVar[type[nn.Module]]

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        return None if isinstance(space, Tokens) else Refusal("the space has numbers, and only symbols are read")

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> LineEngine:
        self.refused(space, conditions)
        assert isinstance(space, Tokens)
        with rows.seeding():
            engine = LineEngine(self.flaw, space, conditions, self.size)
        inherit(engine, base)
        return engine


class LineEngine(nn.Module, Learns, Samples, Scores, Predicts, Attends):
    """logits_t = R tanh(mean of E[symbol] before t + place_t + condition)."""

    def __init__(self, flaw: str, space: Tokens, conditions: Mapping[str, Space], width: int) -> None:
        super().__init__()
        self.flaw, self.space = flaw, space
        self.embed, self.read = nn.Embedding(space.symbols, width), nn.Linear(width, space.symbols)
        self.place = nn.Parameter(torch.randn(space.length + 1, width))
        self.condition = ConditionEncoder(conditions, width)
        sizes = torch.tensor([*space.sizes, space.symbols])
        lacking = torch.arange(space.symbols) >= sizes[:, None]
        self.lacking = nn.Buffer(torch.zeros_like(lacking) if flaw == "any symbol anywhere" else lacking)

    def weights(self, places: int) -> Tensor:
        """(places, places - 1): how each place looks at the symbols; the first sees none."""
        seen = torch.ones(places, places - 1).tril(0 if self.flaw == "sees the future" else -1)
        return seen / seen.sum(1, keepdim=True).clamp(min=1)

    def logits(self, memory: Tensor, first: int, ended: Tensor) -> Tensor:
        """memory (B, k, width), the first of k places, ended (B, k) to (B, k, V)."""
        places = slice(first, first + memory.shape[1])
        out = self.read((memory + self.place[places]).tanh()).masked_fill(self.lacking[places], -torch.inf)
        only_zero = torch.where(torch.arange(self.space.symbols) == 0, 0.0, -torch.inf).to(out)
        stop = ended & (self.space.ends and self.flaw != "goes on after the end")
        return torch.where(stop[..., None], only_zero, out)

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        places = tokens.shape[1] + 1
        vector = self.condition(condition, self.place.new_zeros(len(tokens), 1))
        memory = self.weights(places).to(self.place) @ self.embed(tokens) + vector[:, None]
        out = self.logits(memory, 0, nn.functional.pad((tokens == 0).cumsum(1) > 0, (1, 0)))
        return out if at is None else out[:, at]

    def begin(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch, 0, dtype=torch.int64), self.condition(condition, self.place.new_zeros(batch, 1))

    def step(self, cache: tuple[Tensor, Tensor], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        seen = tokens if self.flaw == "forgets its cache" and tokens.shape[1] else torch.cat((cache[0], tokens), 1)
        vectors = self.embed(seen)
        memory = vectors.mean(1) if seen.shape[1] else vectors.new_zeros(len(seen), vectors.shape[-1])
        ended = (seen == 0).any(1)
        return self.logits((memory + cache[1])[:, None], seen.shape[1], ended[:, None])[:, 0], (seen, cache[1])

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        log_p = self.next_logits(batch.x[:, :-1], batch.condition).log_softmax(-1)
        each = log_p.gather(-1, batch.x[..., None])[..., 0]
        return LogProb(each[:, 1:].sum(1) if self.flaw == "leaves a symbol out" else each.sum(1), "exact")

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("likelihood", list(self.parameters()), lambda batch, rows: -self.log_prob(batch, rows).value),)

    def settings(self) -> How:
        return Walk()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        logits, cache = self.step(self.begin(condition, len(rows)), torch.zeros(len(rows), 0, dtype=torch.int64))
        for t in range(self.space.length):
            token = rows.fork("token", t).categorical(logits)
            logits, cache = self.step(cache, token[:, None])
        return cache[0]

    def sites(self) -> tuple[Site, ...]:
        return (Site("the only one", "places", "symbols before them", 1),)

    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        maps = self.weights(x.shape[1] + 1)[1:] * (0.5 if self.flaw == "attends by half" else 1.0)
        return maps.expand(len(x), 1, -1, -1)


Line.engine = LineEngine


class Pairs(Toy):
    """Counts how often two places hold two symbols together, and fills gaps place by place from that."""

    name: ClassVar[str] = "pairs"
    title: ClassVar[str] = "counts of pairs"
    engine: ClassVar[type[nn.Module]]

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Tokens):
            return Refusal("the space has numbers, and only symbols are counted")
        return Refusal("nothing can be given beforehand to these counts") if conditions else None

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> PairsEngine:
        self.refused(space, conditions)
        assert isinstance(space, Tokens)
        engine = PairsEngine(self.flaw, space)
        if isinstance(base, PairsEngine):
            engine.restore(base.tables())
        return engine


class PairsEngine(nn.Module, Counts, Unmasks):
    """log P(symbol at t | known) = log share of it + sum over known places of how well it goes with theirs."""

    def __init__(self, flaw: str, space: Tokens) -> None:
        super().__init__()
        self.flaw, self.space, T, V = flaw, space, space.length, space.symbols
        self.counts = torch.zeros(T, V, T, V, dtype=torch.int64)
        self.log_p = torch.zeros(T, V, T, V)

    def absorb(self, batch: Batch) -> None:
        x = nn.functional.one_hot(batch.x, self.space.symbols)
        found = torch.einsum("btv,bsw->tvsw", x, x)
        if self.flaw == "counts into what it was given":
            self.counts.add_(found)
        else:
            self.counts = (2 * self.counts if self.flaw == "later shards weigh more" else self.counts) + found

    def settle(self) -> None:
        smooth = self.counts.double() + 0.5
        self.log_p = (smooth / smooth.sum((1, 3), keepdim=True)).log().float()

    def tables(self) -> dict[str, Tensor]:
        return {"counts": self.counts}

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        counts = tables["counts"]
        if counts.shape != self.counts.shape:
            raise BadInput(f"counts have shape {tuple(counts.shape)}", accepted=str(tuple(self.counts.shape)))
        self.counts = counts + 1 if self.flaw == "restores wrongly" else counts
        self.settle()

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        own = self.log_p.diagonal(dim1=0, dim2=2).logsumexp(1).T  # (T, V)
        seen = torch.ones_like(known) if self.flaw == "reads what is unknown" else known
        with_ = self.log_p.permute(2, 3, 0, 1)  # (T, V) of the known place, then (T, V)
        place = torch.arange(self.space.length)
        told = with_[place, tokens] - own  # (B, T known, T, V)
        logits = own + torch.where(seen[:, :, None, None], told, 0.0).sum(1)
        lacking = torch.arange(self.space.symbols) >= torch.tensor(self.space.sizes)[:, None]
        logits = logits.masked_fill(lacking, -torch.inf)
        return logits if at is None else logits[:, at]


Pairs.engine = PairsEngine
