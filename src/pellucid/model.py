"""A fitted model: codec, bridge and engine together with where they came from; sampling, saving, loading."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import __version__
from pellucid.catalog import bridge_class, codec_class, families, family_class
from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.bundle import Bundle, open_bundle, seal, write_json
from pellucid.core.capabilities import (
    CAPABILITIES,
    Family,
    How,
    LogProb,
    Samples,
    Scores,
    offers,
)
from pellucid.core.codec import Bridge, Chain, Codec, Identity, Measures
from pellucid.core.described_model import Described, described
from pellucid.core.errors import BadBundle, BadInput, MissingCapability, MissingExtra, fault, shown
from pellucid.core.recipe import OUTCOME, Outcome, Recipe, StoredBridge, StoredCodec, Through, check_sizes
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.run_folder import LEFTOVERS, claimed, kept, tidy
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import space_from_plain, space_to_plain
from pellucid.core.trace import Trace
from pellucid.core.weights import bounded, check_weights, pour, state_of, write_tensors
from pellucid.domains.bridges.latent import rebuild
from pellucid.domains.kinds import Data
from pellucid.drawing.drawn import Draw, Shown
from pellucid.drawing.sampler import Sampler, device_of
from pellucid.drawing.words import Where

__all__ = [
    "Data",
    "Draw",
    "Fitted",
    "Shown",
    "adopt",
    "build",
    "finish",
    "from_bundle",
    "load",
    "versions",
    "write_setup",
]


@dataclass(eq=False)
class Fitted:
    """A model that can be asked: a codec for the user's items, a bridge to the engine's space, the engine.

    recipe: everything that was resolved when it was fitted, as JSON values.
    raw: the weights before averaging, where training averaged them.
    data: the items it was fitted on, when they are at hand (a loaded model does not carry them).
    source: where the data was read from and how, when it was read from a path.
    """

    family: Family | None
    engine: nn.Module
    codec: Codec[Any]
    bridge: Bridge
    recipe: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Tensor] | None = None
    data: Data | None = None
    folder: Path | None = None
    source: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.family.name if self.family is not None else str(self.recipe.get("family", "adopted"))

    def offers(self) -> tuple[str, ...]:
        """Capabilities of the engine, by name."""
        return offers(self.engine)

    def need(self, capability: type, asked: str) -> Any:
        """The engine, if it has the capability; else a typed error that says what it offers and who would do."""
        if isinstance(self.engine, capability):
            return self.engine
        able = [n for n in families() if issubclass(family_class(n).engine, capability)]
        raise MissingCapability(
            f"'{self.name}' cannot {asked}",
            accepted=f"families that can: {', '.join(able) or 'none yet'}",
            why=f"It offers {', '.join(self.offers())}, not {capability.__name__}.",
        )

    # ------------------------------------------------------------------ sampling

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        where: Where | None = None,
        against: Where | None = None,
        balance: str | None = None,
        shares: Mapping[str, Mapping[str, float]] | None = None,
        missing: bool = True,
        how: How | None = None,
        ids: Tensor | Sequence[int] | None = None,
        trace: Trace | None = None,
        batch: int = 250,
        run: Run | None = None,
    ) -> Draw:
        """Draw n items.

        Args:
            n: how many, if `ids` is not given (ids are then 0 to n - 1).
            where: what they shall be: {"class": "7"} or {"sex": "Female", "age": ">=40"}; a list gives one value
                a row, for conditions. Names the model was conditioned on are conditions; other columns are known from
                the start where the engine can complete them, else rows are drawn until enough fit (see drawing.py).
            against: what they shall be unlike, in conditions of the model; guidance says how much.
            balance: a column whose values shall be equally frequent.
            shares: a column and the shares of some of its values, {"income": {">50K": 0.5}}; the others keep their own
                proportions.
            missing: False fills missing cells.
            how: the engine's settings, changed by `dataclasses.replace(model.how(), steps=50)`.
            trace: what to record; then all rows go in one batch.
        """
        self.need(Samples, "draw samples")
        how = self._checked(how)
        sampler = Sampler(self.name, self.engine, self.codec, self.bridge, seed, how, batch, run or Run())
        return sampler.draw(n, where, against, ids, trace, missing=missing, balance=balance, shares=shares)

    def how(self) -> How:
        """The engine's own way to sample."""
        settings: How = self.need(Samples, "draw samples").settings()
        return settings

    def _checked(self, how: How | None) -> How:
        own = self.how()
        if how is not None and not isinstance(how, type(own)):
            raise BadInput(
                f"how is a {type(how).__name__}",
                accepted=f"a {type(own).__name__}",
                next="Change what model.how() gives, with dataclasses.replace.",
            )
        return own if how is None else how

    # ------------------------------------------------------------------ asking

    def log_prob(self, items: Data, *, seed: int = 0, batch: int = 500) -> LogProb:
        """Log-probability of items in nats, in the data's own units, given the conditions they carry.

        Raises MissingCapability where the family has no likelihood or the codec is lossy.
        """
        engine = self.need(Scores, "say how likely an item is")
        if not isinstance(self.codec, Measures):
            raise MissingCapability("the codec of this data is lossy", why="A likelihood would be a guess.")
        kind: Literal["exact", "lower_bound", "estimate"] = "exact"
        values, errors = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0)]
        x_all, known, device = self.codec.encode(items), self.codec.known(items), device_of(self.engine)
        self.engine.eval()
        for i in range(0, len(x_all), batch):
            x, condition = x_all[i : i + batch], known.take(slice(i, i + batch))
            ids = torch.arange(i, i + len(x))
            rows = Rows(seed, ids)
            with torch.no_grad():
                y = self.bridge.there(x, rows.fork("bridge"))
                found = engine.log_prob(Batch(y, ids, condition).to(device), rows.fork("score").to(device))
                error = None if found.error is None else found.error.cpu()
                lifted = self.bridge.lift(LogProb(found.value.cpu(), found.kind, error), x, rows.fork("bridge"))
            values.append(lifted.value.double() + self.codec.log_volume(x).double())
            errors += [] if lifted.error is None else [lifted.error]
            kind = lifted.kind
        whole = len(errors) == len(values) and len(values) > 1
        return LogProb(torch.cat(values), kind, torch.cat(errors) if whole else None)

    def examples(self, items: Data) -> TensorExamples:
        """Items as encoded rows in the codec's space."""
        return TensorExamples(self.codec.encode(items), self.codec.known(items))

    def event(self, items: Data, rows: Rows) -> tuple[Tensor, Condition]:
        """Items as events of the engine's space, and the conditions they carry."""
        return self.bridge.there(self.codec.encode(items), rows), self.codec.known(items)

    def decode(self, y: Tensor, condition: Condition, rows: Rows) -> Data:
        """Events of the engine's space back to items."""
        items: Data = self.codec.decode(self.bridge.back(y, rows.fork("bridge")), condition, rows.fork("decode"))
        return items

    def describe(self) -> Described:
        """What this model is, what it was made from and what it can be asked."""
        return described(self.name, self.family, self.engine, self.codec, self.bridge, self.recipe)

    # ------------------------------------------------------------------ keeping

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the model as a run folder of JSON and safetensors files, the manifest last.

        Raises BadInput when the folder exists (`force` replaces a run, and only when the new one is whole).
        """
        if self.family is None:
            raise BadInput(
                f"'{self.name}' is an adopted model, which cannot be saved as a run",
                why="A run is read without executing anything in it, so only families of the catalogue come back.",
                next="Keep it with the library it came from, and adopt it again.",
            )
        folder = Path(folder)
        with claimed(folder, force):
            write_setup(self, folder)
            finish(self, folder)
        return folder


def adopt(
    engine: nn.Module, codec: Codec[Any], bridge: Bridge | None = None, *, name: str = "adopted", source: str = ""
) -> Fitted:
    """Make a `Fitted` of a module trained elsewhere, once a thin adapter lists its capabilities.

    Args:
        engine: an nn.Module that lists capabilities (Denoises, Samples, Predicts, ...) in its class line.
        codec: how items become events. bridge: from the codec's space to the engine's; none if they agree.
        source: where the module came from, for the record.

    Raises BadInput when the module lists no capability, or the bridge does not start where the codec ends.
    """
    if not isinstance(engine, nn.Module) or not offers(engine):
        raise BadInput(
            f"{type(engine).__name__} lists no capability",
            accepted=f"an nn.Module that inherits some of {', '.join(CAPABILITIES)}",
            next="Wrap it in a class that inherits the capabilities it has.",
        )
    bridge = bridge or Identity(codec.space)
    if bridge.source != codec.space:
        raise BadInput(f"the bridge starts from {bridge.source}", accepted=f"the codec's space, {codec.space}")
    return Fitted(None, engine.eval(), codec, bridge, {"family": name, "adopted": True, "source": source})


# ---------------------------------------------------------------------- on disk


def load(folder: str | Path) -> Fitted:
    """A model from its run folder. Nothing is executed; what does not fit is refused.

    Raises:
        BadInput: no finished run. BadBundle: one that is damaged, incomplete or not what a run is.
    """
    return from_bundle(open_bundle(Path(folder), leftovers=LEFTOVERS), weights=True)


def from_bundle(bundle: Bundle, *, weights: bool) -> Fitted:
    """A model from checked files. Their values may be a stranger's: each is read into the type it must have.

    Args:
        weights: False for a run that has not finished, which has none yet.
    """
    name = bundle.folder.resolve().name
    files = ("recipe.json", "codec.json", *(("source.json",) if bundle.has("source.json") else ()))
    found = {file: bundle.json(file) for file in files}
    tensors = bundle.tensors("codec.safetensors")
    stored = bundle.tensors("weights/engine.safetensors") if weights else None
    raw = bundle.tensors("weights/raw.safetensors") if weights and bundle.has("weights/raw.safetensors") else None
    ended = bundle.json("outcome.json") if weights and bundle.has("outcome.json") else {}
    try:
        check_sizes(found)
        recipe = from_plain(Recipe, found["recipe.json"])
        written = from_plain(StoredCodec, found["codec.json"])
        outcome = {k: v for k, v in to_plain(from_plain(Outcome, ended)).items() if v is not None}
        _check_prefixes(tensors)
        codec = codec_class(written.kind).from_plain(written.codec, _below(tensors, "codec."))
        family = from_plain(family_class(recipe.family), recipe.settings)
        bridge = _read_bridge(written.bridge, _below(tensors, "bridge."), recipe.through)
        _check_agreement(recipe, codec, bridge)
        model = Fitted(family, nn.Module(), codec, bridge, {**to_plain(recipe), **outcome})
        with bounded(stored):
            model.engine = build(model, None)
    except (BadBundle, MissingExtra):
        raise
    except BadInput as error:
        raise BadBundle(f"'{name}' holds values that do not fit", why=str(error)) from error
    except Exception as error:  # a stranger's values can fail anywhere, and none of them was executed
        raise BadBundle(f"'{name}' is not a run", why=fault(error)) from error
    if stored is not None:
        pour(model.engine, stored, name)
    if raw is not None:
        check_weights(model.engine.state_dict(), raw, name)
    model.engine.eval()
    model.raw, model.folder, model.source = raw, bundle.folder, found.get("source.json")
    return model


def _check_prefixes(tensors: Mapping[str, Tensor]) -> None:
    if strange := sorted(k for k in tensors if not k.startswith(("codec.", "bridge."))):
        raise BadInput(f"codec.safetensors holds {shown(strange[0])}", accepted="tensors of the codec and the bridge")


def _check_agreement(recipe: Recipe, codec: Codec[Any], bridge: Bridge) -> None:
    if bridge.source != codec.space:
        raise BadInput("the bridge does not start from the codec's space", accepted="parts of one run")
    if bridge.target != space_from_plain(recipe.space):
        raise BadInput("the codec and the bridge do not lead to the space of the recipe", accepted="parts of one run")
    if {k: space_to_plain(v) for k, v in codec.conditions.items()} != recipe.conditions:
        raise BadInput("the codec has other conditions than the recipe", accepted="parts of one run")
    if recipe.data is not None and recipe.data.kind != codec.kind:
        raise BadInput(f"the data is of kind {recipe.data.kind}, the codec of {codec.kind}", accepted="the same kind")


def build(model: Fitted, base: nn.Module | None) -> nn.Module:
    """A fresh engine for the model's spaces, its first weights drawn from the recipe's seed."""
    rows = Rows(model.recipe["seed"], torch.zeros(1, dtype=torch.int64)).fork("build")
    assert model.family is not None
    return model.family.build(model.bridge.target, model.codec.conditions, rows, base)


def _read_bridge(stored: StoredBridge, tensors: Mapping[str, Tensor], through: Through | None) -> Bridge:
    """A bridge from its name; a learned latent one gets its engine built again from the recipe it came `through`."""
    if stored.name == "chain":
        parts = [
            from_plain(StoredBridge, dict(zip(("name", "plain"), stored.plain[place], strict=True)))
            for place in ("first", "second")
        ]
        below = None if through is None or through.through is None else from_plain(Through, through.through)
        return Chain(
            _read_bridge(parts[0], _below(tensors, "first."), below),
            _read_bridge(parts[1], _below(tensors, "second."), through),
        )
    if stored.name == "latent":
        if through is None:
            raise BadInput("a latent bridge without the recipe of its engine", accepted="'through' in recipe.json")
        family = from_plain(family_class(through.family), through.settings)
        conditions = {k: space_from_plain(v) for k, v in through.conditions.items()}
        with bounded(tensors):
            rows = Rows(0, torch.zeros(1, dtype=torch.int64))
            engine = family.build(space_from_plain(through.space), conditions, rows)
        check_weights(engine.state_dict(), tensors, "the latent bridge")
        return rebuild(engine, stored.plain, tensors)
    kind: Any = bridge_class(stored.name)
    bridge: Bridge = kind.from_plain(stored.plain, tensors)
    return bridge


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def write_setup(model: Fitted, folder: Path, start: Mapping[str, Tensor] | None = None) -> None:
    """Everything a resumed run needs, before the first step.

    Args:
        start: the engine's first weights, when they do not follow from the recipe alone.
    """
    assert model.family is not None
    own = {"family": model.family.name, "settings": to_plain(model.family), "seed": 0}
    own |= {"space": space_to_plain(model.bridge.target)}
    own |= {"conditions": {k: space_to_plain(v) for k, v in model.codec.conditions.items()}}
    bridge = {"name": model.bridge.name, "plain": model.bridge.plain()}
    recipe = own | {k: v for k, v in model.recipe.items() if k not in OUTCOME}
    from_plain(Recipe, recipe)  # what could not be read again is not written
    write_json(folder / "recipe.json", recipe)
    write_json(folder / "codec.json", {"kind": model.codec.kind, "codec": model.codec.plain(), "bridge": bridge})
    tensors = {f"codec.{k}": v for k, v in model.codec.tensors().items()}
    tensors |= {f"bridge.{k}": v for k, v in model.bridge.tensors().items()}
    write_tensors(folder / "codec.safetensors", tensors)
    names = ["recipe.json", "codec.json", "codec.safetensors"]
    if model.source:
        write_json(folder / "source.json", dict(model.source))
        names.append("source.json")
    if start is not None:
        write_tensors(folder / "start.safetensors", start)
        names.append("start.safetensors")
    seal(folder, {"versions": versions()}, "resume.json", only=names)


def finish(model: Fitted, folder: Path) -> None:
    """Weights, then the manifest; only then what an unfinished run needed is removed.

    A run that is killed at any point here can be resumed: until the manifest is there nothing that `resume.json`
    lists has changed, and from then on only tidying up is left.
    """
    write_tensors(folder / "weights" / "engine.safetensors", state_of(model.engine))
    if model.raw is not None:
        write_tensors(folder / "weights" / "raw.safetensors", model.raw)
    write_json(folder / "outcome.json", {k: model.recipe[k] for k in OUTCOME if model.recipe.get(k) is not None})
    facts = {"versions": versions(), "data": model.recipe.get("data"), "seed": model.recipe.get("seed", 0)}
    seal(folder, facts, only=kept(folder))
    tidy(folder)


def versions() -> dict[str, str]:
    return {
        "pellucid": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
