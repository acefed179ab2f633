"""Frozen settings to plain JSON values and back, in one place; an unknown key is an error with the nearest name."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from pellucid.core.errors import BadInput, nearest, shown

__all__ = ["from_plain", "from_words", "to_plain"]

S = TypeVar("S")


def to_plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON values (tuples become lists), without fields whose metadata says "plain": False.

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Sizes:
    ...     widths: tuple[int, ...] = (32, 64)
    >>> to_plain(Sizes())
    {'widths': [32, 64]}
    """
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if _is_plain(f)}


def _is_plain(f: dataclasses.Field[Any]) -> bool:
    """Is the field a JSON value? A tensor that is handed over for one call is not."""
    return f.init and bool(f.metadata.get("plain", True))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def from_plain(cls: type[S], values: Mapping[str, Any]) -> S:
    """Settings of class `cls` from JSON values, each checked against the field's declared type.

    Raises:
        BadInput: an unknown key (with the nearest right one), a value of the wrong type, or a needed one missing.
    """
    if not isinstance(values, Mapping):
        raise BadInput(f"{cls.__name__} is {shown(values)}", accepted="an object of named settings")
    hints = _hints(typing.cast(Hashable, cls))
    known = {f.name: f for f in dataclasses.fields(cls) if _is_plain(f)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise BadInput(
                f"{shown(key)} is no setting of {cls.__name__}",
                accepted=", ".join(known) or "no settings",
                next=nearest(str(key), known),
            )
    needed = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING and n not in values]
    if needed:
        raise BadInput(f"{cls.__name__} lacks {', '.join(needed)}", accepted="a value for each")
    return cls(**{key: _typed(cls.__name__, key, hints[key], value) for key, value in values.items()})


def from_words(cls: type[S], words: Mapping[str, str], start: S | None = None) -> S:
    """Settings from text, as a command line gives them (`steps=20`), changed from `start` when given."""
    hints = _hints(typing.cast(Hashable, cls))
    read = {key: _read(hints[key], text) if key in hints else text for key, text in words.items()}
    if start is None:
        return from_plain(cls, read)
    return from_plain(cls, {**to_plain(start), **read})


def _read(hint: Any, text: str) -> Any:
    options = _options(hint)
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    if bool in options and text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    if tuple in {typing.get_origin(o) for o in options}:
        return [_number(part) for part in text.split(",") if part]
    if int in options or float in options:
        return _number(text)
    return text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(o for part in typing.get_args(hint) for o in _options(part))
    return (hint,)


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    """Declared types by field; kept, because each asking compiles their text again."""
    return typing.get_type_hints(cls)


def _typed(owner: str, key: str, hint: Any, value: Any) -> Any:
    for option in _options(hint):
        origin = typing.get_origin(option)
        if option is type(None) and value is None:
            return None
        if origin is typing.Literal and value in typing.get_args(option):
            return value
        if option is bool and isinstance(value, bool):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
            return float(value)
        if option is str and isinstance(value, str):
            return value
        if origin is tuple and isinstance(value, (list, tuple)):
            inner = typing.get_args(option)
            each = inner[0] if len(inner) == 2 and inner[1] is Ellipsis else None
            if each is None and len(inner) != len(value):
                continue
            return tuple(_typed(owner, key, each or inner[i], v) for i, v in enumerate(value))
        if (option is dict or origin in (dict, Mapping) or str(origin).endswith("abc.Mapping'>")) and isinstance(
            value, Mapping
        ):
            return dict(value)
        if isinstance(option, type) and dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_plain(option, value)
        if isinstance(option, type) and dataclasses.is_dataclass(option) and isinstance(value, option):
            return value
    choices = [str(c) for o in _options(hint) if typing.get_origin(o) is typing.Literal for c in typing.get_args(o)]
    raise BadInput(f"{owner}.{key} is {shown(value)}", accepted=_wanted(hint), next=nearest(str(value)[:80], choices))


def _wanted(hint: Any) -> str:
    """A type as people say it.

    >>> _wanted(int | None), _wanted(tuple[float, ...]), _wanted(typing.Literal["adam", "sgd"])
    ('a whole number or nothing', 'a list, each a finite number', 'adam, sgd')
    """
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        type(None): "nothing",
    }
    said = []
    for option in _options(hint):
        origin = typing.get_origin(option)
        if origin is typing.Literal:
            said.append(", ".join(map(str, typing.get_args(option))))
        elif origin is tuple:
            inner = [_wanted(o) for o in typing.get_args(option) if o is not Ellipsis]
            said.append(f"a list, each {inner[0]}" if len(set(inner)) == 1 else f"a list of {', '.join(inner)}")
        elif origin is not None or (isinstance(option, type) and dataclasses.is_dataclass(option)):
            said.append("an object of named values")
        else:
            said.append(words.get(option, getattr(option, "__name__", str(option))))
    return " or ".join(dict.fromkeys(said))


def _is_finite(number: float) -> bool:
    """False for infinities, NaN, and whole numbers beyond every float: none of them can be kept as JSON."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
