"""A compact U-Net for pictures from 8x8 to 64x64 on a CPU, steered by a vector (time, class).

A space-to-depth stem folds blocks of pixels into channels, so that the expensive layers see few places. Two or three
levels of residual blocks go down and up again, joined by skips; one own-attention block stands at the lowest level,
and beside it, where there is a caption, a look at its words.
Every place that writes into the residual stream starts at zero, so the untrained net is the zero function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.nets.attention import Context, MultiHeadAttention, grid_positions, heads_for, weigh

__all__ = ["CrossAttention", "OwnAttention", "PictureBlock", "UNet", "UNetSizes", "sizes_for"]


@dataclass(frozen=True)
class UNetSizes:
    """How large a U-Net is.

    stem: side of the square of pixels folded into channels. widths: channels at each level, the finest first.
    depth: residual blocks at each level, on the way down and on the way up.
    """

    stem: int
    widths: tuple[int, ...]
    depth: int

    def __post_init__(self) -> None:
        if self.stem < 1 or self.depth < 1 or not self.widths or any(w < 8 or w % 8 for w in self.widths):
            raise BadInput(
                f"U-Net has stem {self.stem}, widths {self.widths}, depth {self.depth}",
                accepted="stem and depth of 1 or more, widths that are multiples of 8",
                why="channels are normalised in groups of 8",
            )

    @property
    def multiple(self) -> int:
        """Height and width are padded to a multiple of this."""
        return int(self.stem * 2 ** (len(self.widths) - 1))


def sizes_for(height: int, width: int, *, channels: int | None = None, depth: int | None = None) -> UNetSizes:
    """Sizes that train in minutes on a CPU.

    Args:
        channels: channels at the finest level; each level below has twice as many. depth: blocks a level.

    >>> sizes_for(8, 8)
    UNetSizes(stem=1, widths=(32, 64), depth=1)
    >>> sizes_for(28, 28)
    UNetSizes(stem=2, widths=(48, 96), depth=2)
    >>> sizes_for(64, 64).stem
    4
    """
    side = max(height, width)
    stem = 1 if side <= 16 else 2 if side <= 40 else 4
    levels = 1 if min(height, width) < 4 * stem else 2
    first = channels or (32 if side <= 16 else 48)
    return UNetSizes(stem, tuple(first * 2**i for i in range(levels)), depth or (1 if side <= 16 else 2))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class PictureBlock(nn.Module):
    """skip(x) + conv(silu((1 + a) norm(conv(silu(norm(x)))) + b)), with scale a and shift b from the steering vector.

    Adaptive normalisation as in Dhariwal and Nichol 2021, arXiv:2105.05233, section 3.
    """

    def __init__(self, inputs: int, outputs: int, steer: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_in = _norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.steer = nn.Linear(steer, 2 * outputs) if steer else None
        self.norm_out = _norm(outputs)
        self.conv_out = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), vector (B, steer) | None, to (B, C', H, W)."""
        h = self.norm_out(self.conv_in(nn.functional.silu(self.norm_in(x))))
        if self.steer is not None and vector is not None:
            scale, shift = rearrange(self.steer(vector), "b (two c) -> two b c 1 1", two=2)
            h = h * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv_out(self.dropout(nn.functional.silu(h)))
        return out


class OwnAttention(nn.Module):
    """x + W softmax(q k' / sqrt(d)) v over all places of one picture; the softmax is taken in float32.

    Written out, because the fused kernel is slower than plain products at these sizes on a CPU.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) to attention (B, heads, HW, HW), each row summing to one, and values (B, heads, HW, d)."""
        q, k, v = rearrange(
            self.qkv(self.norm(x)), "b (three heads d) h w -> three b heads (h w) d", three=3, heads=self.heads
        )
        return weigh(q, k), v

    def forward(self, x: Tensor) -> Tensor:
        attention, v = self.weights(x)
        mixed = rearrange(attention.to(v.dtype) @ v, "b heads (h w) d -> b (heads d) h w", h=x.shape[-2], w=x.shape[-1])
        out: Tensor = x + self.out(mixed)
        return out


class CrossAttention(nn.Module):
    """x + what all places of a picture gather from a context, such as the words of a caption.

    A place asks with what it holds and with where it is: "left" is a word for some places only, and convolutions
    alone hardly know where they stand.
    """

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.place = nn.Linear(channels, channels, bias=False)
        self.attention = MultiHeadAttention(channels, heads_for(channels), context=context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, C, H, W) to the same shape."""
        height, width = x.shape[-2:]
        places = self.place(grid_positions(height, width, x.shape[1], x))
        asked = rearrange(self.norm(x), "b c h w -> b (h w) c") + places
        return x + rearrange(self.attention(asked, context), "b (h w) c -> b c h w", h=height)


class UNet(nn.Module):
    """(B, inputs, H, W), an optional vector (B, steer) and an optional context to (B, outputs, H, W).

    Args:
        inputs, outputs: channels. size: (H, W); odd sizes are padded inside by repeating the border.
        sizes: stem, widths and depth. steer: size of the steering vector, 0 for none.
        context: size of a slot of the context, 0 for none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        *,
        sizes: UNetSizes | None = None,
        steer: int = 0,
        context: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.sizes = sizes = sizes or sizes_for(*size)
        self.outputs = outputs
        widths, fold = sizes.widths, sizes.stem**2
        self.first = nn.Conv2d(inputs * fold, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        skips = []
        here = widths[0]
        for level, channels in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(sizes.depth):
                blocks.append(PictureBlock(here, channels, steer, dropout))
                here = channels
                skips.append(here)
            self.down.append(blocks)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(here, here, 3, stride=2, padding=1))
        self.before = PictureBlock(here, here, steer, dropout)
        self.attention = OwnAttention(here, heads_for(here))
        self.cross = CrossAttention(here, context) if context else None
        self.after = PictureBlock(here, here, steer, dropout)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for level, channels in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(sizes.depth):
                blocks.append(PictureBlock(here + skips.pop(), channels, steer, dropout))
                here = channels
            self.up.append(blocks)
            if level > 0:
                self.grow.append(nn.Conv2d(here, widths[level - 1], 3, padding=1))
                here = widths[level - 1]
        self.norm = _norm(here)
        self.last = _zero(nn.Conv2d(here, outputs * fold, 3, padding=1))

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        """x (B, inputs, H, W), vector (B, steer) | None, context | None, to (B, outputs, H, W)."""
        height, width = x.shape[-2:]
        h, kept = self._descend(x, vector, context)
        for level, blocks in enumerate(self.up):
            for block in cast(nn.ModuleList, blocks):
                h = block(torch.cat((h, kept.pop()), dim=1), vector)
            if level < len(self.grow):
                h = self.grow[level](nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        out = nn.functional.pixel_shuffle(self.last(nn.functional.silu(self.norm(h))), self.sizes.stem)
        return out[..., :height, :width]

    def look(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> tuple[Tensor, ...]:
        """What the way down sees of the same: the last map (B, C, h, w) of each level, then the lowest of all.

        Their channels are `seen`.
        """
        h, kept = self._descend(x, vector, context)
        return (*kept[self.sizes.depth - 1 :: self.sizes.depth], h)

    @property
    def seen(self) -> tuple[int, ...]:
        """Channels of the maps that `look` gives."""
        return (*self.sizes.widths, self.sizes.widths[-1])

    def _descend(self, x: Tensor, vector: Tensor | None, context: Context | None) -> tuple[Tensor, list[Tensor]]:
        """The map at the bottom, and those that skips carry across."""
        x = _padded(x, self.sizes.multiple)
        h = self.first(nn.functional.pixel_unshuffle(x, self.sizes.stem))
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            for block in cast(nn.ModuleList, blocks):
                h = block(h, vector)
                kept.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        h = self.attention(self.before(h, vector))
        if self.cross is not None and context is not None:
            h = self.cross(h, context)
        return self.after(h, vector), kept

    def describe(self) -> Sequence[str]:
        """What the net is made of, in the order data meets it: one plain line a stage."""
        height, width = (-(-n // self.sizes.multiple) * self.sizes.multiple // self.sizes.stem for n in self.size)
        stem = self.sizes.stem
        blocks = "1 block" if self.sizes.depth == 1 else f"{self.sizes.depth} blocks"
        lines = [f"fold {stem}x{stem} pixels into channels"] if stem > 1 else []
        for level, channels in enumerate(self.sizes.widths):
            lines.append(f"{blocks} down at {height >> level}x{width >> level}, {channels} channels")
        deepest = len(self.sizes.widths) - 1
        looks = "own-attention" if self.cross is None else "own-attention and a look at the caption"
        lines.append(
            f"2 blocks around {looks} with {self.attention.heads} heads at {height >> deepest}x{width >> deepest}"
        )
        for level, channels in reversed(list(enumerate(self.sizes.widths))):
            lines.append(f"{blocks} up at {height >> level}x{width >> level}, {channels} channels")
        return lines


def _padded(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) grown right and below, by repeating its border, to multiples of `multiple`."""
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not (below or right):
        return x
    return nn.functional.pad(x, (0, right, 0, below), mode="replicate")
