"""The autoencoder of a pipeline made elsewhere: between its pictures and the latents that its network denoises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Encodes
from pellucid.core.rows import Rows
from pellucid.core.space import Real

__all__ = ["ForeignAutoencoder"]


class ForeignAutoencoder(nn.Module, Encodes, Decodes):
    """Latents as the pipeline scales them.

    Args:
        vae: an AutoencoderKL. size: (channels, height, width) of a latent.
    """

    def __init__(self, vae: nn.Module, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.vae = vae
        config: Any = vae.config
        self.scaling = float(getattr(config, "scaling_factor", 1.0) or 1.0)
        self._latent = Real(size)

    @torch.no_grad()
    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """x (B, C, H, W) in [-1, 1] to (B, *latent): the mean, or a draw from `rows`."""
        found = self.vae.encode(x).latent_dist  # type: ignore[operator]
        z: Tensor = found.mean
        if rows is not None:
            z = z + found.std * rows.normal(*z.shape[1:], dtype=z.dtype).to(z.device)
        return z * self.scaling

    @torch.no_grad()
    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """z (B, *latent) to (B, C, H, W), which may lie beyond -1 and 1."""
        out: Tensor = self.vae.decode(z / self.scaling).sample  # type: ignore[operator]
        return out

    def latent(self) -> Real:
        return self._latent
