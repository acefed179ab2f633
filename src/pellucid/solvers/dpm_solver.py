"""DPM-Solver++ of second order: each step also uses the estimate of the step before, at no further evaluation."""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["dpm_2m", "dpm_2m_sde"]


def dpm_2m(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows | None = None, trace: Trace | None = None
) -> Tensor:
    """Walk from noise to data with a straight line through the last two estimates; one evaluation a step.

    lambda = -log sigma;   h_i = lambda_i - lambda_{i-1};   r = h_{i-1} / h_i
    D = D_i + (D_i - D_{i-1}) / (2 r)
    x_next = (sigma_next / sigma) x + (1 - e^-h) D        Lu et al. 2022, arXiv:2211.01095, algorithm 2, for alpha = 1

    The first step and the step to sigma = 0 are of first order, as in the paper.

    Args:
        denoise: (B, *event), (B,) -> (B, *event).
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: not used; nothing is drawn. trace: as in `euler`; "denoised" is the network's own estimate.

    >>> import torch
    >>> point = torch.tensor([[3.0]])
    >>> dpm_2m(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]))
    tensor([[3.]])
    """
    return _walk(denoise, x, sigmas, None, trace)


def dpm_2m_sde(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows, trace: Trace | None = None) -> Tensor:
    """The same with fresh noise at each step: second order on the reverse stochastic equation.

    x_next = (sigma_next / sigma) e^-h x + (1 - e^-2h) D + sigma_next sqrt(1 - e^-2h) noise
                                            Lu et al. 2022, arXiv:2211.01095, SDE-DPM-Solver++(2M), for alpha = 1

    Args:
        rows: B rows; the noise of step k is drawn from `rows.fork("dpm", k)`. The others as in `dpm_2m`.

    >>> import torch
    >>> point = torch.tensor([[3.0]])
    >>> rows = Rows(0, torch.arange(1))
    >>> dpm_2m_sde(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]), rows)
    tensor([[3.]])
    """
    return _walk(denoise, x, sigmas, rows, trace)


def _walk(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows | None, trace: Trace | None) -> Tensor:
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    last: Tensor | None = None
    h_last = 0.0
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        if after == 0.0:
            x = denoised
            continue
        h = math.log(sigma / after)
        line = denoised if last is None else denoised + (denoised - last) * (h / (2 * h_last))
        if rows is None:
            x = (after / sigma) * x + (1 - math.exp(-h)) * line
        else:
            fresh = -math.expm1(-2 * h)
            noise = rows.fork("dpm", step).normal(*x.shape[1:], dtype=x.dtype)
            x = (after / sigma) * math.exp(-h) * x + fresh * line + after * math.sqrt(fresh) * noise
        last, h_last = denoised, h
    keep_step(trace, len(steps), x, levels[-1])
    return x
