"""The way of one sample: it is that sample's way, the numbers add up, and the check fails when it should."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Frames, Pictures, Table, Verdict
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.pictures import Pictures as PictureData
from pellucid.explain.sorting import sorter_for
from pellucid.explain.trajectory import TrajectoryReport, trajectory
from pellucid.explain.walk import walked
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit
from pellucid.model import Data, Fitted


@pytest.fixture(scope="module")
def report(digits_model: Fitted) -> TrajectoryReport:
    return trajectory(digits_model, seed=3, index=5, where={"class": "0"}, branches=8, steps=8)


def test_the_walk_is_the_samples_own(digits_model: Fitted) -> None:
    draw = digits_model.sample(6, seed=3, where={"class": "0"})
    walk = walked(digits_model, digits_model.engine, 3, 5, {"class": "0"}, None, 8)  # type: ignore[arg-type]
    torch.testing.assert_close(walk.final.clamp(-1, 1), draw.x[5:6], atol=1e-3, rtol=0.0)
    assert len(walk.x_t) == len(walk.denoised) == 8
    assert list(walk.x_t) == sorted(walk.x_t)
    assert walk.request == {"class": "0"}


def test_a_request_is_dropped_for_the_main_curve(report: TrajectoryReport) -> None:
    assert report.kept is not None
    assert report.asked == "0"
    late, early = report.main.shares[-1].value, report.main.shares[0].value
    assert late >= 0.9, "at the end the picture itself holds the class"
    assert early <= 0.6, "at the start it holds nothing"
    assert report.kept.shares[0].value > early, "the request holds what the picture does not"


def test_a_decision_lies_between_the_recorded_steps(report: TrajectoryReport) -> None:
    assert report.decided is not None
    assert report.main.log_snr[0] <= report.decided.low <= report.decided.value <= report.decided.high
    assert report.decided.high <= report.main.log_snr[-1]


def test_it_carries_method_seed_cost_assumptions_and_check(report: TrajectoryReport) -> None:
    text = report.to_text()
    for word in ("2402.18491", "network evaluations", "seed, sample", "3, 5", "class = 0", "right on", "fresh noise"):
        assert word in text, word
    assert report.check.passed
    assert report.check.ceiling < 1.0, "the judge's own accuracy"
    assert report.evaluations > 8 * 8
    assert report.to_html()
    assert report.to_markdown()
    assert '"decided"' in report.to_json()


def test_frames_show_what_was_seen_and_believed(report: TrajectoryReport) -> None:
    assert isinstance(report.frames, Frames)
    assert len(report.frames.steps) == 8
    assert isinstance(report.last, Pictures)
    seen, believed = report.frames.steps[-1].images.astype(float)
    assert np.abs(seen - report.last.images[0]).mean() < 60
    assert np.abs(believed - report.last.images[0]).mean() < 20


def test_the_same_call_gives_the_same_report(digits_model: Fitted) -> None:
    one, two = (trajectory(digits_model, seed=1, branches=4, steps=4) for _ in range(2))
    assert one.main == two.main
    assert one.own == two.own


def test_a_judge_that_guesses_is_shown_in_red(digits_model: Fitted) -> None:
    """Classes that do not hang on the picture: no walk keeps them, and the report says not to rely on it."""

    def guesses(items: Data) -> list[str]:
        assert isinstance(items, PictureData)
        return ["abcdefgh"[hashlib.sha256(p.tobytes()).digest()[0] % 8] for p in items.pixels]

    report = trajectory(digits_model, classifier=guesses, branches=16, steps=6)
    assert not report.check.passed
    verdicts = [b for b in report.blocks() if isinstance(b, Verdict)]
    assert any(v.level == "fail" and "do not rely" in v.text for v in verdicts)


class TestTables:
    def test_a_column_is_read(self, people_model: Fitted) -> None:
        report = trajectory(people_model, branches=8, steps=6, column="group")
        assert report.kept is None, "nothing was asked for"
        assert report.own in ("a", "b", "c")
        assert isinstance(report.frames, Table)
        assert len(report.frames.rows) == 6
        assert "group" in report.frames.columns
        assert report.check.passed

    def test_numbers_are_parted_in_thirds(self, people_model: Fitted, people: TableData) -> None:
        sorter = sorter_for(people_model, people, column="weight")
        shares = np.bincount(sorter.says(people), minlength=3) / len(people)
        assert np.abs(shares - 1 / 3).max() < 0.02
        assert sorter.accuracy is None

    def test_rows_met_by_rejection_are_found(self, people_model: Fitted) -> None:
        draw = people_model.sample(3, seed=2, where={"group": "b"})
        report = trajectory(people_model, seed=2, index=2, where={"group": "b"}, branches=4, steps=4, column="group")
        assert report.own == "b"
        assert isinstance(report.last, Table)
        shown = people_model.codec.show(draw.items)
        assert isinstance(shown, Table)
        assert report.last.rows[0][0] == shown.rows[2][0]

    def test_a_target_is_judged_from_the_other_columns(self, people: TableData) -> None:
        table = read_table(people.frame, target="group")
        model = fit(table, FlowMatching(width=64, depth=2), steps=200)
        sorter = sorter_for(model, table)
        assert sorter.request == "group"
        assert sorter.accuracy is not None
        assert sorter.accuracy.value > 0.9
        report = trajectory(model, where={"group": "c"}, branches=8, steps=5)
        assert (report.asked, report.own) == ("c", "c")
        assert report.kept is not None


def test_data_without_classes_is_grouped(digits: PictureData, digits_model: Fitted) -> None:
    bare = PictureData(pixels=digits.pixels, levels=digits.levels)
    sorter = sorter_for(digits_model, bare)
    assert "k-means" in sorter.words
    assert set(sorter.says(bare)) == set(range(8))


def test_dates_and_missing_values_can_be_classes(people_model: Fitted) -> None:
    frame = pd.DataFrame(
        {"day": pd.date_range("2024-01-01", periods=90), "count": pd.array([None, *range(89)], "Int64")}
    )
    table = read_table(frame)
    for column in ("day", "count"):
        sorter = sorter_for(people_model, table, column=column)
        assert len(set(sorter.says(table))) == 3


class TestRefusals:
    def test_a_model_that_does_not_denoise(self, digits: PictureData) -> None:
        model = fit(digits.take(range(100)), "vae", steps=1)
        with pytest.raises(MissingCapability, match="way from noise"):
            trajectory(model)

    def test_no_data_at_hand(self, digits_model: Fitted) -> None:
        from dataclasses import replace

        with pytest.raises(BadInput, match="no data"):
            trajectory(replace(digits_model, data=None))

    @pytest.mark.parametrize("wrong", [{"index": -1}, {"steps": 2}, {"branches": 1}])
    def test_wrong_numbers(self, digits_model: Fitted, wrong: dict[str, int]) -> None:
        with pytest.raises(BadInput, match=next(iter(wrong))):
            trajectory(digits_model, **wrong)  # type: ignore[arg-type]
