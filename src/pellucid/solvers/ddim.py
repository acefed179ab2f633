"""DDIM: the same way from noise to data at every call, in as few steps as wanted."""

from __future__ import annotations

from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.core.trace import Trace
from pellucid.solvers.ancestral import ancestral
from pellucid.solvers.denoiser import Denoiser

__all__ = ["ddim"]


def ddim(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, rows: Rows, trace: Trace | None = None, eta: float = 0.0
) -> Tensor:
    """Walk from noise to data by denoising diffusion implicit models.

    x_{t-1} = sqrt(a_{t-1}) D + sqrt(1 - a_{t-1} - s_t^2) eps + s_t noise,   eps = (x_t - sqrt(a_t) D) / sqrt(1 - a_t)
    s_t = eta sqrt((1 - a_{t-1}) / (1 - a_t)) sqrt(1 - a_t / a_{t-1})
                                                        Song et al. 2021, arXiv:2010.02502, eq. 12 and 16

    In noise levels, sigma^2 = (1 - a) / a and x / sqrt(a) for x, this is the ancestral step with its share eta of
    fresh noise; with eta = 0 it is Euler's step on the probability-flow equation.

    Args:
        denoise, x, sigmas, rows, trace: as in `ancestral`. eta: 0 draws nothing, 1 is DDPM.

    >>> import torch
    >>> point = torch.tensor([[3.0]])
    >>> ddim(lambda x, sigma: point, torch.tensor([[8.0]]), torch.tensor([5.0, 1.0, 0.0]), Rows(0, torch.arange(1)))
    tensor([[3.]])
    """
    return ancestral(denoise, x, sigmas, rows, trace, eta)
