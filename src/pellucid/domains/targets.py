"""The column to be predicted: it leaves the event and becomes a condition, a symbol or a score on its own ruler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.domains.cells import Cells, Symbols, series_of
from pellucid.domains.rulers import Numbers
from pellucid.domains.stored import stored_settings, stored_tensor
from pellucid.domains.wishes import interval_of, level_of

__all__ = ["Target"]

QUANTILES = 1001  # of a numeric target's training scores, both ends included


@dataclass(frozen=True, kw_only=True)
class _Stored:
    name: str
    counts: tuple[int, ...]


class Target:
    """One column as a condition, and how often its values occurred.

    Args:
        cells: how its values are written.
        counts: (k,) training rows of each symbol; empty for a target on a ruler.
        quantiles: (Q,) evenly spaced quantiles of the training scores; empty for symbols.
    """

    def __init__(self, cells: Cells, counts: tuple[int, ...], quantiles: NDArray[np.float64]) -> None:
        if isinstance(cells, Symbols):
            fits = len(counts) == len(cells.values) >= 2 and min(counts) >= 0 < sum(counts) and not cells.gap
        else:
            fits = isinstance(cells, Numbers) and len(cells.fields(set())) == 1 and len(quantiles) >= 2
            fits = fits and bool((np.diff(quantiles) >= 0).all())
        if not fits or not isinstance(cells, (Symbols, Numbers)):
            raise BadInput(
                f"the target '{cells.column.name}' has fewer than two values, or is stored wrongly",
                accepted="a column with at least two different values",
            )
        self._cells, self._counts, self._quantiles = cells, counts, quantiles

    @classmethod
    def learn(cls, cells: Cells, seen: pd.Series) -> Target:
        """The frequencies of training cells, none of them missing."""
        if isinstance(cells, Symbols) and cells.values:
            symbol = cells.write(seen)[0].astype(np.int64)
            return cls(cells, tuple(np.bincount(symbol, minlength=cells.size).tolist()), np.zeros(0))
        quantiles = np.zeros(0)
        if isinstance(cells, Numbers):
            quantiles = np.quantile(cells.write(seen)[0], np.linspace(0.0, 1.0, QUANTILES))
        return cls(cells, (), quantiles)

    @property
    def cells(self) -> Symbols | Numbers:
        """How its values are written."""
        return self._cells

    @property
    def name(self) -> str:
        return self._cells.column.name

    @property
    def counts(self) -> tuple[int, ...]:
        """(k,) training rows of each symbol; empty for a target on a ruler."""
        return self._counts

    @property
    def space(self) -> Tokens | Real:
        return Tokens(self._cells.size, 1) if isinstance(self._cells, Symbols) else Real((1,))

    def write(self, series: pd.Series) -> tuple[Tensor, Tensor]:
        """(N, 1) values in the target's space, and (N,) bool: which cells are there."""
        given = series.notna().to_numpy(dtype=np.bool_)
        parts = np.zeros(len(series))
        parts[given] = self._cells.write(series[given])[0]
        return self._tensor(parts), torch.from_numpy(given.copy())

    def _tensor(self, parts: NDArray[np.float64]) -> Tensor:
        """(N,) to (N, 1) in the space's dtype."""
        dtype = torch.int64 if isinstance(self._cells, Symbols) else torch.float32
        return torch.from_numpy(parts).to(dtype)[:, None]

    def asked(self, word: object) -> int | float:
        """The symbol or score of one value in a user's words."""
        column = self._cells.column
        if isinstance(self._cells, Symbols):
            values = self._cells.values
            if isinstance(values[0], str):
                return values.index(level_of(column, word))
            low, high = interval_of(column, word)
            met = [k for k, value in enumerate(values) if low <= value <= high]  # type: ignore[operator]
            if not met:
                raise BadInput(f"{self.name} is '{word}'", accepted=", ".join(map(str, self._words())))
            return met[0]
        low, high = interval_of(column, word)
        if high < self._cells.rule.low or low > self._cells.rule.high:
            words = self._words()
            raise BadInput(f"{self.name} is '{word}'", accepted=f"{words[0]} to {words[-1]}, as in training")
        middle = np.array([low if self._cells.dtype == "datetime64[us]" else (low + high) / 2])
        return float(self._cells.scores(middle)[0][0])

    def _words(self) -> list[str]:
        """Accepted values as people write them: all symbols, or the two ends."""
        cells = self._cells
        ends = cells.values if isinstance(cells, Symbols) else (cells.rule.low, cells.rule.high)
        return [str(v) for v in series_of(np.array(ends), np.zeros(len(ends), np.bool_), cells.dtype)]

    def draw(self, rows: Rows) -> Tensor:
        """(B, 1) values at their training frequencies."""
        if isinstance(self._cells, Symbols):
            logits = torch.tensor(self._counts, dtype=torch.float64, device=rows.ids.device).log()
            return rows.categorical(logits.expand(len(rows), 1, -1))
        u = rows.uniform(dtype=torch.float64).cpu().numpy()
        scores = np.interp(u, np.linspace(0.0, 1.0, len(self._quantiles)), self._quantiles)
        return self._tensor(scores).to(rows.ids.device)

    def read(self, condition: Condition, rows: int) -> pd.Series:
        """The column for so many rows; missing where it is not given."""
        if self.name not in condition.values:
            values, given = np.zeros(rows), np.zeros(rows, dtype=np.bool_)
        else:
            values = condition.values[self.name][:, 0].detach().cpu().to(torch.float64).numpy()
            given = condition.given[self.name].cpu().numpy()
        series = self._cells.read([values], rows)
        if given.all():
            return series
        if self._cells.dtype in ("int64", "bool"):  # these cannot hold a missing cell
            series = series.astype("Int64" if self._cells.dtype == "int64" else "boolean")
        return series.mask(~given)

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "counts": list(self._counts)}

    def tensors(self) -> dict[str, Tensor]:
        return {"quantiles": torch.from_numpy(self._quantiles)} if len(self._quantiles) else {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor], cells: Cells) -> Target:
        counts = stored_settings(_Stored, plain).counts
        quantiles = stored_tensor(tensors, "quantiles", (None,)).numpy() if "quantiles" in tensors else np.zeros(0)
        return cls(cells, counts, quantiles)
