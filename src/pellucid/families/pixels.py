"""Pixel by pixel: guess the level of the next pixel from those above it and to its left.

    log P(x | c) = sum over pixels, in reading order, of log P(x_i | x_1, ..., x_{i-1}, c)

exactly, in the picture's own levels. van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, eq. 1, with the gated
convolutions of https://arxiv.org/abs/1606.05328. Of a coloured pixel the channels come one after another, each told of
those before it. What is said of a level is a softmax, or over many levels a mixture of logistics (Salimans et al. 2017,
https://arxiv.org/abs/1701.05517, eq. 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Family, How, Learns, LogProb, Part, Refusal, Samples, Scores, Training, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.nets.condition import ConditionEncoder, drop_conditions
from pellucid.nets.gated_pixels import GatedPixels
from pellucid.nets.inherit import inherit
from pellucid.nets.logistics import first_answer, level_masses, log_mass

__all__ = ["Pixels", "PixelsEngine"]

FEW = 1_000_000  # pixels that a net of the default size would learn by heart
FEW_LEVELS = 64  # up to so many each has a logit of its own
SMALL = 256  # pixels of a picture on which three rows and columns at a layer see enough
FIRST_SCALE = -2.0  # logarithm of the logistics' first scale, in half-ranges


@dataclass(frozen=True, kw_only=True)
class Pixels(Family):
    """Settings of gated convolutions over pixels.

    Args:
        width: channels; None: 32 for pictures up to 256 pixels, 48 beyond. depth: layers.
        kernel: odd; a layer sees kernel // 2 rows up, and so far to both sides. None: 3 for small pictures, 5 beyond.
        output: "softmax": a logit for each level; "logistic": a mixture of logistics. None: softmax up to 64 levels.
        components: logistics in a mixture.
        dropout: share of the channels that each layer adds which are left out in training, chosen once a row.
        forget: share of rows whose conditions are dropped in training.
        max_pixels: largest picture; sampling takes one step a pixel.
    """

    name: ClassVar[str] = "pixels"
    title: ClassVar[str] = "pixel by pixel (gated convolutions)"
    engine: ClassVar[type[nn.Module]]

    width: int | None = None
    depth: int = 6
    kernel: int | None = None
    output: Literal["softmax", "logistic"] | None = None
    components: int = 5
    dropout: float = 0.3
    forget: float = 0.1
    max_pixels: int = 4096

    def __post_init__(self) -> None:
        counts = {"width": self.width, "depth": self.depth, "components": self.components}
        for name, value in (counts | {"max_pixels": self.max_pixels}).items():
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")
        if self.kernel is not None and (self.kernel < 3 or self.kernel % 2 == 0):
            raise BadInput(f"kernel is {self.kernel}", accepted="an odd number of at least 3")
        if self.output not in (None, "softmax", "logistic"):
            raise BadInput(f"output is '{self.output}'", accepted="softmax, logistic")
        for name, share in {"dropout": self.dropout, "forget": self.forget}.items():
            if not 0.0 <= share < 1.0:
                raise BadInput(f"{name} is {share}", accepted="from 0 to below 1")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if isinstance(space, Tokens):
            return Refusal("this family needs rows and columns of pixels, and the symbols stand in one row",
                           instead="autoregressive, wavenet, lstm")  # fmt: skip
        if isinstance(space, Mixed) or len(space.shape) != 3:
            return Refusal("this family needs pictures of channels, height and width, and these items are none",
                           instead="wavenet_real for series, columns or trees for tables")  # fmt: skip
        if space.ragged:
            return Refusal("pictures have different sizes, and this family takes one", instead="pictures of one size")
        if space.levels is None:
            return Refusal("this family gives each level of a pixel a probability, and these pixels are continuous",
                           instead="flow, diffusion")  # fmt: skip
        pixels = space.shape[1] * space.shape[2]
        if pixels > self.max_pixels:
            return Refusal(f"pictures have {pixels} pixels, and max_pixels is {self.max_pixels}",
                           instead="smaller pictures, or a higher max_pixels")  # fmt: skip
        return None

    def parts(self) -> tuple[Part, ...]:
        gated = "van den Oord et al. 2016, https://arxiv.org/abs/1606.05328"
        return (
            Part("chain rule", "A picture is read pixel by pixel, row by row. Its probability is the probability of "
                 "the first pixel, times that of the second given the first, and so on. Nothing is approximated.",
                 "p(x) = product over i of p(x_i | x_1, ..., x_{i-1})",
                 "van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, eq. 1"),
            Part("two stacks", "One stack of convolutions looks at the rows above, the other at what is left of the "
                 "pixel and at what the first one says. Together they see all pixels before it near by, and no other.",
                 "", gated + ", section 2.3"),
            Part("gated units", "One half of each layer says what there is to add, the other half how much of it "
                 "passes. What is known of the picture moves both.",
                 "tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c)", gated + ", eq. 2 and 4"),
            Part("level probabilities", "What the layers found gives every level of the pixel a probability; training "
                 "raises that of the level which really stands there.", "P(x_i | x_1, ..., x_{i-1})"),
            Part("sampling", "Draw the first pixel, then the second given the first, and so on. What was computed for "
                 "earlier pixels is kept, so each step only adds one place.", "x_i ~ P(. | x_1, ..., x_{i-1})"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        pixels = max(1, space.size // space.shape[0])
        batch = max(8, min(64, 2048 // pixels))
        # few pictures are soon learned by heart: after 20 CPU-seconds of one thread on 1,348 digits, others cost 1.722
        # bits a pixel with dropout .1 and decay .01 at 3e-3, 1.710 with dropout .3, 1.692 as here; Muon 1.73 to 1.80
        decay = 1.0 if items * space.size < FEW else 0.01
        return Training(batch=batch, rate=5e-3, betas=(0.9, 0.98), weight_decay=decay, steps=2000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> PixelsEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Real):
            raise BadInput(f"the space is {space}", accepted="pictures of whole levels",
                           why=refusal.reason if refusal else "")  # fmt: skip
        with rows.seeding():
            engine = PixelsEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class PixelsEngine(nn.Module, Learns, Samples, Scores):
    """Every level of every channel has an embedding, and a pixel is the sum of its channels'."""

    def __init__(self, family: Pixels, space: Real, conditions: Mapping[str, Space]) -> None:
        super().__init__()
        assert space.levels is not None
        channels, height, across = space.shape
        self.family, self.space, self.levels, self.channels = family, space, space.levels, channels
        small = height * across <= SMALL
        width, kernel = family.width or (32 if small else 48), family.kernel or (3 if small else 5)
        self.body = GatedPixels(width, family.depth, kernel, height, across, conditioned=bool(conditions))
        self.logistic = family.output == "logistic" or (family.output is None and space.levels > FEW_LEVELS)
        each = 3 * family.components if self.logistic else space.levels
        self.level = nn.Embedding(channels * space.levels, width)
        self.within = nn.Embedding((channels - 1) * space.levels, width) if channels > 1 else None
        self.condition = ConditionEncoder(conditions, width)
        self.head = nn.Linear(width, channels * each)
        nn.init.normal_(self.level.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        first = first_answer(family.components, FIRST_SCALE) if self.logistic else torch.zeros(each)
        self.head.bias.data.copy_(first.repeat(channels))

    def turns(self) -> tuple[Turn, ...]:
        tables = [p for m in (self.level, self.within, self.head) if m is not None for p in m.parameters()]
        return (Turn("next pixel", list(self.parameters()), self.losses, tables=tables),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """-log P(x | c) / size in nats (B,)."""
        condition = drop_conditions(batch.condition, rows, self.family.forget)
        keep, share = None, self.family.dropout
        if self.training and share > 0.0:
            keep = (rows.fork("dropout").uniform(self.body.masks, self.body.width) >= share) / (1.0 - share)
        return -self._log_prob(batch.x, condition, keep) / self.space.size

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self._log_prob(batch.x, batch.condition), "exact")

    def settings(self) -> SymbolHow:
        return SymbolHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, C, H, W). The uniform numbers behind all levels of a picture are drawn at once."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        channels, height, across = self.space.shape
        like = self.head.weight.new_zeros(len(rows), 1)
        u = rows.fork("pixels").uniform(height, across, channels, dtype=torch.float64).to(like.device)
        cache = self.body.begin(len(rows), self._known(condition, like), like)
        k = torch.zeros(len(rows), height, across, channels, dtype=torch.int64, device=like.device)
        for r in range(height):
            self.body.row(cache, r)
            for c in range(across):
                h = self.body.pixel(cache, r, c)
                for channel in range(channels):
                    logits = self._every_level(self._said(h, k[:, r, c], channel))
                    # what a penalty looks back at are the levels drawn so far, in reading order
                    before = k.flatten(1)[:, : (r * across + c) * channels + channel]
                    k[:, r, c, channel] = draw_symbols(logits, u[:, r, c, channel], how, before)
                self.body.put(cache, r, c, self._embedded(k[:, r, c]))
        x = k.permute(0, 3, 1, 2).to(like.dtype) * self.space.step + self.space.low
        return x.contiguous()

    def level_logits(self, x: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W) to log-probabilities of every level of each pixel given those before, (B, H, W, C, levels)."""
        k, h = self._features(x, condition)
        each = [self._every_level(self._said(h, k, channel)) for channel in range(self.channels)]
        return torch.stack(each, dim=-2).log_softmax(-1)

    def _log_prob(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> Tensor:
        """(B,), in float32 at least."""
        k, h = self._features(x, condition, keep)
        total = torch.zeros((), dtype=torch.promote_types(h.dtype, torch.float32), device=h.device)
        for channel in range(self.channels):
            said, level = self._said(h, k, channel), k[..., channel]
            if self.logistic:
                cell = 2.0 / (self.levels - 1)
                each = log_mass(said, level.to(said) * cell - 1.0, cell)
            else:
                each = said.log_softmax(-1).gather(-1, level[..., None]).squeeze(-1)
            total = total + each.flatten(1).sum(1)
        return total

    def _features(self, x: Tensor, condition: Condition, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) to levels (B, H, W, C) and features (B, H, W, width) of the pixels before."""
        k = ((x - self.space.low) / self.space.step).round().long().clamp(0, self.levels - 1).permute(0, 2, 3, 1)
        vector = self._known(condition, self.head.weight.new_zeros(1).expand(len(x), 1))
        h: Tensor = self.body(self._embedded(k).permute(0, 3, 1, 2), vector, keep)
        return k, h.permute(0, 2, 3, 1)

    def _embedded(self, k: Tensor) -> Tensor:
        """Levels (..., C) to (..., width)."""
        first = torch.arange(self.channels, device=k.device) * self.levels
        out: Tensor = self.level(k + first).sum(-2)
        return out

    def _said(self, h: Tensor, k: Tensor, channel: int) -> Tensor:
        """What is said of a channel, (..., levels or 3 K): h (..., width), and levels k (..., C) of those before it."""
        if self.within is not None and channel:
            first = torch.arange(channel, device=k.device) * self.levels
            h = (h + self.within(k[..., :channel] + first).sum(-2)).relu()
        each = self.head.out_features // self.channels
        part = slice(channel * each, (channel + 1) * each)
        said = nn.functional.linear(h, self.head.weight[part], self.head.bias[part])
        return said.to(torch.promote_types(said.dtype, torch.float32))

    def _every_level(self, said: Tensor) -> Tensor:
        """(..., levels) logits."""
        return level_masses(said, self.levels) if self.logistic else said

    def _known(self, condition: Condition, like: Tensor) -> Tensor | None:
        """(B, width) of what is known of each row of `like` (B, 1); None where nothing can be."""
        return self.condition(condition, like) if self.condition.names else None


Pixels.engine = PixelsEngine
