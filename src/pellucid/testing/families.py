"""Laws that every family keeps, whoever wrote it.

    from pellucid.testing import check_family
    check_family(MyFamily(width=16))

builds small engines of the family, fits them a little on made-up items and asks what their capabilities promise. An
engine is held to the laws of the capabilities it lists, and to no others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.capabilities import Counts, Family, Refusal, Training, offers
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.weights import pour, state_of
from pellucid.testing import latents, learning, sampling, scoring, symbols
from pellucid.testing.subject import (
    CONDITIONS,
    SPACES,
    Law,
    LawBroken,
    Subject,
    conditions_for,
    largest_gap,
    require,
    title,
)

__all__ = ["LAWS", "check_family", "laws"]

SMALLEST: tuple[Space, ...] = (Real((1,)), Real((1, 2, 2)), Real((1, 3, 5), levels=2), Tokens(1, 1), Tokens((1, 2), 2))
"""Spaces at the edge of what a space can be."""


def check_family(
    family: Family, space: Space | None = None, conditions: Mapping[str, Space] | None = None, *, seed: int = 0
) -> None:
    """Hold a family to its laws.

    Args:
        space: a small one; None takes every one of a few standard spaces that the family accepts.
        conditions: name -> space; None takes a class and a second condition where the family accepts them.

    Raises:
        LawBroken: names every broken law, what it says and what was seen.
        BadInput: the family accepts no standard space and none was given, or not the one that was given.
    """
    if space is None:
        spaces = [of for of in SPACES.values() if family.accepts(of, conditions_for(family, of)) is None]
        if not spaces:
            raise BadInput(
                f"'{family.name}' accepts none of the standard spaces ({', '.join(SPACES)})",
                accepted="a space of yours",
                next="Call check_family(family, space=...) with a small one",
            )
    else:
        spaces = [space]
    for of in spaces:
        given = conditions_for(family, of) if conditions is None else conditions
        refusal = family.accepts(of, given)
        if refusal is not None:
            raise BadInput(f"'{family.name}' is to be checked on {of}", why=refusal.reason, next=refusal.instead)
        try:
            subject = Subject.of(family, of, given, seed)
        except Exception as error:
            raise LawBroken(
                title(family, of, given), {"an_engine_can_be_fitted": f"{FITTED} Seen: {error!r}"}
            ) from error
        seen = {law.name: law.seen(subject) for law in laws() if law.applies(subject.engine)}
        broken = {name: text for name, text in seen.items() if text is not None}
        if broken:
            raise LawBroken(title(family, of, given), broken)


FITTED = "An engine can be built and fitted for a few steps on items of every space that is accepted."


def laws() -> tuple[Law, ...]:
    """All laws: those of a family first, then those of each capability."""
    return (*LAWS, *learning.LAWS, *sampling.LAWS, *scoring.LAWS, *latents.LAWS, *symbols.LAWS)


# ------------------------------------------------------------------ laws of the family


def answers_for_every_space(subject: Subject) -> None:
    """`accepts` says None or a reason for every kind of space, and the reason is a sentence."""
    for name, space in SPACES.items():
        for conditions in CONDITIONS:
            answer = subject.family.accepts(space, conditions)
            if answer is None:
                continue
            require(isinstance(answer, Refusal), f"for {name} it said {answer!r}")
            words = answer.reason.split()
            require(len(words) >= 4 and "\n" not in answer.reason, f"for {name} the reason is {answer.reason!r}")


def builds_what_it_accepts(subject: Subject) -> None:
    """An engine can be built for every space that is accepted, also for the smallest ones."""
    first = Rows(0, torch.zeros(1, dtype=torch.int64))
    for space in (*SPACES.values(), *SMALLEST):
        if subject.family.accepts(space, {}) is None:
            try:
                subject.family.build(space, {}, first)
            except Exception as error:
                require(False, f"{space} is accepted and then {type(error).__name__}: {error}")


def refuses_to_build_what_it_does_not_accept(subject: Subject) -> None:
    """Building for a refused space raises BadInput, before anything else goes wrong."""
    first = Rows(0, torch.zeros(1, dtype=torch.int64))
    for space in SPACES.values():
        if subject.family.accepts(space, {}) is not None:
            try:
                subject.family.build(space, {}, first)
            except BadInput:
                continue
            except Exception as error:
                require(False, f"{space} is refused, but building raised {type(error).__name__}: {error}")
            require(False, f"{space} is refused, but an engine was built")


def tells_its_parts(subject: Subject) -> None:
    """`parts` names at least one piece, each by a name of its own and a sentence."""
    parts = subject.family.parts()
    require(len(parts) > 0, "no parts")
    names = [part.name for part in parts]
    require(len(set(names)) == len(names), f"names {names}")
    for part in parts:
        require(len(part.sentence.split()) >= 4, f"'{part.name}' is told as {part.sentence!r}")


def settings_survive_json(subject: Subject) -> None:
    """Settings written as JSON and read back are the same settings."""
    written = json.dumps(to_plain(subject.family))
    again = from_plain(type(subject.family), json.loads(written))
    require(again == subject.family, f"{written} was read as {again}")


def settings_are_frozen(subject: Subject) -> None:
    """Settings cannot be changed after they were made."""
    for f in dataclasses.fields(subject.family):  # type: ignore[arg-type]
        try:
            setattr(subject.family, f.name, getattr(subject.family, f.name))
        except dataclasses.FrozenInstanceError:
            continue
        require(False, f"'{f.name}' could be set")


def odd_settings_are_refused_in_words(subject: Subject) -> None:
    """A number that makes no sense is taken or refused as BadInput that names it, never another error."""
    for f in dataclasses.fields(subject.family):  # type: ignore[arg-type]
        value = getattr(subject.family, f.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        for odd in (-1, 0, 1_000_003) if isinstance(value, int) else (-1.0, 0.0, 1e9, float("nan")):
            change: dict[str, Any] = {f.name: odd}
            try:
                dataclasses.replace(subject.family, **change)  # type: ignore[type-var]
            except BadInput as refused:
                require(f.name in str(refused), f"{f.name} = {odd} was refused with '{refused}'")
            except Exception as error:
                require(False, f"{f.name} = {odd} raised {type(error).__name__}: {error}")
    try:
        from_plain(type(subject.family), {**to_plain(subject.family), "no_such_setting": 1})
    except BadInput:
        return
    require(False, "a setting that does not exist was taken")


def training_is_advised(subject: Subject) -> None:
    """`training` gives settings that can be used, for few items and for many."""
    for items in (1, 50, 10**7):
        advice = subject.family.training(subject.space, items)
        require(isinstance(advice, Training), f"for {items} items it gave {advice!r}")
        sane = advice.batch >= 1 and advice.rate > 0 and advice.steps >= 1 and 0 <= advice.warmup < 1
        require(sane, f"for {items} items it gave {advice}")


# ------------------------------------------------------------------ laws of building


def engine_is_what_was_promised(subject: Subject) -> None:
    """`build` gives the class that the family names, a module with the same capabilities."""
    engine = subject.fresh
    require(isinstance(engine, nn.Module), f"built a {type(engine).__name__}")
    require(type(engine) is subject.family.engine, f"built a {type(engine).__name__}")
    require(len(offers(engine)) > 0, "it lists no capability")


def first_weights_come_from_rows(subject: Subject) -> None:
    """Building twice from the same rows gives the same weights, whatever torch's own generator holds."""
    torch.manual_seed(1)
    one = subject.rebuilt(5).state_dict()
    before = torch.get_rng_state()
    other = subject.rebuilt(5).state_dict()
    require(torch.equal(before, torch.get_rng_state()), "building moved torch's global generator")
    for name, value in one.items():
        require(torch.equal(value, other[name]), f"'{name}' differs")


def building_on_a_base_takes_its_weights(subject: Subject) -> None:
    """With a base of the same settings every weight is the base's."""
    taken = kept(subject.rebuilt(base=subject.engine))
    for name, value in kept(subject.engine).items():
        require(largest_gap(taken[name], value) == 0.0, f"'{name}' is not the base's")


def stored_weights_restore_the_engine(subject: Subject) -> None:
    """A fresh engine that is given the weights (or counts) of another answers as that one does."""
    again = subject.rebuilt().eval()
    if isinstance(again, Counts):
        again.restore(kept(subject.engine))
    else:
        pour(again, state_of(subject.engine), subject.family.name)
    for what, (ours, theirs) in sampling.answers(subject, subject.engine, again).items():
        require(largest_gap(ours, theirs) <= 1e-6, f"{what} differs by {largest_gap(ours, theirs):.1e} of its size")


def asking_changes_nothing(subject: Subject) -> None:
    """Losses, samples and probabilities leave the weights, the counts and the global generator as they were."""
    before = {name: value.clone() for name, value in kept(subject.engine).items()}
    state = torch.get_rng_state()
    first = sampling.answers(subject, subject.engine)
    subject.engine.train()
    learning.all_losses(subject, subject.engine)
    subject.engine.eval()
    require(torch.equal(state, torch.get_rng_state()), "torch's global generator was moved")
    for name, value in kept(subject.engine).items():
        require(torch.equal(value, before[name]), f"'{name}' changed")
    torch.manual_seed(12345)
    for what, (value,) in sampling.answers(subject, subject.engine).items():
        require(largest_gap(value, first[what][0]) == 0.0, f"{what} was another when asked again")


def kept(engine: nn.Module) -> dict[str, Tensor]:
    """Everything that a bundle would store."""
    return engine.tables() if isinstance(engine, Counts) else engine.state_dict()


LAWS: tuple[Law, ...] = (
    Law(answers_for_every_space),
    Law(builds_what_it_accepts),
    Law(refuses_to_build_what_it_does_not_accept),
    Law(tells_its_parts),
    Law(settings_survive_json),
    Law(settings_are_frozen),
    Law(odd_settings_are_refused_in_words),
    Law(training_is_advised),
    Law(engine_is_what_was_promised),
    Law(first_weights_come_from_rows),
    Law(building_on_a_base_takes_its_weights),
    Law(stored_weights_restore_the_engine),
    Law(asking_changes_nothing),
)
