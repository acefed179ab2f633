"""Sparse features planted in activations, more of them than dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.core.interval import wilson
from pellucid.explain.sparse import learn_features, matched

__all__ = ["BAR", "measure"]

BAR = "95% of planted features at cosine .95, 90% found again by another seed"
FOUND, AGAIN, COSINE, SAME = 0.95, 0.9, 0.95, 0.9
COUNT, SIZE, ACTIVE, ITEMS = 32, 20, 2, 8000


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Shares of planted features that are found, and that two seeds agree on."""
    plan, a = _superposed(seed, ITEMS)
    steps = 1000 if quick else 2000  # the second is what `learn_features` does when nothing is said
    one, two = (learn_features(a, COUNT, ACTIVE, seed=s, steps=steps) for s in (seed, seed + 1))
    found = wilson(int((matched(plan, one.write) >= COSINE).sum()), COUNT)
    again = wilson(int((matched(one.write, two.write) >= SAME).sum()), COUNT)
    return {
        "found": [round(v, 4) for v in (found.value, found.low, found.high)],
        "found_again": [round(v, 4) for v in (again.value, again.low, again.high)],
        "variance_explained": round(one.explained(a), 4),
        "steps": steps,
        "met": found.value >= FOUND and again.value >= AGAIN,
    }


def _superposed(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Directions (COUNT, SIZE) and sums (n, SIZE) of ACTIVE of them each."""
    g = torch.Generator().manual_seed(seed)
    plan = torch.nn.functional.normalize(torch.randn(COUNT, SIZE, generator=g), dim=1)
    places = torch.rand(n, COUNT, generator=g).topk(ACTIVE).indices
    strength = torch.zeros(n, COUNT).scatter_(1, places, 1 + torch.rand(n, ACTIVE, generator=g))
    return plan, strength @ plan + 0.01 * torch.randn(n, SIZE, generator=g)
