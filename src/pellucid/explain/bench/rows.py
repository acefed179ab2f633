"""All rows of the benchmark of explanations: which there are, one after the other, each kept as it ends."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.errors import BadInput, nearest
from pellucid.core.report import Block, Data, Details, Prose, Report, Table, Verdict
from pellucid.core.run import Progress, Run
from pellucid.explain.bench.machine import about_this_machine

__all__ = ["ROWS", "BenchReport", "Measurement", "run_rows"]

ROWS: dict[str, str] = {
    "gate": "pellucid.explain.bench.gate",
    "decision_time": "pellucid.explain.bench.decision_time",
    "influence": "pellucid.explain.bench.influence",
    "directions": "pellucid.explain.bench.directions",
    "counterfactual": "pellucid.explain.bench.otherwise",
    "saliency": "pellucid.explain.bench.causes",
    "provenance": "pellucid.explain.bench.copied",
    "surprise": "pellucid.explain.bench.surprise",
    "parts": "pellucid.explain.bench.mistakes",
    "shapley": "pellucid.explain.bench.shares",
    "concepts": "pellucid.explain.bench.concepts",
}
"""name -> module with BAR and measure(quick, seed) -> figures, `met` among them. None needs a download."""


@dataclass(frozen=True)
class Measurement:
    """One row. figures: what was measured. kept: whether it was made by an earlier call."""

    name: str
    bar: str
    met: bool
    figures: dict[str, Any]
    cpu_seconds: float
    kept: bool = False


@dataclass(frozen=True)
class BenchReport(Report):
    """Rows with their bars, met or missed."""

    rows: tuple[Measurement, ...]
    quick: bool
    seed: int
    machine: dict[str, Any]

    title = "What explanations are worth, where the truth is known"

    @property
    def met(self) -> bool:
        """Are all bars?"""
        return all(row.met for row in self.rows)

    def blocks(self) -> tuple[Block, ...]:
        hit = sum(row.met for row in self.rows)
        text = f"{hit} of {len(self.rows)} bars are met."
        table = Table(
            ("row", "bar", "", "measured", "CPU seconds"),
            [(r.name, r.bar, "met" if r.met else "MISSED", _short(r.figures), r.cpu_seconds) for r in self.rows],
        )
        facts = [("seed", str(self.seed)), ("form", "quick, of less to measure on" if self.quick else "whole")]
        facts += [(k, str(v)) for k, v in self.machine.items()]
        return (
            Prose("Each explanation is asked about something of which the answer is known without it, because it was "
                  "planted or is a formula. Numbers in brackets are 95% intervals."),
            Verdict("ok" if self.met else "fail", text),
            table,
            Details("Machine and versions", (Table(("", ""), facts),)),
            Data(self.plain(), "bench"),
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """For the file of results."""
        rows = {
            r.name: {"bar": r.bar, "met": r.met, "cpu_seconds": r.cpu_seconds, **_without_met(r.figures)}
            for r in self.rows
        }
        return {"seed": self.seed, "quick": self.quick, "met": self.met, "rows": rows, "machine": self.machine}


def run_rows(
    work: Path,
    *,
    rows: Sequence[str] | None = None,
    quick: bool = False,
    seed: int = 0,
    again: bool = False,
    run: Run | None = None,
) -> BenchReport:
    """Measure rows, each kept in the folder `work` as it ends; what is there already is not measured again.

    Args:
        rows: names, all when None. quick: smaller forms, three minutes of CPU for all. again: measure even so.
        run: asked before each row whether to go on.

    Raises:
        BadInput: a row that does not exist, or a folder whose rows are of another seed or form.
    """
    run = run or Run()
    for name in rows or ():
        if name not in ROWS:
            raise BadInput(f"there is no row '{name}'", accepted=", ".join(ROWS), next=nearest(name, ROWS))
    chosen = [name for name in ROWS if rows is None or name in rows]
    work.mkdir(parents=True, exist_ok=True)
    found = []
    for done, name in enumerate(chosen):
        run.go_on(f"stopped before the row '{name}'", "Call again with the same --work to go on.")
        run.emit(Progress(stage=f"measure {name}", done=done, total=len(chosen)))
        found.append(_row(work / f"{name}.json", name, quick, seed, again))
    return BenchReport(tuple(found), quick, seed, about_this_machine())


def _row(file: Path, name: str, quick: bool, seed: int, again: bool) -> Measurement:
    module: Any = importlib.import_module(ROWS[name])
    if file.is_file() and not again:
        stored = json.loads(file.read_text("utf-8"))
        if (stored["quick"], stored["seed"], stored["bar"]) != (quick, seed, module.BAR):
            raise BadInput(
                f"'{file}' was measured with seed {stored['seed']}, {'quick' if stored['quick'] else 'whole'}",
                accepted="a folder of the same seed and form",
                next="Name another --work, or say --again.",
            )
        return Measurement(name, stored["bar"], stored["met"], stored["figures"], stored["cpu_seconds"], True)
    began = time.process_time()
    figures = module.measure(quick=quick, seed=seed)
    spent = round(time.process_time() - began, 1)
    made = {"row": name, "bar": module.BAR, "met": bool(figures["met"]), "quick": quick, "seed": seed}
    made |= {"figures": figures, "cpu_seconds": spent, "machine": about_this_machine()}
    half = file.with_suffix(".part")
    half.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    os.replace(half, file)  # a row is there whole, or not at all
    return Measurement(name, module.BAR, bool(figures["met"]), figures, spent)


def _without_met(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in figures.items() if k not in ("met", "cpu_seconds")}


def _short(figures: dict[str, Any]) -> str:
    """The figures in one cell: numbers with their intervals, nested ones by name."""
    parts = []
    for name, value in _without_met(figures).items():
        if name not in ("green", "badges"):
            parts.append(f"{name.replace('_', ' ')}: {_said(value)}")
    return "; ".join(parts)


def _said(value: Any) -> str:
    """A figure as people read it.

    >>> _said([0.9, 0.8, 0.95]), _said([18, 20]), _said({"a": 0.12345})
    ('0.9 [0.8, 0.95]', '18 of 20', 'a 0.123')
    """
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {_said(v)}" for k, v in value.items())
    if isinstance(value, list) and value and all(isinstance(v, (int, float)) for v in value):
        if len(value) == 2:
            return f"{value[0]} of {value[1]}"
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]" + (f", n = {value[3]}" if len(value) > 3 else "")
    if isinstance(value, list):
        return " / ".join(_said(_without_met(v) if isinstance(v, dict) else v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
