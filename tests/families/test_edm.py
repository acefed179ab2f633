"""EDM: its scalings against table 1 of the paper, its levels against eq. 5, its loss's weight, and a ring."""

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
from pellucid.families.denoising import DiffusionHow
from pellucid.families.edm import EDM, EDMEngine
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

VECTOR = Real((5,))
PICTURE = Real((1, 8, 8), levels=17)


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def data(n: int) -> Tensor:
    return 3.0 + 0.5 * rows(n, 7).normal(5, dtype=torch.float64)


def built(family: EDM | None = None) -> EDMEngine:
    engine = (family or EDM(width=8, depth=1)).build(VECTOR, {}, rows(1))
    assert isinstance(engine, EDMEngine)
    engine = engine.double()
    engine.prepare(Batch(data(400), torch.arange(400)))
    stir(engine)
    return engine.eval()


class Hears(nn.Module):
    """Keeps what the network is asked and answers `out`."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out, self.x, self.time = out, out, out

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.x, self.time = x, time
        return self.out


@pytest.mark.parametrize("sigma", [0.003, 0.2, 0.5, 3.0, 60.0])
def test_the_scalings_are_those_of_table_1(sigma: float) -> None:
    engine = built()
    x, s, mean = data(6), float(engine.sigma_data), float(engine.mean)
    net = Hears(rows(6, 9).normal(5, dtype=torch.float64))
    engine.network = net  # type: ignore[assignment]
    got = engine.denoise(x, torch.full((6,), sigma).double(), Condition())
    c_skip = s**2 / (sigma**2 + s**2)
    c_out = sigma * s / math.sqrt(sigma**2 + s**2)
    torch.testing.assert_close(net.x, (x - mean) / math.sqrt(sigma**2 + s**2))
    # the paper's ln(sigma) / 4, for data brought to unit spread
    torch.testing.assert_close(net.time, torch.full((6,), math.log(sigma / s) / 4).double())
    torch.testing.assert_close(got, mean + c_skip * (x - mean) + c_out * net.out)


def test_the_loss_is_that_of_eq_8() -> None:
    """lambda(sigma) |D - data|^2 with lambda = (sigma^2 + s^2) / (sigma s)^2, so lambda c_out^2 is 1."""
    engine = built()
    x, s = data(200), float(engine.sigma_data)
    family = engine.family
    sigma = (family.P_mean + family.P_std * rows(200).fork("level").normal(dtype=torch.float64)).exp() * s
    noisy = x + sigma[:, None] * rows(200).fork("noise").normal(5, dtype=torch.float64)
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    expected = weight * (engine.denoise(noisy, sigma, Condition()) - x).square().mean(dim=1)
    torch.testing.assert_close(engine.losses(Batch(x, torch.arange(200)), rows(200)), expected)
    c_out = sigma * s / (sigma**2 + s**2).sqrt()
    torch.testing.assert_close(weight * c_out**2, torch.ones(200).double())


def test_what_goes_in_and_what_shall_come_out_is_of_unit_size() -> None:
    engine = built()
    n, s = 4000, float(engine.sigma_data)
    for sigma in (0.01, 0.5, 20.0):
        x = data(n) - engine.mean
        level = torch.full((n,), sigma).double()
        noisy = x + sigma * rows(n).normal(5, dtype=torch.float64)
        net = Hears(torch.zeros(n, 5).double())
        engine.network = net  # type: ignore[assignment]
        _, c_skip, c_out = engine.network_at(noisy, level, Condition())
        assert float(net.x.std()) == pytest.approx(1.0, abs=0.05)
        assert float(((x - c_skip * noisy) / c_out).std()) == pytest.approx(1.0, abs=0.05)
    assert s == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("steps", "rho"), [(2, 7.0), (18, 7.0), (18, 3.0), (200, 7.0)])
def test_the_levels_are_those_of_eq_5(steps: int, rho: float) -> None:
    engine = built(EDM(width=8, depth=1, rho=rho))
    high, low = 160.0 * float(engine.sigma_data), 0.004 * float(engine.sigma_data)
    expected = [
        (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(steps)
    ]
    sigmas = engine.sigmas(DiffusionHow(steps=steps))
    torch.testing.assert_close(sigmas, torch.tensor([*expected, 0.0], dtype=torch.float64))
    assert (sigmas.diff() < 0).all()
    shifted = engine.sigmas(DiffusionHow(steps=steps, shift=3.0))
    assert (shifted[1 : steps - 1] > sigmas[1 : steps - 1]).all()
    torch.testing.assert_close(shifted[[0, -2]], sigmas[[0, -2]])


def test_one_step_and_somebody_elses_how() -> None:
    engine = built()
    torch.testing.assert_close(
        engine.sigmas(DiffusionHow(steps=1)), torch.tensor([engine.highest, 0.0], dtype=torch.float64)
    )
    with pytest.raises(BadInput, match="DiffusionHow"):
        engine.sigmas(How())


def test_no_noise_is_the_item_itself() -> None:
    x = data(3)
    torch.testing.assert_close(built().denoise(x, torch.zeros(3).double(), Condition()), x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"P_std": 0.0},
        {"P_std": math.nan},
        {"P_mean": math.inf},
        {"rho": -1.0},
        {"rho": math.nan},
        {"sigma_min": 0.0},
        {"sigma_min": 200.0},
        {"sigma_max": math.inf},
        {"width": 12},
        {"p_uncond": 1.0},
    ],
    ids=lambda wrong: ",".join(f"{k}={v}" for k, v in wrong.items()),
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        EDM(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", [VECTOR, PICTURE], ids=["rows", "digits"])
def test_losses_and_gradients_row_by_row(space: Real) -> None:
    engine = EDM(width=8, depth=1).build(space, CLASS, rows(1))
    stir(engine)
    check_rowwise(engine, batch_of(space, 5))


def test_what_it_offers_accepts_and_says() -> None:
    assert offers(EDM.engine) == ("Learns", "Prepares", "Samples", "Scores", "Denoises")
    assert EDM().accepts(PICTURE, {}) is None
    assert EDM().accepts(Tokens(3, 4), {}) is not None
    with pytest.raises(BadInput, match="Real"):
        EDM().build(Tokens(3, 4), {}, rows(1))
    parts = EDM().parts()
    assert [p.name for p in parts] == ["forward process", "reverse process", "network", "loss", "training data"]
    assert all(p.sentence.endswith(".") and p.formula and "arXiv" in p.source for p in parts)
    family = EDM(rho=5.0, P_mean=-1.0, net="mlp")
    assert from_plain(EDM, to_plain(family)) == family


def test_a_few_seconds_teach_it_a_ring() -> None:
    """A ring is nothing a Gaussian can draw: trained samples keep away from its empty middle."""
    angle = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 6.2832
    ring = torch.stack((angle.cos(), angle.sin()), dim=1) + 0.05 * rows(2000).normal(2)
    engine = EDM(width=64, depth=2).build(Real((2,)), {}, rows(1))
    assert isinstance(engine, EDMEngine)
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
