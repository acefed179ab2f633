"""Pictures as events: each pixel's level is a point of an even grid from -1 to 1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Condition
from pellucid.core.codec import Codec, Domain, Measures
from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.domains.grid import grid_of, levels_of
from pellucid.domains.pictures import Pictures
from pellucid.domains.stored import no_tensors, stored_settings

__all__ = ["ImageCodec", "Images"]


@dataclass(frozen=True, kw_only=True)
class Images(Domain[Pictures]):
    """Settings of the picture domain.

    labels: make the class of each picture a condition, where pictures have classes.
    """

    kind = "images"

    labels: bool = True

    def learn(self, items: Pictures) -> ImageCodec:
        """A codec for pictures of this size and these classes."""
        if not len(items):
            raise BadInput("there are no pictures", accepted="at least one")
        labelled = [at for at, label in enumerate(items.labels or ()) if label] if self.labels else []
        classes = items.take(labelled).classes() if labelled else ()
        found = Counter(items.labels)
        height, width, channels = items.pixels.shape[1:]
        return ImageCodec(channels, height, width, items.levels, classes, tuple(found[c] for c in classes))


@dataclass(frozen=True, kw_only=True)
class _Stored:
    channels: int
    height: int
    width: int
    levels: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]


class ImageCodec(Codec[Pictures], Measures):
    """Level k of L becomes -1 + 2 k / (L - 1), and the nearest level is read back: nothing is lost.

    Args:
        channels, height, width: of one picture.
        levels: L, how many values a pixel can take.
        classes, counts: names of the classes and how many training pictures each had; both empty without classes.

    >>> codec = Images().learn(Pictures(pixels=np.full((2, 4, 4, 1), 255, np.uint8), labels=("a", "b")))
    >>> codec.space.shape, codec.conditions, codec.encode(Pictures(pixels=np.zeros((1, 4, 4, 1), np.uint8))).min()
    ((1, 4, 4), {'class': Tokens(vocab=2, length=1, ends=False)}, tensor(-1.))
    """

    kind = "images"

    def __init__(
        self, channels: int, height: int, width: int, levels: int, classes: tuple[str, ...], counts: tuple[int, ...]
    ) -> None:
        if channels not in (1, 3) or min(height, width) < 1 or not 2 <= levels <= 256:
            raise BadInput(
                f"pictures are {channels} x {height} x {width} with {levels} levels",
                accepted="1 or 3 channels, 2 to 256 levels",
            )
        if len(classes) != len(counts) or len(set(classes)) != len(classes) or any(n < 1 for n in counts):
            raise BadInput(f"{len(classes)} classes with counts {counts}", accepted="distinct names, each seen")
        self._space = Real((channels, height, width), levels=levels)
        self._levels, self._classes, self._counts = levels, classes, counts

    @property
    def space(self) -> Real:
        return self._space

    @property
    def conditions(self) -> Mapping[str, Space]:
        return {"class": Tokens(len(self._classes), 1)} if self._classes else {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their symbols."""
        return self._classes

    def encode(self, items: Pictures) -> Tensor:
        channels, height, width = self._space.shape
        if items.pixels.shape[1:] != (height, width, channels) or items.levels != self._levels:
            raise BadInput(
                f"pictures are {items.pixels.shape[1:]} (height, width, channels) with {items.levels} levels",
                accepted=f"{(height, width, channels)} with {self._levels} levels, as in training",
            )
        numbers = grid_of(self._space).numpy()[np.minimum(items.pixels, self._levels - 1)]
        return rearrange(torch.from_numpy(numbers), "b h w c -> b c h w").contiguous()

    def known(self, items: Pictures) -> Condition:
        """The class of each picture; a picture without a label (None or "") has none given."""
        if not self._classes:
            return Condition()
        if items.labels is None:
            return Condition.blank(self.conditions, len(items))
        symbol = {name: k for k, name in enumerate(self._classes)}
        if strange := sorted({label for label in items.labels if label and label not in symbol}):
            raise BadInput(
                f"class '{strange[0]}' was not in the training pictures",
                accepted=", ".join(self._classes),
                next=nearest(strange[0], self._classes),
            )
        values = torch.tensor([[symbol.get(label, 0)] for label in items.labels], dtype=torch.int64).reshape(-1, 1)
        return Condition({"class": values}, {"class": torch.tensor([bool(label) for label in items.labels])})

    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        symbols = {name: self._symbol(name, word) for name, word in where.items()}
        blank = Condition.blank(self.conditions, rows)
        return Condition(
            {k: torch.full_like(v, symbols.get(k, 0)) for k, v in blank.values.items()},
            {k: torch.full_like(g, k in symbols) for k, g in blank.given.items()},
        )

    def _symbol(self, name: str, word: object) -> int:
        if name not in self.conditions:
            accepted = ", ".join(self.conditions) or "none: these pictures have no classes"
            raise BadInput(f"condition '{name}' does not exist", accepted=accepted, next=nearest(name, self.conditions))
        if str(word) not in self._classes:
            raise BadInput(
                f"{name} is '{word}'", accepted=", ".join(self._classes), next=nearest(str(word), self._classes)
            )
        return self._classes.index(str(word))

    def prior(self, rows: Rows) -> Condition:
        if not self._classes:
            return Condition()
        frequency = torch.tensor(self._counts, dtype=torch.float64, device=rows.ids.device).log()
        symbol = rows.fork("prior class").categorical(frequency.expand(len(rows), 1, -1))  # (B, 1)
        return Condition({"class": symbol}, {"class": torch.ones_like(symbol[:, 0], dtype=torch.bool)})

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> Pictures:
        """The nearest levels; labels from the condition, "" where none is given."""
        if bool(torch.isnan(x).any()):
            raise BadInput("events hold NaN", accepted="numbers", why="no pixel level is nearest to it")
        level = levels_of(self._space, x.detach().cpu())
        pixels = rearrange(level.to(torch.uint8), "b c h w -> b h w c").contiguous().numpy()
        return Pictures(pixels=pixels, labels=self._labels(condition), levels=self._levels, source="decoded")

    def _labels(self, condition: Condition) -> tuple[str, ...] | None:
        if "class" not in condition.values or not bool(condition.given["class"].any()):
            return None
        symbols, given = condition.values["class"][:, 0].tolist(), condition.given["class"].tolist()
        return tuple(self._classes[symbol] if on else "" for symbol, on in zip(symbols, given, strict=True))

    def meets(self, items: Pictures, where: Mapping[str, object]) -> NDArray[np.bool_]:
        fulfilled = np.ones(len(items), dtype=np.bool_)
        for name, word in where.items():
            wanted = self._classes[self._symbol(name, word)]
            fulfilled &= np.array([label == wanted for label in items.labels or ("",) * len(items)], dtype=np.bool_)
        return fulfilled

    def tolerance(self) -> float:
        return 0.0

    def log_volume(self, x: Tensor) -> Tensor:
        """(B,) zeros: events lie on a grid, so their likelihoods are probabilities of pictures already."""
        return torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)

    def dimensions(self) -> int:
        return math.prod(self._space.shape)

    def show(self, items: Pictures, limit: int = 64) -> report.Pictures:
        first = items.take(range(min(limit, len(items))))
        return report.Pictures(first.shown(), captions=first.labels or ())

    def plain(self) -> dict[str, Any]:
        channels, height, width = self._space.shape
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "levels": self._levels,
            "classes": list(self._classes),
            "counts": list(self._counts),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ImageCodec:
        no_tensors(tensors)
        s = stored_settings(_Stored, plain)
        return cls(s.channels, s.height, s.width, s.levels, s.classes, s.counts)
