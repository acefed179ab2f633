"""A sparse autoencoder with exactly k active features: activations as a sum of few directions out of many.

    h = relu(W_in (a - b)),  z = the k largest of h and zeros elsewhere,  a ~ W_out z + b
                                                    Gao et al. 2024, arXiv:2406.04093, eq. 1 (TopK)

Columns of W_out have length one. Features that have not been active for a while are taught to explain what the active
ones left over (the paper's section 2.4), since a feature that is never active never learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows

__all__ = ["SparseFeatures", "learn_features", "matched"]

Floats = NDArray[np.float64]
SILENT = 50  # steps after which a feature that was not active counts as dead
REVIVED = 1 / 32  # weight of the loss that wakes dead features
BATCH = 256


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """Features of D-dimensional activations.

    read: (F, D), write: (F, D) of length one, bias: (D,), before: (F,). k: features active at once.
    centre, scale: what activations are brought to about unit size with.
    """

    read: Tensor
    write: Tensor
    bias: Tensor
    before: Tensor
    k: int
    centre: Tensor
    scale: float

    def active(self, a: Tensor) -> Tensor:
        """Activations (N, D) to features (N, F), at most k of them above 0 in a row."""
        x = (a.to(self.read) - self.centre) / self.scale
        return _top((x - self.bias) @ self.read.T + self.before, self.k)

    def rebuilt(self, z: Tensor) -> Tensor:
        """Features (N, F) to activations (N, D)."""
        return (z @ self.write + self.bias) * self.scale + self.centre

    def explained(self, a: Tensor) -> float:
        """Share of the variance of activations (N, D) that the features keep."""
        a = a.to(self.read)
        rest = (a - self.rebuilt(self.active(a))).square().sum()
        return float(1.0 - rest / (a - a.mean(0)).square().sum().clamp_min(1e-12))


def learn_features(
    a: Tensor, count: int, k: int, *, seed: int = 0, steps: int = 2000, rate: float = 1e-2
) -> SparseFeatures:
    """Learn F = count features of activations a (N, D), k active at once.

    Starts from activations themselves, so that no feature begins where no data is.

    Raises:
        BadInput: fewer activations than features, or more active features than there are.
    """
    if not 1 <= k <= count or len(a) < count:
        raise BadInput(
            f"{count} features, {k} active, {len(a)} activations", accepted="1 <= k <= features <= activations"
        )
    centre = a.float().mean(0)
    scale = float((a.float() - centre).square().mean().sqrt()) or 1.0
    x = (a.float() - centre) / scale
    rows = Rows(seed, torch.arange(1)).fork("sparse features")
    first = x[torch.argsort(rows.fork("start").uniform(len(x))[0])[:count]]
    write = nn.Parameter(nn.functional.normalize(first + 1e-6, dim=1))
    read, bias = nn.Parameter(write.detach().clone()), nn.Parameter(torch.zeros(x.shape[1]))
    before = nn.Parameter(torch.zeros(count))
    optimizer = torch.optim.Adam([read, write, bias, before], lr=rate, betas=(0.9, 0.99))
    silent = torch.zeros(count, dtype=torch.int64)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2.0 * (1.0 - step / steps))
        part = x[rows.fork("batch", step).integers(len(x), min(BATCH, len(x)))[0]]
        h = (part - bias) @ read.T + before
        z = _top(h, k)
        left = part - z @ write - bias
        loss = left.square().mean()
        dead = silent > SILENT
        if bool(dead.any()):
            woken = _top(h.masked_fill(~dead, -torch.inf), min(2 * k, int(dead.sum())))
            loss = loss + REVIVED * (left.detach() - woken @ write).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            write.copy_(nn.functional.normalize(write, dim=1))
            silent = torch.where((z > 0).any(0), torch.zeros_like(silent), silent + 1)
    return SparseFeatures(read.detach(), write.detach(), bias.detach(), before.detach(), k, centre, scale)


def matched(a: Tensor, b: Tensor) -> Floats:
    """Cosines between the rows of a (F, D) and their partners in b (G, D), paired so that their sum is largest.

    >>> matched(torch.eye(2), torch.eye(2).flip(0)).tolist()
    [1.0, 1.0]
    """
    one, two = (nn.functional.normalize(m.double(), dim=1) for m in (a, b))
    cosines = (one @ two.T).numpy()
    rows, columns = linear_sum_assignment(-cosines)
    return np.asarray(cosines[rows, columns], dtype=np.float64)


def _top(h: Tensor, k: int) -> Tensor:
    """(N, F) with all but the k largest of each row, and everything below 0, set to 0."""
    values, places = h.topk(k, dim=1)
    return torch.zeros_like(h).scatter(1, places, values.clamp_min(0.0))
