"""Identifiers take no part in an event: they are left out when rows are written, and made anew when rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.settings import to_plain
from pellucid.core.space import Field
from pellucid.domains.cells import Cells, Dtype, series_of
from pellucid.domains.columns import Column
from pellucid.domains.identifiers import Form, form_of_numbers, form_of_texts
from pellucid.domains.scales import Floats

__all__ = ["Keys"]


@dataclass(frozen=True, kw_only=True)
class Keys(Cells):
    """A column of identifiers.

    form: how new ones are made. What stood in the training rows is not kept, but for the largest number.
    """

    how = "keys"

    column: Column
    dtype: Dtype
    form: Form

    def __post_init__(self) -> None:
        if (self.dtype == "str") == (self.form.how == "number") or self.dtype not in ("str", "int64"):
            raise BadInput(
                f"identifier '{self.column.name}' is {self.dtype} in the form {self.form.how}",
                accepted="int64 as numbers, or text",
            )

    @classmethod
    def learn(cls, column: Column, series: pd.Series) -> Keys:
        """The form of these identifiers."""
        if series.dtype.kind == "i":
            return cls(column=column, dtype="int64", form=form_of_numbers(int(series.max())))
        return cls(column=column, dtype="str", form=form_of_texts(series.tolist(), column.name))

    def fields(self, taken: set[str]) -> tuple[Field, ...]:
        return ()

    def write(self, series: pd.Series) -> list[Floats]:
        """Nothing: any identifier is left out."""
        return []

    def made(self, rows: Rows) -> pd.Series:
        """One identifier for each row, a function of the draw's seed and the row's name."""
        values = [self.form.made(rows.seed, row) for row in rows.ids.tolist()]
        kind: Any = np.int64 if self.dtype == "int64" else object
        return series_of(np.array(values, dtype=kind), np.zeros(len(values), np.bool_), self.dtype)

    def read(self, parts: Sequence[Floats], rows: int) -> pd.Series:
        """The first identifiers of the form."""
        values = [self.form.made(0, row) for row in range(rows)]
        kind: Any = np.int64 if self.dtype == "int64" else object
        return series_of(np.array(values, dtype=kind), np.zeros(rows, np.bool_), self.dtype)

    def log_volume(self, parts: Sequence[Floats], rows: int) -> Floats:
        return np.zeros(rows)

    def plain(self) -> dict[str, Any]:
        return {"how": self.how, **to_plain(self)}

    def tensors(self) -> dict[str, Tensor]:
        return {}
