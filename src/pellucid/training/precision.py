"""What changes arithmetic: precision, the route of float32 matrix products, threads. Measured, set, put back, recorded.

torch can send float32 products on a CPU through oneDNN (`set_float32_matmul_precision("medium")`), which is twice as
fast on processors with AVX-512 and as exact there. On others the same switch rounds to bfloat16, and it makes
`scaled_dot_product_attention` five to nine times slower. So the route's error is measured at the start, the
engine is watched for that operator, and the switch is set for the time of training alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Objective
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.step import Step

__all__ = ["Arithmetic", "attends_fused", "autocast", "copied", "matmul_route", "route_error", "settle"]

Route = Literal["default", "onednn"]
LARGEST_ERROR = 1e-5  # of the largest entry: float32 gives about 1e-6 here, bfloat16 4e-3


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Everything beside the code and the seed that a run's bits depend on.

    `matmul_error` is the measured error of the route in use, relative to the largest entry of a product.
    """

    device: str
    precision: str
    matmul: Route
    matmul_error: float
    threads: int
    torch: str


def settle(
    run: Run,
    engine: nn.Module,
    batch: Batch,
    rows: Rows,
    objective: Objective | None = None,
    base: nn.Module | None = None,
    route: Route | None = None,
) -> Arithmetic:
    """Measure and decide; computes a few rows' losses on a copy of the engine, which itself stays as it is.

    Args:
        route: the route that was decided before (a resumed run); not measured then whether it suits the engine.
    """
    if run.precision not in ("float32", "bfloat16"):
        raise BadInput(f"precision is '{run.precision}'", accepted="float32, bfloat16")
    if route is None:
        useful = run.device == "cpu" and run.precision == "float32" and torch.backends.mkldnn.is_available()
        exact = useful and route_error("onednn") <= LARGEST_ERROR
        route = "onednn" if exact and not attends_fused(engine, batch, rows, objective, base) else "default"
    error = route_error(route) if run.device == "cpu" else 0.0
    return Arithmetic(
        device=run.device,
        precision=run.precision,
        matmul=route,
        matmul_error=error,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


@contextmanager
def matmul_route(route: Route) -> Iterator[None]:
    """float32 matrix products go this way while the block runs.

    >>> with matmul_route("onednn"):
    ...     torch.get_float32_matmul_precision()
    'medium'
    >>> torch.get_float32_matmul_precision()
    'highest'
    """
    before = torch.get_float32_matmul_precision()
    if route == "onednn":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def route_error(route: Route) -> float:
    """Largest error of a 512 x 512 product by this route, relative to the largest entry of the true one."""
    rows = Rows(0, torch.arange(512))
    a, b = rows.fork("a").normal(512), rows.fork("b").normal(512)
    true = a.double() @ b.double()
    with matmul_route(route):
        return float(((a @ b).double() - true).abs().max() / true.abs().max())


def attends_fused(
    engine: nn.Module,
    batch: Batch,
    rows: Rows,
    objective: Objective | None = None,
    base: nn.Module | None = None,
) -> bool:
    """Does any turn call torch's fused attention? Found by computing a few rows on a copy of the engine."""
    engine, objective = copied(engine, objective, base)
    few, step = slice(0, 8), Step(engine, objective, base)
    with rows.fork("watch").seeding(), _FusedAttention() as seen:
        for turn in range(len(step.turns)):
            step(turn, batch.take(few), rows.take(few))
    return seen.found


def copied(
    engine: nn.Module, objective: Objective | None, base: nn.Module | None
) -> tuple[nn.Module, Objective | None]:
    """Copies of an engine and its objective that share nothing with them but the frozen base."""
    twins: tuple[nn.Module, Objective | None] = copy.deepcopy((engine, objective), {id(base): base})
    return twins


def autocast(run: Run) -> AbstractContextManager[Any]:
    """Where a run in bfloat16 computes its matrix work in bfloat16; nothing for float32."""
    if run.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(run.device).type, dtype=torch.bfloat16)


class _FusedAttention(TorchDispatchMode):
    """Notes whether an operator of fused attention was called."""

    found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func)
        self.found = self.found or "scaled_dot_product" in name or "multi_head_attention" in name
        return func(*args, **(kwargs or {}))
