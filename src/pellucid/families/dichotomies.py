"""Which of many symbols? A tree of questions with two answers, each answered by boosted trees.

The symbols of a column are split in two, each half in two again, until few rows are left; numbers are split where they
lie in order, names so that those stay together which come with similar rows (first axis of a correspondence analysis).
The probability of a symbol is a product along its path,

    p(x_t | x_1, ..., x_{t-1}) = product over questions of p(answer | x_1, ..., x_{t-1}) * p(symbol | last answer)

and the last factor is a frequency. Frank & Kramer 2004, "Ensembles of nested dichotomies for multi-class problems",
show that averaging over several such trees takes away what one tree's choice of halves costs. Each question is a model
of gradient-boosted trees (Ke et al. 2017, LightGBM), stopped when rows that it does not learn from get no likelier.
A row is asked some log2(symbols) questions, where one boosted model a symbol would ask as many as there are symbols.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.families.forest import Forest, Stage, joined

__all__ = ["Boosting", "Dichotomies", "grow"]

Ints: TypeAlias = NDArray[Any]  # of any width
Floats: TypeAlias = NDArray[Any]

FEWEST = 60  # rows below which symbols are told apart by frequency alone
FEWEST_ANSWERS = 8  # learning rows of either answer that a question needs to be learned
AXIS_TURNS = 20  # of the power method


MOST_LEVELS = 256  # of questions under questions in a bundle; thousands of symbols make some dozens
MOST_PLACES = 2**18  # questions times the most trees that one of them has


@dataclass(frozen=True, kw_only=True)
class Boosting:
    """How each question is learned.

    rate: of learning. rounds: trees at most. patience: trees without gain before it stops.
    leaf: fewest rows of a leaf.
    seconds: for the whole column; questions that come later are answered by frequencies.
    """

    rate: float = 0.05
    rounds: int = 600
    patience: int = 40
    leaf: int = 20
    threads: int = 1
    seconds: float = math.inf


@dataclass(frozen=True, eq=False)
class Dichotomies:
    """The questions of one column, level by level, and the symbols at the end of each path.

    Args:
        left, right: (N,) the question that follows an answer, or -1 - end.
        base: (N,) log-odds of "left" to which the trees add. first: (N + 1,) where each question's trees begin.
        end: (V,) of each symbol. share: (V,) P(symbol | end).
        forest: the trees. codes: (F,) codes of each feature.
    """

    left: Ints
    right: Ints
    base: Floats
    first: Ints
    end: Ints
    share: Floats
    forest: Forest
    codes: Ints
    # (low, high) questions of each level; each end's question and answer there; symbols by their end, and
    # end + P(up to the symbol | end) in that order; where each end's symbols finish
    _levels: list[tuple[int, int]] = field(init=False, repr=False)
    _nodes: Ints = field(init=False, repr=False)
    _sides: NDArray[np.bool_] = field(init=False, repr=False)
    _order: Ints = field(init=False, repr=False)
    _upto: Floats = field(init=False, repr=False)
    _finish: Ints = field(init=False, repr=False)
    _stages: dict[int, Stage] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        levels: list[tuple[int, int]] = []
        path: dict[int, tuple[int, bool]] = {}
        parent: dict[int, tuple[int, bool]] = {}
        here = [0] if len(self.left) else []
        while here:
            levels.append((here[0], here[-1] + 1))
            following = []
            for node in here:
                for goes_left, child in ((True, int(self.left[node])), (False, int(self.right[node]))):
                    if child >= 0:
                        following.append(child)
                        parent[child] = (node, goes_left)
                    else:
                        path[-1 - child] = (node, goes_left)
            here = following
        ends = int(self.end.max(initial=0)) + 1
        nodes, sides = np.full((ends, len(levels)), -1), np.zeros((ends, len(levels)), np.bool_)
        for end, step in path.items():
            found: tuple[int, bool] | None = step
            walk = []
            while found is not None:
                walk.append(found)
                found = parent.get(found[0])
            for depth, (node, goes_left) in enumerate(reversed(walk)):
                nodes[end, depth], sides[end, depth] = node, goes_left
        order = np.lexsort((np.arange(len(self.end)), self.end))
        upto = np.cumsum(self.share[order])
        own = self.end[order]
        before = np.r_[0.0, upto][np.searchsorted(own, np.arange(ends))]
        for name, value in {
            "levels": levels, "nodes": nodes, "sides": sides, "order": order,
            "upto": own + np.clip(upto - before[own], 0.0, 1.0),
            "finish": np.searchsorted(own, np.arange(ends), side="right"),
        }.items():  # fmt: skip
            object.__setattr__(self, "_" + name, value)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tables."""
        return {
            "if_left": self.left.astype(np.int32),
            "if_right": self.right.astype(np.int32),
            "base": self.base.astype(np.float64),
            "trees": np.diff(self.first).astype(np.int32),
            "end": self.end.astype(np.int32),
            "share": self.share.astype(np.float64),
            **self.forest.tensors(),
        }

    @staticmethod
    def of_tensors(tables: Mapping[str, NDArray[Any]], codes: Ints, size: int) -> Dichotomies:
        """The inverse of `tensors`; BadInput when a table is none of questions with such features and symbols."""
        forest = Forest.of_tensors({k: tables[k] for k in Forest.empty().tensors()}, len(codes))
        left, right, trees, end = (tables[k].astype(np.int64) for k in ("if_left", "if_right", "trees", "end"))
        base, share = tables["base"].astype(np.float64), tables["share"].astype(np.float64)
        many = len(left)
        fits = left.shape == right.shape == base.shape == trees.shape == (many,) and bool((trees >= 0).all())
        fits = fits and int(trees.sum()) == forest.trees and end.shape == share.shape == (size,)
        fits = fits and bool(np.isfinite(base).all() and (share > 0).all() and ((end >= 0) & (end <= many)).all())
        if fits:  # questions in the order of their levels, and every question but the first, and every end, once
            child = np.stack((left, right), 1).reshape(-1)
            asked, parent = child[child >= 0], np.arange(2 * many) // 2
            fits = bool((asked == np.arange(1, many)).all()) if many and len(asked) == many - 1 else not many
            fits = fits and bool((asked > parent[child >= 0]).all())
            ends = np.sort(-1 - child[child < 0]) if many else np.zeros(1, np.int64)
            fits = fits and bool((ends == np.arange(many + 1)).all())
            fits = fits and bool(np.allclose(np.bincount(end, share, many + 1), 1.0))
            fits = fits and int(trees.max(initial=0)) * many <= MOST_PLACES and _depth(left, right) <= MOST_LEVELS
        if not fits:
            raise BadInput("tables are no questions", accepted="questions level by level, each symbol at one end")
        return Dichotomies(left, right, base, np.r_[0, np.cumsum(trees)], end, share, forest, codes)

    def _stage(self, level: int) -> Stage:
        if level not in self._stages:
            low, high = self._levels[level]
            first = self.first[low : high + 1]
            part = self.forest.part(int(first[0]), int(first[-1]))
            self._stages[level] = Stage(part, first - first[0], self.codes)
        return self._stages[level]

    def odds(self, level: int, features: Ints, node: Ints) -> Floats:
        """(B,) log-odds of "left" at each row's question of this level."""
        return self.base[node] + self._stage(level)(features, node - self._levels[level][0]).astype(np.float64)

    def draw(self, features: Ints, u: Floats) -> Ints:
        """(B,) symbols by inverting the distribution at u (B,) in (0, 1)."""
        u, at = u.astype(np.float64).copy(), np.zeros(len(u), np.int64)
        if not len(self._levels):
            at[:] = -1
        for level in range(len(self._levels)):
            rows = np.flatnonzero(at >= 0)
            node = at[rows]
            p = _sigmoid(self.odds(level, features[rows], node))
            goes = u[rows] < p
            u[rows] = np.clip(np.where(goes, u[rows] / p, (u[rows] - p) / (1.0 - p)), 0.0, 1.0 - 1e-12)
            at[rows] = np.where(goes, self.left[node], self.right[node])
        end = -1 - at
        place = np.searchsorted(self._upto, end + np.minimum(u, 1.0 - 1e-9), side="right")
        return self._order[np.minimum(place, self._finish[end] - 1)]

    def log_prob(self, features: Ints, symbol: Ints) -> Floats:
        """(B,) log-probability of each row's symbol."""
        end = self.end[symbol]
        total = np.log(self.share[symbol])
        for level in range(len(self._levels)):
            node = self._nodes[end, level]
            rows = np.flatnonzero(node >= 0)
            z = self.odds(level, features[rows], node[rows])
            total[rows] += _log_sigmoid(np.where(self._sides[end[rows], level], z, -z))
        return total

    def distribution(self, features: Ints) -> Floats:
        """(B, V) probabilities of all symbols."""
        ends = self._nodes.shape[0]
        logs = np.zeros((len(features), ends))
        for level, (low, high) in enumerate(self._levels):
            nodes = np.arange(low, high)
            row = np.repeat(np.arange(len(features)), len(nodes))
            z = self.odds(level, features[row], np.tile(nodes, len(features))).reshape(len(features), len(nodes))
            asked = self._nodes[:, level] >= 0
            mine = z[:, self._nodes[asked, level] - low]
            logs[:, asked] += _log_sigmoid(np.where(self._sides[asked, level], mine, -mine))
        return np.exp(logs)[:, self.end] * self.share


def _depth(left: Ints, right: Ints) -> int:
    """Levels of questions whose children come later than themselves."""
    level = [1] * len(left)
    for node, children in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        for child in children:
            if child >= 0:
                level[child] = level[node] + 1
    return max(level, default=0)


def grow(
    features: Ints,
    names: Sequence[int],
    codes: Ints,
    symbol: Ints,
    size: int,
    ordered: int,
    aside: NDArray[np.bool_],
    how: Boosting,
    random: np.random.Generator,
    plain: bool = True,
) -> Dichotomies:
    """Questions for one column, learned from rows.

    Args:
        features: (N, F) codes of the columns before; names: those of them that are in no order; codes: (F,) how many.
        symbol: (N,) of the column, of `size` symbols, of which the first `ordered` are in order.
        aside: (N,) bool, rows that only say when to stop.
        plain: halves as even and as similar as they can be; False draws others, for another member of an ensemble.
    """
    count = np.bincount(symbol, minlength=size)
    data = _dataset(features, names, how) if features.shape[1] else None
    left: list[int] = []
    right: list[int] = []
    base: list[float] = []
    trees: list[Forest] = []
    end, share = np.zeros(size, np.int64), np.ones(size)
    ends, until = 0, time.monotonic() + how.seconds
    waiting: list[tuple[Ints, Ints, int, bool]] = [(np.arange(size), np.arange(len(symbol)), -1, True)]
    while waiting:  # level by level
        items, rows, parent, goes = waiting.pop(0)
        halves = None
        if data is not None and count[items].sum() >= FEWEST and (count[items] > 0).sum() > 1:
            halves = _halved(items, rows, features, codes, symbol, count, ordered, random, plain)
        if halves is None:
            end[items] = ends
            mass = count[items] + 1.0 / size
            share[items] = mass / mass.sum()
            child, ends = -1 - ends, ends + 1
        else:
            child = len(left)
            says = np.zeros(size, np.bool_)
            says[halves[0]] = True
            answer = says[symbol[rows]]
            start, forest = _question(data, rows, answer, aside[rows], how, int(random.integers(2**31 - 1)), until)
            left.append(0)
            right.append(0)
            base.append(start)
            trees.append(forest)
            waiting.append((halves[0], rows[answer], child, True))
            waiting.append((halves[1], rows[~answer], child, False))
        if parent >= 0:
            (left if goes else right)[parent] = child
    first = np.cumsum([0, *(forest.trees for forest in trees)])
    return Dichotomies(
        np.array(left, np.int64), np.array(right, np.int64), np.array(base, np.float64), first, end, share,
        joined(trees), np.asarray(codes),
    )  # fmt: skip


def _halved(
    items: Ints, rows: Ints, features: Ints, codes: Ints, symbol: Ints, count: Ints, ordered: int,
    random: np.random.Generator, plain: bool,
) -> tuple[Ints, Ints] | None:  # fmt: skip
    """The items in two parts, each with rows of its own."""
    numbers, others = items[items < ordered], items[items >= ordered]
    if len(numbers) and len(others) and count[numbers].sum() and count[others].sum():
        return numbers, others
    if count[numbers].sum() == 0 and len(others) > 2:
        items = items[np.argsort(_axis(items, rows, features, codes, symbol, random, plain), kind="stable")]
    upto = np.cumsum(count[items])
    half = upto[-1] * (0.5 if plain else random.uniform(0.3, 0.7))
    cut = int(np.abs(upto[:-1] - half).argmin()) + 1
    if not 0 < upto[cut - 1] < upto[-1]:
        return None
    return items[:cut], items[cut:]


def _axis(
    items: Ints, rows: Ints, features: Ints, codes: Ints, symbol: Ints, random: np.random.Generator, plain: bool
) -> Floats:
    """(I,) places of the items on the first axis of a correspondence analysis with the columns before.

    Few turns of the power method leave a mixture of the first axes, which makes other members of an ensemble differ.
    """
    place = np.zeros(int(items.max()) + 1, np.int64)
    place[items] = np.arange(len(items))
    mine = place[symbol[rows]]
    table = np.concatenate(
        [
            np.bincount(mine * int(k) + features[rows, f], minlength=len(items) * int(k)).reshape(len(items), int(k))
            for f, k in enumerate(codes)
        ],
        axis=1,
    ).astype(np.float64)
    r, c = table.sum(1), table.sum(0)
    expected = np.outer(r, c) / table.sum()
    s = np.divide(table - expected, np.sqrt(expected), out=np.zeros_like(table), where=expected > 0)
    v = random.normal(size=len(items))
    for _ in range(AXIS_TURNS if plain else 2):
        v = s @ (v @ s)
        v /= max(float(np.linalg.norm(v)), 1e-300)
    found: Floats = np.divide(v, np.sqrt(r), out=np.zeros_like(v), where=r > 0)
    return found


def _dataset(features: Ints, names: Sequence[int], how: Boosting) -> Any:
    import lightgbm

    settings = _settings(how, features.shape[1])
    table = np.ascontiguousarray(features, dtype=np.float32)
    data = lightgbm.Dataset(table, label=np.zeros(len(table)), params=settings, categorical_feature=list(names) or [])
    return data.construct()


def _settings(how: Boosting, columns: int) -> dict[str, Any]:
    """LightGBM's own, for so many columns before: each tree sees .7 of them, and 3 at least, as two alone can say what
    neither says; names with few rows are still worth a split."""
    return {
        "objective": "binary", "metric": "binary_logloss", "boost_from_average": False, "learning_rate": how.rate,
        "num_leaves": 15, "min_data_in_leaf": how.leaf, "lambda_l2": 1.0,
        "feature_fraction": max(0.7, min(1.0, 3 / columns)),
        "cat_smooth": 10.0, "cat_l2": 5.0, "min_data_per_group": how.leaf, "max_cat_to_onehot": 4,
        "max_bin": 255, "min_data_in_bin": 1, "feature_pre_filter": False, "use_missing": False,
        "deterministic": True, "force_col_wise": True, "num_threads": how.threads, "verbosity": -1,
    }  # fmt: skip


def _question(
    data: Any, rows: Ints, answer: NDArray[np.bool_], aside: NDArray[np.bool_], how: Boosting, seed: int, until: float
) -> tuple[float, Forest]:
    """Log-odds to start from, and trees that tell rows which answer "left" (True) from the others."""
    import lightgbm

    yes, no = answer.sum(), (~answer).sum()
    start = float(np.log((yes + 0.5) / (no + 0.5)))
    learning, stopping = rows[~aside], rows[aside]
    few = min((answer & ~aside).sum(), (~answer & ~aside).sum())
    if few < FEWEST_ANSWERS or len(stopping) < FEWEST_ANSWERS or time.monotonic() > until:
        return start, Forest.empty()
    settings = _settings(how, data.num_feature()) | {"seed": seed}
    order = np.argsort(learning), np.argsort(stopping)
    parts = []
    for those, sort, said in zip((learning, stopping), order, (answer[~aside], answer[aside]), strict=True):
        part = data.subset(those[sort])
        part.construct()
        part.set_label(said[sort].astype(np.float32))
        part.set_init_score(np.full(len(those), start))
        parts.append(part)
    booster = lightgbm.Booster(settings, parts[0])
    booster.add_valid(parts[1], "aside")
    p = 1.0 / (1.0 + np.exp(-start))
    share = float(answer[aside].mean())
    best, at = -(share * np.log(p) + (1 - share) * np.log(1 - p)), 0
    for k in range(1, how.rounds + 1):
        if booster.update():
            break
        loss = booster.eval_valid()[0][2]
        if loss < best:
            best, at = loss, k
        elif k - at >= how.patience:
            break
        if time.monotonic() > until:
            break
    if not at:
        return start, Forest.empty()
    return start, Forest.of_text(booster.model_to_string(num_iteration=at), at)


def _sigmoid(z: Floats) -> Floats:
    p: Floats = np.exp(_log_sigmoid(z))
    return np.clip(p, 1e-12, 1.0 - 1e-12)


def _log_sigmoid(z: Floats) -> Floats:
    return -np.logaddexp(0.0, -z)
