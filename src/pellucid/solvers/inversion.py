"""Exact inversion: from a sample back to the noise that the same solver turns into it again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.capabilities import expand_like
from pellucid.core.errors import BadInput
from pellucid.solvers.denoiser import Denoiser, checked_sigmas

__all__ = ["Inverted", "invert", "reversible_sigmas"]

MEMORY = 5  # iterations that the acceleration looks back on
RIDGE = 1e-10


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
def invert(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, tolerance: float = 2e-6, most: int = 50) -> Inverted:
    """Undo Euler's walk along `sigmas` step by step: `euler(denoise, result.x, sigmas)` gives x again.

    Each step y -> x = D(y) + r (y - D(y)), r = sigma_after / sigma, is solved for y by the fixed-point iteration
    y <- g(y) = D(y) + (x - D(y)) / r, which alone contracts where (1 - r) / r times the denoiser's slope is below 1.
    Anderson's acceleration also settles steeper ones: Pan et al. 2023, arXiv:2309.04907, section 3.2.

    Args:
        denoise: (B, *event), (B,) -> (B, *event). x: (B, *event), seen as at noise level sigmas[-1].
        sigmas: (K + 1,), falling, the last above 0.
        tolerance: on the error of a step, relative to the level's scale. most: iterations a step.
    """
    levels = checked_sigmas(sigmas)
    if levels[-1] <= 0.0:
        raise BadInput("the last noise level is 0", accepted="above 0", next="Take reversible_sigmas().")
    if not tolerance > 0.0 or most < 1:
        raise BadInput(f"tolerance is {tolerance}, most {most}", accepted="tolerance above 0, at least 1 iteration")
    residual, evaluations = x.new_zeros(x.shape[0]), 0
    for sigma, after in reversed(list(itertools.pairwise(levels))):
        ratio, level = after / sigma, x.new_full((x.shape[0],), sigma)
        y = best = x
        left = x.new_full((x.shape[0],), float("inf"))
        points: list[Tensor] = []  # g(y) and g(y) - y, of the last iterations
        strays: list[Tensor] = []
        for _ in range(most):
            denoised = denoise(y, level)
            evaluations += 1
            better = denoised + (x - denoised) / ratio
            stray = better - y
            error = stray.abs().flatten(1).amax(1) * ratio
            best = torch.where(expand_like(error < left, y), y, best)  # a row that is done hears no more of the others
            left = torch.minimum(left, error)
            settled = left <= tolerance * max(1.0, after)
            if bool(settled.all()):
                break
            points, strays = [*points, better][-MEMORY:], [*strays, stray][-MEMORY:]
            y = torch.where(expand_like(settled, y), best, _accelerated(points, strays))
        residual = torch.maximum(residual, left)
        x = best
    return Inverted(x, residual, evaluations)


def _accelerated(points: list[Tensor], strays: list[Tensor]) -> Tensor:
    """Anderson's next point: the mix of the last points (B, *event) whose strays cancel best, row by row."""
    if len(points) == 1:
        return points[0]
    last = strays[-1].flatten(1).double()
    differ = torch.stack([last - s.flatten(1).double() for s in strays[:-1]], dim=1)  # (B, M, D)
    products = differ @ differ.mT
    ridge = RIDGE * products.diagonal(dim1=1, dim2=2).sum(1) + torch.finfo(torch.float64).tiny
    eye = torch.eye(len(strays) - 1, dtype=torch.float64, device=last.device)
    mix = torch.linalg.solve(products + ridge[:, None, None] * eye, differ @ last[..., None])  # (B, M, 1)
    moved = torch.stack([points[-1] - p for p in points[:-1]], dim=1).flatten(2)
    return points[-1] - (mix.mT.to(moved) @ moved)[:, 0].reshape_as(points[-1])
