"""The menu: every family, what it takes and what it can do, made from the code itself."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.catalog import BRIDGES, bridge_class, families, family_class
from pellucid.core.capabilities import CAPABILITIES, offers
from pellucid.core.report import Block, Cell, Prose, Report, Table
from pellucid.core.space import Field, Mixed, Real, Space, Tokens

__all__ = ["Menu", "Taken", "menu", "taken"]

KINDS: dict[str, Space] = {
    "images": Real((1, 8, 8), levels=256),
    "table": Mixed((Field("category", Tokens(3, 1)), Field("number", Real((1,))))),
}
"""One small space for each kind of data, as its codec would give it."""


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
        takes: list[tuple[Cell, ...]] = [
            (name, self.titles[name], *(str(self.kinds[name][k]) for k in KINDS)) for name in self.kinds
        ]
        able: list[tuple[Cell, ...]] = [
            (name, *("yes" if c in self.capabilities[name] else "" for c in CAPABILITIES)) for name in self.kinds
        ]
        return (
            Prose("What each family takes, and through which bridge; then what its engine can do."),
            Table(columns=("family", "what it is", *KINDS), rows=takes),
            Table(columns=("family", *CAPABILITIES), rows=able),
        )


def menu() -> Menu:
    """Ask every family of the catalogue."""
    classes = {name: family_class(name) for name in families()}
    return Menu(
        {n: {k: taken(n, s) for k, s in KINDS.items()} for n in classes},
        {n: offers(c.engine) for n, c in classes.items()},
        {n: c.title for n, c in classes.items()},
    )


def taken(name: str, space: Space) -> Taken:
    """How the family with its default settings meets this space."""
    import torch

    from pellucid.core.space import zeros

    family = family_class(name)()
    refusal = family.accepts(space, {})
    if refusal is None:
        return Taken("yes")
    for bridge in BRIDGES:
        kind = bridge_class(bridge)
        if kind.fits(space):  # type: ignore[attr-defined]
            made = kind.learn(space, zeros(space, 64) + 0 * torch.arange(64.0).reshape(-1, *[1] * len(space.shape)))  # type: ignore[attr-defined]
            if family.accepts(made.target, {}) is None:
                return Taken(f"through {bridge}")
    return Taken("", refusal.reason)
