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
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import zeros
from pellucid.core.trace import Silent
from pellucid.explain.named import named, words_for

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Told", "redrawn", "told"]

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
    name = named(model, seed, index, where, how)
    ids = name.again("a row that was drawn around what is known cannot be drawn again otherwise")
    draw = model.sample(ids=ids, seed=seed, where=name.asked, how=name.how)
    other = {k: str(v) for k, v in name.other.items()}
    return Told(draw.items, draw.condition, name.how, int(ids[0]), words_for(model, draw.condition) | other, other)


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
    x = torch.cat(events) if events else zeros(model.codec.space, 0)
    items: Data = model.codec.decode(x, condition, Rows(seed, ids).fork("decode"))
    return items, x
