"""A Gaussian mixture in two dimensions whose density, denoiser and draws are closed formulas, in float64.

Seen as x = data + sigma * noise it is again a mixture, of variances S^2 + sigma^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.core.rows import Rows

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]], dtype=torch.float64)
SPREADS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def _log_parts(x: Tensor, sigma: Tensor) -> Tensor:
    """(B, 3) log of weight times density of each component, seen through noise sigma (B,)."""
    variance = SPREADS**2 + sigma[:, None] ** 2
    square = (x[:, None] - MEANS).square().sum(-1)
    return WEIGHTS.log() - square / (2 * variance) - (2 * math.pi * variance).log()


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """E[data | x], x (B, 2), sigma (B,)."""
    gain = (SPREADS**2 / (SPREADS**2 + sigma[:, None] ** 2))[..., None]
    each = MEANS + gain * (x[:, None] - MEANS)
    return (_log_parts(x, sigma).softmax(-1)[..., None] * each).sum(1)


def log_density(x: Tensor, sigma: float = 0.0) -> Tensor:
    """(B,) of x (B, 2) under noise sigma."""
    return _log_parts(x, x.new_full((len(x),), sigma)).logsumexp(-1)


def component(x: Tensor) -> Tensor:
    """(B,) the likeliest component of each item."""
    return _log_parts(x, x.new_zeros(len(x))).argmax(-1)


def draw(rows: Rows) -> Tensor:
    """(B, 2) items."""
    k = rows.fork("component").categorical(WEIGHTS.log().expand(len(rows), 3))
    return MEANS[k] + SPREADS[k][:, None] * rows.fork("within").normal(2, dtype=torch.float64)


def moments() -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2)."""
    mean = WEIGHTS @ MEANS
    away = MEANS - mean
    return mean, (WEIGHTS[:, None] * away).T @ away + (WEIGHTS @ SPREADS**2) * torch.eye(2, dtype=torch.float64)
