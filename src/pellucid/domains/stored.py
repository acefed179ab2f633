"""Reading back what a codec or a bridge stored: every value is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.settings import from_plain
from pellucid.core.space import Space, space_from_plain

__all__ = ["no_tensors", "stored_settings", "stored_space", "stored_tensor"]

S = TypeVar("S")


def stored_settings(cls: type[S], plain: Mapping[str, Any]) -> S:
    """A dataclass from JSON values; unknown, missing and mistyped values are all `BadInput`."""
    if not isinstance(plain, Mapping):
        raise BadInput(f"{cls.__name__} is stored as {type(plain).__name__}", accepted="an object with named values")
    try:
        return from_plain(cls, plain)
    except TypeError as error:  # a missing value, here or in a nested object
        raise BadInput(f"{cls.__name__} is stored incompletely ({error})", accepted="every value") from error


def stored_space(plain: Any) -> Space:
    """A space from JSON values.

    >>> stored_space({"space": "Tokens", "vocab": 5})
    Traceback (most recent call last):
    ...
    pellucid.core.errors.BadInput: space is stored incompletely or mistyped (...). ...
    """
    try:
        return space_from_plain(plain)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"space is stored incompletely or mistyped ({error!r})", accepted="what space_to_plain writes"
        ) from error


def stored_tensor(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float64
) -> Tensor:
    """The tensor of this name, of this dtype and shape (None: any size), all of it finite."""
    if name not in tensors:
        raise BadInput(f"tensor '{name}' is not there", accepted=f"tensors with one of {dtype}, {shape}")
    found = tensors[name]
    fits = found.ndim == len(shape) and all(w is None or w == n for w, n in zip(shape, found.shape, strict=True))
    if found.dtype != dtype or not fits:
        raise BadInput(f"tensor '{name}' is {found.dtype} of shape {tuple(found.shape)}", accepted=f"{dtype}, {shape}")
    if not bool(torch.isfinite(found).all()):
        raise BadInput(f"tensor '{name}' holds numbers that are not finite", accepted="finite numbers")
    return found.detach().cpu().contiguous()


def no_tensors(tensors: Mapping[str, Tensor], *accepted: str) -> None:
    """Refuse tensors of names that nobody reads."""
    if strange := sorted(set(tensors) - set(accepted)):
        raise BadInput(f"tensors {', '.join(strange)} are unknown", accepted=", ".join(accepted) or "no tensors")
