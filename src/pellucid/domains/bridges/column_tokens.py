"""Tables become sentences of one symbol a column: numbers are cut into bins that hold equally many rows.

A column's state and its number share one position: the bins come first, in order, then the spikes and the missing
cell. Nothing is lost: inside its bin a number has a learned density, even on each of 8 pieces, so that

    log p(x) = log P(symbols) + sum over numbers of log p(number | bin)

is exact. Beyond the training rows the two end bins go on with an exponential tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge, Carries
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens, space_to_plain
from pellucid.domains.bridges.bins import Bins
from pellucid.domains.bridges.lifting import exactly
from pellucid.domains.stored import stored_settings, stored_space

__all__ = ["ColumnTokens"]

BINS = 64
PIECES = 8


@dataclass(frozen=True, kw_only=True)
class _Stored:
    source: Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """One position of the sentence.

    field, at: the field and which of its numbers or symbols stands here; None for the number of a folded state.
    state: (name, symbol, size) of the Tokens field that decides whether the number exists, if one does.
    folded: the state's own symbols stand here too.
    """

    field: Field
    at: int
    folded: bool = False

    def size(self, bins: Bins | None, state: int) -> int:
        """Symbols at this position; `state`: alphabet of the field that decides whether the number exists."""
        if bins is None:
            assert isinstance(self.field.space, Tokens)
            return self.field.space.sizes[self.at]
        absent = 0 if self.field.present is None else state - 1 if self.folded else 1
        return bins.count + absent

    def ordered(self, bins: Bins | None) -> int:
        """How many of the first symbols here are in order."""
        if bins is not None:
            return bins.count
        assert isinstance(self.field.space, Tokens)
        return self.field.space.ordered[self.at] if self.field.space.ordered else 0


class ColumnTokens(Bridge, Carries):
    """Mixed to Tokens: one position a symbol, and one a number together with the state that decides over it.

    Args:
        source: its Real fields are continuous and not ragged.
        bins: one for each number of the Real fields, in order.

    Where two numbers depend on one state, the first shares its position; the others have a symbol for "absent".
    """

    name = "column_tokens"

    def __init__(self, source: Mixed, bins: tuple[Bins, ...]) -> None:
        if not self.fits(source):
            raise BadInput(f"ColumnTokens got the space {source}", accepted="a Mixed space with continuous numbers")
        numbers = sum(f.space.size for f in source.fields if isinstance(f.space, Real))
        if len(bins) != numbers:
            raise BadInput(f"there are bins for {len(bins)} numbers", accepted=f"{numbers}, one for each number")
        self._source, self._bins = source, bins
        self._places = _places(source)
        self._bins_at = _bins_at(self._places, bins)
        sizes = [place.size(self._bins_at[i], self._state_size(place.field)) for i, place in enumerate(self._places)]
        ordered = tuple(place.ordered(self._bins_at[i]) for i, place in enumerate(self._places))
        self._target = Tokens(tuple(sizes), len(sizes), ordered=ordered)

    @classmethod
    def fits(cls, source: Space) -> bool:
        """Is this a space that the bridge can start from?"""
        if not isinstance(source, Mixed):
            return False
        return all(f.space.levels is None and not f.space.ragged for f in source.fields if isinstance(f.space, Real))

    @classmethod
    def learn(cls, source: Space, x: Tensor, bins: int = BINS, pieces: int = PIECES) -> ColumnTokens:
        """Cut the numbers of x (N, D) that exist."""
        if not isinstance(source, Mixed) or not cls.fits(source):
            raise BadInput(f"ColumnTokens got the space {source}", accepted="a Mixed space with continuous numbers")
        parts = source.split(x)
        learned = []
        for field in source.fields:
            if isinstance(field.space, Real):
                kept = parts[field.name].flatten(1)[source.present(parts, field)]  # (N present, size)
                learned += [Bins.learn(kept[:, k], bins, pieces) for k in range(field.space.size)]
        return cls(source, tuple(learned))

    @property
    def source(self) -> Mixed:
        return self._source

    @property
    def target(self) -> Tokens:
        return self._target

    @property
    def names(self) -> tuple[str, ...]:
        """The field that stands at each position: its number's, where a number and a state share it."""
        return tuple(place.field.name for place in self._places)

    def _state_size(self, field: Field) -> int:
        """Alphabet of the field that decides over this one; 1 when none does."""
        if field.present is None:
            return 1
        state = next(f.space for f in self._source.fields if f.name == field.present[0])
        assert isinstance(state, Tokens)
        return state.sizes[0]

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        parts = self._source.split(x)
        out = []
        for place, bins in zip(self._places, self._bins_at, strict=True):
            values = parts[place.field.name].flatten(1)[:, place.at]  # (B,)
            if bins is None:
                out.append(values)
                continue
            symbol = bins.of(values)
            if place.field.present is not None:
                name, here = place.field.present
                state = parts[name][:, 0]
                other = state - (state > here).long() if place.folded else torch.zeros_like(state)
                symbol = torch.where(state == here, symbol, bins.count + other)
            out.append(symbol)
        return torch.stack(out, dim=-1)

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """Each number drawn inside its bin; 0 where it does not exist."""
        columns: dict[str, list[Tensor]] = {f.name: [] for f in self._source.fields}
        u = rows.fork("column tokens").uniform(len(self._places), dtype=torch.float64)  # (B, T)
        for t, (place, bins) in enumerate(zip(self._places, self._bins_at, strict=True)):
            symbol = y[:, t].clamp(0, self._target.sizes[t] - 1)
            if bins is None:
                columns[place.field.name].append(symbol)
                continue
            columns[place.field.name].append(bins.draw(symbol.clamp(max=bins.count - 1), u[:, t]))
            if place.folded and place.field.present is not None:
                name, here = place.field.present
                other = symbol - bins.count
                state = torch.where(other < 0, here, other + (other >= here).long())
                columns[name].append(state)
            elif place.field.present is not None:
                last = columns[place.field.name][-1]
                columns[place.field.name][-1] = torch.where(symbol < bins.count, last, torch.zeros_like(last))
        parts = {f.name: torch.stack(columns[f.name], dim=-1).reshape(-1, *f.space.shape) for f in self._source.fields}
        for field in self._source.fields:
            if field.present is not None:
                there = self._source.present(parts, field).reshape(-1, *[1] * len(field.space.shape))
                parts[field.name] = torch.where(there, parts[field.name], torch.zeros_like(parts[field.name]))
        return self._source.join(parts).to(torch.float32)

    def carry(self, known: Tensor) -> Tensor:
        """A number is known with its state where both share a position."""
        parts = self._source.split(known[None].to(torch.float32))  # known ones are 1
        out = []
        for place, bins in zip(self._places, self._bins_at, strict=True):
            here = parts[place.field.name].flatten(1)[0, place.at] > 0
            if bins is not None and place.field.present is not None:
                here = here & (parts[place.field.present[0]][0, 0] > 0)
            out.append(here)
        return torch.stack(out)

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        parts = self._source.split(x)
        add = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        for place, bins in zip(self._places, self._bins_at, strict=True):
            if bins is not None:
                inside = bins.log_density(parts[place.field.name].flatten(1)[:, place.at])
                there = self._source.present(parts, place.field)
                add = add + torch.where(there, inside, torch.zeros_like(inside))
        return exactly(log_prob, add)

    def plain(self) -> dict[str, Any]:
        return {"source": space_to_plain(self._source)}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{k}.{name}": t for k, bins in enumerate(self._bins) for name, t in bins.tensors().items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ColumnTokens:
        source = stored_space(stored_settings(_Stored, plain).source)
        if not isinstance(source, Mixed):
            raise BadInput(f"ColumnTokens got the space {source}", accepted="a Mixed space")
        numbers = sum(f.space.size for f in source.fields if isinstance(f.space, Real))
        groups: list[dict[str, Tensor]] = [{} for _ in range(numbers)]
        for name, tensor in tensors.items():
            at, _, key = name.partition(".")
            if not at.isdecimal() or int(at) >= numbers:
                raise BadInput(f"tensor '{name}' belongs to no number", accepted=f"0 to {numbers - 1}")
            groups[int(at)][key] = tensor
        return cls(source, tuple(Bins.from_tensors(group) for group in groups))


def _places(source: Mixed) -> tuple[_Place, ...]:
    """Positions in field order; a state that is folded has none of its own."""
    folded: dict[str, str] = {}  # state -> the first number that depends on it
    for field in source.fields:
        if field.present is not None and isinstance(field.space, Real) and field.space.size == 1:
            state = next(f.space for f in source.fields if f.name == field.present[0])
            if isinstance(state, Tokens) and state.length == 1:
                folded.setdefault(field.present[0], field.name)
    out = []
    for field in source.fields:
        if field.name not in folded:
            shared = field.present is not None and folded.get(field.present[0]) == field.name
            out += [_Place(field, at, shared) for at in range(field.space.size)]
    return tuple(out)


def _bins_at(places: tuple[_Place, ...], bins: tuple[Bins, ...]) -> tuple[Bins | None, ...]:
    """The bins of each position that is a number."""
    left = iter(bins)
    return tuple(next(left) if isinstance(place.field.space, Real) else None for place in places)
