"""What the numbers and symbols of an event stand for: columns of a row, pixels of a picture, pieces of a text.

An explanation is computed on the engine's event and read by a person who knows the item. Which numbers belong to a
column is found by trying: other values are put into the column, and what changes in the event is its.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from torch import Tensor

from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Tokens
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.tables import TableCodec
from pellucid.domains.text_files import TextData

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Places", "cell_in_words", "fields_of", "places_of"]

PROBES = 64  # items whose values are tried


@dataclass(frozen=True, eq=False)
class Places:
    """The P parts of one item.

    kind: what a part is. names, values: of each part, as people read them.
    groups: (P,) tensors of positions in the flattened event.
    shape: (H, W) where the parts are the pixels of a picture, in reading order.
    """

    kind: Literal["column", "pixel", "symbol", "number"]
    names: tuple[str, ...]
    values: tuple[str, ...]
    groups: tuple[Tensor, ...]
    shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def said(self, part: int) -> str:
        """A part with its value.

        >>> Places("column", ("age",), ("17",), (torch.tensor([0]),)).said(0)
        'age = 17'
        """
        if self.kind == "symbol":
            return f"'{self.values[part]}' at {self.names[part]}"
        if self.kind == "pixel":
            return f"that in {self.names[part]}"
        return f"{self.names[part]} = {self.values[part]}" if self.values[part] else self.names[part]

    def sums(self, each: Tensor) -> Tensor:
        """Numbers of each position (B, *event) added up to numbers of each part (B, P)."""
        flat = each.flatten(1)
        return torch.stack([flat[:, group].sum(1) for group in self.groups], dim=1)

    def masks(self, parts: Tensor, like: Tensor) -> Tensor:
        """(M, P) bool to (M, *event) bool: the positions of these parts, in an event shaped as `like` (B, *event)."""
        out = torch.zeros(len(parts), like[0].numel(), dtype=torch.bool)
        for k, group in enumerate(self.groups):
            out[:, group] = parts[:, k, None].cpu()
        return out.reshape(len(parts), *like.shape[1:]).to(like.device)


def places_of(model: Fitted, item: Data, y: Tensor, others: Data) -> Places:
    """The parts of one item.

    Args:
        item: one item. y: (1, *event), its event. others: items of the same kind whose values are tried.

    Raises:
        MissingCapability: the engine works in a space in which the item's parts cannot be told apart.
    """
    if isinstance(item, TableData) and isinstance(model.codec, TableCodec):
        return _columns(model, model.codec, item, others)
    if isinstance(item, Pictures):
        return _pixels(model, item, y)
    space = model.bridge.target
    if isinstance(item, TextData) and isinstance(space, Tokens) and space == model.codec.space:
        length = int(item.lengths[0])
        codes = item.codes[int(item.starts[0]) :][:length].tolist()
        values = [item.pieces[c] if item.pieces else chr(c) if 32 <= c < 127 else f"\\x{c:02x}" for c in codes]
        if space.ends and length < space.length:
            values.append("(end)")
        names = tuple(f"place {k + 1}" for k in range(len(values)))
        return Places("symbol", names, tuple(values), _singles(len(values)))
    return _numbers(y, space if isinstance(space, Tokens) else None)


def cell_in_words(value: object) -> str:
    """A cell as people write it: days without a time of day, and gaps by name.

    >>> cell_in_words(pd.Timestamp("2022-08-07")), cell_in_words(float("nan")), cell_in_words(7)
    ('2022-08-07', 'missing', '7')
    """
    return "missing" if pd.isna(value) else str(value).removesuffix(" 00:00:00")  # type: ignore[call-overload]


def _numbers(y: Tensor, symbols: Tokens | None) -> Places:
    """Parts of an event of which nothing is known but itself."""
    flat, kind = y[0].flatten().tolist(), "symbol" if symbols is not None else "number"
    names = tuple(f"{'place' if symbols is not None else 'number'} {k + 1}" for k in range(len(flat)))
    values = tuple(f"{v:g}" for v in flat)
    return Places(kind, names, values, _singles(len(flat)))  # type: ignore[arg-type]


def _singles(n: int) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([k]) for k in range(n))


def fields_of(codec: TableCodec) -> dict[str, Tensor]:
    """Positions in the codec's event of each column that changes; columns kept together by a constraint are one."""
    return {" & ".join(columns): torch.tensor(at) for at, columns in _learned_as(codec).items()}


def _learned_as(codec: TableCodec) -> dict[tuple[int, ...], list[str]]:
    """Positions -> the columns that are learned there: several where they make one symbol."""
    space: Mixed = codec.space
    at, spans = 0, {}
    for field in space.fields:
        spans[field.name] = torch.arange(at, at + field.space.size)
        at += field.space.size
    groups = {c.name: codec.fields(c.name) for c in codec.columns}
    found: dict[tuple[int, ...], list[str]] = {}
    for name, fields in groups.items():
        if fields:
            found.setdefault(tuple(torch.cat([spans[f.name] for f in fields]).tolist()), []).append(name)
    return found


def _columns(model: Fitted, codec: TableCodec, item: TableData, others: Data) -> Places:
    x = codec.encode(others.take(range(min(PROBES, len(others)))))  # type: ignore[arg-type]
    rows = Rows(0, torch.arange(len(x))).fork("places")
    y = model.bridge.there(x, rows).flatten(1)
    names, values, groups, taken = [], [], [], torch.zeros(y.shape[1], dtype=torch.int64)
    for at, columns in _learned_as(codec).items():
        fields = torch.tensor(at)
        changed = torch.zeros(y.shape[1], dtype=torch.bool)
        for shift in (1, 7, 23):
            tried = x.clone()
            tried[:, fields] = x.roll(shift, 0)[:, fields]
            changed |= (model.bridge.there(tried, rows).flatten(1) != y).any(0)
        if bool(changed.any()):
            names.append(" & ".join(columns))
            values.append(" & ".join(cell_in_words(item.frame[name].iloc[0]) for name in columns))
            groups.append(changed.nonzero()[:, 0])
            taken += changed.long()
    if int(taken.max()) > 1:
        raise MissingCapability(
            f"'{model.name}' works in a learned space, where columns cannot be told apart",
            accepted="a model of the columns themselves",
            why="Each number there depends on several columns.",
        )
    return Places("column", tuple(names), tuple(values), tuple(groups))


def _pixels(model: Fitted, item: Pictures, y: Tensor) -> Places:
    _, height, width, channels = item.pixels.shape
    size = height * width * channels
    if tuple(model.codec.space.shape) != (channels, height, width) or y[0].numel() != size:
        raise MissingCapability(
            f"'{model.name}' works in a learned space, where pixels cannot be told apart",
            accepted="a model of the pixels themselves",
            why=f"An event has {y[0].numel()} numbers, a picture {size}.",
        )
    index = torch.arange(size)
    if y.ndim == 2:  # symbols in reading order, the channels of a pixel side by side
        groups = tuple(index.reshape(-1, channels))
    else:
        groups = tuple(index.reshape(channels, -1).T)
    names = tuple(f"row {r + 1}, column {c + 1}" for r in range(height) for c in range(width))
    shown = item.pixels[0].reshape(-1, channels)
    values = tuple(", ".join(str(int(v)) for v in pixel) for pixel in shown)
    return Places("pixel", names, values, groups, (height, width))
