"""Known mistakes put into an item, to see whether an explanation points at them.

Into a row of a table goes, for one column at a time, a real value that none of the most similar real rows has; into a
picture a patch of another real picture, upside down; into a text another of its symbols. What is wrong is known by
construction, without asking the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pellucid.core.space import Real, Space, Tokens
from pellucid.domains.tables import TableCodec
from pellucid.explain.places import Places, fields_of

if TYPE_CHECKING:
    from pellucid.model import Fitted

__all__ = ["Planted", "plant"]

NEIGHBOURS = 50  # most similar real rows
EACH = 5  # wrong values for each column
USUAL = 200  # real items whose rarity is averaged
PLANTS = 32  # defects in one picture or text
APART = 0.5  # standard deviations that a wrong number is away from all its neighbours'
CHANGED = 0.25  # of the range, from which on a pixel counts as changed


@dataclass(frozen=True, eq=False)
class Planted:
    """M changed copies of one item.

    x: (M, *event) in the codec's space. wrong: (M, P) bool, the parts that were made wrong.
    rarity: (M, P) how much rarer each part's value is by itself than values there are on average, without a model: the
        cheapest rival.
    """

    x: Tensor
    wrong: Tensor
    rarity: Tensor


def plant(model: Fitted, places: Places, x: Tensor, others: Tensor, seed: int) -> Planted | None:
    """Mistakes for the item x (1, *event) made of the real items others (N, *event); None if none can be made."""
    random = np.random.default_rng([seed, 7])
    if isinstance(model.codec, TableCodec):
        return _columns(model.codec, places, x, others, random)
    if places.shape is not None:
        return _patches(places.shape, x, others, random)
    space = model.codec.space
    return _symbols(len(places), x, others, random) if isinstance(space, Tokens) else None


def _columns(
    codec: TableCodec, places: Places, x: Tensor, others: Tensor, random: np.random.Generator
) -> Planted | None:
    spans = {name: fields for name, fields in fields_of(codec).items() if name in places.names}
    real = _real_fields(codec.space)
    spread = torch.where(real, others.std(0).clamp_min(1e-6), torch.ones(()))
    gap = (others - x).abs() / spread
    gap = torch.where(real, gap.clamp(max=3.0).square(), (gap > 0.0).to(gap.dtype))  # (N, D)
    changed, wrong = [], []
    for part, name in enumerate(places.names):
        fields = spans[name]
        near = (gap.sum(1) - gap[:, fields].sum(1)).argsort(stable=True)[:NEIGHBOURS]
        values = others[:, fields]
        numbers = real[fields]
        apart = (values[:, None] - values[near][None]).abs() / spread[fields]  # (N, K, F)
        differs = torch.where(numbers, apart > APART, apart > 0.0).any(-1).all(-1)
        differs &= torch.where(
            numbers, (values - x[:, fields]).abs() / spread[fields] > APART, values != x[:, fields]
        ).any(-1)
        candidates = differs.nonzero()[:, 0].numpy()
        for k in random.permutation(candidates)[:EACH].tolist():
            row = x[0].clone()
            row[fields] = values[k]
            changed.append(row)
            wrong.append(part)
    if not changed:
        return None
    planted = torch.stack(changed)
    rarity = []
    for name in places.names:
        f = spans[name]
        typical = _rare(others[:USUAL, f], others[:, f], real[f]).mean()
        rarity.append(_rare(planted[:, f], others[:, f], real[f]) - typical)
    return Planted(
        planted, torch.nn.functional.one_hot(torch.tensor(wrong), len(places)).bool(), torch.stack(rarity, 1)
    )


def _real_fields(space: Space) -> Tensor:
    """(D,) bool: which numbers of the event are real."""
    out: list[bool] = []
    for field in getattr(space, "fields", ()):
        out += [isinstance(field.space, Real)] * field.space.size
    return torch.tensor(out)


def _rare(values: Tensor, others: Tensor, real: Tensor) -> Tensor:
    """(M,) -log of the share of real items with such a value: (M, F) among (N, F), numbers within half a spread."""
    spread = torch.where(real, others.std(0).clamp_min(1e-6), torch.ones(()))
    gap = (values[:, None] - others[None]).abs() / spread
    same = torch.where(real, gap < APART, gap == 0.0).all(-1).double()  # (M, N)
    return -((same.sum(1) + 0.5) / (len(others) + 1.0)).log()


def _patches(shape: tuple[int, int], x: Tensor, others: Tensor, random: np.random.Generator) -> Planted | None:
    """x (1, C, H, W): a patch of a quarter of each side."""
    height, width = shape
    h, w = max(2, height // 4), max(2, width // 4)
    span = float(others.max() - others.min()) or 1.0
    planted: list[Tensor] = []
    wrong: list[Tensor] = []
    for _ in range(PLANTS * 4):
        top, left = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
        a, b = int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1))
        picture = x[0].clone()
        patch = others[int(random.integers(0, len(others)))][:, a : a + h, b : b + w].flip(1)
        picture[:, top : top + h, left : left + w] = patch
        far = ((picture - x[0]).abs().amax(0) > CHANGED * span).flatten()  # (H W,)
        if int(far.sum()) * 2 >= h * w and len(planted) < PLANTS:
            planted.append(picture)
            wrong.append(far)
    if not planted:
        return None
    found = torch.stack(planted)
    spread = others.std(0) + 0.1 * others.std(0).mean()
    rarity = ((found - others.mean(0)) / spread).square().sum(1).flatten(1)
    return Planted(found, torch.stack(wrong), rarity)


def _symbols(parts: int, x: Tensor, others: Tensor, random: np.random.Generator) -> Planted | None:
    """x (1, T): one symbol of the first `parts` becomes another one that real items have, as often as they do."""
    pool = others.flatten().numpy()
    if others.shape[1] > 0 and bool((others[:, -1] == 0).any()):
        pool = pool[pool != 0]  # where symbol 0 ends and pads
    if len(np.unique(pool)) < 2 or parts < 2:
        return None
    planted, wrong = [], []
    for _ in range(PLANTS):
        at = int(random.integers(0, parts))
        symbol = int(random.choice(pool))
        if symbol != int(x[0, at]) and int(x[0, at]) != 0:
            row = x[0].clone()
            row[at] = symbol
            planted.append(row)
            wrong.append(at)
    if not planted:
        return None
    found = torch.stack(planted)
    counts = torch.bincount(others.flatten(), minlength=int(found.max()) + 1).double()
    rarity = -((counts + 0.5) / counts.sum()).log()[found[:, :parts]]
    return Planted(found, torch.nn.functional.one_hot(torch.tensor(wrong), parts).bool(), rarity)
