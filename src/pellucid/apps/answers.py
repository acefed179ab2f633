"""What every command does around its work: tell and be stopped, show an answer, save it, find the data of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pellucid.apps.terminal import Terminal
    from pellucid.core.report import Report
    from pellucid.core.run import Run

__all__ = ["DataPath", "Force", "Json", "Quiet", "RunFolder", "Seed", "Where", "job", "print_json", "save", "show"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show the answer only: no notices, no progress.")]
Seed = Annotated[int, typer.Option("--seed", help="Start of every random number.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="NAME=VALUE",
        help="What the items shall be, as caption='a red circle'; also COLUMN=>=30 or COLUMN=30..40; repeatable.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder that `pellucid fit --out` made.", show_default=False)
]
DataPath = Annotated[Path | None, typer.Option("--data", help="The data the run was fitted on, if it has moved.")]


@contextmanager
def job(quiet: bool) -> Iterator[tuple[Run, Terminal]]:
    """A run that tells the terminal and can be stopped; the terminal is tidy again whatever happens."""
    from pellucid.apps.terminal import Terminal
    from pellucid.core.run import Run, stoppable

    terminal = Terminal(quiet=quiet)
    run = Run(listeners=[terminal])
    try:
        with stoppable(run):
            yield run, terminal
    finally:
        terminal.close()


def print_json(value: object) -> None:
    """One object on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    try:
        print(text)
    except UnicodeEncodeError:  # a terminal without these letters, or half a letter in a file name
        print(json.dumps(value, indent=2, default=str, allow_nan=False))


def save(report: Report, out: Path) -> Path:
    """The report in a file, or one clear error about the disk."""
    from pellucid.core.bundle import disk_errors

    with disk_errors(f"'{out}'"):
        return report.save(out)


def show(report: Report, as_json: bool, out: Path | None, quiet: bool) -> None:
    """The report where it was asked for: in a file, as JSON, in the terminal."""
    if out is not None:
        save(report, out)
    if as_json:
        sys.stdout.write(report.to_json().rstrip() + "\n")
    elif not (quiet and out is not None):
        from rich.console import Console

        report.to_terminal(Console())
        if out is not None:
            print(f"\nThe report: {out.resolve()}")


def data_of(folder: Path | None, moved: Path | None) -> Any:
    """The items a run was fitted on, from where it found them or from where they are now."""
    from pellucid.fitting import data_of as found

    return found(folder, moved)
