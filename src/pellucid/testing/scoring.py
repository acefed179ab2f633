"""Laws of engines that score: probabilities sum to one, bounds stay below, and every number says what it is."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import LogProb, Predicts, Scores
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.testing.subject import Law, Subject, largest_gap, require

__all__ = ["LAWS", "visit"]

MOST_EVENTS = 12_000  # what is enumerated in a law
REACH = 8.0  # numbers made up for laws have a spread of about 1; nothing of weight lies beyond
CLOSE = 1e-3  # of float32 sums of some thousand exponentials; and of the quadrature, where there is one, 2e-2


def log_probabilities_say_what_they_are(subject: Subject) -> None:
    """Log-probabilities are (B,) in float32 or wider, of a kind that stays; estimates have an error."""
    for many in (len(subject.batch), 1, 0):
        found = scored(subject, subject.batch.take(slice(0, many)))
        require(found.value.shape == (many,), f"values of shape {tuple(found.value.shape)} for {many} rows")
        require(found.value.dtype in (torch.float32, torch.float64), f"values in {found.value.dtype}")
        require(found.value.isfinite().all(), f"values {found.value.tolist()}")
        require(found.kind in ("exact", "lower_bound", "estimate"), f"kind '{found.kind}'")
        said = found.error is not None
        require(said or found.kind != "estimate", "an estimate without an error")
        require(not said or found.kind != "exact", f"exact, with error {found.error}")
        if found.error is not None:
            require(found.error.shape == (many,), f"errors of shape {tuple(found.error.shape)} for {many} rows")
            require((found.error >= 0).all(), f"errors {found.error.tolist()}")
        require(found.kind == scored(subject, subject.batch).kind, "the kind depends on the batch")


def exact_probabilities_draw_nothing(subject: Subject) -> None:
    """The same rows give the same number; other rows change it only if it is no exact one."""
    one, again = scored(subject, subject.batch, "a"), scored(subject, subject.batch, "a")
    require(torch.equal(one.value, again.value), "asked twice, two values")
    if one.kind == "exact":
        gap = largest_gap(one.value, scored(subject, subject.batch, "b").value)
        require(gap <= 1e-6, f"an exact value moved by {gap:.1e} of its size with the noise")


def log_probabilities_ignore_other_rows(subject: Subject) -> None:
    """A row has the same log-probability alone and among others."""
    whole = scored(subject, subject.batch).value
    for i in range(len(subject.batch)):
        alone = scored(subject, subject.batch.take(slice(i, i + 1))).value
        gap = abs(float(alone[0] - whole[i])) / max(1.0, abs(float(whole[i])))
        require(gap <= 1e-4, f"row {i} has {float(alone[0]):.7g} alone and {float(whole[i]):.7g} among others")


def log_probabilities_do_not_read_what_is_not_given(subject: Subject) -> None:
    """The value of a condition that is not given changes no probability."""
    for name in subject.conditions:
        hidden = subject.batch.condition.without(name)
        values = {**hidden.values, name: hidden.values[name].flip(0)}
        one = scored(subject, Batch(subject.batch.x, subject.batch.ids, hidden)).value
        other = scored(subject, Batch(subject.batch.x, subject.batch.ids, Condition(values, hidden.given))).value
        require(largest_gap(one, other) == 0.0, f"'{name}' was read")


def probabilities_sum_to_one(subject: Subject) -> None:
    """Over all events of a small space probabilities sum (densities integrate) to one, or to less for a bound."""
    events = visit(subject.space)
    kind = scored(subject, subject.batch).kind
    if events is None or kind == "estimate":
        return
    x, weight = events
    n = len(x)
    given = subject.batch.condition.take(torch.zeros(n, dtype=torch.int64))
    slack = 2e-2 if has_density(subject.space) else CLOSE
    for what, condition in {"given": given, "not given": given.nothing()}.items():
        batch = Batch(x, torch.arange(n), condition)
        # a bound holds in expectation over its noise, and one draw may have a heavy tail: several are averaged
        times = 1 if kind == "exact" else max(6, min(32, 4000 // n))
        draws = [scored(subject, batch, f"draw {k}").value.double() for k in range(times)]
        total = float((weight * torch.stack(draws).mean(0).exp()).sum())
        fits = abs(total - 1) <= slack if kind == "exact" else total <= 1.03
        require(fits, f"with conditions {what}, {n} events have {total:.5f} together ({kind})")


def probabilities_follow_the_symbols(subject: Subject) -> None:
    """The log-probability of a sequence is the sum of those of its symbols, each given those before."""
    engine, batch = subject.engine, subject.batch
    assert isinstance(engine, Predicts)
    assert isinstance(subject.space, Tokens)
    found = scored(subject, batch)
    if found.kind != "exact":
        return
    with torch.no_grad():
        log_p = engine.next_logits(batch.x[:, :-1], batch.condition).double().log_softmax(-1)
    each = log_p.gather(-1, batch.x[..., None])[..., 0]
    gap = largest_gap(each.sum(1), found.value)
    require(gap <= 1e-4, f"they differ by {gap:.1e} of their size")


def fitted_items_are_likelier_than_noise(subject: Subject) -> None:
    """After a little fitting its own items are likelier than items whose parts were shuffled among rows."""
    x = subject.items.x.flatten(1)
    if x.shape[1] < 2 or subject.items.x.unique(dim=0).shape[0] < 10:
        return
    rows = subject.rows(subject.items.ids, "shuffle")
    order = rows.uniform(x.shape[1]).argsort(0)
    shuffled = x.gather(0, order).reshape(subject.items.x.shape)
    if isinstance(subject.space, Mixed) or (isinstance(subject.space, Tokens) and subject.space.ends):
        return  # parts of such items cannot be exchanged: a number may exist in one row and not in another
    true = scored(subject, subject.items).value.mean()
    noise = scored(subject, subject.items.with_x(shuffled)).value.mean()
    require(true > noise, f"{float(true):.4f} nats for items, {float(noise):.4f} for shuffled ones")


def scored(subject: Subject, batch: Batch, name: str = "score") -> LogProb:
    assert isinstance(subject.engine, Scores)
    with torch.no_grad():
        return subject.engine.log_prob(batch, subject.rows(batch.ids, name))


def has_density(space: Space) -> bool:
    """Is any part of the space continuous?"""
    if isinstance(space, Mixed):
        return any(has_density(f.space) for f in space.fields)
    return isinstance(space, Real) and space.levels is None


def visit(space: Space) -> tuple[Tensor, Tensor] | None:
    """Every event (N, *event) of a small space with its weight (N,); a rule of quadrature over continuous numbers.

    None where that would be too many.

    >>> x, weight = visit(Tokens(3, 2, ends=True))
    >>> len(x), x[-1].tolist()
    (7, [2, 2])
    """
    if isinstance(space, Tokens):
        if math.prod(space.sizes) > MOST_EVENTS:
            return None
        x = torch.tensor(list(itertools.product(*map(range, space.sizes))))
        if space.ends:
            after = (x == 0).long().cumsum(1) - (x == 0).long() > 0
            x = x[~(after & (x != 0)).any(1)]
        return x, torch.ones(len(x), dtype=torch.float64)
    if isinstance(space, Real):
        if space.ragged:
            return None
        values, weights = line(space, space.size)
        if len(values) ** space.size > MOST_EVENTS:
            return None
        x = torch.cartesian_prod(*[values] * space.size).reshape(-1, *space.shape)
        weight = torch.cartesian_prod(*[weights] * space.size).reshape(len(x), -1).prod(1)
        return x, weight
    numbers = sum(f.space.size for f in space.fields if isinstance(f.space, Real) and f.space.levels is None)
    rows: list[tuple[float, ...]] = []
    total: list[float] = []
    alphabets = {f.name: f.space for f in space.fields if isinstance(f.space, Tokens)}
    if any(f.space.ends for f in space.fields if isinstance(f.space, Tokens)):
        return None
    names = list(alphabets)
    for told in itertools.product(*[itertools.product(*map(range, alphabets[name].sizes)) for name in names]):
        symbols = dict(zip(names, told, strict=True))
        choices: list[list[tuple[float, float]]] = []
        for f in space.fields:
            if isinstance(f.space, Tokens):
                choices += [[(float(s), 1.0)] for s in symbols[f.name]]
            elif f.present is not None and symbols[f.present[0]][0] != f.present[1]:
                choices += [[(0.0, 1.0)]] * f.space.size
            else:
                values, weights = line(f.space, numbers)
                choices += [list(zip(values.tolist(), weights.tolist(), strict=True))] * f.space.size
        if len(rows) + math.prod(map(len, choices)) > MOST_EVENTS:
            return None
        for combination in itertools.product(*choices):
            rows.append(tuple(value for value, _ in combination))
            total.append(math.prod(w for _, w in combination))
    return torch.tensor(rows), torch.tensor(total, dtype=torch.float64)


def line(space: Real, numbers: int) -> tuple[Tensor, Tensor]:
    """Values of one number and their weights: its levels, or evenly spaced points for the trapezoidal rule."""
    if space.levels is not None:
        return torch.linspace(space.low, space.high, space.levels), torch.ones(space.levels, dtype=torch.float64)
    points = {1: 2001, 2: 61}.get(numbers, MOST_EVENTS)  # the last are too many together, and `visit` says so
    step = 2 * REACH / (points - 1)
    return torch.linspace(-REACH, REACH, points), torch.full((points,), step, dtype=torch.float64)


LAWS: tuple[Law, ...] = (
    Law(log_probabilities_say_what_they_are, (Scores,)),
    Law(exact_probabilities_draw_nothing, (Scores,)),
    Law(log_probabilities_ignore_other_rows, (Scores,)),
    Law(log_probabilities_do_not_read_what_is_not_given, (Scores,)),
    Law(probabilities_sum_to_one, (Scores,)),
    Law(probabilities_follow_the_symbols, (Scores, Predicts)),
    Law(fitted_items_are_likelier_than_noise, (Scores,)),
)
