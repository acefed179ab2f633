"""The loop: whose rows come when, what a step draws, what an update does, how a job ends."""

from __future__ import annotations

import json
import math
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from pellucid.core.batch import Batch, TensorExamples
from pellucid.core.capabilities import Learns, Objective, Training, Turn
from pellucid.core.errors import BadBundle, BadInput, MissingCapability, NonFiniteLoss, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Checkpointed, Event, Progress, Run
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.journal import Journal, read_losses
from pellucid.training.loop import count, train
from pellucid.training.order import Order
from pellucid.training.schedule import Replanned, Schedule
from pellucid.training.step import Step
from tests.training.toys import SETTINGS, Dropping, Mean, Tally, rows_of_numbers

# Order


@given(some.integers(1, 40), some.integers(1, 50), some.integers(0, 3))
def test_each_item_comes_once_an_epoch(items: int, batch: int, seed: int) -> None:
    order = Order(seed, items, batch)
    laid = torch.cat([order.ids(k) for k in range(3 * items // batch + 1)])
    for epoch in laid[: len(laid) // items * items].reshape(-1, items):
        assert epoch.sort().values.equal(torch.arange(items))


def test_a_batch_depends_on_its_number_alone() -> None:
    order = Order(7, 23, 5)
    forward = [order.ids(k) for k in range(30)]
    for k in (29, 3, 17, 0):
        assert Order(7, 23, 5).ids(k).equal(forward[k])
        assert order.ids(k).equal(forward[k])
    assert not Order(8, 23, 5).ids(0).equal(forward[0])
    assert not order.epoch(0).equal(order.epoch(1))


@given(some.integers(1, 9), some.integers(1, 30), some.integers(0, 5))
def test_no_two_rows_of_a_batch_share_noise(items: int, batch: int, k: int) -> None:
    order = Order(1, items, batch)
    ids = order.ids(k)
    noise = order.noise_ids(ids)
    assert len(set(noise.tolist())) == batch
    assert (noise % items).equal(ids)


# Schedule


def test_rate_warms_up_then_follows_half_a_cosine() -> None:
    settings = Training(warmup=0.1, final_rate=0.2)
    rates = [Schedule(100, settings).factor(k) for k in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == pytest.approx(0.95)
    for k in (10, 37, 99):
        u = ((k + 0.5) / 100 - 0.1) / 0.9
        assert rates[k] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * u)) / 2)


@given(some.integers(2, 200), some.data())
def test_a_replanned_schedule_still_comes_down_to_its_end(steps: int, data: some.DataObject) -> None:
    at = data.draw(some.integers(0, steps - 1))
    total = data.draw(some.integers(max(at, 1), steps))
    whole, cut = Schedule(steps, Training()), Schedule(steps, Training()).replan(at, total)
    assert [cut.factor(k) for k in range(at)] == [whole.factor(k) for k in range(at)]
    assert cut.progress(total) == pytest.approx(1.0)
    progress = [cut.progress(k) for k in range(total + 1)]
    assert progress == sorted(progress)
    assert cut.before(at - 1).steps == steps


# One step


def test_sgd_does_what_it_says_on_paper() -> None:
    """m <- m - rate (m - weighted mean of the batch), the first step of plain SGD on half squares."""
    data, engine = rows_of_numbers(), Mean()
    settings = Training(batch=8, rate=0.5, optimizer="sgd", momentum=0.0, clip=None, ema=None, warmup=0.0, final_rate=1)
    outcome = train(engine, data, settings=settings, steps=1, seed=4, run=Run())
    batch = data.take(Order(4, len(data), 8).ids(0))
    assert batch.weight is not None
    mean = (batch.x * batch.weight[:, None]).sum(0) / batch.weight.sum()
    assert torch.allclose(engine.m.detach(), 0.5 * mean, atol=1e-6)
    half_squares = (batch.x.square().sum(-1) / 2 * batch.weight).sum() / batch.weight.sum()
    assert outcome.losses["mean"][0] == pytest.approx(half_squares.item(), rel=1e-6)


def test_gradients_are_clipped_to_their_norm() -> None:
    engine = Mean()
    settings = Training(batch=8, rate=1.0, optimizer="sgd", momentum=0.0, clip=0.25, ema=None, warmup=0.0, final_rate=1)
    train(engine, rows_of_numbers(), settings=settings, steps=1, seed=4, run=Run())
    assert engine.m.norm().item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_pulls_matrices_alone(optimizer: str) -> None:
    class Still(nn.Module, Learns):
        """No gradient but zero, so only decay moves anything."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def turns(self) -> tuple[Turn, ...]:
            return (Turn("still", list(self.parameters()), lambda batch, rows: self.layer(batch.x).sum(-1) * 0.0),)

    engine = Still()
    weight, bias = engine.layer.weight.detach().clone(), engine.layer.bias.detach().clone()
    settings = Training(batch=3, rate=0.1, weight_decay=0.2, optimizer=optimizer, ema=None, warmup=0.0, final_rate=1.0)  # type: ignore[arg-type]
    train(engine, rows_of_numbers(), settings=settings, steps=2, seed=0, run=Run())
    assert torch.allclose(engine.layer.weight, weight * (1 - 0.1 * 0.2) ** 2)
    assert torch.equal(engine.layer.bias, bias)


def test_average_is_the_formula_and_ends_in_the_engine() -> None:
    engine, ema = Mean(), torch.zeros(5)
    plain = replace(SETTINGS, ema=None)
    path = []
    for steps in range(1, 7):  # six steps are planned; after each the weights are looked at
        twin, run = Mean(), _StopAfter(steps)
        with pytest.raises(Stopped) if steps < 6 else nullcontext():
            train(twin, rows_of_numbers(), settings=plain, steps=6, seed=1, run=run)
        path.append(twin.m.detach().clone())
    for k, m in enumerate(path):
        decay = min(0.9, (1 + k) / (5.0 + k))
        ema = decay * ema + (1 - decay) * m
    outcome = train(engine, rows_of_numbers(), settings=SETTINGS, steps=6, seed=1, run=Run())
    assert torch.allclose(engine.m.detach(), ema, atol=1e-6)
    assert outcome.raw is not None
    assert torch.allclose(outcome.raw["m"], path[-1], atol=1e-6)
    assert torch.equal(outcome.weights["m"], engine.m.detach())


class _StopAfter(Run):
    """A run that wants to stop after so many steps, and leaves the engine as it is then."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.asked, self.steps = 0, steps

    def stopping(self) -> bool:
        self.asked += 1
        return self.asked > self.steps


def test_turns_move_their_own_parameters_and_keep_their_pace() -> None:
    engine = Dropping()
    outcome = train(engine, rows_of_numbers(), settings=SETTINGS, steps=7, seed=0, run=Run())
    assert list(outcome.losses["body"]) == list(range(7))
    assert list(outcome.losses["judge"]) == [0, 3, 6]
    assert all(p.requires_grad and p.grad is None for p in engine.parameters())
    alone = Dropping()
    train(alone, rows_of_numbers(), settings=SETTINGS, steps=1, seed=0, run=Run(), objective=_OnlyBody())
    fresh = Dropping().state_dict()
    assert not torch.equal(alone.state_dict()["body.0.weight"], fresh["body.0.weight"])
    assert torch.equal(alone.state_dict()["judge.weight"], fresh["judge.weight"])


class _OnlyBody(Objective):
    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        assert isinstance(engine, Learns)
        return engine.turns()[:1]


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    first, second, other = Dropping(), Dropping(), Dropping()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = train(first, rows_of_numbers(), settings=SETTINGS, steps=9, seed=3, run=Run())
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    b = train(second, rows_of_numbers(), settings=SETTINGS, steps=9, seed=3, run=Run())
    train(other, rows_of_numbers(), settings=SETTINGS, steps=9, seed=4, run=Run())
    assert a.losses == b.losses
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.state_dict()["body.0.weight"], other.state_dict()["body.0.weight"])


def test_bfloat16_stays_near_float32() -> None:
    a = train(Dropping(), rows_of_numbers(), settings=SETTINGS, steps=5, seed=3, run=Run())
    b = train(Dropping(), rows_of_numbers(), settings=SETTINGS, steps=5, seed=3, run=Run(precision="bfloat16"))
    assert a.losses != b.losses
    for k, loss in a.losses["body"].items():
        assert b.losses["body"][k] == pytest.approx(loss, rel=0.03)
    with pytest.raises(BadInput, match="float32, bfloat16"):
        train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=1, seed=0, run=Run(precision="float16"))


def test_an_objective_may_bring_parameters_of_its_own() -> None:
    class Slide(Objective):
        def __init__(self) -> None:
            self.by = nn.Parameter(torch.zeros(5))

        def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
            assert isinstance(base, Mean)
            return (Turn("slide", [self.by], lambda batch, rows: (batch.x - base.m - self.by).square().sum(-1)),)

    slide, base, engine = Slide(), Mean(), Mean()
    train(engine, rows_of_numbers(), settings=SETTINGS, steps=5, seed=0, run=Run(), objective=slide, base=base)
    assert slide.by.abs().min() > 0
    assert engine.m.abs().max() == 0
    assert base.m.abs().max() == 0
    assert base.m.requires_grad, "frozen for the time of training alone"


# How a job ends


class Failing(nn.Module, Learns):
    """Not a number from step `at` on: in the loss of item 11, or in the gradient."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        self.net, self.at, self.where, self.step = nn.Linear(5, 1), at, where, 0

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("fail", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        out: Tensor = self.net(batch.x)[:, 0]
        self.step += 1
        if self.step - 1 < self.at:
            return out.square()
        if self.where == "row":
            return torch.where(batch.ids == 11, math.nan, out.square())
        # the square root of 0: its value is finite, its slope is not
        return out.square() + (self.net.bias - self.net.bias.detach()).abs().sqrt().sum()


def test_a_row_that_is_not_a_number_stops_on_its_step(tmp_path: Path) -> None:
    order = Order(5, 37, 8)
    at = next(k for k in range(10, 20) if 11 in order.ids(k))
    events: list[Event] = []
    run = Run(folder=tmp_path, listeners=[events.append])
    keep = Checkpoints(tmp_path / "checkpoints", steps=3)
    with pytest.raises(
        NonFiniteLoss, match=rf"'fail' is nan at step {at} in 1 of 8 rows \(items 11\).*step {at // 3 * 3} is kept"
    ):
        train(Failing(10, "row"), rows_of_numbers(), settings=SETTINGS, steps=50, seed=5, run=run, keep=keep)
    assert max(read_losses(tmp_path / "events.jsonl")) == at - 1
    state = keep.latest(run)
    assert state is not None
    assert state.step == at // 3 * 3
    assert [e.step for e in events if isinstance(e, Alarmed)] == [at]


def test_a_bad_buffer_is_named_when_it_spoils_every_row() -> None:
    x = rows_of_numbers().take(torch.arange(37)).x
    x[3, 2] = math.nan  # spoils the scale that preparation learns
    with pytest.raises(NonFiniteLoss, match="at step 0 in all 8 rows, since 'scale' is not a number"):
        train(Dropping(), TensorExamples(x), settings=SETTINGS, steps=5, seed=0, run=Run())


def test_a_gradient_that_is_not_finite_names_its_parameter() -> None:
    engine = Failing(4, "gradient")
    with pytest.raises(NonFiniteLoss, match="gradient of 'net.bias' in turn 'fail' is not finite at step 4"):
        train(engine, rows_of_numbers(), settings=SETTINGS, steps=50, seed=5, run=Run())
    assert all(torch.isfinite(p).all() for p in engine.parameters())


def test_a_rate_out_of_bounds_never_leaves_bad_weights_on_disk(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path, steps=1, keep=100)
    settings = replace(SETTINGS, rate=1e38, optimizer="sgd", clip=None, ema=None, warmup=0.0)
    with pytest.raises(NonFiniteLoss, match="smaller learning rate"):
        train(Mean(), rows_of_numbers(), settings=settings, steps=9, seed=0, run=Run(), keep=keep)
    state = keep.latest(Run())
    assert state is None or all(torch.isfinite(t).all() for t in state.part("weights").values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_saves_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    run = Run(folder=tmp_path)
    run.listeners.append(lambda e: run.stop(number) if isinstance(e, Progress) else None)
    with pytest.raises(Stopped, match=rf"after 1 of 9 steps.*--resume {tmp_path}") as caught:
        train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=9, seed=0, run=run, keep=Checkpoints(tmp_path / "c"))
    assert caught.value.exit_code == code
    assert Stopped.exit_code == 130
    state = Checkpoints(tmp_path / "c").latest(Run())
    assert state is not None
    assert state.step == 1


def test_a_stop_before_the_first_step_can_be_resumed(tmp_path: Path) -> None:
    run, keep = Run(), Checkpoints(tmp_path)
    run.stop()
    with pytest.raises(Stopped):
        train(Dropping(), rows_of_numbers(), settings=SETTINGS, steps=4, seed=0, run=run, keep=keep)
    resumed, whole = Dropping(), Dropping()
    start = keep.latest(Run())
    train(resumed, rows_of_numbers(), settings=SETTINGS, steps=4, seed=0, run=Run(), start=start)
    train(whole, rows_of_numbers(), settings=SETTINGS, steps=4, seed=0, run=Run())
    assert all(torch.equal(t, whole.state_dict()[k]) for k, t in resumed.state_dict().items())


def test_progress_and_journal_tell_the_same_story(tmp_path: Path) -> None:
    events: list[Event] = []
    run = Run(folder=tmp_path, listeners=[events.append])
    keep = Checkpoints(tmp_path / "checkpoints", steps=4)
    outcome = train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=10, seed=0, run=run, keep=keep)
    assert len(run.listeners) == 1
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[0].done == 0
    assert progress[-1].done == progress[-1].total == 10
    assert progress[-1].losses == {"mean": outcome.losses["mean"][9]}
    assert [e.step for e in events if isinstance(e, Checkpointed)] == [4, 8, 10]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if "loss" in r] == list(range(10))
    assert {k: r["mean"] for k, r in read_losses(tmp_path / "events.jsonl").items()} == outcome.losses["mean"]
    assert [r["step"] for r in lines if r.get("event") == "Checkpointed"] == [4, 8, 10]
    assert not any(r.get("event") == "Progress" for r in lines)


# Refusals


def test_going_on_with_something_else_is_refused(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path, steps=2)
    train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=4, seed=0, run=Run(), keep=keep)
    start = keep.latest(Run())
    assert start is not None

    def go_on(engine: nn.Module | None = None, data: TensorExamples | None = None, **changed: object) -> None:
        arguments = {"settings": SETTINGS, "steps": 4, "seed": 0, "run": Run(), "keep": keep, "start": start, **changed}
        train(engine or Mean(), data or rows_of_numbers(), **arguments)  # type: ignore[arg-type]

    go_on()
    with pytest.raises(BadInput, match="steps 5. Accepted: 4"):
        go_on(steps=5)
    with pytest.raises(BadInput, match="seed 1"):
        go_on(seed=1)
    with pytest.raises(BadInput, match="settings"):
        go_on(settings=replace(SETTINGS, rate=0.1))
    with pytest.raises(BadInput, match="data"):
        go_on(data=rows_of_numbers(seed=1))
    with pytest.raises(BadInput, match="Dropping"):
        go_on(Dropping())
    with pytest.raises(BadBundle, match=r"'m' in the checkpoint's weights is torch.float32 \(5,\). Accepted: .*\(6,\)"):
        go_on(Mean(6))


def test_an_engine_that_does_not_learn_is_refused() -> None:
    with pytest.raises(MissingCapability, match="Tally is not trained by gradients"):
        Step(Tally())
    with pytest.raises(MissingCapability, match="Mean does not count"):
        count(Mean(), rows_of_numbers(), 3, Run())


def test_losses_of_another_shape_are_refused() -> None:
    class Summed(Mean):
        def turns(self) -> tuple[Turn, ...]:
            return (Turn("sum", [self.m], lambda batch, rows: (batch.x - self.m).square().sum()),)

    with pytest.raises(BadInput, match=r"losses of shape \(\) for 8 rows"):
        train(Summed(), rows_of_numbers(), settings=SETTINGS, steps=1, seed=0, run=Run())
    step = Step(Mean())
    with pytest.raises(BadInput, match="Did you mean 'mean'"):
        step("meen", rows_of_numbers().take(torch.arange(2)), Rows(0, torch.arange(2)))


def test_a_batch_too_large_for_memory_is_one_sentence() -> None:
    class Vast(Mean):
        def losses(self, batch: Batch, rows: Rows) -> Tensor:
            return torch.empty(10**15).sum() + super().losses(batch, rows)

    with pytest.raises(BadInput, match=r"a batch of 8 does not fit into memory.*batch=4"):
        train(Vast(), rows_of_numbers(), settings=SETTINGS, steps=1, seed=0, run=Run())


# Counting


@pytest.mark.parametrize("shards", [1, 4, 100])
def test_counting_sees_each_item_once_and_goes_on_where_it_was(tmp_path: Path, shards: int) -> None:
    data = TensorExamples(Rows(0, torch.arange(23)).integers(4, 1))
    whole, keep = Tally(), Checkpoints(tmp_path / "c", keep=3)
    count(whole, data, shards, Run(), keep)
    assert sorted(i for ids in whole.absorbed for i in ids) == list(range(23))
    assert whole.counts.equal(torch.bincount(data.take(torch.arange(23)).x[:, 0], minlength=4))
    if shards == 1:
        return
    run, broken = Run(folder=tmp_path), Tally()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) and e.step == 2 else None)
    with pytest.raises(Stopped, match="after 2 of"):
        count(broken, data, shards, run, keep)
    resumed, start = Tally(), keep.latest(Run())
    assert start is not None
    assert start.step == 2
    count(resumed, data, shards, Run(), keep, start)
    assert broken.absorbed[:2] + resumed.absorbed == whole.absorbed
    assert resumed.shares.equal(whole.shares)
    with pytest.raises(BadInput, match="shards 3"):
        count(Tally(), data, 3, Run(), keep, start)


# Journal


def test_the_journal_is_cut_at_its_step_and_at_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path, 0)
    for k in range(5):
        journal.losses(k, {"a": 1 / (k + 3)})
        if k == 2:
            journal.listen(Replanned(at=3, steps=9))
    journal.close()
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"step":5,"lo')
    (tmp_path / ".left.tmp").write_text("by a killed process")
    Journal(path, 5).close()
    assert path.read_bytes() == whole
    assert read_losses(path)[4] == {"a": 1 / 7}
    assert [p.name for p in tmp_path.iterdir()] == ["events.jsonl"]
    Journal(path, 3).close()
    assert path.read_bytes().splitlines() == whole.splitlines()[:4]
    Journal(path, 0).close()
    assert path.read_bytes() == b""
