"""What a model is made of: five pieces at work, measured on items it has not seen, and a check that can fail."""

from __future__ import annotations

import pytest

from pellucid.core.described_model import learned_numbers
from pellucid.core.errors import BadInput
from pellucid.core.report import Curve, Frames, Measured, Pictures, Table, Verdict
from pellucid.domains.pictures import Pictures as PictureData
from pellucid.domains.text_files import text_of
from pellucid.explain.process import NOISES, ProcessReport, process
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.ngram import NGram
from pellucid.fitting import fit, halves
from pellucid.model import Fitted

FIVE = ["forward process", "reverse process", "network", "loss", "training data"]


@pytest.fixture(scope="module")
def report(digits_model: Fitted) -> ProcessReport:
    losses = {step: {"velocity": 1.0 / (1 + step)} for step in range(200)}
    return process(digits_model, seed=1, losses=losses)


def shown(report: ProcessReport, name: str) -> tuple[object, ...]:
    return next(c.shown for c in report.components if c.part.name == name)


def test_the_five_pieces_in_order(report: ProcessReport) -> None:
    assert [c.part.name for c in report.components] == FIVE
    assert all(c.shown for c in report.components)


def test_every_piece_is_shown_with_pictures_of_this_model(report: ProcessReport) -> None:
    (strip,) = shown(report, "forward process")
    assert isinstance(strip, Pictures)
    assert len(strip.images) == 1 + len(NOISES)
    assert isinstance(shown(report, "reverse process")[0], Frames)
    assert isinstance(shown(report, "network")[1], Pictures)
    assert isinstance(shown(report, "training data")[1], Pictures)


def test_the_loss_is_measured_at_each_noise_level_on_unseen_items(report: ProcessReport) -> None:
    levels = report.levels
    assert levels is not None
    assert not levels.seen
    errors = [e.value for e in levels.trained]
    assert errors == sorted(errors), "more noise, more error"
    assert 0 < errors[0] < 0.1
    assert all(e.value <= s.value for e, s in zip(levels.trained, levels.scaled, strict=True))
    curve, table, fall = shown(report, "loss")
    assert isinstance(curve, Curve)
    assert isinstance(table, Table)
    assert isinstance(fall, Curve)
    assert len(fall.series[0].x) == 60


def test_it_carries_seed_cost_and_check(report: ProcessReport) -> None:
    assert report.check is not None
    assert report.check.passed
    text = report.to_text()
    assert "arXiv:2210.02747" in text
    assert "network evaluations" in text
    assert report.to_html()


def test_an_untrained_model_is_shown_in_red(digits: PictureData) -> None:
    model = fit(digits.take(range(200)), FlowMatching(width=8, depth=1), steps=1, held_out=0.3)
    report = process(model)
    assert report.check is not None
    assert not report.check.passed
    assert any(isinstance(b, Verdict) and b.level == "fail" for b in report.blocks())


def test_without_held_out_items_it_says_so(digits: PictureData) -> None:
    model = fit(digits.take(range(100)), FlowMatching(width=8, depth=1), steps=1, held_out=0.0)
    report = process(model)
    assert report.levels is not None
    assert report.levels.seen
    assert "No items were held out" in report.to_text()


def test_tables_are_shown_as_rows(people_model: Fitted) -> None:
    report = process(people_model)
    assert [c.part.name for c in report.components] == FIVE
    (rows,) = shown(report, "forward process")
    assert isinstance(rows, Table)
    assert len(rows.rows) == 1 + len(NOISES)
    assert isinstance(shown(report, "reverse process")[0], Table)


@pytest.mark.parametrize("family", ["vae", "ngram"])
def test_other_families_show_their_own_pieces(family: str, digits: PictureData) -> None:
    model = fit(digits.take(range(120)), family, steps=2)
    report = process(model)
    assert model.family is not None
    names = [c.part.name for c in report.components]
    assert names[: len(model.family.parts())] == [p.name for p in model.family.parts()]
    assert names[-1] == "training data"
    assert report.check is None
    assert report.to_text()


def test_no_data_at_hand(digits_model: Fitted) -> None:
    from dataclasses import replace

    with pytest.raises(BadInput, match="no data"):
        process(replace(digits_model, data=None))


def test_a_model_that_counted_says_how_much_and_scores_what_it_knows_and_does_not() -> None:
    """Engines without weights and losses: their counts, their likelihood, and few texts that do not overlap."""
    data = text_of("one fish two fish red fish blue fish " * 40, window=16)
    model = fit(data, NGram(), steps=16, held_out=0.2)
    report = process(model)
    (parts,), (scores,) = shown(report, "network"), shown(report, "score")
    assert isinstance(parts, Table)
    assert parts.rows[-1][2] == learned_numbers(model.engine) > 0
    assert isinstance(scores, Table)
    assert [row[0] for row in scores.rows] == ["training items", "items not trained on"]
    exact = model.log_prob(data.take(halves(data, 0.2, 0)[1])).value
    assert isinstance(scores.rows[1][1], Measured)
    assert abs(scores.rows[1][1].value - float(exact.mean())) < 2.0 * float(exact.std())
    assert "real training texts" in report.to_text()
    assert "pictures" not in report.to_text()
    assert all(c.shown for c in report.components[len(NGram().parts()) :])
