"""Laws of engines that encode, decode and denoise."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Decodes, Denoises, Encodes, Quantises, Samples, Scores, Weighs
from pellucid.core.space import Real
from pellucid.solvers.denoiser import at_condition
from pellucid.solvers.euler import euler
from pellucid.solvers.heun import heun
from pellucid.testing.sampling import valid
from pellucid.testing.subject import Law, Subject, agree, largest_gap, require

__all__ = ["LAWS"]


def latents_are_vectors_of_the_latent_space(subject: Subject) -> None:
    """`encode` gives finite numbers (B, *latent), for many rows, one and none, with a draw or without."""
    latent = latent_of(subject)
    for many in (len(subject.batch), 1, 0):
        batch = subject.batch.take(slice(0, many))
        for rows in (None, subject.rows(batch.ids)):
            z = encoded(subject, many, rows is not None)
            require(z.shape == (many, *latent.shape), f"{many} rows gave {tuple(z.shape)}, latent is {latent.shape}")
            require(z.isfinite().all(), "a latent is not finite")


def encoding_draws_only_from_rows(subject: Subject) -> None:
    """Without rows encoding gives the same mean every time, with rows the same draw, row by row."""
    many = len(subject.batch)
    require(torch.equal(encoded(subject, many, False), encoded(subject, many, False)), "two means")
    whole = encoded(subject, many, True)
    require(torch.equal(whole, encoded(subject, many, True)), "two draws from the same rows")
    gap = largest_gap(encoded(subject, 3, True), whole[:3])
    require(gap <= 1e-4, f"a row's draw moved by {gap:.1e} with the batch")


def decoding_gives_events(subject: Subject) -> None:
    """`decode` gives finite events (B, *event), row by row, for many rows, one and none."""
    latent = latent_of(subject)
    z = subject.rows(name="z").normal(*latent.shape)
    whole = decoded(subject, z)
    require(whole.shape == (len(z), *subject.space.shape), f"shape {tuple(whole.shape)}")
    require(whole.double().isfinite().all(), "an event is not finite")
    share = agree(subject.space, decoded(subject, z[:1]), whole[:1], 1e-3)
    require(share == 1.0, "a row decoded alone is another event")
    require(decoded(subject, z[:0]).shape == (0, *subject.space.shape), "no latents did not give no events")


def both_ways_share_a_latent_space(subject: Subject) -> None:
    """What is encoded can be decoded: both ways name the same latent space."""
    z = encoded(subject, len(subject.batch), False)
    x = decoded(subject, z)
    require(x.shape == subject.batch.x.shape, f"{tuple(subject.batch.x.shape)} came back as {tuple(x.shape)}")


def an_exact_map_is_undone(subject: Subject) -> None:
    """Where the latent is as large as the event and probabilities are exact, decoding undoes encoding."""
    assert isinstance(subject.engine, Scores)
    with torch.no_grad():
        kind = subject.engine.log_prob(subject.batch, subject.rows()).kind
    if kind != "exact" or latent_of(subject).size != subject.space.size:
        return
    many = len(subject.batch)
    gap = largest_gap(decoded(subject, encoded(subject, many, False)), subject.batch.x)
    require(gap <= 1e-3, f"an event came back {gap:.1e} of its size away")
    z = subject.rows(name="z").normal(*latent_of(subject).shape)
    with torch.no_grad():
        assert isinstance(subject.engine, Encodes)
        back = subject.engine.encode(decoded(subject, z), subject.batch.condition)
    require(largest_gap(back, z) <= 1e-3, f"a latent came back {largest_gap(back, z):.1e} of its size away")


def weights_are_one_a_row(subject: Subject) -> None:
    """`log_weight` gives one finite number a row, the same whether the row comes alone or with others."""
    engine, batch = subject.engine, subject.batch
    assert isinstance(engine, Weighs)
    z = encoded(subject, len(batch), True)
    with torch.no_grad():
        whole = engine.log_weight(batch.x, z, batch.condition)
        alone = engine.log_weight(batch.x[:1], z[:1], batch.condition.take(slice(0, 1)))
    require(whole.shape == (len(batch),), f"shape {tuple(whole.shape)} for {len(batch)} rows")
    require(whole.isfinite().all(), "a weight is not finite")
    gap = largest_gap(alone, whole[:1])
    require(gap <= 1e-3, f"a row's weight moved by {gap:.1e} of its size with the batch")


def symbols_stand_for_items(subject: Subject) -> None:
    """`quantise` gives symbols (B, T) of `symbols()` row by row, and `rebuild` what decoding the same item gives."""
    engine, batch = subject.engine, subject.batch
    assert isinstance(engine, Quantises)
    with torch.no_grad():
        codes = engine.quantise(batch.x)
        valid(engine.symbols(), codes, "a symbol")
        require(codes.shape == (len(batch), engine.symbols().length), f"shape {tuple(codes.shape)}")
        require(torch.equal(engine.quantise(batch.x[:1]), codes[:1]), "a row alone has other symbols")
        require(engine.rebuild(codes[:0]).shape == (0, *subject.space.shape), "no symbols did not give no events")
        weight = engine.log_rebuilt(batch.x, codes)
        share = agree(subject.space, engine.rebuild(codes), decoded(subject, encoded(subject, len(batch), False)), 1e-3)
    require(weight.shape == (len(batch),) and weight.isfinite().all(), f"log p(x | codes) is {weight.tolist()}")
    require(share == 1.0, "rebuilt from symbols an item is not what its latent decodes to")


def noise_levels_fall(subject: Subject) -> None:
    """`sigmas` are finite, strictly falling and not negative, and as many as there are steps, plus one."""
    sigmas = levels(subject)
    require(sigmas.ndim == 1 and len(sigmas) >= 2, f"shape {tuple(sigmas.shape)}")
    require(sigmas.isfinite().all() and (sigmas >= 0).all(), f"{sigmas.tolist()}")
    require((sigmas.diff() < 0).all(), f"{sigmas.tolist()} do not fall")
    steps = getattr(subject.how(), "steps", None)
    require(steps is None or len(sigmas) == steps + 1, f"{len(sigmas)} levels for {steps} steps")


def denoising_gives_events(subject: Subject) -> None:
    """`denoise` gives finite events (B, *event) at every noise level, from the largest to almost none, row by row."""
    many, x = len(subject.batch), subject.batch.x.float()
    noise = subject.rows(name="noise").normal(*subject.space.shape)
    sigmas = levels(subject).float()
    chosen = torch.stack([sigmas[0], *sigmas[1:-1][: many - 3], sigmas.new_tensor(1e-3), sigmas.new_tensor(1e-5)])
    sigma = chosen.repeat(many)[:many]
    x_t = x + sigma.reshape(-1, *[1] * (x.ndim - 1)) * noise
    whole = denoised(subject, x_t, sigma)
    require(whole.shape == x.shape, f"shape {tuple(whole.shape)}")
    require(whole.isfinite().all(), f"not finite at sigma {sigma[~whole.flatten(1).isfinite().all(1)].tolist()}")
    for i in range(many):
        alone = denoised(subject, x_t[i : i + 1], sigma[i : i + 1], i)
        gap = largest_gap(alone, whole[i : i + 1])
        require(gap <= 1e-3, f"a row at sigma {float(sigma[i]):.3g} moved by {gap:.1e} among others")
    require(denoised(subject, x_t[:0], sigma[:0]).shape == (0, *subject.space.shape), "no rows gave rows")


def denoising_without_noise_changes_little(subject: Subject) -> None:
    """Where there is almost no noise, the clean estimate is what it was asked about."""
    x = subject.batch.x.float()
    clean = denoised(subject, x, torch.full((len(x),), 1e-4))
    moved = float((clean - x).abs().max() / (x.max() - x.min()))
    require(moved <= 0.05, f"it moved by {moved:.1%} of the range")


def any_solver_may_walk(subject: Subject) -> None:
    """Solvers know only `denoise` and `sigmas`: each of them reaches finite events, and near each other."""
    engine = subject.engine
    assert isinstance(engine, Denoises)
    sigmas = levels(subject)
    start = float(sigmas[0]) * subject.rows(name="start").normal(*subject.space.shape)
    ends = []
    for solver in (euler, heun):
        with torch.no_grad():
            ends.append(solver(at_condition(engine, subject.batch.condition), start, sigmas.float()))
        require(ends[-1].isfinite().all(), f"{solver.__name__} ended at something not finite")
        require(ends[-1].shape == start.shape, f"{solver.__name__} ended at shape {tuple(ends[-1].shape)}")
        largest = float(ends[-1].abs().max())
        data = float(subject.items.x.abs().max())
        require(largest <= 10 * data, f"{solver.__name__} ended at {largest:.3g}, where the data reaches {data:.3g}")


def denoising_does_not_read_what_is_not_given(subject: Subject) -> None:
    """The value of a condition that is not given changes no estimate."""
    engine = subject.engine
    assert isinstance(engine, Denoises)
    x, sigma = subject.batch.x.float(), torch.full((len(subject.batch),), 0.5)
    for name in subject.conditions:
        hidden = subject.batch.condition.without(name)
        lied = Condition({**hidden.values, name: hidden.values[name].flip(0)}, hidden.given)
        with torch.no_grad():
            require(torch.equal(engine.denoise(x, sigma, hidden), engine.denoise(x, sigma, lied)), f"'{name}' was read")


def latent_of(subject: Subject) -> Real:
    engine = subject.engine
    assert isinstance(engine, (Encodes, Decodes))
    return engine.latent()


def encoded(subject: Subject, many: int, draw: bool) -> Tensor:
    engine, batch = subject.engine, subject.batch.take(slice(0, many))
    assert isinstance(engine, Encodes)
    with torch.no_grad():
        return engine.encode(batch.x, batch.condition, subject.rows(batch.ids) if draw else None)


def decoded(subject: Subject, z: Tensor) -> Tensor:
    engine = subject.engine
    assert isinstance(engine, Decodes)
    with torch.no_grad():
        return engine.decode(z, subject.batch.condition.take(slice(0, len(z))))


def denoised(subject: Subject, x_t: Tensor, sigma: Tensor, first: int = 0) -> Tensor:
    engine = subject.engine
    assert isinstance(engine, Denoises)
    with torch.no_grad():
        return engine.denoise(x_t, sigma, subject.batch.condition.take(slice(first, first + len(x_t))))


def levels(subject: Subject) -> Tensor:
    engine = subject.engine
    assert isinstance(engine, Denoises)
    return engine.sigmas(subject.how())


LAWS: tuple[Law, ...] = (
    Law(latents_are_vectors_of_the_latent_space, (Encodes,)),
    Law(encoding_draws_only_from_rows, (Encodes,)),
    Law(decoding_gives_events, (Decodes,)),
    Law(both_ways_share_a_latent_space, (Encodes, Decodes)),
    Law(an_exact_map_is_undone, (Encodes, Decodes, Scores)),
    Law(weights_are_one_a_row, (Encodes, Weighs)),
    Law(symbols_stand_for_items, (Quantises, Encodes, Decodes)),
    Law(noise_levels_fall, (Denoises, Samples)),
    Law(denoising_gives_events, (Denoises, Samples)),
    Law(denoising_without_noise_changes_little, (Denoises, Samples)),
    Law(any_solver_may_walk, (Denoises, Samples)),
    Law(denoising_does_not_read_what_is_not_given, (Denoises, Samples)),
)
