"""What really happens to a sample when training items are left out: train again, draw from the same noise, look.

What is left out keeps its place in the order of training with weight 0, so that everything else, the noise and the
company of each other item, stays as it was. How far the sample moves without as many items taken at random is the
movement that any training anew brings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition, TensorExamples
from pellucid.core.capabilities import Samples
from pellucid.core.errors import MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.trace import Silent
from pellucid.explain.datamodel import refit
from pellucid.explain.similarity import vectors

if TYPE_CHECKING:
    from pellucid.model import Draw, Fitted

__all__ = ["Verified", "drawn_again", "left_out_again", "trained_without"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEFT_OUT = 0.1  # share of the training items
RANDOM = 3  # sets at random


@dataclass(frozen=True)
class Verified:
    """How far the sample moved when items were really left out, the model trained again and the noise kept.

    Each a root mean squared difference from the sample of the same training with all items.
    share: of the training items that was left out. named, nearest: ours, and the nearest by plain distance.
    random: as many at random, one number a set.
    """

    share: float
    named: float
    nearest: float
    random: tuple[float, ...]


def left_out_again(
    model: Fitted, x: Tensor, known: Condition, draw: Draw, worth: Floats, near: Integers, run: Run
) -> Verified:
    """Leave out the items worth most, the nearest, and some at random; draw the sample again each time.

    Args:
        x: (n, *event) training rows in the codec's space; known: their conditions. draw: the sample, one row.
        worth: (n,) what each is said to be worth. near: (n,) rows, the nearest first.
    """
    n, k = len(x), max(1, round(LEFT_OUT * len(x)))
    generator = np.random.default_rng([abs(draw.seed), n, 3])
    sets = {"all": np.zeros(0, dtype=np.int64), "named": np.argsort(-worth)[:k], "nearest": near[:k]}
    sets |= {f"random {i}": generator.permutation(n)[:k] for i in range(RANDOM)}
    found: dict[str, Floats] = {}
    for done, (name, gone) in enumerate(sets.items()):
        run.step("train without them", done, len(sets), came="the explanation was stopped")
        engine = trained_without(model, x, known, gone, run)
        found[name] = vectors(model.codec.space, drawn_again(model, engine, draw))
    moved = {name: float(np.sqrt(np.square(v - found["all"]).mean())) for name, v in found.items()}
    at_random = tuple(v for name, v in moved.items() if name.startswith("random"))
    return Verified(k / n, moved["named"], moved["nearest"], at_random)


def trained_without(model: Fitted, x: Tensor, known: Condition, gone: Integers, run: Run) -> nn.Module:
    """The model trained again by its own recipe and seed, some rows with weight 0."""
    weight = torch.ones(len(x))
    weight[torch.from_numpy(np.ascontiguousarray(gone))] = 0.0
    return refit(model, TensorExamples(x, known, weight=weight), seed=model.recipe["seed"], run=run)


def drawn_again(model: Fitted, engine: nn.Module, draw: Draw) -> Tensor:
    """(B, *event) the same samples of another engine, in the codec's space: seed, ids, condition and way stay."""
    if not isinstance(engine, Samples):
        raise MissingCapability(f"'{model.name}' cannot draw samples")
    twin, rows = replace(model, engine=engine), Rows(draw.seed, draw.ids)
    engine.eval()
    with torch.no_grad():
        y = engine.sample(rows.fork("sample"), draw.condition, draw.how, Silent())
        return twin.bridge.back(y.cpu(), rows.fork("bridge"))
