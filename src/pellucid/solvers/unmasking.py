"""Fills unknown positions step by step: ask for all of them, draw a few, ask again.

Masked diffusion run backwards: all positions start masked, and each is unmasked once, in an order drawn for each row,
from the network's distribution given what is known by then (Sahoo et al. 2024, https://arxiv.org/abs/2406.07524,
eq. 6; Shi et al. 2024, https://arxiv.org/abs/2406.04329, eq. 3). One position a step draws from the
model's own distribution; several in one step are drawn independently of one another, which is faster and wrong where
they depend on each other. Where the papers draw how many are unmasked in a step, here the positions are shared out
evenly, so that as many steps as positions are always one at a time (Zheng et al. 2024,
https://arxiv.org/abs/2409.02908, section 4, on why the time itself can be left out).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Unmasks
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent, Trace

__all__ = ["Order", "draw", "guided_fill", "unmask"]

Order: TypeAlias = Literal["random", "forward"]


@torch.no_grad()
def unmask(
    engine: Unmasks,
    tokens: Tensor,
    known: Tensor,
    condition: Condition,
    rows: Rows,
    *,
    steps: int,
    temperature: float = 1.0,
    guidance: float = 1.0,
    order: Order = "random",
    ends: bool = False,
    trace: Trace | None = None,
) -> Tensor:
    """Draw what is not known.

    Args:
        tokens: (B, T) int64; what stands at unknown positions does not matter. known: (B, T) bool.
        steps: how often to ask; as many as there are unknown positions, or more, is one at a time.
        temperature: 1 is the model itself, below 1 sharper, 0 the likeliest symbol.
        guidance: how far towards the condition; see `guided_fill`.
        order: each row in an order of its own ("random"), or from the first position to the last ("forward").
        ends: symbol 0 ends a sequence; of symbols drawn in one step those behind a 0 become 0.

    Returns: (B, T), with what was known unchanged.
    """
    if steps < 1:
        raise BadInput(f"steps is {steps}", accepted="a whole number of at least 1")
    if order not in ("random", "forward"):
        raise BadInput(f"order is '{order}'", accepted="random, forward")
    trace, rows = trace or Silent(), rows.to(tokens.device)
    tokens, have = torch.where(known, tokens, 0), known.clone()
    length = tokens.shape[1]
    u = rows.fork("symbols").uniform(length, dtype=torch.float64)  # one number behind each position, whenever it comes
    step_of = _steps_of(known, rows, steps, order)
    for step in range(int(step_of.max()) + 1 if step_of.numel() else 0):
        logits = guided_fill(engine, tokens, have, condition, guidance)  # (B, T, V)
        now = step_of == step
        row, at = now.nonzero(as_tuple=True)
        tokens[row, at] = draw(logits[row, at], u[row, at], temperature)
        have = have | now
        if ends:
            before = ((tokens == 0) & have).long().cumsum(1) - ((tokens == 0) & have).long() > 0
            tokens = torch.where(now & before, 0, tokens)
        if trace.wants("logits"):
            trace.keep("logits", step, logits)
        if trace.wants("token"):
            trace.keep("token", step, tokens.clone())
    return tokens


def guided_fill(engine: Unmasks, tokens: Tensor, known: Tensor, condition: Condition, weight: float = 1.0) -> Tensor:
    """Logits (B, T, V) pushed towards the condition.

    log p_w = log p(. | nothing) + w (log p(. | condition) - log p(. | nothing))   Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598, eq. 6, for symbols: 1 is the plain conditional model, 0 the unconditional one.
    """
    if not condition or weight == 1.0:
        return engine.fill_logits(tokens, known, condition)
    both = Condition.cat([condition, condition.nothing()])
    logits = engine.fill_logits(torch.cat((tokens, tokens)), torch.cat((known, known)), both).log_softmax(-1)
    asked, unasked = logits.chunk(2)
    return torch.where(asked.isneginf() | unasked.isneginf(), asked, torch.lerp(unasked, asked, weight))


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """One symbol for each of M places, by inverting the cumulative distribution.

    Args:
        logits: (M, V), -inf where impossible. u: (M,) uniform in (0, 1), float64.

    >>> logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(2, 3)
    >>> draw(logits, torch.tensor([0.2, 0.7], dtype=torch.float64))
    tensor([0, 2])
    """
    if temperature == 0.0:
        return logits.argmax(-1)
    upto = (logits.to(torch.float64) / temperature).softmax(-1).cumsum(-1)
    return (upto <= u[:, None] * upto[:, -1:]).sum(-1)


def _steps_of(known: Tensor, rows: Rows, steps: int, order: Order) -> Tensor:
    """(B, T): the step in which each position is drawn, -1 where it is known."""
    length = known.shape[1]
    if order == "random":
        key = rows.fork("order").uniform(length, dtype=torch.float64)
    else:
        key = torch.arange(length, device=known.device, dtype=torch.float64).expand(known.shape) / length
    place = torch.where(known, 2.0, key).argsort(dim=1, stable=True).argsort(dim=1, stable=True)  # among the unknown
    unknown = (~known).sum(dim=1, keepdim=True)
    return torch.where(known, -1, place * unknown.clamp(max=steps) // unknown.clamp(min=1))
