"""Looking at a model while it trains, from outside: what is seen never changes what is trained."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import nn

from pellucid.core.batch import Examples
from pellucid.core.codec import Bridge
from pellucid.core.run import Run

__all__ = ["Seen", "Watch"]


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
