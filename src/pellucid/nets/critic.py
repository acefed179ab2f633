"""Critics: one number a row that says how real the row looks, given what is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pellucid.nets.convolution import ConvEncoder
from pellucid.nets.mlp import MLP

__all__ = ["Critic", "MapCritic"]


class Critic(nn.Module):
    """D(x, c) = w . phi(x, c) + e(c) . phi(x, c) / sqrt(width)

    Events become features phi (a convolutional pyramid for pictures, an MLP for the rest) that also see the condition;
    the second term is the projection of Miyato & Koyama 2018 (arXiv:1802.05637, eq. 3). Nothing mixes rows, so the
    gradient of D at one row is that row's alone.

    Args:
        shape: event shape. steer: size of the condition vector. width, depth: of the net.
        features: size of phi.
    """

    def __init__(
        self, shape: tuple[int, ...], *, steer: int, width: int = 32, depth: int = 1, features: int = 128
    ) -> None:
        super().__init__()
        self.picture = len(shape) == 3
        self.phi: nn.Module = (
            ConvEncoder(shape, features, width=width, depth=depth, steer=steer, norm=False)
            if self.picture
            else MLP(math.prod(shape), features, width=width, depth=depth, steer=steer)
        )
        self.score = nn.Linear(features, 1)
        self.project = nn.Linear(steer, features, bias=False)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x (B, *event), vector (B, steer) to (B,)."""
        phi = self.act(self.phi(x if self.picture else x.flatten(1), vector))
        projection = (self.project(vector) * phi).sum(-1) / math.sqrt(phi.shape[-1])
        out: Tensor = self.score(phi).squeeze(-1) + projection
        return out


class MapCritic(nn.Module):
    """The sum over maps of D(m, c) = w . phi(m) + e(c) . phi(m) / sqrt(width), phi the mean over the map's places.

    For maps that a trained, frozen net makes of an event: it knows already what to look at, so the contest begins
    where a critic of pixels arrives late (Sauer et al. 2021, "Projected GANs converge faster", arXiv:2111.01007).

    Args:
        channels: of each map. steer: size of the condition vector. width: of phi.
    """

    def __init__(self, channels: Sequence[int], *, steer: int, width: int = 64) -> None:
        super().__init__()
        self.phi = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, c),
                nn.Conv2d(c, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
            )
            for c in channels
        )
        self.score = nn.ModuleList(nn.Linear(width, 1) for _ in channels)
        self.project = nn.ModuleList(nn.Linear(steer, width, bias=False) for _ in channels)

    def forward(self, maps: Sequence[Tensor], vector: Tensor) -> Tensor:
        """Maps (B, C, h, w), at least one, and vector (B, steer), to (B,)."""
        scores = []
        for seen, net, score, project in zip(maps, self.phi, self.score, self.project, strict=True):
            phi = net(seen).mean(dim=(2, 3))
            scores.append(score(phi).squeeze(-1) + (project(vector) * phi).sum(-1) / math.sqrt(phi.shape[-1]))
        return sum(scores[1:], scores[0])
