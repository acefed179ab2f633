"""Euler's method on the probability-flow equation: first order, one evaluation of the network a step."""

from __future__ import annotations

import itertools

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["euler"]


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows | None = None, trace: Trace | None = None) -> Tensor:
    """Walk from noise to data along a straight line a step.

    dx / dsigma = (x - D(x; sigma)) / sigma                    Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3
    x_next = D + (sigma_next / sigma) * (x - D)

    The same step is DDIM (arXiv:2010.02502), and Euler's step on the straight path of flow matching.

    Args:
        denoise: (B, *event), (B,) -> (B, *event).
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: not used; nothing is drawn. trace: offered "x_t", "denoised", "sigma" at steps 0 to K - 1, and
            "x_t", "sigma" at step K.

    >>> import torch
    >>> point = torch.tensor([[3.0]])  # data that is always 3: the path ends there
    >>> euler(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]))
    tensor([[3.]])
    """
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        x = denoised + (after / sigma) * (x - denoised)
    keep_step(trace, len(steps), x, levels[-1])
    return x
