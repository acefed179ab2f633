"""A fitted model: codec, bridge and engine together with where they came from; sampling, saving, loading."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid import __version__
from pellucid.catalog import bridge_class, codec_class, families, family_class
from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.bundle import Bundle, open_bundle, seal, write_atomic, write_json
from pellucid.core.capabilities import (
    CAPABILITIES,
    Counts,
    Family,
    How,
    LogProb,
    Part,
    Samples,
    Scores,
    offers,
    parameters_of,
)
from pellucid.core.codec import Bridge, Chain, Codec, Identity, Measures
from pellucid.core.errors import BadBundle, BadInput, MissingCapability
from pellucid.core.report import Block, Heading, Prose, Report, Table
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.settings import from_plain
from pellucid.core.space import Space, space_from_plain, space_to_plain
from pellucid.core.trace import Silent, Trace
from pellucid.domains.bridges.latent import LatentBridge
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.write import write_items

__all__ = [
    "Described",
    "Draw",
    "Fitted",
    "adopt",
    "build",
    "check_free",
    "claim",
    "finish",
    "from_bundle",
    "load",
    "versions",
    "write_setup",
]

Data = Pictures | TableData
Where = Mapping[str, object]
CANDIDATES = 200  # rejection sampling gives up after this many candidates for each asked row (and 20,000 in all)


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples, and everything that made them.

    items: what the user sees. x: (B, *event) in the codec's space. condition: what was asked or drawn.
    ids: (B,) names of the samples: sample i depends on (model, seed, ids[i], condition, how) alone.
    route: how parts that were asked for were met ("condition", "rejection", ...).
    """

    items: Data
    x: Tensor
    condition: Condition
    ids: Tensor
    seed: int
    how: How
    route: str
    codec: Codec[Any]

    def __len__(self) -> int:
        return self.x.shape[0]

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the items; the ending decides the form (a folder, .npz, .png | .csv, .tsv, .parquet)."""
        return write_items(self.items, path, force=force)

    def report(self) -> Report:
        """The items as people look at them."""
        return _Shown(self)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


@dataclass(frozen=True)
class _Shown(Report):
    draw: Draw

    @property
    def title(self) -> str:
        return f"{len(self.draw)} samples, seed {self.draw.seed}"

    def blocks(self) -> tuple[Block, ...]:
        return (self.draw.codec.show(self.draw.items),)


@dataclass(eq=False)
class Fitted:
    """A model that can be asked: a codec for the user's items, a bridge to the engine's space, the engine.

    recipe: everything that was resolved when it was fitted, as JSON values.
    data: the items it was fitted on, when they are at hand (a loaded model does not carry them).
    """

    family: Family | None
    engine: nn.Module
    codec: Codec[Any]
    bridge: Bridge
    recipe: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Tensor] | None = None
    data: Data | None = None
    folder: Path | None = None

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
            how: the engine's settings, changed by `dataclasses.replace(model.how(), steps=50)`.
            trace: what to record; then all rows go in one batch.
        """
        engine = self.need(Samples, "draw samples")
        if ids is None:
            ids = torch.arange(_count(n))
        ids = torch.as_tensor(ids, dtype=torch.int64).reshape(-1)
        how, where, run = how or self.how(), dict(where or {}), run or Run()
        asked = {k: v for k, v in where.items() if k in self.codec.conditions}
        other = {k: v for k, v in where.items() if k not in asked}
        device = next((p.device for p in self.engine.parameters()), torch.device("cpu"))

        def draw(names: Tensor, offset: int) -> tuple[Tensor, Condition]:
            rows = Rows(seed, names)
            condition = self._condition(rows, {k: _part(v, offset, len(names)) for k, v in asked.items()})
            self.engine.eval()
            with torch.no_grad():
                y = engine.sample(rows.fork("sample").to(device), condition.to(device), how, trace or Silent())
            return self.bridge.back(y.cpu(), rows.fork("bridge")), condition

        def items_of(x: Tensor, condition: Condition, names: Tensor) -> Data:
            found: Data = self.codec.decode(x, condition, Rows(seed, names).fork("decode"))
            return found

        if other:
            return self._reject(draw, items_of, len(ids), seed, how, other, batch)
        step = len(ids) if trace is not None else batch
        parts = [draw(ids[i : i + step], i) for i in range(0, len(ids), max(1, step))]
        if not parts:
            parts = [draw(ids, 0)]
        x = torch.cat([p[0] for p in parts])
        condition = Condition.cat([p[1] for p in parts])
        route = "condition" if asked else "free"
        return Draw(items_of(x, condition, ids), x, condition, ids, seed, how, route, self.codec)

    def how(self) -> How:
        """The engine's own way to sample."""
        settings: How = self.need(Samples, "draw samples").settings()
        return settings

    def _condition(self, rows: Rows, asked: Where) -> Condition:
        condition = self.codec.prior(rows.fork("condition")) if self.codec.conditions else Condition()
        for name, value in asked.items():
            said = _said(self.codec, name, value, len(rows))
            condition = Condition(
                {**condition.values, name: said.values[name]}, {**condition.given, name: said.given[name]}
            )
        return condition

    def _reject(
        self,
        draw: Callable[[Tensor, int], tuple[Tensor, Condition]],
        items_of: Callable[[Tensor, Condition, Tensor], Data],
        n: int,
        seed: int,
        how: How,
        where: Where,
        batch: int,
    ) -> Draw:
        """Keep those candidates that meet the words: exact for every family, slow when they are rare."""
        for name, value in where.items():
            if isinstance(value, (list, tuple)):
                raise BadInput(
                    f"where['{name}'] is a list", accepted="one value, as this name is no condition of the model"
                )
        most, start, kept, found = max(20_000, CANDIDATES * n), 0, [], 0
        size = max(batch, 1000)
        while found < n:
            if start >= most:
                raise BadInput(
                    f"only {found} of {start:,} candidates met {_words(where)}",
                    why="The model makes such rows too rarely to wait for them.",
                    next=f"Ask for fewer rows, or fit with --target {next(iter(where))}.",
                )
            names = torch.arange(start, start + size)
            x, condition = draw(names, start)
            good = torch.from_numpy(np.flatnonzero(self.codec.meets(items_of(x, condition, names), where)))
            kept.append((x[good], condition.take(good), names[good]))
            found, start = found + len(good), start + size
        x, names = torch.cat([k[0] for k in kept])[:n], torch.cat([k[2] for k in kept])[:n]
        condition = Condition.cat([k[1] for k in kept]).take(slice(0, n))
        return Draw(items_of(x, condition, names), x, condition, names, seed, how, "rejection", self.codec)

    # ------------------------------------------------------------------ asking

    def log_prob(self, items: Data, *, seed: int = 0, batch: int = 500) -> LogProb:
        """Log-probability of items in nats, in the data's own units, given the conditions they carry.

        Raises MissingCapability where the family has no likelihood or the codec is lossy.
        """
        engine = self.need(Scores, "say how likely an item is")
        if not isinstance(self.codec, Measures):
            raise MissingCapability("the codec of this data is lossy", why="A likelihood would be a guess.")
        values, errors, kind = [], [], "exact"
        x_all, known = self.codec.encode(items), self.codec.known(items)
        self.engine.eval()
        for i in range(0, len(x_all), batch):
            x, condition = x_all[i : i + batch], known.take(slice(i, i + batch))
            ids = torch.arange(i, i + len(x))
            rows = Rows(seed, ids)
            with torch.no_grad():
                y = self.bridge.there(x, rows.fork("bridge"))
                found = engine.log_prob(Batch(y, ids, condition), rows.fork("score"))
                lifted = self.bridge.lift(found, x, rows.fork("bridge"))
            values.append(lifted.value.double() + self.codec.log_volume(x).double())
            errors.append(lifted.error)
            kind = lifted.kind
        error = torch.cat([e for e in errors if e is not None]) if all(e is not None for e in errors) else None
        return LogProb(torch.cat(values), kind, error)

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
        return _described(self)

    # ------------------------------------------------------------------ keeping

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the model as a run folder of JSON and safetensors files, the manifest last."""
        folder = Path(folder)
        claim(folder, force)
        write_setup(self, folder, source=None)
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

    Raises BadInput when the module lists no capability.
    """
    if not offers(engine):
        raise BadInput(
            f"{type(engine).__name__} lists no capability",
            accepted=", ".join(CAPABILITIES),
            next="Wrap it in a class that inherits the capabilities it has.",
        )
    return Fitted(
        None, engine, codec, bridge or Identity(codec.space), {"family": name, "adopted": True, "source": source}
    )


# ---------------------------------------------------------------------- on disk


def load(folder: str | Path) -> Fitted:
    """A model from its run folder. Nothing is executed; what does not fit is refused."""
    bundle = open_bundle(Path(folder))
    return from_bundle(bundle, weights=True)


def from_bundle(bundle: Bundle, *, weights: bool) -> Fitted:
    recipe = bundle.json("recipe.json")
    try:
        written = bundle.json("codec.json")
        tensors = bundle.tensors("codec.safetensors")
        codec = codec_class(written["kind"]).from_plain(written["codec"], _below(tensors, "codec."))
        family = from_plain(family_class(recipe["family"]), recipe["settings"])
        bridge = _read_bridge(written["bridge"], _below(tensors, "bridge."), recipe.get("through"))
        model = Fitted(family, nn.Module(), codec, bridge, recipe, folder=bundle.folder)
        if space_to_plain(bridge.target) != recipe["space"]:
            raise BadBundle(f"the codec of '{bundle.folder.name}' does not lead to the space its recipe names")
        model.engine = build(model, None)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadBundle(
            f"'{bundle.folder.name}' is not a complete run", why=f"{type(error).__name__}: {error}"
        ) from error
    except BadInput as error:
        raise BadBundle(f"'{bundle.folder.name}' holds settings that do not fit", why=str(error)) from error
    if weights:
        _pour(model.engine, bundle.tensors("weights/engine.safetensors"), bundle.folder.name)
        if bundle.has("weights/raw.safetensors"):
            model.raw = bundle.tensors("weights/raw.safetensors")
    model.engine.eval()
    return model


def build(model: Fitted, base: nn.Module | None) -> nn.Module:
    rows = Rows(model.recipe["seed"], torch.zeros(1, dtype=torch.int64)).fork("build")
    assert model.family is not None
    return model.family.build(model.bridge.target, model.codec.conditions, rows, base)


def _pour(engine: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    if isinstance(engine, Counts):
        try:
            engine.restore(weights)
        except (BadInput, KeyError, ValueError) as error:
            raise BadBundle(f"the counts of '{name}' do not fit its family", why=str(error)) from error
        return
    own = engine.state_dict()
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))
        raise BadBundle(
            f"the weights of '{name}' do not fit its family", why=f"{len(odd)} names differ, the first '{odd[0]}'."
        )
    for key, tensor in own.items():
        if tensor.shape != weights[key].shape or tensor.dtype != weights[key].dtype:
            raise BadBundle(
                f"weight '{key}' of '{name}' is {weights[key].dtype} {tuple(weights[key].shape)}",
                accepted=f"{tensor.dtype} {tuple(tensor.shape)}",
            )
    engine.load_state_dict(weights)


def _written_bridge(bridge: Bridge) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"name": bridge.name, "plain": bridge.plain()}, bridge.tensors()


def _read_bridge(
    written: Mapping[str, Any], tensors: Mapping[str, Tensor], through: Mapping[str, Any] | None
) -> Bridge:
    """A bridge from its name; a learned latent one gets its engine rebuilt from the recipe it came `through`."""
    name, plain = written["name"], written["plain"]
    if name == "chain":
        first, second = ({"name": plain[k][0], "plain": plain[k][1]} for k in ("first", "second"))
        return Chain(
            _read_bridge(first, _below(tensors, "first."), through),
            _read_bridge(second, _below(tensors, "second."), through),
        )
    if name == "latent":
        if through is None:
            raise BadInput("a latent bridge without the recipe of its engine", accepted="'through' in recipe.json")
        family = from_plain(family_class(through["family"]), through["settings"])
        source = space_from_plain(through["space"])
        conditions = {k: space_from_plain(v) for k, v in through["conditions"].items()}
        engine: Any = family.build(source, conditions, Rows(0, torch.zeros(1, dtype=torch.int64)))
        _pour(engine, dict(tensors), "the latent bridge")
        return LatentBridge(engine, source)
    kind: Any = bridge_class(name)
    bridge: Bridge = kind.from_plain(plain, tensors)
    return bridge


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def write_setup(model: Fitted, folder: Path, source: Mapping[str, Any] | None) -> None:
    """Everything a resumed run needs, before the first step."""
    from safetensors.torch import save

    bridge, bridge_tensors = _written_bridge(model.bridge)
    write_json(folder / "recipe.json", model.recipe)
    write_json(folder / "codec.json", {"kind": model.codec.kind, "codec": model.codec.plain(), "bridge": bridge})
    tensors = {f"codec.{k}": v for k, v in model.codec.tensors().items()}
    tensors |= {f"bridge.{k}": v for k, v in bridge_tensors.items()}
    write_atomic(folder / "codec.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
    names = ["recipe.json", "codec.json", "codec.safetensors"]
    if source:
        write_json(folder / "source.json", dict(source))
        names.append("source.json")
    seal(folder, {"versions": versions()}, "resume.json", only=names)


def finish(model: Fitted, folder: Path) -> None:
    """Weights, then the manifest; only then what an unfinished run needed is removed."""
    from safetensors.torch import save

    engine = model.engine
    state = engine.tables() if isinstance(engine, Counts) else engine.state_dict()
    plain = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    write_atomic(folder / "weights" / "engine.safetensors", save(plain))
    if model.raw is not None:
        write_atomic(
            folder / "weights" / "raw.safetensors", save({k: v.cpu().contiguous() for k, v in model.raw.items()})
        )
    write_json(folder / "recipe.json", model.recipe)
    ours = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    ours = [n for n in ours if not n.startswith("checkpoints/") and n not in ("resume.json", "manifest.json")]
    seal(
        folder, {"versions": versions(), "data": model.recipe.get("data"), "seed": model.recipe.get("seed")}, only=ours
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "resume.json").unlink(missing_ok=True)


def versions() -> dict[str, str]:
    return {
        "pellucid": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def check_free(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"'{out}' is a file", accepted="a new folder")
    if not any(out.iterdir()):
        return
    ours = (out / "manifest.json").is_file() or (out / "resume.json").is_file()
    if not force:
        step = f"Resume it with `pellucid fit --resume {out}`, choose" if (out / "resume.json").is_file() else "Choose"
        raise BadInput(
            f"the folder '{out}' exists already", next=f"{step} another folder, or add --force to replace it."
        )
    if not ours:
        raise BadInput(f"'{out}' is not a run folder", why="--force replaces runs only.", next="Choose another folder.")


def claim(out: Path, force: bool) -> None:
    check_free(out, force)
    if out.is_dir():
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise BadInput(
            f"the folder '{out}' cannot be made ({error.strerror})", next="Choose another folder."
        ) from error


def _count(n: int | None) -> int:
    if n is None or n < 0:
        raise BadInput(f"n is {n}", accepted="a whole number of at least 0")
    return n


def _part(value: object, offset: int, size: int) -> object:
    return value[offset : offset + size] if isinstance(value, (list, tuple)) else value


def _said(codec: Codec[Any], name: str, value: object, rows: int) -> Condition:
    """One value for all rows, or a list with one value a row."""
    if not isinstance(value, (list, tuple)):
        return codec.asked({name: value}, rows)
    if len(value) != rows:
        raise BadInput(f"where['{name}'] lists {len(value)} values", accepted=f"one value, or {rows}")
    each = {v: codec.asked({name: v}, 1) for v in dict.fromkeys(value)}
    return Condition.cat([each[v] for v in value]) if value else codec.asked({}, 0).nothing(0)


def _words(where: Where) -> str:
    return ", ".join(f"{k}={v}" for k, v in where.items())


@dataclass(frozen=True)
class Described(Report):
    """What a model is: its parts, its size, what it was fitted on and what it can be asked."""

    family: str
    heading: str
    parameters: int
    offers: tuple[str, ...]
    parts: tuple[Part, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return self.heading

    def blocks(self) -> tuple[Block, ...]:
        parts = tuple((p.name, p.sentence, p.formula) for p in self.parts)
        lacking = [c for c in CAPABILITIES if c not in self.offers]
        return (
            Table(columns=("", ""), rows=self.facts),
            Heading("Its parts"),
            Table(columns=("part", "what it does", "formula"), rows=parts),
            Heading("What it can be asked"),
            Prose(f"It offers {', '.join(self.offers)}. It does not offer {', '.join(lacking)}."),
        )


def _described(model: Fitted) -> Described:
    recipe, family = model.recipe, model.family
    data = recipe.get("data", {})
    facts = [
        ("family", f"{family.title} ({family.name})" if family is not None else model.name),
        ("learned numbers", f"{parameters_of(model.engine):,}"),
        (
            "fitted on",
            f"{data.get('items', '?'):,} items of kind {data.get('kind')} ({data.get('source')})"
            if data
            else "unknown",
        ),
        ("conditions", ", ".join(model.codec.conditions) or "none"),
        ("space", _space_words(model.codec.space)),
        ("bridge", f"{model.bridge.name} to {_space_words(model.bridge.target)}"),
        ("steps", f"{recipe['steps_done']:,}" if "steps_done" in recipe else "-"),
        ("training took", f"{recipe['seconds']} s" if "seconds" in recipe else "-"),
        ("seed", str(recipe.get("seed", "-"))),
        ("settings", json.dumps(recipe.get("settings", {}))),
    ]
    parts = family.parts() if family is not None else ()
    name = family.title if family is not None else model.name
    return Described(model.name, f"A {name} model", parameters_of(model.engine), model.offers(), parts, tuple(facts))


def _space_words(space: Space) -> str:
    plain = space_to_plain(space)
    if plain["space"] == "Mixed":
        return f"Mixed of {len(plain['fields'])} fields, {space.size} numbers"
    return f"{plain['space']} {'x'.join(map(str, space.shape))}" + (
        f", {plain['levels']} levels" if plain.get("levels") else ""
    )
