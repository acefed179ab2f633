"""Between a user's items and an engine's events: domains learn codecs, bridges join spaces.

A domain is settings for one kind of data; `learn` looks at the data and returns a codec. A bridge turns one
space into another, so that a family meets data it was not written for ("transformer on tables").
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import LogProb
from pellucid.core.errors import BadInput
from pellucid.core.report import Block
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed
from pellucid.core.space import Space, space_from_plain, space_to_plain

__all__ = ["Bridge", "Chain", "Codec", "Domain", "Identity", "Measures", "Remarks"]

Items = TypeVar("Items")


class Codec(abc.ABC, Generic[Items]):
    """Learned from training items; keeps everything needed to read and write items of that kind.

    kind: the domain's name ("images", "table"). A codec without `Measures` is lossy: likelihood is then refused.
    """

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def space(self) -> Space:
        """Space of the encoded event."""

    @property
    @abc.abstractmethod
    def conditions(self) -> Mapping[str, Space]:
        """Spaces of what items can be conditioned on (a class, a target column); may be empty."""

    @abc.abstractmethod
    def encode(self, items: Items) -> Tensor:
        """(B, *event)."""

    @abc.abstractmethod
    def known(self, items: Items) -> Condition:
        """The conditions these items carry, all given."""

    @abc.abstractmethod
    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        """What a user's words (`{"class": "7"}`) mean, for `rows` rows; names not said are not given.

        Raises BadInput for an unknown name or value, naming the accepted ones.
        """

    @abc.abstractmethod
    def prior(self, rows: Rows) -> Condition:
        """Conditions drawn at their training frequencies, all given: what is used when the user asks for none."""

    @abc.abstractmethod
    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> Items:
        """Events back to items; what the event leaves open (rounding inside a bin) is drawn from `rows`."""

    @abc.abstractmethod
    def meets(self, items: Items, where: Mapping[str, object]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(B,) bool: which items fulfil the user's words, also about parts that are no condition.

        Raises BadInput for a name that is neither, naming the accepted ones.
        """

    @abc.abstractmethod
    def tolerance(self) -> float:
        """Largest difference that decode(encode(items)) may show, relative to each column's range."""

    @abc.abstractmethod
    def show(self, items: Items, limit: int = 64) -> Block:
        """The items as people look at them."""

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """Everything but tensors, as JSON values."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Learned tensors."""

    @classmethod
    @abc.abstractmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Codec[Items]:
        """The inverse of `plain` and `tensors`; raises BadInput on values that do not fit."""


class Measures(abc.ABC):
    """A codec that is lossless up to its tolerance, so likelihoods can be said in the data's own units."""

    @abc.abstractmethod
    def log_volume(self, x: Tensor) -> Tensor:
        """(B,) log |d event / d item|: add it to log p(event) to get log p(item). 0 for discrete items."""

    @abc.abstractmethod
    def dimensions(self) -> int:
        """How many numbers one item has: bits per dimension divide by it."""


class Remarks(abc.ABC):
    """A codec that takes some of a user's words only in part, and says so."""

    @abc.abstractmethod
    def remarks(self, where: Mapping[str, object]) -> tuple[Noticed, ...]:
        """What is to be said about words that are taken all the same; a value may be a list, with one word a row."""


class Domain(abc.ABC, Generic[Items]):
    """Settings of one kind of data. Subclasses are frozen, keyword-only dataclasses."""

    kind: ClassVar[str]

    @abc.abstractmethod
    def learn(self, items: Items) -> Codec[Items]:
        """A codec fitted to these training items."""


class Bridge(abc.ABC):
    """Joins the space of a codec (`source`) to a space that a family accepts (`target`).

    May weaken an exact likelihood to a lower bound, never strengthen one. A bridge of the catalogue also has the
    class methods `fits(space)`, `learn(space, x)` and `from_plain(plain, tensors)`; bridges made of other bridges or
    engines are put together again by whoever knows those (`model.load`).
    """

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def source(self) -> Space: ...

    @property
    @abc.abstractmethod
    def target(self) -> Space: ...

    @abc.abstractmethod
    def there(self, x: Tensor, rows: Rows) -> Tensor:
        """(B, *source event) to (B, *target event)."""

    @abc.abstractmethod
    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """(B, *target event) to (B, *source event)."""

    @abc.abstractmethod
    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        """log p(y) at y = there(x, rows), with the same rows, to log p(x) or a bound of it."""

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """Everything but tensors, as JSON values."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Learned tensors."""


class Identity(Bridge):
    """The bridge between a space and itself."""

    name = "identity"

    def __init__(self, space: Space) -> None:
        self._space = space

    @property
    def source(self) -> Space:
        return self._space

    @property
    def target(self) -> Space:
        return self._space

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        return x

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        return y

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        return log_prob

    def plain(self) -> dict[str, Any]:
        return {"space": space_to_plain(self._space)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Identity:
        return cls(space_from_plain(plain["space"]))


class Chain(Bridge):
    """Two bridges one after the other."""

    name = "chain"

    def __init__(self, first: Bridge, second: Bridge) -> None:
        if first.target != second.source:
            raise BadInput(
                f"a bridge to {first.target} is followed by one from {second.source}", accepted="equal spaces"
            )
        self.first, self.second = first, second

    @property
    def source(self) -> Space:
        return self.first.source

    @property
    def target(self) -> Space:
        return self.second.target

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        return self.second.there(self.first.there(x, rows.fork("first")), rows.fork("second"))

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        return self.first.back(self.second.back(y, rows.fork("second")), rows.fork("first"))

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        middle = self.first.there(x, rows.fork("first"))
        return self.first.lift(self.second.lift(log_prob, middle, rows.fork("second")), x, rows.fork("first"))

    def plain(self) -> dict[str, Any]:
        return {"first": [self.first.name, self.first.plain()], "second": [self.second.name, self.second.plain()]}

    def tensors(self) -> dict[str, Tensor]:
        parts = {"first": self.first.tensors(), "second": self.second.tensors()}
        return {f"{place}.{name}": tensor for place, found in parts.items() for name, tensor in found.items()}
