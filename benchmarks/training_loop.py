"""What our training loop costs beside a loop written by hand, where the network is so small that little else counts.

    .venv/bin/python benchmarks/training_loop.py

A network 16-64-1 learns 10,000 rows in batches of 32. Blocks of steps alternate in one process of one thread, CPU time
is counted, medians are compared. The hand-written loop indexes tensors and steps torch's fused AdamW.

plain: it does nothing else; ours averages no weights and clips nothing, but still watches every loss and gradient for
    numbers that are not finite, draws batches that a resumed run would draw again, and keeps every loss.
equal: it also lowers its rate by a cosine, keeps every loss, checks that loss and gradient are finite, clips at 1 and
    averages the weights, as ours does by default.
Writes benchmarks/results/training_loop.json; exits with 1 when the plain row misses its bar.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import about_this_machine
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pellucid.core.batch import Batch, TensorExamples
from pellucid.core.capabilities import Learns, Training, Turn
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.loop import train

ROWS, INPUTS, HIDDEN, BATCH, RATE = 10_000, 16, 64, 32, 1e-3
BAR = 1.05  # times the CPU time of the hand-written loop
SETTINGS = {
    "plain": Training(batch=BATCH, rate=RATE, clip=None, ema=None),
    "equal": Training(batch=BATCH, rate=RATE),
}


class Regression(nn.Module, Learns):
    """Guesses the last number of a row from the others: the smallest engine under our contracts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("guess", tuple(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) squared mistakes."""
        return (self.body(batch.x[:, :INPUTS])[:, 0] - batch.x[:, INPUTS]).square()


def network() -> nn.Sequential:
    """16-64-1."""
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def data() -> Tensor:
    """(N, 17): the last column is a function of the others."""
    x = Rows(0, torch.arange(ROWS)).normal(INPUTS)
    return torch.cat((x, (x[:, :1] * x[:, 1:2]).sin()), dim=1)


def ours(x: Tensor, steps: int, row: str) -> None:
    """Our loop, from a new engine to its last step."""
    engine = Regression()
    train(engine, TensorExamples(x), settings=SETTINGS[row], steps=steps, seed=0, run=Run())


def by_hand(x: Tensor, steps: int, row: str) -> None:
    """The same steps written out."""
    net, settings = network(), SETTINGS[row]
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=settings.betas, weight_decay=0.0, fused=True)
    averages = [p.detach().clone() for p in parameters]
    losses: list[float] = []
    order = torch.randperm(len(x))
    at = 0
    for k in range(steps):
        if at + BATCH > len(x):
            order, at = torch.randperm(len(x)), 0
        batch = x[order[at : at + BATCH]]
        at += BATCH
        loss = (net(batch[:, :INPUTS])[:, 0] - batch[:, INPUTS]).square().mean()
        loss.backward()
        if row == "equal":
            norm = clip_grad_norm_(parameters, settings.clip or math.inf, foreach=True)
            losses.append(loss.item())
            if not (math.isfinite(losses[-1]) and math.isfinite(norm.item())):
                raise RuntimeError(f"not finite at step {k}")
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * k / steps))
        optimizer.step()
        optimizer.zero_grad()
        if row == "equal":
            decay = min(settings.ema or 0.0, (1 + k) / (settings.ema_ramp + k))
            with torch.no_grad():
                get_ema_multi_avg_fn(decay)(averages, [p.detach() for p in parameters], 0)


def seconds(loop: Callable[[Tensor, int, str], None], x: Tensor, steps: int, row: str) -> float:
    """CPU seconds a step."""
    began = time.process_time()
    loop(x, steps, row)
    return (time.process_time() - began) / steps


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--blocks", type=int, default=7, help="blocks of each loop that are counted")
    words.add_argument("--steps", type=int, default=3000, help="steps in a block")
    words.add_argument("--result", type=Path, default=Path(__file__).with_name("results") / "training_loop.json")
    asked = words.parse_args()
    torch.set_num_threads(1)
    x = data()
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {"machine": about_this_machine(), "network": [INPUTS, HIDDEN, 1], "batch": BATCH}
    for row in SETTINGS:
        for loop in (ours, by_hand):
            loop(x, 200, row)  # allocates, loads kernels
        load = os.getloadavg()[0]
        pairs = [
            (seconds(ours, x, asked.steps, row), seconds(by_hand, x, asked.steps, row)) for _ in range(asked.blocks)
        ]
        mine, hand = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        rows.append(
            {
                "row": row,
                "times_by_hand": round(mine / hand, 3),
                "bar": BAR if row == "plain" else None,
                "steps_a_second": {"ours": round(1 / mine), "by_hand": round(1 / hand)},
                "microseconds_a_step": {"ours": round(1e6 * mine, 1), "by_hand": round(1e6 * hand, 1)},
                "ratios_of_blocks": [round(a / b, 3) for a, b in pairs],
                "load": round(load, 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result |= {"steps_a_block": asked.steps, "blocks": asked.blocks, "threads": 1, "seed": 0, "rows": rows}
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if rows[0]["times_by_hand"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
