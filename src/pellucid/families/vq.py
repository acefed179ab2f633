"""Vector-quantised autoencoder: write an item in a few symbols of a learned alphabet, and rebuild it from them.

An encoder gives a vector z_e at each place of a coarse grid, the nearest of K learned codes e takes its place, and a
decoder rebuilds the item from the codes. Three terms train it (van den Oord et al. 2017, "Neural discrete
representation learning", https://arxiv.org/abs/1711.00937, eq. 3; sg stops the gradient),

    loss = -log p(x | z_q) + |sg(z_e) - e|^2 + beta |z_e - sg(e)|^2,     e the nearest code,

where the decoder's gradient goes past the choice as if it were not there: z_q = z_e + sg(e - z_e). Two departures:

- Vectors and codes have unit length, up to a constant (Yu et al. 2022, https://arxiv.org/abs/2110.04627, section 3.2).
- The middle term is soft, -tau log sum_k exp(-|sg(z_e) - e_k|^2 / 2 tau), as in EM for a mixture (Roy et al. 2018,
  https://arxiv.org/abs/1805.11063, section 3.1), with a trace of the same at a wide tau: codes that are nowhere the
  nearest are drawn to where the vectors are, by full steps of Adam as nothing else moves them, and come back to use.
  Moving them by hand would need counts over batches; so each item's loss stays its own.

Symbols alone draw nothing: a small autoregressive transformer learns P(codes | condition) beside it, as the paper's
PixelCNN does afterwards. For samples at their best, fit a larger model `through` this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    Quantises,
    Refusal,
    Samples,
    Scores,
    Training,
    Turn,
)
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.autoregressive import Autoregressive, AutoregressiveEngine, SymbolHow
from pellucid.nets.choose import is_picture
from pellucid.nets.convolution import ConvDecoder, ConvEncoder, map_size, refused_grid
from pellucid.nets.inherit import inherit
from pellucid.nets.mlp import MLP
from pellucid.nets.observation import observation_of

__all__ = ["VQ", "VQEngine", "VQHow"]

MOST_NUMBERS = 65536  # in one event: a net for more would not fit a desk
MOST_PLACES = 1024  # symbols of one item: the transformer's time grows with the square
MOST_CODES, MOST_SIZE = 16384, 64
MOST_WIDTH, MOST_DEPTH = 4096, 64  # what a desk can carry
SOFT = 0.02  # tau, in units of the squared length of a code: neighbours among 512 codes of 4 numbers feel each other
WIDE, TRACE = 0.5, 0.01  # the tau that reaches across the sphere, and its weight
LLOYD = 5  # rounds of k-means for the first codes


@dataclass(frozen=True)
class VQHow(How):
    """How to sample.

    Args:
        temperature: below 1 likelier symbols become likelier still; 1 is the model itself, 0 takes the likeliest.
        mean: return the centre of the decoder's distribution instead of drawing from it. The default for pictures,
            whose pixels would otherwise carry independent noise; rows of a table are drawn.
    """

    temperature: float = 1.0
    mean: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")


@dataclass(frozen=True, kw_only=True)
class VQ(Family):
    """Settings of a vector-quantised autoencoder.

    Args:
        codes: K, symbols of the alphabet. size: numbers in one code.
        grid: pixels along each side of the square that shares one symbol. None: 2 for pictures below 16 pixels a side,
            4 for all others.
        places: symbols of an item that is no picture.
        beta: weight of the last term of the loss, which keeps the encoder near its codes.
        width, depth: channels and blocks a stage (pictures), or size and number of blocks (rows); None: by the space.
        forget: share of rows whose conditions are dropped in training, so that the model also works without them.
    """

    name: ClassVar[str] = "vq"
    title: ClassVar[str] = "vector-quantised autoencoder"
    engine: ClassVar[type[nn.Module]]

    codes: int = 512
    size: int = 4
    grid: int | None = None
    places: int = 8
    beta: float = 0.25
    width: int | None = None
    depth: int | None = None
    forget: float = 0.1

    def __post_init__(self) -> None:
        limits = {"codes": (2, MOST_CODES), "size": (2, MOST_SIZE), "places": (1, MOST_PLACES)}
        limits |= {"width": (1, MOST_WIDTH), "depth": (1, MOST_DEPTH)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise BadInput(f"{name} is {value}", accepted=f"{least} to {most}")
        if wanted := refused_grid(self.grid):
            raise BadInput(f"grid is {self.grid}", accepted=wanted, why="Each stage of the encoder halves the sides.")
        if not 0.0 <= self.beta < math.inf:
            raise BadInput(f"beta is {self.beta}", accepted="0 or more")
        if not 0.0 <= self.forget < 1.0:
            raise BadInput(f"forget is {self.forget}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if isinstance(space, Tokens):
            return Refusal("items are rows of symbols already, which need no new alphabet",
                           instead="autoregressive, ngram")  # fmt: skip
        if isinstance(space, Real) and space.ragged:
            return Refusal("items have different lengths, and the grid of codes has one size", instead="autoregressive")
        if isinstance(space, Mixed) and any(isinstance(f.space, Real) and f.space.ragged for f in space.fields):
            return Refusal("a field has different lengths from row to row")
        if space.size > MOST_NUMBERS:
            return Refusal(f"one item has {space.size} numbers, at most {MOST_NUMBERS} are taken")
        if isinstance(space, Real) and is_picture(space):
            squeeze = self.squeeze(space)
            if squeeze > min(space.shape[1:]):
                return Refusal(f"one code would cover {squeeze} pixels a side, more than the picture has")
            places = math.prod(map_size(space.shape, squeeze))
            if places > MOST_PLACES:
                return Refusal(
                    f"one item would be {places} symbols, at most {MOST_PLACES} are taken", instead="a coarser grid"
                )
        elif self.grid is not None:
            return Refusal("a grid lies over pictures, and these items have no sides", instead="vq without grid")
        return None

    def squeeze(self, space: Real) -> int:
        """Pixels a side that share one code."""
        return self.grid or (2 if min(space.shape[1:]) < 16 else 4)

    def parts(self) -> tuple[Part, ...]:
        source = "van den Oord et al. 2017, https://arxiv.org/abs/1711.00937"
        return (
            Part("encoder", "Reads an item and gives one short vector at each place of a coarse grid.", "z_e(x)",
                 source + ", section 3"),
            Part("codebook", "A learned alphabet: at each place the nearest code takes the place of the vector, so the "
                 "item becomes a few symbols.", "z_q = e_k, k = argmin_j |z_e - e_j|", source + ", eq. 1 and 2"),
            Part("decoder", "Rebuilds the item from the codes: a distribution around a centre for each number.",
                 "p(x | z_q)", source),
            Part("loss", "Rebuild well; move the codes to where the vectors are; keep the vectors near their codes.",
                 "-log p(x | z_q) + |sg(z_e) - e|^2 + beta |z_e - sg(e)|^2", source + ", eq. 3"),
            Part("prior", "A small transformer learns which symbols follow which, so that the model can draw items of "
                 "its own.", "P(k_1, ..., k_T | c) = product over t of P(k_t | k_1, ..., k_{t-1}, c)",
                 source + ", section 3.3"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if isinstance(space, Real) and is_picture(space):
            return Training(batch=64, rate=2e-3, weight_decay=0.01, steps=3000)
        return Training(batch=256, rate=2e-3, weight_decay=0.01, steps=4000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> VQEngine:
        refusal = self.accepts(space, conditions)
        if refusal:
            raise BadInput(f"VQ got the space {space}", why=refusal.reason, next=refusal.instead)
        with rows.seeding():
            engine = VQEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class VQEngine(nn.Module, Learns, Prepares, Samples, Scores, Encodes, Decodes, Quantises):
    """Encoder, codes, decoder, and the transformer over the codes. Conditions concern the transformer alone."""

    def __init__(self, family: VQ, space: Space, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        self.family, self.space, self.picture = family, space, isinstance(space, Real) and is_picture(space)
        self.observation = observation_of(space)
        self.codes = nn.Parameter(torch.randn(family.codes, family.size))
        self.encoder: nn.Module
        self.decoder: nn.Module
        if isinstance(space, Real) and self.picture:
            squeeze = family.squeeze(space)
            self.sides = map_size(space.shape, squeeze)
            width, depth = family.width or (64 if min(space.shape[1:]) < 16 else 32), family.depth or 1
            self.encoder = ConvEncoder(space.shape, family.size, width=width, depth=depth, squeeze=squeeze)
            shape = (space.shape[0] * self.observation.copies, *space.shape[1:])
            self.decoder = ConvDecoder(family.size, shape, width=width, depth=depth, squeeze=squeeze)
        else:
            self.sides, numbers = (1, family.places), family.places * family.size
            width, depth = family.width or 256, family.depth or 2
            self.encoder = MLP(self.observation.inputs, numbers, width=width, depth=depth)
            self.decoder = MLP(numbers, self.observation.outputs, width=width, depth=depth, zero=True)
        self.prior = AutoregressiveEngine(Autoregressive(depth=2, forget=family.forget), self.symbols(), conditions)

    # -- Learns, Prepares ----------------------------------------------------------------------------------------

    def turns(self) -> tuple[Turn, ...]:
        own = [p for name, p in self.named_parameters() if not name.startswith("prior.")]
        return (
            Turn("rebuild", own, self.losses),
            Turn("prior", list(self.prior.parameters()), self.prior_losses, every=2, rate=2.0),
        )

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """The three terms of each row (B,), in nats a number, and squared distances as a share of a code's length."""
        z_e, e = self._vectors(batch.x), self._alphabet()
        close = z_e.detach() @ e.T / self.family.size  # (B, T, K) cosines
        chosen = nn.functional.embedding(close.argmax(-1), e.detach())
        soft = -SOFT * (close / SOFT).logsumexp(-1).mean(-1) - TRACE * WIDE * (close / WIDE).logsumexp(-1).mean(-1)
        kept = (z_e - chosen).square().mean((-2, -1))
        said = self._said(z_e + (chosen - z_e).detach())
        return soft + self.family.beta * kept - self.observation.log_prob(said, batch.x) / self.space.size

    def prior_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log P(codes | c) / places in nats (B,)."""
        with torch.no_grad():
            codes = self.quantise(batch.x)
        return self.prior.losses(Batch(codes, batch.ids, batch.condition), rows)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """The first codes: centres of the untrained encoder's vectors, found by a few rounds of k-means."""
        z = self._vectors(batch.x).flatten(0, 1).unique(dim=0)
        e = self._alphabet()
        few = min(len(z), len(e))
        e[:few] = z[torch.linspace(0, len(z) - 1, few, device=z.device).round().long()]
        for _ in range(LLOYD):
            nearest = (z @ e.T).argmax(-1)
            total = torch.zeros_like(e).index_add_(0, nearest, z)
            e = torch.where(total.norm(dim=-1, keepdim=True) > 1e-6, self._unit(total), e)
        self.codes.copy_(e)

    # -- Quantises, Encodes, Decodes -----------------------------------------------------------------------------

    def symbols(self) -> Tokens:
        return Tokens(self.family.codes, math.prod(self.sides))

    def quantise(self, x: Tensor) -> Tensor:
        return self._nearest(self._vectors(x))

    def rebuild(self, codes: Tensor) -> Tensor:
        return self.observation.centre(self._said(self._read(codes)))

    def log_rebuilt(self, x: Tensor, codes: Tensor) -> Tensor:
        return self.observation.log_prob(self._said(self._read(codes)), x)

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """(B, *latent): the codes of the item. There is one answer, so nothing is drawn."""
        z = self._read(self.quantise(x))
        return rearrange(z, "b (h w) d -> b d h w", h=self.sides[0]) if self.picture else z.flatten(1)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, *latent) to the centre (B, *event): each place is first moved to its nearest code."""
        z = rearrange(z, "b d h w -> b (h w) d") if self.picture else z.unflatten(1, (-1, self.family.size))
        return self.rebuild(self._nearest(z))

    def latent(self) -> Real:
        return Real((self.family.size, *self.sides) if self.picture else (self.family.size * self.family.places,))

    # -- Scores, Samples -----------------------------------------------------------------------------------------

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        """log p(x | c) >= log P(k(x) | c) + log p(x | z_q): one term of a sum over all codes."""
        codes = self.quantise(batch.x)
        prior = self.prior.log_prob(Batch(codes, batch.ids, batch.condition), rows).value
        return LogProb(prior + self.log_rebuilt(batch.x, codes), "lower_bound")

    def settings(self) -> VQHow:
        return VQHow(mean=self.picture)

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event); pictures are the decoder's centre unless `how` says otherwise."""
        if not isinstance(how, VQHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="VQHow", next="Start from engine.settings()")
        codes = self.prior.sample(rows.fork("codes"), condition, SymbolHow(temperature=how.temperature), trace)
        said = self._said(self._read(codes))
        if how.mean:
            return self.observation.centre(said)
        return self.observation.draw(said, rows.fork("observation"), how.temperature)

    # -- the pieces ----------------------------------------------------------------------------------------------

    def _vectors(self, x: Tensor) -> Tensor:
        """z_e (B, T, size) in reading order, of length sqrt(size): each number then has about unit spread."""
        h = self.observation.read(x)
        if self.picture:
            return self._unit(rearrange(self.encoder(h.reshape(-1, *self.space.shape)), "b d h w -> b (h w) d"))
        return self._unit(self.encoder(h).unflatten(1, (-1, self.family.size)))

    def _alphabet(self) -> Tensor:
        """e (K, size), of the same length."""
        return self._unit(self.codes)

    def _unit(self, z: Tensor) -> Tensor:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return nn.functional.normalize(z, dim=-1) * math.sqrt(self.family.size)

    def _nearest(self, z: Tensor) -> Tensor:
        """(B, T, size) to (B, T): on a sphere the nearest code is the one with the largest product."""
        return (z @ self._alphabet().to(z.dtype).T).argmax(-1)

    def _read(self, codes: Tensor) -> Tensor:
        """(B, T) to (B, T, size)."""
        return nn.functional.embedding(codes, self._alphabet())

    def _said(self, z_q: Tensor) -> Tensor:
        """What the decoder says about the item: (B, outputs)."""
        if self.picture:
            out = self.decoder(rearrange(z_q, "b (h w) d -> b d h w", h=self.sides[0])).flatten(1)
        else:
            out = self.decoder(z_q.flatten(1))
        return out.to(torch.promote_types(out.dtype, torch.float32))


VQ.engine = VQEngine
