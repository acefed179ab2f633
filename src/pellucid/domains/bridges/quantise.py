"""Pictures become symbols: levels are grouped into bins, and the pixels read one after another.

A transformer over 256 symbols a pixel is slow to learn; over 16 bins it sees the picture first. Nothing is lost:
the level inside its bin is drawn from the training frequencies P(level | bin), and its probability is counted,

    log P(x) = log P(bins) + sum over numbers of log P(level | bin),

which is exact because the bins are a function of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens, space_to_plain
from pellucid.domains.bridges.lifting import exactly
from pellucid.domains.grid import grid_of, levels_of
from pellucid.domains.stored import no_tensors, stored_settings, stored_space, stored_tensor

__all__ = ["Quantise"]

MOST_WHOLE = 32  # grids of so many levels or fewer keep every level as a symbol of its own
BINS = 16  # for finer grids: where samples of small models stop gaining visibly
LITTLE = 0.5  # added to each level's count, so that every level stays possible


@dataclass(frozen=True, kw_only=True)
class _Stored:
    source: Mapping[str, Any]
    bins: int


class Quantise(Bridge):
    """Real numbers on a grid to one symbol each: raster order, the channels of a pixel side by side.

    Args:
        source: (C, H, W) or any other shape, which is read in its own order.
        bins: symbols; level k of L falls into bin floor(k * bins / L).
        counts: (L,) float64, how often each level was seen.
    """

    name = "quantise"

    def __init__(self, source: Real, bins: int, counts: Tensor) -> None:
        levels = source.levels
        if not self.fits(source) or levels is None:
            raise BadInput(f"Quantise got the space {source}", accepted="Real numbers on a grid, not ragged")
        if not 2 <= bins <= levels:
            raise BadInput(f"bins is {bins}", accepted=f"2 to {levels}, the number of levels")
        if counts.shape != (levels,) or bool((counts < 0).any()):
            raise BadInput(f"counts have shape {tuple(counts.shape)}", accepted=f"({levels},), none below 0")
        self._source, self._bins, self._counts = source, bins, counts.to(torch.float64)
        self._bin = torch.arange(levels) * bins // levels  # (L,)
        mass = self._counts + LITTLE
        share = mass / mass.new_zeros(bins).index_add_(0, self._bin, mass)[self._bin]  # (L,) P(level | bin)
        self._log_share = share.log()
        inside = share.cumsum(0) - self._bin  # (L,): each bin before has summed to one
        last = torch.cat([self._bin[1:] != self._bin[:-1], torch.tensor([True])])
        self._upto = self._bin + torch.where(last, 1.0, inside.clamp(0.0, 1.0))  # (L,): bin + P(up to level | bin)

    @classmethod
    def fits(cls, source: Space) -> bool:
        """Is this a space that the bridge can start from?"""
        return isinstance(source, Real) and source.levels is not None and not source.ragged

    @classmethod
    def learn(cls, source: Space, x: Tensor, bins: int | None = None) -> Quantise:
        """Count the levels of x (N, *event); bins: all levels up to 32, else 16, unless said."""
        if not isinstance(source, Real) or source.levels is None:
            raise BadInput(f"Quantise got the space {source}", accepted="Real numbers on a grid, not ragged")
        counts = torch.bincount(levels_of(source, x).flatten().cpu(), minlength=source.levels).to(torch.float64)
        return cls(source, bins or (source.levels if source.levels <= MOST_WHOLE else BINS), counts)

    @property
    def source(self) -> Real:
        return self._source

    @property
    def target(self) -> Tokens:
        return Tokens(self._bins, self._source.size)

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        return self._bin.to(x.device)[self._read(levels_of(self._source, x))]

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """A level of each bin, drawn from P(level | bin)."""
        u = rows.fork("quantise").uniform(self._source.size, dtype=torch.float64)  # (B, D)
        place = y.clamp(0, self._bins - 1).to(torch.float64) + u
        level = torch.searchsorted(self._upto.to(y.device), place, right=True).clamp(max=len(self._upto) - 1)
        flat = grid_of(self._source).to(y.device)[level]
        if len(self._source.shape) == 3:
            channels, height, width = self._source.shape
            return rearrange(flat, "b (h w c) -> b c h w", c=channels, h=height, w=width)
        return flat.reshape(-1, *self._source.shape)

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        inside = self._log_share.to(x.device)[levels_of(self._source, x).flatten(1)]  # (B, D)
        return exactly(log_prob, inside.sum(1))

    def _read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, D) in reading order."""
        return rearrange(x, "b c h w -> b (h w c)") if len(self._source.shape) == 3 else x.flatten(1)

    def plain(self) -> dict[str, Any]:
        return {"source": space_to_plain(self._source), "bins": self._bins}

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": self._counts}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Quantise:
        stored = stored_settings(_Stored, plain)
        source = stored_space(stored.source)
        no_tensors(tensors, "counts")
        if not isinstance(source, Real):
            raise BadInput(f"Quantise got the space {source}", accepted="Real numbers on a grid, not ragged")
        return cls(source, stored.bins, stored_tensor(tensors, "counts", (source.levels,)))
