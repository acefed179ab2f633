"""Few steps: each player's losses by their formulas, what a student may and may not do, and that it draws well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.capabilities import Learns, Training, Turn
from pellucid.core.errors import BadInput, MissingCapability, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Checkpointed, Run
from pellucid.core.space import Real
from pellucid.core.trace import Silent
from pellucid.domains.pictures import Pictures
from pellucid.domains.teaching.mixtures import Mixture
from pellucid.families.ddpm import DDPM
from pellucid.families.denoising import DiffusionHow
from pellucid.families.few_steps import LOOK, FewSteps, _Lesson
from pellucid.families.flow_matching import COVER, FlowMatching, FlowMatchingEngine
from pellucid.fitting import fit, resume
from pellucid.model import Fitted, load
from pellucid.nets.unet import UNet
from pellucid.solvers.dpm_solver import dpm_2m
from pellucid.solvers.guidance import guided
from pellucid.solvers.leap import leap
from pellucid.training.loop import train
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

PICTURE = Real((1, 6, 9), levels=256)
VECTOR = Real((3,))
ONE = Rows(0, torch.arange(1))


def lesson(space: Real, **settings: Any) -> _Lesson:
    """A lesson of double precision between two engines that differ."""
    asked = FewSteps(**{"width": 8, **settings})
    family = FlowMatching(width=8, depth=1, p_uncond=0.2)
    found = []
    for chosen, amount in ((family, 0.05), (asked.recast(family), 0.1)):
        engine = cast(FlowMatchingEngine, chosen.build(space, CLASS, ONE))
        engine.prepare(batch_of(space, 12))
        stir(engine, amount)
        found.append(engine.double())
    base, student = found
    made = _Lesson(asked, student, base)
    stir(made.critic)
    made.critic.double()
    return made


def wide(batch: Batch) -> Batch:
    values = {k: v.double() if v.is_floating_point() else v for k, v in batch.condition.values.items()}
    return Batch(batch.x.double(), batch.ids, Condition(values, batch.condition.given))


# ----------------------------------------------------------------------------------------------------- the players


@pytest.mark.parametrize("space", [PICTURE, VECTOR], ids=["picture", "vector"])
def test_the_contest_follows_its_formulas(space: Real) -> None:
    made, batch, rows = lesson(space, gamma=0.5), wide(batch_of(space, 7)), Rows(2, torch.arange(7))
    fake, told = made._answer(batch, rows)
    fake, vector = fake.detach(), made.critic.reading(told, batch.x)
    scores, slopes = [], []
    for x in (batch.x, fake):
        shown = [part.detach().requires_grad_() for part in made._shown(x, told, rows)]
        assert len(shown) == (4 if space.levels else 1), "three maps of a picture beside it"
        score = made.critic(shown, vector)
        scores.append(score)
        steep = torch.autograd.grad(score.sum(), shown)
        each = [s.flatten(1).square().sum(1) * s[0].numel() / batch.x[0].numel() for s in steep]
        slopes.append(torch.stack(each).sum(0))
    expected = softplus(scores[1] - scores[0]) + 0.25 * (slopes[0] + slopes[1])
    torch.testing.assert_close(made.critic_losses(batch, rows), expected)
    torch.testing.assert_close(made.student_losses(batch, rows), softplus(scores[0] - scores[1]))
    if space.levels is not None:
        assert fake.abs().max() <= 1.0, "the critic sees what a sample shows"


@pytest.mark.parametrize("guidance", [None, 1.0, 2.5])
def test_the_teacher_walks_as_the_solver_does(guidance: float | None) -> None:
    made, batch, rows = lesson(PICTURE, guidance=guidance, steps=1), batch_of(PICTURE, 5), Rows(2, torch.arange(5))
    x_t, sigma, told = made._start(wide(batch), rows)
    assert (sigma == made.engine.highest).all()
    weight = made.base.settings().guidance if guidance is None else guidance
    sigmas = made.base.sigmas(replace(made.base.settings(), steps=made.asked.walk))
    expected = dpm_2m(guided(made.base, told, weight), x_t, sigmas)
    found = made._walked(x_t, sigma, torch.zeros_like(sigma), told, made.asked.walk)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    away = (made.engine.denoise(x_t, sigma, told) - expected).square().flatten(1).mean(1)
    torch.testing.assert_close(made.teacher_losses(wide(batch), rows), (away + 1e-6).sqrt(), rtol=1e-5, atol=1e-6)


def test_one_stride_lands_where_several_steps_of_the_teacher_do() -> None:
    made, batch, rows = lesson(PICTURE, steps=4), wide(batch_of(PICTURE, 40)), Rows(2, torch.arange(40))
    inner, levels = rows.fork("stride"), made.levels
    chosen = inner.integers(3)
    assert set(chosen.tolist()) == {0, 1, 2}
    sigma, after = levels[chosen], levels[chosen + 1]
    x_t, told = made._noisy(batch, sigma, inner)
    end, part = made._walked(x_t, sigma, after, told, made.asked.stride), (after / sigma)[:, None, None, None]
    aim = (end - part * x_t) / (1 - part)
    torch.testing.assert_close(aim + part * (x_t - aim), end)
    away = (made.engine.denoise(x_t, sigma, told) - aim).square().flatten(1).mean(1)
    torch.testing.assert_close(made.stride_losses(batch, rows), (away + 1e-6).sqrt())


def test_a_walk_may_begin_and_end_anywhere() -> None:
    made, sigma = lesson(VECTOR), torch.tensor([300.0, 3.0, 0.7], dtype=torch.float64)
    told, x = Condition.blank(CLASS, 3), 2.0 * Rows(4, torch.arange(3)).normal(3, dtype=torch.float64)
    after = torch.tensor([0.0, 0.4, 0.0], dtype=torch.float64)
    together = made._walked(x, sigma, after, told, 40)
    for j in range(3):
        alone = made._walked(x[j : j + 1], sigma[j : j + 1], after[j : j + 1], told.take(slice(j, j + 1)), 40)
        torch.testing.assert_close(together[j : j + 1], alone)
        part = torch.linspace(float(sigma[j]) ** (1 / 7), float(after[j]) ** (1 / 7), 400, dtype=torch.float64) ** 7
        fine = dpm_2m(guided(made.base, told.take(slice(j, j + 1)), 1.0), x[j : j + 1], part)
        torch.testing.assert_close(alone, fine, rtol=0.02, atol=0.02)


def test_strides_are_taught_at_the_levels_that_drawing_meets() -> None:
    made = lesson(PICTURE, steps=4)
    engine, how = made.engine, made.engine.settings()
    assert how.steps == 4
    levels = engine.sigmas(how)
    assert torch.equal(made.levels, levels[1:])
    assert float(levels[0]) == engine.highest
    assert float(levels[1]) == pytest.approx(COVER)
    assert float(levels[-1]) == 0.0
    for steps in (1, 2, 3):
        some = engine.sigmas(replace(how, steps=steps))
        assert float(some[0]) == engine.highest
        assert torch.equal(some[1:], levels[5 - steps :]), "the last strides follow the leap"
    with pytest.raises(BadInput, match="steps is 5"):
        engine.sigmas(replace(how, steps=5))
    single = lesson(PICTURE, steps=1).engine
    assert single.sigmas(single.settings()).tolist() == [single.highest, 0.0]
    both = lesson(PICTURE, steps=2).engine
    assert both.sigmas(both.settings()).tolist() == pytest.approx([both.highest, COVER, 0.0])


def test_the_critic_is_shown_what_the_teachers_way_down_sees() -> None:
    made, batch, rows = lesson(PICTURE), wide(batch_of(PICTURE, 5)), Rows(2, torch.arange(5))
    net, passed = cast(UNet, made.base.network.net), []
    blocks = [*(cast(nn.ModuleList, level)[-1] for level in net.down), net.after]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, out: passed.append(out))
    shown = made._shown(batch.x, batch.condition, rows)
    assert torch.equal(shown[0], batch.x)
    assert [m.shape[1] for m in shown[1:]] == list(made.base.network.seen)
    assert all(torch.equal(a, b) for a, b in zip(shown[1:], passed, strict=True))
    low, high = LOOK
    sigma = (low + (high - low) * rows.fork("look").uniform(dtype=torch.float64)).exp()
    noisy = batch.x + sigma[:, None, None, None] * rows.fork("look noise").normal(1, 6, 9, dtype=torch.float64)
    passed.clear()
    made.base.denoise(noisy, sigma, batch.condition)
    assert all(torch.equal(a, b) for a, b in zip(shown[1:], passed, strict=True))


class _Taught(nn.Module, Learns):
    """A lesson's three players as one engine, the teacher outside."""

    def __init__(self, made: _Lesson) -> None:
        super().__init__()
        self.student, self.critic = made.engine, made.critic
        self._made = (made,)

    def turns(self) -> tuple[Turn, ...]:
        return self._made[0].turns()


@pytest.mark.parametrize("space", [PICTURE, VECTOR], ids=["picture", "vector"])
def test_losses_are_row_by_row(space: Real) -> None:
    made = lesson(space)
    for module in (made.engine, made.base, made.critic):
        module.float()
    check_rowwise(_Taught(made), batch_of(space, 3))


def test_each_player_moves_its_own_weights() -> None:
    made = lesson(PICTURE)
    strides, teacher, critic, student = made.turns()
    for turn in (strides, teacher, student):
        assert set(turn.parameters) == set(made.engine.parameters())
    assert not set(critic.parameters) & set(student.parameters)
    assert not set(critic.parameters) & set(made.base.parameters())
    assert teacher.every == made.asked.every
    assert [t.name for t in lesson(PICTURE, every=0).turns()] == ["strides", "critic", "student"]
    assert [t.name for t in lesson(PICTURE, steps=1).turns()] == ["teacher", "critic", "student"]


# ------------------------------------------------------------------------------------------------------ how it draws


def test_a_leap_is_covered_with_fresh_noise_and_the_walk_keeps_its_own() -> None:
    rows, seen = Rows(3, torch.arange(5)), []

    def answer(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x, sigma))
        return torch.tanh(x) + 7.0

    x = 9.0 * rows.fork("start").normal(2)
    out = leap(answer, x, torch.tensor([9.0, 2.0, 0.5, 0.0]), rows)
    second = torch.tanh(x) + 7.0 + 2.0 * rows.fork("leap").normal(2)
    third = torch.tanh(second) + 7.0 + 0.25 * (second - torch.tanh(second) - 7.0)
    torch.testing.assert_close(seen[1][0], second)
    torch.testing.assert_close(seen[2][0], third)
    assert [float(s[0]) for _, s in seen] == [9.0, 2.0, 0.5]
    torch.testing.assert_close(out, torch.tanh(third) + 7.0)


MIX = Mixture(
    torch.tensor([0.4, 0.3, 0.2, 0.1]),
    torch.tensor([[1.5, 0.0], [-1.5, 0.45], [0.3, 1.65], [0.0, -1.5]]),
    0.02 * torch.eye(2).expand(4, 2, 2),
)


def judged(engine: nn.Module, **how: Any) -> tuple[float, float]:
    """Total variation distance of the components' shares, and the mean log density, of 3,000 points."""
    own = cast(FlowMatchingEngine, engine).settings()
    points = cast(FlowMatchingEngine, engine).sample(
        Rows(7, torch.arange(3000)), Condition(), replace(own, **how), Silent()
    )
    near = torch.cdist(points.double(), MIX.means).argmin(1)
    share = torch.bincount(near, minlength=4).double() / len(near)
    return float((share - MIX.weights).abs().sum()) / 2, float(MIX.log_prob(points).mean())


def test_a_mixture_in_one_and_two_steps() -> None:
    examples = TensorExamples(MIX.sample(Rows(0, torch.arange(4000))).x.float())
    family, asked = FlowMatching(width=64, depth=2), FewSteps()
    how = replace(family.training(Real((2,)), 4000), batch=128)
    base = family.build(Real((2,)), {}, ONE)
    train(base, examples, settings=how, steps=500, seed=0, run=Run())
    student = asked.recast(family).build(Real((2,)), {}, ONE, base=base)
    way = Training(batch=128, rate=1e-3, betas=(0.0, 0.99), clip=None, final_rate=0.1)
    train(student, examples, settings=way, steps=300, seed=0, run=Run(), base=base, objective=asked, prepare=False)
    for steps in (1, 2):
        off, density = judged(student.eval(), steps=steps)
        plain_off, plain_density = judged(base.eval(), steps=steps)
        assert off < 0.6 * plain_off, f"{steps} steps"
        assert density > plain_density + 5.0, f"{steps} steps"
    assert judged(student)[1] > judged(base, steps=20)[1] - 1.0


# ------------------------------------------------------------------------------------------------- from fit to bundle

NET = FlowMatching(width=8, depth=1)
STEADY = Training(batch=8, rate=0.01, ema=0.9, ema_ramp=5.0)
SMALL = {"width": 8, "every": 2, "walk": 2, "stride": 2}


def pictures() -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 6, 4, 1)).astype(np.uint8)
    return Pictures(pixels=pixels, labels=tuple("ab"[i % 2] for i in range(24)))


@pytest.fixture(scope="module")
def base() -> Fitted:
    return fit(pictures(), NET, steps=3, seed=1, training=STEADY)


def distilled(base: Fitted | None, **words: Any) -> Fitted:
    words = {"objective": "few_steps", "objective_settings": {"steps": 3, **SMALL}, "steps": 4, **words}
    return fit(pictures(), **{"family": "diffusion", "base": base, "seed": 3, "training": STEADY, **words})


def test_a_bundle_remembers_that_it_draws_in_few_steps(base: Fitted, tmp_path: Path) -> None:
    student = distilled(base, out=tmp_path / "student")
    own = base.how()
    assert isinstance(own, DiffusionHow)
    assert student.how() == replace(own, steps=3, solver="leap", guidance=1.0)
    again = load(tmp_path / "student")
    assert again.how() == student.how()
    assert torch.equal(again.sample(5, seed=2).x, student.sample(5, seed=2).x)
    assert not torch.equal(student.sample(5, seed=2).x, base.sample(5, seed=2).x)
    assert base.how() == own, "the base stays what it was"
    family = again.family
    assert family is not None
    assert "in strides" in family.parts()[1].sentence
    one = student.sample(6, seed=2, how=replace(cast(DiffusionHow, student.how()), steps=1))
    alone = student.sample(ids=[4], seed=2, how=one.how)
    torch.testing.assert_close(one.x[4:5], alone.x, rtol=1e-4, atol=1e-4)


def test_a_student_says_what_it_no_longer_can(base: Fitted) -> None:
    student = distilled(base, steps=1)
    with pytest.raises(MissingCapability, match="draws in 3 steps cannot say how likely.*distilled from"):
        student.log_prob(pictures())
    engine = cast(FlowMatchingEngine, student.engine)
    with pytest.raises(MissingCapability, match="cannot lead back to the noise"):
        engine.invert(student.sample(2).x, Condition())
    with pytest.raises(MissingCapability, match="cannot go on learning to denoise"):
        fit(pictures(), base=student, steps=1, training=STEADY)
    with pytest.raises(BadInput, match="draws in 3 steps already.*Start from the model"):
        distilled(student)
    back = fit(pictures(), base=student, steps=1, training=STEADY, settings={"few": 0})
    assert back.how() == base.how()


def test_what_cannot_be_distilled_is_refused(base: Fitted, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="FewSteps came without a model to go on from.*base"):
        distilled(None, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(BadInput, match="there is no model to distil"):
        FewSteps().turns(base.engine, None)
    with pytest.raises(BadInput, match="of the family 'ddpm'. Accepted: diffusion"):
        FewSteps().recast(DDPM())
    for words, said in (
        ({"steps": 0}, "steps is 0"),
        ({"steps": 9}, "steps is 9"),
        ({"gamma": -1.0}, "gamma is -1"),
        ({"walk": 0}, "walk 0"),
        ({"stride": 0}, "stride is 0"),
        ({"guidance": float("nan")}, "guidance is nan"),
    ):
        with pytest.raises(BadInput, match=said):
            FewSteps(**words)
    with pytest.raises(BadInput, match="few is 9"):
        FlowMatching(few=9)


def test_a_stopped_lesson_goes_on_to_the_same_bits(base: Fitted, tmp_path: Path) -> None:
    whole = distilled(base, steps=6, out=tmp_path / "whole")
    run = Run()
    run.listeners.append(lambda e: run.stop() if isinstance(e, Checkpointed) and e.step >= 3 else None)
    with pytest.raises(Stopped):
        distilled(base, steps=6, out=tmp_path / "part", run=run, checkpoint_every=1)
    part = resume(tmp_path / "part", data=pictures())
    ours, theirs = part.engine.state_dict(), whole.engine.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
