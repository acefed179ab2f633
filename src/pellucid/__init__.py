"""Pellucid: generative models you can see through.

    import pellucid as pl
    model = pl.fit(pl.read("adult.csv"), family="diffusion", minutes=5)
    draw = model.sample(1000, seed=7)
    why = pl.explain.trajectory(model, seed=7, index=0)

Names are re-exported lazily, so that importing loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WHERE = {
    "PellucidError": "pellucid.core.errors",
    "BadInput": "pellucid.core.errors",
    "Run": "pellucid.core.run",
    "read": "pellucid.domains.read",
    "describe_data": "pellucid.domains.described",
    "fit": "pellucid.fitting",
    "resume": "pellucid.fitting",
    "load": "pellucid.model",
    "adopt": "pellucid.adopting",
    "mix": "pellucid.mixing",
    "Fitted": "pellucid.model",
    "Draw": "pellucid.model",
    "compare": "pellucid.evaluate.compare",
    "compare_models": "pellucid.evaluate.compare",
    "explain_sample": "pellucid.explain.explained",
}
_PACKAGES = ("audit", "catalog", "evaluate", "explain", "release", "tasks", "testing")

__all__ = ["__version__", *sorted(_WHERE), *_PACKAGES]

if TYPE_CHECKING:
    from pellucid.adopting import adopt
    from pellucid.core.errors import BadInput, PellucidError
    from pellucid.core.run import Run
    from pellucid.domains.described import describe_data
    from pellucid.domains.read import read
    from pellucid.evaluate.compare import compare, compare_models
    from pellucid.explain.explained import explain_sample
    from pellucid.fitting import fit, resume
    from pellucid.mixing import mix
    from pellucid.model import Draw, Fitted, load


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"pellucid.{name}")
    raise AttributeError(f"module 'pellucid' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)
