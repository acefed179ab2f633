"""Points of an evenly spaced grid, and which of them a number is nearest to."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.space import Real

__all__ = ["grid_of", "levels_of"]


def grid_of(space: Real) -> Tensor:
    """(L,) float32: the levels of a space, worked out in float64 so that every user of them has the same bits.

    >>> grid_of(Real((1,), levels=3))
    tensor([-1.,  0.,  1.])
    """
    if space.levels is None:
        raise BadInput(f"the space {space} is continuous", accepted="numbers on a grid")
    return (space.low + space.step * torch.arange(space.levels, dtype=torch.float64)).to(torch.float32)


def levels_of(space: Real, x: Tensor) -> Tensor:
    """int64, shaped as x: the nearest level of each number, the first or the last beyond the ends."""
    return ((x - space.low) / space.step).round().clamp(0, (space.levels or 2) - 1).long()
