"""Decision times measured by branching, against Gaussian mixtures where P(class | x_t) is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How
from pellucid.core.errors import BadInput
from pellucid.core.interval import wilson
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording
from pellucid.explain.commitment import commitment, crossing, ladder, log_snr
from pellucid.solvers.ancestral import ancestral
from pellucid.solvers.euler import euler

FIRST, LAST, STEPS = 30.0, 0.02, 64


@dataclass(frozen=True)
class Mixture(Denoises):
    """Gaussians of one spread around C centres; its denoiser and its class posterior are exact.

    P(c | x_t) is proportional to w_c N(x_t; mean_c, spread_c^2 + sigma^2), and D is the mean over c of
    mean_c + spread_c^2 / (spread_c^2 + sigma^2) * (x_t - mean_c) under it.
    """

    means: Tensor  # (C, D)
    spread: Tensor  # (C,)
    weights: Tensor  # (C,)

    def posterior(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        variance = self.spread[None] ** 2 + sigma[:, None] ** 2  # (B, C)
        far = (x_t[:, None] - self.means[None]).square().sum(-1)
        scores = self.weights.log() - far / (2 * variance) - self.means.shape[1] / 2 * variance.log()
        return scores.softmax(dim=-1)

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        gain = self.spread[None] ** 2 / (self.spread[None] ** 2 + sigma[:, None] ** 2)
        each = self.means[None] + gain[..., None] * (x_t[:, None] - self.means[None])
        return (self.posterior(x_t, sigma)[..., None] * each).sum(1)

    def sigmas(self, how: How) -> Tensor:
        """Even in log signal-to-noise, then 0."""
        even = torch.linspace(math.log(FIRST), math.log(LAST), STEPS, dtype=torch.float64).exp()
        return torch.cat((even, torch.zeros(1, dtype=torch.float64)))

    def classify(self, x: Tensor) -> Tensor:
        return self.posterior(x, torch.zeros(len(x), dtype=torch.float64)).argmax(-1)


def mixture(means: list[list[float]], spread: float | list[float] = 0.2, weights: list[float] | None = None) -> Mixture:
    count = len(means)
    spreads = torch.full((count,), spread) if isinstance(spread, float) else torch.tensor(spread)
    shares = torch.tensor(weights or [1.0 / count] * count)
    return Mixture(torch.tensor(means).double(), spreads.double(), shares.double())


GEOMETRIES = {
    "two on a line": mixture([[-1.0], [1.0]]),
    "three on a circle": mixture([[1.0, 0.0], [-0.5, 0.866], [-0.5, -0.866]]),
    "four at the corners": mixture([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], 0.15),
    "unequal weights": mixture([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], 0.2, [0.6, 0.3, 0.1]),
    "unequal spreads in ten dimensions": mixture(
        [[0.8] * 10, [-0.8] * 10, [0.8, -0.8] * 5], [0.1, 0.3, 0.2], [0.5, 0.25, 0.25]
    ),
}

LENGTH = log_snr(LAST) - log_snr(FIRST)


def walked(model: Mixture, n: int, solver: str) -> tuple[dict[int, Tensor], Tensor, Tensor, Rows]:
    """x_t at 16 steps of n samples, the samples, the noise levels, and the rows."""
    rows, sigmas = Rows(5, torch.arange(n)), model.sigmas(How())
    trace = Recording(["x_t"], range(0, STEPS, 4))
    walk = euler if solver == "euler" else ancestral
    start = FIRST * rows.fork("start").normal(model.means.shape[1], dtype=torch.float64)
    denoise = lambda x, sigma: model.denoise(x, sigma, Condition())  # noqa: E731
    final = walk(denoise, start, sigmas, rows.fork("walk"), trace)
    return trace.kept["x_t"], final, sigmas, rows


@pytest.mark.parametrize("solver", ["euler", "ancestral"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_decision_time_is_the_analytic_one(name: str, solver: str) -> None:
    """Within 2% of the schedule's length in log signal-to-noise, and the whole curve within 5 standard errors."""
    model = GEOMETRIES[name]
    x_t, final, sigmas, rows = walked(model, 120, solver)
    found = commitment(
        model, model.classify, x_t, final, sigmas, Condition(), rows, classes=len(model.means), branches=8
    )
    own = model.classify(final)
    exact = []
    for step, share in zip(found.steps, found.shares, strict=True):
        level = torch.full((len(final),), float(sigmas[step]), dtype=torch.float64)
        exact.append(float(model.posterior(x_t[step], level).gather(1, own[:, None]).mean()))
        assert abs(share.value - exact[-1]) < 5 * math.sqrt(0.25 / share.n) + 0.01
    truth = crossing(found.log_snr, exact, found.threshold)
    assert found.decided is not None
    assert abs(found.decided.value - truth) < 0.02 * LENGTH
    assert found.decided.low <= found.decided.value <= found.decided.high


def test_a_single_sample_is_measured_as_well() -> None:
    """With enough branches one sample's own curve is its exact posterior."""
    model = GEOMETRIES["three on a circle"]
    x_t, final, sigmas, rows = walked(model, 1, "euler")
    found = commitment(model, model.classify, x_t, final, sigmas, Condition(), rows, classes=3, branches=1000)
    own = int(model.classify(final))
    level = lambda step: sigmas[step].reshape(1)  # noqa: E731
    exact = [float(model.posterior(x_t[step], level(step))[0, own]) for step in found.steps]
    assert max(abs(s.value - e) for s, e in zip(found.shares, exact, strict=True)) < 5 * math.sqrt(0.25 / 1000) + 0.01
    truth = crossing(found.log_snr, exact, found.threshold)
    assert found.decided is not None
    assert abs(found.decided.value - truth) < 0.02 * LENGTH
    assert found.decided.low < truth < found.decided.high


def test_large_forms_are_decided_before_small_ones() -> None:
    """Two features planted at different scales: far apart along the first axis, close along the second."""
    model = mixture([[a, b] for a in (-2.0, 2.0) for b in (-0.2, 0.2)], 0.05)
    x_t, final, sigmas, rows = walked(model, 100, "ancestral")
    times = []
    for axis in (0, 1):
        side = lambda x, axis=axis: (x[:, axis] > 0).long()  # noqa: E731
        found = commitment(model, side, x_t, final, sigmas, Condition(), rows, classes=2, branches=4)
        assert found.decided is not None
        times.append(found.decided)
    assert times[0].high < times[1].low


def test_what_is_certain_from_the_start_has_no_decision_time() -> None:
    model = GEOMETRIES["two on a line"]
    x_t, final, sigmas, rows = walked(model, 20, "euler")
    same = lambda x: torch.zeros(len(x), dtype=torch.int64)  # noqa: E731
    found = commitment(model, same, x_t, final, sigmas, Condition(), rows, classes=2, branches=2)
    assert found.decided is None
    assert found.from_start


def test_what_is_never_decided_is_said_too() -> None:
    """Classes that have nothing to do with the sample: the digits of its tenth decimal."""
    model = GEOMETRIES["two on a line"]
    x_t, final, sigmas, rows = walked(model, 50, "euler")
    random = lambda x: ((x[:, 0] * 1e10).round().long() % 5).abs()  # noqa: E731
    found = commitment(model, random, x_t, final, sigmas, Condition(), rows, classes=5, branches=4)
    assert found.decided is None
    assert not found.from_start


def test_a_row_does_not_depend_on_the_others() -> None:
    model = GEOMETRIES["three on a circle"]
    x_t, final, sigmas, rows = walked(model, 3, "euler")
    seen: list[Tensor] = []

    def listening(x: Tensor) -> Tensor:
        seen.append(x)
        return model.classify(x)

    some = {20: x_t[20]}
    commitment(model, listening, some, final, sigmas, Condition(), rows, classes=3, branches=4)
    one = {20: x_t[20][1:2]}
    part = rows.take(slice(1, 2))
    commitment(model, listening, one, final[1:2], sigmas, Condition(), part, classes=3, branches=4)
    torch.testing.assert_close(seen[1][4:8], seen[3])
    assert seen[3].unique(dim=0).shape[0] == 4, "branches differ"


def test_the_cost_is_counted() -> None:
    model = GEOMETRIES["two on a line"]
    x_t, final, sigmas, rows = walked(model, 3, "euler")
    some = {32: x_t[32], 60: x_t[60]}
    found = commitment(model, model.classify, some, final, sigmas, Condition(), rows, classes=2, branches=4)
    assert found.evaluations == 3 * 4 * (32 + 12)


def test_crossing() -> None:
    assert crossing([0.0, 1.0], [0.9, 0.9], 0.5) == -math.inf
    assert crossing([0.0, 1.0], [0.9, 0.1], 0.5) == math.inf
    assert crossing([0, 1, 2, 3], [0.1, 0.9, 0.3, 0.7], 0.5) == pytest.approx(2.5), "the last rise counts"


def test_ladder_keeps_what_is_long_enough() -> None:
    assert ladder([3.0, 2.0, 1.0, 0.0], 2).tolist() == [3.0, 2.0, 1.0, 0.0]
    fine = ladder([5.0, 0.0], 12)
    assert len(fine) == 13
    assert (fine.diff() < 0).all()


def test_wrong_wishes_are_refused() -> None:
    model = GEOMETRIES["two on a line"]
    x_t, final, sigmas, rows = walked(model, 2, "euler")
    with pytest.raises(BadInput, match="branches"):
        commitment(model, model.classify, x_t, final, sigmas, Condition(), rows, classes=2, branches=0)
    with pytest.raises(BadInput, match="no step"):
        commitment(model, model.classify, {STEPS: final}, final, sigmas, Condition(), rows, classes=2)
    assert wilson(0, 1).low == 0.0
