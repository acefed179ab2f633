"""Engines small enough to check by hand, and data for them. No two axes have the same size."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.capabilities import Counts, How, Learns, Prepares, Samples, Training, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.trace import Trace

__all__ = ["SETTINGS", "Dropping", "Heart", "Mean", "Tally", "rows_of_numbers"]

SETTINGS = Training(batch=8, rate=0.05, ema=0.9, ema_ramp=5.0, weight_decay=0.1)


def rows_of_numbers(n: int = 37, size: int = 5, seed: int = 0) -> TensorExamples:
    """n rows of `size` numbers around 1, 2, ... with a class each and weights."""
    rows = Rows(seed, torch.arange(n))
    condition = Condition({"class": rows.integers(3, 1)}, {"class": torch.ones(n, dtype=torch.bool)})
    x = rows.normal(size) + torch.arange(1.0, size + 1)
    return TensorExamples(x, condition, weight=rows.fork("weight").uniform(1)[:, 0] + 0.5)


class Mean(nn.Module, Learns):
    """Learns the mean of the rows: loss_i = |x_i - m|^2 / 2, so each gradient is m - x_i."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(size))

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("mean", [self.m], self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        return (batch.x - self.m).square().sum(-1) / 2


class Dropping(nn.Module, Learns, Prepares):
    """Everything that a resumed run could get wrong: two players, dropout, noise, a buffer that moves, preparation.

    Args:
        ballast: numbers in a buffer, so that a checkpoint takes a while to write. pause: seconds a step sleeps.
        drop: share of activations dropped.
    """

    def __init__(self, size: int = 5, ballast: int = 0, pause: float = 0.0, drop: float = 0.3) -> None:
        super().__init__()
        self.size, self.pause = size, pause
        self.body = nn.Sequential(nn.Linear(size, 7), nn.Dropout(drop), nn.SiLU(), nn.Linear(7, size))
        self.judge = nn.Linear(size, 1)
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ballast", torch.zeros(ballast))
        self.scale: Tensor
        self.seen: Tensor
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(Rows(i, torch.arange(p.shape[0])).normal(*p.shape[1:]) * 0.3)

    def prepare(self, batch: Batch) -> None:
        # drawn from torch's own generator, as initialisers do
        self.scale.copy_(batch.x.std(0) * (1.0 + 0.01 * torch.rand(self.size)))

    def turns(self) -> tuple[Turn, ...]:
        return (
            Turn("body", list(self.body.parameters()), self._body, penalty=self._penalty),
            Turn("judge", list(self.judge.parameters()), self._judge, every=3, rate=0.5, betas=(0.5, 0.9)),
        )

    def _drawn(self, batch: Batch, rows: Rows) -> Tensor:
        return self.body(batch.x / self.scale + rows.fork("noise").normal(self.size))

    def _body(self, batch: Batch, rows: Rows) -> Tensor:
        time.sleep(self.pause)
        if self.training:
            self.seen += len(batch)
        drawn = self._drawn(batch, rows)
        return (drawn - batch.x).square().sum(-1) - 0.1 * self.judge(drawn)[:, 0]

    def _penalty(self, batch: Batch, rows: Rows) -> Tensor:
        return 0.01 * sum((p.square().sum() for p in self.body.parameters()), start=torch.zeros(()))

    def _judge(self, batch: Batch, rows: Rows) -> Tensor:
        drawn = self._drawn(batch, rows).detach()
        return nn.functional.softplus(self.judge(drawn) - self.judge(batch.x))[:, 0]


class Heart(nn.Module, Samples):
    """Draws rows of a pool it knows by heart, with a little noise; or, without a pool, new rows."""

    def __init__(self, pool: Tensor | None, size: int = 5) -> None:
        super().__init__()
        self.pool, self.size = pool, size

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        noise = rows.fork("noise").normal(self.size)
        if self.pool is None:
            return noise + torch.arange(1.0, self.size + 1)
        return self.pool[rows.fork("pick").integers(len(self.pool))] + 0.1 * noise


class Tally(nn.Module, Counts):
    """Counts whole numbers below `size`; `absorbed` tells a test what it was shown."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("shares", torch.zeros(size))
        self.counts: Tensor
        self.shares: Tensor
        self.absorbed: list[list[int]] = []

    def absorb(self, batch: Batch) -> None:
        self.absorbed.append(batch.ids.tolist())
        self.counts += torch.bincount(batch.x[:, 0], minlength=len(self.counts))

    def settle(self) -> None:
        self.shares = self.counts / self.counts.sum()

    def tables(self) -> dict[str, Tensor]:
        return {"counts": self.counts.clone()}

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        if tables["counts"].shape != self.counts.shape:
            raise BadInput("tables of another alphabet")
        self.counts = tables["counts"].clone()
