"""What denoising engines share: guidance on a part of the way and against something, groups, inversion, likelihoods."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, from_words, to_plain
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.ddpm import DDPM
from pellucid.families.denoising import GROUP, DenoisingEngine, DiffusionHow
from pellucid.families.edm import EDM
from pellucid.families.flow_matching import FlowMatching
from pellucid.solvers.euler import euler
from tests.families.rowwise import check_rowwise, stir

VECTOR = Real((5,))
PICTURE = Real((1, 16, 17), levels=4)
CLASSES: dict[str, Space] = {"class": Tokens(3, 1)}
TWO: dict[str, Space] = {"class": Tokens(3, 1), "size": Real((2,))}
FAMILIES: dict[str, FlowMatching | DDPM | EDM] = {
    "diffusion": FlowMatching(width=8, depth=1, groups=0),
    "ddpm": DDPM(width=8, depth=1),
    "edm": EDM(width=8, depth=1),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def data(space: Real, n: int) -> Tensor:
    x = rows(n, 7).normal(*space.shape, dtype=torch.float64)
    return x if space.levels is None else (x.clamp(-1, 1) / space.step).round().clamp(-1, 1) * space.step


def classes(n: int, label: int | None = None) -> Condition:
    value = torch.arange(n)[:, None] % 3 if label is None else torch.full((n, 1), label)
    return Condition({"class": value}, {"class": torch.ones(n, dtype=torch.bool)})


def both(n: int) -> Condition:
    given = torch.ones(n, dtype=torch.bool)
    size = rows(n, 9).normal(2, dtype=torch.float64)
    return Condition({**classes(n).values, "size": size}, {"class": given, "size": given})


def built(
    name: str = "diffusion",
    space: Real = VECTOR,
    conditions: dict[str, Space] | None = None,
    groups: int = 0,
    items: int = 90,
) -> DenoisingEngine:
    conditions = CLASSES if conditions is None else conditions
    engine = replace(FAMILIES[name], groups=groups).build(space, conditions, rows(1))
    assert isinstance(engine, DenoisingEngine)
    engine = engine.double()
    said = Condition() if not conditions else classes(items) if conditions is CLASSES else both(items)
    engine.prepare(Batch(data(space, items), torch.arange(items), said))
    stir(engine, 0.1)
    return engine.eval()


class Counted:
    """Counts the rows that an engine's network is asked about, and of how many of them the class is known."""

    def __init__(self, engine: DenoisingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.given: list[int] = []
        plain = engine.denoise

        def denoise(x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            self.rows.append(len(x_t))
            self.given.append(int(condition.given["class"].sum()))
            return plain(x_t, sigma, condition)

        monkeypatch.setattr(engine, "denoise", denoise)


class TestGuidance:
    @every_family
    def test_only_on_its_part_of_the_way(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outside, the unconditional side is not evaluated at all."""
        engine = built(name)
        counted = Counted(engine, monkeypatch)
        how = DiffusionHow(steps=10, guidance=2.0, guide_from=0.2, guide_until=0.5)
        engine.sample(rows(4), classes(4), how, Silent())
        assert counted.rows == [4, 4, 8, 8, 8, 8, 4, 4, 4, 4]
        assert counted.given == [4] * 10

    @every_family
    def test_a_part_is_the_formula_by_hand(self, name: str) -> None:
        engine = built(name)
        how = DiffusionHow(steps=6, guidance=2.5, guide_from=0.5, guide_until=1.0)
        sigmas, asked = engine.sigmas(how), classes(4)
        x = engine.centre + float(sigmas[0]) * rows(4).fork("start").normal(5, dtype=torch.float64)
        with torch.no_grad():
            for k in range(6):
                level = x.new_full((4,), float(sigmas[k]))
                guess = engine.denoise(x, level, asked)
                if k >= 3:
                    plain = engine.denoise(x, level, asked.nothing())
                    guess = plain + 2.5 * (guess - plain)
                x = guess + float(sigmas[k + 1] / sigmas[k]) * (x - guess)
        torch.testing.assert_close(engine.sample(rows(4), asked, how, Silent()), x)

    def test_the_ends_hold_in_single_precision_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = built().float()
        for steps in (3, 7, 10, 13):
            with monkeypatch.context() as patch:
                counted = Counted(engine, patch)
                how = DiffusionHow(steps=steps, guidance=2.0, guide_from=0.0, guide_until=0.999)
                engine.sample(rows(2), classes(2), how, Silent())
                assert counted.rows == [4] * steps

    @every_family
    def test_against_another_class_is_the_formula_by_hand(self, name: str) -> None:
        engine = built(name)
        how = DiffusionHow(steps=1, guidance=1.7, against=classes(4, 2))
        sigma = float(engine.sigmas(how)[0])
        x = engine.centre + sigma * rows(4).fork("start").normal(5, dtype=torch.float64)
        level = x.new_full((4,), sigma)
        with torch.no_grad():
            towards, away = (engine.denoise(x, level, c) for c in (classes(4), classes(4, 2)))
        torch.testing.assert_close(engine.sample(rows(4), classes(4), how, Silent()), away + 1.7 * (towards - away))

    def test_against_what_the_model_was_not_told_is_refused(self) -> None:
        engine, how = built(), DiffusionHow(steps=2, guidance=2.0)
        wrong = [
            Condition(),
            classes(3),
            Condition({"size": torch.zeros(4, 2)}, {"size": torch.ones(4, dtype=torch.bool)}),
        ]
        for against in wrong:
            with pytest.raises(BadInput, match="against says"):
                engine.sample(rows(4), classes(4), replace(how, against=against), Silent())
        free = built(conditions={})
        for nothing in (Condition(), classes(4)):
            with pytest.raises(BadInput, match="a model with conditions"):
                free.sample(rows(4), Condition(), replace(how, against=nothing), Silent())

    def test_against_something_at_guidance_one_would_do_nothing(self) -> None:
        with pytest.raises(BadInput, match="guidance is 1 beside something to walk away from"):
            DiffusionHow(against=classes(4))

    def test_what_is_handed_over_for_one_call_is_no_setting(self) -> None:
        how = DiffusionHow(steps=7, guidance=2.0, against=classes(4))
        assert "against" not in to_plain(how)
        assert "against" not in repr(how)
        assert from_plain(DiffusionHow, to_plain(how)) == how
        assert from_words(DiffusionHow, {"steps": "9"}, how).steps == 9
        with pytest.raises(BadInput, match=r"'against' is no setting of DiffusionHow"):
            from_words(DiffusionHow, {"against": "class=3"}, how)

    def test_one_of_two_conditions_is_left_out(self) -> None:
        engine, asked = built(conditions=TWO), both(4)
        how = DiffusionHow(steps=3)
        whole = engine.sample(rows(4), asked, how, Silent())
        for left_out in TWO:
            some = asked.without(left_out)
            other = Condition({**some.values, left_out: 1 - some.values[left_out].clamp(0, 1)}, some.given)
            got = engine.sample(rows(4), some, how, Silent())
            assert torch.equal(got, engine.sample(rows(4), other, how, Silent()))
            assert not torch.allclose(got, whole)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"steps": 0},
            {"steps": 2.5},
            {"steps": 10**11},
            {"solver": "rk4"},
            {"guidance": -1.0},
            {"guidance": math.nan},
            {"guidance": math.inf},
            {"guide_from": 0.6, "guide_until": 0.4},
            {"guide_from": -0.1},
            {"guide_until": 1.1},
            {"guide_until": math.nan},
            {"shift": 0.0},
            {"shift": math.nan},
            {"eta": 0.5},
            {"eta": 1.5, "solver": "ddim"},
        ],
        ids=lambda wrong: ",".join(f"{k}={v}" for k, v in wrong.items()),
    )
    def test_wrong_ways_to_sample_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(BadInput, match=next(iter(wrong))):
            DiffusionHow(**wrong)  # type: ignore[arg-type]

    @every_family
    @pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "ancestral", "dpm_2m", "dpm_2m_sde"])
    def test_every_solver_walks_and_a_sample_does_not_depend_on_its_batch(self, name: str, solver: str) -> None:
        engine = built(name)
        how = from_plain(DiffusionHow, {"steps": 5, "solver": solver, "guidance": 2.0})
        whole = engine.sample(rows(6), classes(6), how, Silent())
        assert whole.isfinite().all()
        some = torch.tensor([4, 1])
        torch.testing.assert_close(
            engine.sample(rows(6).take(some), classes(6).take(some), how, Silent()), whole[some], atol=1e-10, rtol=0
        )

    @every_family
    def test_the_share_of_fresh_noise_is_heard(self, name: str) -> None:
        engine = built(name)
        plain, some, most, walk = (
            engine.sample(rows(4), classes(4), how, Silent())
            for how in (
                DiffusionHow(steps=5, solver="ddim"),
                DiffusionHow(steps=5, solver="ddim", eta=0.5),
                DiffusionHow(steps=5, solver="ddim", eta=1.0),
                DiffusionHow(steps=5, solver="ancestral"),
            )
        )
        torch.testing.assert_close(plain, engine.sample(rows(4), classes(4), DiffusionHow(steps=5), Silent()))
        assert not torch.allclose(plain, some)
        torch.testing.assert_close(most, walk)


class TestGroups:
    def test_pictures_get_groups_and_others_do_not(self) -> None:
        build = lambda space, conditions: FlowMatching(width=8, depth=1).build(space, conditions, rows(1))  # noqa: E731
        assert build(PICTURE, {}).groups is not None
        assert build(PICTURE, CLASSES).groups is not None
        assert build(PICTURE, TWO).groups is None
        assert build(Real((1, 8, 8), levels=17), {}).groups is None
        assert build(VECTOR, {}).groups is None

    @every_family
    @pytest.mark.parametrize("conditions", [{}, CLASSES], ids=["free", "classes"])
    def test_losses_and_gradients_row_by_row(self, name: str, conditions: dict[str, Space]) -> None:
        engine = built(name, conditions=conditions, groups=3).float()
        said = classes(5) if conditions else Condition()
        check_rowwise(engine, Batch(data(VECTOR, 5).float(), torch.arange(5) + 100, said))

    @pytest.mark.parametrize("conditions", [{}, CLASSES], ids=["free", "classes"])
    @pytest.mark.parametrize("space", [VECTOR, PICTURE], ids=["rows", "pictures"])
    def test_a_sample_does_not_depend_on_its_batch(self, space: Real, conditions: dict[str, Space]) -> None:
        engine = built("diffusion", space, conditions, groups=3)
        how = DiffusionHow(steps=3, guidance=1.5)
        said = classes(6) if conditions else Condition()
        whole = engine.sample(rows(6), said, how, Silent())
        alone = engine.sample(rows(6).take(slice(4, 5)), said.take(slice(4, 5)), how, Silent())
        torch.testing.assert_close(whole[4:5], alone, atol=1e-10, rtol=0.0)

    def test_the_network_is_told_a_group_that_was_met(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = built(conditions={}, groups=5, items=60)  # of so few items only two groups are made
        seen: list[Condition] = []
        plain = engine.denoise

        def denoise(x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            seen.append(condition)
            return plain(x_t, sigma, condition)

        monkeypatch.setattr(engine, "denoise", denoise)
        engine.sample(rows(200), Condition(), DiffusionHow(steps=1, guidance=2.0), Silent())
        drawn, nothing = seen[0].take(slice(0, 200)), seen[0].take(slice(200, 400))
        assert drawn.given[GROUP].all()
        assert not nothing.given[GROUP].any()
        assert set(drawn.values[GROUP].flatten().tolist()) == {0, 1}

    def test_what_is_walked_away_from_has_no_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = built(groups=3)
        seen: list[Condition] = []
        plain = engine.denoise

        def denoise(x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            seen.append(condition)
            return plain(x_t, sigma, condition)

        monkeypatch.setattr(engine, "denoise", denoise)
        how = DiffusionHow(steps=1, guidance=2.0, against=classes(4, 2))
        engine.sample(rows(4), classes(4), how, Silent())
        towards, away = seen[0].take(slice(0, 4)), seen[0].take(slice(4, 8))
        assert towards.given[GROUP].all()
        assert not away.given[GROUP].any()
        assert away.values["class"].flatten().tolist() == [2] * 4

    def test_items_whose_class_is_not_given_do_not_count_as_class_0(self) -> None:
        engine = FlowMatching(width=8, depth=1, groups=2).build(VECTOR, CLASSES, rows(1))
        assert isinstance(engine, DenoisingEngine)
        x = data(VECTOR, 100).float() + 20.0 * (torch.arange(100) % 2)[:, None]
        known = torch.arange(100) % 2 == 0
        said = Condition({"class": torch.zeros(100, 1, dtype=torch.int64)}, {"class": known})
        engine.prepare(Batch(x, torch.arange(100), said))
        assert engine.groups is not None
        assert sorted(engine.groups.share[0].tolist()) == [0.0, 1.0]
        assert engine.groups.share[-1].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", ["ddpm", "edm"])
@pytest.mark.parametrize(("mean", "spread"), [(1000.0, 10.0), (5.0, 0.0), (-0.002, 1e-4)])
def test_data_far_from_0_and_of_any_spread(name: str, mean: float, spread: float) -> None:
    """Its network still silent, the engine draws and scores as a Gaussian of the data's mean."""
    engine = FAMILIES[name].build(VECTOR, {}, rows(1))
    assert isinstance(engine, DenoisingEngine)
    engine = engine.double()
    x = mean + spread * rows(500).normal(5, dtype=torch.float64)
    engine.prepare(Batch(x, torch.arange(500)))
    drawn = engine.sample(rows(400), Condition(), DiffusionHow(steps=40, solver="heun"), Silent())
    assert float((drawn.mean() - mean).abs()) < 0.15 * max(spread, 1e-6)
    near, far = (
        engine.log_prob(Batch(x[:3] + off, torch.arange(3)), rows(3)).value for off in (0.0, 50 * max(spread, 1e-6))
    )
    assert near.isfinite().all()
    assert (near > far + 100).all()


@every_family
def test_one_number_in_one_row(name: str) -> None:
    engine = FAMILIES[name].build(Real((1,)), {}, rows(1))
    assert isinstance(engine, DenoisingEngine)
    engine.prepare(Batch(torch.ones(1, 1), torch.arange(1)))
    assert all(value.isfinite().all() for value in engine.state_dict().values())
    assert engine.sample(rows(2), Condition(), DiffusionHow(steps=2), Silent()).isfinite().all()


@every_family
def test_no_rows(name: str) -> None:
    engine = built(name)
    assert engine.sample(rows(0), classes(0), DiffusionHow(steps=2, guidance=2.0), Silent()).shape == (0, 5)
    nobody = Batch(data(VECTOR, 0), torch.arange(0), classes(0))
    assert engine.log_prob(nobody, rows(0)).value.shape == (0,)
    assert engine.losses(nobody, rows(0)).shape == (0,)


class TestInversionAndLikelihood:
    @every_family
    def test_an_item_comes_back_from_its_noise(self, name: str) -> None:
        engine, x = built(name), data(VECTOR, 4)
        found, sigmas = engine.invert(x, classes(4))
        with torch.no_grad():
            again = euler(lambda x_t, s: engine.denoise(x_t, s, classes(4)), found.x, sigmas)
        assert float((again - x).abs().max()) < 1e-4
        assert float(sigmas[0]) == pytest.approx(engine.highest)

    @every_family
    def test_a_likelihood_says_what_it_is(self, name: str) -> None:
        free = built(name).log_prob(Batch(data(VECTOR, 3), torch.arange(3), classes(3)), rows(3))
        assert free.kind == "estimate"
        assert free.error is not None
        grid = built(name, Real((3,), levels=5)).log_prob(
            Batch(data(Real((3,), levels=5), 3), torch.arange(3), classes(3)), rows(3)
        )
        assert grid.kind == "lower_bound"
        assert (grid.value < 0).all()

    @every_family
    def test_an_untrained_engine_scores_gaussian_data_no_better_than_its_entropy(self, name: str) -> None:
        engine = FAMILIES[name].build(VECTOR, {}, rows(1))
        assert isinstance(engine, DenoisingEngine)
        engine = engine.double()
        many = Batch(data(VECTOR, 300), torch.arange(300))
        engine.prepare(many)
        value = engine.log_prob(many, rows(300)).value.mean()
        assert float(value) < -0.5 * 5 * math.log(2 * math.pi * math.e) + 4 * math.sqrt(2.5 / 300) + 0.1

    def test_a_trace_hears_every_step(self) -> None:
        trace = Recording(["x_t", "denoised", "sigma"])
        built().sample(rows(2), classes(2), DiffusionHow(steps=4, solver="dpm_2m"), trace)
        assert list(trace.kept["denoised"]) == [0, 1, 2, 3]
        assert list(trace.kept["x_t"]) == [0, 1, 2, 3, 4]
