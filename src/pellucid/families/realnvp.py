"""RealNVP: a reversible machine between data and noise, so that every probability is known exactly.

Each step of the machine (a coupling) keeps one part of the numbers, and scales and shifts the other part by what a
network reads from the kept part. That is undone by the same network, and its change of volume is the sum of the
logarithms of the scales:

    y_keep = x_keep,   y_move = x_move * exp(s(x_keep, c)) + t(x_keep, c)
                                                    Dinh et al. 2017, https://arxiv.org/abs/1605.08803, eq. 7 and 8
    log p(x | c) = log N(z; 0, I) + sum of all log-scales                       change of variables, eq. 2 and 3

Pictures are worked on in the paper's multi-scale shape. One rearrangement makes it light: after 2x2 pixels have become
four channels, a checkerboard of pixels is a choice of two of these channels, so every coupling is a split of channels,
all networks work at half the resolution, and none computes values that a mask would throw away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.capabilities import Part
from pellucid.core.space import Real
from pellucid.families.coupling import Bend, squeezed_chain
from pellucid.families.reversible import FlowEngine, FlowFamily, Step, channels_like

__all__ = ["Affine", "RealNVP", "RealNVPEngine"]


@dataclass(frozen=True, kw_only=True)
class RealNVP(FlowFamily):
    """Settings of a RealNVP flow: those of `FlowFamily`."""

    name: ClassVar[str] = "flow"
    title: ClassVar[str] = "normalizing flow (RealNVP)"

    def parts(self) -> tuple[Part, ...]:
        source = "Dinh et al. 2017, https://arxiv.org/abs/1605.08803"
        return (
            Part("coupling", "Keeps one half of the numbers and uses it to stretch and shift the other half. The kept "
                 "half is still there afterwards, so the step can be undone exactly.",
                 "y_move = x_move * exp(s(x_keep)) + t(x_keep)", source + ", eq. 7 and 8"),
            Part("chain", "Many couplings in a row, each keeping another half, bend the cloud of data until it is a "
                 "round Gaussian cloud.", "z = f_K(... f_1(x))", source),
            Part("scaling", "Before the couplings every channel is brought to mean 0 and spread 1 as measured on the "
                 "first rows.", "y = (x - mean) / spread",
                 "Kingma & Dhariwal 2018 (Glow), https://arxiv.org/abs/1807.03039, section 3.1"),
            *self.exact(),
        )  # fmt: skip


class RealNVPEngine(FlowEngine):
    """Affine couplings over squeezed pictures, then over all numbers as one row."""

    def laid_out(self, family: FlowFamily, space: Real, steer: int) -> Iterator[Step]:
        return squeezed_chain(family, space, steer, Affine)


class Affine(Bend):
    """y = x * exp(s) + t, the network's numbers being s and t.

    Log-scales are scale * tanh(raw), with a learned `scale` for each channel (section 4.1 of the paper).

    Args:
        moved: channels that move.
    """

    needs = 2

    def __init__(self, moved: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(moved))

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self._scale_and_shift(raw)
        return torch.addcmul(t, x, s.exp()), s.flatten(1).sum(-1)

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        s, t = self._scale_and_shift(raw)
        return (y - t) * (-s).exp()

    def _scale_and_shift(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = raw.chunk(2, dim=1)
        return channels_like(self.scale, raw) * torch.tanh(raw), t


RealNVP.engine = RealNVPEngine
