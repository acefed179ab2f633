"""Shapley values from drawn orders against the definition, written out over all subsets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.explain.shapley import gains_of, shapley

__all__ = ["BAR", "measure"]

BAR = "Shapley within .01 of enumeration"
LEAST, PLAYERS, ORDERS = 0.01, 8, 1500


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """The largest difference over the coordinates of points under correlated normal distributions, in nats."""
    worst, shares = 0.0, []
    for trial in range(1 if quick else 5):
        value = _surprise(1000 * seed + trial)
        exact = shapley(gains_of(value), PLAYERS)
        drawn = shapley(gains_of(value), PLAYERS, orders=ORDERS, most_exact=4, seed=seed)
        worst = max(worst, float((drawn.phi - exact.phi).abs().max()))
        shares.append(float((((drawn.phi - exact.phi) / drawn.error).abs() <= 1.96).double().mean()))
    return {
        "largest_difference_nats": round(worst, 5),
        "within_their_95_intervals": round(sum(shares) / len(shares), 3),
        "orders": ORDERS,
        "met": worst <= LEAST,
    }


def _surprise(seed: int) -> Any:
    """How surprising some coordinates of one point are together."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(PLAYERS, PLAYERS, generator=g, dtype=torch.float64)
    covariance = mix @ mix.T / PLAYERS + torch.eye(PLAYERS, dtype=torch.float64)
    x = 1.5 * torch.randn(PLAYERS, generator=g, dtype=torch.float64)

    def value(inside: Tensor) -> Tensor:
        out = []
        for row in inside:
            at = row.nonzero()[:, 0]
            law = torch.distributions.MultivariateNormal
            zero = torch.zeros(len(at), dtype=torch.float64)
            out.append(-law(zero, covariance[at][:, at]).log_prob(x[at]) if len(at) else x.new_zeros(()))
        return torch.stack(out)

    return value
