"""What did each word or condition make? Change it, keep the noise, and see what becomes different, and where.

Nothing is estimated: the model is run again with one part of the request changed, as often as there are other words
that stand in the same place of training captions (or other classes), and left out where there are none. A place counts
as far as more than half of the changes move it, so that what one particular new word brings does not count as the
work of the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How
from pellucid.core.errors import MissingCapability
from pellucid.core.settings import from_plain
from pellucid.core.space import Tokens
from pellucid.domains.captions import CaptionBook, words_of
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.explain.named import words_for
from pellucid.explain.redraw import redrawn

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Ablation", "Change", "ablate", "agreement", "changes_of", "different", "lower_median", "overlap", "region"]

Floats = NDArray[np.float64]
MOST = 4  # changes of one word
MOST_VALUES = 9  # other values of a condition that are tried


@dataclass(frozen=True, eq=False)
class Change:
    """One part of the request, changed. part: the word or condition. place: of the word, -1 for a whole condition.

    now: what stands there instead, "" where it was left out. condition: one row.
    """

    part: str
    place: int
    now: str
    condition: Condition


@dataclass(frozen=True, eq=False)
class Ablation:
    """What each part of the request made of N samples.

    parts: P words or conditions. words: what each was changed to.
    each: for every part, (M, N, *places) of its M changes, from 0 (the same) to 1.
    own: the samples as they were.
    """

    parts: tuple[Change, ...]
    words: tuple[str, ...]
    each: tuple[Floats, ...]
    own: Data
    evaluations: int

    def maps(self, sample: int = 0) -> Floats:
        """(P, *places): what more than half of the changes move."""
        return np.stack([lower_median(e[:, sample]) for e in self.each])


def lower_median(each: Floats) -> Floats:
    """(M, ...) to (...): the middle value, the lower one of two.

    >>> float(lower_median(np.array([0.9, 0.1]))), float(lower_median(np.array([3.0, 1.0, 2.0])))
    (0.1, 2.0)
    """
    return np.asarray(np.sort(each, axis=0)[(len(each) - 1) // 2], dtype=np.float64)


def changes_of(model: Fitted, condition: Condition, most: int = MOST) -> tuple[tuple[Change, ...], ...]:
    """The changes of each part of a request (one row), part by part; parts that are not given are passed over.

    Raises:
        MissingCapability: nothing was asked that could be changed.
    """
    found: list[tuple[Change, ...]] = []
    for name, space in model.codec.conditions.items():
        if not bool(condition.given[name][0]):
            continue
        out = Change(name, -1, "", condition.without(name))
        if isinstance(space, Tokens) and space.ends:
            found += _of_words(model, name, condition, most)
        elif isinstance(space, Tokens) and space.length == 1 and isinstance(space.vocab, int):
            own = int(condition.values[name].flatten()[0])
            others = [k for k in range(space.vocab) if k != own][:MOST_VALUES]
            like = condition.values[name]
            made = [_set(condition, name, like.new_full(like.shape, k)) for k in others]
            found.append(tuple(Change(name, -1, words_for(model, c)[name], c) for c in made) or (out,))
        else:
            found.append((out,))
    if not found:
        raise MissingCapability(
            "nothing was asked of this sample that could be changed",
            accepted="a model with classes, captions or a target column, and a sample of which one was asked",
            why="An ablation takes a part of the request away.",
        )
    return tuple(found)


def _set(condition: Condition, name: str, value: torch.Tensor) -> Condition:
    return Condition({**condition.values, name: value}, condition.given)


def _of_words(model: Fitted, name: str, condition: Condition, most: int) -> list[tuple[Change, ...]]:
    """Word by word: words that stand between the same neighbours in training captions; or nothing, where none does."""
    book = from_plain(CaptionBook, model.codec.plain()["captions"])
    words = words_of(book.text(condition.values[name][0].cpu()))
    between: dict[tuple[str, str], Counter[str]] = {}
    for sentence, count in zip(book.sentences, book.counts, strict=True):
        around = ["", *words_of(sentence), ""]
        for before, word, after in zip(around, around[1:], around[2:], strict=False):
            between.setdefault((before, after), Counter())[word] += count
    around, found = ["", *words, ""], []
    for place, word in enumerate(words):
        rivals = between.get((around[place], around[place + 2]), Counter())
        others = [other for other, _ in rivals.most_common() if other != word][:most]
        texts = [(other, [*words[:place], other, *words[place + 1 :]]) for other in others]
        if len(texts) < 2 and len(words) > 1:
            texts.append(("", [*words[:place], *words[place + 1 :]]))
        made = [(now, book.write([" ".join(text)]).to(condition.values[name])) for now, text in texts]
        found.append(tuple(Change(word, place, now, _set(condition, name, value)) for now, value in made))
    return [changes for changes in found if changes]


def ablate(
    model: Fitted,
    seed: int,
    ids: Sequence[int],
    condition: Condition,
    how: How,
    *,
    data: Data | None = None,
    most: int = MOST,
) -> Ablation:
    """Draw the samples of these ids under the request (one row) and under every change of it.

    Args:
        data: real items, for the spread of a table's columns. most: changes of one word.
    """
    groups = changes_of(model, condition, most)
    flat = [change for group in groups for change in group]
    n = len(ids)
    rows = Condition.cat([condition, *(change.condition for change in flat)]).repeat(n)
    items, _ = redrawn(model, seed, torch.tensor(list(ids) * (1 + len(flat))), rows, how)
    own = items.take(np.arange(n))
    each = [different(own, items.take(np.arange(k * n, (k + 1) * n)), data) for k in range(1, 1 + len(flat))]
    parted, at = [], 0
    for group in groups:
        parted.append(np.stack(each[at : at + len(group)]))
        at += len(group)
    cost = len(items) * int(getattr(how, "steps", 1)) * (2 if float(getattr(how, "guidance", 1.0)) != 1.0 else 1)
    words = tuple(", ".join(change.now or "left out" for change in group) for group in groups)
    return Ablation(tuple(group[0] for group in groups), words, tuple(parted), own, cost)


def different(a: Data, b: Data, data: Data | None = None) -> Floats:
    """How far b is from a, item by item and place by place, 0 for equal: (N, H, W) of pictures, (N, K) of tables.

    Pixels: the mean over colours, as a share of the range. Columns: numbers in standard deviations (of `data`, when
    given), everything else 0 or 1.

    Raises:
        MissingCapability: items without fixed places, such as texts.
    """
    if isinstance(a, Pictures) and isinstance(b, Pictures):
        gap = np.abs(a.pixels.astype(np.float64) - b.pixels.astype(np.float64))
        return np.asarray(gap.mean(axis=3) / (a.levels - 1), dtype=np.float64)
    if isinstance(a, TableData) and isinstance(b, TableData):
        real = data.frame if isinstance(data, TableData) else a.frame
        return np.stack([_column(a, b, c.name, real.get(c.name)) for c in a.columns], axis=1)
    raise MissingCapability(
        f"{type(a).__name__} has no places that could be compared one by one",
        accepted="pictures and tables",
        why="After one changed symbol all later ones of a text may stand elsewhere.",
    )


def _column(a: TableData, b: TableData, name: str, real: Any) -> Floats:
    one, two = a.frame[name], b.frame[name]
    if a.column(name).kind in ("number", "integer"):
        x, y = (s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (one, two))
        spread = float(np.nanstd(real.to_numpy(dtype=np.float64, na_value=np.nan))) or 1.0
        return np.where(np.isnan(x) | np.isnan(y), np.isnan(x) != np.isnan(y), np.abs(x - y) / spread).astype(
            np.float64
        )
    left, right = one.astype(object).astype(str), two.astype(object).astype(str)
    return np.asarray(left.to_numpy() != right.to_numpy(), dtype=np.float64)


def region(values: Floats) -> NDArray[np.bool_]:
    """Places at least half as far above the middle one as the highest hundredth is; none where all are alike.

    Half, since a pixel that a shape covers by half changes by half.

    >>> region(np.array([0.0, 0.0, 0.0, 0.4, 0.8, 1.0])).tolist()
    [False, False, False, False, True, True]
    """
    flat = np.sort(values, axis=None)
    low, peak = float(np.median(flat)), float(flat[-max(1, len(flat) // 100) :].mean())
    return np.asarray((values - low >= 0.5 * (peak - low)) & (values > low), dtype=np.bool_)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Share of the places in either that are in both; 0 when both are empty."""
    either = int((a | b).sum())
    return float((a & b).sum()) / either if either else 0.0


def agreement(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation over places; 0 where one of the two is flat.

    >>> agreement(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    ranks = [rankdata(values.ravel()) for values in (a, b)]
    if any(np.ptp(r) == 0.0 for r in ranks):
        return 0.0
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1.0, 1.0).round(12))
