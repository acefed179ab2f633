"""Influence on a small model: planted copies come first, halves foreseen, wrong questions refused."""

import numpy as np
import pandas as pd
import pytest
import torch

import pellucid as pl
from pellucid.core.batch import Condition, TensorExamples
from pellucid.core.errors import BadInput, MissingCapability, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Progress, Run
from pellucid.core.space import Mixed, Real, Tokens
from pellucid.explain.datamodel import Retrained, item_losses, ranked, refit, score, seed_agreement
from pellucid.explain.forecast import Candidate, Grounds, foreseen, growing, helps, some
from pellucid.explain.gradient_kernel import gradients, ridge_scores
from pellucid.explain.influence import influence
from pellucid.explain.leaving_out import drawn_again, trained_without
from pellucid.explain.posterior_weights import posterior_weights
from pellucid.explain.similarity import Metric, vectors
from pellucid.families.ddpm import DDPM
from pellucid.training.per_example import per_example_gradients


@pytest.fixture(scope="module")
def digits():
    return pl.read("digits").take(np.arange(160))


@pytest.fixture(scope="module")
def model(digits):
    return pl.fit(digits, DDPM(net="mlp", width=16, depth=1, groups=0), steps=40, seed=3, watch=False)


def test_the_report_names_training_items_and_says_that_it_is_not_proved(model, digits):
    report = influence(model, data=digits, seed=2, index=1, top=5)
    held = set(range(160)) - set(_kept(model, digits).tolist())
    assert len(set(report.top)) == 5
    assert not held & set(report.top)
    assert not report.proved
    assert 1 <= report.like_random.low <= report.like_random.value <= report.like_random.high
    text = report.to_text()
    assert "indirect" in text
    assert "Can this be trusted?" in text
    assert list(report.worth) == sorted(report.worth, reverse=True)


def test_same_question_same_answer(model, digits):
    a, b = (influence(model, data=digits, seed=2, index=0) for _ in range(2))
    assert a.top == b.top
    assert a.worth == b.worth


def test_halves_are_the_proof(model, digits):
    report = influence(model, data=digits, seed=2, halves=4)
    assert report.proved
    assert report.check is not None or "does not agree with itself" in report.unjudged


def test_planted_copies_come_first():
    """A sample that is one training item: that item and its copies do most for it."""
    g = np.random.default_rng(0)
    x = g.normal(size=(200, 30))
    x[[20, 70, 130]] = x[5] + 1e-3 * g.normal(size=(3, 30))
    grounds = Grounds(x, x[5:6])
    best = helps(grounds, Candidate(kind="variance", width=1.7, lam=0.03), np.array([0]))[0].argsort()[::-1][:4]
    assert set(best.tolist()) == {5, 20, 70, 130}


def test_foreseen_losses_follow_what_is_kept():
    x = np.arange(12.0)[:, None]
    grounds = Grounds(x, np.array([[3.0]]))
    kept = np.ones((2, 12), dtype=bool)
    kept[1, 2:5] = False
    for kind in ("variance", "similarity", "posterior"):
        by = Candidate(kind=kind, width=0.1, lam=0.03)
        full, less = foreseen(grounds, by, kept, np.array([0]))[:, 0]
        assert less > full, kind


def test_items_that_come_one_by_one_are_foreseen_as_sets_are():
    g = np.random.default_rng(3)
    grounds, order = Grounds(g.normal(size=(9, 2)), g.normal(size=(2, 2))), g.permutation(9)
    one, two = (Candidate(kind="variance", width=w, lam=0.1) for w in (0.5, 2.0))
    kinds = [one, Candidate(kind="scales", parts=((0.3, one), (0.7, two))), Candidate(kind="similarity", width=0.5)]
    for by in kinds:
        curve = growing(grounds, by, order, np.arange(2))
        for m in (1, 4, 9):
            kept = np.isin(np.arange(9), order[:m])[None]
            np.testing.assert_allclose(curve[m], foreseen(grounds, by, kept, np.arange(2))[0], atol=1e-10)


def test_it_tells_how_far_it_is_and_stops_inside(model, digits):
    seen = []
    influence(model, data=digits, run=Run(listeners=[seen.append]))
    stages = {event.stage for event in seen if isinstance(event, Progress)}
    assert stages == {"ways to foresee", "what each item is worth", "sets at random"}
    for stage in sorted(stages):
        run = Run()
        run.listeners = [
            lambda event, run=run, stage=stage: run.stop() if getattr(event, "stage", "") == stage else None
        ]
        with pytest.raises(Stopped, match="the explanation was stopped"):
            influence(model, data=digits, run=run)


def test_training_again_on_some_of_the_items_is_said(model, digits, monkeypatch):
    monkeypatch.setattr("pellucid.explain.influence.MOST", 60)
    report = influence(model, data=digits, halves=4)
    assert (report.considered, report.total) == (60, len(_kept(model, digits)))
    assert "Only the 60 items compared with were trained on again" in report.to_markdown()


def test_gradients_are_means_of_each_draws_gradient(model, digits):
    y, told = model.event(digits.take(np.arange(3)), Rows(0, torch.arange(3)))
    found = gradients(model.engine, y, told, draws=4, seed=9)
    rows = Rows(9, torch.arange(4)).fork("influence")
    from pellucid.core.batch import Batch

    batch = Batch(y[1:2].expand(4, *y.shape[1:]), torch.arange(4), told.take(torch.tensor([1, 1, 1, 1])))
    each = per_example_gradients(model.engine, 0, batch, rows)
    mean = torch.cat([g.mean(0).reshape(-1) for g in each.values()])
    torch.testing.assert_close(found[1], mean, atol=1e-5, rtol=1e-4)


def test_gradients_of_outputs_differ_from_those_of_the_loss(model, digits):
    y, told = model.event(digits.take(np.arange(4)), Rows(0, torch.arange(4)))
    a, b, c = (gradients(model.engine, y, told, function=f, draws=3) for f in ("loss", "square", "output"))
    assert a.shape == b.shape == c.shape
    assert not torch.allclose(a, b)
    assert not torch.allclose(b, c)


def test_ridge_scores_by_woodbury():
    g = np.random.default_rng(1)
    G, q = g.normal(size=(7, 20)), g.normal(size=(3, 20))
    K = G @ G.T
    ridge = 0.5 * np.trace(K) / 7
    direct = q @ np.linalg.solve(G.T @ G + ridge * np.eye(20), G.T)
    np.testing.assert_allclose(ridge_scores(K, q @ G.T, 0.5), direct, atol=1e-10)


def test_posterior_weights_are_those_of_the_best_denoiser_on_a_line():
    w = posterior_weights(np.array([[0.0, 1.0, 9.0]]), width=0.05)
    assert w.sum() == pytest.approx(1.0)
    assert w[0, 0] > w[0, 1] > w[0, 2]


def test_a_model_trained_again_by_its_own_recipe_is_the_same(model, digits):
    kept = digits.take(_kept(model, digits))
    x, known = model.codec.encode(kept), model.codec.known(kept)
    again = refit(model, TensorExamples(x, known), seed=model.recipe["seed"], run=Run())
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, model.engine.state_dict()[name], atol=0, rtol=0)
    draw = model.sample(ids=[4], seed=5)
    torch.testing.assert_close(drawn_again(model, again, draw), draw.x, atol=0, rtol=0)


def test_leaving_nothing_out_changes_nothing_and_something_does(model, digits):
    kept = digits.take(_kept(model, digits))
    x, known = model.codec.encode(kept), model.codec.known(kept)
    draw = model.sample(ids=[4], seed=5)
    none = drawn_again(model, trained_without(model, x, known, np.zeros(0, dtype=np.int64), Run()), draw)
    some_gone = drawn_again(model, trained_without(model, x, known, np.arange(30), Run()), draw)
    torch.testing.assert_close(none, draw.x, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(none, some_gone, atol=1e-4)


def test_losses_share_their_noise(model, digits):
    y, told = model.event(digits.take(np.array([3, 3, 8])), Rows(0, torch.arange(3)))
    losses = item_losses(model.engine, y, told, draws=6)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_scores_and_their_ceiling():
    g = np.random.default_rng(2)
    truth = g.normal(size=(30, 1, 20))
    found = Retrained(np.ones((30, 4), dtype=bool), truth + 0.5 * g.normal(size=(30, 2, 20)))
    r, ceiling = seed_agreement(found)
    assert r == pytest.approx(1 / 1.25, abs=0.06)  # signal 1 of variance 1.25
    assert ceiling == pytest.approx((1 / 1.125) ** 0.5, abs=0.04)
    best = score(truth[:, 0], found)
    assert best.low < best.value < best.high
    assert best.value == pytest.approx(ceiling, abs=0.05)
    worse = truth[:, 0] + 2.0 * g.normal(size=(30, 20))
    assert score(truth[:, 0], found, less=worse).low > 0
    assert ranked(np.zeros((5, 2)), np.ones((5, 2))).tolist() == [0.0, 0.0]


def test_vectors_of_every_space():
    mixed = Mixed((pl_field("a", Tokens(3, 1)), pl_field("b", Real((2,)))))
    v = vectors(mixed, torch.tensor([[2.0, 0.5, -1.0], [1.0, 0.5, -1.0]]))
    assert v.shape == (2, 5)
    assert np.square(v[0] - v[1]).sum() == pytest.approx(1.0)  # one other symbol is one apart
    words = vectors(Tokens(5, 6, ends=True), torch.tensor([[1, 2, 3, 0, 0, 0], [4, 1, 2, 3, 0, 0], [4, 4, 4, 4, 0, 0]]))
    near, far = np.square(words[0] - words[1]).sum(), np.square(words[0] - words[2]).sum()
    assert near < far  # the same symbols at another place


def pl_field(name, space):
    from pellucid.core.space import Field

    return Field(name, space)


def test_whitening_draws_wide_directions_together():
    g = np.random.default_rng(0)
    x = g.normal(size=(300, 2)) * [10.0, 1.0]
    q = np.array([[3.0, 0.0], [0.0, 3.0]])
    plain, drawn = Metric.learn(x, q), Metric.learn(x, q, 0.5)
    at = np.argmin(np.square(x).sum(1))
    assert plain.to[0, at] / plain.to[1, at] > drawn.to[0, at] / drawn.to[1, at]
    assert plain.among.sum() / (300 * 299) == pytest.approx(1.0)


def test_of_many_items_the_near_and_some_others_are_compared():
    found = some(100, 20, range(7), 0)
    assert len(found) == 20
    assert set(range(7)) <= set(found.tolist())
    assert some(10, 20, [], 0).tolist() == list(range(10))


def test_wrong_questions(model, digits):
    with pytest.raises(BadInput, match="not what the model was fitted on"):
        influence(model, data=digits.take(np.arange(150)))
    with pytest.raises(BadInput, match="halves is 2"):
        influence(model, data=digits, halves=2)
    with pytest.raises(BadInput, match="index is -1"):
        influence(model, data=digits, index=-1)
    gan = pl.fit(digits, "gan", steps=1, watch=False, settings={"width": 8})
    with pytest.raises(MissingCapability, match="players' losses"):
        influence(gan, data=digits)


def test_items_of_a_table_are_kept_back_unless_asked_for():
    g = np.random.default_rng(0)
    data = pl.read(pd.DataFrame({"a": g.normal(size=90), "b": g.choice(list("xyz"), 90)}))
    fitted = pl.fit(data, "vae", steps=5, watch=False)
    assert influence(fitted, data=data, top=3).shown is None
    assert influence(fitted, data=data, top=3, reveal=True).shown is not None


def test_a_model_that_counts_is_asked_by_its_likelihood():
    g = np.random.default_rng(0)
    data = pl.read(pd.DataFrame({"a": g.choice(list("uvw"), 90), "b": g.choice(list("xyz"), 90)}))
    report = influence(pl.fit(data, "ngram", watch=False), data=data, halves=4, top=3)
    assert report.proved


def _kept(model, data):
    from pellucid.fitting import split

    return split(len(data), model.recipe["held_out"], model.recipe["seed"])[0]


def test_conditions_reach_the_losses(model, digits):
    y, told = model.event(digits.take(np.arange(6)), Rows(0, torch.arange(6)))
    other = Condition({k: (v + 1) % 10 for k, v in told.values.items()}, told.given)
    assert not np.allclose(item_losses(model.engine, y, told), item_losses(model.engine, y, other))


@pytest.mark.parametrize("kind", ["twenty rows", "pictures that are all alike"])
def test_few_or_equal_items_are_explained_without_a_check(kind):
    random = np.random.default_rng(0)
    if kind == "twenty rows":
        data = pl.read(pd.DataFrame({"a": random.normal(size=20), "b": random.normal(size=20)}))
    else:
        data = pl.read(np.full((60, 8, 8), 77, np.uint8))
    model = pl.fit(data, family="vae", steps=2, watch=False)
    report = influence(model, data=data)
    assert report.check is None
    assert "could not be checked" in report.unjudged
    assert np.isfinite(report.worth).all()
    if kind != "twenty rows":  # nobody misses one of many that are all alike
        assert report.like_random.value < 2


def test_a_running_text_has_no_items(tmp_path):
    path = tmp_path / "tale.txt"
    path.write_text("once upon a time there was a king who had a golden ball. " * 60)
    data = pl.read(path)
    model = pl.fit(data, "ngram", watch=False)
    with pytest.raises(MissingCapability, match=r"windows overlap.*--ask provenance"):
        influence(model, data=data)
