"""When the watches look, and for how long: a stated share of the time that training takes, and no more."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from pellucid.core.run import Run
from pellucid.training.walk import Walk
from pellucid.training.watch import Seen, Watch

__all__ = ["SHARE", "Looks"]

SHARE = 0.02  # of the time of training that a fit gives to its watches
FIRST = 0.05  # seconds to be earned before a watch of unknown cost is tried


class Looks:
    """The watches of a run, what they are shown, and the time they have taken.

    A watch that is due while too little time has been earned waits for a later step; the clock decides when it
    looks and never what is trained.

    Args:
        watch: in the order in which they look. seen: what each is shown, but for its step and its time.
        share: of the time passed so far that all looks together may have taken; inf never makes them wait.
        began: `time.monotonic()` when training began.
    """

    def __init__(self, watch: Sequence[Watch], seen: Seen, share: float, began: float) -> None:
        self.watch, self.seen, self.share, self.began = tuple(watch), seen, share, began
        self.spent = 0.0  # seconds
        self._waiting: dict[int, float] = {}  # place of a watch that is due -> seconds that it said it needs

    def look(self, walk: Walk, k: int, steps: int, run: Run) -> float:
        """Let those look that are due after `k` of `steps` steps and can afford it; gives the seconds it took."""
        for place, watch in enumerate(self.watch):
            if watch.due(k, steps):
                self._waiting.setdefault(place, FIRST if self.share < math.inf else 0.0)
        if not self._waiting or walk.team.rank != 0 or walk.sharded:
            return 0.0
        began = now = time.monotonic()
        able = [p for p in sorted(self._waiting) if self._left(now) >= self._waiting[p]]
        if not able:
            return 0.0
        engine = self.seen.engine
        walk.forget()
        with torch.no_grad():
            engine.eval()
            for place in able:
                needs, left = self._waiting.pop(place), self._left(now)
                if left < needs:
                    self._waiting[place] = needs
                    continue
                watch, average = self.watch[place], walk.average
                with average.swapped() if average is not None and watch.averaged else nullcontext():
                    lacking = watch.look(replace(self.seen, step=k, steps=steps, seconds=left))
                if lacking is not None:
                    self._waiting[place] = lacking
                then, now = now, time.monotonic()
                self.spent += now - then
            engine.train()
        return time.monotonic() - began

    def _left(self, now: float) -> float:
        """Seconds earned and not spent yet."""
        return math.inf if self.share == math.inf else self.share * (now - self.began) - self.spent
