"""Heun's method on the probability-flow equation: second order, two evaluations of the network a step."""

from __future__ import annotations

import itertools

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["heun"]


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows | None = None, trace: Trace | None = None) -> Tensor:
    """Walk from noise to data with the mean of the slopes at both ends of each step.

    d = (x - D(x; sigma)) / sigma;   x' = x + (sigma_next - sigma) * d;   d' = (x' - D(x'; sigma_next)) / sigma_next
    x_next = x + (sigma_next - sigma) * (d + d') / 2               Karras et al. 2022, arXiv:2206.00364, alg. 1

    The step to sigma = 0 has no slope at its end and is Euler's, as in the paper.

    Args:
        denoise: (B, *event), (B,) -> (B, *event).
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: not used; nothing is drawn. trace: as in `euler`; "denoised" is the first of the two estimates.

    >>> import torch
    >>> point = torch.tensor([[3.0]])
    >>> heun(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]))
    tensor([[3.]])
    """
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        euler = denoised + (after / sigma) * (x - denoised)
        if after == 0.0:
            x = euler
            continue
        slope = (x - denoised) / sigma
        slope_after = (euler - denoise(euler, x.new_full((x.shape[0],), after))) / after
        x = x + (after - sigma) * (slope + slope_after) / 2
    keep_step(trace, len(steps), x, levels[-1])
    return x
