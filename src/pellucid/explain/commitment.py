"""When was it decided? From each point on the way to a sample, walk on many times anew and count the outcomes.

Early on, walks from the same noisy point end in every class; late, all end alike. Where the share that ends in the
sample's own class passes half the way from chance to certainty, the class was decided: the speciation time of
Biroli et al. 2024, arXiv:2402.18491, measured for a model as it is. On Gaussian mixtures, where the answer is known
in closed form, the tests hold this measurement to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
from pellucid.core.rows import Rows
from pellucid.solvers.ancestral import ancestral
from pellucid.solvers.guidance import guided

__all__ = ["Commitment", "commitment", "crossing", "ladder", "log_snr"]

Classify = Callable[[Tensor], Tensor]
"""(N, *event) to (N,) int64."""

BATCH = 1000  # rows walked at once


@dataclass(frozen=True)
class Commitment:
    """The share of walks from each step that end in the class of the final sample.

    Args:
        steps: recorded steps, in the order of time. sigma, log_snr: noise level, and log(1 / sigma^2), of each.
        shares: with their Wilson intervals, over all samples and branches.
        threshold: (1 + 1/C) / 2, half the way from chance among C classes to certainty.
        decided: log signal-to-noise from which on the share stays above the threshold; its interval is where the
            ends of the Wilson intervals do so. None if it never does, or does from the first step on.
        from_start: the share is above the threshold at every step.
        evaluations: rows that went through the network.
    """

    steps: tuple[int, ...]
    sigma: tuple[float, ...]
    log_snr: tuple[float, ...]
    shares: tuple[Interval, ...]
    threshold: float
    decided: Interval | None
    from_start: bool
    evaluations: int


def log_snr(sigma: float) -> float:
    """Logarithm of signal to noise power, for x_t = data + sigma * noise with data of unit scale.

    >>> log_snr(1.0), round(log_snr(0.5), 2)
    (-0.0, 1.39)
    """
    return -2.0 * math.log(sigma)


def commitment(
    engine: Denoises,
    classify: Classify,
    x_t: Mapping[int, Tensor],
    final: Tensor,
    sigmas: Tensor,
    condition: Condition,
    rows: Rows,
    *,
    classes: int,
    branches: int = 32,
    guidance: float = 1.0,
    least_steps: int = 12,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Commitment:
    """Walk on from each recorded step with fresh noise and count how often the class stays the same.

    The walk is ancestral whatever solver made the sample: a deterministic one would repeat itself.

    Args:
        classify: (N, *event) to (N,) int64.
        x_t: step -> (B, *event), data + sigmas[step] * noise; steps where the noise is 0 are passed over.
        final: (B, *event), the samples themselves. sigmas: (K + 1,), those of the sampler.
        condition: B rows, what the walks are told. rows: B rows; branch j of row i has a stream of its own.
        classes: C. guidance: as in sampling.
        tell: called with (recorded steps done, all of them).
        least_steps: noise levels are added between those of the sampler until a walk has so many.
    """
    if branches < 1 or classes < 2:
        raise BadInput(f"branches is {branches}, classes is {classes}", accepted="1 branch and 2 classes, or more")
    levels = [float(s) for s in sigmas]
    steps = [step for step in sorted(x_t) if levels[step] > 0.0]
    if not steps:
        raise BadInput("no step with noise was recorded", accepted="x_t of at least one step before the last")
    own = classify(final).repeat_interleave(branches)  # (B m,)
    told = condition.repeat(branches)
    ids = (rows.ids[:, None] * branches + torch.arange(branches, device=rows.ids.device)).flatten()
    shares, evaluations = [], 0
    for done, step in enumerate(steps):
        tell(done, len(steps))
        start = x_t[step].repeat_interleave(branches, 0)
        down = ladder(levels[step:], least_steps)
        fresh = Rows(rows.seed, ids, rows.fork("branches", step).key)
        ends = []
        for at in range(0, len(start), BATCH):
            part = slice(at, at + BATCH)
            denoise = guided(engine, told.take(part), guidance)
            ends.append(classify(ancestral(denoise, start[part], down, fresh.take(part))))
        shares.append(wilson(int((torch.cat(ends) == own).sum()), len(own)))
        evaluations += len(start) * (len(down) - 1) * (2 if told and guidance != 1.0 else 1)
    tell(len(steps), len(steps))
    threshold = (1.0 + 1.0 / classes) / 2.0
    places = [log_snr(levels[step]) for step in steps]
    decided, from_start = _decided(places, shares, threshold)
    return Commitment(
        tuple(steps),
        tuple(levels[step] for step in steps),
        tuple(places),
        tuple(shares),
        threshold,
        decided,
        from_start,
        evaluations,
    )


def ladder(levels: Sequence[float], least: int) -> Tensor:
    """The noise levels that are left, with levels added in the widest gaps until there are `least` steps.

    >>> ladder([4.0, 1.0, 0.0], 4)
    tensor([4.0000, 2.0000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    out = list(levels)
    while len(out) - 1 < least:
        gaps = [a / b if b > 0.0 else 4.0 for a, b in itertools.pairwise(out)]
        at = max(range(len(gaps)), key=gaps.__getitem__)
        a, b = out[at], out[at + 1]
        out.insert(at + 1, math.sqrt(a * b) if b > 0.0 else a / 2.0)
    return torch.tensor(out, dtype=torch.float64)


def crossing(places: Sequence[float], values: Sequence[float], threshold: float) -> float:
    """Where the broken line through (place, value) last rises through the threshold, after which it stays above.

    -inf if it is above from the first place on, inf if it is below at the last.

    >>> crossing([0.0, 1.0, 2.0], [0.2, 0.4, 0.8], 0.5)
    1.25
    """
    if values[-1] < threshold:
        return math.inf
    below = [i for i, value in enumerate(values) if value < threshold]
    if not below:
        return -math.inf
    i = below[-1]
    part = (threshold - values[i]) / (values[i + 1] - values[i])
    return places[i] + part * (places[i + 1] - places[i])


def _decided(places: list[float], shares: list[Interval], threshold: float) -> tuple[Interval | None, bool]:
    at = crossing(places, [s.value for s in shares], threshold)
    if math.isinf(at):
        return None, at < 0.0
    low, high = (crossing(places, ends, threshold) for ends in ([s.high for s in shares], [s.low for s in shares]))
    return Interval(at, max(low, places[0]), min(high, places[-1]), shares[0].n), False
