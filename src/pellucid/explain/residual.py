"""What a model would have made of an item instead: where it differs most from that, the item is unusual to the model.

An engine that denoises gets the item under part of the noise and gives back what it believes to be under it; noise
hides a defect sooner than the whole, so the defect comes back as what belongs there (Wyatt et al. 2022, "AnoDDPM",
https://doi.org/10.1109/CVPRW56347.2022.00080). Here one step takes the place of the walk back, as its answer is the
mean of all walks. An engine that encodes and decodes gives its reconstruction. Both err more in some places than in
others on any item, so errors are counted in standard deviations of the errors on other real items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Denoises, Encodes
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space

__all__ = ["Residuals", "errors_of"]

LEVELS = (0.3, 0.6, 1.0, 1.5)  # of noise, where data has unit scale
DRAWS = 8  # of noise at each; with 4, maps from two seeds correlated at .87, which the gate calls unstable
BATCH = 256
FLOOR = 0.1  # of the typical spread: no place is so steady that its smallest error counts


@dataclass(frozen=True, eq=False)
class Residuals:
    """Errors of one engine on other real items, to count those of an item by.

    mean, spread: (L, *event) of L levels.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, errors: Tensor) -> Residuals:
        """From errors (N, L, *event) on N items."""
        if len(errors) < 8:
            raise BadInput(f"errors of {len(errors)} items came", accepted="8 or more")
        spread = errors.std(0)
        axes = tuple(range(1, spread.ndim))
        typical = spread.mean(dim=axes, keepdim=True).clamp_min(1e-12)
        return cls(errors.mean(0), spread + FLOOR * typical)

    def score(self, errors: Tensor) -> Tensor:
        """Errors (B, L, *event) to (B, *event): standard deviations above the mean, averaged over levels."""
        return ((errors - self.mean) / self.spread).mean(1)


def errors_of(engine: object, space: Space, x: Tensor, condition: Condition, rows: Rows) -> Tensor:
    """Squared distance of x (B, *event) from what the engine makes of it: (B, L, *event), L = 1 for reconstructions.

    Symbols of mixed events count 1 where they differ.
    """
    if isinstance(engine, Denoises):
        parts = [_denoised(engine, x, condition.take(k), rows.take(k), k) for k in _parts(len(x))]
        return torch.cat(parts)
    assert isinstance(engine, Encodes)
    assert isinstance(engine, Decodes)
    with_z = [engine.decode(engine.encode(x[k], condition.take(k)), condition.take(k)) for k in _parts(len(x))]
    return _distance(space, x, torch.cat(with_z))[:, None]


def _parts(n: int) -> list[slice]:
    return [slice(at, at + BATCH) for at in range(0, n, BATCH)]


def _denoised(engine: Denoises, x: Tensor, condition: Condition, rows: Rows, part: slice) -> Tensor:
    x, out = x[part], []
    for level, sigma in enumerate(LEVELS):
        total = torch.zeros_like(x)
        for draw in range(DRAWS):
            noise = rows.fork(f"residual {level}", draw).normal(*x.shape[1:], dtype=x.dtype)
            guess = engine.denoise(x + sigma * noise, x.new_full((len(x),), sigma), condition)
            total = total + (guess - x).square()
        out.append(total / DRAWS)
    return torch.stack(out, dim=1)


def _distance(space: Space, x: Tensor, guess: Tensor) -> Tensor:
    if isinstance(space, Real):
        return (guess - x).square()
    if not isinstance(space, Mixed):
        return (guess != x).to(torch.get_default_dtype())
    out = []
    a, b = space.split(x), space.split(guess)
    for field in space.fields:
        same = a[field.name].reshape(len(x), -1), b[field.name].reshape(len(x), -1)
        real = isinstance(field.space, Real)
        out.append((same[0] - same[1]).square() if real else (same[0] != same[1]).to(x.dtype))
    return torch.cat(out, dim=1)
