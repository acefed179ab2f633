"""A report as JSON and back: what a run keeps on disk, from which every other form can be made again.

Each block is an object with its `type` and its fields, in the order in which they are declared. A number that is not
finite is null, and pictures are one PNG with the shape they had.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.core.blocks import (
    Bars,
    Block,
    Code,
    Curve,
    Data,
    Details,
    Frames,
    Heading,
    Json,
    Marker,
    Measured,
    Pictures,
    Prose,
    Row,
    Scatter,
    Series,
    Table,
    Verdict,
)
from pellucid.core.errors import BadInput
from pellucid.core.pixels import from_png, png
from pellucid.core.report import Page, Report
from pellucid.core.wording import clean

__all__ = ["lower", "read", "text"]

VERSION = 1
_MOST_PIXELS = 1 << 26  # a small file can claim a picture that fills the memory
_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (*typing.get_args(Block), Series, Marker, Measured)}


def text(report: Report) -> str:
    """The report as JSON text: the same report gives the same text.

    >>> print(text(Page("Loss", (Prose("It is **low**."),))))
    {"pellucid_report": 1, "kind": "Page", "title": "Loss", "blocks": [
    {"type": "Prose", "text": "It is **low**."}
    ]}
    <BLANKLINE>
    """
    head: Json = {"pellucid_report": VERSION, "kind": type(report).__name__, "title": clean(report.title)}
    blocks = ",\n".join(_dump(lower(block)) for block in report.blocks())
    return f'{_dump(head)[:-1]}, "blocks": [\n{blocks}\n]}}\n'  # a line per block, so that versions can be compared


def read(text: str) -> Page:
    """A report from its JSON: same title, same blocks.

    Raises:
        BadInput: the text is not a report of ours, or a block in it is not whole.

    >>> read(Page("Loss", (Prose("low"),)).to_json())
    <Page 'Loss'>
    """
    try:
        whole = json.loads(text)
        if not isinstance(whole, dict) or whole.get("pellucid_report") != VERSION:
            raise ValueError(f"'pellucid_report' is not {VERSION}")
        title, blocks = whole["title"], tuple(_read(block, _blocks()) for block in whole["blocks"])
        if not isinstance(title, str):
            raise TypeError("the title is not a text")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, RecursionError) as error:
        came = f"not a whole report: {type(error).__name__}: {error}"
        raise BadInput(came, accepted="JSON that a report's to_json() or save() wrote") from error
    return Page(title, blocks)


@functools.singledispatch
def lower(block: Block) -> dict[str, Json]:
    """JSON object of one block."""
    raise TypeError(f"{type(block).__name__} has no JSON form; register one in render_json.")


@lower.register(Bars)
@lower.register(Code)
@lower.register(Curve)
@lower.register(Details)
@lower.register(Frames)
@lower.register(Heading)
@lower.register(Prose)
@lower.register(Row)
@lower.register(Verdict)
def _(block: Block) -> dict[str, Json]:
    return _fields(block)


@lower.register
def _(block: Table) -> dict[str, Json]:
    marks: list[Json] = [[r, c, mark] for (r, c), mark in sorted(block.highlight.items())]
    return {**_fields(block), "highlight": marks}


@lower.register
def _(block: Scatter) -> dict[str, Json]:
    return {**_fields(block), "groups": {clean(name): _value(points.tolist()) for name, points in block.groups.items()}}


@lower.register
def _(block: Data) -> dict[str, Json]:
    return _fields(block)


@lower.register
def _(block: Pictures) -> dict[str, Json]:
    images = block.images
    if math.prod(images.shape[:3]) > _MOST_PIXELS:
        raise BadInput(f"Pictures of shape {images.shape}", accepted=f"at most {_MOST_PIXELS:,} pixels in one block")
    one = images.reshape(-1, *images.shape[2:])
    packed = base64.b64encode(png(one)).decode("ascii") if images.size else ""
    rest = {name: value for name, value in _fields(block).items() if name not in ("type", "images")}
    return {"type": "Pictures", "shape": list(images.shape), "png": packed, **rest}


def _dump(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _fields(block: Any) -> dict[str, Json]:
    names = [f.name for f in dataclasses.fields(block) if f.name not in ("images", "groups", "highlight")]
    return {"type": type(block).__name__, **{name: _value(getattr(block, name)) for name in names}}


def _value(value: Any) -> Json:
    if isinstance(value, typing.get_args(Block)):
        return lower(value)
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {clean(str(key)): _value(held) for key, held in value.items()}
    if isinstance(value, Sequence):
        return [_value(held) for held in value]
    if hasattr(value, "tolist"):  # an array of numbers, or one of them
        return _value(value.tolist())
    raise BadInput(f"Data holds a {type(value).__name__}", accepted="numbers, texts, lists, mappings of texts, None")


def _blocks() -> tuple[str, ...]:
    return tuple(kind.__name__ for kind in typing.get_args(Block))


def _read(plain: Any, accepted: Sequence[str]) -> Any:
    """The block, series, marker or measured number of one JSON object."""
    fields = dict(plain)
    name = fields.pop("type")
    if name not in accepted:
        raise ValueError(f"'{name}' where {', '.join(accepted)} can stand")
    kind = _TYPES[name]
    if kind is Pictures:
        fields["images"] = _images(fields.pop("shape"), fields.pop("png"))
    hints = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    for key, value in fields.items():
        if hints[key] == "str" and not isinstance(value, str):
            raise TypeError(f"'{key}' of {name} is not a text")
        if hints[key].startswith("Sequence[str]") and not all(isinstance(held, str) for held in value):
            raise TypeError(f"'{key}' of {name} are not texts")
    within = {"blocks": _blocks(), "steps": ("Pictures",), "series": ("Series",), "markers": ("Marker",)}
    for key, inner in within.items():
        if key in fields:
            fields[key] = [_read(held, inner) for held in fields[key]]
    if kind is Table:
        fields["rows"] = [[_cell(cell) for cell in row] for row in fields["rows"]]
        fields["highlight"] = {(int(r), int(c)): mark for r, c, mark in fields["highlight"]}
    if kind is Scatter:
        groups = fields["groups"].items()
        fields["groups"] = {name: [[_number(v) for v in point] for point in points] for name, points in groups}
    if kind is Measured or kind is Marker:
        key = "value" if kind is Measured else "at"
        fields[key] = _number(fields[key])
    return kind(**fields)


def _cell(cell: Any) -> Any:
    if isinstance(cell, dict):
        return _read(cell, ("Measured",))
    if isinstance(cell, list):
        raise TypeError("a list stands where a cell should")
    return cell


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _images(shape: Sequence[int], packed: str) -> Any:
    import numpy as np

    n, height, width, *channels = (int(size) for size in shape)
    if min(n, height, width) < 0 or channels not in ([], [3]) or n * height * width > _MOST_PIXELS:
        raise ValueError(f"pictures of shape {shape}")
    if not n * height * width:
        return np.zeros((n, height, width, *channels), np.uint8)
    one = from_png(base64.b64decode(packed, validate=True), (n * height, width, *channels))
    return one.reshape(n, height, width, *channels)
