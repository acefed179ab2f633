"""Attention without an order: every place sees every other, or places see a context such as the words of a caption.

    softmax(q k' / sqrt(size)) v          Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1

Written out as matrix products and a softmax in float32: at these sizes on a CPU that is faster than the fused kernel
(in bfloat16 by several times), it is the same arithmetic in every precision, and `torch.func` goes through it row by
row. The causal kind with a cache is in `nets/transformer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["Context", "MultiHeadAttention", "grid_positions", "heads_for", "unit", "weigh"]


@dataclass(frozen=True)
class Context:
    """A sequence that a network may look at beside its steering vector: the words of a caption.

    Args:
        tokens: (B, S, width). known: (B, S) bool, false where the sequence is padded; at least one is true in a row.
    """

    tokens: Tensor
    known: Tensor


def heads_for(width: int, size: int = 32) -> int:
    """The most heads of about `size` numbers each that share out `width` evenly.

    >>> [heads_for(w) for w in (8, 32, 72, 96, 192)]
    [1, 1, 2, 3, 6]
    """
    return max(h for h in range(1, max(1, width // size) + 1) if width % h == 0)


def unit(x: Tensor) -> Tensor:
    """Root mean square 1 along the last axis."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def weigh(q: Tensor, k: Tensor, known: Tensor | None = None) -> Tensor:
    """Attention weights (B, heads, N, S), each row summing to one; at least in float32.

    Args:
        q: (B, heads, N, size). k: (B, heads, S, size).
        known: (B, S) bool, places that may be seen; None is all of them.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if known is not None:
        scores = scores.masked_fill(~known[:, None, None, :], -torch.inf)
    return scores.float().softmax(dim=-1) if scores.dtype != torch.float64 else scores.softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Places (B, N, width) gather from themselves, or from a context (B, S, context).

    Queries and keys are normalised (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442, section 2), so that high
    learning rates cannot blow up the softmax.

    Args:
        width: a multiple of `heads`. context: size of a slot of the context, 0 when places see one another.
        zero: start with an output of zero.
    """

    def __init__(self, width: int, heads: int, *, context: int = 0, zero: bool = True) -> None:
        super().__init__()
        self.heads, self.crosses = heads, context > 0
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.sharp = nn.Parameter(torch.zeros(heads))  # logarithm of each head's inverse temperature
        if zero:
            nn.init.zeros_(self.out.weight)

    def weights(self, x: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """x (B, N, width) to attention (B, heads, N, S), each row summing to one, and values (B, heads, S, size)."""
        seen = x if context is None else context.tokens
        q = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.key_value(seen), "b s (two h d) -> two b h s d", two=2, h=self.heads)
        q = unit(q) * self.sharp.exp()[:, None, None].to(q.dtype)
        return weigh(q, unit(k), None if context is None else context.known), v

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """x (B, N, width) to the same shape. Own attention over padded places is asked with `Context(x, known)`."""
        attention, v = self.weights(x, context)
        mixed = attention.to(v.dtype) @ v
        out: Tensor = self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


def grid_positions(height: int, width: int, size: int, like: Tensor) -> Tensor:
    """(height * width, size) cosines and sines of each place's row and column, half of the numbers for each.

    Vaswani et al. 2017, section 3.5, once for each axis, with wavelengths from about 6 places to 600: a grid has few.

    Args:
        size: a multiple of 4. like: gives device and dtype.
    """
    quarter = size // 4
    rate = 100.0 ** (-torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter)
    row = torch.arange(height, device=like.device, dtype=torch.float32)[:, None] * rate
    column = torch.arange(width, device=like.device, dtype=torch.float32)[:, None] * rate
    down = torch.cat((row.cos(), row.sin()), dim=-1)[:, None].expand(height, width, 2 * quarter)
    along = torch.cat((column.cos(), column.sin()), dim=-1)[None].expand(height, width, 2 * quarter)
    return rearrange(torch.cat((down, along), dim=-1), "h w c -> (h w) c").to(like.dtype)
