"""Planted linear directions: are they found, whichever way they are looked for?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.explain.turning import factor_directions, first_layer, principal

__all__ = ["BAR", "measure"]

BAR = "planted linear directions at cosine .99"
FACTORS, LATENT, ITEMS, LEAST = 4, 10, 3000, 0.99

Floats = NDArray[np.float64]


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """The smallest cosine over planted directions, by the way they are looked for."""
    worst: dict[str, float] = {}
    for trial in range(4 if quick else 20):
        g = np.random.default_rng([seed, trial])
        plan = np.linalg.qr(g.normal(size=(LATENT, LATENT)))[0][:FACTORS]
        mixed = g.normal(size=(ITEMS, FACTORS)) @ (np.eye(FACTORS) + 0.3 * g.normal(size=(FACTORS, FACTORS)))
        ways = {
            "factor": factor_directions(mixed @ plan + 0.3 * g.normal(size=(ITEMS, LATENT)), mixed, list("abcd")),
            "spread": principal((g.normal(size=(ITEMS, FACTORS)) * [4.0, 3.0, 2.0, 1.0]) @ plan, FACTORS),
            "first layer": first_layer(_weights(plan, g), FACTORS),
        }
        for name, found in ways.items():
            cosine = min(abs(float(d.vector @ plan[k])) for k, d in enumerate(found))
            worst[name] = min(worst.get(name, 1.0), cosine)
    return {"smallest_cosine": {k: round(v, 4) for k, v in worst.items()}, "met": min(worst.values()) >= LEAST}


def _weights(plan: Floats, g: np.random.Generator) -> Floats:
    """A layer (30, LATENT) that moves most along the planted directions, in their order."""
    outputs = np.linalg.qr(g.normal(size=(30, FACTORS)))[0]
    return np.asarray(outputs @ np.diag([5.0, 4.0, 3.0, 2.0]) @ plan + 0.01 * g.normal(size=(30, LATENT)))
