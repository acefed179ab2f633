"""Groups of alike items, found without any label: what a model without conditions can be told about an item.

A generative model is better with classes than without, and groups that k-means finds do nearly as well as classes
somebody wrote down: Bao et al. 2022, "Why are conditional generative models better than unconditional ones?",
arXiv:2212.00362. Items are drawn by first drawing a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core.rows import Rows

__all__ = ["Groups"]

LEAST_ITEMS = 25  # in a group on average; with fewer items there are fewer groups
LARGEST_RANK = 32  # directions that distances are measured in
ROUNDS = 30


class Groups(nn.Module):
    """k-means over the data's first principal directions, and how often each group is met beside each class.

    Before `fit` every item is in group 0.

    Args:
        size: numbers D in one event. count: groups K at most.
        classes: of the class that items may come with, 1 for none.
    """

    mean: Tensor
    axes: Tensor
    centre: Tensor
    share: Tensor

    def __init__(self, size: int, count: int, classes: int = 1) -> None:
        super().__init__()
        rank = min(size, LARGEST_RANK)
        self.count = count
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(size, rank))
        self.register_buffer("centre", torch.zeros(count, rank))
        first = torch.zeros(classes + 1, count)
        first[:, 0] = 1.0
        self.register_buffer("share", first)  # (classes + 1, K): one row a class, the last for all; each sums to one

    @torch.no_grad()
    def fit(self, x: Tensor, label: Tensor | None) -> None:
        """Find the groups of rows x (N, D), of class label (N,) | None.

        Starts by k-means++ (Arthur and Vassilvitskii 2007), drawn from torch's generator, then Lloyd's rounds.
        """
        n = x.shape[0]
        used = max(1, min(self.count, n // LEAST_ITEMS))
        self.mean.copy_(x.mean(0))
        centred = (x - self.mean).double()
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        found = min(self.axes.shape[1], x.shape[1])
        self.axes.zero_()
        self.axes[:, :found] = vectors.flip(1)[:, :found].to(self.axes)
        z = (centred @ self.axes.double()).to(self.axes.dtype)
        draws = torch.rand(used, device=z.device).to(z)
        centre = z[:1]
        for k in range(1, used):
            away = torch.cdist(z, centre).square().amin(1).cumsum(0)
            centre = torch.cat((centre, z[torch.searchsorted(away, draws[k] * away[-1]).clamp_max(n - 1)][None]))
        for _ in range(ROUNDS):
            nearest = torch.cdist(z, centre).argmin(1)
            size = torch.bincount(nearest, minlength=used).to(z)
            total = z.new_zeros(used, z.shape[1]).index_add_(0, nearest, z)
            centre = torch.where(size[:, None] > 0, total / size.clamp_min(1.0)[:, None], centre)
        self.centre.fill_(float("inf"))  # a group that is not used is near to nothing
        self.centre[:used] = centre
        group = self.of(x)
        label = torch.zeros_like(group) if label is None else label
        table = torch.zeros_like(self.share)
        table.index_put_((label, group), torch.ones_like(z[:, 0]), accumulate=True)
        overall = table.sum(0)
        table[-1] = overall
        table = torch.where(table.sum(1, keepdim=True) > 0, table, overall)  # a class that was not met
        self.share.copy_(table / table.sum(1, keepdim=True))

    def of(self, x: Tensor) -> Tensor:
        """(B,) the group of each row x (B, D)."""
        z = (x - self.mean) @ self.axes
        away = (z[:, None] - self.centre.nan_to_num(posinf=1e9)).square().sum(-1)
        return away.argmin(1)

    def draw(self, rows: Rows, label: Tensor | None, given: Tensor | None) -> Tensor:
        """(B,) a group for each row, as often as it is met with the row's class label (B,) where that is given (B,)."""
        row = torch.full_like(rows.ids, len(self.share) - 1)
        if label is not None and given is not None:
            row = torch.where(given, label, row)
        return rows.categorical(self.share[row].log())
