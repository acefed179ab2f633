"""What a model is asked to be unlike, and which of two conditions it is asked for, from Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.trace import Silent
from pellucid.domains.frames import read_table
from pellucid.domains.teaching.shapes import shapes
from pellucid.families.denoising import DenoisingEngine, DiffusionHow
from pellucid.families.edm import EDM
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.vae import VAE
from pellucid.fitting import fit
from pellucid.model import Fitted
from tests.families.rowwise import stir


@pytest.fixture(scope="module")
def model() -> Fitted:
    """Classes and captions both are conditions; weights that were moved hear both."""
    made = shapes(40, seed=3, size=8)
    data = replace(made.pictures, captions=made.captions)
    found = fit(data, FlowMatching(width=16, depth=1), steps=1, held_out=0.0)
    stir(found.engine, 0.1)
    return found


@pytest.fixture(scope="module")
def table_model() -> Fitted:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=60), "word": draw.choice(["x", "y"], 60), "size": draw.normal(size=60)})
    found = fit(read_table(frame, target="size"), EDM(width=8, depth=1), steps=1)
    stir(found.engine, 0.1)
    return found


def how(model: Fitted, **changed: Any) -> DiffusionHow:
    own = model.how()
    assert isinstance(own, DiffusionHow)
    return replace(own, steps=3, **changed)


def test_against_is_what_the_engine_is_handed(model: Fitted) -> None:
    """The same as a condition built by hand, in which only what is said is given."""
    label = list(model.codec.plain()["classes"])[1]
    strong = how(model, guidance=3.0)
    draw = model.sample(5, where={"caption": "a red circle"}, against={"class": label}, how=strong, seed=2)
    assert draw.against == {"class": label}
    blank = Condition.blank(model.codec.conditions, 5)
    away = Condition(
        {**blank.values, "class": torch.ones(5, 1, dtype=torch.int64)},
        {**blank.given, "class": torch.ones(5, dtype=torch.bool)},
    )
    assert isinstance(model.engine, DenoisingEngine)
    rows = Rows(2, torch.arange(5))
    y = model.engine.sample(rows.fork("sample"), draw.condition, replace(strong, against=away), Silent())
    torch.testing.assert_close(model.bridge.back(y, rows.fork("bridge")), draw.x)
    assert not torch.equal(draw.x, model.sample(5, where={"caption": "a red circle"}, how=strong, seed=2).x)


def test_one_value_a_row_and_any_batch(model: Fitted) -> None:
    a, b = list(model.codec.plain()["classes"])[:2]
    strong = how(model, guidance=3.0)
    each = model.sample(5, against={"class": [a, b, a, b, b]}, how=strong, batch=2)
    for label, ids in ((a, [0, 2]), (b, [1, 3, 4])):
        alone = model.sample(ids=ids, against={"class": label}, how=strong)
        torch.testing.assert_close(each.x[ids], alone.x, atol=1e-4, rtol=0.0)
    with pytest.raises(BadInput, match=r"against\['class'\] lists 2 values"):
        model.sample(5, against={"class": [a, b]}, how=strong)


def test_either_of_two_conditions_may_be_left_unsaid(model: Fitted) -> None:
    label = next(iter(model.codec.plain()["classes"]))
    asked: dict[str, dict[str, object]] = {
        "class": {"class": label},
        "caption": {"caption": "a red circle"},
        "both": {"class": label, "caption": "a red circle"},
    }
    drawn = {}
    for name, where in asked.items():
        draw = model.sample(4, where=where, how=how(model))
        assert [k for k, g in draw.condition.given.items() if bool(g.all())] == [
            k for k in model.codec.conditions if k in where
        ]
        assert not any(bool(g.any()) for k, g in draw.condition.given.items() if k not in where)
        drawn[name] = draw.x
    assert not torch.equal(drawn["class"], drawn["caption"])
    assert not torch.equal(drawn["class"], drawn["both"])
    assert not torch.equal(drawn["caption"], drawn["both"])


def test_words_about_other_columns_and_what_it_is_against(table_model: Fitted) -> None:
    strong = how(table_model, guidance=3.0)
    words: dict[str, Any] = {"where": {"size": 0.2, "word": "x"}, "against": {"size": 1.0}, "how": strong}
    draw = table_model.sample(4, **words)
    assert draw.route == "rejection"
    assert draw.against == {"size": 1.0}
    again = table_model.sample(ids=draw.ids, where={"size": 0.2}, against={"size": 1.0}, how=strong)
    torch.testing.assert_close(again.x, draw.x, atol=1e-4, rtol=0.0)
    with pytest.raises(BadInput, match=r"against\['size'\] is a list"):
        table_model.sample(2, where={"word": "x"}, against={"size": [1.0, 2.0]}, how=strong)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"against": {"colour": "red"}}, "condition 'colour' does not exist"),
        ({"against": {"class": "hexagon"}}, "class is 'hexagon'"),
    ],
    ids=["no such condition", "no such class"],
)
def test_wrong_words_are_refused(model: Fitted, words: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        model.sample(2, how=how(model, guidance=2.0), **words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"], ids=["nan", "inf", "text"])
@pytest.mark.parametrize("option", ["where", "against"])
def test_a_condition_that_is_no_number_is_refused(table_model: Fitted, option: str, value: object) -> None:
    words: dict[str, Any] = {option: {"size": value}}
    with pytest.raises(BadInput, match="size"):
        table_model.sample(2, how=how(table_model, guidance=2.0), **words)


def test_words_never_seen_are_said_of_both(model: Fitted) -> None:
    words = {"where": {"caption": "a purple circle"}, "against": {"caption": "a beige cross"}}
    draw = model.sample(2, how=how(model, guidance=2.0), **words)  # type: ignore[arg-type]
    assert [("purple" in n.text, "beige" in n.text) for n in draw.notices] == [(True, False), (False, True)]


def test_at_guidance_one_it_would_do_nothing(table_model: Fitted) -> None:
    with pytest.raises(BadInput, match="guidance is 1 beside something to walk away from"):
        table_model.sample(2, against={"size": 1.0}, how=how(table_model, guidance=1.0))


def test_a_family_without_guidance_cannot() -> None:
    made = shapes(20, seed=3, size=8)
    other = fit(made.pictures, VAE(latent=2, width=4, depth=1), steps=1)
    label = next(iter(other.codec.plain()["classes"]))
    with pytest.raises(MissingCapability, match="'vae' cannot draw against something"):
        other.sample(2, against={"class": label})
