"""The likeliest continuations of a text, by beam search: the best few beginnings are kept at every length.

Lowerre 1976, "The HARPY speech recognition system". With as many beams as there are beginnings nothing is lost, and the
result is the likeliest text of all; with fewer it is a guess at it. Probabilities are not divided by lengths, so short
texts have an advantage where texts end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Predicts
from pellucid.core.errors import BadInput
from pellucid.core.language import State
from pellucid.drawing.sampler import device_of
from pellucid.drawing.within import Symbols
from pellucid.model import Fitted
from pellucid.tasks.continuation import after_prompt, given_by, piece_of

__all__ = ["MOST_BEAMS", "Beam", "likeliest"]

MOST_BEAMS = 1000


@dataclass(frozen=True)
class Beam:
    """A continuation, and the logarithm of its probability after the prompt, in nats; its end is counted in."""

    text: str
    nats: float


@dataclass(frozen=True)
class _Path:
    symbols: tuple[int, ...]
    nats: float
    state: State = None


@torch.no_grad()
def likeliest(
    model: Fitted, prompt: str, *, beams: int = 5, length: int = 300, within: Symbols | None = None
) -> list[Beam]:
    """Up to `beams` continuations, the likeliest first.

    Args:
        length: pieces, at most; a list's item may end before, a running text has as many.
        within: what prompt and continuation satisfy together; probabilities are then those of the locally renormalised
            distribution, see drawing/within.py.

    Raises:
        MissingCapability: no model of text that predicts its next symbol.
        BadInput: beams or length out of range, or a constraint that nothing satisfies after this prompt.
    """
    if not 1 <= beams <= MOST_BEAMS:
        raise BadInput(f"beams is {beams}", accepted=f"1 to {MOST_BEAMS:,}")
    codec, given = given_by(model, prompt, length, ())
    engine, space, device = model.need(Predicts, "go on with a text"), codec.space, device_of(model.engine)
    model.engine.eval()
    most = min(length, space.length - given.shape[1]) if space.ends else length
    first = None if within is None else after_prompt(within, codec, given, length)
    alive, over = [_Path((), 0.0, first)], list[_Path]()
    before = tuple(given[0].tolist())
    for k in range(most):
        tokens = torch.tensor([(*before, *path.symbols) for path in alive], dtype=torch.int64, device=device)
        tokens = tokens.reshape(len(alive), -1)
        if not space.ends and tokens.shape[1] >= space.length:  # as `written` slides
            step = space.length - space.length // 2
            tokens = tokens[:, (tokens.shape[1] - space.length) // step * step + step :]
        logits = engine.next_logits(tokens, Condition(), at=tokens.shape[1]).double().cpu()
        if codec.unknown is not None:
            logits[:, codec.unknown] = -math.inf
        if within is not None:
            allowed = within.costs([path.state for path in alive]) < most - k
            whole = np.array([within.complete(path.state) for path in alive])
            if space.ends:
                allowed[:, 0] = whole
            stuck = whole & ~allowed.any(axis=1)
            over += [path for path, ends in zip(alive, stuck, strict=True) if ends]
            logits = logits.masked_fill(~torch.from_numpy(allowed), -math.inf)
        nats = torch.tensor([path.nats for path in alive])[:, None] + logits.log_softmax(-1)
        best = torch.where(nats.isnan(), -math.inf, nats).flatten().sort(descending=True, stable=True)
        parents, alive = alive, []
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if value == -math.inf or len(alive) == beams:
                break
            parent, symbol = parents[place // logits.shape[1]], place % logits.shape[1]
            if space.ends and symbol == 0:
                over.append(_Path(parent.symbols, value))
            else:
                state = None if within is None else within.after(parent.state, symbol)
                alive.append(_Path((*parent.symbols, symbol), value, state))
        over = sorted(over, key=lambda path: -path.nats)[:beams]
        if not alive or (len(over) == beams and over[-1].nats >= alive[0].nats):
            alive = []  # what is still open can only become less likely
            break
    found = sorted([*over, *alive], key=lambda path: -path.nats)[:beams]
    return [Beam("".join(piece_of(codec, symbol) for symbol in path.symbols), path.nats) for path in found]
