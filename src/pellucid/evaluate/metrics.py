"""The list of metrics: what each is called, which way is better, and the function that measures it.

A new metric is one entry at the end of this file and its own file beside it; the comparison and its report follow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import PellucidError, Stopped
from pellucid.core.run import Run
from pellucid.domains.frames import TableData
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.bits import bits_per_dimension
from pellucid.evaluate.copy_check import copy_check
from pellucid.evaluate.detection import detection
from pellucid.evaluate.features import Encoder, Extractor, TableFeatures
from pellucid.evaluate.frechet import frechet
from pellucid.evaluate.labels import Judge, asked_class_share
from pellucid.evaluate.marginals import associations, marginals
from pellucid.evaluate.matrices import TreeCells
from pellucid.evaluate.molecules import Known, measure_molecules
from pellucid.evaluate.neighbours import Points
from pellucid.evaluate.precision_recall import precision_recall
from pellucid.evaluate.resampling import Absent, Estimate
from pellucid.evaluate.utility import choose_target, utility
from pellucid.model import Fitted

__all__ = [
    "MOLECULES",
    "PICTURES",
    "TABLES",
    "Bench",
    "Contestant",
    "Instrument",
    "Metric",
    "Reading",
    "Result",
    "measure",
]

Floats = NDArray[np.float64]
Items = Pictures | TableData | MoleculeData
T = TypeVar("T")

NEIGHBOURS = 3000  # rows of nearest-neighbour metrics; their cost grows with the square
JUDGED = 1000  # held-out pictures that are enough to teach the judge of classes
SCORED = 512  # held-out items of bits per dimension: a continuous model integrates an equation for each


@dataclass(frozen=True)
class Metric:
    """One number: a key for programs, a title for people, which way is better, and what that means.

    group: "quality" or "honesty": the table it stands in. limit: the value of a perfect model, where there is one.
    """

    key: str
    title: str
    better: Literal["lower", "higher"]
    meaning: str
    group: Literal["quality", "honesty"] = "quality"


@dataclass(frozen=True)
class Reading:
    """One number of one contestant.

    by: what measured it, with its fingerprint. league: values compare only within one. bound: the truth is not worse.
    remark: a detail for the small print.
    """

    estimate: Estimate
    by: str = ""
    league: str = ""
    bound: bool = False
    remark: str = ""


Result = Reading | Absent


@dataclass(frozen=True, eq=False)
class Contestant:
    """What is measured.

    role: "model"; "real" (unseen real items: what a perfect model reads); "copies" (training items: what a model that
    only copies reads); "baseline" (independent columns or pixels).
    items: the samples, or why there are none. fitted: the model, where there is one. seconds: to draw the samples.
    """

    name: str
    role: Literal["model", "real", "copies", "baseline"]
    items: Items | Absent
    fitted: Fitted | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """The real data of a comparison, and what is learned from it once.

    train: what the models were trained on. reference, fresh: two halves of the held-out data; samples are compared
    with the reference, and so are the fresh ones, to see what real data reads. n: rows compared.
    """

    train: Items
    reference: Items
    fresh: Items
    held_out: Items
    n: int
    seed: int
    run: Run = field(default_factory=Run)
    _kept: dict[Hashable, object] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave the first time this key was asked for; an error is kept and raised again."""
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except PellucidError as error:
                if isinstance(error, Stopped):
                    raise
                self._kept[key] = error
        found = self._kept[key]
        if isinstance(found, PellucidError):
            raise found
        return cast(T, found)

    def extractor(self) -> Extractor[Items]:
        """The feature extractor, learned from the training items."""

        def learn() -> Extractor[Items]:
            if isinstance(self.train, Pictures):
                return cast(Extractor[Items], Encoder.learn(self.train, seed=self.seed, run=self.run))
            assert isinstance(self.train, TableData)
            return cast(Extractor[Items], TableFeatures(self.train))

        return self.once("extractor", learn)

    def by_extractor(self) -> str:
        """The extractor's name and fingerprint."""
        return f"{self.extractor().name} ({self.extractor().fingerprint()})"

    def features(self, of: Contestant | None) -> Floats:
        """(n, D) of the contestant's first n items, or of the reference."""
        name = ("features", "" if of is None else of.name)
        items = self.reference if of is None else _items(of)
        return self.once(name, lambda: self.extractor().features(items.take(np.arange(self.n))))


@dataclass(frozen=True)
class Instrument:
    """A function that measures one or several metrics of a contestant."""

    metrics: tuple[Metric, ...]
    read: Callable[[Bench, Contestant], Mapping[str, Result]]


def measure(instrument: Instrument, bench: Bench, contestant: Contestant) -> dict[str, Result]:
    """Every metric of the instrument; where there is no number, the reason."""
    if isinstance(contestant.items, Absent):
        return {metric.key: contestant.items for metric in instrument.metrics}
    try:
        found = instrument.read(bench, contestant)
    except Stopped:
        raise
    except PellucidError as error:
        return {metric.key: Absent.of(error) for metric in instrument.metrics}
    missing = Absent("input", "the data has no such part")
    return {metric.key: found.get(metric.key, missing) for metric in instrument.metrics}


def _items(of: Contestant) -> Items:
    assert not isinstance(of.items, Absent)
    return of.items


def _frechet(bench: Bench, of: Contestant) -> dict[str, Result]:
    estimate = frechet(bench.features(None), bench.features(of), seed=bench.seed, name=of.name)
    return {"frechet": Reading(estimate, bench.by_extractor())}


def _neighbours(bench: Bench, of: Contestant) -> dict[str, Result]:
    real, generated = bench.features(None)[:NEIGHBOURS], bench.features(of)[:NEIGHBOURS]
    found = precision_recall(Points(real), Points(generated), seed=bench.seed, name=of.name)
    by = f"3 nearest neighbours in {bench.by_extractor()}"
    return {key: Reading(getattr(found, key), by) for key in ("precision", "recall", "coverage")}


def _asked_class(bench: Bench, of: Contestant) -> dict[str, Result]:
    # a judge that learned from training pictures is kinder to copies of them, so it takes others where it can
    unseen = len(bench.reference) >= JUDGED
    taught, items = bench.reference if unseen else bench.train, _items(of)
    assert isinstance(taught, Pictures)
    assert isinstance(items, Pictures)
    judge = bench.once("judge", lambda: Judge.learn(taught, seed=bench.seed))
    if of.role == "copies" and not unseen:
        return {"asked_class": Absent("input", "the judge of classes was trained on these pictures")}
    if items.labels is None:
        return {"asked_class": Absent("capability", "its pictures are not made for a class")}
    estimate = asked_class_share(judge, items.take(np.arange(bench.n)), seed=bench.seed, name=of.name)
    by = f"{judge.name} {'held out' if unseen else 'of the training set'}"
    return {"asked_class": Reading(estimate, by)}


def _copies(bench: Bench, of: Contestant) -> dict[str, Result]:
    items, train, reference = _items(of).take(np.arange(min(bench.n, NEIGHBOURS))), bench.train, bench.reference
    # molecules are compared as graphs
    assert not isinstance(items, MoleculeData)
    assert not isinstance(train, MoleculeData)
    assert not isinstance(reference, MoleculeData)
    found = copy_check(items, train, reference, seed=bench.seed, name=of.name)
    what = "pixels" if isinstance(items, Pictures) else "scaled cells"
    by = f"Euclidean distance of {what} to {found.compared:,} training and {found.compared:,} held-out items"
    return {
        "closer": Reading(found.closer, by, remark=f"{len(items):,} samples count as {found.groups:,}"),
        "identical": Reading(found.identical, f"all {len(bench.train):,} training items"),
    }


def _bits(bench: Bench, of: Contestant) -> dict[str, Result]:
    if of.fitted is None:
        return {"bits": Absent("capability", "only a model has a likelihood")}
    items = bench.held_out.take(np.arange(min(len(bench.held_out), SCORED)))
    found = bits_per_dimension(of.fitted, items, seed=bench.seed)
    given = f", given {' and '.join(found.given)}" if found.given else ""
    by = f"{found.kind.replace('_', ' ')} on held-out items of {found.dimensions:,} dimensions{given}"
    league = f"{found.dimensions} {found.given}"
    return {"bits": Reading(found.bits, by, league, bound=found.kind == "upper_bound")}


def _marginals(bench: Bench, of: Contestant) -> dict[str, Result]:
    real, generated = _two_tables(bench, of)
    found = marginals(real, generated, seed=bench.seed, name=of.name)
    worst = max(found.columns, key=lambda c: c.distance.value)
    remark = f"furthest column: '{worst.name}', {worst.measure} {worst.distance.value:.3f}"
    return {"columns": Reading(found.mean, "KS of numbers, total variation of choices", remark=remark)}


def _associations(bench: Bench, of: Contestant) -> dict[str, Result]:
    real, generated = _two_tables(bench, of)
    found = associations(real, generated, seed=bench.seed, name=of.name)
    gaps = np.triu(np.abs(found.real - found.generated), 1)
    i, j = np.unravel_index(gaps.argmax(), gaps.shape)
    remark = (
        f"furthest pair: '{found.names[i]}' and '{found.names[j]}', "
        f"{found.real[i, j]:.2f} in real data, {found.generated[i, j]:.2f} here"
    )
    by = "rank correlation, correlation ratio, Cramér's V"
    return {"pairs": Reading(found.difference, by, remark=remark)}


def _coverage(bench: Bench, of: Contestant) -> dict[str, Result]:
    return {"coverage": _neighbours(bench, of)["coverage"]}


def _utility(bench: Bench, of: Contestant) -> dict[str, Result]:
    train, test, items = bench.train, bench.held_out, _items(of)
    assert isinstance(train, TableData)
    assert isinstance(test, TableData)
    assert isinstance(items, TableData)
    if of.role == "real":
        why = "unseen real rows are the test here; training rows, copied, show what real rows reach"
        return {key: Absent("input", why) for key in ("utility", "utility_f1", "utility_r2")}
    target = bench.once("target", lambda: choose_target(train))
    cells = bench.once("cells without target", lambda: TreeCells.learn(train, target.column.name))
    found = utility(items, test, target, cells, seed=bench.seed, name=of.name)
    chosen = "" if target.asked else ", chosen as no target was named"
    by = f"boosted trees predict '{target.column.name}'{chosen}; tested on {len(test):,} held-out rows"
    values = {"utility": found.area, "utility_f1": found.macro_f1, "utility_r2": found.r2}
    return {key: Reading(value, by) for key, value in values.items() if value is not None}


def _detection(bench: Bench, of: Contestant) -> dict[str, Result]:
    real, generated = _two_tables(bench, of)
    train = bench.train
    assert isinstance(train, TableData)
    cells = bench.once("cells", lambda: TreeCells.learn(train))
    return {"detection": Reading(detection(real, generated, cells, seed=bench.seed, name=of.name), "boosted trees")}


def _molecules(bench: Bench, of: Contestant) -> dict[str, Result]:
    train, reference, items = bench.train, bench.reference, _items(of).take(np.arange(bench.n))
    assert isinstance(train, MoleculeData)
    assert isinstance(reference, MoleculeData)
    assert isinstance(items, MoleculeData)
    known = bench.once("known molecules", lambda: Known.of(train.texts(), reference.texts()))
    found = measure_molecules(items.texts(), known, seed=bench.seed, name=of.name)
    by = {
        "valid": "valences, rings and aromatic double bonds" if found.strict is None else "RDKit",
        "unique": "graphs of atoms and bonds",
        "novel": f"graphs of {len(train):,} training molecules",
        "diversity": "circular fingerprints of radius 2, 1,024 bits",
        "fragments": f"pieces of {len(reference):,} unseen molecules, cut where single bonds leave rings",
        "scaffolds": f"rings and what joins them of {len(reference):,} unseen molecules",
    }
    values = {"valid": found.strict or found.valid, "unique": found.unique, "novel": found.novel}
    values |= {"diversity": found.diversity, "fragments": found.fragments, "scaffolds": found.scaffolds}
    few = Absent("input", "too few of its strings are molecules")
    return {key: few if value is None else Reading(value, by[key]) for key, value in values.items()}


def _two_tables(bench: Bench, of: Contestant) -> tuple[TableData, TableData]:
    first = np.arange(bench.n)
    real, generated = bench.reference.take(first), _items(of).take(first)
    assert isinstance(real, TableData)
    assert isinstance(generated, TableData)
    return real, generated


RECALL = "Share of real items that lie near some sample: lower means that part of the data is never made."
COVERAGE = "Share of real items with a sample in their own neighbourhood: lower means that part of the data is missing."
CLOSER = (
    "Share of samples nearer to training items than to as many unseen ones: 0.5 without copying. "
    "It detects copies and is no measure of privacy."
)
IDENTICAL = "Share of samples equal to a training item; real data has its own share of repeats."
BITS = "Bits that the model needs for each number of unseen real data: lower means that it expects real data more."

COPYING = (
    Metric("closer", "closer to training", "lower", CLOSER, "honesty"),
    Metric("identical", "identical to training", "lower", IDENTICAL, "honesty"),
)
LIKELIHOOD = Metric("bits", "bits per dimension", "lower", BITS, "honesty")

PICTURES: tuple[Instrument, ...] = (
    Instrument(
        (
            Metric(
                "frechet", "Fréchet distance", "lower",
                "Distance of mean and spread of features: lower is nearer; compare with the row 'real, unseen'.",
            ),
        ),
        _frechet,
    ),
    Instrument(
        (
            Metric(
                "precision", "precision", "higher",
                "Share of samples that lie among real items: lower means odd samples.",
            ),
            Metric("recall", "recall", "higher", RECALL),
            Metric("coverage", "coverage", "higher", COVERAGE),
        ),
        _neighbours,
    ),
    Instrument(
        (
            Metric(
                "asked_class", "asked class", "higher",
                "Share of samples that a judge takes for the class asked for; of real ones: how often it is right.",
            ),
        ),
        _asked_class,
    ),
    Instrument(COPYING, _copies),
    Instrument((LIKELIHOOD,), _bits),
)  # fmt: skip
"""What pictures are measured by, in the order of the report."""

TABLES: tuple[Instrument, ...] = (
    Instrument(
        (Metric("columns", "columns", "lower", "Mean distance of single columns, 0 to 1: lower is nearer to real."),),
        _marginals,
    ),
    Instrument(
        (Metric("pairs", "pairs of columns", "lower", "Mean error of how strongly two columns go together."),),
        _associations,
    ),
    Instrument((Metric("coverage", "coverage", "higher", COVERAGE),), _coverage),
    Instrument(
        (
            Metric(
                "utility", "utility (AUC)", "higher",
                "Area under the ROC curve on real rows after training on samples; copies of real rows are the ceiling.",
            ),
            Metric("utility_f1", "utility (macro-F1)", "higher", "The same, as F1 averaged over classes."),
            Metric("utility_r2", "utility (R²)", "higher", "Share of variance explained after training on samples."),
        ),
        _utility,
    ),
    Instrument(
        (
            Metric(
                "detection", "detection (AUC)", "lower",
                "How well boosted trees tell samples from real rows: 0.5 not at all, 1 always.",
            ),
        ),
        _detection,
    ),
    Instrument(COPYING, _copies),
    Instrument((LIKELIHOOD,), _bits),
)  # fmt: skip
"""What tables are measured by, in the order of the report."""

MOLECULES: tuple[Instrument, ...] = (
    Instrument(
        (
            Metric("valid", "valid", "higher", "Share of strings that are molecules."),
            Metric("unique", "unique", "higher", "Of these, the share that no earlier one equals."),
            Metric("novel", "new", "higher", "Of different ones, the share that was not learned from.", "honesty"),
            Metric("diversity", "diversity", "higher", "1 less the mean similarity of two: lower means more alike."),
            Metric("fragments", "fragments", "higher", "Cosine of how often fragments occur, with unseen molecules."),
            Metric("scaffolds", "scaffolds", "higher", "The same of the rings and what joins them."),
        ),
        _molecules,
    ),
    Instrument((LIKELIHOOD,), _bits),
)
"""What molecules are measured by, in the order of the report."""
