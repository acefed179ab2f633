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
FAR = 1e9  # where groups that are not used lie, near to nothing


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
    def fit(self, x: Tensor, label: Tensor | None, given: Tensor | None = None) -> None:
        """Find the groups of rows x (N, D), of class label (N,) | None; None for `given` (N,) is all of them.

        Starts by k-means++ (Arthur and Vassilvitskii 2007), the same way for the same rows, then Lloyd's rounds.
        """
        n = x.shape[0]
        used = max(1, min(self.count, n // LEAST_ITEMS))
        self.mean.copy_(x.mean(0))
        self.axes.copy_(_directions((x - self.mean).double(), self.axes.shape[1]))
        z = (x - self.mean).to(self.axes) @ self.axes
        draws = Rows(0, torch.zeros(1, dtype=torch.int64)).fork("groups").uniform(used)[0].to(z)
        centre = z[:1]
        for k in range(1, used):
            away = torch.cdist(z, centre).square().amin(1).cumsum(0)
            centre = torch.cat((centre, z[torch.searchsorted(away, draws[k] * away[-1]).clamp_max(n - 1)][None]))
        for _ in range(ROUNDS):
            nearest = torch.cdist(z, centre).argmin(1)
            size = torch.bincount(nearest, minlength=used).to(z)
            total = z.new_zeros(used, z.shape[1]).index_add_(0, nearest, z)
            centre = torch.where(size[:, None] > 0, total / size.clamp_min(1.0)[:, None], centre)
        self.centre.fill_(FAR)
        self.centre[:used] = centre
        self.share.zero_()
        self.recount(x, label, given)

    @torch.no_grad()
    def recount(self, x: Tensor, label: Tensor | None, given: Tensor | None = None) -> None:
        """Count anew how often each group is met in rows x (N, D), and beside each class; the groups stay.

        A class that is not met keeps its shares; one that was never met has those of all rows.
        """
        group = self.of(x)
        overall = torch.bincount(group, minlength=self.count).to(self.share)
        table = torch.zeros_like(self.share)
        if label is not None:
            said = torch.ones_like(label, dtype=torch.bool) if given is None else given
            one = torch.ones_like(group[said], dtype=table.dtype)
            table.index_put_((label[said], group[said]), one, accumulate=True)
        table[-1] = 0.0
        known = torch.where(self.share.sum(1, keepdim=True) > 0, self.share, overall)
        known[-1] = overall
        table = torch.where(table.sum(1, keepdim=True) > 0, table, known)
        self.share.copy_(table / table.sum(1, keepdim=True))

    @torch.no_grad()
    def widen(self, base: Groups) -> None:
        """Take the shares of a base that knew fewer classes; a new class has each group as often as all items did."""
        known = len(base.share) - 1
        self.share.copy_(base.share[-1].expand_as(self.share))
        self.share[:known] = base.share[:known]

    def of(self, x: Tensor) -> Tensor:
        """(B,) the group of each row x (B, D)."""
        z = (x - self.mean) @ self.axes
        away = (z[:, None] - self.centre).square().sum(-1)
        return away.argmin(1)

    def draw(self, rows: Rows, label: Tensor | None, given: Tensor | None) -> Tensor:
        """(B,) a group for each row, as often as it is met with the row's class label (B,) where that is given (B,)."""
        row = torch.full_like(rows.ids, len(self.share) - 1)
        if label is not None and given is not None:
            row = torch.where(given, label, row)
        return rows.categorical(self.share[row].log())


def _directions(centred: Tensor, count: int) -> Tensor:
    """(D, count) first principal directions of rows (N, D) in float64; zero columns beyond those there are."""
    if centred.shape[0] > centred.shape[1]:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
    else:  # the same directions from the smaller matrix of products between rows
        values, between = torch.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ between / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    found = min(count, int((values > 1e-9 * values[-1]).sum()))
    axes = centred.new_zeros(centred.shape[1], count)
    axes[:, :found] = vectors.flip(1)[:, :found]
    return axes
