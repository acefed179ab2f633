"""How the next symbol is drawn once its probabilities are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.capabilities import How
from pellucid.core.errors import BadInput

__all__ = ["SymbolHow", "draw_symbols"]


@dataclass(frozen=True)
class SymbolHow(How):
    """How to draw each next symbol. What is asked for is applied in this order.

    Args:
        penalty: taken off a symbol's log-probability for each time it stands among the last `span` symbols.
        no_repeat: never write a run of so many symbols that stands among what is seen already.
        temperature: 1 is the model itself; below 1 likelier symbols become likelier still, 0 takes the likeliest.
        top_k: draw among the k likeliest only. top_p: among the fewest that together have this probability (Holtzman
            et al. 2020, https://arxiv.org/abs/1904.09751). min_p: among those that have at least this share of the
            likeliest one's probability (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 0.0
    span: int = 64
    no_repeat: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise BadInput(f"temperature is {self.temperature}", accepted="0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"top_k is {self.top_k}", accepted="1 or more, or None")
        if not 0.0 < self.top_p <= 1.0:
            raise BadInput(f"top_p is {self.top_p}", accepted="above 0, at most 1")
        if not 0.0 <= self.min_p <= 1.0:
            raise BadInput(f"min_p is {self.min_p}", accepted="from 0 to 1")
        if not 0.0 <= self.penalty < math.inf:
            raise BadInput(f"penalty is {self.penalty}", accepted="0 or more")
        if self.span < 1:
            raise BadInput(f"span is {self.span}", accepted="1 or more")
        if self.no_repeat is not None and self.no_repeat < 1:
            raise BadInput(f"no_repeat is {self.no_repeat}", accepted="1 or more, or None")


def draw_symbols(logits: Tensor, u: Tensor, how: SymbolHow, before: Tensor | None = None) -> Tensor:
    """One symbol a row, by inverting the cumulative distribution.

    Args:
        logits: (B, V), -inf where impossible. u: (B,) uniform in (0, 1), float64.
        before: (B, t) symbols so far, which `penalty` and `no_repeat` look at.

    >>> logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(2, 3)
    >>> draw_symbols(logits, torch.tensor([0.2, 0.7], dtype=torch.float64), SymbolHow())
    tensor([0, 2])
    """
    if before is not None and before.shape[1] and (how.penalty or how.no_repeat):
        logits = _held_back(logits, before, how)
    if how.temperature == 0.0:
        return logits.argmax(-1)
    logits = logits.to(torch.float64)
    if how.temperature != 1.0:
        logits = logits / how.temperature
    if how.top_k is not None and how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if how.top_p < 1.0:
        mass, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        enough = (mass.cumsum(-1) - mass) >= how.top_p  # those before already suffice
        logits = logits.masked_fill(torch.zeros_like(enough).scatter(-1, order, enough), -math.inf)
    if how.min_p > 0.0:
        least = logits.amax(-1, keepdim=True) + math.log(how.min_p)
        logits = logits.masked_fill(logits < least, -math.inf)
    upto = logits.softmax(-1).cumsum(-1)
    return (upto <= u[:, None] * upto[:, -1:]).sum(-1)


def _held_back(logits: Tensor, before: Tensor, how: SymbolHow) -> Tensor:
    """logits (B, V) less what has come too often; a row that would have nothing left stays as it was."""
    if how.penalty:
        recent = before[:, -how.span :]
        times = torch.zeros_like(logits).scatter_add(1, recent, torch.ones_like(recent, dtype=logits.dtype))
        logits = logits - how.penalty * times
    n = how.no_repeat
    if n is None or before.shape[1] < n:
        return logits
    runs = before.unfold(1, n, 1)  # (B, t - n + 1, n)
    met = (runs[..., :-1] == before[:, None, before.shape[1] - n + 1 :]).all(-1)  # what stood before stands here again
    again = torch.zeros_like(logits).scatter_add(1, runs[..., -1], met.to(logits.dtype)) > 0
    left = logits.masked_fill(again, -math.inf)
    return torch.where(left.isneginf().all(-1, keepdim=True), logits, left)
