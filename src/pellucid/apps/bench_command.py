"""The command `pellucid bench`: what explanations are worth, measured where the truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pellucid.apps.answers import Force, Json, Quiet, Seed, job, show
from pellucid.apps.words import check_report
from pellucid.core.errors import BadInput

__all__ = ["bench"]

bench = typer.Typer(help="Measure on this machine what the figures of this project are about.", no_args_is_help=True)


@bench.callback()
def _top() -> None:
    """Measure on this machine what the figures of this project are about."""


@bench.command()
def explain(
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where each row is kept as it ends; go on there later.")
    ] = None,
    rows: Annotated[str | None, typer.Option(metavar="NAME,...", help="Only these rows; see --list.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller forms of all rows: about three minutes.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure rows anew that FOLDER holds.")] = False,
    names: Annotated[bool, typer.Option("--list", help="List the rows with their bars.")] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Report to write: .html, .md, .json or .txt.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Are explanations right where the truth was planted? Exits with 1 when a bar is missed."""
    import importlib

    from pellucid.explain.bench.rows import ROWS, run_rows

    if names:
        for name, module in ROWS.items():
            print(f"{name:15} {importlib.import_module(module).BAR}")
        return
    if work is None:
        raise BadInput("bench explain has no --work", accepted="--work FOLDER, where its rows are kept")
    if work.exists() and not work.is_dir():
        raise BadInput(f"--work is '{work}', a file", accepted="a folder, which may be new")
    check_report(out, force)
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # figures of CPU time are of one thread
    try:
        with job(quiet or as_json) as (run, _):
            chosen = None if rows is None else [name.strip() for name in rows.split(",") if name.strip()]
            report = run_rows(work, rows=chosen, quick=quick, seed=seed, again=again, run=run)
    finally:
        torch.set_num_threads(threads)
    (work / "results.json").write_text(json.dumps(report.plain(), indent=1) + "\n", "utf-8")
    show(report, as_json, out, quiet)
    if not report.met:
        raise typer.Exit(1)
