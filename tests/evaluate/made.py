"""Pictures, tables and models made by hand, of which the right answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, LogProb, Samples, Scores
from pellucid.core.rows import Rows
from pellucid.core.trace import Trace
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures
from pellucid.model import Fitted, adopt

LEVELS = 17


def bars(n: int, seed: int, classes: Sequence[int] = (0, 1, 2, 3)) -> Pictures:
    """8 x 8 pictures with one bright row; which of every second row is the class."""
    generator = np.random.default_rng(seed)
    label = generator.choice(np.array(classes), n)
    pixels = generator.integers(0, 5, (n, 8, 8, 1))
    pixels[np.arange(n), 2 * label] += generator.integers(6, 12, (n, 8, 1))
    return Pictures(pixels=pixels.astype(np.uint8), labels=tuple(map(str, label)), levels=LEVELS)


def people(n: int, seed: int, *, shift: float = 0.0, gaps: float = 0.1) -> TableData:
    """Rows in which `ill` follows from age and group, `age` and `weight` go together, and some cells are missing."""
    generator = np.random.default_rng(seed)
    age = generator.normal(50, 12, n)
    weight = 40 + 0.6 * age + generator.normal(0, 6, n) + shift
    group = generator.integers(0, 4, n)
    ill = age / 12 + group + generator.normal(0, 0.5, n) > 5.7
    income = generator.lognormal(3, 1, n)
    income[generator.random(n) < gaps] = np.nan
    frame = pd.DataFrame(
        {
            "age": age.round().astype(int),
            "weight": weight.round(3),
            "income": income,
            "group": np.array(["a", "b", "c", "d"])[group],
            "ill": np.where(ill, "yes", "no"),
        }
    )
    return read_table(frame, target="ill")


def shuffled(table: TableData, seed: int) -> TableData:
    """The same columns, each in an order of its own."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {name: table.frame[name].array.take(generator.permutation(len(table))) for name in table.frame}
    )
    return TableData(frame=frame, columns=table.columns, target=table.target)


class Replays(nn.Module, Samples):
    """Draws pictures from a pool, with replacement: a generator whose distribution is the pool's."""

    def __init__(self, pool: Tensor, classes: Tensor | None = None) -> None:
        super().__init__()
        self.pool, self.classes = pool, classes

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        logits = torch.zeros(len(rows), len(self.pool))
        if self.classes is not None:
            wanted = condition.values["class"]
            logits = logits.masked_fill(self.classes[None] != wanted, -torch.inf)
        return self.pool[rows.fork("pick").categorical(logits)]


class Uniform(nn.Module, Samples, Scores):
    """Every level of every pixel alike: log2(levels) bits per dimension, exactly."""

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        return rows.integers(LEVELS, 1, 8, 8) * (2 / (LEVELS - 1)) - 1

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(torch.full((len(batch),), -64 * float(np.log(LEVELS))), "exact")


def replaying(pool: Pictures, name: str, *, labels: bool = False) -> Fitted:
    """A model that draws from this pool, of the class asked for when `labels` are used."""
    codec = Images(labels=labels).learn(pool)
    classes = codec.known(pool).values["class"][:, 0] if labels else None
    return adopt(Replays(codec.encode(pool), classes), codec, name=name)


def uniform(train: Pictures) -> Fitted:
    """The model that knows nothing."""
    return adopt(Uniform(), Images(labels=False).learn(train), name="uniform")
