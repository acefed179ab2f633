"""Classifier-free guidance: ask with and without the condition, and walk further in the direction of the difference."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, expand_like
from pellucid.core.rows import Rows
from pellucid.solvers.denoiser import Denoiser, at_condition

__all__ = ["follow", "guided"]


def guided(
    engine: Denoises,
    condition: Condition,
    weight: float,
    against: Condition | None = None,
    between: tuple[float, float] | None = None,
) -> Denoiser:
    """The engine's denoiser, pushed towards the condition.

    D_w(x) = D(x; without) + w * (D(x; with) - D(x; without))      Ho and Salimans 2022, arXiv:2207.12598, eq. 6

    The paper's w is ours minus one: here 1 is the plain conditional model, 0 the unconditional one. Both sides are
    evaluated in one batch of 2B rows. A row in which nothing is given is left as it is.

    Args:
        condition: B rows. weight: w. against: what to walk away from, B rows; None is the condition not given.
        between: noise levels (lowest, highest) at which to push, both included; outside w is 1, at half the cost
            (Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 5). None pushes everywhere.
    """
    plain = at_condition(engine, condition)
    if not condition or (weight == 1.0 and against is None):
        return plain
    both = Condition.cat([condition, condition.nothing() if against is None else against])

    def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
        inside = None if between is None else (sigma >= between[0]) & (sigma <= between[1])
        if inside is not None and not bool(inside.any()):
            return plain(x_t, sigma)
        doubled = engine.denoise(torch.cat((x_t, x_t)), torch.cat((sigma, sigma)), both)
        asked, unasked = doubled.chunk(2)
        if inside is None:
            return torch.lerp(unasked, asked, weight)
        return torch.where(expand_like(inside, asked), torch.lerp(unasked, asked, weight), asked)

    return denoise


def follow(engine: Denoises, condition: Condition, how: How, rows: Rows) -> Denoiser:
    """The denoiser that the engine's own samples of these rows follow.

    Engines that steer samples by more than a condition and a weight offer `guide(condition, how, rows)`.
    """
    own = getattr(engine, "guide", None)
    if own is not None:
        found: Denoiser = own(condition, how, rows)
        return found
    return guided(engine, condition, float(getattr(how, "guidance", 1.0)))
