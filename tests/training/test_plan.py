"""Plans from a budget, and what happens when the clock does not keep to them."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Event, Planned, Run
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.journal import read_losses, read_replans
from pellucid.training.loop import train
from pellucid.training.plan import plan
from pellucid.training.schedule import Replanned
from tests.training.toys import SETTINGS, Dropping, Mean, rows_of_numbers


def test_a_plan_says_itself_in_one_sentence() -> None:
    events: list[Event] = []
    found = plan(Dropping(), rows_of_numbers(), SETTINGS, steps=4120, run=Run(listeners=[events.append]), noun="rows")
    assert found.steps == 4120
    assert found.parameters == sum(p.numel() for p in Dropping().parameters())
    assert found.memory_mb > 50
    assert re.fullmatch(
        r"4,120 steps of 8 rows, 88 parameters, about (\d+ seconds?|\d+ minutes|[\d.]+ hours); memory [\d.]+ KB: "
        r"data [\d.]+ KB, weights \d+ B, gradients 352 B, optimizer 704 B, average 352 B, activations of one step .*",
        found.text,
    ), found.text
    assert [(e.steps, e.text) for e in events if isinstance(e, Planned)] == [(4120, found.text)]
    assert plan(Mean(), rows_of_numbers(), replace(SETTINGS, steps=9), run=Run()).steps == 9


def test_steps_follow_from_the_time_of_a_step() -> None:
    engine = Dropping(pause=0.02)
    began = time.monotonic()
    found = plan(engine, rows_of_numbers(), SETTINGS, minutes=0.2, run=Run())
    took = time.monotonic() - began
    assert found.steps <= 12.0 / 0.02, "each step sleeps for a fiftieth of a second"
    assert found.seconds <= 12.0
    assert found.seconds + took == pytest.approx(12.0, abs=1.0), "what calibration took is part of the budget"
    half = plan(engine, rows_of_numbers(), SETTINGS, minutes=0.2, reserve=0.5, run=Run())
    assert half.seconds < 6.0


def test_a_rare_turn_counts_by_its_share() -> None:
    class Rarely(Mean):
        def turns(self) -> tuple[Turn, ...]:
            return (*super().turns(), Turn("rare", [self.m], self._slow, every=4))

        def _slow(self, batch: Batch, rows: Rows) -> Tensor:
            time.sleep(0.08)
            return self.losses(batch, rows)

    found = plan(Rarely(), rows_of_numbers(), SETTINGS, steps=1000, run=Run())
    assert 20 <= found.seconds < 60, "a fourth of 0.08 seconds, and a little"


def test_planning_changes_nothing() -> None:
    planned, untouched = Dropping(), Dropping()
    before, generator = {k: t.clone() for k, t in planned.state_dict().items()}, torch.get_rng_state()
    plan(planned, rows_of_numbers(), SETTINGS, minutes=0.01, run=Run())
    assert torch.get_rng_state().equal(generator)
    assert torch.get_float32_matmul_precision() == "highest"
    assert all(torch.equal(t, before[k]) for k, t in planned.state_dict().items())
    for engine in (planned, untouched):
        train(engine, rows_of_numbers(), settings=SETTINGS, steps=5, seed=0, run=Run())
    assert all(torch.equal(t, untouched.state_dict()[k]) for k, t in planned.state_dict().items())


@pytest.mark.parametrize("budget", [{"minutes": 1.0, "steps": 3}, {"minutes": 0.0}, {"minutes": float("nan")}])
def test_budgets_that_make_no_sense_are_refused(budget: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        plan(Mean(), rows_of_numbers(), SETTINGS, run=Run(), **budget)  # type: ignore[arg-type]


class Clock:
    """A clock that moves by steps alone: half a second each, two seconds each from step `busy` on."""

    def __init__(self, busy: int) -> None:
        self.now, self.steps, self.busy = 100.0, 0, busy

    def __call__(self) -> float:
        return self.now


class Slowed(Dropping):
    """Each step moves the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def _body(self, batch: Batch, rows: Rows) -> Tensor:
        self.clock.now += 0.5 if self.clock.steps < self.clock.busy else 2.0
        self.clock.steps += 1
        return super()._body(batch, rows)


def test_a_clock_that_runs_out_bends_the_schedule_and_a_replay_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(busy=30)
    keep = Checkpoints(tmp_path / "checkpoints", steps=10**6, keep=99)
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        began = clock.now
        outcome = train(
            Slowed(clock),
            rows_of_numbers(),
            settings=SETTINGS,
            steps=100,
            seed=0,
            run=Run(folder=tmp_path),
            keep=keep,
            deadline=50.0,
        )
        assert clock.now - began <= 50.0 * 1.02 + 2.0
    # 30 steps take 15 of the 50 seconds, about 17 fit into the rest
    assert 40 <= outcome.steps < 55
    assert outcome.replans == read_replans(tmp_path / "events.jsonl")
    assert outcome.replans
    assert outcome.replans[-1].steps == outcome.steps
    assert len(outcome.replans) < 5
    assert {r.at for r in outcome.replans} <= {int(p.name[:9]) for p in (tmp_path / "checkpoints").iterdir()}

    replayed = Dropping()
    again = train(
        replayed,
        rows_of_numbers(),
        settings=SETTINGS,
        steps=100,
        seed=0,
        run=Run(folder=tmp_path / "replay"),
        replans=outcome.replans,
    )
    assert again.steps == outcome.steps
    assert again.losses == outcome.losses
    assert read_replans(tmp_path / "replay" / "events.jsonl") == outcome.replans
    assert all(torch.equal(t, outcome.weights[k]) for k, t in replayed.state_dict().items())

    # and so does a run that goes on from a checkpoint after a re-plan, without any clock
    newest = sorted((tmp_path / "checkpoints").iterdir())
    newest[-1].unlink()
    resumed, start = Slowed(clock), keep.latest(Run())
    assert start is not None
    assert start.step == outcome.replans[-1].at
    train(
        resumed,
        rows_of_numbers(),
        settings=SETTINGS,
        steps=100,
        seed=0,
        run=Run(folder=tmp_path),
        keep=keep,
        start=start,
    )
    assert all(torch.equal(t, outcome.weights[k]) for k, t in resumed.state_dict().items())
    assert read_replans(tmp_path / "events.jsonl") == outcome.replans
    assert list(read_losses(tmp_path / "events.jsonl")) == list(range(outcome.steps))


def test_a_deadline_that_is_met_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(busy=1000)
    monkeypatch.setattr(time, "monotonic", clock)
    outcome = train(Slowed(clock), rows_of_numbers(), settings=SETTINGS, steps=40, seed=0, run=Run(), deadline=20.2)
    assert (outcome.steps, outcome.replans) == (40, ())


def test_a_deadline_that_passed_ends_after_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(busy=0)
    monkeypatch.setattr(time, "monotonic", clock)
    outcome = train(Slowed(clock), rows_of_numbers(), settings=SETTINGS, steps=40, seed=0, run=Run(), deadline=1.0)
    assert (outcome.steps, outcome.replans) == (1, (Replanned(at=1, steps=1),))
