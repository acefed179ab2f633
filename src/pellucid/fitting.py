"""Fitting: from a user's data and a budget to a fitted model, and on again after a stop or a crash."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.adapting import Began, as_adapt, begin, fitting_options, require_fit, settle, unheard, widened
from pellucid.bridging import bridge_for, latent_way, through_recipe
from pellucid.catalog import domain_class, family_class, objective_class, objective_name, objectives
from pellucid.core.batch import Examples
from pellucid.core.bundle import open_bundle
from pellucid.core.capabilities import Contends, Counts, Family, Grows, Objective, Recasts, Samples, Training
from pellucid.core.errors import BadBundle, BadInput, shown
from pellucid.core.run import Run
from pellucid.core.run_folder import check_free, claimed, preview_name, tidy
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import space_to_plain
from pellucid.core.weights import pour
from pellucid.domains.constraint_words import constraint_lines
from pellucid.domains.frames import TableData
from pellucid.domains.held import in_file
from pellucid.domains.kinds import kind_of_data
from pellucid.domains.read import NAMED, read, require_items
from pellucid.domains.streamed import Streamed, examples_of
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import TextCodec
from pellucid.model import Data, Draw, Fitted, build, finish, from_bundle, load, versions, write_setup
from pellucid.rereading import check_same, data_of, reread
from pellucid.training.adapt import Adapt, moved_by
from pellucid.training.balance import Balance
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.coverage import Coverage
from pellucid.training.latent_use import LatentUse
from pellucid.training.looks import SHARE
from pellucid.training.loop import count, train
from pellucid.training.plan import plan
from pellucid.training.precision import choose_precision
from pellucid.training.previews import Previews
from pellucid.training.threads import choose_threads, threads
from pellucid.training.watch import CopyRatio, Watch

__all__ = ["bridge_for", "data_of", "fit", "halves", "resume", "split"]

LEARNING_NUMBERS = 2**22  # in the rows that a bridge learns from where not all are in memory
LARGEST_HELD_OUT = 5000  # rows kept aside while fitting: enough for a watch, few enough to spare


def split(n: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for holding out, a pure function of its arguments.

    >>> train, held = split(10, 0.2, seed=0)
    >>> len(train), len(held), sorted([*train, *held]) == list(range(10))
    (8, 2, True)
    """
    order = np.random.default_rng([seed, n] if seed >= 0 else [-seed, n, 1]).permutation(n)
    k = round(n * held_out)
    return np.sort(order[k:]), np.sort(order[:k])


def halves(data: Data, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items to learn from and to hold out: at random, but of a running text its last share."""
    if isinstance(data, TextData) and data.form == "running":
        return data.halves(held_out)
    return split(len(data), held_out, seed)


def fit(
    data: Data | str | Path | object,
    family: str | Family = "diffusion",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    through: Fitted | None = None,
    base: Fitted | None = None,
    adapt: str | Adapt = "whole",
    objective: str | Objective | None = None,
    objective_settings: Mapping[str, Any] | None = None,
    training: Training | None = None,
    settings: Mapping[str, Any] | None = None,
    target: str | None = None,
    kind: str = "auto",
    kinds: Mapping[str, str] | None = None,
    size: int | None = None,
    text: Mapping[str, object] | None = None,
    constraints: Iterable[str] | Path = (),
    drop_breaking: bool = False,
    held_out: float = 0.1,
    precision: str = "auto",
    device: str = "auto",
    checkpoint_every: int | None = None,
    watch: bool = True,
    run: Run | None = None,
) -> Fitted:
    """Train a model of one family on data.

    Args:
        data: what `read` gives, or anything `read` takes (a path, a data frame, an array, "digits").
        family: a name from `families()`, or a Family object. settings: changes to the named family's settings.
        minutes | steps: the budget; the family's own number of steps when neither is given.
        out: run folder for checkpoints, events and the finished bundle; None keeps all in memory.
        force: replace a run that is there.
        through: a fitted model that encodes and decodes: the new one is trained in its latent space.
        base: a fitted model of the same family to go on from, on data of the same columns or picture size; classes
            that it does not know are added to its own.
        adapt: what of the base moves: "whole", "last" (its last layers), "lora" (low-rank adapters), or an `Adapt`.
        objective: turns that replace the engine's own: a name from `objectives()` with its `objective_settings`, or
            an Objective, which a stopped run cannot go on with unless the catalogue knows its class.
        training: how to train, instead of the family's own way.
        target, kind, kinds, size, text: as in `read`.
        held_out: share of the items (at most 5,000) that training does not see; of a running text its last share.
        precision: "float32", "bfloat16" for faster matrix work, or "auto": bfloat16 for pictures of 16 pixels or
            more where the processor computes with it. device: "auto", "cpu" or "cuda".
        checkpoint_every: steps between two checkpoints (shards have one each); every 30 seconds when None.
        watch: look at samples of the model while it learns, for at most 2% of the time: previews in the run folder,
            alarms when samples lie closer to training items than to held-out ones or miss kinds of items, and how a
            GAN's players stand. Changes nothing trained.

    Raises BadInput before anything is written when something does not fit.
    """
    _check_budget(minutes, steps, seed, held_out, precision, checkpoint_every)
    run = run or Run()
    run.device = _device(device)
    chosen = _family(family, settings, base, through)
    adapt = as_adapt(adapt)
    if base is None and adapt != Adapt():
        changed = ", ".join(f"{k}={v}" for k, v in to_plain(adapt).items() if v != getattr(Adapt(), k))
        came = f"adapt has {changed}" if adapt.how == "whole" else f"adapt is '{adapt.how}'"
        raise BadInput(f"{came} without a model to go on from", next="Name it: base=... or --from RUN.")
    objective = _objective(objective, objective_settings)
    if isinstance(objective, Recasts):
        if base is None:
            raise BadInput(
                f"{type(objective).__name__} came without a model to go on from",
                next="Name it: base=... or --from RUN.",
            )
        chosen = objective.recast(chosen)
    out = Path(out) if out is not None else None
    if out is not None:
        check_free(out, force)
    source: dict[str, Any] | None = None
    if isinstance(data, Data):
        asked = {"target": target, "kinds": kinds, "size": size, "text": text, "constraints": constraints or None}
        asked["drop_breaking"] = drop_breaking or None
        if given := [k for k, v in asked.items() if v is not None]:
            raise BadInput(f"{', '.join(given)} came with data that was read already", next="Give it to read.")
    else:
        declared = constraint_lines(constraints)
        if declared and base is not None:
            raise BadInput("constraints came with a model to go on from", accepted="those that it was fitted with")
        bound: dict[str, Any] = {"constraints": declared, "drop_breaking": drop_breaking}
        path = Path(data).resolve() if _is_path(data) else None
        if isinstance(data, str) and data in NAMED and kind in ("auto", "images"):  # names pictures, no file
            path = Path(data)
        if base is not None and isinstance(base.codec, TextCodec) and base.codec.kind == "text":
            text = {**base.codec.reading(), **(text or {})}
        if path is not None:
            source = {"path": str(path), "kind": kind, "target": target, "kinds": dict(kinds or {}), "size": size}
            source |= {"text": dict(text or {}), "constraints": list(declared), "drop_breaking": drop_breaking}
        found = read(data, kind=kind, target=target, kinds=kinds, size=size, text=text, **bound)  # type: ignore[arg-type]
        if base is not None and size is None and (fitting := fitting_options(base.codec, found)):
            fitting = {**fitting, "kinds": {**fitting.get("kinds", {}), **(kinds or {})}}
            found = read(data, **{"kind": kind, "target": target, **fitting, **bound})  # type: ignore[arg-type]
            source = None if source is None else {**source, **fitting}
        data = found
    for notice in data.notices:
        run.emit(notice)
    require_items(data)
    running = isinstance(data, TextData) and data.form == "running"
    share = held_out if running else min(held_out, LARGEST_HELD_OUT / len(data))
    kept, aside = halves(data, share, seed)
    if not len(kept):
        raise BadInput(f"held_out is {held_out}, which leaves none of {len(data)} items to learn from")
    older = base or through  # its columns or classes, in its order, are those that its weights know
    codec = older.codec if older is not None else domain_class(kind_of_data(data))().learn(data)
    if codec.kind != kind_of_data(data):
        role = "go on from" if base is not None else "learn through"
        raise BadInput(f"the data is of kind {kind_of_data(data)}", accepted=f"{codec.kind}, as the model to {role}")
    added: dict[str, list[str]] = {}
    if base is not None:
        if unused := require_fit(codec, data):
            run.notice("unused", f"Columns that the base does not know are not used: {', '.join(unused)}.", len(unused))
        codec, added = widened(codec, data)
    for notice in () if older is None else unheard(codec, data):
        run.emit(notice)
    learning, held = examples_of(codec, data, kept), examples_of(codec, data, aside)
    if base is not None:
        bridge = base.bridge
    elif through is not None:
        bridge = latent_way(chosen, codec, through, _some(learning))
    else:
        bridge = bridge_for(chosen, codec.space, codec.conditions, _some(learning))
    settled = training or chosen.training(bridge.target, len(kept))
    run.precision = choose_precision(precision, bridge.target, run.device)
    if run.precision != "float32" and precision == "auto":
        run.notice("precision", "Matrix work is done in bfloat16, which is faster; --precision float32 is exact.")
    model = Fitted(chosen, nn.Module(), codec, bridge, data=data, folder=out, source=source)
    model.recipe = {
        "family": chosen.name,
        "settings": to_plain(chosen),
        "training": to_plain(settled),
        "seed": seed,
        "held_out": share,
        "precision": run.precision,
        "device": run.device,
        "threads": choose_threads(),
        "space": space_to_plain(bridge.target),
        "conditions": {k: space_to_plain(s) for k, s in codec.conditions.items()},
        "data": {"kind": codec.kind, "items": len(data), "fingerprint": data.fingerprint(), "source": data.source},
        "minutes": minutes,
        "base": None,
        "objective": _as_recipe(objective),
        "through": base.recipe.get("through") if base is not None else through_recipe(through),
    }
    model.engine = build(model, base.engine if base is not None else None).to(run.device)
    began = None
    if base is not None:
        model.recipe["base"] = {"family": base.name, "weights": _hash(base.engine), "adapt": to_plain(adapt)}
        model.recipe["base"] |= {"new": added, "grown": [], "moving": []}
        began = begin(model, base.engine, learning, settled, run, objective)
        objective = began.objective
    reference = None if began is None else began.reference
    with threads(model.recipe["threads"]):
        if steps is None and not isinstance(model.engine, Counts):  # so that nobody waits without knowing how long
            planned = plan(
                model.engine,
                learning,
                settled,
                minutes=minutes,
                run=run,
                looking=SHARE if watch and _watchers(model, held, run) else 0.0,
                prepare=base is None,
                loaded=_size(data) + held.held(),
                bridge=bridge,
                objective=objective,
                base=reference,
            )
            model.recipe["steps"] = planned.steps
        else:
            model.recipe["steps"] = settled.steps if steps is None else steps
        if out is not None:
            with claimed(out, force):
                write_setup(model, out, start=None if began is None else began.weights)
        elif began is not None and began.weights is not None:
            began = replace(began, weights={k: v.clone() for k, v in began.weights.items()})
        return _train(
            model,
            learning,
            held,
            run,
            began,
            objective,
            deadline=None if minutes is None else minutes * 60,
            every=checkpoint_every,
            watch=watch,
        )


def resume(
    folder: str | Path,
    *,
    data: Data | str | Path | None = None,
    checkpoint_every: int | None = None,
    watch: bool = True,
    run: Run | None = None,
) -> Fitted:
    """Go on with a run that was stopped or killed; the result is the one the unbroken run would have given.

    Args:
        data: the same items, or the path they have now, when they are not where the run found them.
        checkpoint_every, watch: as in `fit`; neither changes what is trained.

    Raises BadInput when the data is not the same, BadBundle when the run's own files are damaged.
    """
    folder, run = Path(folder), run or Run()
    _check_every(checkpoint_every)
    if (folder / "manifest.json").is_file():
        open_bundle(folder, partial=True)
        tidy(folder)
        run.notice("resume", f"The run '{folder.name}' is finished; there is nothing left to do.")
        return load(folder)
    if not (folder / "resume.json").is_file():
        raise BadInput(
            f"'{folder}' holds no run to resume", accepted="a folder that an unfinished `pellucid fit --out` left"
        )
    bundle = open_bundle(folder, "resume.json", partial=True)
    model = from_bundle(bundle, weights=False)
    recipe = model.recipe
    objective = _objective_of(recipe["objective"], folder.name)
    if recipe["device"] == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            f"the run '{folder.name}' was begun on a GPU and torch sees none here",
            why="Another device would give another result.",
            next="Resume it where there is one, or fit anew.",
        )
    data = data if isinstance(data, Data) else reread(bundle, data)
    check_same(data, recipe, folder.name)
    model.data, model.folder = data, folder
    run.device, run.precision = recipe["device"], recipe["precision"]
    if bundle.manifest.get("versions") != versions():
        run.notice(
            "versions", "Library versions differ from when the run began: results may differ in the last digits."
        )
    if bundle.has("start.safetensors"):
        pour(model.engine, bundle.tensors("start.safetensors"), folder.name)
    elif recipe["base"] is not None:
        raise BadBundle(f"'{folder.name}' lacks start.safetensors, the weights that it started from")
    model.engine = model.engine.to(run.device)
    kept, aside = halves(data, recipe["held_out"], recipe["seed"])
    learning, held = examples_of(model.codec, data, kept), examples_of(model.codec, data, aside)
    began = None
    if recipe["base"] is not None:
        began = begin(model, None, learning, from_plain(Training, recipe["training"]), run, objective)
        objective = began.objective
    with threads(recipe["threads"]):
        return _train(
            model,
            learning,
            held,
            run,
            began,
            objective,
            deadline=None,
            every=checkpoint_every,
            watch=watch,
        )


def _train(
    model: Fitted,
    examples: Examples,
    held: Examples,
    run: Run,
    began: Began | None,
    objective: Objective | None,
    deadline: float | None,
    every: int | None,
    watch: bool,
) -> Fitted:
    """From a built engine to a finished bundle; goes on from the newest good checkpoint in the run's folder."""
    recipe, folder = model.recipe, model.folder
    settled = from_plain(Training, recipe["training"])
    run.folder = folder
    keep = None if folder is None else Checkpoints(folder / "checkpoints", steps=every)
    start = None if keep is None else keep.latest(run)
    clock = time.monotonic()
    base = None if began is None else began.reference
    trained = 0 if began is None else moved_by(model.engine, objective, base)
    if isinstance(model.engine, Counts):
        grows = isinstance(model.engine, Grows)
        counted = count(
            model.engine,
            examples,
            shards=16,
            run=run,
            keep=keep,
            start=start,
            seed=recipe["seed"],
            bridge=model.bridge,
            steps=recipe["steps"],
            deadline=recipe["minutes"] * 60 if grows and recipe["minutes"] is not None else None,
        )
        if grows:
            recipe["steps_done"] = counted.steps
    else:
        outcome = train(
            model.engine,
            examples,
            settings=settled,
            steps=recipe["steps"],
            seed=recipe["seed"],
            run=run,
            keep=keep,
            base=base,
            objective=objective,
            held_out=held if len(held) else None,
            start=start,
            watch=_watchers(model, held, run) if watch else (),
            watch_share=SHARE,
            prepare=recipe["base"] is None,
            deadline=deadline,
            bridge=model.bridge,
        )
        model.raw = outcome.raw
        recipe["steps_done"] = outcome.steps
    recipe["seconds"] = round(time.monotonic() - clock, 2)
    model.engine.eval()
    if began is not None:
        # not kept in memory for so long
        kept = None if folder is None else open_bundle(folder, "resume.json", partial=True)
        first = began.weights if kept is None else kept.tensors("start.safetensors")
        assert first is not None
        settle(model, first, trained, run)
    if folder is not None:
        finish(model, folder)
    return model


def _watchers(model: Fitted, held: Examples, run: Run) -> list[Watch]:
    """Who looks at the model while it learns; nobody where there is nobody to tell."""
    if not isinstance(model.engine, Samples) or (model.folder is None and not run.listeners):
        return []
    folder, ending = model.folder, {"images": ".png", "text": ".txt"}.get(model.codec.kind, ".csv")

    def draw(ids: Sequence[int]) -> Draw:
        return model.sample(ids=ids, seed=model.recipe["seed"])

    def keep(step: int, draw: Draw) -> str:
        assert folder is not None
        return str(draw.save(folder / preview_name(step, ending), force=True))

    space = model.bridge.target
    compared = [Coverage(space=space), CopyRatio(space=space)] if len(held) else []
    players = [Balance()] if isinstance(model.engine, Contends) else []
    latents = [LatentUse()] if LatentUse.suits(model.engine) else []
    return [Previews(draw, None if folder is None else keep), *players, *latents, *compared]


def _some(examples: Examples) -> Tensor:
    """(n, *event) rows that a bridge learns from: all that are held in memory, of others some, evenly spread."""
    n = len(examples)
    if isinstance(examples, Streamed):
        size = examples.take(torch.zeros(1, dtype=torch.int64)).x.numel()
        n = min(n, max(100, LEARNING_NUMBERS // size))
    return examples.take(torch.arange(n) * len(examples) // max(1, n)).x


def _family(
    family: str | Family, settings: Mapping[str, Any] | None, base: Fitted | None, through: Fitted | None
) -> Family:
    """The family with its settings; those of the model to go on from, when there is one."""
    if base is not None and through is not None:
        raise BadInput("both base and through were given", accepted="one of them", why="A base keeps its own bridge.")
    if not isinstance(family, (str, Family)):
        raise BadInput(f"family is {shown(family)}", accepted="a name or a Family object")
    if isinstance(family, Family):
        if settings:
            raise BadInput(
                "settings came with a Family object", accepted="one of them", next="Use dataclasses.replace."
            )
        chosen = family
    else:
        start = base.family if base is not None and base.family is not None and base.family.name == family else None
        own = {} if start is None else to_plain(start)
        chosen = from_plain(family_class(family), {**own, **(settings or {})})
    if base is not None and (base.family is None or base.family.name != chosen.name):
        raise BadInput(
            f"the family is '{chosen.name}' but the model to go on from is '{base.name}'", accepted="the same family"
        )
    return chosen


def _objective(asked: str | Objective | None, settings: Mapping[str, Any] | None) -> Objective | None:
    """The objective by its name or as it came."""
    if isinstance(asked, str):
        return from_plain(objective_class(asked), settings or {})
    if settings:
        raise BadInput("objective_settings came without the name of an objective", accepted=", ".join(objectives()))
    if asked is not None and not isinstance(asked, Objective):
        raise BadInput(f"objective is {shown(asked)}", accepted="a name or an Objective")
    return asked


def _as_recipe(objective: Objective | None) -> dict[str, Any] | str | None:
    """What a run keeps of its objective: its name and settings, or its class's name when it is none of ours."""
    if objective is None:
        return None
    name = objective_name(objective)
    return type(objective).__name__ if name is None else {"name": name, "settings": to_plain(objective)}


def _objective_of(kept: object, run: str) -> Objective | None:
    """The objective of a run that goes on, from its recipe."""
    if isinstance(kept, str):
        raise BadInput(
            f"the run '{run}' has an objective of its own, {kept}",
            why="Its code is not kept in the run folder, as nothing there may execute.",
            next="Fit it anew.",
        )
    if not isinstance(kept, Mapping):
        return None
    return _objective(str(kept.get("name")), kept.get("settings"))


def _hash(engine: nn.Module) -> str:
    """sha256 over names and weights."""
    digest = hashlib.sha256()
    state = engine.tables() if isinstance(engine, Counts) else engine.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_path(data: object) -> TypeGuard[str | Path]:
    return isinstance(data, (str, Path))


def _check_budget(
    minutes: float | None, steps: int | None, seed: int, held_out: float, precision: str, every: int | None
) -> None:
    if minutes is not None and steps is not None:
        raise BadInput(f"both minutes={minutes} and steps={steps} were given", accepted="one of them")
    if minutes is not None and not (_is_number(minutes) and math.isfinite(minutes) and minutes > 0):
        raise BadInput(f"minutes is {shown(minutes)}", accepted="a finite number above 0")
    if steps is not None and (not _is_whole(steps) or steps < 1):
        raise BadInput(f"steps is {shown(steps)}", accepted="a whole number of at least 1")
    if not _is_whole(seed):
        raise BadInput(f"seed is {shown(seed)}", accepted="a whole number")
    if not _is_number(held_out) or not 0.0 <= held_out < 1.0:
        raise BadInput(f"held_out is {shown(held_out)}", accepted="a share from 0 up to, not including, 1")
    if precision not in ("auto", "float32", "bfloat16"):
        raise BadInput(f"precision is '{precision}'", accepted="auto, float32, bfloat16")
    _check_every(every)


def _check_every(every: int | None) -> None:
    if every is not None and (not _is_whole(every) or every < 1):
        raise BadInput(f"checkpoint_every is {shown(every)}", accepted="a whole number of steps, at least 1")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked not in ("cpu", "cuda"):
        raise BadInput(f"device is '{asked}'", accepted="auto, cpu, cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is 'cuda' but torch sees no GPU here", accepted="auto, cpu")
    return asked


def _size(data: Data) -> int:
    """Bytes of items in memory; pictures in a file take none."""
    if isinstance(data, TableData):
        return int(data.frame.memory_usage(deep=True).sum())
    if isinstance(data, TextData):
        return data.nbytes()
    return 0 if in_file(data.pixels) else data.pixels.nbytes
