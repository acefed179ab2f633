"""Which rows make up which batch: a pure function of (seed, batch number), so there is no order to save.

Each epoch is a permutation of all items; the permutations are laid end to end and cut into batches. So each item
comes once an epoch, a batch may run across the end of one, and the order does not depend on how many processes
share a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows

__all__ = ["Order"]


class Order:
    """The rows of every batch.

    Args:
        seed: the run's seed.
        items: how many items there are.
        batch: rows a batch; more than `items` is allowed and repeats them.

    >>> order = Order(seed=3, items=5, batch=2)
    >>> sorted(torch.cat([order.ids(k) for k in range(5)])[:5].tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, seed: int, items: int, batch: int) -> None:
        if items < 1 or batch < 1:
            raise BadInput(f"{items} items in batches of {batch}", accepted="at least one item and one row a batch")
        self.seed, self.items, self.batch = seed, items, batch
        self._epochs: dict[int, Tensor] = {}

    def epoch(self, number: int) -> Tensor:
        """(items,) the permutation of this epoch: items sorted by 62 random bits each."""
        if number not in self._epochs:
            high, low = Rows(self.seed, torch.arange(self.items)).fork("order", number).integers(2**31, 2).unbind(-1)
            self._epochs = {k: v for k, v in self._epochs.items() if k >= number - 1}  # keep what a batch may need
            self._epochs[number] = ((high << 31) | low).argsort(stable=True)
        return self._epochs[number]

    def ids(self, k: int, rows: int | None = None) -> Tensor:
        """(B,) items of batch k, in order; its first `rows` when said."""
        at, left, parts = k * self.batch, self.batch if rows is None else rows, []
        while left:
            epoch, offset = divmod(at, self.items)
            part = self.epoch(epoch)[offset : offset + left]
            parts.append(part)
            at, left = at + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def noise_ids(self, ids: Tensor) -> Tensor:
        """(B,) ids for noise: an item met again in the same batch gets the id item + items * times met before.

        Otherwise both would be given the same noise, and a small data set less of it than its batch has room for.

        >>> Order(seed=0, items=3, batch=4).noise_ids(torch.tensor([2, 0, 1, 2]))
        tensor([2, 0, 1, 5])
        """
        values, place = ids.sort(stable=True)
        first = torch.searchsorted(values, values)  # where this value's run begins
        met = torch.empty_like(ids)
        met[place] = torch.arange(len(ids)) - first
        return ids + self.items * met
