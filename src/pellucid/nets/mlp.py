"""A residual multilayer perceptron, optionally steered by a vector (time, class)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MLP", "ResidualBlock", "fourier_features"]


def fourier_features(t: Tensor, width: int) -> Tensor:
    """(B,) to (B, width): cosines and sines at frequencies from 1 to 1000, evenly spaced in logarithm."""
    frequencies = torch.logspace(0.0, 3.0, width // 2, device=t.device, dtype=t.dtype)
    angle = t[:, None] * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


class ResidualBlock(nn.Module):
    """x + W2 silu((1 + a) norm(x) W1 + b), with scale a and shift b from the steering vector."""

    def __init__(self, width: int, steer: int, expand: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, expand * width)
        self.outer = nn.Linear(expand * width, width)
        self.steer = nn.Linear(steer, 2 * width) if steer else None
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.outer.weight)  # each block starts as the identity
        nn.init.zeros_(self.outer.bias)
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """x (B, width), vector (B, steer) | None."""
        h = self.norm(x)
        if self.steer is not None and vector is not None:
            scale, shift = self.steer(vector).chunk(2, dim=-1)
            h = h * (1 + scale) + shift
        return x + self.outer(self.dropout(nn.functional.silu(self.inner(h))))


class MLP(nn.Module):
    """(B, inputs) and an optional vector (B, steer) to (B, outputs).

    Args:
        width, depth: size and number of residual blocks. steer: size of the steering vector, 0 for none.
        zero: start with an output of zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 256,
        depth: int = 3,
        steer: int = 0,
        dropout: float = 0.0,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, steer, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, outputs)
        if zero:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h, vector)
        out: Tensor = self.last(self.norm(h))
        return out
