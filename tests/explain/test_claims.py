"""What explanations hand to the gate: badges of real models, and of answers that are no answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pellucid.core.interval import Interval
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import text_of
from pellucid.explain.claims import Asked, _elsewhere, badge_of
from pellucid.explain.counterfactual import counterfactual
from pellucid.explain.explained import explain_sample
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.oddities import oddities
from pellucid.explain.parts import parts
from pellucid.explain.process import process
from pellucid.explain.provenance import provenance
from pellucid.explain.saliency import saliency
from pellucid.explain.turning import Direction
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.masked import Masked
from pellucid.fitting import fit
from pellucid.model import Fitted


@pytest.fixture(scope="module")
def masked(people: TableData) -> Fitted:
    return fit(people, Masked(width=32, depth=1), steps=250, held_out=0.2)


@pytest.fixture(scope="module")
def twice() -> Fitted:
    """Four letters, a dash and the same letters again: the cause of each is four places and the dash before it."""
    words = ["".join(w) for w in np.random.default_rng(0).choice(list("abcdef"), (1500, 4))]
    family = Autoregressive(width=32, depth=2, heads=4, dropout=0.0)
    return fit(text_of([f"{w}-{w}" for w in words]), family, steps=350, held_out=0.1)


def test_the_columns_that_masked_diffusion_finds_unusual_are_green_or_say_why(
    masked: Fitted, people: TableData
) -> None:
    badge = badge_of("parts", parts(masked, data=people, share=False), Asked(masked, people))
    assert badge.items == 8
    assert {t.name for t in badge.tests} == {"faithful", "specific", "reacts", "stable"}
    assert badge.of("stable").passed
    assert "columns are redrawn" in badge.of("faithful").detail
    assert badge.colour in ("green", "amber", "red")


def test_the_symbols_that_a_copy_rests_on_pass_the_deletion(twice: Fitted) -> None:
    assert twice.data is not None
    report = saliency(twice, data=twice.data, at=7)
    badge = badge_of("saliency", report, Asked(twice, twice.data))
    assert badge.of("faithful").passed, badge.of("faithful").detail
    assert badge.of("reacts").passed, badge.of("reacts").detail
    assert "when they alone are kept" in badge.of("faithful").detail


def test_a_denoiser_is_judged_by_its_own_check_made_again(digits: Pictures, digits_model: Fitted) -> None:
    badge = badge_of("process", process(digits_model, data=digits), Asked(digits_model, digits))
    assert badge.colour == "green", badge.tests
    assert badge.of("reacts").detail.startswith("the same check of a model that forgot")
    assert badge.seconds > 0


def test_a_failed_check_is_red_whatever_else(digits: Pictures, digits_model: Fitted) -> None:
    report = process(digits_model, data=digits)
    low = Interval(0.1, 0.0, 0.2, 9)
    bad = replace(report, check=Faithfulness("Does it hold?", low, 1.0, low, "a coin"))
    badge = badge_of("process", bad, Asked(digits_model, digits))
    assert badge.colour == "red"
    assert "do not rely on this" in badge.sentence()


def test_labels_dealt_out_anew_must_fail(digits: Pictures, digits_model: Fitted) -> None:
    some = digits.take(range(300))
    badge = badge_of("oddities", oddities(digits_model, data=some), Asked(digits_model, some))
    assert badge.of("reacts").passed
    assert badge.colour == "green", badge.tests


def test_copied_runs_vanish_from_shuffled_training_items(twice: Fitted) -> None:
    assert twice.data is not None
    badge = badge_of("provenance", provenance(twice, data=twice.data), Asked(twice, twice.data))
    assert badge.of("reacts").passed, badge.of("reacts").detail
    assert "shuffled training items" in badge.of("reacts").detail


def test_what_counts_says_that_it_cannot_forget() -> None:
    model = fit(text_of(["to be or not to be"] * 30), "ngram", held_out=0.2)
    assert model.data is not None
    report = saliency(model, data=model.data)
    badge = badge_of("saliency", report, Asked(model, model.data))
    assert badge.of("reacts").passed is None
    assert badge.colour != "green"


def test_directions_that_a_blank_model_has_too_do_not_speak_of_this_one() -> None:
    random = np.random.default_rng(0)
    vectors = np.linalg.qr(random.normal(size=(12, 12)))[0]
    own = [Direction(f"knob {k}", "factor", vectors[k], 1.0) for k in range(4)]
    assert _elsewhere(own, own).passed is False
    turned = [Direction(d.name, d.found, vectors[k + 4], 1.0) for k, d in enumerate(own)]
    assert _elsewhere(own, turned).passed
    assert "no direction has its like" in _elsewhere(own, []).detail
    flipped = [Direction(d.name, d.found, -d.vector, 1.0) for d in own]
    assert _elsewhere(own, flipped).passed is False, "a direction has two ends"


def test_a_model_of_random_labels_is_tried_where_it_may_be_trained(digits: Pictures, digits_model: Fitted) -> None:
    """Three steps of training: what is tried is that such a model is made once, and its check asked for."""
    recipe = {**digits_model.recipe, "steps": 3, "steps_done": 3}
    asked = Asked(replace(digits_model, recipe=recipe), digits, where={"class": "0"}, relabel=True)
    report = counterfactual(digits_model, data=digits, where={"class": "0"}, pairs=16, edited=2)
    badge = badge_of("counterfactual", report, asked)
    assert badge.of("labels").passed
    assert "a model of random labels" in badge.of("labels").detail
    assert asked.of_random_labels is asked.of_random_labels


def test_the_report_carries_the_badges(digits: Pictures, digits_model: Fitted) -> None:
    report = explain_sample(digits_model, digits, ask=["process", "provenance"], gate=True)
    assert set(report.badges) == {"process"}
    assert report.badges["process"].colour in report.to_text()
    assert "How it was judged" in report.to_html()
    assert '"badge": "green"' in report.to_json()
    assert not explain_sample(digits_model, digits, ask=["process", "provenance"]).badges
