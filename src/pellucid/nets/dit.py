"""Diffusion transformers: a picture as a row of patches, a row of numbers as a row of columns.

Every block is steered by adaptive norms whose gates start at zero, so that it starts as the identity ("adaLN-Zero",
Peebles and Xie 2023, https://arxiv.org/abs/2212.09748, section 3.2); a caption is looked at word by word beside the
own-attention. Departures from the paper: queries and keys are normalised, squared rectifiers stand for GELU (So et al.
2021, https://arxiv.org/abs/2109.08668, section 4), and the position table has wavelengths that fit small grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.nets.attention import Context, MultiHeadAttention, grid_positions, heads_for

__all__ = ["DiTBlock", "DiTSizes", "PictureDiT", "RowDiT", "dit_sizes_for"]

MOST_COLUMNS = 64  # slots of a row of numbers; longer rows put neighbours together


@dataclass(frozen=True)
class DiTSizes:
    """How large a diffusion transformer is. patch: side of a square of pixels that becomes one slot."""

    patch: int
    width: int
    depth: int

    def __post_init__(self) -> None:
        if self.patch < 1 or self.depth < 1 or self.width < 8 or self.width % 8:
            raise BadInput(
                f"diffusion transformer has patch {self.patch}, width {self.width}, depth {self.depth}",
                accepted="patch and depth of 1 or more, a width that is a multiple of 8",
                why="positions take a quarter of the width for each of their four waves",
            )


def dit_sizes_for(height: int, width: int, *, channels: int | None = None, depth: int | None = None) -> DiTSizes:
    """Sizes that train in minutes on a CPU: 16 to 64 patches.

    Args:
        channels: width of a slot. depth: blocks.

    >>> dit_sizes_for(8, 8), dit_sizes_for(28, 28)
    (DiTSizes(patch=2, width=128, depth=4), DiTSizes(patch=4, width=192, depth=6))
    >>> dit_sizes_for(64, 64).patch
    8
    """
    side = max(height, width)
    patch = 2 if side <= 16 else 4 if side <= 40 else 8
    small = side <= 16
    return DiTSizes(patch, channels or (128 if small else 192), depth or (4 if small else 6))


class DiTBlock(nn.Module):
    """x + g1 attention(m(x)), x + cross(norm(x), context), x + g2 network(m(x)).

    m(x) = (1 + a) norm(x) + b; scales a, shifts b and gates g come from the steering vector and start at zero
                                                    Peebles and Xie 2023, figure 3, "DiT block with adaLN-Zero"

    Args:
        width, heads: of a slot. steer: size of the steering vector, 0 when scales, shifts and gates are learned alone.
        context: size of a slot of the context, 0 for none.
    """

    def __init__(self, width: int, heads: int, *, steer: int = 0, context: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = MultiHeadAttention(width, heads, zero=False)  # the gate is zero already: two would never move
        self.cross = MultiHeadAttention(width, heads, context=context) if context else None
        self.norm_cross = nn.LayerNorm(width, eps=1e-6) if context else None
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.steer = _Modulation(width, 6, steer)
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, N, width), vector (B, steer) | None, to (B, N, width)."""
        a1, b1, g1, a2, b2, g2 = self.steer(vector)
        x = x + g1 * self.attention(self.norm1(x) * (1 + a1) + b1)
        if self.cross is not None and self.norm_cross is not None and context is not None:
            x = x + self.cross(self.norm_cross(x), context)
        h = self.inner(self.norm2(x) * (1 + a2) + b2).relu().square()
        out: Tensor = x + g2 * self.outer(self.dropout(h))
        return out


class _Modulation(nn.Module):
    """(B, steer) to `count` tensors (B, 1, width), zero at the start; without a vector the learned constants alone."""

    def __init__(self, width: int, count: int, steer: int) -> None:
        super().__init__()
        self.count = count
        self.constant = nn.Parameter(torch.zeros(count * width))
        self.linear = nn.Linear(steer, count * width, bias=False) if steer else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    def forward(self, vector: Tensor | None) -> tuple[Tensor, ...]:
        found = self.constant[None]
        if self.linear is not None and vector is not None:
            found = found + self.linear(vector)
        return found[:, None].chunk(self.count, dim=-1)


class _Blocks(nn.Module):
    """Blocks one after another, then a steered norm."""

    def __init__(self, width: int, depth: int, steer: int, context: int, dropout: float) -> None:
        super().__init__()
        heads = heads_for(width)
        self.blocks = nn.ModuleList(
            DiTBlock(width, heads, steer=steer, context=context, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.steer = _Modulation(width, 2, steer)

    def forward(self, x: Tensor, vector: Tensor | None, context: Context | None) -> Tensor:
        for block in self.blocks:
            x = cast(DiTBlock, block)(x, vector, context)
        scale, shift = self.steer(vector)
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class PictureDiT(nn.Module):
    """(B, inputs, H, W), an optional vector (B, steer) and an optional context to (B, outputs, H, W).

    Args:
        inputs, outputs: channels. size: (H, W); sides that no patch divides are padded inside by repeating the border.
        sizes: patch, width and depth. steer: size of the steering vector, 0 for none.
        context: size of a slot of the context, 0 for none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        *,
        sizes: DiTSizes | None = None,
        steer: int = 0,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.sizes = sizes = sizes or dit_sizes_for(*size)
        fold = sizes.patch**2
        self.first = nn.Linear(inputs * fold, sizes.width)
        self.body = _Blocks(sizes.width, sizes.depth, steer, context, dropout)
        self.last = nn.Linear(sizes.width, outputs * fold)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, inputs, H, W), vector (B, steer) | None, context | None, to (B, outputs, H, W)."""
        height, width = x.shape[-2:]
        patch = self.sizes.patch
        below, right = -height % patch, -width % patch
        if below or right:
            x = nn.functional.pad(x, (0, right, 0, below), mode="replicate")
        h = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)
        down, along = x.shape[-2] // patch, x.shape[-1] // patch
        h = self.first(h) + grid_positions(down, along, self.sizes.width, x)
        out = self.last(self.body(h, vector, context))
        out = rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=down, p=patch, q=patch)
        return out[..., :height, :width]

    def describe(self) -> Sequence[str]:
        """What the net is made of, in the order data meets it: one plain line a stage."""
        patch, width = self.sizes.patch, self.sizes.width
        down, along = (-(-n // patch) for n in self.size)
        looks = "" if cast(DiTBlock, self.body.blocks[0]).cross is None else " and a look at the caption"
        return [
            f"cut into {down}x{along} patches of {patch}x{patch} pixels, {width} numbers each",
            f"{self.sizes.depth} blocks of own-attention with {heads_for(width)} heads{looks}",
            "patches put together again",
        ]


class RowDiT(nn.Module):
    """(B, copies * size + extra) numbers, an optional vector and an optional context to (B, size).

    Each number becomes a slot by a line of its own (rows of more than 64 numbers put neighbours together), so that
    attention relates columns; all `copies` of a number go into its slot.

    Args:
        size: numbers that come out. copies, extra: see `Wanted`; extra numbers are added to every slot.
    """

    def __init__(
        self,
        size: int,
        *,
        copies: int = 1,
        extra: int = 0,
        width: int = 96,
        depth: int = 4,
        steer: int = 0,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.copies = size, copies
        self.group = -(-size // MOST_COLUMNS)
        slots = -(-size // self.group)
        inputs = copies * self.group
        self.first = nn.Parameter(torch.randn(slots, inputs, width) * inputs**-0.5)
        self.place = nn.Parameter(torch.randn(slots, width))
        self.extra = nn.Linear(extra, width, bias=False) if extra else None
        self.body = _Blocks(width, depth, steer, context, dropout)
        self.last = nn.Parameter(torch.zeros(slots, width, self.group))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, copies * size + extra), vector (B, steer) | None, context | None, to (B, size)."""
        numbers, further = x[:, : self.copies * self.size], x[:, self.copies * self.size :]
        numbers = rearrange(numbers, "b (copies n) -> b copies n", copies=self.copies)
        numbers = nn.functional.pad(numbers, (0, -self.size % self.group))
        slots = rearrange(numbers, "b copies (n g) -> n b (copies g)", g=self.group)
        h = rearrange(slots @ self.first, "n b w -> b n w") + self.place
        if self.extra is not None:
            h = h + self.extra(further)[:, None]
        h = rearrange(self.body(h, vector, context), "b n w -> n b w")
        return rearrange(h @ self.last, "n b g -> b (n g)")[:, : self.size] + self.bias
