"""Variational autoencoder: squeeze an item through a few numbers, and learn to rebuild it from them.

An encoder names the Gaussian q(z | x, c) of latent vectors that could have made the item, a decoder turns a latent
vector into a distribution over items. Both are trained by one bound of the log-probability,

    log p(x | c) >= E_q[log p(x | z, c)] - beta * KL(q(z | x, c) || N(0, I))
                                        Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, eq. 3

with beta = 1 (other values: Higgins et al. 2017). Each condition has a centre and a spread of its own among the
decoder's inputs, so that pictures of one class come from one region (Sohn et al. 2015, "Learning structured output
representation using deep conditional generative models", eq. 4). Latent vectors are counted from that centre in units
of that spread, so they look like N(0, I) under every condition.

With `grid` the latent is a small picture, one place for each square of pixels, as diffusion through this model wants it
(Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", arXiv:2112.10752, section 3.1):
the KL term then weighs little, so that the places keep what the item needs.

What the decoder says depends on the space (`nets/observation.py`): a logistic on the grid for pictures of whole levels,
a Gaussian for real numbers, a category for symbols; a table row has some of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
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
    Refusal,
    Samples,
    Scores,
    Training,
    Turn,
    Weighs,
)
from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.choose import is_picture
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.convolution import ConvDecoder, ConvEncoder, map_size, refused_grid
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP
from pellucid.nets.observation import OBSERVATIONS, ObservationName, observation_of, refused_observation

__all__ = ["VAE", "NetName", "VAEEngine", "VAEHow"]

NetName: TypeAlias = Literal["convolution", "dense"]
NETS: tuple[NetName, ...] = ("convolution", "dense")
MOST: Mapping[str, int] = {  # what a desk can carry
    "latent": 4096,
    "channels": 64,  # of a latent grid: more than the pixels of its squares hold
    "width": 4096,
    "depth": 64,
    "components": 32,
    "importance": 100_000,
}
DRAWN, TOGETHER = 16, 1024  # draws made, and rows decoded, at once for the importance-weighted bound
MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
FEW = 10_000  # items that a net of the default size would learn by heart


@dataclass(frozen=True)
class VAEHow(How):
    """How to sample.

    Args:
        temperature: scales the spread of the latent draw and of what is drawn from the decoder; 1 is the model itself,
            0 its single most typical item.
        mean: return the centre of the decoder's distribution instead of drawing from it. The default for pictures,
            whose pixels would otherwise carry independent noise; rows of a table are drawn.
    """

    temperature: float = 1.0
    mean: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class VAE(Family):
    """Settings of a variational autoencoder.

    Args:
        latent: numbers in the latent vector; directions that are not needed stay unused.
        grid: pixels along each side of the square that shares one place of a latent picture: 4 makes 1x28x28 a latent
            of `channels` x 7 x 7, for a diffusion `through` this model. None: one latent vector for the whole item.
        channels: numbers at each place of the grid.
        net: "convolution" or "dense"; None: convolutions for pictures, dense for all else.
        observation: what the decoder says of a number: "logistic" or "bernoulli" on whole levels, "gaussian" else.
            None: the first that suits. A picture asked for as "gaussian" is dequantised first.
        spread: standard deviation of every Gaussian, in the data's encoded units; None: learned for each number.
        components: logistics in the mixture of each number.
        beta: weight of the KL term in training; above 1 the latent is tidier and the rebuilt item coarser. None: 1 for
            pictures; 0.5 for rows of numbers, which at 1 leave most of the latent vector unused for thousands of steps;
            0.25 for tables (on a census table, one run each of 6 CPU seconds, a classifier learned more from its rows
            than with 0.5, .779 of macro-F1 for .766, though the bound is 1.2 nats worse); 0.05 with a grid, whose own
            samples are then poor.
        free_bits: nats of KL that each latent direction may use without cost (Kingma et al. 2016, arXiv:1606.04934,
            eq. 15; there averaged over the batch, here row by row).
        width, depth: channels and blocks a stage (convolutions), or size and number of blocks; None: by the space.
        importance: latent draws K behind `log_prob`: with more the bound is tighter and takes as much longer.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "vae"
    title: ClassVar[str] = "variational autoencoder"
    engine: ClassVar[type[nn.Module]]

    latent: int = 32
    grid: int | None = None
    channels: int = 4
    net: NetName | None = None
    observation: ObservationName | None = None
    spread: float | None = None
    components: int = 1
    beta: float | None = None
    free_bits: float = 0.0
    width: int | None = None
    depth: int | None = None
    importance: int = 16
    forget: float = 0.1

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise BadInput(f"{name} is {value}", accepted=f"1 to {most}")
        if wanted := refused_grid(self.grid):
            raise BadInput(f"grid is {self.grid}", accepted=wanted, why="Each stage of the encoder halves the sides.")
        for name, value, accepted in (("net", self.net, NETS), ("observation", self.observation, OBSERVATIONS)):
            if value is not None and value not in accepted:
                raise BadInput(f"{name} is {value!r}", accepted=", ".join(accepted), next=nearest(str(value), accepted))
        if self.grid is not None and self.net == "dense":
            raise BadInput("net is 'dense' with a grid", accepted="convolution", why="Only they keep places apart.")
        if self.spread is not None and not 0.0 < self.spread < math.inf:
            raise BadInput(f"spread is {self.spread}", accepted="a finite number above 0")
        for name, share in {"beta": self.beta, "free_bits": self.free_bits}.items():
            if share is not None and not 0.0 <= share < math.inf:
                raise BadInput(f"{name} is {share}", accepted="0 or more")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if isinstance(space, Tokens):
            return Refusal("a variational autoencoder rebuilds all parts at once and knows no order of symbols",
                           instead="autoregressive, ngram")  # fmt: skip
        if isinstance(space, Real) and space.ragged:
            return Refusal("items have different lengths, and the latent vector has one size", instead="autoregressive")
        if isinstance(space, Mixed) and any(isinstance(f.space, Real) and f.space.ragged for f in space.fields):
            return Refusal("a field has different lengths from row to row")
        if space.size > MOST_NUMBERS:
            return Refusal(f"one item has {space.size} numbers, at most {MOST_NUMBERS} are taken")
        if refused := refused_observation(space, self.observation):
            return Refusal(refused)
        picture = isinstance(space, Real) and is_picture(space)
        if self.net == "convolution" and not picture:
            return Refusal("convolutions need channels, a height and a width", instead="vae with net=dense")
        if self.grid is not None and not picture:
            return Refusal(
                "a latent grid lies over pictures, and these items have no sides", instead="vae without grid"
            )
        if self.grid is not None and isinstance(space, Real) and self.grid > min(space.shape[1:]):
            return Refusal(f"one place of the grid would cover {self.grid} pixels a side, more than the picture has")
        return None

    def parts(self) -> tuple[Part, ...]:
        source = "Kingma & Welling 2014, https://arxiv.org/abs/1312.6114"
        return (
            Part("encoder", "Reads an item and names the latent vectors that could have made it: a centre and a "
                 "spread for each of a few directions.", "q(z | x, c) = N(mean(x, c), spread(x, c)^2)", source),
            Part("latent vector", "A short list of numbers that stands for the item. Nearby vectors mean similar "
                 "items, so walking from one to another morphs the items.", "z = mean + spread * noise", source),
            Part("decoder", "Turns a latent vector into a distribution over items. Pixels get a logistic around a "
                 "centre, numbers a Gaussian, symbols a list of probabilities.", "p(x | z, c)", source),
            Part("bound", "Training balances two wishes: rebuild the item well, and keep the latent vectors looking "
                 "like plain Gaussian noise, so that fresh noise decodes to a new item.",
                 "log p(x | c) >= E_q[log p(x | z, c)] - KL(q || N(0, I))", source + ", eq. 3"),
            Part("sampling", "Draw Gaussian noise, decode it once. One step: the fastest family, and the blurriest.",
                 "z ~ N(0, I), x ~ p(x | z, c)", source),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Real) and is_picture(space):
            return Training(batch=64, rate=2e-3, weight_decay=0.1 if items < FEW else 0.01, steps=3000)
        if isinstance(space, Mixed) and items >= FEW:
            return Training(batch=512, rate=3e-3, weight_decay=0.01, steps=4000)
        return Training(batch=256, rate=2e-3, weight_decay=0.01, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> VAEEngine:
        refusal = self.accepts(space, conditions)
        if refusal:
            raise BadInput(f"VAE got the space {space}", why=refusal.reason, next=refusal.instead)
        with rows.seeding():
            engine = VAEEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class VAEEngine(nn.Module, Learns, Samples, Scores, Encodes, Decodes, Weighs):
    """The encoder, the decoder and what is observed between them."""

    def __init__(self, family: VAE, space: Space, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space = family, space
        self.picture = isinstance(space, Real) and is_picture(space)
        self.convolves = self.picture and family.net != "dense"
        usual = 0.05 if family.grid else 1.0 if self.picture else 0.25 if isinstance(space, Mixed) else 0.5
        self.beta = usual if family.beta is None else family.beta
        sides = () if family.grid is None else map_size(space.shape, family.grid)
        self.shape = (family.channels, *sides) if sides else (family.latent,)  # of one latent
        self.numbers = math.prod(self.shape)
        self.observation = observation_of(space, family.observation, spread=family.spread, components=family.components)
        steer = 64 if conditions else 0
        self.condition = ConditionEncoder(conditions, steer)
        self.region: nn.Linear | None = None  # centre and log-spread of the condition's region
        if conditions:
            self.region = nn.Linear(steer, 2 * self.numbers)
            nn.init.zeros_(self.region.weight)
            nn.init.zeros_(self.region.bias)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if self.convolves:
            width, depth = family.width or (64 if min(space.shape[1:]) < 16 else 32), family.depth or 1
            shape = (space.shape[0], *space.shape[1:])
            # A grid holds the item itself and is asked without conditions by what is trained through it.
            steer, each = (steer, self.numbers) if family.grid is None else (0, family.channels)
            self.encoder = ConvEncoder(shape, 2 * each, width=width, depth=depth, steer=steer, squeeze=family.grid)
            shape = (shape[0] * self.observation.copies, *shape[1:])
            self.decoder = ConvDecoder(each, shape, width=width, depth=depth, steer=steer, squeeze=family.grid)
        else:
            width = family.width or (512 if self.picture else 256)
            depth = family.depth or (1 if isinstance(space, Mixed) else 2)  # rows are soon read, and many are wanted
            inputs, outputs = self.observation.inputs, self.observation.outputs
            self.encoder = MLP(inputs, 2 * family.latent, width=width, depth=depth, steer=steer)
            self.decoder = MLP(family.latent, outputs, width=width, depth=depth, steer=steer, zero=True)

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("bound", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-bound / size in nats (B,), with `beta` and `free_bits` as set."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        mean, log_spread = self._posterior(batch.x, condition)
        z = mean + log_spread.exp() * rows.fork("latent").normal(self.numbers, dtype=mean.dtype)
        kl = 0.5 * (mean.square() + (2 * log_spread).exp() - 1) - log_spread  # (B, latent), closed form
        kl = (kl.clamp_min(self.family.free_bits) if self.family.free_bits else kl).sum(-1)
        said = self.observation.log_prob(self._said(z, condition), batch.x)
        return (self.beta * kl - said) / self.space.size

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        """log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k | x), z_k ~ q      Burda et al. 2016, arXiv:1509.00519, eq. 8

        A lower bound in expectation over the draws, which nears log p(x | c) as K grows. Its error is the spread of the
        mean over draws, sd(w) / (sqrt(K) mean(w)): what another set of draws would change. How far the bound lies below
        the truth it does not say, and where few draws carry all the weight it is too small. None for K = 1.
        """
        mean, log_spread = self._posterior(batch.x, batch.condition)
        many, parts = self.family.importance, []
        step = max(1, TOGETHER // max(1, len(batch)))
        for k in range(0, many, DRAWN):
            all_noise = rows.fork("importance", k).normal(min(DRAWN, many - k), self.numbers, dtype=mean.dtype)
            for noise in all_noise.split(step, dim=1):  # (B, times, numbers)
                times = noise.shape[1]
                z = mean[:, None] + log_spread.exp()[:, None] * noise
                said = self._said(z.flatten(0, 1), batch.condition.repeat(times))
                said = self.observation.log_prob(said, batch.x.repeat_interleave(times, 0)).unflatten(0, (-1, times))
                # log N(z; 0, I) - log N(z; mean, spread): the constants cancel
                parts.append(said + (0.5 * noise.square() + log_spread[:, None] - 0.5 * z.square()).sum(-1))
        log_w = torch.cat(parts, dim=1)  # (B, K)
        value = log_w.logsumexp(1) - math.log(many)
        share = (log_w - value[:, None]).exp()  # of mean 1
        error = None if many == 1 else ((share - 1).square().mean(1) / (many - 1)).sqrt()
        return LogProb(value, "lower_bound", error)

    def settings(self) -> VAEHow:
        return VAEHow(mean=self.picture)

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event); pictures are the decoder's centre unless `how` says otherwise."""
        if not isinstance(how, VAEHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="VAEHow", next="Start from engine.settings()")
        like = next(self.parameters())
        z = how.temperature * rows.fork("latent").normal(self.numbers, dtype=like.dtype)
        said = self._said(z.to(like.device), condition)
        if how.mean:
            return self.observation.centre(said)
        return self.observation.draw(said, rows.fork("observation"), how.temperature)

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        z, log_spread = self._posterior(x, condition)
        if rows is not None:
            z = z + log_spread.exp() * rows.fork("latent").normal(self.numbers, dtype=z.dtype)
        return z.reshape(-1, *self.shape)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, *latent) to the centre (B, *event) of the decoder's distribution."""
        return self.observation.centre(self._said(z.flatten(1), condition))

    def latent(self) -> Real:
        return Real(self.shape)

    def log_weight(self, x: Tensor, z: Tensor, condition: Condition) -> Tensor:
        z = z.flatten(1)
        mean, log_spread = self._posterior(x, condition)
        noise = (z - mean) * (-log_spread).exp()
        log_q = -(0.5 * noise.square() + log_spread + 0.5 * math.log(2 * math.pi)).sum(-1)
        return self.observation.log_prob(self._said(z, condition), x) - log_q

    def _posterior(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the spread of q(z | x, c), each (B, numbers): a grid is read channel by channel."""
        h = self.observation.read(x)
        vector = self.condition(condition, h)
        out = self.encoder(h.reshape(-1, *self.space.shape) if self.convolves else h, vector)
        mean, log_spread = _wide(out.flatten(1)).chunk(2, dim=-1)
        log_spread = 6.0 * torch.tanh(log_spread / 6.0)  # keeps a first wild step finite
        if self.region is None:
            return mean, log_spread
        centre, log_size = self._region(vector, self.region)
        return (mean - centre) * (-log_size).exp(), log_spread - log_size

    def _said(self, z: Tensor, condition: Condition) -> Tensor:
        """What the decoder says about the item: (B, outputs)."""
        vector = self.condition(condition, z)
        if self.region is not None:
            centre, log_size = self._region(vector, self.region)
            z = centre + log_size.exp() * z
        return _wide(self.decoder(z.reshape(-1, *self.shape), vector).flatten(1))

    def _region(self, vector: Tensor, region: nn.Linear) -> tuple[Tensor, Tensor]:
        """Centre and logarithm of the spread of the condition's region, each (B, numbers)."""
        centre, log_size = _wide(region(vector)).chunk(2, dim=-1)
        return centre, 3.0 * torch.tanh(log_size / 3.0)


VAE.engine = VAEEngine


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
