"""Several questions about one sample, in one report: the fitting ones are asked, the others say why not."""

import numpy as np
import pandas as pd
import pytest

import pellucid as pl
from pellucid.catalog import EXPLANATIONS, explanation
from pellucid.core.errors import BadInput
from pellucid.explain.explained import QUESTIONS, USUAL, explain_sample
from pellucid.explain.influence import influence
from pellucid.explain.named import named
from pellucid.explain.redraw import told


@pytest.fixture(scope="module")
def digits():
    return pl.read("digits").take(np.arange(160))


@pytest.fixture(scope="module")
def vae(digits):
    return pl.fit(digits, "vae", steps=5, watch=False)


def test_every_explanation_answers_a_question_and_exists():
    assert set(EXPLANATIONS) <= set(QUESTIONS)
    assert set(USUAL) <= set(EXPLANATIONS)
    for name in EXPLANATIONS:
        assert callable(explanation(name))


def test_what_cannot_be_asked_is_said(vae, digits):
    report = explain_sample(vae, digits, ask=["influence", "process", "trajectory"])
    assert list(report.answers) == ["process", "influence"]  # plain first
    assert list(report.missing) == ["trajectory"]
    text = report.to_text()
    assert "How did noise become this?" in text
    assert "not answered" in text
    assert "What the words mean" in text


def test_a_failed_check_is_seen_at_once(vae, digits):
    report = explain_sample(vae, digits, ask=["influence"])
    check = report.answers["influence"].check
    assert check is not None
    assert ("CHECK FAILED" in report.to_text()) == (not check.passed)


def test_a_question_that_does_not_exist(vae, digits):
    with pytest.raises(BadInput, match="there is no question 'influense'.*influence"):
        explain_sample(vae, digits, ask=["influense"])


def test_one_question_that_cannot_be_answered_is_an_error(vae, digits):
    with pytest.raises(BadInput, match="index is -1"):
        explain_sample(vae, digits, ask=["influence"], index=-1)
    with pytest.raises(BadInput, match="seed is -3"):
        explain_sample(vae, digits, seed=-3)
    with pytest.raises(BadInput, match="none of trajectory can be answered"):
        explain_sample(vae, digits, ask=["trajectory"])


@pytest.mark.parametrize("where", [{"a": "x"}, {"y": "p", "a": "x"}], ids=["column", "column and condition"])
@pytest.mark.parametrize("family", ["masked", "vae"])
def test_the_sample_that_is_explained_is_the_one_that_was_asked_for(family, where):
    random = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {"a": random.choice(list("xyz"), n), "b": random.normal(size=n), "y": random.choice(["p", "q"], n)}
    )
    model = pl.fit(pl.read(frame, target="y"), family, steps=2, watch=False)
    drawn = model.sample(3, seed=5, where=where)
    explained = named(model, 5, 2, where).draw(model, 5)
    assert explained.items.frame.equals(drawn.items.frame.iloc[[2]].reset_index(drop=True))
    if drawn.route != "completion":
        assert told(model, 5, 2, where, None).items.frame.equals(explained.items.frame)
    else:
        with pytest.raises(BadInput, match="drawn around what is known"):
            told(model, 5, 2, where, None)
        with pytest.raises(BadInput, match="drawn around what is known"):
            influence(model, seed=5, where=where, data=pl.read(frame, target="y"), verify=True)


def test_an_explanation_can_be_stopped(vae, digits):
    from pellucid.core.errors import Stopped
    from pellucid.core.run import Run

    run = Run()
    run.stop()
    with pytest.raises(Stopped):
        explain_sample(vae, digits, ask=["process"], run=run)
