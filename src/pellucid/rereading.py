"""The data of a run, read again the way the run read it, and held against its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.core.bundle import Bundle, open_bundle
from pellucid.core.errors import BadBundle, BadInput
from pellucid.core.recipe import Source
from pellucid.core.run_folder import LEFTOVERS
from pellucid.core.settings import from_plain
from pellucid.domains.read import NAMED, read
from pellucid.model import Data

__all__ = ["check_same", "data_of", "reread"]


def data_of(folder: str | Path | None, moved: str | Path | None = None) -> Data:
    """The items a finished run was fitted on, read again and checked against its recipe.

    Args:
        moved: where they are now, if not where they were.
    """
    if folder is None:
        raise BadInput("the model has no run folder", accepted="a model loaded from one", next="Pass its data.")
    bundle = open_bundle(Path(folder), leftovers=LEFTOVERS)
    data = reread(bundle, moved)
    check_same(data, bundle.json("recipe.json"), Path(folder).name)
    return data


def reread(bundle: Bundle, moved: str | Path | None) -> Data:
    """The items of a run, from where it found them or from where they are now."""
    name = bundle.folder.resolve().name
    if not bundle.has("source.json") and moved is None:
        raise BadInput(
            f"the run '{name}' was not started from a path, so its data cannot be read again",
            next="Say where the data is: --data PATH on the command line, data=... in Python.",
        )
    try:
        source = from_plain(Source, bundle.json("source.json") if bundle.has("source.json") else {"path": ""})
    except BadInput as error:
        raise BadBundle(f"'{name}/source.json' does not say where the data is", why=str(error)) from error
    options: dict[str, Any] = {
        "kind": source.kind,
        "target": source.target,
        "kinds": dict(source.kinds) or None,
        "size": source.size,
    }
    options |= {"text": dict(source.text) or None}
    options |= {"constraints": source.constraints, "drop_breaking": source.drop_breaking}
    path = source.path if moved is None else moved
    try:
        return read(path, **options)
    except BadInput as error:
        if path in NAMED or Path(path).exists():
            raise
        raise BadInput(
            f"the data of '{name}' is no longer at '{path}'", next="Say where it is now: --data PATH."
        ) from error


def check_same(data: Data, recipe: Mapping[str, Any], name: str) -> None:
    """Refuse items that are not those of the recipe."""
    found = recipe.get("data") if isinstance(recipe, Mapping) else None
    if not isinstance(found, Mapping) or data.fingerprint() != found.get("fingerprint"):
        raise BadInput(
            f"the data of '{name}' is not what it was when the run began",
            why="Going on with other data would give results that no recipe describes.",
            next="Put the original data back, or fit anew.",
        )
