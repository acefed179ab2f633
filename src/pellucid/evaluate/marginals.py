"""Does each column look right, and do pairs of columns go together as they should?

Columns: Kolmogorov-Smirnov distance of numbers, total variation of choices, both between 0 (equal) and 1,

    KS = max over x of |F(x) - G(x)|        TV = 1/2 sum over values of |p - q|

with missing counted as one more value, above all numbers. Pairs: rank correlation of two numbers, correlation ratio of
a number and a choice (Kelley 1935, unbiased), Cramér's V of two choices (bias-corrected, Bergsma 2013, eq. 7 and 8).
All of these move with n, so sets have equal size, and two real sets stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.columns import Column
from pellucid.domains.frames import TableData
from pellucid.evaluate.matrices import codes, is_number, levels, measured, numbers
from pellucid.evaluate.resampling import Estimate, check_rows, halves

__all__ = ["Associations", "ColumnDistance", "Marginals", "associations", "marginals"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]

LEVELS = 30  # values of a choice that count on their own in pairs; the others count as one


@dataclass(frozen=True)
class ColumnDistance:
    """How far one column is from real: `measure` is "KS" or "TV"."""

    name: str
    measure: str
    distance: Estimate


@dataclass(frozen=True)
class Marginals:
    """Mean distance over columns, and each column's own."""

    mean: Estimate
    columns: tuple[ColumnDistance, ...]


@dataclass(frozen=True, eq=False)
class Associations:
    """How strongly pairs of columns go together.

    names: C columns. real, generated: (C, C), from 0 to 1, correlations of two numbers from -1.
    difference: mean over pairs of the absolute difference.
    """

    names: tuple[str, ...]
    real: Floats
    generated: Floats
    difference: Estimate


def marginals(real: TableData, generated: TableData, *, seed: int = 0, name: str = "samples") -> Marginals:
    """Distance of every column of two tables of equal size.

    Raises:
        BadInput: fewer than 10 rows, unequal numbers, or no column that varies.
    """
    n = _checked(real, generated, 1)
    masks, masks_2 = halves(n, "real", seed=seed), halves(n, name, seed=seed)
    found = []
    for column in measured(real):
        if is_number(column):
            here, there = numbers(real, column), numbers(generated, column)
            values = np.unique(np.concatenate([here, there]))  # NaN comes last, once
            code, code_2 = np.searchsorted(values, here), np.searchsorted(values, there)
            size, measure = len(values), "KS"
        else:
            known = tuple(dict.fromkeys((*levels(real, column), *levels(generated, column))))
            code, code_2 = codes(real, column, known), codes(generated, column, known)
            size, measure = len(known) + 2, "TV"
        value = _distance(code, code_2, size, measure)
        on_halves = np.array(
            [_distance(code[a], code_2[b], size, measure) for a, b in zip(masks, masks_2, strict=True)]
        )
        estimate = Estimate(value, on_halves - on_halves.mean(), n, (0.0, 1.0))
        found.append(ColumnDistance(column.name, measure, estimate))
    mean = Estimate(
        float(np.mean([c.distance.value for c in found])),
        np.mean([c.distance.spread for c in found], axis=0),
        n,
        (0.0, 1.0),
    )
    return Marginals(mean, tuple(found))


def associations(real: TableData, generated: TableData, *, seed: int = 0, name: str = "samples") -> Associations:
    """Strength of every pair of columns in two tables of equal size.

    Raises:
        BadInput: fewer than 10 rows, unequal numbers, or fewer than two columns that vary.
    """
    n = _checked(real, generated, 2)
    coding = _Coding.learn(real)
    rows, rows_2 = coding.rows(real), coding.rows(generated)
    values, values_2 = coding.strengths(rows), coding.strengths(rows_2)
    pairs = np.triu_indices(len(values), 1)
    on_halves = np.array(
        [
            np.abs(coding.strengths(rows[a]) - coding.strengths(rows_2[b]))[pairs].mean()
            for a, b in zip(halves(n, "real", seed=seed), halves(n, name, seed=seed), strict=True)
        ]
    )
    difference = float(np.abs(values - values_2)[pairs].mean())
    names = tuple(c.name for c in (*coding.numbers, *coding.choices))
    return Associations(names, values, values_2, Estimate(difference, on_halves - on_halves.mean(), n, (0.0, 2.0)))


@dataclass(frozen=True)
class _Coding:
    """Columns side by side as numbers, so that one matrix product holds every pair: [1 | ranks | one-hot].

    numbers, choices: the columns. seen: sorted real values of each number. known: values of each choice.
    """

    numbers: tuple[Column, ...]
    choices: tuple[Column, ...]
    seen: tuple[Floats, ...]
    known: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(cls, real: TableData) -> _Coding:
        number = tuple(c for c in measured(real) if is_number(c))
        choice = tuple(c for c in measured(real) if not is_number(c))
        seen = tuple(np.sort(values[~np.isnan(values)]) for values in (numbers(real, c) for c in number))
        return cls(number, choice, seen, tuple(levels(real, c, LEVELS) for c in choice))

    def rows(self, data: TableData) -> Floats:
        """(N, W) float64; a missing number stands in the middle."""
        blocks = [np.ones((len(data), 1))]
        for column, seen in zip(self.numbers, self.seen, strict=True):
            values = numbers(data, column)
            rank = np.searchsorted(seen, values, "left") + np.searchsorted(seen, values, "right")
            blocks.append(np.where(np.isnan(values), 0.0, rank / max(1, 2 * len(seen)) - 0.5)[:, None])
        for column, known in zip(self.choices, self.known, strict=True):
            blocks.append(np.eye(len(known) + 2)[codes(data, column, known)])
        return np.hstack(blocks)

    def strengths(self, rows: Floats) -> Floats:
        """(C, C) of these rows, numbers first."""
        n, k = len(rows), len(self.numbers)
        sums = rows.T @ rows
        mean = sums[0, 1 : k + 1] / n
        covariance = sums[1 : k + 1, 1 : k + 1] / n - np.outer(mean, mean)
        variance = covariance.diagonal().clip(1e-12)
        correlation = covariance / np.sqrt(np.outer(variance, variance))
        if not self.choices:
            return correlation
        starts = np.cumsum([0, *(len(known) + 2 for known in self.known)])[:-1]
        counts = sums[0, k + 1 :]
        used = np.maximum(counts, 1e-12)
        present = np.add.reduceat((counts > 0).astype(np.float64), starts)  # values that occur, of each choice

        between = np.add.reduceat(sums[1 : k + 1, k + 1 :] ** 2 / used, starts, axis=1) / n - (mean**2)[:, None]
        unexplained = 1 - between / variance[:, None]
        ratio = np.sqrt((1 - unexplained * (n - 1) / np.maximum(n - present, 1)).clip(0, 1))

        table = sums[k + 1 :, k + 1 :] ** 2 / np.outer(used, used)
        squared = np.add.reduceat(np.add.reduceat(table, starts, axis=0), starts, axis=1) - 1
        squared = (squared - np.outer(present - 1, present - 1) / (n - 1)).clip(0)
        freedom = present - (present - 1) ** 2 / (n - 1) - 1
        cramer = np.sqrt(squared / np.minimum.outer(freedom, freedom).clip(1e-12)).clip(0, 1)
        return np.block([[correlation, ratio], [ratio.T, cramer]])


def _distance(code: Whole, code_2: Whole, size: int, measure: str) -> float:
    gap = np.bincount(code, minlength=size) / len(code) - np.bincount(code_2, minlength=size) / len(code_2)
    return float(np.abs(gap.cumsum()).max() if measure == "KS" else np.abs(gap).sum() / 2)


def _checked(real: TableData, generated: TableData, least: int) -> int:
    check_rows(len(real), "the comparison of columns", len(generated))
    if len(measured(real)) < least:
        raise BadInput(f"the table has {len(measured(real))} columns that vary", accepted=f"{least} or more")
    return len(real)
