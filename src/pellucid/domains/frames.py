"""Tables as they come: a CSV, TSV or Parquet file or a data frame becomes one normalised frame with its columns' kinds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.core.run import Noticed
from pellucid.domains.columns import Column

__all__ = ["TableData"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TableData:
    """A table, read and normalised but not encoded.

    frame: N rows, one dtype for each kind of column (see `Column`), index 0 to N - 1.
    columns: what was found out about each column of the frame, in its order.
    notices: what was inferred, converted or skipped while reading.
    source: a short label of where it came from.
    target: the column to be predicted, when one was named.
    """

    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notices: tuple[Noticed, ...] = ()
    source: str = "table"
    target: str | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, index: NDArray[np.integer] | list[int]) -> TableData:
        """The rows at these positions, in this order; `columns` still describe the table they were taken from."""
        return replace(self, frame=self.frame.iloc[np.asarray(index, dtype=np.int64)].reset_index(drop=True))

    def fingerprint(self) -> str:
        """sha256 over names, kinds and values: equal for equal data, wherever it was read from."""
        digest = hashlib.sha256(f"{len(self.frame)}".encode())
        for column in self.columns:
            digest.update(f"{len(column.name)}:{column.name}:{column.kind};".encode())
            codes, values = pd.factorize(self.frame[column.name])
            digest.update(codes.astype("<i8").tobytes())
            for value in values:
                text = repr(float(value)) if column.kind in ("number", "integer") else str(value)
                digest.update(f"{len(text)}:{text}".encode())
        return digest.hexdigest()
