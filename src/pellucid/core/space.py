"""Spaces: where families and domains meet. A domain encodes items into a space, a family models a space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import BadInput

__all__ = ["Field", "Mixed", "Real", "Space", "Tokens", "space_from_plain", "space_to_plain", "zeros"]


@dataclass(frozen=True)
class Real:
    """Real numbers of one shape.

    Args:
        shape: event shape, such as (1, 28, 28) or (6,).
        ragged: the last axis is padded, true sizes are in `Batch.lengths`.
        levels: values lie on this many evenly spaced points from `low` to `high` (pictures of 256 levels);
            None for continuous values. Density and probability differ there: see domains/bridges.py.
        low, high: ends of that grid.
    """

    shape: tuple[int, ...]
    ragged: bool = False
    levels: int | None = None
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.shape or any(n < 1 for n in self.shape):
            raise BadInput(f"Real shape is {self.shape}", accepted="at least one axis, each at least 1 long")
        if self.levels is not None and (self.levels < 2 or not self.low < self.high):
            raise BadInput(
                f"Real grid has {self.levels} levels from {self.low} to {self.high}",
                accepted="2 levels or more, low < high",
            )

    @property
    def size(self) -> int:
        """Numbers in one event."""
        return math.prod(self.shape)

    @property
    def step(self) -> float:
        """Distance between two neighbouring levels (0 when continuous)."""
        return 0.0 if self.levels is None else (self.high - self.low) / (self.levels - 1)


@dataclass(frozen=True)
class Tokens:
    """Symbols in a row.

    Args:
        vocab: symbols in the alphabet, or one number for each position (columns of a table).
        length: positions in one event (the longest, if `ends`).
        ends: symbol 0 ends the sequence and pads what follows.
        running: events are windows of one long text: the first symbol is no beginning, and windows may overlap
            (see `Batch.fresh`).
        ordered: at each position, how many of its first symbols are in order (numbers cut into bins); the others are
            names. Empty: nothing is known of an order. A hint for families that can use it: spaces that differ in
            nothing else are equal.
    """

    vocab: int | tuple[int, ...]
    length: int
    ends: bool = False
    running: bool = field(default=False, repr=False)
    ordered: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.vocab, tuple) and len(self.vocab) != self.length:
            raise BadInput(
                f"Tokens has {len(self.vocab)} alphabets for {self.length} positions",
                accepted="one number, or one a position",
            )
        if self.length < 1 or min(self.sizes) < 1:
            raise BadInput(
                f"Tokens(vocab={self.vocab}, length={self.length})", accepted="at least one position and one symbol"
            )
        if self.running and (self.ends or isinstance(self.vocab, tuple)):
            raise BadInput("Tokens of a running text end, or have an alphabet a position", accepted="one endless row")
        many = self.sizes if self.ordered else ()
        if len(many) != len(self.ordered) or not all(0 <= k <= n for k, n in zip(self.ordered, many, strict=True)):
            raise BadInput(f"ordered is {self.ordered}", accepted="one number a position, at most its symbols")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Alphabet size at each position."""
        return self.vocab if isinstance(self.vocab, tuple) else (self.vocab,) * self.length

    @property
    def symbols(self) -> int:
        """V: the largest alphabet."""
        return max(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def size(self) -> int:
        return self.length


@dataclass(frozen=True)
class Field:
    """One named part of a `Mixed` space.

    present: for a Real field, (name of a Tokens field, symbol): the number exists only where that field holds
    that symbol, and is 0 elsewhere. A missing value or a spike in a column is such an absence.
    """

    name: str
    space: Real | Tokens
    present: tuple[str, int] | None = None


@dataclass(frozen=True)
class Mixed:
    """Named fields side by side in one flat float event: numbers as they are, symbols as whole numbers."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        if not names or len(set(names)) != len(names):
            raise BadInput(f"Mixed fields are named {names}", accepted="at least one field, names distinct")
        for f in self.fields:
            if isinstance(f.space, Tokens) and f.space.symbols > 2**24:
                raise BadInput(
                    f"field '{f.name}' has {f.space.symbols} symbols",
                    accepted="at most 2^24, which float32 holds exactly",
                )
            if f.present is not None and f.present[0] not in names:
                raise BadInput(f"field '{f.name}' depends on '{f.present[0]}'", accepted=", ".join(names))

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(f.space.size for f in self.fields),)

    @property
    def size(self) -> int:
        return self.shape[0]

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """(B, size) to one tensor a field: (B, *field shape), int64 for symbols."""
        parts = x.split([f.space.size for f in self.fields], dim=-1)
        return {
            f.name: part.round().long() if isinstance(f.space, Tokens) else part.reshape(part.shape[0], *f.space.shape)
            for f, part in zip(self.fields, parts, strict=True)
        }

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`."""
        real = next((parts[f.name].dtype for f in self.fields if isinstance(f.space, Real)), torch.get_default_dtype())
        return torch.cat([parts[f.name].reshape(-1, f.space.size).to(real) for f in self.fields], dim=-1)

    def present(self, parts: Mapping[str, Tensor], field: Field) -> Tensor:
        """(B,) bool: does this field's number exist in each row?"""
        if field.present is None:
            return torch.ones(parts[field.name].shape[0], dtype=torch.bool, device=parts[field.name].device)
        return parts[field.present[0]][:, 0] == field.present[1]


Space = Real | Tokens | Mixed


def zeros(space: Space, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """(rows, *event) of zeros in the space's own dtype."""
    dtype = torch.int64 if isinstance(space, Tokens) else torch.float32
    return torch.zeros((rows, *space.shape), dtype=dtype, device=device)


def space_to_plain(space: Space) -> dict[str, Any]:
    """The space as JSON values.

    >>> space_to_plain(Tokens(5, 3))
    {'space': 'Tokens', 'vocab': 5, 'length': 3, 'ends': False}
    """
    if isinstance(space, Real):
        return {
            "space": "Real",
            "shape": list(space.shape),
            "ragged": space.ragged,
            "levels": space.levels,
            "low": space.low,
            "high": space.high,
        }
    if isinstance(space, Tokens):
        vocab = list(space.vocab) if isinstance(space.vocab, tuple) else space.vocab
        plain = {"space": "Tokens", "vocab": vocab, "length": space.length, "ends": space.ends}
        # what nobody says is left out, so that runs made before it could be said load
        plain |= {"running": True} if space.running else {}
        return plain | ({"ordered": list(space.ordered)} if space.ordered else {})
    fields = [
        {"name": f.name, "of": space_to_plain(f.space), "present": list(f.present) if f.present else None}
        for f in space.fields
    ]
    return {"space": "Mixed", "fields": fields}


def space_from_plain(plain: Mapping[str, Any]) -> Space:
    """The inverse of `space_to_plain`.

    >>> space_from_plain(space_to_plain(Real((2,), levels=17))) == Real((2,), levels=17)
    True
    """
    kind = plain.get("space")
    if kind == "Real":
        return Real(
            tuple(plain["shape"]), bool(plain["ragged"]), plain["levels"], float(plain["low"]), float(plain["high"])
        )
    if kind == "Tokens":
        vocab = plain["vocab"]
        sizes = tuple(vocab) if isinstance(vocab, list) else int(vocab)
        ordered = tuple(int(k) for k in plain.get("ordered", ()))
        return Tokens(sizes, int(plain["length"]), bool(plain["ends"]), bool(plain.get("running", False)), ordered)
    if kind == "Mixed":
        fields = []
        for f in plain["fields"]:
            inner = space_from_plain(f["of"])
            if isinstance(inner, Mixed):
                raise BadInput("a Mixed space inside a Mixed space", accepted="Real and Tokens fields")
            fields.append(Field(f["name"], inner, (f["present"][0], int(f["present"][1])) if f["present"] else None))
        return Mixed(tuple(fields))
    raise BadInput(f"space is {kind!r}", accepted="Real, Tokens, Mixed")
