"""What can I turn? Directions of the latent space, named by what turning them was measured to do.

Directions are found on one half of the items and measured on the other (see `turning.py`, and `latents.py` for what a
latent is in each family). Each gets its effect on every factor, the leakage into others, and the range in which it
does what its name says. A direction is named after what it does, not after how it was found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.capabilities import How
from pellucid.core.errors import BadInput
from pellucid.core.interval import wilson
from pellucid.core.report import Block, Data, Details, Heading, Json, Pictures, Prose, Report, Table, Verdict
from pellucid.core.run import Run
from pellucid.domains.pictures import Pictures as PictureData
from pellucid.explain.factors import Factors, factors_for
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.latents import Latents, latents_of
from pellucid.explain.redraw import told
from pellucid.explain.sorting import Sorter, sorter_for
from pellucid.explain.turning import (
    Direction,
    Turned,
    class_means,
    factor_directions,
    first_layer,
    principal,
    turned,
)

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["DirectionsReport", "Knob", "directions"]

Floats = NDArray[np.float64]
ITEMS = 400  # real items that are read
TRIED = 8  # latents on which a direction is measured
COUNT = 6  # directions of each kind
SHOWN = 5
STRAIGHT, LEAK = 0.9, 0.1  # what makes a good knob: R2 of the line, and leakage into other factors


@dataclass(frozen=True, eq=False)
class Knob:
    """A direction and what it was measured to do. towards: class whose share rises most from end to end, "" for none.

    rises: by how much.
    """

    direction: Direction
    turned: Turned
    factor: str
    towards: str
    rises: float

    @property
    def line(self) -> float:
        """R2 of the factor that it moves most."""
        return float(self.turned.straight[self.turned.main])

    @property
    def good(self) -> bool:
        """Straight, and hardly touching anything else."""
        return self.line >= STRAIGHT and self.turned.leakage <= LEAK


@dataclass(frozen=True)
class DirectionsReport(Report):
    """Directions with their effects, the strongest first.

    knobs: all that were measured. factors: names, in the order of `Turned.effect`. strips: the sample along the
    first few. route: what a latent is here. best: for each factor its best R2 and leakage.
    """

    seed: int
    index: int
    route: str
    factors: tuple[str, ...]
    knobs: tuple[Knob, ...]
    strips: tuple[Block, ...]
    check: Faithfulness
    judge: str
    items: int
    seconds: float

    @property
    def title(self) -> str:
        return f"What can be turned in sample {self.index} of seed {self.seed}"

    def best(self) -> tuple[tuple[str, Knob], ...]:
        """For each factor that some direction moves most, the one of least leakage among the straight ones."""
        out = []
        for k, name in enumerate(self.factors):
            own = [knob for knob in self.knobs if knob.turned.main == k]
            if own:
                out.append((name, min(own, key=lambda n: (-min(n.line, STRAIGHT), n.turned.leakage))))
        return tuple(out)

    def blocks(self) -> tuple[Block, ...]:
        good = [name for name, knob in self.best() if knob.good]
        first = self.knobs[0]
        t = first.turned
        size = abs(float(t.effect[t.main]))
        opening = (
            f"Turning **{first.direction.name}** by one step moves **{first.factor}** most: by {size:.2f} standard "
            f"deviations of real items. The next factor moves {t.leakage:.0%} as much. "
        )
        opening += (
            f"{len(good)} of {len(self.factors)} measured factors can be turned nearly alone: {', '.join(good)}."
            if good
            else f"None of the {len(self.factors)} measured factors can be turned without moving others."
        )
        out: list[Block] = [Prose(opening)]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        out += [*self.strips, Heading("All directions", 3), self._table()]
        out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "directions"))
        return tuple(out)

    def _table(self) -> Table:
        columns = ["direction", "found by", "moves most", "a step moves it by", "straight (R2)", "leakage"]
        columns += ["valid from", "to", "towards"]
        rows = []
        for knob in self.knobs:
            t = knob.turned
            towards = f"{knob.towards} (+{knob.rises:.0%})" if knob.towards else "-"
            rows.append((knob.direction.name, knob.direction.found, knob.factor, float(t.effect[t.main]),
                         float(t.straight[t.main]), t.leakage, t.low, t.high, towards))  # fmt: skip
        return Table(
            columns, rows, f"Effects in standard deviations of real items, on {TRIED} items not used to find them."
        )

    def _facts(self) -> Table:
        rows = [
            ("route", self.route),
            ("seed, sample", f"{self.seed}, {self.index}"),
            ("items read", str(self.items)),
            ("judge of classes", self.judge or "none"),
            ("good", f"R2 of {STRAIGHT} or more, leakage of {LEAK} or less"),
            ("cost", f"{self.seconds:.1f} s"),
        ]
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        return (
            "Factors are plain moments of a picture or columns of a table. What they do not measure has no name here, "
            "and a direction named after one of them may do something else besides.\n\n"
            "Everything is turned without a request, so that classes are in the latent and not in the condition. "
            "Beyond the valid range a direction goes on, but no longer does what its name says."
        )

    def _numbers(self) -> dict[str, Json]:
        knobs: list[Json] = [
            {
                "name": k.direction.name,
                "found": k.direction.found,
                "factor": k.factor,
                "effect": [float(v) for v in k.turned.effect],
                "straight": float(k.turned.straight[k.turned.main]),
                "leakage": k.turned.leakage,
                "valid": [k.turned.low, k.turned.high],
                "towards": k.towards,
            }
            for k in self.knobs
        ]
        return {
            "seed": self.seed,
            "index": self.index,
            "route": self.route,
            "factors": list(self.factors),
            "knobs": knobs,
            "faithful": self.check.passed,
        }


def directions(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    items: int = ITEMS,
    count: int = COUNT,
    factors: Factors | None = None,
    column: str | None = None,
    run: Run | None = None,
) -> DirectionsReport:
    """Explain what can be turned in a sample.

    Args:
        model: one with latent vectors. data: the items it was fitted on; its own when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        items: real items whose latents are read. count: directions of each kind.
        factors: what to measure; moments of pictures or columns of tables when None. column: judge of tables.

    Raises:
        MissingCapability: the family has no latents, or the data no factors. BadInput: no data, too few items.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if min(items, len(data)) < 60 or count < 1:
        raise BadInput(f"{min(items, len(data))} items, count is {count}", accepted="60 items and 1 direction, or more")
    subject = told(model, seed, index, where, how)
    chosen = np.random.default_rng(seed).permutation(len(data))[:items]
    some = data.take(chosen)
    measured_by = factors or factors_for(data)
    latents = latents_of(model, some, subject.items, seed, subject.index)
    if run is not None:
        run.go_on("the explanation was stopped")
    judge = sorter_for(model, data, seed=seed, column=column)
    sorter = None if judge.accuracy is None and not column else judge  # groups that nobody named name nothing
    known = latents.items if latents.items is not None else latents.back(torch.from_numpy(latents.z))
    half = len(latents.z) // 2
    found = _found(latents, known, measured_by, sorter, half, count)

    def measure(z: Tensor) -> Floats:
        return measured_by.measure(latents.back(z)) / measured_by.spread

    trial = latents.z[half : half + TRIED]
    knobs = [_knob(latents, d, turned(measure, trial, d), measured_by.names, trial, sorter) for d in found]
    knobs.sort(key=lambda k: -abs(float(k.turned.effect[k.turned.main])) * float(k.turned.straight[k.turned.main]))
    fresh = latents.z[half + TRIED : half + 3 * TRIED]
    return DirectionsReport(
        seed=seed,
        index=index,
        route={"encoder": "the model's own encoder and decoder", "noise": "the noise that leads to an item, by exact "
               "inversion", "generator": "the generator's input, which is drawn"}[latents.route],
        factors=measured_by.names,
        knobs=tuple(knobs),
        strips=_strips(model, latents, knobs[:SHOWN]),
        check=_check(measure, fresh, knobs[:SHOWN], seed),
        judge="" if sorter is None else sorter.words,
        items=len(latents.z),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _found(
    latents: Latents, known: Items, factors: Factors, sorter: Sorter | None, half: int, count: int
) -> list[Direction]:
    """Directions from the first half of the items."""
    z, first = latents.z[:half], known.take(np.arange(half))
    found = list(factor_directions(z, factors.measure(first), factors.names))
    if latents.used is not None:
        for k in np.argsort(-latents.used)[:count]:
            vector = np.eye(z.shape[1])[k]
            found.append(
                Direction(f"number {k + 1}, {latents.used[k]:.1f} nats", "KL", vector, float(z[:, k].std()) or 1.0)
            )
    if latents.weight is not None:
        found += first_layer(latents.weight, count)
    if latents.route != "generator":
        found += principal(z, count)
    if sorter is not None:
        found += class_means(z, list(sorter.says(first)), sorter.names)
    return found


def _knob(
    latents: Latents, d: Direction, effect: Turned, names: Sequence[str], trial: Floats, sorter: Sorter | None
) -> Knob:
    if sorter is None:
        return Knob(d, effect, names[effect.main], "", 0.0)
    ends = [sorter.says(latents.back(torch.from_numpy(trial + s * 2.0 * d.step * d.vector))) for s in (-1.0, 1.0)]
    shares = [np.bincount(e, minlength=len(sorter.names) + 1)[: len(sorter.names)] / len(e) for e in ends]
    rises = shares[1] - shares[0]
    k = int(rises.argmax())
    return Knob(d, effect, names[effect.main], sorter.names[k] if rises[k] > 0 else "", float(rises[k]))


def _strips(model: Fitted, latents: Latents, knobs: Sequence[Knob]) -> tuple[Block, ...]:
    """The sample along each direction, within its valid range."""
    out: list[Block] = []
    for knob in knobs:
        t = knob.turned
        at = np.linspace(*((t.low, t.high) if t.high > t.low else (-1.0, 1.0)), 7)
        z = latents.own + (at * knob.direction.step)[:, None] * knob.direction.vector
        items = latents.back(torch.from_numpy(z))
        words = [f"{a:+.1f}" for a in at]
        caption = f"{knob.direction.name}: {knob.factor} {'rises' if t.effect[t.main] > 0 else 'falls'} to the right."
        if isinstance(items, PictureData):
            out.append(Pictures(items.shown(), words, columns=7, caption=caption))
        else:
            shown = model.codec.show(items, limit=7)
            rows = [(w, *row) for w, row in zip(words, shown.rows, strict=True)] if isinstance(shown, Table) else []
            out.append(Table(("turned by", *shown.columns), rows, caption) if isinstance(shown, Table) else shown)
    return tuple(out)


def _check(measure: Callable[[Tensor], Floats], z: Floats, knobs: Sequence[Knob], seed: int) -> Faithfulness:
    """Items that no direction has seen must move the promised way; turned along random directions they must not."""
    generator = np.random.default_rng(seed)
    hits = chance = total = 0
    for knob in knobs:
        d, t = knob.direction, knob.turned
        sign = float(np.sign(t.effect[t.main]))
        blind = generator.normal(size=z.shape[1])
        blind *= 1.0 / float(np.linalg.norm(blind))
        base = measure(torch.from_numpy(z))[:, t.main]
        moved, astray = (measure(torch.from_numpy(z + d.step * v))[:, t.main] for v in (d.vector, blind))
        # half of the promised step at least, so that standing still is no hit
        hits += int((sign * (moved - base) >= 0.5 * abs(t.effect[t.main])).sum())
        chance += int((sign * (astray - base) >= 0.5 * abs(t.effect[t.main])).sum())
        total += len(z)
    return Faithfulness(
        f"Turned by one step, items that no direction has seen must move at least half as far as promised; turned as "
        f"far along a random direction they must not. {len(knobs)} directions.",
        wilson(hits, total),
        1.0,
        wilson(chance, total),
        "random directions",
        share=0.75,
    )
