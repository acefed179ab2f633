"""Ancestral sampling: the random walk back from noise to data that DDPM takes, written in noise levels."""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["ancestral", "ancestral_step"]


def ancestral_step(
    x: Tensor, denoised: Tensor, sigma: float, after: float, noise: Tensor | None, eta: float = 1.0
) -> Tensor:
    """One draw at noise level `after` given x at level sigma, as if the clean picture were `denoised`.

    up^2 = eta^2 * after^2 * (sigma^2 - after^2) / sigma^2;  down^2 = after^2 - up^2
    x_after = D + (down / sigma) * (x - D) + up * noise

    With eta = 1 this is the posterior q(x_after | x, D) of Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7, for
    x_t = data + sigma * noise; with eta = 0 it is Euler's step. noise (B, *event) may be None where up is 0.
    """
    up = eta * after * math.sqrt(max(0.0, sigma**2 - after**2)) / sigma
    down = math.sqrt(max(0.0, after**2 - up**2))
    x = denoised + (down / sigma) * (x - denoised)
    return x if noise is None or up == 0.0 else x + up * noise


def ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows, trace: Trace | None = None, eta: float = 1.0
) -> Tensor:
    """Walk from noise to data, adding a little fresh noise at each step, so that one start has many ends.

    Args:
        denoise: (B, *event), (B,) -> (B, *event).
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: B rows; the noise of step k is drawn from `rows.fork("ancestral", k)`.
        trace: as in `euler`. eta: share of fresh noise, from 0 (Euler) to 1 (DDPM).

    >>> import torch
    >>> point = torch.tensor([[3.0]])
    >>> rows = Rows(0, torch.arange(1))
    >>> ancestral(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]), rows)
    tensor([[3.]])
    """
    if not 0.0 <= eta <= 1.0:
        raise BadInput(f"eta is {eta}", accepted="from 0 (no fresh noise, Euler) to 1 (as much as DDPM)")
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        fresh = after > 0.0 and eta > 0.0
        noise = rows.fork("ancestral", step).normal(*x.shape[1:], dtype=x.dtype) if fresh else None
        x = ancestral_step(x, denoised, sigma, after, noise, eta)
    keep_step(trace, len(steps), x, levels[-1])
    return x
