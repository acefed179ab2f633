"""A pipeline made elsewhere: its scale brought to ours exactly, its own samples bit for bit, rows that stand alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import offers
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Real
from pellucid.core.trace import Recording, Silent
from pellucid.families.foreign_attention import recording
from pellucid.families.foreign_denoiser import ForeignDenoiser, ForeignHow, generators
from tests.families.foreign_models import unet

SPACE = Real((1, 8, 8), levels=17)
STEPS = 5
SPREAD, MIDDLE = 0.3, -0.2  # of Gaussian data, whose clean item is known in closed form


class Knows(nn.Module):
    """The best answer there is for Gaussian data, at whole and at half steps."""

    def __init__(self, alphas: Tensor, answers: str) -> None:
        super().__init__()
        self.log_ratio, self.answers = (alphas.double() / (1 - alphas.double())).log(), answers
        self.config = SimpleNamespace()
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        t = timestep.double()
        low = t.floor().long().clamp_max(len(self.log_ratio) - 2)
        alpha = torch.lerp(self.log_ratio[low], self.log_ratio[low + 1], t - low).sigmoid()[:, None, None, None]
        signal, noisiness = alpha.sqrt(), (1 - alpha).sqrt()
        gain = signal * SPREAD**2 / (alpha * SPREAD**2 + 1 - alpha)
        data = MIDDLE + gain * (x - signal * MIDDLE)
        noise = (x - signal * data) / noisiness
        said = {"epsilon": noise, "sample": data, "v_prediction": signal * noise - noisiness * data}[self.answers]
        return SimpleNamespace(sample=said + 0 * self.anchor)


def scheduler(kind: str = "DDIMScheduler", **changed: Any) -> Any:
    import diffusers

    wanted: dict[str, Any] = {"num_train_timesteps": 50, "beta_start": 2e-3, "beta_end": 0.3}
    wanted |= {"clip_sample": False} if kind.startswith("DD") else {}
    return getattr(diffusers, kind)(**wanted | changed)


def engine(kind: str = "DDPM", **changed: Any) -> ForeignDenoiser:
    """Around a network of random weights, whose samples are noise of its own."""
    import diffusers

    net = unet(num_class_embeds=None, **changed).eval()
    pipeline = getattr(diffusers, f"{kind}Pipeline")(net, scheduler(f"{kind}Scheduler"))
    return ForeignDenoiser(pipeline, net, SPACE, "pixels", steps=STEPS)


def classed(nothing: int | None = 10) -> ForeignDenoiser:
    from diffusers import DDIMPipeline

    net = unet().eval()
    pipeline = DDIMPipeline(net, scheduler())
    return ForeignDenoiser(pipeline, net, SPACE, "pixels", classes=10, nothing=nothing, steps=STEPS)


def asked(*symbols: int, given: bool = True) -> Condition:
    value = torch.tensor(symbols)[:, None]
    return Condition({"class": value}, {"class": torch.full((len(symbols),), given)})


@pytest.mark.parametrize("answers", ["epsilon", "sample", "v_prediction"])
def test_it_denoises_in_our_scale(answers: str) -> None:
    """E[data | data + sigma noise] of Gaussian data, at its own noise levels, between them and beyond."""
    plan = scheduler(prediction_type=answers)
    pipeline = SimpleNamespace(scheduler=plan)
    knows = Knows(plan.alphas_cumprod, answers)
    pipeline.__dict__["__call__"] = lambda num_inference_steps=50: None
    made = ForeignDenoiser(pipeline, knows, SPACE, "pixels")
    sigma = torch.tensor([float(made.log_sigma[0].exp()), 0.31, 1.0, 4.4, 27.0], dtype=torch.float64)
    x = MIDDLE + (SPREAD + sigma)[:, None, None, None] * Rows(0, torch.arange(5)).normal(1, 8, 8, dtype=torch.float64)
    best = MIDDLE + (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None, None] * (x - MIDDLE)
    assert torch.allclose(made.denoise(x, sigma, Condition()), best, atol=1e-6)


def test_the_noise_levels_are_those_of_its_schedule() -> None:
    made = engine("DDIM")
    plan = scheduler()
    plan.set_timesteps(STEPS)
    alphas = plan.alphas_cumprod[plan.timesteps].double()
    sigmas = made.sigmas(made.settings())
    assert torch.allclose(sigmas[:-1], ((1 - alphas) / alphas).sqrt(), rtol=1e-6)
    assert float(sigmas[-1]) == 0.0
    assert made.settings() == ForeignHow(steps=STEPS)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_samples_are_the_pipelines_own_bit_for_bit(kind: str) -> None:
    made = engine(kind)
    rows = Rows(3, torch.arange(4))
    drawn = made.sample(rows, Condition(), made.settings(), Silent())
    alone = copy.deepcopy(made.pipeline)
    alone.set_progress_bar_config(disable=True)
    images = alone(batch_size=4, generator=generators(rows), num_inference_steps=STEPS, output_type="np").images
    ours = (drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(ours, images)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_recording_changes_no_bit_and_leaves_nothing_behind(kind: str) -> None:
    made = engine(kind)
    rows, how = Rows(3, torch.arange(4)), made.settings()
    plain = made.sample(rows, Condition(), how, Silent())
    trace = Recording(["x_t", "denoised", "sigma"])
    with recording(made.places()) as seen:
        watched = made.sample(rows, Condition(), how, trace)
    assert torch.equal(plain, watched)
    assert seen.require().gap < 2e-6
    assert {len(calls) for calls in seen.weights.values()} == {STEPS}
    assert "step" not in vars(made.pipeline.scheduler)
    assert "_progress_bar_config" not in vars(made.pipeline)
    assert torch.equal(trace.kept["x_t"][STEPS], plain)
    sigmas = made.sigmas(how)
    for step in range(STEPS):
        x_t, sigma = trace.kept["x_t"][step], trace.kept["sigma"][step]
        assert torch.allclose(sigma.double(), sigmas[step].expand(4), rtol=1e-5)
        with torch.no_grad():
            again = made.denoise(x_t, sigma, Condition())
        assert torch.allclose(trace.kept["denoised"][step], again, atol=2e-3 * float(again.abs().max()))


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_a_row_does_not_depend_on_its_neighbours(kind: str) -> None:
    made = engine(kind)
    whole = made.sample(Rows(3, torch.arange(5)), Condition(), made.settings(), Silent())
    some = made.sample(Rows(3, torch.tensor([4, 1])), Condition(), made.settings(), Silent())
    assert torch.allclose(some, whole[[4, 1]], atol=1e-4)
    other = made.sample(Rows(4, torch.tensor([4, 1])), Condition(), made.settings(), Silent())
    assert not torch.allclose(other, some, atol=1e-2)
    assert made.sample(Rows(3, torch.arange(0)), Condition(), made.settings(), Silent()).shape == (0, 1, 8, 8)


def test_a_class_is_told_to_a_loop_that_knows_of_none() -> None:
    made = classed()
    rows, how = Rows(3, torch.arange(2)), made.settings()
    threes = made.sample(rows, asked(3, 3), how, Silent())
    assert torch.allclose(made.sample(rows, asked(3, 7), how, Silent())[0], threes[0], atol=1e-5)
    assert not torch.equal(made.sample(rows, asked(3, 7), how, Silent())[1], threes[1])
    unsaid = made.sample(rows, asked(3, 3, given=False), how, Silent())
    assert torch.equal(unsaid, made.sample(rows, asked(10, 10), how, Silent()))
    with pytest.raises(MissingCapability, match="no number that stands for no class"):
        classed(None).sample(rows, asked(3, 3, given=False), how, Silent())


def test_its_losses_are_those_of_its_own_noise_and_row_by_row() -> None:
    made, rows = classed(), Rows(5, torch.arange(6))
    x = rows.fork("x").uniform(1, 8, 8) * 2 - 1
    told = asked(*range(6))
    (turn,) = made.turns()
    found = turn.losses(Batch(x, rows.ids, told), rows)
    t, noise = rows.fork("step").integers(50), rows.fork("noise").normal(1, 8, 8)
    noisy = made.pipeline.scheduler.add_noise(x, noise, t)
    out = made.network(noisy, t, class_labels=torch.arange(6)).sample
    assert torch.allclose(found, (out - noise).square().flatten(1).mean(1), atol=1e-5)
    alone = turn.losses(Batch(x[2:3], rows.ids[2:3], told.take(slice(2, 3))), rows.take(slice(2, 3)))
    assert torch.allclose(alone, found[2:3], atol=1e-5)


def test_attention_of_an_item() -> None:
    made = classed()
    assert "Attends" in offers(made)
    site = made.sites()[-1]
    x = Rows(0, torch.arange(2)).normal(1, 8, 8)
    weights = made.attention(site, x, asked(1, 2))
    assert weights.shape == (2, 4, 16, 16)
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    with pytest.raises(BadInput, match="site is 'nowhere'"):
        made.attention(replace(site, name="nowhere"), x, asked(1, 2))


def test_what_it_cannot_do_is_refused() -> None:
    import diffusers

    made = engine("DDIM")
    with pytest.raises(BadInput, match="guidance is 2 for DDIMPipeline"):
        made.sample(Rows(0, torch.arange(1)), Condition(), ForeignHow(STEPS, 2.0), Silent())
    made.pipeline.scheduler = scheduler("HeunDiscreteScheduler")
    with pytest.raises(MissingCapability, match="does not go straight from more noise to less"):
        made.sigmas(ForeignHow(STEPS))
    for kind, said in {
        "EulerDiscreteScheduler": "one that starts from noise of spread 1",
        "FlowMatchEulerDiscreteScheduler": "a schedule of alphas_cumprod",
    }.items():
        made.pipeline.scheduler = getattr(diffusers, kind)()
        with pytest.raises(BadInput, match=f"the scheduler is a {kind}.*{said}"):
            ForeignDenoiser(made.pipeline, made.network, SPACE, "pixels")
    with pytest.raises(BadInput, match="steps is 0"):
        ForeignHow(steps=0)
