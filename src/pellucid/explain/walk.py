"""The way of one sample from noise, drawn again with everything recorded, and how people look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, expand_like
from pellucid.core.codec import Constrains
from pellucid.core.errors import BadInput
from pellucid.core.report import Block, Frames, Pictures, Table
from pellucid.core.rows import Rows
from pellucid.core.space import zeros
from pellucid.core.trace import Recording

if TYPE_CHECKING:
    from pellucid.model import Fitted

__all__ = ["Walk", "shown_noisy", "walk_frames", "walked"]


@dataclass(frozen=True, eq=False)
class Walk:
    """One sample and its way.

    x_t, denoised: step -> (1, *event), what each recorded step saw and believed. final: (1, *event).
    sigmas: (K + 1,), of the sampler. condition, ids: one row. request: what was asked, in the user's words.
    """

    x_t: dict[int, Tensor]
    denoised: dict[int, Tensor]
    final: Tensor
    sigmas: Tensor
    condition: Condition
    ids: Tensor
    how: How
    request: dict[str, str]


def walked(
    model: Fitted,
    engine: Denoises,
    seed: int,
    index: int,
    where: Mapping[str, object] | None,
    how: How | None,
    steps: int,
) -> Walk:
    """Draw the sample (seed, index, where, how) again and record at most `steps` steps of its way, evenly."""
    if index < 0:
        raise BadInput(f"index is {index}", accepted="0 or more")
    how, where = how or model.how(), dict(where or {})
    asked = {k: v for k, v in where.items() if k in model.codec.conditions}
    ids = torch.tensor([index])
    watched = isinstance(model.codec, Constrains) and bool(model.codec.watched())
    if len(asked) < len(where) or watched:  # met by rejection: the sample of this index has another id
        found = model.sample(index + 1, seed=seed, where=where, how=how)
        if found.route == "completion":
            raise BadInput(
                "the way to a row that was drawn around what is known cannot be shown",
                accepted="words that more rows meet, or none",
                why="Too few rows that were drawn freely met them.",
            )
        ids = found.ids[index:]
    sigmas = engine.sigmas(how)
    last = len(sigmas) - 1
    chosen = sorted({round(i * (last - 1) / max(1, min(steps, last) - 1)) for i in range(min(steps, last))})
    trace = Recording(["x_t", "denoised"], [*chosen, last])
    draw = model.sample(ids=ids, seed=seed, where=asked, how=how, trace=trace)
    x_t = trace.kept["x_t"]
    final = x_t.pop(last)
    device = final.device
    request = _words(model, draw.condition) | {k: str(v) for k, v in where.items()}
    return Walk(x_t, trace.kept["denoised"], final, sigmas, draw.condition.to(device), ids.to(device), how, request)


def _words(model: Fitted, condition: Condition) -> dict[str, str]:
    """What was asked for, in the user's words: the values that the codec reads back from the condition."""
    given = [k for k, g in condition.given.items() if bool(g.any())]
    rows = Rows(0, torch.zeros(1, dtype=torch.int64))
    items = model.codec.decode(zeros(model.codec.space, 1), condition.to("cpu"), rows)
    labels, frame = getattr(items, "labels", None), getattr(items, "frame", None)
    if labels is not None and "class" in given:
        return {"class": str(labels[0])}
    return {k: str(frame[k].iloc[0]) for k in given} if frame is not None else dict.fromkeys(given, "given")


def shown_noisy(x_t: Tensor, sigma: Tensor) -> Tensor:
    """x_t (B, *event) at noise sigma (B,), scaled so that data and noise together have unit size."""
    return x_t / expand_like((1 + sigma.square()).sqrt(), x_t)


def walk_frames(model: Fitted, walk: Walk) -> Block:
    """What each recorded step saw and believed: pictures with a slider, rows of a table otherwise."""
    steps = list(walk.x_t)
    sigma = torch.tensor([float(walk.sigmas[k]) for k in steps])
    seen = shown_noisy(torch.cat([walk.x_t[k] for k in steps]).cpu(), sigma)
    believed = torch.cat([walk.denoised[k] for k in steps]).cpu()
    condition = walk.condition.to("cpu").repeat(len(steps))
    rows = Rows(0, torch.arange(len(steps)))
    first, second = (model.codec.show(model.decode(y, condition, rows), limit=len(steps)) for y in (seen, believed))
    labels = [f"step {k}, noise {s:.2g}" for k, s in zip(steps, sigma.tolist(), strict=True)]
    if isinstance(first, Pictures) and isinstance(second, Pictures):
        pairs = [
            Pictures(np.stack(pair), ("what it sees", "what it believes"), columns=2)
            for pair in zip(first.images, second.images, strict=True)
        ]
        return Frames(
            pairs, labels, "Left: the noisy picture, scaled to be seen. Right: the picture the model believes in."
        )
    if isinstance(second, Table):
        rows_ = [(label, *row) for label, row in zip(labels, second.rows, strict=True)]
        return Table(("at", *second.columns), rows_, "What the model believes the row to be, step by step.")
    return second
