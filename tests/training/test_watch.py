"""The copy ratio: silent over honest models, loud over one that knows its rows by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Learns, Samples, Turn
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Alarmed, Event, Noticed, Previewed, Run
from pellucid.core.space import Field, Mixed, Real, Tokens
from pellucid.core.trace import Trace
from pellucid.training.looks import Looks
from pellucid.training.loop import train
from pellucid.training.previews import Previews
from pellucid.training.step import Step
from pellucid.training.walk import Walk
from pellucid.training.watch import CopyRatio, Seen, Watch
from tests.training.toys import SETTINGS, Dropping, Heart, Mean, Tally, rows_of_numbers

KNOWN, ASIDE = rows_of_numbers(300, seed=1), rows_of_numbers(200, seed=2)


def seen(engine: torch.nn.Module, events: list[Event], seed: int = 0) -> Seen:
    return Seen(engine, 10, 40, seed, KNOWN, ASIDE, None, Run(listeners=[events.append]))


def test_an_honest_model_is_not_suspected() -> None:
    for seed in range(5):
        events: list[Event] = []
        share = CopyRatio().measure(seen(Heart(None), events, seed))
        assert share.low <= 0.5 <= share.high + 0.1
        CopyRatio().look(seen(Heart(None), events, seed))
        assert events == []


def test_a_model_that_copies_is_named() -> None:
    events: list[Event] = []
    heart = Heart(KNOWN.take(torch.arange(300)).x)
    # 200 of its 300 rows are compared, so it is caught by its share of these
    assert CopyRatio().measure(seen(heart, events)).value > 0.7
    CopyRatio().look(seen(heart, events))
    (alarm,) = events
    assert isinstance(alarm, Alarmed)
    assert (alarm.topic, alarm.step) == ("copying", 10)
    assert "closer to training rows" in alarm.text


def test_a_few_rows_that_many_samples_are_near_to_raise_no_alarm() -> None:
    """Whether two crowded rows were trained on or held out was chance, however many samples lie near them."""
    few = Seen(Heart(KNOWN.take(torch.arange(2)).x), 10, 40, 0, KNOWN, ASIDE, None, Run())
    share = CopyRatio().measure(few)
    assert share.low < 0.5
    assert share.n > 200


def test_time_bounds_the_samples_of_a_look() -> None:
    watch, needs = CopyRatio(), list[float]()
    enough, none = seen(Heart(None), []), replace(seen(Heart(None), []), seconds=0.0)
    assert watch.measure(enough, needs).n == 256
    assert needs == []
    assert watch.measure(none, needs).n <= 4, "the four whose time was taken"
    assert needs[0] > 0.0
    assert watch.look(none) is not None


def test_what_was_found_is_said_at_the_end() -> None:
    events: list[Event] = []
    CopyRatio().look(replace(seen(Heart(None), events), step=40))
    (notice,) = events
    assert isinstance(notice, Noticed)
    assert "half is expected" in notice.text


def test_one_that_copies_what_was_held_out_is_no_copier_of_training() -> None:
    heart = Heart(ASIDE.take(torch.arange(200)).x)
    assert CopyRatio().measure(seen(heart, [])).value < 0.1


def test_symbols_are_compared_as_symbols() -> None:
    """A symbol's number means nothing: 0 is as far from 1 as from 9."""
    space = Tokens(10, 3)
    x, pool = torch.tensor([[0, 0, 0]]), torch.tensor([[9, 0, 0], [1, 1, 0]])
    assert CopyRatio(space=space)._nearest(x, pool, None)[0].tolist() == [1.0]
    assert CopyRatio()._nearest(x, pool, None)[0].tolist() == [1.0]
    assert CopyRatio()._nearest(x.float(), pool.float(), None)[0].tolist() == pytest.approx([2.0])


def test_mixed_events_divide_numbers_by_their_spread() -> None:
    space = Mixed((Field("age", Real((1,))), Field("kind", Tokens(5, 1))))
    watch = CopyRatio(space=space)
    pool = torch.tensor([[1000.0, 2.0], [3000.0, 4.0]])
    spread = watch._spread(pool)
    assert spread is not None
    near, places = watch._nearest(torch.tensor([[1000.0, 4.0]]), pool, spread)
    assert places.tolist() == [0]
    assert near.tolist() == pytest.approx([1.0])
    half = torch.tensor([[3000.0 - float(spread[0]) / 2, 4.0]])
    assert watch._nearest(half, pool, spread)[0].item() == pytest.approx(0.25)


def test_looks_are_spread_and_end_at_the_end() -> None:
    assert [k for k in range(1, 41) if CopyRatio(looks=4).due(k, 40)] == [10, 20, 30, 40]
    assert [k for k in range(1, 4) if CopyRatio(looks=9).due(k, 3)] == [1, 2, 3]


def test_what_it_needs_is_said() -> None:
    with pytest.raises(MissingCapability, match="Tally does not draw"):
        CopyRatio().measure(seen(Tally(), []))
    with pytest.raises(BadInput, match="no rows were held out"):
        CopyRatio().measure(Seen(Heart(None), 1, 2, 0, KNOWN, None, None, Run()))
    with pytest.raises(BadInput):
        CopyRatio(looks=0)


class Both(Mean, Learns, Samples):
    """Learns a mean, and draws around it."""

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("mean", [self.m], self.losses),)

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        assert not self.training
        assert set(condition.values) == {"class"}
        return self.m + rows.normal(5) + torch.rand(5)  # disturbs torch's own generator, as it must not


class Noting(Watch):
    """Keeps the weights it was shown."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def due(self, step: int, steps: int) -> bool:
        return step % 3 == 0

    def look(self, seen: Seen) -> None:
        assert not torch.is_grad_enabled()
        self.weights.append(next(iter(seen.engine.parameters())).detach().clone())


class Costly(Watch):
    """Takes a fixed time; says beforehand when it is not given as much."""

    def __init__(self, clock: list[float], cost: float) -> None:
        self.clock, self.cost, self.steps = clock, cost, list[int]()

    def due(self, step: int, steps: int) -> bool:
        return step % 10 == 0

    def look(self, seen: Seen) -> float | None:
        if seen.seconds < self.cost:
            return self.cost
        self.clock[0] += self.cost
        self.steps.append(seen.step)
        return None


def test_looks_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    engine, costly = Dropping(), Costly(clock, 0.5)
    looks = Looks([costly], seen(engine, []), 0.02, 0.0)
    with Walk(Step(engine), KNOWN, SETTINGS, 0, Run()) as walk:
        for k in range(1, 101):
            clock[0] += 1.0
            looks.look(walk, k, 100, Run())
    assert 3 <= len(costly.steps) <= 4
    assert costly.steps[0] >= 25, "half a second is a fiftieth of 25 seconds"
    assert looks.spent <= 0.02 * clock[0]


def test_watching_changes_nothing_and_sees_the_average(tmp_path: Path) -> None:
    noting = Noting()
    watched = train(
        Both(),
        KNOWN,
        settings=SETTINGS,
        steps=9,
        seed=0,
        run=Run(folder=tmp_path),
        held_out=ASIDE,
        watch=[CopyRatio(samples=16, looks=3), noting],
    )
    alone = train(Both(), KNOWN, settings=SETTINGS, steps=9, seed=0, run=Run())
    assert watched.losses == alone.losses
    assert torch.equal(watched.weights["m"], alone.weights["m"])
    assert len(noting.weights) == 3
    assert torch.equal(noting.weights[-1], alone.weights["m"]), "the average, which the engine holds at the end"
    dropping = [
        train(Dropping(), KNOWN, settings=SETTINGS, steps=9, seed=0, run=Run(), watch=w) for w in ([], [noting])
    ]
    assert dropping[0].losses == dropping[1].losses


@pytest.mark.parametrize("seconds", [9.0, float("inf")])
def test_samples_that_cannot_be_shown_do_not_end_training(seconds: float) -> None:
    """Early weights can draw what no picture is; that is said, and asked again at the next look."""
    events: list[Event] = []

    def draw(ids: Sequence[int]) -> str:
        raise BadInput("events hold NaN")

    previews = Previews(draw)
    assert previews.look(replace(seen(Heart(None), events), seconds=seconds)) is None
    (event,) = events
    assert isinstance(event, Noticed)
    assert "No samples were kept at step 10" in event.text


def test_previews_are_timed_once_and_then_wait_for_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample takes 1.1 seconds, each further one a tenth: sixteen are expected to take 2.6."""
    clock, drawn, events = [0.0], list[int](), list[Event]()

    def draw(ids: Sequence[int]) -> str:
        clock[0] += 1.0 + 0.1 * len(ids)
        drawn.append(len(ids))
        return "samples"

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    previews = Previews(draw, lambda step, items: f"{step} {items}")
    at = seen(Heart(None), events)
    assert previews.look(replace(at, seconds=0.5)) == pytest.approx(2.6)
    assert previews.look(replace(at, seconds=2.0)) == pytest.approx(2.6)
    assert drawn == [1, 4]
    assert previews.look(replace(at, seconds=2.7)) is None
    assert drawn == [1, 4, 16]
    (event,) = events
    assert isinstance(event, Previewed)
    assert (event.step, event.path, event.items) == (10, "10 samples", "samples")
