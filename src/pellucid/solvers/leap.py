"""Drawing in a few steps: one leap from noise to an item, then a walk of a few strides that mends it."""

from __future__ import annotations

import itertools

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.denoiser import Denoiser, checked_sigmas, keep_step

__all__ = ["leap"]


def leap(denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows, trace: Trace | None = None) -> Tensor:
    """Finish the item at once, cover it with fresh noise of the second level, and walk from there.

    x_1 = D(x_0, sigma_0) + sigma_1 * noise                               Song et al. 2023, arXiv:2303.01469, alg. 1
    x_k+1 = D(x_k, sigma_k) + sigma_k+1 / sigma_k * (x_k - D(x_k, sigma_k))    Euler, as in `solvers/euler.py`

    Fresh noise puts the item where noisy data lies, whatever was wrong with its details; the walk keeps its noise, so
    that no step undoes what the last one has decided.

    Args:
        denoise: (B, *event), (B,) -> (B, *event); at sigma_0 it answers with an item, below with where a walk leads.
        x: (B, *event), data + sigmas[0] * noise. sigmas: (K + 1,), falling; the last may be 0.
        rows: B rows; the fresh noise is drawn from `rows.fork("leap")`.
        trace: as in `euler`.

    >>> import torch
    >>> point, rows = torch.tensor([[3.0]]), Rows(0, torch.arange(1))
    >>> leap(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]), rows)
    tensor([[3.]])
    """
    trace = trace or Silent()
    levels = checked_sigmas(sigmas)
    steps = list(itertools.pairwise(levels))
    for step, (sigma, after) in enumerate(steps):
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        keep_step(trace, step, x, sigma, denoised)
        if step == 0:
            x = denoised + after * rows.fork("leap").normal(*x.shape[1:], dtype=x.dtype)
        else:
            x = denoised + after / sigma * (x - denoised)
    keep_step(trace, len(steps), x, levels[-1])
    return x
