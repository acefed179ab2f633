"""The smallest edit that flips what a judge says: cover an item with a little noise, finish it as something else.

From little noise to much: data + sigma * noise is walked back to an item while the model is told the new wish. The
first noise level at which half of the walks flip the judge is the smallest that does, and the walk's end that is
nearest to the item is the edit. More noise keeps less of the item (SDEdit, Meng et al. 2022, arXiv:2108.01073).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import expand_like
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
from pellucid.core.rows import Rows
from pellucid.explain.commitment import ladder
from pellucid.solvers.ancestral import ancestral
from pellucid.solvers.denoiser import Denoiser

__all__ = ["Flips", "smallest_flips"]

LEAST_STEPS = 10


@dataclass(frozen=True, eq=False)
class Flips:
    """The smallest edits of N items.

    levels: (L,) noise levels that were tried, the weakest first. shares: at each, walks that flip, over all items.
    at: (N,) index of the smallest level that flips half of an item's walks, L where none does.
    edits: (N, *event), the items themselves where none does. moved: (N,) root mean square of what the edit changed.
    evaluations: rows that went through the network, without counting guidance twice.
    """

    levels: tuple[float, ...]
    shares: tuple[Interval, ...]
    at: Tensor
    edits: Tensor
    moved: Tensor
    evaluations: int


@torch.no_grad()
def smallest_flips(
    guide: Callable[[Condition, Rows], Denoiser],
    flips: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    condition: Condition,
    levels: Sequence[float],
    rows: Rows,
    *,
    branches: int = 6,
    every: bool = False,
) -> Flips:
    """Find the smallest flip of each item.

    Args:
        guide: condition and rows to the denoiser that is walked with; see `guided` for how to push towards a wish.
        flips: ends (M, *event) and which item each comes from (M,) to (M,) bool.
        x: (N, *event), clean. condition: N rows, the new wish. rows: N rows.
        levels: noise levels to try; data has about unit scale. branches: walks from each level.
        every: try all levels for all items, for a whole curve; else an item that has flipped is left alone.
    """
    if branches < 1 or not len(levels) or min(levels) <= 0.0:
        raise BadInput(f"branches is {branches}, levels {list(levels)[:4]}", accepted="1 branch, levels above 0")
    order = sorted(levels)
    n, device = len(x), x.device
    at = torch.full((n,), len(order), dtype=torch.int64, device=device)
    edits, shares, evaluations = x.clone(), [], 0
    for place, sigma in enumerate(order):
        open_ = torch.arange(n, device=device) if every else (at == len(order)).nonzero()[:, 0]
        if not len(open_):
            break
        source = open_.repeat_interleave(branches)
        ids = (rows.ids[source] * branches + torch.arange(branches, device=device).repeat(len(open_))).to(torch.int64)
        fresh = Rows(rows.seed, ids, rows.fork("flip", place).key)
        noisy = x[source] + sigma * fresh.fork("cover").normal(*x.shape[1:], dtype=x.dtype)
        down = ladder([sigma, 0.0], LEAST_STEPS)
        ends = ancestral(guide(condition.take(source), fresh), noisy, down, fresh)
        hit = flips(ends, source).reshape(len(open_), branches)
        evaluations += len(source) * (len(down) - 1)
        shares.append(wilson(int(hit.sum()), hit.numel()))
        away = (ends - x[source]).square().flatten(1).mean(1).sqrt().reshape(len(open_), branches)
        best = torch.where(hit, away, torch.inf).argmin(1)
        new = (hit.float().mean(1) >= 0.5) & (at[open_] == len(order))
        grouped = ends.reshape(len(open_), branches, *x.shape[1:])
        chosen = grouped[torch.arange(len(open_), device=device), best]
        edits[open_] = torch.where(expand_like(new, chosen), chosen, edits[open_])
        at[open_] = torch.where(new, torch.full_like(at[open_], place), at[open_])
    moved = (edits - x).square().flatten(1).mean(1).sqrt()
    return Flips(tuple(order[: len(shares)]), tuple(shares), at, edits, moved, evaluations)
