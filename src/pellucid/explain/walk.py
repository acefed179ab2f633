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
from pellucid.core.report import Block, Frames, Pictures, Table
from pellucid.core.rows import Rows
from pellucid.core.trace import Recording
from pellucid.explain.named import named, words_for

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
    name = named(model, seed, index, where, how)
    ids, how = name.again("the way to a row that was drawn around what is known cannot be shown"), name.how
    sigmas = engine.sigmas(how)
    last = len(sigmas) - 1
    chosen = sorted({round(i * (last - 1) / max(1, min(steps, last) - 1)) for i in range(min(steps, last))})
    trace = Recording(["x_t", "denoised"], [*chosen, last])
    draw = model.sample(ids=ids, seed=seed, where=name.asked, how=how, trace=trace)
    x_t = trace.kept["x_t"]
    final = x_t.pop(last)
    device = final.device
    request = words_for(model, draw.condition) | {k: str(v) for k, v in (where or {}).items()}
    return Walk(x_t, trace.kept["denoised"], final, sigmas, draw.condition.to(device), ids.to(device), how, request)


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
