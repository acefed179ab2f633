"""Which concepts does it use? Sparse features of one layer, named by the items that wake them.

A sparse autoencoder (see `sparse.py`) writes a layer's activations as sums of a few directions. Each is named by a
probe: the class, or the measured factor, that its activity tells best on one half of the items; the other half checks
the name. These are detectors: that a feature wakes for something does not make it a knob for it (steering by such
features is unreliable in diffusion models, arXiv:2606.31699).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, Encodes, How
from pellucid.core.errors import BadInput, MissingCapability, nearest
from pellucid.core.interval import Interval, bootstrap
from pellucid.core.report import Block, Data, Details, Heading, Json, Prose, Report, Table, Verdict
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.explain.factors import factors_for
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.redraw import told
from pellucid.explain.sorting import sorter_for
from pellucid.explain.sparse import SparseFeatures, learn_features, matched

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["Concept", "ConceptsReport", "activations", "concepts", "layers_of"]

Floats = NDArray[np.float64]
ITEMS = 800
NOISE = 0.5  # of the data's own size, under which a denoiser is asked
MOST_PLACES = 20_000  # activations that are learned from
SHOWN = 8
EXAMPLES = 8
MATCH = 0.9  # cosine from which on two seeds found the same feature


@dataclass(frozen=True)
class Concept:
    """A feature: its number, the probe that names it, and how well that probe is told from items it was not named on.

    auc: chance that an item with more of the probe wakes it more, on unseen items. wakes: share of items. here: how
    strongly it wakes for this sample, as a share of its strongest. examples: numbers of the items that wake it most.
    """

    number: int
    name: str
    auc: float
    wakes: float
    here: float
    examples: tuple[int, ...]


@dataclass(frozen=True)
class ConceptsReport(Report):
    """Features of a layer, those with the surest names first.

    explained: share of the activations' variance that they keep. dead: share that never wakes. twice: share that
    another seed finds again. shown: the top examples.
    """

    seed: int
    index: int
    layer: str
    concepts: tuple[Concept, ...]
    explained: float
    dead: float
    twice: float
    active: int
    shown: tuple[Block, ...]
    check: Faithfulness
    items: int
    seconds: float

    @property
    def title(self) -> str:
        return f"Concepts in {self.layer}"

    def blocks(self) -> tuple[Block, ...]:
        first = self.concepts[0]
        opening = (
            f"The surest feature wakes for **{first.name}**: on items it was not named on, one with more of it wakes "
            f"it more in {first.auc:.0%} of pairs. At one place {self.active} of {len(self.concepts)} may wake."
        )
        awake = [c for c in self.concepts if c.here > 0.5]
        if awake:
            opening += f" In this sample these wake most: {', '.join(dict.fromkeys(c.name for c in awake[:4]))}."
        out: list[Block] = [Prose(opening)]
        if not self.check.passed:
            out.insert(0, Verdict("fail", "The check of this explanation failed; what follows is not to be relied on."))
        out += [*self.shown, self._table(), Heading("Can this be trusted?", 3), *self.check.blocks()]
        out.append(Details("Method, cost and assumptions", (self._facts(), Prose(self._assumptions()))))
        out.append(Data(self._numbers(), "concepts"))
        return tuple(out)

    def _table(self) -> Table:
        rows = [(c.number, c.name, c.auc, f"{c.wakes:.0%}", f"{c.here:.0%}") for c in self.concepts[:20]]
        return Table(
            ("feature", "wakes for", "told on unseen items (AUC)", "wakes in so many items", "in this sample"), rows
        )

    def _facts(self) -> Table:
        rows = [
            ("method", "TopK sparse autoencoder; Gao et al. 2024, arXiv:2406.04093"),
            ("layer", self.layer),
            ("seed, sample", f"{self.seed}, {self.index}"),
            ("features, active at once", f"{len(self.concepts)}, {self.active}"),
            ("variance kept", f"{self.explained:.1%}"),
            ("dead features", f"{self.dead:.1%}"),
            ("found again by another seed", f"{self.twice:.1%} at a cosine of {MATCH}"),
            ("cost", f"{self.items} items, {self.seconds:.1f} s"),
        ]
        return Table(("", ""), rows)

    def _assumptions(self) -> str:
        return (
            "Names come from a short list: the classes that the judge knows and a few measured factors. A feature that "
            "wakes for something else gets the nearest of these, with a low figure. Features are detectors; turning "
            "them up need not bring what they wake for."
        )

    def _numbers(self) -> dict[str, Json]:
        found: list[Json] = [
            {"number": c.number, "name": c.name, "auc": c.auc, "wakes": c.wakes, "here": c.here} for c in self.concepts
        ]
        return {"layer": self.layer, "concepts": found, "explained": self.explained, "dead": self.dead,
                "found_again": self.twice, "faithful": self.check.passed}  # fmt: skip


def concepts(
    model: Fitted,
    *,
    data: Items | None = None,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    how: How | None = None,
    layer: str | None = None,
    features: int | None = None,
    active: int = 4,
    items: int = ITEMS,
    steps: int = 1000,
    run: Run | None = None,
) -> ConceptsReport:
    """Explain which concepts one layer uses.

    Args:
        model: one that denoises or encodes. data: the items it was fitted on; its own when None.
        seed, index, where, how: name the sample, as in `model.sample`.
        layer: name of a module of the engine; the deepest one of the network when None.
        features: 4 times the layer's width when None. active: of them at one place. items: real items that are read.
        steps: of learning.

    Raises:
        MissingCapability: the model neither denoises nor encodes. BadInput: no such layer, no data, too few items.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    if min(items, len(data)) < 100:
        raise BadInput(f"there are {min(items, len(data))} items", accepted="100 or more")
    some = data.take(np.random.default_rng(seed).permutation(len(data))[:items])
    layer = layer or layers_of(model)[0]
    a = activations(model, some, layer, seed)  # (N, P, C)
    subject = told(model, seed, index, where, how)
    own = activations(model, subject.items, layer, seed)
    half, flat = len(a) // 2, a.flatten(0, 1)
    pick = torch.from_numpy(np.random.default_rng(seed).permutation(half * a.shape[1])[:MOST_PLACES])
    count = min(features or 4 * a.shape[2], len(pick))
    learned = [learn_features(flat[pick], count, min(active, count), seed=s, steps=steps) for s in (seed, seed + 1)]
    if run is not None:
        run.go_on("the explanation was stopped")
    found = learned[0]
    strength = _strength(found, a)  # (N, F)
    probes, names = _probes(model, data, some, seed)
    chosen = _named(strength, probes, half)
    channels = a.abs().amax(1).double().numpy()
    plain = _named(channels, probes, half)
    peak = np.maximum(strength.max(axis=0), 1e-9)
    here = _strength(found, own)[0] / peak
    rank = np.argsort([-c[3] for c in chosen], kind="stable")
    made = []
    for k in rank.tolist():
        probe, sign, auc, _ = chosen[k]
        name = names[probe] if sign > 0 else f"little {names[probe]}"
        wakes, strongest = float((strength[:, k] > 0).mean()), np.argsort(-strength[:, k])[:EXAMPLES].tolist()
        made.append(Concept(k, name, auc, wakes, float(here[k]), tuple(strongest)))
    blocks: list[Block] = [Heading("What wakes the surest features", 3)]
    for c in made[:SHOWN]:
        blocks += [Prose(f"Feature {c.number}: **{c.name}**"), model.codec.show(some.take(list(c.examples)))]
    most = min(SHOWN, len(plain))
    scores, rivals = (np.array([c[2] for c in sorted(group, key=lambda c: -c[3])[:most]]) for group in (chosen, plain))
    return ConceptsReport(
        seed=seed,
        index=index,
        layer=layer,
        concepts=tuple(made),
        explained=found.explained(flat[half * a.shape[1] :]),
        dead=float((strength.max(axis=0) <= 0).mean()),
        twice=float((matched(found.write, learned[1].write) >= MATCH).mean()),
        active=min(active, count),
        shown=tuple(blocks),
        check=Faithfulness(
            f"The {most} surest features must tell what they are named after on unseen items, better than as many "
            "of the layer's own channels, named in the same way.",
            _mean_of(scores, seed),
            1.0,
            _mean_of(rivals, seed),
            "single channels",
            share=0.75,
        ),
        items=len(a),
        seconds=time.monotonic() - began,
    )


def layers_of(model: Fitted) -> tuple[str, ...]:
    """Layers that can be read, the deepest one of the network first.

    Raises:
        MissingCapability: the model neither denoises nor encodes.
    """
    if not isinstance(model.engine, Denoises | Encodes):
        raise MissingCapability(
            f"'{model.name}' reads no whole item at once",
            accepted="vae, vq, the flows and the families that denoise",
            why="Its layers are asked symbol by symbol.",
        )
    names = [name for name, module in model.engine.named_modules() if name and any(True for _ in module.parameters())]
    deep = ("network.net.after", "network.net.net.after", "encoder", "chain")
    first = [name for name in deep if name in names] or [n for n in names if n.endswith(("blocks.1", "body"))] or names
    return (first[0], *(n for n in names if n != first[0]))


@torch.no_grad()
def activations(model: Fitted, items: Items, layer: str, seed: int = 0) -> Tensor:
    """(N, P, C) what a layer puts out for each item, at each of P places; denoisers see items under half noise.

    Raises:
        BadInput: no such layer, or one that was not asked or gives no tensor.
    """
    known = layers_of(model)
    modules = dict(model.engine.named_modules())
    if layer not in modules:
        raise BadInput(f"layer is '{layer}'", accepted=", ".join(known[:8]), next=nearest(layer, known))
    engine: Any = model.engine.eval()
    x, _ = model.event(items, Rows(seed, torch.arange(len(items))).fork("concepts"))
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            kept.append(output.detach().float().cpu())

    handle = modules[layer].register_forward_hook(keep)
    device = next((p.device for p in engine.parameters()), torch.device("cpu"))
    try:
        for at in range(0, len(x), 128):
            part = x[at : at + 128].to(device)
            rows = Rows(seed, torch.arange(at, at + len(part), device=device)).fork("concepts noise")
            nothing = Condition.blank(model.codec.conditions, len(part), device)
            if isinstance(engine, Denoises):
                sigma = part.new_full((len(part),), NOISE)
                engine.denoise(part + NOISE * rows.normal(*part.shape[1:], dtype=part.dtype), sigma, nothing)
            else:
                engine.encode(part, nothing)
    finally:
        handle.remove()
    if not kept or sum(len(k) for k in kept) != len(x):
        raise BadInput(f"layer '{layer}' gives no one tensor an item", accepted=", ".join(known[:8]))
    a = torch.cat(kept)
    if a.ndim == 2:
        return a[:, None]
    return a.flatten(2).transpose(1, 2) if a.ndim == 4 else a


def _strength(found: SparseFeatures, a: Tensor) -> Floats:
    """(N, F): how strongly each feature wakes somewhere in each item of a (N, P, C)."""
    return found.active(a.flatten(0, 1)).reshape(a.shape[0], a.shape[1], -1).amax(1).double().numpy()


def _probes(model: Fitted, data: Items, some: Items, seed: int) -> tuple[list[Floats], list[str]]:
    """What a feature may be named after: (N,) numbers each, and their names."""
    factors = factors_for(data)
    probes = list(factors.measure(some).T)
    names = list(factors.names)
    sorter = sorter_for(model, data, seed=seed)
    if sorter.accuracy is not None:
        said = sorter.says(some)
        probes += [np.asarray(said == k, dtype=np.float64) for k in range(len(sorter.names))]
        names += [f"class {name}" for name in sorter.names]
    return probes, names


def _named(strength: Floats, probes: Sequence[Floats], half: int) -> list[tuple[int, int, float, float]]:
    """For each feature the probe and the sign that it tells best on the first half; its AUC on the second half, and
    on the first, by which features are ranked."""
    binary = [_more(p) for p in probes]
    out = []
    for column in strength.T:
        first = [_auc(column[:half], b[:half]) for b in binary]
        k = int(np.abs(np.array(first) - 0.5).argmax())
        sign = 1 if first[k] >= 0.5 else -1
        unseen = _auc(column[half:], binary[k][half:])
        out.append((k, sign, unseen if sign > 0 else 1.0 - unseen, abs(first[k] - 0.5) + 0.5))
    return out


def _more(probe: Floats) -> NDArray[np.bool_]:
    """Items with more of it than the middle one, where it is a number."""
    return np.asarray(np.nan_to_num(probe, nan=-np.inf) > np.nanmedian(probe), dtype=np.bool_)


def _auc(values: Floats, yes: NDArray[np.bool_]) -> float:
    """Chance that an item with it has the larger value; half where all are alike.

    >>> _auc(np.array([0.1, 0.9]), np.array([False, True]))
    1.0
    """
    n, m = int(yes.sum()), int((~yes).sum())
    if not n or not m:
        return 0.5
    return float((rankdata(values)[yes].sum() - n * (n + 1) / 2) / (n * m))


def _mean_of(values: Floats, seed: int) -> Interval:
    return bootstrap(lambda k: float(values[k].mean()), len(values), seed=seed)
