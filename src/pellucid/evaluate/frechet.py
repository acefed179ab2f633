"""Fréchet distance: how far the mean and the spread of generated features are from real ones.

Heusel et al. 2017, "GANs trained by a two time-scale update rule", arXiv:1706.08500, eq. 6 (there with the features of
a network that is not ours: values compare only under one extractor and one n). It is biased upwards by about 1 / n,
so the distance of two real sets of the same size stands beside it, and unequal sizes are refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.evaluate.resampling import Estimate, check_rows, halves

__all__ = ["frechet", "frechet_of_gaussians"]

Floats = NDArray[np.float64]


def frechet_of_gaussians(mean: Floats, covariance: Floats, mean_2: Floats, covariance_2: Floats) -> float:
    """Squared Wasserstein-2 distance of two Gaussians (Dowson and Landau 1982).

    d^2 = |mu - mu_2|^2 + tr(S + S_2 - 2 (S^(1/2) S_2 S^(1/2))^(1/2))

    The roots are taken from eigenvalues of symmetric matrices, so singular covariances (n below the number of
    features) need no small number added.

    Args:
        mean, mean_2: (D,). covariance, covariance_2: (D, D).

    >>> one = np.eye(2)
    >>> round(frechet_of_gaussians(np.zeros(2), one, np.array([3.0, 4.0]), 4 * one), 9)
    27.0
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = root @ covariance_2 @ root
    cross = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(0)).sum()
    gap = mean - mean_2
    return max(0.0, float(gap @ gap + np.trace(covariance) + np.trace(covariance_2) - 2 * cross))


def frechet(real: Floats, generated: Floats, *, seed: int = 0, name: str = "samples") -> Estimate:
    """Fréchet distance of two sets of features of equal size.

    Args:
        real, generated: (N, D).
        name: of the generator; its half-samples are its own, those of the real rows are shared.

    Raises:
        BadInput: fewer than 10 rows, or unequal numbers.
    """
    check_rows(len(real), "the Fréchet distance", len(generated))
    pairs = zip(halves(len(real), "real", seed=seed), halves(len(generated), name, seed=seed), strict=True)
    on_halves = np.array([frechet_of_gaussians(*_moments(real[a]), *_moments(generated[b])) for a, b in pairs])
    value = frechet_of_gaussians(*_moments(real), *_moments(generated))
    return Estimate(value, on_halves - on_halves.mean(), len(real), (0.0, np.inf))


def _moments(features: Floats) -> tuple[Floats, Floats]:
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)
