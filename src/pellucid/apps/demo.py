"""`pellucid demo`: five families on real handwritten digits, compared, one sample explained, one report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import BadInput
from pellucid.core.report import (
    Block,
    Cell,
    Code,
    Details,
    Heading,
    Measured,
    Page,
    Pictures,
    Prose,
    Report,
    Row,
    Table,
)
from pellucid.core.run import Event, Progress, Run
from pellucid.domains.pictures import Pictures as DigitPictures

if TYPE_CHECKING:
    from rich.console import Console

    from pellucid.evaluate.compare import CompareReport
    from pellucid.model import Fitted

__all__ = ["DemoReport", "SHARES", "run_demo"]

SHARES = {"vae": 0.10, "gan": 0.20, "flow": 0.14, "autoregressive": 0.14, "diffusion": 0.42}
"""Part of the training time that each family gets; they sum to one. Diffusion is the one that is explained."""

TRAINING = 0.62  # of all minutes; the rest is for sampling, measuring and explaining
HELD_OUT = 0.25  # of the digits, never trained on: what the measures compare with
SAMPLES = 1000

IDEAS = {
    "vae": "Learns to fold each picture into a few numbers and to unfold it again; new numbers give new pictures.",
    "gan": "Two players: one forges pictures, the other tells them from real ones; each gets better against the other.",
    "flow": "Bends simple noise into pictures by steps that can all be undone, so it knows how likely a picture is.",
    "autoregressive": "Draws one pixel after another, each guessed from the ones before it.",
    "diffusion": "Learns to take a little noise off a noisy picture; step by step, pure noise becomes a picture.",
}
"""How each family works, in one sentence for somebody who has never met it."""

GLOSSARY = (
    ("Fréchet distance", "How far the cloud of samples lies from the cloud of real pictures, seen through a small "
     "network. Lower is better; the row of real pictures shows what cannot be beaten at this number of pictures."),
    ("precision", "The share of samples that look like some real picture. High means few broken ones."),
    ("recall, coverage", "The share of real pictures that some sample looks like. High means nothing was left out."),
    ("judged as asked", "Each sample was asked to be a certain digit. A classifier of quite another kind, which knows "
     "real digits only, says which digit it sees."),
    ("copy check", "The share of samples that lie closer to a training picture than to a picture nobody trained on. "
     "One half is what honest new pictures give; near one means copying."),
    ("bits per dimension", "How many bits the model needs for each pixel of a real picture it has not seen. Lower is "
     "better. Some families know it exactly, some only a bound, some not at all."),
    ("[low, high]", "Where the true value lies in 95 of 100 such measurements."),
)  # fmt: skip


@dataclass(frozen=True)
class DemoReport(Report):
    """Everything the demo found, in the order a newcomer should read it."""

    comparison: CompareReport
    asked: Table
    drawn: tuple[Pictures, ...]
    explained: tuple[Report, ...]
    training_pictures: Pictures
    families: tuple[tuple[str, str, str], ...]
    seconds: dict[str, float]
    parameters: dict[str, int]
    minutes: float
    seed: int
    pictures: int
    machine: str

    @property
    def title(self) -> str:
        return "Pellucid: five ways to make a digit, and why this one came out like this"

    def headline(self) -> dict[str, Any]:
        """The main figures as JSON values."""
        compared = json.loads(self.comparison.to_json())
        asked = {row[0]: str(row[1]) for row in self.asked.rows}
        return {"asked": asked, "seconds": self.seconds, "parameters": self.parameters, "comparison": compared}

    def tables(self) -> tuple[Table, ...]:
        """The comparison's tables of measures."""
        return tuple(b for b in self.comparison.blocks() if isinstance(b, Table))[:2]

    def table(self, console: Console) -> None:
        """The headline tables and what they show, on a terminal."""
        said = Prose("\n\n".join(self.comparison.sentences()))
        Page("Five families on handwritten digits", (self.asked, *self.tables(), said)).to_terminal(console)

    def blocks(self) -> tuple[Block, ...]:
        total = sum(self.seconds.values())
        rows = [
            (title, sentence, f"{self.parameters[name]:,}", f"{self.seconds[name]:.0f} s")
            for name, title, sentence in self.families
        ]
        return (
            Prose(
                f"In {total:.0f} seconds on {self.machine} one model of each of five families learned to draw digits "
                f"from {self.pictures:,} small pictures that people wrote by hand. This page was made by that very "
                f"run (seed {self.seed}): every picture and every number below comes from it.\n\n"
                "It answers three questions. **Which family did better at what?** **What is a diffusion model made "
                "of?** And **how did noise become this digit?**"
            ),
            self.asked,
            Heading("What they learned from"),
            self.training_pictures,
            Heading("The five families"),
            Table(("family", "how it works", "learned numbers", "training"), rows),
            Prose("What each of them draws when asked for 0 to 9, the first five of each; none was chosen."),
            Row(self.drawn),
            Heading("Which family did better at what"),
            *_deeper(self.comparison.blocks()),
            Details("How to read these measures", (Table(("measure", "what it says"), GLOSSARY),), open=True),
            *(b for report in self.explained for b in (Heading(report.title), *_deeper(report.blocks()))),
            Heading("Do it with your own data"),
            Prose("The same four commands work on a folder of pictures or on a table."),
            Code(
                "pellucid data photos/                                   # what was read\n"
                "pellucid fit photos/ --family diffusion --minutes 10 --out runs/photos\n"
                "pellucid sample runs/photos -n 64 --seed 7 --out samples\n"
                "pellucid explain runs/photos --seed 7 --index 3 --out why.html",
                "console",
            ),
        )


def _cores(threads: int) -> str:
    return "one processor core" if threads == 1 else f"{threads} processor cores"


def _deeper(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Blocks of a report inside a report: their headings go one level down."""
    return tuple(replace(b, level=min(4, b.level + 1)) if isinstance(b, Heading) else b for b in blocks)


def run_demo(*, minutes: float, seed: int, run: Run, label: Callable[[str], None] = lambda text: None) -> DemoReport:
    """Train, draw, compare and explain within about `minutes`.

    Args:
        label: told the name of the stage before it begins.
    """
    from pellucid.catalog import family_class
    from pellucid.core.capabilities import parameters_of
    from pellucid.domains.read import read
    from pellucid.evaluate.compare import compare_models
    from pellucid.explain.process import process
    from pellucid.explain.trajectory import trajectory
    from pellucid.fitting import fit, split

    if not (math.isfinite(minutes) and minutes > 0):
        raise BadInput(f"minutes is {minutes}", accepted="a finite number above 0")
    digits = read("digits")
    kept, aside = split(len(digits), HELD_OUT, seed)
    assert isinstance(digits, DigitPictures)
    train, held = digits.take(kept), digits.take(aside)
    run.notice("data", f"{len(train):,} handwritten digits to learn from, {len(held):,} kept aside to measure with.")
    run.notice("budget", f"{minutes:g} minutes in all, {minutes * TRAINING:.1f} of them for training.")
    models: dict[str, Fitted] = {}
    seconds: dict[str, float] = {}
    losses: dict[int, dict[str, float]] = {}

    def remember(event: Event) -> None:
        if isinstance(event, Progress) and event.losses:
            losses[event.done] = dict(event.losses)

    run.listeners.append(remember)
    for place, (name, share) in enumerate(SHARES.items(), 1):
        label(f"{place} of {len(SHARES)}, {name}: ")
        losses.clear()  # those of the last family, diffusion, are kept for its explanation
        began = time.monotonic()
        models[name] = fit(digits, name, minutes=minutes * TRAINING * share, seed=seed, held_out=HELD_OUT, run=run)
        seconds[name] = time.monotonic() - began
    label("draw: ")
    asked, drawn = _ask(models, train, held, seed, run)
    label("compare: ")
    comparison = compare_models(models, train, held, n=len(held) // 2, seed=seed + 1, run=run)
    label("explain: ")
    chosen = models["diffusion"]
    explained = (
        process(chosen, seed=seed, data=digits, losses=losses),
        trajectory(chosen, data=digits, seed=seed, index=0, run=run),
    )
    titles = tuple((n, family_class(n).title, IDEAS[n]) for n in SHARES)
    return DemoReport(
        comparison=comparison,
        asked=asked,
        drawn=drawn,
        explained=explained,
        training_pictures=Pictures(train.shown()[:120], columns=20, scale=4, alt="The first 120 training digits"),
        families=titles,
        seconds=seconds,
        parameters={n: parameters_of(m.engine) for n, m in models.items()},
        minutes=minutes,
        seed=seed,
        pictures=len(train),
        machine=_cores(chosen.recipe["threads"]),
    )


def _ask(
    models: dict[str, Fitted], train: DigitPictures, held: DigitPictures, seed: int, run: Run
) -> tuple[Table, tuple[Pictures, ...]]:
    """Ask every model for as many of each digit; a judge that knows real digits only says what it sees."""
    from pellucid.core.interval import wilson
    from pellucid.evaluate.labels import Judge

    judge = Judge.learn(train, seed=seed)
    each = SAMPLES // 10
    wanted = [str(d) for d in range(10) for _ in range(each)]

    def share(pictures: DigitPictures) -> Measured:
        hits = sum(a == b for a, b in zip(judge.says(pictures), pictures.labels or (), strict=True))
        found = wilson(hits, len(pictures))
        return Measured(found.value, found.low, found.high, n=found.n, kind="Wilson 95%")

    rows: list[tuple[Cell, ...]] = []
    drawn = []
    for i, (name, model) in enumerate(models.items()):
        run.emit(Progress(stage="samples", done=i, total=len(models)))
        pictures = model.sample(len(wanted), seed=seed, where={"class": wanted}).items
        assert isinstance(pictures, DigitPictures)
        rows.append((name, share(pictures)))
        first = pictures.take([d * each + k for d in range(10) for k in range(5)])
        drawn.append(
            Pictures(
                first.shown(), columns=5, scale=3, caption=name, alt=f"Digits 0 to 9 drawn by {name}, five of each"
            )
        )
    run.emit(Progress(stage="samples", done=len(models), total=len(models)))
    rows.append(("real digits, held out", share(held)))
    caption = (
        f"{SAMPLES:,} samples of each family, {each} of each digit, with 95% intervals. The judge is a "
        f"{judge.name}; the last row is its accuracy on real digits that it has not seen."
    )
    return Table(("", "judged as the digit that was asked for ↑"), rows, caption=caption), tuple(drawn)
