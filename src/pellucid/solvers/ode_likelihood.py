"""Likelihood by the probability-flow equation: how much the walk from an item to noise stretches space."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.solvers.denoiser import Denoiser

__all__ = ["EXACT_TRACE", "ode_log_prob"]

EXACT_TRACE = 12  # numbers in an event up to which the trace is summed out instead of guessed by probes


def ode_log_prob(
    denoise: Denoiser,
    x: Tensor,
    rows: Rows,
    *,
    highest: float,
    lowest: float,
    steps: int = 24,
    probes: int = 2,
) -> LogProb:
    """Log-density of items, by walking them to noise and adding up the divergence on the way.

    dx / du = x - D(x; e^u),   u = log sigma                   Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3
    log p(x_0) = log N(x_T; 0, sigma_T^2 I) + integral of (n - tr dD/dx) du
                                                               Chen et al. 2018, arXiv:1806.07366, eq. 8
    tr dD/dx ~ mean of e' (dD/dx) e over random signs e        Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367

    The same signs are used along a whole walk. Up to `EXACT_TRACE` numbers the trace is exact and what is left is the
    error of the steps: the walk is taken with Heun's method, and once more with half as many steps.

    Args:
        denoise: (B, *event), (B,) -> (B, *event), differentiable. x: (B, *event). rows: B rows, for the signs.
        highest, lowest: noise levels between which to walk; the item is taken to be at the lowest.
        steps: even. probes: directions of signs for each row, at least 2.

    Returns:
        nats, kind "estimate": error is the probes' standard error and the difference to half the steps together.
    """
    if steps < 2 or steps % 2 or probes < 2 or not 0.0 < lowest < highest:
        raise BadInput(
            f"steps={steps}, probes={probes}, levels {lowest} to {highest}",
            accepted="an even number of steps, 2 probes or more, 0 < lowest < highest",
        )
    n = math.prod(x.shape[1:])
    if n <= EXACT_TRACE:
        directions = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *x.shape[1:]).expand(n, *x.shape)
        weight = 1.0
    else:
        signs = [rows.fork("probe", k).uniform(*x.shape[1:], dtype=x.dtype) for k in range(probes)]
        directions, weight = torch.stack([torch.where(s < 0.5, -1.0, 1.0).to(x.dtype) for s in signs]), 1.0 / probes
    constant = n * (math.log(highest) + 0.5 * math.log(2 * math.pi)) - n * math.log(highest / lowest)

    def value(walked: tuple[Tensor, Tensor]) -> Tensor:
        end, stretch = walked
        return -0.5 * (end / highest).flatten(1).square().sum(1) - constant - weight * stretch.sum(0)

    fine = _walk(denoise, x, directions, steps, highest, lowest)
    rough = value(_walk(denoise, x, directions, steps // 2, highest, lowest))
    by_steps = (value(fine) - rough) / 3  # Heun's error falls with the square of the step (Richardson)
    away = fine[1] - fine[1].mean(0)
    spread = away.square().sum(0) / (probes * (probes - 1))
    by_probes = spread.sqrt() if n > EXACT_TRACE else torch.zeros_like(rough)
    return LogProb(value(fine) + by_steps, "estimate", (by_probes.square() + by_steps.square()).sqrt())


def _walk(
    denoise: Denoiser, x: Tensor, directions: Tensor, steps: int, highest: float, lowest: float
) -> tuple[Tensor, Tensor]:
    """The walk up the noise: the end (B, *event), and the integral of e' dD/dx e du for each direction (P, B).

    x goes by Heun's method in sigma, in which the path is straight at both ends; in u it would grow without bound.
    """
    sigmas = torch.logspace(math.log10(lowest), math.log10(highest), steps + 1, dtype=torch.float64).tolist()
    slope, trace = _slope(denoise, x, directions, sigmas[0])
    total = torch.zeros_like(trace)
    for here, there in itertools.pairwise(sigmas):
        slope_there, trace_there = _slope(denoise, x + (there - here) * slope, directions, there)
        x = x + (there - here) / 2 * (slope + slope_there)
        total = total + math.log(there / here) / 2 * (trace + trace_there)
        if there != sigmas[-1]:
            slope, trace = _slope(denoise, x, directions, there)
    return x, total


def _slope(denoise: Denoiser, x: Tensor, directions: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """dx / dsigma (B, *event) and e' dD/dx e (P, B)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = denoise(x, x.new_full((x.shape[0],), sigma))
        (back,) = torch.autograd.grad(denoised, x, directions, is_grads_batched=True)  # (P, B, *event)
    return ((x - denoised) / sigma).detach(), (back * directions).flatten(2).sum(2)
