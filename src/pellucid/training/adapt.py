"""Going on from a model one has: which of its weights may move, and how far they have moved in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Examples
from pellucid.core.capabilities import Learns, Objective, Training, Turn
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.order import Order
from pellucid.training.precision import copied
from pellucid.training.step import Step
from pellucid.training.walk import encoded

__all__ = ["Adapt", "Changed", "Narrowed", "changed", "last_layers", "moved_by"]


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """What of a model moves when it is trained on.

    how: "whole" for all weights, "last" for the layers that come last, "lora" for low-rank adapters on every linear
        and convolutional layer (`nets/lora.py`). What is new, such as the row of a new class, always moves.
    share: of the layers, counted from the end, that "last" moves.
    rank, alpha: of the adapters; their product is scaled by alpha / rank.
    statistics: "keep" what the base took from its own data before training (such as the Gaussian of diffusion), or
        "renew" it from the new data, which starts nearer to that and further from what was known.
    """

    how: Literal["whole", "last", "lora"] = "whole"
    share: float = 0.25
    rank: int = 8
    alpha: float = 8.0
    statistics: Literal["keep", "renew"] = "keep"

    def __post_init__(self) -> None:
        if self.how not in ("whole", "last", "lora"):
            raise BadInput(f"adapt is '{self.how}'", accepted="whole, last, lora")
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"share is {self.share}", accepted="more than 0, at most 1")
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0.0):
            raise BadInput(f"rank is {self.rank} and alpha {self.alpha}", accepted="a rank of 1 or more, alpha above 0")


@dataclass(frozen=True)
class Narrowed(Objective):
    """The turns of an engine (or of another objective), moving only some of the engine's parameters.

    Parameters that are not the engine's, such as an objective's own critic, move as they did.

    Args:
        moving: names of the engine's parameters. inner: None for the engine's own turns.
    """

    moving: tuple[str, ...]
    inner: Objective | None = None

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        if self.inner is not None:
            turns = self.inner.turns(engine, base)
        elif isinstance(engine, Learns):
            turns = engine.turns()
        else:
            raise MissingCapability(f"{type(engine).__name__} is not trained by gradients", next="Use adapt='whole'.")
        named = dict(engine.named_parameters())
        if strange := [name for name in self.moving if name not in named]:
            raise BadInput(f"{type(engine).__name__} has no weight '{strange[0]}'", accepted="weights of the engine")
        resting = {id(p) for p in named.values()} - {id(named[name]) for name in self.moving}
        narrow = [replace(t, parameters=[p for p in t.parameters if id(p) not in resting]) for t in turns]
        return tuple(t for t in narrow if t.parameters)


def last_layers(
    engine: nn.Module,
    examples: Examples,
    settings: Training,
    share: float,
    *,
    seed: int,
    run: Run,
    bridge: Bridge | None = None,
) -> tuple[str, ...]:
    """Names of the weights of the layers that are used last in each turn, found by watching one batch of losses.

    Args:
        share: of the layers with weights that the turn moves.

    Raises MissingCapability for an engine without turns of its own, BadInput for one that uses no layers.
    """
    engine, _ = copied(engine, None, None)
    ids = Order(seed, len(examples), settings.batch).ids(0)
    batch, rows = encoded(examples, ids, Rows(seed, ids).fork("last"), bridge, run.device)
    step = Step(engine).to(run.device)
    names = {id(p): name for name, p in engine.named_parameters()}
    found: set[str] = set()
    for i, turn in enumerate(step.turns):
        moved = {id(p) for p in turn.parameters}
        used: dict[nn.Module, None] = {}  # in the order of their latest use

        def note(module: nn.Module, inputs: object, used: dict[nn.Module, None] = used) -> None:
            used.pop(module, None)
            used[module] = None

        layers = [m for m in engine.modules() if moved & {id(p) for p in m.parameters(recurse=False)}]
        handles = [m.register_forward_pre_hook(note) for m in layers]
        with rows.seeding(), torch.no_grad():
            step(i, batch, rows)
        for handle in handles:
            handle.remove()
        last = list(used)[-max(1, math.ceil(share * len(used))) :] if used else []
        found |= {names[id(p)] for m in last for p in m.parameters(recurse=False) if id(p) in moved}
    if not found:
        raise BadInput(f"{type(engine).__name__} does not say which layers come last", accepted="adapt='whole'")
    return tuple(name for name in names.values() if name in found)


def moved_by(engine: nn.Module, objective: Objective | None, base: nn.Module | None) -> int:
    """How many of the engine's numbers its turns (or an objective's) move; 0 for an engine without any."""
    turns: tuple[Turn, ...] = ()
    if objective is not None:
        turns = objective.turns(engine, base)
    elif isinstance(engine, Learns):
        turns = engine.turns()
    owned = {id(p): p.numel() for p in engine.parameters()}
    return sum(owned.get(i, 0) for i in {id(p) for turn in turns for p in turn.parameters})


@dataclass(frozen=True)
class Changed:
    """How far the weights of a model moved from those it started with.

    trained, total: numbers that could move, and all that are learned.
    whole: |W' - W| / |W| over all of them. parts: the same of each part of the engine, largest first.
    """

    trained: int
    total: int
    whole: float
    parts: Mapping[str, float]

    def __str__(self) -> str:
        most = ", ".join(f"{name} {share:.1%}" for name, share in list(self.parts.items())[:4])
        return (
            f"{self.trained:,} of {self.total:,} weights could move; together they moved by {self.whole:.1%} of their "
            f"size (by part: {most})"
        )


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor], learned: Iterable[str], trained: int) -> Changed:
    """Compare two states of one engine.

    Args:
        learned: names of its parameters; buffers do not count. trained: how many numbers could move.

    >>> one, two = {"a.w": torch.tensor([3.0, 4.0])}, {"a.w": torch.tensor([3.0, 4.5])}
    >>> str(changed(one, two, ["a.w"], 2))
    '2 of 2 weights could move; together they moved by 10.0% of their size (by part: a 10.0%)'
    """
    squares: dict[str, list[float]] = {}
    total = 0
    for name in learned:
        old, new = before[name].double().cpu(), after[name].double().cpu()
        sums = squares.setdefault(_part(name), [0.0, 0.0])
        sums[0] += float((new - old).square().sum())
        sums[1] += float(old.square().sum())
        total += old.numel()
    parts = {part: _ratio([sums]) for part, sums in squares.items()}
    ordered = dict(sorted(parts.items(), key=lambda entry: (-entry[1], entry[0])))
    return Changed(trained, total, _ratio(list(squares.values())), ordered)


def _ratio(sums: Sequence[Sequence[float]]) -> float:
    far, size = sum(s[0] for s in sums), sum(s[1] for s in sums)
    return math.sqrt(far / size) if size else math.sqrt(far)


def _part(name: str) -> str:
    """A weight's part of the engine: its first two names.

    >>> _part("network.down.0.weight"), _part("scale")
    ('network.down', 'scale')
    """
    return ".".join(name.split(".")[:-1][:2]) or name
