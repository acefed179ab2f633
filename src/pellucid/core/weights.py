"""Weights between an engine and a file that may be a stranger's: names, shapes, types and sizes are checked."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.bundle import write_atomic
from pellucid.core.capabilities import Counts, Surveys
from pellucid.core.errors import BadBundle, BadInput, fault, shown

__all__ = ["bounded", "check_weights", "pour", "state_of", "write_tensors"]

ALLOWANCE = 2**26  # numbers that a network may hold besides its stored weights, such as masks
EACH = 20_000  # what a tensor counts besides its numbers: many small ones take time too
SURVEYED = "surveyed/"  # before the names of tables that stand beside weights
WITHOUT = 2**32  # numbers in a network whose weights are not at hand yet


def state_of(engine: nn.Module) -> Mapping[str, Tensor]:
    """Everything an engine has learned: weights, those and what it surveyed, or counts."""
    if isinstance(engine, Surveys):
        return {**engine.state_dict(), **{SURVEYED + name: table for name, table in engine.surveyed().items()}}
    return engine.tables() if isinstance(engine, Counts) else engine.state_dict()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file. Each tensor gets memory of its own, so that tied weights are stored under each name."""
    from safetensors.torch import save

    write_atomic(path, save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))


@contextmanager
def bounded(stored: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Stop a build that grows far beyond the stored weights: sizes come from a stranger, memory is finite.

    Each tensor is counted when a module registers it. Of `torch.empty` that is before anything is written to its
    memory; what is filled as it is made, as by `torch.randn`, is refused before it is made.
    """
    most, seen, thread = WITHOUT, 0, threading.get_ident()
    if stored is not None:
        most = ALLOWANCE + 4 * sum(t.numel() + EACH for t in stored.values())

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal seen
        if tensor is None or threading.get_ident() != thread:
            return
        seen += tensor.numel() + EACH
        if seen > most:
            raise _too_large()

    handles = (
        modules.register_module_parameter_registration_hook(count),
        modules.register_module_buffer_registration_hook(count),
    )
    try:
        with _NoneLarger(most):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _NoneLarger(TorchDispatchMode):
    """Refuses to make a tensor of more than `most` numbers by its size: randn, zeros, full and their like."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        size = args[0] if args and isinstance(args[0], (list, tuple)) else ()
        if all(isinstance(side, int) for side in size) and math.prod(size) > self.most:
            raise _too_large()
        return func(*args, **(kwargs or {}))


def _too_large() -> BadInput:
    return BadInput("its settings ask for a network far larger than its weights", accepted="parts of one run")


def pour(engine: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Put stored weights (or counts) into a built engine; BadBundle unless names, shapes and types are its own."""
    if isinstance(engine, Counts):
        try:
            engine.restore(weights)
        except Exception as error:  # a stranger's values can fail anywhere, and none of them is executed
            why = str(error) if isinstance(error, BadInput) else fault(error)
            raise BadBundle(f"the counts of '{name}' do not fit its family", why=why) from error
        return
    tables = {key.removeprefix(SURVEYED): value for key, value in weights.items() if key.startswith(SURVEYED)}
    weights = {key: value for key, value in weights.items() if not key.startswith(SURVEYED)}
    check_weights(engine.state_dict(), weights, name)
    if isinstance(engine, Surveys):
        try:
            engine.restore_surveyed(tables)
        except Exception as error:
            why = str(error) if isinstance(error, BadInput) else fault(error)
            raise BadBundle(f"the tables of '{name}' do not fit its family", why=why) from error
    elif tables:
        raise BadBundle(f"'{name}' holds tables", accepted="weights alone, as its family has no tables")
    engine.load_state_dict(dict(weights))


def check_weights(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str) -> None:
    """BadBundle unless `weights` have the names, shapes and types of `own`."""
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))
        raise BadBundle(
            f"the weights of '{name}' do not fit its family",
            why=f"{len(odd)} names differ, the first is {shown(odd[0])}.",
        )
    for key, tensor in own.items():
        if tensor.shape != weights[key].shape or tensor.dtype != weights[key].dtype:
            raise BadBundle(
                f"weight '{key}' of '{name}' is {weights[key].dtype} {tuple(weights[key].shape)}",
                accepted=f"{tensor.dtype} {tuple(tensor.shape)}",
            )
