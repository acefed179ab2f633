"""The vector-quantised autoencoder: its codes against brute force, its loss by hand, its bound against enumeration."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Space, Tokens
from pellucid.core.trace import Silent
from pellucid.families.vq import SOFT, TRACE, VQ, WIDE, VQEngine, VQHow
from tests.families.rowwise import CLASS, batch_of, check_rowwise, events, stir

PICTURE = Real((1, 10, 8), levels=17)
TABLE = Mixed((Field("sex", Tokens(3, 1)), Field("age", Real((1,))), Field("gain", Real((2,)), ("sex", 1))))
SMALL = VQ(codes=7, size=3, places=5, width=16, depth=1)


def build(space: Space, family: VQ = SMALL) -> VQEngine:
    engine = family.build(space, CLASS, Rows(0, torch.arange(1)))
    stir(engine)
    return engine.eval()


def unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True) * math.sqrt(v.shape[-1])


@torch.no_grad()
def test_each_place_gets_its_nearest_code() -> None:
    engine, x = build(PICTURE), events(PICTURE, 6)
    z_e = engine.encoder(x).permute(0, 2, 3, 1)
    distance = (unit(z_e)[..., None, :] - unit(engine.codes)).square().sum(-1)  # (B, h, w, K)
    codes = engine.quantise(x).reshape(distance.shape[:-1])
    assert torch.equal(codes, distance.argmin(-1))
    z = engine.encode(x, Condition())
    assert z.shape == (6, 3, 5, 4) == (6, *engine.latent().shape)
    assert torch.allclose(z.permute(0, 2, 3, 1), unit(engine.codes)[codes], atol=1e-6)
    assert len(codes.unique()) > 1


@torch.no_grad()
def test_decoding_moves_each_place_to_its_nearest_code_first() -> None:
    engine = build(PICTURE)
    z = engine.encode(events(PICTURE, 4), Condition())
    assert torch.equal(engine.decode(1.3 * z + 0.01, Condition()), engine.decode(z, Condition()))


@pytest.mark.parametrize("space", [PICTURE, Real((4,)), TABLE], ids=["picture", "numbers", "table"])
def test_the_loss_is_the_sum_of_its_three_terms(space: Space) -> None:
    engine, batch = build(space), batch_of(space, 5)
    h = engine.observation.read(batch.x)
    out = engine.encoder(h.reshape(-1, 1, 10, 8)).flatten(2).transpose(1, 2) if space is PICTURE else engine.encoder(h)
    z_e, e = unit(out.reshape(5, -1, 3)), unit(engine.codes)
    distance = (z_e[:, :, None] - e).square().mean(-1)
    z_q = e[distance.argmin(-1)]
    parts = [weight * (1 + t * (-distance / (2 * t)).exp().sum(-1).log()) for t, weight in ((SOFT, 1), (WIDE, TRACE))]
    mixture = -sum(parts, torch.zeros(())).mean(-1)
    rebuilt = -engine.log_rebuilt(batch.x, engine.quantise(batch.x)) / space.size
    expected = rebuilt + mixture + 0.25 * (z_e - z_q).square().mean((1, 2))
    torch.testing.assert_close(engine.losses(batch, Rows(0, batch.ids)), expected, rtol=1e-4, atol=1e-5)


def test_the_decoders_gradient_goes_past_the_choice() -> None:
    """With beta 0 the encoder feels only d(-log p) / d z_q, handed to z_e as it is."""
    engine, batch = build(PICTURE, VQ(codes=7, size=3, width=16, depth=1, beta=0.0)), batch_of(PICTURE, 5)
    weights = [p for p in engine.encoder.parameters() if p.requires_grad]
    found = torch.autograd.grad(engine.losses(batch, Rows(0, batch.ids)).sum(), weights)
    z_q = engine._read(engine.quantise(batch.x)).detach().requires_grad_()
    said = -engine.observation.log_prob(engine._said(z_q), batch.x).sum() / PICTURE.size
    (slope,) = torch.autograd.grad(said, z_q)
    expected = torch.autograd.grad((engine._vectors(batch.x) * slope).sum(), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("trace", "back"), [(TRACE, True), (0.0, False)], ids=["as built", "without its trace"])
def test_codes_far_from_all_vectors_come_back_to_use(trace: float, back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the codes start opposite to all vectors; the wide part of the loss is what draws them in."""
    monkeypatch.setattr("pellucid.families.vq.TRACE", trace)
    engine = VQ(codes=32, size=6, places=1, width=16, depth=1).build(Real((6,)), {}, Rows(0, torch.arange(1)))
    x, ids = 0.3 * Rows(3, torch.arange(100)).normal(6) + 1.0, torch.arange(100)
    engine.prepare(Batch(x, ids))
    with torch.no_grad():
        nearest = engine.codes[engine.quantise(x).unique()]
        engine.codes[16:] = unit(-nearest.mean(0) + 0.1 * Rows(4, torch.arange(16)).normal(6))
    assert int((engine.quantise(x).unique() >= 16).sum()) == 0
    optimizer = torch.optim.Adam([engine.codes], lr=0.03)
    for _ in range(150):
        (engine.codes.grad,) = torch.autograd.grad(engine.losses(Batch(x, ids), Rows(0, ids)).sum(), engine.codes)
        optimizer.step()
    used = int((engine.quantise(x).unique() >= 16).sum())
    assert used >= 5 if back else used == 0


@torch.no_grad()
def test_the_bound_lies_below_the_exact_probability_which_sums_to_one() -> None:
    """A space of 64 events and 9 rows of codes: log p(x) = log sum over codes of P(codes) p(x | codes)."""
    space = Real((3,), levels=4)
    engine = build(space, VQ(codes=3, size=2, places=2, width=16, depth=1)).double()
    x = torch.tensor(list(product(torch.linspace(-1, 1, 4).tolist(), repeat=3)), dtype=torch.float64)
    batch = Batch(x, torch.arange(64), Condition.blank(CLASS, 64))
    terms = []
    for row in product(range(3), repeat=2):
        codes = torch.tensor(row).expand(64, 2)
        prior = engine.prior.log_prob(Batch(codes, batch.ids, batch.condition), Rows(0, batch.ids)).value
        terms.append(prior + engine.log_rebuilt(x, codes))
    exact = torch.stack(terms).logsumexp(0)
    bound = engine.log_prob(batch, Rows(0, batch.ids))
    assert bound.kind == "lower_bound"
    assert (bound.value <= exact + 1e-9).all()
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-6)  # turns by angles are float32
    assert float(bound.value.exp().sum()) > 0.05, "the bound is no bound of nothing"


@pytest.mark.parametrize("space", [PICTURE, Real((3, 9, 13)), Real((4,)), TABLE])
def test_samples_lie_in_the_space_and_do_not_depend_on_the_batch(space: Space) -> None:
    engine, rows = build(space), Rows(1, torch.arange(9))
    condition = batch_of(space, 9).condition
    for how in (engine.settings(), VQHow(temperature=0.5), VQHow(temperature=0.0, mean=True)):
        x = engine.sample(rows, condition, how, Silent())
        assert x.shape == (9, *space.shape)
        alone = engine.sample(rows.take(slice(4, 5)), condition.take(slice(4, 5)), how, Silent())
        torch.testing.assert_close(alone, x[4:5], rtol=1e-4, atol=1e-4)
    with pytest.raises(BadInput, match="Accepted: VQHow"):
        engine.sample(rows, condition, engine.prior.settings(), Silent())


@pytest.mark.parametrize("space", [PICTURE, Real((4,)), TABLE], ids=["picture", "numbers", "table"])
def test_losses_are_row_by_row(space: Space) -> None:
    check_rowwise(build(space), batch_of(space, 4))


@pytest.mark.parametrize(
    ("space", "grid", "latent", "places"),
    [
        (Real((1, 8, 8)), None, (4, 4, 4), 16),
        (Real((1, 28, 28)), None, (4, 7, 7), 49),
        (Real((3, 64, 48)), None, (4, 16, 12), 192),
        (Real((3, 30, 17)), 8, (4, 4, 3), 12),
        (Real((6,)), None, (32,), 8),
    ],
)
def test_the_grid_follows_the_picture(space: Real, grid: int | None, latent: tuple[int, ...], places: int) -> None:
    engine = VQ(width=8, codes=16, grid=grid).build(space, {}, Rows(0, torch.arange(1)))
    assert engine.latent() == Real(latent)
    assert engine.symbols() == Tokens(16, places)
    x = events(space, 2)
    assert engine.decode(engine.encode(x, Condition()), Condition()).shape == x.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codes": 1}, "codes is 1. Accepted: 2 to 16384"),
        ({"codes": 20_000}, "codes is 20000"),
        ({"size": 1}, "size is 1. Accepted: 2 to 64"),
        ({"places": 0}, "places is 0"),
        ({"grid": 3}, "grid is 3. Accepted: a power of two from 1 to 16"),
        ({"grid": 32}, "grid is 32"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"forget": 1.0}, "forget is 1.0"),
        ({"width": 0}, "width is 0. Accepted: 1 to 4096"),
        ({"width": 5000}, "width is 5000"),
        ({"depth": 65}, "depth is 65. Accepted: 1 to 64"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        VQ(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "space", "message"),
    [
        (VQ(), Tokens(5, 3), "rows of symbols already"),
        (VQ(), Real((3,), ragged=True), "different lengths"),
        (VQ(grid=4), Real((6,)), "a grid lies over pictures"),
        (VQ(grid=16), Real((1, 8, 8)), "one code would cover 16 pixels a side"),
        (VQ(grid=1), Real((1, 64, 64)), "one item would be 4096 symbols, at most 1024"),
        (VQ(), Real((3, 200, 200)), "one item has 120000 numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(family: VQ, space: Space, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        family.build(space, {}, Rows(0, torch.arange(1)))
