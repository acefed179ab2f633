"""Who foresees what an item's loss would be without some of the training items? Candidates, and how one is chosen.

    similarity  the kernel of plain distances, summed over the items that are there: the cheapest answer
    posterior   the weights that the best possible denoiser would give the items
    gradient    gradients of losses or outputs, by ridge (TRAK, D-TRAK, output Jacobian)
    variance    the posterior variance of kernel regression, which sees that alike items stand in for each other
    scales      a sum of such variances, each with its own width and ridge and a weight of at least 0: a loss that is
                averaged over noise levels is coarse and fine at once

Which is best depends on data and model, so none is hard-coded: each is tried on items set aside for that, against
losses of models trained on halves of the data, or, where nothing is to be retrained, against this model's own losses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, Learns
from pellucid.core.run import Run
from pellucid.explain.datamodel import Retrained, ranked
from pellucid.explain.gradient_kernel import FUNCTIONS, Function, gradients, ridge_scores
from pellucid.explain.posterior_variance import growing as variances
from pellucid.explain.posterior_variance import joined, variance
from pellucid.explain.posterior_weights import posterior_weights
from pellucid.explain.similarity import Metric, gaussian

__all__ = [
    "DEFAULT",
    "STOPPED",
    "Candidate",
    "Grounds",
    "agreement",
    "choose_by_losses",
    "choose_by_retraining",
    "foreseen",
    "growing",
    "helps",
    "some",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Kind = Literal["similarity", "posterior", "gradient", "variance", "scales"]

GAMMAS = (0.0, 0.25, 0.5)
NARROW = (0.02, 0.03, 0.045, 0.065, 0.1, 0.2, 0.5, 1.0)  # widths of similarity, in mean squared distances
WIDE = (0.1, 0.3, 0.8, 1.7, 5.0, 15.0)  # of kernel regression
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
LAMBDAS = (0.01, 0.1, 1.0, 10.0, 100.0)
TIMES = 4  # sets of each size over which one item's worth is averaged
ENOUGH = 800  # training items to compare settings on
STOPPED = "the explanation was stopped"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to foresee losses, with its settings.

    function: of gradients; None is the kernel of distances. parts: of a sum, each with its weight.
    """

    kind: Kind
    gamma: float = 0.0
    width: float = 0.0
    lam: float = 0.0
    function: Function | None = None
    parts: tuple[tuple[float, Candidate], ...] = ()

    def words(self) -> str:
        """What it is, in a few words."""
        if self.kind == "similarity":
            return f"similarity (width {self.width:g}, gamma {self.gamma:g})"
        if self.kind == "posterior":
            return f"posterior weights of the best denoiser (width {self.width:g}, gamma {self.gamma:g})"
        if self.kind == "gradient":
            return f"gradients of the {self.function} (ridge {self.lam:g})"
        if self.kind == "scales":
            largest = max(self.parts, key=lambda part: part[0])[1]
            return f"a sum of {len(self.parts)} posterior variances, most of it {largest.words()}"
        of = f"gradients of the {self.function}" if self.function else f"width {self.width:g}, gamma {self.gamma:g}"
        return f"posterior variance ({of}, ridge {self.lam:g})"


DEFAULT = Candidate(kind="variance", gamma=0.25, width=1.7, lam=0.03)


@dataclass(eq=False)
class Grounds:
    """All that the candidates know of n training items and Q queries; made when first asked for.

    train: (n, D) vectors. queries: (Q, D).
    engine, events: where gradients are to be tried, the engine and (y, condition) of both, training items first.
    """

    train: Floats
    queries: Floats
    engine: nn.Module | None = None
    events: tuple[tuple[Tensor, Condition], tuple[Tensor, Condition]] | None = None
    _metrics: dict[float, Metric] = field(default_factory=dict, repr=False)
    _slopes: dict[str, tuple[Floats, Floats, Floats]] = field(default_factory=dict, repr=False)

    def metric(self, gamma: float) -> Metric:
        if gamma not in self._metrics:
            self._metrics[gamma] = Metric.learn(self.train, self.queries, gamma)
        return self._metrics[gamma]

    def slopes(self, function: Function) -> tuple[Floats, Floats, Floats]:
        """K (n, n), k (Q, n) and the queries' own (Q,), on the scale where K's mean diagonal is 1."""
        if function not in self._slopes:
            assert self.engine is not None
            assert self.events is not None
            (y, c), (q, d) = self.events
            G, g = (gradients(self.engine, part, told, function=function) for part, told in ((y, c), (q, d)))
            scale = float(G.square().sum(dim=1).mean()) or 1.0
            K, k = (np.asarray((part @ G.T / scale).double().numpy()) for part in (G, g))
            self._slopes[function] = (K, k, np.asarray((g.square().sum(dim=1) / scale).double().numpy()))
        return self._slopes[function]

    def kernel(self, of: Candidate) -> tuple[Floats, Floats, Floats]:
        """K (n, n), k (Q, n), own (Q,) of a candidate that is a kernel."""
        if of.function is not None:
            return self.slopes(of.function)
        metric = self.metric(of.gamma)
        return gaussian(metric.among, of.width), gaussian(metric.to, of.width), np.ones(len(metric.to))

    def functions(self) -> tuple[Function, ...]:
        """Gradients that can be taken here."""
        if self.engine is None or not isinstance(self.engine, Learns):
            return ()
        return FUNCTIONS if isinstance(self.engine, Denoises) else FUNCTIONS[:1]


def helps(grounds: Grounds, by: Candidate, queries: NDArray[np.int64], seed: int = 0, run: Run | None = None) -> Floats:
    """(Q, n) by how much each training item lowers the foreseen loss of each query, in sets of the others."""
    if by.kind == "scales":
        return np.asarray(sum(weight * helps(grounds, part, queries, seed, run) for weight, part in by.parts))
    if by.kind == "variance":
        K, k, _ = grounds.kernel(by)
        tell = None if run is None else partial(run.step, "what each item is worth", came=STOPPED)
        return joined(K, k[queries], by.lam, times=TIMES, seed=seed, tell=tell)
    if by.kind == "gradient":
        K, k, _ = grounds.kernel(by)
        return ridge_scores(K, k[queries], by.lam)
    to = grounds.metric(by.gamma).to[queries]
    return posterior_weights(to, width=by.width) if by.kind == "posterior" else gaussian(to, by.width)


def foreseen(grounds: Grounds, by: Candidate, kept: Flags, queries: NDArray[np.int64]) -> Floats:
    """(M, Q) the loss of each query, up to shift and scale, were only the items in kept (M, n) trained on."""
    if by.kind == "scales":
        return np.asarray(sum(weight * foreseen(grounds, part, kept, queries) for weight, part in by.parts))
    if by.kind == "variance":
        K, k, own = grounds.kernel(by)
        return np.stack([variance(K, k[queries], own[queries], by.lam, flags) for flags in kept])
    return -(kept.astype(np.float64) @ helps(grounds, by, queries).T)


def growing(
    grounds: Grounds, by: Candidate, order: NDArray[np.int64], queries: NDArray[np.int64], seed: int = 0
) -> Floats:
    """(n + 1, Q) the loss of each query as training items come in this order: with none, the first, ... all of them."""
    if by.kind == "scales":
        return np.asarray(sum(weight * growing(grounds, part, order, queries, seed) for weight, part in by.parts))
    if by.kind == "variance":
        K, k, own = grounds.kernel(by)
        return variances(K, k[queries], own[queries], by.lam, order)
    worth = helps(grounds, by, queries, seed)[:, order]
    return -np.vstack((np.zeros(len(queries)), np.cumsum(worth.T, axis=0)))


def candidates(grounds: Grounds, *, variance_only: bool = False) -> list[Candidate]:
    """All settings that are tried, coarse to fine within each kind."""
    out = [Candidate(kind="variance", gamma=g, width=w, lam=r) for g in GAMMAS for w in WIDE for r in RIDGES]
    if variance_only:
        return out
    out += [Candidate(kind="similarity", gamma=g, width=w) for g in GAMMAS for w in NARROW]
    out += [Candidate(kind="posterior", gamma=g, width=w) for g in GAMMAS for w in NARROW[:6]]
    for function in grounds.functions():
        out += [Candidate(kind="gradient", function=function, lam=r) for r in LAMBDAS]
        out += [Candidate(kind="variance", function=function, lam=r) for r in (*RIDGES, 1.0, 3.0)]
    return out


def choose_by_retraining(
    grounds: Grounds, found: Retrained, queries: NDArray[np.int64], run: Run | None = None
) -> dict[Kind, tuple[float, Candidate]]:
    """The best candidate of each kind and its mean rank correlation with retrained losses of these queries."""
    best: dict[Kind, tuple[float, Candidate]] = {}
    real = found.mean()
    variances: list[tuple[Candidate, Floats]] = []
    tried, run = candidates(grounds), run or Run()
    for done, candidate in enumerate(tried):
        run.step("ways to foresee", done, len(tried), came=STOPPED)
        forecast = foreseen(grounds, candidate, found.kept, queries)
        if candidate.kind == "variance" and candidate.function is None:
            variances.append((candidate, forecast))
        _keep_better(best, candidate, forecast, real)
    scales = _scales(variances, real)
    _keep_better(best, scales, foreseen(grounds, scales, found.kept, queries), real)
    return best


def _keep_better(
    best: dict[Kind, tuple[float, Candidate]], candidate: Candidate, forecast: Floats, real: Floats
) -> None:
    value = float(ranked(forecast, real).mean())
    if candidate.kind not in best or value > best[candidate.kind][0]:
        best[candidate.kind] = (value, candidate)


def _scales(variances: list[tuple[Candidate, Floats]], real: Floats) -> Candidate:
    """The sum of variances that comes nearest to the losses, each query on its own scale; weights of at least 0."""
    of = real - real.mean(axis=0)
    spread = np.maximum(of.std(axis=0), 1e-12)
    columns = np.stack([((f - f.mean(axis=0)) / spread).ravel() for _, f in variances], axis=1)
    size = np.maximum(columns.std(axis=0), 1e-12)
    weights, _ = nnls(columns / size, (of / spread).ravel())
    parts = [(float(w / s), c) for w, s, (c, _) in zip(weights, size, variances, strict=True) if w > 0.0]
    return Candidate(kind="scales", parts=tuple(parts) or ((1.0, DEFAULT),))


def choose_by_losses(
    grounds: Grounds, losses: Floats, queries: NDArray[np.int64], seed: int = 0, run: Run | None = None
) -> tuple[float, Candidate]:
    """The posterior variance that ranks this model's own losses of these queries best, given (some) training items."""
    n = len(grounds.train)
    everything = np.zeros((1, n), dtype=np.bool_)
    everything[0, np.random.default_rng([abs(seed), n]).permutation(n)[:ENOUGH]] = True
    best, tried, run = (-np.inf, DEFAULT), candidates(grounds, variance_only=True), run or Run()
    for done, candidate in enumerate(tried):
        run.step("ways to foresee", done, len(tried), came=STOPPED)
        value = agreement(foreseen(grounds, candidate, everything, queries)[0], losses)
        if value > best[0]:
            best = (value, candidate)
    return best


def agreement(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two (Q,)."""
    return float(ranked(a[:, None], b[:, None])[0])


def some(total: int, most: int, near: Iterable[int], seed: int) -> NDArray[np.int64]:
    """Indices of at most `most` of `total` items, in order: those that are near, and others at random."""
    if total <= most:
        return np.arange(total)
    first = list(dict.fromkeys(near))[: most // 2]
    rest = np.setdiff1d(np.random.default_rng(seed).permutation(total), first, assume_unique=True)
    others = np.random.default_rng(seed + 1).permutation(rest)[: most - len(first)]
    return np.sort(np.concatenate((np.asarray(first, dtype=np.int64), others)))
