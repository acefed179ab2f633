"""The one table from names to classes. Nothing else in the project imports by name.

Other packages add families through the entry-point group "pellucid.families", objectives through
"pellucid.objectives".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import BadInput, fault, nearest

if TYPE_CHECKING:
    from pellucid.core.capabilities import Family, Objective
    from pellucid.core.codec import Bridge, Codec, Domain

__all__ = [
    "BRIDGES",
    "CODECS",
    "DOMAINS",
    "EXPLANATIONS",
    "FAMILIES",
    "MADE",
    "OBJECTIVES",
    "bridge_class",
    "codec_class",
    "domain_class",
    "explanation",
    "families",
    "family_class",
    "objective_class",
    "objective_name",
    "objectives",
    "resolve",
]

FAMILIES: dict[str, str] = {
    "vae": "pellucid.families.vae:VAE",
    "gan": "pellucid.families.gan:GAN",
    "flow": "pellucid.families.realnvp:RealNVP",
    "spline_flow": "pellucid.families.spline_flow:SplineFlow",
    "glow": "pellucid.families.glow:Glow",
    "vq": "pellucid.families.vq:VQ",
    "autoregressive": "pellucid.families.autoregressive:Autoregressive",
    "lstm": "pellucid.families.lstm:LSTM",
    "wavenet": "pellucid.families.wavenet:WaveNet",
    "wavenet_real": "pellucid.families.wavenet_real:WaveNetReal",
    "pixels": "pellucid.families.pixels:Pixels",
    "diffusion": "pellucid.families.flow_matching:FlowMatching",
    "edm": "pellucid.families.edm:EDM",
    "ddpm": "pellucid.families.ddpm:DDPM",
    "masked": "pellucid.families.masked:Masked",
    "ngram": "pellucid.families.ngram:NGram",
    "trees": "pellucid.families.trees:Trees",
    "columns": "pellucid.families.columns:Columns",
}
"""name -> "module:Class" of each family, in the order that lists show them."""

MADE: dict[str, str] = {
    "mixture": "pellucid.mixing:ItemMixture",
    "symbol_mixture": "pellucid.mixing:SymbolMixture",
}
"""name -> "module:Class" of families whose models are made of fitted ones; nobody fits them, and no list shows them."""

DOMAINS: dict[str, str] = {
    "images": "pellucid.domains.images:Images",
    "table": "pellucid.domains.tables:Tables",
    "text": "pellucid.domains.texts:Texts",
    "molecules": "pellucid.domains.molecules:Molecules",
}
"""kind of data -> its domain."""

CODECS: dict[str, str] = {
    "images": "pellucid.domains.images:ImageCodec",
    "table": "pellucid.domains.tables:TableCodec",
    "text": "pellucid.domains.texts:TextCodec",
    "molecules": "pellucid.domains.molecules:MoleculeCodec",
}
"""kind of data -> the codec that its domain learns."""

BRIDGES: dict[str, str] = {
    "dequantise": "pellucid.domains.bridges.dequantise:Dequantise",
    "quantise": "pellucid.domains.bridges.quantise:Quantise",
    "analog": "pellucid.domains.bridges.analog:Analog",
    "column_tokens": "pellucid.domains.bridges.column_tokens:ColumnTokens",
    "one_hot": "pellucid.domains.bridges.one_hot:OneHot",
}
"""Bridges in order of preference when a family does not take a space as it is."""

OBJECTIVES: dict[str, str] = {"few_steps": "pellucid.families.few_steps:FewSteps"}
"""name -> "module:Class" of each objective that replaces an engine's own turns; frozen settings, as families are."""


EXPLANATIONS: dict[str, str] = {
    "process": "pellucid.explain.process:process",
    "trajectory": "pellucid.explain.trajectory:trajectory",
    "attention": "pellucid.explain.attention:attention",
    "influence": "pellucid.explain.influence:influence",
    "provenance": "pellucid.explain.provenance:provenance",
    "counterfactual": "pellucid.explain.counterfactual:counterfactual",
    "directions": "pellucid.explain.directions:directions",
    "saliency": "pellucid.explain.saliency:saliency",
    "parts": "pellucid.explain.parts:parts",
    "errors": "pellucid.explain.errors:errors",
    "oddities": "pellucid.explain.oddities:oddities",
    "concepts": "pellucid.explain.concepts:concepts",
}
"""name of a question -> "module:function" of its explanation: from a model (and a sample of it) to a report."""


def explanation(name: str) -> Callable[..., Any]:
    """The explanation of this name."""
    found: Callable[..., Any] = resolve(_listed("question", name, EXPLANATIONS))
    return found


def resolve(target: str) -> type:
    """The class that a "module:Class" string names."""
    module, _, name = target.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def families() -> tuple[str, ...]:
    """Names of every family: the built-in ones, then those of installed packages.

    >>> families()[:3]
    ('vae', 'gan', 'flow')
    """
    return (*FAMILIES, *sorted(p.name for p in entry_points(group="pellucid.families") if p.name not in FAMILIES))


def family_class(name: str) -> type[Family]:
    """The family of this name; BadInput with the nearest right name if there is none."""
    if name in FAMILIES or name in MADE:
        return resolve(FAMILIES.get(name) or MADE[name])
    return _from_others("family", "pellucid.families", name, families())


def _from_others(what: str, group: str, name: str, known: Iterable[str]) -> type:
    """The class of another package's entry point."""
    for point in entry_points(group=group):
        if point.name == name:
            try:
                found: type = point.load()
            except Exception as error:  # another package's code can fail in any way
                raise BadInput(
                    f"{what} '{name}' comes from '{point.value}', which cannot be imported",
                    why=fault(error),
                    next="Update or remove the package that brings it.",
                ) from error
            return found
    raise _unknown(what, name, known)


def objectives() -> tuple[str, ...]:
    """Names of every objective: the built-in ones, then those of installed packages ("pellucid.objectives")."""
    others = entry_points(group="pellucid.objectives")
    return (*OBJECTIVES, *sorted(p.name for p in others if p.name not in OBJECTIVES))


def objective_class(name: str) -> type[Objective]:
    """The objective of this name; BadInput with the nearest right name if there is none."""
    if name in OBJECTIVES:
        return resolve(OBJECTIVES[name])
    return _from_others("objective", "pellucid.objectives", name, objectives())


def objective_name(objective: Objective) -> str | None:
    """The name under which an objective's class is found again, None if it is nobody's but its maker's."""
    kind = type(objective)
    target = f"{kind.__module__}:{kind.__qualname__}"
    others = {p.name: p.value for p in entry_points(group="pellucid.objectives")}
    return next((name for name, at in {**others, **OBJECTIVES}.items() if at == target), None)


def domain_class(kind: str) -> type[Domain[object]]:
    """The domain of this kind of data."""
    return resolve(_listed("kind", kind, DOMAINS))


def codec_class(kind: str) -> type[Codec[object]]:
    """The codec of this kind of data."""
    return resolve(_listed("kind", kind, CODECS))


def bridge_class(name: str) -> type[Bridge]:
    """The bridge of this name."""
    if name == "identity":
        return resolve("pellucid.core.codec:Identity")
    return resolve(_listed("bridge", name, BRIDGES))


def _listed(what: str, name: str, table: dict[str, str]) -> str:
    if name not in table:
        raise _unknown(what, name, table)
    return table[name]


def _unknown(what: str, name: str, known: Iterable[str]) -> BadInput:
    return BadInput(f"{what} is '{name}'", accepted=", ".join(known), next=nearest(name, known))
