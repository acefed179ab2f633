"""What each of two processes does in test_distributed.py; a module of its own, since a new process imports it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from pellucid.core.batch import TensorExamples
from pellucid.core.errors import NonFiniteLoss, Stopped
from pellucid.core.run import Checkpointed, Event, Run
from pellucid.training.checkpoint import Checkpoints, State
from pellucid.training.distributed import Strategy
from pellucid.training.loop import Outcome, train
from tests.training.toys import SETTINGS, Dropping, Mean, rows_of_numbers

__all__ = ["HALF", "STEPS", "STRATEGIES", "fitted", "saved", "work"]

STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2")
STEPS, HALF = 12, 7


def fitted(folder: Path, strategy: Strategy = "ddp", start: State | None = None, run: Run | None = None) -> Outcome:
    """The toy without dropout, whose masks are each process's own, trained in a folder."""
    return train(
        Dropping(drop=0.0),
        rows_of_numbers(),
        settings=SETTINGS,
        steps=STEPS,
        seed=3,
        run=run or Run(folder=folder),
        keep=Checkpoints(folder / "checkpoints", steps=HALF, keep=9),
        start=start,
        strategy=strategy,
    )


def saved(folder: Path) -> State:
    """The checkpoint of the half-way step."""
    keep = Checkpoints(folder / "checkpoints", keep=9)
    for path in folder.glob("checkpoints/*.safetensors"):
        if int(path.name[:9]) > HALF:
            path.unlink()
    state = keep.latest(Run())
    assert state is not None
    return state


def work(rank: int, size: int, folder: str) -> None:
    """Each strategy: train, go on from what one process saved, stop by the wish of one, meet a bad row of one."""
    torch.set_num_threads(1)
    at = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{at}/meeting", rank=rank, world_size=size)
    try:
        told: dict[str, object] = {}
        for strategy in STRATEGIES:
            events: list[Event] = []
            outcome = fitted(at / strategy, strategy, run=Run(folder=at / strategy, listeners=[events.append]))
            save_file(dict(outcome.weights), at / f"{strategy} {rank}.safetensors")
            told[f"{strategy} losses"] = outcome.losses
            told[f"{strategy} checkpoints"] = [e.step for e in events if isinstance(e, Checkpointed)]
            start = Checkpoints(at / "half of one").latest(Run())
            told[f"{strategy} resumed"] = fitted(at / f"{strategy} resumed", strategy, start).losses
            run = Run()
            if rank == 1:
                run.stop()
            try:
                fitted(at / f"{strategy} stopped", strategy, run=run)
            except Stopped as stop:
                told[f"{strategy} stopped"] = str(stop)
            x = rows_of_numbers().take(torch.arange(37)).x
            x[11] = torch.nan
            try:
                train(
                    Mean(),
                    TensorExamples(x),
                    settings=SETTINGS,
                    steps=9,
                    seed=3,
                    run=Run(),
                    strategy=strategy,
                )
            except NonFiniteLoss as stop:
                told[f"{strategy} bad"] = str(stop)
        (at / f"told {rank}.json").write_text(json.dumps(told))
    finally:
        dist.destroy_process_group()
