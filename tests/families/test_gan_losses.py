"""Each contest, penalty and stabiliser of a GAN against its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pellucid.core.batch import Batch, TensorExamples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.core.space import Field, Mixed, Real
from pellucid.domains.teaching.mixtures import mixture_table
from pellucid.families.gan import GAN, GANEngine
from pellucid.families.gan_losses import CONTESTS, far_from_one
from pellucid.fitting import fit
from pellucid.training.loop import train
from pellucid.training.step import Step
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

PICTURE, POINT = Real((1, 8, 10), levels=17), Real((3,))
FIRST = Rows(0, torch.zeros(1, dtype=torch.int64))


def build(family: GAN, space: Real = POINT) -> GANEngine:
    engine = replace(family, latent=4, width=8, depth=1, forget=0.0).build(space, CLASS, FIRST).double()
    stir(engine)
    return engine


def seen(engine: GANEngine, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Real and forged items as the critic sees them, and what it knows of them."""
    real = engine.face.seen(batch.x)
    return real, engine._forge(rows, batch.condition, None)[0], engine.critic_condition(batch.condition, real)


def slope(engine: GANEngine, x: Tensor, vector: Tensor) -> Tensor:
    """|grad D(x)|^2 (B,) by autograd, row after row."""
    found = []
    for row, v in zip(x, vector, strict=True):
        row = row[None].detach().requires_grad_()
        found.append(torch.autograd.grad(engine.critic(row, v[None]).sum(), row)[0].square().sum())
    return torch.stack(found)


# what each player pays for scores r and f, as the papers write it
WANTED = {
    "relativistic": (lambda r, f: -logsigmoid(r - f), lambda r, f: -logsigmoid(f - r)),
    "non_saturating": (
        lambda r, f: -(r.sigmoid().log() + (1 - f.sigmoid()).log()),
        lambda r, f: -f.sigmoid().log(),
    ),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "hinge": (lambda r, f: -torch.minimum(r * 0, r - 1) - torch.minimum(f * 0, -f - 1), lambda r, f: -f),
}


@pytest.mark.parametrize("loss", list(CONTESTS))
@pytest.mark.parametrize("space", [POINT, PICTURE])
def test_the_contest_is_that_of_the_paper(loss: str, space: Real) -> None:
    engine = build(GAN(loss=loss, gamma=0.0), space)  # type: ignore[arg-type]
    batch, rows = batch_of(space, 5), Rows(2, torch.arange(5) + 100)
    batch = batch.with_x(batch.x.double())
    real, fake, vector = seen(engine, batch, rows)
    r, f = engine.critic(real, vector), engine.critic(fake, vector)
    torch.testing.assert_close(engine.critic_losses(batch, rows), WANTED[loss][0](r, f))
    torch.testing.assert_close(engine.generator_losses(batch, rows), WANTED[loss][1](r, f))


@pytest.mark.parametrize("loss", ["relativistic", "non_saturating", "hinge"])
def test_zero_centred_penalties_agree_with_autograd(loss: str) -> None:
    plain, held = (build(GAN(loss=loss, gamma=g)) for g in (0.0, 0.7))  # type: ignore[arg-type]
    batch, rows = batch_of(POINT, 5), Rows(2, torch.arange(5) + 100)
    batch = batch.with_x(batch.x.double())
    real, fake, vector = seen(held, batch, rows)
    expected = 0.35 * (slope(held, real, vector) + slope(held, fake, vector))
    torch.testing.assert_close(held.critic_losses(batch, rows) - plain.critic_losses(batch, rows), expected)


def test_wassersteins_penalty_lies_between_and_agrees_with_autograd() -> None:
    plain, held = (build(GAN(loss="wasserstein", gamma=g)) for g in (0.0, 10.0))
    batch, rows = batch_of(POINT, 5), Rows(2, torch.arange(5) + 100)
    batch = batch.with_x(batch.x.double())
    real, fake, vector = seen(held, batch, rows)
    share = rows.fork("between").uniform(dtype=torch.float64)[:, None]
    between = share * real + (1 - share) * fake
    expected = 10.0 * (slope(held, between, vector).sqrt() - 1).square()
    found = held.critic_losses(batch, rows) - plain.critic_losses(batch, rows)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert GAN(loss="wasserstein").build(POINT, {}, FIRST).gamma == 10.0


def test_a_critic_without_slope_has_a_gradient_all_the_same() -> None:
    weight = torch.zeros(3, requires_grad=True)
    x = torch.ones(2, 3)
    far_from_one(lambda at: at @ weight, x, x, torch.ones(2)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("loss", list(CONTESTS))
def test_losses_are_row_by_row(loss: str) -> None:
    family = GAN(loss=loss, latent=4, width=8, depth=1)  # type: ignore[arg-type]
    for space, chosen in ((POINT, family), (PICTURE, replace(family, generator="dcgan"))):
        engine = chosen.build(space, CLASS, FIRST)
        stir(engine)
        check_rowwise(engine, batch_of(space, 3))


def test_feature_matching_is_the_distance_of_mean_features() -> None:
    engine = build(GAN(feature_matching=0.3))
    batch, rows = batch_of(POINT, 6), Rows(2, torch.arange(6) + 100)
    batch = batch.with_x(batch.x.double())
    real, fake, vector = seen(engine, batch, rows)
    phi = [engine.critic.act(engine.critic.phi(x, vector)).mean(0) for x in (real, fake)]
    turn = engine.turns()[1]
    assert turn.penalty is not None
    torch.testing.assert_close(turn.penalty(batch, rows), 0.3 * (phi[0] - phi[1]).square().sum())
    assert engine.turns()[0].penalty is None
    slopes = torch.autograd.grad(turn.penalty(batch, rows), turn.parameters, allow_unused=True)
    assert any(s is not None and bool((s != 0).any()) for s in slopes)


def test_historical_averaging_is_the_distance_from_the_mean_of_all_weights_so_far() -> None:
    engine = GAN(historical_averaging=0.4, latent=4, width=8, depth=1).build(POINT, {}, FIRST)
    step, batch, rows = Step(engine), batch_of(POINT, 4, {}), Rows(0, torch.arange(4))
    past: dict[str, list[Tensor]] = {"critic": [], "generator": []}
    for k in range(4):
        for turn in engine.turns():
            theta = torch.cat([p.detach().flatten() for p in turn.parameters])
            penalty = step(turn.name, batch, rows)[1]
            mean = torch.stack(past[turn.name]).mean(0) if past[turn.name] else theta
            torch.testing.assert_close(penalty, 0.4 * (theta - mean).square().sum(), rtol=1e-4, atol=1e-6)
            slopes = torch.autograd.grad(penalty, turn.parameters)
            expected = 0.8 * (theta - mean)
            torch.testing.assert_close(torch.cat([s.flatten() for s in slopes]), expected, rtol=1e-3, atol=1e-5)
            past[turn.name].append(theta)
            with torch.no_grad():
                for i, p in enumerate(turn.parameters):
                    p.add_(0.1 * Rows(i + 100 * k, torch.arange(1)).normal(*p.shape)[0])


def test_looking_does_not_move_the_history_nor_the_singular_vectors() -> None:
    engine = GAN(historical_averaging=1.0, loss="hinge", latent=4, width=8, depth=1).build(POINT, {}, FIRST).eval()
    before = {k: v.clone() for k, v in engine.state_dict().items()}
    for turn in engine.turns():
        Step(engine)(turn.name, batch_of(POINT, 4, {}), Rows(0, torch.arange(4)))
    assert all(torch.equal(v, before[k]) for k, v in engine.state_dict().items())


@pytest.mark.parametrize(
    "family",
    [
        GAN(loss="wasserstein", critic_steps=2),
        GAN(loss="hinge", feature_matching=0.1),
        GAN(loss="non_saturating", historical_averaging=0.01, generator="dcgan"),
        GAN(spectral=True, gamma=0.1),
    ],
    ids=["wasserstein", "hinge", "historical", "spectral relativistic"],
)
def test_every_kind_trains_and_its_state_moves(family: GAN) -> None:
    engine = replace(family, latent=4, width=8, depth=1).build(PICTURE, {}, FIRST)
    before = {k: v.clone() for k, v in engine.state_dict().items()}
    data = TensorExamples(batch_of(PICTURE, 40, {}).x)
    done = train(engine, data, settings=replace(family.training(PICTURE, 40), batch=16), steps=6, seed=0, run=Run())
    assert len(done.losses["critic"]) == 6
    assert len(done.losses["generator"]) == (3 if family.critic_steps == 2 else 6)
    moved = {k for k, v in engine.state_dict().items() if not torch.equal(v, before[k])}
    if family.is_spectral:
        assert any(k.endswith(".u") for k in moved)
    if family.historical_averaging:
        assert {"history_critic", "history_generator", "history_steps"} <= moved


def test_the_balance_of_the_players_is_told() -> None:
    engine = build(GAN())
    batch, rows = batch_of(POINT, 40), Rows(2, torch.arange(40) + 100)
    batch = batch.with_x(batch.x.double())
    real, fake, vector = seen(engine, batch, rows)
    r, f = engine.critic(real, vector), engine.critic(fake, vector)
    found = engine.balance(batch, rows)
    wanted = {"real": r.mean(), "fake": f.mean(), "accuracy": (r > f).double().mean()}
    assert found == pytest.approx({k: v.item() for k, v in wanted.items()}, abs=1e-5)


def test_odd_settings_are_refused_in_words() -> None:
    cases: tuple[tuple[dict[str, object], str], ...] = (
        ({"loss": "wassersteim"}, "wasserstein"),
        ({"generator": "unet"}, "residual, dcgan"),
        ({"gamma": -1.0}, "gamma"),
        ({"latent": 0}, "latent"),
        ({"latent": 10**6}, "65536"),
        ({"critic_steps": 0}, "critic_steps"),
        ({"feature_matching": float("nan")}, "feature_matching"),
        ({"historical_averaging": -0.1}, "historical_averaging"),
        ({"asking": 1.5}, "asking"),
        ({"tau": 0.0}, "tau"),
        ({"forget": 1.0}, "forget"),
    )
    for odd, words in cases:
        with pytest.raises(BadInput, match=words):
            from_plain(GAN, odd)
    refusal = GAN(generator="dcgan").accepts(POINT, {})
    assert refusal is not None
    assert "sides" in refusal.reason
    assert GAN().accepts(Mixed((Field("pixel", Real((1,), levels=4)),)), {}) is not None


def test_asked_for_a_likelihood_it_names_families_that_have_one() -> None:
    data = mixture_table(60, seed=1).data
    model = fit(data, GAN(latent=3, width=8), steps=2, watch=False)
    with pytest.raises(MissingCapability, match=r"say how likely(.|\n)*flow") as refused:
        model.log_prob(data)
    assert "vae" in str(refused.value)


def test_parts_name_what_the_settings_use() -> None:
    names = {part.name for part in GAN(loss="hinge", feature_matching=1.0, historical_averaging=0.1).parts()}
    assert names == {"generator", "critic", "contest", "spectral normalisation", "feature matching",
                     "historical averaging"}  # fmt: skip
    assert "gradient penalty" in {part.name for part in GAN(loss="wasserstein").parts()}
    assert "paired contest" in {part.name for part in GAN().parts()}
