"""One vector for each symbol, in which symbols that stand side by side in their alphabet begin alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["SymbolTable"]

WAVES = 8
LEAST = 8  # symbols; smaller alphabets have no use for waves


class SymbolTable(nn.Module):
    """Vectors (sum of sizes, width): a free one a symbol, and a smooth curve over each large alphabet.

        e_v = free_v + sum_k curve_k sqrt(2 / 8) cos(pi k (v + 1/2) / V),   k = 1, ..., 8

    Where symbols are bins of a number, in order, the curve learns from all rows what a free vector would have to
    learn bin by bin; where they are not, the free vectors still say everything.

    Args:
        sizes: of the alphabets, which lie one after another. width: of a vector.
        spread: standard deviation of the first vectors' entries; 0 starts at zero.
        ordered: how many of the first symbols of each alphabet are in order, where that is known; the curve then goes
            over those alone. Empty: over all of them.

    >>> SymbolTable((3, 20), 4)().shape
    torch.Size([23, 4])
    """

    def __init__(
        self, sizes: tuple[int, ...], width: int, *, spread: float = 0.5, ordered: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.sizes, curved = sizes, ordered or sizes
        self.free = nn.Parameter(spread * torch.randn(sum(sizes), width))
        self.large = tuple(place for place, size in enumerate(curved) if size > LEAST)
        if self.large:
            self.curve = nn.Parameter(spread * torch.randn(len(self.large), WAVES, width))
        for place in self.large:
            waves = nn.functional.pad(_waves(curved[place]), (0, 0, 0, sizes[place] - curved[place]))
            self.register_buffer(f"waves{place}", waves, persistent=False)

    def forward(self) -> Tensor:
        """(sum of sizes, width)."""
        if not self.large:
            return self.free
        parts = list(self.free.split(self.sizes))
        for k, place in enumerate(self.large):
            parts[place] = parts[place] + self.get_buffer(f"waves{place}").to(self.free.dtype) @ self.curve[k]
        return torch.cat(parts)


def _waves(size: int) -> Tensor:
    """(size, WAVES)."""
    middle = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    k = torch.arange(1, WAVES + 1, dtype=torch.float32)
    return math.sqrt(2.0 / WAVES) * (math.pi * middle[:, None] * k).cos()
