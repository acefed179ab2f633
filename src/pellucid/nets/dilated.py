"""Dilated causal convolutions with gated units: the body of WaveNet, and its fast queues.

A layer looks at its own place and at one place d earlier; with d = 1, 2, 4, ... a few layers see far back.

    y = tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c)     x <- x + R y     skip <- skip + S y
                                        van den Oord et al. 2016, https://arxiv.org/abs/1609.03499, eq. 2 and 3, fig. 4

`*` is the causal convolution, c a vector that describes the row. When places come one by one, each layer keeps what it
read at its last d places in a ring, so that a place costs as much as there are layers, however long the row is
(Paine et al. 2016, https://arxiv.org/abs/1611.09482, section 2).

A departure from the paper: what a layer reads is brought to root mean square 1 (`Norm`), which lets it learn at higher
rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.nets.causal import Causal
from pellucid.nets.transformer import Norm

__all__ = ["Dilated", "DilatedLayer", "Queues", "dilations"]


def dilations(slots: int, largest: int, cycles: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to what `slots` slots need, at most `largest`, `cycles` times over.

    >>> dilations(10, 512, 2)
    (1, 2, 4, 8, 1, 2, 4, 8)
    """
    once = [1]
    while 2 * once[-1] < slots and 2 * once[-1] <= largest:
        once.append(2 * once[-1])
    return tuple(once) * cycles


@dataclass(frozen=True)
class Queues:
    """What each layer read at its last places.

    The rings are written in place: queues that have been stepped further may not be stepped a second time with other
    content.

    Args:
        rings: of each layer (B, dilation, width); place t lies at t modulo the dilation. length: places seen.
    """

    rings: tuple[Tensor, ...]
    length: int = 0


class Dilated(Causal):
    """Slots (B, S, width) to features (B, S, width); slot s sees the last 1 + sum(dilations) slots up to itself.

    Args:
        width: numbers in a slot, channels of a gate, and of what is skipped to the end. dilations: of the layers.
        conditioned: is a vector (B, width) given that moves the gates of every layer?

    `masks`: how many (B, width) factors `keep` has, one for the gated units of each layer.
    """

    def __init__(self, width: int, dilations: Sequence[int], *, conditioned: bool = False) -> None:
        super().__init__()
        self.width, self.masks = width, len(dilations)
        self.layers = nn.ModuleList(DilatedLayer(width, d, conditioned=conditioned) for d in dilations)
        self.last = nn.Linear(width, width)

    @property
    def reach(self) -> int:
        """Slots that a feature sees, its own among them."""
        return 1 + sum(layer.dilation for layer in self._layers())

    def forward(self, x: Tensor, vector: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x (B, S, width), vector (B, width) or None; keep: factors (B, masks, width) on gated units, or None."""
        return self._run(x, None, vector, keep)

    def begin(self, batch: int, slots: int, like: Tensor) -> Queues:
        """Queues before any slot, on the device and in the dtype of `like`; their size does not depend on `slots`."""
        return Queues(tuple(like.new_zeros(batch, layer.dilation, self.width) for layer in self._layers()))

    def step(self, x: Tensor, state: Queues, vector: Tensor | None = None) -> tuple[Tensor, Queues]:
        """x (B, k, width), the slots after those in the queues, to features (B, k, width) and the queues behind."""
        return self._run(x, state, vector, None), Queues(state.rings, state.length + x.shape[1])

    def _run(self, x: Tensor, state: Queues | None, vector: Tensor | None, keep: Tensor | None) -> Tensor:
        skip = torch.zeros_like(x)
        for place, layer in enumerate(self._layers()):
            ring = None if state is None else (state.rings[place], state.length)
            x, added = layer(x, ring, vector, None if keep is None else keep[:, place, None])
            skip = skip + added
        out: Tensor = self.last(skip.relu()).relu()
        return out

    def _layers(self) -> list[DilatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, DilatedLayer)]


class DilatedLayer(nn.Module):
    """One gated layer: the convolution as two matrix products, of what stands here and of what stood d places before.

    Args:
        width, conditioned: as in `Dilated`. dilation: d.
    """

    def __init__(self, width: int, dilation: int, *, conditioned: bool = False) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = Norm()
        self.here = nn.Linear(width, 2 * width)
        self.before = nn.Linear(width, 2 * width, bias=False)
        self.given = nn.Linear(width, 2 * width, bias=False) if conditioned else None
        self.onward = nn.Linear(width, width)  # R
        self.skip = nn.Linear(width, width)  # S

    def forward(
        self, x: Tensor, ring: tuple[Tensor, int] | None, vector: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x (B, S, width) to what goes on to the next layer and what is skipped to the end, (B, S, width) each.

        Args:
            ring: (B, d, width) of the places before, and how many these are; None at the beginning.
            vector: (B, width) or None. keep: (B, 1, width) or None.
        """
        read = self.norm(x)
        z = self.here(read) + self.before(_earlier(read, self.dilation, ring))
        if self.given is not None and vector is not None:
            z = z + self.given(vector)[:, None]
        f, g = z.chunk(2, dim=-1)
        y = f.tanh() * g.sigmoid()
        if keep is not None:
            y = y * keep
        return x + self.onward(y), self.skip(y)


def _earlier(x: Tensor, d: int, ring: tuple[Tensor, int] | None) -> Tensor:
    """x (B, S, width) as it was d slots before each slot, zero before the first; the ring takes the last of x."""
    slots = x.shape[1]
    if ring is None:
        return nn.functional.pad(x, (0, 0, d, 0))[:, :slots]
    held, length = ring
    if slots == 1:
        place = length % d
        out = held[:, place : place + 1].to(x.dtype, copy=True)
        held[:, place : place + 1] = x
        return out
    at = (length + torch.arange(d, device=x.device)) % d  # oldest first
    both = torch.cat((held[:, at].to(x.dtype), x), dim=1)
    held[:, (length + slots + torch.arange(d, device=x.device)) % d] = both[:, -d:].to(held.dtype)
    return both[:, :slots]
