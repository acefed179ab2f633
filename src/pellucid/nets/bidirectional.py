"""A transformer in which every slot sees every other: for filling what is missing from what stands on all sides.

Blocks as in `nets/transformer.py`: x + attention(norm(x)), then x + W2 relu(W1 norm(x))^2 (So et al. 2021, "Primer",
https://arxiv.org/abs/2109.08668, section 4).
"""

from __future__ import annotations

from torch import Tensor, nn

from pellucid.nets.attention import MultiHeadAttention, heads_for

__all__ = ["Bidirectional"]


class Bidirectional(nn.Module):
    """Embedded slots (B, S, width) to features (B, S, width).

    Args:
        width, depth: size of a slot, blocks; heads have 16 to 32 numbers each where the width allows it.
        dropout: share of the numbers that each block adds which is left out in training.
    """

    def __init__(self, width: int, depth: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class _Block(nn.Module):
    """Attention, then a two-layer network at each slot; both start at zero, so the block starts as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = MultiHeadAttention(width, heads_for(width, 16 if width < 128 else 32))
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, width)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        thought: Tensor = self.outer(self.inner(self.norm2(x)).relu().square())
        return x + self.dropout(thought)
