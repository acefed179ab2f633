"""What a user asks of a draw, before it is looked at what the model can do: names, words, lists of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.codec import Codec
from pellucid.core.errors import BadInput, shown

__all__ = ["Where", "condition_of", "in_words", "listed", "names_of", "refuse_lists"]

Where = Mapping[str, object]


def names_of(n: int | None, ids: Tensor | Sequence[int] | None) -> Tensor:
    """(B,) int64 names of the samples."""
    if ids is None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise BadInput(f"n is {shown(n)}", accepted="a whole number of at least 0")
        return torch.arange(int(n))
    names = torch.as_tensor(ids)
    if names.dtype.is_floating_point and len(names):
        raise BadInput(f"ids are {names.dtype}", accepted="whole numbers")
    names = names.to(torch.int64).reshape(-1)
    if n is not None and n != len(names):
        raise BadInput(f"n is {n} but there are {len(names)} ids", accepted="one of the two, or equal numbers")
    return names


def listed(option: str, said: Where | None, rows: int) -> dict[str, Any]:
    """The words, each one value or a list of as many as there are rows."""
    words = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in (said or {}).items()}
    for name, value in words.items():
        if isinstance(value, (list, tuple)) and len(value) != rows:
            raise BadInput(f"{option}['{name}'] lists {len(value)} values", accepted=f"one value, or {rows}")
    return words


def refuse_lists(words: Where, unlike: Where, other: Where) -> None:
    for name, value in words.items():
        if isinstance(value, (list, tuple)):
            raise BadInput(
                f"{'against' if name in unlike else 'where'}['{name}'] is a list",
                accepted="one value",
                why=f"{', '.join(other)} is no condition of the model, so rows are drawn until enough meet it.",
            )


def condition_of(codec: Codec[Any], name: str, value: object, rows: int) -> Condition:
    """One value for all rows, or a list with one value a row."""
    if not isinstance(value, (list, tuple)):
        return codec.asked({name: value}, rows)
    each = {v: codec.asked({name: v}, 1) for v in dict.fromkeys(value)}
    return Condition.cat([each[v] for v in value]) if value else codec.asked({}, 0).nothing(0)


def in_words(where: Where) -> str:
    return ", ".join(f"{k}={v}" for k, v in where.items())
