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

import abc
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Decodes,
    Encodes,
    Family,
    How,
    Learns,
    LogProb,
    Part,
    Prepares,
    Refusal,
    Samples,
    Scores,
    Training,
    Turn,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.core.trace import Trace
from pellucid.nets.choose import is_picture
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.convolution import ConvBlock
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP

__all__ = [
    "ActNorm",
    "Coupling",
    "RealNVP",
    "RealNVPEngine",
    "RealNVPHow",
    "Squash",
    "Squeeze",
    "Step",
    "chain_for",
    "keeps",
]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
STEER = 64  # size of the condition's vector
PREPARED = 512  # rows for the mean and spread of each feature; 4,096 take 20 times as long (7 s for 28x28 pictures)
MOST_WHOLE = 4096  # numbers of a picture that couplings over the whole of it take
FEW = 10_000  # items that a net of the default size would learn by heart


@dataclass(frozen=True)
class RealNVPHow(How):
    """How to sample.

    Args:
        temperature: scales the noise; 1 is the model itself, a little below 1 gives cleaner and less varied items.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class RealNVP(Family):
    """Settings of a RealNVP flow.

    Args:
        steps: couplings (for pictures: at each scale, and as many over the whole).
        width, depth: of each coupling's network; None: by the space.
        bounded: open up the ends of the data's range by a logit, as the paper does for pixels; None: for pictures only.
        margin: how far inside the logit's ends the first batch's range lies, as a share of that range.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "flow"
    title: ClassVar[str] = "normalizing flow (RealNVP)"
    engine: ClassVar[type[nn.Module]]

    steps: int = 6
    width: int | None = None
    depth: int | None = None
    bounded: bool | None = None
    margin: float = 0.05
    forget: float = 0.1

    def __post_init__(self) -> None:
        for name, value in {"steps": self.steps, "width": self.width, "depth": self.depth}.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if not 0.0 < self.margin < 1.0:
            raise BadInput(f"margin is {self.margin}", accepted="between 0 and 1")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Real):
            return Refusal("a flow bends continuous space, and symbols are not continuous",
                           instead="vae for tables, autoregressive for symbols")  # fmt: skip
        if space.levels is not None:
            return Refusal("a density on a grid can be made as large as one likes", instead="spread each level evenly")
        if space.ragged:
            return Refusal("items have different lengths, and a flow keeps the number of dimensions")
        if space.size > MOST_NUMBERS:
            return Refusal(f"one item has {space.size} numbers, at most {MOST_NUMBERS} are taken")
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Dinh et al. 2017, https://arxiv.org/abs/1605.08803"
        return (
            Part("coupling", "Keeps one half of the numbers and uses it to stretch and shift the other half. The kept "
                 "half is still there afterwards, so the step can be undone exactly.",
                 "y_move = x_move * exp(s(x_keep)) + t(x_keep)", source + ", eq. 7 and 8"),
            Part("chain", "Many couplings in a row, each keeping another half, bend the cloud of data until it is a "
                 "round Gaussian cloud.", "z = f_K(... f_1(x))", source),
            Part("exact probability", "Each step says by how much it stretched space around the item. Adding these up "
                 "gives the probability density of any item, with nothing left out.",
                 "log p(x) = log N(f(x); 0, I) + sum of log-scales", source + ", eq. 2 and 3"),
            Part("scaling", "Before each coupling every channel is brought to mean 0 and spread 1 as measured on the "
                 "first rows.", "y = (x - mean) / spread",
                 "Kingma & Dhariwal 2018 (Glow), https://arxiv.org/abs/1807.03039, section 3.1"),
            Part("sampling", "Draw Gaussian noise and run the chain backwards, once.", "x = f^-1(z), z ~ N(0, I)",
                 source),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Real) and is_picture(space):
            return Training(batch=64, rate=1.5e-3, weight_decay=0.5 if items < FEW else 0.01, steps=3000)
        return Training(batch=256, rate=1e-3, weight_decay=0.01, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> RealNVPEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Real):
            raise BadInput(f"the space is {space}", accepted="Real", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = RealNVPEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class RealNVPEngine(nn.Module, Learns, Prepares, Samples, Scores, Encodes, Decodes):
    """A chain of reversible steps; see `chain_for`."""

    def __init__(self, family: RealNVP, space: Real, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.condition = ConditionEncoder(conditions, STEER)
        self.chain = nn.ModuleList(chain_for(family, space))

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("likelihood", list(self.parameters()), self.losses),)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """Set the squash's range and every ActNorm from these rows, each on what the steps before make of them."""
        for module in self.modules():
            if isinstance(module, ActNorm | Squash):
                module.waiting = True
        first = slice(0, PREPARED)
        self._forward(batch.x[first], batch.condition.take(first))

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / size in nats (B,)."""
        z, log_scale = self._forward(batch.x, drop_conditions(batch.condition, rows, self.family.forget))
        return -(_standard(z) + log_scale) / self.space.size

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        z, log_scale = self._forward(batch.x, batch.condition)
        return LogProb(_standard(z) + log_scale, "exact")

    def settings(self) -> RealNVPHow:
        return RealNVPHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        if not isinstance(how, RealNVPHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="RealNVPHow", next="Start from engine.settings()")
        like = next(self.parameters())
        z = how.temperature * rows.fork("latent").normal(self.space.size, dtype=like.dtype)
        return self.decode(z.to(like.device), condition)

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """(B, *event) to (B, size); a flow is certain, so `rows` are not used."""
        return self._forward(x, condition)[0]

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, size) to (B, *event), the exact inverse of `encode`."""
        h, vector = _wide(z), self.condition(condition, z)
        for step in reversed(self._steps()):
            h = step.inverse(h, vector)
        return h

    def latent(self) -> Real:
        return Real((self.space.size,))

    def _forward(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """x (B, *event) to z (B, size) and the sum of log-scales (B,)."""
        h, vector = _wide(x), self.condition(condition, x)
        total = h.new_zeros(h.shape[0])
        for step in self._steps():
            h, log_scale = step(h, vector)
            total = total + log_scale
        return h, total

    def _steps(self) -> list[Step]:
        return [step for step in self.chain if isinstance(step, Step)]


def chain_for(family: RealNVP, space: Real) -> Iterator[Step]:
    """The steps from an event (B, *event) to noise (B, size).

    A picture is squeezed as long as its sides are even and stay at 4 or above, with convolutional couplings after each
    squeeze; then all its numbers are one row, as everything else is from the start, with couplings that see it whole.
    The paper ends at 4x4 pixels and sets half of the channels aside at each scale; so few numbers need no such thrift.
    """
    picture = is_picture(space)
    if picture if family.bounded is None else family.bounded:
        yield Squash(family.margin)
    if picture:
        channels, height, wide = space.shape
        width, depth = family.width or (48 if min(height, wide) < 16 else 32), family.depth or 1
        while height % 2 == 0 and wide % 2 == 0 and min(height, wide) >= 8:
            channels, height, wide = 4 * channels, height // 2, wide // 2
            yield Squeeze()
            for step in range(family.steps):
                yield Coupling(keeps(channels, step), ConvNet, width=width, depth=depth)
    yield Flatten(space.shape if not picture else (channels, height, wide))
    if not picture or space.size <= MOST_WHOLE:
        width, depth = family.width or 128, family.depth or 1
        for step in range(family.steps):
            yield Coupling(keeps(space.size, step), RowNet, width=width, depth=depth)


class Step(nn.Module, abc.ABC):
    """A reversible step, steered by the condition's vector (B, STEER)."""

    @abc.abstractmethod
    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, ...) to y (B, ...) and log |dy / dx| (B,)."""

    @abc.abstractmethod
    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        """y back to x."""


class Coupling(Step):
    """One step: ActNorm, then y_move = x_move * exp(s) + t with s and t from the kept channels.

    Log-scales are scale * tanh(raw), with a learned `scale` for each channel (section 4.1 of the paper). The network
    starts at zero, so the step starts as the ActNorm alone.

    Args:
        keep: (C,) bool, the kept channels (or numbers of a row); the others move.
        net: its network, from the kept channels and the vector to twice the moved channels.
    """

    def __init__(self, keep: Tensor, net: type[ConvNet] | type[RowNet], *, width: int, depth: int) -> None:
        super().__init__()
        order = torch.cat((keep.nonzero().flatten(), (~keep).nonzero().flatten()))
        self.kept, self.moved = int(keep.sum()), int((~keep).sum())
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.norm = ActNorm(len(keep))
        self.net = net(self.kept, 2 * self.moved, steer=STEER, width=width, depth=depth)
        self.scale = nn.Parameter(torch.ones(self.moved))

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, ...) to y (B, C, ...) and the sum of log-scales (B,)."""
        x, log_scale = self.norm(x)
        kept, moved = x[:, self.get_buffer("order")].split([self.kept, self.moved], dim=1)
        s, t = self._scale_and_shift(kept, vector)
        y = torch.cat((kept, moved * s.exp() + t), dim=1)
        return y[:, self.get_buffer("back")], log_scale + s.flatten(1).sum(-1)

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        kept, moved = y[:, self.get_buffer("order")].split([self.kept, self.moved], dim=1)
        s, t = self._scale_and_shift(kept, vector)
        x = torch.cat((kept, (moved - t) * (-s).exp()), dim=1)
        return self.norm.inverse(x[:, self.get_buffer("back")])

    def _scale_and_shift(self, kept: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = self.net(kept, vector).to(kept.dtype).chunk(2, dim=1)
        return _channels(self.scale, raw) * torch.tanh(raw), t


class ActNorm(nn.Module):
    """y = (x - shift) * exp(log_scale), one of each a channel; the first rows set them to mean 0 and spread 1.

    Kingma & Dhariwal 2018 (Glow), https://arxiv.org/abs/1807.03039, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.waiting = False  # for rows to be prepared from

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, ...) to y (B, C, ...) and the sum of log-scales (B,)."""
        if self.waiting:
            values = x.transpose(0, 1).flatten(1)  # (C, everything else)
            self.shift.copy_(values.mean(1))
            spread = values.std(1, correction=0)
            # a number that is constant in the first rows is left as it is: scaled up, a later change would explode
            self.log_scale.copy_(torch.where(spread > 1e-3, -spread.clamp_min(1e-3).log(), 0.0))
            self.waiting = False
        y = (x - _channels(self.shift, x)) * _channels(self.log_scale, x).exp()
        total = self.log_scale.to(x.dtype).sum() * math.prod(x.shape[2:])
        return y, total.expand(x.shape[0])

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-_channels(self.log_scale, y)).exp() + _channels(self.shift, y)


class Squash(Step):
    """A logit that goes on as a straight line beyond its ends, so that every finite value has a finite image.

    With u = (x - low) / (high - low) and a = margin:  y = logit(v), v = a + (1 - 2a) u     (section 4.1 of the paper)
    for u from 0 to 1, and the tangent at 0 or 1 outside. `low` and `high` are the ends of the first rows.

    Args:
        margin: a, between 0 and 1/2 exclusive.
    """

    low: Tensor
    high: Tensor

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin / (1 + 2 * margin)
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))
        self.waiting = False  # for rows to be prepared from

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        if self.waiting:
            self.low.copy_(x.min())
            self.high.copy_(torch.maximum(x.max(), x.min() + 1e-3))
            self.waiting = False
        a, width = self.margin, self.high - self.low
        v = a + (1 - 2 * a) * (x - self.low) / width
        inside = v.clamp(a, 1 - a)
        slope = 1 / (inside * (1 - inside))
        y = inside.logit() + (v - inside) * slope
        log_slope = (slope * (1 - 2 * a) / width).log()
        return y, log_slope.flatten(1).sum(-1)

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        a, end = self.margin, math.log(1 / self.margin - 1)
        inside = y.clamp(-end, end)
        v = inside.sigmoid() + (y - inside) * a * (1 - a)
        return self.low + (self.high - self.low) * (v - a) / (1 - 2 * a)


class Squeeze(Step):
    """2x2 pixels to four channels: (B, C, 2H, 2W) to (B, 4C, H, W), channels in the order (c, row, column)."""

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        return rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return rearrange(y, "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)


class Flatten(Step):
    """(B, *shape) to one row (B, size)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return y.reshape(-1, *self.shape)


class RowNet(nn.Module):
    """Kept numbers (B, inputs) to (B, outputs); with nothing kept (rows of width 1) the condition alone decides."""

    def __init__(self, inputs: int, outputs: int, *, steer: int, width: int, depth: int) -> None:
        super().__init__()
        self.net = MLP(inputs + steer, outputs, width=width, depth=depth, steer=steer, zero=True)

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat((kept, vector.to(kept.dtype)), dim=-1), vector)
        return out


class ConvNet(nn.Module):
    """Kept channels (B, inputs, H, W) to (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, steer: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(width, steer) for _ in range(depth))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        h = self.first(kept)
        for block in self.blocks:
            h = block(h, vector)
        out: Tensor = self.last(nn.functional.silu(h))
        return out


def keeps(count: int, step: int) -> Tensor:
    """(count,) bool: what coupling number `step` keeps; every second one keeps the complement of the one before.

    Channel k keeps by one binary digit of k, another digit for each pair of steps, the first pair by the sum of the
    two lowest: after `squeeze2` that is the checkerboard, then rows, columns and channels. Any two numbers are thus
    told apart by some pair.
    """
    k = torch.arange(count)
    digits = max(1, (count - 1).bit_length())
    pair = step // 2 % (digits + 1)
    bit = (k ^ (k >> 1)) & 1 if pair == 0 and count > 2 else (k >> (pair - 1 if count > 2 else 0)) & 1
    return (bit == 0) == (step % 2 == 0) if count > 1 else torch.zeros(1, dtype=torch.bool)


def _channels(value: Tensor, like: Tensor) -> Tensor:
    """(C,) made to broadcast against (B, C, ...)."""
    return value.to(like.dtype).reshape(1, -1, *([1] * (like.ndim - 2)))


def _standard(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D): (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


RealNVP.engine = RealNVPEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
