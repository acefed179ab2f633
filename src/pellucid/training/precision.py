"""What changes arithmetic: precision, the route of float32 matrix products, threads. Measured, set, put back, recorded.

torch can send float32 products on a CPU through oneDNN (`set_float32_matmul_precision("medium")`), which is twice as
fast on processors with AVX-512 and as exact there. On others the same switch rounds to bfloat16; everywhere it makes
`scaled_dot_product_attention` five to nine times slower, and small products too. So the route's error is measured at
the start, the engine is watched for that operator and for the sizes of its products, and the switch is set for the
time of training alone. Sizes, not clocks, decide: the same run takes the same route on a busy machine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Objective
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real, Space
from pellucid.training.step import Step

__all__ = [
    "Arithmetic",
    "Route",
    "autocast",
    "choose_precision",
    "copied",
    "matmul_route",
    "route_error",
    "settle",
    "suits_onednn",
]

Route = Literal["default", "onednn"]
LARGEST_ERROR = 1e-5  # of the largest entry: float32 gives about 1e-6 here, bfloat16 4e-3
# Measured on one AVX-512 core: a product costs 2 m n k / 110e9 seconds by default, and half that but 20e-6 more by
# oneDNN, which therefore pays from about 4 million operations on.
EVEN = 4e6


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Everything beside the code and the seed that a run's bits depend on.

    `matmul_error` is what oneDNN's route was measured to err, relative to the largest entry of a product; 0 where it
    was not thought of.
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
    """Measure and decide; computes the losses of one batch on a copy of the engine, which itself stays as it is.

    Args:
        batch, rows: of the size that training uses.
        route: decided before (a resumed run), so the engine is not looked at again.
    """
    if run.precision not in ("float32", "bfloat16"):
        raise BadInput(f"precision is '{run.precision}'", accepted="float32, bfloat16")
    error = 0.0
    if run.device == "cpu" and route is None:
        possible = run.precision == "float32" and torch.backends.mkldnn.is_available()
        if possible and suits_onednn(engine, batch, rows, objective, base):
            error = route_error("onednn")
            route = "onednn" if error <= LARGEST_ERROR else None
    elif route == "onednn":
        error = route_error(route)
    return Arithmetic(
        device=run.device,
        precision=run.precision,
        matmul=route or "default",
        matmul_error=error,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def choose_precision(asked: str, space: Space, device: str) -> str:
    """What "auto" means: bfloat16 for pictures of 16 pixels or more where the processor computes with it, else float32.

    Convolutions are 1.4 to 1.6 times faster then, and in a budget of minutes that is worth more than the digits lost;
    likelihoods, losses, averages and weights stay in float32 either way.
    """
    if asked != "auto":
        return asked
    picture = isinstance(space, Real) and len(space.shape) == 3 and min(space.shape[1:]) >= 16
    if device == "cuda":
        able = torch.cuda.is_bf16_supported()
    else:
        able = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return "bfloat16" if picture and able else "float32"


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


def suits_onednn(
    engine: nn.Module,
    batch: Batch,
    rows: Rows,
    objective: Objective | None = None,
    base: nn.Module | None = None,
) -> bool:
    """Would oneDNN's route be faster? True if the products are large enough and none is inside fused attention."""
    engine, objective = copied(engine, objective, base)
    step = Step(engine, objective, base)
    with rows.fork("settle").seeding(), _Products() as seen:
        for turn in range(len(step.turns)):
            step(turn, batch, rows)
    return not seen.fused and seen.gain > 0.0


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


class _Products(TorchDispatchMode):
    """Adds up how much the matrix products that come by are above the size where the routes are even."""

    PLACES: ClassVar[dict[str, tuple[int, int]]] = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}

    def __init__(self) -> None:
        super().__init__()
        self.fused, self.gain = False, 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func).split(".")[1]  # "aten.mm.default"
        if name in self.PLACES:
            left, right = (args[place] for place in self.PLACES[name])
            self.gain += 2.0 * left.numel() * right.shape[-1] - EVEN
        self.fused = self.fused or "scaled_dot_product" in name or "multi_head_attention" in name
        return func(*args, **(kwargs or {}))
