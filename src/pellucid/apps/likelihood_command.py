"""The command `pellucid likelihood`: how likely a file is to a model, in nats and bits for each symbol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["likelihood"]


def likelihood(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a grammar file.", show_default=False)],
    path: Annotated[str, typer.Argument(metavar="FILE", help="Items of the kind the run learned.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", help="Start of every random number.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Report to write: .html, .md, .json or .txt.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show the answer only.")] = False,
) -> None:
    """How likely is this file to a model? Nats and bits per symbol."""
    from pellucid.apps.opened import items_for, opened
    from pellucid.apps.words import check_outside, check_report
    from pellucid.tasks.likelihood import likelihood as likelihood_of

    check_report(out, force)
    check_outside(out, folder)
    model = opened(folder)
    items: Any = items_for(model, path)
    if not (as_json or quiet):
        for notice in items.notices:
            typer.echo(f"· {notice.text}", err=True)
    report = likelihood_of(model, items, seed=seed)
    if out is not None:
        report.save(out)
    if as_json:
        print(json.dumps(report.headline(), indent=2, ensure_ascii=False))
    elif not (quiet and out is not None):
        report.to_terminal()
