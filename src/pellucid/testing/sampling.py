"""Laws of engines that draw samples: a sample is a function of (model, seed, id, condition, how)."""

from __future__ import annotations

import copy
import dataclasses
import json

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Samples, Scores
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Mixed, Space, Tokens
from pellucid.core.trace import Recording
from pellucid.testing.learning import all_losses
from pellucid.testing.subject import Law, Subject, agree, largest_gap, require

__all__ = ["LAWS", "answers"]

IDS = torch.tensor([3, 2**33 + 1, 0, 17, 4, 1_000_000, 9])  # names of samples need not be small or in order
TRACED = ("x_t", "denoised", "sigma", "token", "logits")


def answers(subject: Subject, *engines: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """What each engine says when asked for samples, losses and probabilities."""
    found: dict[str, tuple[Tensor, ...]] = {}
    if isinstance(subject.engine, Samples):
        found["the sample"] = tuple(subject.sample(IDS, subject.batch.condition, e) for e in engines)
    if isinstance(subject.engine, Scores):
        values = []
        for engine in engines:
            assert isinstance(engine, Scores)
            with torch.no_grad():
                values.append(engine.log_prob(subject.batch, subject.rows()).value)
        found["the log-probability"] = tuple(values)
    losses = [all_losses(subject, engine) for engine in engines]
    for name in losses[0]:
        found[f"the loss of turn '{name}'"] = tuple(loss[name] for loss in losses)
    return found


def how_is_settings(subject: Subject) -> None:
    """The way to sample is a frozen dataclass of JSON values that can be changed field by field."""
    how = settings_of(subject)
    require(isinstance(how, How) and dataclasses.is_dataclass(how), f"settings() gave {how!r}")
    again = from_plain(type(how), json.loads(json.dumps(to_plain(how))))
    require(again == how, f"{how} was read back as {again}")
    require(dataclasses.replace(how) == how, f"{how} is not itself when copied")
    require(settings_of(subject) == how, "settings() gave something else when asked again")
    for f in dataclasses.fields(how):
        try:
            setattr(how, f.name, getattr(how, f.name))
        except dataclasses.FrozenInstanceError:
            continue
        require(False, f"'{f.name}' could be set")


def samples_are_events(subject: Subject) -> None:
    """Samples have the shape and kind of events: finite numbers, symbols of their alphabets, nothing after an end."""
    x = subject.sample(IDS, subject.batch.condition)
    require(x.shape == (len(IDS), *subject.space.shape), f"shape {tuple(x.shape)} for events {subject.space.shape}")
    if isinstance(subject.space, Mixed):
        parts = subject.space.split(x)
        whole = subject.space.join(parts)
        require(largest_gap(x, whole) == 0.0, "symbols are not whole numbers")
        for f in subject.space.fields:
            valid(f.space, parts[f.name], f"field '{f.name}'")
            absent = ~subject.space.present(parts, f)
            require(not parts[f.name][absent].any(), f"field '{f.name}' holds a number where none exists")
    else:
        valid(subject.space, x, "the sample")


def valid(space: Space, x: Tensor, what: str) -> None:
    if isinstance(space, Tokens):
        require(x.dtype == torch.int64, f"{what} is {x.dtype}")
        sizes = torch.tensor(space.sizes)
        require(((x >= 0) & (x < sizes)).all(), f"{what} has symbols from {int(x.min())} to {x.max(0).values.tolist()}")
        after = (x == 0).long().cumsum(1) - (x == 0).long() > 0
        require(not (space.ends and x[after].any()), f"{what} goes on after symbol 0")
    else:
        require(x.is_floating_point(), f"{what} is {x.dtype}")
        require(x.isfinite().all(), f"{what} is not finite")


def samples_ignore_the_batch_size(subject: Subject) -> None:
    """Sample i is the same alone, in another order and among other rows (float32: 1e-4 of the range)."""
    condition = subject.batch.condition
    whole = subject.sample(IDS, condition)
    order = torch.tensor([5, 0, 6, 3])
    part = subject.sample(IDS[order], condition.take(order))
    share = agree(subject.space, part, whole[order])
    require(share >= 0.99, f"of 4 rows out of {len(IDS)}, {share:.0%} are as they were")
    for i in (0, 3):
        alone = subject.sample(IDS[i : i + 1], condition.take(slice(i, i + 1)))
        padded = torch.cat((whole[:i], alone, whole[i + 1 :]))
        require(agree(subject.space, padded, whole) >= 0.99, f"row {i} alone is another sample")


def samples_ignore_the_batch_size_in_float64(subject: Subject) -> None:
    """In double precision sample i is the same in every batch to 1e-10 of the range, and its symbols always."""
    engine, condition = copy.deepcopy(subject.engine).double(), subject.batch.condition
    whole = subject.sample(IDS, condition, engine)
    order = torch.tensor([5, 0, 6, 3])
    part = subject.sample(IDS[order], condition.take(order), engine)
    share = agree(subject.space, part, whole[order], 1e-10)
    require(share == 1.0, f"of 4 rows out of {len(IDS)}, {share:.0%} are as they were")


def samples_follow_the_seed(subject: Subject) -> None:
    """The same seed and ids give the same samples, to the bit; another seed or other ids give others."""
    condition = subject.batch.condition
    first = subject.sample(IDS, condition)
    require(torch.equal(first, subject.sample(IDS, condition)), "asked twice, two samples")
    if trivial(subject.space):
        return
    many = torch.arange(40)
    nothing = Condition.blank(subject.conditions, 40)
    one = subject.sample(many, nothing)
    require(not torch.equal(one, subject.sample(many + 40, nothing)), "other ids gave the same samples")
    other = dataclasses.replace(subject, seed=subject.seed + 1)
    require(not torch.equal(one, other.sample(many, nothing)), "another seed gave the same samples")
    require(len(one.unique(dim=0)) > 1, "40 samples are all alike")


def trivial(space: Space) -> bool:
    """Has the space one event only?"""
    return isinstance(space, Tokens) and set(space.sizes) == {1}


def no_rows_and_one_row_are_sampled(subject: Subject) -> None:
    """Asking for no sample gives none, asking for one gives one."""
    for many in (0, 1):
        x = subject.sample(IDS[:many], subject.batch.condition.take(slice(0, many)))
        require(x.shape == (many, *subject.space.shape), f"{many} rows gave {tuple(x.shape)}")


def conditions_can_be_left_out(subject: Subject) -> None:
    """Each condition can be left out, all of them can, and an empty condition is the same as nothing given."""
    condition = subject.batch.condition
    for name in subject.conditions:
        x = subject.sample(IDS, condition.without(name))
        require(x.shape == (len(IDS), *subject.space.shape), f"without '{name}': {tuple(x.shape)}")
    nothing = subject.sample(IDS, condition.nothing())
    empty = subject.sample(IDS, Condition())
    require(largest_gap(nothing, empty) <= 1e-6, "nothing given and no condition at all are two samples")


def samples_do_not_read_what_is_not_given(subject: Subject) -> None:
    """The value of a condition that is not given changes no sample."""
    for name in subject.conditions:
        hidden = subject.batch.condition.without(name)
        values = {**hidden.values, name: hidden.values[name].flip(0)}
        lied = subject.sample(IDS, Condition(values, hidden.given))
        require(largest_gap(subject.sample(IDS, hidden), lied) == 0.0, f"'{name}' was read")


def rows_may_be_given_different_conditions(subject: Subject) -> None:
    """In one batch each row may have its own conditions given; each sample is as if asked alone."""
    if not subject.conditions:
        return
    keep = {name: (torch.arange(len(IDS)) + place) % 2 == 0 for place, name in enumerate(subject.conditions)}
    mixed = subject.batch.condition.drop(keep)
    whole = subject.sample(IDS, mixed)
    for i in (1, 4):
        alone = subject.sample(IDS[i : i + 1], mixed.take(slice(i, i + 1)))
        padded = torch.cat((whole[:i], alone, whole[i + 1 :]))
        require(agree(subject.space, padded, whole) >= 0.99, f"row {i} alone is another sample")


def traces_change_nothing(subject: Subject) -> None:
    """Recording everything gives the sample that silence gives; what is kept has one row a sample."""
    trace = Recording(TRACED)
    x = subject.sample(IDS, subject.batch.condition, trace=trace)
    require(torch.equal(x, subject.sample(IDS, subject.batch.condition)), "the recorded sample is another one")
    for name, steps in trace.kept.items():
        require(sorted(steps) == list(range(len(steps))), f"'{name}' was kept at steps {sorted(steps)}")
        for step, value in steps.items():
            require(len(value) == len(IDS), f"'{name}' at step {step} has shape {tuple(value.shape)}")


def settings_of(subject: Subject) -> How:
    assert isinstance(subject.engine, Samples)
    return subject.engine.settings()


LAWS: tuple[Law, ...] = (
    Law(how_is_settings, (Samples,)),
    Law(samples_are_events, (Samples,)),
    Law(samples_ignore_the_batch_size, (Samples,)),
    Law(samples_ignore_the_batch_size_in_float64, (Samples,)),
    Law(samples_follow_the_seed, (Samples,)),
    Law(no_rows_and_one_row_are_sampled, (Samples,)),
    Law(conditions_can_be_left_out, (Samples,)),
    Law(samples_do_not_read_what_is_not_given, (Samples,)),
    Law(rows_may_be_given_different_conditions, (Samples,)),
    Law(traces_change_nothing, (Samples,)),
)
