"""Families side by side on the same data: one budget, one split, one list of metrics, differences with intervals.

`compare` fits families first; `compare_models` takes models that are there. Beside the models stand three rows: real
items that no model saw (what a perfect model reads), training items (what mere copying reads) and the cheapest
generator, which draws every column or pixel on its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.catalog import families as every_family
from pellucid.catalog import family_class
from pellucid.core.described_model import learned_numbers
from pellucid.core.errors import BadInput, PellucidError, Stopped
from pellucid.core.run import Run
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import DataSource, read
from pellucid.domains.text_files import TextData
from pellucid.evaluate.baseline import independent_columns, independent_pixels, independent_symbols
from pellucid.evaluate.compare_report import CompareReport, Cost, lead
from pellucid.evaluate.metrics import (
    MOLECULES,
    PICTURES,
    TABLES,
    Bench,
    Contestant,
    Instrument,
    Items,
    Reading,
    Result,
    measure,
)
from pellucid.evaluate.resampling import FEWEST, Absent
from pellucid.fitting import fit, split
from pellucid.model import Fitted

__all__ = ["compare", "compare_models", "divide"]

SHARE = 1 / 3  # of the data held out: two halves are compared, so each has a sixth
MOST_HELD_OUT = 10_000
# samples of each model, when the user gives no number
MOST_PICTURES, MOST_ROWS, MOST_MOLECULES = 2_000, 10_000, 3_000


def compare(
    data: DataSource,
    families: Literal["all"] | Sequence[str] = "all",
    *,
    minutes: float = 5.0,
    n: int | None = None,
    seed: int = 0,
    target: str | None = None,
    precision: str = "auto",
    out: str | Path | None = None,
    run: Run | None = None,
) -> CompareReport:
    """Fit each family for an equal share of the budget on the same training part, and compare on the rest.

    Args:
        data: what `read` gives, or anything `read` takes.
        families: names from `families()`, or "all".
        minutes: for all fits together; sampling and measuring come on top.
        n: samples of each model; None takes up to 2,000 pictures or 10,000 rows.
        target: the column to be predicted, as in `read`.
        out: folder for one run folder a family; None keeps the models in memory.

    Families that do not take this data are named in the report with the reason.

    Raises:
        BadInput: an unknown family, a budget of nothing, too little data, or no family that takes it.
        Stopped: `run` was asked to stop.
    """
    run = run or Run()
    names = every_family() if families == "all" else tuple(dict.fromkeys(families))
    if not names or not minutes > 0:
        raise BadInput(f"{len(names)} families and {minutes} minutes", accepted="one family or more, minutes above 0")
    for name in names:
        family_class(name)  # a wrong name is refused before anything is trained
    items = _no_text(read(data, target=target))
    train_rows, held_out_rows = divide(items, seed=seed)
    train, held_out = items.take(train_rows), items.take(held_out_rows)
    models: dict[str, Fitted] = {}
    left_out: dict[str, str] = {}
    for i, name in enumerate(names):
        _tell(run, f"fitting {name}", i, len(names))
        folder = None if out is None else Path(out) / name
        try:
            models[name] = fit(
                train, name, minutes=minutes / len(names), seed=seed, precision=precision, out=folder, run=replace(run)
            )
        except Stopped:
            raise
        except PellucidError as error:
            left_out[name] = str(error)
        run.go_on("the comparison was stopped while fitting", next="Compare again to start it over")
    if not models:
        raise BadInput(
            "no family could be fitted on this data", why="; ".join(f"{k}: {v}" for k, v in left_out.items())
        )
    first = next(iter(models.values()))
    seen, _ = split(len(train), float(first.recipe["held_out"]), seed)  # what fitting kept aside was not trained on
    note = f"Each family was fitted for {60 * minutes / len(names):.0f} seconds on {len(seen):,} items."
    report = compare_models(models, train.take(seen), held_out, n=n, seed=seed, run=run)
    return replace(report, left_out=left_out, notes=(note, *report.notes))


def compare_models(
    models: Sequence[Fitted] | Mapping[str, Fitted],
    data_train: Items,
    data_held_out: Items,
    *,
    n: int | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> CompareReport:
    """Compare fitted models on real data.

    Args:
        models: by name, or in a row (named after their families).
        data_train: what they were trained on. data_held_out: real items that none of them saw, 20 or more; one half is
            what samples are compared with, the other half shows what real data reads.
        n: samples of each model; of pictures no more than there are real ones to compare with.

    Raises:
        BadInput: no model, data of two kinds, or fewer than 20 held-out items. Stopped: `run` was asked to stop.
    """
    run = run or Run()
    named = _named(models)
    train, held_out = data_train, data_held_out
    _no_text(train)
    if type(train) is not type(held_out):
        raise BadInput(
            f"training data is {type(train).__name__}, held-out data {type(held_out).__name__}", accepted="one kind"
        )
    if len(held_out) < 2 * FEWEST or len(train) < FEWEST:
        raise BadInput(
            f"{len(train)} training and {len(held_out)} held-out items",
            accepted=f"{FEWEST} or more for training, {2 * FEWEST} or more held out",
            why="samples are compared with one half of the held-out items, the other half shows what real data reads",
        )
    pictures = isinstance(train, Pictures)
    half = len(held_out) // 2
    # pictures beyond the real ones would be drawn for nothing; rows of a table all train the utility's classifier
    drawn = min(n or MOST_PICTURES, half) if pictures else n or min(len(train), MOST_ROWS)
    if isinstance(train, MoleculeData):
        drawn = min(n or MOST_MOLECULES, half)
    if drawn < FEWEST:
        raise BadInput(f"n is {n}", accepted=f"{FEWEST} or more", why="no interval can be given on so few samples")
    order = np.random.default_rng([seed, 7]).permutation(len(held_out))
    held_out = held_out.take(order)
    reference, fresh = held_out.take(np.arange(half)), held_out.take(np.arange(half, 2 * half))
    bench = Bench(train, reference, fresh, held_out, min(drawn, half), seed, run)
    contestants = tuple(_contestants(named, bench, drawn))
    instruments = PICTURES if pictures else MOLECULES if isinstance(train, MoleculeData) else TABLES
    results = _measure_all(instruments, bench, contestants)
    metrics = tuple(metric for instrument in instruments for metric in instrument.metrics)
    leads = {m.key: lead(m, {name: results[m.key][name] for name in named}) for m in metrics}
    costs = tuple(_cost(c, results["bits"][c.name]) for c in contestants if c.role == "model")
    return CompareReport(
        contestants, metrics, results, leads, costs, bench.n, seed, left_out={}, notes=_notes(bench, drawn)
    )


def divide(data: Items, *, seed: int = 0, share: float = SHARE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions for training and for holding out, in random order of a seed.

    Identical pictures or molecules stay on one side, as one of them is a copy of the other. Identical rows of a table
    do not: in a table of few values they are different people who look alike, and keeping them together would make the
    held-out rows unlike new ones.
    """
    if isinstance(data, Pictures):
        prints = [hashlib.sha256(picture.tobytes()).digest() for picture in data.pixels]
        first = {print_: i for i, print_ in reversed(list(enumerate(prints)))}
        group = np.array([first[print_] for print_ in prints], np.int64)
    else:
        group = np.arange(len(data))
    if isinstance(data, MoleculeData):
        group = np.unique(data.texts(), return_inverse=True)[1].astype(np.int64)
    rank = np.random.default_rng([seed, 11]).permutation(len(data))[group]
    order = np.argsort(rank, kind="stable")
    wanted = min(round(len(data) * share), MOST_HELD_OUT)
    while 0 < wanted < len(data) and rank[order[wanted]] == rank[order[wanted - 1]]:
        wanted += 1
    return np.sort(order[wanted:]), np.sort(order[:wanted])


def _named(models: Sequence[Fitted] | Mapping[str, Fitted]) -> dict[str, Fitted]:
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        named = {}
        for model in models:
            name, count = model.name, 2
            while name in named:
                name, count = f"{model.name} {count}", count + 1
            named[name] = model
    if not named:
        raise BadInput("there are no models to compare", accepted="one or more")
    return named


def _contestants(models: Mapping[str, Fitted], bench: Bench, n: int) -> Iterable[Contestant]:
    """Models with n samples each, then the rows to compare them with."""
    for i, (name, model) in enumerate(models.items()):
        _tell(bench.run, f"sampling {name}", i, len(models))
        yield _draw(name, model, bench, n)
    yield Contestant("real, unseen", "real", bench.fresh)
    chosen = np.random.default_rng([bench.seed, 13]).permutation(len(bench.train))
    yield Contestant("real, copied", "copies", bench.train.take(np.resize(chosen, n)))
    if isinstance(bench.train, Pictures):
        yield Contestant("independent pixels", "baseline", independent_pixels(bench.train, n, seed=bench.seed))
    elif isinstance(bench.train, MoleculeData):
        yield Contestant("independent symbols", "baseline", independent_symbols(bench.train, n, seed=bench.seed))
    else:
        yield Contestant("independent columns", "baseline", independent_columns(bench.train, n, seed=bench.seed))


def _draw(name: str, model: Fitted, bench: Bench, n: int) -> Contestant:
    began = time.monotonic()
    try:
        items: Items | Absent = _no_text(model.sample(n, seed=bench.seed).items)
    except Stopped:
        raise
    except PellucidError as error:
        items = Absent.of(error)
    if not isinstance(items, Absent):
        if type(items) is not type(bench.train):
            raise BadInput(
                f"'{name}' makes {type(items).__name__}, the data is {type(bench.train).__name__}",
                accepted="models of this kind of data",
            )
        if len(items) != n:
            items = Absent("failed", f"it made {len(items):,} of {n:,} samples")
    return Contestant(name, "model", items, model, time.monotonic() - began)


def _measure_all(
    instruments: Sequence[Instrument], bench: Bench, contestants: Sequence[Contestant]
) -> dict[str, dict[str, Result]]:
    """{metric: {contestant: reading or reason}}."""
    results: dict[str, dict[str, Result]] = {m.key: {} for i in instruments for m in i.metrics}
    total = len(instruments) * len(contestants)
    for done, (instrument, contestant) in enumerate((i, c) for i in instruments for c in contestants):
        _tell(bench.run, f"{instrument.metrics[0].title} of {contestant.name}", done, total)
        for key, found in measure(instrument, bench, contestant).items():
            results[key][contestant.name] = found
    _tell(bench.run, "measured", total, total)
    return results


def _cost(contestant: Contestant, bits: Result) -> Cost:
    model = contestant.fitted
    assert model is not None
    seconds = model.recipe.get("seconds")
    return Cost(
        contestant.name,
        learned_numbers(model.engine),
        None if seconds is None else float(seconds),
        contestant.seconds,
        bits.estimate.kind.replace("upper_", "") if isinstance(bits, Reading) else "none",
    )


def _notes(bench: Bench, drawn: int) -> tuple[str, ...]:
    return (
        f"Seed {bench.seed}. {drawn:,} samples of each model. {len(bench.held_out):,} real items were held out: "
        f"samples are compared with {len(bench.reference):,} of them; the row 'real, unseen' is the other half.",
        "Intervals come from half-samples, which repeat no row; they are rather too wide than too narrow. They hold "
        "the chance of drawing samples and rows, not that of training: each model was trained once, and another "
        "training seed may order models differently.",
        "The row 'real, copied' is training items handed out again: the ceiling of utility, and what the copy check "
        "reads for a model that only copies.",
    )


def _tell(run: Run, stage: str, done: int, total: int) -> None:
    run.step(stage, done, total, came="the comparison was stopped", next="Compare again to start it over")


def _no_text(items: Items | TextData) -> Items:
    if isinstance(items, TextData) and not isinstance(items, MoleculeData):
        raise BadInput(
            "texts cannot be put side by side here yet",
            accepted="pictures, tables and molecules",
            next="`pellucid likelihood RUN FILE` gives each model's bits per character on the same file.",
        )
    return items
