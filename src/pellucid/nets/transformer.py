"""A causal transformer body with a preallocated key/value cache.

Blocks are pre-normalised: x + attention(norm(x)), then x + W2 relu(W1 norm(x))^2 (So et al. 2021, "Primer",
https://arxiv.org/abs/2109.08668, section 4). Attention is written out as matrix products and a softmax: on CPUs that
is faster than the fused kernel, and it is the same arithmetic in every precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["Attention", "Cache", "Transformer", "TransformerBlock", "rotate"]


@dataclass(frozen=True)
class Cache:
    """Keys and values of the slots seen so far.

    The buffers are written in place: a cache that has been stepped further may not be stepped a second time with
    other content.

    Args:
        keys, values: (layers, B, heads, slots, size), of which the first `length` slots are filled.
    """

    keys: Tensor
    values: Tensor
    length: int = 0


class Attention(nn.Module):
    """Causal self-attention with rotary positions: softmax(q k' / sqrt(size)) v.

    Queries and keys are normalised (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442, section 2), so that high
    learning rates cannot blow up the softmax.

    Args:
        width: a multiple of `heads`. rotary: rotate queries and keys by their slot's number; see `rotate`.
    """

    def __init__(self, width: int, heads: int, *, rotary: bool = True) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.sharp = nn.Parameter(torch.zeros(heads))  # logarithm of each head's inverse temperature
        nn.init.zeros_(self.out.weight)

    def project(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, width) in slots `start` and on to queries, keys and values (B, heads, S, size)."""
        q, k, v = rearrange(self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        q, k = _unit(q), _unit(k)
        if self.rotary:
            q, k = rotate(q, start), rotate(k, start)
        return q * self.sharp.exp()[:, None, None].to(q.dtype), k, v

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """q (B, heads, S, size) of the last S slots and k (B, heads, all, size) to weights (B, heads, S, all)."""
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        seen, new = k.shape[-2], q.shape[-2]
        if new > 1:
            future = torch.ones(new, seen, dtype=torch.bool, device=q.device).triu(seen - new + 1)
            scores = scores.masked_fill(future, -math.inf)
        return scores.softmax(dim=-1)

    def forward(self, x: Tensor, layer: int = 0, cache: Cache | None = None) -> Tensor:
        """x (B, S, width) to the same shape; with a cache, x are the slots that follow it and are written there."""
        q, k, v = self.project(x, cache.length if cache else 0)
        if cache is not None:
            end = cache.length + x.shape[1]
            cache.keys[layer, :, :, cache.length : end] = k
            cache.values[layer, :, :, cache.length : end] = v
            k, v = cache.keys[layer, :, :, :end].to(q.dtype), cache.values[layer, :, :, :end]
        mixed = self.weights(q, k).to(v.dtype) @ v
        out: Tensor = self.out(rearrange(mixed, "b h s d -> b s (h d)"))
        return out


class TransformerBlock(nn.Module):
    """Attention, then a two-layer network at each slot; both start at zero, so the block starts as the identity."""

    def __init__(self, width: int, heads: int, *, rotary: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, rotary=rotary)
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(
        self, x: Tensor, layer: int = 0, cache: Cache | None = None, keep: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """x (B, S, width); keep: two (B, 1, width) factors on what attention and network add (dropout of channels)."""
        mixed = self.attention(self.norm1(x), layer, cache)
        x = x + (mixed if keep is None else mixed * keep[0])
        thought = self.outer(self.inner(self.norm2(x)).relu().square())
        return x + (thought if keep is None else thought * keep[1])


class Transformer(nn.Module):
    """Embedded slots (B, S, width) to features (B, S, width); slot s sees slots 0 to s.

    Args:
        width, heads, depth: size of a slot, attention heads, blocks. rotary: see `Attention`.
    """

    def __init__(self, width: int, heads: int, depth: int, *, rotary: bool = True) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rotary=rotary) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def begin(self, batch: int, slots: int, like: Tensor) -> Cache:
        """An empty cache for `slots` slots, on the device and in the dtype of `like`."""
        shape = (len(self.blocks), batch, self.heads, slots, self.width // self.heads)
        return Cache(like.new_zeros(shape), like.new_zeros(shape))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, S, width); keep (B, 2 * depth, width): factors on each addition's channels, or None."""
        for layer, block in enumerate(self.blocks):
            own = None if keep is None else (keep[:, None, 2 * layer], keep[:, None, 2 * layer + 1])
            x = block(x, layer, None, own)
        out: Tensor = self.norm(x)
        return out

    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """x (B, k, width), the slots after those in the cache, to features (B, k, width) and the longer cache."""
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache)
        return self.norm(x), replace(cache, length=cache.length + x.shape[1])

    def attention(self, layer: int, x: Tensor) -> Tensor:
        """Weights (B, heads, S, S) of a block, from embedded slots x (B, S, width)."""
        for index, block in enumerate(self.blocks):
            if index == layer:
                q, k, _ = block.attention.project(block.norm1(x))  # type: ignore[union-attr,operator]
                out: Tensor = block.attention.weights(q, k)  # type: ignore[union-attr,operator]
                return out
            x = block(x)
        raise IndexError(layer)


def rotate(x: Tensor, start: int) -> Tensor:
    """Turn pairs of numbers by an angle that grows with the slot: only differences of slots matter afterwards.

    (a, b) -> (a cos m w_i - b sin m w_i, a sin m w_i + b cos m w_i), w_i = 10000^(-2i / size)
                                                    Su et al. 2021, https://arxiv.org/abs/2104.09864, eq. 34

    Args:
        x: (B, heads, S, size), size even. start: number of the first slot.
    """
    half = x.shape[-1] // 2
    slot = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = slot[:, None] * 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)  # (S, half)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def _unit(x: Tensor) -> Tensor:
    """Root mean square 1 along the last axis."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)
