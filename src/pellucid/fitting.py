"""Fitting: from a user's data and a budget to a fitted model, and on again after a stop or a crash."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.catalog import BRIDGES, bridge_class, domain_class, family_class
from pellucid.core.batch import Examples
from pellucid.core.bundle import Bundle, open_bundle
from pellucid.core.capabilities import Counts, Decodes, Encodes, Family, Objective, Training
from pellucid.core.codec import Bridge, Chain, Codec, Identity
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.run import Run
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import space_to_plain
from pellucid.domains.bridges.latent import LatentBridge
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read, require_items
from pellucid.model import Data, Fitted, build, check_free, claim, finish, from_bundle, load, versions, write_setup
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.loop import count, train
from pellucid.training.plan import plan
from pellucid.training.threads import choose_threads, threads

__all__ = ["data_of", "fit", "resume", "split"]

LARGEST_HELD_OUT = 5000  # rows kept aside while fitting: enough for a watch, few enough to spare


def split(n: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for holding out, a pure function of its arguments.

    >>> train, held = split(10, 0.2, seed=0)
    >>> len(train), len(held), sorted([*train, *held]) == list(range(10))
    (8, 2, True)
    """
    order = np.random.default_rng([seed, n]).permutation(n)
    k = round(n * held_out)
    return np.sort(order[k:]), np.sort(order[:k])


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
    objective: Objective | None = None,
    training: Training | None = None,
    settings: Mapping[str, Any] | None = None,
    target: str | None = None,
    kind: str = "auto",
    kinds: Mapping[str, str] | None = None,
    size: int | None = None,
    held_out: float = 0.1,
    precision: str = "float32",
    device: str = "auto",
    checkpoint_every: int | None = None,
    run: Run | None = None,
) -> Fitted:
    """Train a model of one family on data.

    Args:
        data: what `read` gives, or anything `read` takes (a path, a data frame, an array, "digits").
        family: a name from `families()`, or a Family object. settings: changes to the named family's settings.
        minutes | steps: the budget; the family's own number of steps when neither is given.
        out: run folder for checkpoints, events and the finished bundle; None keeps all in memory.
        through: a fitted model that encodes and decodes: the new one is trained in its latent space.
        base: a fitted model of the same family and space to continue from. objective: replaces the engine's own.
        target, kind, kinds, size: as in `read`.
        held_out: share of the items (at most 5,000) that training does not see.
        precision: "float32", or "bfloat16" for faster matrix work. device: "auto", "cpu" or "cuda".
        checkpoint_every: steps between two checkpoints (shards have one each); every 30 seconds when None.

    Raises BadInput before anything is written when something does not fit.
    """
    _check_budget(minutes, steps, held_out, precision)
    run = run or Run()
    run.device, run.precision = _device(device), precision
    chosen = from_plain(family_class(family), dict(settings or {})) if isinstance(family, str) else family
    out = Path(out) if out is not None else None
    if out is not None:
        check_free(out, force)
    if not isinstance(data, (Pictures, TableData)):
        source = {
            "path": str(Path(data).resolve()) if isinstance(data, (str, Path)) and str(data) != "digits" else data
        }
        source |= {"kind": kind, "target": target, "kinds": dict(kinds or {}), "size": size}
        data = read(data, kind=kind, target=target, kinds=kinds, size=size)  # type: ignore[arg-type]
        source = source if isinstance(source["path"], str) else {}
    else:
        source = {}
    for notice in data.notices:
        run.emit(notice)
    require_items(data)
    share = min(held_out, LARGEST_HELD_OUT / len(data))
    kept, aside = split(len(data), share, seed)
    codec = base.codec if base is not None else domain_class(_kind(data))().learn(data)
    x = codec.encode(data)
    bridge = base.bridge if base is not None else _bridge(chosen, codec, x[torch.from_numpy(kept)], through)
    settled = training or chosen.training(bridge.target, len(kept))
    model = Fitted(chosen, nn.Module(), codec, bridge, data=data, folder=out)
    model.recipe = {
        "family": chosen.name,
        "settings": to_plain(chosen),
        "training": to_plain(settled),
        "seed": seed,
        "held_out": share,
        "precision": precision,
        "device": run.device,
        "threads": choose_threads(),
        "space": space_to_plain(bridge.target),
        "conditions": {k: space_to_plain(s) for k, s in codec.conditions.items()},
        "data": {"kind": codec.kind, "items": len(data), "fingerprint": data.fingerprint(), "source": data.source},
        "minutes": minutes,
        "base": None if base is None else base.recipe.get("weights"),
        "objective": None if objective is None else type(objective).__name__,
        "through": None
        if through is None
        else {k: through.recipe[k] for k in ("family", "settings", "space", "conditions")},
    }
    model.engine = build(model, base.engine if base is not None else None).to(run.device)
    with threads(model.recipe["threads"]):
        if steps is None and minutes is not None and not isinstance(model.engine, Counts):
            planned = plan(model.engine, _examples(model, kept), settled, minutes=minutes, run=run, bridge=bridge)
            model.recipe["steps"] = planned.steps
        else:
            model.recipe["steps"] = settled.steps if steps is None else steps
        if out is not None:
            claim(out, force)
            write_setup(model, out, source)
        return _train(
            model,
            kept,
            aside,
            run,
            base,
            objective,
            deadline=None if minutes is None else minutes * 60,
            every=checkpoint_every,
        )


def resume(
    folder: str | Path, *, data: Data | None = None, checkpoint_every: int | None = None, run: Run | None = None
) -> Fitted:
    """Go on with a run that was stopped or killed; the result is the one the unbroken run would have given.

    Args:
        data: the same items, when the run was not started from a path.

    Raises BadInput when the data is not the same, BadBundle when the run's own files are damaged.
    """
    folder, run = Path(folder), run or Run()
    if (folder / "manifest.json").is_file():
        run.notice("resume", f"The run '{folder.name}' is finished; there is nothing left to do.")
        return load(folder)
    if not (folder / "resume.json").is_file():
        raise BadInput(
            f"'{folder}' holds no run to resume", accepted="a folder that an unfinished `pellucid fit --out` left"
        )
    bundle = open_bundle(folder, "resume.json", partial=True)
    model = from_bundle(bundle, weights=False)
    recipe = model.recipe
    data = data if data is not None else _reread(bundle, None)
    _check_same(data, recipe, folder.name)
    model.data, model.folder = data, folder
    run.device, run.precision = _device(recipe["device"]), recipe["precision"]
    if bundle.manifest.get("versions") != versions():
        run.notice(
            "versions", "Library versions differ from when the run began: results may differ in the last digits."
        )
    model.engine = model.engine.to(run.device)
    kept, aside = split(len(data), recipe["held_out"], recipe["seed"])
    if recipe["base"] is not None or recipe["objective"] is not None:
        raise BadInput("a run with a base or an objective cannot be resumed from its folder alone", next="Fit it anew.")
    with threads(recipe["threads"]):
        return _train(model, kept, aside, run, None, None, deadline=None, every=checkpoint_every)


def data_of(folder: str | Path | None, moved: str | Path | None = None) -> Data:
    """The items a finished run was fitted on, read again and checked against its recipe.

    Args:
        moved: where they are now, if not where they were.
    """
    if folder is None:
        raise BadInput("the model has no run folder", accepted="a model loaded from one", next="Pass its data.")
    bundle = open_bundle(Path(folder))
    data = _reread(bundle, moved)
    _check_same(data, bundle.json("recipe.json"), Path(folder).name)
    return data


def _reread(bundle: Bundle, moved: str | Path | None) -> Data:
    source = bundle.json("source.json") if bundle.has("source.json") else {}
    if not source and moved is None:
        raise BadInput("the run was not started from a path", next="Say where its data is: --data PATH, or data=...")
    path = moved if moved is not None else source["path"]
    found: Data = read(path, **{k: v for k, v in source.items() if k != "path"})
    return found


def _check_same(data: Data, recipe: Mapping[str, Any], name: str) -> None:
    if data.fingerprint() != recipe["data"]["fingerprint"]:
        raise BadInput(
            f"the data of '{name}' is not what it was when the run began",
            why="Going on with other data would give results that no recipe describes.",
            next="Put the original data back, or fit anew.",
        )


def _train(
    model: Fitted,
    kept: np.ndarray,
    aside: np.ndarray,
    run: Run,
    base: Fitted | None,
    objective: Objective | None,
    deadline: float | None,
    every: int | None,
) -> Fitted:
    """From a built engine to a finished bundle; goes on from the newest good checkpoint in the run's folder."""
    recipe, folder = model.recipe, model.folder
    settled = from_plain(Training, recipe["training"])
    run.folder = folder
    keep = None if folder is None else Checkpoints(folder / "checkpoints", steps=every)
    start = None if keep is None else keep.latest(run)
    examples, held = _examples(model, kept), _examples(model, aside)
    began = time.monotonic()
    if isinstance(model.engine, Counts):
        count(
            model.engine, examples, shards=16, run=run, keep=keep, start=start, seed=recipe["seed"], bridge=model.bridge
        )
    else:
        outcome = train(
            model.engine,
            examples,
            settings=settled,
            steps=recipe["steps"],
            seed=recipe["seed"],
            run=run,
            keep=keep,
            base=None if base is None else base.engine,
            objective=objective,
            held_out=held if len(aside) else None,
            start=start,
            deadline=deadline,
            bridge=model.bridge,
        )
        model.raw = outcome.raw
        recipe["steps_done"] = outcome.steps
    recipe["seconds"] = round(time.monotonic() - began, 2)
    model.engine.eval()
    if folder is not None:
        finish(model, folder)
    return model


def _examples(model: Fitted, index: np.ndarray) -> Examples:
    assert model.data is not None
    return model.examples(model.data.take(index))


def _bridge(family: Family, codec: Codec[Any], x: Tensor, through: Fitted | None) -> Bridge:
    """The first way from the codec's space to one that the family accepts."""
    if through is not None:
        if not (isinstance(through.engine, Encodes) and isinstance(through.engine, Decodes)):
            raise MissingCapability(
                f"'{through.name}' cannot carry another model", why="It does not encode and decode."
            )
        latent = LatentBridge(through.engine, through.bridge.target)
        return latent if isinstance(through.bridge, Identity) else Chain(through.bridge, latent)
    refusal = family.accepts(codec.space, codec.conditions)
    if refusal is None:
        return Identity(codec.space)
    reasons = [refusal.reason]
    for name in BRIDGES:
        kind: Any = bridge_class(name)
        if kind.fits(codec.space):
            bridge: Bridge = kind.learn(codec.space, x)
            refused = family.accepts(bridge.target, codec.conditions)
            if refused is None:
                return bridge
            reasons.append(f"{refused.reason} (through {name})")
    raise BadInput(
        f"family '{family.name}' cannot take this data", why="; ".join(dict.fromkeys(reasons)), next=refusal.instead
    )


def _check_budget(minutes: float | None, steps: int | None, held_out: float, precision: str) -> None:
    if minutes is not None and steps is not None:
        raise BadInput(f"both minutes={minutes} and steps={steps} were given", accepted="one of them")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise BadInput(f"minutes is {minutes}", accepted="a finite number above 0")
    if steps is not None and steps < 1:
        raise BadInput(f"steps is {steps}", accepted="a whole number of at least 1")
    if not 0.0 <= held_out < 1.0:
        raise BadInput(f"held_out is {held_out}", accepted="a share from 0 up to, not including, 1")
    if precision not in ("float32", "bfloat16"):
        raise BadInput(f"precision is '{precision}'", accepted="float32, bfloat16")


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked not in ("cpu", "cuda"):
        raise BadInput(f"device is '{asked}'", accepted="auto, cpu, cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is 'cuda' but torch sees no GPU here", accepted="auto, cpu")
    return asked


def _kind(data: Data) -> str:
    return "images" if isinstance(data, Pictures) else "table"
