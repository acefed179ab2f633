"""How noise became one sample: what each step saw, what it believed, and when the class was decided.

The sample is drawn again, with everything on the way recorded. From chosen steps the way is walked on many times with
fresh noise; the share of ends in the sample's own class is the commitment curve (see `commitment.py`). Where the model
was asked for something, the walks forget the request: what is measured is how much of the class stands in the noisy
item itself. A second curve keeps the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
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
from pellucid.explain.commitment import Commitment, commitment
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.sorting import Sorter, sorter_for
from pellucid.explain.walk import walk_frames, walked

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["TrajectoryReport", "trajectory"]

STEPS = 16  # recorded at most
LATE = 2  # of the recorded steps, the last ones, on which the explanation is checked


@dataclass(frozen=True)
class TrajectoryReport(Report):
    """The way of one sample, and when its class was decided.

    Args:
        seed, index: name the sample. request: what was asked, in words; "" if nothing.
        frames: what was seen and believed at each recorded step, ready to show. last: the sample.
        main: the commitment curve, without the request if there was one. kept: the one with the request, or None.
        own: class of the sample, in the judge's words. asked: the class asked for, or "".
        place: the decided step in words.
    """

    seed: int
    index: int
    request: str
    frames: Block
    last: Block
    main: Commitment
    kept: Commitment | None
    classes: tuple[str, ...]
    own: str
    asked: str
    judge: str
    check: Faithfulness
    total: int
    evaluations: int
    seconds: float

    @property
    def title(self) -> str:
        return f"How sample {self.index} of seed {self.seed} came out of noise"

    @property
    def decided(self) -> Interval | None:
        """Log signal-to-noise at which the class was decided."""
        return self.main.decided

    def place(self) -> str:
        """The decided step in words.

        From the first recorded noise level that lies behind the decision.
        """
        if self.main.decided is None:
            return "at the very start" if self.main.from_start else "not before the last recorded step"
        after = next(i for i, at in enumerate(self.main.log_snr) if at >= self.main.decided.value)
        sigma = self.main.sigma[after]
        return f"by step {self.main.steps[after]} of {self.total}, where noise still has {sigma:.2g} times unit size"

    def blocks(self) -> tuple[Block, ...]:
        forgets = " if the request were dropped there" if self.kept is not None else ""
        asked = f" It was asked for: **{self.request}**." if self.request else " Nothing was asked for."
        opening = (
            f"The judge calls this sample **{self.own}**.{asked} It was decided **{self.place()}**: from there on, "
            f"more than {self.main.threshold:.0%} of {self.main.shares[0].n} walks with fresh noise end in the same "
            f"class{forgets}. Chance among {len(self.classes)} classes is {1 / len(self.classes):.0%}."
        )
        out: list[Block] = [Prose(opening)]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        if self.asked and self.asked != self.own:
            out.append(Verdict("warn", f"The sample was asked to be {self.asked}, but the judge calls it {self.own}."))
        out += [self.last, Heading("Step by step", 3), self.frames, Heading("When it was decided", 3), self._curve()]
        out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "trajectory"))
        return tuple(out)

    def _curve(self) -> Curve:
        name = "without the request" if self.kept is not None else "same class"
        lines = [_series(name, self.main)]
        if self.kept is not None:
            lines.append(_series("with the request", self.kept))
        lines.append(
            Series("half the way from chance", self.main.log_snr, [self.main.threshold] * len(self.main.steps))
        )
        marks = () if self.main.decided is None else (Marker(self.main.decided.value, "decided"),)
        return Curve(
            lines,
            "log signal-to-noise (left: noise, right: clean)",
            "share that ends in the same class",
            markers=marks,
            caption=f"{self.main.shares[0].n} walks from each recorded step, with 95% Wilson intervals.",
        )

    def _facts(self) -> Table:
        decided = self.main.decided
        when = "-" if decided is None else f"{decided.value:.2f} [{decided.low:.2f}, {decided.high:.2f}]"
        rows = [
            ("method", "branching from recorded steps; speciation time, Biroli et al. 2024, arXiv:2402.18491"),
            ("decided at log signal-to-noise", when),
            ("seed, sample", f"{self.seed}, {self.index}"),
            ("request", self.request or "none"),
            ("judge", self.judge),
            ("steps recorded", f"{len(self.main.steps)} of {self.total}"),
            ("walks a step", str(self.main.shares[0].n)),
            ("cost", f"{self.evaluations:,} network evaluations, {self.seconds:.1f} s"),
        ]
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        parts = [
            "The walks add fresh noise at each step (ancestral sampling) whatever solver made the sample, since a "
            "solver without noise would only repeat it. They follow the model, so they show what this model would do, "
            "not what real data would.",
            f"The class is told by {self.judge}. What it gets wrong moves the curve.",
            "Signal-to-noise is counted for data of unit scale.",
        ]
        if self.kept is not None:
            parts.append(
                "For the curve without the request the model is asked as in the part of its training in which the "
                "request was forgotten; guidance is then 1."
            )
        return "\n\n".join(parts)

    def _numbers(self) -> dict[str, Json]:
        def plain(c: Commitment) -> dict[str, Json]:
            ends: list[Json] = [[s.value, s.low, s.high] for s in c.shares]
            return {"steps": list(c.steps), "log_snr": list(c.log_snr), "shares": ends, "n": c.shares[0].n}

        decided = self.main.decided
        return {
            "seed": self.seed,
            "index": self.index,
            "own": self.own,
            "asked": self.asked,
            "threshold": self.main.threshold,
            "decided": None if decided is None else [decided.value, decided.low, decided.high],
            "main": plain(self.main),
            "with_request": None if self.kept is None else plain(self.kept),
            "faithful": self.check.passed,
        }


def trajectory(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    branches: int = 32,
    steps: int = STEPS,
    column: str | None = None,
    classifier: Callable[[Items], Sequence[str]] | None = None,
    run: Run | None = None,
) -> TrajectoryReport:
    """Explain how one sample came out of noise.

    Args:
        model: one that denoises. data: the items it was fitted on; those it carries, when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        branches: walks from each recorded step. steps: recorded at most.
        run: told how far the walks are.
        column: of a table, whose values are the classes. classifier: a judge of your own, items to class names.

    Raises:
        MissingCapability: the model does not denoise. BadInput: no data at hand, or what `model.sample` refuses.
    """
    began = time.monotonic()
    engine = model.need(Denoises, "show a way from noise to a sample")
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if steps < 4 or branches < 2:
        raise BadInput(f"steps is {steps}, branches is {branches}", accepted="4 steps and 2 branches, or more")
    sorter = sorter_for(model, data, seed=seed, column=column, classifier=classifier)
    walk = walked(model, engine, seed, index, where, how, steps)
    rows = Rows(seed, walk.ids).fork("trajectory")

    def classify(y: Tensor) -> Tensor:
        nothing = Condition.blank(model.codec.conditions, len(y))
        items = model.decode(y.cpu(), nothing, Rows(seed, torch.arange(len(y))).fork("judged"))
        return torch.from_numpy(np.asarray(sorter.says(items)))

    run = run or Run()
    fast = torch.autocast(walk.final.device.type, torch.bfloat16, enabled=model.recipe.get("precision") == "bfloat16")

    def tell(name: str, done: int, total: int) -> None:
        run.step(f"walks {name}", done, total, came="the explanation was stopped")

    def walks(x_t: Mapping[int, Tensor], condition: Condition, guidance: float, name: str, m: int) -> Commitment:
        return commitment(
            engine,
            classify,
            x_t,
            walk.final,
            walk.sigmas,
            condition,
            rows.fork(name),
            classes=len(sorter.names),
            branches=m,
            guidance=guidance,
            tell=lambda done, total: tell(name, done, total),
        )

    condition = walk.condition
    with torch.no_grad(), fast:
        # with the request the answer is seldom in doubt: beside the curve without it, a quarter of the walks will do
        few = max(2, branches // 4) if condition else branches
        plain = walks(walk.x_t, condition, float(getattr(walk.how, "guidance", 1.0)), "with the request", few)
        without = walks(walk.x_t, condition.nothing(), 1.0, "without it", branches) if condition else None
        main, kept = (plain, None) if without is None else (without, plain)
        late = main.steps[-LATE:]
        blind = {k: float(walk.sigmas[k]) * _noise(rows, k, walk.x_t[k]) for k in late}
        null = walks(blind, condition.nothing(), 1.0, "from mere noise", branches)
        own = _name(sorter, int(classify(walk.final)[0]))
    evaluations = main.evaluations + null.evaluations + (kept.evaluations if kept is not None else 0)
    return TrajectoryReport(
        seed=seed,
        index=index,
        request=", ".join(f"{k} = {v}" for k, v in walk.request.items()),
        frames=walk_frames(model, walk),
        last=model.codec.show(model.decode(walk.final.cpu(), condition.to("cpu"), Rows(seed, walk.ids).fork("shown"))),
        main=main,
        kept=kept,
        classes=sorter.names,
        own=own,
        asked=walk.request.get(sorter.request or "", ""),
        judge=sorter.words + _accuracy(sorter),
        check=_check(main, null, sorter),
        total=len(walk.sigmas) - 1,
        evaluations=evaluations,
        seconds=time.monotonic() - began,
    )


def _noise(rows: Rows, step: int, like: Tensor) -> Tensor:
    return rows.fork("blind start", step).normal(*like.shape[1:], dtype=like.dtype)


def _name(sorter: Sorter, number: int) -> str:
    return sorter.names[number] if number < len(sorter.names) else "none of the classes"


def _accuracy(sorter: Sorter) -> str:
    if sorter.accuracy is None:
        return ""
    a = sorter.accuracy
    return f" (right on {a.value:.1%} [{a.low:.1%}, {a.high:.1%}] of {a.n:,} real items it had not seen)"


def _check(main: Commitment, null: Commitment, sorter: Sorter) -> Faithfulness:
    """Late in the walk the item itself must hold the class; noise of the same strength must not."""

    def pooled(shares: Sequence[Interval]) -> Interval:
        return wilson(sum(round(s.value * s.n) for s in shares), sum(s.n for s in shares))

    return Faithfulness(
        f"At the last {LATE} recorded steps the walks must keep the sample's class, and walks from noise of the same "
        "strength that knows nothing of this sample must not.",
        pooled(main.shares[-LATE:]),
        1.0 if sorter.accuracy is None else sorter.accuracy.value,
        pooled(null.shares),
        "walks from such noise",
    )


def _series(name: str, c: Commitment) -> Series:
    return Series(name, c.log_snr, [s.value for s in c.shares], [s.low for s in c.shares], [s.high for s in c.shares])
