"""The command `pellucid chat`: a conversation with a script of keywords, or with a model of text that goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pellucid.families.next_symbol import SymbolHow
    from pellucid.model import Fitted
    from pellucid.tasks.continuation import Drawn

__all__ = ["chat"]

HELP = "/why: which rule made the last answer. /quit: stop. Anything else is said."


def chat(
    script: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SCRIPT]",
            help="A script of keywords, or a run that was fitted on a text; by default the doctor's script.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Start of every random number (runs only).")] = 0,
    length: Annotated[int, typer.Option(help="Characters or words that a run writes at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="Of a run: below 1 safer, above 1 wilder, 0 the likeliest.")] = 0.8,
    how: Annotated[
        list[str] | None,
        typer.Option("--how", metavar="NAME=VALUE", help="Of a run: top_p=0.9, min_p=0.05, penalty=0.5; repeatable."),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Of a run: end before this; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end: what was said and why.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No greeting and no help.")] = False,
) -> None:
    """Talk to an ELIZA script, or let a model of text go on with your line. /why explains an answer."""
    if script is not None and script.is_dir():
        from pellucid.apps.words import pairs
        from pellucid.core.settings import from_words
        from pellucid.families.next_symbol import SymbolHow
        from pellucid.model import load
        from pellucid.tasks.continuation import slides

        words = {"temperature": str(temperature), **pairs(how, "--how")}
        hello = "Say a line, and the model goes on with it."
        model = load(script)
        if (said := slides(model, "", length)) and not quiet:
            typer.echo(f"· {said}", err=True)
        answer = _model(model, seed, length, from_words(SymbolHow, words), tuple(stop or ()))
    else:
        hello, answer = _script(script)
    if as_json:
        _listen(hello, answer)
    else:
        _talk(hello, answer, quiet)


Reply = tuple[Iterator[str], Callable[[], str], bool]
"""What is written piece by piece, what /why says of it, and whether it is the last."""


def _script(path: Path | None) -> tuple[str, Callable[[str], Reply]]:
    from pellucid.core.errors import BadInput
    from pellucid.domains.text_files import TextReading, read_text
    from pellucid.families.eliza import Conversation, doctor, read_script

    if path is None:
        talk = Conversation(doctor())
    elif not path.is_file():
        raise BadInput(f"there is nothing at '{path}'", accepted="a script of keywords, or a run folder")
    else:
        text = read_text(path, TextReading(form="running"), fewest=1).whole().texts()[0]
        talk = Conversation(read_script(text, path.name))

    def answer(said: str) -> Reply:
        found = talk.answer(said)
        return iter((found.text,)), lambda: found.why, found.ends

    return talk.script.hello, answer


def _model(model: Fitted, seed: int, length: int, how: SymbolHow, stop: tuple[str, ...]) -> Callable[[str], Reply]:
    from pellucid.domains.pieces import visible
    from pellucid.tasks.continuation import Drawn, go_on

    turn, last = 0, list[Drawn]()
    list(go_on(model, "", length=1, how=how, stop=stop))  # refused before anything is said

    def answer(said: str) -> Reply:
        nonlocal turn
        turn += 1
        last.clear()

        def pieces() -> Iterator[str]:
            for drawn in go_on(model, said, length=length, seed=seed + turn, how=how, stop=stop):
                last.append(drawn)
                yield visible(drawn.piece)

        return pieces(), lambda: _why(last), False

    return answer


def _why(drawn: list[Drawn]) -> str:
    """How probable the pieces were, and the three that were least expected."""
    if not drawn:
        return "nothing was written"
    mean = sum(d.probability for d in drawn) / len(drawn)
    rare = sorted(drawn, key=lambda d: d.probability / d.highest)[:3]
    listed = "; ".join(
        f"{d.piece!r} ({d.probability:.1%}; likeliest was {d.likeliest!r}, {d.highest:.1%})" for d in rare
    )
    return f"{len(drawn)} pieces drawn one after another, on average {mean:.0%} probable; least expected: {listed}"


def _talk(hello: str, answer: Callable[[str], Reply], quiet: bool) -> None:
    from pellucid.core.wording import clean

    alone = sys.stdin.isatty()
    why: Callable[[], str] = lambda: "nothing was answered yet"  # noqa: E731
    if not quiet:
        typer.echo(hello)
        if alone:
            typer.echo(f"({HELP})")
    while True:
        try:
            said = input("> " if alone else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError:
            typer.echo("That line is no text in this terminal's encoding.", err=True)
            continue
        if said in ("/quit", "/exit"):
            return
        if said in ("/help", "/?"):
            typer.echo(HELP)
        elif said == "/why":
            typer.echo(why())
        elif not said:
            continue
        else:
            pieces, why, ends = answer(said)
            for piece in pieces:
                typer.echo(clean(piece), nl=False)
            typer.echo("")
            if ends:
                return


def _listen(hello: str, answer: Callable[[str], Reply]) -> None:
    """The lines of standard input answered one by one, as one JSON object."""
    from pellucid.apps.answers import print_json

    turns = []
    for line in sys.stdin:
        said = line.strip()
        if said in ("/quit", "/exit"):
            break
        if said and not said.startswith("/"):
            pieces, why, ends = answer(said)
            turns.append({"said": said, "answer": "".join(pieces), "why": why()})
            if ends:
                break
    print_json({"hello": hello, "turns": turns})
