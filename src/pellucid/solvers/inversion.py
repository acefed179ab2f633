"""Exact inversion: from a sample back to the noise that the same solver turns into it again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.solvers.denoiser import Denoiser, checked_sigmas

__all__ = ["Inverted", "invert", "reversible_sigmas"]


@dataclass(frozen=True)
class Inverted:
    """The start that leads to a sample.

    x: (B, *event) at the highest noise level; x / sigmas[0] is close to standard normal for items of the model's own.
    residual: (B,) largest error left in any step's equation, in units of the event.
    evaluations: of the denoiser, in all.
    """

    x: Tensor
    residual: Tensor
    evaluations: int


def reversible_sigmas(steps: int, highest: float, lowest: float = 0.01) -> Tensor:
    """(K + 1,) noise levels with one ratio between neighbours: levels at which a step can be undone.

    A step that goes to sigma = 0 cannot, since many starts lead to one end.

    >>> reversible_sigmas(2, 1.0, 0.01).tolist()
    [1.0, 0.1, 0.01]
    """
    if steps < 1 or not 0.0 < lowest < highest:
        raise BadInput(f"{steps} steps from {highest} to {lowest}", accepted="at least 1 step, 0 < lowest < highest")
    return torch.logspace(0, 1, steps + 1, base=lowest / highest, dtype=torch.float64) * highest


@torch.no_grad()
def invert(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, tolerance: float = 1e-5, most: int = 50) -> Inverted:
    """Undo Euler's walk along `sigmas` step by step: `euler(denoise, result.x, sigmas)` gives x again.

    Each step y -> x = D(y) + r (y - D(y)), r = sigma_after / sigma, is solved for y by the fixed-point iteration
    y <- D(y) + (x - D(y)) / r, which contracts where (1 - r) / r times the denoiser's slope is below 1: for levels
    close enough together (`reversible_sigmas`). Pan et al. 2023, arXiv:2309.04907 (accelerated iterative inversion).

    Args:
        denoise: (B, *event), (B,) -> (B, *event). x: (B, *event), seen as at noise level sigmas[-1].
        sigmas: (K + 1,), falling, the last above 0.
        tolerance: on the change of y in one iteration, relative to the level's scale. most: iterations a step.
    """
    levels = checked_sigmas(sigmas)
    if levels[-1] <= 0.0:
        raise BadInput("the last noise level is 0", accepted="above 0", next="Take reversible_sigmas().")
    residual, evaluations = x.new_zeros(x.shape[0]), 0
    for sigma, after in reversed(list(itertools.pairwise(levels))):
        ratio, y = after / sigma, x
        level = x.new_full((x.shape[0],), sigma)
        left = residual
        for _ in range(most):
            denoised = denoise(y, level)
            evaluations += 1
            better = denoised + (x - denoised) / ratio
            left = (better - y).abs().flatten(1).amax(1) * ratio
            y = better
            if float(left.max()) <= tolerance * max(1.0, after):
                break
        residual = torch.maximum(residual, left)
        x = y
    return Inverted(x, residual, evaluations)
