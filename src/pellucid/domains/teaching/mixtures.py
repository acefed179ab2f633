"""Gaussian mixtures: data of which every probability is known exactly, also under noise.

A mixture with weights pi_k, means m_k and covariances S_k, seen as x_t = data + sigma * noise, is again a mixture,
with covariances S_k + sigma^2 I. So the density at any noise level, the class behind a noisy point and the ideal
denoiser are closed formulas, and whatever explains a model of such data can be held against the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table

__all__ = ["Mixture", "MixtureDraw", "MixtureTable", "mixture_table", "ring", "scattered"]


@dataclass(frozen=True, eq=False)
class MixtureDraw:
    """Points and the component each came from. x: (B, d) float64. component: (B,) int64."""

    x: Tensor
    component: Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
    """K Gaussians in d dimensions; every answer is worked out in float64.

    Args:
        weights: (K,) above 0, summing to one.
        means: (K, d).
        covariances: (K, d, d), symmetric and positive definite.
        names: K names of the components; "0", "1", ... when left out.

    >>> pair = Mixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1, 1), 0.1))
    >>> pair.posterior(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.5]))
    tensor([[0.5000, 0.5000],
            [0.0033, 0.9967]], dtype=torch.float64)
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    names: tuple[str, ...] = ()
    _values: Tensor = field(init=False, repr=False)  # (K, d) eigenvalues of the covariances
    _axes: Tensor = field(init=False, repr=False)  # (K, d, d) their axes, in columns

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1]:
            raise BadInput(
                f"weights have shape {tuple(self.weights.shape)} and means {tuple(self.means.shape)}",
                accepted="(K,) and (K, d)",
            )
        count, size = self.means.shape
        if self.covariances.shape != (count, size, size):
            raise BadInput(
                f"covariances have shape {tuple(self.covariances.shape)}", accepted=f"({count}, {size}, {size})"
            )
        weights = self.weights.to(torch.float64)
        values, axes = torch.linalg.eigh(self.covariances.to(torch.float64))
        if not bool((weights > 0).all() and (values > 0).all()):
            raise BadInput("a weight or a variance is not above 0", accepted="positive weights and covariances")
        names = self.names or tuple(str(k) for k in range(count))
        if len(set(names)) != count:
            raise BadInput(f"names are {names}", accepted=f"{count} distinct names")
        object.__setattr__(self, "weights", weights / weights.sum())
        object.__setattr__(self, "means", self.means.to(torch.float64))
        object.__setattr__(self, "covariances", self.covariances.to(torch.float64))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_axes", axes)

    @property
    def dimensions(self) -> int:
        """d."""
        return self.means.shape[1]

    def sample(self, rows: Rows) -> MixtureDraw:
        """(B, d) points, one for each row."""
        component = rows.fork("mixture component").categorical(self.weights.log().expand(len(rows), -1))
        noise = rows.fork("mixture noise").normal(self.dimensions, dtype=torch.float64)
        along = self._values[component].sqrt() * noise  # (B, d) in the axes of each component
        return MixtureDraw(self.means[component] + torch.einsum("bij,bj->bi", self._axes[component], along), component)

    def log_prob(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """log density of data + sigma * noise at x (B, d), for sigma (B,); of the data when sigma is None: (B,)."""
        return self.joint(x, sigma).logsumexp(dim=-1)

    def joint(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """log of (weight of k times density of component k) at x (B, d): (B, K)."""
        along, variance = self._seen(x, sigma)
        log = -0.5 * (along**2 / variance + variance.log() + math.log(2.0 * math.pi)).sum(-1)
        return log + self.weights.log().to(x.device)

    def posterior(self, x_t: Tensor, sigma: Tensor | None = None) -> Tensor:
        """P(component | x_t, sigma): (B, d) and (B,) to (B, K)."""
        return self.joint(x_t, sigma).softmax(dim=-1)

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """E[data | x_t], the ideal denoiser: (B, d) and (B,) to (B, d), in x_t's dtype.

        E[data | x_t] = sum_k P(k | x_t) (m_k + S_k (S_k + sigma^2 I)^-1 (x_t - m_k))
        """
        along, variance = self._seen(x_t, sigma)
        shrunk = torch.einsum("kij,bkj->bki", self._axes.to(x_t.device), along * self._values.to(x_t.device) / variance)
        each = self.means.to(x_t.device) + shrunk  # (B, K, d)
        return torch.einsum("bk,bkd->bd", self.posterior(x_t, sigma), each).to(x_t.dtype)

    def score(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of log_prob(x_t, sigma): (denoise - x_t) / sigma^2, Tweedie's formula; (B, d), sigma above 0."""
        return (self.denoise(x_t.to(torch.float64), sigma) - x_t) / sigma.to(torch.float64)[:, None] ** 2

    def given(self, name: str) -> Mixture:
        """The component of this name alone."""
        if name not in self.names:
            raise BadInput(f"component '{name}' does not exist", accepted=", ".join(self.names))
        k = self.names.index(name)
        return Mixture(torch.ones(1), self.means[k : k + 1], self.covariances[k : k + 1], (name,))

    def _seen(self, x: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor]:
        """x in the axes of each component (B, K, d), and the variances there (B, K, d)."""
        if x.ndim != 2 or x.shape[1] != self.dimensions or (sigma is not None and sigma.shape != x.shape[:1]):
            came = "None" if sigma is None else str(tuple(sigma.shape))
            raise BadInput(
                f"x has shape {tuple(x.shape)} and sigma {came}", accepted=f"(B, {self.dimensions}) and (B,)"
            )
        away = x.to(torch.float64)[:, None, :] - self.means.to(x.device)  # (B, K, d)
        along = torch.einsum("kij,bki->bkj", self._axes.to(x.device), away)
        noise = away.new_zeros(x.shape[0]) if sigma is None else sigma.to(torch.float64)
        return along, self._values.to(x.device) + noise[:, None, None] ** 2


def ring(components: int = 8, radius: float = 2.0, spread: float = 0.2) -> Mixture:
    """Equal round Gaussians evenly on a circle in the plane.

    >>> ring(4).means.round(decimals=2).abs().tolist()
    [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]
    """
    angle = torch.arange(components, dtype=torch.float64) * (2.0 * math.pi / components)
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
    covariances = spread**2 * torch.eye(2, dtype=torch.float64).expand(components, 2, 2)
    return Mixture(torch.ones(components), means, covariances)


def scattered(components: int = 3, dimensions: int = 4, seed: int = 0, apart: float = 2.0) -> Mixture:
    """Tilted Gaussians of unequal weight; `apart` is the standard deviation of their means."""
    random = np.random.default_rng(seed)
    weights = torch.from_numpy(random.dirichlet(np.full(components, 4.0)))
    means = torch.from_numpy(apart * random.normal(size=(components, dimensions)))
    turns, _ = np.linalg.qr(random.normal(size=(components, dimensions, dimensions)))
    values = random.uniform(0.1, 1.0, size=(components, dimensions))
    covariances = torch.from_numpy(np.einsum("kij,kj,klj->kil", turns, values, turns))
    return Mixture(weights, means, covariances)


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureTable:
    """A table of points with their class, and the truth behind it.

    data: columns x1 ... xd and the target "class".
    mixture: the distribution.
    draw: the points before they became a table.
    """

    data: TableData
    mixture: Mixture
    draw: MixtureDraw


def mixture_table(n: int = 2000, seed: int = 0, mixture: Mixture | None = None) -> MixtureTable:
    """n points as a table; row i depends on seed and i alone.

    >>> made = mixture_table(100, seed=1)
    >>> [c.name for c in made.data.columns], [c.kind for c in made.data.columns]
    (['x1', 'x2', 'class'], ['number', 'number', 'category'])
    """
    if n < 1:
        raise BadInput(f"n is {n}", accepted="1 or more")
    mixture = mixture or ring()
    draw = mixture.sample(Rows(seed, torch.arange(n)).fork("mixture table"))
    columns = {f"x{k + 1}": draw.x[:, k].numpy() for k in range(mixture.dimensions)}
    columns["class"] = np.array([f"component {mixture.names[k]}" for k in draw.component.tolist()])
    data = replace(read_table(pd.DataFrame(columns), target="class"), source="mixture")
    return MixtureTable(data=data, mixture=mixture, draw=draw)
