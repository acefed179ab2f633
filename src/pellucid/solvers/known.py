"""Completes events of which a part is known: by unmasking, by reading on, or by denoising around what is known.

The three routes differ in what they promise. An engine that fills unknown positions, or that reads from left to
right behind a known beginning, draws from its own conditional distribution exactly. A denoiser only approximates it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Predicts, Unmasks, expand_like, offers
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace
from pellucid.solvers.ancestral import ancestral_step
from pellucid.solvers.denoiser import checked_sigmas, keep_step
from pellucid.solvers.guidance import follow

__all__ = ["Completed", "complete"]


@dataclass(frozen=True)
class Completed:
    """Whole events, the route that was taken, and what it promises.

    Args:
        x: (B, *event); what was known is in it unchanged.
        route: "Unmasks", "Predicts" or "Denoises".
        exactness: "exact": drawn from the engine's own distribution given what is known; "approximate": near it.
    """

    x: Tensor
    route: Literal["Unmasks", "Predicts", "Denoises"]
    exactness: Literal["exact", "approximate"]


def complete(
    engine: object,
    known: Tensor,
    mask: Tensor,
    condition: Condition,
    rows: Rows,
    how: How,
    trace: Trace | None = None,
    *,
    ends: bool = False,
    resamplings: int = 4,
) -> Completed:
    """Draw what is missing, given what is known.

    Args:
        engine: anything that Unmasks, Predicts or Denoises; the first it offers is used.
        known: (B, *event); its values where the mask is false do not matter.
        mask: bool, true where known; (B, *event) or of a shape that broadcasts to it with as many axes.
        how: the engine's own. A `temperature` and an `order` there are honoured for symbols, `guidance` for denoisers.
        ends: symbol 0 ends a sequence and pads what follows (only asked when reading from left to right).
        resamplings: how often each stretch of denoising is walked; more fits the new part better to the known one.

    Raises:
        MissingCapability: the engine only reads from left to right, and what is known is not a beginning.
    """
    trace = trace or Silent()
    mask, rows = _fitting(mask, known), rows.to(known.device)
    if isinstance(engine, Unmasks):
        return Completed(_unmask(engine, known, mask, condition, rows, how, trace), "Unmasks", "exact")
    if isinstance(engine, Predicts):
        return Completed(_read_on(engine, known, mask, condition, rows, how, trace, ends), "Predicts", "exact")
    if isinstance(engine, Denoises):
        x = _denoise_around(engine, known, mask, condition, rows, how, trace, resamplings)
        return Completed(x, "Denoises", "approximate")
    raise MissingCapability(
        f"{type(engine).__name__} offers {', '.join(offers(engine)) or 'nothing'}",
        accepted="Unmasks, Predicts or Denoises",
        why="completing needs the distribution of one part given another",
        next="A diffusion, masked diffusion or autoregressive model can do it",
    )


def _fitting(mask: Tensor, known: Tensor) -> Tensor:
    fits = mask.ndim == known.ndim and all(m in (1, k) for m, k in zip(mask.shape, known.shape, strict=True))
    if not fits or mask.dtype != torch.bool:
        raise BadInput(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)} but the events have {tuple(known.shape)}",
            accepted=f"bool of shape {tuple(known.shape)}, where any axis may be 1",
            why="a mask says of each number whether it is known",
        )
    return mask.expand(known.shape)


def _draw(logits: Tensor, rows: Rows, how: How) -> Tensor:
    """(B, V) to (B,), at the temperature of `how`, 1 if it has none; at temperature 0 the likeliest."""
    temperature = float(getattr(how, "temperature", 1.0))
    return logits.argmax(dim=-1) if temperature == 0.0 else rows.categorical(logits / temperature)


def _unmask(
    engine: Unmasks, known: Tensor, mask: Tensor, condition: Condition, rows: Rows, how: How, trace: Trace
) -> Tensor:
    """Position by position: p(x) is a product of conditionals in any order.

    The order is each row's own, or from first to last where `how` has an `order` and it is "forward".
    """
    tokens, have = torch.where(mask, known, 0), mask.clone()
    order = rows.fork("order").uniform(tokens.shape[1])  # (B, T): the unknown position with the smallest is next
    if getattr(how, "order", "random") == "forward":
        order = (torch.arange(tokens.shape[1], device=tokens.device) / tokens.shape[1]).expand_as(order)
    for step in range(max((~mask).sum(dim=1).tolist(), default=0)):
        at = torch.where(have, 2.0, order).argmin(dim=1, keepdim=True)  # (B, 1)
        first = int(at[0])
        if bool((at == first).all()):
            here = engine.fill_logits(tokens, have, condition, at=first)
        else:
            logits = engine.fill_logits(tokens, have, condition)  # (B, T, V)
            here = logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[-1]))[:, 0]
        symbol = _draw(here, rows.fork("symbol", step), how)[:, None]
        # a row that is already complete keeps what it has
        tokens = tokens.scatter(1, at, torch.where(have.gather(1, at), tokens.gather(1, at), symbol))
        have = have.scatter(1, at, True)
        if trace.wants("token"):
            trace.keep("token", step, tokens)
    return tokens


def _read_on(
    engine: Predicts, known: Tensor, mask: Tensor, condition: Condition, rows: Rows, how: How, trace: Trace, ends: bool
) -> Tensor:
    """Symbol by symbol behind the known beginning, which may differ in length from row to row."""
    if not bool((mask.long().cummin(dim=1).values.bool() == mask).all()):
        raise MissingCapability(
            "something behind an unknown position is known",
            accepted="a known beginning: the first positions of each row",
            why=f"{type(engine).__name__} reads from left to right and cannot take what comes later into account",
            next="Use a family that fills gaps, such as masked diffusion",
        )
    tokens = torch.where(mask, known, 0)
    start = min(mask.sum(dim=1).tolist(), default=tokens.shape[1])
    logits, cache = engine.step(engine.begin(condition, tokens.shape[0]), tokens[:, :start])
    ended = (tokens[:, :start] == 0).any(dim=1)
    for at in range(start, tokens.shape[1]):
        symbol = _draw(logits, rows.fork("symbol", at), how)
        if ends:
            symbol = torch.where(ended, 0, symbol)
        symbol = torch.where(mask[:, at], tokens[:, at], symbol)
        ended = ended | (symbol == 0)
        tokens = torch.cat((tokens[:, :at], symbol[:, None], tokens[:, at + 1 :]), dim=1)
        if trace.wants("token"):
            trace.keep("token", at, symbol)
        if at + 1 < tokens.shape[1]:
            logits, cache = engine.step(cache, symbol[:, None])
    return tokens


def _denoise_around(
    engine: Denoises,
    known: Tensor,
    mask: Tensor,
    condition: Condition,
    rows: Rows,
    how: How,
    trace: Trace,
    resamplings: int,
) -> Tensor:
    """Ancestral sampling in which the known part is put back, freshly noised, at each noise level.

    x_known = known + sigma * noise;  x = mask * x_known + (1 - mask) * x_unknown       Lugmayr et al. 2022, RePaint,
    x_back = x + sqrt(sigma_back^2 - sigma^2) * noise                                   arXiv:2201.09865, eq. 8, alg. 1

    Each stretch of a tenth of the steps is walked `resamplings` times, so that the new part hears of the known part
    before it is settled. The paper takes ten steps of 250 at a time, ten times over.
    """
    if resamplings < 1:
        raise BadInput(f"resamplings is {resamplings}", accepted="1 or more")
    levels = checked_sigmas(engine.sigmas(how))
    denoise = follow(engine, condition, how, rows)
    draw = lambda name, step: rows.fork(name, step).normal(*known.shape[1:], dtype=known.dtype)  # noqa: E731
    x = torch.where(mask, known, 0.0) + levels[0] * draw("start", 0)
    here = 0
    for step, (at, after) in enumerate(_walk(len(levels) - 1, resamplings)):
        if at < here:  # jump back to more noise
            x = x + math.sqrt(levels[at] ** 2 - levels[here] ** 2) * draw("back", step)
        sigma = x.new_full((x.shape[0],), levels[at])
        denoised = denoise(x, sigma)
        keep_step(trace, step, x, levels[at], denoised)
        unknown = ancestral_step(x, denoised, levels[at], levels[after], draw("ancestral", step))
        given = known + expand_like(torch.full_like(sigma, levels[after]), known) * draw("known", step)
        x, here = torch.where(mask, given, unknown), after
    return torch.where(mask, known, x)


def _walk(steps: int, times: int) -> Iterator[tuple[int, int]]:
    """Pairs (level, next level) over all steps, each stretch `times` times over.

    >>> list(_walk(2, 2))
    [(0, 1), (0, 1), (1, 2), (1, 2)]
    """
    stretch = max(1, steps // 10)
    for first in range(0, steps, stretch):
        levels = range(first, min(first + stretch, steps) + 1)
        for _ in range(times):
            yield from itertools.pairwise(levels)
