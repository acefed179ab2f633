"""Words of the command line: read, and refused before any work is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.core.errors import BadInput, nearest

__all__ = [
    "Balance",
    "Beams",
    "Constraints",
    "ConstraintsFile",
    "DropBreaking",
    "Grammar",
    "Match",
    "NoMissing",
    "Shares",
    "Stream",
    "check_count",
    "check_minutes",
    "check_outside",
    "check_report",
    "check_resumed",
    "declared",
    "pairs",
    "shares_of",
    "text_options",
    "wishes",
]

Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        metavar="TEXT",
        help="What holds between columns: 'start <= end', 'total = a + b', 'together: city, country'; repeatable.",
    ),
]
ConstraintsFile = Annotated[
    Path | None, typer.Option("--constraints", metavar="FILE", help="The same from a file, one a line.")
]
DropBreaking = Annotated[bool, typer.Option("--drop-breaking", help="Leave out rows that break a constraint.")]
Balance = Annotated[
    str | None, typer.Option("--balance", metavar="COLUMN", help="As many rows of each value of this column.")
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        "--share", metavar="COLUMN:VALUE=SHARE", help="So many rows of a value, as 'income:>50K=0.5'; repeatable."
    ),
]
Match = Annotated[
    str | None, typer.Option("--match", metavar="REGEX", help="Of texts: every one matches this as a whole.")
]
Grammar = Annotated[str | None, typer.Option("--grammar", help="Of texts: every one is json, or smiles.")]
Beams = Annotated[
    int | None, typer.Option("--beams", help="Of texts: the likeliest, by a search that keeps so many beginnings.")
]
Stream = Annotated[bool, typer.Option("--stream", help="Of texts: print them as they are drawn; n is 1 unless said.")]
NoMissing = Annotated[bool, typer.Option("--no-missing", help="Fill missing cells of tables.")]

MOST = 10_000_000  # items at once: more do not fit into memory


def pairs(words: list[str] | None, option: str) -> dict[str, Any]:
    """`NAME=VALUE` words as a dictionary; `age>=60` and `age=>=60` mean the same."""
    found: dict[str, Any] = {}
    for word in words or []:
        split = re.match(r"(.+?)(!=|>=|<=|>|<|=)(.*)", word, flags=re.S) if option == "--where" else None
        name, sign, value = split.groups() if split else word.partition("=")
        if split and sign != "=":
            value = sign + value
        if not sign or not name.strip():
            raise BadInput(f"{option} is '{word}'", accepted="NAME=VALUE")
        if name.strip() in found:
            raise BadInput(f"{option} names '{name.strip()}' twice", accepted="each name once")
        found[name.strip()] = value.strip()
    return found


def declared(texts: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """Constraints from --constraint and from a file of them."""
    from pellucid.domains.constraint_words import constraint_lines

    return (*constraint_lines(texts or ()), *(constraint_lines(file) if file is not None else ()))


def shares_of(words: list[str] | None) -> dict[str, dict[str, float]]:
    """`COLUMN:VALUE=SHARE` words as shares by column and value.

    >>> shares_of(["income:>50K=0.5"])
    {'income': {'>50K': 0.5}}
    """
    found: dict[str, dict[str, float]] = {}
    for word in words or []:
        left, sign, number = word.rpartition("=")
        name, colon, value = left.partition(":")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not sign or not colon or not name.strip() or not 0.0 <= share <= 1.0:
            raise BadInput(f"--share is '{word}'", accepted="COLUMN:VALUE=SHARE with a share from 0 to 1")
        of_column = found.setdefault(name.strip(), {})
        if value.strip() in of_column:
            raise BadInput(f"--share names '{name.strip()}:{value.strip()}' twice", accepted="each value once")
        of_column[value.strip()] = share
    return found


def text_options(words: list[str] | None) -> dict[str, Any] | None:
    """How a text is read, as JSON values."""
    if not words:
        return None
    from pellucid.core.settings import to_plain
    from pellucid.domains.text_files import reading_of

    said = pairs(words, "--text")
    return {name: value for name, value in to_plain(reading_of(said)).items() if name in said}


def check_count(n: int | None) -> None:
    if n is not None and not 1 <= n <= MOST:
        raise BadInput(f"-n is {n}", accepted=f"a whole number from 1 to {MOST:,}")


def check_minutes(minutes: float) -> None:
    if not 0.0 < minutes < float("inf"):
        raise BadInput(f"--minutes is {minutes:g}", accepted="a finite number above 0")


def check_resumed(words: typer.Context) -> None:
    """A run goes on as it began: refuse words that would not be heard."""
    heard = ("resume", "moved", "checkpoint_every", "watch", "as_json", "quiet")
    said = [p for p in words.command.params if p.name not in heard and _was_said(words, p.name)]
    if said:
        names = [f"'{words.params[p.name or '']}'" if p.param_type_name == "argument" else p.opts[0] for p in said]
        raise BadInput(
            f"{', '.join(names)} came with --resume",
            accepted="--resume, --data, --checkpoint-every, --no-watch, --json, --quiet",
            why="A run goes on with the data and the settings it began with.",
        )


def _was_said(words: typer.Context, name: str | None) -> bool:
    source = words.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def check_outside(out: Path | None, run: Path) -> None:
    """A file more in a run folder, and the run would no longer be trusted."""
    if out is not None and run.is_dir() and out.resolve().is_relative_to(run.resolve()):
        raise BadInput(
            f"--out '{out}' lies inside the run '{run}'",
            why="A run holds only what its manifest lists.",
            next="Choose a place beside it.",
        )


def wishes(model: Any, where: list[str] | None, of_class: str | None) -> dict[str, Any]:
    """What --where and --class ask for together."""
    found = pairs(where, "--where")
    if of_class is not None:
        name = _class_name(model)
        if name in found:
            raise BadInput(f"both --class and --where {name}=... were given", accepted="one of them")
        found[name] = of_class
    return found


def _class_name(model: Any) -> str:
    """Name of the condition that --class means."""
    names = [name for name, space in model.codec.conditions.items() if not getattr(space, "ends", False)]
    if not names:
        columns = [c.name for c in getattr(model.codec, "columns", ())]
        raise BadInput(
            "--class was given, but this model was fitted without classes",
            next=f"Say --where COLUMN=VALUE, with a column of {', '.join(columns[:8])}, or fit with --target."
            if columns
            else "Say --where caption='...'."
            if model.codec.conditions
            else "Fit it on pictures in one subfolder a class.",
        )
    return "class" if "class" in names else str(names[0])


def check_report(out: Path | None, force: bool) -> None:
    """Refuse a wrong ending or an existing file before any work is done."""
    if out is None:
        return
    endings = (".html", ".md", ".json", ".txt")
    if out.suffix.lower() not in endings:
        raise BadInput(f"--out is '{out}'", accepted=", ".join(endings), next=nearest(out.suffix, endings))
    if out.is_dir():
        raise BadInput(f"'{out}' is a folder", accepted="a file name for the report")
    if out.exists() and not force:
        raise BadInput(f"'{out}' exists already", next="Choose another name, or add --force to replace it.")
