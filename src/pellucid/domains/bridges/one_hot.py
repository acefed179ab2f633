"""Short token sequences become real vectors: one number for each symbol of each position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens, space_to_plain
from pellucid.domains.bridges.codes import read_one_hot, spread, write_one_hot
from pellucid.domains.bridges.lifting import at_least
from pellucid.domains.stored import no_tensors, stored_settings, stored_space

__all__ = ["OneHot"]

MOST_NUMBERS = 4096


@dataclass(frozen=True, kw_only=True)
class _Stored:
    source: Mapping[str, Any]


class OneHot(Bridge):
    """Tokens to continuous Real((sum of alphabets,)), each number spread over its cell as codes.py says.

    >>> bridge = OneHot(Tokens(3, 2))
    >>> bridge.back(bridge.there(torch.tensor([[2, 0]]), Rows(0, torch.arange(1))), Rows(0, torch.arange(1)))
    tensor([[2, 0]])
    """

    name = "one_hot"

    def __init__(self, source: Tokens) -> None:
        if not self.fits(source):
            raise BadInput(
                f"OneHot got the space {source}",
                accepted=f"Tokens with at most {MOST_NUMBERS} symbols in all positions",
            )
        self._source = source

    @classmethod
    def fits(cls, source: Space) -> bool:
        """Is this a space that the bridge can start from?"""
        return isinstance(source, Tokens) and sum(source.sizes) <= MOST_NUMBERS

    @classmethod
    def learn(cls, source: Space, x: Tensor) -> OneHot:
        """Nothing has to be learned; x (N, T) is not looked at."""
        if not isinstance(source, Tokens):
            raise BadInput(f"OneHot got the space {source}", accepted="Tokens")
        return cls(source)

    @property
    def source(self) -> Tokens:
        return self._source

    @property
    def target(self) -> Real:
        return Real((sum(self._source.sizes),))

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        codes = [write_one_hot(x[:, t], size) for t, size in enumerate(self._source.sizes)]
        return spread(torch.cat(codes, dim=-1), rows.fork("one hot").uniform(sum(self._source.sizes)))

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """The largest number of each position."""
        return torch.stack([read_one_hot(p) for p in y.split(list(self._source.sizes), dim=-1)], dim=-1)

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        return at_least(log_prob, torch.zeros(x.shape[0], dtype=torch.float64))

    def plain(self) -> dict[str, Any]:
        return {"source": space_to_plain(self._source)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> OneHot:
        no_tensors(tensors)
        return cls.learn(stored_space(stored_settings(_Stored, plain).source), torch.empty(0))
