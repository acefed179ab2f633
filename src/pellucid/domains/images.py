"""Pictures as events: each pixel's level is a point of an even grid from -1 to 1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Condition
from pellucid.core.codec import Codec, Domain, Measures, Remarks
from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed
from pellucid.core.settings import to_plain
from pellucid.core.space import Real, Space, Tokens
from pellucid.domains.captions import CaptionBook, learn_captions
from pellucid.domains.grid import grid_of, levels_of
from pellucid.domains.pictures import Pictures
from pellucid.domains.stored import no_tensors, stored_settings

__all__ = ["ImageCodec", "Images"]


@dataclass(frozen=True, kw_only=True)
class Images(Domain[Pictures]):
    """Settings of the picture domain.

    labels: make the class of each picture a condition, where pictures have classes.
    captions: make the caption of each picture a condition, where pictures have captions.
    """

    kind = "images"

    labels: bool = True
    captions: bool = True

    def learn(self, items: Pictures) -> ImageCodec:
        """A codec for pictures of this size and these classes."""
        if not len(items):
            raise BadInput("there are no pictures", accepted="at least one")
        labelled = [at for at, label in enumerate(items.labels or ()) if label] if self.labels else []
        classes = items.take(labelled).classes() if labelled else ()
        found = Counter(items.labels)
        height, width, channels = items.pixels.shape[1:]
        counts = tuple(found[c] for c in classes)
        book = None
        if self.captions and items.captions is not None:
            book = learn_captions(items.captions, items.labels if classes else None)
        return ImageCodec(channels, height, width, items.levels, classes, counts, book)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    channels: int
    height: int
    width: int
    levels: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    captions: CaptionBook | None


class ImageCodec(Codec[Pictures], Measures, Remarks):
    """Level k of L becomes -1 + 2 k / (L - 1), and the nearest level is read back: nothing is lost.

    Args:
        channels, height, width: of one picture.
        levels: L, how many values a pixel can take.
        classes, counts: names of the classes and how many training pictures each had; both empty without classes.
        book: words and sentences of the training captions, None without captions.

    >>> codec = Images().learn(Pictures(pixels=np.full((2, 4, 4, 1), 255, np.uint8), labels=("a", "b")))
    >>> codec.space.shape, codec.conditions, codec.encode(Pictures(pixels=np.zeros((1, 4, 4, 1), np.uint8))).min()
    ((1, 4, 4), {'class': Tokens(vocab=2, length=1, ends=False)}, tensor(-1.))
    """

    kind = "images"

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        levels: int,
        classes: tuple[str, ...],
        counts: tuple[int, ...],
        book: CaptionBook | None = None,
    ) -> None:
        if channels not in (1, 3) or min(height, width) < 1 or not 2 <= levels <= 256:
            raise BadInput(
                f"pictures are {channels} x {height} x {width} with {levels} levels",
                accepted="1 or 3 channels, 2 to 256 levels",
            )
        if len(classes) != len(counts) or len(set(classes)) != len(classes) or any(n < 0 for n in counts):
            raise BadInput(f"{len(classes)} classes with counts {counts}", accepted="distinct names, a count each")
        self._space = Real((channels, height, width), levels=levels)
        self._levels, self._classes, self._counts, self._book = levels, classes, counts, book

    @property
    def space(self) -> Real:
        return self._space

    @property
    def conditions(self) -> Mapping[str, Space]:
        spaces: dict[str, Space] = {"class": Tokens(len(self._classes), 1)} if self._classes else {}
        return spaces if self._book is None else {**spaces, "caption": self._book.space}

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
        """The class and the caption of each picture; where there is none ("" or None), none is given."""
        condition = Condition.blank(self.conditions, len(items))
        values, given = dict(condition.values), dict(condition.given)
        if self._classes and items.labels is not None:
            symbol = {name: k for k, name in enumerate(self._classes)}
            if strange := sorted({label for label in items.labels if label and label not in symbol}):
                raise BadInput(
                    f"class '{strange[0]}' was not in the training pictures",
                    accepted=", ".join(self._classes),
                    next=nearest(strange[0], self._classes),
                )
            found = [[symbol.get(label, 0)] for label in items.labels]
            values["class"] = torch.tensor(found, dtype=torch.int64).reshape(-1, 1)
            given["class"] = torch.tensor([bool(label) for label in items.labels], dtype=torch.bool)
        if self._book is not None and items.captions is not None:
            values["caption"] = self._book.write(items.captions)
            given["caption"] = values["caption"][:, 0] != 0
        return Condition(values, given)

    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        """The class and the caption that were named; words never seen are left out or read as a rare word."""
        said = {name: self._value(name, word) for name, word in where.items()}
        blank = Condition.blank(self.conditions, rows)
        return Condition(
            {k: said[k].expand(rows, -1).clone() if k in said else v for k, v in blank.values.items()},
            {k: torch.full_like(g, k in said) for k, g in blank.given.items()},
        )

    def remarks(self, where: Mapping[str, object]) -> tuple[Noticed, ...]:
        """Words of asked captions that were never seen in training."""
        asked = where.get("caption")
        if self._book is None or asked is None:
            return ()
        return self._book.remarks([str(one) for one in asked] if isinstance(asked, (list, tuple)) else [str(asked)])

    def _value(self, name: str, word: object) -> Tensor:
        """(1, length of the condition)."""
        if name not in self.conditions:
            accepted = ", ".join(self.conditions) or "none: these pictures have no classes and no captions"
            raise BadInput(f"condition '{name}' does not exist", accepted=accepted, next=nearest(name, self.conditions))
        if name == "caption" and self._book is not None:
            return self._book.asked(str(word))
        if str(word) not in self._classes:
            raise BadInput(
                f"{name} is '{word}'", accepted=", ".join(self._classes), next=nearest(str(word), self._classes)
            )
        return torch.tensor([[self._classes.index(str(word))]])

    def prior(self, rows: Rows) -> Condition:
        """Classes at their frequencies, and for each a caption of its class."""
        values, labels = {}, None
        if self._classes:
            frequency = torch.tensor(self._counts, dtype=torch.float64, device=rows.ids.device).log()
            values["class"] = rows.fork("prior class").categorical(frequency.expand(len(rows), 1, -1))  # (B, 1)
            labels = [self._classes[symbol] for symbol in values["class"][:, 0].tolist()]
        if self._book is not None:
            values["caption"] = self._book.prior(rows, labels)
        return Condition(values, {name: torch.ones_like(rows.ids, dtype=torch.bool) for name in values})

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> Pictures:
        """The nearest levels; labels and captions from the condition, "" where none is given."""
        if bool(torch.isnan(x).any()):
            raise BadInput("events hold NaN", accepted="numbers", why="no pixel level is nearest to it")
        level = levels_of(self._space, x.detach().cpu())
        pixels = rearrange(level.to(torch.uint8), "b c h w -> b h w c").contiguous().numpy()
        labels = self._words(condition, "class", lambda symbols: self._classes[int(symbols[0])])
        captions = None if self._book is None else self._words(condition, "caption", self._book.text)
        return Pictures(pixels=pixels, labels=labels, captions=captions, levels=self._levels, source="decoded")

    def _words(self, condition: Condition, name: str, word: Callable[[Tensor], str]) -> tuple[str, ...] | None:
        if name not in condition.values or not bool(condition.given[name].any()):
            return None
        values, given = condition.values[name].cpu(), condition.given[name].tolist()
        return tuple(word(symbols) if on else "" for symbols, on in zip(values, given, strict=True))

    def meets(self, items: Pictures, where: Mapping[str, object]) -> NDArray[np.bool_]:
        fulfilled = np.ones(len(items), dtype=np.bool_)
        for name, word in where.items():
            wanted = self._value(name, word)
            carried = self.known(items)
            equal = (carried.values[name] == wanted).all(dim=1) & carried.given[name]
            fulfilled &= equal.numpy()
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
        return report.Pictures(first.shown(), captions=first.under())

    def plain(self) -> dict[str, Any]:
        channels, height, width = self._space.shape
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "levels": self._levels,
            "classes": list(self._classes),
            "counts": list(self._counts),
            "captions": None if self._book is None else to_plain(self._book),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ImageCodec:
        no_tensors(tensors)
        s = stored_settings(_Stored, plain)
        return cls(s.channels, s.height, s.width, s.levels, s.classes, s.counts, s.captions)
