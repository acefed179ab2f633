"""The same noise, told something else: a sample drawn again under other conditions, everything else kept.

Row i of a draw depends on (model, seed, id, condition, how) alone, so whatever differs between two draws of one id
under two conditions was made by the conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Samples
from pellucid.core.codec import Constrains
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Told", "redrawn", "told", "words_for"]

BATCH = 250  # rows drawn at once


@dataclass(frozen=True, eq=False)
class Told:
    """A sample and what it was told.

    items: the sample. condition: one row. how: the settings. given: what was asked or drawn, in the user's words.
    other: parts that were met by rejection; nothing of the sample hangs on them but its choice.
    """

    items: Data
    condition: Condition
    how: How
    index: int
    given: dict[str, str]
    other: dict[str, str]


def told(model: Fitted, seed: int, index: int, where: Mapping[str, object] | None, how: How | None) -> Told:
    """Draw the sample (seed, index, where, how) and say what it was told.

    Raises:
        BadInput: a negative index, or what `model.sample` refuses. MissingCapability: the model cannot draw.
    """
    if index < 0:
        raise BadInput(f"index is {index}", accepted="0 or more")
    how, where = how or model.how(), dict(where or {})
    asked = {k: v for k, v in where.items() if k in model.codec.conditions}
    ids = torch.tensor([index])
    watched = isinstance(model.codec, Constrains) and bool(model.codec.watched())
    if len(asked) < len(where) or watched:  # met by rejection: the sample of this index has another id
        found = model.sample(index + 1, seed=seed, where=where, how=how)
        if found.route == "completion":
            raise BadInput(
                "a row that was drawn around what is known cannot be drawn again otherwise",
                accepted="words that are conditions of the model, or none",
            )
        ids = found.ids[index:]
    draw = model.sample(ids=ids, seed=seed, where=asked, how=how)
    other = {k: str(v) for k, v in where.items() if k not in asked}
    return Told(draw.items, draw.condition, how, int(ids[0]), words_for(model, draw.condition) | other, other)


def words_for(model: Fitted, condition: Condition, row: int = 0) -> dict[str, str]:
    """What a row of a condition says, in the user's words; what is not given is left out."""
    given = [k for k, g in condition.given.items() if bool(g[row])]
    one = condition.take(slice(row, row + 1))
    items = model.codec.decode(_blank(model, 1), one, Rows(0, torch.zeros(1, dtype=torch.int64)))
    found: dict[str, str] = {}
    for name in given:
        values = {"class": getattr(items, "labels", None), "caption": getattr(items, "captions", None)}.get(name)
        frame = getattr(items, "frame", None)
        if values is not None:
            found[name] = str(values[0])
        else:
            found[name] = str(frame[name].iloc[0]) if frame is not None and name in frame else "given"
    return found


def _blank(model: Fitted, rows: int) -> Tensor:
    from pellucid.core.space import zeros

    return zeros(model.codec.space, rows)


@torch.no_grad()
def redrawn(model: Fitted, seed: int, ids: Tensor, condition: Condition, how: How) -> tuple[Data, Tensor]:
    """The samples of these ids (B,) under other conditions (B rows); one id may stand in many rows.

    Returns:
        the items, and their events (B, *event) in the codec's space.

    Raises:
        MissingCapability: the model cannot draw.
    """
    engine = model.need(Samples, "draw samples")
    if not model.codec.conditions:
        raise MissingCapability(
            f"'{model.name}' was told nothing that could be changed",
            accepted="a model fitted with classes, captions or a target column",
            why="The data had none of them.",
        )
    device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
    model.engine.eval()
    events = []
    for at in range(0, len(ids), BATCH):
        rows, part = Rows(seed, ids[at : at + BATCH]), condition.take(slice(at, at + BATCH))
        y = engine.sample(rows.fork("sample").to(device), part.to(device), how, Silent())
        events.append(model.bridge.back(y.cpu(), rows.fork("bridge")))
    x = torch.cat(events) if events else _blank(model, 0)
    items: Data = model.codec.decode(x, condition, Rows(seed, ids).fork("decode"))
    return items, x
