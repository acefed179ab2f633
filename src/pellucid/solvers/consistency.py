"""Multistep consistency sampling: the way from noise to data for networks that answer with a finished item at once."""

from __future__ import annotations

import itertools

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["consistency"]


def consistency(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows, trace: Trace | None = None) -> Tensor:
    """Finish the item, cover it with fresh noise of the next level, and finish it again.

    x_after = D(x, sigma) + after * noise           Song et al. 2023, arXiv:2303.01469, algorithm 1, smallest time 0

    Other solvers keep a part of the old noise, since their D is a mean that has to be walked towards. Here D is an item
    already, so fresh noise puts it where noisy data lies, whatever was wrong with it.

    Args:
        denoise: (B, *event), (B,) -> (B, *event), one that was trained for few steps.
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: B rows; the noise of step k is drawn from `rows.fork("consistency", k)`.
        trace: as in `euler`.

    >>> import torch
    >>> point, rows = torch.tensor([[3.0]]), Rows(0, torch.arange(1))
    >>> consistency(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]), rows)
    tensor([[3.]])
    """
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        x = denoised
        if after > 0.0:
            x = x + after * rows.fork("consistency", step).normal(*x.shape[1:], dtype=x.dtype)
    keep_step(trace, len(steps), x, levels[-1])
    return x
