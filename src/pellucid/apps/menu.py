"""The menu: every family, what it takes and what it can do, made from the code itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pellucid.catalog import domain_class, families, family_class
from pellucid.core.capabilities import CAPABILITIES, Family, offers
from pellucid.core.codec import Identity
from pellucid.core.errors import BadInput
from pellucid.core.report import Block, Cell, Prose, Report, Table
from pellucid.domains.frames import read_table
from pellucid.domains.kinds import Data, kind_of_data
from pellucid.domains.molecule_files import molecules_of
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import text_of
from pellucid.fitting import bridge_for

__all__ = ["Menu", "Taken", "few", "menu", "taken"]

ITEMS = 96  # enough for every bridge to learn from


@dataclass(frozen=True)
class Taken:
    """How a family takes a kind of data: as it is, through a bridge, or not at all and why."""

    through: str
    reason: str = ""

    def __str__(self) -> str:
        return self.through or f"no: {self.reason}"


@dataclass(frozen=True)
class Menu(Report):
    """Family x kind of data x capability."""

    kinds: dict[str, dict[str, Taken]]
    capabilities: dict[str, tuple[str, ...]]
    titles: dict[str, str]

    @property
    def title(self) -> str:
        return "Families"

    def blocks(self) -> tuple[Block, ...]:
        kinds = tuple(next(iter(self.kinds.values())))
        takes: list[tuple[Cell, ...]] = [
            (name, self.titles[name], *(str(self.kinds[name][k]) for k in kinds)) for name in self.kinds
        ]
        able: list[tuple[Cell, ...]] = [
            (name, *("yes" if c in self.capabilities[name] else "" for c in CAPABILITIES)) for name in self.kinds
        ]
        return (
            Prose("What each family takes, and through which bridge; then what its engine can do."),
            Table(columns=("family", "what it is", *kinds), rows=takes),
            Table(columns=("family", *CAPABILITIES), rows=able),
        )


def menu() -> Menu:
    """Ask every family of the catalogue, about a few items of every kind of data."""
    classes = {name: family_class(name) for name in families()}
    data = few()
    return Menu(
        {n: {k: taken(c(), items) for k, items in data.items()} for n, c in classes.items()},
        {n: offers(c.engine) for n, c in classes.items()},
        {n: c.title for n, c in classes.items()},
    )


def taken(family: Family, items: Data) -> Taken:
    """How a family meets these items, found in the way in which `fit` finds it."""
    codec: Any = domain_class(kind_of_data(items))().learn(items)
    try:
        bridge = bridge_for(family, codec.space, codec.conditions, codec.encode(items))
    except BadInput as error:
        return Taken("", error.why)
    return Taken("as it is" if isinstance(bridge, Identity) else f"through {bridge.name}")


def few() -> dict[str, Data]:
    """A few made-up items of each kind: small grey pictures, rows of numbers, words and gaps, lines, and alcohols."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": draw.normal(size=ITEMS).round(3),
            "whole": draw.integers(0, 1000, ITEMS),
            "word": draw.choice(["a", "b", "c"], ITEMS),
            "gaps": np.where(draw.random(ITEMS) < 0.2, np.nan, draw.exponential(size=ITEMS)),
            "class": draw.choice(["yes", "no"], ITEMS),
        }
    )
    pixels = draw.integers(0, 256, (ITEMS, 8, 8, 1)).astype(np.uint8)
    return {
        "images": Pictures(pixels=pixels, labels=tuple(str(i % 3) for i in range(ITEMS))),
        "table": read_table(frame, target="class"),
        "text": text_of(["".join(draw.choice(list("abc"), 4)) for _ in range(ITEMS)]),
        "molecules": molecules_of(["C" * int(n) + "O" for n in draw.integers(1, 6, ITEMS)]),
    }
