"""Averaged weights: smoother than the last ones, and what is sampled from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["Average"]


class Average:
    """Exponential moving average of parameters, in float32 whatever they are in.

    average <- d average + (1 - d) weights after each step k, with d = min(decay, (1 + k) / (ramp + k)).
    The ramp forgets the first, random weights quickly.

    Args:
        parameters: name -> parameter.
        decay, ramp: `Training.ema` and `Training.ema_ramp`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, ramp: float) -> None:
        self.parameters, self.decay, self.ramp = dict(parameters), decay, ramp
        self.values: dict[str, Tensor] = {k: p.detach().clone().float() for k, p in self.parameters.items()}

    def decay_at(self, k: int) -> float:
        """d after step k.

        >>> Average({}, 0.999, 25.0).decay_at(0), Average({}, 0.999, 25.0).decay_at(10**6)
        (0.04, 0.999)
        """
        return min(self.decay, (1 + k) / (self.ramp + k))

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Take in the weights after step k."""
        now = [p.detach() if p.dtype == torch.float32 else p.detach().float() for p in self.parameters.values()]
        get_ema_multi_avg_fn(self.decay_at(k))(list(self.values.values()), now, 0)

    @torch.no_grad()
    def put(self) -> None:
        """Write the averages into the parameters."""
        for name, p in self.parameters.items():
            p.copy_(self.values[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The parameters hold their averages while the block runs, and then again what they held."""
        kept = [p.detach().clone() for p in self.parameters.values()]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters.values(), kept, strict=True):
                    p.copy_(value)
