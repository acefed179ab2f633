"""Spectral normalisation: each layer's weight divided by its largest singular value.

    W / sigma(W),  sigma(W) = u . W v,  v <- W^T u / |W^T u|,  u <- W v / |W v|
                                        Miyato et al. 2018, https://arxiv.org/abs/1802.05957, eq. 8 and 20 to 24

so that a critic of such layers changes its score by no more than its input changes, times a constant. u and v are
state: one step of power iteration for each step of training follows the weights, which move little. They are moved by
`advance` alone and never inside a forward pass, so that a loss stays a function of weights and rows: torch's own
version moves them in `forward`, which neither `vmap` nor a repeated forward pass can bear.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["Spectral", "advance", "normalise"]

FIRST = 15  # steps of power iteration when a layer is made


class Spectral(nn.Module):
    """W (out, ...) to W / sigma(W), as torch's parametrizations want it.

    Args:
        weight: as it is now; its axes after the first are taken together, as in the paper.

    `u` (out,) and `v` (in,) are the singular vectors of the largest singular value, as far as they are known.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", nn.functional.normalize(torch.randn(matrix.shape[0]), dim=0).to(matrix))
        self.register_buffer("v", nn.functional.normalize(torch.randn(matrix.shape[1]), dim=0).to(matrix))
        self.advance(weight, FIRST)

    def forward(self, weight: Tensor) -> Tensor:
        """The gradient flows through sigma as well, with u and v held fixed (eq. 12 of the paper)."""
        return weight / self.sigma(weight)

    def sigma(self, weight: Tensor) -> Tensor:
        """() the largest singular value, as u and v see it."""
        # clones: what backward needs must not be what `advance` overwrites; no matrix product: autocast would round it
        return ((weight.flatten(1) * self.v.clone()).sum(1) * self.u.clone()).sum()

    @torch.no_grad()
    def advance(self, weight: Tensor, steps: int = 1) -> None:
        """Move u and v towards the singular vectors of this weight."""
        matrix = weight.detach().flatten(1)
        for _ in range(steps):
            self.v.copy_(nn.functional.normalize(matrix.T @ self.u, dim=0, eps=1e-12))
            self.u.copy_(nn.functional.normalize(matrix @ self.v, dim=0, eps=1e-12))


def normalise(net: nn.Module) -> None:
    """Give every linear and convolutional layer of a net the parametrization; a weight of zeros is drawn anew first.

    >>> layer = nn.Linear(3, 3, bias=False)
    >>> normalise(layer)
    >>> round(float(torch.linalg.matrix_norm(layer.weight, 2)), 3)
    1.0
    """
    for layer in [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]:
        if not layer.weight.any():
            nn.init.orthogonal_(layer.weight)
        parametrize.register_parametrization(layer, "weight", Spectral(layer.weight))


def advance(net: nn.Module) -> None:
    """One step of power iteration for every normalised layer of a net."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and parametrize.is_parametrized(layer, "weight"):
            held = cast(parametrize.ParametrizationList, cast(nn.ModuleDict, layer.parametrizations)["weight"])
            for one in held:
                if isinstance(one, Spectral):
                    one.advance(held.original)
