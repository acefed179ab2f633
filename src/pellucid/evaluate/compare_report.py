"""What a comparison says: a table of families and metrics, who leads on what, and what the numbers mean.

A leader is named only when its difference to every other model excludes zero; otherwise the report says that no
difference is shown. The intervals of these differences are widened for the number of models looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import pandas as pd

from pellucid.core.errors import BadInput, nearest
from pellucid.core.interval import Difference, Interval
from pellucid.core.report import (
    Block,
    Cell,
    Data,
    Details,
    Heading,
    Json,
    Mark,
    Measured,
    Pictures,
    Prose,
    Report,
    Row,
    Table,
    Verdict,
)
from pellucid.domains import pictures as read_pictures
from pellucid.domains.frames import TableData
from pellucid.domains.molecule_files import MoleculeData
from pellucid.evaluate.metrics import Contestant, Metric, Reading, Result
from pellucid.evaluate.resampling import Absent

__all__ = ["CompareReport", "Cost", "Lead", "lead"]

SHOWN = 16  # samples shown of each
SHOWN_ROWS, SHOWN_COLUMNS = 4, 8  # of a table


@dataclass(frozen=True)
class Lead:
    """The best model on a metric against another one.

    decided: the difference excludes zero and nothing stands against it. why: what does, if anything.
    """

    metric: str
    first: str
    second: str
    difference: Difference | None
    decided: bool
    why: str = ""


@dataclass(frozen=True)
class Cost:
    """What a model costs: learned numbers, seconds to train and to sample, kind of likelihood."""

    name: str
    parameters: int
    train: float | None
    sample: float | None
    likelihood: str


@dataclass(frozen=True, eq=False)
class CompareReport(Report):
    """Models side by side on the same real data.

    contestants: models first, then real data, copies of training data and the baseline.
    results: metric key -> contestant's name -> reading or reason. leads: best model against each other, by metric.
    n: rows compared at most; each reading says its own. seed: of samples, splits and resampling.
    left_out: families that were not compared, and why. notes: sentences about how it was done.
    """

    contestants: tuple[Contestant, ...]
    metrics: tuple[Metric, ...]
    results: Mapping[str, Mapping[str, Result]]
    leads: Mapping[str, tuple[Lead, ...]]
    costs: tuple[Cost, ...]
    n: int
    seed: int
    left_out: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"Comparison of {', '.join(c.name for c in self._models())}"

    def result(self, metric: str, name: str) -> Result:
        """What was read of this model on this metric, or why there is nothing."""
        for word, known in ((metric, self.results), (name, self.results.get(metric, {name: None}))):
            if word not in known:
                raise BadInput(f"'{word}' was not compared", accepted=", ".join(known), next=nearest(word, known))
        return self.results[metric][name]

    def interval(self, metric: str, name: str) -> Interval | None:
        """The value with its interval, or None where there is no number."""
        found = self.result(metric, name)
        return found.estimate.interval() if isinstance(found, Reading) else None

    def winner(self, metric: str) -> str | None:
        """The model that leads every other one on this metric, if that is shown."""
        leads = self.leads.get(metric, ())
        return leads[0].first if leads and all(found.decided for found in leads) else None

    def sentences(self) -> tuple[str, ...]:
        """What is shown and what is not, one sentence for each metric on which two models have numbers that vary."""
        return tuple(self._sentence(metric) for metric in self.metrics if any(map(_differ, self.leads[metric.key])))

    def warnings(self) -> tuple[str, ...]:
        """Models whose samples lie closer to training items than new real items do."""
        readings = self.results.get("closer", {})
        real, copies = (
            next((readings.get(c.name) for c in self.contestants if c.role == role), None)
            for role in ("real", "copies")
        )
        found = []
        for contestant in self._models():
            own = readings.get(contestant.name)
            if not (isinstance(own, Reading) and isinstance(real, Reading)):
                continue
            if own.estimate.n == real.estimate.n and own.estimate.minus(real.estimate, len(self._models())).low > 0:
                ceiling = f"; pure copies read {copies.estimate.value:.3f}" if isinstance(copies, Reading) else ""
                found.append(
                    f"Samples of {contestant.name} lie closer to training items than new real items do: "
                    f"{_measured(own)} against {_measured(real)}{ceiling}."
                )
        return tuple(found)

    def no_better_than_baseline(self) -> tuple[str, ...]:
        """Models that are not shown to beat the cheapest generator where real data beats it."""
        real, base = (next((c.name for c in self.contestants if c.role == r), "") for r in ("real", "baseline"))
        found = []
        for contestant in self._models():
            titles = [
                metric.title
                for metric in self.metrics
                if metric.group == "quality"
                and self._beats(metric, real, base) is True
                and self._beats(metric, contestant.name, base) is False
            ]
            if titles:
                found.append(f"{contestant.name} is not shown to do better than {base} on {_listed(titles)}.")
        return tuple(found)

    def blocks(self) -> tuple[Block, ...]:
        quality = [m for m in self._measured() if m.group == "quality"]
        honesty = [m for m in self._measured() if m.group == "honesty"]
        said = self.sentences() or ("With one model there is nothing to lead: compare it with the rows below it.",)
        footnotes: dict[str, int] = {}
        sure = self._differences()
        tables: list[Block] = [
            block
            for heading, metrics in (("How like real data", quality), ("Copying and likelihood", honesty))
            if metrics
            for block in (Heading(heading), self._table(metrics, footnotes))
        ]
        notes = [Prose("\n\n".join(f"{i}: {why}" for why, i in footnotes.items()))] if footnotes else []
        return (
            Prose("\n\n".join(said)),
            *(Verdict("warn", text) for text in (*self.warnings(), *self.no_better_than_baseline())),
            *tables,
            *notes,
            Heading("Samples"),
            *self._shown(),
            Heading("Costs"),
            self._costs(),
            *self._left_out(),
            *([Details("How sure: the best model against each other one", [sure])] if sure.rows else []),
            Details("What the numbers mean and how they were measured", self._meanings()),
            Data(self._plain(), name="comparison"),
        )

    def _models(self) -> tuple[Contestant, ...]:
        return tuple(c for c in self.contestants if c.role == "model")

    def _measured(self) -> list[Metric]:
        """Metrics that some model has a number for."""
        return [
            m
            for m in self.metrics
            if any(isinstance(self.results[m.key].get(c.name), Reading) for c in self.contestants if c.role == "model")
        ]

    def _beats(self, metric: Metric, name: str, other: str) -> bool | None:
        """Is it shown that one does better than the other? None where one has no number."""
        readings = self.results[metric.key]
        both = {key: readings[key] for key in (name, other) if key in readings}
        found = lead(metric, both)
        return None if not found else found[0].first == name and found[0].decided

    def _sentence(self, metric: Metric) -> str:
        leads, readings = self.leads[metric.key], self.results[metric.key]
        first, second = leads[0].first, leads[0].second
        if self.winner(metric.key) is not None:
            best, other = (_measured(cast(Reading, readings[name])) for name in (first, second))
            others = f"all others, the next of them {second}," if len(leads) > 1 else second
            return (
                f"On **{metric.title}** {first} leads {others} by {_gap(leads[0].difference)}: {best} against {other}."
            )
        level = [found for found in leads if not found.decided]
        ahead_of = [found.second for found in leads if found.decided]
        pair = f"{first} and {level[0].second}: " if len(level) > 1 else ""
        gap = "" if level[0].difference is None else f" ({pair}{_gap(level[0].difference)})"
        ahead = f"; {first} leads {_listed(ahead_of)}" if ahead_of else ""
        names = _listed([first, *(found.second for found in level)])
        return f"On **{metric.title}** no difference is shown between {names}{gap}{ahead}. {level[0].why}".rstrip()

    def _table(self, metrics: list[Metric], footnotes: dict[str, int]) -> Table:
        arrow = {"lower": "↓", "higher": "↑"}
        rows: list[list[Cell]] = []
        marks: dict[tuple[int, int], Mark] = {}
        for i, contestant in enumerate(self.contestants):
            cells: list[Cell] = [contestant.name]
            for j, metric in enumerate(metrics, start=1):
                found = self.results[metric.key][contestant.name]
                if isinstance(found, Reading):
                    cells.append(_measured(found))
                    if self.winner(metric.key) == contestant.name:
                        marks[i, j] = "best"
                else:
                    cells.append(f"— ({footnotes.setdefault(found.why, len(footnotes) + 1)})")
            rows.append(cells)
        return Table(
            columns=["", *(f"{m.title} {arrow[m.better]}" for m in metrics)],
            rows=rows,
            highlight=marks,
            caption="With 95% intervals. ↓ lower is better, ↑ higher is better; a leader is marked where one is shown.",
        )

    def _shown(self) -> tuple[Block, ...]:
        """The first samples of each, not chosen."""
        blocks: list[Block] = []
        for contestant in self.contestants:
            items = contestant.items
            if isinstance(items, read_pictures.Pictures):
                some = items.take(np.arange(min(SHOWN, len(items))))
                alt = f"The first {len(some)} pictures of {contestant.name}"
                blocks.append(Pictures(some.shown(), columns=4, caption=contestant.name, alt=alt))
            elif isinstance(items, TableData) and contestant.role == "model":
                frame = items.frame.iloc[:SHOWN_ROWS, :SHOWN_COLUMNS]
                cells = [
                    ["" if pd.isna(v) else str(v).removesuffix(" 00:00:00") for v in row]  # of days, no time of day
                    for row in frame.astype(object).to_numpy()
                ]
                blocks.append(Table(tuple(map(str, frame.columns)), cells, caption=contestant.name))
            elif isinstance(items, MoleculeData):
                blocks.append(Table((contestant.name,), [[text] for text in items.texts(SHOWN_ROWS)]))
        said = Prose(f"The first ones of each, in the order of seed {self.seed}; none was chosen.")
        if any(isinstance(c.items, TableData) for c in self.contestants):
            said = Prose(f"{said.text} Real rows are about somebody, so none of them is printed here.")
        pictures = [b for b in blocks if isinstance(b, Pictures)]
        return (said, Row(pictures)) if pictures else (said, *blocks)

    def _costs(self) -> Table:
        rows = [(c.name, c.parameters, c.train, c.sample, c.likelihood) for c in self.costs]
        drawn = {len(c.items) for c in self._models() if not isinstance(c.items, Absent)}
        return Table(
            ("", "learned numbers", "seconds to train", "seconds to sample", "likelihood"),
            rows,
            caption=f"{max(drawn, default=0):,} samples each",
        )

    def _left_out(self) -> tuple[Block, ...]:
        if not self.left_out:
            return ()
        rows = [(name, why) for name, why in self.left_out.items()]
        return (Heading("Not compared"), Table(("family", "why"), rows))

    def _differences(self) -> Table:
        titles = {m.key: m.title for m in self.metrics}
        rows = [
            (titles[f.metric], f.first, f.second, _gap(f.difference), "yes" if f.decided else "no", f.why)
            for leads in self.leads.values()
            for f in leads
        ]
        return Table(
            ("metric", "best", "other", "best is ahead by", "shown", "remark"),
            rows,
            caption="95% for all models of a metric together. Real rows are resampled alike for both models, "
            "samples of each on their own.",
        )

    def _meanings(self) -> tuple[Block, ...]:
        rows = []
        for metric in self._measured():
            readings = [r for r in self.results[metric.key].values() if isinstance(r, Reading)]
            by = "; ".join(dict.fromkeys(r.by for r in readings if r.by))
            sizes = ", ".join(f"{n:,}" for n in sorted({r.estimate.n for r in readings}))
            rows.append((metric.title, metric.better, metric.meaning, by, sizes))
        remarks = [
            f"{name}: {found.remark}"
            for metric in self._measured()
            for name, found in self.results[metric.key].items()
            if isinstance(found, Reading) and found.remark
        ]
        table = Table(("metric", "better", "meaning", "measured by", "n"), rows)
        return table, *(Prose(text) for text in (*self.notes, *remarks))

    def _plain(self) -> Json:
        """Everything measured, for programs."""
        return {
            "n": self.n,
            "seed": self.seed,
            "results": {
                key: {name: _plain(found) for name, found in readings.items()} for key, readings in self.results.items()
            },
            "winners": {metric.key: self.winner(metric.key) for metric in self.metrics},
            "left_out": dict(self.left_out),
        }


def lead(metric: Metric, readings: Mapping[str, Result]) -> tuple[Lead, ...]:
    """The best model against each other one, nearest rival first; empty with fewer than two numbers.

    Args:
        readings: of the models only.
    """
    known = {name: found for name, found in readings.items() if isinstance(found, Reading)}
    sign = 1.0 if metric.better == "higher" else -1.0
    order = sorted(known, key=lambda name: -sign * known[name].estimate.value)
    return tuple(_lead(metric, order[0], name, known, len(order) - 1) for name in order[1:])


def _lead(metric: Metric, first: str, second: str, known: Mapping[str, Reading], pairs: int) -> Lead:
    best, other = known[first], known[second]
    if best.league != other.league:
        return Lead(metric.key, first, second, None, False, "They are not measured on the same terms.")
    if best.estimate.n != other.estimate.n:
        return Lead(metric.key, first, second, None, False, "They are measured on different numbers of rows.")
    if metric.better == "higher":
        gap = best.estimate.minus(other.estimate, pairs)
    else:
        gap = other.estimate.minus(best.estimate, pairs)
    if other.bound and not best.bound:
        why = f"Of {second} only a bound is known; the truth may be better."
        return Lead(metric.key, first, second, gap, False, why)
    why = "Bounds are compared; the truth is not worse for either." if best.bound and other.bound else ""
    return Lead(metric.key, first, second, gap, gap.low > 0, why)


def _plain(found: Result) -> Json:
    if isinstance(found, Absent):
        return {"absent": found.topic, "why": found.why}
    interval = found.estimate.interval()
    return {**asdict(interval), "kind": found.estimate.kind, "by": found.by}


def _measured(reading: Reading) -> Measured:
    found = reading.estimate.interval()
    return Measured(found.value, found.low, found.high, n=found.n, kind=reading.estimate.kind)


def _differ(lead: Lead) -> bool:
    """Is there anything to say? Not when every half-sample of both models gave the same value."""
    return lead.difference is None or lead.difference.low < lead.difference.high or lead.decided


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _gap(difference: Difference | None) -> str:
    if difference is None:
        return "—"
    return str(Measured(difference.value, difference.low, difference.high))
