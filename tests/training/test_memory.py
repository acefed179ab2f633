"""What training holds, against sums done by hand; and that nothing else stays in memory."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.bundle import write_atomic
from pellucid.core.capabilities import Learns, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.training.checkpoint import Checkpoints, State
from pellucid.training.loop import train
from pellucid.training.memory import activations, needed
from pellucid.training.plan import plan
from pellucid.training.step import Step
from tests.training.toys import SETTINGS, Dropping, Mean, rows_of_numbers


class Layers(nn.Module, Learns):
    """x (B, 5) -> tanh -> (B, 7) -> tanh -> (B, 1): what is kept can be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 1)

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("fit", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        return self.second(torch.tanh(self.first(batch.x)))[:, 0].tanh()


def test_activations_are_what_the_formula_keeps() -> None:
    """tanh keeps its output (B, 7), which the second layer keeps too and which counts once; the last tanh its (B,)."""
    batch = rows_of_numbers().take(torch.arange(8))
    step = Step(Layers())
    assert activations(step, 0, batch, Rows(0, batch.ids), Run()) == 4 * (8 * 7 + 8)


def test_each_thing_is_counted_once() -> None:
    engine, rows = Dropping(ballast=3), rows_of_numbers()
    batch = rows.take(torch.arange(8))
    found = needed(Step(engine), batch, Rows(0, batch.ids), rows, SETTINGS, Run(), Mean(), loaded=1000)
    learned = 4 * sum(p.numel() for p in engine.parameters())
    assert found.data == 1000 + 37 * (5 * 4 + 8 + 1 + 4), "numbers, class, whether it is given, weight"
    assert found.weights == learned + 4 * 5 + 8 + 4 * 3
    assert (found.gradients, found.optimizer, found.average, found.base) == (learned, 2 * learned, learned, 20)
    assert found.total == sum(vars(found).values())
    lean = replace(SETTINGS, optimizer="sgd", ema=None)
    lighter = needed(Step(engine), batch, Rows(0, batch.ids), rows, lean, Run())
    assert (lighter.optimizer, lighter.average, lighter.base) == (learned, 0, 0)


def test_nothing_grows_with_the_number_of_steps() -> None:
    """Numbers in all tensors that are alive after a run, short or long."""

    def alive(steps: int) -> int:
        engine = Dropping()
        train(engine, rows_of_numbers(), settings=SETTINGS, steps=steps, seed=0, run=Run())
        gc.collect()
        return sum(t.numel() for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter))

    alive(2)
    assert alive(40) <= alive(3)


def test_a_checkpoint_is_written_from_where_its_tensors_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, parts = torch.arange(6.0).view(2, 3), []

    def write(path: Path, data: list[bytes | memoryview]) -> None:
        parts.extend(data)
        write_atomic(path, data)

    monkeypatch.setattr("pellucid.training.checkpoint.write_atomic", write)
    keep = Checkpoints(tmp_path)
    half = torch.ones(3, dtype=torch.bfloat16)
    keep.save(State(4, {"weights/a": tensor, "weights/b": half, "weights/c": torch.tensor(True)}, {}), Run())
    (view,) = [p for p in parts if isinstance(p, memoryview) and p.nbytes == 24]
    assert torch.frombuffer(view, dtype=torch.float32).data_ptr() == tensor.data_ptr()
    found = keep.latest(Run())
    assert found is not None
    assert torch.equal(found.tensors["weights/a"], tensor)
    assert torch.equal(found.tensors["weights/b"], half)
    assert found.tensors["weights/c"].item() is True


def test_a_budget_for_less_than_a_step_is_refused_soon() -> None:
    engine = Dropping(pause=0.05)
    calls = []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: calls.append(0) if type(module) is Step else None
    )
    with pytest.raises(BadInput, match=r"minutes is 1e-06 and one step takes .*\. Accepted: 0\.\d+ or more"):
        plan(engine, rows_of_numbers(), SETTINGS, minutes=1e-6, run=Run())
    hook.remove()
    assert len(calls) <= 2 * (1 + 1 + 3), "no more than one round of its turns is tried, besides what decides"
