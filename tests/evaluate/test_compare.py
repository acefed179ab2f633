"""Comparisons of made models: who leads is named when it is so, and not otherwise."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pellucid.core.errors import BadInput, Stopped
from pellucid.core.report import Table
from pellucid.core.run import Event, Run
from pellucid.domains.frames import read_table
from pellucid.domains.read import read
from pellucid.evaluate.compare import compare, compare_models, divide
from pellucid.evaluate.compare_report import CompareReport, lead
from pellucid.evaluate.metrics import PICTURES, TABLES, Contestant, Metric, Reading, Result
from pellucid.evaluate.resampling import Absent, Estimate, halves, of_rows
from tests.evaluate.made import bars, people, replaying, uniform

UP = Metric("m", "metric", "higher", "Higher is better.")
DOWN = Metric("m", "metric", "lower", "Lower is better.")


def reading(value: float, name: str, *, bound: bool = False, league: str = "", n: int = 100) -> Reading:
    rows = np.random.default_rng(len(name)).normal(value, 0.1, n)
    return Reading(of_rows(rows - rows.mean() + value, halves(n, name, seed=0)), bound=bound, league=league)


@pytest.fixture(scope="module")
def report() -> CompareReport:
    train, held_out = bars(500, 0), bars(400, 1)
    models = {
        "good": replaying(bars(3000, 2), "good", labels=True),
        "twin": replaying(bars(3000, 3), "twin", labels=True),
        "half": replaying(bars(3000, 4, classes=(0, 1)), "half"),
        "thief": replaying(train, "thief", labels=True),
        "uniform": uniform(train),
    }
    return compare_models(models, train, held_out, seed=0)


def test_a_model_without_a_mode_or_without_form_does_not_lead(report: CompareReport) -> None:
    values = {name: report.interval("coverage", name) for name in ("good", "half", "uniform")}
    assert values["good"] is not None
    assert values["half"] is not None
    assert values["uniform"] is not None
    assert values["good"].value > values["half"].value > values["uniform"].value
    beaten = {found.second for found in report.leads["frechet"] if found.decided}
    assert {"half", "uniform"} <= beaten
    assert report.winner("frechet") is None  # good, twin and thief draw from one distribution
    assert "no difference is shown" in next(s for s in report.sentences() if "Fréchet" in s)


def test_the_thief_is_seen(report: CompareReport) -> None:
    assert report.warnings()
    assert all("thief" in text for text in report.warnings())
    copied, thief = report.interval("closer", "real, copied"), report.interval("closer", "thief")
    assert copied is not None
    assert thief is not None
    assert thief.value == pytest.approx(copied.value, abs=0.12)
    identical = report.interval("identical", "thief")
    assert identical is not None
    assert identical.value == 1.0


def test_real_data_reads_the_floor(report: CompareReport) -> None:
    real, good = report.result("frechet", "real, unseen"), report.result("frechet", "good")
    assert isinstance(real, Reading)
    assert isinstance(good, Reading)
    assert not good.estimate.minus(real.estimate).decided
    half = report.interval("closer", "real, unseen")
    assert half is not None
    assert half.low < 0.5 < half.high


def test_the_model_that_knows_nothing_does_not_beat_the_baseline(report: CompareReport) -> None:
    said = report.no_better_than_baseline()
    assert any(text.startswith("uniform is not shown to do better than independent pixels on") for text in said)
    assert not any(text.startswith("good") for text in said)


def test_what_cannot_be_measured_has_a_reason(report: CompareReport) -> None:
    bits = report.result("bits", "good")
    assert isinstance(bits, Absent)
    assert bits.topic == "capability"
    assert report.interval("bits", "uniform") is not None
    unasked = report.result("asked_class", "half")
    assert isinstance(unasked, Absent)
    assert "not made for a class" in unasked.why
    judged = report.interval("asked_class", "good")
    assert judged is not None
    assert judged.value > 0.95


def test_the_report_shows_itself_in_every_medium(report: CompareReport) -> None:
    text = report.to_text(200)
    assert "— (1)" in text
    assert "Fréchet distance ↓" in text
    assert report.to_markdown()
    assert "good" in report.to_html()
    found = json.loads(report.to_json())
    assert found
    tables = [b for b in report.blocks() if isinstance(b, Table)]
    assert all(len(row) == len(t.columns) for t in tables for row in t.rows)


def test_every_number_says_its_n_its_measure_and_its_interval(report: CompareReport) -> None:
    for readings in report.results.values():
        for found in readings.values():
            if isinstance(found, Reading):
                interval = found.estimate.interval()
                assert interval.n >= 100
                assert interval.low <= interval.value <= interval.high
                assert found.by


def test_the_same_seed_gives_the_same_numbers() -> None:
    train, held_out = bars(100, 5), bars(60, 6)
    first, second = (compare_models([uniform(train)], train, held_out, n=30, seed=3) for _ in range(2))
    assert first._plain() == second._plain()
    assert first.n == 30


def test_a_leader_needs_every_difference() -> None:
    near, far = {"a": reading(0.9, "a"), "b": reading(0.5, "b")}, {"c": reading(0.899, "cc")}
    assert all(found.decided for found in lead(UP, near))
    assert [found.decided for found in lead(UP, {**near, **far})] == [False, True]
    assert lead(DOWN, near)[0].first == "b"
    assert lead(UP, {"a": reading(0.9, "a"), "b": Absent("input", "none")}) == ()


def test_a_bound_can_lead_but_not_be_led() -> None:
    exact, worse, better = reading(3.0, "e"), reading(3.5, "w", bound=True), reading(2.5, "b", bound=True)
    assert not lead(DOWN, {"exact": exact, "bound": worse})[0].decided
    assert "only a bound" in lead(DOWN, {"exact": exact, "bound": worse})[0].why
    assert lead(DOWN, {"exact": exact, "bound": better})[0].decided
    assert "Bounds are compared" in lead(DOWN, {"first": worse, "second": better})[0].why


def test_other_terms_or_other_n_are_not_compared() -> None:
    strange: dict[str, Result] = {"a": reading(0.9, "a", league="given class"), "b": reading(0.5, "b")}
    assert (lead(UP, strange)[0].decided, lead(UP, strange)[0].difference) == (False, None)
    unequal: dict[str, Result] = {"a": reading(0.9, "a"), "b": reading(0.5, "b", n=80)}
    assert not lead(UP, unequal)[0].decided


def test_metrics_have_distinct_keys_and_a_meaning() -> None:
    for instruments in (PICTURES, TABLES):
        metrics = [m for i in instruments for m in i.metrics]
        assert len({m.key for m in metrics}) == len(metrics)
        assert all(m.meaning.endswith(".") for m in metrics)


def test_pictures_that_are_alike_stay_on_one_side() -> None:
    few = bars(40, 7)
    many = few.take(np.repeat(np.arange(40), 5))
    train, held_out = divide(many, seed=1)
    assert sorted([*train, *held_out]) == list(range(200))
    assert not {many.pixels[i].tobytes() for i in train} & {many.pixels[i].tobytes() for i in held_out}
    assert 50 <= len(held_out) <= 100
    assert all((a == b).all() for a, b in zip(divide(many, seed=1), (train, held_out), strict=True))
    assert len(divide(people(90, 0), seed=0)[1]) == 30


def test_too_little_data_is_refused() -> None:
    train = bars(30, 8)
    with pytest.raises(BadInput, match="20 or more held out"):
        compare_models([uniform(train)], train, bars(19, 9))
    with pytest.raises(BadInput, match="n is 5"):
        compare_models([uniform(train)], train, bars(40, 9), n=5)
    with pytest.raises(BadInput, match="no models"):
        compare_models([], train, bars(40, 9))
    with pytest.raises(BadInput, match="one kind"):
        compare_models([uniform(train)], train, people(40, 9))
    with pytest.raises(BadInput, match="this kind of data"):
        compare_models([uniform(train)], people(40, 8), people(40, 9))


def test_a_wrong_family_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(BadInput, match="difusion"):
        compare(bars(60, 10), ["ngram", "difusion"])
    with pytest.raises(BadInput, match="minutes above 0"):
        compare(bars(60, 10), ["ngram"], minutes=0)


def test_stopping_stops() -> None:
    run = Run()
    run.stop()
    with pytest.raises(Stopped):
        compare_models([uniform(bars(30, 11))], bars(30, 11), bars(40, 12), run=run)


def test_compare_fits_a_table_and_says_what_it_does() -> None:
    heard: list[Event] = []
    found = compare(people(240, 13), ["ngram"], minutes=0.05, n=60, run=Run(listeners=[heard.append]))
    assert [c.role for c in found.contestants] == ["model", "real", "copies", "baseline"]
    assert found.interval("utility", "ngram") is not None
    assert isinstance(found.result("utility", "real, unseen"), Absent)
    assert found.interval("pairs", "independent columns") is not None
    assert found.costs[0].train is not None
    assert any("fitting ngram" in str(event) for event in heard)
    assert "ngram" in found.title


def test_compare_reads_digits() -> None:
    found = compare(read("digits", limit=200), ["ngram"], minutes=0.05)
    assert found.interval("frechet", "ngram") is not None
    assert found.n == 33


def test_an_estimate_keeps_to_its_limits() -> None:
    low = Estimate(0.01, np.linspace(-0.1, 0.1, 50), 50, (0.0, 1.0)).interval()
    assert low.low == 0.0


def test_rows_with_missing_cells_of_every_kind_are_shown() -> None:
    """A gap of a whole-number column is pandas' NA, which is neither true nor false."""
    frame = pd.DataFrame(
        {
            "age": pd.array([30, None, 41], dtype="Int64"),
            "city": pd.array(["Rome", None, "Bonn"], dtype="string"),
            "day": pd.to_datetime(pd.Series(["2024-01-02", None, "2024-01-05"])),
            "price": [1.5, float("nan"), 2.5],
        }
    )
    rows = read_table(frame)
    contestants = (Contestant("made", "model", rows), Contestant("real, unseen", "real", rows))
    shown = CompareReport(contestants, (), {}, {}, (), 3, 0, {}, ())._shown()
    (table,) = [b for b in shown if isinstance(b, Table)]  # real rows are about somebody
    assert table.caption == "made"
    assert [list(row) for row in table.rows][:2] == [["30", "Rome", "2024-01-02", "1.5"], ["", "", "", ""]]
