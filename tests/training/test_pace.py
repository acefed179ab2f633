"""The clock bends the plan both ways: steps are dropped when time runs short and added when it is left over."""

from __future__ import annotations

import pytest

from pellucid.training import loop
from pellucid.training.loop import _Pace


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def walked(each: float, monkeypatch: pytest.MonkeyPatch, planned: int = 100, budget: float = 100.0) -> list[int]:
    """Totals of the plan over a run whose steps take `each` seconds."""
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    pace, steps, totals, k = _Pace(clock.now, budget), planned, [planned], 0
    while k < steps:
        pace.tick(k, clock.now)
        if found := pace.fitting(k, steps):
            steps = found
            totals.append(found)
            continue
        clock.now += each
        k += 1
    assert clock.now - 1000.0 <= 1.03 * budget + each
    return totals


def test_a_right_plan_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert walked(0.95, monkeypatch) == [100]


def test_slow_steps_shorten_it(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = walked(2.0, monkeypatch)
    assert totals[-1] == pytest.approx(50, abs=2)


def test_time_that_is_left_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = walked(0.1, monkeypatch)
    assert totals[-1] == pytest.approx(1000, rel=0.03)


def test_without_a_deadline_nothing_bends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    pace = _Pace(clock.now, None)
    for k in range(20):
        pace.tick(k, clock.now)
        clock.now += 50.0
        assert pace.fitting(k, 100) == 0
