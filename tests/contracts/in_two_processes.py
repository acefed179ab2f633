"""What each of two processes does in test_two_processes.py; a module of its own, since a new process imports it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from pellucid.core.batch import TensorExamples
from pellucid.core.capabilities import Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.distributed import Strategy
from pellucid.training.loop import train
from tests.contracts.toys.duel import Duel

__all__ = ["STRATEGIES", "trained", "work"]

STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2")
SETTINGS = Training(batch=7, rate=0.05, ema=0.9)  # seven rows: the two processes take three and four


def trained(strategy: Strategy = "ddp") -> dict[str, torch.Tensor]:
    """The two-player toy after twelve steps, and its losses."""
    x = 2.0 + 0.5 * Rows(8, torch.arange(50)).normal(1)
    outcome = train(Duel(), TensorExamples(x), settings=SETTINGS, steps=12, seed=3, run=Run(), strategy=strategy)
    losses = {f"loss of {turn}": torch.tensor(list(steps.values())) for turn, steps in outcome.losses.items()}
    assert outcome.raw is not None
    raw = {f"raw {name}": value for name, value in outcome.raw.items()}
    return {name: value.clone() for name, value in (outcome.weights | raw | losses).items()}


def work(rank: int, size: int, folder: str) -> None:
    """Train by each strategy; every process writes what it holds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        for strategy in STRATEGIES:
            save_file(trained(strategy), Path(folder) / f"{strategy} {rank}.safetensors")
    finally:
        dist.destroy_process_group()
