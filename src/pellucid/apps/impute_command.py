"""The command `pellucid impute`: a table with its missing cells filled by a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.apps.answers import Force, Json, Quiet, Seed, print_json

__all__ = ["impute"]


def impute(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    path: Annotated[str, typer.Argument(metavar="FILE", help="A table with the run's columns.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Table to write: .csv, .csv.gz, .tsv or .parquet.")],
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill the missing cells of a table, each row by what its other cells say."""
    from pellucid.apps.opened import items_for, opened
    from pellucid.core.run import event_record
    from pellucid.domains.write import check_target, write_items
    from pellucid.tasks.impute import impute as impute_in

    check_target(out, "table", force=force)
    model = opened(folder)
    items: Any = items_for(model, path)
    done = impute_in(model, items, seed=seed)
    written = write_items(done.items, out, force=force)
    notices = (*items.notices, *done.notices)
    if as_json:
        print_json({"rows": len(done.items), "out": str(written), "notices": [event_record(n) for n in notices]})
        return
    if not quiet:
        for notice in notices:
            typer.echo(f"· {notice.text}", err=True)
    typer.echo(f"{len(done.items):,} rows in {written}")
