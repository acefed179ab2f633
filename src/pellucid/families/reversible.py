"""What every normalizing flow is: a chain of steps that can all be undone, and the sum of what each did to volume.

    z = f_K(... f_1(x))        log p(x) = log N(z; 0, I) + sum over k of log |det df_k / dh_(k-1)|

Dinh et al. 2017, https://arxiv.org/abs/1605.08803, eq. 2 and 3; Kingma & Dhariwal 2018, arXiv:1807.03039, eq. 6.

A family adds its kind of step and says in which order steps come: `realnvp.py`, `spline_flow.py`, `glow.py`. Here are
the chain itself and the steps that only scale numbers or move them about; the coupling that all three are built of is
in `coupling.py`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, cast

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
from pellucid.nets.inherit import inherit

__all__ = [
    "STEER",
    "ActNorm",
    "Arrange",
    "Flatten",
    "FlowEngine",
    "FlowFamily",
    "FlowHow",
    "Squash",
    "Squeeze",
    "Step",
    "channels_like",
    "forward_through",
    "inverse_through",
    "unrounded",
]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
STEER = 64  # size of the condition's vector
PREPARED = 512  # rows for the mean and spread of each feature; 4,096 take 20 times as long (7 s for 28x28 pictures)
FEW = 10_000  # items that a net of the default size would learn by heart


@dataclass(frozen=True)
class FlowHow(How):
    """How to sample.

    Args:
        temperature: scales the noise; 1 is the model itself, a little below 1 gives cleaner and less varied items.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class FlowFamily(Family):
    """Settings that all flows share; a subclass adds those of its own steps, and its parts.

    Args:
        steps: couplings (for pictures: at each scale).
        width, depth: of each coupling's network; None: by the space.
        bounded: open up the ends of the data's range by a logit, as Dinh et al. do for pixels; None: for pictures only.
        margin: how far inside the logit's ends the first batch's range lies, as a share of that range.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    engine: ClassVar[type[FlowEngine]]

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

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Real) and is_picture(space):
            return Training(batch=64, rate=1.5e-3, weight_decay=0.5 if items < FEW else 0.01, steps=3000)
        return Training(batch=256, rate=1e-3, weight_decay=0.01, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> FlowEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Real):
            raise BadInput(f"the space is {space}", accepted="Real", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = self.engine(self, space, conditions)
        inherit(engine, base)
        return engine

    def squashes(self, space: Real) -> bool:
        """Does the chain begin with `Squash`?"""
        return is_picture(space) if self.bounded is None else self.bounded

    def exact(self) -> tuple[Part, ...]:
        """The parts that all flows end with: what makes their probability exact, and how they sample."""
        source = "Dinh et al. 2017, https://arxiv.org/abs/1605.08803"
        return (
            Part("exact probability", "Each step says by how much it stretched space around the item. Adding these up "
                 "gives the probability density of any item, with nothing left out.",
                 "log p(x) = log N(f(x); 0, I) + sum of log |det df_k|", source + ", eq. 2 and 3"),
            Part("sampling", "Draw Gaussian noise and run the chain backwards, once.", "x = f^-1(z), z ~ N(0, I)",
                 source),
        )  # fmt: skip


class FlowEngine(nn.Module, Learns, Prepares, Samples, Scores, Encodes, Decodes):
    """A chain of reversible steps from an event (B, *event) to noise (B, size); a subclass lays out the chain.

    Args:
        family: settings. space: Real. conditions: name -> space.
    """

    def __init__(self, family: FlowFamily, space: Real, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.condition = ConditionEncoder(conditions, STEER)
        self.chain = nn.ModuleList(self.laid_out(family, space, STEER if conditions else 0))

    @abc.abstractmethod
    def laid_out(self, family: FlowFamily, space: Real, steer: int) -> Iterator[Step]:
        """The steps in order, from (B, *event) to (B, size); `steer` is the size of the condition's vector."""

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

    def settings(self) -> FlowHow:
        return FlowHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        if not isinstance(how, FlowHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="FlowHow", next="Start from engine.settings()")
        like = next(self.parameters())
        z = how.temperature * rows.fork("latent").normal(self.space.size, dtype=like.dtype)
        return self.decode(z.to(like.device), condition)

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """(B, *event) to (B, size); a flow is certain, so `rows` are not used."""
        return self._forward(x, condition)[0]

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, size) to (B, *event), the exact inverse of `encode`."""
        return inverse_through(self.chain, _wide(z), self.condition(condition, z))

    def latent(self) -> Real:
        return Real((self.space.size,))

    def _forward(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """x (B, *event) to z (B, size) and the sum of log-scales (B,)."""
        return forward_through(self.chain, _wide(x), self.condition(condition, x))


class Step(nn.Module, abc.ABC):
    """A reversible step, steered by the condition's vector (B, STEER)."""

    @abc.abstractmethod
    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, ...) to y (B, ...) and log |det dy / dx| (B,), None where no volume changes."""

    @abc.abstractmethod
    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        """y back to x."""


def forward_through(steps: Iterable[nn.Module], x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, ...) through all steps, and the sum of what they say of volume (B,)."""
    said = []
    for step in steps:
        x, log_scale = step(x, vector)
        if log_scale is not None:
            said.append(log_scale)
    return x, torch.stack(said).sum(0) if said else x.new_zeros(x.shape[0])


def inverse_through(steps: Sequence[nn.Module] | nn.ModuleList, y: Tensor, vector: Tensor) -> Tensor:
    """The way back of `forward_through`."""
    for step in reversed(steps):
        y = cast(Step, step).inverse(y, vector)
    return y


# ------------------------------------------------------------------ steps that only scale or move numbers


class ActNorm(Step):
    """y = (x - shift) * exp(log_scale), one of each a channel; the first rows set them to mean 0 and spread 1.

    Kingma & Dhariwal 2018 (Glow), https://arxiv.org/abs/1807.03039, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.waiting = False  # for rows to be prepared from

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, ...) to y (B, C, ...) and the sum of log-scales (B,)."""
        if self.waiting:
            values = x.transpose(0, 1).flatten(1)  # (C, everything else)
            self.shift.copy_(values.mean(1))
            spread = values.std(1, correction=0)
            # a number that is constant in the first rows is left as it is: scaled up, a later change would explode
            self.log_scale.copy_(torch.where(spread > 1e-3, -spread.clamp_min(1e-3).log(), 0.0))
            self.waiting = False
        y = (x - channels_like(self.shift, x)) * channels_like(self.log_scale, x).exp()
        total = self.log_scale.to(x.dtype).sum() * math.prod(x.shape[2:])
        return y, total.expand(x.shape[0])

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return y * (-channels_like(self.log_scale, y)).exp() + channels_like(self.shift, y)


class Squash(Step):
    """A logit that goes on as a straight line beyond its ends, so that every finite value has a finite image.

    With u = (x - low) / (high - low) and a = margin:  y = logit(v), v = a + (1 - 2a) u
    for u from 0 to 1, and the tangent at 0 or 1 outside. `low` and `high` are the ends of the first rows.
    Dinh et al. 2017, https://arxiv.org/abs/1605.08803, section 4.1.

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

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, None]:
        return rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2), None

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return rearrange(y, "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)


class Flatten(Step):
    """(B, *shape) to one row (B, size)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, None]:
        return x.flatten(1), None

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return y.reshape(-1, *self.shape)


class Arrange(Step):
    """The channels (or numbers of a row) in another order: channel k of the output is channel order[k] of the input."""

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, None]:
        return x.index_select(1, self.order), None

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        return y.index_select(1, self.back)


def unrounded(x: Tensor) -> AbstractContextManager[object]:
    """Where autocast would compute products in bfloat16, compute them as they come: a rounded step is not undone.

    Networks may be rounded, since both ways through a coupling round them alike.
    """
    return torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled(x.device.type) else nullcontext()


def channels_like(value: Tensor, like: Tensor) -> Tensor:
    """(C,) made to broadcast against (B, C, ...)."""
    return value.to(like.dtype).reshape(1, -1, *([1] * (like.ndim - 2)))


def _standard(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D): (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
