"""Numbers on a grid become continuous ones: each level is spread evenly over its own cell.

A density that knows only 256 points can be made as large as one likes; spread over cells, it cannot. With
y = x + step * (u - 1/2), u uniform in (0, 1), Jensen's inequality gives for D numbers (Theis, van den Oord and
Bethge 2016, "A note on the evaluation of generative models", https://arxiv.org/abs/1511.01844, section 3.1)

    log P(x) = log integral p(x + step * (u - 1/2)) step^D du  >=  E_u[log p(y)] + D log step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, space_to_plain
from pellucid.domains.bridges.lifting import at_least
from pellucid.domains.grid import grid_of, levels_of
from pellucid.domains.stored import no_tensors, stored_settings, stored_space

__all__ = ["Dequantise"]


@dataclass(frozen=True, kw_only=True)
class _Stored:
    source: Mapping[str, Any]


class Dequantise(Bridge):
    """Real numbers on a grid to continuous ones, by uniform noise.

    >>> bridge = Dequantise(Real((2,), levels=3))
    >>> rows, x = Rows(0, torch.arange(2)), torch.tensor([[-1.0, 0.0], [1.0, 1.0]])
    >>> bool((bridge.back(bridge.there(x, rows), rows) == x).all())
    True
    """

    name = "dequantise"

    def __init__(self, source: Real) -> None:
        if not self.fits(source):
            raise BadInput(f"Dequantise got the space {source}", accepted="Real numbers on a grid, not ragged")
        self._source = source

    @classmethod
    def fits(cls, source: Space) -> bool:
        """Is this a space that the bridge can start from?"""
        return isinstance(source, Real) and source.levels is not None and not source.ragged

    @classmethod
    def learn(cls, source: Space, x: Tensor) -> Dequantise:
        """Nothing has to be learned; x (N, *event) is not looked at."""
        if not isinstance(source, Real):
            raise BadInput(f"Dequantise got the space {source}", accepted="Real numbers on a grid, not ragged")
        return cls(source)

    @property
    def source(self) -> Real:
        return self._source

    @property
    def target(self) -> Real:
        return Real(self._source.shape, low=self._source.low, high=self._source.high)

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        u = rows.fork("dequantise").uniform(*self._source.shape, dtype=x.dtype)  # (B, *event)
        return x + self._source.step * (u - 0.5)

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """The nearest level."""
        return grid_of(self._source).to(y)[levels_of(self._source, y)]

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        cells = self._source.size * math.log(self._source.step)
        return at_least(log_prob, torch.full((x.shape[0],), cells, dtype=torch.float64))

    def plain(self) -> dict[str, Any]:
        return {"source": space_to_plain(self._source)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Dequantise:
        no_tensors(tensors)
        return cls.learn(stored_space(stored_settings(_Stored, plain).source), torch.empty(0))
