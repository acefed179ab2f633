"""Molecules from 72,000 training strings: a small transformer on SMILES symbols, free and on the leash of the grammar.

    export PELLUCID_DATA=FOLDER          # with moses_100k/moses_100k.csv.gz
    nice .venv/bin/python benchmarks/molecules.py --judge .venv-peers/bin/python

One model is trained for --seconds CPU seconds of one thread (a few steps right before say how many steps that is, and
the CPU time that it then took is written down). Of it, 10,000 strings each are drawn free at several temperatures, and
at temperature 1 with `--grammar smiles`; beside them stand as many held-out strings. Each set is measured by our own
reader and, with --judge, by RDKit in an environment of its own: valid, unique, novel, internal diversity, fragments
and scaffolds. All strings come from the official MOSES test sets, so no figure here is one of the MOSES leaderboard.

Writes benchmarks/results/molecules.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import about_this_machine

import pellucid
from pellucid.domains.molecule_files import MoleculeData, molecules_of
from pellucid.drawing.within import Within
from pellucid.evaluate.molecules import Known, measure_molecules
from pellucid.families.next_symbol import SymbolHow
from pellucid.model import Fitted
from pellucid.tasks.constrained import within

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"width": 128, "depth": 4, "heads": 4}
TEMPERATURES = (0.7, 0.9, 1.0)
FEW, MANY = 3, 9  # steps of the two fits whose difference says what a step takes
MARGIN = 0.97
BARS = (0.97, 1.0, 0.999)  # valid at temperature 1, free and by the grammar; unique


def strings(split: str) -> list[str]:
    """The strings of one part of the set."""
    if "PELLUCID_DATA" not in os.environ:
        sys.exit("Set PELLUCID_DATA to the folder that holds moses_100k.")
    file = Path(os.environ["PELLUCID_DATA"]) / "moses_100k" / "moses_100k.csv.gz"
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [row["smiles"] for row in csv.DictReader(stream) if row["split"] == split]


def trained(data: MoleculeData, seconds: float, seed: int, settings: dict[str, Any]) -> tuple[Fitted, dict[str, Any]]:
    """A model after so many CPU seconds, and what its training took."""

    def fitted(steps: int) -> tuple[Fitted, float]:
        began = time.process_time()
        model = pellucid.fit(data, family="autoregressive", settings=settings, steps=steps, seed=seed, watch=False)
        return model, time.process_time() - began

    fitted(1)  # loads modules
    few, many = (fitted(steps)[1] for steps in (FEW, MANY))
    each = max(many - few, 1e-3) / (MANY - FEW)
    steps = max(1, int((MARGIN * seconds - max(0.0, few - FEW * each)) / each))
    model, used = fitted(steps)
    about = {"cpu_seconds": round(used, 1), "steps": steps, "settings": model.recipe["settings"]}
    return model, about | {"parameters": sum(p.numel() for p in model.engine.parameters()), "seed": seed}


def drawn(model: Fitted, n: int, temperature: float, *, kept: bool, seed: int) -> tuple[list[str], dict[str, Any]]:
    """n strings, and what they cost."""
    asked = within(model, grammar="smiles") if kept else model
    how = asked.how()
    assert isinstance(how, SymbolHow)
    began = time.process_time()
    items = asked.sample(n, seed=seed, how=replace(how, temperature=temperature), batch=1000).items
    assert isinstance(items, MoleculeData)
    about: dict[str, Any] = {"temperature": temperature, "grammar": kept}
    about |= {"cpu_seconds": round(time.process_time() - began, 1)}
    if isinstance(asked.engine, Within):
        about |= {"drawn_again": asked.engine.again, "without_aromatic_atoms": asked.engine.forced}
    return items.texts(), about


def measured(found: list[str], known: Known, judge: Path | None, train: list[str], test: list[str]) -> dict[str, Any]:
    """By our own reader, and by RDKit."""
    ours = measure_molecules(found, known)
    out: dict[str, Any] = {}
    for name in ("valid", "unique", "novel", "diversity", "fragments", "scaffolds"):
        estimate = getattr(ours, name)
        if estimate is not None:
            interval = estimate.interval()
            out[name] = [round(x, 4) for x in (interval.value, interval.low, interval.high)]
    if judge is None:
        return {"ours": out}
    asked = json.dumps({"samples": found, "train": train, "reference": test})
    worker = [str(judge), str(HERE / "peers" / "molecule_judge.py")]
    said = subprocess.run(worker, input=asked, capture_output=True, text=True, check=True).stdout
    return {"ours": out, "rdkit": json.loads(said)}


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of training")
    words.add_argument("--strings", type=int, default=72_000, help="training strings")
    words.add_argument("--samples", type=int, default=10_000, help="strings of each set")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="change a setting")
    words.add_argument("--judge", type=Path, help="a Python with RDKit")
    words.add_argument("--result", type=Path, default=HERE / "results" / "molecules.json")
    asked = words.parse_args()
    os.environ["PELLUCID_THREADS"] = "1"
    torch.set_num_threads(1)
    settings = SETTINGS | {name: int(value) for name, _, value in (word.partition("=") for word in asked.set)}
    train, test = strings("train")[: asked.strings], strings("test")
    model, about = trained(molecules_of(train), asked.seconds, asked.seed, settings)
    print(f"{about['steps']} steps in {about['cpu_seconds']} CPU-s", flush=True)
    known = Known.of(train, test)
    result: dict[str, Any] = {"training_strings": len(train), "threads": 1, "training": about, "sets": []}

    def note(name: str, found: list[str], facts: dict[str, Any]) -> None:
        row = {"set": name, "n": len(found), **facts, **measured(found, known, asked.judge, train, test)}
        result["sets"].append(row)
        result["machine"] = about_this_machine()
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
        values = ", ".join(f"{key} {value[0]:.4f}" for key, value in row["ours"].items())
        strict = row.get("rdkit", {}).get("valid")
        print(f"{name}: {values}" + (f"; valid by RDKit {strict:.4f}" if strict is not None else ""), flush=True)

    for temperature in TEMPERATURES:
        found, facts = drawn(model, asked.samples, temperature, kept=False, seed=asked.seed + 1)
        note(f"free, temperature {temperature}", found, facts)
    found, facts = drawn(model, asked.samples, 1.0, kept=True, seed=asked.seed + 1)
    note("grammar, temperature 1.0", found, facts)
    note("held-out strings", strings("valid")[: asked.samples], {})
    free, kept = (next(row for row in result["sets"] if row["set"] == name) for name in (
        "free, temperature 1.0", "grammar, temperature 1.0"))  # fmt: skip
    judge = "rdkit" if asked.judge is not None else "ours"
    values = [row[judge][key] for row, key in ((free, "valid"), (kept, "valid"), (free, "unique"))]
    reached = [value if judge == "rdkit" else value[0] for value in values]
    missed = [f"{got} of {bar}" for got, bar in zip(reached, BARS, strict=True) if got < bar]
    print("all bars reached" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
