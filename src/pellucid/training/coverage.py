"""Coverage: do the samples reach every kind of item that there is, or has the model collapsed to a few?

Real items are put into clusters by k-means (Lloyd 1982, started as in k-means++, Arthur and Vassilvitskii 2007) in a
small feature space. n samples then hit some share of the clusters, and n real items that were never trained on would
hit

    E = sum_k 1 - (1 - p_k)^n,    p_k the share of held-out items in cluster k

of them. Samples that hit far fewer have lost kinds of items: a collapsed generator hits one or two, however good each
of its samples looks. Richardson and Weiss 2018, "On GANs and GMMs" (https://arxiv.org/abs/1805.12462, section 2), count
samples in clusters of real ones likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Samples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Measured
from pellucid.core.space import Mixed, Space, Tokens
from pellucid.training.watch import Seen, Watch, rows_of, samples_in_time

__all__ = ["Covered", "Coverage"]

FEATURES = 32  # numbers that an item is seen as
ROUNDS = 10  # of k-means
TRIES = 4  # points of which each first centre is the best
CLEAR = 4.0  # standard deviations below what real items hit, from which a gap is no chance


@dataclass(frozen=True)
class Covered:
    """What was found.

    share: of the clusters that the samples hit. real: that as many held-out items hit, in expectation.
    clear: is the gap too large for chance? samples: how many.
    """

    share: float
    real: float
    clear: bool
    samples: int

    @property
    def ratio(self) -> float:
        """Of the clusters that real items hit, those that samples hit; about 1 without collapse."""
        return self.share / self.real if self.real else 1.0


@dataclass(frozen=True, kw_only=True)
class Coverage(Watch):
    """Emits `Measured(topic="coverage")` at each look, and alarms when samples miss clusters that real items hit.

    Features of an item: its numbers (in rows of a table and in curves divided by their spread), each of its symbols as
    a random direction of its own, brought down to 32 by a random projection, which keeps distances well enough to
    tell clusters apart (Johnson and Lindenstrauss 1984).
    """

    clusters: int = 32
    """k, at most a tenth of the real items."""
    samples: int = 192
    """Most samples drawn at each look; fewer when its time is up."""
    fewest: int = 96
    """Samples below which nothing is said."""
    pool: int = 2000
    """Most items that the clusters are made from, and most held-out items."""
    looks: int = 6
    """Looks, spread evenly over training."""
    threshold: float = 0.6
    """Alarm when the ratio is below this, and the gap clear, in the second half of training; before it half of this
    will do, since a model that has learned little yet makes few kinds of items for a while."""
    space: Space | None = None
    """The engine's space; None reads whole numbers as symbols and all others as numbers."""

    def __post_init__(self) -> None:
        if min(self.clusters, self.samples, self.fewest, self.pool, self.looks) < 1 or not 0.0 < self.threshold < 1.0:
            raise BadInput(
                f"{self}",
                accepted="clusters, samples, fewest, pool and looks of at least 1, a threshold between 0 and 1",
            )

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> float | None:
        needs: list[float] = []
        found = self.measure(seen, needs)
        if needs:
            return needs[0]
        values = {"samples": found.share, "real": found.real, "ratio": found.ratio}
        seen.run.emit(Measured(topic="coverage", step=seen.step, values=values))
        late = 2 * seen.step >= seen.steps
        if found.clear and found.ratio < self.threshold * (1.0 if late else 0.5):
            seen.run.emit(
                Alarmed(
                    topic="collapse",
                    step=seen.step,
                    text=f"{found.samples} samples reach {found.share:.0%} of the kinds of items that there are; as "
                    f"many real ones reach {found.real:.0%}: the model may have collapsed to a few kinds.",
                )
            )
        return None

    def measure(self, seen: Seen, needs: list[float] | None = None) -> Covered:
        """The share of clusters that samples hit, beside that of held-out items.

        Args:
            needs: gets the seconds that `fewest` samples take, if that is more than `seen.seconds`.
        """
        if seen.held_out is None or not len(seen.held_out):
            raise BadInput("no rows were held out", next="Keep some rows aside, or train without this watch.")
        if not isinstance(seen.engine, Samples):
            raise MissingCapability(f"{type(seen.engine).__name__} does not draw samples to look at")
        known = rows_of(seen.examples, min(self.pool, len(seen.examples)), seen, "known")
        aside = rows_of(seen.held_out, min(self.pool, len(seen.held_out)), seen, "aside")
        spread = self._spread(known.x)
        real = self._features(known.x, spread)
        k = max(1, min(self.clusters, len(real) // 10))
        centres = k_means(real, k, Rows(seen.seed, torch.zeros(1, dtype=torch.int64)).fork("clusters"))
        hit, drawn = torch.zeros(k, dtype=torch.bool), 0
        conditions = Condition.cat([known.condition, aside.condition])
        pool = len(known) + len(aside)
        for x in samples_in_time(seen, conditions, pool, self.samples, self.fewest, "coverage", needs):
            features, drawn = self._features(x, spread), drawn + len(x)
            hit[nearest(features[features.isfinite().all(-1)], centres)] = True
        shares = torch.bincount(nearest(self._features(aside.x, spread), centres), minlength=k).double() / len(aside)
        likely = 1.0 - (1.0 - shares) ** drawn  # (k,) that as many held-out items hit this one
        expected, found = float(likely.sum()), int(hit.sum())
        # hits of different clusters repel each other, so the sum of the variances is an upper bound
        deviation = math.sqrt(float((likely * (1.0 - likely)).sum()))
        clear = expected - found > CLEAR * max(deviation, 0.5)
        return Covered(found / k, expected / k, clear, drawn)

    def _spread(self, x: Tensor) -> Tensor | None:
        """(size,) what each number is divided by; None for pictures, whose pixels are on one scale."""
        if x.ndim > 2:
            return None
        deviation = x.float().flatten(1).std(0, correction=0)
        return torch.where(deviation > 1e-6, deviation, 1.0)

    def _features(self, x: Tensor, spread: Tensor | None) -> Tensor:
        """(n, *event) to (n, FEATURES), or to (n, size) for few numbers and no symbols."""
        flat, symbols = x.flatten(1), self._symbols(x)
        numbers = (flat.float() if spread is None else flat.float() / spread)[:, ~symbols]
        if not symbols.any() and numbers.shape[1] <= FEATURES:
            return numbers
        places = Rows(0, torch.arange(flat.shape[1])).fork("directions")
        out = numbers @ places.normal(FEATURES)[~symbols] / math.sqrt(FEATURES)
        for place in symbols.nonzero()[:, 0].tolist():
            kinds, which = flat[:, place].round().long().unique(return_inverse=True)
            direction = Rows(place, kinds).fork("symbol").normal(FEATURES)
            out = out + direction[which] / math.sqrt(FEATURES)
        return out

    def _symbols(self, x: Tensor) -> Tensor:
        """(size,) bool: which numbers of an event are symbols."""
        if isinstance(self.space, Mixed):
            kinds = [isinstance(f.space, Tokens) for f in self.space.fields for _ in range(f.space.size)]
            return torch.tensor(kinds)
        whole = isinstance(self.space, Tokens) if self.space is not None else not x.is_floating_point()
        return torch.full((x[0].numel(),), whole)


def k_means(x: Tensor, k: int, rows: Rows) -> Tensor:
    """(k, d) centres of the points x (n, d).

    Args:
        rows: one row, from which the first centres are drawn.

    >>> x = torch.tensor([[0.0], [0.2], [5.0], [5.2], [9.0], [9.2]])
    >>> [round(float(c), 1) for c in k_means(x, 3, Rows(0, torch.arange(1))).flatten().sort().values]
    [0.1, 5.1, 9.1]
    """
    draws = rows.uniform(k, TRIES, dtype=torch.float64)[0]
    centres = x[int(draws[0, 0] * len(x)), None]
    far = (x - centres).square().sum(-1)
    for draw in draws[1:]:
        reach = far.double().cumsum(0)
        places = torch.searchsorted(reach, draw * reach[-1]).clamp_max(len(x) - 1)  # (TRIES,)
        after = torch.minimum(far, torch.cdist(x[places], x).square())
        best = int(after.sum(-1).argmin())  # of a few, the one that leaves the least (the paper's section 7)
        centres, far = torch.cat((centres, x[places[best], None])), after[best]
    for _ in range(ROUNDS):
        home = nearest(x, centres)
        count = torch.bincount(home, minlength=k)
        sums = torch.zeros_like(centres).index_add(0, home, x)
        centres = torch.where(count[:, None] > 0, sums / count.clamp_min(1)[:, None], centres)
    return centres


def nearest(x: Tensor, centres: Tensor) -> Tensor:
    """(n,) the index of each point's nearest centre: x (n, d), centres (k, d)."""
    return torch.cdist(x, centres).argmin(-1) if len(x) else torch.zeros(0, dtype=torch.int64)
