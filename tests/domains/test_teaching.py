"""Generated sets: their ground truth is the truth."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import read_pictures
from pellucid.domains.teaching.causal import CausalGraph, causal_table, linear_graph, loan_graph
from pellucid.domains.teaching.mixtures import Mixture, mixture_table, ring, scattered
from pellucid.domains.teaching.shapes import COLOURS, FORMS, Thing, draw_things, shapes
from pellucid.domains.teaching.written import SETS, write


def rows(n: int, seed: int = 5) -> Rows:
    return Rows(seed, torch.arange(n))


# ----------------------------------------------------------------------------------------------------------- mixtures


def test_the_density_is_that_of_scipy() -> None:
    mixture = scattered(3, 4, seed=2)
    x = rows(50).normal(4, dtype=torch.float64)
    sigma = 0.1 + rows(50).uniform(dtype=torch.float64)
    for level in (None, sigma):
        noise = torch.zeros(50) if level is None else level
        wanted = [
            math.log(
                sum(
                    float(w) * stats.multivariate_normal(m, c + float(s) ** 2 * np.eye(4)).pdf(v)
                    for w, m, c in zip(mixture.weights, mixture.means.numpy(), mixture.covariances.numpy(), strict=True)
                )
            )
            for v, s in zip(x.numpy(), noise, strict=True)
        ]
        assert torch.allclose(mixture.log_prob(x, level), torch.tensor(wanted, dtype=torch.float64))


def test_samples_have_the_moments_of_the_mixture() -> None:
    mixture, n = scattered(3, 2, seed=1), 40_000
    draw = mixture.sample(rows(n))
    shares = torch.bincount(draw.component) / n
    assert torch.allclose(shares.double(), mixture.weights, atol=0.01)
    for k in range(3):
        own = draw.x[draw.component == k]
        assert torch.allclose(own.mean(0), mixture.means[k], atol=0.03)
        assert torch.allclose(own.T.cov(), mixture.covariances[k], atol=0.03)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    mixture, some = ring(), torch.tensor([31, 4])
    whole, part = mixture.sample(rows(50)), mixture.sample(rows(50).take(some))
    assert torch.equal(part.x, whole.x[some])
    assert torch.equal(part.component, whole.component[some])


def test_the_posterior_and_the_denoiser_are_those_of_bayes_by_quadrature() -> None:
    mixture = Mixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([[[0.2]], [[0.05]]]), ("low", "high")
    )
    x_t, sigma = torch.tensor([[-2.0], [0.0], [0.3], [1.7]], dtype=torch.float64), torch.tensor([0.3, 0.5, 2.0, 0.1])
    grid = torch.linspace(-8.0, 8.0, 160_001, dtype=torch.float64)[:, None]
    joint = mixture.joint(grid).exp()  # (G, K): density of data and component
    for row in range(4):
        seen = torch.distributions.Normal(grid[:, 0], float(sigma[row])).log_prob(x_t[row, 0]).exp()  # p(x_t | data)
        both = joint * seen[:, None]
        step = float(grid[1, 0] - grid[0, 0])
        posterior = both.sum(0) / both.sum()
        mean = (both.sum(1) * grid[:, 0]).sum() / both.sum()
        at, level = x_t[row : row + 1], sigma[row : row + 1]
        assert torch.allclose(mixture.posterior(at, level)[0], posterior, atol=1e-6)
        assert float(mixture.denoise(at, level)) == pytest.approx(float(mean), abs=1e-6)
        assert float(mixture.log_prob(at, level)) == pytest.approx(math.log(float(both.sum()) * step), abs=1e-6)


def test_the_score_is_the_gradient_of_the_density() -> None:
    mixture = scattered(4, 3, seed=7)
    x = rows(20).normal(3, dtype=torch.float64).requires_grad_()
    sigma = 0.2 + rows(20).uniform(dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, sigma).sum(), x)
    assert torch.allclose(mixture.score(x, sigma), gradient)


def test_without_noise_nothing_is_denoised_and_with_much_noise_only_the_mean_is_left() -> None:
    mixture = scattered(3, 2)
    x = rows(5).normal(2)
    assert torch.allclose(mixture.denoise(x, torch.full((5,), 1e-6)), x, atol=1e-5)
    assert mixture.denoise(x, torch.ones(5)).dtype == torch.float32
    mean = mixture.weights @ mixture.means
    assert torch.allclose(mixture.denoise(x.double(), torch.full((5,), 1e5)), mean.expand(5, 2), atol=1e-3)


def test_one_component_is_a_mixture_of_its_own() -> None:
    mixture = ring(5)
    x = rows(6).normal(2)
    alone = mixture.given("3").log_prob(x)
    assert torch.allclose(alone + mixture.weights[3].log(), mixture.joint(x)[:, 3])
    with pytest.raises(BadInput, match="component '9' does not exist"):
        mixture.given("9")


def test_a_mixture_becomes_a_table() -> None:
    made = mixture_table(300, seed=3, mixture=ring(3))
    assert made.data.target == "class"
    assert made.data.frame["x1"].tolist() == made.draw.x[:, 0].tolist()
    assert set(made.data.frame["class"]) == {"component 0", "component 1", "component 2"}
    longer = mixture_table(500, seed=3, mixture=ring(3))
    assert torch.equal(longer.draw.x[:300], made.draw.x)
    assert not torch.equal(mixture_table(300, seed=4, mixture=ring(3)).draw.x, made.draw.x)


@pytest.mark.parametrize(
    "parts",
    [
        (torch.ones(2), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2)),
        (torch.ones(2), torch.zeros(2, 2), torch.eye(3).expand(2, 3, 3)),
        (torch.tensor([1.0, -1.0]), torch.zeros(2, 1), torch.ones(2, 1, 1)),
        (torch.ones(2), torch.zeros(2, 1), torch.zeros(2, 1, 1)),
        (torch.ones(2), torch.zeros(2, 1), torch.ones(2, 1, 1), ("a", "a")),
    ],
)
def test_impossible_mixtures_are_refused(parts: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(BadInput):
        Mixture(*parts)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"\(B, 2\) and \(B,\)"):
        ring().log_prob(torch.zeros(3, 4))


# ------------------------------------------------------------------------------------------------------------- causal


def test_the_linear_graph_has_the_covariance_of_its_formulas() -> None:
    made = causal_table("linear", n=50_000, seed=1)
    of = made.values
    vx, vm = 1.0, 0.5**2 + 0.6**2
    expected = np.array(
        [
            [vx, 0.5, 1.5 - 0.4],
            [0.5, vm, 1.5 * 0.5 - 0.8 * vm],
            [1.1, 0.75 - 0.8 * vm, 1.1**2 + (0.8 * 0.6) ** 2 + 0.5**2],
        ]
    )
    assert np.allclose(np.cov([of["x"], of["m"], of["y"]]), expected, atol=0.03)


def test_an_intervention_moves_the_effects_by_their_coefficients() -> None:
    made = causal_table("linear", n=20, seed=1)
    more = made.otherwise({"x": made.values["x"] + 1.0})
    assert np.allclose(more["m"] - made.values["m"], 0.5)
    assert np.allclose(more["y"] - made.values["y"], 1.5 - 0.8 * 0.5)
    held = made.otherwise({"x": made.values["x"] + 1.0, "m": made.values["m"]})
    assert np.allclose(held["y"] - made.values["y"], 1.5)


def test_counterfactuals_change_descendants_only() -> None:
    made = causal_table("loans", n=3000, seed=2)
    graph = made.graph
    assert graph.descendants("region") == ()
    assert graph.descendants("sex") == ("income", "debt", "default")
    assert graph.descendants("age") == ("education", "income", "debt", "default")
    men = made.otherwise({"sex": "Male"})
    unchanged = made.values["sex"] == "Male"
    for name in graph.names:
        same = men[name] == made.values[name]
        assert same[unchanged].all()
        assert same.all() == (name not in ("sex", *graph.descendants("sex")))
    ratio = men["income"] / made.values["income"]
    assert np.allclose(ratio[~unchanged], math.exp(0.15), rtol=1e-4)
    moved = made.otherwise({"region": "coast"})
    assert all((moved[name] == made.values[name]).all() for name in graph.names if name != "region")
    again = made.otherwise({})
    assert all((again[name] == made.values[name]).all() for name in graph.names)


def test_the_loan_table_is_read_as_it_was_made() -> None:
    made = causal_table("loans", n=2000, seed=3)
    kinds = {c.name: c.kind for c in made.data.columns}
    assert kinds == {m.name: m.kind for m in made.graph.mechanisms}
    assert made.data.target == "default"
    for name, values in made.values.items():
        assert made.data.frame[name].tolist() == values.tolist()
    rate = made.values["default"].mean()
    assert 0.05 < rate < 0.4
    assert 0.2 < (made.values["debt"] == 0).mean() < 0.45
    longer = causal_table("loans", n=2500, seed=3)
    assert made.data.frame.equals(longer.data.frame[:2000])


def test_probabilities_of_default_follow_the_formula() -> None:
    """Over fresh noise, the share of defaults of one applicant is the logistic function of the formula."""
    graph, n = loan_graph(), 40_000
    do = {"age": 40, "income": 20_000.0, "debt": 10_000.0}
    share = graph.evaluate(graph.noise(rows(n)), do)["default"].mean()
    assert share == pytest.approx(1 / (1 + math.exp(2.2 - 1.25)), abs=0.01)


def test_graphs_are_checked_and_plain() -> None:
    graph = loan_graph()
    plain = json.loads(json.dumps(graph.plain()))
    assert [c["name"] for c in plain["columns"]] == list(graph.names)
    assert ["income", "default"] in plain["edges"]
    first, second = linear_graph().mechanisms[:2]
    with pytest.raises(BadInput, match="'m' depends on x"):
        CausalGraph("wrong", (second, first), target="m")
    with pytest.raises(BadInput):
        CausalGraph("twice", (first, first), target="x")
    with pytest.raises(BadInput, match="no column 'z'"):
        CausalGraph("aimless", (first,), target="z")
    with pytest.raises(BadInput, match="no column 'incme'.*Did you mean 'income'?"):
        causal_table("loans", n=3).otherwise({"incme": 1.0})
    with pytest.raises(BadInput, match="graph is 'loan'.*Did you mean 'loans'?"):
        causal_table("loan")


# ------------------------------------------------------------------------------------------------------------- shapes


def test_masks_show_where_the_things_are() -> None:
    made = shapes(60, seed=4)
    for pixels, masks, (thing,) in zip(made.pictures.pixels, made.masks, made.things, strict=True):
        inside = pixels[masks[0]].astype(int)
        assert masks.any()
        assert (np.abs(inside - COLOURS[thing.colour]).sum(1) < 330).all()  # at least half of an edge pixel
        assert (np.abs(inside - COLOURS[thing.colour]).sum(1) == 0).mean() > 0.3
        rest = pixels[~masks[0]].astype(int)
        assert (np.abs(rest - (244, 244, 240)).sum(1) == 0).mean() > 0.9
        rows_, columns = np.nonzero(masks[0])
        assert columns.mean() / 32 == pytest.approx(thing.x, abs=0.04)
        assert rows_.mean() / 32 == pytest.approx(thing.y, abs=0.06)


def test_words_say_what_is_in_the_picture() -> None:
    made = shapes(40, seed=6)
    assert made.pictures.labels is not None
    for caption, label, (thing,) in zip(made.captions, made.pictures.labels, made.things, strict=True):
        assert label == f"{thing.colour} {thing.form}"
        assert caption == f"a {thing.size} {label} at the {thing.place()}"
    places = {
        Thing(form="circle", colour="red", size="small", x=x, y=y).place()
        for x in (0.1, 0.5, 0.9)
        for y in (0.1, 0.5, 0.9)
    }
    assert len(places) == 9
    assert "centre" in places


def test_every_kind_of_thing_occurs_evenly() -> None:
    things = [group[0] for group in shapes(1600, seed=0, size=8).things]
    for values in ([t.form for t in things], [t.colour for t in things], [t.size for t in things]):
        _, counts = np.unique(values, return_counts=True)
        assert stats.chisquare(counts).pvalue > 1e-3
    assert {t.form for t in things} == set(FORMS)


def test_things_on_top_hide_what_is_below() -> None:
    below = Thing(form="square", colour="blue", size="large", x=0.5, y=0.5)
    above = Thing(form="circle", colour="red", size="small", x=0.5, y=0.5)
    pixels, masks = draw_things([(below, above)], 32)
    alone, whole = draw_things([(below,)], 32)
    assert tuple(pixels[0, 16, 16]) == COLOURS["red"]
    assert not (masks[0, 0] & masks[0, 1]).any()
    assert ((masks[0, 0] | masks[0, 1]) == whole[0, 0]).all()
    assert (pixels[0][~masks[0, 1]] == alone[0][~masks[0, 1]]).mean() > 0.95


def test_the_same_picture_can_be_drawn_in_another_colour() -> None:
    made = shapes(1, seed=9)
    thing = made.things[0][0]
    blue, masks = draw_things([(replace(thing, colour="blue"),)])
    same, _ = draw_things([(thing,)])
    assert (same[0] == made.pictures.pixels[0]).all()
    assert (masks == made.masks).all()
    changed = (blue != same).any(axis=(0, 3))
    assert (changed >= made.masks[0, 0]).all() or thing.colour == "blue"


def test_a_picture_depends_on_its_seed_and_number_alone() -> None:
    few, many = shapes(5, seed=1, things=2), shapes(9, seed=1, things=2)
    assert (many.pictures.pixels[:5] == few.pictures.pixels).all()
    assert many.captions[:5] == few.captions
    assert few.masks.shape == (5, 2, 32, 32)
    assert (shapes(5, seed=2, things=2).pictures.pixels != few.pictures.pixels).any()


def test_impossible_things_are_refused() -> None:
    fine = {"form": "circle", "colour": "red", "size": "small", "x": 0.5, "y": 0.5}
    for wrong in ({"form": "star"}, {"colour": "pink"}, {"size": "tiny"}, {"x": 1.5}):
        with pytest.raises(BadInput):
            Thing(**(fine | wrong))  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        shapes(n=0)
    with pytest.raises(BadInput):
        shapes(things=9)
    with pytest.raises(BadInput):
        shapes(size=4)
    with pytest.raises(BadInput):
        draw_things([])


# ------------------------------------------------------------------------------------------------------------ written


def test_shapes_are_written_as_a_user_s_folder(tmp_path: Path) -> None:
    folder = write("shapes", tmp_path / "pictures", n=40, seed=2)
    made = shapes(40, seed=2)
    read = read_pictures(folder)
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [row["caption"] for row in table] == list(made.captions)
    assert read.names is not None
    at = {name: k for k, name in enumerate(read.names)}
    order = [at[row["file"]] for row in table]
    assert (read.pixels[order] == made.pictures.pixels).all()
    assert read.take(order).labels == made.pictures.labels
    with np.load(folder / "masks.npz") as stored:
        assert (stored["masks"] == made.masks).all()
        assert stored["files"].tolist() == [row["file"] for row in table]


@pytest.mark.parametrize("name", sorted(set(SETS) - {"shapes"}))
def test_tables_are_written_with_their_truth(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path / "new" / name, n=150, seed=2)
    read = read_table(folder / f"{name}.csv")
    truth = json.loads((folder / f"{name}.json").read_text("utf-8"))
    made = (mixture_table(150, 2) if name == "mixture" else causal_table(name, 150, 2)).data
    assert read.frame.equals(made.frame)
    if name == "mixture":
        assert len(truth["means"]) == 8
    else:
        assert [c["name"] for c in truth["columns"]] == [c.name for c in read.columns]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists"):
        write("linear", tmp_path)
    with pytest.raises(BadInput, match="Did you mean 'shapes'?"):
        write("shape", tmp_path / "new")
    with pytest.raises(BadInput):
        write("shapes", tmp_path / "new", n=0)
    assert list(tmp_path.iterdir()) == []
