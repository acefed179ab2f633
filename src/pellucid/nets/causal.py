"""What a causal network over slots promises, so that one engine writes symbols through any of them."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor, nn

__all__ = ["Causal"]


class Causal(nn.Module, abc.ABC):
    """A network in which slot s sees slots 0 to s, for all slots at once or slot by slot with a state.

    width: numbers in a slot. masks: how many (B, width) factors `keep` has (dropout of what layers add).
    """

    width: int
    masks: int

    @abc.abstractmethod
    def forward(self, x: Tensor, vector: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x (B, S, width) to features (B, S, width).

        Args:
            vector: (B, width), what is known of each row; None where nothing can be.
            keep: (B, masks, width), or None for all.
        """

    @abc.abstractmethod
    def begin(self, batch: int, slots: int, like: Tensor) -> Any:
        """The state before any of at most `slots` slots, on the device and in the dtype of `like`."""

    @abc.abstractmethod
    def step(self, x: Tensor, state: Any, vector: Tensor | None = None) -> tuple[Tensor, Any]:
        """x (B, k, width), the slots after those in the state, to features (B, k, width) and the state behind them.

        What a state holds may be written in place: step each one only once.
        """
