"""Which training items stand alone, and which contradict their label? Each item held against all the others.

    alone_i       = 1 / A_ii - lambda                   posterior variance of item i given all others
    contradicts_i = [A T]_i,label(i) / A_ii             what kernel regression on all others misses of its own label

with A = (K + lambda I)^-1 over the training items and T (n, C) their labels, one-hot and centred (leave-one-out in
closed form: Rasmussen and Williams 2006, eq. 5.12). An item that stands alone must be learned by heart; one
that contradicts its label is often mislabelled. The check puts wrong labels on some items and looks for them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pellucid.core.errors import BadInput
from pellucid.core.interval import Interval, bootstrap, paired_difference
from pellucid.core.report import Block, Data, Details, Heading, Json, Prose, Report, Table, Verdict
from pellucid.core.space import Tokens
from pellucid.domains.pictures import Pictures
from pellucid.explain.faithfulness import Faithfulness
from pellucid.explain.forecast import some
from pellucid.explain.similarity import Metric, gaussian, vectors
from pellucid.fitting import halves

if TYPE_CHECKING:
    from pellucid.model import Data as Items
    from pellucid.model import Fitted

__all__ = ["OdditiesReport", "contradictions", "oddities"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST = 4000  # training items, of more a random part
GAMMA, WIDTH, LAMBDA = 0.25, 1.0, 0.1
SHARE = 0.05  # of the items that the check mislabels
SHOWN = 8


@dataclass(frozen=True)
class OdditiesReport(Report):
    """Training items that stand out, the oddest first.

    alone: (row of the data, share of its own variance that all others leave open). contradicting: (row, its label, the
    label that the others speak for, strength). suspicious: how many contradict by more than half.
    check: of the labels; None without any.
    """

    alone: tuple[tuple[int, float], ...]
    contradicting: tuple[tuple[int, str, str, float], ...]
    suspicious: int
    considered: int
    shown: tuple[Block, ...]
    check: Faithfulness | None
    seconds: float

    title = "Training items that stand alone or contradict their label"

    def blocks(self) -> tuple[Block, ...]:
        out: list[Block] = []
        if self.check is not None:
            out.append(Prose(f"Of {self.considered:,} training items, **{self.suspicious}** look as if they belonged "
                             "to another class than their label says. Look at them before you trust the model on "
                             "such items."))  # fmt: skip
            if not self.check.passed:
                out.insert(0, Verdict("fail", "The check of this explanation failed; do not rely on what follows."))
            rows = [(f"item {i}", label, other, f"{r:.2f}") for i, label, other, r in self.contradicting]
            out += [Heading("Items that contradict their label", 3),
                    Table(("item", "label", "the others say", "strength"), rows)]  # fmt: skip
        else:
            out.append(Prose(f"The items below are those of {self.considered:,} that the others say least about. The "
                             "data has no labels that could be wrong."))  # fmt: skip
        rows_ = [(f"item {i}", f"{v:.2f}") for i, v in self.alone]
        out += [Heading("Items that stand alone", 3), Table(("item", "share that the others leave open"), rows_)]
        out += self.shown
        if self.check is not None:
            out += [Heading("Can this be trusted?", 3), *self.check.blocks()]
        facts = [
            ("method", "kernel regression, leave-one-out: Rasmussen and Williams 2006, eq. 5.12"),
            ("items compared", f"{self.considered:,}"),
            ("cost", f"{self.seconds:.1f} s"),
        ]
        out += [Details("Method and cost", (Table(("", ""), facts),)), Data(self._numbers(), "oddities")]
        return tuple(out)

    def _numbers(self) -> dict[str, Json]:
        return {
            "alone": [[i, v] for i, v in self.alone],
            "contradicting": [[i, a, b, r] for i, a, b, r in self.contradicting],
            "faithful": None if self.check is None else self.check.passed,
        }


def oddities(
    model: Fitted, *, data: Items | None = None, seed: int = 0, top: int = SHOWN, reveal: bool | None = None
) -> OdditiesReport:
    """Hold each training item against all the others.

    Args:
        data: the items the model was fitted on; those it carries, when None. top: how many of each to name.
        reveal: show the items themselves; None shows pictures and keeps rows of a table back.
    """
    began = time.monotonic()
    data = model.data if data is None else data
    if data is None:
        raise BadInput("the model carries no data", accepted="data=..., the items it was fitted on")
    kept, _ = halves(data, model.recipe.get("held_out", 0.0), model.recipe.get("seed", 0))
    if len(kept) < 20 or top < 1:
        raise BadInput(f"there are {len(kept)} training items, top is {top}", accepted="20 items and top 1, or more")
    rows = kept[some(len(kept), MOST, (), abs(seed))]
    items = data.take(rows)
    v = vectors(model.codec.space, model.codec.encode(items))
    K = gaussian(Metric.learn(v, v[:1], GAMMA).among, WIDTH)
    A: Floats = np.asarray(np.linalg.inv(K + LAMBDA * np.eye(len(K))), dtype=np.float64)
    open_ = 1.0 / np.diag(A) - LAMBDA
    alone = np.argsort(-open_)[:top]
    labels, names = _labels(model, items)
    found: tuple[tuple[int, str, str, float], ...] = ()
    check, suspicious = None, 0
    first = alone
    if labels is not None:
        wrong, other = contradictions(A, labels, len(names))
        first = np.argsort(-wrong)[:top]
        found = tuple((int(rows[i]), names[labels[i]], names[other[i]], float(wrong[i])) for i in first)
        suspicious = int((wrong > 0.5).sum())
        check = _check(A, K, labels, len(names), seed)
    show = isinstance(data, Pictures) if reveal is None else reveal
    shown = (model.codec.show(data.take(rows[first]), limit=top),) if show else ()
    return OdditiesReport(
        tuple((int(rows[i]), float(open_[i])) for i in alone),
        found,
        suspicious,
        len(rows),
        shown,
        check,
        time.monotonic() - began,
    )


def contradictions(A: Floats, labels: Integers, classes: int) -> tuple[Floats, Integers]:
    """(n,) how much of its own label all other items leave unexplained, and (n,) the label that they speak for most.

    Args:
        A: (n, n) inverse of K + lambda I. labels: (n,) from 0 to classes - 1.
    """
    T = np.eye(classes)[labels]
    T = T - T.mean(axis=0)
    missed = (A @ T) / np.diag(A)[:, None]  # (n, C) target minus what the others foresee
    foreseen = T - missed
    return missed[np.arange(len(labels)), labels], np.asarray(foreseen.argmax(axis=1), dtype=np.int64)


def _labels(model: Fitted, items: Items) -> tuple[Integers | None, list[str]]:
    """Numbers from 0 for the one condition that is a class, and the classes in words."""
    known = model.codec.known(items)
    for name, space in model.codec.conditions.items():
        if isinstance(space, Tokens) and space.length == 1 and bool(known.given[name].all()):
            values = known.values[name].flatten().numpy()
            used, labels = np.unique(values, return_inverse=True)
            if len(used) < 2:
                return None, []
            examples = [int(np.flatnonzero(labels == k)[0]) for k in range(len(used))]
            return labels.astype(np.int64), [_word(items, name, i) for i in examples]
    return None, []


def _word(items: Items, name: str, i: int) -> str:
    if isinstance(items, Pictures):
        return str((items.labels or ())[i])
    frame = getattr(items, "frame", None)
    return str(frame[name].iloc[i]) if frame is not None else str(i)


def _check(A: Floats, K: Floats, labels: Integers, classes: int, seed: int) -> Faithfulness:
    """Wrong labels on some items must be told from right ones; the label of the nearest item is the cheapest way to."""
    generator = np.random.default_rng([abs(seed), len(labels)])
    planted = generator.permutation(len(labels))[: max(5, round(SHARE * len(labels)))]
    changed = labels.copy()
    changed[planted] = (changed[planted] + generator.integers(1, classes, len(planted))) % classes
    is_wrong = np.zeros(len(labels), dtype=np.bool_)
    is_wrong[planted] = True
    own = contradictions(A, changed, classes)[0]
    near = np.where(np.eye(len(K), dtype=np.bool_), -np.inf, K).argmax(axis=1)
    cheap = (changed[near] != changed).astype(np.float64)

    def found(scores: Floats, index: Integers) -> float:
        some_wrong = is_wrong[index]
        return float(roc_auc_score(some_wrong, scores[index])) if 0 < some_wrong.sum() < len(index) else float("nan")

    n = len(labels)
    gap = paired_difference(lambda i: found(own, i), lambda i: found(cheap, i), n, seed=seed)
    return Faithfulness(
        f"{len(planted)} wrong labels that were put on items must be told from the others (chance is .5).",
        bootstrap(lambda i: found(own, i), n, seed=seed),
        1.0,
        bootstrap(lambda i: found(cheap, i), n, seed=seed),
        "another label than the nearest item's",
        margin=Interval(gap.value, gap.low, gap.high, gap.n),
    )
