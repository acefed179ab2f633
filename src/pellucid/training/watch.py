"""Looking at a model while it trains, from outside: what is seen never changes what is trained."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition, Examples
from pellucid.core.capabilities import Samples
from pellucid.core.codec import Bridge
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval, wilson
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Run
from pellucid.core.space import Mixed, Space, Tokens
from pellucid.core.trace import Silent

__all__ = ["CopyRatio", "Seen", "Watch", "rows_of", "samples_in_time"]

TRIAL = 4  # samples drawn first, to learn how long one takes
PART = 32  # and then so many at once


@dataclass(frozen=True)
class Seen:
    """What a watch is shown: the engine with its averaged weights, not training, and the rows it learns from.

    Rows of `examples` and `held_out` are in the codec's space; `bridge` (None for none) leads to the engine's.
    `seconds` is how long the look may take.
    """

    engine: nn.Module
    step: int
    steps: int
    seed: int
    examples: Examples
    held_out: Examples | None
    bridge: Bridge | None
    run: Run
    seconds: float = math.inf


class Watch(abc.ABC):
    """Looks at a model now and then while it trains.

    averaged: does it see the averaged weights, which samples are drawn from in the end, or those that are moving?
    """

    averaged: ClassVar[bool] = True

    @abc.abstractmethod
    def due(self, step: int, steps: int) -> bool:
        """Look after `step` of `steps` steps?"""

    @abc.abstractmethod
    def look(self, seen: Seen) -> float | None:
        """Look, and emit what is worth saying. Runs without gradients and with a borrowed random generator.

        Returns:
            None, or the seconds it would have needed, if these are more than `seen.seconds`: it then looked at
            nothing and is asked again once so much time has been earned.
        """


def rows_of(examples: Examples, m: int, seen: Seen, name: str) -> Batch:
    """m rows drawn without replacement, in the engine's space."""
    ids = Rows(seen.seed, torch.arange(len(examples))).fork(name).uniform(1)[:, 0].argsort()[:m]
    batch = examples.take(ids)
    if seen.bridge is None:
        return batch
    return batch.with_x(seen.bridge.there(batch.x, Rows(seen.seed, ids).fork(name)))


def samples_in_time(
    seen: Seen, conditions: Condition, pool: int, most: int, fewest: int, name: str, needs: list[float] | None = None
) -> Iterator[Tensor]:
    """Samples (n, *event) of a model, part after part, until there are `most` or the time of the look is up.

    What the caller does with a part counts as its time.

    Args:
        conditions: of `pool` rows, from which those of each sample are drawn; an empty one for none.
        fewest: as many are drawn in any case, unless `needs` is given and they would take longer than the look may:
            then it gets the seconds that they would take, and no more samples come.
        name: of the noise.
    """
    engine, began, now = seen.engine, time.monotonic(), 0.0
    assert isinstance(engine, Samples)
    drawn, step = 0, TRIAL if seen.seconds < math.inf else PART
    while drawn < most:
        rows = Rows(seen.seed, torch.arange(drawn, min(drawn + step, most))).fork(name)
        condition = conditions.take(rows.fork("condition").integers(pool)) if conditions else conditions
        device = seen.run.device
        x = engine.sample(rows.to(device), condition.to(device), engine.settings(), Silent()).cpu()
        yield x
        then, now = now, time.monotonic() - began
        # a few samples take nearly as long as many where the net is small, so a first guess is a lenient one
        each = (now - then) / len(x) if drawn else now / len(x) / 4
        drawn, step = drawn + len(x), PART
        expected = now + each * max(0, min(fewest, most) - drawn)
        if needs is not None and drawn < fewest and expected > seen.seconds:
            needs.append(expected)
            return
        if drawn >= fewest and now + each * PART > seen.seconds:
            return


@dataclass(frozen=True, kw_only=True)
class CopyRatio(Watch):
    """Alarms when samples lie closer to training rows than to rows that were never seen.

    For each sample the distance to the nearest of m training rows is compared with that to the nearest of m held-out
    rows. A model that learned the distribution is as often closer to one as to the other; one that learned its
    rows by heart is closer to those. The alarm needs Wilson's 95% interval of the share to lie above `threshold`.

    Some rows are near to many samples, and which side they came to was chance. So the interval is that of
    n^2 / sum_j c_j^2 samples, where c_j of the n samples have row j as their nearest: swapping the two sides row by
    row gives the share just this variance, 1/4 sum_j (c_j / n)^2. A handful of rows aside can raise no alarm.

    Distances in event space: squared Euclidean for numbers, differing symbols for tokens; in mixed events both are
    added, after the numbers were divided by their spread.
    """

    samples: int = 256
    """Most samples drawn at each look, one for each row id from 0; fewer when its time is up."""
    fewest: int = 64
    """Samples below which nothing is said."""
    pool: int = 2000
    """Most rows taken of each side; both sides get the same number."""
    looks: int = 4
    """Looks, spread evenly over training; the last at its end, if the time for looks has not run out."""
    threshold: float = 0.55
    """What that interval must exceed; a half would be exceeded by chance alone in one look of forty."""
    space: Space | None = None
    """The engine's space; None reads whole numbers as symbols and all others as numbers."""

    def __post_init__(self) -> None:
        if min(self.samples, self.fewest, self.pool, self.looks) < 1 or not 0.0 < self.threshold < 1.0:
            raise BadInput(
                f"{self}", accepted="samples, fewest, pool and looks of at least 1, a threshold between 0 and 1"
            )

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> float | None:
        needs: list[float] = []
        share = self.measure(seen, needs)
        if needs:
            return needs[0]
        text = (
            f"{share.value:.0%} of {share.n} samples lie closer to training rows than to held-out rows "
            f"(95% interval {share.low:.0%} to {share.high:.0%}; half is expected)"
        )
        if share.n and share.low > self.threshold:
            seen.run.emit(Alarmed(topic="copying", step=seen.step, text=f"{text}: the model may be copying."))
        elif share.n and seen.step == seen.steps:
            seen.run.notice("copying", f"{text}.")
        return None

    def measure(self, seen: Seen, needs: list[float] | None = None) -> Interval:
        """Share of the samples that are closer to training rows; samples equally close to both are left out.

        Args:
            needs: gets the seconds that `fewest` samples take, if that is more than `seen.seconds`.
        """
        if seen.held_out is None or not len(seen.held_out):
            raise BadInput("no rows were held out", next="Keep some rows aside, or train without this watch.")
        if not isinstance(seen.engine, Samples):
            raise MissingCapability(f"{type(seen.engine).__name__} does not draw samples to compare")
        m = min(self.pool, len(seen.examples), len(seen.held_out))
        known, aside = rows_of(seen.examples, m, seen, "known"), rows_of(seen.held_out, m, seen, "aside")
        spread = self._spread(torch.cat([known.x, aside.x]))
        # half the conditions come from each side, so that none is favoured by being asked for
        both = Condition.cat([known.condition, aside.condition])
        counts = torch.zeros(2, m, dtype=torch.int64)
        for x in samples_in_time(seen, both, 2 * m, self.samples, self.fewest, "copy ratio", needs):
            (to_known, first), (to_aside, second) = (self._nearest(x, side.x, spread) for side in (known, aside))
            counts[0] += torch.bincount(first[to_known < to_aside], minlength=m)
            counts[1] += torch.bincount(second[to_known > to_aside], minlength=m)
        return _share(counts)

    def _spread(self, x: Tensor) -> Tensor | None:
        """(size,) what the numbers of a mixed event are divided by."""
        return x.float().std(0).clamp_min(1e-6) if isinstance(self.space, Mixed) else None

    def _nearest(self, x: Tensor, pool: Tensor, spread: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n,) distance from each sample to its nearest row of the pool, and (n,) which row that is."""
        symbols = self._symbols(x)
        parts, places = [], []
        for part in x.flatten(1).split(64):
            near = part.new_zeros((len(part), len(pool)), dtype=torch.float32)
            if symbols.any():
                a, b = part[:, symbols].float(), pool.flatten(1)[:, symbols].float()
                near += torch.cdist(a, b, p=0.0)  # how many differ
            if not symbols.all():
                a, b = part[:, ~symbols].float(), pool.flatten(1)[:, ~symbols].float()
                if spread is not None:
                    a, b = a / spread[~symbols], b / spread[~symbols]
                near += torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
            least = near.min(1)
            parts.append(least.values)
            places.append(least.indices)
        return torch.cat(parts), torch.cat(places)

    def _symbols(self, x: Tensor) -> Tensor:
        """(size,) bool: which numbers of an event are symbols."""
        if isinstance(self.space, Mixed):
            kinds = [isinstance(f.space, Tokens) for f in self.space.fields for _ in range(f.space.size)]
            return torch.tensor(kinds)
        whole = isinstance(self.space, Tokens) if self.space is not None else not x.is_floating_point()
        return torch.full((x[0].numel(),), whole)


def _share(counts: Tensor) -> Interval:
    """Share of the samples nearest to a training row, from how many (2, m) have each row as their nearest.

    >>> spread, crowded = torch.ones(2, 50), torch.tensor([[50.0, 0.0], [50.0, 0.0]])
    >>> round(_share(spread).high, 2), round(_share(crowded).high, 2), _share(crowded).n
    (0.6, 0.91, 100)
    """
    closer, total = float(counts[0].sum()), float(counts.sum())
    if not total:
        return wilson(0, 0)
    worth = total**2 / float(counts.double().square().sum())
    wide = wilson(closer / total * worth, worth)
    return Interval(wide.value, wide.low, wide.high, int(total))
