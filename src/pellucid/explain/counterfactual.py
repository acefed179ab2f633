"""What would have made it different? The same noise asked for something else, and the smallest edit that flips it.

Pairs share their noise, so what differs within a pair was made by the request; over many seeds the differences get
intervals. The smallest edit (see `flipping.py`) keeps as much of the item as it can: two judges must say that it
flipped, and a third one, taught with other items, checks it. One judge alone could be met at its own mistakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Samples
from pellucid.core.errors import BadInput, MissingCapability, nearest
from pellucid.core.interval import Interval, bootstrap, wilson
from pellucid.core.report import (
    Block,
    Curve,
    Data,
    Details,
    Heading,
    Json,
    Marker,
    Prose,
    Report,
    Series,
    Table,
    Verdict,
)
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.explain.ablation import changes_of
from pellucid.explain.factors import Factors, factors_for
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.flipping import Flips, smallest_flips
from pellucid.explain.named import words_for
from pellucid.explain.redraw import Told, redrawn, told
from pellucid.explain.sorting import Sorter, sorter_for
from pellucid.explain.walk import walked
from pellucid.solvers.guidance import follow

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["CounterfactualReport", "Effect", "counterfactual", "paired_effects"]

Floats = NDArray[np.float64]
PAIRS = 64
EDITED = 8  # samples on which the edits are checked
LEVELS = 10
LEAST_NOISE, MOST_NOISE = 0.15, 20.0  # for data of unit scale; beyond, nothing of the item is left
PUSH = 2.0  # guidance of the edits at least


@dataclass(frozen=True)
class Effect:
    """What a changed request does to one factor. value: mean difference within pairs, with its interval over seeds.

    before: mean without the change. scaled: the difference in standard deviations of real items.
    shared: share of the pairs' variance that the common noise takes away: 1 when all pairs differ alike.
    """

    factor: str
    before: float
    value: Interval
    scaled: float
    shared: float

    @property
    def decided(self) -> bool:
        """Does the interval leave out 0?"""
        return self.value.low > 0.0 or self.value.high < 0.0


@dataclass(frozen=True)
class CounterfactualReport(Report):
    """What another request would have made, and the smallest edit.

    asked, instead: the requests in words. effects: factor by factor, the largest first. became: share of the changed
    samples that the judge takes for what they were changed to; before: of the unchanged ones. None without a judge.
    edited: blocks of the smallest edit; flips: how it was found, None where the family does not denoise.
    own, to: classes before and after the edit. noise: of the smallest edit of this sample, None where nothing flips.
    """

    seed: int
    index: int
    route: str
    asked: str
    instead: str
    pair: tuple[Block, ...]
    effects: tuple[Effect, ...]
    own: str
    to: str
    edited: tuple[Block, ...]
    flips: Flips | None
    noise: float | None
    pairs_check: Faithfulness | None
    edit_check: Faithfulness | None
    judge: str
    evaluations: int
    seconds: float

    @property
    def title(self) -> str:
        return f"What would have made sample {self.index} of seed {self.seed} different"

    @property
    def check(self) -> Faithfulness | None:
        """Of the pairs; of the edits where nothing was asked."""
        return self.pairs_check or self.edit_check

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = [Prose(self._opening())]
        checks = [c for c in (self.pairs_check, self.edit_check) if c is not None]
        if any(not c.passed for c in checks):
            out.insert(0, Verdict("fail", "A check of this explanation failed; see below which part not to rely on."))
        if self.effects:
            out += [*self.pair, self._table()]
        else:
            out.append(Verdict("note", "This model is told nothing, so there is no other request to compare with."))
        out.append(Heading("The smallest edit", 3))
        if self.flips is None:
            out.append(Verdict("note", "This family does not walk from noise to data, so nothing can be half undone."))
        else:
            out += [*self.edited, self._curve(self.flips)]
        out.append(Heading("Can this be trusted?", 3))
        for name, check in (("pairs", self.pairs_check), ("smallest edits", self.edit_check)):
            if check is not None:
                out += [Prose(f"**The {name}**"), *check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "counterfactual"))
        return tuple(out)

    def _opening(self) -> str:
        parts = []
        if self.effects:
            first = next((e for e in self.effects if e.decided), None)
            parts.append(f"Asked for **{self.instead}** instead of **{self.asked}**, with the same noise:")
            if first is None:
                parts.append("nothing that was measured changes by more than chance.")
            else:
                v = first.value
                way = "rises" if v.value > 0 else "falls"
                size = f"{abs(v.value):.3g}"
                ends = sorted((abs(v.low), abs(v.high)))
                parts.append(f"**{first.factor}** changes most. It {way} by {size} [{ends[0]:.3g}, {ends[1]:.3g}].")
        if self.flips is not None:
            if self.noise is None:
                parts.append(f"No edit was found that makes it **{self.to}**.")
            else:
                parts.append(
                    f"The smallest edit from **{self.own}** to **{self.to}** starts from noise of "
                    f"{self.noise:.2g} times unit size."
                )
        return " ".join(parts)

    def _table(self) -> Table:
        rows = []
        for e in self.effects:
            v = e.value
            change = f"{v.value:+.3g} [{v.low:+.3g}, {v.high:+.3g}]"
            rows.append(
                (e.factor, e.before, change, f"{e.scaled:+.2f}", "yes" if e.decided else "no", f"{e.shared:.0%}")
            )
        columns = ("measured", "before", "change", "in standard deviations", "sure", "variance that pairing removes")
        return Table(
            columns, rows, f"Mean change within {self.effects[0].value.n} pairs of equal noise, 95% intervals."
        )

    def _curve(self, flips: Flips) -> Curve:
        s = flips.shares
        marks = () if self.noise is None else (Marker(self.noise, "this sample's edit"),)
        return Curve(
            [Series("walks that flip", flips.levels, [i.value for i in s], [i.low for i in s], [i.high for i in s])],
            "noise that the item is covered with, in units of the data's size",
            "share that the judge takes for the new class",
            log_x=True,
            markers=marks,
            caption="Over the checked samples, with 95% Wilson intervals.",
        )

    def _facts(self) -> Table:
        rows = [("route", self.route), ("seed, sample", f"{self.seed}, {self.index}"), ("judge", self.judge)]
        if self.flips is not None:
            rows.append(("edit", "partial noising and guided denoising; Meng et al. 2022, arXiv:2108.01073"))
            hit = int((self.flips.at < len(self.flips.levels)).sum())
            rows.append(("samples for which an edit was found", f"{hit} of {len(self.flips.at)}"))
        rows.append(("cost", f"{self.evaluations:,} network evaluations, {self.seconds:.1f} s"))
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        return (
            "This says what this model would make of another request, which is not what would happen in the world: "
            "the model learned which things go together, not what causes what. The two agree where the request "
            "stands for a cause that nothing else in the data hangs together with.\n\n"
            "The noise of a pair is the same numbers; that both mean the same thing under both requests is what the "
            "last column of the table measures, not something that is assumed."
        )

    def _numbers(self) -> dict[str, Json]:
        effects: list[Json] = [
            {"factor": e.factor, "before": e.before, "change": [e.value.value, e.value.low, e.value.high],
             "scaled": e.scaled, "shared": e.shared} for e in self.effects
        ]  # fmt: skip
        return {
            "seed": self.seed,
            "index": self.index,
            "asked": self.asked,
            "instead": self.instead,
            "effects": effects,
            "own": self.own,
            "to": self.to,
            "edit_noise": self.noise,
            "faithful": [None if c is None else c.passed for c in (self.pairs_check, self.edit_check)],
        }


def counterfactual(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    instead: Mapping[str, object] | None = None,
    to: str | None = None,
    how: How | None = None,
    pairs: int = PAIRS,
    edited: int = EDITED,
    column: str | None = None,
    classifier: Callable[[Items], Sequence[str]] | None = None,
    run: Run | None = None,
) -> CounterfactualReport:
    """Explain what would have made a sample different.

    Args:
        model: one that was told something, or that denoises. data: the items it was fitted on; its own when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        instead: what to ask for in place of `where`; the first other value of the request when None.
        to: class that the edit shall reach; the one asked for instead, or any other, when None.
        pairs: samples that are drawn twice. edited: samples that are edited, to check the edits.
        column, classifier: the judge, as in `trajectory`.

    Raises:
        MissingCapability: the model is told nothing and does not denoise. BadInput: no data, or an unknown class.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if pairs < 8 or edited < 2:
        raise BadInput(f"pairs is {pairs}, edited is {edited}", accepted="8 pairs and 2 edited samples, or more")
    told_anything, denoises = bool(model.codec.conditions), isinstance(model.engine, Denoises)
    if not told_anything and not denoises:
        model.need(Samples, "draw samples")
        raise MissingCapability(
            f"'{model.name}' is told nothing and does not walk from noise to data",
            accepted="a model fitted with classes, captions or a target column; or one that denoises",
            why="There is nothing to ask otherwise, and no way half back.",
        )
    sorter = sorter_for(model, data, seed=seed, column=column, classifier=classifier)
    subject = told(model, seed, index, where, how)
    cost, words = 0, ""
    effects: tuple[Effect, ...] = ()
    blocks: tuple[Block, ...] = ()
    pairs_check: Faithfulness | None = None
    other: Condition | None = None
    if told_anything:
        other, words = _instead(model, subject, instead)
        effects, pairs_check, blocks = _pairs(model, data, sorter, subject, other, words, seed, pairs)
        cost += 2 * pairs * int(getattr(subject.how, "steps", 1))
    _go_on(run)
    flips: Flips | None = None
    noise: float | None = None
    own = target = ""
    edited_blocks: tuple[Block, ...] = ()
    edit_check: Faithfulness | None = None
    if denoises:
        found = _edits(model, data, sorter, subject, other, to, seed, edited, where, column, classifier)
        flips, noise, own, target, edited_blocks, edit_check = found
        cost += flips.evaluations
    return CounterfactualReport(
        seed=seed,
        index=index,
        route=" and ".join(["pairs of equal noise"] * told_anything + ["partial noising"] * denoises),
        asked=", ".join(f"{k} = {v}" for k, v in subject.given.items()) or "nothing",
        instead=words,
        pair=blocks,
        effects=effects,
        own=own,
        to=target,
        edited=edited_blocks,
        flips=flips,
        noise=noise,
        pairs_check=pairs_check,
        edit_check=edit_check,
        judge=sorter.words,
        evaluations=cost,
        seconds=time.monotonic() - began,
    )


def _go_on(run: Run | None) -> None:
    if run is not None:
        run.go_on("the explanation was stopped")


def _instead(model: Fitted, subject: Told, instead: Mapping[str, object] | None) -> tuple[Condition, str]:
    """The other request (one row), and its words."""
    if instead is None:
        groups = changes_of(model, subject.condition)
        change = next((c for group in groups for c in group if c.now), groups[0][0])
        other = change.condition
    else:
        said = model.codec.asked(dict(instead), 1)
        keep = [name for name in subject.condition.values if name not in instead]
        other = Condition(
            {**said.values, **{k: subject.condition.values[k] for k in keep}},
            {**said.given, **{k: subject.condition.given[k] for k in keep}},
        )
    return other, ", ".join(f"{k} = {v}" for k, v in words_for(model, other).items()) or "nothing"


# ------------------------------------------------------------------------------------------------------------- pairs


def paired_effects(before: Floats, after: Floats, factors: Factors, seed: int = 0) -> tuple[Effect, ...]:
    """What changed within pairs, the largest change first; before and after are (N, F), the same noise in each row."""
    found = []
    for k, name in enumerate(factors.names):
        known = np.isfinite(before[:, k]) & np.isfinite(after[:, k])
        a, b = before[known, k], after[known, k]
        if len(a) < 8 or (np.ptp(a) == 0.0 and np.ptp(b) == 0.0 and a[0] == b[0]):
            continue
        d = b - a
        value = bootstrap(lambda i, d=d: float(d[i].mean()), len(d), seed=seed)  # type: ignore[misc]
        free = float(a.var() + b.var())
        shared = 1.0 - float(d.var()) / free if free > 0.0 else 0.0
        found.append(Effect(name, float(a.mean()), value, value.value / float(factors.spread[k]), shared))
    return tuple(sorted(found, key=lambda e: -abs(e.scaled)))


def _pairs(
    model: Fitted, data: Items, sorter: Sorter, subject: Told, other: Condition, words: str, seed: int, pairs: int
) -> tuple[tuple[Effect, ...], Faithfulness, tuple[Block, ...]]:
    ids = torch.tensor([subject.index, *(k for k in range(pairs) if k != subject.index)][:pairs])
    first, _ = redrawn(model, seed, ids, subject.condition.repeat(pairs), subject.how)
    second, _ = redrawn(model, seed, ids, other.repeat(pairs), subject.how)
    factors = factors_for(data)
    before, after = factors.measure(first), factors.measure(second)
    effects = paired_effects(before, after, factors, seed)
    shown = (Prose("Before:"), model.codec.show(first.take([0])), Prose("After:"), model.codec.show(second.take([0])))
    names = words_for(model, other)
    if sorter.request is not None and names.get(sorter.request) in sorter.names:
        want = sorter.names.index(names[sorter.request])
        hits, already = (wilson(int((sorter.says(items) == want).sum()), pairs) for items in (second, first))
        accuracy = 1.0 if sorter.accuracy is None else sorter.accuracy.value
        question = "What was asked for instead must be what the judge sees afterwards, and not what it saw before."
        return effects, Faithfulness(question, hits, accuracy, already, "before the change"), shown
    return effects, _signs(before, after, factors), shown


def _signs(before: Floats, after: Floats, factors: Factors) -> Faithfulness:
    """The strongest change of one half of the pairs must have the same sign in the pairs of the other half."""
    change = np.nan_to_num((after - before) / factors.spread)
    half = len(change) // 2
    k = int(np.abs(change[:half].mean(0)).argmax())
    sign = float(np.sign(change[:half, k].mean()))
    hits = int((np.sign(change[half:, k]) == sign).sum()) if sign else 0
    strangers = np.nan_to_num(np.roll(before[half:, k], 1) - before[half:, k])  # pairs that no request parts
    chance = int((np.sign(strangers) == (sign or 1.0)).sum())
    n = len(change) - half
    return Faithfulness(
        f"The change of {factors.names[k]}, largest in one half of the pairs, must have its sign in the other half; "
        "pairs that differ by their noise alone must not.",
        wilson(hits, n),
        1.0,
        wilson(chance, n),
        "pairs of other noise",
        share=0.75,
    )


# ------------------------------------------------------------------------------------------------------------- edits


def _edits(
    model: Fitted,
    data: Items,
    sorter: Sorter,
    subject: Told,
    other: Condition | None,
    to: str | None,
    seed: int,
    edited: int,
    where: Mapping[str, object] | None,
    column: str | None,
    classifier: Callable[[Items], Sequence[str]] | None,
) -> tuple[Flips, float | None, str, str, tuple[Block, ...], Faithfulness]:
    """Edit the sample and others of its request until two judges agree; a third one checks."""
    engine = model.need(Denoises, "half undo a sample")
    ids = [subject.index, *(k for k in range(edited) if k != subject.index)][:edited]
    asked = {k: v for k, v in (where or {}).items() if k in model.codec.conditions}
    walks = [walked(model, engine, seed, k, asked, subject.how, 2) for k in ids]
    x = torch.cat([w.final for w in walks])
    third = np.arange(len(data))
    first, also, last = (
        sorter_for(model, data.take(third[k::3]), seed=seed, column=column, classifier=classifier) for k in range(3)
    )
    condition = subject.condition.repeat(edited)
    target, request = to, first.request
    if request is not None and other is not None and target is None:
        target = words_for(model, other).get(request)
    if target is not None and target not in first.names:
        raise BadInput(f"to is '{target}'", accepted=", ".join(first.names), next=nearest(target, first.names))
    if request is not None and target is not None:
        said = model.codec.asked({request: target}, 1)
        wish = Condition({**condition.values, request: said.values[request].expand(edited, -1)},
                         {**condition.given, request: torch.ones(edited, dtype=torch.bool)})  # fmt: skip
    else:
        wish = other.repeat(edited) if other is not None else condition.nothing()
    wish, condition = wish.to(x.device), condition.to(x.device)

    def says(judge: Sorter, y: Tensor) -> NDArray[np.int64]:
        nothing = Condition.blank(model.codec.conditions, len(y))
        items = model.decode(y.cpu(), nothing, Rows(seed, torch.arange(len(y))).fork("judged"))
        return np.asarray(judge.says(items))

    own_first, own_also, own_last = (says(judge, x) for judge in (first, also, last))

    def turned(judge: Sorter, own: NDArray[np.int64], y: Tensor, source: Tensor) -> Tensor:
        said = says(judge, y)
        was = own[source.cpu().numpy()]
        wanted = said == judge.names.index(target) if target in judge.names else said != was
        return torch.from_numpy(wanted & (said != was)).to(y.device)

    how: Any = subject.how
    strong = replace(how, guidance=max(PUSH, float(how.guidance))) if hasattr(how, "guidance") and wish else how

    def both(y: Tensor, source: Tensor) -> Tensor:
        return turned(first, own_first, y, source) & turned(also, own_also, y, source)

    def guide(told_of: Condition, rows: Rows) -> Any:
        return follow(engine, told_of, strong, rows)

    scale = float(x.std())
    levels = [scale * s for s in np.geomspace(LEAST_NOISE, MOST_NOISE, LEVELS)]
    rows = Rows(seed, torch.tensor(ids, device=x.device)).fork("edits")
    flips = smallest_flips(guide, both, x, wish, levels, rows)
    done = (flips.at < len(flips.levels)).cpu()
    everyone = torch.arange(edited)
    agreed = turned(last, own_last, flips.edits, everyone) & done.to(x.device)
    plain = _without_wish(engine, condition, how, x, flips, rows)
    by_chance = turned(last, own_last, plain, everyone)
    check = Faithfulness(
        "A third judge, who had no say and learned from other items, must agree that the edits flip; items "
        "covered with as much noise "
        "and finished with their own request must not.",
        wilson(int(agreed.sum()), edited),
        1.0 if last.accuracy is None else last.accuracy.value,
        wilson(int(by_chance.sum()), edited),
        "the same noise without the wish",
        share=0.9,
    )
    noise = flips.levels[int(flips.at[0])] / scale if bool(done[0]) else None
    name = first.names[int(own_first[0])] if int(own_first[0]) < len(first.names) else "none of the classes"
    shown = _before_and_after(model, x, flips, seed) if bool(done[0]) else ()
    flips = replace(flips, levels=tuple(level / scale for level in flips.levels))
    return flips, noise, name, target or "another class", shown, check


def _without_wish(engine: Any, condition: Condition, how: Any, x: Tensor, flips: Flips, rows: Rows) -> Tensor:
    """The same items under as much noise, finished as they were asked for."""
    level = torch.tensor([flips.levels[min(int(a), len(flips.levels) - 1)] for a in flips.at])
    out = x.clone()
    for sigma in sorted(set(level.tolist())):
        pick = (level == sigma).nonzero()[:, 0].to(x.device)
        part = smallest_flips(
            lambda told_of, fresh: follow(engine, told_of, how, fresh),
            lambda y, source: torch.ones(len(y), dtype=torch.bool, device=y.device),
            x[pick],
            condition.take(pick),
            [sigma],
            rows.take(pick).fork("without the wish"),
            branches=1,
        )
        out[pick] = part.edits
    return out


def _before_and_after(model: Fitted, x: Tensor, flips: Flips, seed: int) -> tuple[Block, ...]:
    both = torch.cat([x[:1], flips.edits[:1]]).cpu()
    nothing = Condition.blank(model.codec.conditions, 2)
    items = model.decode(both, nothing, Rows(seed, torch.zeros(2, dtype=torch.int64)).fork("shown"))
    moved = float(flips.moved[0]) / max(1e-9, float(x.std()))
    kept = f"First as it was, then the smallest edit; it moves the item by {moved:.2f} times its own spread."
    return (Prose(kept), model.codec.show(items))
