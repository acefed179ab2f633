"""A module that knows nothing of us, in the manner of noise-predicting diffusion models, and a thin adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Samples, expand_like
from pellucid.core.rows import Rows
from pellucid.core.trace import Trace
from pellucid.solvers.guidance import guided
from pellucid.solvers.heun import heun

__all__ = ["ForeignAdapter", "ForeignHow", "NoisePredictor"]


class NoisePredictor(nn.Module):
    """eps(x_t, t) at step t of 1000, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps (Ho et al. 2020, arXiv:2006.11239, eq. 4).

    It holds what a perfect training on N(mean, covariance) would have taught it.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        variances, axes = torch.linalg.eigh(covariance)
        self.mean, self.variances, self.axes = nn.Buffer(mean), nn.Buffer(variances), nn.Buffer(axes)
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.alphas_cumprod = nn.Buffer((1 - beta).cumprod(0).to(mean))

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """(B, D) and (B,) int64 to (B, D)."""
        a = self.alphas_cumprod[timestep][:, None]
        away = (sample - a.sqrt() * self.mean) @ self.axes / (a * self.variances + 1 - a)
        return (1 - a).sqrt() * (away @ self.axes.T)


@dataclass(frozen=True, kw_only=True)
class ForeignHow(How):
    """steps: noise levels, spread evenly over the foreign model's own steps."""

    steps: int = 60
    guidance: float = 1.0


class ForeignAdapter(nn.Module, Denoises, Samples):
    """sigma_t = sqrt((1 - a_t) / a_t): dividing x_t by sqrt(a_t) gives data + sigma_t * noise."""

    def __init__(self, foreign: nn.Module, alphas_cumprod: Tensor, size: int) -> None:
        super().__init__()
        self.foreign, self.size = foreign, size
        self.levels = nn.Buffer(((1 - alphas_cumprod) / alphas_cumprod).sqrt(), persistent=False)  # rising

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        level = sigma.to(self.levels)
        t = torch.searchsorted(self.levels, level).clamp(1, len(self.levels) - 1)
        t = t - ((level - self.levels[t - 1]) < (self.levels[t] - level)).long()  # the nearest of its steps
        noise = self.foreign(x_t / expand_like((1 + level**2).sqrt().to(x_t), x_t), t)
        return x_t - expand_like(level.to(x_t), x_t) * noise

    def sigmas(self, how: How) -> Tensor:
        assert isinstance(how, ForeignHow)
        t = torch.linspace(len(self.levels) - 1, 0, how.steps).round().long()
        return torch.cat((self.levels[t], self.levels.new_zeros(1)))

    def settings(self) -> ForeignHow:
        return ForeignHow()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        assert isinstance(how, ForeignHow)
        sigmas = self.sigmas(how)
        x = float(sigmas[0]) * rows.fork("start").normal(self.size).to(self.levels)
        return heun(guided(self, condition, how.guidance), x, sigmas, rows, trace)
