"""What a model is made of, shown with pictures and measurements of this very model.

A diffusion model has five pieces: the forward process, the reverse process, the network, the loss and the training
data. Each is shown at work. Of other families the pieces they name are shown, with what can be measured of any model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Denoises, Learns, Part, Samples, Scores, parameters_of
from pellucid.core.codec import Measures
from pellucid.core.described_model import learned_numbers, parts_of
from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, wilson
from pellucid.core.report import (
    Block,
    Code,
    Curve,
    Details,
    Heading,
    Measured,
    Pictures,
    Prose,
    Report,
    Series,
    Table,
    Verdict,
)
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData
from pellucid.domains.text_files import TextData
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.walk import shown_noisy, walk_frames, walked
from pellucid.fitting import halves
from pellucid.training.journal import read_losses

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Component", "Levels", "ProcessReport", "process"]

NOISES = (0.1, 0.3, 0.7, 1.5, 3.0, 8.0, 30.0)  # noise levels that are shown and measured
SHOWN = 32  # items of the training data
TEXTS = 6  # texts, which take more room
HELD = 128  # items on which errors are measured


@dataclass(frozen=True)
class Component:
    """One piece of the model: what it is in words, and what it does, shown."""

    part: Part
    shown: tuple[Block, ...]


@dataclass(frozen=True)
class Levels:
    """Mean squared error at each noise level, as a share of the data's own variance, on items not trained on.

    Args:
        trained, untrained, scaled: of this network; of the same network before it learned; of the noisy item itself
            drawn towards the mean as far as is best on average. Each an interval a level.
        better: for how many items this network is nearer than the untrained one, on average over the levels.
        seen: whether the items had to be training items because none were held out.
    """

    sigma: tuple[float, ...]
    trained: tuple[Interval, ...]
    untrained: tuple[Interval, ...]
    scaled: tuple[Interval, ...]
    better: Interval
    seen: bool


@dataclass(frozen=True)
class ProcessReport(Report):
    """The pieces of a model, each with a plain sentence, its formula and source, and itself at work."""

    family: str
    components: tuple[Component, ...]
    levels: Levels | None
    check: Faithfulness | None
    seed: int
    evaluations: int
    seconds: float

    @property
    def title(self) -> str:
        return f"What this model is made of: {self.family}"

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = []
        for number, component in enumerate(self.components, 1):
            part = component.part
            out += [Heading(f"{number}. {part.name.capitalize()}"), Prose(part.sentence)]
            if part.formula:
                out.append(Code(part.formula))
            if part.source:
                out.append(Prose(f"Source: {part.source}."))
            out += component.shown
        if self.check is not None:
            out += [Heading("Can this be trusted?"), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(),)))
        return tuple(out)

    def _facts(self) -> Table:
        rows = [
            ("method", "the model's own pieces, run on the model's own data"),
            ("seed", str(self.seed)),
            ("cost", f"{self.evaluations:,} network evaluations, {self.seconds:.1f} s"),
            ("assumption", "Noise is counted for data of unit scale; errors are shares of the data's variance."),
        ]
        if self.levels is not None and self.levels.seen:
            rows.append(("caution", "No items were held out: errors are measured on training items."))
        return Table(("", ""), rows)


def process(
    model: Fitted,
    *,
    seed: int = 0,
    data: Data | None = None,
    losses: Mapping[int, Mapping[str, float]] | None = None,
) -> ProcessReport:
    """Show what a model is made of.

    Args:
        data: the items it was fitted on; those it carries, when None.
        losses: step -> turn -> training loss; read from the model's run folder, when None.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None or not len(data):
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if losses is None and model.folder is not None:
        losses = read_losses(model.folder / "events.jsonl")
    model.engine.eval()
    kept, held = _parted(model, data)
    parts = parts_of(model.family, model.engine)
    title = model.family.title if model.family is not None else model.name
    with torch.no_grad():
        if isinstance(model.engine, Denoises):
            work = _Diffusion(model, model.engine, seed, kept, held)
            levels = work.levels()
            shown = {
                "forward process": work.forward_process,
                "reverse process": work.reverse_process,
                "network": work.network,
                "loss": lambda: (_levels_curve(levels), *_losses(model, kept, held, losses, seed)),
                "training data": lambda: _items(model, kept, len(data)),
            }
            named = {p.name: p for p in parts}
            parts = tuple(named.get(name, Part(name, SENTENCES[name])) for name in shown)
            components = tuple(Component(p, tuple(shown[p.name]())) for p in parts)
            return ProcessReport(
                title, components, levels, _check(levels), seed, work.evaluations, time.monotonic() - began
            )
        components = (
            *(Component(p, ()) for p in parts),
            Component(Part("network", SENTENCES["network"]), (_pieces(model.engine),)),
            Component(Part("samples", SENTENCES["samples"]), _samples(model, seed, len(_some(data)))),
            *_missed(model, kept, held, losses, seed),
            Component(Part("training data", SENTENCES["training data"]), _items(model, kept, len(data))),
        )
    return ProcessReport(title, components, None, None, seed, 0, time.monotonic() - began)


SENTENCES = {
    "forward process": "Noise is poured over a real item little by little until nothing of the item is left.",
    "reverse process": "A sample starts as pure noise and is cleaned step by step.",
    "network": "These are the parts that hold what was learned.",
    "loss": "How wrong the network is, at each amount of noise.",
    "other loss": "How wrong the model is on the items it trained on, and on items it has never seen.",
    "score": "How likely the model finds the items it learned from, and items it has never seen.",
    "samples": "New items, drawn from the model.",
    "training data": "Everything the model knows comes from these items.",
}


def _parted(model: Fitted, data: Data) -> tuple[Data, Data | None]:
    """Training items and held-out items, as the fit parted them."""
    share, seed = model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0)
    kept, held = halves(data, share, seed)
    return data.take(kept), data.take(held) if len(held) else None


class _Diffusion:
    """The five pieces of a model that denoises, run on a few items."""

    def __init__(self, model: Fitted, engine: Denoises, seed: int, kept: Data, held: Data | None) -> None:
        self.model, self.engine, self.seed, self.evaluations = model, engine, seed, 0
        self.items = held if held is not None else kept
        self.seen = held is None
        chosen = np.random.default_rng(seed).permutation(len(self.items))[:HELD]
        self.items = self.items.take(chosen)
        self.rows = Rows(seed, torch.arange(len(self.items))).fork("process")
        device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
        y, condition = model.event(self.items, self.rows.fork("event"))
        self.y, self.condition = y.to(device), condition.to(device)
        self.rows = self.rows.to(device)
        self.one, self.told = self.y[:1], self.condition.take(slice(0, 1))
        self.made = isinstance(kept, TableData)  # a row of a table is about somebody: show one that the model made
        if self.made:
            drawn = model.sample(1, seed=seed).items
            y, condition = model.event(drawn, Rows(seed, torch.zeros(1, dtype=torch.int64)).fork("shown"))
            self.one, self.told = y.to(device), condition.to(device)

    def noised(self, sigma: float, step: int) -> Tensor:
        """(B, *event) all items with noise sigma."""
        return self.y + sigma * self.rows.fork("noise", step).normal(*self.y.shape[1:], dtype=self.y.dtype)

    def noisy_one(self) -> Tensor:
        """The item that is shown, at each noise level: (levels, *event)."""
        noise = [
            self.rows.fork("noise", k).normal(*self.y.shape[1:], dtype=self.y.dtype)[:1] for k in range(len(NOISES))
        ]
        return torch.cat([self.one + sigma * n for sigma, n in zip(NOISES, noise, strict=True)])

    def denoised(self, engine: Denoises, x_t: Tensor, sigma: float, condition: Condition) -> Tensor:
        self.evaluations += len(x_t)
        return engine.denoise(x_t, x_t.new_full((len(x_t),), sigma), condition)

    def show(self, y: Tensor, condition: Condition, captions: list[str], caption: str) -> Block:
        """Events as people look at them, with a caption each."""
        rows = Rows(self.seed, torch.arange(len(y)))
        block = self.model.codec.show(self.model.decode(y.cpu(), condition.to("cpu"), rows), limit=len(y))
        if isinstance(block, Pictures):
            return Pictures(block.images, captions, columns=len(captions), caption=caption)
        if isinstance(block, Table):
            rows_ = [(name, *row) for name, row in zip(captions, block.rows, strict=True)]
            return Table(("", *block.columns), rows_, caption)
        return block

    def forward_process(self) -> tuple[Block, ...]:
        one = self.noisy_one()
        scaled = torch.cat((self.one, shown_noisy(one, torch.tensor(NOISES, device=one.device))))
        captions = ["the item", *(f"noise {s:g}" for s in NOISES)]
        told = self.told.repeat(len(captions))
        return (
            self.show(scaled, told, captions, "One item under more and more noise, scaled so that it can be seen."),
        )

    def reverse_process(self) -> tuple[Block, ...]:
        walk = walked(self.model, self.engine, self.seed, 0, None, None, 8)
        self.evaluations += len(walk.sigmas) - 1
        last = self.model.decode(walk.final.cpu(), walk.condition.to("cpu"), Rows(self.seed, walk.ids.cpu()))
        return (walk_frames(self.model, walk), self.model.codec.show(last))

    def network(self) -> tuple[Block, ...]:
        one = self.noisy_one()
        told = self.told.repeat(len(NOISES))
        sigma = torch.tensor(NOISES, device=one.device, dtype=one.dtype)
        self.evaluations += len(one)
        guess = torch.cat((self.one, self.engine.denoise(one, sigma, told)))
        told = self.told.repeat(len(guess))
        captions = ["the item", *(f"from noise {s:g}" for s in NOISES)]
        text = "An item that was not trained on" if not self.seen else "A training item"
        text = "A row that the model made" if self.made else text
        return (
            _pieces(self.model.engine),
            self.show(guess, told, captions, f"{text}, and what the network makes of it under more and more noise."),
        )

    def levels(self) -> Levels:
        """Errors at each noise level, with the same noise for this network and the untrained one."""
        fresh = self._untrained()
        mean = self.y.mean(dim=0)
        variance = float((self.y - mean).square().mean()) or 1.0
        trained, untrained, scaled = [], [], []
        lead = self.y.new_zeros(len(self.y))  # (B,) how much nearer this network is, summed over levels
        for step, sigma in enumerate(NOISES):
            x_t = self.noised(sigma, step)
            # the best a + b x_t with numbers a and b that are the same everywhere
            best = mean + variance / (variance + sigma**2) * (x_t - mean)
            own = self._errors(self.denoised(self.engine, x_t, sigma, self.condition)) / variance
            other = plain = self._errors(best) / variance
            if fresh is not None:
                other = self._errors(self.denoised(fresh, x_t, sigma, self.condition)) / variance
                untrained.append(_mean(other))
            lead += other - own
            trained.append(_mean(own))
            scaled.append(_mean(plain))
        better = wilson(int((lead > 0).sum()), len(lead))
        return Levels(NOISES, tuple(trained), tuple(untrained), tuple(scaled), better, self.seen)

    def _errors(self, guess: Tensor) -> Tensor:
        """(B,) mean squared distance to the items."""
        return (guess - self.y).square().flatten(1).mean(dim=1)

    def _untrained(self) -> Denoises | None:
        """The same network with first weights and this one's buffers, such as what preparing it saw."""
        if self.model.family is None:
            return None
        rows = Rows(self.seed, torch.zeros(1, dtype=torch.int64)).fork("untrained")
        fresh = self.model.family.build(self.model.bridge.target, self.model.codec.conditions, rows)
        buffers = dict(fresh.named_buffers())
        for name, value in self.model.engine.named_buffers():
            buffers[name].copy_(value.cpu())
        assert isinstance(fresh, Denoises)
        fresh.to(self.y.device).eval()
        return fresh


def _mean(values: Tensor) -> Interval:
    """Mean of (B,) with its normal 95% interval."""
    n, mean = len(values), float(values.double().mean())
    half = 1.96 * float(values.double().std()) / n**0.5 if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half, n)


def _levels_curve(levels: Levels) -> Block:
    lines = [_line("this network", levels.sigma, levels.trained)]
    if levels.untrained:
        lines.append(_line("the same network before it learned", levels.sigma, levels.untrained))
    lines.append(_line("the noisy item, drawn towards the mean", levels.sigma, levels.scaled))
    which = "training items" if levels.seen else "items not trained on"
    return Curve(
        lines,
        "noise (data has unit scale)",
        "error, as a share of the data's variance",
        log_x=True,
        caption=f"How wrong the guess is at each amount of noise, on {levels.trained[0].n} {which} (95% intervals).",
    )


def _line(name: str, x: tuple[float, ...], values: tuple[Interval, ...]) -> Series:
    return Series(name, x, [v.value for v in values], [v.low for v in values], [v.high for v in values])


def _check(levels: Levels) -> Faithfulness:
    n, which = levels.better.n, "training items" if levels.seen else "items it was not trained on"
    return Faithfulness(
        f"What is shown as learned must be learned: on {which}, the network must be nearer to the clean item than "
        + ("the same network before training." if levels.untrained else "the noisy item drawn towards the mean."),
        levels.better,
        1.0,
        Interval(0.5, 0.5, 0.5, n),
        "a coin",
        share=0.6,
    )


def _pieces(engine: nn.Module) -> Block:
    """The engine's direct parts with their sizes, or the net's own description."""
    rows: list[tuple[str, str, int | None]] = [
        (name.replace("_", " "), type(module).__name__, parameters_of(module))
        for name, module in engine.named_children()
    ]
    describe = getattr(getattr(engine, "network", None), "describe", None)
    if callable(describe):
        rows += [("inside the network", line, None) for line in describe()]
    rows.append(("all", "", learned_numbers(engine)))
    return Table(("part", "what it is", "learned numbers"), rows)


def _said(module: nn.Module) -> str:
    """What our own modules say of themselves in their first line; the class name of others."""
    own = type(module).__module__.startswith("pellucid.")
    return (type(module).__doc__ or "").strip().split("\n")[0].strip() if own else type(module).__name__


def _samples(model: Fitted, seed: int, n: int) -> tuple[Block, ...]:
    if not isinstance(model.engine, Samples):
        return (Prose("This model does not draw samples."),)
    return (model.codec.show(model.sample(n, seed=seed).items, limit=n),)


def _some(items: Data) -> Data:
    """As many items as are shown; of texts few that lie apart, because windows next to each other overlap."""
    if isinstance(items, TextData):
        return items.take(np.unique(np.linspace(0, len(items) - 1, TEXTS).astype(np.int64)))
    return items.take(np.arange(min(SHOWN, len(items))))


def _items(model: Fitted, kept: Data, total: int) -> tuple[Block, ...]:
    some = _some(kept)
    counts = f"{total:,} items, {len(kept):,} of them trained on."
    if isinstance(kept, TableData):
        return (Prose(f"{counts} Rows of a table are about somebody, so none of the real ones is printed here."),)
    what, whom = ("texts", "speak of") if isinstance(kept, TextData) else ("pictures", "show")
    return (
        Prose(
            f"{counts} {len(some)} from all over it:"
            if isinstance(kept, TextData)
            else f"{counts} The first {len(some)}:"
        ),
        model.codec.show(some, limit=SHOWN),
        Verdict("note", f"This page shows real training {what}: think of whom they {whom} before you pass it on."),
    )


def _missed(
    model: Fitted, kept: Data, held: Data | None, losses: Mapping[int, Mapping[str, float]] | None, seed: int
) -> tuple[Component, ...]:
    """How wrong the model is: by its own losses, else by its likelihood; nothing where it has neither."""
    if found := _losses(model, kept, held, losses, seed):
        return (Component(Part("loss", SENTENCES["other loss"]), found),)
    if isinstance(model.engine, Scores) and isinstance(model.codec, Measures):
        rows = [("training items", _score(model, kept, seed))]
        rows += [("items not trained on", _score(model, held, seed))] if held is not None else []
        table = Table(("", "log-probability of an item, in nats"), rows)
        return (Component(Part("score", SENTENCES["score"]), (table,)),)
    return ()


def _score(model: Fitted, items: Data, seed: int) -> Measured:
    """Mean log-probability of some of the items."""
    chosen = np.random.default_rng(seed).permutation(len(items))[:HELD]
    scored = model.log_prob(items.take(chosen), seed=seed)
    found = _mean(scored.value)
    return Measured(found.value, found.low, found.high, n=found.n, kind=f"{scored.kind.replace('_', ' ')}; normal 95%")


def _losses(
    model: Fitted, kept: Data, held: Data | None, losses: Mapping[int, Mapping[str, float]] | None, seed: int
) -> tuple[Block, ...]:
    """The engine's own losses on training items and on others, and how they fell while it trained."""
    out: list[Block] = []
    if isinstance(model.engine, Learns):
        rows = []
        for turn in model.engine.turns():
            cells: list[str | Measured] = [turn.name]
            for items in (kept, held):
                cells.append(_turn_loss(model, turn.losses, items, seed) if items is not None else "-")
            rows.append(cells)
        out.append(Table(("turn", "loss on training items", "loss on items not trained on"), rows))
    if losses:
        steps = sorted(losses)
        names = sorted({name for step in steps for name in losses[step]})
        lines = [_smooth(name, steps, losses) for name in names]
        out.append(Curve(lines, "step", "training loss", caption="While it trained, averaged over stretches of steps."))
    return tuple(out)


def _turn_loss(model: Fitted, losses: object, items: Data, seed: int) -> Measured:
    chosen = np.random.default_rng(seed).permutation(len(items))[:HELD]
    items = items.take(chosen)
    rows = Rows(seed, torch.arange(len(items))).fork("loss")
    y, condition = model.event(items, rows.fork("event"))
    device = next((p.device for p in model.engine.parameters()), torch.device("cpu"))
    batch = Batch(y, rows.ids, condition).to(device)
    assert callable(losses)
    found = _mean(losses(batch, rows.to(device)).detach())
    return Measured(found.value, found.low, found.high, n=found.n, kind="normal 95%")


def _smooth(name: str, steps: list[int], losses: Mapping[int, Mapping[str, float]], points: int = 60) -> Series:
    """Means over at most 60 stretches."""
    with_it = [s for s in steps if name in losses[s]]
    groups = [g for g in np.array_split(np.array(with_it), min(points, len(with_it))) if len(g)]
    return Series(
        name, [float(g.mean()) for g in groups], [float(np.mean([losses[int(s)][name] for s in g])) for g in groups]
    )
