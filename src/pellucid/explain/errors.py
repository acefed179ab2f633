"""What did the model learn wrong? Dependencies that it missed, invented or bent, regions it never or too often fills.

Samples are held against real items that training did not see, in two ways that serve every kind of data. Regions: real
items are sorted into groups by k-means, and the shares of groups are compared. Columns of a table: for each pair, how
much one tells of the other,

    I(a; b) = sum p(a, b) log p(a, b) / (p(a) p(b)) - (A - 1)(B - 1) / 2n      Miller 1955; A, B values, n rows

in real rows and in samples. Numbers are cut at quantiles of the real rows. Of many comparisons some look striking by
chance: only differences that stand after Holm's correction (1979) are named. The check plants errors of these kinds
into real items, and asks whether they are found there, and nothing is where none was planted.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from pellucid.core.capabilities import Samples
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
from pellucid.core.report import Block, Data, Details, Heading, Json, Measured, Prose, Report, Table, Verdict
from pellucid.core.run import Run
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.similarity import vectors
from pellucid.explain.sorting import sorter_for
from pellucid.fitting import halves

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["Confusion", "Dependency", "ErrorsReport", "Region", "dependencies", "errors", "holm", "regions"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["missed", "invented", "weaker", "stronger"]

MOST = 4000  # items of each side
GROUPS = 20  # regions
BINS = 8  # of a number
VALUES = 12  # of a category; the rest are one more
PARTS = 20  # of the rows, for the error of a dependency
SURE = 0.05  # chance of one wrong alarm or more, over all comparisons
FAINT = 0.01  # nats below which a dependency counts as none
GONE = 0.25  # of its real size: a dependency that kept less was missed
PLANTS = 10  # errors that the check plants, and honest halves beside them


@dataclass(frozen=True)
class Region:
    """A group of real items and its share among samples. example: number of the real item nearest to its middle."""

    group: int
    real: Interval
    made: Interval
    p: float
    example: int


@dataclass(frozen=True)
class Dependency:
    """How much two columns tell of each other, in nats, in real rows and in samples."""

    pair: tuple[str, str]
    real: float
    made: float
    error: float
    p: float

    @property
    def kind(self) -> Kind:
        if self.made < self.real:
            return "missed" if self.made < GONE * self.real else "weaker"
        return "invented" if self.real < max(FAINT, GONE * self.made) else "stronger"


@dataclass(frozen=True)
class Confusion:
    """Samples asked to be of one class that a judge calls another, beside real items of that class that it does."""

    asked: str
    other: str
    made: Interval
    real: Interval
    p: float


@dataclass(frozen=True)
class ErrorsReport(Report):
    """What stands out, after all comparisons are accounted for.

    wrong: dependencies that differ. tried: pairs that were compared. never: regions without a sample; off: others whose
    share differs. groups: regions compared. confused: classes that are not drawn as asked.
    invalid: how many samples hold what no real item does, in words.
    """

    family: str
    wrong: tuple[Dependency, ...]
    tried: int
    never: tuple[Region, ...]
    off: tuple[Region, ...]
    groups: int
    shown: tuple[Block, ...]
    confused: tuple[Confusion, ...]
    invalid: tuple[tuple[str, Interval], ...]
    check: Faithfulness
    real: int
    made: int
    seed: int
    seconds: float

    title = "What the model learned wrong"

    def blocks(self) -> tuple[Block, ...]:
        found = len(self.wrong) + len(self.never) + len(self.off) + len(self.confused)
        nothing = (
            "Nothing stands out. That is no proof that nothing is wrong: what is too small for "
            f"{self.real:,} real items to show stays hidden."
        )
        parts = []
        if self.tried:
            parts.append(f"**{len(self.wrong)}** of {self.tried} pairs of columns hang together otherwise than in real "
                         "rows")  # fmt: skip
        parts.append(f"**{len(self.never)}** of {self.groups} regions of the data are never filled and "
                     f"**{len(self.off)}** others too often or too seldom")  # fmt: skip
        if self.confused:
            parts.append(f"**{len({c.asked for c in self.confused})}** classes are not drawn as asked")
        sure = "Chance alone would name one of these less than once in 20 such reports."
        out: list[Block] = [Prose(f"{'; '.join(parts)}. {sure}" if found else nothing)]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        if self.wrong:
            rows = [
                (*d.pair, d.kind, Measured(d.real, unit="nats"), Measured(d.made, unit="nats"), f"{d.p:.1g}")
                for d in self.wrong[:20]
            ]
            out += [Heading("Columns that hang together otherwise", 3),
                    Table(("column", "column", "the model's is", "real", "samples", "p"), rows)]  # fmt: skip
        if self.never or self.off:
            out += [Heading("Regions filled otherwise", 3), self._regions(), *self.shown]
        if self.confused:
            classes = [
                (c.asked, c.other, _measured(c.made), _measured(c.real), f"{c.p:.1g}") for c in self.confused[:20]
            ]
            columns = ("asked for", "judged to be", "share of samples", "share of real items of that class", "p")
            out += [Heading("Classes that are confused", 3), Table(columns, classes)]
        for what, share in self.invalid:
            out.append(Verdict("warn" if share.low > 0 else "note", f"{what}: {share.value:.1%} of samples "
                               f"[{share.low:.1%}, {share.high:.1%}]."))  # fmt: skip
        out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        facts = [
            ("method", "k-means regions; mutual information with Miller's correction; Holm 1979 over all comparisons"),
            ("real items not trained on, samples", f"{self.real:,}, {self.made:,}"),
            ("seed", str(self.seed)),
            ("cost", f"{self.seconds:.1f} s"),
        ]
        out.append(Details("Method, cost and assumptions", (Table(("", ""), facts),)))
        out.append(Data(self._numbers(), "errors"))
        return tuple(out)

    def _regions(self) -> Table:
        rows = [
            (f"region {r.group + 1}", _measured(r.real), _measured(r.made), f"{r.p:.1g}", f"item {r.example}")
            for r in (*self.never, *self.off)
        ]
        return Table(("region", "share of real items", "share of samples", "p", "typical real item"), rows)

    def _numbers(self) -> dict[str, Json]:
        return {
            "dependencies": [[*d.pair, d.kind, d.real, d.made, d.p] for d in self.wrong],
            "regions": [[r.group, r.real.value, r.made.value, r.p] for r in (*self.never, *self.off)],
            "confused": [[c.asked, c.other, c.made.value, c.real.value, c.p] for c in self.confused],
            "compared": [self.tried, self.groups],
            "faithful": self.check.passed,
        }


def errors(model: Fitted, *, data: Items | None = None, seed: int = 0, run: Run | None = None) -> ErrorsReport:
    """Hold samples against real items that training did not see.

    Args:
        data: the items the model was fitted on; those it carries, when None. Where too few were held out, all are used
            and the report is kinder than it should be.

    Raises:
        MissingCapability: the model draws no samples. BadInput: no data, or fewer than 100 items of it.
    """
    began, run = time.monotonic(), run or Run()
    model.need(Samples, "be held against real items")
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if len(data) < 100:
        raise BadInput(f"there are {len(data)} items to compare with", accepted="100 or more")
    kept, aside = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
    generator = np.random.default_rng([abs(seed), len(data), 5])
    rows = aside if len(aside) >= 100 else np.concatenate((aside, generator.permutation(kept)))
    rows = generator.permutation(rows)[:MOST]
    real = data.take(rows)
    draw = model.sample(min(MOST, max(1000, len(rows))), seed=seed, run=run)
    space = model.codec.space
    a, b = vectors(space, model.codec.encode(real)), vectors(space, draw.x)
    found, centres = regions(a, b, seed=seed)
    pairs: list[Dependency] = []
    invalid: tuple[tuple[str, Interval], ...] = ()
    if isinstance(data, TableData) and isinstance(real, TableData) and isinstance(draw.items, TableData):
        pairs = dependencies(real, draw.items)
        invalid = _invalid(data, draw.items)
    classes = _confusions(model, data, real, draw.items, seed)
    sure = holm([*(r.p for r in found), *(d.p for d in pairs), *(c.p for c in classes)], SURE)
    off = [r for r, s in zip(found, sure, strict=False) if s]
    wrong = [d for d, s in zip(pairs, sure[len(found) :], strict=False) if s]
    confused = [c for c, s in zip(classes, sure[len(found) + len(pairs) :], strict=True) if s]
    never = tuple(r for r in off if r.made.value == 0.0)
    named = [Region(r.group, r.real, r.made, r.p, int(rows[r.example])) for r in off if r.made.value > 0.0]
    shown = _shown(model, data, rows, off, centres)
    return ErrorsReport(
        family=model.name,
        wrong=tuple(sorted(wrong, key=lambda d: -abs(d.made - d.real))),
        tried=len(pairs),
        never=tuple(Region(r.group, r.real, r.made, r.p, int(rows[r.example])) for r in never),
        off=tuple(sorted(named, key=lambda r: r.p)),
        groups=len(found),
        shown=shown,
        confused=tuple(sorted(confused, key=lambda c: c.p)),
        invalid=invalid,
        check=_check(a, real, seed),
        real=len(rows),
        made=len(draw),
        seed=seed,
        seconds=time.monotonic() - began,
    )


def regions(real: Floats, made: Floats, *, seed: int = 0) -> tuple[list[Region], Integers]:
    """Shares of k-means groups of the real items among both, the groups learned on one half and counted on the other.

    Args:
        real: (n, D). made: (m, D).

    Returns:
        The regions, and (n,) the group of each real item.
    """
    from sklearn.cluster import KMeans

    n, generator = len(real), np.random.default_rng([abs(seed), len(real)])
    order = generator.permutation(n)
    teach, count = order[: n // 2], order[n // 2 :]
    groups = KMeans(min(GROUPS, max(2, n // 25)), n_init=3, random_state=seed).fit(real[teach])
    of_real, of_made = groups.predict(real), groups.predict(made)
    away = np.square(real - groups.cluster_centers_[of_real]).sum(axis=1)
    out = []
    for g in range(groups.n_clusters):
        here = int((of_real[count] == g).sum())
        there = int((of_made == g).sum())
        members = np.flatnonzero(of_real == g)
        if not len(members):  # of items that are all alike there are fewer groups than were asked for
            continue
        example = int(members[np.argmin(away[members])])
        p = _two_shares(here, len(count), there, len(made))
        out.append(Region(g, wilson(here, len(count)), wilson(there, len(made)), p, example))
    return out, np.asarray(of_real, dtype=np.int64)


def _two_shares(a: int, n: int, b: int, m: int) -> float:
    """Two-sided p of two shares being one (pooled normal test with a continuity correction)."""
    pooled = (a + b) / (n + m)
    spread = np.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / n + 1 / m))
    gap = max(0.0, abs(a / n - b / m) - 0.5 * (1 / n + 1 / m))
    return float(2 * norm.sf(gap / spread))


def dependencies(real: TableData, made: TableData) -> list[Dependency]:
    """Every pair of columns in both tables, with the error of the difference from parts of the rows left out."""
    names = [
        c.name for c in real.columns if c.kind not in ("constant", "empty", "key") and c.name in made.frame.columns
    ]
    codes = {name: _coded(real.frame[name], made.frame[name]) for name in names}
    usable = [name for name in names if codes[name][2] > 1]
    out = []
    for a, b in itertools.combinations(usable, 2):
        (ra, ma, A), (rb, mb, B) = codes[a], codes[b]
        rows = min(len(ra), len(ma))  # Miller's correction leaves a bias that falls with the rows, so both have as many
        (there, e), (here, f) = _at(rows, ra, rb, A, B), _at(rows, ma, mb, A, B)
        error = float(np.hypot(e, f))
        gap = max(0.0, abs(here - there) - FAINT)  # a difference below that is nobody's error
        out.append(Dependency((a, b), there, here, error, float(2 * norm.sf(gap / max(error, 1e-9)))))
    return out


def _coded(real: pd.Series, made: pd.Series) -> tuple[Integers, Integers, int]:
    """Both columns as numbers from 0: quantile bins of the real one, or its commonest values; missing is a value."""
    if pd.api.types.is_datetime64_any_dtype(real):
        real, made = (pd.Series(s.astype("int64").where(s.notna(), np.nan)) for s in (real, made))
    if pd.api.types.is_numeric_dtype(real) and not pd.api.types.is_bool_dtype(real) and real.nunique() > VALUES:
        cuts = np.unique(np.nanquantile(real.to_numpy(dtype=np.float64, na_value=np.nan), np.arange(1, BINS) / BINS))
        both = [s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (real, made)]
        codes = [np.where(np.isnan(v), len(cuts) + 1, np.searchsorted(cuts, v, side="right")) for v in both]
        return codes[0].astype(np.int64), codes[1].astype(np.int64), len(cuts) + 2
    place = {v: i for i, v in enumerate(real.dropna().astype(str).value_counts().index[:VALUES])}
    last = len(place)
    codes = [
        np.array([last + 1 if pd.isna(v) else place.get(str(v), last) for v in s.astype(object)], dtype=np.int64)
        for s in (real, made)
    ]
    return codes[0], codes[1], last + 2


def _information(a: Integers, b: Integers, A: int, B: int) -> float:
    """Mutual information in nats, corrected for what so few rows show by chance."""
    n = len(a)
    joint = np.bincount(a * B + b, minlength=A * B).reshape(A, B) / n
    x, y = joint.sum(axis=1), joint.sum(axis=0)
    some = joint > 0
    plain = float((joint[some] * np.log(joint[some] / np.outer(x, y)[some])).sum())
    return plain - (int((x > 0).sum()) - 1) * (int((y > 0).sum()) - 1) / (2 * n)


def _at(rows: int, a: Integers, b: Integers, A: int, B: int) -> tuple[float, float]:
    """Information as so many rows tell it, and its standard error; of more, a mean over parts drawn at random.

    With few rows in many cells the jackknife says too little, so the error is then what parts of that size differ by.
    """
    error = _jackknife(a, b, A, B)
    if len(a) == rows:
        return _information(a, b, A, B), error
    random = np.random.default_rng([len(a), rows])
    parts = [random.permutation(len(a))[:rows] for _ in range(PARTS)]
    values = np.array([_information(a[part], b[part], A, B) for part in parts])
    return float(values.mean()), max(error, float(values.std(ddof=1)))


def _jackknife(a: Integers, b: Integers, A: int, B: int) -> float:
    """Standard error of the information: one of PARTS parts of the rows left out at a time (Efron and Stein 1981)."""
    n = len(a)
    part = np.arange(n) % PARTS
    values = np.array([_information(a[part != k], b[part != k], A, B) for k in range(PARTS)])
    return float(np.sqrt((PARTS - 1) / PARTS * np.square(values - values.mean()).sum()))


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Which of the comparisons stand, so that one wrong one or more comes with chance `level` at most (Holm 1979).

    >>> holm([0.001, 0.2, 0.02], 0.05)
    [True, False, True]
    """
    order = np.argsort(p)
    out = [False] * len(p)
    for done, i in enumerate(order):
        if p[i] > level / (len(p) - done):
            break
        out[i] = True
    return out


def _invalid(real: TableData, made: TableData) -> tuple[tuple[str, Interval], ...]:
    """Samples with a number outside the real range, or with two common values that never stand together."""
    n = len(made)
    outside = np.zeros(n, dtype=np.bool_)
    for column in real.columns:
        if column.kind in ("number", "integer") and column.name in made.frame:
            both = [t.frame[column.name].to_numpy(dtype=np.float64, na_value=np.nan) for t in (real, made)]
            outside |= (both[1] < np.nanmin(both[0])) | (both[1] > np.nanmax(both[0]))
    return (("A number outside the range of the real rows", wilson(int(outside.sum()), n)),)


def _confusions(model: Fitted, data: Items, real: Items, made: Items, seed: int) -> list[Confusion]:
    """For each class and the class it is mostly taken for, samples beside real items, under one judge."""
    if not model.codec.conditions:
        return []
    judge = sorter_for(model, data, seed=seed)
    asked = [_classes(items, judge.request) for items in (made, real)]
    if judge.request is None or any(a is None for a in asked):
        return []
    says = [np.asarray(judge.says(items)) for items in (made, real)]
    out = []
    for c, name in enumerate(judge.names):
        here, there = (said[np.asarray(a) == name] for said, a in zip(says, asked, strict=True))
        wrong = here[here != c]
        if len(here) < 10 or len(there) < 5 or not len(wrong):
            continue
        other = int(np.bincount(wrong).argmax())
        counts = (int((here == other).sum()), len(here), int((there == other).sum()), len(there))
        made_as, real_as = wilson(*counts[:2]), wilson(*counts[2:])
        called = judge.names[other] if other < len(judge.names) else "none of the classes"
        p = _two_shares(*counts) if made_as.value > real_as.value else 1.0
        out.append(Confusion(name, called, made_as, real_as, p))
    return out


def _classes(items: Items, request: str | None) -> list[str] | None:
    """The class that each item was asked to have, or has."""
    if isinstance(items, TableData):
        return [str(v) for v in items.frame[request]] if request in items.frame else None
    if isinstance(items, Pictures) and items.labels is not None:
        return [str(v) for v in items.labels]
    return None


def _shown(
    model: Fitted, data: Items, rows: Integers, off: Sequence[Region], groups: Integers, limit: int = 6
) -> tuple[Block, ...]:
    """Typical real items of the regions, where items may be shown."""
    if isinstance(data, TableData) or not off:
        return ()
    worst = sorted(off, key=lambda r: r.p)[:limit]
    return (
        Prose("Typical real items of these regions, the surest first:"),
        model.codec.show(data.take(rows[[r.example for r in worst]]), limit=limit),
    )


def _measured(share: Interval) -> Measured:
    return Measured(share.value, share.low, share.high, n=share.n)


def _check(real: Floats, items: Items, seed: int) -> Faithfulness:
    """Plant errors into halves of the real items, as a model would have made them, and look for them there."""
    generator = np.random.default_rng([abs(seed), 11])
    hits = alarms = 0
    n = len(real)
    for trial in range(PLANTS):
        order = generator.permutation(n)
        first, second = order[: n // 2], order[n // 2 :]
        if isinstance(items, TableData) and trial % 2 and len(items.columns) > 1:
            honest, planted = _planted_columns(items, first, second, generator)
        else:
            honest, planted = _planted_region(real, first, second, seed + trial)
        alarms += honest
        hits += planted
    return Faithfulness(
        "An error planted into real items must be found, and none where none was planted.",
        wilson(hits, PLANTS),
        1.0,
        wilson(alarms, PLANTS),
        "alarms at honest halves",
    )


def _planted_region(real: Floats, first: Integers, second: Integers, seed: int) -> tuple[bool, bool]:
    """A half without its largest region, and the half as it is."""
    found, groups = regions(real[first], real[second], seed=seed)
    honest = any(holm([r.p for r in found], SURE))
    largest = int(np.bincount(groups).argmax())
    centre, others = real[first][groups == largest], real[first][groups != largest]
    to_own = _nearest(real[second], centre)
    left = real[second][to_own > _nearest(real[second], others)]
    planted = any(holm([r.p for r in regions(real[first], left, seed=seed)[0]], SURE))
    return honest, planted


def _nearest(a: Floats, b: Floats) -> Floats:
    """(A,) squared distance of each to the nearest of b (B, D)."""
    found = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(found.min(axis=1))


def _planted_columns(
    items: TableData, first: Integers, second: Integers, generator: np.random.Generator
) -> tuple[bool, bool]:
    """A half with the strongest dependency's second column shuffled, and the half as it is."""
    a, b = items.take(first), items.take(second)
    pairs = dependencies(a, b)
    honest = any(holm([d.p for d in pairs], SURE))
    if not pairs:
        return honest, False
    name = max(pairs, key=lambda d: d.real).pair[1]
    frame = b.frame.copy()
    frame[name] = frame[name].to_numpy()[generator.permutation(len(frame))]
    shuffled = TableData(frame=frame, columns=b.columns, source=b.source, target=b.target)
    return honest, any(holm([d.p for d in dependencies(a, shuffled)], SURE))
