"""Critics: one number a row that says how real the row looks, given what is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pellucid.nets.convolution import ConvEncoder
from pellucid.nets.dcgan import DCGANEncoder
from pellucid.nets.dense import Dense
from pellucid.nets.mlp import MLP
from pellucid.nets.spectral import normalise

__all__ = ["Critic", "MapCritic"]


class Critic(nn.Module):
    """D(x, c) = w . phi(x, c) + e(c) . phi(x, c) / sqrt(width)

    Events become features phi (a convolutional pyramid for pictures, an MLP for the rest) that also see the condition;
    the second term is the projection of Miyato & Koyama 2018 (arXiv:1802.05637, eq. 3). Nothing mixes rows, so the
    gradient of D at one row is that row's alone.

    Args:
        shape: event shape. steer: size of the condition vector. width, depth: of the net.
        features: size of phi.
        body: residual blocks, or "dcgan": strided convolutions one after another, for pictures, or "dense": layers
            one after another that read the condition beside the event, for rows of a table.
        spectral: every layer's weight is divided by its largest singular value (`spectral.py`); the condition then
            enters by the projection alone, as in the paper, since a scale that it sets has no such bound.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        steer: int,
        width: int = 32,
        depth: int = 1,
        features: int = 128,
        body: Literal["residual", "dcgan", "dense"] = "residual",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        self.picture, self.body, inner = len(shape) == 3, body, 0 if spectral else steer
        self.phi: nn.Module
        if body == "dense":
            self.phi = Dense(math.prod(shape) + steer, features, width=width, depth=depth)
        elif body == "dcgan":
            self.phi = DCGANEncoder(shape, features, width=width)
        elif self.picture:
            self.phi = ConvEncoder(shape, features, width=width, depth=depth, steer=inner, norm=False)
        else:
            self.phi = MLP(math.prod(shape), features, width=width, depth=depth, steer=inner)
        self.score = nn.Linear(features, 1)
        self.project = nn.Linear(steer, features, bias=False)
        self.act = nn.LeakyReLU(0.2)
        if spectral:
            normalise(self)

    def features(self, x: Tensor, vector: Tensor) -> Tensor:
        """phi: x (B, *event), vector (B, steer) to (B, features)."""
        if self.body == "dense":
            phi: Tensor = self.phi(torch.cat((x.flatten(1), vector), dim=-1))
        else:
            phi = self.phi(x if self.picture else x.flatten(1), vector)
        out: Tensor = self.act(phi)
        return out

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x (B, *event), vector (B, steer) to (B,)."""
        phi = self.features(x, vector)
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
