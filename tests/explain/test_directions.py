"""Directions: planted ones are found, a renderer's factors can be turned one by one, and effects are measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Encodes, How, Samples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Pictures as Shown
from pellucid.core.rows import Rows
from pellucid.core.space import Real
from pellucid.core.trace import Trace
from pellucid.domains.frames import TableData
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures
from pellucid.explain.directions import directions
from pellucid.explain.factors import Factors
from pellucid.explain.latents import latents_of
from pellucid.explain.turning import Direction, class_means, factor_directions, first_layer, principal, turned
from pellucid.fitting import fit
from pellucid.model import Data, Fitted, adopt

FACTORS, LATENT, SIDE = 4, 10, 16
Floats = NDArray[np.float64]


def planted(seed: int = 0) -> Floats:
    """(FACTORS, LATENT) orthonormal directions."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(LATENT, LATENT)))[0]
    return np.asarray(q[:FACTORS], dtype=np.float64)


def drawn(f: Tensor) -> Tensor:
    """Factors (B, 4) of about unit size to pictures (B, 1, SIDE, SIDE) from -1 to 1: a soft bar whose place across,
    place down, width and light they are, each smoothly and in its own range."""
    at = (torch.arange(SIDE, dtype=f.dtype) + 0.5) / SIDE
    across, down = 0.5 + 0.05 * f[:, 0], 0.5 + 0.05 * f[:, 1]
    wide, light = 0.10 + 0.012 * f[:, 2], 0.6 + 0.09 * f[:, 3]
    x = torch.exp(-(((at[None] - across[:, None]) / wide[:, None]) ** 2) / 2)
    y = torch.exp(-(((at[None] - down[:, None]) / 0.12) ** 2) / 2)
    return (2 * light[:, None, None] * y[:, :, None] * x[:, None, :] - 1)[:, None].clamp(-1, 1)


class Renderer(nn.Module, Samples, Encodes, Decodes):
    """An exact model of the bars: latents are factors, rotated and with six more numbers that do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = torch.from_numpy(planted())

    def settings(self) -> How:
        return How()

    def latent(self) -> Real:
        return Real((LATENT,))

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        return self.decode(rows.fork("latent").normal(LATENT, dtype=torch.float64), condition)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        return drawn(z.double() @ self.plan.T).float()

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """The latent of the shortest length that draws this picture, by moments."""
        return torch.from_numpy(read_back(x.double().numpy()) @ planted())


def read_back(x: Floats) -> Floats:
    """Pictures (B, 1, SIDE, SIDE) to the factors (B, 4) that drew them."""
    light = (x[:, 0] + 1) / 2
    at = (np.arange(SIDE) + 0.5) / SIDE
    total = light.sum(axis=(1, 2))
    across, down = light.sum(axis=1) @ at / total, light.sum(axis=2) @ at / total
    wide = np.sqrt((light.sum(axis=1) * (at[None] - across[:, None]) ** 2).sum(axis=1) / total)
    mass = total / SIDE**2 / (2 * np.pi * wide * 0.12)
    return np.stack([(across - 0.5) / 0.05, (down - 0.5) / 0.05, (wide - 0.10) / 0.012, (mass - 0.6) / 0.09], axis=1)


@pytest.fixture(scope="module")
def bars() -> tuple[Fitted, Pictures]:
    z = np.random.default_rng(1).normal(size=(500, FACTORS))
    levels = ((drawn(torch.from_numpy(z)).numpy()[:, 0, ..., None] + 1) / 2 * 255).round().astype(np.uint8)
    data = Pictures(pixels=levels)
    model = adopt(Renderer(), Images().learn(data))
    return replace(model, data=data), data


def true_factors(data: Pictures) -> Factors:
    def measure(items: Data) -> Floats:
        assert isinstance(items, Pictures)
        return read_back(np.moveaxis(items.pixels.astype(np.float64), 3, 1) / 255 * 2 - 1)

    return Factors(("across", "down", "width", "light"), measure, measure(data).std(axis=0))


class TestPlanted:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_factor_directions_are_the_planted_ones(self, seed: int) -> None:
        """z = factors A + noise, with correlated factors: every row of A at cosine .99."""
        generator = np.random.default_rng(seed)
        plan = planted(seed)
        mixed = generator.normal(size=(600, FACTORS)) @ (np.eye(FACTORS) + 0.3 * generator.normal(size=(FACTORS,) * 2))
        z = mixed @ plan + 0.3 * generator.normal(size=(600, LATENT))
        found = factor_directions(z, mixed, list("abcd"))
        cosines = [abs(float(d.vector @ plan[k])) for k, d in enumerate(found)]
        assert min(cosines) >= 0.99, cosines

    def test_components_are_the_planted_axes(self) -> None:
        generator, plan = np.random.default_rng(0), planted()
        z = (generator.normal(size=(3000, FACTORS)) * [4.0, 3.0, 2.0, 1.0]) @ plan
        found = principal(z, FACTORS)
        assert min(abs(float(d.vector @ plan[k])) for k, d in enumerate(found)) >= 0.99
        assert [round(d.step) for d in found] == [4, 3, 2, 1]

    def test_singular_vectors_of_the_first_layer_are_the_planted_ones(self) -> None:
        generator, plan = np.random.default_rng(0), planted()
        outputs = np.linalg.qr(generator.normal(size=(30, FACTORS)))[0]
        weight = outputs @ np.diag([5.0, 4.0, 3.0, 2.0]) @ plan + 0.01 * generator.normal(size=(30, LATENT))
        found = first_layer(weight, FACTORS)
        assert min(abs(float(d.vector @ plan[k])) for k, d in enumerate(found)) >= 0.99

    def test_a_class_lies_where_its_mean_does(self) -> None:
        generator = np.random.default_rng(0)
        labels = generator.integers(0, 2, 2000)
        z = generator.normal(size=(2000, 5)) + 2.0 * labels[:, None] * np.eye(5)[3]
        found = {d.name: d for d in class_means(z, labels.tolist(), ["a", "b"])}
        assert found["towards b"].vector[3] >= 0.99
        assert found["towards a"].vector[3] <= -0.99


class TestTurning:
    def test_the_effect_is_the_slope(self) -> None:
        """Factors that are known functions of the latent: a line, a curve, and nothing."""
        measure = lambda z: np.stack([2 * z[:, 0].numpy(), np.tanh(3 * z[:, 0].numpy()), 0 * z[:, 0].numpy()], 1)  # noqa: E731
        found = turned(measure, np.zeros((5, 3)), Direction("x", "planted", np.eye(3)[0], 0.5))
        assert found.main == 0
        assert found.effect[0] == pytest.approx(1.0)
        assert found.straight[0] == pytest.approx(1.0)
        assert found.straight[1] < 0.95
        assert (found.effect[2], found.straight[2]) == (0.0, 0.0)
        assert found.leakage == pytest.approx(abs(found.effect[1]))
        assert (found.low, found.high) == (-2.0, 2.0)
        assert found.monotone[0] == found.monotone[1] == 1.0

    def test_the_valid_range_ends_where_nothing_moves(self) -> None:
        measure = lambda z: z[:, :1].numpy().clip(-5.0, 0.6)  # noqa: E731
        found = turned(measure, np.zeros((1, 2)), Direction("x", "planted", np.eye(2)[0], 1.0), steps=9)
        assert found.low == -2.0
        assert 0.5 <= found.high <= 1.0


class TestRendered:
    def test_every_true_factor_has_a_direction_of_its_own(self, bars: tuple[Fitted, Pictures]) -> None:
        """R2 of at least .9 and a leakage of at most .1, and the directions are the planted ones."""
        model, data = bars
        report = directions(model, data=data, items=400, count=2, factors=true_factors(data))
        best = dict(report.best())
        assert set(best) == {"across", "down", "width", "light"}
        for k, name in enumerate(("across", "down", "width", "light")):
            knob = best[name]
            assert knob.good, (name, knob.turned.straight, knob.turned.leakage)
            assert abs(float(knob.direction.vector @ planted()[k])) >= 0.99, name
        assert report.check.passed
        text = report.to_text()
        for word in ("4 of 4", "across", "leakage", "encoder and decoder", "random directions"):
            assert word in text, word
        assert all(isinstance(s, Shown) for s in report.strips)
        assert report.to_html()

    def test_directions_of_noise_are_shown_in_red(self, bars: tuple[Fitted, Pictures]) -> None:
        """A factor that is another random number each time it is asked for: nothing keeps what it promises."""
        model, data = bars
        generator = np.random.default_rng(0)
        blind = Factors(("luck",), lambda items: generator.normal(size=(len(items), 1)), np.ones(1))
        report = directions(model, data=data, items=100, count=1, factors=blind)
        assert not report.check.passed
        assert "not to be relied on" in report.to_text()


class TestFamilies:
    @pytest.mark.parametrize(("family", "route"), [("vae", "own encoder"), ("gan", "drawn")])
    def test_families_with_latents(self, family: str, route: str, digits: Pictures) -> None:
        model = fit(digits.take(range(300)), family, steps=20, settings={"width": 8}, watch=False)
        report = directions(model, data=digits.take(range(300)), items=80, count=2)
        assert route in report.route
        kinds = {k.direction.found for k in report.knobs}
        assert kinds >= ({"factor", "KL", "spread", "class mean"} if family == "vae" else {"factor", "first layer"})

    def test_the_noise_of_a_diffusion_leads_back(self, digits: Pictures, digits_model: Fitted) -> None:
        some = digits.take(range(6))
        found = latents_of(digits_model, some, some.take([0]), 0, 0)
        assert found.route == "noise"
        again = found.back(torch.from_numpy(found.z))
        assert isinstance(again, Pictures)
        off = np.abs(again.pixels.astype(float) - some.pixels.astype(float)).mean() / (some.levels - 1)
        assert off < 0.02
        np.testing.assert_allclose(found.own[0], found.z[0], atol=1e-4)

    def test_tables_are_turned_column_by_column(self, people: TableData) -> None:
        data = replace(people, frame=people.frame[["height", "weight"]], columns=people.columns[1:])
        model = fit(data, "flow", steps=150, watch=False)
        report = directions(model, data=data, items=300, count=2)
        assert {k.factor for k in report.knobs} == {"height", "weight"}
        assert report.check.score.value > report.check.baseline.value

    def test_what_has_no_latents_is_refused(self, digits: Pictures) -> None:
        model = fit(digits.take(range(100)), "ngram")
        with pytest.raises(MissingCapability, match="no latent vectors"):
            directions(model, data=digits)


def test_wrong_wishes_are_refused(digits: Pictures, digits_model: Fitted) -> None:
    with pytest.raises(BadInput, match="60 items"):
        directions(digits_model, data=digits, items=10)
    with pytest.raises(BadInput, match="no data"):
        directions(replace(digits_model, data=None))
    with pytest.raises(BadInput, match="more than twice"):
        factor_directions(np.zeros((4, 2)), np.zeros((4, 2)), ["a", "b"])
