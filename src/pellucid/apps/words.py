"""Words of the command line: read, and refused before any work is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from pellucid.core.errors import BadInput, nearest

__all__ = ["check_count", "check_minutes", "check_outside", "check_report", "check_resumed", "pairs", "wishes"]

MOST = 10_000_000  # items at once: more do not fit into memory


def pairs(words: list[str] | None, option: str) -> dict[str, Any]:
    """`NAME=VALUE` words as a dictionary; `age>=60` and `age=>=60` mean the same."""
    found: dict[str, Any] = {}
    for word in words or []:
        split = re.match(r"(.+?)(>=|<=|>|<|=)(.*)", word, flags=re.S) if option == "--where" else None
        name, sign, value = split.groups() if split else word.partition("=")
        if split and sign != "=":
            value = sign + value
        if not sign or not name.strip():
            raise BadInput(f"{option} is '{word}'", accepted="NAME=VALUE")
        if name.strip() in found:
            raise BadInput(f"{option} names '{name.strip()}' twice", accepted="each name once")
        found[name.strip()] = value.strip()
    return found


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
