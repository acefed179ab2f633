"""How likely are these items, to this model? In nats and bits, for each symbol where there are symbols.

Of a running text two values are given. In blocks: the text is cut into consecutive windows of the model's own length,
and each is scored from nothing, as the model samples. Sliding: every symbol is scored with at least half a window of
what came before it, as somebody who reads on would. An n-gram whose order fits into half a window then sees all it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Blends, Scores, Spells
from pellucid.core.codec import Identity, Measures
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Block, Measured, Prose, Report, Table, Verdict
from pellucid.core.rows import Rows
from pellucid.domains.kinds import Data
from pellucid.domains.pieces import visible
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import TextCodec
from pellucid.model import Fitted

__all__ = ["Likelihood", "Surprise", "likelihood"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

AT_ONCE = 2**16  # symbols scored at once
LEFT = 40  # characters shown before a surprising piece
SURPRISES = 8
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Surprise:
    """A piece that cost much: what came before it, the piece, and its bits."""

    before: str
    piece: str
    bits: float


@dataclass(frozen=True, kw_only=True)
class Likelihood(Report):
    """How likely some items are to a model.

    Args:
        route: how it was found: "spelled" (symbol by symbol) or "scored" (whole items).
        kind: "exact", "lower_bound" or "estimate", of the log-probability.
        items, symbols: how many were scored; of what is no text, numbers take the place of symbols.
        unit: what a symbol is.
        nats: log p of everything together; of a running text, sliding.
        nats_per_symbol, bits_per_symbol, perplexity: what one symbol costs; of a running text, sliding.
        low, high: 95% interval of bits_per_symbol over windows or items; None where there is one only.
        blocks_nats_per_symbol: of a running text in blocks, else None.
        bits_per_character: of texts, so that characters, bytes and words compare.
        unlearned: pieces that the model never learned, and how often each came; they cost what the unknown symbol does.
        nats_per_learned_symbol: without them.
        surprises: the dearest pieces.
        parts: of a model that is a blend, what each part added to the log-probability of a symbol over an even chance,
            in nats on average and in blocks; () for others.
    """

    route: Literal["spelled", "scored"]
    kind: str
    source: str
    items: int
    symbols: int
    unit: str
    nats: float
    nats_per_symbol: float
    low: float | None = None
    high: float | None = None
    blocks_nats_per_symbol: float | None = None
    bits_per_character: float | None = None
    unlearned: tuple[tuple[str, int], ...] = ()
    nats_per_learned_symbol: float | None = None
    surprises: tuple[Surprise, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()

    @property
    def title(self) -> str:
        return f"Likelihood of {self.source}"

    @property
    def bits_per_symbol(self) -> float:
        return self.nats_per_symbol / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_symbol)

    def headline(self) -> dict[str, object]:
        """The figures as JSON values."""
        out = {name: value for name, value in vars(self).items() if name not in ("surprises", "unlearned", "parts")}
        out |= {"bits_per_symbol": self.bits_per_symbol, "perplexity": self.perplexity}
        out["parts"] = dict(self.parts) or None
        out["unlearned"] = sum(count for _, count in self.unlearned)
        return {name: value for name, value in out.items() if value is not None}

    def blocks(self) -> tuple[Block, ...]:
        kind = "upper_bound" if self.kind == "lower_bound" else self.kind  # of -log p
        bits = Measured(self.bits_per_symbol, self.low, self.high, n=self.items, unit=f"bits/{self.unit}", kind=kind)
        rows: list[tuple[str, Measured | float | int | str]] = [
            (f"{self.unit}s scored", self.symbols),
            ("log-probability of all", Measured(self.nats, unit="nats", kind=self.kind)),
            (f"for each {self.unit}", bits),
            ("", Measured(self.nats_per_symbol, unit=f"nats/{self.unit}", kind=kind)),
            ("perplexity", Measured(self.perplexity, kind=kind)),
        ]
        if self.blocks_nats_per_symbol is not None:
            rows.append(("the same in blocks", Measured(self.blocks_nats_per_symbol, unit=f"nats/{self.unit}")))
        if self.bits_per_character is not None:
            rows.append(("for each character", Measured(self.bits_per_character, unit="bits/character", kind=kind)))
        if self.nats_per_learned_symbol is not None:
            rows.append(("without what was never learned", Measured(self.nats_per_learned_symbol, unit="nats")))
        said: list[Block] = [Prose(f"Found {self.route}: {_ROUTES[self.route]}"), Table(("", ""), rows)]
        if self.parts:
            shares = [(name, Measured(nats, unit=f"nats/{self.unit}")) for name, nats in self.parts]
            said.append(Table(("part of the model", "added"), shares,
                              caption="What each part adds to a symbol over an even chance, in blocks"))  # fmt: skip
        if self.unlearned:
            named = ", ".join(f"{piece!r}" for piece, _ in self.unlearned[:5])
            count = sum(count for _, count in self.unlearned)
            said.append(Verdict("note", f"{count:,} pieces were never learned, as {named}; each cost what the unknown "
                                        "symbol costs."))  # fmt: skip
        if self.surprises:
            listed = [(s.before, s.piece, Measured(s.bits, unit="bits")) for s in self.surprises]
            said.append(Table(("after", "came", "cost"), listed, caption="What surprised the model most"))
        return tuple(said)


_ROUTES = {
    "spelled": "the cost of each symbol, given those before it.",
    "scored": "the log-probability of whole items.",
}


def likelihood(model: Fitted, items: Data, *, seed: int = 0) -> Likelihood:
    """The log-probability of items, by the best route the model offers.

    Routes, in order: symbol by symbol (`Spells`, of a text as the model's own symbols), whole items (`Scores`).

    Raises:
        MissingCapability: the model has no likelihood. BadInput: no items, or items of another kind.
    """
    if not len(items):
        raise BadInput("there is nothing to score", accepted="at least one item")
    for able, route in _TABLE:
        if able(model, items):
            return route(model, items, seed)
    model.need(Scores, "say how likely an item is")
    raise MissingCapability("the codec of this data is lossy", why="A likelihood would be a guess.")


def _spells(model: Fitted, items: Data) -> bool:
    text = isinstance(items, TextData) and isinstance(model.codec, TextCodec)
    return text and isinstance(model.engine, Spells) and isinstance(model.bridge, Identity)


def _scores(model: Fitted, items: Data) -> bool:
    return isinstance(model.engine, Scores) and isinstance(model.codec, Measures)


def _spelled(model: Fitted, items: Data, seed: int) -> Likelihood:
    assert isinstance(items, TextData)
    assert isinstance(model.codec, TextCodec)
    codec, text = model.codec, items.whole()
    symbols = codec.symbols(text).astype(np.int64)
    in_blocks: float | None = None
    shared: tuple[tuple[str, float], ...] = ()
    if codec.form == "running":
        at = np.concatenate([np.arange(s, s + n) for s, n in zip(text.starts, text.lengths, strict=True)])
        own = symbols[at]
        size = codec.space.length
        in_blocks = float(_of_windows(model, own, size, seed).sum()) / len(own)
        shared = _parts(model, own, size, seed)
        each = _of_windows(model, own, max(1, size // 2), seed)
        parts = [each[k : k + size] for k in range(0, len(each), size)]
    else:
        x = codec.encode(items).numpy()
        costs = _spell(model, x, seed)
        ended = np.concatenate((np.zeros((len(x), 1), bool), np.cumsum(x == 0, axis=1)[:, :-1] > 0), axis=1)
        parts = [row[~gone] for row, gone in zip(costs, ended, strict=True)]
        each, own = np.concatenate(parts), x[~ended]
        at = None
    learned = each if codec.unknown is None else each[own != codec.unknown]
    unlearned = codec.unlearned(text)
    bits = np.array([-part.sum() / math.log(2) for part in parts])
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    middle, spread = _ratio(bits, sizes)
    characters = sum(len(s) for s in text.texts()) + (len(items) if codec.form == "lines" else 0)
    return Likelihood(
        route="spelled",
        kind="exact",
        source=items.source,
        items=len(parts),
        symbols=len(each),
        unit=codec.unit.removesuffix("s"),
        nats=float(each.sum()),
        nats_per_symbol=-float(each.mean()),
        low=None if spread is None else middle - spread,
        high=None if spread is None else middle + spread,
        blocks_nats_per_symbol=None if in_blocks is None else -in_blocks,
        bits_per_character=-float(each.sum()) / math.log(2) / max(1, characters),
        unlearned=tuple(unlearned.items()),
        nats_per_learned_symbol=-float(learned.mean()) if unlearned and len(learned) else None,
        surprises=() if at is None else _surprises(text, at, each),
        parts=shared,
    )


def _scored(model: Fitted, items: Data, seed: int) -> Likelihood:
    assert isinstance(model.codec, Measures)
    found = model.log_prob(items, seed=seed)
    value = found.value.double().numpy()
    if not np.isfinite(value).all():
        raise BadInput(f"{int((~np.isfinite(value)).sum()):,} items have probability zero", why="no mean exists")
    bits, sizes = -value / math.log(2), np.full(len(value), float(model.codec.dimensions()))
    if isinstance(items, TextData) and items.form == "lines":
        sizes = items.lengths + 1.0  # the end is one more
    middle, spread = _ratio(bits, sizes)
    return Likelihood(
        route="scored",
        kind=found.kind,
        source=items.source,
        items=len(items),
        symbols=int(sizes.sum()),
        unit="symbol" if isinstance(items, TextData) else "number",
        nats=float(value.sum()),
        nats_per_symbol=-float(value.sum() / sizes.sum()),
        low=None if spread is None else middle - spread,
        high=None if spread is None else middle + spread,
    )


_TABLE: tuple[tuple[Callable[[Fitted, Data], bool], Callable[[Fitted, Data, int], Likelihood]], ...] = (
    (_spells, _spelled),
    (_scores, _scored),
)


def _of_windows(model: Fitted, symbols: Whole, stride: int, seed: int) -> Floats:
    """(n,) log-probabilities of a text's symbols: windows start every `stride` symbols and each scores its last ones.

    What a window ends with, its last `stride` symbols, has the rest of the window before it; the first scores all.
    """
    size = model.codec.space.size
    first = [0, *range(stride, max(stride, len(symbols) - size + stride), stride)]
    padded = np.concatenate((symbols, np.zeros(size, np.int64)))  # what comes after a symbol does not change its cost
    out = np.empty(len(symbols))
    step, done = max(1, AT_ONCE // size), 0
    for k in range(0, len(first), step):
        starts = np.array(first[k : k + step])
        costs = _spell(model, padded[starts[:, None] + np.arange(size)], seed)
        for start, row in zip(starts.tolist(), costs, strict=True):
            stop = min(start + size, len(symbols))
            out[done:stop] = row[done - start : stop - start]
            done = stop
    return out


def _parts(model: Fitted, symbols: Whole, size: int, seed: int) -> tuple[tuple[str, float], ...]:
    """Mean nats that each part adds to a symbol, in the blocks that are whole; () for a model of one part."""
    if not isinstance(model.engine, Blends) or len(symbols) < size:
        return ()
    x = torch.from_numpy(symbols[: len(symbols) // size * size].reshape(-1, size))
    device = next((p.device for p in model.engine.parameters()), None)
    sums: dict[str, float] = {}
    for rows in x.split(max(1, AT_ONCE // size)):
        ids = torch.arange(len(rows))
        batch = Batch(rows, ids)
        with torch.no_grad():
            found = model.engine.blend(batch if device is None else batch.to(device), Rows(seed, ids))
        for name, nats in found.items():
            sums[name] = sums.get(name, 0.0) + float(nats.double().sum())
    return tuple((name, total / x.numel()) for name, total in sums.items()) if len(sums) > 1 else ()


def _spell(model: Fitted, x: Whole, seed: int) -> Floats:
    """(B, T) of x (B, T)."""
    engine, device = model.need(Spells, "spell"), next((p.device for p in model.engine.parameters()), None)
    model.engine.eval()
    found = []
    step = max(1, AT_ONCE // x.shape[1])
    for k in range(0, len(x), step):
        ids = torch.arange(k, min(k + step, len(x)))
        batch = Batch(torch.from_numpy(x[k : k + step]), ids)
        with torch.no_grad():
            costs = engine.spell(batch if device is None else batch.to(device), Rows(seed, ids))
        found.append(costs.double().cpu().numpy())
    return np.concatenate(found)


def _ratio(bits: Floats, sizes: Floats) -> tuple[float, float | None]:
    """Bits a symbol over parts of different sizes, and half the width of its 95% interval: the ratio estimator's."""
    middle = float(bits.sum() / sizes.sum())
    if len(bits) < 2:
        return middle, None
    off = bits - middle * sizes
    return middle, Z95 * float(off.std(ddof=1)) / math.sqrt(len(bits)) / float(sizes.mean())


def _surprises(text: TextData, at: Whole, each: Floats) -> tuple[Surprise, ...]:
    """The dearest pieces with what stands to their left."""
    found = []
    for place in np.argsort(each)[:SURPRISES].tolist():
        start = max(0, place - LEFT)
        shown = [int(at[start]), int(at[place])]
        before = text._string(shown[0], place - start)[-LEFT:]
        piece = text._string(shown[1], 1)
        found.append(Surprise(visible(before), visible(piece), -float(each[place]) / math.log(2)))
    return tuple(found)
