"""An engine that looks at its first rows: once, before step 0, and not again when a run goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pellucid.core.batch import TensorExamples
from pellucid.core.capabilities import Training
from pellucid.core.errors import Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Event, Progress, Run
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.loop import train
from tests.contracts.toys.prepared import InOwnUnits

N, SEED, STEPS = 300, 5, 30
X = torch.tensor([100.0, -3.0, 0.0]) + torch.tensor([0.01, 2.0, 50.0]) * Rows(8, torch.arange(N)).normal(3)
SETTINGS = Training(batch=32, rate=0.05, ema=0.9)


def test_it_is_called_once_before_the_first_step() -> None:
    engine = InOwnUnits(3)
    outcome = train(engine, TensorExamples(X), settings=SETTINGS, steps=STEPS, seed=SEED, run=Run())
    assert int(engine.calls) == 1
    assert torch.allclose(engine.centre, X.mean(0), rtol=1e-5)
    assert torch.allclose(engine.spread, X.std(0, correction=0), rtol=1e-3)
    # in its own units every column starts as a standard normal, whatever its size
    expected = float((X.std(0).log() + 0.5 * math.log(2 * math.pi * math.e)).sum())
    assert outcome.losses["likelihood"][0] == pytest.approx(expected, abs=0.6)


def test_it_is_not_called_again_when_a_run_goes_on(tmp_path: Path) -> None:
    unbroken, broken = InOwnUnits(3), InOwnUnits(3)
    train(unbroken, TensorExamples(X), settings=SETTINGS, steps=STEPS, seed=SEED, run=Run())
    run, keep = Run(), Checkpoints(tmp_path, steps=7)

    def stop_at_the_second_checkpoint(event: Event) -> None:
        if not isinstance(event, Progress) and getattr(event, "step", 0) == 14:
            run.stop()

    run.listeners.append(stop_at_the_second_checkpoint)
    with pytest.raises(Stopped):
        train(broken, TensorExamples(X), settings=SETTINGS, steps=STEPS, seed=SEED, run=run, keep=keep)
    again, state = InOwnUnits(3), keep.latest(Run())
    assert state is not None
    assert 14 <= state.step < STEPS
    train(again, TensorExamples(X), settings=SETTINGS, steps=STEPS, seed=SEED, run=Run(), keep=keep, start=state)
    assert int(again.calls) == 1
    for (name, found), expected in zip(again.state_dict().items(), unbroken.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
