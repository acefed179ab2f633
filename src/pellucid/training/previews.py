"""Samples of the current model while it trains: always of the same noise, so that one sees the model change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from pellucid.core.errors import BadInput, Stopped
from pellucid.core.run import Previewed
from pellucid.training.watch import Seen, Watch

__all__ = ["Previews"]

TRIAL = 4  # samples drawn first, after a single one: what the others add is what each of them takes


class Previews(Watch):
    """Draws the same few ids a few times over a run, hands them on to be kept, and emits `Previewed`.

    Args:
        draw: ids -> samples of the model as it is now. The seed, and so the noise, is the drawer's and never changes.
        keep: (step, samples) -> where they were written; None for nowhere.
        items: samples of a look. looks: spread evenly over training, the last at its end if the
            time for looks has not run out.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[int]], Any],
        keep: Callable[[int, Any], str] | None = None,
        *,
        items: int = 16,
        looks: int = 5,
    ) -> None:
        if min(items, looks) < 1:
            raise BadInput(f"{items} samples at {looks} looks", accepted="at least one of each")
        self.draw, self.keep, self.items, self.looks = draw, keep, items, looks
        self._cost: float | None = None  # seconds of the last look

    def due(self, step: int, steps: int) -> bool:
        return step * self.looks // steps > (step - 1) * self.looks // steps

    def look(self, seen: Seen) -> float | None:
        began = time.monotonic()
        try:
            needs = self._cost
            if needs is None and seen.seconds < float("inf"):
                needs = self._guess()
            if needs is not None and needs > seen.seconds:
                self._cost = needs
                return needs
            items = self.draw(range(self.items))
            path = None if self.keep is None else self.keep(seen.step, items)
        except Stopped:
            raise
        except BadInput as error:  # a full disk, samples that are no numbers yet: looks must not end what is trained
            seen.run.notice("preview", f"No samples were kept at step {seen.step}: {error}")
            return None
        self._cost = time.monotonic() - began
        seen.run.emit(Previewed(step=seen.step, path=path, count=self.items, items=items))
        return None

    def _guess(self) -> float:
        """Seconds that a look will take, from what further samples add to the time of one."""
        began = time.monotonic()
        self.draw(range(1))
        one, then = time.monotonic() - began, time.monotonic()
        self.draw(range(TRIAL))
        few = time.monotonic() - then
        return few + max(0.0, few - one) / (TRIAL - 1) * (self.items - TRIAL)
