"""Muon: its iteration against a decomposition, its step against one done by hand, and who is moved by what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid.core.batch import TensorExamples
from pellucid.core.capabilities import Training, Turn
from pellucid.core.errors import BadInput, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real
from pellucid.families.flow_matching import FlowMatching
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.loop import train
from pellucid.training.muon import Muon, is_matrix, orthogonalised
from pellucid.training.optim import optimizer_for, update
from pellucid.training.watch import Seen, Watch


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 40), (2, 40, 5)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    k, m, n = shape
    matrices = Rows(0, torch.arange(k)).normal(m, n)
    found = orthogonalised(matrices)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3  # directions that are hardly there in bfloat16 may lag
    assert float(values.max()) < 1.35
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inside = torch.diagonal(u.mT @ found @ v.mT, dim1=-2, dim2=-1)
    torch.testing.assert_close(inside.abs().sort().values, values.sort().values, atol=0.05, rtol=0.0)


def test_kernels_are_flattened_and_vectors_left_to_adam() -> None:
    assert is_matrix(torch.zeros(4, 2, 3, 3))
    assert not is_matrix(torch.zeros(4))
    assert not is_matrix(torch.zeros(1, 5))


def test_a_step_by_hand() -> None:
    p, b = nn.Parameter(torch.eye(4)), nn.Parameter(torch.zeros(4))
    turn = Turn("only", (p, b), lambda batch, rows: batch.x)
    settings = Training(optimizer="muon", rate=1e-3, matrix_rate=0.1)
    optimizer = optimizer_for(turn, {"p": p, "b": b}, settings)
    assert isinstance(optimizer, Muon)
    p.grad, b.grad = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), torch.ones(4)
    update(optimizer, 5e-4)  # half the rate, so matrices move at .05
    moved = torch.eye(4) - p.detach()
    torch.testing.assert_close(moved, torch.diag(moved.diagonal()), atol=1e-4, rtol=0.0)
    assert 0.03 < float(moved.diagonal().min()) <= float(moved.diagonal().max()) < 0.07
    torch.testing.assert_close(b.detach(), torch.full((4,), -5e-4))  # Adam's first step has the size of its rate
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], 0.05 * p.grad)
    assert set(optimizer.state[b]) == {"step", "exp_avg", "exp_avg_sq"}


def test_weights_are_shrunk_when_asked() -> None:
    p = nn.Parameter(torch.full((3, 3), 2.0))
    optimizer = Muon([p], [], lr=1.0, ratio=0.1, decay=0.5)
    p.grad = torch.zeros(3, 3)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3, 3), 2.0 * 0.95))


def test_sharded_matrices_are_refused() -> None:
    class Sharded(nn.Parameter):
        def full_tensor(self) -> torch.Tensor:
            return self.data

    with pytest.raises(BadInput, match="sharded"):
        Muon([Sharded(torch.eye(2))], [], lr=1.0, ratio=1.0)


def test_training_with_it_stops_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    x = Rows(1, torch.arange(64)).normal(3)
    settings = Training(batch=16, optimizer="muon", rate=1e-3)

    def engine() -> nn.Module:
        return FlowMatching(width=16, depth=1).build(Real((3,)), {}, Rows(0, torch.arange(1)))

    whole = train(engine(), TensorExamples(x), settings=settings, steps=8, seed=0, run=Run())
    keep, run, stopper = Checkpoints(tmp_path / "checkpoints", steps=3), Run(), _Stops()
    with pytest.raises(Stopped):
        train(engine(), TensorExamples(x), settings=settings, steps=8, seed=0, run=run, keep=keep, watch=[stopper])
    start = keep.latest(Run())
    assert start is not None
    assert start.step == 5
    again = train(engine(), TensorExamples(x), settings=settings, steps=8, seed=0, run=Run(), start=start)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


class _Stops(Watch):
    """Asks the run to stop after five steps."""

    def due(self, step: int, steps: int) -> bool:
        return step == 5

    def look(self, seen: Seen) -> None:
        seen.run.stop()
