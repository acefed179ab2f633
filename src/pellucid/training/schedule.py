"""How far training is, and how large a step it takes there; a budget that shrinks bends the same curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.core.capabilities import Training
from pellucid.core.errors import BadInput
from pellucid.core.run import Event

__all__ = ["Replanned", "Schedule"]


@dataclass(frozen=True, kw_only=True)
class Replanned(Event):
    """From step `at` on, training ends after `steps` steps in all; a replay follows it."""

    at: int
    steps: int


class Schedule:
    """Progress u(k) from 0 to 1 after k steps, and the learning rate there.

    u grows evenly to 1 at the last step. After a re-plan at step a to n steps in all, what was left of u is
    spread over the n - a steps left: u(k) = u(a) + (1 - u(a)) (k - a) / (n - a). So the rate still falls
    to its end, only faster.

    >>> whole = Schedule(100, Training(warmup=0.0))
    >>> round(whole.progress(50), 3), whole.replan(50, 60).steps, round(whole.replan(50, 60).progress(55), 3)
    (0.5, 60, 0.75)
    """

    def __init__(self, steps: int, settings: Training, replans: Sequence[Replanned] = ()) -> None:
        if steps < 1:
            raise BadInput(f"steps is {steps}", accepted="a whole number of at least 1")
        self.planned, self.settings, self.replans = steps, settings, tuple(replans)
        self.pieces = [(0, 0.0, steps)]  # (from step, progress there, steps in all)
        for at, total in ((r.at, r.steps) for r in self.replans):
            if not self.pieces[-1][0] <= at <= total:
                raise BadInput(f"re-plan at step {at} to {total} steps", accepted="steps in order, none before `at`")
            self.pieces.append((at, self.progress(at), total))

    @property
    def steps(self) -> int:
        """Steps in all, as of the last re-plan."""
        return self.pieces[-1][2]

    def replan(self, at: int, steps: int) -> Schedule:
        """The same schedule with `steps` steps in all from step `at` on."""
        return Schedule(self.planned, self.settings, (*self.replans, Replanned(at=at, steps=steps)))

    def before(self, step: int) -> Schedule:
        """The schedule as it stood at this step, later re-plans forgotten."""
        return Schedule(self.planned, self.settings, [r for r in self.replans if r.at <= step])

    def progress(self, k: float) -> float:
        """u(k)."""
        at, u, steps = next(piece for piece in reversed(self.pieces) if piece[0] <= k)
        return 1.0 if steps <= at else min(1.0, u + (1.0 - u) * (k - at) / (steps - at))

    def factor(self, k: int) -> float:
        """What the learning rate is multiplied by at step k: warm-up, then half a cosine, read at the step's middle."""
        u, warmup, final = self.progress(k + 0.5), self.settings.warmup, self.settings.final_rate
        if u < warmup:
            return u / warmup
        fallen = (u - warmup) / (1.0 - warmup) if warmup < 1.0 else 0.0
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * fallen))
