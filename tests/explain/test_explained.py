"""Several questions about one sample, in one report: the fitting ones are asked, the others say why not."""

import numpy as np
import pytest

import pellucid as pl
from pellucid.catalog import EXPLANATIONS, explanation
from pellucid.core.errors import BadInput
from pellucid.explain.explained import QUESTIONS, USUAL, explain_sample


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
    with pytest.raises(BadInput, match="none of trajectory can be answered"):
        explain_sample(vae, digits, ask=["trajectory"])
