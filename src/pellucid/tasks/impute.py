"""Missing cells of a table, drawn from what the model says of them given all cells of the row that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pellucid.core.capabilities import How, Samples, Unmasks
from pellucid.core.codec import Carries
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed, Run
from pellucid.core.space import Mixed
from pellucid.domains.frames import TableData
from pellucid.domains.tables import TableCodec
from pellucid.drawing.sampler import device_of
from pellucid.model import Fitted
from pellucid.solvers.known import complete

__all__ = ["Imputed", "impute"]

TRIES = 50  # a model also draws "missing" where training rows had missing cells; such a row is drawn again


@dataclass(frozen=True, eq=False)
class Imputed:
    """A table whose missing cells were filled.

    Args:
        items: the table, every cell that was there unchanged. filled: how many cells of each column were filled.
        left: how many of each column are still missing. notices: the same in words.
    """

    items: TableData
    filled: dict[str, int]
    left: dict[str, int]
    seed: int
    notices: tuple[Noticed, ...]


def impute(
    model: Fitted,
    items: TableData,
    *,
    seed: int = 0,
    how: How | None = None,
    batch: int = 500,
    run: Run | None = None,
) -> Imputed:
    """Fill missing cells by draws from p(missing | present), row by row.

    Several missing cells of a row are drawn together, one given the other, so that they fit each other. A draw is
    one of many: fill the table with several seeds to see how sure the model is (Rubin 1987, multiple imputation).
    Cells of the target and of identifiers stay missing, since the model does not model them.

    Args:
        items: rows with the model's columns; others are kept as they are. how: the engine's own settings.

    Raises:
        MissingCapability: the engine cannot fill any cells given any others, or columns are bound by constraints.
        BadInput: no table, or one that lacks columns of the model.
    """
    run, codec, bridge = run or Run(), model.codec, model.bridge
    engine = model.need(Unmasks, "fill any cells given any others")
    if not isinstance(codec, TableCodec) or not isinstance(bridge, Carries) or not isinstance(codec.space, Mixed):
        raise MissingCapability("the model is not one of tables", accepted="a model that was fitted on a table")
    if not isinstance(items, TableData):
        raise BadInput(f"items are {type(items).__name__}", accepted="a table, as pl.read gives it")
    if codec.constraints:
        raise MissingCapability(
            f"the model keeps {', '.join(codec.constraints)}",
            accepted="a model without constraints",
            why="A cell that is filled alone could break them.",
        )
    if batch < 1:
        raise BadInput(f"batch is {batch}", accepted="a whole number of at least 1")
    how = how or (engine.settings() if isinstance(engine, Samples) else How())
    columns = [c.name for c in codec.columns if c.name != codec.target and codec.fields(c.name)]
    lacking = [name for name in columns if name not in items.frame.columns]
    if lacking:
        raise BadInput(f"the table has no column '{lacking[0]}'", accepted=f"the model's columns: {', '.join(columns)}")
    gone = items.frame[columns].isna().to_numpy(dtype=np.bool_)  # (N, C)
    frame, open_ = items.frame.copy(), np.flatnonzero(gone.any(axis=1))
    known = _known(model, codec, bridge, columns, gone)
    whole = _with_any_values(model, items, columns, gone)
    device = device_of(engine)
    engine.eval()
    for attempt in range(TRIES):
        still = []
        for at in range(0, len(open_), batch):
            here = open_[at : at + batch]
            rows = Rows(seed, torch.from_numpy(here)).fork("impute", attempt)
            part = whole.take(here)
            y = bridge.there(codec.encode(part), rows.fork("bridge")).to(device)
            condition = codec.known(items.take(here)).to(device)
            with torch.no_grad():
                done = complete(engine, y, known[here].to(device), condition, rows.fork("sample").to(device), how)
            drawn = model.decode(done.x.cpu(), condition.to("cpu"), rows)
            assert isinstance(drawn, TableData)
            there = drawn.frame[columns].notna().to_numpy(dtype=np.bool_)
            # cells of one draw belong together; a part of a draw is better than nothing only at the end
            whole_row = (there | ~gone[here]).all(axis=1) | (attempt == TRIES - 1)
            for c, name in enumerate(columns):
                fits = gone[here, c] & there[:, c] & whole_row
                if fits.any():
                    frame.loc[here[fits], name] = drawn.frame[name][fits].to_numpy()
            still.append(here[frame.loc[here, columns].isna().to_numpy(dtype=np.bool_).any(axis=1)])
        open_ = np.concatenate(still) if still else open_[:0]
        if not len(open_):
            break
    counts = gone.sum(axis=0)
    left = {name: int(frame[name].isna().sum()) for name in columns if frame[name].isna().any()}
    filled = {name: int(n) - left.get(name, 0) for name, n in zip(columns, counts, strict=True) if n}
    said = [
        Noticed(
            topic="imputed", text=f"{sum(filled.values()):,} missing cells were filled.", count=sum(filled.values())
        )
    ]
    if left:
        each = ", ".join(f"{name} {n:,}" for name, n in left.items())
        said.append(
            Noticed(topic="missing", text=f"Still missing, as the model says so: {each}.", count=sum(left.values()))
        )
    for notice in said:
        run.emit(notice)
    return Imputed(replace(items, frame=frame), filled, left, seed, tuple(said))


def _known(model: Fitted, codec: TableCodec, bridge: Carries, columns: Sequence[str], gone: np.ndarray) -> Tensor:
    """(N, T) bool: positions of the engine's events that the cells which are there decide."""
    assert isinstance(codec.space, Mixed)
    patterns, which = np.unique(gone, axis=0, return_inverse=True)
    masks = []
    for pattern in patterns:
        fields = {f.name for name, out in zip(columns, pattern, strict=True) if out for f in codec.fields(name)}
        each = [torch.full((f.space.size,), f.name not in fields) for f in codec.space.fields]
        masks.append(bridge.carry(torch.cat(each)))
    if not masks:
        return torch.zeros(0, *model.bridge.target.shape, dtype=torch.bool)
    return torch.stack(masks)[torch.from_numpy(which.reshape(-1))]


def _with_any_values(model: Fitted, items: TableData, columns: Sequence[str], gone: np.ndarray) -> TableData:
    """The table with something in every missing cell, which nobody reads: a column may have had none in training."""
    frame = items.frame.copy()
    drawn = model.sample(64, seed=0).items
    assert isinstance(drawn, TableData)
    for c, name in enumerate(columns):
        if not gone[:, c].any():
            continue
        there = drawn.frame[name].dropna()
        if len(there):
            frame.loc[gone[:, c], name] = there.iloc[0]
    return replace(items, frame=frame)
