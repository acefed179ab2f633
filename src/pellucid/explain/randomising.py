"""A copy of a model that has forgotten what it learned, to see whether an explanation notices.

Every tensor of learned numbers keeps its numbers and loses their order, so that sizes and spreads stay as they were.
An explanation that says the same of such a copy does not speak of the model (Adebayo et al. 2018, arXiv:1810.03292;
for the limits of the test see Binder et al. 2022, arXiv:2211.12486, for which reason it is never the only one). With
`share` below 1 only the last part of the network is shuffled: their cascade from the output down.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from pellucid.core.batch import TensorExamples
from pellucid.core.capabilities import parameters_of
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.explain.datamodel import refit, require_refit
from pellucid.fitting import halves

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["randomised", "relabelled", "shuffled"]


def shuffled(engine: nn.Module, *, seed: int = 0, share: float = 1.0) -> nn.Module:
    """A copy of the engine with the numbers of each learned tensor in random order.

    Args:
        share: of the tensors, counted from the output.

    Raises:
        MissingCapability: an engine without learned numbers. BadInput: a share outside 0 to 1.

    >>> layer = nn.Linear(3, 2)
    >>> other = shuffled(layer)
    >>> torch.equal(layer.weight.flatten().sort().values, other.weight.flatten().sort().values)
    True
    """
    if not 0.0 < share <= 1.0:
        raise BadInput(f"share is {share}", accepted="above 0, at most 1")
    if not parameters_of(engine):
        raise MissingCapability(
            f"{type(engine).__name__} has no weights that could be made random",
            accepted="families that are trained by gradients",
            why="It was fitted by counting.",
        )
    twin = copy.deepcopy(engine)
    learned = [p for p in twin.parameters() if p.requires_grad]
    rows = Rows(seed, torch.arange(1)).fork("forget")
    with torch.no_grad():
        for k, p in enumerate(learned[len(learned) - max(1, round(share * len(learned))) :]):
            order = torch.argsort(rows.fork("order", k).uniform(p.numel())[0]).to(p.device)
            p.copy_(p.flatten()[order].reshape(p.shape))
    return twin.eval()


def randomised(model: Fitted, *, seed: int = 0, share: float = 1.0) -> Fitted:
    """The model with a shuffled engine; codec, bridge and data stay."""
    return replace(model, engine=shuffled(model.engine, seed=seed, share=share))


def relabelled(model: Fitted, data: Data, *, seed: int = 0, run: Run | None = None) -> Fitted:
    """The model trained again, by its own recipe, on items whose conditions were dealt out anew at random.

    Args:
        data: the items it was fitted on.

    Raises:
        MissingCapability: the model was told nothing. BadInput: one that cannot be trained again.
    """
    if not model.codec.conditions:
        raise MissingCapability(f"'{model.name}' was told nothing that could be dealt out anew")
    require_refit(model)
    kept, _ = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
    items = data.take(kept)
    order = torch.argsort(Rows(seed, torch.arange(1)).fork("relabel").uniform(len(items))[0])
    examples = TensorExamples(model.codec.encode(items), model.codec.known(items).take(order))
    return replace(model, engine=refit(model, examples, seed=int(model.recipe["seed"]), run=run or Run()))
