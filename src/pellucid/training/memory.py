"""What training holds in memory, counted before it begins: bytes of each thing, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.batch import Batch, Examples
from pellucid.core.capabilities import Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.muon import is_matrix
from pellucid.training.precision import autocast
from pellucid.training.step import Step

__all__ = ["Memory", "activations", "needed", "size_of"]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that training holds, besides the program itself.

    data: the rows held in memory, read and encoded. weights: the engine's, buffers included. gradients, optimizer,
    average: of what is learned. base: the frozen model of an objective. activations: what one step keeps for its
    backward pass, of the turn that keeps most.
    """

    data: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    base: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        """
        >>> str(Memory(data=0, weights=4 * 10**6, gradients=4000, optimizer=0, average=0, base=0, activations=2**30))
        'memory 1.0 GB: weights 3.8 MB, gradients 3.9 KB, activations of one step 1.0 GB'
        """
        names = {f.name: f.name for f in fields(self)} | {"activations": "activations of one step"}
        parts = [f"{said} {size_of(getattr(self, name))}" for name, said in names.items() if getattr(self, name)]
        return f"memory {size_of(self.total)}: {', '.join(parts)}"


def needed(
    step: Step,
    batch: Batch,
    rows: Rows,
    examples: Examples,
    settings: Training,
    run: Run,
    base: nn.Module | None = None,
    loaded: int = 0,
) -> Memory:
    """Count what training this step over and over will hold.

    Args:
        batch, rows: of the size that training uses. loaded: bytes of the data as it was read, beside `examples`.
    """
    distinct = {id(p): p for turn in step.turns for p in turn.parameters}.values()
    learned = {id(p): _bytes(p) for turn in step.turns for p in turn.parameters}
    numbers = {id(p): p.numel() for turn in step.turns for p in turn.parameters}
    return Memory(
        data=loaded + examples.held(),
        weights=_held(step.state_dict().values()),
        gradients=sum(learned.values()),
        optimizer=sum(_slots(p, settings) * _bytes(p) for p in distinct),
        average=0 if settings.ema is None else 4 * sum(numbers.values()),
        base=0 if base is None else _held(base.state_dict().values()),
        activations=max(activations(step, i, batch, rows, run) for i in range(len(step.turns))),
    )


def activations(step: Step, turn: int, batch: Batch, rows: Rows, run: Run) -> int:
    """Bytes that the losses of one batch keep for the backward pass, each piece of memory once.

    Weights and the batch itself do not count, as they are held anyway. Losses with gradients of their own inside
    (a critic's penalty) cannot be listened to that way: for them it is all that is made on the way, which is more.
    """
    known = {_place(t) for t in [*step.parameters(), *step.buffers(), batch.x, *batch.condition.values.values()]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _place(tensor) not in known:
            kept[_place(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with rows.fork("memory").seeding(), step.moving(turn), autocast(run):
        try:
            with hooks:
                held = step(turn, batch, rows)  # alive until all is counted, so that no place is used twice
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            with _Made() as made:
                step(turn, batch, rows)
            return made.bytes
    del held
    return sum(kept.values())


class _Made(TorchDispatchMode):
    """Adds up the tensors that operations give, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view:
            self.bytes += _bytes(out)
        return out


def size_of(amount: float) -> str:
    """Bytes as people say them.

    >>> size_of(912), size_of(15_300), size_of(3 * 2**20), size_of(1.5 * 2**30)
    ('912 B', '14.9 KB', '3.0 MB', '1.5 GB')
    """
    for size, unit in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if amount >= size:
            return f"{amount / size:.1f} {unit}"
    return f"{amount:.0f} B"


def _held(tensors: Iterable[Tensor]) -> int:
    return sum({_place(t): t.untyped_storage().nbytes() for t in tensors}.values())


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _slots(p: Tensor, settings: Training) -> int:
    """Numbers that the optimizer keeps for each number of a parameter."""
    if settings.optimizer == "muon":
        return 1 if is_matrix(p) else 2
    return {"adam": 2, "sgd": 1}[settings.optimizer]
