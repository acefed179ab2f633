"""Which items move the network as this one does? Gradients of each item's own output function, and their kernel.

    g_i = d f(x_i; theta) / d theta,     score(q, i) = g_q (G'G + lambda I)^-1 g_i
                                                        Park et al. 2023 (TRAK), arXiv:2303.14186, eq. 11 to 14

By Woodbury the inverse is one of n x n numbers, so up to a few million parameters nothing needs to be projected; beyond
that, gradients are projected by a sparse random matrix (Kane and Nelson 2014, one sign a parameter), which keeps inner
products up to its noise. What f is decides much (Zheng et al. 2024, D-TRAK, arXiv:2311.00500, section 3.2):

    loss      the loss that was trained (TRAK)
    square    mean of |output|^2 (D-TRAK)
    output    the output in random directions, so that inner products are those of the output's Jacobian
              (Lin et al. 2025, DAS, arXiv:2410.18639, weighs these by the residual)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Denoises, Learns
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.training.step import Step

__all__ = ["FUNCTIONS", "Function", "gradients", "ridge_scores"]

Floats = NDArray[np.float64]
Function = Literal["loss", "square", "output"]
FUNCTIONS: tuple[Function, ...] = ("loss", "square", "output")

PROJECTED = 2**18  # numbers that a gradient is kept in, at most
LEVELS = (0.2, 0.5, 1.0, 2.0, 5.0)  # noise levels, in spreads of the data, at which outputs are asked for
ROOM = 2**27  # bytes for gradients of the items that are worked on at once


def gradients(
    engine: nn.Module, y: Tensor, condition: Condition, *, function: Function = "loss", draws: int = 16, seed: int = 0
) -> Tensor:
    """(N, P) float32: for each item, the gradient of f averaged over noise that all items share.

    Args:
        engine: as it is; in eval(). y: (N, *event) in its space. condition: N rows.
        draws: noises to average over. P is the number of parameters, or PROJECTED where there are more.

    Raises MissingCapability where the engine has no gradients, or no output of that kind.
    """
    asks = _Asks(engine, function, draws, seed)
    moved = {name: p.detach() for name, p in asks.named_parameters() if p.requires_grad}
    size = sum(p.numel() for p in moved.values())
    fold = _folding(size, seed) if size > PROJECTED else None
    slopes = vmap(grad(_call(asks)), in_dims=(None, 0, 0, 0), randomness="same")
    chunk = max(1, min(32, ROOM // (4 * size)))
    parts = [torch.zeros(0, min(size, PROJECTED))]
    for i in range(0, len(y), chunk):
        some = condition.take(slice(i, i + chunk))
        found = slopes(moved, y[i : i + chunk], dict(some.values), dict(some.given))
        flat = torch.cat([g.reshape(g.shape[0], -1) for g in found.values()], dim=1).float().cpu()
        parts.append(flat if fold is None else fold(flat))
    return torch.cat(parts)


class _Asks(nn.Module):
    """One item's f, a number."""

    def __init__(self, engine: nn.Module, function: Function, draws: int, seed: int) -> None:
        super().__init__()
        if not isinstance(engine, Learns):
            raise MissingCapability(f"{type(engine).__name__} has no gradients", why="It is fitted by counting.")
        if function != "loss" and not isinstance(engine, Denoises):
            raise MissingCapability(f"{type(engine).__name__} has no output to take gradients of", accepted="loss")
        self.step = Step(engine)
        device = next(engine.parameters()).device
        self.ids = torch.arange(draws, device=device)
        self.function, self.draws, self.seed = function, draws, seed

    def forward(self, y: Tensor, values: dict[str, Tensor], given: dict[str, Tensor]) -> Tensor:
        rows = Rows(self.seed, self.ids).fork("influence")
        condition = Condition(
            {k: v[None].expand(self.draws, *v.shape) for k, v in values.items()},
            {k: g[None].expand(self.draws) for k, g in given.items()},
        )
        x = y[None].expand(self.draws, *y.shape)
        if self.function == "loss":
            losses, _ = self.step(0, Batch(x, self.ids, condition), rows)
            return losses.mean()
        engine = self.step.engine
        assert isinstance(engine, Denoises)
        spread = x.new_tensor(LEVELS)[self.ids % len(LEVELS)]
        noise = rows.fork("noise").normal(*y.shape)
        scaled = noise * spread.reshape(-1, *([1] * y.ndim))
        out = engine.denoise(x + scaled, spread, condition)
        if self.function == "square":
            return out.square().mean()
        direction = rows.fork("direction").normal(*y.shape) / y.numel() ** 0.5
        return (out * direction).flatten(1).sum(1).mean()


def _call(asks: _Asks) -> Callable[..., Tensor]:
    def f(moved: dict[str, Tensor], y: Tensor, values: dict[str, Tensor], given: dict[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(asks, moved, (y, values, given))
        return out

    return f


def _folding(size: int, seed: int) -> Callable[[Tensor], Tensor]:
    """(N, size) to (N, PROJECTED): each number is added to one column, with a random sign."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(PROJECTED, (size,), generator=generator)
    sign = torch.randint(2, (size,), generator=generator).float() * 2 - 1

    def fold(g: Tensor) -> Tensor:
        return g.new_zeros(g.shape[0], PROJECTED).index_add_(1, place, g * sign)

    return fold


def ridge_scores(K: Floats, k: Floats, lam: float) -> Floats:
    """(Q, n) g_q (G'G + lambda I)^-1 g_i by Woodbury: k (K + lambda I)^-1, for K = G G' (n, n) and k (Q, n).

    lam is counted in units of K's mean diagonal.

    >>> ridge_scores(np.eye(2) * 4.0, np.array([[4.0, 0.0]]), 1.0)
    array([[0.5, 0. ]])
    """
    ridge = lam * float(np.trace(K)) / len(K)
    return np.asarray(np.linalg.solve(K + ridge * np.eye(len(K)), k.T).T)
