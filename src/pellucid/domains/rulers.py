"""Numbers and dates as scores: the column's own ruler, its spikes and gaps, and what to do when float32 is too coarse.

Values that are far more frequent than their neighbours (no capital gain, no debt) and missing cells are no points of
a smooth curve: they become symbols of a second field, "<column> state", and the score exists only in state 0. A
column of whole numbers or dates that one float32 cannot tell apart (account numbers, time stamps) is packed like the
digits of a number: a coarse one on the ruler, and finer ones spread evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.settings import to_plain
from pellucid.core.space import Field, Real, Tokens
from pellucid.domains.cells import Bools, Cells, Dtype, dtype_of, fresh, kind_of, numbers_in, series_of
from pellucid.domains.columns import Column
from pellucid.domains.scales import Floats, Scale
from pellucid.domains.stored import stored_settings, stored_tensor

__all__ = ["TOLERANCE", "Numbers", "Rule"]

TOLERANCE = 1e-6  # largest error of a number after a round trip, relative to its column's range
DAY = 86_400_000_000  # microseconds; dates are counted in these
SECOND = 1_000_000
STRAIGHT = (0.0, 0.01, 0.03, 0.1)  # tried in this order until float32 carries the column
EXACT = 0.45  # of a step: smaller errors are rounded away
COARSE = 2**17  # about so many coarse numbers in a packed column ...
FINE = 2**23  # ... and at most so many for each finer digit; both are far enough from float32's 2^24
ROOT3 = math.sqrt(3.0)  # numbers spread evenly from -sqrt(3) to sqrt(3) have variance 1
NEIGHBOURS = 5  # on each side, in order of value
FEWEST = 20  # rows with one value; fewer can be chance
LIKE_ITS_NEIGHBOURS = 3.0  # a spike is so many times as frequent as the middle one of them


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What `Numbers` keeps besides its ruler.

    origin, step: whole numbers v are counted as (v - origin) / step; 0 and 1 for other numbers.
    low, high: bounds of what is read back.
    bases: digits of a packed column below the coarse number, largest first; empty when one number is enough.
    spikes: values with a symbol of their own, 1, 2, ... in the state field.
    gap: may cells be missing? Theirs is the last symbol.
    """

    column: Column
    dtype: Dtype
    origin: int = 0
    step: int = 1
    low: int | float
    high: int | float
    bases: tuple[int, ...] = ()
    spikes: tuple[int | float, ...] = ()
    gap: bool = False

    def __post_init__(self) -> None:
        kind = kind_of(self.column)
        whole = all(isinstance(v, int) for v in (self.low, self.high, *self.spikes))
        if kind not in ("number", "integer", "date") or (kind != "number" and not whole):
            raise BadInput(
                f"'{self.column.name}' of the kind {kind} runs from {self.low} to {self.high}",
                accepted="numbers, or whole numbers for integers and dates",
            )
        if self.step < 1 or not self.low <= self.high or any(b < 2 for b in self.bases):
            raise BadInput(
                f"'{self.column.name}' has step {self.step}, range {self.low} to {self.high}, digits {self.bases}",
                accepted="a step of 1 or more, low <= high, digits of 2 or more",
            )


class Numbers(Cells):
    """Numbers and dates on the column's ruler.

    rule: plain settings. scale: the ruler, in steps from the origin (numbers: in units).
    """

    how = "numbers"

    def __init__(self, rule: Rule, scale: Scale) -> None:
        self.rule, self.scale, self.column, self.dtype = rule, scale, rule.column, rule.dtype
        self._whole = kind_of(rule.column) != "number"
        self._states = 1 + len(rule.spikes) + rule.gap

    @classmethod
    def learn(
        cls, column: Column, series: pd.Series, *, gap: bool, knots: int, spike: float | None, pack: bool = True
    ) -> Numbers:
        """The ruler of these cells, of which at least two differ.

        Args:
            gap: keep a symbol for missing cells.
            knots: of the ruler, at most.
            spike: share of rows from which a value can be a spike; None for no spikes.
            pack: allow more than one number a cell.
        """
        found, missing = numbers_in(series, column)
        values = found[~missing]
        spikes = () if spike is None else _spikes(values, spike * len(series))
        kept = values[~np.isin(values, np.array(spikes, dtype=values.dtype))] if spikes else values
        low, high = _bounds(column, values)
        rule = Rule(column=column, dtype=dtype_of(series, column), low=low, high=high, spikes=spikes, gap=gap)
        if kind_of(column) == "number":
            return cls(rule, _scale_of_numbers(kept, column, knots))
        return _whole(rule, kept, knots, pack)

    def fields(self, taken: set[str]) -> tuple[Field, ...]:
        state = fresh(f"{self.column.name} state", taken) if self._states > 1 else ""
        present = (state, 0) if state else None
        digits = ["fine", *(f"fine {k}" for k in range(2, len(self.rule.bases) + 1))][: len(self.rule.bases)]
        names = [self.column.name, *(fresh(f"{self.column.name} {digit}", taken) for digit in digits)]
        numbers = tuple(Field(name, Real((1,)), present) for name in names)
        return (Field(state, Tokens(self._states, 1)), *numbers) if state else numbers

    def write(self, series: pd.Series) -> list[Floats]:
        found, missing = numbers_in(series, self.column)
        state = np.zeros(len(found))
        for k, value in enumerate(self.rule.spikes):
            state[found == value] = k + 1
        if missing.any() and not self.rule.gap:
            raise BadInput(
                f"column '{self.column.name}' has {missing.sum():,} missing cells",
                accepted="no missing cells, as in training",
            )
        state[missing] = self._states - 1
        parts = [np.where(state == 0, part, 0.0) for part in self.scores(found)]
        return [state, *parts] if self._states > 1 else parts

    def scores(self, found: NDArray[Any]) -> list[Floats]:
        """The numbers of cells that are there: coarse, fine, finer."""
        if not self._whole:
            return [self.scale.scores(found)]
        if not self.rule.bases:
            return [self.scale.scores((found - self.rule.origin) / self.rule.step)]
        rest, digits = (found - self.rule.origin) // self.rule.step, []
        for base in reversed(self.rule.bases):
            rest, digit = np.divmod(rest, base)
            digits.append(((digit + 0.5) / base * 2.0 - 1.0) * ROOT3)
        return [self.scale.scores(rest), *reversed(digits)]

    def read(self, parts: Sequence[Floats], rows: int) -> pd.Series:
        state = np.zeros(rows, dtype=np.int64)
        if self._states > 1:
            state = np.rint(parts[0]).clip(0, self._states - 1).astype(np.int64)
        found = self.cells(parts[1:] if self._states > 1 else parts)
        for k, value in enumerate(self.rule.spikes):
            found[state == k + 1] = value
        missing = (state == self._states - 1) if self.rule.gap else np.zeros(rows, dtype=np.bool_)
        return series_of(found, missing, self.dtype)

    def cells(self, parts: Sequence[Floats]) -> NDArray[Any]:
        """The inverse of `scores`: int64 for whole numbers and dates, else float64; inside the bounds."""
        rule, column = self.rule, self.column
        near = self.scale.values(parts[0])
        if not self._whole:
            if column.step and column.low is not None:
                near = column.low + np.rint((near - column.low) / column.step) * column.step
            if column.decimals is not None:
                near = np.round(near, column.decimals)
            return near.clip(rule.low, rule.high) + 0.0  # no negative zero
        size = math.prod(rule.bases)
        first, last = -((rule.origin - rule.low) // rule.step), (rule.high - rule.origin) // rule.step
        steps = np.rint(near).clip(first // size, last // size).astype(np.int64)
        for base, part in zip(rule.bases, parts[1:], strict=True):
            steps = steps * base + np.floor((part / ROOT3 + 1.0) / 2.0 * base).clip(0, base - 1).astype(np.int64)
        return steps.clip(int(first), int(last)) * rule.step + rule.origin

    def log_volume(self, parts: Sequence[Floats], rows: int) -> Floats:
        there: Bools = np.rint(parts[0]) == 0 if self._states > 1 else np.ones(rows, dtype=np.bool_)
        log = self.scale.log_slope(parts[1] if self._states > 1 else parts[0]) - math.log(self.rule.step)
        log = log + sum(math.log(2.0 * ROOT3 / base) for base in self.rule.bases)
        return np.where(there, log + (math.log(DAY) if kind_of(self.column) == "date" else 0.0), 0.0)

    def plain(self) -> dict[str, Any]:
        return {"how": self.how, **to_plain(self.rule)}

    def tensors(self) -> dict[str, Tensor]:
        return {"knots": torch.from_numpy(self.scale.knots), "shares": torch.from_numpy(self.scale.shares)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Numbers:
        """The inverse of `plain` (without `how`) and `tensors`."""
        knots, shares = (stored_tensor(tensors, name, (None,)).numpy() for name in ("knots", "shares"))
        return cls(stored_settings(Rule, plain), Scale(knots, shares))


def _spikes(values: NDArray[Any], least: float) -> tuple[int | float, ...]:
    """Values that at least so many rows hold, and three times as many as the middle one of their neighbours."""
    unique, counts = np.unique(values, return_counts=True)
    found = []
    for at in np.flatnonzero(counts >= max(least, FEWEST)):
        around = np.r_[counts[max(0, at - NEIGHBOURS) : at], counts[at + 1 : at + 1 + NEIGHBOURS]]
        if counts[at] >= LIKE_ITS_NEIGHBOURS * np.median(around):
            found.append(unique[at].item())
    return tuple(found) if len(unique) - len(found) >= 2 else ()


def _bounds(column: Column, values: NDArray[Any]) -> tuple[int | float, int | float]:
    """Lowest and highest value of the training rows, or of the table they were taken from."""
    low, high = values.min().item(), values.max().item()
    if column.low is None or column.high is None:
        return low, high
    if kind_of(column) == "number":
        return min(low, column.low), max(high, column.high)
    unit = SECOND if kind_of(column) == "date" else 1
    if max(abs(column.low), abs(column.high)) * unit > 2.0**53:  # not exact as a float
        return low, high
    return min(low, round(column.low * unit)), max(high, round(column.high * unit))


def _scale_of_numbers(values: NDArray[Any], column: Column, knots: int) -> Scale:
    """The straightest part is added only until the column's own grid, or else the tolerance, is kept."""
    scales = [Scale.learn(values, knots, straight) for straight in STRAIGHT]
    size = scales[0].knots[-1] - scales[0].knots[0]
    exact = EXACT * (column.step or (10.0**-column.decimals if column.decimals is not None else 0.0))
    for limit in (exact, TOLERANCE * size):
        for scale in scales:
            if scale.coarseness() < limit:
                return scale
    return scales[-1]


def _whole(rule: Rule, values: NDArray[Any], knots: int, pack: bool) -> Numbers:
    """Whole numbers: one number when float32 tells the steps apart, else digits."""
    unit = SECOND if kind_of(rule.column) == "date" else 1
    origin, step = int(values.min()), max(1, round((rule.column.step or 1 / unit) * unit))
    if int(values.max()) - origin >= 2**62:
        raise BadInput(
            f"column '{rule.column.name}' runs from {origin} to {values.max()}",
            accepted="whole numbers less than 2^62 apart",
            next="Read it as a category",
        )
    if ((values - origin) % step).any():
        step = 1
    rule = replace(rule, origin=origin, step=step)
    steps = (values - origin) / step
    for straight in STRAIGHT:
        scale = Scale.learn(steps, knots, straight)
        if scale.coarseness() < EXACT or (not pack and straight == STRAIGHT[-1]):
            return Numbers(rule, scale)
    return _packed(rule, values, knots)


def _packed(rule: Rule, values: NDArray[Any], knots: int) -> Numbers:
    """Digits: dates into days and time of day, other numbers into about 2^17 coarse ones and the rest."""
    origin, step = rule.origin, rule.step
    bases: list[int] = []
    midnight = origin - origin % DAY // step * step
    days = kind_of(rule.column) == "date" and int(values.max()) - midnight >= DAY
    if days and (SECOND % step == 0 or (DAY % step == 0 and DAY // step <= FINE)):
        origin = midnight
        bases = [DAY // step] if DAY // step <= FINE else [DAY // SECOND, SECOND // step]
    else:
        left = -(-(int(values.max()) - origin) // step // COARSE) + 1
        while left > 1:
            bases.append(min(left, FINE))
            left = -(-left // FINE)
    return Numbers(
        replace(rule, origin=origin, bases=tuple(bases)),
        Scale.learn((values - origin) // step // math.prod(bases), knots, STRAIGHT[-1]),
    )
