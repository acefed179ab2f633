"""Which sample is meant: seed, index and words name one row, whichever way the model has to draw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How
from pellucid.core.codec import Constrains
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import zeros

if TYPE_CHECKING:
    from pellucid.model import Draw, Fitted

__all__ = ["Named", "named", "words_for"]


@dataclass(frozen=True, eq=False)
class Named:
    """A sample that was named.

    ids: (1,) the id of its row, which is not the index where rows were chosen by rejection. asked: the words that are
    conditions of the model. other: those that were met by choosing among rows, or by drawing around what is known.
    found: the draw that holds it alone, where it had to be made to know the id; None where the id is the index.
    """

    ids: Tensor
    asked: dict[str, Any]
    other: dict[str, Any]
    how: How
    found: Draw | None

    def draw(self, model: Fitted, seed: int) -> Draw:
        """The draw of it alone."""
        if self.found is not None:
            return self.found
        return model.sample(ids=self.ids, seed=seed, where=self.asked, how=self.how)

    def again(self, why: str) -> Tensor:
        """The id by which the row can be drawn again on its own.

        Raises:
            BadInput: it was drawn around what is known, so it has none; `why` says what cannot be done then.
        """
        if self.found is not None and self.found.route == "completion":
            raise BadInput(
                why,
                accepted="words that are conditions of the model, or none",
                why="Too few rows that were drawn freely met the others.",
            )
        return self.ids


def named(
    model: Fitted, seed: int, index: int, where: Mapping[str, object] | None = None, how: How | None = None
) -> Named:
    """The sample (seed, index, where, how), found as `model.sample` finds it.

    Raises:
        BadInput: a negative index, or what `model.sample` refuses.
    """
    if index < 0:
        raise BadInput(f"index is {index}", accepted="0 or more")
    how, words = how or model.how(), dict(where or {})
    asked = {k: v for k, v in words.items() if k in model.codec.conditions}
    other = {k: v for k, v in words.items() if k not in asked}
    watched = isinstance(model.codec, Constrains) and bool(model.codec.watched())
    if not other and not watched:
        return Named(torch.tensor([index]), asked, other, how, None)
    draw = model.sample(index + 1, seed=seed, where=words, how=how)  # met by rejection: the row has another id
    last = slice(index, index + 1)
    found = replace(
        draw,
        items=draw.items.take([index]),
        x=draw.x[last],
        condition=draw.condition.take(last),
        ids=draw.ids[last],
    )
    return Named(found.ids, asked, other, how, found)


def words_for(model: Fitted, condition: Condition, row: int = 0) -> dict[str, str]:
    """What a row of a condition says, in the user's words; what is not given is left out."""
    given = [k for k, g in condition.given.items() if bool(g[row])]
    one = condition.take(slice(row, row + 1)).to("cpu")
    items = model.codec.decode(zeros(model.codec.space, 1), one, Rows(0, torch.zeros(1, dtype=torch.int64)))
    values = {"class": getattr(items, "labels", None), "caption": getattr(items, "captions", None)}
    frame = getattr(items, "frame", None)
    found: dict[str, str] = {}
    for name in given:
        told = values.get(name)
        if told is not None:
            found[name] = str(told[0])
        else:
            found[name] = str(frame[name].iloc[0]) if frame is not None and name in frame else "given"
    return found
