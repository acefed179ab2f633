"""Generative adversarial network: a forger and a critic who make each other better.

A generator turns noise into items, a critic says how real an item looks. They move in turns, by a loss that compares
each real item with one forged for the same condition (relativistic pairing), with both gradients of the critic held
small:

    critic     softplus(D(fake) - D(real)) + gamma/2 * (|grad D(real)|^2 + |grad D(fake)|^2)
    generator  softplus(D(real) - D(fake))
                                Huang et al. 2024 (R3GAN), https://arxiv.org/abs/2501.05441, eq. 2 to 4

Pairing real with forged keeps every kind of item in play (no mode may be dropped without losing its comparisons); the
two penalties make training converge near the solution. No likelihood: the network never says how probable an item is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Decodes, Family, How, Learns, Part, Refusal, Samples, Training, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.core.trace import Trace
from pellucid.nets.choose import is_picture
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.convolution import ConvDecoder
from pellucid.nets.critic import Critic
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP

__all__ = ["GAN", "GANEngine", "GANHow"]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk


@dataclass(frozen=True)
class GANHow(How):
    """How to sample.

    Args:
        temperature: scales the noise the generator starts from; below 1 items are more typical and less varied.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class GAN(Family):
    """Settings of a generative adversarial network.

    Args:
        latent: numbers of noise that one item is made of.
        gamma: weight of the gradient penalties; more is steadier and blurrier.
        width, depth: channels and blocks a stage (pictures), or size and number of blocks (rows); None: by the space.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "gan"
    title: ClassVar[str] = "generative adversarial network"
    engine: ClassVar[type[nn.Module]]

    latent: int = 64
    gamma: float = 1.0
    width: int | None = None
    depth: int | None = None
    forget: float = 0.1

    def __post_init__(self) -> None:
        for name, value in {"latent": self.latent, "width": self.width, "depth": self.depth}.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if not 0.0 <= self.gamma < math.inf:
            raise BadInput(f"gamma is {self.gamma}", accepted="0 or more")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if not isinstance(space, Real):
            return Refusal("the generator learns through the critic's gradient, which symbols do not have",
                           instead="vae for tables, autoregressive for symbols")  # fmt: skip
        if space.ragged:
            return Refusal("items have different lengths, and the generator makes one size", instead="autoregressive")
        if space.size > MOST_NUMBERS:
            return Refusal(f"one item has {space.size} numbers, at most {MOST_NUMBERS} are taken")
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661"
        r3gan = "Huang et al. 2024, https://arxiv.org/abs/2501.05441"
        return (
            Part("generator", "A forger: turns a list of random numbers into an item, in one go. It never sees the "
                 "data, only what the critic says.", "x = G(z, c), z ~ N(0, I)", source),
            Part("critic", "A detective: looks at an item and says how real it looks. It sees real and forged items "
                 "side by side.", "D(x, c), one number", source),
            Part("paired contest", "Each real item is compared with one forged for the same condition; the critic "
                 "wants the real one to look more real, the generator the opposite.", "softplus(D(fake) - D(real))",
                 r3gan + ", eq. 2"),
            Part("gradient penalties", "The critic may not change its mind abruptly from one item to a similar one. "
                 "Without this rule the two players circle each other and never settle.",
                 "gamma/2 * (|grad D(real)|^2 + |grad D(fake)|^2)", r3gan + ", eq. 3 and 4"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Real) and is_picture(space):
            rate = 2e-3 if min(space.shape[1:]) < 16 else 1e-3
            return Training(batch=64, rate=rate, betas=(0.0, 0.99), clip=None, steps=4000)
        return Training(batch=256, rate=1e-3, betas=(0.0, 0.99), clip=None, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> GANEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Real):
            raise BadInput(f"the space is {space}", accepted="Real", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = GANEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class GANEngine(nn.Module, Learns, Samples, Decodes):
    """Generator and critic, each with its own reading of the condition.

    The two nets see events on the scale where the grid runs from -1 to 1 (continuous events as they are).
    """

    def __init__(self, family: GAN, space: Real, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        on_grid = space.levels is not None
        self.middle = (space.low + space.high) / 2 if on_grid else 0.0
        self.reach = (space.high - space.low) / 2 if on_grid else 1.0
        steer, inputs = 64, family.latent
        self.generator_condition = ConditionEncoder(conditions, steer)
        self.critic_condition = ConditionEncoder(conditions, steer)
        self.generator: nn.Module
        if is_picture(space):
            width, depth = family.width or (48 if min(space.shape[1:]) < 16 else 16), family.depth or 1
            self.generator = ConvDecoder(inputs + steer, space.shape, width=width, depth=depth, steer=steer, norm=False)
        else:
            width, depth = family.width or 256, family.depth or 2
            self.generator = MLP(inputs + steer, space.size, width=width, depth=depth, steer=steer)
        self.critic = Critic(space.shape, steer=steer, width=width, depth=depth)

    def turns(self) -> tuple[Turn, ...]:
        critic = [*self.critic.parameters(), *self.critic_condition.parameters()]
        generator = [*self.generator.parameters(), *self.generator_condition.parameters()]
        return (
            Turn("critic", critic, self.critic_losses, betas=(0.0, 0.99)),
            Turn("generator", generator, self.generator_losses, betas=(0.0, 0.99)),
        )

    def critic_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the critic's side of the contest with both gradient penalties."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        with torch.no_grad():
            fake = self._forge(rows, condition)
        both = torch.cat((self._scaled(batch.x), fake))
        vector = self.critic_condition(condition, fake).repeat(2, 1)
        slopes, scores = torch.func.grad(lambda x: _twice(_wide(self.critic(x, vector))), has_aux=True)(both)
        real, fake = scores.chunk(2)
        steepness = _wide(slopes).flatten(1).square().sum(-1).chunk(2)  # rows do not mix in D: each is its own gradient
        return softplus(fake - real) + self.family.gamma / 2 * (steepness[0] + steepness[1])

    def generator_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the generator's side of the contest."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        fake, real = self._forge(rows, condition), self._scaled(batch.x)
        vector = self.critic_condition(condition, real)
        real_score, fake_score = _wide(self.critic(torch.cat((real, fake)), vector.repeat(2, 1))).chunk(2)
        return softplus(real_score - fake_score)

    def settings(self) -> GANHow:
        return GANHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event), on the grid if the space has one."""
        if not isinstance(how, GANHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="GANHow", next="Start from engine.settings()")
        like = next(self.parameters())
        z = how.temperature * rows.fork("latent").normal(self.family.latent, dtype=like.dtype)
        x = self.decode(z.to(like.device), condition)
        if self.space.levels is None:
            return x
        return ((x - self.space.low) / self.space.step).round() * self.space.step + self.space.low

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, latent) to (B, *event)."""
        return _wide(self._generate(z, condition)) * self.reach + self.middle

    def latent(self) -> Real:
        return Real((self.family.latent,))

    def _generate(self, z: Tensor, condition: Condition) -> Tensor:
        vector = self.generator_condition(condition, z)
        x = self.generator(torch.cat((z, vector), dim=-1), vector).reshape(-1, *self.space.shape)
        return x if self.space.levels is None else torch.tanh(x)  # the grid has ends, and flat ground lies on them

    def _forge(self, rows: Rows, condition: Condition) -> Tensor:
        """One forged item a row (B, *event) for the same condition as the real one."""
        dtype = next(self.parameters()).dtype
        return self._generate(rows.fork("forge").normal(self.family.latent, dtype=dtype), condition)

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - self.middle) / self.reach


def _twice(score: Tensor) -> tuple[Tensor, Tensor]:
    return score.sum(), score


GAN.engine = GANEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
