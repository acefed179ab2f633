"""An n-gram's log-probabilities, for a network to correct: the cheap old model inside the strong new one.

    logits_v = network_v + trust * log p_ngram(v | the last n - 1 symbols)

What the n-gram says of a text that it has counted is far too sure: every run of symbols of that text is in its counts.
A network that learned from such answers would trust them elsewhere, too. So training rows are answered by counts
without them: the rows are cut into `FOLDS` parts in the order of the data, and each part is answered by the counts of
the others (cross-fitting; Breiman 1996, "Stacked regressions", section 2). Other rows are answered by all counts.

All parts lie in one table, each as a root of its own, so one look answers a batch of rows of many parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.families.kneser_ney import Array, Floats, Smoothed, tally_columns
from pellucid.families.ngram import NGram, NGramEngine

__all__ = ["FOLDS", "NGramPrior"]

FOLDS = 8
READY = 2**23  # probabilities after short contexts that may be kept ready


class NGramPrior:
    """Counts of a text, and of all of it but a part, for each part.

    Args:
        order: n. space: one alphabet.

    It is no module: its tables have no fixed size and no gradient. `tables` and `restore` keep them.
    """

    def __init__(self, order: int, space: Tokens) -> None:
        self.order, self.space = order, space
        self.counts = self._counter()
        self.whole = _Ready(self.counts.smoothed, 1, space.symbols)
        self.parts: _Ready | None = None
        self.items = 0  # rows that were surveyed

    def __deepcopy__(self, memo: Mapping[int, Any]) -> NGramPrior:
        return copy.copy(self)  # what it holds is replaced as a whole, never changed

    def survey(self, rows: Callable[[Tensor], Batch], items: int) -> None:
        """Count rows 0 to items - 1, on top of what was counted before.

        Windows of a running text overlap: the first symbols of a part's first windows are counted with the part before.
        """
        self.counts.tables()  # merges what was counted
        old = (self.counts.grams, self.counts.counts)
        counts, tallies = self._counter(), []
        for part in range(FOLDS):
            ids = torch.arange(items * part // FOLDS, items * (part + 1) // FOLDS)
            own = self._counter()
            if len(ids):
                batch = rows(ids)
                own.absorb(Batch(batch.x, batch.ids, Condition(), fresh=batch.fresh))
            own.tables()
            tallies.append((own.grams, own.counts))
        counts.pending = [*([old] if len(old[1]) else []), *tallies]
        counts.settle()
        columns: list[list[Array]] = []
        numbers: list[Array] = []
        for part in range(FOLDS):
            others = [old, *(tally for k, tally in enumerate(tallies) if k != part)]
            grams = [np.concatenate(pieces) for pieces in zip(*(grams for grams, _ in others), strict=True)]
            merged, sums = tally_columns(grams, np.concatenate([c for _, c in others]))
            merged[0] = np.full(len(sums), part)  # the root
            columns.append(merged)
            numbers.append(sums)
        stacked = [np.concatenate(pieces) for pieces in zip(*columns, strict=True)]
        smoothed = Smoothed(stacked, np.concatenate(numbers), counts.s, counts.nothing)
        self.counts, self.whole = counts, _Ready(counts.smoothed, 1, self.space.symbols)
        self.parts, self.items = _Ready(smoothed, FOLDS, self.space.symbols), items

    def tables(self) -> dict[str, Tensor]:
        """All counts; those without a part are made anew where training goes on."""
        return self.counts.tables()

    def restore(self, tables: Mapping[str, Tensor]) -> None:
        """The inverse of `tables`."""
        counts = self._counter()
        counts.restore(tables)
        if not counts.settled:
            counts.settle()
        self.counts, self.whole = counts, _Ready(counts.smoothed, 1, self.space.symbols)
        self.parts, self.items = None, 0

    def log_probs(self, tokens: Tensor, ids: Tensor | None = None) -> Tensor:
        """tokens (B, T) to log p (B, T, V) in float32: of symbol t after those before it.

        Args:
            ids: (B,) of rows that are trained on, which are answered without their part; None for all counts.

        Goes through `torch.func.vmap`.
        """
        out: Tensor = _Asked.apply(tokens, tokens.new_full((len(tokens),), -1) if ids is None else ids, self)
        return out

    def following(self, tokens: Tensor) -> Tensor:
        """tokens (B, t) to log p (B, V) of the symbol that follows, by all counts."""
        before = tokens[:, max(0, tokens.shape[1] - self.order) :]  # one more than is read, so that no start is seen
        padded = torch.cat((before, before.new_zeros(len(before), 1)), dim=1).cpu().numpy()
        last = [column[:, -1].copy() for column in self._contexts(padded)]
        return torch.from_numpy(_log(self.whole.after(last))).to(tokens.device)

    def _counter(self) -> NGramEngine:
        family = NGram(order=self.order, positional=False)
        return family.build(self.space, {}, Rows(0, torch.zeros(1, dtype=torch.int64)))

    def _contexts(self, x: Array) -> list[Array]:
        """x (B, T) to the contexts [root, newest symbol, ..., oldest] of its symbols, (B, T) each."""
        root, *steps, _ = self.counts.columns(x, np.zeros(len(x), np.int64), 0)
        return [np.broadcast_to(root, x.shape), *steps]

    def _answer(self, x: Array, ids: Array) -> Floats:
        """x (B, T), ids (B,) to log p (B, T, V) in float32."""
        out = np.empty((*x.shape, self.space.symbols), np.float32)
        inside = (ids >= 0) & (ids < self.items) & (self.parts is not None)
        contexts = self._contexts(x)
        for rows, table in ((np.flatnonzero(inside), self.parts), (np.flatnonzero(~inside), self.whole)):
            if len(rows) and table is not None:
                flat = [column[rows].reshape(-1) for column in contexts]
                if table is self.parts:
                    flat[0] = np.repeat(np.minimum(ids[rows] * FOLDS // max(1, self.items), FOLDS - 1), x.shape[1])
                out[rows] = _log(table.after(flat)).reshape(len(rows), x.shape[1], -1)
        return out


class _Ready:
    """Smoothed counts with the probabilities after the shortest contexts kept ready.

    Args:
        roots: their number. symbols: V.
    """

    def __init__(self, smoothed: Smoothed, roots: int, symbols: int) -> None:
        self.smoothed, self.symbols, self.s = smoothed, symbols, smoothed.s
        self.known = 0  # symbols of context whose probabilities are ready
        while self.known < min(2, smoothed.order - 1) and roots * self.s ** (self.known + 1) * symbols <= READY:
            self.known += 1
        grid = np.indices((roots, *[self.s] * self.known)).reshape(1 + self.known, -1)
        p = np.full((grid.shape[1], symbols), 1.0 / symbols)
        self.table = _spread(smoothed, p, list(grid), 0)

    def after(self, contexts: Sequence[Array]) -> Floats:
        """order columns (N,) to p (N, V)."""
        place = contexts[0]
        for column in contexts[1 : 1 + self.known]:
            place = place * self.s + column
        return _spread(self.smoothed, self.table[place], contexts, self.known + 1)


def _spread(smoothed: Smoothed, p: Floats, contexts: Sequence[Array], first: int) -> Floats:
    """p (N, V) mixed, in place, with the levels from `first` on up to the contexts' length."""
    for level, number in list(zip(smoothed.levels, smoothed.numbers(contexts), strict=False))[first:]:
        rows = np.flatnonzero(number >= 0)
        number = number[rows]
        p[rows] *= level.gamma[number, None]
        size = level.first[number + 1] - level.first[number]
        entry = np.repeat(level.first[number] - (size.cumsum() - size), size) + np.arange(size.sum())
        p[np.repeat(rows, size), level.entries.keys[entry] % smoothed.s] += level.share[entry]
    return p


def _log(p: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
    out: np.ndarray[Any, np.dtype[np.float32]] = np.log(p.astype(np.float32))
    return out


class _Asked(torch.autograd.Function):
    """A look into the tables, which has no gradient; under vmap all rows are looked up at once."""

    @staticmethod
    def forward(tokens: Tensor, ids: Tensor, prior: NGramPrior) -> Tensor:
        found = prior._answer(tokens.cpu().numpy(), ids.cpu().numpy())
        return torch.from_numpy(found).to(tokens.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], tokens: Tensor, ids: Tensor, prior: NGramPrior) -> Any:
        many = info.batch_size
        tokens = tokens.expand(many, *tokens.shape) if dims[0] is None else tokens.movedim(dims[0], 0)
        ids = ids.expand(many, *ids.shape) if dims[1] is None else ids.movedim(dims[1], 0)
        out = _Asked.apply(tokens.flatten(0, 1), ids.flatten(0, 1), prior)
        return out.reshape(*tokens.shape, -1), 0
