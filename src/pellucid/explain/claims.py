"""What each explanation claims, in the form that the gate judges; and which explanations can only be asked to check
themselves again.

    parts, saliency   name places: their scores on several items are handed over, and the places redrawn by the model
    trajectory        names steps: the curve of a model that forgot must be another one
    directions        names directions: those of a model that forgot must point elsewhere
    errors            names findings: those about a model that forgot must be others
    provenance        names copied runs: in training items whose symbols are shuffled they must be others
    oddities          names items: with all labels dealt out anew its own check must fail
    all others        their own check must hold again from another seed, and must not hold for a model that forgot
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.catalog import explanation
from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Predicts, Unmasks, parameters_of
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Report
from pellucid.core.rows import Rows
from pellucid.core.run import Progress, Run
from pellucid.core.space import Tokens
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.explain.copies import Body
from pellucid.explain.directions import DirectionsReport, directions
from pellucid.explain.errors import ErrorsReport, errors
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.gate import SHARED, Attribution, Badge, Tested, judge, judge_check, not_judged
from pellucid.explain.infill import can_redraw, log_p_given, redrawn_around
from pellucid.explain.likeness import likeness
from pellucid.explain.oddities import oddities
from pellucid.explain.parts import PartsReport
from pellucid.explain.places import Places, places_of
from pellucid.explain.planting import plant
from pellucid.explain.provenance import ProvenanceReport
from pellucid.explain.randomising import randomised, relabelled
from pellucid.explain.saliency import SaliencyReport, left_out, unknown
from pellucid.explain.spelling import spelling_of
from pellucid.explain.trajectory import TrajectoryReport, trajectory
from pellucid.explain.turning import Direction
from pellucid.explain.ways import Way, way_of
from pellucid.fitting import halves

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["Asked", "badge_of"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ITEMS = 8  # on which places are judged: the sample and others of its request
OTHERS = 100  # real items that say what is usual
DRAWS = 2  # of the infill of whole events
WEIGHED = 8  # draws behind the chance of one symbol
STEPS = 10  # of denoising around what is known
NEAR = 32  # symbols before the one in question that are judged; the others are always known
LONGEST = 64  # parts of an item for which every other one is asked about each
ORDERS = 12
OF_LABELS = ("attention", "counterfactual")  # questions about what a request did
APART = 2  # steps with 95% intervals that do not meet: of 16 that are alike, once in 200 times


@dataclass(frozen=True, eq=False)
class Asked:
    """Of what an explanation was asked: the model, its data and the sample's name, as in `explain_sample`.

    relabel: whether a model may be trained on labels dealt out at random, to judge what speaks of labels.
    """

    model: Fitted
    data: Items
    seed: int = 0
    index: int = 0
    where: Mapping[str, object] | None = None
    run: Run | None = None
    relabel: bool = False

    @cached_property
    def of_random_labels(self) -> Asked:
        """The same of a model that learned random labels; trained when first asked for."""
        return replace(self, model=relabelled(self.model, self.data, seed=self.seed + 7, run=self.run))

    def forgot(self, copy: int) -> Asked:
        """The same of a copy of the model that forgot. MissingCapability where it has no weights."""
        return replace(self, model=randomised(self.model, seed=copy))


def badge_of(name: str, report: Report, asked: Asked) -> Badge:
    """The badge of an explanation.

    Args:
        name: of the question. report: its answer. asked: what it was asked of.
    """
    began = time.monotonic()
    if asked.run is not None:
        asked.run.go_on("the explanation was stopped while it was judged")
        asked.run.emit(Progress(stage=f"judge {name}", done=0, total=1))
    named: dict[str, Callable[[Any, Asked], Badge | None]] = {
        "parts": _parts,
        "saliency": _saliency,
        "trajectory": _trajectory,
        "directions": _directions,
        "errors": _errors,
        "provenance": _provenance,
        "oddities": _oddities,
    }
    try:
        found = named[name](report, asked) if name in named else None
        badge = found or _own_check(name, report, asked)
    except (BadInput, MissingCapability) as error:  # the answer stands, with a badge that says so
        badge = not_judged(str(error))
    return replace(badge, seconds=time.monotonic() - began)


def _remembers(model: Fitted) -> str:
    """Why no copy of the model can forget; empty where one can."""
    return "" if parameters_of(model.engine) else "It has no weights that could forget: it was fitted by counting."


# ------------------------------------------------------------------------------------------------------------ own check


def _own_check(name: str, report: Report, asked: Asked) -> Badge:
    """Its check again: for a model that forgot, and from another seed."""
    check = getattr(report, "check", None)
    if check is None:
        why = getattr(report, "unjudged", "") or "It has no check that could be made here."
        return not_judged(str(why))

    def of(other: Asked) -> Faithfulness | None:
        try:
            found = explanation(name)(other.model, **_taken(name, other))
        except (BadInput, MissingCapability, ArithmeticError, ValueError):
            return None  # what forgot draws items that no question can be asked about
        return getattr(found, "check", None)

    def again() -> Faithfulness | None:
        return of(replace(asked, seed=asked.seed + 1))

    of_labels = asked.relabel and name in OF_LABELS and bool(asked.model.codec.conditions)
    labels = (lambda: of(asked.of_random_labels)) if of_labels else None
    try:
        blank = asked.forgot(0)
    except MissingCapability as error:
        return judge_check(check, _plain(error), again, labels)
    return judge_check(check, lambda: of(blank), again, labels)


def _taken(name: str, asked: Asked) -> dict[str, Any]:
    """Those words of the question that its function takes."""
    import inspect

    words: dict[str, Any] = {"data": asked.data, "seed": asked.seed, "index": asked.index, "where": asked.where}
    words["run"] = asked.run
    return {k: v for k, v in words.items() if k in inspect.signature(explanation(name)).parameters}


def _plain(error: MissingCapability) -> str:
    return f"It could not be asked of a model that forgot: {error}"


# ---------------------------------------------------------------------------------------------------------------- parts


def _parts(report: PartsReport, asked: Asked) -> Badge | None:
    """Redraw the most unusual parts: the item must become more usual. None where that cannot be done."""
    long = report.route == "rest" and len(report.places) > LONGEST
    if can_redraw(asked.model.engine) or long or report.places.kind == "symbol":
        return None
    model, seed = asked.model, asked.seed
    items = _drawn(asked, ITEMS)
    own = _Unusual.of(model, asked.data, items, report, seed)
    how = _short(model.how())
    covered = own.places.masks(torch.ones(1, len(own.places), dtype=torch.bool), own.y)

    def value(item: int, known: Flags) -> Floats:
        with torch.no_grad():
            y, told = own.y[item : item + 1], own.told.take(slice(item, item + 1))
            mask = own.places.masks(torch.from_numpy(known.repeat(DRAWS, axis=0)), y) | ~covered
            rows = Rows(seed, torch.arange(DRAWS).repeat(len(known))).fork("gate", item)
            drawn = redrawn_around(model.engine, y, mask, told, how, rows.to(y.device))
            amounts = own.way.amounts(drawn, told.repeat(len(drawn))).sum(1)
        return np.asarray(amounts.double().cpu().numpy().reshape(len(known), DRAWS).mean(axis=1))

    def forgot(copy: int) -> Floats:
        return _Unusual.of(asked.forgot(copy).model, asked.data, items, report, seed).scores

    real = asked.data.take(np.arange(min(2000, len(asked.data))))
    rival = _rarity(model, own.places, items, real, own.scores.shape)
    return judge(
        Attribution(
            what=f"{report.places.kind}s",
            scores=own.scores,
            judged=f"what is unusual about the whole item, in {report.unit}",
            value=value,
            rival=rival,
            rival_name="the rarest values by themselves",
            again=lambda chance: _Unusual.of(model, asked.data, items, report, seed + 101 * chance).scores,
            forgot=_remembers(model) or forgot,
            shape=own.places.shape,
            keeping=False,
        ),
        orders=ORDERS,
        seed=abs(seed),
    )


@dataclass(frozen=True, eq=False)
class _Unusual:
    """What `parts` says of several items at once. y: (N, *event). scores: (N, P), what exceeds the usual."""

    places: Places
    way: Way
    y: Tensor
    told: Condition
    scores: Floats

    @classmethod
    def of(cls, model: Fitted, data: Items, items: Items, report: PartsReport, seed: int) -> _Unusual:
        model.engine.eval()
        kept, held = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
        pool = held if len(held) >= 20 else kept
        others = data.take(np.sort(np.random.default_rng([abs(seed), 3]).permutation(pool)[:OTHERS]))
        device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
        rows = Rows(seed, torch.arange(max(len(others), len(items)))).fork("parts")
        with torch.no_grad():
            y_others, told_others = model.event(others, rows.take(slice(0, len(others))).fork("event"))
            y, told = model.event(items, rows.take(slice(0, len(items))).fork("event"))
            y_others, y, told = y_others.to(device), y.to(device), told.to(device)
            way = way_of(model, report.route, report.places, y_others, told_others.to(device),
                         rows.take(slice(0, len(others))).to(device))  # fmt: skip
            usual = way.amounts(y_others, told_others.to(device)).mean(0)
            scores = (way.amounts(y, told) - usual).double().cpu().numpy()
        return cls(report.places, way, y, told, np.nan_to_num(scores, posinf=1e30, neginf=-1e30))


def _rarity(model: Fitted, places: Places, items: Items, real: Items, shape: tuple[int, ...]) -> Floats:
    """(N, P) how rare each value is by itself, as the check of `parts` counts it; order of places where it cannot."""
    out = np.tile(-np.arange(shape[1], dtype=np.float64), (shape[0], 1))
    x, others = model.codec.encode(items), model.codec.encode(real)
    if places.shape is not None and x[0].numel() == others[0].numel():
        spread = others.std(0) + 0.1 * others.std(0).mean()
        far = ((x - others.mean(0)) / spread).square().sum(1).flatten(1)
        return np.asarray(far.double().numpy()) if far.shape == shape else out
    for i in range(len(x)):
        planted = plant(model, places, x[i : i + 1], others, 0)
        if planted is not None:  # of each place the copies in which another one was changed have its own value
            own = torch.where(planted.wrong, torch.nan, planted.rarity)
            out[i] = own.nanmean(0).nan_to_num(0.0).double().numpy()
    return out


def _short(how: How) -> How:
    """Fewer steps: what is redrawn need not be a sample of the best kind."""
    steps = getattr(how, "steps", None)
    return replace(how, steps=min(int(steps), STEPS)) if isinstance(steps, int) else how  # type: ignore[call-arg]


def _drawn(asked: Asked, n: int) -> Items:
    """The sample that was asked about, then others of the same request."""
    total = max(asked.index + 1, n)
    found = asked.model.sample(total, seed=asked.seed, where=asked.where).items
    ids = [asked.index, *(k for k in range(total) if k != asked.index)][:n]
    picked: Items = found.take(ids)
    return picked


# ------------------------------------------------------------------------------------------------------------- saliency


def _saliency(report: SaliencyReport, asked: Asked) -> Badge | None:
    """Take the named symbols away: the one in question must become less likely. None without symbols enough."""
    model, seed = asked.model, asked.seed
    space = model.bridge.target
    assert isinstance(space, Tokens)
    device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
    items = _drawn(asked, ITEMS)
    real = asked.data.take(np.arange(min(100, len(asked.data))))
    y, told = model.event(items, Rows(seed, torch.arange(len(items))).fork("gate"))
    y, told = y.to(device), told.to(device)
    targets, allowed = [], np.zeros((len(y), y.shape[1]), dtype=np.bool_)
    for i in range(len(y)):
        places = places_of(model, items.take([i]), y[i : i + 1], real)
        at = torch.cat(places.groups).numpy()
        target = int(at[min(report.at, len(at) - 1)])  # of a shorter item its last
        others = at != target if isinstance(model.engine, Unmasks) else at < target
        near = at[others][np.argsort(np.abs(at[others] - target), kind="stable")[:NEAR]]
        allowed[i, near] = True
        targets.append(target)
    enough = np.flatnonzero(allowed.sum(axis=1) >= 4)
    if len(enough) < ITEMS - 2 or 0 not in enough:
        return None

    def scores_of(other: Fitted, chance: int) -> Floats:
        return np.stack([_lost(other, y[i : i + 1], told.take(slice(i, i + 1)), targets[i], seed, chance)
                         for i in enough.tolist()])  # fmt: skip

    def value(item: int, known: Flags) -> Floats:
        i = int(enough[item])
        rows = Rows(seed, torch.arange(WEIGHED, device=device)).fork("gate", i)
        mask = torch.from_numpy(known).to(device)
        engine: Any = model.engine
        found = log_p_given(engine, y[i : i + 1], told.take(slice(i, i + 1)), targets[i], mask, rows)
        return np.asarray(found.clamp_min(-60.0).numpy(), dtype=np.float64)

    nearest = -np.abs(np.arange(y.shape[1])[None] - np.array(targets)[:, None]).astype(np.float64)

    def forgot(copy: int) -> Floats:
        return scores_of(asked.forgot(copy).model, 0)

    return judge(
        Attribution(
            what=f"{report.places.kind}s",
            scores=np.where(allowed[enough], scores_of(model, 0), 0.0),
            judged=f"log-probability of the {report.places.kind}, in nats",
            value=value,
            rival=nearest[enough],
            rival_name=f"the nearest {report.places.kind}s",
            again=None if isinstance(model.engine, Unmasks) else lambda chance: scores_of(model, chance),
            forgot=_remembers(model) or forgot,
            allowed=allowed[enough],
        ),
        orders=ORDERS,
        seed=abs(seed),
    )


@torch.no_grad()
def _lost(model: Fitted, y: Tensor, told: Condition, target: int, seed: int, chance: int) -> Floats:
    """(T,) nats that the symbol at `target` loses without each other one, as `saliency` counts them."""
    engine, space = model.engine.eval(), model.bridge.target
    if isinstance(engine, Unmasks):
        return np.asarray(unknown(engine, y, told, [target])[:, target].numpy(), dtype=np.float64)
    assert isinstance(engine, Predicts)
    assert isinstance(space, Tokens)
    rows = Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("saliency").fork("gate", chance)
    found = left_out(engine, space, y, told, rows)[0][:, target].numpy()
    return np.asarray(np.nan_to_num(found), dtype=np.float64)


# ---------------------------------------------------------------- trajectory, directions, errors, provenance, oddities


def _trajectory(report: TrajectoryReport, asked: Asked) -> Badge:
    """A walk of any model ends where it was going, also of one that forgot; but not after the same steps."""
    other = replace(asked, seed=asked.seed + 1)
    check = judge_check(report.check, "", lambda: _walked(other).check)
    try:
        blank = _walked(asked.forgot(0))
    except MissingCapability as error:
        reacts = Tested("reacts", None, _plain(error), _plain(error))
    except (BadInput, ArithmeticError, ValueError):
        reacts = Tested("reacts", True, "", "a model that forgot draws nothing that a judge could call by a class")
    else:
        pairs = list(zip(report.main.shares, blank.main.shares, strict=False))
        apart = sum(a.low > b.high or a.high < b.low for a, b in pairs)
        said = "" if apart >= APART else "A model that has forgotten all decides after the same steps."
        detail = (
            f"at {apart} of {len(pairs)} steps the share differs from that of a model that forgot (needed: {APART})"
        )
        reacts = Tested("reacts", apart >= APART, said, detail)
    return _with(check, reacts)


def _walked(asked: Asked) -> TrajectoryReport:
    return trajectory(asked.model, data=asked.data, seed=asked.seed, index=asked.index, where=asked.where)


def _directions(report: DirectionsReport, asked: Asked) -> Badge:
    """Directions found on any model do there what was measured; but a model that forgot must have others."""

    def found(other: Asked) -> DirectionsReport:
        return directions(other.model, data=other.data, seed=other.seed, index=other.index, where=other.where)

    check = judge_check(report.check, "", lambda: found(replace(asked, seed=asked.seed + 1)).check)
    try:
        blank = found(asked.forgot(0))
    except MissingCapability as error:
        reacts = Tested("reacts", None, _plain(error), _plain(error))
    except (BadInput, ArithmeticError, ValueError):
        reacts = Tested("reacts", True, "", "a model that forgot has no directions that could be measured")
    else:
        reacts = _elsewhere(*([k.direction for k in r.knobs] for r in (report, blank)))
    return _with(check, reacts)


def _elsewhere(own: Sequence[Direction], other: Sequence[Direction]) -> Tested:
    """Do directions of one name, found in one way, point elsewhere in the other model?"""
    twins = {(d.name, d.found): d.vector for d in other}
    cosines = [abs(float(d.vector @ twin)) for d in own if (twin := twins.get((d.name, d.found))) is not None
               and twin.shape == d.vector.shape]  # fmt: skip
    if not cosines:
        return Tested("reacts", True, "", "no direction has its like in a model that forgot")
    mean = float(np.mean(cosines))
    said = "" if mean < SHARED else "The directions are much the same in a model that has forgotten all."
    detail = f"mean cosine of {len(cosines)} directions with those of a model that forgot: {mean:.2f} (below {SHARED})"
    return Tested("reacts", mean < SHARED, said, detail)


def _with(badge: Badge, test: Tested) -> Badge:
    """The badge with one test in the place of that of the same name."""
    return replace(badge, tests=tuple(test if t.name == test.name else t for t in badge.tests))


def _errors(report: ErrorsReport, asked: Asked) -> Badge:
    """What is found wrong must be about this model."""
    own = _findings(report)
    check = judge_check(report.check, "", lambda: errors(asked.model, data=asked.data, seed=asked.seed + 1).check)
    try:
        other = _findings(errors(asked.forgot(0).model, data=asked.data, seed=asked.seed))
    except MissingCapability as error:
        reacts = Tested("reacts", None, _plain(error), _plain(error))
    except (BadInput, ArithmeticError, ValueError):
        reacts = Tested("reacts", True, "", "a model that forgot draws nothing that could be compared")
    else:
        common = len(own & other) / max(1, len(own | other))
        passed = bool(other) and common < SHARED
        said = "" if passed else "It finds much the same wrong with a model that has forgotten all."
        detail = f"{len(own)} findings, {len(other)} about a model that forgot, {common:.0%} of them in common"
        reacts = Tested("reacts", passed, said, f"{detail} (needed: below {SHARED:.0%})")
    return _with(check, reacts)


def _findings(report: ErrorsReport) -> set[tuple[str, ...]]:
    found = {("columns", *sorted(d.pair), d.kind) for d in report.wrong}
    found |= {("region", str(r.group), "more" if r.made.value > r.real.value else "less")
              for r in (*report.never, *report.off)}  # fmt: skip
    return found | {("class", c.asked, c.other) for c in report.confused}


def _provenance(report: ProvenanceReport, asked: Asked) -> Badge:
    """Runs copied from training items are not copied from the same items with their symbols in random order."""
    kept, _ = halves(asked.data, asked.model.recipe.get("held_out", 0.0), asked.model.recipe.get("seed", 0))
    spelling = spelling_of(asked.data.take(kept), kept.tolist())  # type: ignore[arg-type]
    random = np.random.default_rng([abs(asked.seed), 23])
    real = Body.of(spelling.training)
    mixed = Body.of([random.permutation(t) for t in spelling.training])
    written = [s for s in spelling.write(_drawn(asked, ITEMS)) if len(s) >= 4]
    check = judge_check(report.check, "", None)
    if not written:
        reacts = Tested("reacts", None, "The samples are too short to tell.", "fewer than 4 symbols each")
    else:
        reach = [[b.longest(s).astype(np.float64)[None] for b in (real, mixed)] for s in written]
        alike = [float(likeness(one, two)[0]) for one, two in reach]
        lengths = [float(np.mean([pair[k].max() for pair in reach])) for k in range(2)]
        passed = float(np.mean(alike)) < SHARED or lengths[1] < SHARED * lengths[0]
        said = "" if passed else "It names much the same runs when the training items are shuffled."
        detail = (
            f"longest run {lengths[0]:.1f}, {lengths[1]:.1f} in shuffled training items; likeness of the two "
            f"{np.mean(alike):.2f} (needed: below {SHARED}, of the lengths or of the two); {len(written)} samples"
        )
        reacts = Tested("reacts", passed, said, detail)
    return _with(check, reacts)


def _oddities(report: Any, asked: Asked) -> Badge:
    """With all labels dealt out anew no label is wrong any more, or all are: the check must fail then."""
    dealt = _dealt_out(asked.data, asked.seed)
    if report.check is None or dealt is None:
        return not_judged("Without labels there is nothing to check it on: it speaks of the data alone.")

    def of(data: Items, seed: int) -> Faithfulness | None:
        return oddities(asked.model, data=data, seed=seed).check

    return judge_check(report.check, lambda: of(dealt, asked.seed), lambda: of(asked.data, asked.seed + 1))


def _dealt_out(data: Items, seed: int) -> Items | None:
    """The items with their labels in random order; None where they have none."""
    order = np.random.default_rng([abs(seed), 29]).permutation(len(data))
    if isinstance(data, Pictures) and data.labels is not None:
        return replace(data, labels=tuple(data.labels[k] for k in order))
    if isinstance(data, TableData) and data.target is not None:
        frame = data.frame.copy()
        frame[data.target] = frame[data.target].to_numpy()[order]
        return replace(data, frame=frame)
    return None
