"""Surprise of each part of a normal distribution against its conditionals in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import LogProb, Scores
from pellucid.core.rows import Rows
from pellucid.explain.surprise import by_grid

__all__ = ["BAR", "measure"]

BAR = "Gaussian conditional surprise to 1e-3 nats"
LEAST, D = 1e-3, 5


class _Normal(Scores):
    """A correlated normal distribution, whose density is exact."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.law = torch.distributions.MultivariateNormal(mean, covariance)

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.law.log_prob(batch.x), "exact")


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """The largest error in nats, also far outside and where one part is almost told by the others."""
    errors: dict[str, float] = {}
    for strength in (0.3, 0.9, 0.999):
        g = torch.Generator().manual_seed(seed)
        mix = torch.randn(D, D, generator=g, dtype=torch.float64)
        common = mix @ mix.T
        scale = common.diagonal().sqrt()
        covariance = strength * common / (scale[:, None] * scale) + (1 - strength) * torch.eye(D, dtype=torch.float64)
        mean = torch.linspace(-3, 3, D, dtype=torch.float64)
        engine = _Normal(mean, covariance)
        data = mean + torch.randn(400, D, generator=g, dtype=torch.float64) @ engine.law.scale_tril.T
        x = torch.cat((data[: 6 if quick else 40], data[:1] + 4.0, data[1:2] * 2.0))
        rows = Rows(seed, torch.arange(len(x)))
        found = by_grid(engine, x, Condition(), rows, data.amin(0), data.amax(0))
        errors[f"correlation {strength}"] = float((found - _closed(engine.law, x)).abs().max())
    return {"largest_error_nats": errors, "met": max(errors.values()) <= LEAST}


def _closed(law: torch.distributions.MultivariateNormal, x: Tensor) -> Tensor:
    """-log p(x_i | rest), (B, D): the precision matrix's diagonal is the conditional precision."""
    precision = law.precision_matrix
    own = precision.diagonal()
    far = (precision @ (x - law.mean)[:, :, None])[..., 0] / own  # x_i minus its conditional mean
    return 0.5 * far.square() * own + 0.5 * (2 * math.pi / own).log()
