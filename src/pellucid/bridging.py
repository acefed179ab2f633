"""The way from a codec's space to one that a family takes: a bridge that fits, or another model's latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.catalog import BRIDGES, bridge_class, families, family_class
from pellucid.core.capabilities import Decodes, Encodes, Family, Quantises
from pellucid.core.codec import Bridge, Chain, Codec, Identity
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.settings import to_plain
from pellucid.core.space import Space, space_to_plain
from pellucid.domains.bridges.latent import LatentBridge, SymbolBridge
from pellucid.model import Fitted

__all__ = ["bridge_for", "latent_way", "through_recipe"]

SOME = 1000  # items on which a latent space is measured


def bridge_for(family: Family, space: Space, conditions: Mapping[str, Space], x: Tensor) -> Bridge:
    """The first way from a codec's space to one that the family accepts.

    Args:
        x: (N, *event) in that space, from which a bridge learns.

    Raises BadInput with the family's reasons when no way is found, and with the families that have one.
    """
    found = _way(family, space, conditions, x)
    if isinstance(found, Bridge):
        return found
    few = x[:1000]
    others = [n for n in families() if isinstance(_way(family_class(n)(), space, conditions, few), Bridge)]
    raise BadInput(
        f"family '{family.name}' cannot take this data",
        accepted=f"families that can: {', '.join(others) or 'none'}",
        why="; ".join(found),
    )


def _way(family: Family, space: Space, conditions: Mapping[str, Space], x: Tensor) -> Bridge | list[str]:
    """A bridge, or the reasons why there is none."""
    refusal = family.accepts(space, conditions)
    if refusal is None:
        return Identity(space)
    reasons = [refusal.reason]
    for name in BRIDGES:
        kind: Any = bridge_class(name)
        if kind.fits(space):
            bridge: Bridge = kind.learn(space, x)
            refused = family.accepts(bridge.target, conditions)
            if refused is None:
                return bridge
            reasons.append(f"{refused.reason} (through {name})")
    return list(dict.fromkeys(reasons))


def latent_way(family: Family, codec: Codec[Any], through: Fitted, x: Tensor) -> Bridge:
    """From the codec's space to the latent vectors of another model, or to the symbols in which it writes items.

    Args:
        x: (N, *event) in the codec's space, on which a latent grid is measured.
    """
    if not (isinstance(through.engine, Encodes) and isinstance(through.engine, Decodes)):
        raise MissingCapability(
            f"'{through.name}' cannot carry another model",
            accepted=f"a model of a family that encodes and decodes: {', '.join(_encoders())}",
            why=f"It offers {', '.join(through.offers())}.",
        )
    if through.family is None:
        raise BadInput(f"'{through.name}' is an adopted model, which cannot carry another", accepted="a fitted model")
    some = x[:: max(1, len(x) // SOME)]
    seen = through.bridge.there(some, Rows(0, torch.arange(len(some))).fork("measure"))
    latent: Bridge = LatentBridge.measured(through.engine, through.bridge.target, seen)
    refusal = family.accepts(latent.target, codec.conditions)
    if refusal is not None and isinstance(through.engine, Quantises):
        latent = SymbolBridge(through.engine, through.bridge.target)
        refusal = family.accepts(latent.target, codec.conditions)
    if refusal is not None:
        raise BadInput(
            f"family '{family.name}' cannot take the latent vectors of '{through.name}'",
            why=refusal.reason,
            next=f"Instead: {refusal.instead}" if refusal.instead else "",
        )
    return latent if isinstance(through.bridge, Identity) else Chain(through.bridge, latent)


def through_recipe(through: Fitted | None) -> dict[str, Any] | None:
    """What builds the engine of a latent bridge again."""
    if through is None:
        return None
    assert through.family is not None
    return {
        "family": through.family.name,
        "settings": to_plain(through.family),
        "space": space_to_plain(through.bridge.target),
        "conditions": {k: space_to_plain(s) for k, s in through.codec.conditions.items()},
        "through": through.recipe.get("through"),
    }


def _encoders() -> list[str]:
    able = {n: family_class(n).engine for n in families()}
    return [n for n, engine in able.items() if issubclass(engine, Encodes) and issubclass(engine, Decodes)]
