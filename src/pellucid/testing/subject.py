"""What a law looks at: a family, a small space, an engine fitted a little on data made up for it, and some rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.capabilities import Counts, Family, How, Learns, Samples
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent, Trace
from pellucid.training.loop import count, train

__all__ = [
    "CONDITIONS",
    "SPACES",
    "Broken",
    "Law",
    "LawBroken",
    "Subject",
    "agree",
    "conditions_for",
    "largest_gap",
    "made_up",
    "require",
    "sentence",
    "title",
    "what_was_seen",
]

ITEMS = 200  # made-up items an engine is fitted on
STEPS = 30  # of training: enough that no weight is still at zero
ROWS = 7  # rows that laws look at; no other size below is 7, so that mixed-up axes do not fit

SPACES: dict[str, Space] = {
    "two numbers": Real((2,)),
    "numbers": Real((5,)),
    "levels": Real((3,), levels=4),
    "picture": Real((1, 4, 6), levels=17),
    "smooth picture": Real((3, 8, 4)),
    "symbols": Tokens(4, 3),
    "columns": Tokens((2, 5, 3, 4), 4),
    "sentences": Tokens(3, 5, ends=True),
    "table": Mixed(
        (
            Field("amount", Real((1,)), present=("state", 1)),
            Field("state", Tokens(3, 1)),
            Field("size", Real((1,))),
            Field("flags", Tokens((2, 4), 2)),
        )
    ),
}
"""Small spaces of every kind, no two axes alike; none has more events than can be enumerated but the pictures."""

CONDITIONS: tuple[dict[str, Space], ...] = (
    {"class": Tokens(3, 1), "hint": Real((2,))},
    {"class": Tokens(3, 1), "hint": Tokens((2, 3), 2)},
    {"class": Tokens(3, 1)},
    {},
)
"""Conditions to build with; the first that a family takes is used."""


class Broken(AssertionError):
    """Raised inside a law: what was seen."""


class LawBroken(AssertionError):
    """A family or domain that does not keep its laws.

    Args:
        subject: who. broken: name of each broken law -> what it says and what was seen.
    """

    def __init__(self, subject: str, broken: Mapping[str, str]) -> None:
        self.subject, self.broken = subject, dict(broken)
        lines = [f"  {name}: {text}" for name, text in broken.items()]
        super().__init__("\n".join([f"{subject} breaks {len(broken)} of its laws:", *lines]))


@dataclass(frozen=True)
class Law:
    """One law for engines of some capabilities: a function that raises `Broken`, or anything else, when broken."""

    check: Callable[[Subject], None]
    needs: tuple[type, ...] = ()

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def sentence(self) -> str:
        return sentence(self.check)

    def applies(self, engine: nn.Module) -> bool:
        """Does the engine list what the law is about?"""
        return all(isinstance(engine, capability) for capability in self.needs)

    def seen(self, subject: Subject) -> str | None:
        """None if the law is kept, else its sentence and what was seen; the engine is left in evaluation mode."""
        try:
            return what_was_seen(self.check, subject)
        finally:
            subject.engine.eval()
            subject.engine.zero_grad(set_to_none=True)


def sentence(check: Callable[..., None]) -> str:
    """What a law says: the first line of its docstring."""
    return (check.__doc__ or "").strip().splitlines()[0]


S = TypeVar("S")


def what_was_seen(check: Callable[[S], None], subject: S) -> str | None:
    """None if the check passes, else what it says and what was seen; torch's generator is left as it was."""
    try:
        with torch.random.fork_rng(devices=[]):
            check(subject)
    except Broken as broken:
        return f"{sentence(check)} Seen: {broken}"
    except Exception as error:  # whatever is raised where a law asks something breaks that law
        return f"{sentence(check)} Seen: {type(error).__name__}: {error}"
    return None


@dataclass(frozen=True, eq=False)
class Subject:
    """A family under test.

    Args:
        engine: fitted on a few made-up items, in evaluation mode. fresh: as it was built.
        batch: ROWS rows with all conditions given. items: all that the engine was fitted on.
    """

    family: Family
    space: Space
    conditions: Mapping[str, Space]
    seed: int
    fresh: nn.Module
    engine: nn.Module
    batch: Batch
    items: Batch = field(repr=False)

    @staticmethod
    def of(family: Family, space: Space, conditions: Mapping[str, Space] | None = None, seed: int = 0) -> Subject:
        """Build an engine for a space that the family accepts, and fit it a little."""
        wanted = conditions_for(family, space) if conditions is None else conditions
        items = made_up(space, wanted, ITEMS, seed)
        first = Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("build")
        fresh, engine = (family.build(space, wanted, first) for _ in range(2))
        examples = TensorExamples(items.x, items.condition)
        if isinstance(engine, Learns):
            settings = dataclasses.replace(family.training(space, ITEMS), batch=32, ema=None, warmup=0.0)
            train(engine, examples, settings=settings, steps=STEPS, seed=seed, run=Run())
        if isinstance(engine, Counts):
            count(engine, examples, 3, Run(), seed=seed)
        batch = items.take(torch.arange(11, 11 + ROWS))
        return Subject(family, space, wanted, seed, fresh.eval(), engine.eval(), batch, items)

    def rows(self, ids: Tensor | None = None, name: str = "law") -> Rows:
        """Noise for the rows of the batch, or for other ids."""
        return Rows(self.seed, self.batch.ids if ids is None else ids).fork(name)

    def rebuilt(self, seed: int = 99, base: nn.Module | None = None) -> nn.Module:
        """Another engine of the same family, from other first weights."""
        return self.family.build(self.space, self.conditions, Rows(seed, torch.zeros(1, dtype=torch.int64)), base)

    def how(self) -> How:
        """The engine's own way to sample, with fewer steps where it has steps."""
        assert isinstance(self.engine, Samples)
        how = self.engine.settings()
        steps = getattr(how, "steps", None)
        if isinstance(steps, int) and dataclasses.is_dataclass(how):
            changed: How = dataclasses.replace(how, **{"steps": min(steps, 6)})
            return changed
        return how

    def sample(
        self, ids: Tensor, condition: Condition, engine: nn.Module | None = None, trace: Trace | None = None
    ) -> Tensor:
        """(B, *event) for these ids."""
        engine = self.engine if engine is None else engine
        assert isinstance(engine, Samples)
        with torch.no_grad():
            return engine.sample(self.rows(ids, "sample"), condition, self.how(), trace or Silent())


def require(kept: bool | Tensor, seen: str) -> None:
    """Raise `Broken` with what was seen, unless the law is kept."""
    if not bool(kept):
        raise Broken(seen)


def largest_gap(a: Tensor, b: Tensor) -> float:
    """Largest difference between two tensors, relative to the largest entry; infinite where only one is finite."""
    if a.shape != b.shape:
        raise Broken(f"shapes {tuple(a.shape)} and {tuple(b.shape)} where they should be equal")
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    both = a.isfinite() & b.isfinite()
    if not torch.equal(torch.where(both, 0.0, a), torch.where(both, 0.0, b)):
        return math.inf
    size = torch.where(both, torch.maximum(a.abs(), b.abs()), 0.0).max().clamp(min=1e-12)
    return float((torch.where(both, a - b, 0.0).abs() / size).max())


def agree(space: Space, a: Tensor, b: Tensor, tolerance: float = 1e-4) -> float:
    """Share of rows in which two lots of events agree: symbols equal, numbers within a share of their range."""
    if a.shape != b.shape:
        raise Broken(f"shapes {tuple(a.shape)} and {tuple(b.shape)} where they should be equal")
    if not len(a):
        return 1.0
    if isinstance(space, Tokens):
        return float((a == b).flatten(1).all(1).double().mean())
    if isinstance(space, Mixed):
        ours, theirs = space.split(a), space.split(b)
        same = torch.ones(len(a), dtype=torch.bool)
        for f in space.fields:
            same &= _close(ours[f.name].double(), theirs[f.name].double(), tolerance)
        return float(same.double().mean())
    return float(_close(a.double(), b.double(), tolerance).double().mean())


def _close(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """(B,) bool: all numbers of a row within a share of the range of all."""
    span = float(a.max() - a.min()) or 1.0
    return ((a - b).abs() <= tolerance * span).flatten(1).all(1)


def title(family: Family, space: Space, conditions: Mapping[str, Space]) -> str:
    """Who is under test, on what."""
    return f"family '{family.name}' on {space} given {', '.join(conditions) or 'nothing'}"


def conditions_for(family: Family, space: Space) -> Mapping[str, Space]:
    """The first of `CONDITIONS` that the family takes with this space; none if it takes none."""
    taken = (c for c in CONDITIONS if family.accepts(space, c) is None)
    return next(taken, {})


def made_up(space: Space, conditions: Mapping[str, Space], items: int, seed: int) -> Batch:
    """Items that depend on their conditions, on a hidden number and on one another's parts."""
    rows = Rows(seed, torch.arange(items)).fork("made up")
    given = {k: _drawn(of, rows.fork(f"condition {k}"), None) for k, of in conditions.items()}
    flags = dict.fromkeys(conditions, torch.ones(items, dtype=torch.bool))
    lean = rows.normal()
    for value in given.values():
        lean = lean + value.double().flatten(1)[:, 0].float() - 1.0
    return Batch(_drawn(space, rows.fork("event"), lean), torch.arange(items), Condition(given, flags))


def _drawn(space: Space, rows: Rows, lean: Tensor | None) -> Tensor:
    """(N, *event); a large `lean` (N,) makes large numbers and late symbols likelier."""
    pull = torch.zeros(len(rows)) if lean is None else lean
    if isinstance(space, Real):
        wave = torch.linspace(-1.0, 1.0, space.size).cos().reshape(space.shape)
        x = 0.6 * pull.reshape(-1, *[1] * len(space.shape)) * wave + 0.5 * rows.normal(*space.shape)
        if space.levels is None:
            return x
        return ((x.tanh() + 1) / 2 * (space.levels - 1)).round() * space.step + space.low
    if isinstance(space, Tokens):
        columns: list[Tensor] = []
        for t, size in enumerate(space.sizes):
            before = columns[-1] if columns else torch.zeros(len(rows), dtype=torch.int64)
            logits = 0.5 * pull[:, None] * torch.linspace(-1.0, 1.0, size)
            logits = logits + 1.5 * nn.functional.one_hot((before + 1) % size, size)
            columns.append(rows.fork("symbol", t).categorical(logits))
        x = torch.stack(columns, 1)
        return torch.where((x == 0).long().cumsum(1) > 0, 0, x) if space.ends else x
    parts = {f.name: _drawn(f.space, rows.fork(f"field {f.name}"), lean) for f in space.fields}
    for f in space.fields:
        there = space.present(parts, f).reshape(-1, *[1] * (parts[f.name].ndim - 1))
        parts[f.name] = torch.where(there, parts[f.name], torch.zeros_like(parts[f.name]))
    return space.join(parts)
