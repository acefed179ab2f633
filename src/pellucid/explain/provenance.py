"""Is it copied? Every run of a sample that also stands in the training data, with where it stands.

The training items are indexed as they are (see `suffix_array.py`), so nothing is overlooked and nothing is guessed:
what is shown as copied stands in the data word for word. Whether that is much is said beside real items that were
held out, which repeat the training data too, as much as such data does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.capabilities import How
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, bootstrap, paired_difference, wilson
from pellucid.core.report import (
    Block,
    Cell,
    Code,
    Curve,
    Data,
    Details,
    Heading,
    Json,
    Measured,
    Prose,
    Report,
    Series,
    Table,
    Verdict,
)
from pellucid.explain.copies import Body, Copied, novelty, passages
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.spelling import Sequences, Spelling, spelling_of
from pellucid.fitting import halves

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["Passage", "ProvenanceReport", "provenance", "traced"]

Whole = NDArray[np.int64]
LENGTHS = (4, 6, 8, 12, 16)  # n of the novelty rates
HELD = 300  # held-out items that are compared with
OTHERS = 32  # further samples of the model for its own rates
PLANTED = 64  # pieces planted for the check
CANDIDATES = 100  # training items that the cheapest rival may choose among
SHOWN = 10  # passages
AROUND = 30  # symbols of context on either side
UNUSUAL = 0.05  # share of held-out items with so long a copy, below which it is called unusual


@dataclass(frozen=True)
class Passage:
    """One copied run, ready to be read.

    copied: the run itself. text: as people read it. source: what its first copy is called.
    before, after: what stands around it there; empty where training items are not shown.
    """

    copied: Copied
    text: str
    source: str
    before: str
    after: str


@dataclass(frozen=True)
class ProvenanceReport(Report):
    """What of one sample stands in the training data.

    Args:
        subject: what was looked at, in words. text: the sample as people read it. size: its symbols.
        found: the runs that chance does not explain, the most surprising first. longest: the longest run of all.
        covered: share of the sample that they cover.
        as_long: share of held-out items with a run as long as the longest; None when nothing was held out.
        lengths: n. new: share of runs of n symbols that the training data does not have, of the samples. real: the
            same of held-out items.
        chance: surprise in nats, above which a run is shown.
    """

    subject: str
    text: str
    size: int
    unit: str
    found: tuple[Passage, ...]
    longest: Passage | None
    covered: float
    as_long: Interval | None
    lengths: tuple[int, ...]
    new: tuple[Interval, ...]
    real: tuple[Interval, ...]
    samples: int
    check: Faithfulness
    chance: float
    symbols: int
    items: int
    private: bool
    seed: int
    indexing: float
    asking: float
    seconds: float

    @property
    def title(self) -> str:
        return f"Is {self.subject} copied?"

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = [Prose(self._opening())]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        if self.as_long is not None and self.longest is not None:
            if self.as_long.high < UNUSUAL:
                out.append(Verdict("warn", "So long a copy is rare in real items that were not trained on."))
            elif self.longest.copied.length == self.size:
                out.append(Verdict("note", "The whole sample stands in the training data, as some real items do."))
        if self.unit == "cells":
            out.append(Prose("The cells of this row whose values stand somewhere in the training data:"))
        out += [Code(self.text), Heading("What stands in the training data", 3), self._passages()]
        if not self.private and self.found:
            out.append(Verdict("note", "This page quotes training data: think of whose it is before you pass it on."))
        out += [Heading("How much is new", 3), *self._novelty()]
        out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "provenance"))
        return tuple(out)

    def _opening(self) -> str:
        if self.longest is None:
            return f"Not one of the {self.size} {self.unit} of this sample stands in the training data."
        run = self.longest.copied
        times = "once" if run.count == 1 else f"{run.count:,} times"
        text = (
            f"The longest piece of this sample that also stands in the training data has **{run.length} of its "
            f"{self.size} {self.unit}**. It stands there {times}, first in {self.longest.source}."
        )
        if self.as_long is None:
            return f"{text} No real items were held out, so it cannot be said whether that is much."
        i = self.as_long
        return (
            f"{text} Of {i.n:,} real items that were not trained on, **{i.value:.0%}** [{i.low:.0%}, {i.high:.0%}] "
            "hold a copied piece at least that long."
        )

    def _passages(self) -> Block:
        if not self.found:
            return Prose("No piece is longer than what chance would repeat.")
        rows: list[tuple[Cell, ...]] = []
        for passage in self.found[:SHOWN]:
            run = passage.copied
            around = () if self.private else (f"{passage.before}[{passage.text}]{passage.after}",)
            rows.append((passage.text, run.length, round(run.surprise, 1), run.count, passage.source, *around))
        columns = ("copied", self.unit, "surprise (nats)", "copies", "first in", *(() if self.private else ("there",)))
        more = f", {SHOWN} of {len(self.found)}" if len(self.found) > SHOWN else ""
        return Table(columns, rows, f"The most surprising first{more}. Together they cover {self.covered:.0%}.")

    def _novelty(self) -> tuple[Block, ...]:
        lines = [_line("samples of this model", self.lengths, self.new)]
        if self.real:
            lines.append(_line("held-out items", self.lengths, self.real))
        rows: list[tuple[Cell, ...]] = []
        for k, n in enumerate(self.lengths):
            real = (_measured(self.real[k]),) if self.real else ()
            rows.append((n, _measured(self.new[k]), *real))
        names = ("run of", "new in samples", *(("new in held-out items",) if self.real else ()))
        return (
            Curve(
                lines,
                f"{self.unit} in a row",
                "share that the training data does not have",
                caption=f"From {self.samples} samples, with 95% intervals over items.",
            ),
            Table(names, rows),
        )

    def _facts(self) -> Table:
        rows = [
            ("method", "suffix array of the training data; maximal runs as in OLMoTrace, Liu et al. 2025, "
                       "arXiv:2504.07096, section 3"),
            ("surprise", "cost of the run by pairs of symbols counted in the training data, its own copies left out"),
            ("shown", f"runs of more than {self.chance:.1f} nats: by chance there would be less than one"),
            ("searched", f"{self.items:,} training items, {self.symbols:,} {self.unit}"),
            ("seed", str(self.seed)),
            ("cost", f"{self.indexing:.2f} s to index, {1000 * self.asking:.1f} ms to look this sample up, "
                     f"{self.seconds:.1f} s in all"),
        ]  # fmt: skip
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        parts = ["Only copies word for word are found: a paraphrase, or a run with one symbol changed, counts as new."]
        if self.unit == "cells":
            parts.append(
                "A row is read from its first column to its last, so equal cells count as one run when their columns "
                "stand side by side. Other people's rows are not shown, only what this row itself says."
            )
        return "\n\n".join(parts)

    def _numbers(self) -> dict[str, Json]:
        def plain(p: Passage) -> dict[str, Json]:
            run = p.copied
            sources: list[Json] = [list(s) for s in run.sources]
            return {"start": run.start, "length": run.length, "count": run.count, "surprise": run.surprise,
                    "sources": sources}  # fmt: skip

        def ends(found: Sequence[Interval]) -> list[Json]:
            return [[i.value, i.low, i.high, i.n] for i in found]

        return {
            "size": self.size,
            "unit": self.unit,
            "found": [plain(p) for p in self.found],
            "longest": None if self.longest is None else plain(self.longest),
            "covered": self.covered,
            "as_long_held_out": None if self.as_long is None else ends([self.as_long])[0],
            "lengths": list(self.lengths),
            "new": ends(self.new),
            "new_held_out": ends(self.real),
            "faithful": self.check.passed,
        }


def provenance(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    items: Items | None = None,
    lengths: Sequence[int] | None = None,
) -> ProvenanceReport:
    """Find what of one sample stands in the training data.

    Args:
        data: the items the model was fitted on; those it carries, when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        items: items of your own to look up instead of a sample; `index` is then one of them.
        lengths: n of the novelty rates.

    Raises:
        BadInput: no data at hand, an index beyond the items, or what `model.sample` refuses.
        MissingCapability: the data is pictures, which have no order of symbols.
    """
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    kept, held = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
    spelling = spelling_of(data.take(kept), kept.tolist())  # type: ignore[arg-type]
    if index < 0 or (items is not None and index >= len(items)):
        raise BadInput(f"index is {index}", accepted=f"0 to {len(items) - 1}" if items is not None else "0 or more")
    if items is None:
        subject, chosen = f"sample {index} of seed {seed}", index
        found: Any = model.sample(max(OTHERS, index + 1), seed=seed, where=where, how=how).items
    else:
        subject, chosen, found = f"item {index}", index, items
    return traced(
        found,
        spelling,
        held=data.take(held[: HELD * 10]) if len(held) else None,  # type: ignore[arg-type]
        index=chosen,
        subject=subject,
        seed=seed,
        lengths=lengths,
    )


def traced(
    outputs: Sequences,
    training: Sequences | Spelling,
    *,
    held: Sequences | None = None,
    index: int = 0,
    subject: str = "this text",
    seed: int = 0,
    lengths: Sequence[int] | None = None,
) -> ProvenanceReport:
    """The same for sequences from anywhere: strings, rows of whole numbers, texts or tables.

    Args:
        outputs: what a model wrote; number `index` is explained, all count for the novelty rates.
        training: what it was trained on. held: items like these that it was not trained on.

    >>> report = traced(["not to be"], ["to be or not", "to bet"])
    >>> report.longest.text, report.longest.copied.count
    ('to be', 2)
    """
    began = time.monotonic()
    spelling = training if isinstance(training, Spelling) else spelling_of(training)
    if not 0 <= index < len(outputs):
        raise BadInput(f"index is {index}", accepted=f"0 to {len(outputs) - 1}")
    body = Body.of(spelling.training)
    indexed = time.monotonic()
    written = spelling.write(outputs)
    own = written[index]
    asked = time.monotonic()
    reach = body.longest(own)
    all_runs = body.copies(own, 1, reach)
    answered = time.monotonic()
    chance = body.chance(len(own))
    runs = sorted((r for r in all_runs if r.surprise > chance), key=lambda r: (-r.surprise, r.start))
    longest = max(all_runs, key=lambda r: (r.length, r.surprise), default=None)
    random = np.random.default_rng(seed)
    real = [] if held is None else _some(spelling.write(held), HELD, random)
    reaches = [body.longest(s) for s in real]
    as_long = None
    if longest is not None and reaches:
        as_long = wilson(sum(int(r.max(initial=0)) >= longest.length for r in reaches), len(reaches))
    mine = [reach if k == index else body.longest(s) for k, s in enumerate(written)]
    wide = max(len(s) for s in written)
    chosen = tuple(sorted({n for n in (lengths or _lengths(spelling.unit)) if 1 <= n <= wide})) or (1,)
    covered = sum(b - a for a, b in passages(runs)) / max(1, len(own))
    return ProvenanceReport(
        subject=subject,
        text=spelling.read(own[own >= 0]) if spelling.unit == "cells" else _readable(spelling, own),
        size=len(own),
        unit=spelling.unit,
        found=tuple(_passage(spelling, own, r) for r in runs),
        longest=None if longest is None else _passage(spelling, own, longest),
        covered=covered,
        as_long=as_long,
        lengths=chosen,
        new=tuple(_rate(mine, n, seed) for n in chosen),
        real=tuple(_rate(reaches, n, seed) for n in chosen) if reaches else (),
        samples=len(written),
        check=_check(body, spelling, own, random),
        chance=chance,
        symbols=body.symbols,
        items=len(spelling.training),
        private=spelling.private,
        seed=seed,
        indexing=indexed - began,
        asking=answered - asked,
        seconds=time.monotonic() - began,
    )


def _lengths(unit: str) -> tuple[int, ...]:
    return LENGTHS if unit in ("characters", "bytes", "symbols") else (2, 3, 4, 6, 8)


def _some(found: list[Whole], most: int, random: np.random.Generator) -> list[Whole]:
    return found if len(found) <= most else [found[k] for k in np.sort(random.permutation(len(found))[:most])]


def _readable(spelling: Spelling, symbols: Whole) -> str:
    """The text; what the training data never had stands as a replacement character."""
    if bool((symbols >= 0).all()):
        return spelling.read(symbols)
    edges = np.flatnonzero(np.diff(symbols >= 0)) + 1
    parts = np.split(symbols, edges)
    return "".join(spelling.read(p) if p[0] >= 0 else "\ufffd" * len(p) for p in parts if len(p))


def _passage(spelling: Spelling, own: Whole, run: Copied) -> Passage:
    item, place = run.sources[0]
    there = spelling.training[item]
    joint = "" if spelling.unit in ("characters", "bytes", "words", "symbols", "tokens") else " "
    before = there[max(0, place - AROUND) : place]
    after = there[place + run.length : place + run.length + AROUND]
    source = f"{spelling.names[item]}, place {place + 1:,}"
    if spelling.private:
        return Passage(run, spelling.read(own[run.start : run.end]), spelling.names[item], "", "")
    left = spelling.read(before) + joint if len(before) else ""
    right = joint + spelling.read(after) if len(after) else ""
    return Passage(run, spelling.read(own[run.start : run.end]), source, left, right)


def _rate(reaches: Sequence[Whole], n: int, seed: int) -> Interval:
    """Share of new runs of n symbols over all items, with an interval over items."""
    counts = np.array([novelty(r, n) for r in reaches], dtype=np.float64)

    def share(chosen: Whole) -> float:
        total = counts[chosen, 1].sum()
        return float(counts[chosen, 0].sum() / total) if total else float("nan")

    return bootstrap(share, len(counts), seed=seed)


def _check(body: Body, spelling: Spelling, own: Whole, random: np.random.Generator) -> Faithfulness:
    """Plant pieces of known training items into this very sample; each must be found whole, with its item."""
    training = spelling.training
    size = max(1, min(max(4, len(own) // 4), len(own)))
    long_enough = [k for k, t in enumerate(training) if len(t) >= size] or [int(np.argmax([len(t) for t in training]))]
    vocabulary = 1 + max(int(t.max(initial=0)) for t in training)

    def alike(symbols: Whole, other: Whole) -> float:
        a, b = (np.bincount(s[s >= 0], minlength=vocabulary).astype(np.float64) for s in (symbols, other))
        return float(a @ b / max(1e-9, float(np.linalg.norm(a) * np.linalg.norm(b))))

    hits, guesses = [], []
    for _ in range(PLANTED):
        item = int(random.choice(long_enough))
        length = min(size, len(training[item]))
        at = int(random.integers(0, len(training[item]) - length + 1))
        piece = training[item][at : at + length]
        to = int(random.integers(0, max(1, len(own) - length + 1)))
        planted = own.copy()
        planted[to : to + length] = piece[: len(own)]
        whole = np.flatnonzero(body.longest(planted)[: to + 1] + np.arange(to + 1) >= to + length)
        run = body.copies(planted[whole[0] : to + length])[0] if len(whole) else None
        # of several equal copies in the data any is right: the piece itself must stand at the place that is named
        item_, place = run.sources[0] if run is not None else (0, 0)
        place += to - (int(whole[0]) if len(whole) else to)
        hits.append(run is not None and np.array_equal(training[item_][place : place + length], piece))
        windows = [_window(training, len(own), random) for _ in range(CANDIDATES)]
        start = max(0, at - int(random.integers(0, max(1, len(own) - length + 1))))
        windows.append(training[item][start : start + len(own)])
        guesses.append(_holds(max(windows, key=lambda w: alike(planted, w)), piece))
    n = len(hits)
    own_hits, other = np.array(hits, float), np.array(guesses, float)
    gap = paired_difference(lambda k: float(own_hits[k].mean()), lambda k: float(other[k].mean()), n, seed=0)
    return Faithfulness(
        f"Pieces of {size} {spelling.unit} from training items were planted into this very sample. Each must be found "
        "whole, with a training item that holds it.",
        wilson(sum(hits), n),
        1.0,
        wilson(sum(guesses), n),
        f"the one of {CANDIDATES} training pieces with the most similar symbol counts",
        margin=Interval(gap.value, gap.low, gap.high, n),
    )


def _window(training: Sequence[Whole], size: int, random: np.random.Generator) -> Whole:
    """A stretch of a training item, as long as the sample where the item is."""
    item = training[int(random.integers(0, len(training)))]
    start = int(random.integers(0, max(1, len(item) - size + 1)))
    return item[start : start + size]


def _holds(text: Whole, piece: Whole) -> bool:
    """Does the piece stand anywhere in the text?"""
    if len(text) < len(piece):
        return False
    starts = np.flatnonzero(text[: len(text) - len(piece) + 1] == piece[0])
    return any(np.array_equal(text[s : s + len(piece)], piece) for s in starts.tolist())


def _line(name: str, x: Sequence[int], values: Sequence[Interval]) -> Series:
    return Series(name, x, [v.value for v in values], [v.low for v in values], [v.high for v in values])


def _measured(i: Interval) -> Measured:
    return Measured(i.value, i.low, i.high, n=i.n, kind="bootstrap 95% over items")
