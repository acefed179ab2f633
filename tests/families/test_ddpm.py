"""DDPM: its schedules against the papers' formulas, its three answers against each other, its weights, and a ring."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, offers
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Real, Tokens
from pellucid.core.trace import Silent
from pellucid.families.ddpm import DDPM, Answer, DDPMEngine, alpha_bars
from pellucid.families.denoising import DiffusionHow
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

VECTOR = Real((5,))
PICTURE = Real((1, 8, 8), levels=17)
ANSWERS: tuple[Answer, ...] = ("noise", "data", "v")


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def data(n: int, space: Real = VECTOR) -> Tensor:
    """Neither around 0 nor of unit spread."""
    return 3.0 + 0.5 * rows(n, 7).normal(*space.shape, dtype=torch.float64)


def built(space: Real = VECTOR, family: DDPM | None = None) -> DDPMEngine:
    engine = (family or DDPM(width=8, depth=1)).build(space, {}, rows(1))
    assert isinstance(engine, DDPMEngine)
    engine = engine.double()
    engine.prepare(Batch(data(400, space), torch.arange(400)))
    return engine.eval()


class TestSchedules:
    @pytest.mark.parametrize("T", [10, 50, 1000])
    def test_linear(self, T: int) -> None:
        """Ho et al. 2020, section 4, as a loop; scaled so that fewer steps pour the same noise."""
        product, expected = 1.0, []
        for t in range(T):
            beta = (1e-4 + (0.02 - 1e-4) * t / (T - 1)) * 1000 / T
            product *= 1 - min(beta, 0.999)
            expected.append(product)
        torch.testing.assert_close(alpha_bars("linear", T), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("T", [2, 50, 1000])
    def test_cosine(self, T: int) -> None:
        """Nichol and Dhariwal 2021, eq. 17 and the cap of beta below it."""
        f = lambda t: math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        product, expected = 1.0, []
        for t in range(1, T + 1):
            product *= 1 - min(1 - f(t) / f(t - 1), 0.999)
            expected.append(product)
        torch.testing.assert_close(alpha_bars("cosine", T), torch.tensor(expected, dtype=torch.float64))
        capped = alpha_bars("cosine", 1000)[499]
        assert float(capped) == pytest.approx(f(T // 2) / f(0) if T == 1000 else float(capped))

    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    @pytest.mark.parametrize("T", [2, 3, 17, 1000, 20_000])
    def test_fall_strictly_within_0_and_1(self, schedule: str, T: int) -> None:
        ab = alpha_bars("linear" if schedule == "linear" else "cosine", T)
        assert ab.shape == (T,)
        assert (ab.diff() < 0).all()
        assert 0.0 < float(ab[-1]) < float(ab[0]) < 1.0
        assert float(ab[-1]) < 0.01

    def test_custom_values_are_met_and_between_them_log_snr_is_straight(self) -> None:
        given = (0.999, 0.6, 0.2, 0.001)
        ab = alpha_bars("custom", 31, given)
        torch.testing.assert_close(ab[::10], torch.tensor(given, dtype=torch.float64))
        snr = (ab / (1 - ab)).log()
        torch.testing.assert_close(snr[15], (snr[10] + snr[20]) / 2)
        assert (ab.diff() < 0).all()

    @pytest.mark.parametrize(
        "values",
        [
            (0.9, 0.5, 0.6, 0.001),
            (0.9, 0.9, 0.001),
            (0.001, 0.9),
            (1.0, 0.001),
            (1.2, 0.001),
            (0.9, 0.0),
            (0.9, -0.1),
            (0.001,),
            (0.9, math.nan, 0.001),
        ],
    )
    def test_what_is_no_schedule_is_refused(self, values: tuple[float, ...]) -> None:
        with pytest.raises(BadInput, match=r"alpha_bar.*strictly falling, between 0 and 1"):
            DDPM(schedule="custom", alpha_bar=values)

    def test_a_schedule_that_leaves_much_of_the_item_is_refused(self) -> None:
        with pytest.raises(BadInput, match=r"last alpha_bar is 0.3.*samples start from noise alone"):
            DDPM(schedule="custom", alpha_bar=(0.9, 0.3))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"schedule": "custom"},
            {"schedule": "linear", "alpha_bar": (0.9, 0.001)},
            {"schedule": "sqrt"},
            {"predicts": "x"},
            {"T": 1},
            {"T": 10**6},
            {"min_snr": 0.0},
            {"min_snr": math.nan},
            {"width": 12},
            {"dropout": 1.0},
            {"groups": -1},
        ],
        ids=lambda wrong: ",".join(f"{k}={v}" for k, v in wrong.items()),
    )
    def test_other_wrong_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(BadInput, match=next(iter(wrong))):
            DDPM(**wrong)  # type: ignore[arg-type]


class Knows(nn.Module):
    """A network that answers exactly for data N(mean, spread^2), in the engine's unit scale."""

    def __init__(self, engine: DDPMEngine, predicts: Answer) -> None:
        super().__init__()
        self.engine, self.predicts = [engine], predicts
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        engine = self.engine[0]
        self.asked.append(time)
        log = engine.log_sigma.double()
        t = (time.double() * engine.family.T - 1).clamp(0, engine.family.T - 1)
        left = t.floor().long().clamp_max(engine.family.T - 2)
        ab = 1 / (1 + torch.lerp(log[left], log[left + 1], t - left).exp().square())[:, None].to(x.dtype)
        best = ab.sqrt() * x  # E[data | x] for data of unit spread
        noise = (x - ab.sqrt() * best) / (1 - ab).sqrt()
        return {"noise": noise, "data": best, "v": ab.sqrt() * noise - (1 - ab).sqrt() * best}[self.predicts]


@pytest.mark.parametrize("predicts", ANSWERS)
@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 20.0])
def test_the_three_answers_are_one_denoiser(predicts: Answer, sigma: float) -> None:
    """The closed form for Gaussian data of the measured mean and spread, whatever the network answers."""
    engine = built(family=DDPM(width=8, depth=1, predicts=predicts))
    engine.network = Knows(engine, predicts)  # type: ignore[assignment]
    x_t = data(6) + sigma * rows(6).normal(5, dtype=torch.float64)
    gain = engine.scale**2 / (engine.scale**2 + sigma**2)
    expected = engine.mean + gain * (x_t - engine.mean)
    got = engine.denoise(x_t, torch.full((6,), sigma).double(), Condition())
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("predicts", ANSWERS)
def test_the_true_answer_has_no_loss(predicts: Answer) -> None:
    engine = built(family=DDPM(width=8, depth=1, predicts=predicts, min_snr=5.0))
    x = data(6)
    t = rows(6).fork("step").integers(1000)
    ab = engine.alpha_bar[t][:, None]
    noise, unit = rows(6).fork("noise").normal(5, dtype=torch.float64), (x - engine.mean) / engine.scale
    right = {"noise": noise, "data": unit, "v": ab.sqrt() * noise - (1 - ab).sqrt() * unit}[predicts]
    seen: list[Tensor] = []

    class Right(nn.Module):
        def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            seen.extend((x, time))
            return right

    engine.network = Right()  # type: ignore[assignment]
    assert float(engine.losses(Batch(x, torch.arange(6)), rows(6)).max()) < 1e-20
    torch.testing.assert_close(seen[0], ab.sqrt() * unit + (1 - ab).sqrt() * noise)
    torch.testing.assert_close(seen[1], (t + 1) / 1000.0, check_dtype=False)


@pytest.mark.parametrize("predicts", ANSWERS)
def test_min_snr_weights_the_mistake_in_the_data_alike(predicts: Answer) -> None:
    """Hang et al. 2023: whatever is answered, the mistake in the data counts min(SNR, g)."""
    plain = built(family=DDPM(width=8, depth=1, predicts=predicts))
    capped = built(family=DDPM(width=8, depth=1, predicts=predicts, min_snr=5.0))
    capped.load_state_dict(plain.state_dict())
    stir(plain)
    capped.load_state_dict(plain.state_dict())
    many = Batch(data(50), torch.arange(50))
    ab = plain.alpha_bar[rows(50).fork("step").integers(1000)]
    snr = ab / (1 - ab)
    ratio = capped.losses(many, rows(50)) / plain.losses(many, rows(50))
    # a mistake e in the data is a mistake sqrt(SNR) e in the noise and sqrt(SNR + 1) e in v
    own = {"noise": snr, "data": torch.ones_like(snr), "v": snr + 1}[predicts]
    torch.testing.assert_close(ratio * own, snr.clamp_max(5.0))


class TestLevels:
    def test_the_levels_of_t_are_met_exactly(self) -> None:
        engine = built(family=DDPM(width=8, depth=1, T=40))
        net = Knows(engine, "v")
        engine.network = net  # type: ignore[assignment]
        level = (engine.log_sigma.exp() * engine.scale)[[0, 5, 39]]
        engine.denoise(data(3), level, Condition())
        torch.testing.assert_close(net.asked[0], torch.tensor([1.0, 6.0, 40.0]).double() / 40)

    def test_between_them_t_is_interpolated_and_beyond_them_held(self) -> None:
        engine = built(family=DDPM(width=8, depth=1, T=40))
        net = Knows(engine, "v")
        engine.network = net  # type: ignore[assignment]
        half = (engine.log_sigma[5] + engine.log_sigma[6]).div(2).exp() * engine.scale
        level = torch.stack((half, half * 0, half * 1e6))
        out = engine.denoise(data(3), level, Condition())
        torch.testing.assert_close(net.asked[0], torch.tensor([6.5, 1.0, 40.0]).double() / 40)
        assert out.isfinite().all()

    @pytest.mark.parametrize("steps", [1, 2, 20, 1000, 1500])
    @pytest.mark.parametrize("schedule", ["linear", "cosine"])
    def test_what_a_walk_goes_down(self, steps: int, schedule: str) -> None:
        engine = built(family=DDPM(width=8, depth=1, schedule="linear" if schedule == "linear" else "cosine"))
        sigmas = engine.sigmas(DiffusionHow(steps=steps))
        assert sigmas.shape == (steps + 1,)
        assert (sigmas.diff() < 0).all()
        assert float(sigmas[-1]) == 0.0
        assert float(sigmas[0]) <= 80.0 * float(engine.scale) * (1 + 1e-6)
        assert float(sigmas[0]) > 50.0 * float(engine.scale)

    def test_as_many_steps_as_T_walk_every_level(self) -> None:
        engine = built(family=DDPM(width=8, depth=1, T=30, schedule="custom", alpha_bar=(0.999, 0.5, 0.001)))
        levels = (engine.log_sigma.exp() * engine.scale).flip(0)
        sigmas = engine.sigmas(DiffusionHow(steps=29))
        torch.testing.assert_close(sigmas[:-1], levels[:-1])

    def test_a_shift_moves_them_to_more_noise(self) -> None:
        engine = built()
        plain, shifted = (engine.sigmas(DiffusionHow(steps=9, shift=s)) for s in (1.0, 3.0))
        assert (shifted[1:-1] > plain[1:-1]).all()
        assert shifted[0] == plain[0]

    def test_somebody_elses_how_is_refused(self) -> None:
        with pytest.raises(BadInput, match="DiffusionHow"):
            built().sigmas(How())


@pytest.mark.parametrize("space", [VECTOR, PICTURE], ids=["rows", "digits"])
@pytest.mark.parametrize("predicts", ANSWERS)
def test_losses_and_gradients_row_by_row(space: Real, predicts: Answer) -> None:
    engine = DDPM(width=8, depth=1, predicts=predicts, min_snr=5.0).build(space, CLASS, rows(1))
    assert isinstance(engine, DDPMEngine)
    stir(engine)
    check_rowwise(engine, batch_of(space, 5))


def test_what_it_offers_accepts_and_says() -> None:
    assert offers(DDPM.engine) == ("Learns", "Prepares", "Samples", "Scores", "Denoises")
    assert DDPM().accepts(PICTURE, {}) is None
    assert DDPM().accepts(Tokens(3, 4), {}) is not None
    assert DDPM(net="unet").accepts(VECTOR, {}) is not None
    with pytest.raises(BadInput, match="Real"):
        DDPM().build(Tokens(3, 4), {}, rows(1))
    for predicts in ANSWERS:
        parts = DDPM(predicts=predicts, min_snr=5.0).parts()
        assert [p.name for p in parts] == ["forward process", "reverse process", "network", "loss", "training data"]
        assert all(p.sentence.endswith(".") and p.formula and "arXiv" in p.source for p in parts)


def test_settings_round_trip() -> None:
    family = DDPM(schedule="custom", alpha_bar=(0.99, 0.5, 0.001), predicts="noise", min_snr=5.0, T=50)
    assert from_plain(DDPM, to_plain(family)) == family


def test_an_engine_that_was_cast_answers_alike() -> None:
    engine = built()
    stir(engine)
    x, sigma = data(4), torch.tensor([0.01, 0.2, 1.0, 30.0]).double()
    exact = engine.denoise(x, sigma, Condition())
    levels = engine.sigmas(DiffusionHow(steps=7))
    engine = engine.float()
    assert engine.sigmas(DiffusionHow(steps=7)).dtype == torch.float64
    torch.testing.assert_close(engine.sigmas(DiffusionHow(steps=7)), levels, rtol=1e-5, atol=0.0)
    got = engine.denoise(x.float(), sigma.float(), Condition())
    torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-3)
    assert engine.losses(Batch(x.float(), torch.arange(4)), rows(4)).dtype == torch.float32


@pytest.mark.parametrize(
    "family",
    [
        DDPM(width=64, depth=2, predicts="noise", schedule="linear"),
        DDPM(width=64, depth=2, predicts="data", min_snr=5.0),
        DDPM(width=64, depth=2, T=100),
    ],
    ids=["noise, linear", "data, min-SNR", "v, 100 steps"],
)
def test_a_few_seconds_teach_it_a_ring(family: DDPM) -> None:
    """A ring is nothing a Gaussian can draw: trained samples keep away from its empty middle."""
    angle = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 6.2832
    ring = torch.stack((angle.cos(), angle.sin()), dim=1) + 0.05 * rows(2000).normal(2)
    engine = family.build(Real((2,)), {}, rows(1))
    assert isinstance(engine, DDPMEngine)
    engine.prepare(Batch(ring, torch.arange(2000)))
    optimizer = torch.optim.Adam(engine.parameters(), lr=3e-3)
    for step in range(400):
        ids = torch.arange(step * 128, step * 128 + 128) % 2000
        loss = engine.losses(Batch(ring[ids], ids), rows(128, step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    radius = engine.sample(rows(1000), Condition(), DiffusionHow(steps=25), Silent()).norm(dim=1)
    assert float((radius < 0.7).double().mean()) < 0.08
    assert float((radius - 1).abs().median()) < 0.15
