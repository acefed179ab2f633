"""How surprised a model is by each part of an event: -log p in nats, given what stands before it or all the rest.

By what the engine offers: an engine that predicts gives the terms of its chain rule, which add up to -log p(x); one
that fills gaps gives each part given all others directly; one that only scores whole events is asked for the event
with every alternative in the part's place,

    -log p(x_i | rest) = log sum over v of p(x with v at i) - log p(x),

a sum over symbols, and over real numbers an integral by the trapezoidal rule on a grid that closes in on its mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Predicts, Scores, Spells, Unmasks
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens

__all__ = ["by_alternatives", "by_grid", "chain", "exact", "given"]

BATCH = 512  # events in one pass
GRID = 129  # points
ROUNDS = 6  # of closing in
FAR = 40.0  # nats below the peak, where mass no longer counts


def chain(engine: Predicts, tokens: Tensor, condition: Condition) -> Tensor:
    """(B, T) of -log p(x_t | x_1, ..., x_{t-1}) for tokens (B, T); they add up to -log p(x)."""
    if isinstance(engine, Spells):
        ids = torch.arange(len(tokens), device=tokens.device)
        return -engine.spell(Batch(tokens, ids, condition), Rows(0, ids)).double()
    logits = engine.next_logits(tokens, condition)[:, :-1].double()  # (B, T, V)
    return -logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def given(
    engine: Unmasks, tokens: Tensor, condition: Condition, known: Tensor, groups: Sequence[Tensor], length: int
) -> Tensor:
    """How surprising each group of positions is, given other groups.

    Args:
        tokens: (M, T). known: (M, P) bool, the groups that are told; of those the answer is 0.
        groups: P tensors of positions; positions of no group are always known. length: T.

    Returns: (M, P) of -log p(x_group | known), the positions of one group one after another.
    """
    m, parts = known.shape
    base = torch.ones(m, length, dtype=torch.bool, device=tokens.device)
    for k, group in enumerate(groups):
        base[:, group] = known[:, k, None]
    out = torch.zeros(m, parts, dtype=torch.float64, device=tokens.device)
    first = torch.tensor([int(group[0]) for group in groups], device=tokens.device)
    out += _missing(engine, tokens, base, condition).gather(1, first.expand(m, -1))
    for k, group in enumerate(groups):  # a group of several positions: each further one given those before it
        for at in range(1, len(group)):
            told = base.clone()
            told[:, group[:at]] = True
            out[:, k] += _missing(engine, tokens, told, condition)[:, int(group[at])]
    return torch.where(known.to(out.device), 0.0, out)


def _missing(engine: Unmasks, tokens: Tensor, known: Tensor, condition: Condition) -> Tensor:
    """(M, T) of -log p(x_i | known)."""
    out = []
    for at in range(0, len(tokens), BATCH):
        part = slice(at, at + BATCH)
        logits = engine.fill_logits(tokens[part], known[part], condition.take(part)).double()
        out.append(-logits.log_softmax(-1).gather(-1, tokens[part, :, None]).squeeze(-1))
    return torch.cat(out)


def by_alternatives(engine: Scores, space: Tokens, tokens: Tensor, condition: Condition, rows: Rows) -> Tensor:
    """(B, T) of -log p(x_i | rest) for tokens (B, T): every symbol in every place, T * V events for each row."""
    if space.ends:
        raise MissingCapability("sequences that end have no fixed rest", accepted="items of one length")
    out = torch.empty(tokens.shape, dtype=torch.float64, device=tokens.device)
    own = exact(engine, tokens, condition, rows)
    for t, size in enumerate(space.sizes):
        tried = tokens.repeat_interleave(size, 0)
        tried[:, t] = torch.arange(size, device=tokens.device).repeat(len(tokens))
        scores = exact(engine, tried, condition.repeat(size), _each(rows, size)).reshape(len(tokens), size)
        out[:, t] = scores.logsumexp(1) - own
    return out


def by_grid(engine: Scores, x: Tensor, condition: Condition, rows: Rows, low: Tensor, high: Tensor) -> Tensor:
    """(B, D) of -log p(x_i | rest), densities, for x (B, D).

    Args:
        low, high: (D,) between which real events lie; the grid starts three times as wide.
    """
    out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    own = exact(engine, x, condition, rows)
    for i in range(x.shape[1]):
        width = (high[i] - low[i]).clamp_min(1e-6).double()
        a = (low[i] - width).double().expand(len(x))
        b = (high[i] + width).double().expand(len(x))
        for _ in range(ROUNDS):
            at = a[:, None] + (b - a)[:, None] * torch.linspace(0, 1, GRID, dtype=torch.float64, device=x.device)
            tried = x.repeat_interleave(GRID, 0)
            tried[:, i] = at.reshape(-1).to(x.dtype)
            scores = exact(engine, tried, condition.repeat(GRID), _each(rows, GRID)).reshape(len(x), GRID)
            step = (b - a) / (GRID - 1)
            mass = scores.logsumexp(1) + step.log()
            counts = scores > scores.max(1, keepdim=True).values - FAR
            first = counts.double().argmax(1)
            last = GRID - 1 - counts.flip(1).double().argmax(1)
            # where the mass reaches an end of the grid, the grid goes on there
            below = torch.where(first > 0, at.gather(1, (first - 1).clamp_min(0)[:, None])[:, 0], a - (b - a))
            beyond = at.gather(1, (last + 1).clamp_max(GRID - 1)[:, None])[:, 0]
            a, b = below, torch.where(last < GRID - 1, beyond, b + (b - a))
        out[:, i] = mass - own
    return out


def exact(engine: Scores, x: Tensor, condition: Condition, rows: Rows) -> Tensor:
    """(B,) float64 log p(x); MissingCapability where the engine only knows a bound or an estimate."""
    found = []
    for at in range(0, len(x), BATCH):
        part = slice(at, at + BATCH)
        said = engine.log_prob(Batch(x[part], rows.ids[part], condition.take(part)), rows.take(part))
        if said.kind != "exact":
            raise MissingCapability(
                f"{type(engine).__name__} gives a {said.kind.replace('_', ' ')} of log p",
                accepted="an exact log p",
                why="The difference of two bounds says nothing about a part.",
            )
        found.append(said.value.double())
    if not found:
        raise BadInput("no events came", accepted="at least one")
    return torch.cat(found)


def _each(rows: Rows, times: int) -> Rows:
    """The same stream for each row so many times, so that alternatives differ in nothing else."""
    return Rows(rows.seed, rows.ids.repeat_interleave(times), rows.key)
