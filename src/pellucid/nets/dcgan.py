"""The nets of DCGAN: a generator of strided transposed convolutions and a critic of strided ones.

Radford, Metz and Chintala 2016 (https://arxiv.org/abs/1511.06434), section 3: no pooling, no hidden dense layers, ReLU
in the generator, leaky ReLU in the critic. Where they have batch normalisation the generator has GroupNorm here and
the critic nothing: a batch's statistics would make the loss of one row depend on the others, which private training,
influence and gradient penalties cannot have (Gulrajani et al. 2017, arXiv:1704.00028, section 4, drop it likewise).
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["DCGANDecoder", "DCGANEncoder"]

SMALLEST = 7  # sides stop halving where the next ones would be shorter than half of this


class DCGANEncoder(nn.Module):
    """Pictures (B, C, H, W) to features (B, outputs).

    Args:
        shape: (C, H, W). width: channels after the first convolution, doubled from stage to stage.
        outputs: size of the features.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, *, width: int = 64) -> None:
        super().__init__()
        sides = _sides(shape)
        channels = [shape[0], *(width * 2**stage for stage in range(len(sides) - 1))]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(channels))
        self.act = nn.LeakyReLU(0.2)
        self.padding = _padding(shape, len(self.layers))
        self.last = nn.Linear(channels[-1] * math.prod(sides[-1]), outputs)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); the condition's vector does not enter here, as in a projection critic."""
        down, right = self.padding
        h = nn.functional.pad(x, (0, right, 0, down)) if down or right else x
        for layer in self.layers:
            h = self.act(layer(h))
        out: Tensor = self.last(h.flatten(1))
        return out


class DCGANDecoder(nn.Module):
    """Vectors (B, inputs), noise and condition side by side, to pictures (B, C, H, W) without a last nonlinearity.

    Args:
        shape: (C, H, W). width: channels before the last convolution, doubled from stage to stage inwards.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], *, width: int = 64) -> None:
        super().__init__()
        self.shape, self.sides = shape, _sides(shape)[::-1]
        stages = len(self.sides) - 1
        channels = [width * 2**stage for stage in reversed(range(max(1, stages)))]
        self.first = nn.Linear(inputs, channels[0] * math.prod(self.sides[0]))
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, c), c) for c in channels)
        self.act = nn.ReLU()
        self.channels = channels[0]
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([*channels, shape[0]]) if stages
        )
        if not stages:  # pictures too small to be halved
            self.layers.append(nn.Conv2d(channels[0], shape[0], 3, padding=1))

    def forward(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        h = self.first(z)
        h = h.reshape(h.shape[0], self.channels, *self.sides[0])
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(self.act(norm(h)))
        return h[..., : self.shape[-2], : self.shape[-1]]


def _sides(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(h, w) before the first convolution and after each.

    >>> _sides((1, 28, 28)), _sides((3, 32, 30))[-1], _sides((1, 8, 8))
    ([(28, 28), (14, 14), (7, 7)], (4, 4), [(8, 8), (4, 4)])
    """
    sides = [(shape[-2], shape[-1])]
    while min(sides[-1]) > SMALLEST:
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    multiple = 2 ** (len(sides) - 1)
    high, wide = (-(-side // multiple) for side in sides[0])
    return [sides[0], *((high * multiple >> k, wide * multiple >> k) for k in range(1, len(sides)))]


def _padding(shape: tuple[int, ...], stages: int) -> tuple[int, int]:
    """Rows below and columns to the right that make the sides divisible."""
    return -shape[-2] % 2**stages, -shape[-1] % 2**stages
