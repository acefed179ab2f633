"""A fitted model: codec, bridge and engine together with where they came from; sampling, saving, loading."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from pellucid.core.codec import Bridge, Chain, Codec, Identity, Measures, Remarks
from pellucid.core.described_model import Described, described
from pellucid.core.errors import BadBundle, BadInput, MissingCapability, MissingExtra, Stopped, fault, shown
from pellucid.core.recipe import OUTCOME, Outcome, Recipe, StoredBridge, StoredCodec, Through, check_sizes
from pellucid.core.report import Block, Report, Verdict
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed, Progress, Run
from pellucid.core.run_folder import LEFTOVERS, claimed, kept, tidy
from pellucid.core.settings import from_plain, to_plain
from pellucid.core.space import space_from_plain, space_to_plain, zeros
from pellucid.core.trace import Silent, Trace
from pellucid.core.weights import bounded, check_weights, pour, state_of, write_tensors
from pellucid.domains.bridges.latent import rebuild
from pellucid.domains.kinds import Data
from pellucid.domains.write import write_items

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

Where = Mapping[str, object]
Said = tuple[Where, Where]  # what items shall be, and what they shall be unlike
CANDIDATES = 200  # rejection sampling gives up after this many candidates for each asked row (and 20,000 in all)


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples, and everything that made them.

    items: what the user sees. x: (B, *event) in the codec's space. condition: what was asked or drawn.
    ids: (B,) names of the samples: sample i depends on (model, seed, ids[i], condition, how) alone.
    route: how parts that were asked for were met ("condition", "rejection", ...). against: what they were to be unlike.
    notices: what was taken only in part, such as words of a caption that were never seen in training.
    """

    items: Data
    x: Tensor
    condition: Condition
    ids: Tensor
    seed: int
    how: How
    route: str
    codec: Codec[Any]
    notices: tuple[Noticed, ...] = ()
    against: Where = field(default_factory=dict)

    def __len__(self) -> int:
        return self.x.shape[0]

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the items; the ending decides the form (a folder, .npz, .png | .csv, .tsv, .parquet | .txt)."""
        return write_items(self.items, path, force=force)

    def report(self) -> Report:
        """The items as people look at them."""
        return Shown(self)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


@dataclass(frozen=True)
class Shown(Report):
    """The items of a draw, as people look at them."""

    draw: Draw

    @property
    def title(self) -> str:
        return f"{len(self.draw)} samples, seed {self.draw.seed}"

    def blocks(self) -> tuple[Block, ...]:
        said = tuple(Verdict("note", notice.text) for notice in self.draw.notices)
        return (*said, self.draw.codec.show(self.draw.items))


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
                a row. Names the model was conditioned on are conditions; other columns are met by rejection,
                which is exact.
            against: what they shall be unlike, in conditions of the model; guidance says how much.
            how: the engine's settings, changed by `dataclasses.replace(model.how(), steps=50)`.
            trace: what to record; then all rows go in one batch.
        """
        self.need(Samples, "draw samples")
        names, run = _names(n, ids), run or Run()
        if batch < 1:
            raise BadInput(f"batch is {batch}", accepted="a whole number of at least 1")
        how = self._checked(how)
        words, unlike = _listed("where", where, len(names)), _listed("against", against, len(names))
        if unlike and not hasattr(how, "against"):
            raise MissingCapability(f"'{self.name}' cannot draw against something", accepted="diffusion, edm, ddpm")
        asked = {k: v for k, v in words.items() if k in self.codec.conditions}
        other = {k: v for k, v in words.items() if k not in asked}
        remarks = (*self.codec.remarks(asked), *self.codec.remarks(unlike)) if isinstance(self.codec, Remarks) else ()
        for notice in remarks:
            run.emit(notice)
        if other:
            if ids is not None:
                raise BadInput(
                    f"ids were given together with where {_words(other)}",
                    accepted="one of them",
                    why="This name is no condition of the model, so rows are drawn until enough meet it.",
                )
            found = self._reject(len(names), seed, (asked, unlike), other, how, batch, run)
            return replace(found, notices=remarks, against=unlike)
        step = batch if trace is None else max(1, len(names))
        parts = [self._none()]
        for i in range(0, len(names), step):
            _go_on(run, i, len(names), tell=len(names) > step)
            rows = Rows(seed, names[i : i + step])
            said, away = ({k: _part(v, i, step) for k, v in part.items()} for part in (asked, unlike))
            parts.append(self._draw(rows, (said, away), how, trace or Silent()))
        _go_on(run, len(names), len(names), tell=len(names) > step)
        x, condition = torch.cat([p[0] for p in parts]), Condition.cat([p[1] for p in parts])
        route = "condition" if asked else "free"
        items = self._items(x, condition, names, seed)
        return Draw(items, x, condition, names, seed, how, route, self.codec, remarks, unlike)

    def how(self) -> How:
        """The engine's own way to sample."""
        settings: How = self.need(Samples, "draw samples").settings()
        return settings

    def _condition(self, rows: Rows, asked: Where) -> Condition:
        condition = self.codec.prior(rows.fork("condition")) if self.codec.conditions else Condition()
        # a class that was drawn for itself would contradict a caption that was asked for: what is not said is left out
        condition = condition.nothing() if asked else condition
        for name, value in asked.items():
            said = _said(self.codec, name, value, len(rows))
            condition = Condition(
                {**condition.values, name: said.values[name]}, {**condition.given, name: said.given[name]}
            )
        for name, value in condition.values.items():
            if value.is_floating_point() and not bool(torch.isfinite(value[condition.given[name]]).all()):
                raise BadInput(f"condition '{name}' holds NaN or an infinite number", accepted="finite numbers")
        return condition

    def _checked(self, how: How | None) -> How:
        own = self.how()
        if how is not None and not isinstance(how, type(own)):
            raise BadInput(
                f"how is a {type(how).__name__}",
                accepted=f"a {type(own).__name__}",
                next="Change what model.how() gives, with dataclasses.replace.",
            )
        return own if how is None else how

    def _draw(self, rows: Rows, said: Said, how: How, trace: Trace) -> tuple[Tensor, Condition]:
        """Events in the codec's space, and the conditions they were drawn for."""
        condition = self._condition(rows, said[0])
        if said[1]:
            how = replace(how, against=self._condition(rows, said[1]))  # type: ignore[call-arg]
        engine, device = self.need(Samples, "draw samples"), _device_of(self.engine)
        self.engine.eval()
        with torch.no_grad():
            y = engine.sample(rows.fork("sample").to(device), condition.to(device), how, trace)
            return self.bridge.back(y.cpu(), rows.fork("bridge")), condition

    def _none(self) -> tuple[Tensor, Condition]:
        """No rows."""
        return zeros(self.codec.space, 0), Condition.blank(self.codec.conditions, 0)

    def _items(self, x: Tensor, condition: Condition, names: Tensor, seed: int) -> Data:
        found: Data = self.codec.decode(x, condition, Rows(seed, names).fork("decode"))
        return found

    def _reject(self, n: int, seed: int, said: Said, where: Where, how: How, batch: int, run: Run) -> Draw:
        """Keep those candidates that meet the words: exact for every family, slow when they are rare.

        Candidate i is the sample of id i, so the rows kept depend neither on n nor on the batch.
        """
        for name, value in {**said[1], **said[0], **where}.items():
            if isinstance(value, (list, tuple)):
                raise BadInput(
                    f"{'where' if name in {**said[0], **where} else 'against'}['{name}'] is a list",
                    accepted="one value",
                    why=f"{', '.join(where)} is no condition of the model, so rows are drawn until enough meet it.",
                )
        none = torch.arange(0)
        self.codec.meets(self._items(*self._none(), none, seed), where)  # refuses wrong words before any work
        most, start, kept, found = max(20_000, CANDIDATES * n), 0, [(*self._none(), none)], 0
        while found < n:
            if start >= most:
                raise BadInput(
                    f"only {found} of {start:,} candidates met {_words(where)}",
                    why="The model makes such rows too rarely to wait for them.",
                    next=f"Ask for fewer rows, or fit with --target {next(iter(where))}.",
                )
            _go_on(run, found, n, tell=start > 0)
            names = torch.arange(start, min(start + batch, most))
            x, condition = self._draw(Rows(seed, names), said, how, Silent())
            good = torch.from_numpy(np.flatnonzero(self.codec.meets(self._items(x, condition, names, seed), where)))
            kept.append((x[good], condition.take(good), names[good]))
            found, start = found + len(good), start + len(names)
        _go_on(run, n, n, tell=start > batch)
        x, names = torch.cat([k[0] for k in kept])[:n], torch.cat([k[2] for k in kept])[:n]
        condition = Condition.cat([k[1] for k in kept]).take(slice(0, n))
        return Draw(self._items(x, condition, names, seed), x, condition, names, seed, how, "rejection", self.codec)

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
        x_all, known, device = self.codec.encode(items), self.codec.known(items), _device_of(self.engine)
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


def _names(n: int | None, ids: Tensor | Sequence[int] | None) -> Tensor:
    """(B,) int64 names of the samples."""
    if ids is None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise BadInput(f"n is {shown(n)}", accepted="a whole number of at least 0")
        return torch.arange(int(n))
    names = torch.as_tensor(ids)
    if names.dtype.is_floating_point and len(names):
        raise BadInput(f"ids are {names.dtype}", accepted="whole numbers")
    names = names.to(torch.int64).reshape(-1)
    if n is not None and n != len(names):
        raise BadInput(f"n is {n} but there are {len(names)} ids", accepted="one of the two, or equal numbers")
    return names


def _device_of(engine: nn.Module) -> torch.device:
    return next((p.device for p in engine.parameters()), torch.device("cpu"))


def _go_on(run: Run, done: int, total: int, tell: bool) -> None:
    """Stop if asked to; tell how far sampling is, when that takes more than a moment."""
    if run.stopping():
        error = Stopped(f"sampling stopped after {done} of {total} samples", next="Nothing was written.")
        vars(error)["exit_code"] = run.stop_code()
        raise error
    left = run.seconds() / done * (total - done) if done else math.nan
    if tell:
        run.emit(Progress(stage="sample", done=done, total=total, seconds_left=left))


def _listed(option: str, said: Where | None, rows: int) -> dict[str, Any]:
    """The words, each one value or a list of as many as there are rows."""
    words = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in (said or {}).items()}
    for name, value in words.items():
        if isinstance(value, (list, tuple)) and len(value) != rows:
            raise BadInput(f"{option}['{name}'] lists {len(value)} values", accepted=f"one value, or {rows}")
    return words


def _part(value: object, offset: int, size: int) -> object:
    return value[offset : offset + size] if isinstance(value, (list, tuple)) else value


def _said(codec: Codec[Any], name: str, value: object, rows: int) -> Condition:
    """One value for all rows, or a list with one value a row."""
    if not isinstance(value, (list, tuple)):
        return codec.asked({name: value}, rows)
    each = {v: codec.asked({name: v}, 1) for v in dict.fromkeys(value)}
    return Condition.cat([each[v] for v in value]) if value else codec.asked({}, 0).nothing(0)


def _words(where: Where) -> str:
    return ", ".join(f"{k}={v}" for k, v in where.items())
