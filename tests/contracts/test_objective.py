"""An objective replaces an engine's own turns: one model learns what another says, which stays as it was."""

from __future__ import annotations

import torch

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.capabilities import How, Training
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Tokens
from pellucid.core.trace import Silent
from pellucid.training.loop import train
from tests.contracts.toys.distil import Distil
from tests.contracts.toys.ending import FadingMemory

SPACE = Tokens(4, 5, ends=True)


def test_a_student_learns_from_its_base_alone() -> None:
    base, student = FadingMemory(SPACE, 3, seed=1), FadingMemory(SPACE, 8, seed=2)
    with torch.no_grad():
        base.read.weight.mul_(4.0)
        base.embed.weight.requires_grad_(False)  # the base's own flags come back as they were
    before = {name: value.clone() for name, value in base.state_dict().items()}
    x = base.sample(Rows(0, torch.arange(1500)), Condition(), How(), Silent())
    outcome = train(
        student,
        TensorExamples(x),
        settings=Training(batch=100, rate=0.03, ema=None),
        steps=150,
        seed=0,
        run=Run(),
        base=base,
        objective=Distil(),
    )
    losses = outcome.losses["imitate"]
    assert set(outcome.losses) == {"imitate"}
    assert sum(losses[k] for k in range(140, 150)) < 0.05 * sum(losses[k] for k in range(10))
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [name for name, p in base.named_parameters() if not p.requires_grad] == ["embed.weight"]
    assert all(p.grad is None for p in base.parameters())
    fresh = base.sample(Rows(9, torch.arange(500)), Condition(), How(), Silent())
    batch, rows = Batch(fresh, torch.arange(500)), Rows(0, torch.arange(500))
    said, taught = (engine.log_prob(batch, rows).value for engine in (student, base))
    assert (taught - said).mean().abs().item() < 0.05
    assert (taught - said).abs().mean().item() < 0.3
