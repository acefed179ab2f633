"""The command `pellucid`: each subcommand reads its words, calls the library, and shows the answer.

Only typer is imported here, so that `pellucid --help` answers at once; everything else is imported where it is used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid import __version__
from pellucid.apps.answers import (
    DataPath,
    Force,
    Json,
    Quiet,
    RunFolder,
    Seed,
    Where,
    data_of,
    job,
    print_json,
    save,
    show,
)
from pellucid.apps.bench_command import bench
from pellucid.apps.chat import chat
from pellucid.apps.explain_command import explain
from pellucid.apps.impute_command import impute
from pellucid.apps.likelihood_command import likelihood
from pellucid.apps.words import (
    Balance,
    Beams,
    Constraints,
    ConstraintsFile,
    DropBreaking,
    Grammar,
    Match,
    NoMissing,
    Shares,
    Stream,
    check_count,
    check_minutes,
    check_outside,
    check_report,
    check_resumed,
    declared,
    pairs,
    shares_of,
    text_options,
    wishes,
)
from pellucid.core.errors import BadInput, PellucidError, fault

if TYPE_CHECKING:
    from pellucid.core.report import Report

__all__ = ["app", "main"]

app = typer.Typer(
    name="pellucid",
    help="Generative models you can see through: train, sample, compare and explain them on your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(likelihood)
app.command()(impute)
app.command()(chat)
app.add_typer(bench, name="bench")

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer exports only this child of the class of wrong words

ModelPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a grammar file.", show_default=False)]
Target = Annotated[str | None, typer.Option(help="Column (or array of labels) that the model is conditioned on.")]
Kind = Annotated[str, typer.Option(help="auto, images, table, text or molecules.")]
TextOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="NAME=VALUE",
        help="How a text is read: form=running|lines, unit=characters|bytes|words, window=128, encoding=utf-8.",
    ),
]
KindsOf = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME=KIND", help="Override a column's inferred kind; repeatable."),
]
Size = Annotated[int | None, typer.Option(help="Side to which pictures are cropped and resized.")]
Precision = Annotated[str, typer.Option(help="auto, float32, or bfloat16 for faster training.")]


def main() -> None:
    """Entry point: errors become one clear message and the exit code listed in docs/exit_codes.md."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except _UsageError as error:
        if "--json" not in sys.argv:
            error.show()
            sys.exit(2)
        _end("BadInput", error.format_message(), 2)
    except PellucidError as error:
        _end(type(error).__name__, str(error), int(error.exit_code))
    except (KeyboardInterrupt, typer.Abort):
        _end("Stopped", "stopped. What was saved until now is kept.", 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place = f"'{error.filename}'" if error.filename is not None else "a file"
        _end("BadInput", str(BadInput(f"{place} cannot be read or written ({error.strerror or error})")), 2)
    except Exception as error:
        if os.environ.get("PELLUCID_DEBUG"):
            raise
        text = str(PellucidError(f"unexpected {fault(error)}"))
        _end("Unexpected", f"{text} This is a fault of pellucid; PELLUCID_DEBUG=1 shows where.", 1)


def _end(kind: str, message: str, code: int) -> None:
    """Say an error where it is looked for, and stop."""
    if "--json" in sys.argv:
        print_json({"error": {"type": kind, "message": message, "exit_code": code}})
    else:
        print(f"pellucid: {message}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"pellucid {__version__}")
        raise typer.Exit


@app.command()
def demo(
    minutes: Annotated[
        float, typer.Option(help="Time for everything: training, sampling, comparing, explaining.")
    ] = 3.0,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report.html"),
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train five families on handwritten digits, compare them, explain one sample, write one report."""
    from pellucid.apps.demo import run_demo

    check_minutes(minutes)
    check_report(out, force=True)
    with job(quiet or as_json) as (run, terminal):
        report = run_demo(minutes=minutes, seed=seed, run=run, label=lambda text: setattr(terminal, "label", text))
    path = save(report, out)
    if as_json:
        print_json({"report": str(path), **report.headline()})
        return
    from rich.console import Console

    report.table(Console())
    print(f"\nThe report: {path.resolve()}")


@app.command()
def fit(
    words: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="Folder of pictures, .npz, idx .gz, CSV, TSV, Parquet, .txt, .smi, 'digits' or 'shapes'.",
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="See `pellucid families`.", show_default="diffusion")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New run folder.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a run that was stopped or killed.")
    ] = None,
    moved: Annotated[
        Path | None, typer.Option("--data", help="With --resume: where the data is now, if it has moved.")
    ] = None,
    seed: Seed = 0,
    target: Target = None,
    kind: Kind = "auto",
    column: KindsOf = None,
    constraint: Constraints = None,
    constraints: ConstraintsFile = None,
    drop_breaking: DropBreaking = False,
    size: Size = None,
    text: TextOptions = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Precision = "auto",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the family; repeatable."),
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; by default 30 s.")] = None,
    base: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Go on from the weights of this finished run, also on other data."),
    ] = None,
    through: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Learn in the latent space of this finished run, as of a vq or a vae with --set grid=4."
        ),
    ] = None,
    adapt: Annotated[
        str, typer.Option(help="With --from, what moves: whole, last (layers) or lora (low-rank adapters).")
    ] = "whole",
    adapt_setting: Annotated[
        list[str] | None,
        typer.Option("--set-adapt", metavar="NAME=VALUE", help="rank=4, alpha=8 for lora, share=0.1 for last."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Train by this objective instead of the family's own, as few_steps.")
    ] = None,
    objective_setting: Annotated[
        list[str] | None,
        typer.Option("--set-objective", metavar="NAME=VALUE", help="Change a setting of the objective; repeatable."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch/--no-watch", help="Samples and an alarm at copying while it learns; 2% of the time."),
    ] = True,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on your data and keep it in a run folder."""
    if resume is not None:
        check_resumed(words)
    elif data is None or out is None:
        raise BadInput(
            f"fit has no {'PATH to learn from' if data is None else '--out'}",
            accepted="pellucid fit PATH --out DIR, or pellucid fit --resume DIR",
        )
    elif moved is not None:
        raise BadInput("--data came without --resume", next="The data to learn from is named first: pellucid fit PATH.")
    from pellucid.fitting import fit as fit_model
    from pellucid.fitting import resume as resume_run

    with job(quiet or as_json) as (run, terminal):
        if resume is not None:
            model, folder = (
                resume_run(resume, data=moved, checkpoint_every=checkpoint_every, watch=watch, run=run),
                resume,
            )
        else:
            from pellucid.catalog import family_class, objective_class
            from pellucid.core.settings import from_words, to_plain
            from pellucid.model import load
            from pellucid.training.adapt import Adapt

            older = load(base) if base is not None else None
            name = family or (older.name if older is not None else "diffusion")
            changes = pairs(setting, "--set")
            plain = to_plain(from_words(family_class(name), changes))
            folder = Path(str(out))
            goal = pairs(objective_setting, "--set-objective")
            if goal and objective is None:
                raise BadInput("--set-objective came without --objective", accepted="both")
            model = fit_model(
                str(data),
                name,
                minutes=minutes,
                steps=steps,
                seed=seed,
                out=folder,
                force=force,
                target=target,
                kind=kind,
                kinds=pairs(column, "--column"),
                constraints=declared(constraint, constraints),
                drop_breaking=drop_breaking,
                size=size,
                text=text_options(text),
                device=device,
                precision=precision,
                settings={k: v for k, v in plain.items() if k in changes},
                base=older,
                through=load(through) if through is not None else None,
                adapt=from_words(Adapt, {"how": adapt, **pairs(adapt_setting, "--set-adapt")}),
                objective=from_words(objective_class(objective), goal) if objective is not None else None,
                checkpoint_every=checkpoint_every,
                watch=watch,
                run=run,
            )
    facts = {
        "run": str(folder),
        "family": model.name,
        "steps": model.recipe.get("steps_done"),
        "seconds": model.recipe.get("seconds"),
        "notices": [n.text for n in terminal.notices],
    }
    if as_json:
        print_json(facts)
    elif not quiet:
        form = {"images": "samples", "text": "samples.txt", "molecules": "samples.smi"}.get(
            model.codec.kind, "samples.csv"
        )
        print(f"The model is in {folder}. Next: pellucid sample {folder} -n 64 --out {form}")


@app.command()
def sample(
    folder: ModelPath,
    n: Annotated[int | None, typer.Option("-n", "--n", help="How many.", show_default="64")] = None,
    seed: Seed = 0,
    of_class: Annotated[str | None, typer.Option("--class", help="Only items of this class.")] = None,
    where: Where = None,
    balance: Balance = None,
    share: Shares = None,
    no_missing: NoMissing = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="NAME=VALUE",
            help="What they shall be unlike, as class=3, beside a guidance above 1; repeatable.",
        ),
    ] = None,
    how: Annotated[
        list[str] | None,
        typer.Option(
            "--how", metavar="NAME=VALUE", help="Change how samples are drawn, as steps=50 or guidance=2; repeatable."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Of texts: go on after this, as it is drawn; n is 1 unless said.")
    ] = None,
    length: Annotated[int, typer.Option(help="With --prompt: characters, bytes or words at most.")] = 300,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="With --prompt: end before this; repeatable.")
    ] = None,
    match: Match = None,
    grammar: Grammar = None,
    stream: Stream = False,
    beams: Beams = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="A folder, .npz or .png for pictures; .csv, .csv.gz, .tsv or .parquet for tables; .txt."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw new items from a fitted model."""
    from pellucid.apps.opened import as_it_is, opened
    from pellucid.core.settings import from_words
    from pellucid.domains.write import check_target

    check_count(n)
    kept: Any = {"match": match, "grammar": grammar}
    if stream and (as_json or out is not None):
        raise BadInput(f"--stream came with {'--json' if as_json else '--out'}", accepted="one of them")
    if prompt is not None or stream or beams is not None:
        from pellucid.apps.going_on import go_on_here

        asked = "--prompt" if prompt is not None else "--stream" if stream else "--beams"
        kept |= {"stream": stream, "beams": beams}
        for option, value in {"--where": where, "--class": of_class, "--out": out, "--share": share}.items():
            if value:
                raise BadInput(f"{option} came with {asked}", accepted="-n, --seed, --how, --length, --stop, --json")
        words_of, ends = pairs(how, "--how"), tuple(stop or ())
        go_on_here(folder, prompt or "", n or 1, length, seed, words_of, ends, as_json, quiet, **kept)
        return
    if stop:
        raise BadInput("--stop came without --prompt", accepted="both")
    n = 64 if n is None else n
    check_outside(out, folder)
    pairs(where, "--where")  # refused before anything is loaded
    unlike, shares = pairs(against, "--against"), shares_of(share)
    model = opened(folder)
    if match is not None or grammar is not None:
        from pellucid.tasks.constrained import within

        if getattr(model.codec.space, "running", False):  # windows have no end, so texts of their own are written
            from pellucid.apps.going_on import go_on_here

            go_on_here(model, "", n, length, seed, pairs(how, "--how"), (), as_json, quiet, **kept)
            return
        model = within(model, **kept)
    if out is not None:
        check_target(out, model.codec.kind, force=force)
    words = wishes(model, where, of_class)
    settings = from_words(type(model.how()), pairs(how, "--how"), model.how()) if how else None
    with job(quiet or as_json) as (run, _):
        shared: Any = {"balance": balance, "shares": shares, "missing": not no_missing}
        draw = model.sample(n, seed=seed, where=words, against=unlike, how=settings, run=run, **shared)
    if out is not None:
        path = draw.save(out, force=force)
        if as_json:
            facts = {"route": draw.route, "promise": draw.promise, "tried": draw.tried}
            facts |= {"acceptance": round(draw.acceptance, 6), "notices": [n.text for n in draw.notices]}
            print_json({"out": str(path), "n": len(draw), "seed": seed, **facts})
        elif not quiet:
            print(f"{len(draw):,} samples of {folder}, seed {seed}, in {path}")
        return
    if model.codec.kind in ("text", "molecules") and not as_json:  # as it is: a report would cut long lines
        print(as_it_is(draw))
        return
    show(draw.report(), as_json, None, False)


@app.command()
def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Data to fit every family on; or several runs, with --data.", show_default=False
        ),
    ],
    families: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    minutes: Annotated[float, typer.Option(help="Budget for all fits together; measuring comes on top.")] = 5.0,
    n: Annotated[int | None, typer.Option("-n", help="Samples of each model; by default what the metrics use.")] = None,
    target: Target = None,
    kind: Kind = "auto",
    column: KindsOf = None,
    constraint: Constraints = None,
    constraints: ConstraintsFile = None,
    drop_breaking: DropBreaking = False,
    size: Size = None,
    data: DataPath = None,
    seed: Seed = 0,
    precision: Precision = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Report to write: .html, .md, .json or .txt.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put families (or finished runs) side by side on the same data, with intervals."""
    from pellucid.evaluate.compare import compare as compare_families
    from pellucid.evaluate.compare import compare_models

    check_report(out, force)
    check_minutes(minutes)
    check_count(n)
    for path in paths:
        check_outside(out, Path(path))
    with job(quiet or as_json) as (run, _):
        if all((Path(p) / "manifest.json").is_file() for p in paths):
            from pellucid.model import load

            short = [Path(p).resolve().name for p in paths]
            names = short if len(set(short)) == len(short) else paths
            if len(set(names)) < len(names):
                raise BadInput("a run is named twice", accepted="each run once")
            models = {name: load(p) for name, p in zip(names, paths, strict=True)}
            first = next(iter(models.values()))
            items = data_of(first.folder, data)
            report: Report = compare_models(models, *_halves(items, first.recipe), n=n, seed=seed, run=run)
        else:
            if len(paths) != 1:
                raise BadInput(
                    f"{len(paths)} paths are not all finished runs", accepted="one data set, or run folders only"
                )
            said: dict[str, Any] = {"constraints": declared(constraint, constraints), "drop_breaking": drop_breaking}
            items = _read(paths[0], kind, column, target=target, size=size, **said)
            chosen = "all" if families == "all" else [name.strip() for name in families.split(",")]
            report = compare_families(
                items, families=chosen, minutes=minutes, n=n, seed=seed, precision=precision, run=run
            )
    show(report, as_json, out, quiet)


app.command()(explain)


@app.command()
def describe(folder: RunFolder, as_json: Json = False, quiet: Quiet = False) -> None:
    """What a fitted model is, what it was made from and what it can be asked."""
    from pellucid.model import load

    show(load(folder).describe(), as_json, None, quiet)


@app.command()
def families(as_json: Json = False, quiet: Quiet = False) -> None:
    """Every family, what it takes and what it can do."""
    from pellucid.apps.menu import menu

    show(menu(), as_json, None, quiet)


@app.command()
def data(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Your data, 'digits', or teaching data: shapes, mixture, loans, linear.",
            show_default=False,
        ),
    ],
    target: Target = None,
    kind: Kind = "auto",
    column: KindsOf = None,
    constraint: Constraints = None,
    constraints: ConstraintsFile = None,
    drop_breaking: DropBreaking = False,
    size: Size = None,
    text: TextOptions = None,
    n: Annotated[int, typer.Option("-n", help="How many items of teaching data.")] = 2000,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Report to write; for teaching data the new folder.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What was read: kinds, counts, ranges, missing values, duplicates, a picture. Or write teaching data."""
    from pellucid.domains.described import describe_data
    from pellucid.domains.read import NAMED
    from pellucid.domains.teaching.written import SETS, write

    if path in SETS and not Path(path).exists() and (out is not None or path not in NAMED):
        if out is None:
            raise BadInput(f"data {path} needs --out", accepted="a new folder for the generated data")
        check_count(n)
        written = write(path, out, n=n, seed=seed)
        if as_json:
            print_json({"out": str(written), "n": n, "seed": seed})
        elif not quiet:
            print(f"{n:,} items of '{path}' with their ground truth are in {written}")
        return
    check_report(out, force)
    said: dict[str, Any] = {"constraints": declared(constraint, constraints), "drop_breaking": drop_breaking}
    items = _read(path, kind, column, text, target=target, size=size, **said)
    show(describe_data(items), as_json, out, quiet)


# ---------------------------------------------------------------------- answers, runs


def _read(path: str, kind: str, column: list[str] | None, text: list[str] | None = None, **options: Any) -> Any:
    from pellucid.domains.read import read

    return read(path, kind=kind, kinds=pairs(column, "--column"), text=text_options(text), **options)  # type: ignore[arg-type]


def _halves(items: Any, recipe: dict[str, Any]) -> tuple[Any, Any]:
    from pellucid.fitting import halves

    kept, aside = halves(items, recipe["held_out"], recipe["seed"])
    return items.take(kept), items.take(aside)
