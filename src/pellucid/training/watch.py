"""Looking at a model while it trains, from outside: what is seen never changes what is trained."""

from __future__ import annotations

import abc
from dataclasses import dataclass

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

__all__ = ["CopyRatio", "Seen", "Watch"]


@dataclass(frozen=True)
class Seen:
    """What a watch is shown: the engine with its averaged weights, not training, and the rows it learns from.

    Rows of `examples` and `held_out` are in the codec's space; `bridge` (None for none) leads to the engine's.
    """

    engine: nn.Module
    step: int
    steps: int
    seed: int
    examples: Examples
    held_out: Examples | None
    bridge: Bridge | None
    run: Run


class Watch(abc.ABC):
    """Looks at a model now and then while it trains."""

    @abc.abstractmethod
    def due(self, step: int, steps: int) -> bool:
        """Look after `step` of `steps` steps?"""

    @abc.abstractmethod
    def look(self, seen: Seen) -> None:
        """Look, and emit what is worth saying. Runs without gradients and with a borrowed random generator."""


@dataclass(frozen=True, kw_only=True)
class CopyRatio(Watch):
    """Alarms when samples lie closer to training rows than to rows that were never seen.

    For each sample the distance to the nearest of m training rows is compared with that to the nearest of m held-out
    rows. A model that learned the distribution is as often closer to one as to the other; one that learned its
    rows by heart is closer to those. The alarm needs Wilson's 95% interval of the share to lie above `threshold`.

    Distances in event space: squared Euclidean for numbers, differing symbols for tokens; in mixed events both are
    added, after the numbers were divided by their spread.
    """

    samples: int = 256
    """Samples drawn at each look, one for each row id from 0."""
    pool: int = 2000
    """Most rows taken of each side; both sides get the same number."""
    looks: int = 4
    """Looks, spread evenly over training; the last at its end."""
    threshold: float = 0.55
    """What that interval must exceed; a half would be exceeded by chance alone in one look of forty."""
    space: Space | None = None
    """The engine's space; None reads whole numbers as symbols and all others as numbers."""

    def __post_init__(self) -> None:
        if min(self.samples, self.pool, self.looks) < 1 or not 0.0 < self.threshold < 1.0:
            raise BadInput(f"{self}", accepted="samples, pool and looks of at least 1, a threshold between 0 and 1")

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> None:
        share = self.measure(seen)
        if share.n and share.low > self.threshold:
            seen.run.emit(
                Alarmed(
                    topic="copying",
                    step=seen.step,
                    text=f"{share.value:.0%} of {share.n} samples lie closer to training rows than to held-out rows "
                    f"(95% interval {share.low:.0%} to {share.high:.0%}; half is expected): "
                    "the model may be copying.",
                )
            )

    def measure(self, seen: Seen) -> Interval:
        """Share of the samples that are closer to training rows; samples equally close to both are left out."""
        if seen.held_out is None or not len(seen.held_out):
            raise BadInput("no rows were held out", next="Keep some rows aside, or train without this watch.")
        if not isinstance(seen.engine, Samples):
            raise MissingCapability(f"{type(seen.engine).__name__} does not draw samples to compare")
        m = min(self.pool, len(seen.examples), len(seen.held_out))
        known, aside = self._side(seen.examples, m, seen, "known"), self._side(seen.held_out, m, seen, "aside")
        rows = Rows(seen.seed, torch.arange(self.samples)).fork("copy ratio")
        # half the conditions come from each side, so that none is favoured by being asked for
        both = Condition.cat([known.condition, aside.condition])
        pick = rows.fork("condition").integers(2 * m)
        condition = both.take(pick) if both else both
        x = seen.engine.sample(
            rows.to(seen.run.device), condition.to(seen.run.device), seen.engine.settings(), Silent()
        ).cpu()
        spread = self._spread(torch.cat([known.x, aside.x]))
        to_known, to_aside = (self._nearest(x, side.x, spread) for side in (known, aside))
        closer, further = int((to_known < to_aside).sum()), int((to_known > to_aside).sum())
        return wilson(closer, closer + further)

    def _side(self, examples: Examples, m: int, seen: Seen, name: str) -> Batch:
        """m rows drawn without replacement, in the engine's space."""
        ids = Rows(seen.seed, torch.arange(len(examples))).fork(name).uniform(1)[:, 0].argsort()[:m]
        batch = examples.take(ids)
        if seen.bridge is None:
            return batch
        return batch.with_x(seen.bridge.there(batch.x, Rows(seen.seed, ids).fork(name)))

    def _spread(self, x: Tensor) -> Tensor | None:
        """(size,) what the numbers of a mixed event are divided by."""
        return x.float().std(0).clamp_min(1e-6) if isinstance(self.space, Mixed) else None

    def _nearest(self, x: Tensor, pool: Tensor, spread: Tensor | None) -> Tensor:
        """(n,) distance from each sample to its nearest row of the pool."""
        symbols = self._symbols(x)
        parts = []
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
            parts.append(near.min(1).values)
        return torch.cat(parts)

    def _symbols(self, x: Tensor) -> Tensor:
        """(size,) bool: which numbers of an event are symbols."""
        if isinstance(self.space, Mixed):
            kinds = [isinstance(f.space, Tokens) for f in self.space.fields for _ in range(f.space.size)]
            return torch.tensor(kinds)
        whole = isinstance(self.space, Tokens) if self.space is not None else not x.is_floating_point()
        return torch.full((x[0].numel(),), whole)
