"""Places taken away by letting the model fill them: an item of which only some places are known.

Zeros or means in the place of what is taken away make an item that the model never saw, and its answer to that says
little. Here the model draws what is missing from its own distribution given all that is known (`solvers/known.py`).
For the chance of one symbol nothing needs to be drawn where the engine fills gaps: it can be told that the others are
unknown. Where it only reads from left to right, what is missing is drawn in passing, and each draw counts as much as
it makes the known symbols behind it likely:

    p(x_t | known) ~ sum_d w_d p(x_t | x_<t of draw d) / sum_d w_d,   w_d = product over known s < t of p(x_s | x_<s)
                                                likelihood weighting; Fung and Chang 1990, Shachter and Peot 1990
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Predicts, Unmasks
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.solvers.known import complete

__all__ = ["can_redraw", "log_p_given", "redrawn_around"]

AT_ONCE = 512  # events in one pass


def can_redraw(engine: object) -> str:
    """Why any set of places cannot be redrawn given the others; empty where it can.

    >>> can_redraw(object())
    'Places cannot be redrawn given all others by an engine that neither Unmasks nor Denoises.'
    """
    if isinstance(engine, Unmasks | Denoises):
        return ""
    return "Places cannot be redrawn given all others by an engine that neither Unmasks nor Denoises."


@torch.no_grad()
def redrawn_around(
    engine: object, y: Tensor, known: Tensor, condition: Condition, how: How, rows: Rows, *, resamplings: int = 1
) -> Tensor:
    """(M, *event): the event y (1, *event) with everything not in known (M, *event) drawn anew; rows: M rows.

    Raises:
        MissingCapability: an engine that neither Unmasks nor Denoises.
    """
    if why := can_redraw(engine):
        raise MissingCapability(why, accepted="masked, or a family that denoises")
    out = []
    for at in range(0, len(known), AT_ONCE):
        mask = known[at : at + AT_ONCE]
        told = condition.repeat(len(mask))
        part = rows.take(slice(at, at + len(mask)))
        out.append(
            complete(engine, y.expand(len(mask), *y.shape[1:]), mask, told, part, how, resamplings=resamplings).x
        )
    return torch.cat(out)


@torch.no_grad()
def log_p_given(
    engine: Unmasks | Predicts, tokens: Tensor, condition: Condition, target: int, known: Tensor, rows: Rows
) -> Tensor:
    """(M,) float64 log p(symbol `target` of tokens (1, T) | those in known (M, T)), the target itself never told.

    Args:
        rows: D rows, the draws behind each number; all masks share them. Not used by engines that fill gaps.
    """
    if isinstance(engine, Unmasks):
        told = known.clone()
        told[:, target] = False
        found = []
        for at in range(0, len(told), AT_ONCE):
            mask = told[at : at + AT_ONCE]
            logits = engine.fill_logits(tokens.expand(len(mask), -1), mask, condition.repeat(len(mask)), target)
            found.append(logits.double().log_softmax(-1)[:, int(tokens[0, target])])
        return torch.cat(found).cpu()
    draws = len(rows)
    step = max(1, AT_ONCE // draws)
    parts = [_weighted(engine, tokens, condition, target, known[at : at + step], rows)
             for at in range(0, len(known), step)]  # fmt: skip
    return torch.cat(parts).cpu()


def _weighted(engine: Predicts, tokens: Tensor, condition: Condition, target: int, known: Tensor, rows: Rows) -> Tensor:
    """The same by likelihood weighting, for a few masks known (M, T)."""
    m, d = len(known), len(rows)
    shared = Rows(rows.seed, rows.ids.repeat(m), rows.key)  # each mask sees the same chance
    told = known.repeat_interleave(d, 0)
    ends = isinstance(getattr(engine, "space", None), Tokens) and engine.space.ends  # type: ignore[attr-defined]
    weight = torch.zeros(m * d, dtype=torch.float64, device=tokens.device)
    free_from = [int((~row[:target]).nonzero()[0, 0]) if bool((~row[:target]).any()) else target for row in known]
    first = min(free_from)  # what all masks know before any of them has to draw is read at once, and weighs all alike
    logits, cache = engine.step(engine.begin(condition.repeat(m * d), m * d), tokens[:, :first].expand(m * d, -1))
    for at in range(first, target):
        log_p = logits.double().log_softmax(-1)
        own = tokens[0, at].expand(m * d)
        free = log_p.clone()
        if ends:
            free[:, 0] = -torch.inf  # an end in the middle would take everything behind it away
        symbol = torch.where(told[:, at], own, shared.fork("infill", at).categorical(free))
        weight = weight + torch.where(told[:, at], log_p.gather(1, own[:, None])[:, 0], 0.0)
        logits, cache = engine.step(cache, symbol[:, None])
    last = logits.double().log_softmax(-1)[:, int(tokens[0, target])]
    both, alone = (w.reshape(m, d).logsumexp(1) for w in (weight + last, weight))
    return both - alone
