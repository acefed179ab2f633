"""Generative adversarial network: a forger and a critic who make each other better.

A generator turns noise into items, a critic says how real an item looks. They move in turns, by one of the contests of
`gan_losses.py`. The default compares each real item with one forged for the same condition (relativistic pairing),
with both gradients of the critic held small:

    critic     softplus(D(fake) - D(real)) + gamma/2 * (|grad D(real)|^2 + |grad D(fake)|^2)
    generator  softplus(D(real) - D(fake))
                                Huang et al. 2024 (R3GAN), https://arxiv.org/abs/2501.05441, eq. 2 to 4

Pairing real with forged keeps every kind of item in play (no mode may be dropped without losing its comparisons); the
two penalties make training converge near the solution. Two older stabilisers can be added (Salimans et al. 2016,
https://arxiv.org/abs/1606.03498): feature matching (section 3.1) and historical averaging (section 3.3),

    generator  + a |E phi(x) - E phi(G(z))|^2, phi the critic's last features
    each       + b |theta - 1/t sum_i theta[i]|^2, over the weights of all steps so far

Both are terms of no single row. Rows of a table: see `gan_rows.py`. No likelihood: the network never says how probable
an item is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Contends,
    Decodes,
    Family,
    How,
    Learns,
    Part,
    Prepares,
    Refusal,
    Samples,
    Training,
    Turn,
)
from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.gan_losses import CONTESTS, Contest, Loss, far_from_one, steepness
from pellucid.families.gan_rows import Asked, Categories, Items, RowsOfTable
from pellucid.nets.choose import is_picture
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.convolution import ConvDecoder
from pellucid.nets.critic import Critic
from pellucid.nets.dcgan import DCGANDecoder
from pellucid.nets.dense import Dense
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP
from pellucid.nets.spectral import advance

__all__ = ["GAN", "GANEngine", "GANHow"]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
STEER = 64  # numbers in the vector of what is known
UNASKED = 0.5  # share of rows that ask for no category where the model has conditions, which a draw may name instead


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
        loss: the contest: "relativistic" (steady), "non_saturating" (the classic one), "wasserstein" (with its
            gradient penalty) or "hinge" (with spectral normalisation).
        generator: of pictures: "residual" (a pyramid of residual blocks) or "dcgan" (strided convolutions, and a
            critic of the same kind). Rows of numbers have dense nets.
        gamma: weight of the gradient penalty; more is steadier and blurrier. Wasserstein's wants slopes of 1 between
            real and forged items, that of all others slopes of 0 at both. None: 1 for relativistic, 10 for
            wasserstein, 0.1 for non_saturating, 0 for hinge.
        spectral: divide each weight of the critic by its largest singular value; None: for hinge.
        critic_steps: moves of the critic for each of the generator; None: 5 for wasserstein, else 1.
        feature_matching: weight of the distance between the critic's mean features of real and of forged items in the
            generator's loss. It takes a second forward pass.
        historical_averaging: weight of the distance of both players from the mean of their weights so far, which is
            kept beside them.
        asking: share of the rows of a table that ask for one of their categories in training, rare ones more often.
            1 is CTGAN's way, where new rows ask as well; with less they do not. 0, none, because it was measured to
            cost more than it brings on a census table: .02 to .05 of macro-F1 after 20 seconds of training.
        tau: temperature of the soft symbols that the generator learns by, for tables.
        width, depth: channels and blocks a stage (pictures), or size and number of blocks (rows); None: by the space.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "gan"
    title: ClassVar[str] = "generative adversarial network"
    engine: ClassVar[type[nn.Module]]

    latent: int = 64
    loss: Loss = "relativistic"
    generator: Literal["residual", "dcgan"] = "residual"
    gamma: float | None = None
    spectral: bool | None = None
    critic_steps: int | None = None
    feature_matching: float = 0.0
    historical_averaging: float = 0.0
    asking: float = 0.0
    tau: float = 0.5
    width: int | None = None
    depth: int | None = None
    forget: float = 0.1

    def __post_init__(self) -> None:
        if self.loss not in CONTESTS:
            raise BadInput(f"loss is '{self.loss}'", accepted=", ".join(CONTESTS), next=nearest(self.loss, CONTESTS))
        if self.generator not in ("residual", "dcgan"):
            raise BadInput(f"generator is '{self.generator}'", accepted="residual, dcgan")
        sizes = {"latent": self.latent, "width": self.width, "depth": self.depth, "critic_steps": self.critic_steps}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if self.latent > MOST_NUMBERS:
            raise BadInput(f"latent is {self.latent}", accepted=f"1 to {MOST_NUMBERS}")
        weights = {"gamma": self.gamma, "feature_matching": self.feature_matching}
        for name, weight in {**weights, "historical_averaging": self.historical_averaging}.items():
            if weight is not None and not 0.0 <= weight < math.inf:
                raise BadInput(f"{name} is {weight}", accepted="0 or more")
        if not 0.0 <= self.asking <= 1.0:
            raise BadInput(f"asking is {self.asking}", accepted="from 0 to 1")
        if not 0.01 <= self.tau <= 10.0:
            raise BadInput(f"tau is {self.tau}", accepted="from 0.01 to 10")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    @property
    def contest(self) -> Contest:
        """How the players are scored."""
        return CONTESTS[self.loss]

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if isinstance(space, Tokens):
            return Refusal("the generator learns through the critic's gradient, and makes all symbols at once",
                           instead="autoregressive, masked")  # fmt: skip
        reals = [f.space for f in space.fields] if isinstance(space, Mixed) else [space]
        if any(isinstance(r, Real) and r.ragged for r in reals):
            return Refusal("items have different lengths, and the generator makes one size", instead="autoregressive")
        if isinstance(space, Mixed) and any(isinstance(r, Real) and r.levels is not None for r in reals):
            return Refusal("a field of the table lies on a grid of levels, which is for pictures")
        if space.size > MOST_NUMBERS:
            return Refusal(f"one item has {space.size} numbers, at most {MOST_NUMBERS} are taken")
        if self.generator == "dcgan" and not (isinstance(space, Real) and is_picture(space)):
            return Refusal("strided convolutions are for pictures, and these items have no sides",
                           instead="gan with the residual generator")  # fmt: skip
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661"
        contest, gamma = self.contest, self.contest.gamma if self.gamma is None else self.gamma
        parts = [
            Part("generator", "A forger: turns a list of random numbers into an item, in one go. It never sees the "
                 "data, only what the critic says.", "x = G(z, c), z ~ N(0, I)", source),
            Part("critic", "A detective: looks at an item and says how real it looks. It sees real and forged items "
                 "side by side.", "D(x, c), one number", source),
        ]  # fmt: skip
        if contest.paired:
            parts.append(
                Part("paired contest", "Each real item is compared with one forged for the same condition; the critic "
                     "wants the real one to look more real, the generator the opposite.", contest.formula,
                     contest.source))  # fmt: skip
        else:
            parts.append(
                Part("contest", "The critic wants high scores for real items and low ones for forged items; the "
                     "generator wants its own items to score high.", contest.formula, contest.source))  # fmt: skip
        if gamma and contest.between:
            parts.append(
                Part("gradient penalty", "Between a real and a forged item the critic's score may change by about one "
                     "for each step of length one, so that it measures a distance.",
                     "gamma * (|grad D(mix)| - 1)^2", contest.source))  # fmt: skip
        elif gamma:
            parts.append(
                Part("gradient penalties", "The critic may not change its mind abruptly from one item to a similar "
                     "one. Without this rule the two players circle each other and never settle.",
                     "gamma/2 * (|grad D(real)|^2 + |grad D(fake)|^2)",
                     "Huang et al. 2024, https://arxiv.org/abs/2501.05441, eq. 3 and 4"))  # fmt: skip
        salimans = "Salimans et al. 2016, https://arxiv.org/abs/1606.03498"
        if self.is_spectral:
            parts.append(
                Part("spectral normalisation", "Each layer of the critic is divided by the most it can stretch "
                     "anything, so that small changes of an item change its score little.", "W / sigma(W)",
                     "Miyato et al. 2018, https://arxiv.org/abs/1802.05957, eq. 8"))  # fmt: skip
        if self.feature_matching:
            parts.append(
                Part("feature matching", "Forged items shall have the same features on average, in the critic's eyes, "
                     "as real ones.", "|E phi(x) - E phi(G(z))|^2", salimans + ", section 3.1"))  # fmt: skip
        if self.historical_averaging:
            parts.append(
                Part("historical averaging", "Each player is drawn to the mean of what it has been, which damps "
                     "circling.", "|theta - mean of theta so far|^2", salimans + ", section 3.3"))  # fmt: skip
        return tuple(parts)

    @property
    def is_spectral(self) -> bool:
        """Is the critic normalised?"""
        return self.contest.spectral if self.spectral is None else self.spectral

    def training(self, space: Space, items: int) -> Training:
        betas = self.contest.betas
        if isinstance(space, Real) and is_picture(space):
            rate = self.contest.rate * (2 if min(space.shape[1:]) < 16 else 1)
            return Training(batch=64, rate=rate, betas=betas, clip=None, steps=4000)
        rate = 2e-3 if isinstance(space, Mixed) else 1e-3
        return Training(batch=256, rate=rate, betas=betas, clip=None, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> GANEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or isinstance(space, Tokens):
            raise BadInput(
                f"the space is {space}", accepted="Real or Mixed", why=refusal.reason if refusal else "",
                next=f"Instead: {refusal.instead}" if refusal and refusal.instead else "",
            )  # fmt: skip
        with rows.seeding():
            engine = GANEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class GANEngine(nn.Module, Learns, Prepares, Samples, Decodes, Contends):
    """Generator and critic, each with its own reading of the condition and of the category that is asked for."""

    def __init__(self, family: GAN, space: Real | Mixed, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space, self.contest = family, space, family.contest
        self.gamma = self.contest.gamma if family.gamma is None else family.gamma
        self.unasked = max(1.0 - family.asking, UNASKED if conditions else 0.0)
        self.generator_condition = ConditionEncoder(conditions, STEER)
        self.critic_condition = ConditionEncoder(conditions, STEER)
        self.face: Items | RowsOfTable
        self.face = RowsOfTable(space, family.tau) if isinstance(space, Mixed) else Items(space)
        self.told = bool(conditions) or (isinstance(space, Mixed) and family.asking > 0)
        inputs = family.latent + (STEER if self.told else 0)
        picture = isinstance(space, Real) and is_picture(space)
        body: Literal["residual", "dcgan", "dense"] = "residual"
        self.generator: nn.Module
        if isinstance(space, Mixed):
            body, width, depth = "dense", family.width or 256, family.depth or 2
            self.generator = Dense(inputs, self.face.outputs, width=width, depth=depth, carry=True)
        elif picture and family.generator == "dcgan":
            body, width, depth = "dcgan", family.width or 64, 1
            self.generator = DCGANDecoder(inputs, space.shape, width=width)
        elif picture:
            width, depth = family.width or (48 if min(space.shape[1:]) < 16 else 16), family.depth or 1
            self.generator = ConvDecoder(inputs, space.shape, width=width, depth=depth, steer=STEER, norm=False)
        else:
            width, depth = family.width or 256, family.depth or 2
            self.generator = MLP(inputs, self.face.outputs, width=width, depth=depth, steer=STEER)
        self.critic = Critic(
            self.face.shape, steer=STEER, width=width, depth=depth, body=body, spectral=family.is_spectral
        )
        categories = Categories(self.face) if isinstance(self.face, RowsOfTable) and family.asking else None
        self.categories = categories if categories is not None and categories.sizes else None
        if self.categories is not None:
            self.generator_asked = nn.Embedding(self.categories.none + 1, STEER)
            self.critic_asked = nn.Embedding(self.categories.none + 1, STEER)
        if family.historical_averaging:
            for name, player in (("critic", self._critic_parts()), ("generator", self._generator_parts())):
                size = sum(p.numel() for part in player for p in part.parameters())
                self.register_buffer(f"history_{name}", torch.zeros(size))
            self.register_buffer("history_steps", torch.zeros(2))

    def turns(self) -> tuple[Turn, ...]:
        critic = [p for part in self._critic_parts() for p in part.parameters()]
        generator = [p for part in self._generator_parts() for p in part.parameters()]
        averaging, betas = self.family.historical_averaging > 0, self.contest.betas
        steps = self.contest.critic_steps if self.family.critic_steps is None else self.family.critic_steps
        moved = self.critic_penalty if averaging or self.family.is_spectral else None
        matched = self.generator_penalty if averaging or self.family.feature_matching else None
        return (
            Turn("critic", critic, self.critic_losses, moved, betas=betas),
            Turn("generator", generator, self.generator_losses, matched, every=steps, betas=betas),
        )

    def prepare(self, batch: Batch) -> None:
        """Count how often each category of a table occurs; nothing for pictures and plain numbers."""
        if self.categories is not None:
            self.categories.count(batch.x)

    def recount(self, batch: Batch) -> None:
        """The same, for an engine that goes on from another on other data."""
        self.prepare(batch)

    def critic_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the critic's side of the contest with its gradient penalty."""
        condition, asked = self._told(batch, rows)
        real = self.face.seen(batch.x)
        with torch.no_grad():
            fake = self._forge(rows, condition, asked)[0]
        vector = self._critic_vector(condition, asked, real)
        twice = torch.cat((vector, vector))
        both = torch.cat((real, fake))
        if self.gamma and not self.contest.between:
            scores, slopes = steepness(lambda x: self.critic(x, twice), both)
            penalty = self.gamma / 2 * sum(slopes.chunk(2))
        else:
            scores = _wide(self.critic(both, twice))
            penalty = scores.new_zeros(())
            if self.gamma:
                share = rows.fork("between").uniform(dtype=real.dtype)
                penalty = self.gamma * far_from_one(lambda x: self.critic(x, vector), real, fake, share)
        losses = self.contest.critic(*scores.chunk(2)) + penalty
        return losses if asked is None else losses * asked.weight

    def generator_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the generator's side of the contest, and what it missed of the categories that were asked for."""
        condition, asked = self._told(batch, rows)
        fake, raw = self._forge(rows, condition, asked)
        vector = self._critic_vector(condition, asked, fake)
        if self.contest.paired:
            both = torch.cat((self.face.seen(batch.x), fake))
            real_score, fake_score = _wide(self.critic(both, torch.cat((vector, vector)))).chunk(2)
        else:
            fake_score = real_score = _wide(self.critic(fake, vector))
        losses = self.contest.generator(real_score, fake_score)
        if asked is None or self.categories is None or not isinstance(self.face, RowsOfTable):
            return losses
        return (losses + self.categories.cross_entropy(self.face.said(_wide(raw))[1], asked.index)) * asked.weight

    def critic_penalty(self, batch: Batch, rows: Rows) -> Tensor:
        """() the critic's historical averaging; here, once a step, power iteration follows the weights."""
        if self.training:
            advance(self.critic)
        return self._history(0, "critic", self._critic_parts())

    def generator_penalty(self, batch: Batch, rows: Rows) -> Tensor:
        """() the generator's feature matching and historical averaging."""
        penalty = self._history(1, "generator", self._generator_parts())
        if not self.family.feature_matching:
            return penalty
        condition, asked = self._told(batch, rows)
        fake = self._forge(rows, condition, asked)[0]
        vector = self._critic_vector(condition, asked, fake)
        with torch.no_grad():
            wanted = _wide(self.critic.features(self.face.seen(batch.x), vector)).mean(0)
        found = _wide(self.critic.features(fake, vector)).mean(0)
        return penalty + self.family.feature_matching * (wanted - found).square().sum()

    @torch.no_grad()
    def balance(self, batch: Batch, rows: Rows) -> dict[str, float]:
        """Mean scores of real and of forged items, and in how many pairs the real one scores higher."""
        condition, asked = self._told(batch, rows)
        real, fake = self.face.seen(batch.x), self._forge(rows, condition, asked)[0]
        vector = self._critic_vector(condition, asked, real)
        r, f = _wide(self.critic(real, vector)), _wide(self.critic(fake, vector))
        return {"real": float(r.mean()), "fake": float(f.mean()), "accuracy": float((r > f).float().mean())}

    def settings(self) -> GANHow:
        return GANHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event), on the grid if the space has one."""
        if not isinstance(how, GANHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="GANHow", next="Start from engine.settings()")
        like = next(self.parameters())
        z = how.temperature * rows.fork("latent").normal(self.family.latent, dtype=like.dtype)
        asked = None
        if self.categories is not None:
            free = torch.full((len(rows),), self.family.asking == 1.0, device=like.device)
            for given in condition.given.values():
                free = free & ~given  # a category drawn for itself would contradict what is known
            asked = torch.where(free, self.categories.drawn(rows).to(like.device), self.categories.none)
        x = _wide(self.face.item(self._raw(z.to(like.device), condition, asked), rows))
        if isinstance(self.space, Mixed) or self.space.levels is None:
            return x
        return ((x - self.space.low) / self.space.step).round() * self.space.step + self.space.low

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, latent) to (B, *event); the likeliest symbols in rows of a table."""
        asked = None if self.categories is None else z.new_full((len(z),), self.categories.none, dtype=torch.int64)
        return _wide(self.face.item(self._raw(z, condition, asked), None))

    def latent(self) -> Real:
        return Real((self.family.latent,))

    def _told(self, batch: Batch, rows: Rows) -> tuple[Condition, Asked | None]:
        """What both players are told of each row."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        return condition, None if self.categories is None else self.categories.named(batch.x, rows, self.unasked)

    def _raw(self, z: Tensor, condition: Condition, asked: Tensor | None) -> Tensor:
        """What the generator gives, before it is an item."""
        vector = self.generator_condition(condition, z)
        if asked is not None:
            vector = vector + self.generator_asked(asked)
        both = torch.cat((z, vector), dim=-1) if self.told else z
        out: Tensor = self.generator(both) if isinstance(self.generator, Dense) else self.generator(both, vector)
        return out

    def _forge(self, rows: Rows, condition: Condition, asked: Asked | None) -> tuple[Tensor, Tensor]:
        """One forged item a row, as the critic sees it, for the same condition as the real one; and it unread."""
        rows, dtype = rows.fork("forge"), next(self.parameters()).dtype
        raw = self._raw(rows.normal(self.family.latent, dtype=dtype), condition, None if asked is None else asked.index)
        return self.face.forged(raw, rows), raw

    def _critic_vector(self, condition: Condition, asked: Asked | None, like: Tensor) -> Tensor:
        vector: Tensor = self.critic_condition(condition, like)
        return vector if asked is None else vector + self.critic_asked(asked.index)

    def _critic_parts(self) -> list[nn.Module]:
        return [self.critic, self.critic_condition, *([self.critic_asked] if self.categories is not None else [])]

    def _generator_parts(self) -> list[nn.Module]:
        asked = [self.generator_asked] if self.categories is not None else []
        return [self.generator, self.generator_condition, self.face, *asked]

    def _history(self, place: int, name: str, parts: Iterable[nn.Module]) -> Tensor:
        """() b |theta - mean of theta so far|^2; while training, this step's weights then join the mean."""
        if not self.family.historical_averaging:
            return next(self.parameters()).new_zeros(())
        mean, steps = self.get_buffer(f"history_{name}"), self.get_buffer("history_steps")
        theta = torch.cat([p.flatten() for part in parts for p in part.parameters()])
        away = theta - mean.clone() if bool(steps[place] > 0) else theta - theta.detach()
        if self.training:
            with torch.no_grad():
                steps[place] += 1
                mean.lerp_(theta.detach(), 1.0 / float(steps[place]))
        return self.family.historical_averaging * away.square().sum()


GAN.engine = GANEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
