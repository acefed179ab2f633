"""Why is this row, picture or text unusual? How much each column, pixel or symbol surprises the model.

Which numbers there are depends on what the engine offers (see `surprise.py` and `residual.py`); the report says which
it used and what it means. What is shown first is not the largest number but the one that exceeds most what real items
have in the same place: a column of many values always costs more than one of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Unmasks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval, paired_difference, wilson
from pellucid.core.report import (
    Bars,
    Block,
    Cell,
    Data,
    Details,
    Heading,
    Json,
    Measured,
    Pictures,
    Prose,
    Report,
    Table,
    Verdict,
)
from pellucid.core.rows import Rows
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.places import Places, places_of
from pellucid.explain.planting import plant
from pellucid.explain.shapley import Shares, gains_of, shapley
from pellucid.explain.surprise import given
from pellucid.explain.ways import Route, Way, way_of
from pellucid.fitting import halves
from pellucid.solvers.known import complete

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["PartsReport", "parts"]

OTHERS = 100  # real items that an item is compared with
REAL = 2000  # real items that mistakes are made of
SHOWN = 20  # parts
MOST_SHARED = 32  # columns among which a Shapley value is shared out
ORDERS = 64  # drawn for it where there are too many columns for all
DRAWS = 32  # completions behind the value of each subset
AS_UNUSUAL = 0.05
LEAST = 0.5  # nats or standard deviations above the usual, from which a part counts as unusual at all


@dataclass(frozen=True)
class PartsReport(Report):
    """What is unusual about one item, part by part.

    Args:
        places: the parts. amount: (P,) nats, or standard deviations of error. usual: (P,) mean on real items.
        excess: (P,) what exceeds that. above: share of real items with at least this excess in the same place.
        rarer: share of real items that have a place with as large an excess as this item's largest.
        shares: Shapley values of the columns, or None; shared: of what.
        route: "rest", "before" or "residual". unit: of the amounts.
    """

    subject: str
    item: Block
    places: Places
    amount: Tensor
    usual: Tensor
    excess: Tensor
    above: tuple[Interval, ...]
    rarer: Interval
    shares: Shares | None
    shared: str
    route: Route
    means: str
    capability: str
    exactness: str
    unit: str
    check: Faithfulness | None
    held: bool
    seed: int
    events: int
    seconds: float

    @property
    def title(self) -> str:
        return f"What is unusual about {self.subject}"

    @property
    def order(self) -> list[int]:
        """Parts, the most unusual first."""
        return [int(k) for k in self.excess.argsort(descending=True, stable=True)]

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = [Prose(self._opening())]
        if self.check is None:
            out.append(
                Verdict("warn", "This explanation could not be checked: no mistake could be made for this item.")
            )
        elif not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        out.append(self.item)
        if self.places.shape is not None:
            out.append(self._map(self.places.shape))
        out += [Heading("Part by part", 3), self._table()]
        if self.shares is not None:
            out += [Heading("Shared out among all orders", 3), *self._shared(self.shares)]
        if self.check is not None:
            out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "parts"))
        return tuple(out)

    def _opening(self) -> str:
        first = self.order[0]
        which = "real items that were not trained on" if self.held else "training items"
        rare = f"{self.rarer.value:.0%} [{self.rarer.low:.0%}, {self.rarer.high:.0%}] of {self.rarer.n} {which}"
        said = self.places.said(first)
        if self.rarer.value > AS_UNUSUAL:
            return (
                f"Nothing about this item stands out. Its most unusual {self.places.kind} is **{said}**, but {rare} "
                "have one that is as unusual."
            )
        if self.route == "residual":
            return (
                f"The most unusual {self.places.kind} is **{said}**: there the model would have made something else. "
                f"Only {rare} have a place that is as far off."
            )
        what = "the rest of the item" if self.route == "rest" else "what stands before it"
        return (
            f"The most unusual {self.places.kind} is **{said}**. Given {what}, the model finds it "
            f"{_times(float(self.excess[first]))} less likely than it finds such a {self.places.kind} on average. Only "
            f"{rare} have one that is as unusual."
        )

    def _table(self) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for k in self.order[:SHOWN]:
            i = self.above[k]
            seen = Measured(i.value, i.low, i.high, n=i.n, kind="Wilson 95%")
            amounts = (round(float(self.amount[k]), 4), round(float(self.usual[k]), 4))
            rows.append((self.places.names[k], self.places.values[k], *amounts, seen))
        more = f"The {SHOWN} most unusual of {len(self.places):,}." if len(self.places) > SHOWN else ""
        columns = (self.places.kind, "value", f"this item ({self.unit})", "usual there", "as unusual, of real items")
        return Table(columns, rows, more)

    def _map(self, shape: tuple[int, int]) -> Pictures:
        """What exceeds the usual, in shades from none to the most."""
        found = self.excess.clamp_min(0.0).reshape(shape).numpy()
        grey = (255.0 * found / max(1e-12, float(found.max()))).round().astype(np.uint8)
        first = self.order[0]
        return Pictures(grey[None], (f"brightest in {self.places.names[first]}",),
                        caption="Bright is more unusual than such a pixel is on average.",
                        alt=f"A map of the picture, brightest in {self.places.names[first]}.")  # fmt: skip

    def _shared(self, shares: Shares) -> tuple[Block, ...]:
        order = [int(k) for k in shares.phi.argsort(descending=True, stable=True)][:SHOWN]
        phi, error = shares.phi.tolist(), shares.error.tolist()
        how = "all subsets of the columns" if shares.exact else f"{ORDERS} orders drawn at random, with 95% intervals"
        return (
            Prose(f"Each column's share in {self.shared}, whichever columns are looked at first. The shares add up."),
            Bars(
                [self.places.said(k) for k in order],
                [phi[k] for k in order],
                None if shares.exact else [phi[k] - 1.96 * error[k] for k in order],
                None if shares.exact else [phi[k] + 1.96 * error[k] for k in order],
                caption=f"Shapley values over {how}.",
            ),
        )

    def _facts(self) -> Table:
        total = float(self.amount.sum())
        rows = [
            ("measured", self.means),
            ("route", f"{self.capability}, {self.exactness}"),
            ("in all", f"{total:.2f} {self.unit}" if self.route == "before" else "parts do not add up"),
            ("compared with", f"{self.rarer.n} {'held-out' if self.held else 'training'} items"),
            ("seed", str(self.seed)),
            ("cost", f"{self.events:,} events through the network, {self.seconds:.1f} s"),
        ]  # fmt: skip
        if self.shares is not None:
            rows.append(("Shapley", "Lundberg & Lee 2017, arXiv:1705.07874, eq. 4; columns that are left out are drawn "
                                    "by the model from its own distribution given the others"))  # fmt: skip
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        parts_ = [
            "Unusual means unusual to this model. Where the model has learned something wrong, so is this explanation.",
        ]
        if self.route == "before":
            parts_.append(
                "The model reads from the first part to the last, so a mistake shows where it is met: at the wrong "
                "part or at a later one that does not fit it."
            )
        if self.route == "residual":
            parts_.append("A place can be far off because of its neighbours: errors are squared distances, not nats.")
        if not self.held:
            parts_.append("No items were held out, so that items the model has seen are what is called usual.")
        return "\n\n".join(parts_)

    def _numbers(self) -> dict[str, Json]:
        shares = self.shares
        return {
            "route": self.route,
            "unit": self.unit,
            "parts": list(self.places.names),
            "amount": self.amount.tolist(),
            "usual": self.usual.tolist(),
            "excess": self.excess.tolist(),
            "order": self.order,
            "rarer": [self.rarer.value, self.rarer.low, self.rarer.high, self.rarer.n],
            "shapley": None if shares is None else {"phi": shares.phi.tolist(), "error": shares.error.tolist(),
                                                    "exact": shares.exact},
            "faithful": None if self.check is None else self.check.passed,
        }  # fmt: skip


def parts(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    items: Items | None = None,
    route: Route | None = None,
    share: bool = True,
    of: Callable[[Items], Sequence[float]] | None = None,
) -> PartsReport:
    """Explain what is unusual about one item.

    Args:
        data: the items the model was fitted on; those it carries, when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        items: items of your own to explain instead of a sample; `index` is then one of them.
        route: "rest" (given all other parts), "before" (given those before it) or "residual"; None takes the first
            that the engine offers.
        share: whether columns also get Shapley values, where the engine fills gaps.
        of: what is shared out by them: a number for each of some items; None is the surprise at the row itself.

    Raises:
        MissingCapability: the engine offers no route, or not the one asked for.
        BadInput: no data at hand, an index beyond the items, or what `model.sample` refuses.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if index < 0 or (items is not None and index >= len(items)):
        raise BadInput(f"index is {index}", accepted=f"0 to {len(items) - 1}" if items is not None else "0 or more")
    model.engine.eval()
    kept, held = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
    random = np.random.default_rng([abs(seed), 3])
    pool = held if len(held) >= 20 else kept
    others = data.take(np.sort(random.permutation(pool)[:OTHERS]))
    real = data.take(np.sort(random.permutation(kept)[:REAL]))
    if items is None:
        subject = f"sample {index} of seed {seed}"
        item: Items = model.sample(index + 1, seed=seed, where=where, how=how).items.take([index])
    else:
        subject, item = f"item {index}", items.take([index])
    device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
    rows = Rows(seed, torch.arange(len(others))).fork("parts")
    with torch.no_grad():
        y_others, told_others = _events(model, others, rows, device)
        one = rows.take(slice(0, 1))
        y, told = _events(model, item, one, device)
        places = places_of(model, item, y, real)
        way = way_of(model, route, places, y_others, told_others, rows.to(device))
        usual_all = way.amounts(y_others, told_others)
        amount = way.amounts(y, told)[0]
        usual = usual_all.mean(0) if places.kind != "symbol" else usual_all.mean().expand(len(places))
        excess, excess_all = amount - usual, usual_all - usual
        above = tuple(wilson(int(n), len(others)) for n in (excess_all >= excess).sum(0).tolist())
        rarer = wilson(int((excess_all.max(1).values >= excess.max()).sum()), len(others))
        shares, shared = None, ""
        if share and places.kind == "column":
            shares, shared = _shares(model, places, y, told, of, how, seed, way)
        elif of is not None:
            raise MissingCapability(
                "shares were asked for", accepted="rows of a table", why="There are too many parts to share among."
            )
        check = _check(model, places, item, told, real, usual, int(excess.argmax()), way, seed, device)
    return PartsReport(
        subject=subject,
        item=model.codec.show(item),
        places=places,
        amount=amount.double().cpu(),
        usual=usual.double().cpu(),
        excess=excess.double().cpu(),
        above=above,
        rarer=rarer,
        shares=shares,
        shared=shared,
        route=way.route,
        means=way.means,
        capability=way.capability,
        exactness=way.exactness,
        unit=way.unit,
        check=check,
        held=len(held) >= 20,
        seed=seed,
        events=way.events,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _events(model: Fitted, items: Items, rows: Rows, device: torch.device) -> tuple[Tensor, Condition]:
    y, condition = model.event(items, rows.fork("event"))
    return y.to(device), condition.to(device)


def _shares(
    model: Fitted,
    places: Places,
    y: Tensor,
    told: Condition,
    of: Callable[[Items], Sequence[float]] | None,
    how: How | None,
    seed: int,
    way: Way,
) -> tuple[Shares | None, str]:
    """Shapley values of the columns, where the engine completes what is left out."""
    engine, d = model.engine, len(places)
    if d > MOST_SHARED:
        return None, ""
    if of is None:
        if not isinstance(engine, Unmasks):
            return None, ""

        def surprises(inside: Tensor) -> Tensor:
            way.events += len(inside)
            tokens, condition = y.expand(len(inside), -1), told.repeat(len(inside))
            return given(engine, tokens, condition, inside.to(y.device), places.groups, y.shape[1]).cpu()

        return shapley(surprises, d, orders=ORDERS, seed=seed), "how surprising the whole row is, in nats"
    if not isinstance(engine, (Unmasks, Denoises)):
        raise MissingCapability(
            f"'{model.name}' cannot draw columns given any others",
            accepted="an engine that Unmasks or Denoises",
            why=f"It offers {', '.join(model.offers())}.",
        )
    settings = how or model.how()
    # the same draws for every subset: what they have in common cancels in the gains
    rows = Rows(seed, torch.arange(DRAWS, device=y.device)).fork("shares")

    def value(inside: Tensor) -> Tensor:
        out = []
        for mask in places.masks(inside, y):
            way.events += DRAWS
            known, m = y.expand(DRAWS, *y.shape[1:]), mask.expand(DRAWS, *mask.shape)
            drawn = complete(engine, known, m, told.repeat(DRAWS), rows, settings)
            found: Any = model.decode(drawn.x.cpu(), told.to("cpu").repeat(DRAWS), rows.to("cpu"))
            out.append(float(np.mean(of(found))))
        return torch.tensor(out, dtype=torch.float64)

    exactness = "" if isinstance(engine, Unmasks) else ", with completions that are only near the model's own"
    return shapley(gains_of(value), d, orders=ORDERS, seed=seed), f"the number that was asked about{exactness}"


def _check(
    model: Fitted,
    places: Places,
    item: Items,
    told: Condition,
    real: Items,
    usual: Tensor,
    first: int,
    way: Way,
    seed: int,
    device: torch.device,
) -> Faithfulness | None:
    """Put mistakes into this very item and see whether they are pointed at."""
    planted = plant(model, places, model.codec.encode(item), model.codec.encode(real), seed)
    if planted is None or len(planted.x) < 4:
        return None
    rows = Rows(seed, torch.zeros(len(planted.x), dtype=torch.int64)).fork("parts").fork("event")
    y = model.bridge.there(planted.x, rows).to(device)
    excess = (way.amounts(y, told.repeat(len(y))) - usual).cpu()
    if places.kind == "column":
        # the row's own most unusual column stays out of the contest, for the rival too
        aside = torch.zeros(len(places), dtype=torch.bool)
        aside[first] = True
        aside = aside & ~planted.wrong
        hits, guesses = _first(excess, planted.wrong, aside, LEAST), _first(planted.rarity, planted.wrong, aside, 0.0)
        what = "wrong cells were put into this very row, one at a time: values that none of the most similar real rows "
        what += "has. The wrong cell must come first and be unusual at all."
        score, base, share = _shared_of(hits), _shared_of(guesses), 0.7
    else:
        hits, guesses = (_area(s, planted.wrong) for s in (excess, planted.rarity))
        thing = "patches of other pictures, upside down," if places.shape else "wrong symbols"
        what = f"{thing} were put into this very item, one at a time. What is wrong must be more unusual than the rest "
        what += "(share of pairs in the right order)."
        score, base, share = _mean(hits), _mean(guesses), 0.9
    n = len(hits)
    gap = paired_difference(lambda k: float(hits[k].mean()), lambda k: float(guesses[k].mean()), n, seed=0)
    return Faithfulness(
        what[:1].upper() + what[1:],
        score,
        1.0,
        base,
        "rarity of the value by itself",
        share=share,
        margin=Interval(gap.value, gap.low, gap.high, n),
    )


Floats = NDArray[np.float64]


def _first(scores: Tensor, wrong: Tensor, aside: Tensor, least: float) -> Floats:
    """(M,) 1 where the largest score is the wrong part's, and above the least."""
    best, at = scores.masked_fill(aside, -torch.inf).max(1, keepdim=True)
    return (wrong.gather(1, at) & (best > least))[:, 0].double().numpy()


def _area(scores: Tensor, wrong: Tensor) -> Floats:
    """(M,) area under the ROC curve of wrong against other parts, ties half."""
    out = []
    for score, bad in zip(scores.double(), wrong, strict=True):
        more = (score[bad][:, None] > score[~bad]).double() + 0.5 * (score[bad][:, None] == score[~bad]).double()
        out.append(float(more.mean()))
    return np.array(out)


def _shared_of(hits: Floats) -> Interval:
    return wilson(float(hits.sum()), len(hits))


def _mean(values: Floats) -> Interval:
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 1.0
    mean = float(values.mean())
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), len(values))


def _times(excess: float) -> str:
    """How many times less likely, in words.

    >>> _times(2.0), _times(4.0), _times(20.0)
    ('7.4 times', '55 times', 'more than a million times')
    """
    factor = float(np.exp(min(excess, 30.0)))
    if factor > 1e6:
        return "more than a million times"
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
