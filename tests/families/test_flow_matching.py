"""Flow matching: its closed forms, its laws row by row, and that a few seconds of training teach it something."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, offers
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.denoising import GUARD, DiffusionHow
from pellucid.families.flow_matching import FlowMatching, FlowMatchingEngine, mix

PICTURE = Real((1, 8, 8), levels=17)
PHOTO = Real((3, 7, 10), levels=256)
VECTOR = Real((5,))
SERIES = Real((4, 3))
CLASSES: dict[str, Space] = {"class": Tokens(10, 1)}


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def classes(n: int) -> Condition:
    return Condition({"class": torch.arange(n)[:, None] % 10}, {"class": torch.ones(n, dtype=torch.bool)})


def built(
    space: Real, conditions: dict[str, Space] | None = None, *, family: FlowMatching | None = None, awake: bool = True
) -> FlowMatchingEngine:
    """A small engine in float64 that has looked at data; random weights everywhere when awake."""
    family = family or FlowMatching(width=8, depth=1)
    engine = family.build(space, CLASSES if conditions is None else conditions, rows(1))
    assert isinstance(engine, FlowMatchingEngine)
    engine = engine.double()
    engine.prepare(Batch(data(space, 50), torch.arange(50)))
    if awake:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in engine.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return engine.eval()


def data(space: Real, n: int) -> Tensor:
    x = torch.rand(n, *space.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 2 - 1
    return x if space.levels is None else ((x + 1) / space.step).round() * space.step - 1


def batch(space: Real, n: int) -> Batch:
    return Batch(data(space, n), torch.arange(n), classes(n))


every_space = pytest.mark.parametrize(
    "space", [PICTURE, PHOTO, VECTOR, SERIES], ids=["digits", "photos", "rows", "series"]
)


def test_what_it_offers() -> None:
    assert offers(FlowMatching.engine) == ("Learns", "Prepares", "Samples", "Scores", "Denoises")


@every_space
def test_losses_of_an_untrained_engine_are_those_of_the_gaussian_guess(space: Real) -> None:
    engine = built(space, awake=False)
    many = batch(space, 400)
    value = engine.losses(many, rows(400))
    assert value.shape == (400,)
    # the guess is fitted to uniform data, whose covariance is right, so the mean square stray is about 1
    assert value.mean().item() == pytest.approx(1.0, rel=0.15)


@every_space
def test_losses_row_by_row(space: Real) -> None:
    engine = built(space)
    whole = engine.losses(batch(space, 6), rows(6))
    alone = engine.losses(batch(space, 6).take(slice(4, 5)), rows(6).take(slice(4, 5)))
    torch.testing.assert_close(whole[4:5], alone, atol=1e-10, rtol=0.0)
    other = batch(space, 6)
    other.x[0] = -other.x[0]
    changed = engine.losses(other, rows(6))
    torch.testing.assert_close(changed[1:], whole[1:], atol=1e-10, rtol=0.0)
    assert changed[0] != whole[0]


@every_space
def test_gradients_by_vmap_are_those_of_single_rows(space: Real) -> None:
    engine, many = built(space), batch(space, 3)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.engine = engine

        def forward(self, x: Tensor, label: Tensor, given: Tensor, ident: Tensor) -> Tensor:
            condition = Condition({"class": label[None]}, {"class": given[None]})
            one: Tensor = self.engine.losses(Batch(x[None], ident[None], condition), Rows(1, ident[None]))
            return one[0]

    module = Loss()
    params: dict[str, Tensor] = dict(module.named_parameters())

    def loss(p: dict[str, Tensor], *row: Tensor) -> Tensor:
        return cast(Tensor, functional_call(module, p, row))

    inputs = (many.x, many.condition.values["class"], many.condition.given["class"], many.ids)
    together = vmap(grad(loss), (None, 0, 0, 0, 0))(params, *inputs)
    for i in range(3):
        single = grad(loss)(params, *(part[i] for part in inputs))
        for name in single:
            torch.testing.assert_close(together[name][i], single[name], rtol=1e-8, atol=1e-10)


def test_losses_leave_their_inputs_alone() -> None:
    engine, many = built(PHOTO), batch(PHOTO, 4)
    before = many.x.clone()
    engine.losses(many, rows(4))
    assert (many.x == before).all()


def test_the_loss_has_its_least_where_the_velocity_is_right() -> None:
    """The network that answers the true remainder exactly scores zero."""
    engine, many = built(VECTOR), batch(VECTOR, 5)
    noise = rows(5).fork("noise").normal(5, dtype=torch.float64)
    t = rows(5).fork("time").normal(dtype=torch.float64).sigmoid()
    x = mix(noise, many.x, t)
    v, stray, _ = engine.guess(x, t)

    class Knows(nn.Module):
        def forward(self, inputs: Tensor, vector: Tensor) -> Tensor:
            return (many.x - noise - v) / stray

    engine.network.net = Knows()
    assert float(engine.losses(many, rows(5)).max()) < 1e-20


@every_space
@pytest.mark.parametrize("sigma", [0.0, 0.02, 1.0, 50.0])
def test_denoise_walks_onto_the_path_and_back(space: Real, sigma: float) -> None:
    engine = built(space)
    x_t = data(space, 4) + sigma * rows(4).normal(*space.shape, dtype=torch.float64)
    level = torch.full((4,), sigma, dtype=torch.float64)
    got = engine.denoise(x_t, level, classes(4))
    t = 1 / (1 + sigma)
    v = engine.velocity(t * x_t, torch.full((4,), t, dtype=torch.float64), classes(4))
    torch.testing.assert_close(got, t * x_t + (1 - t) * v)
    if sigma == 0.0:
        torch.testing.assert_close(got, x_t)


def test_an_untrained_engine_denoises_as_the_datas_gaussian() -> None:
    engine = built(VECTOR, awake=False)
    x_t, sigma = 3 * rows(6).normal(5, dtype=torch.float64), 0.8
    gauss = engine.gauss
    cov = gauss.basis @ torch.diag(gauss.variance) @ gauss.basis.T
    gain = cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(5, dtype=torch.float64))
    exact = gauss.mean + (x_t - gauss.mean) @ gain.T
    got = engine.denoise(x_t, torch.full((6,), sigma, dtype=torch.float64), classes(6))
    torch.testing.assert_close(got, exact)


def test_an_untrained_engine_samples_the_datas_gaussian() -> None:
    engine = built(VECTOR, awake=False)
    x = engine.sample(rows(4000), classes(4000), DiffusionHow(steps=60), Silent())
    torch.testing.assert_close(x.mean(0), engine.gauss.mean, atol=0.05, rtol=0.0)
    cov = engine.gauss.basis @ torch.diag(engine.gauss.variance) @ engine.gauss.basis.T
    torch.testing.assert_close(torch.cov(x.T), cov, atol=0.03, rtol=0.0)


@every_space
@pytest.mark.parametrize("solver", ["euler", "heun", "ancestral"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
def test_a_sample_does_not_depend_on_its_batch(space: Real, solver: str, guidance: float) -> None:
    engine = built(space)
    how = from_plain(DiffusionHow, {"steps": 3, "solver": solver, "guidance": guidance})
    whole = engine.sample(rows(5), classes(5), how, Silent())
    alone = engine.sample(rows(5).take(slice(3, 4)), classes(5).take(slice(3, 4)), how, Silent())
    assert whole.shape == (5, *space.shape)
    torch.testing.assert_close(whole[3:4], alone, atol=1e-10, rtol=0.0)
    half = engine.float()
    whole = half.sample(rows(5), classes(5), how, Silent())
    alone = half.sample(rows(5).take(slice(3, 4)), classes(5).take(slice(3, 4)), how, Silent())
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole[3:4], alone, atol=2e-4, rtol=0.0)


def test_samples_of_grids_stay_on_their_range_and_the_condition_matters() -> None:
    engine = built(PHOTO)
    x = engine.sample(rows(4), classes(4), DiffusionHow(steps=3), Silent())
    assert x.min() >= -1.0
    assert x.max() <= 1.0
    other = engine.sample(rows(4), classes(4).nothing(), DiffusionHow(steps=3), Silent())
    assert (x != other).any()


def test_guidance_zero_is_no_condition() -> None:
    engine = built(VECTOR)
    plain = engine.sample(rows(4), classes(4).nothing(), DiffusionHow(steps=3), Silent())
    zero = engine.sample(rows(4), classes(4), DiffusionHow(steps=3, guidance=0.0), Silent())
    torch.testing.assert_close(plain, zero)


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (20, 3.0), (500, 0.5)])
def test_noise_levels(steps: int, shift: float) -> None:
    sigmas = built(VECTOR).sigmas(DiffusionHow(steps=steps, shift=shift))
    assert sigmas.shape == (steps + 1,)
    assert torch.isfinite(sigmas).all()
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[0]) == pytest.approx(300.0)
    assert float(sigmas[-1]) == 0.0


def test_a_trace_hears_the_walk() -> None:
    trace = Recording(["x_t", "denoised", "sigma"])
    built(PICTURE).sample(rows(2), classes(2), DiffusionHow(steps=4), trace)
    assert len(trace.kept["denoised"]) == 4
    assert trace.kept["x_t"][0].shape == (2, 1, 8, 8)


class TestGuardBand:
    def test_black_and_white_move_outwards_and_come_back(self) -> None:
        engine, x = built(PHOTO), torch.tensor([-1.0, -0.99, 0.0, 1.0])
        assert engine.guard(x).tolist() == pytest.approx([-1 - GUARD, -0.99, 0.0, 1 + GUARD])

    def test_a_coarse_grid_needs_none(self) -> None:
        x = torch.tensor([-1.0, 1.0])
        assert (built(PICTURE).guard(x) == x).all()
        assert (built(VECTOR).guard(x) == x).all()


class TestConditions:
    def test_pictures_are_laid_over_the_noisy_picture(self) -> None:
        """The network sees a low-resolution picture grown to full size, and a channel that says it is given."""
        spaces: dict[str, Space] = {"small": Real((3, 4, 4)), "class": Tokens(10, 1)}
        engine = built(Real((3, 8, 8), levels=256), spaces)
        seen: list[Tensor] = []

        class Looks(nn.Module):
            def forward(self, x: Tensor, vector: Tensor) -> Tensor:
                seen.append(x)
                return x[:, :3]

        engine.network.net = Looks()
        small = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        both = torch.ones(2, dtype=torch.bool)
        label = torch.zeros(2, 1, dtype=torch.int64)
        condition = Condition({"small": small, "class": label}, {"small": torch.tensor([True, False]), "class": both})
        engine.denoise(torch.zeros(2, 3, 8, 8, dtype=torch.float64), torch.ones(2, dtype=torch.float64), condition)
        overlay = seen[0][:, 6:]
        assert overlay.shape == (2, 4, 8, 8)
        assert (overlay[0, :3, ::2, 1::2] == small[0]).all()
        assert (overlay[0, 3] == 1).all()
        assert (overlay[1] == 0).all()

    def test_what_is_not_given_does_not_matter(self) -> None:
        engine = built(PICTURE, {"small": Real((1, 4, 4)), "age": Real((1,))})
        off = torch.zeros(2, dtype=torch.bool)
        make = lambda v: Condition(  # noqa: E731
            {"small": torch.full((2, 1, 4, 4), v).double(), "age": torch.full((2, 1), v).double()},
            {"small": off, "age": off},
        )
        x, sigma = torch.randn(2, 1, 8, 8).double(), torch.ones(2).double()
        assert (engine.denoise(x, sigma, make(0.0)) == engine.denoise(x, sigma, make(5.0))).all()
        assert (engine.denoise(x, sigma, make(0.0)) == engine.denoise(x, sigma, Condition())).all()

    def test_conditions_are_forgotten_together_and_apart(self) -> None:
        engine = built(VECTOR, {"a": Tokens(3, 1), "b": Tokens(3, 1)}, family=FlowMatching(width=8, p_uncond=0.2))
        n, zero = 4000, torch.zeros(4000, 1, dtype=torch.int64)
        all_given = torch.ones(n, dtype=torch.bool)
        both = Condition({"a": zero, "b": zero}, {"a": all_given, "b": all_given})
        got = engine.forget(both, rows(n)).given
        share = lambda a, b: float(((got["a"] == a) & (got["b"] == b)).double().mean())  # noqa: E731
        assert share(False, False) == pytest.approx(0.2 + 0.8 * 0.04, abs=0.03)
        assert share(True, False) == pytest.approx(0.8 * 0.16, abs=0.03)
        one = engine.forget(Condition({"a": zero}, {"a": all_given}), rows(n)).given["a"]
        assert float(one.double().mean()) == pytest.approx(0.8, abs=0.03)


class TestSettings:
    def test_round_trip(self) -> None:
        family = FlowMatching(width=16, dropout=0.1)
        assert from_plain(FlowMatching, to_plain(family)) == family
        how = DiffusionHow(steps=7, guidance=2.0)
        assert from_plain(DiffusionHow, to_plain(how)) == how

    @pytest.mark.parametrize(
        "wrong", [{"width": 12}, {"depth": 0}, {"dropout": 1.0}, {"p_uncond": -0.1}, {"time_spread": 0.0}]
    )
    def test_wrong_settings_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(BadInput, match=next(iter(wrong))):
            from_plain(FlowMatching, wrong)

    @pytest.mark.parametrize("wrong", [{"steps": 0}, {"guidance": -1.0}, {"shift": 0.0}])
    def test_wrong_ways_to_sample_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(BadInput, match=next(iter(wrong))):
            from_plain(DiffusionHow, wrong)

    def test_somebody_elses_how_is_refused(self) -> None:
        with pytest.raises(BadInput, match="DiffusionHow"):
            built(VECTOR).sigmas(How())

    def test_what_it_accepts(self) -> None:
        family = FlowMatching()
        assert family.accepts(PHOTO, CLASSES) is None
        assert family.accepts(VECTOR, {}) is None
        symbols = family.accepts(Tokens(5, 3), {})
        assert symbols is not None
        assert "real" in symbols.reason
        assert family.accepts(Real((3, 9), ragged=True), {}) is not None
        assert family.accepts(Mixed((Field("a", VECTOR),)), {}) is not None
        assert family.accepts(Real((4, 100_000)), {}) is not None
        with pytest.raises(BadInput):
            family.build(Tokens(5, 3), {}, rows(1))

    def test_parts_name_the_five_pieces(self) -> None:
        parts = FlowMatching().parts()
        assert [p.name for p in parts] == ["forward process", "reverse process", "network", "loss", "training data"]
        assert all(p.sentence.endswith(".") and p.formula and "arXiv" in p.source for p in parts)


class TestBuilding:
    def test_the_same_rows_give_the_same_weights_and_nothing_global_moves(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        one, two, other = (FlowMatching(width=8).build(VECTOR, {}, rows(1, s)) for s in (0, 0, 1))
        assert (torch.get_rng_state() == before).all()
        first, again, differs = (dict(e.named_parameters())["network.net.first.weight"] for e in (one, two, other))
        assert (first == again).all()
        assert (first != differs).any()

    def test_a_base_gives_the_weights_that_fit(self) -> None:
        base = built(VECTOR)
        new = FlowMatching(width=8, depth=2).build(VECTOR, CLASSES, rows(1, 9), base.float())
        fresh, old = new.state_dict(), base.state_dict()
        assert (fresh["network.net.blocks.0.inner.weight"] == old["network.net.blocks.0.inner.weight"]).all()
        assert (fresh["gauss.mean"] == old["gauss.mean"]).all()

    def test_what_preparing_sees_is_part_of_the_state(self) -> None:
        engine = built(VECTOR)
        again = FlowMatching(width=8, depth=1).build(VECTOR, CLASSES, rows(1)).double()
        again.load_state_dict(engine.state_dict())
        assert isinstance(again, FlowMatchingEngine)
        how = DiffusionHow(steps=3)
        torch.testing.assert_close(
            again.sample(rows(2), classes(2), how, Silent()), engine.sample(rows(2), classes(2), how, Silent())
        )

    def test_without_the_gaussian_no_statistics_are_kept(self) -> None:
        engine = built(VECTOR, family=FlowMatching(width=8, gaussian=False))
        assert (engine.gauss.mean == 0).all()
        assert (engine.gauss.variance == 1).all()

    def test_a_network_of_ones_own(self) -> None:
        class Own(nn.Module):
            def __init__(self, inputs: int, outputs: int) -> None:
                super().__init__()
                self.layer = nn.Linear(inputs, outputs)

            def forward(self, x: Tensor, vector: Tensor) -> Tensor:
                return cast(Tensor, self.layer(x))

        engine = FlowMatchingEngine(
            FlowMatching(), VECTOR, {}, make=lambda w: Own(w.copies * w.space.size, w.space.size)
        )
        assert engine.sample(rows(2), Condition(), DiffusionHow(steps=2), Silent()).shape == (2, 5)


@every_space
def test_bfloat16_is_near_float32(space: Real) -> None:
    engine = built(space).float()
    many = batch(space, 4)
    x = dataclasses.replace(many, x=many.x.float())
    exact = engine.losses(x, rows(4))
    with torch.autocast("cpu", torch.bfloat16):
        fast = engine.losses(x, rows(4))
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, exact, rtol=0.05, atol=0.05)


def test_a_few_seconds_teach_it_a_ring() -> None:
    """A ring is nothing a Gaussian can draw: trained samples keep away from its empty middle."""
    angle = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 6.2832
    ring = torch.stack((angle.cos(), angle.sin()), dim=1) + 0.05 * rows(2000).normal(2)
    engine = FlowMatching(width=64, depth=2).build(Real((2,)), {}, rows(1))
    assert isinstance(engine, FlowMatchingEngine)
    engine.prepare(Batch(ring, torch.arange(2000)))
    how = DiffusionHow(steps=20)
    inside = lambda: float((engine.sample(rows(1000), Condition(), how, Silent()).norm(dim=1) < 0.7).double().mean())  # noqa: E731
    before = inside()
    optimizer = torch.optim.Adam(engine.parameters(), lr=3e-3)
    for step in range(300):
        ids = torch.arange(step * 128, step * 128 + 128) % 2000
        loss = engine.losses(Batch(ring[ids], ids), rows(128, step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = inside()
    assert before > 0.25
    assert after < before / 4
