"""Mixed events become plain real vectors: numbers stay, symbols become -1s and 1s spread over cells.

A number that does not exist (missing, or a spike) is filled with standard normal noise e, and

    log P(x) >= E[log p(y) - log N(e; 0, 1)],

the same argument as for the cells of symbols in codes.py. Up to 16 symbols a field is one-hot, above it is written
in bits: a column of 10,000 categories costs 14 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.core.capabilities import LogProb
from pellucid.core.codec import Bridge, Carries
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens, space_to_plain
from pellucid.domains.bridges.codes import read_bits, read_one_hot, spread, width_of, write_bits, write_one_hot
from pellucid.domains.bridges.lifting import at_least, exactly
from pellucid.domains.stored import no_tensors, stored_settings, stored_space

__all__ = ["Analog"]

MOST_ONE_HOT = 16


@dataclass(frozen=True, kw_only=True)
class _Stored:
    source: Mapping[str, Any]
    one_hot: int


class Analog(Bridge, Carries):
    """Mixed to continuous Real((D,)), field after field.

    Args:
        source: its Real fields are continuous and not ragged.
        one_hot: the largest alphabet written one-hot; two symbols are always one bit, and one symbol is nothing.

    >>> kind = Field("kind", Tokens(10_000, 1))
    >>> bridge = Analog(Mixed((kind, Field("size", Real((1,))))))
    >>> bridge.target.shape
    (15,)
    """

    name = "analog"

    def __init__(self, source: Mixed, one_hot: int = MOST_ONE_HOT) -> None:
        if not self.fits(source):
            raise BadInput(
                f"Analog got the space {source}",
                accepted="a Mixed space with continuous numbers, of which something can change",
            )
        if one_hot < 2:
            raise BadInput(f"one_hot is {one_hot}", accepted="2 or more")
        self._source, self._one_hot = source, one_hot

    @classmethod
    def fits(cls, source: Space) -> bool:
        """Is this a space that the bridge can start from?"""
        if not isinstance(source, Mixed):
            return False
        reals = [f.space for f in source.fields if isinstance(f.space, Real)]
        changes = bool(reals) or any(f.space.symbols > 1 for f in source.fields if isinstance(f.space, Tokens))
        return changes and all(r.levels is None and not r.ragged for r in reals)

    @classmethod
    def learn(cls, source: Space, x: Tensor) -> Analog:
        """Nothing has to be learned; x (N, D) is not looked at."""
        if not isinstance(source, Mixed):
            raise BadInput(f"Analog got the space {source}", accepted="a Mixed space")
        return cls(source)

    @property
    def source(self) -> Mixed:
        return self._source

    @property
    def target(self) -> Real:
        return Real((sum(self._width(f) for f in self._source.fields),))

    def _width(self, field: Field) -> int:
        """Numbers that a field takes."""
        if isinstance(field.space, Real):
            return field.space.size
        return sum(self._symbol_width(size) for size in field.space.sizes)

    def _symbol_width(self, size: int) -> int:
        return size if 2 < size <= self._one_hot else width_of(size)

    def _spans(self) -> Iterator[tuple[Field, slice]]:
        """Each field and where its numbers stand in y."""
        start = 0
        for field in self._source.fields:
            end = start + self._width(field)
            yield field, slice(start, end)
            start = end

    def there(self, x: Tensor, rows: Rows) -> Tensor:
        parts, out = self._source.split(x), []
        cells = rows.fork("analog cells").uniform(*self.target.shape, dtype=x.dtype)  # (B, D)
        noise = self._noise(rows, x.dtype)
        for field, span in self._spans():
            values = parts[field.name]
            if isinstance(field.space, Tokens):
                codes = [self._write(values[:, t], size) for t, size in enumerate(field.space.sizes)]
                out.append(spread(torch.cat(codes, dim=-1), cells[:, span]))
            elif field.present is None:
                out.append(values.flatten(1))
            else:
                there = self._source.present(parts, field)[:, None]  # (B, 1)
                out.append(torch.where(there, values.flatten(1), noise[field.name]))
        return torch.cat(out, dim=-1)

    def _noise(self, rows: Rows, dtype: torch.dtype) -> dict[str, Tensor]:
        """(B, size) for each field whose numbers may not exist: what stands in for them."""
        fields = [f for f in self._source.fields if f.present is not None]
        drawn = rows.fork("analog absent").normal(sum(f.space.size for f in fields), dtype=dtype)
        return dict(zip((f.name for f in fields), drawn.split([f.space.size for f in fields], dim=-1), strict=True))

    def _write(self, symbols: Tensor, size: int) -> Tensor:
        """(B,) to (B, width)."""
        symbols = symbols.clamp(0, size - 1)
        return write_one_hot(symbols, size) if 2 < size <= self._one_hot else write_bits(symbols, size)

    def back(self, y: Tensor, rows: Rows) -> Tensor:
        """Largest of a one-hot, signs of bits; numbers that do not exist become 0."""
        parts: dict[str, Tensor] = {}
        for field, span in self._spans():
            if isinstance(field.space, Tokens):
                widths = [self._symbol_width(size) for size in field.space.sizes]
                pieces = y[:, span].split(widths, dim=-1)
                read = [self._read(p, size) for p, size in zip(pieces, field.space.sizes, strict=True)]
                parts[field.name] = torch.stack(read, dim=-1)
            else:
                parts[field.name] = y[:, span].reshape(-1, *field.space.shape)
        for field in self._source.fields:
            if field.present is not None:
                there = self._source.present(parts, field).reshape(-1, *[1] * len(field.space.shape))
                parts[field.name] = torch.where(there, parts[field.name], torch.zeros_like(parts[field.name]))
        return self._source.join(parts).to(y.dtype)

    def carry(self, known: Tensor) -> Tensor:
        """All numbers of a known symbol are known; a number that may not exist is so with what decides over it."""
        parts, out = self._source.split(known[None].to(torch.float32)), []
        for field, span in self._spans():
            here = bool((parts[field.name] > 0).all())
            if field.present is not None:
                here = here and bool(parts[field.present[0]][0, 0] > 0)
            out.append(torch.full((span.stop - span.start,), here))
        return torch.cat(out)

    def _read(self, numbers: Tensor, size: int) -> Tensor:
        """(B, width) to (B,)."""
        return read_one_hot(numbers) if 2 < size <= self._one_hot else read_bits(numbers, size)

    def lift(self, log_prob: LogProb, x: Tensor, rows: Rows) -> LogProb:
        """A lower bound; the number stays exact where the space has no symbols."""
        parts = self._source.split(x)
        add = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        noise = self._noise(rows, x.dtype)
        for field in self._source.fields:
            if field.present is not None:
                e = noise[field.name].to(torch.float64)  # (B, size)
                density = (-0.5 * e**2 - 0.5 * math.log(2.0 * math.pi)).sum(1)
                add = add - torch.where(self._source.present(parts, field), torch.zeros_like(density), density)
        symbols = any(isinstance(f.space, Tokens) and f.space.symbols > 1 for f in self._source.fields)
        return at_least(log_prob, add) if symbols else exactly(log_prob, add)

    def plain(self) -> dict[str, Any]:
        return {"source": space_to_plain(self._source), "one_hot": self._one_hot}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Analog:
        no_tensors(tensors)
        stored = stored_settings(_Stored, plain)
        source = stored_space(stored.source)
        if not isinstance(source, Mixed):
            raise BadInput(f"Analog got the space {source}", accepted="a Mixed space")
        return cls(source, stored.one_hot)
