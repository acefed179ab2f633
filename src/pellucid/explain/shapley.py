"""Shares of players in what they bring about together, averaged over all orders in which they can come in.

    phi_i = sum over S without i of |S|! (d - |S| - 1)! / d! * gain(i, S)          Shapley 1953; Lundberg & Lee 2017,
                                                                                   arXiv:1705.07874, eq. 4

where gain(i, S) is what i adds to those in S. All subsets are visited up to 8 players; beyond, orders are drawn, each
with its reverse (Castro et al. 2009, https://doi.org/10.1016/j.cor.2008.04.004), and every share gets an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.errors import BadInput

__all__ = ["Shares", "gains_of", "shapley"]

MOST_EXACT = 8  # players: 256 subsets

Gains = Callable[[Tensor], Tensor]
"""(M, d) bool, who is in, to (M, d): what each one that is not in would add. What stands at those in is not read."""


@dataclass(frozen=True, eq=False)
class Shares:
    """phi (d,) and its standard error (d,), 0 where every subset was visited; how many subsets that took."""

    phi: Tensor
    error: Tensor
    exact: bool
    subsets: int


def shapley(gains: Gains, d: int, *, orders: int = 64, seed: int = 0, most_exact: int = MOST_EXACT) -> Shares:
    """Shares of d players.

    Args:
        orders: drawn where there are more than `most_exact` players; an even number.

    >>> together = gains_of(lambda s: 2.0 * s[:, 0] + 4.0 * s[:, 1] * s[:, 2])
    >>> shapley(together, 3).phi
    tensor([2., 2., 2.], dtype=torch.float64)
    """
    if d < 1 or orders < 2 or orders % 2:
        raise BadInput(f"{d} players and {orders} orders", accepted="1 player or more, an even number of orders")
    if d <= most_exact:
        return _all(gains, d)
    return _drawn(gains, d, orders, seed)


def gains_of(value: Callable[[Tensor], Tensor]) -> Gains:
    """Gains of a value of subsets, (M, d) bool to (M,); each subset is asked once."""
    known: dict[bytes, float] = {}

    def gains(inside: Tensor) -> Tensor:
        m, d = inside.shape
        with_i = inside[:, None] | torch.eye(d, dtype=torch.bool)  # (M, d, d)
        wanted = torch.cat((inside, with_i.reshape(-1, d)))
        keys = [row.numpy().tobytes() for row in wanted]
        new = {key: k for k, key in enumerate(keys) if key not in known}
        if new:
            found = value(wanted[list(new.values())]).double().tolist()
            known.update(zip(new, found, strict=True))
        values = torch.tensor([known[key] for key in keys], dtype=torch.float64)
        return values[m:].reshape(m, d) - values[:m, None]

    return gains


def _all(gains: Gains, d: int) -> Shares:
    number = torch.arange(2**d)
    inside = (number[:, None] >> torch.arange(d)) % 2 == 1  # (2^d, d)
    size = inside.sum(1)
    weight = torch.tensor([math.factorial(s) * math.factorial(d - s - 1) / math.factorial(d) if s < d else 0.0
                           for s in size.tolist()], dtype=torch.float64)  # fmt: skip
    part = inside[size < d]
    found = torch.where(part, 0.0, gains(part).double())
    phi = (weight[size < d, None] * found).sum(0)
    return Shares(phi, torch.zeros_like(phi), True, len(part))


def _drawn(gains: Gains, d: int, orders: int, seed: int) -> Shares:
    generator = torch.Generator().manual_seed(seed)
    half = torch.stack([torch.randperm(d, generator=generator) for _ in range(orders // 2)])
    order = torch.stack((half, half.flip(1)), dim=1)  # (orders / 2, 2, d)
    place = order.argsort(dim=-1)
    # before player order[k] come those whose place is below k
    inside = place[:, :, None, :] < torch.arange(d)[:, None]  # (orders / 2, 2, d, d)
    flat = inside.reshape(-1, d)
    subsets, back = flat.unique(dim=0, return_inverse=True)
    each = gains(subsets).double()[back].reshape(*order.shape, d)
    found = each.gather(-1, order[..., None]).squeeze(-1)  # (orders / 2, 2, d): gain of the player that comes in
    pairs = found.new_zeros(found.shape).scatter(-1, order, found).mean(1)  # (orders / 2, d)
    error = pairs.std(0) / math.sqrt(len(pairs)) if len(pairs) > 1 else torch.full((d,), math.inf).double()
    return Shares(pairs.mean(0), error, False, len(subsets))
