"""Which net for which space: one table, and a door for nets of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from pellucid.core.errors import BadInput, nearest
from pellucid.core.space import Real
from pellucid.nets.attention import Context
from pellucid.nets.dit import PictureDiT, RowDiT, dit_sizes_for
from pellucid.nets.mlp import MLP
from pellucid.nets.unet import UNet, sizes_for

__all__ = ["NETS", "Factory", "Flat", "NetName", "PooledOnly", "Role", "Wanted", "backbone", "is_picture"]

Role: TypeAlias = Literal["denoiser"]
NetName: TypeAlias = Literal["unet", "dit", "mlp"]
NETS: dict[str, str] = {
    "unet": "convolutions at several sizes, for pictures",
    "dit": "a diffusion transformer over patches of a picture or columns of a row",
    "mlp": "a residual multilayer perceptron over all numbers at once",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a net.

    role: "denoiser" maps noisy events to an event of the same shape.
    space: shape of the event that comes out.
    copies: how many events are stacked as input, along the first axis of the event.
    extra: further channels (pictures) or numbers (vectors) in the input.
    steer: size of the steering vector (B, steer), 0 for none.
    context: size of a slot of the sequence for cross-attention, 0 for none.
    net: "unet", "dit" or "mlp"; None chooses by the space.
    width, depth: None chooses by the space. dropout: share of activations dropped in training.
    """

    role: Role
    space: Real
    copies: int = 1
    extra: int = 0
    steer: int = 0
    context: int = 0
    net: NetName | None = None
    width: int | None = None
    depth: int | None = None
    dropout: float = 0.0


Factory: TypeAlias = Callable[[Wanted], nn.Module]
"""A user's own nets: from what is wanted to a module with forward(x, vector) or forward(x, vector, context)."""


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

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        out: Tensor = self.net(x.flatten(1), vector) if context is None else self.net(x.flatten(1), vector, context)
        return out.reshape(-1, *self.shape)


class PooledOnly(nn.Module):
    """A net that knows no context: what a caption says reaches it through the steering vector alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, vector: Tensor | None = None, context: Context | None = None) -> Tensor:
        out: Tensor = self.net(x, vector)
        return out


def backbone(wanted: Wanted, make: Factory | None = None) -> nn.Module:
    """The net for this role and space, with forward(x, vector, context): pictures get a U-Net, all else an MLP.

    The context is passed only where one is wanted, so nets without one are called with two arguments.

    Args:
        make: builds it instead, for nets of your own; what it builds is tried on two rows of zeros.

    Raises:
        BadInput: the net does not suit the space, or one of your own does not give (B, *event).

    >>> type(backbone(Wanted(role="denoiser", space=Real((1, 8, 8))))).__name__
    'UNet'
    """
    if make is not None:
        return _tried(make(wanted), wanted)
    if wanted.role != "denoiser":
        raise BadInput(f"role is {wanted.role!r}", accepted="denoiser")
    if wanted.net is not None and wanted.net not in NETS:
        raise BadInput(f"net is {wanted.net!r}", accepted=", ".join(NETS), next=nearest(str(wanted.net), NETS))
    picture = is_picture(wanted.space)
    net = wanted.net or ("unet" if picture else "mlp")
    if net == "unet" and not picture:
        raise BadInput(
            f"net is 'unet' for events of shape {wanted.space.shape}",
            accepted="dit, mlp",
            why="Convolutions need channels, a height and a width.",
        )
    if picture and net != "mlp":
        return _of_pictures(wanted, net)
    return _of_rows(wanted, net)


def _of_pictures(wanted: Wanted, net: str) -> nn.Module:
    channels, height, width = wanted.space.shape
    inputs = wanted.copies * channels + wanted.extra
    steer, context, dropout = wanted.steer, wanted.context, wanted.dropout
    if net == "dit":
        dit = dit_sizes_for(height, width, channels=wanted.width, depth=wanted.depth)
        return PictureDiT(inputs, channels, (height, width), sizes=dit, steer=steer, context=context, dropout=dropout)
    sizes = sizes_for(height, width, channels=wanted.width, depth=wanted.depth)
    return UNet(inputs, channels, (height, width), sizes=sizes, steer=steer, context=context, dropout=dropout)


def _of_rows(wanted: Wanted, net: str) -> nn.Module:
    """Extra channels of a picture that is treated as a row are as many numbers as the picture has places."""
    shape, size = wanted.space.shape, wanted.space.size
    extra = wanted.extra * (size // shape[0] if len(shape) > 1 else 1)
    made: nn.Module
    if net == "dit":
        made = RowDiT(
            size,
            copies=wanted.copies,
            extra=extra,
            width=wanted.width or 96,
            depth=wanted.depth or 4,
            steer=wanted.steer,
            context=wanted.context,
            dropout=wanted.dropout,
        )
    else:
        made = MLP(
            wanted.copies * size + extra,
            size,
            width=wanted.width or 256,
            depth=wanted.depth or 4,
            steer=wanted.steer,
            dropout=wanted.dropout,
            zero=True,
        )
        made = PooledOnly(made) if wanted.context else made
    return made if len(shape) == 1 else Flat(made, shape)


def _tried(net: nn.Module, wanted: Wanted) -> nn.Module:
    """A net of the user's own, once two rows of zeros have come through it in the right shape."""
    if wanted.context and not _takes_context(net):
        net = PooledOnly(net)
    shape = wanted.space.shape
    stacked = (wanted.copies * shape[0] + wanted.extra, *shape[1:])
    first = next(net.parameters(), torch.zeros(0))
    x = first.new_zeros((2, *stacked))
    inputs: list[Tensor | Context | None] = [x, x.new_zeros((2, wanted.steer)) if wanted.steer else None]
    asked = f"forward(x {tuple(x.shape)}, vector {(2, wanted.steer) if wanted.steer else None}"
    if wanted.context:
        inputs.append(Context(x.new_zeros((2, 3, wanted.context)), x.new_ones((2, 3), dtype=torch.bool)))
        asked += f", context {(2, 3, wanted.context)}"
    accepted = f"{asked}) gives {(2, *shape)}"
    training = net.training
    net.eval()  # a look must not move running statistics
    try:
        with torch.no_grad():
            out = net(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
        raise BadInput(
            f"your own {type(net).__name__} fails on two rows of zeros: {error}", accepted=accepted
        ) from error
    finally:
        net.train(training)
    if not isinstance(out, Tensor) or tuple(out.shape) != (2, *shape):
        came = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise BadInput(
            f"your own {type(net).__name__} gives {came} for two rows",
            accepted=accepted,
            why="A denoiser answers every number of the event.",
        )
    return net


def _takes_context(net: nn.Module) -> bool:
    try:
        parameters = inspect.signature(net.forward).parameters.values()
    except (TypeError, ValueError):  # compiled modules may hide it
        return True
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return many or sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 3
