"""Convolutional encoder and decoder for pictures of 8 to 64 pixels a side, optionally steered by a vector.

Both are pyramids of residual blocks: each stage halves (or doubles) the sides and widens (or narrows) the channels
until the smaller side is below 8. Pictures enter and leave through 2x2 blocks of pixels, which costs a quarter of the
arithmetic: on 8x8 digits that bought twice the steps, and better samples, in the same time. Sides that do not divide
are padded on the way in and cropped on the way out.

With `squeeze` the pyramid stops where so many pixels a side share one place, and a map (B, channels, h, w) stands in
the middle instead of a vector: latents of that kind can be modelled by nets for pictures.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

__all__ = ["ConvBlock", "ConvDecoder", "ConvEncoder", "map_size", "refused_grid"]

COARSEST = 16  # pixels a side that one place of a map may stand for


class ConvBlock(nn.Module):
    """x + conv(act((1 + a) norm(conv(act(norm(x)))) + b)), scale a and shift b from the steering vector.

    Args:
        channels: of input and output. steer: size of the steering vector, 0 for none.
        norm: GroupNorm and SiLU; without, no normalisation and leaky ReLU, as gradient penalties like it. Either way
            the last convolution starts at zero (Fixup, Zhang et al. 2019, arXiv:1901.09321, rule 1), so the block
            starts as the identity.
    """

    def __init__(self, channels: int, steer: int = 0, *, norm: bool = True) -> None:
        super().__init__()
        self.norm1 = _norm(channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = _norm(channels) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act: nn.Module = nn.SiLU() if norm else nn.LeakyReLU(0.2)
        self.steer = nn.Linear(steer, 2 * channels) if steer else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """x (B, channels, H, W), vector (B, steer) | None."""
        h = self.norm2(self.conv1(self.act(self.norm1(x))))
        if self.steer is not None and vector is not None:
            scale, shift = self.steer(vector)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return x + self.conv2(self.act(h))


class ConvEncoder(nn.Module):
    """Pictures (B, C, H, W) and an optional vector (B, steer) to (B, outputs), or with `squeeze` (B, outputs, h, w).

    Args:
        shape: (C, H, W). width: channels of the first stage, doubled from stage to stage up to four times.
        depth: residual blocks a stage. steer, norm: see `ConvBlock`.
        squeeze: a power of two, pixels along each side of the square that becomes one place of the map; None: a vector.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        *,
        width: int = 32,
        depth: int = 1,
        steer: int = 0,
        norm: bool = True,
        squeeze: int | None = None,
    ) -> None:
        super().__init__()
        self.plan = _Plan(shape, width, squeeze)
        channels = self.plan.channels
        self.first = nn.Conv2d(shape[0] * self.plan.stem**2, channels[0], 3, padding=1)
        self.depth = depth
        self.blocks = nn.ModuleList(ConvBlock(c, steer, norm=norm) for c in channels for _ in range(depth))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.norm = _norm(channels[-1]) if norm else nn.Identity()
        self.act: nn.Module = nn.SiLU() if norm else nn.LeakyReLU(0.2)
        self.last: nn.Module = (
            nn.Linear(channels[-1] * math.prod(self.plan.smallest), outputs)
            if squeeze is None
            else nn.Conv2d(channels[-1], outputs, 1)
        )

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        stem = self.plan.stem
        h = self.first(rearrange(self.plan.pad(x), "b c (h s) (w t) -> b (c s t) h w", s=stem, t=stem))
        for index, block in enumerate(self.blocks):
            stage, start = divmod(index, self.depth)
            h = self.down[stage - 1](h) if stage and start == 0 else h
            h = block(h, vector)
        h = self.act(self.norm(h))
        out: Tensor = self.last(h.flatten(1) if isinstance(self.last, nn.Linear) else h)
        return out


class ConvDecoder(nn.Module):
    """Vectors (B, inputs), with `squeeze` maps (B, inputs, h, w), and an optional vector (B, steer) to (B, C, H, W).

    Args:
        shape: (C, H, W) of the output. width, depth, steer, norm, squeeze: see `ConvEncoder`, whose mirror this is.
    """

    def __init__(
        self,
        inputs: int,
        shape: tuple[int, ...],
        *,
        width: int = 32,
        depth: int = 1,
        steer: int = 0,
        norm: bool = True,
        squeeze: int | None = None,
    ) -> None:
        super().__init__()
        self.plan = _Plan(shape, width, squeeze)
        channels = self.plan.channels[::-1]
        self.first: nn.Module = (
            nn.Linear(inputs, channels[0] * math.prod(self.plan.smallest))
            if squeeze is None
            else nn.Conv2d(inputs, channels[0], 3, padding=1)
        )
        self.depth = depth
        self.blocks = nn.ModuleList(ConvBlock(c, steer, norm=norm) for c in channels for _ in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))
        self.norm = _norm(channels[-1]) if norm else nn.Identity()
        self.act: nn.Module = nn.SiLU() if norm else nn.LeakyReLU(0.2)
        thin = max(8, channels[-1] // 4)  # full resolution is where channels are dearest
        self.thin = nn.Conv2d(channels[-1], thin, 1)
        self.last = nn.Conv2d(thin, shape[0], 3, padding=1)

    def forward(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        h = self.first(z)
        h = h.reshape(h.shape[0], self.plan.channels[-1], *self.plan.smallest)
        for index, block in enumerate(self.blocks):
            stage, start = divmod(index, self.depth)
            h = _enlarge(self.up[stage - 1](h), 2) if stage and start == 0 else h
            h = block(h, vector)
        h = self.last(_enlarge(self.act(self.thin(self.act(self.norm(h)))), self.plan.stem))
        return h[..., : self.plan.shape[-2], : self.plan.shape[-1]]


def map_size(shape: tuple[int, ...], squeeze: int) -> tuple[int, int]:
    """(h, w) of the map in the middle for pictures (C, H, W).

    >>> map_size((1, 28, 30), 4)
    (7, 8)
    """
    return -(-shape[-2] // squeeze), -(-shape[-1] // squeeze)


def refused_grid(grid: int | None) -> str:
    """What is wrong with so many pixels a side for one place of a map; empty if nothing is.

    >>> refused_grid(4), refused_grid(None), refused_grid(6)
    ('', '', 'a power of two from 1 to 16, or None')
    """
    fits = grid is None or grid in [2**k for k in range(COARSEST.bit_length())]
    return "" if fits else f"a power of two from 1 to {COARSEST}, or None"


class _Plan:
    """Sides and channels of the pyramid: `stem` pixels a side enter as one, then one entry of `channels` a stage."""

    def __init__(self, shape: tuple[int, ...], width: int, squeeze: int | None = None) -> None:
        self.shape = shape
        height, wide = shape[-2:]
        if squeeze is None:
            self.stem = 2 if min(height, wide) >= 8 else 1
            halvings = max(0, math.floor(math.log2(min(height, wide) / self.stem / 4)))
        else:
            self.stem = min(2, squeeze)
            halvings = round(math.log2(squeeze // self.stem))
        multiple = self.stem * 2**halvings
        self.padding = (-height % multiple, -wide % multiple)
        self.smallest = ((height + self.padding[0]) // multiple, (wide + self.padding[1]) // multiple)
        self.channels = tuple(width * min(2**stage, 4) for stage in range(halvings + 1))

    def pad(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with zeros to the right and below."""
        down, right = self.padding
        return nn.functional.pad(x, (0, right, 0, down)) if down or right else x


def _enlarge(x: Tensor, times: int) -> Tensor:
    """Each pixel becomes a square of itself: channels shuffled into pixels would show as a fine checkerboard."""
    return x.repeat_interleave(times, -1).repeat_interleave(times, -2) if times > 1 else x


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, 8), channels)
