"""WaveNet over numbers: each from a mixture of logistics that depends on all numbers before it.

    log p(x | c) = sum_t log sum_k pi_k logistic(x_t; mu_k, s_k),   pi, mu, s = network(x_1, ..., x_{t-1}, c)

van den Oord et al. 2016, https://arxiv.org/abs/1609.03499, eq. 1, with the mixture of Salimans et al. 2017,
https://arxiv.org/abs/1701.05517, section 2.1, in place of a softmax over 256 codes: sound of 16 bits and the values of
a series are taken as they are. Numbers on a grid of levels have probabilities, others densities; both are exact.

A series of several channels (C, T) is read time by time, the channels of a time one after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
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
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.wavenet import wave_parts
from pellucid.nets.condition import ConditionEncoder, Numbers, drop_conditions
from pellucid.nets.dilated import Dilated, dilations
from pellucid.nets.inherit import inherit
from pellucid.nets.logistics import first_answer, log_density, log_mass, number

__all__ = ["NumberHow", "WaveNetReal", "WaveNetRealEngine"]

SMALLEST_SPREAD = 1e-6  # relative to the mean: numbers that differ by less are taken for one constant
FIRST_SCALE = -1.0  # logarithm of the logistics' first scale, in standard deviations or half-ranges


@dataclass(frozen=True)
class NumberHow(How):
    """How to draw each next number.

    temperature: 1 is the model itself, below 1 keeps nearer to the likeliest, 0 takes the centre of the likeliest
    logistic.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class WaveNetReal(Family):
    """Settings of a WaveNet over numbers.

    Args:
        width: channels of a layer. cycles: how often the dilations 1, 2, 4, ... are gone through.
        dilation: the largest; fewer are taken where the items are shorter.
        components: logistics in the mixture of each number.
        dropout: share of the gated units that are left out in training, chosen once a row.
        forget: share of rows whose conditions are dropped in training.
        max_length: most numbers in an item.
    """

    name: ClassVar[str] = "wavenet_real"
    title: ClassVar[str] = "WaveNet over numbers"
    engine: ClassVar[type[nn.Module]]

    width: int = 64
    cycles: int = 2
    dilation: int = 512
    components: int = 5
    dropout: float = 0.1
    forget: float = 0.1
    max_length: int = 16_384

    def __post_init__(self) -> None:
        counts = {"width": self.width, "cycles": self.cycles, "dilation": self.dilation}
        for name, value in (counts | {"components": self.components, "max_length": self.max_length}).items():
            if value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        for name, share in {"dropout": self.dropout, "forget": self.forget}.items():
            if not 0.0 <= share < 1.0:
                raise BadInput(f"{name} is {share}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if isinstance(space, Tokens):
            return Refusal("this family goes over numbers, and the space has symbols", instead="wavenet, lstm")
        if not isinstance(space, Real):
            return Refusal("this family goes over numbers of one kind, and these rows hold several kinds of columns",
                           instead="trees, columns, autoregressive")  # fmt: skip
        if space.ragged:
            return Refusal("items have different lengths, and nothing here says where an item ends",
                           instead="windows of one length")  # fmt: skip
        if len(space.shape) > 2:
            return Refusal("items reach in two directions or more, and this family reads them in one",
                           instead="pixels for pictures of whole levels, diffusion")  # fmt: skip
        if space.size > self.max_length:
            return Refusal(f"items have {space.size} numbers, and max_length is {self.max_length}",
                           instead="shorter items, or a higher max_length")  # fmt: skip
        return None

    def parts(self) -> tuple[Part, ...]:
        return wave_parts(
            Part("mixture of logistics", "What all layers passed on becomes a few bumps: how heavy each is, where it "
                 "stands and how wide it is. Training moves them towards the number that really came next.",
                 "p(x_t) = sum_k pi_k logistic(x_t; mu_k, s_k)",
                 "Salimans et al. 2017, https://arxiv.org/abs/1701.05517, eq. 2")
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        batch = max(8, min(256, 2048 // space.size))
        return Training(batch=batch, rate=3e-3, betas=(0.9, 0.98), weight_decay=0.01, steps=2000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> WaveNetRealEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Real):
            raise BadInput(f"the space is {space}", accepted="Real", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = WaveNetRealEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class WaveNetRealEngine(nn.Module, Learns, Prepares, Samples, Scores):
    """Slot t of the network holds number t - 1 (a start vector in slot 0) and place t, and answers for number t.

    Numbers are read in units of their own: standard deviations from their mean, which the first rows tell for each
    channel (for each number of an item of one axis), or half-ranges from the middle of a grid of levels.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, family: WaveNetReal, space: Real, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space, width = family, space, family.width
        layers = dilations(space.size, family.dilation, family.cycles)
        self.body = Dilated(width, layers, conditioned=bool(conditions))
        self.number = Numbers(1, width)
        self.place = nn.Parameter(torch.randn(space.size, width) * 0.1)
        self.first = nn.Parameter(torch.randn(width) * 0.1)
        self.condition = ConditionEncoder(conditions, width)
        self.head = nn.Linear(width, 3 * family.components)
        nn.init.zeros_(self.head.weight)
        self.head.bias.data.copy_(first_answer(family.components, FIRST_SCALE))
        grid = space.levels is not None
        self.register_buffer("centre", torch.full((space.size,), (space.low + space.high) / 2 if grid else 0.0))
        self.register_buffer("spread", torch.full((space.size,), (space.high - space.low) / 2 if grid else 1.0))

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """Mean and standard deviation of each channel, or of each number of items of one axis; a grid needs none."""
        if self.space.levels is not None or not len(batch):
            return
        channels = self.space.shape[0] if len(self.space.shape) == 2 else self.space.size
        # one column a channel, as numbers lie in reading order
        x = self._read(batch.x).double().reshape(-1, channels)
        mean, spread = x.mean(0), x.std(0, correction=0)
        spread = torch.where(spread > SMALLEST_SPREAD * mean.abs().clamp_min(1e-30), spread, 1.0)
        times = self.space.size // channels
        self.centre.copy_(mean.repeat(times))
        self.spread.copy_(spread.repeat(times))

    def turns(self) -> tuple[Turn, ...]:
        tables = list(self.head.parameters())
        return (Turn("next number", list(self.parameters()), self.losses, tables=tables),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log p(x | c) / size in nats (B,)."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep, share = None, self.family.dropout
        if self.training and share > 0.0:
            keep = (rows.fork("dropout").uniform(self.body.masks, self.body.width) >= share) / (1.0 - share)
        return -self._log_prob(batch.x, condition, keep) / self.space.size

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self._log_prob(batch.x, batch.condition), "exact")

    def settings(self) -> NumberHow:
        return NumberHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event). The uniform numbers behind all numbers of a row are drawn at once."""
        if not isinstance(how, NumberHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="NumberHow", next="Start from engine.settings()")
        size, like = self.space.size, self.first.new_zeros(len(rows), 1)
        u = rows.fork("numbers").uniform(size, 2, dtype=torch.float64).to(like.device)
        vector, state = self._known(condition, like), self.body.begin(len(rows), size, like)
        z = like.new_zeros(len(rows), size)
        for t in range(size):
            h, state = self.body.step(self._embed(z[:, max(0, t - 1) : t], t), state, vector)
            z[:, t] = self._rounded(number(_wide(self.head(h[:, -1])), u[:, t], how.temperature))
        return self._written(z * self.spread + self.centre)

    def answers(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """x (B, *event) to what is said of each number given those before it, (B, size, 3 K), in reading order."""
        z = self._units(x)
        vector = self._known(condition, z[:, :1])
        return _wide(self.head(self.body(self._embed(z[:, :-1], 0), vector, keep)))

    def _log_prob(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """(B,), in float32 at least."""
        said, z = self.answers(x, condition, keep), _wide(self._units(x))
        if self.space.levels is not None:
            return log_mass(said, z, 2.0 / (self.space.levels - 1)).sum(-1)
        return log_density(said, z).sum(-1) - _wide(self.spread).log().sum()

    def _embed(self, z: Tensor, slot: int) -> Tensor:
        """Slots from `slot` on, each with the number before it: z (B, k) of those numbers, less one for slot 0."""
        x = self.number(z.reshape(-1, 1)).reshape(*z.shape, self.family.width)
        if slot == 0:
            x = torch.cat((self.first.expand(len(z), 1, -1).to(x.dtype), x), dim=1)
        return x + self.place[slot : slot + x.shape[1]]

    def _known(self, condition: Condition, like: Tensor) -> Tensor | None:
        """(B, width) of what is known of each row of `like` (B, 1); None where nothing can be."""
        return self.condition(condition, like) if self.condition.names else None

    def _units(self, x: Tensor) -> Tensor:
        """x (B, *event) to (B, size) in the engine's units and type."""
        return ((self._read(x).to(self.centre) - self.centre) / self.spread).to(self.first)

    def _read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size) in reading order."""
        return (x.transpose(1, 2) if x.ndim == 3 else x).flatten(1)

    def _written(self, flat: Tensor) -> Tensor:
        """The inverse of `_read`."""
        if len(self.space.shape) == 1:
            return flat
        return flat.reshape(len(flat), self.space.shape[1], self.space.shape[0]).transpose(1, 2).contiguous()

    def _rounded(self, z: Tensor) -> Tensor:
        """The nearest level, where there are levels."""
        if self.space.levels is None:
            return z
        steps = (self.space.levels - 1) / 2
        return ((z.clamp(-1, 1) + 1) * steps).round() / steps - 1


WaveNetReal.engine = WaveNetRealEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
