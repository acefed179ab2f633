"""The command `pellucid explain`: questions about one sample of a run, and about the model that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.apps.answers import DataPath, Force, Json, Quiet, Seed, Where, data_of, job, print_json, show
from pellucid.apps.words import check_outside, check_report, wishes
from pellucid.core.errors import BadInput

__all__ = ["explain"]


def explain(
    folder: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder that `pellucid fit --out` made.")
    ] = None,
    seed: Seed = 0,
    index: Annotated[int, typer.Option("--index", "--sample", help="Which sample of that seed.")] = 0,
    of_class: Annotated[str | None, typer.Option("--class", help="Explain a sample of this class.")] = None,
    where: Where = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", metavar="QUESTION", help="Only this question, or 'all'; repeatable. See --questions."),
    ] = None,
    questions: Annotated[bool, typer.Option("--questions", help="List the questions that can be asked.")] = False,
    retrain: Annotated[
        int, typer.Option(metavar="N", help="Influence: train again on N random halves of the data, as proof.")
    ] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Influence: really leave the items out and train again, six times.")
    ] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show training rows of a table, too.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Judge each answer by tests that a wrong one fails.")
    ] = True,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Report to write: .html, .md, .json or .txt.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Why did this sample come out like this? How the model works, how noise became it, which items it comes from."""
    from pellucid.catalog import EXPLANATIONS
    from pellucid.explain.explained import QUESTIONS, explain_sample
    from pellucid.model import load

    if questions:
        found = {name: text for name, text in QUESTIONS.items() if name in EXPLANATIONS}
        if as_json:
            print_json(found)
        else:
            print("\n".join(f"{name:15} {text}" for name, text in found.items()))
        return
    if folder is None:
        raise BadInput("explain has no RUN", accepted="pellucid explain RUN, or pellucid explain --questions")
    if index < 0:
        raise BadInput(f"--index is {index}", accepted="0 for the first sample of the seed, 1 for the second, ...")
    if (retrain or verify) and ask is not None and not {"influence", "all"} & set(ask):
        raise BadInput(
            f"{'--retrain' if retrain else '--verify'} came without the question it belongs to",
            accepted="--ask influence, or no --ask",
        )
    check_report(out, force)
    check_outside(out, folder)
    model = load(folder)
    items = data_of(folder, data)
    words = wishes(model, where, of_class)
    with job(quiet or as_json) as (run, _):
        report = explain_sample(
            model,
            items,
            seed=seed,
            index=index,
            where=words,
            ask=ask,
            retrain=retrain,
            verify=verify,
            reveal=reveal or None,
            gate=gate,
            run=run,
        )
    show(report, as_json, out, quiet)
