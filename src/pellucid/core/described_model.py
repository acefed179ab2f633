"""What a fitted model is, as a report: its parts, its size, what it learned from and what it can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pellucid.core.capabilities import CAPABILITIES, Counts, Family, Part, offers, parameters_of
from pellucid.core.codec import Bridge, Codec, Constrains
from pellucid.core.report import Block, Heading, Prose, Report, Table
from pellucid.core.space import Space, space_to_plain

__all__ = ["Described", "described", "learned_numbers"]


@dataclass(frozen=True)
class Described(Report):
    """What a model is: its parts, its size, what it was fitted on and what it can be asked."""

    family: str
    heading: str
    parameters: int
    offers: tuple[str, ...]
    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return self.heading

    def blocks(self) -> tuple[Block, ...]:
        parts = tuple((p.name, p.sentence, p.formula) for p in self.parts)
        lacking = [c for c in CAPABILITIES if c not in self.offers]
        return (
            Table(columns=("", ""), rows=self.facts),
            Heading("Its parts"),
            Table(columns=("part", "what it does", "formula"), rows=parts),
            Heading("What it can be asked"),
            Prose(f"It offers {', '.join(self.offers)}. It does not offer {', '.join(lacking)}."),
        )


def described(
    name: str, family: Family | None, engine: nn.Module, codec: Codec[Any], bridge: Bridge, recipe: Mapping[str, Any]
) -> Described:
    """What the parts of a model say about it."""
    data = recipe.get("data") or {}
    bound = codec.constraints if isinstance(codec, Constrains) else ()
    facts = [
        ("family", f"{family.title} ({family.name})" if family is not None else name),
        ("learned numbers", f"{learned_numbers(engine):,}"),
        (
            "fitted on",
            f"{data.get('items', '?'):,} items of kind {data.get('kind')} ({data.get('source')})"
            if data
            else "unknown",
        ),
        ("conditions", ", ".join(codec.conditions) or "none"),
        *([("constraints", "; ".join(bound))] if bound else []),
        ("space", _space_words(codec.space)),
        ("bridge", f"{bridge.name} to {_space_words(bridge.target)}"),
        ("steps", f"{recipe['steps_done']:,}" if "steps_done" in recipe else "-"),
        ("training took", f"{recipe['seconds']} s" if "seconds" in recipe else "-"),
        ("seed", str(recipe.get("seed", "-"))),
        ("settings", json.dumps(recipe.get("settings", {}))),
        *_origin(recipe),
    ]
    parts = parts_of(family, engine)
    title = family.title if family is not None else name
    return Described(
        name,
        f"{title[:1].upper()}{title[1:]}: a fitted model",
        learned_numbers(engine),
        offers(engine),
        parts,
        tuple(facts),
    )


def _origin(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which other models this one was made with, and by which objective, where there are any."""
    base, through, objective = (recipe.get(k) for k in ("base", "through", "objective"))
    found = []
    if base:
        adapt = base["adapt"]
        knobs = {"lora": ("rank", "alpha"), "last": ("share",)}.get(adapt["how"], ())
        how = ", ".join((adapt["how"], *(f"{k} {adapt[k]:g}" for k in knobs)))
        found.append(("goes on from", f"a model of family {base['family']} ({base['weights'][:12]}), adapted: {how}"))
    if through:
        found.append(("learned through", f"the latent space of a model of family {through['family']}"))
    if objective:
        found.append(("trained by", f"{objective['name']} {json.dumps(objective['settings'])}"))
    return found


def parts_of(family: Family | None, engine: nn.Module) -> tuple[Part, ...]:
    """The pieces that a model is made of: its family's, or those that an adopted engine has `parts` of its own for."""
    told = engine if family is None else family
    found: tuple[Part, ...] = getattr(told, "parts", tuple)()
    return found


def learned_numbers(engine: nn.Module) -> int:
    """Numbers that were learned: trained ones, or counts."""
    if isinstance(engine, Counts):
        return sum(t.numel() for t in engine.tables().values())
    return parameters_of(engine)


def _space_words(space: Space) -> str:
    plain = space_to_plain(space)
    if plain["space"] == "Mixed":
        return f"Mixed of {len(plain['fields'])} fields, {space.size} numbers"
    return f"{plain['space']} {'x'.join(map(str, space.shape))}" + (
        f", {plain['levels']} levels" if plain.get("levels") else ""
    )
