"""One model over several processes: plain `torchrun`, gradients averaged by DDP or parameters sharded by FSDP2.

Model code knows nothing of this. Each process takes its slice of every batch under the same global ids, so the
noise, the order and (up to the order of sums) the weights are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pellucid.core.batch import Batch
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.training.step import Step

__all__ = ["Forward", "Strategy", "Team", "full", "like", "spread", "team"]

Strategy = Literal["ddp", "fsdp2"]
Forward = Callable[[int, Batch, Rows], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Team:
    """The processes that train together; a team of one needs no torch.distributed."""

    rank: int = 0
    size: int = 1

    def part(self, rows: int) -> slice:
        """Which of a batch's rows this process takes.

        >>> Team(1, 2).part(5)
        slice(2, 5, None)
        """
        if rows < self.size:
            raise BadInput(f"a batch of {rows} rows for {self.size} processes", accepted="one row a process at least")
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def agree(self, wishes: Sequence[int], device: str) -> list[int]:
        """The largest of each wish over all processes, so that all do the same at the same step."""
        if self.size == 1:
            return list(wishes)
        asked = torch.tensor(list(wishes), dtype=torch.int64, device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return [int(x) for x in asked.tolist()]


def team() -> Team:
    """The team of this process: that of torch.distributed when it was started, else alone."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


def spread(step: Step, strategy: Strategy = "ddp") -> Forward:
    """The way to reach the step's losses so that gradients are shared by the team: call it in place of `step`.

    ddp: one wrapper a turn, since each knows only the parameters that move in its turn.
    fsdp2: parameters, gradients and optimizer state are sharded; gathered as a whole for each forward, because an
    engine may reach into its parts without calling them. The step's turns are asked for again afterwards.
    """
    if team().size == 1:
        return step
    if strategy == "ddp":
        return _Replicas(step)
    if strategy == "fsdp2":
        return _shard(step)
    raise BadInput(f"strategy is '{strategy}'", accepted="ddp, fsdp2")


class _Replicas:
    def __init__(self, step: Step) -> None:
        self.wrappers = []
        for turn in range(len(step.turns)):
            device = next(step.parameters()).device
            with step.moving(turn):  # the wrapper takes in what requires gradients while it is made
                self.wrappers.append(
                    DistributedDataParallel(
                        step,
                        device_ids=[device] if device.type == "cuda" else None,
                        find_unused_parameters=True,  # a layer for a condition that no row of a batch carries
                    )
                )

    def __call__(self, turn: int, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor]:
        losses, penalty = self.wrappers[turn](turn, batch, rows)
        return losses, penalty


def _shard(step: Step) -> Step:
    from torch.distributed.fsdp import fully_shard

    if len(step.extra):
        raise BadInput(
            "the objective trains parameters that are not the engine's",
            accepted="objectives over the engine's own parameters, when these are sharded",
            next="Use strategy 'ddp'.",
        )
    # every process starts from the weights of the first
    for tensor in step.state_dict().values():
        dist.broadcast(tensor, src=0)
    fully_shard(step)
    step.refresh()
    step.own_outputs = True  # no views: the gathering of parameters for the backward pass hangs on the outputs
    return step


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered by all processes together; others as they are."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, sharded and placed as `example` is; each process must hold the same and keeps its own part."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    whole = whole.to(example.device)
    if not isinstance(example, DTensor):
        return whole
    return distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None)
