"""Explanations of which the truth is known, and fakes of them: what the gate itself is tried on.

Five small worlds in which a model is a formula, so that what matters for each item is known and not estimated:

    symbols   one symbol is the sum of two others, which ones is another matter for each item
    columns   a score is linear in jointly normal columns; what each column adds is its Shapley value by enumeration
    pixels    three patches in a picture, one of which decides
    items     a density made of training items by a kernel that sees some of their coordinates
    cells     rows of columns that tell a hidden state, one cell of another state; redrawn by our own infill

An oracle says the truth with a little noise. A fake is a random map (of the seed, of nothing, or of the model), a
detector that asks nothing of the model, the truth with its sign flipped, or the truth about another item.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Unmasks
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.explain.gate import Attribution, Badge, judge
from pellucid.explain.infill import redrawn_around
from pellucid.explain.shapley import gains_of, shapley

__all__ = ["FAKES", "WORLDS", "World", "fake_of", "judged", "oracle_of"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Fake = Literal["random map", "cheap detector", "flipped sign", "another item"]
FAKES: tuple[Fake, ...] = ("random map", "cheap detector", "flipped sign", "another item")

ITEMS = 12
NOISE = 0.02  # of the truth's spread, in an oracle's answer
DRAWS = 4  # of the infill
MODELS = 4  # the one that is explained, and three that forgot


@dataclass(frozen=True, eq=False)
class World:
    """N items of which is known what matters.

    truth: number of a model (0 is the one that is explained, others forgot) to (N, P).
    value, judged, rival, rival_name, shape, keeping: as in `Attribution`. cheap: (N, P) other detectors that ask
    nothing of the model.
    """

    what: str
    judged: str
    truth: Callable[[int], Floats]
    value: Callable[[int, Flags], Floats]
    rival: Floats
    rival_name: str
    cheap: tuple[Floats, ...]
    shape: tuple[int, int] | None = None
    keeping: bool = True


def oracle_of(world: World, seed: int) -> Attribution:
    """The truth, with a little noise of its own chance."""
    truth = {k: world.truth(k) for k in range(MODELS)}
    spread = float(truth[0].std())

    def said(model: int, chance: int) -> Floats:
        noise = np.random.default_rng([seed, model, chance]).normal(size=truth[0].shape)
        return truth[model] + NOISE * spread * noise

    return _handed(world, said)


def fake_of(world: World, fake: Fake, seed: int) -> Attribution:
    """One of the fakes; `seed` also chooses between the forms that a fake has."""
    random = np.random.default_rng([seed, 17])
    if fake == "random map":
        form = ("of the seed", "of nothing", "of the model")[seed % 3]

        def said(model: int, chance: int) -> Floats:
            key = {"of the seed": (chance,), "of nothing": (), "of the model": (model,)}[form]
            return np.random.default_rng([seed, 5, *key]).normal(size=world.rival.shape)

        return _handed(world, said)
    if fake == "cheap detector":
        detector = (world.rival, *world.cheap)[seed % (1 + len(world.cheap))]
        return _handed(world, lambda model, chance: detector)
    if fake == "flipped sign":
        return _handed(world, lambda model, chance: -world.truth(model))
    if fake == "another item":
        shift = 1 + int(random.integers(0, len(world.rival) - 1))
        return _handed(world, lambda model, chance: np.roll(world.truth(model), shift, axis=0))
    raise BadInput(f"fake is '{fake}'", accepted=", ".join(FAKES))


def judged(world: World, name: str, seed: int) -> Badge:
    """The badge of the oracle (name "oracle") or of a fake in this world."""
    of = oracle_of(world, seed) if name == "oracle" else fake_of(world, name, seed)  # type: ignore[arg-type]
    return judge(of, seed=seed)


def _handed(world: World, said: Callable[[int, int], Floats]) -> Attribution:
    return Attribution(
        what=world.what,
        scores=said(0, 0),
        judged=world.judged,
        value=world.value,
        rival=world.rival,
        rival_name=world.rival_name,
        again=lambda chance: said(0, chance),
        forgot=lambda copy: said(copy + 1, 0),
        shape=world.shape,
        keeping=world.keeping,
    )


# -------------------------------------------------------------------------------------------------------------- worlds


def symbols(seed: int) -> World:
    """y = x_a + x_b modulo 6 in 19 of 20 cases, any symbol else; a and b are each item's own."""
    places, alphabet, sure = 20, 6, 0.95
    random = np.random.default_rng([seed, 1])
    causes = [[random.permutation(places)[:2] for _ in range(ITEMS)] for _ in range(MODELS)]
    near = np.tile(np.arange(places, dtype=np.float64), (ITEMS, 1))
    rare = random.dirichlet(np.full(alphabet, 2.0))
    x = random.choice(alphabet, (ITEMS, places), p=rare)

    def truth(model: int) -> Floats:
        out = np.zeros((ITEMS, places))
        for i, pair in enumerate(causes[model]):
            out[i, pair] = 1.0
        return out

    def value(item: int, known: Flags) -> Floats:
        both = known[:, causes[0][item]].all(axis=1)
        told, guessed = np.log(sure + (1 - sure) / alphabet), np.log(1 / alphabet)
        return np.asarray(np.where(both, told, guessed), dtype=np.float64)

    return World("symbols", "log-probability of the symbol", truth, value, near, "the nearest symbols",
                 (-near, -np.log(rare)[x]))  # fmt: skip


def columns(seed: int) -> World:
    """w x over 8 jointly normal columns, where those that are not known count by their mean given the others."""
    d = 8
    random = np.random.default_rng([seed, 2])
    mix = random.normal(size=(d, d)) * 0.35 + np.eye(d)
    covariance = mix @ mix.T
    x = random.normal(size=(ITEMS, d)) @ mix.T
    weights = random.normal(size=(MODELS, d))

    subsets = (np.arange(2**d)[:, None] >> np.arange(d)) % 2 == 1
    gain = np.zeros((2**d, d, d))  # of each subset: what stands in a row to its mean given those
    for m, k in enumerate(subsets):
        gain[m, k, k] = 1.0
        if k.any() and not k.all():
            gain[m][np.ix_(~k, k)] = covariance[np.ix_(~k, k)] @ np.linalg.inv(covariance[np.ix_(k, k)])

    def expected(row: Floats, known: Flags, w: Floats) -> Floats:
        return np.asarray((gain @ row @ w)[known @ (2 ** np.arange(d))], dtype=np.float64)

    def shares(row: Floats, w: Floats) -> Floats:
        def worth(s: Tensor) -> Tensor:
            return torch.from_numpy(expected(row, s.numpy(), w))

        return np.asarray(shapley(gains_of(worth), d).phi.numpy(), dtype=np.float64)

    truths: dict[int, Floats] = {}

    def truth(model: int) -> Floats:
        if model not in truths:
            truths[model] = np.stack([shares(row, weights[model]) for row in x])
        return truths[model]

    far = np.abs(x) / np.sqrt(np.diag(covariance))
    return World("columns", "the model's score", truth, lambda i, known: expected(x[i], known, weights[0]), far,
                 "the largest values", (x.copy(), -far))  # fmt: skip


def pixels(seed: int) -> World:
    """Three patches of 3 x 3 pixels in a picture of 14 x 14; the pixels of one of them speak for the class."""
    side, size = 14, 3
    random = np.random.default_rng([seed, 3])
    pictures = 0.1 * random.normal(size=(ITEMS, side, side))
    corners = np.zeros((ITEMS, 3, 2), dtype=np.int64)
    for i in range(ITEMS):
        cells = random.permutation(16)[:3]  # of a grid of 4 x 4, so that no two patches meet
        corners[i] = np.stack((cells // 4, cells % 4), axis=1) * size + random.integers(0, 2)
        for top, left in corners[i]:
            pictures[i, top : top + size, left : left + size] += 1.0 + 0.2 * random.normal(size=(size, size))
    evidence = 0.5 + random.random(size=(MODELS, ITEMS, size, size))
    which = [np.zeros(ITEMS, int), random.integers(1, 3, ITEMS)] + [np.full(ITEMS, -1)] * (MODELS - 2)
    elsewhere = random.integers(0, side - size + 1, (MODELS, ITEMS, 2))

    def truth(model: int) -> Floats:
        out = np.zeros((ITEMS, side, side))
        for i in range(ITEMS):
            top, left = corners[i, which[model][i]] if which[model][i] >= 0 else elsewhere[model, i]
            out[i, top : top + size, left : left + size] = evidence[model, i]
        return out.reshape(ITEMS, -1)

    own = truth(0)

    def value(item: int, known: Flags) -> Floats:
        return np.asarray(-np.log1p(np.exp(-(known @ own[item] - 2.0))), dtype=np.float64)

    down, across = np.gradient(pictures, axis=(1, 2))
    middle = -np.hypot(*(np.indices((side, side)) - (side - 1) / 2)).reshape(1, -1).repeat(ITEMS, 0)
    flat = pictures.reshape(ITEMS, -1)
    return World("pixels", "log-probability of the class", truth, value, np.hypot(down, across).reshape(ITEMS, -1),
                 "an edge detector", (flat, middle), (side, side))  # fmt: skip


def items(seed: int) -> World:
    """Density at a query, a sum over 40 training items of a kernel that sees 3 of 9 coordinates."""
    n, d = 40, 9
    random = np.random.default_rng([seed, 4])
    own_sees = random.permutation(d)[:3]
    others = [random.permutation(np.setdiff1d(np.arange(d), own_sees))[:3] for _ in range(MODELS - 1)]
    order = np.stack([own_sees, *others])  # (models, 3), the coordinates that each sees
    scale = np.where(np.isin(np.arange(d), order[0]), 1.0, 2.0)
    train, asked = (random.normal(size=(m, d)) * scale for m in (n, ITEMS))
    gap = np.square(asked[:, None] - train[None])  # (N, n, d)

    def truth(model: int) -> Floats:
        return np.exp(-gap[:, :, order[model]].sum(-1) / (2.0 * scale[order[model]].max() ** 2))

    own = truth(0)

    def value(item: int, known: Flags) -> Floats:
        return np.log(1e-3 + known @ own[item])

    away = np.sqrt(gap.sum(-1))
    return World("training items", "log-density of the item", truth, value, -away, "the nearest items",
                 (-gap.max(-1), np.tile(-np.linalg.norm(train, axis=1), (ITEMS, 1))))  # fmt: skip


class HiddenState(Unmasks):
    """Columns of symbols that are independent given a hidden state: everything about them is a sum over states.

    emission: (S, P, V) probabilities.
    """

    def __init__(self, emission: Tensor) -> None:
        self.emission = emission

    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """(B, P, V) of log p(x_i | those in known (B, P)), x_i itself left out."""
        seen = self.emission.log()[:, torch.arange(tokens.shape[1]), tokens]  # (S, B, P)
        each = torch.where(known, seen, 0.0)
        state = each.sum(-1, keepdim=True) - each  # (S, B, P), without the place itself
        state = state.log_softmax(0)
        out: Tensor = (state[..., None] + self.emission.log()[:, None]).logsumexp(0)
        return out if at is None else out[:, at]

    def surprise(self, tokens: Tensor) -> Tensor:
        """(B, P) of -log p(x_i | all others)."""
        known = torch.ones_like(tokens, dtype=torch.bool)
        return -self.fill_logits(tokens, known, Condition()).gather(-1, tokens[..., None]).squeeze(-1)


def cells(seed: int) -> World:
    """Rows of 8 columns of one of 4 hidden states, with one cell of another state."""
    states, places, alphabet = 4, 8, 5
    random = np.random.default_rng([seed, 6])

    def engine() -> HiddenState:
        return HiddenState(torch.from_numpy(random.dirichlet(np.full(alphabet, 0.25), (states, places)) * 0.96 + 0.008))

    models = [engine() for _ in range(MODELS)]
    emission = models[0].emission.numpy()
    x = np.zeros((ITEMS, places), dtype=np.int64)
    for i in range(ITEMS):
        own = int(random.integers(0, states))
        x[i] = [random.choice(alphabet, p=emission[own, k]) for k in range(places)]
        at, unlike = int(random.integers(0, places)), 1.0 / emission[own].clip(1e-3)
        x[i, at] = random.choice(alphabet, p=unlike[at] / unlike[at].sum())
    tokens = torch.from_numpy(x)

    def truth(model: int) -> Floats:
        return models[model].surprise(tokens).numpy()

    def value(item: int, known: Flags) -> Floats:
        mask = torch.from_numpy(known.repeat(DRAWS, axis=0))
        rows = Rows(seed, torch.arange(DRAWS).repeat(len(known))).fork("cells", item)
        drawn = redrawn_around(models[0], tokens[item : item + 1], mask, Condition(), How(), rows)
        return models[0].surprise(drawn).sum(1).reshape(len(known), DRAWS).mean(1).numpy()

    common = emission.mean(axis=0)  # (P, V), what stands where, without a model of what goes together
    rare = -np.log(common)[np.arange(places), x]
    return World("columns", "the row's surprise", truth, value, rare, "the rarest values", (-rare, x.astype(float)),
                 keeping=False)  # fmt: skip


WORLDS: dict[str, Callable[[int], World]] = {
    "symbols": symbols,
    "columns": columns,
    "pixels": pixels,
    "items": items,
    "cells": cells,
}


def seed_of(world: str, name: str, trial: int) -> int:
    """A seed for each trial, the same on every machine."""
    return zlib.crc32(f"{world} {name} {trial}".encode()) % 2**31
