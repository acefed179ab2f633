"""Which word or condition made which part? What changes when it is changed, and where attention looked, side by side.

The ablation is the answer (see `ablation.py`): it is an experiment on this very sample. Attention is the common guess;
it is recomputed from the run's own queries and keys (see `looking.py`), and its heads and stages are weighed by how
well they foretell the ablations of other samples. Both are shown with their agreement, since attention can be wrong
about what words do (Liu et al. 2022, arXiv:2201.12114).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, bootstrap, paired_difference
from pellucid.core.report import Block, Data, Details, Heading, Json, Pictures, Prose, Report, Table, Verdict
from pellucid.core.run import Run
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures as PictureData
from pellucid.explain.ablation import Ablation, ablate, agreement, lower_median, overlap, region
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.looking import Looks, cross_sites, grid_of_places, head_maps, looking
from pellucid.explain.redraw import redrawn, told

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["AttentionMaps", "AttentionReport", "attention", "attention_maps"]

Floats = NDArray[np.float64]
SAMPLES = 8
CHANGED = 0.1  # of the range, from which on a pixel counts as changed; of a column, in standard deviations
MOVED = 2 / 3  # two changes that move a thing to two new places have 1/3 in common, each and their middle 1/2
RIDGE = 1.0  # against pieces that look alike, in units of one place's spread


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention to words in N samples of one request.

    maps: (N, P, H, W), weighed; sample i by weights that the ablations of the other samples gave.
    gap: largest difference between what a site put out and what the weights rebuild, relative to its size.
    side: (h, w) places of the finest site. weights: (K,) of the first sample's pieces.
    """

    maps: Floats
    gap: float
    side: tuple[int, int]
    weights: Floats


@dataclass(frozen=True)
class AttentionReport(Report):
    """What each part of a request made of a sample.

    parts: the words or conditions. moved: of each, the share of the sample that changes with it, over the samples of
    this request. rank, common: of each, Spearman's correlation and overlap of attention and ablation in this sample.
    ablation: checked on changes that the maps have not seen. attention: checked on the ablation; None where there is
    no attention to words. gap: how exactly attention rebuilds what its sites put out.
    """

    seed: int
    index: int
    request: str
    route: str
    parts: tuple[str, ...]
    moved: tuple[Interval, ...]
    unit: str
    shown: tuple[Block, ...]
    rank: tuple[float, ...]
    common: tuple[float, ...]
    ablation: Faithfulness | None
    attention: Faithfulness | None
    gap: float
    changes: tuple[str, ...]
    evaluations: int
    seconds: float
    where_met: str

    @property
    def title(self) -> str:
        return f"What each part of the request made of sample {self.index} of seed {self.seed}"

    @property
    def check(self) -> Faithfulness | None:
        """Of the ablation, on which the sentence rests."""
        return self.ablation

    def blocks(self) -> tuple[Block, ...]:
        order = sorted(range(len(self.parts)), key=lambda k: -self.moved[k].value)
        first = order[0]
        opening = f"It was asked for: **{self.request}**. {self._says(first, 'matters most')}"
        if len(order) > 1:
            opening += f" {self._says(order[-1], 'matters least')}"
        out: list[Block] = [Prose(opening)]
        if self.ablation is not None and not self.ablation.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        if self.attention is not None and not self.attention.passed:
            out.append(Verdict("warn", "Where attention looked does not tell well enough what the words did here."))
        if self.where_met:
            out.append(Verdict("note", f"{self.where_met} was met by choosing among samples and made no part of it."))
        out += [*self.shown, self._table()]
        out.append(Heading("Can this be trusted?", 3))
        for name, check in (("changing the request", self.ablation), ("attention", self.attention)):
            if check is not None:
                out += [Prose(f"**Maps from {name}**"), *check.blocks()]
        if self.ablation is None:
            out.append(Verdict("note", "One change of each part only: there is no second one to check the maps on."))
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "attention"))
        return tuple(out)

    def _says(self, k: int, rank: str) -> str:
        m = self.moved[k]
        told = f"{m.value:.0%} [{m.low:.0%}, {m.high:.0%}] of {self.unit}"
        return f"**{self.parts[k]}** {rank}: changed, with the same noise, it changes {told}."

    def _table(self) -> Table:
        with_attention = self.attention is not None
        columns = ["part", "changed to", f"changes so much of {self.unit}"]
        columns += ["rank agreement with attention", "overlap with attention"] if with_attention else []
        rows = []
        for k, part in enumerate(self.parts):
            m = self.moved[k]
            row: list[str | float] = [part, self.changes[k], f"{m.value:.1%} [{m.low:.1%}, {m.high:.1%}]"]
            rows.append([*row, self.rank[k], self.common[k]] if with_attention else row)
        return Table(columns, rows)

    def _facts(self) -> Table:
        rows = [
            ("route", self.route),
            ("seed, sample", f"{self.seed}, {self.index}"),
            ("samples of the request", str(self.moved[0].n)),
            ("ablation", "the same noise, one part changed; lower median over the changes"),
        ]
        if self.attention is not None:
            rows.append(("attention", "cross-attention of each head, layer and quarter of the way; Tang et al. 2023, "
                         "DAAM, arXiv:2210.04885, with weights fitted to the ablations of other samples"))  # fmt: skip
            rows.append(("rebuilding", f"the weights give back what each site put out, to {self.gap:.1e} of its size"))
        rows.append(("cost", f"{self.evaluations:,} network evaluations, {self.seconds:.1f} s"))
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        parts = [
            "Words are changed to others that stand between the same neighbours in training captions; where fewer than "
            "two do, the word is also left out. A place counts as far as more than half of the changes move it. A "
            "place that no change moves may still have been made by several words together.",
            "What hangs on the noise alone, such as the exact place within the one that was asked for, is nobody's.",
        ]
        if self.attention is None:
            parts.append("This network has no attention to words, so there is the ablation alone.")
        return "\n\n".join(parts)

    def _numbers(self) -> dict[str, Json]:
        return {
            "seed": self.seed,
            "index": self.index,
            "route": self.route,
            "parts": list(self.parts),
            "moved": [[m.value, m.low, m.high] for m in self.moved],
            "rank": list(self.rank),
            "overlap": list(self.common),
            "rebuilt_to": self.gap,
            "faithful": None if self.ablation is None else self.ablation.passed,
            "attention_faithful": None if self.attention is None else self.attention.passed,
        }


def attention(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    samples: int = SAMPLES,
    run: Run | None = None,
) -> AttentionReport:
    """Explain which words or conditions made which part of a sample.

    Args:
        model: one that was told something: classes, captions or a target column.
        data: the items it was fitted on, for the spread of columns; those it carries, when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        samples: of the same request, on which it is checked. run: asked whether to go on.

    Raises:
        MissingCapability: the model has no conditions, nothing was asked, or items have no places (texts).
        BadInput: what `model.sample` refuses, or fewer than 2 samples.
    """
    began = time.monotonic()
    if samples < 2:
        raise BadInput(f"samples is {samples}", accepted="2 or more")
    subject = told(model, seed, index, where, how)
    condition, how = subject.condition, subject.how
    ids = [subject.index, *(k for k in range(samples) if k != subject.index)][:samples]
    found = ablate(model, seed, ids, condition, how, data=data if data is not None else model.data)
    if run is not None:
        run.go_on("the explanation was stopped")
    pictures = isinstance(found.own, PictureData)
    looks = attention_maps(model, seed, ids, condition, how, found) if pictures and cross_sites(model.engine) else None
    maps = found.maps(0)
    rank, common = [0.0] * len(maps), [0.0] * len(maps)
    if looks is not None:
        rank = [agreement(a, b) for a, b in zip(looks.maps[0], maps, strict=True)]
        common = [overlap(region(a), region(b)) for a, b in zip(looks.maps[0], maps, strict=True)]
    whole = np.stack([found.maps(i) for i in range(len(ids))], axis=1)  # (P, N, *places)
    places = tuple(range(2, whole.ndim))
    moved = [_mean_of((part[None] > CHANGED).mean(axis=places)[0], seed) for part in whole]
    names = tuple(p.part if p.place >= 0 else f"{p.part} = {subject.given[p.part]}" for p in found.parts)
    return AttentionReport(
        seed=seed,
        index=index,
        request=", ".join(f"{k} = {v}" for k, v in subject.given.items()),
        route="ablation and cross-attention" if looks is not None else "ablation alone",
        parts=names,
        moved=tuple(moved),
        unit="the picture" if pictures else "the columns",
        shown=_shown(model, found, looks, names),
        rank=tuple(rank),
        common=tuple(common),
        ablation=_check_ablation(found, seed),
        attention=None if looks is None else _check_attention(found, looks, seed),
        gap=0.0 if looks is None else looks.gap,
        changes=found.words,
        evaluations=found.evaluations,
        seconds=time.monotonic() - began,
        where_met=", ".join(f"{k} = {v}" for k, v in subject.other.items()),
    )


def attention_maps(
    model: Fitted, seed: int, ids: Sequence[int], condition: Condition, how: How, found: Ablation
) -> AttentionMaps:
    """Attention to each word of the request while the samples of these ids are drawn, weighed by others' ablations.

    map(word) = sum_k w_k z_k(word), with z_k the standardised attention of piece k, and w the ridge solution that
    foretells the standardised ablation maps of all samples but the one that is explained.

    Args:
        condition: one row. found: the ablation of the same ids, of two samples or more.
    """
    with looking(model.engine, rows=len(ids)) as looks:
        items, _ = redrawn(model, seed, torch.tensor(list(ids)), condition.repeat(len(ids)), how)
    assert isinstance(items, PictureData)
    places = [p.place for p in found.parts]
    z = _pieces(looks, items, len(ids))[:, places]  # (N, P, K, HW)
    target = np.stack([found.maps(i) for i in range(len(ids))]).reshape(len(ids), len(places), -1)
    target = target - target.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(target).mean(-1, keepdims=True))
    target = np.where(scale > 1e-6, target / np.maximum(scale, 1e-6), 0.0)  # a part without effect teaches nothing
    gram = np.einsum("npkx,nplx->nkl", z, z)
    cross = np.einsum("npkx,npx->nk", z, target)
    each = []
    for i in range(len(ids)):
        others = [k for k in range(len(ids)) if k != i]
        a, b = gram[others].sum(0), cross[others].sum(0)
        each.append(np.linalg.solve(a + RIDGE * z.shape[-1] * np.eye(len(a)), b))
    weights = np.stack(each)
    maps = np.einsum("npkx,nk->npx", z, weights).reshape(len(ids), len(places), *items.pixels.shape[1:3])
    size = (items.pixels.shape[1], items.pixels.shape[2])
    side = max((grid_of_places(calls[0].shape[2], size) for calls in looks.weights.values()), key=math.prod)
    return AttentionMaps(maps, looks.largest, side, weights[0])


def _pieces(looks: Looks, items: PictureData, n: int) -> Floats:
    size = (items.pixels.shape[1], items.pixels.shape[2])
    found: Floats = head_maps(looks, size).flatten(3).double().numpy()  # (N, S, K, HW)
    return found[:n]


def _mean_of(values: Floats, seed: int) -> Interval:
    return bootstrap(lambda k: float(values[k].mean()), len(values), seed=seed)


def _check_ablation(found: Ablation, seed: int) -> Faithfulness | None:
    """Maps from all changes but one must foretell where that one acts; another sample's map must not do as well."""
    several = [k for k, each in enumerate(found.each) if len(each) > 1]
    if not several:
        return None
    n = found.each[0].shape[1]
    pictures = found.each[0].ndim == 4
    scores, rivals, best = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        hits, weights = [], []
        for k in several:
            each = found.each[k]
            whole = lower_median(each)
            for m in range(len(each)):
                others = lower_median(np.delete(each, m, axis=0))
                left = each[m, i]
                rival = others[(i + 1) % n] if pictures else np.ones_like(left)
                hits.append((_alike(others[i], left), _alike(rival, left), _alike(whole[i], left)))
                weights.append(float(left.mean()))
        scores[i], rivals[i], best[i] = _weighed(hits, weights)
    alternative = "another sample's map" if pictures else "all columns alike"
    return Faithfulness(
        f"Maps made without one of the changes must show where that change acts; {alternative} must not.",
        _mean_of(scores, seed),
        float(best.mean()),
        _mean_of(rivals, seed),
        alternative,
        share=MOVED,
        margin=_margin(scores, rivals, seed),
    )


def _weighed(hits: Sequence[tuple[float, float, float]], weights: Sequence[float]) -> tuple[float, float, float]:
    """The mean, each hit counting as much as its change moves; without any, a score and a baseline of 0."""
    if not sum(weights):
        return 0.0, 0.0, 1.0
    one, two, three = np.average(hits, axis=0, weights=weights)
    return float(one), float(two), float(three)


def _alike(a: Floats, b: Floats) -> float:
    """Overlap of the regions of pictures; of rows, the cosine between changes of their columns."""
    if a.ndim == 2:
        return overlap(region(a), region(b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(not a.any() and not b.any())


def _margin(scores: Floats, rivals: Floats, seed: int) -> Interval:
    d = paired_difference(lambda k: float(scores[k].mean()), lambda k: float(rivals[k].mean()), len(scores), seed=seed)
    return Interval(d.value, d.low, d.high, d.n)


def _check_attention(found: Ablation, looks: AttentionMaps, seed: int) -> Faithfulness:
    """Attention must show the regions that the ablation shows, as well as maps so coarse can."""
    n, parts = looks.maps.shape[:2]
    scores, rivals, best = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        truth = found.maps(i)
        hits, weights = [], []
        for k in range(parts):
            if truth[k].max() > 0.0:
                wanted = region(truth[k])
                coarse = overlap(region(_coarse(truth[k], looks)), wanted)
                own, other = (overlap(region(looks.maps[j, k]), wanted) for j in (i, (i + 1) % n))
                hits.append((own, other, coarse))
                weights.append(float(truth[k].mean()))
        scores[i], rivals[i], best[i] = _weighed(hits, weights)
    return Faithfulness(
        "Attention must show the places that change with the word; attention of another sample must not. The ceiling "
        "is the ablation's own map, made as coarse as the attention.",
        _mean_of(scores, seed),
        float(best.mean()),
        _mean_of(rivals, seed),
        "another sample's attention",
        margin=_margin(scores, rivals, seed),
    )


def _coarse(values: Floats, looks: AttentionMaps) -> Floats:
    """values (H, W) averaged over the places of the attention and spread again."""
    x = torch.from_numpy(values)[None, None]
    small = torch.nn.functional.adaptive_avg_pool2d(x, looks.side)
    grown = torch.nn.functional.interpolate(small, size=values.shape, mode="bilinear", align_corners=False)
    return np.asarray(grown[0, 0].numpy(), dtype=np.float64)


def _shown(model: Fitted, found: Ablation, looks: AttentionMaps | None, names: Sequence[str]) -> tuple[Block, ...]:
    """The sample, then a map for each part; of tables, which columns change."""
    first = found.own.take([0])
    if not isinstance(found.own, PictureData):
        return (model.codec.show(first), _columns(found, names))
    out: list[Block] = [
        model.codec.show(first),
        Pictures(_grey(found.maps(0)), names, caption="White: changes when this is changed, with the same noise."),
    ]
    if looks is not None:
        out.append(Pictures(_grey(looks.maps[0]), names, caption="White: attention to this word, weighed."))
    return tuple(out)


def _grey(maps: Floats) -> NDArray[np.uint8]:
    """(P, H, W), each from its middle value (black) to its highest (white)."""
    low = np.median(maps, axis=(1, 2), keepdims=True)
    high = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((np.clip((maps - low) / np.maximum(high - low, 1e-9), 0, 1) * 255).round(), dtype=np.uint8)


def _columns(found: Ablation, names: Sequence[str]) -> Table:
    """How far each column moves, on average over the samples, in standard deviations (0 or 1 for words)."""
    own = found.own
    columns = [c.name for c in own.columns] if isinstance(own, TableData) else []
    rows = []
    for name, each in zip(names, found.each, strict=True):
        middle = lower_median(each)  # (N, K)
        cells = [_mean_of(values, 0) for values in middle.T]
        rows.append([name, *(f"{c.value:.2f} [{c.low:.2f}, {c.high:.2f}]" for c in cells)])
    caption = "How far each column moves when the request is changed: standard deviations, or the share of rows."
    return Table(("changed", *columns), rows, caption)
