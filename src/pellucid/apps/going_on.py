"""`pellucid sample RUN --prompt TEXT` or `--stream`: texts that are written in the terminal as they are drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from pellucid.apps.answers import print_json
from pellucid.apps.opened import opened
from pellucid.core.errors import BadInput
from pellucid.core.settings import from_words
from pellucid.core.wording import clean
from pellucid.domains.pieces import visible
from pellucid.domains.texts import RULE, TextCodec
from pellucid.families.next_symbol import SymbolHow
from pellucid.model import Fitted
from pellucid.tasks.beams import likeliest
from pellucid.tasks.constrained import symbols_of
from pellucid.tasks.continuation import go_on, go_on_many, slides

__all__ = ["go_on_here"]


def go_on_here(
    run: Path | Fitted,
    prompt: str,
    count: int,
    length: int,
    seed: int,
    words: Mapping[str, str],
    stop: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    *,
    match: str | None = None,
    grammar: str | None = None,
    stream: bool = False,
    beams: int | None = None,
) -> None:
    """Print what the model writes after the prompt.

    Several continuations are written side by side, or with `stream` one after another as they are drawn; with `beams`
    the likeliest ones, of which nothing is drawn.
    """
    model = run if isinstance(run, Fitted) else opened(run)
    how = from_words(SymbolHow, dict(words))
    kept = symbols_of(model, match=match, grammar=grammar) if match is not None or grammar is not None else None
    said = slides(model, prompt, length)
    if said and not (as_json or quiet):
        typer.echo(f"· {said}", err=True)
    if beams is not None:
        if words or stop or stream:
            raise BadInput("--beams came with --how, --stop or --stream", accepted="-n, --length, --match, --grammar")
        if count > beams:
            raise BadInput(f"-n is {count} with {beams} beams", accepted="as many beams or more")
        found = likeliest(model, prompt, beams=beams, length=length, within=kept)[:count]
        if as_json:
            likely = [{"text": visible(beam.text), "nats": round(beam.nats, 6)} for beam in found]
            print_json({"prompt": prompt, "beams": beams, "texts": likely})
            return
        typer.echo(f"\n{RULE}\n".join(clean(prompt + visible(beam.text)) for beam in found))
        return
    if as_json or (count > 1 and not stream):
        texts = go_on_many(model, prompt, count, length=length, seed=seed, how=how, stop=stop, within=kept)
        if as_json:
            notices = [said] if said else []
            print_json({"prompt": prompt, "seed": seed, "texts": [visible(t) for t in texts], "notices": notices})
            return
        typer.echo(f"\n{RULE}\n".join(clean(prompt + visible(text)) for text in texts))
        return
    lines = isinstance(model.codec, TextCodec) and model.codec.form == "lines"
    for row in range(count):
        if row and not lines:
            typer.echo(RULE)
        typer.echo(clean(prompt), nl=False)
        for drawn in go_on(model, prompt, length=length, seed=seed, how=how, stop=stop, within=kept, row=row):
            typer.echo(clean(visible(drawn.piece)), nl=False)
            sys.stdout.flush()
        typer.echo("")
