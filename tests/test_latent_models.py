"""Models in the latent space of another: what they make is recognised, what they say is a bound, what does not fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

from pellucid.apps.cli import app
from pellucid.core.batch import Condition
from pellucid.core.capabilities import LogProb
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.domains.bridges.latent import LatentBridge, SymbolBridge, rebuild
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read
from pellucid.families.vae import VAE
from pellucid.families.vq import VQ
from pellucid.fitting import fit
from pellucid.model import Fitted, load
from tests.contracts.toys.linear import LinearLatent

CODED = VQ(width=32, codes=128)
TINY_VQ, TINY_VAE = VQ(width=8, codes=16), VAE(width=8, depth=1, grid=2, channels=3)


@pytest.fixture(scope="module")
def digits() -> Pictures:
    found = read("digits")
    assert isinstance(found, Pictures)
    return found


@pytest.fixture(scope="module")
def coded(digits: Pictures) -> Fitted:
    return fit(digits, CODED, steps=100, seed=0)


@pytest.fixture(scope="module")
def tiny(digits: Pictures) -> dict[str, Fitted]:
    few = digits.take(range(60))
    return {"vq": fit(few, TINY_VQ, steps=3, seed=0), "vae": fit(few, TINY_VAE, steps=3, seed=0)}


def test_codes_rebuild_digits(coded: Fitted, digits: Pictures) -> None:
    """In a few symbols of seven bits a digit keeps most of its variance, and its class."""
    x = coded.codec.encode(digits)[:400]
    with torch.no_grad():
        codes = coded.engine.quantise(x)  # type: ignore[operator]
        back = coded.engine.decode(coded.engine.encode(x, Condition()), Condition())  # type: ignore[operator]
    assert codes.shape == (400, 16)
    assert len(codes.unique()) > 96, "most of the 128 codes are in use"
    assert float((back - x).square().mean() / x.var(0).mean()) < 0.4


def test_diffusion_through_codes_draws_digits_of_the_class_asked_for(coded: Fitted, digits: Pictures) -> None:
    model = fit(digits, "diffusion", through=coded, steps=150, seed=0, settings={"width": 16})
    assert model.bridge.target == Real((4, 4, 4))
    asked = [str(i % 10) for i in range(150)]
    draw = model.sample(150, where={"class": asked}, seed=1)
    assert isinstance(draw.items, Pictures)
    judge = KNeighborsClassifier(3).fit(digits.pixels.reshape(len(digits), -1), np.array(digits.labels))
    right = judge.predict(draw.items.pixels.reshape(150, -1)) == np.array(asked)
    assert right.mean() > 0.6, f"chance is 0.1, seen {right.mean():.2f}"


def test_symbols_carry_what_predicts_symbols(tiny: dict[str, Fitted], digits: Pictures, tmp_path: Path) -> None:
    few = digits.take(range(60))
    model = fit(few, "ngram", through=tiny["vq"], out=tmp_path / "run")
    assert model.bridge.target == Tokens(16, 16)
    again = load(tmp_path / "run")
    assert torch.equal(again.sample(5, seed=2).x, model.sample(5, seed=2).x)
    said = again.log_prob(few)
    assert said.kind == "lower_bound"
    x, rows = model.codec.encode(few), Rows(0, torch.arange(60))
    engine = tiny["vq"].engine
    codes = engine.quantise(x)  # type: ignore[operator]
    assert torch.equal(model.bridge.there(x, rows), codes)
    lifted = model.bridge.lift(LogProb(torch.full((60,), -3.0), "exact"), x, rows)
    with torch.no_grad():
        assert torch.allclose(lifted.value, engine.log_rebuilt(x, codes) - 3.0)  # type: ignore[operator]


def test_a_diffusion_in_a_latent_grid_bounds_items_and_comes_back_from_disk(
    tiny: dict[str, Fitted], digits: Pictures, tmp_path: Path
) -> None:
    few = digits.take(range(60))
    model = fit(few, "flow", through=tiny["vae"], steps=2, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.bridge.target == Real((3, 4, 4))
    assert torch.equal(again.sample(4, seed=1).x, model.sample(4, seed=1).x)
    assert again.log_prob(few).kind == "lower_bound"


def test_through_real_codes_a_likelihood_is_refused(tiny: dict[str, Fitted], digits: Pictures) -> None:
    """A density of points that an encoder sets exactly says nothing about items."""
    few = digits.take(range(60))
    model = fit(few, "flow", through=tiny["vq"], steps=1)
    with pytest.raises(MissingCapability, match="Accepted: an engine that offers Weighs"):
        model.log_prob(few)


@pytest.mark.parametrize("name", ["vq", "vae"])
def test_a_latent_grid_is_brought_to_one_scale(name: str, tiny: dict[str, Fitted], digits: Pictures) -> None:
    few = digits.take(range(60))
    model = fit(few, "flow", through=tiny[name], steps=1, held_out=0.0)
    rows = Rows(1, torch.arange(60))
    z = model.bridge.there(model.codec.encode(few), rows).transpose(0, 1).flatten(1)
    assert z.mean(1).abs().max() < 0.2
    assert (z.std(1) - 1).abs().max() < 0.2
    x = model.codec.encode(few)
    back = model.bridge.back(model.bridge.there(x, rows), rows)
    own = tiny[name].engine.encode(x, Condition(), rows.fork("latent"))  # type: ignore[operator]
    assert torch.allclose(back, tiny[name].engine.decode(own, Condition()), atol=1e-3)  # type: ignore[operator]


def test_a_change_of_scale_changes_no_bound() -> None:
    """log p(z) = log p(y) - log of the spreads: the bound is the one without measuring."""
    engine, x, rows = (
        LinearLatent(5, 2).double(),
        2 * Rows(1, torch.arange(7)).normal(5).double(),
        Rows(0, torch.arange(7)),
    )
    plain = LatentBridge(engine, Real((5,)))
    scaled = LatentBridge(engine, Real((5,)), centre=(0.5, -1.0), spread=(2.0, 0.3))
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    centre, spread = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.3]).double()
    y = scaled.there(x, rows)
    assert torch.allclose(y * spread + centre, plain.there(x, rows))
    assert torch.allclose(scaled.back(y, rows), plain.back(plain.there(x, rows), rows))
    density = prior.log_prob(y * spread + centre) + math.log(2.0 * 0.3)  # of y, when z is standard normal
    lifted = scaled.lift(LogProb(density, "exact"), x, rows).value
    expected = plain.lift(LogProb(prior.log_prob(plain.there(x, rows)), "exact"), x, rows).value
    assert torch.allclose(lifted, expected, atol=1e-9)
    again = rebuild(LinearLatent(5, 2, seed=3).double(), scaled.plain(), scaled.tensors())
    assert torch.equal(again.there(x, rows), y)


@pytest.mark.parametrize(
    ("centre", "spread"), [((0.0,), (1.0,)), ((0.0, 0.0), ()), ((0.0, 0.0), (1.0, 0.0)), ((0.0, math.nan), (1.0, 1.0))]
)
def test_scales_that_do_not_fit_are_refused(centre: tuple[float, ...], spread: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="Accepted: 2 finite numbers of each"):
        LatentBridge(LinearLatent(5, 2), Real((5,)), centre, spread)


def test_symbols_are_asked_of_engines_that_have_them() -> None:
    with pytest.raises(MissingCapability, match="Accepted: an engine that offers Quantises"):
        SymbolBridge(LinearLatent(5, 2), Real((5,)))


def test_a_model_of_other_data_is_refused_as_a_bridge(tiny: dict[str, Fitted], digits: Pictures) -> None:
    large = replace(digits.take(range(20)), pixels=np.zeros((20, 12, 12, 1), np.uint8))
    with pytest.raises(BadInput, match=r"pictures are \(12, 12, 1\).*as in training"):
        fit(large, "diffusion", through=tiny["vq"], steps=1)
    with pytest.raises(BadInput, match="the data is of kind table"):
        fit(pd.DataFrame({"a": np.arange(20.0)}), "diffusion", through=tiny["vq"], steps=1)
    with pytest.raises(BadInput, match="cannot take the latent vectors of 'vae'"):
        fit(digits, "autoregressive", through=tiny["vae"], steps=1)


def test_the_command_fits_through_a_run(tmp_path: Path) -> None:
    """The two commands of the guide, with fewer steps."""
    words = ("--steps", "2", "--set", "width=8", "--quiet", "--out")
    command = CliRunner()
    first = command.invoke(app, ["fit", "digits", "--family", "vq", *words, str(tmp_path / "vq")])
    assert first.exit_code == 0, first.output
    second = command.invoke(app, ["fit", "digits", "--through", str(tmp_path / "vq"), *words, str(tmp_path / "run")])
    assert second.exit_code == 0, second.output
    assert load(tmp_path / "run").bridge.target == Real((4, 4, 4))
