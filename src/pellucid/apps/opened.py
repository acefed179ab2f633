"""What a path on the command line names: a run folder, or a script that is a model as it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.core.errors import BadInput
from pellucid.core.wording import clean
from pellucid.domains.kinds import Data
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import separated
from pellucid.model import Draw, Fitted, load

__all__ = ["as_it_is", "items_for", "opened"]


def opened(path: Path) -> Fitted:
    """The model of a run folder, or of a grammar's rules (.txt, .grammar); nothing in a file is executed."""
    if path.is_file() and path.suffix.lower() in (".txt", ".grammar"):
        from pellucid.tasks.rules import rules_model

        return rules_model(path)
    return load(path)


def as_it_is(draw: Draw) -> str:
    """The texts of a draw for a terminal, without what would steer it."""
    assert isinstance(draw.items, TextData)
    return clean(separated(draw.items))


def items_for(model: Fitted, path: str) -> Data:
    """The items of a file, read as the model's own were.

    Raises BadInput where they are of another kind.
    """
    from pellucid.domains.read import read
    from pellucid.domains.text_files import TextReading, read_text
    from pellucid.domains.texts import TextCodec

    if isinstance(model.codec, TextCodec) and model.codec.kind == "text":
        if not Path(path).is_file() and not Path(path).is_dir():
            raise BadInput(f"there is nothing at '{path}'", accepted="a text file")
        reading: Mapping[str, Any] = model.codec.reading()
        return read_text(path, TextReading(form=reading["form"], unit=reading["unit"]), fewest=1)
    options: dict[str, Any] = {"kind": model.codec.kind}
    return read(path, **options, **_like(model))


def _like(model: Fitted) -> dict[str, Any]:
    """How pictures and tables were read."""
    source = model.source or {}
    return {name: source[name] for name in ("target", "kinds", "size") if source.get(name)}
