"""Which training items does a sample come from, and what if they were gone?

The forecaster of `forecast.py` says how the loss of the sample would change without any set of training items. Which
forecaster, and with which settings, is chosen on items that the model did not see; how well it foresees is measured on
others. With `halves`, the model is trained again on random halves of its data, which is the proof; without, the check
is an indirect one, and said to be so. With `verify`, the items named are really taken out, and the sample is drawn
again from the same noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval, bootstrap, paired_difference
from pellucid.core.report import (
    Bars,
    Block,
    Data,
    Details,
    Heading,
    Json,
    Prose,
    Report,
    Table,
    Verdict,
)
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData
from pellucid.explain.datamodel import (
    Retrained,
    item_losses,
    require_losses,
    require_refit,
    retrain,
    score,
    seed_agreement,
)
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.forecast import (
    DEFAULT,
    STOPPED,
    Candidate,
    Grounds,
    agreement,
    choose_by_losses,
    choose_by_retraining,
    foreseen,
    growing,
    helps,
    some,
)
from pellucid.explain.leaving_out import Verified, left_out_again
from pellucid.explain.named import named
from pellucid.explain.similarity import vectors
from pellucid.fitting import halves as parted

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["InfluenceReport", "influence"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST = 2000  # training items that are compared with; of more, the nearest and a random part
QUERIES = 96  # items not trained on, half to choose by and half to check on
DRAWN = 32  # samples that are checked on beside them, when the model is trained again
TIMES = 12  # random orders in which items are lost
WEAKEST = 0.3  # agreement of two seeds below which no forecast can be judged


@dataclass(frozen=True)
class InfluenceReport(Report):
    """The training items that do most for one sample.

    Args:
        top: row numbers in the data, the most helpful first. worth: what share of all help each gives.
        like_random: how many items taken at random would be missed as much as these, with the spread of such sets.
        total: training items. considered: those that were compared with.
        shown: the items themselves, where they may be shown. same: how many share the sample's request, in words.
        check: of the forecaster; None where nothing could be judged, and `unjudged` says why.
        proved: whether models were trained again for it.
    """

    seed: int
    index: int
    top: tuple[int, ...]
    worth: tuple[float, ...]
    like_random: Interval
    total: int
    considered: int
    sample: Block
    shown: Block | None
    same: str
    method: Candidate
    others: tuple[tuple[str, float], ...]
    check: Faithfulness | None
    unjudged: str
    proved: bool
    verified: Verified | None
    seconds: float

    @property
    def title(self) -> str:
        return f"Which training items sample {self.index} of seed {self.seed} comes from"

    def blocks(self) -> tuple[Block, ...]:
        r = self.like_random
        opening = (
            f"Of {self.total:,} training items, the **{len(self.top)}** named below do most for this sample. Losing "
            f"them would leave it as badly known as losing **{r.value:,.0f}** items at random "
            f"(between {r.low:,.0f} and {r.high:,.0f}).{self.same}"
        )
        out: list[Block] = [Prose(opening)]
        if self.check is not None and not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        if not self.proved:
            out.append(Verdict("note", "No model was trained again for this: the check below is indirect. "
                               "Ask with --retrain 16 (halves=16) for the proof."))  # fmt: skip
        if self.considered < self.total and (self.proved or self.verified is not None):
            out.append(Verdict("note", f"Only the {self.considered:,} items compared with were trained on again, not "
                               f"all {self.total:,}: the sample's nearest, and others at random."))  # fmt: skip
        out += [self.sample, Heading("The items that do most", 3)]
        if self.shown is not None:
            out.append(self.shown)
        names = [f"item {i}" for i in self.top]
        out.append(
            Bars(names, list(self.worth), caption="Share of all help that each item gives.", value_label="share")
        )
        if self.verified is not None:
            out += self._verified(self.verified)
        out.append(Heading("Can this be trusted?", 3))
        out += self.check.blocks() if self.check is not None else (Verdict("warn", self.unjudged),)
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(ASSUMPTIONS))))
        out.append(Data(self._numbers(), "influence"))
        return tuple(out)

    def _verified(self, v: Verified) -> list[Block]:
        typical = float(np.mean(v.random))
        text = (
            f"Of the {self.considered:,} items compared with, the {v.share:.0%} that do most were really left out, the "
            f"model was trained again, and this sample was drawn from the same noise. It moved by **{v.named:.3f}**; "
            f"without as many items at random it moved by {typical:.3f} (mean of {len(v.random)}), without the nearest "
            f"by {v.nearest:.3f}."
        )
        level = Verdict("ok" if v.named > max(v.random) else "warn", "Leaving out the named items moved the sample "
                        + ("further than" if v.named > max(v.random) else "no further than")
                        + " leaving out items at random.")  # fmt: skip
        return [Heading("What really happened without them", 3), Prose(text), level]

    def _facts(self) -> Table:
        rows = [
            ("method", self.method.words()),
            *((f"other methods tried: {name}", f"{value:.2f}") for name, value in self.others),
            ("items compared with", f"{self.considered:,} of {self.total:,}"),
            ("seed, sample", f"{self.seed}, {self.index}"),
            ("cost", f"{self.seconds:.1f} s"),
        ]
        return Table(("", ""), rows)

    def _numbers(self) -> dict[str, Json]:
        return {
            "seed": self.seed,
            "index": self.index,
            "items": list(self.top),
            "worth": list(self.worth),
            "like_random": [self.like_random.value, self.like_random.low, self.like_random.high],
            "method": self.method.words(),
            "proved": self.proved,
            "faithful": None if self.check is None else self.check.passed,
        }


ASSUMPTIONS = (
    "What is foreseen is the loss of the sample under the model's own training objective: how well it is known, not "
    "how it looks. Items stand in for each other: of two equal ones neither is missed while the other stays, so what a "
    "set is worth is no sum of what its items are worth; the bars show what each adds to random sets of the others. "
    "Posterior variance: Rasmussen and Williams 2006, eq. 2.26. Scores on halves: Park et al. 2023, "
    "arXiv:2303.14186, eq. 4."
)


def influence(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    top: int = 8,
    halves: int = 0,
    verify: bool = False,
    reveal: bool | None = None,
    run: Run | None = None,
) -> InfluenceReport:
    """Find the training items that a sample comes from, and check how far the answer can be trusted.

    Args:
        data: the items the model was fitted on; those it carries, when None.
        seed, index, where: name the sample, as in `model.sample`.
        top: how many items to name.
        halves: random halves of the data to train on again, from two seeds each: the proof. 0 trains nothing.
        verify: leave the named items out, train again and draw the sample anew: six trainings.
        reveal: show the training items themselves; None shows pictures and keeps rows of a table back, which are
            about somebody.

    Raises:
        MissingCapability: the family's losses do not say how well an item is known.
        BadInput: no data at hand, other data than it was fitted on, or a model that cannot be trained again.
    """
    began, run = time.monotonic(), run or Run()
    data = _checked(model, data, top, halves, verify)
    kept, aside = parted(data, model.recipe["held_out"], model.recipe["seed"])
    draw = named(model, seed, index, where).draw(model, seed)
    if verify and draw.route == "completion":
        raise BadInput(
            "a sample that was drawn around what is known cannot be drawn again without some items",
            accepted="words that are conditions of the model, or none",
            next="Ask without verify.",
        )
    train_items = data.take(kept)
    x, known = model.codec.encode(train_items), model.codec.known(train_items)
    if len(aside) >= 8:
        held = data.take(np.random.default_rng([seed + (seed < 0), 7]).permutation(aside)[:QUERIES])
        held_x, held_known = model.codec.encode(held), model.codec.known(held)
    else:
        held_x, held_known = x[:0], known.take(slice(0, 0))
    space = model.codec.space
    sample_v, train_v = vectors(space, draw.x), vectors(space, x)
    near = np.argsort(np.square(train_v - sample_v).sum(axis=1))
    chosen = some(len(x), MOST, near.tolist(), seed)
    index_t = torch.from_numpy(chosen)
    x, known, train_v = x[index_t], known.take(index_t), train_v[chosen]
    groups: list[tuple[torch.Tensor, Condition]] = [(held_x, held_known), (draw.x, draw.condition)]
    if halves:
        samples = model.sample(DRAWN, seed=seed + 1)
        groups.insert(1, (samples.x, samples.condition))
    events = [(_event(model, part), told) for part, told in groups]
    grounds = Grounds(train_v, np.concatenate([vectors(space, part) for part, _ in groups]))
    if halves:
        grounds.engine = model.engine
        together = (torch.cat([y for y, _ in events]), Condition.cat([c for _, c in events]))
        grounds.events = ((_event(model, x), known), together)
    last = len(grounds.queries) - 1
    if halves:
        run.notice("cost", f"Training {2 * halves} models on halves of the data, about "
                   f"{2 * halves * float(model.recipe.get('seconds') or 0.0) / 60:.0f} minutes.")  # fmt: skip
        found = retrain(model, x, known, events, halves=halves, seed=seed, run=run)
        judged = _by_retraining(grounds, found, len(held_x), run)
    else:
        judged = _by_losses(grounds, model, events[0], seed, run)
    worth = helps(grounds, judged.method, np.array([last]), seed, run)[0]
    first = np.argsort(-worth)[:top]
    share = np.maximum(worth, 0.0) / max(float(np.maximum(worth, 0.0).sum()), 1e-12)
    verified = left_out_again(model, x, known, draw, worth, _near(grounds, last), run) if verify else None
    reveal = isinstance(data, Pictures) if reveal is None else reveal
    rows = kept[chosen[first]]
    return InfluenceReport(
        seed=seed,
        index=index,
        top=tuple(int(i) for i in rows),
        worth=tuple(float(share[i]) for i in first),
        like_random=_like_random(grounds, judged.method, last, first, len(kept), seed, run),
        total=len(kept),
        considered=len(chosen),
        sample=model.codec.show(draw.items),
        shown=model.codec.show(data.take(rows), limit=top) if reveal else None,
        same=_same(data, draw.items, rows),
        method=judged.method,
        others=judged.others,
        check=judged.check,
        unjudged=judged.unjudged,
        proved=bool(halves),
        verified=verified,
        seconds=time.monotonic() - began,
    )


def _near(grounds: Grounds, query: int) -> Integers:
    """(n,) training items, the nearest to a query first, by plain distance."""
    return np.asarray(np.argsort(grounds.metric(0.0).to[query]), dtype=np.int64)


def _checked(model: Fitted, data: Items | None, top: int, halves: int, verify: bool) -> Items:
    require_losses(model)
    asked = model.data if data is None else data
    if isinstance(asked, TextData) and asked.form == "running":
        raise MissingCapability(
            "a running text has no items that could be where a sample comes from",
            why="Its windows overlap, so each is covered by the next.",
            next="Ask which passages are copied: --ask provenance.",
        )
    if halves or verify:
        require_refit(model)
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if top < 1 or halves < 0 or 0 < halves < 4:
        raise BadInput(f"top is {top}, halves is {halves}", accepted="top 1 or more; halves 0, or 4 or more")
    fitted_on = (model.recipe.get("data") or {}).get("fingerprint")
    if fitted_on is not None and fitted_on != data.fingerprint():
        raise BadInput(
            "the data is not what the model was fitted on",
            why="Items that it never saw cannot be where its samples come from.",
            next="Put the original data back.",
        )
    return data


def _event(model: Fitted, x: torch.Tensor) -> torch.Tensor:
    return model.bridge.there(x, Rows(0, torch.arange(len(x))).fork("bridge"))


# ------------------------------------------------------------------------------------------------------------ checking


@dataclass(frozen=True)
class _Judged:
    method: Candidate
    others: tuple[tuple[str, float], ...]
    check: Faithfulness | None
    unjudged: str = ""


def _by_retraining(grounds: Grounds, found: list[Retrained], held: int, run: Run) -> _Judged:
    """Choose on half of the queries, check on the other half: samples where their losses can be foreseen at all."""
    groups = {"items it was not trained on": (found[0], np.arange(held))}
    groups["samples of its own"] = (found[1], held + np.arange(found[1].losses.shape[2]))
    weak = {name: seed_agreement(group)[0] for name, (group, _) in groups.items() if group.losses.shape[2] > 3}
    judged = [name for name, r in weak.items() if r >= WEAKEST]
    if not judged:
        told = ", ".join(f"{r:.2f} on {name}" for name, r in weak.items())
        why = "trained twice on the same half of the data, the model does not agree with itself on what is hard"
        return _Judged(DEFAULT, (), None, f"This cannot be judged: {why} ({told}).")
    name = "samples of its own" if "samples of its own" in judged else judged[0]
    group, place = groups[name]
    sel, rep = np.arange(0, len(place), 2), np.arange(1, len(place), 2)
    best = choose_by_retraining(grounds, group.of(sel), place[sel], run)
    method = max(best.values(), key=lambda pair: pair[0])[1]
    rival = best["similarity"][1]
    held_back = group.of(rep)
    _, ceiling = seed_agreement(held_back)
    own, less = (foreseen(grounds, by, group.kept, place[rep]) for by in (method, rival))
    check = Faithfulness(
        f"Losses of {name}, after training on {len(group.kept)} random halves of the data from "
        f"{group.losses.shape[1]} seeds each, must rank as foreseen.",
        score(own, held_back),
        ceiling,
        score(less, held_back),
        "the best kernel of plain distances",
        share=0.8,
        margin=score(own, held_back, less=less),
    )
    return _Judged(method, tuple((c.words(), v) for v, c in best.values() if c != method), check)


def _by_losses(grounds: Grounds, model: Fitted, held: tuple[torch.Tensor, Condition], seed: int, run: Run) -> _Judged:
    """Does it know which items the model finds hard? Chosen on half of those held out, checked on the other half."""
    y, told = held
    if len(y) < 16:
        return _Judged(DEFAULT, (), None, f"This could not be checked: only {len(y)} items were held out of training.")
    losses, again = (item_losses(model.engine, y, told, seed=seed + k) for k in range(2))
    n = len(y)
    sel, rep = np.arange(0, n, 2), np.arange(1, n, 2)
    _, method = choose_by_losses(grounds, losses[sel], sel, seed, run)
    everything = np.ones((1, len(grounds.train)), dtype=np.bool_)
    own = foreseen(grounds, method, everything, rep)[0]
    nearest = grounds.metric(0.0).to[rep].min(axis=1)
    real = losses[rep]

    def of(forecast: Floats) -> Callable[[Integers], float]:
        return lambda i: agreement(forecast[i], real[i])

    gap = paired_difference(of(own), of(nearest), len(rep), seed=seed)
    check = Faithfulness(
        f"Of {len(rep)} items that it was not trained on, it must know which ones the model finds hard.",
        bootstrap(of(own), len(rep), seed=seed),
        max(0.0, agreement(losses[rep], again[rep])),
        bootstrap(of(nearest), len(rep), seed=seed),
        "the distance to the nearest training item",
        share=0.5,
        margin=Interval(gap.value, gap.low, gap.high, gap.n),
    )
    return _Judged(method, (), check)


def _like_random(
    grounds: Grounds, by: Candidate, query: int, first: Integers, total: int, seed: int, run: Run
) -> Interval:
    """How many items taken away at random raise the foreseen loss as much as these, and the range of such sets."""
    n = len(grounds.train)
    generator = np.random.default_rng([abs(seed), n])
    rises = np.empty((TIMES, n + 1))  # of the loss with the last 0, 1, ... n items of an order gone
    for time_ in range(TIMES):
        run.step("sets at random", time_, TIMES, came=STOPPED)
        curve = growing(grounds, by, generator.permutation(n), np.array([query]), seed)[::-1, 0]
        rises[time_] = curve - curve[0]
    others = np.setdiff1d(np.arange(n), first)
    last = growing(grounds, by, np.concatenate((others, first)), np.array([query]), seed)[:, 0]
    lost = last[len(others)] - last[-1]

    def reach(curve: Floats) -> float:
        enough = np.flatnonzero(np.maximum.accumulate(curve) >= lost)
        return float(enough[0] if len(enough) else n) * total / n

    ends = [reach(np.quantile(rises, p, axis=0)) for p in (0.9, 0.1)]
    return Interval(reach(np.median(rises, axis=0)), min(ends), max(ends), TIMES)


def _same(data: Items, items: Items, rows: Integers) -> str:
    """How many of the items named share the sample's class, or the value of its target column."""
    if isinstance(data, Pictures) and isinstance(items, Pictures) and data.labels and items.labels and items.labels[0]:
        hits = sum(data.labels[i] == items.labels[0] for i in rows)
        return f" {hits} of them are labelled {items.labels[0]}, as it was asked to be."
    if isinstance(data, TableData) and isinstance(items, TableData) and data.target is not None:
        own = items.frame[data.target].iloc[0]
        hits = int((data.frame[data.target].iloc[rows] == own).sum())
        return f" {hits} of them have {data.target} = {own}, as it has."
    return ""
