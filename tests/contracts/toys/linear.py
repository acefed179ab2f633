"""Probabilistic principal components: a linear engine that encodes and decodes, with its evidence in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Decodes, Encodes, Learns, Turn, Weighs
from pellucid.core.rows import Rows
from pellucid.core.space import Real

__all__ = ["LinearLatent"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class LinearLatent(nn.Module, Learns, Encodes, Decodes, Weighs):
    """x = mean + W z + s * noise with z ~ N(0, I); q(z | x) is the exact posterior, widened by `slack`.

    M = W' W + s^2 I, q = N(M^-1 W' (x - mean), slack^2 s^2 M^-1)   Tipping and Bishop 1999, eq. 7
    """

    def __init__(self, size: int, latent: int, seed: int = 0, slack: float = 1.0) -> None:
        super().__init__()
        self.slack = slack
        self.mean = nn.Parameter(torch.zeros(size))
        self.W = nn.Parameter(0.5 * Rows(seed, torch.arange(size)).normal(latent))
        self.log_s = nn.Parameter(torch.zeros(()))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, latent) and Cholesky factor (latent, latent) of q(z | x)."""
        M = self.W.T @ self.W + (2 * self.log_s).exp() * torch.eye(self.W.shape[1]).to(self.W)
        inverse = torch.linalg.inv(M)
        return (x - self.mean) @ self.W @ inverse, self.slack * self.log_s.exp() * torch.linalg.cholesky(inverse)

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        mean, factor = self.posterior(x)
        return mean if rows is None else mean + rows.fork("latent").normal(*mean.shape[1:]).to(mean) @ factor.T

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        return self.mean + z @ self.W.T

    def latent(self) -> Real:
        return Real((self.W.shape[1],))

    def log_weight(self, x: Tensor, z: Tensor, condition: Condition) -> Tensor:
        mean, factor = self.posterior(x)
        white = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)  # (latent, B)
        away = (x - self.decode(z, condition)) * (-self.log_s).exp()
        volume = x.shape[1] * self.log_s - factor.diagonal().log().sum() + (away.shape[1] - len(white)) * HALF_LOG_2PI
        return 0.5 * white.square().sum(0) - 0.5 * away.square().sum(1) - volume

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """Minus the evidence bound under z ~ N(0, I)."""
        z = self.encode(batch.x, batch.condition, rows)
        prior = -0.5 * z.square().sum(1) - z.shape[1] * HALF_LOG_2PI
        return -(prior + self.log_weight(batch.x, z, batch.condition))

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("evidence", tuple(self.parameters()), self.losses),)
