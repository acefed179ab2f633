"""Between a user's items and an engine's events: domains learn codecs, bridges join spaces.

A domain is settings for one kind of data; `learn` looks at the data and returns a codec. A bridge turns one
space into another, so that a family meets data it was not written for ("transformer on tables").
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
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

__all__ = [
    "Bridge",
    "Carries",
    "Chain",
    "Codec",
    "Completes",
    "Constrains",
    "Domain",
    "Fills",
    "Identity",
    "Measures",
    "Part",
    "Remarks",
]

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


class Constrains(abc.ABC):
    """A codec whose items keep what was declared between their parts: `decode` gives no item that breaks an order.

    Most of it is kept by how items are written. What is not is watched: whoever draws items draws those again that
    decoding would have to move, so that the others follow the model.
    """

    @property
    @abc.abstractmethod
    def constraints(self) -> tuple[str, ...]:
        """Everything that was declared, in the user's words."""

    @abc.abstractmethod
    def watched(self) -> tuple[str, ...]:
        """Constraints that events may break, in the user's words; none when writing alone keeps them all."""

    @abc.abstractmethod
    def moved(self, x: Tensor, condition: Condition, rows: Rows) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(B,) bool: events that decoding has to move, or that break a constraint even so."""

    @abc.abstractmethod
    def broken(self, items: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(B,) bool: items that break a constraint."""


@dataclass(frozen=True, eq=False)
class Part:
    """What some of a user's words fix of an event.

    x: (*event,), 0 where nothing is fixed. known: (*event,) bool. names: whose words these are.
    """

    x: Tensor
    known: Tensor
    names: tuple[str, ...]


class Completes(abc.ABC):
    """A codec whose events stand for several parts of an item, each of which can be asked for."""

    @abc.abstractmethod
    def possible(self, where: Mapping[str, object]) -> None:
        """Raises BadInput for words that no item can meet, alone or together, naming what was accepted."""

    @abc.abstractmethod
    def part(self, where: Mapping[str, object]) -> tuple[Part, ...]:
        """One for each name whose word fixes a part of the event; other names are left out."""

    @abc.abstractmethod
    def levels(self, name: str) -> tuple[str, ...]:
        """The values that a part can have, in words. Raises BadInput for one that cannot be counted."""


class Fills(abc.ABC):
    """A codec of items of which parts may be missing."""

    @abc.abstractmethod
    def lacks(self, x: Tensor) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(B,) bool: which events have a missing part that could be there."""

    @abc.abstractmethod
    def filled(self, x: Tensor, pool: Tensor) -> Tensor:
        """(B, *event) with each missing part taken from the event of `pool` (n, *event) that is nearest in the rest."""


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


class Carries(abc.ABC):
    """A bridge that keeps parts of an event apart, so that a known part stays a known part."""

    @abc.abstractmethod
    def carry(self, known: Tensor) -> Tensor:
        """(*source event) bool to (*target event) bool: places that the known numbers alone decide."""


class Identity(Bridge, Carries):
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

    def carry(self, known: Tensor) -> Tensor:
        return known

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
