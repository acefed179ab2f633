"""A network that is told the time and the condition: what every engine that denoises asks.

Time and pooled conditions become one vector that steers the backbone's norms; captions are also handed over word by
word for cross-attention; conditions that are pictures are laid over the noisy picture as further channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import expand_like
from pellucid.core.space import Real, Space
from pellucid.nets.attention import Context
from pellucid.nets.choose import Factory, Wanted, backbone, is_picture
from pellucid.nets.condition import ConditionEncoder
from pellucid.nets.mlp import fourier_features
from pellucid.nets.unet import UNet

__all__ = ["Steered"]

FEATURES = 64  # cosines and sines of the time


class Steered(nn.Module):
    """(B, copies * C, ...) noisy events, time (B,) and a condition to one event (B, *event), zero at the start.

    Args:
        space: of the event that comes out. conditions: name -> space. copies: events stacked in the input.
        width, depth, net: None chooses by the space; see `Wanted`. make: builds the backbone, for a net of your own.
    """

    def __init__(
        self,
        space: Real,
        conditions: Mapping[str, Space],
        *,
        copies: int = 1,
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        net: Literal["unet", "dit", "mlp"] | None = None,
        make: Factory | None = None,
    ) -> None:
        super().__init__()
        picture = is_picture(space)
        overlaid = {k: s for k, s in conditions.items() if picture and isinstance(s, Real) and is_picture(s)}
        self.overlays = tuple(overlaid)
        self.overlay_channels = tuple(s.shape[0] for s in overlaid.values())
        steer = 192 if picture else 256
        spoken = {k: s for k, s in conditions.items() if k not in overlaid}
        self.encode_condition = ConditionEncoder(spoken, steer, context=128)
        self.encode_time = nn.Sequential(nn.Linear(FEATURES, steer), nn.SiLU(), nn.Linear(steer, steer))
        self.net = backbone(
            Wanted(
                role="denoiser",
                space=space,
                copies=copies,
                extra=sum(channels + 1 for channels in self.overlay_channels),
                steer=steer,
                width=width,
                depth=depth,
                dropout=dropout,
                context=128 if self.encode_condition.captions else 0,
                net=net,
            ),
            make,
        )

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """x (B, copies * C, ...), time (B,) of about unit size, and the condition's B rows, to (B, *event) as x."""
        stacked, vector, context = self._told(x, time, condition)
        out = self.net(stacked, vector) if context is None else self.net(stacked, vector, context)
        return out.to(x.dtype)

    def look(self, x: Tensor, time: Tensor, condition: Condition) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) that the backbone makes of the same on its way down; none where it is no U-Net."""
        return self.net.look(*self._told(x, time, condition)) if isinstance(self.net, UNet) else ()

    @property
    def seen(self) -> tuple[int, ...]:
        """Channels of the maps that `look` gives."""
        return self.net.seen if isinstance(self.net, UNet) else ()

    def _told(self, x: Tensor, time: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Context | None]:
        """What the backbone is given."""
        seen = [x]
        for name, channels in zip(self.overlays, self.overlay_channels, strict=True):
            seen.append(_overlay(name, channels, x, condition))
        vector, context = self.encode_condition.read(condition, x)
        vector = nn.functional.silu(self.encode_time(fourier_features(time, FEATURES)) + vector)
        return torch.cat(seen, dim=1) if self.overlays else x, vector, context


def _overlay(name: str, channels: int, x: Tensor, condition: Condition) -> Tensor:
    """(B, channels + 1, H, W): a condition picture at the size of x, and a channel that says if it is given."""
    if name not in condition.values:
        return x.new_zeros(x.shape[0], channels + 1, *x.shape[2:])
    given = expand_like(condition.given[name], x).to(x.dtype)
    value = nn.functional.interpolate(condition.values[name].to(x.dtype), size=x.shape[2:], mode="nearest")
    return torch.cat((value * given, given.expand(-1, 1, *x.shape[2:])), dim=1)
