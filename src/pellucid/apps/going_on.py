"""`pellucid sample RUN --prompt TEXT`: a text goes on in the terminal, piece by piece as it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from pellucid.apps.answers import print_json
from pellucid.apps.opened import opened
from pellucid.core.settings import from_words
from pellucid.core.wording import clean
from pellucid.domains.pieces import visible
from pellucid.domains.texts import RULE
from pellucid.families.next_symbol import SymbolHow
from pellucid.tasks.continuation import go_on, go_on_many, slides

__all__ = ["go_on_here"]


def go_on_here(
    path: Path,
    prompt: str,
    count: int,
    length: int,
    seed: int,
    words: Mapping[str, str],
    stop: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what the model writes after the prompt; several continuations are written side by side."""
    model, how = opened(path), from_words(SymbolHow, dict(words))
    said = slides(model, prompt, length)
    if said and not (as_json or quiet):
        typer.echo(f"· {said}", err=True)
    if as_json or count > 1:
        texts = go_on_many(model, prompt, count, length=length, seed=seed, how=how, stop=stop)
        if as_json:
            notices = [said] if said else []
            print_json({"prompt": prompt, "seed": seed, "texts": [visible(t) for t in texts], "notices": notices})
            return
        typer.echo(f"\n{RULE}\n".join(clean(prompt + visible(text)) for text in texts))
        return
    typer.echo(clean(prompt), nl=False)
    for drawn in go_on(model, prompt, length=length, seed=seed, how=how, stop=stop):
        typer.echo(clean(visible(drawn.piece)), nl=False)
    typer.echo("")
