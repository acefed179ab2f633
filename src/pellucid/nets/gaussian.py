"""The Gaussian with the data's mean and covariance, and what it alone knows about a noisy point.

For Gaussian data the best denoiser has a closed form. A network that is given this answer need only learn what is
left, and the answer also explains: it says how much of a sample a Gaussian would have drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GaussianGuess"]

FULL = 1024  # up to this many numbers the covariance is kept whole
RANK = 256  # above it, so many directions and one variance for all others
MOST_ROWS = 4096
LEAST = 1e-4  # smallest variance of a direction, as a share of the mean variance


class GaussianGuess(nn.Module):
    """Mean and principal directions of data, and the denoiser that follows from them.

    Before `fit` it is the standard Gaussian. The shapes of its buffers depend on `size` alone.

    Args:
        size: numbers D in one event.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor
    rest: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        rank = size if size <= FULL else RANK
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size, rank))  # (D, R), orthonormal columns
        self.register_buffer("variance", torch.ones(rank))  # (R,) along them
        self.register_buffer("rest", torch.ones(()))  # in every direction that is left

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Learn from rows x (N, D), of which at most 4,096, evenly taken, are used.

        Eigenvalues are drawn towards their mean as far as so few rows cannot tell them apart:
        Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23.
        """
        x = x[:: max(1, -(-x.shape[0] // MOST_ROWS))].double()
        n, size = x.shape
        rank = self.variance.shape[0]
        mean = x.mean(dim=0)
        centred = x - mean
        if n > size:
            values, vectors = torch.linalg.eigh(centred.T @ centred / n)
        else:  # the same directions from the smaller matrix of products between rows
            values, between = torch.linalg.eigh(centred @ centred.T / n)
            vectors = centred.T @ between / (values.clamp_min(1e-12) * n).sqrt()
        values, order = values.clamp_min(0.0).sort(descending=True)
        vectors = vectors[:, order]
        total, squares = values.sum(), values.square().sum()
        shrink = ((1 - 2 / size) * squares + total**2) / ((n + 1 - 2 / size) * (squares - total**2 / size) + 1e-12)
        shrink, level = shrink.clamp(0.0, 1.0), total / size + 1e-12
        found = min(rank, int((values > 1e-9 * level).sum()))
        basis = self.basis.new_zeros(size, rank)
        basis[:, :found] = vectors[:, :found].to(basis)
        basis[:, found:] = 0.0  # a zero column adds nothing, whatever its variance
        rest = values[found:].sum() / max(1, size - found)
        kept = torch.cat((values[:found], rest.expand(rank - found)))
        floor = LEAST * level
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.variance.copy_(((1 - shrink) * kept + shrink * level).clamp_min(floor))
        self.rest.copy_(((1 - shrink) * rest + shrink * level).clamp_min(floor))

    def spread(self) -> Tensor:
        """(D,) standard deviation of each number."""
        return (self.rest + self.basis.square() @ (self.variance - self.rest)).sqrt()

    def forward(self, x: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """The guess E[v | x] and how far v strays from it, for x = t * data + r * noise and v = data - noise.

        v = mean + U z (t L - r) / (t^2 L + r^2),   z = U'(x - t mean)      (conditional mean of jointly Gaussian data)
        spread^2 = diag U L / (t^2 L + r^2) U'                              for t + r = 1

        Args:
            x: (B, D). t, r: (B, 1), from 0 to 1, with t + r = 1.

        Returns:
            v (B, D) and its standard deviation (B, D).
        """
        noise = t.square() * self.variance + r.square()  # (B, R): variance of x along each direction
        noise_rest = t.square() * self.rest + r.square()  # (B, 1)
        slope, slope_rest = (t * self.variance - r) / noise, (t * self.rest - r) / noise_rest
        left, left_rest = self.variance / noise, self.rest / noise_rest
        away = x - t * self.mean
        v = self.mean + slope_rest * away + ((away @ self.basis) * (slope - slope_rest)) @ self.basis.T
        return v, (left_rest + (left - left_rest) @ self.basis.square().T).sqrt()
