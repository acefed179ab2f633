"""What a solver sees of a model: noisy points and their noise levels in, clean estimates out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises
from pellucid.core.errors import BadInput
from pellucid.core.trace import Trace

__all__ = ["Denoiser", "at_condition", "checked_sigmas", "keep_step"]

Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, *event) and sigma (B,) to the clean estimate (B, *event), where x_t = data + sigma * noise."""


def at_condition(engine: Denoises, condition: Condition) -> Denoiser:
    """The engine's denoiser with its condition filled in."""

    def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
        return engine.denoise(x_t, sigma, condition)

    return denoise


def checked_sigmas(sigmas: Tensor) -> list[float]:
    """The noise levels (K + 1,) as numbers, refused unless they are finite, strictly falling and not negative.

    >>> import torch
    >>> checked_sigmas(torch.tensor([2.0, 1.0, 0.0]))
    [2.0, 1.0, 0.0]
    """
    values = [float(s) for s in sigmas.detach().double().cpu()]
    falling = all(a > b for a, b in itertools.pairwise(values))
    if sigmas.ndim != 1 or len(values) < 2 or not falling or not 0.0 <= values[-1] <= values[0] < float("inf"):
        raise BadInput(
            f"sigmas has shape {tuple(sigmas.shape)} and starts {values[:4]}",
            accepted="two or more finite noise levels, strictly falling, the last may be 0",
            why="a solver walks from the most noise to the least",
        )
    return values


def keep_step(trace: Trace, step: int, x_t: Tensor, sigma: float, denoised: Tensor | None = None) -> None:
    """Offer one step to the trace: "x_t" (B, *event), "sigma" (B,), and "denoised" (B, *event) if it was computed."""
    if trace.wants("x_t"):
        trace.keep("x_t", step, x_t)
    if trace.wants("sigma"):
        trace.keep("sigma", step, x_t.new_full((x_t.shape[0],), sigma))
    if denoised is not None and trace.wants("denoised"):
        trace.keep("denoised", step, denoised)
