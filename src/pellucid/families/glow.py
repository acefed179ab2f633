"""Glow: a flow for pictures, in which channels are mixed by a learned rotation between any two couplings.

One step of flow is three small reversible steps, one after another, at every pixel (table 1 of the paper):

    actnorm                       y = s * x + b, one scale and one bias a channel
    invertible 1x1 convolution    y = W x,  W = P L (U + diag(s))                                      eq. 9 and 10
    affine coupling               y_b = exp(log s) * x_b + t,  (log s, t) = NN(x_a),  y_a = x_a

K such steps make a scale. Then half of the channels are set aside as they are, brought to Gaussian noise by what the
other half says of them, and the other half is squeezed (2x2 pixels to four channels) and goes on: L scales in all.
Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039, section 3 and figure 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pellucid.core.capabilities import Part, Refusal
from pellucid.core.errors import BadInput
from pellucid.core.space import Real, Space
from pellucid.families.coupling import Coupling
from pellucid.families.realnvp import Affine
from pellucid.families.reversible import (
    ActNorm,
    Flatten,
    FlowEngine,
    FlowFamily,
    Squash,
    Squeeze,
    Step,
    forward_through,
    inverse_through,
    unrounded,
)
from pellucid.nets.choose import is_picture

__all__ = ["Aside", "Glow", "GlowEngine", "InvertibleConv", "PointNet"]


@dataclass(frozen=True, kw_only=True)
class Glow(FlowFamily):
    """Settings of Glow: those of `FlowFamily`, where `steps` is K, `depth` counts 1x1 layers of a network, and:

    Args:
        scales: L, at most; fewer where sides cannot be halved so often.
    """

    name: ClassVar[str] = "glow"
    title: ClassVar[str] = "Glow (flow for pictures)"

    steps: int = 8
    scales: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scales < 1:
            raise BadInput(f"scales is {self.scales}", accepted="1 or more")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        refused = super().accepts(space, conditions)
        if refused is not None or not isinstance(space, Real):
            return refused
        if not is_picture(space):
            return Refusal("a 1x1 convolution works at every pixel, and these items have none", instead="flow")
        if space.shape[0] == 1 and not _halves(space.shape):
            return Refusal(
                f"couplings split channels, and one channel of sides {space.shape[1:]} cannot be squeezed into more",
                instead="flow, or pictures with even sides",
            )
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039"
        return (
            Part("scaling", "Every channel is brought to mean 0 and spread 1 as measured on the first pictures; from "
                 "then on scale and bias are learned.", "y = s * x + b", source + ", section 3.1"),
            Part("invertible 1x1 convolution", "At every pixel the channels are mixed by one learned matrix, so that "
                 "each coupling splits them in another way.", "y = W x,   W = P L (U + diag(s))",
                 source + ", eq. 9 to 11"),
            Part("coupling", "Keeps one half of the channels and uses it to stretch and shift the other half.",
                 "y_b = exp(log s) * x_b + t,   (log s, t) = NN(x_a)", source + ", section 3.3 and table 1"),
            Part("scales", "After some steps half of the channels are set aside as noise that is done; the rest goes "
                 "on at half the resolution, where a network sees further.", "z = (z_1, ..., z_L)",
                 source + ", section 3.6 of Dinh et al. 2017 and figure 2"),
            *self.exact(),
        )  # fmt: skip


class GlowEngine(FlowEngine):
    """L scales of K steps of flow each; see the top of this file."""

    def laid_out(self, family: FlowFamily, space: Real, steer: int) -> Iterator[Step]:
        assert isinstance(family, Glow)
        if family.squashes(space):
            yield Squash(family.margin)
        yield from _scale(family, space.shape, steer, 0)


def _scale(family: Glow, shape: tuple[int, ...], steer: int, number: int) -> Iterator[Step]:
    """Scale `number` and all after it: from (B, *shape) to (B, size)."""
    if number < family.scales and _halves(shape):
        yield Squeeze()
        shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
    channels, height, wide = shape
    width = family.width or (64 if min(height, wide) < 8 and number == 0 else 128)
    sizes = (channels - channels // 2, channels // 2)
    for _ in range(family.steps):
        net = PointNet(sizes[0], 2 * sizes[1], steer=steer, width=width, depth=family.depth or 1)
        yield from (ActNorm(channels), InvertibleConv(channels), Coupling(sizes, net, Affine(sizes[1])))
    rest = (sizes[0], height, wide)
    if number + 1 < family.scales and min(height, wide) >= 4 and _halves(rest):
        told = _started_at_zero(nn.Conv2d(sizes[0], 2 * sizes[1], 3, padding=1))
        yield Coupling(sizes, _Unsteered(told), Affine(sizes[1]))
        yield Aside(rest, (sizes[1], height, wide), _scale(family, rest, steer, number + 1))
    else:
        yield Flatten(shape)


def _halves(shape: tuple[int, ...]) -> bool:
    return shape[1] % 2 == 0 and shape[2] % 2 == 0


class InvertibleConv(Step):
    """y = W x at every pixel, W kept as the product that makes its determinant a sum:

    W = P L (U + diag(s)),   log |det dy / dx| = h w sum log |s|

    Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039, eq. 9 to 11. W starts as a random rotation; P and the
    signs of s stay as they were at the start.

    Args:
        channels: C.
    """

    P: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        P, L, U = torch.linalg.lu(rotation)
        s = U.diagonal()
        self.register_buffer("P", P)
        self.register_buffer("sign", s.sign())
        self.L = nn.Parameter(L.tril(-1).contiguous())
        self.U = nn.Parameter(U.triu(1).contiguous())
        self.log_s = nn.Parameter(s.abs().log())

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        L, U = self._triangles(x)
        with unrounded(x):
            y = conv2d(x, (self.P.to(x.dtype) @ L @ U)[:, :, None, None])
        places = x.shape[2] * x.shape[3]
        return y, (places * self.log_s.to(x.dtype).sum()).expand(x.shape[0])

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        L, U = self._triangles(y)
        below = torch.linalg.solve_triangular(L, self.P.to(y.dtype).t(), upper=False, unitriangular=True)
        with unrounded(y):
            return conv2d(y, torch.linalg.solve_triangular(U, below, upper=True)[:, :, None, None])

    def _triangles(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """L with ones on its diagonal, and U + diag(s): (C, C) each."""
        L, U, log_s = (t.to(like.dtype) for t in (self.L, self.U, self.log_s))
        s = self.sign.to(like.dtype) * log_s.exp()
        return L.tril(-1) + torch.eye(len(s), dtype=like.dtype, device=like.device), U.triu(1) + s.diag()


class PointNet(nn.Module):
    """Kept channels (B, inputs, H, W) to (B, outputs, H, W): 3x3, `depth` times 1x1, 3x3; zero at the start.

    Section 3.3 of the paper ("zero initialization") and its appendix B, less its inner actnorms.

    Args:
        steer: size of the condition's vector, which is added after the first convolution; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, *, steer: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.steer = nn.Linear(steer, width, bias=False) if steer else None
        self.points = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.last = _started_at_zero(nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        h = self.first(kept)
        if self.steer is not None:
            h = h + self.steer(vector)[:, :, None, None]
        for point in self.points:
            h = point(h.relu())
        out: Tensor = self.last(h.relu())
        return out


class Aside(Step):
    """Half of the channels are done; the other half goes on through `rest`. (B, C, H, W) to (B, size).

    Dinh et al. 2017, https://arxiv.org/abs/1605.08803, section 3.6, eq. 14 to 16.

    Args:
        on, done: shapes (C, H, W) of the first channels, which go on, and of the last ones.
        rest: the steps to come.
    """

    def __init__(self, on: tuple[int, ...], done: tuple[int, ...], rest: Iterator[Step]) -> None:
        super().__init__()
        self.on, self.done = on, done
        self.rest = nn.ModuleList(rest)

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        on, done = x.split([self.on[0], self.done[0]], dim=1)
        z, log_scale = forward_through(self.rest, on, vector)
        return torch.cat((z, done.flatten(1)), dim=1), log_scale

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        count = torch.Size(self.on).numel()
        on = inverse_through(self.rest, y[:, :count], vector)
        return torch.cat((on, y[:, count:].reshape(-1, *self.done)), dim=1)


class _Unsteered(nn.Module):
    """A network that reads the kept channels alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        out: Tensor = self.net(kept)
        return out


def _started_at_zero(conv: nn.Conv2d) -> nn.Conv2d:
    for p in conv.parameters():
        nn.init.zeros_(p)
    return conv


Glow.engine = GlowEngine
