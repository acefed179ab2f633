"""Which net for which space: one table, and a door for nets of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.core.space import Real
from pellucid.nets.mlp import MLP
from pellucid.nets.unet import UNet, sizes_for

__all__ = ["Factory", "Flat", "Role", "Wanted", "backbone", "is_picture"]

Role: TypeAlias = Literal["denoiser"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a net.

    role: "denoiser" maps noisy events to an event of the same shape.
    space: shape of the event that comes out.
    copies: how many events are stacked as input, along the first axis of the event.
    extra: further channels (pictures) or numbers (vectors) in the input.
    steer: size of the steering vector (B, steer), 0 for none.
    width, depth: None chooses by the space. dropout: share of activations dropped in training.
    """

    role: Role
    space: Real
    copies: int = 1
    extra: int = 0
    steer: int = 0
    width: int | None = None
    depth: int | None = None
    dropout: float = 0.0


Factory: TypeAlias = Callable[[Wanted], nn.Module]
"""A user's own nets: from what is wanted to a module with forward(x, vector)."""


def is_picture(space: Real) -> bool:
    """Has the event channels, a height and a width?

    >>> is_picture(Real((1, 8, 8))), is_picture(Real((6,)))
    (True, False)
    """
    return len(space.shape) == 3 and min(space.shape[1:]) >= 2


class Flat(nn.Module):
    """A vector net for events of any shape: (B, *stacked event) is flattened and comes back as (B, *event)."""

    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.shape = shape

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(x.flatten(1), vector)
        return out.reshape(-1, *self.shape)


def backbone(wanted: Wanted, make: Factory | None = None) -> nn.Module:
    """The net for this role and space, with forward(x, vector): pictures get a U-Net, everything else an MLP.

    Args:
        make: builds it instead, for nets of your own.

    >>> type(backbone(Wanted(role="denoiser", space=Real((1, 8, 8))))).__name__
    'UNet'
    """
    if make is not None:
        return make(wanted)
    if wanted.role != "denoiser":
        raise BadInput(f"role is {wanted.role!r}", accepted="denoiser")
    shape = wanted.space.shape
    if is_picture(wanted.space):
        sizes = sizes_for(shape[1], shape[2], channels=wanted.width, depth=wanted.depth)
        inputs = wanted.copies * shape[0] + wanted.extra
        return UNet(inputs, shape[0], (shape[1], shape[2]), sizes=sizes, steer=wanted.steer, dropout=wanted.dropout)
    inputs = wanted.copies * wanted.space.size + wanted.extra
    net = MLP(
        inputs,
        wanted.space.size,
        width=wanted.width or 256,
        depth=wanted.depth or 4,
        steer=wanted.steer,
        dropout=wanted.dropout,
        zero=True,
    )
    return net if len(shape) == 1 else Flat(net, shape)
