"""Going on from a fitted model on other data: what must fit, what may grow, what moves, and what has changed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.batch import Examples
from pellucid.core.capabilities import Counts, Objective, Prepares, Training
from pellucid.core.codec import Codec, Remarks
from pellucid.core.errors import BadBundle, BadInput
from pellucid.core.run import Noticed, Run
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import Tokens
from pellucid.core.weights import state_of
from pellucid.domains.columns import ASKED
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.model import Data, Fitted
from pellucid.nets.inherit import grow
from pellucid.nets.lora import attach, fold, merge
from pellucid.training.adapt import Adapt, Narrowed, changed, last_layers
from pellucid.training.loop import prepare_engine

__all__ = ["Began", "as_adapt", "begin", "fitting_options", "require_fit", "settle", "unheard", "widened"]


def as_adapt(asked: str | Adapt) -> Adapt:
    """The settings of an adaptation, from them or from a word."""
    return asked if isinstance(asked, Adapt) else from_plain(Adapt, {"how": asked})


# ------------------------------------------------------------------------------------------------- the data must fit


def fitting_options(codec: Codec[Any], data: Data) -> dict[str, Any]:
    """Options to read the data with once more, so that it fits a codec: the size of pictures, the kinds of columns.

    Empty when it was read as the codec needs it.
    """
    if isinstance(data, Pictures) and codec.kind == "images":
        height, width = codec.space.shape[1:]
        return {"size": height} if height == width and data.pixels.shape[1:3] != (height, width) else {}
    if isinstance(data, TableData) and codec.kind == "table":
        known = {c.name: c.kind for c in codec.columns}  # type: ignore[attr-defined]
        other = {c.name: known[c.name] for c in data.columns if known.get(c.name, c.kind) != c.kind}
        kinds = {name: kind for name, kind in other.items() if kind in ASKED}
        return {"kinds": kinds} if kinds else {}
    return {}


def require_fit(codec: Codec[Any], data: Data) -> list[str]:
    """Refuse a table whose columns are not those of the codec; gives the names of columns that are not used.

    Raises BadInput that names the first column that is missing or of another kind.
    """
    if not isinstance(data, TableData):
        return []
    known = {c.name: c.kind for c in codec.columns}  # type: ignore[attr-defined]
    found = {c.name: c.kind for c in data.columns}
    if missing := [name for name in known if name not in found]:
        raise BadInput(
            f"the table has no column '{missing[0]}'" + (f" (nor {len(missing) - 1} more)" if missing[1:] else ""),
            accepted=", ".join(known),
            why="The model to go on from was made for these columns.",
        )
    numbers, still = {"number", "integer"}, {"constant", "empty"}
    for name, kind in known.items():
        if kind != found[name] and not {kind, found[name]} <= numbers and not {kind, found[name]} & still:
            raise BadInput(
                f"column '{name}' is of kind {found[name]}",
                accepted=f"{kind}, as in the model to go on from",
                next=f"Say --column {name}={kind}.",
            )
    return [name for name in found if name not in known]


def unheard(codec: Codec[Any], data: Data) -> list[Noticed]:
    """What the codec of an older model does not take of pictures: words it never saw, classes or captions at all."""
    if not isinstance(data, Pictures):
        return []
    said = list(codec.remarks({"caption": data.captions})) if isinstance(codec, Remarks) and data.captions else []
    for name, values in {"class": data.labels, "caption": data.captions}.items():
        if any(values or ()) and name not in codec.conditions:
            text = f"Each picture's {name} is not used, as the older model was fitted without."
            said.append(Noticed(topic="unused", text=text, count=len(data)))
    return said


def widened(codec: Codec[Any], data: Data) -> tuple[Codec[Any], dict[str, list[str]]]:
    """The codec with the classes of these pictures added to its own, and the names of those that are new.

    Classes keep their places. Samples for which no class is asked are drawn as often as these pictures have each.
    """
    plain = codec.plain() if isinstance(data, Pictures) else {}
    if not plain.get("classes") or not isinstance(data, Pictures) or not data.classes():
        return codec, {}
    old = list(plain["classes"])
    new = [name for name in data.classes() if name and name not in old]
    found = Counter(data.labels)
    counts = [found[name] for name in [*old, *new]]
    if not sum(counts):
        return codec, {}
    wide = type(codec).from_plain({**plain, "classes": [*old, *new], "counts": counts}, codec.tensors())
    return wide, {"class": new} if new else {}


# ------------------------------------------------------------------------------------------------ what moves, and how


@dataclass(frozen=True)
class Began:
    """An engine that starts from a base.

    weights: as it is before the first step and without adapters: what `start.safetensors` will hold. They are the
        engine's own tensors and move with it; None for a run that goes on.
    reference: a frozen copy, for an objective. objective: what to train by; None for the engine's own turns.
    """

    weights: Mapping[str, Tensor] | None
    reference: nn.Module | None
    objective: Objective | None


def begin(
    model: Fitted,
    base: nn.Module | None,
    examples: Examples,
    settled: Training,
    run: Run,
    objective: Objective | None,
) -> Began:
    """Ready an engine that was built from a base: grow what is new, attach adapters, and say what may move.

    Args:
        base: the base's engine; None for a run that goes on, whose engine holds the weights it started with and whose
            recipe says all that was decided.
    """
    recipe: dict[str, Any] = model.recipe["base"]
    engine = model.engine
    if base is not None:
        for name, words in recipe["new"].items():
            space = model.codec.conditions[name]
            assert isinstance(space, Tokens)
            recipe["grown"] += grow(engine, base, sum(space.sizes) - len(words), sum(space.sizes))
            run.notice("classes", f"New to the model: {name} {', '.join(words)}.", len(words))
        ours, theirs = engine.state_dict(), base.state_dict()
        fresh = [n for n in ours if n not in recipe["grown"] and (n not in theirs or theirs[n].shape != ours[n].shape)]
        if not isinstance(engine, Counts) and not {n for n, _ in engine.named_parameters()} - set(fresh):
            raise BadInput(
                f"no weight of the base fits the model's settings, as '{fresh[0]}'",
                next="Go on with the base's own settings, or fit without a base.",
            )
        if fresh and not isinstance(engine, Counts):
            run.notice("fresh", f"{len(fresh)} weights do not fit those of the base and start anew, as '{fresh[0]}'.")
    engine.to(run.device)
    adapt = from_plain(Adapt, recipe["adapt"])
    if base is not None and adapt.statistics == "renew":
        _renew(model, examples, settled, run)
    elif base is not None and isinstance(engine, Prepares):
        prepare_engine(engine, examples, settled, model.recipe["seed"], model.bridge, run, anew=False)
    weights = None if base is None else dict(state_of(engine))
    reference = copy.deepcopy(engine) if objective is not None else None
    if adapt.how == "whole":
        return Began(weights, reference, objective)
    if isinstance(engine, Counts):
        raise BadInput(f"adapt is '{adapt.how}'", accepted="whole", why=f"'{model.name}' counts and has no layers.")
    if adapt.how == "lora":
        moving = attach(engine, adapt.rank, adapt.alpha, model.recipe["seed"])
        recipe["moving"] = []  # they follow from the layers
    elif base is not None:
        seed = model.recipe["seed"]
        moving = last_layers(engine, examples, settled, adapt.share, seed=seed, run=run, bridge=model.bridge)
        recipe["moving"] = list(moving)
    else:
        moving = tuple(recipe["moving"])
    held = {n for n, _ in engine.named_buffers()}  # such as the shares of groups, which grow and do not move
    names = tuple(dict.fromkeys([*moving, *(n for n in recipe["grown"] if n not in held)]))
    if strange := sorted(set(names) - {n for n, _ in engine.named_parameters()}):
        raise BadBundle(f"the recipe moves '{strange[0]}', which is no weight of the model")
    return Began(weights, reference, Narrowed(names, objective))


def _renew(model: Fitted, examples: Examples, settled: Training, run: Run) -> None:
    """Take from these data what is taken before training, where that is no learned weight.

    Raises BadInput where the engine takes nothing, or where it would undo what was learned.
    """
    if not isinstance(model.engine, Prepares):
        raise BadInput(f"'{model.name}' takes no statistics before training", accepted="statistics='keep'")
    fresh = copy.deepcopy(model.engine)
    prepare_engine(fresh, examples, settled, model.recipe["seed"], model.bridge, run)
    for (name, new), old in zip(fresh.named_parameters(), model.engine.parameters(), strict=True):
        if not torch.equal(new, old):
            raise BadInput(
                f"renewing the statistics of '{model.name}' would undo what it learned in '{name}'",
                accepted="statistics='keep'",
            )
    model.engine.load_state_dict(fresh.state_dict())


def settle(model: Fitted, weights: Mapping[str, Tensor], trained: int, run: Run) -> None:
    """After training: merge adapters into plain weights, then say and record how far the weights moved."""
    if isinstance(model.engine, Counts):
        return
    adapt = from_plain(Adapt, model.recipe["base"]["adapt"])
    if adapt.how == "lora":
        merge(model.engine, adapt.rank, adapt.alpha)
        if model.raw is not None:
            model.raw = {k: v.contiguous() for k, v in fold(model.raw, adapt.rank, adapt.alpha).items()}
    learned = [name for name, _ in model.engine.named_parameters()]
    with torch.no_grad():
        found = changed(weights, model.engine.state_dict(), learned, trained)
    model.recipe["changed"] = to_plain(found)
    run.notice("changed", f"From the base: {found}.")
