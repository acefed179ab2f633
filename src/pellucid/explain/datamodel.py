"""What would the loss have been on other halves of the data? Retrain, and see who foresaw it.

A datamodel foresees the loss of an item from the set of training items that were kept (Ilyas et al. 2022,
arXiv:2202.00622). Its score is the rank correlation, over random halves S of the data, between what it foresaw and
what training on S really gave, averaged over items (the linear datamodeling score of Park et al. 2023,
arXiv:2303.14186, eq. 4). Training the same half twice from other seeds does not give the same losses: that agreement
bounds what anybody could foresee, and no score means anything without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition, Examples, TensorExamples
from pellucid.core.capabilities import Counts, Learns, Scores, Training
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.interval import Interval
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.model import Fitted, build
from pellucid.training.allocator import keep_freed_memory
from pellucid.training.loop import count, train
from pellucid.training.threads import threads

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Retrained",
    "item_losses",
    "ranked",
    "refit",
    "require_losses",
    "require_refit",
    "retrain",
    "score",
    "seed_agreement",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DRAWS = 64  # noises that an item's loss is averaged over
AT_ONCE = 50_000  # numbers of items that go through the network together; more are slower, for they leave the caches
RESAMPLES = 300


@dataclass(frozen=True, eq=False)
class Retrained:
    """Losses of Q items under models trained on halves of n items.

    kept: (M, n) which items each half holds. losses: (M, R, Q), each half trained from R seeds.
    """

    kept: Flags
    losses: Floats

    def mean(self) -> Floats:
        """(M, Q) over the seeds."""
        return np.asarray(self.losses.mean(axis=1))

    def of(self, queries: NDArray[np.int64]) -> Retrained:
        """The same models, some of the items."""
        return Retrained(self.kept, self.losses[:, :, queries])


def require_losses(model: Fitted) -> None:
    """Refuse a model whose losses do not say how well it knows an item."""
    engine = model.engine
    if isinstance(engine, Learns) and len(engine.turns()) == 1:
        return
    if isinstance(engine, Scores):
        return
    why = "its players' losses say how they stand against each other, not how well an item is known"
    raise MissingCapability(
        f"'{model.name}' cannot say which training items a sample comes from",
        accepted="families with a loss of their own or a likelihood, as diffusion, vae, flow, autoregressive, ngram",
        why=why,
    )


def item_losses(
    engine: nn.Module, y: Tensor, condition: Condition, *, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """(N,) the engine's own loss on each item, over noises that all items share; -log p where it only counts.

    Args:
        y: (N, *event) in the engine's space. condition: N rows.
    """
    engine.eval()
    device = next((p.device for p in engine.parameters()), torch.device("cpu"))
    draws = draws if isinstance(engine, Learns) else 1
    keep_freed_memory()
    out, step = [np.zeros(0)], max(1, AT_ONCE // (draws * max(1, y[:1].numel())))
    for i in range(0, len(y), step):
        part = y[i : i + step].to(device).repeat_interleave(draws, 0)
        told = condition.take(slice(i, i + step)).repeat(draws).to(device)
        ids = torch.arange(draws, device=device).repeat(len(part) // draws)
        rows = Rows(seed, ids).fork("item losses")
        with torch.no_grad():
            if isinstance(engine, Learns):
                found = engine.turns()[0].losses(Batch(part, ids, told), rows)
            else:
                assert isinstance(engine, Scores)
                found = -engine.log_prob(Batch(part, ids, told), rows).value
        out.append(found.double().reshape(-1, draws).mean(dim=1).cpu().numpy())
    return np.concatenate(out)


def require_refit(model: Fitted) -> None:
    """Refuse a model that cannot be trained again from its recipe alone."""
    recipe = model.recipe
    for name, what in {"base": "went on from another model", "objective": "was trained by another objective"}.items():
        if recipe.get(name) is not None:
            raise BadInput(
                f"the model {what}, so it cannot be trained again on a part of its data",
                next="Ask without training again: no --retrain and no --verify.",
            )
    if model.family is None or "training" not in recipe:
        raise BadInput("an adopted model has no recipe to be trained again by", next="Ask without training again.")


def refit(model: Fitted, examples: Examples, *, seed: int, run: Run) -> nn.Module:
    """The model trained anew by its own recipe on other rows, from another seed; codec and bridge stay.

    Args:
        examples: rows in the codec's space. run: asked whether to stop; hears nothing.
    """
    recipe = model.recipe
    twin = replace(model, recipe={**recipe, "seed": seed}, raw=None, data=None, folder=None)
    engine = build(twin, None)
    quiet = Run(device=run.device, precision=recipe.get("precision", "float32"))
    with threads(recipe.get("threads", torch.get_num_threads())):
        if isinstance(engine, Counts):
            count(engine, examples, shards=1, run=quiet, seed=seed, bridge=model.bridge)
        else:
            settings = from_plain(Training, recipe["training"])
            steps = recipe.get("steps_done") or recipe["steps"]
            train(engine, examples, settings=settings, steps=steps, seed=seed, run=quiet, bridge=model.bridge)
    return engine.eval()


def retrain(
    model: Fitted,
    x: Tensor,
    known: Condition,
    queries: Sequence[tuple[Tensor, Condition]],
    *,
    halves: int,
    seeds: int = 2,
    seed: int = 0,
    run: Run,
    done: Mapping[str, Any] | None = None,
    keep: Callable[[int, Flags, Floats], None] = lambda half, kept, losses: None,
) -> list[Retrained]:
    """Train on random halves of the rows and ask each model about the queries.

    Args:
        x: (n, *event) training rows in the codec's space. known: their conditions.
        queries: groups of (y (Q, *event) in the engine's space, condition).
        halves: M. seeds: R. keep: called after each half, for those who want to resume.
        done: half (as text) -> losses of earlier calls with the same arguments, as `keep` was given them.
    """
    if halves < 4 or seeds < 2:
        raise BadInput(f"{halves} halves trained from {seeds} seeds", accepted="4 halves and 2 seeds, or more")
    require_losses(model)
    require_refit(model)
    n, kept, losses = len(x), [], []
    if n < 8:
        raise BadInput(f"there are {n} training items", accepted="8 or more, to train on halves of them")
    for half in range(halves):
        order = np.random.default_rng([seed, half, n]).permutation(n)
        flags = np.zeros(n, dtype=np.bool_)
        flags[order[: n // 2]] = True
        if done is not None and str(half) in done:
            found = np.asarray(done[str(half)], dtype=np.float64)
        else:
            found = _half(model, x, known, queries, flags, (half, halves, seeds, seed), run)
            keep(half, flags, found)
        kept.append(flags)
        losses.append(found)
    every, at = np.stack(losses), np.cumsum([0, *(len(y) for y, _ in queries)])
    return [Retrained(np.stack(kept), every[:, :, a:b]) for a, b in itertools.pairwise(at)]


def _half(
    model: Fitted,
    x: Tensor,
    known: Condition,
    queries: Sequence[tuple[Tensor, Condition]],
    flags: Flags,
    place: tuple[int, int, int, int],
    run: Run,
) -> Floats:
    """(R, Q) losses of all queries after training on one half from each seed."""
    half, halves, seeds, seed = place
    index = torch.from_numpy(np.flatnonzero(flags))
    examples = TensorExamples(x[index], known.take(index))
    found = []
    for r in range(seeds):
        came = f"stopped after {half} of {halves} halves"
        run.step("retrain on halves", half * seeds + r, halves * seeds, came=came)
        engine = refit(model, examples, seed=seed + 1 + half + halves * r, run=run)
        found.append(np.concatenate([item_losses(engine, y, c, seed=seed) for y, c in queries]))
    return np.stack(found)


# ------------------------------------------------------------------------------------------------------ who foresaw it


def ranked(a: Floats, b: Floats) -> Floats:
    """(Q,) Spearman's rank correlation down the columns of two (M, Q); 0 where a column is flat.

    >>> ranked(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [9.0]]))
    array([1.])
    """
    a, b = (rankdata(part, axis=0) for part in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return np.asarray(np.where(size > 0, (a * b).sum(axis=0) / np.maximum(size, 1e-12), 0.0))


def seed_agreement(found: Retrained) -> tuple[float, float]:
    """How far training anew agrees with itself: between single seeds, and the ceiling of any forecast of their mean.

    The first is the mean rank correlation r between the losses of two seeds. The mean of R seeds then has reliability
    R r / (1 + (R - 1) r) (Spearman and Brown 1910), and the best forecast correlates with it by the square root.
    """
    R = found.losses.shape[1]
    pairs = [ranked(found.losses[:, i], found.losses[:, j]).mean() for i in range(R) for j in range(i)]
    r = max(0.0, float(np.mean(pairs)))
    return r, math.sqrt(R * r / (1 + (R - 1) * r))


def score(foreseen: Floats, found: Retrained, *, less: Floats | None = None, seed: int = 0) -> Interval:
    """Mean rank correlation between foreseen (M, Q) and found losses, with its interval over halves and items.

    Args:
        less: of another forecaster; the score is then the difference, on the same resamples.
    """
    real = found.mean()
    M, Q = real.shape
    generator = np.random.default_rng(seed)

    def value(halves: NDArray[np.int64], items: NDArray[np.int64]) -> float:
        some = real[halves][:, items]
        own = ranked(foreseen[halves][:, items], some).mean()
        return float(own if less is None else own - ranked(less[halves][:, items], some).mean())

    halves, items = generator.integers(0, M, size=(RESAMPLES, M)), generator.integers(0, Q, size=(RESAMPLES, Q))
    draws = [value(halves[i], items[i]) for i in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value(np.arange(M), np.arange(Q)), float(low), float(high), Q)
