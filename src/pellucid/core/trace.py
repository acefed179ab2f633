"""Traces: recording, streaming and progress are three listeners to the same walk from noise to sample."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable

from torch import Tensor

__all__ = ["Recording", "Silent", "Telling", "Trace"]


class Trace(abc.ABC):
    """What a sampler offers while it works. Names in use: "x_t", "denoised", "sigma", "token", "logits"."""

    @abc.abstractmethod
    def wants(self, name: str) -> bool:
        """Should the sampler compute and keep this value? Asked before any work is spent on it."""

    @abc.abstractmethod
    def keep(self, name: str, step: int, value: Tensor) -> None:
        """Take the value of this step."""


class Silent(Trace):
    """Keeps nothing."""

    def wants(self, name: str) -> bool:
        return False

    def keep(self, name: str, step: int, value: Tensor) -> None:
        raise AssertionError(f"'{name}' was kept although nothing was wanted")


class Recording(Trace):
    """Keeps the named values of chosen steps (all by default), in the order they come."""

    def __init__(self, names: Iterable[str], steps: Iterable[int] | None = None) -> None:
        self.names = frozenset(names)
        self.steps = None if steps is None else frozenset(steps)
        self.kept: dict[str, dict[int, Tensor]] = {name: {} for name in sorted(self.names)}

    def wants(self, name: str) -> bool:
        return name in self.names

    def keep(self, name: str, step: int, value: Tensor) -> None:
        if self.steps is None or step in self.steps:
            self.kept[name][step] = value.detach().clone()


class Telling(Trace):
    """Calls a function with each wanted value: streaming and progress."""

    def __init__(self, names: Iterable[str], tell: Callable[[str, int, Tensor], None]) -> None:
        self.names = frozenset(names)
        self.tell = tell

    def wants(self, name: str) -> bool:
        return name in self.names

    def keep(self, name: str, step: int, value: Tensor) -> None:
        self.tell(name, step, value)
