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

What the decoder says depends on the space: a logistic on the grid for pictures of whole levels, a Gaussian for real
numbers, a category for symbols; a table row has some of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

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
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.nets.choose import is_picture
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.convolution import ConvDecoder, ConvEncoder, map_size, refused_grid
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP

__all__ = [
    "FieldsObservation",
    "GaussianObservation",
    "GridObservation",
    "VAE",
    "VAEEngine",
    "VAEHow",
    "observation_of",
]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
MOST_CHANNELS = 64  # of a latent grid: more than the pixels of its squares hold
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
        beta: weight of the KL term in training; above 1 the latent is tidier and the rebuilt item coarser. None: 1 for
            pictures; 0.5 for rows, which at 1 leave most of the latent vector unused for thousands of steps (on a
            census table 0.5 gave the better bound, too); 0.05 with a grid, whose own samples are then poor.
        free_bits: nats of KL that each latent direction may use without cost (Kingma et al. 2016, arXiv:1606.04934,
            eq. 15; there averaged over the batch, here row by row).
        width, depth: channels and blocks a stage (pictures), or size and number of blocks (rows); None: by the space.
        importance: latent draws K behind `log_prob`.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "vae"
    title: ClassVar[str] = "variational autoencoder"
    engine: ClassVar[type[nn.Module]]

    latent: int = 32
    grid: int | None = None
    channels: int = 4
    beta: float | None = None
    free_bits: float = 0.0
    width: int | None = None
    depth: int | None = None
    importance: int = 16
    forget: float = 0.1

    def __post_init__(self) -> None:
        sizes = {"latent": self.latent, "width": self.width, "depth": self.depth, "importance": self.importance}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if wanted := refused_grid(self.grid):
            raise BadInput(f"grid is {self.grid}", accepted=wanted, why="Each stage of the encoder halves the sides.")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise BadInput(f"channels is {self.channels}", accepted=f"1 to {MOST_CHANNELS}")
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
        if self.grid is not None and not (isinstance(space, Real) and is_picture(space)):
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
        self.family, self.space, self.picture = family, space, isinstance(space, Real) and is_picture(space)
        self.beta = family.beta if family.beta is not None else 0.05 if family.grid else 1.0 if self.picture else 0.5
        sides = () if family.grid is None else map_size(space.shape, family.grid)
        self.shape = (family.channels, *sides) if sides else (family.latent,)  # of one latent
        self.numbers = math.prod(self.shape)
        self.observation = observation_of(space)
        steer = 64
        self.condition = ConditionEncoder(conditions, steer)
        self.region = nn.Linear(steer, 2 * self.numbers)  # centre and log-spread of the condition's region
        nn.init.zeros_(self.region.weight)
        nn.init.zeros_(self.region.bias)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if self.picture:
            width, depth = family.width or (64 if min(space.shape[1:]) < 16 else 32), family.depth or 1
            shape = (space.shape[0], *space.shape[1:])
            # A grid holds the item itself and is asked without conditions by what is trained through it.
            steer, each = (steer, self.numbers) if family.grid is None else (0, family.channels)
            self.encoder = ConvEncoder(shape, 2 * each, width=width, depth=depth, steer=steer, squeeze=family.grid)
            shape = (shape[0] * self.observation.copies, *shape[1:])
            self.decoder = ConvDecoder(each, shape, width=width, depth=depth, steer=steer, squeeze=family.grid)
        else:
            width, depth = family.width or 256, family.depth or 2
            self.encoder = MLP(self.observation.inputs, 2 * family.latent, width=width, depth=depth, steer=steer)
            self.decoder = MLP(
                family.latent, self.observation.outputs, width=width, depth=depth, steer=steer, zero=True
            )

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("bound", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-bound / size in nats (B,), with `beta` and `free_bits` as set."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        mean, log_spread = self._posterior(batch.x, condition)
        z = mean + log_spread.exp() * rows.fork("latent").normal(self.numbers, dtype=mean.dtype)
        kl = 0.5 * (mean.square() + (2 * log_spread).exp() - 1) - log_spread  # (B, latent), closed form
        kl = kl.clamp_min(self.family.free_bits).sum(-1)
        said = self.observation.log_prob(self._said(z, condition), batch.x)
        return (self.beta * kl - said) / self.space.size

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        """log 1/K sum_k p(x, z_k) / q(z_k | x), z_k ~ q           Burda et al. 2016, arXiv:1509.00519, eq. 8"""
        mean, log_spread = self._posterior(batch.x, batch.condition)
        weights = []
        for k in range(self.family.importance):
            noise = rows.fork("importance", k).normal(self.numbers, dtype=mean.dtype)
            z = mean + log_spread.exp() * noise
            said = self.observation.log_prob(self._said(z, batch.condition), batch.x)
            # log N(z; 0, I) - log N(z; mean, spread): the constants cancel
            weights.append(said + (0.5 * noise.square() + log_spread - 0.5 * z.square()).sum(-1))
        value = torch.stack(weights).logsumexp(0) - math.log(self.family.importance)
        return LogProb(value, "lower_bound")

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
        out = self.encoder(h.reshape(-1, *self.space.shape) if self.picture else h, vector)
        mean, log_spread = _wide(out.flatten(1)).chunk(2, dim=-1)
        log_spread = 6.0 * torch.tanh(log_spread / 6.0)  # keeps a first wild step finite
        centre, log_size = self._region(vector)
        return (mean - centre) * (-log_size).exp(), log_spread - log_size

    def _said(self, z: Tensor, condition: Condition) -> Tensor:
        """What the decoder says about the item: (B, outputs)."""
        vector = self.condition(condition, z)
        centre, log_size = self._region(vector)
        z = (centre + log_size.exp() * z).reshape(-1, *self.shape)
        return _wide(self.decoder(z, vector).flatten(1))

    def _region(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and logarithm of the spread of the condition's region, each (B, numbers)."""
        centre, log_size = _wide(self.region(vector)).chunk(2, dim=-1)
        return centre, 3.0 * torch.tanh(log_size / 3.0)


def observation_of(space: Space) -> GridObservation | GaussianObservation | FieldsObservation:
    """What a decoder says about items of this space."""
    if isinstance(space, Mixed):
        return FieldsObservation(space)
    if isinstance(space, Real):
        return GaussianObservation(space) if space.levels is None else GridObservation(space)
    raise BadInput(f"the space is {space}", accepted="Real, Mixed")


class GridObservation(nn.Module):
    """A logistic around a centre, cut into the cells of a grid; the outermost cells take the tails.

    P(x) = sigmoid((x + step/2 - mu) / s) - sigmoid((x - step/2 - mu) / s)
                                        Salimans et al. 2017 (PixelCNN++), https://arxiv.org/abs/1701.05517, eq. 2

    with one component; centre mu and scale s of each number come from the decoder.

    Args:
        space: Real with levels. Parameters are (B, 2 * size): centres, then logarithms of scales, in half-ranges.
    """

    copies = 2

    def __init__(self, space: Real) -> None:
        super().__init__()
        self.space, self.inputs, self.outputs = space, space.size, 2 * space.size
        self.middle, self.reach = (space.low + space.high) / 2, (space.high - space.low) / 2
        self.cell = space.step / self.reach

    def read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size) between -1 and 1."""
        return (x.flatten(1) - self.middle) / self.reach

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,) log-probability of the levels."""
        mu, log_s = self._logistic(said)
        x, s = self.read(x).to(mu), log_s.exp()
        above, below = (x + self.cell / 2 - mu) / s, (x - self.cell / 2 - mu) / s
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which never cancels
        inside = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1(-self.cell / s))
        edge = self.cell / 4
        each = torch.where(x < -1 + edge, logsigmoid(above), torch.where(x > 1 - edge, logsigmoid(-below), inside))
        return each.sum(-1)

    def centre(self, said: Tensor) -> Tensor:
        """(B, *event) the median."""
        mu, _ = self._logistic(said)
        return self._event(mu)

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, *event) on the grid."""
        mu, log_s = self._logistic(said)
        noise = rows.uniform(self.space.size, dtype=mu.dtype).logit()  # standard logistic
        x = self._event(mu + temperature * log_s.exp() * noise)
        return ((x - self.space.low) / self.space.step).round() * self.space.step + self.space.low

    def _logistic(self, said: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_s = said.chunk(2, dim=-1)
        return mu, (log_s - 2.0).clamp_min(-7.0)  # e^-7: as narrow as makes any difference on 256 levels

    def _event(self, mu: Tensor) -> Tensor:
        x = mu.clamp(-1, 1) * self.reach + self.middle
        return x.reshape(-1, *self.space.shape)


class GaussianObservation(nn.Module):
    """N(x; mu, s^2): centres mu (B, size) from the decoder, one learned scale s for each dimension.

    Args:
        space: continuous Real.
    """

    copies = 1

    def __init__(self, space: Real) -> None:
        super().__init__()
        self.space, self.inputs, self.outputs = space, space.size, space.size
        self.log_s = nn.Parameter(torch.full((space.size,), -0.5))

    def read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size)."""
        return x.flatten(1)

    def each(self, said: Tensor, x: Tensor) -> Tensor:
        """(B, size) log-density of each number."""
        log_s = self._scale(said)
        return -0.5 * ((x.flatten(1).to(said) - said) / log_s.exp()).square() - log_s - 0.5 * math.log(2 * math.pi)

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,) log-density."""
        return self.each(said, x).sum(-1)

    def centre(self, said: Tensor) -> Tensor:
        """(B, *event)."""
        return said.reshape(-1, *self.space.shape)

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, *event)."""
        noise = rows.normal(self.space.size, dtype=said.dtype)
        return self.centre(said + temperature * self._scale(said).exp() * noise)

    def _scale(self, said: Tensor) -> Tensor:
        return self.log_s.to(said).clamp(-6.0, 4.0)  # a density on constant columns would grow without end


class FieldsObservation(nn.Module):
    """A row of a table: each field is independent given the latent vector.

    Reals are Gaussian and count only where they are present; symbols are categories. Parameters are (B, outputs): all
    reals first, then the logits of each symbol, field by field.

    Args:
        space: Mixed.
    """

    copies = 1

    def __init__(self, space: Mixed, embed: int = 8) -> None:
        super().__init__()
        self.space = space
        self.reals = [f for f in space.fields if isinstance(f.space, Real)]
        self.symbols = [f for f in space.fields if isinstance(f.space, Tokens)]
        self.numbers = sum(f.space.size for f in self.reals)
        sizes = [n for f in self.symbols for n in _tokens(f).sizes]
        self.sizes = sizes
        self.gaussian = GaussianObservation(Real((max(1, self.numbers),)))
        self.embed = nn.Embedding(max(1, sum(sizes)), embed)
        self.register_buffer("start", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.inputs, self.outputs = self.numbers + embed * len(sizes), self.numbers + sum(sizes)

    def read(self, x: Tensor) -> Tensor:
        """(B, size) to (B, inputs): numbers, then an embedding of each symbol."""
        numbers, symbols, _ = self._parts(x)
        if not self.sizes:
            return numbers
        embedded = self.embed(symbols + self.get_buffer("start")).flatten(1)
        return torch.cat((numbers.to(embedded), embedded), dim=-1)

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,)"""
        numbers, symbols, there = self._parts(x)
        total = said.new_zeros(said.shape[0])
        if self.reals:
            total = total + torch.where(there, self.gaussian.each(said[:, : self.numbers], numbers), 0.0).sum(-1)
        for column, logits in enumerate(self._logits(said)):
            picked = logits.log_softmax(-1).gather(1, symbols[:, column, None])
            total = total + picked.squeeze(1)
        return total

    def centre(self, said: Tensor) -> Tensor:
        """(B, size): mean of each number, likeliest symbol of each column."""
        return self._join(said[:, : self.numbers], [logits.argmax(-1) for logits in self._logits(said)])

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, size)"""
        numbers = said[:, : self.numbers]
        if self.reals:
            numbers = self.gaussian.draw(numbers, rows.fork("numbers"), temperature)
        symbols = []
        for column, logits in enumerate(self._logits(said)):
            cold = logits / max(temperature, 1e-6)
            symbols.append(rows.fork("symbol", column).categorical(cold))
        return self._join(numbers, symbols)

    def _logits(self, said: Tensor) -> tuple[Tensor, ...]:
        return said[:, self.numbers :].split(self.sizes, dim=-1) if self.sizes else ()

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers (B, N), symbols (B, S) int64, and where numbers are present (B, N) bool."""
        parts = self.space.split(x)
        empty = x[:, :0]
        numbers = torch.cat([empty, *(parts[f.name].flatten(1) for f in self.reals)], dim=-1)
        symbols = torch.cat([empty.long(), *(parts[f.name] for f in self.symbols)], dim=-1)
        there = [self.space.present(parts, f)[:, None].expand(-1, f.space.size) for f in self.reals]
        return numbers, symbols, torch.cat([empty.bool(), *there], dim=-1)

    def _join(self, numbers: Tensor, symbols: list[Tensor]) -> Tensor:
        """Numbers (B, N) and one (B,) a symbol column to an event, absent numbers at 0."""
        parts: dict[str, Tensor] = {}
        columns = iter(symbols)
        for f in self.symbols:
            parts[f.name] = torch.stack([next(columns) for _ in range(f.space.size)], dim=-1)
        widths = [f.space.size for f in self.reals]
        for f, value in zip(self.reals, numbers.split(widths, dim=-1) if widths else (), strict=True):
            parts[f.name] = value
        for f in self.reals:
            parts[f.name] = torch.where(self.space.present(parts, f)[:, None], parts[f.name], 0.0)
        return self.space.join(parts)


VAE.engine = VAEEngine


def _tokens(field: Field) -> Tokens:
    assert isinstance(field.space, Tokens)
    return field.space


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
