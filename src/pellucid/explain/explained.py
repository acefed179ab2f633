"""One sample explained: the questions that can be asked of this model, from the plainest to the most technical.

A question that the family, the data or the sample cannot answer is not dropped in silence: its reason is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.catalog import EXPLANATIONS, explanation
from pellucid.core.errors import BadInput, MissingCapability, nearest
from pellucid.core.report import Block, Data, Details, Heading, Prose, Report, Table
from pellucid.core.run import Run
from pellucid.explain.claims import Asked, badge_of
from pellucid.explain.gate import Badge
from pellucid.explain.glossary import TERMS

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["USUAL", "Explained", "explain_sample"]

USUAL = ("process", "trajectory", "attention", "influence")
"""What is asked when nothing is named: what takes seconds, not minutes."""

QUESTIONS = {
    "process": "How does this model work?",
    "trajectory": "How did noise become this?",
    "attention": "Which words or conditions made which part of it?",
    "influence": "Which training items does it come from?",
    "provenance": "Is any of it copied?",
    "counterfactual": "What would have made it different?",
    "directions": "What can be turned?",
    "saliency": "Which earlier symbols caused this one?",
    "parts": "Which part of it is unusual?",
    "errors": "What did the model learn wrong?",
    "oddities": "Which training items are odd or mislabelled?",
    "concepts": "Which concepts does it use?",
}
"""name -> the question that a person asks, in the order of a report."""


@dataclass(frozen=True)
class Explained(Report):
    """Several explanations of one sample, one after the other; what cannot be asked is said.

    reports: question -> its answer. missing: question -> why there is none. badges: question -> how the gate judged it.
    """

    subject: str
    answers: Mapping[str, Report]
    missing: Mapping[str, str]
    badges: Mapping[str, Badge] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"Why {self.subject} came out like this"

    @property
    def reports(self) -> tuple[Report, ...]:
        return tuple(self.answers.values())

    def blocks(self) -> tuple[Block, ...]:
        rows = [(QUESTIONS[name], _badge(report, self.badges.get(name))) for name, report in self.answers.items()]
        rows += [(QUESTIONS[name], "not answered: " + why) for name, why in self.missing.items()]
        found: list[Block] = [Table(("question", "answer"), rows)]
        for name, report in self.answers.items():
            judged = self.badges[name].blocks() if name in self.badges else ()
            found += [Heading(QUESTIONS[name]), Prose(f"**{report.title}**"), *judged, *report.blocks()]
        if self.badges:
            found.append(Data({name: badge.plain() for name, badge in self.badges.items()}, "badges"))
        found.append(Details("What the words mean", (Table(("word", "meaning"), list(TERMS.items())),)))
        return tuple(found)


def _badge(report: Report, badge: Badge | None = None) -> str:
    """Has the answer passed the gate, or its own check where there was none?"""
    if badge is not None:
        return f"below, {badge.colour}"
    check = getattr(report, "check", None)
    if check is None:
        return "below, without a check of its own"
    return "below, check passed" if check.passed else "below, CHECK FAILED"


def explain_sample(
    model: Fitted,
    data: Items,
    *,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    ask: Sequence[str] | None = None,
    retrain: int = 0,
    verify: bool = False,
    reveal: bool | None = None,
    gate: bool = False,
    run: Run | None = None,
) -> Explained:
    """The explanations of the sample (seed, index) that this model can give.

    Args:
        data: the items the model was fitted on: judges and comparisons are made from them.
        where: what was asked of the sample, as in `model.sample`.
        ask: names of questions (see `QUESTIONS`), or ("all",); the usual ones when None.
        retrain: for "influence", halves of the data to train on again, as proof. verify: also leave items out.
        reveal: for "influence", show the training items also where they are rows of a table.
        gate: judge each answer (see `gate.py`), which takes as long again as the answers, or a few times as long.

    Raises BadInput when a question does not exist, or none of those asked can be answered.
    """
    run = run or Run()
    names = _names(ask)
    if seed < 0:
        raise BadInput(f"seed is {seed}", accepted="0 or more, which checks and comparisons can start from, too")
    options = {"influence": {"halves": retrain, "verify": verify, "reveal": reveal}}
    subject = {"data": data, "seed": seed, "index": index, "where": where, "run": run}
    answers: dict[str, Report] = {}
    missing: dict[str, str] = {}
    for name in names:
        asked = explanation(name)
        run.go_on("the explanation was stopped")
        try:
            answers[name] = asked(model, **_taken(asked, subject | options.get(name, {})))
        except MissingCapability as error:
            missing[name] = str(error)
        except BadInput as error:
            if ask is not None and len(names) == 1:
                raise
            missing[name] = str(error)
    if not answers:
        raise BadInput(
            f"none of {', '.join(names)} can be answered here",
            accepted=", ".join(q for q in QUESTIONS if q in EXPLANATIONS and q not in names) or "none",
            why=" ".join(missing.values()),
        )
    asked_of = Asked(model, data, seed, index, where, run, relabel=retrain > 0)
    badges = {name: badge_of(name, report, asked_of) for name, report in answers.items()} if gate else {}
    return Explained(f"sample {index} of seed {seed}", answers, missing, badges)


def _names(ask: Sequence[str] | None) -> tuple[str, ...]:
    if ask is None:
        return USUAL
    if tuple(ask) == ("all",):
        return tuple(q for q in QUESTIONS if q in EXPLANATIONS)
    for name in ask:
        if name not in EXPLANATIONS:
            raise BadInput(
                f"there is no question '{name}'", accepted=", ".join((*EXPLANATIONS, "all")),
                next=nearest(name, EXPLANATIONS),
            )  # fmt: skip
    return tuple(q for q in QUESTIONS if q in ask)


def _taken(asked: Callable[..., Report], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the explanation takes: not every question is about one sample."""
    import inspect

    return {k: v for k, v in options.items() if k in inspect.signature(asked).parameters}
