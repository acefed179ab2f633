"""What the JSON files of a run say, as settings that check each value: recipe, codec, outcome, source.

A run folder may be a stranger's. Nothing in these files is used before it was read into the type it must have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pellucid.core.capabilities import Training
from pellucid.core.errors import BadInput, shown

__all__ = ["OUTCOME", "Outcome", "Recipe", "RunData", "Source", "StoredBridge", "StoredCodec", "Through", "check_sizes"]

LARGEST_EVENT = 2**24  # numbers in one event; no family takes so many


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What the run learned from: kind of data, how many items, their fingerprint, and where they came from."""

    kind: str
    items: int
    fingerprint: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Through:
    """How to build the engine of a latent bridge again; `through` for the one below it."""

    family: str
    settings: Mapping[str, Any]
    space: Mapping[str, Any]
    conditions: Mapping[str, Any]
    through: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a run went on from: family and hash of the weights; what of it moves, what was new, has grown, or moves."""

    family: str
    weights: str
    adapt: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, list[str]] = field(default_factory=dict)
    grown: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """recipe.json: what a run was resolved to. Only the first four are needed to build the engine again."""

    family: str
    settings: Mapping[str, Any]
    seed: int
    space: Mapping[str, Any]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    held_out: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    steps: int = 1
    minutes: float | None = None
    data: RunData | None = None
    base: Base | None = None
    objective: Mapping[str, Any] | str | None = None  # name and settings; a class's name when it has no other
    through: Through | None = None

    def __post_init__(self) -> None:
        if self.threads < 1 or self.steps < 1 or not 0.0 <= self.held_out < 1.0 or (self.data and self.data.items < 1):
            raise BadInput(
                f"threads {self.threads}, steps {self.steps}, held out {self.held_out}",
                accepted="at least one thread, step and item, and a share below 1",
            )


@dataclass(frozen=True, kw_only=True)
class StoredBridge:
    """A bridge by name, with what its `plain` gave."""

    name: str
    plain: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StoredCodec:
    """codec.json: the codec by its kind, with what its `plain` gave, and the bridge that follows it."""

    kind: str
    codec: Mapping[str, Any]
    bridge: StoredBridge


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """outcome.json: what is known only at the end, kept apart so that the recipe never changes while a run goes on."""

    steps_done: int | None = None
    seconds: float | None = None
    changed: Mapping[str, Any] | None = None  # how far the weights moved from those of the base


OUTCOME = tuple(f.name for f in fields(Outcome))


@dataclass(frozen=True, kw_only=True)
class Source:
    """source.json: where the data was read from, and how."""

    path: str
    kind: str = "auto"
    target: str | None = None
    kinds: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    constraints: tuple[str, ...] = ()
    drop_breaking: bool = False
    text: Mapping[str, Any] = field(default_factory=dict)


def check_sizes(value: Any) -> None:
    """Refuse spaces too large to be worked with, before anything is allocated for them."""
    level = [value]
    while level := [v for v in level if isinstance(v, (dict, list))]:
        for space in [v for v in level if isinstance(v, dict) and "space" in v]:
            sides = space.get("shape") if isinstance(space.get("shape"), list) else [space.get("length")]
            if math.prod(n for n in sides or () if isinstance(n, int)) > LARGEST_EVENT:
                raise BadInput(f"a space is {shown(sides)} large", accepted=f"at most {LARGEST_EVENT:,} numbers")
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
