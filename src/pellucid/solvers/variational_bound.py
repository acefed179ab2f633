"""Likelihood by the variational bound: what it costs to send an item through the noise, level by level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb, expand_like
from pellucid.core.rows import Rows
from pellucid.solvers.denoiser import Denoiser

__all__ = ["variational_bound"]


def variational_bound(
    denoise: Denoiser,
    x: Tensor,
    rows: Rows,
    *,
    highest: float,
    lowest: float,
    looks: int = 16,
    grid: Tensor | None = None,
) -> LogProb:
    """Lower bound on the log-probability of items, in continuous time.

    -log p(x) <= KL(q(z_T | x) || N(0, sigma_T^2 I)) + integral of |x - D(z_u; e^u)|^2 / e^2u du - E log p(x | z_0),
    u = log sigma                                      Kingma et al. 2021, arXiv:2107.00630, eq. 11 and 17

    The integral is a mean over `looks` strata of u, one random level in each, so its noise is small and its
    expectation right. The last term is Gaussian for numbers; for numbers on a grid it is the probability of the
    right grid point: p(x_i | z) in proportion to exp(-(z - x_i)^2 / (2 sigma_0^2)) over the points (eq. 33 there).

    Args:
        denoise: (B, *event), (B,) -> (B, *event). x: (B, *event). rows: B rows.
        highest, lowest: noise levels at the ends. looks: evaluations of the denoiser for each item.
        grid: (L,) the values that a number can take, or None for any number.

    Returns:
        nats, kind "lower_bound": the counting measure for a grid, Lebesgue's for others.
    """
    low, high = math.log(lowest), math.log(highest)
    cost = x.flatten(1).square().sum(1) / (2 * highest**2)
    for k in range(looks):
        own = rows.fork("look", k)
        u = low + (high - low) * (k + own.fork("level").uniform(dtype=x.dtype)) / looks
        sigma = u.exp()
        noise = own.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        miss = x - denoise(x + expand_like(sigma, x) * noise, sigma)
        cost = cost + (high - low) / looks * (miss.flatten(1).square().sum(1) / sigma.square())
    noise = rows.fork("last").normal(*x.shape[1:], dtype=x.dtype)
    if grid is None:
        n = math.prod(x.shape[1:])
        last = 0.5 * noise.flatten(1).square().sum(1) + n * (math.log(lowest) + 0.5 * math.log(2 * math.pi))
        return LogProb(-(cost + last), "lower_bound")
    z = (x + lowest * noise).flatten(1)
    right = -0.5 * noise.flatten(1).square()
    every = torch.zeros_like(z)  # sum over the points of exp(-(z - point)^2 / (2 sigma_0^2) - right), in one pass
    for point in grid.to(x).tolist():
        every += (-0.5 * ((z - point) / lowest).square() - right).exp()
    return LogProb(-(cost + every.log().sum(1)), "lower_bound")
