"""Decision times on Gaussian mixtures, whose class behind a noisy point is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording
from pellucid.domains.teaching.mixtures import Mixture, ring, scattered
from pellucid.explain.commitment import Commitment, commitment, crossing, log_snr
from pellucid.solvers.ancestral import ancestral

__all__ = ["BAR", "measure"]

BAR = "within 2% of the schedule on five mixtures, large forms first in 20 of 20, calibrated to .03"
FIRST, LAST, STEPS = 30.0, 0.02, 64
EVERY = 4  # of the steps are recorded
LENGTH = log_snr(LAST) - log_snr(FIRST)
NEAR, TRIALS, CALIBRATED = 0.02, 20, 0.03


@dataclass(frozen=True, eq=False)
class _Exact(Denoises):
    """A mixture as an engine that denoises as well as can be."""

    of: Mixture

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return self.of.denoise(x_t, sigma)

    def sigmas(self, how: How) -> Tensor:
        """Even in log signal-to-noise, then 0."""
        even = torch.linspace(math.log(FIRST), math.log(LAST), STEPS, dtype=torch.float64).exp()
        return torch.cat((even, torch.zeros(1, dtype=torch.float64)))

    def classify(self, x: Tensor) -> Tensor:
        return self.of.posterior(x).argmax(-1)


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Errors of the decision time as shares of the schedule, by mixture; the order of planted scales; calibration."""
    samples, branches = (120, 8) if quick else (400, 12)
    errors: dict[str, float] = {}
    said: list[float] = []
    true: list[float] = []
    for name, mixture in _mixtures().items():
        engine = _Exact(mixture)
        x_t, final, sigmas, rows = _walked(engine, samples, seed)
        found = commitment(engine, engine.classify, x_t, final, sigmas, Condition(), rows,
                           classes=len(mixture.means), branches=branches)  # fmt: skip
        own, exact = engine.classify(final), []
        for step in found.steps:
            level = torch.full((len(final),), float(sigmas[step]), dtype=torch.float64)
            exact.append(float(mixture.posterior(x_t[step], level).gather(1, own[:, None]).mean()))
        truth = crossing(found.log_snr, exact, found.threshold)
        decided = math.inf if found.decided is None else found.decided.value
        errors[name] = abs(decided - truth) / LENGTH
        said += [s.value for s in found.shares]
        true += exact
    trials = 8 if quick else TRIALS
    first = sum(_large_before_small(seed + k) for k in range(trials))
    gap = float(np.abs(np.array(said) - np.array(true)).mean())
    return {
        "error_of_the_schedule": {k: round(v, 4) for k, v in errors.items()},
        "large_forms_first": [first, trials],
        "calibration_error": round(gap, 4),
        "met": max(errors.values()) <= NEAR and first == trials and gap <= CALIBRATED,
    }


def _mixtures() -> dict[str, Mixture]:
    even = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    return {
        "two on a line": _round([[-1.0], [1.0]], 0.2),
        "three on a circle": ring(3, radius=1.0),
        "four at the corners": _round(even, 0.15),
        "unequal weights": _round([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], 0.2, [0.6, 0.3, 0.1]),
        "tilted in four dimensions": scattered(3, 4, seed=1, apart=4.0),
    }


def _round(means: list[list[float]], spread: float, weights: list[float] | None = None) -> Mixture:
    k, d = len(means), len(means[0])
    covariances = spread**2 * torch.eye(d, dtype=torch.float64).expand(k, d, d)
    return Mixture(torch.tensor(weights or [1.0] * k), torch.tensor(means), covariances)


def _walked(engine: _Exact, n: int, seed: int) -> tuple[dict[int, Tensor], Tensor, Tensor, Rows]:
    """x_t at the recorded steps of n samples, the samples, the noise levels, and the rows."""
    rows, sigmas = Rows(seed + 5, torch.arange(n)), engine.sigmas(How())
    trace = Recording(["x_t"], range(0, STEPS, EVERY))
    start = FIRST * rows.fork("start").normal(engine.of.dimensions, dtype=torch.float64)
    denoise = lambda x, sigma: engine.of.denoise(x, sigma)  # noqa: E731
    final = ancestral(denoise, start, sigmas, rows.fork("walk"), trace)
    return trace.kept["x_t"], final, sigmas, rows


def _large_before_small(seed: int) -> bool:
    """Two features at different scales: far apart along the first axis, close along the second."""
    engine = _Exact(_round([[a, b] for a in (-2.0, 2.0) for b in (-0.2, 0.2)], 0.05))
    x_t, final, sigmas, rows = _walked(engine, 40, seed)
    found: list[Commitment] = []
    for axis in (0, 1):

        def side(x: Tensor, axis: int = axis) -> Tensor:
            return (x[:, axis] > 0).long()

        found.append(commitment(engine, side, x_t, final, sigmas, Condition(), rows, classes=2, branches=3))
    one, two = (c.decided for c in found)
    return one is not None and two is not None and one.value < two.value
