"""What can be measured on an item: a few plain numbers, so that a difference between two items has a name.

Pictures: brightness, contrast, size, place, slant and colour of what stands out from the ground, all by moments of the
picture. Tables: every column, categories as 0 or 1 for each common value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import MissingCapability
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures

if TYPE_CHECKING:
    from pellucid.model import Data

__all__ = ["Factors", "factors_for"]

Floats = NDArray[np.float64]
MOST_VALUES = 6  # of a category that are told apart; the commonest
INK = 0.25  # of the largest distance from the ground, from which on a pixel belongs to what is drawn


@dataclass(frozen=True, eq=False)
class Factors:
    """F numbers of an item.

    names: of the factors, in plain words. measure: N items to (N, F), NaN where an item has no such number.
    spread: (F,) standard deviation over real items, never 0.
    """

    names: tuple[str, ...]
    measure: Callable[[Data], Floats]
    spread: Floats


def factors_for(data: Data) -> Factors:
    """The factors of this kind of data, with their spread over these items.

    Raises:
        MissingCapability: neither pictures nor tables.

    >>> dark = Pictures(pixels=np.zeros((2, 4, 4, 1), np.uint8))
    >>> factors_for(dark).measure(dark)[0, 0]
    np.float64(0.0)
    """
    if isinstance(data, Pictures):
        names, measure = _of_pictures(data)
    elif isinstance(data, TableData):
        names, measure = _of_columns(data)
    else:
        raise MissingCapability(f"{type(data).__name__} has no simple factors here", accepted="pictures and tables")
    values = measure(data)
    known = np.where(np.isfinite(values), values, np.nan)
    with np.errstate(invalid="ignore"):
        spread = np.array([np.nanstd(v) if np.isfinite(v).any() else 1.0 for v in known.T])
    return Factors(names, measure, np.where(spread > 1e-9, spread, 1.0))


def _of_pictures(data: Pictures) -> tuple[tuple[str, ...], Callable[[Data], Floats]]:
    names = ["brightness", "contrast", "size", "place across", "place down", "width", "height", "slant"]
    colour = data.pixels.shape[3] == 3
    names += ["redness", "greenness", "blueness"] if colour else []

    def measure(items: Data) -> Floats:
        assert isinstance(items, Pictures)
        return picture_moments(items.pixels.astype(np.float64) / (items.levels - 1))

    return tuple(names), measure


def picture_moments(x: Floats) -> Floats:
    """x (N, H, W, C) from 0 to 1 to (N, 8), or (N, 11) with colours.

    Brightness is the mean, contrast the spread; the ground is the median of the border, and what is drawn is whatever
    lies away from it. Size is the share of the picture it covers; place, width and height are its centre and spreads
    in shares of a side; slant is how far its columns shift from row to row, cov(x, y) / var(y). A colour is the mean
    of its channel over what is drawn, less the mean of the others.
    """
    n, height, width, channels = x.shape
    border = np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], axis=1)
    away = np.abs(x - np.median(border, axis=1)[:, None, None]).mean(axis=3)  # (N, H, W)
    peak = away.max(axis=(1, 2), keepdims=True)
    ink = np.where(away >= INK * np.maximum(peak, 1e-9), away, 0.0) / np.maximum(peak, 1e-9)
    total = ink.sum(axis=(1, 2))
    safe = np.where(total > 0, total, np.nan)
    across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    cx, cy = ink.sum(axis=1) @ across / safe, ink.sum(axis=2) @ down / safe
    dx, dy = across[None] - cx[:, None], down[None] - cy[:, None]
    vx = (ink.sum(axis=1) * dx**2).sum(axis=1) / safe
    vy = (ink.sum(axis=2) * dy**2).sum(axis=1) / safe
    both = np.einsum("nhw,nh,nw->n", ink, dy, dx) / safe
    slant = np.divide(-both, vy, out=np.full(n, np.nan), where=np.nan_to_num(vy) > 1e-9)
    found = [x.mean(axis=(1, 2, 3)), x.std(axis=(1, 2, 3)), total / (height * width), cx, cy]
    found += [np.sqrt(np.maximum(vx, 0.0)), np.sqrt(np.maximum(vy, 0.0)), slant]
    if channels == 3:
        mean = np.einsum("nhw,nhwc->nc", ink, x) / safe[:, None]
        found += [mean[:, k] - (mean.sum(axis=1) - mean[:, k]) / 2 for k in range(3)]
    return np.stack(found, axis=1)


def _of_columns(data: TableData) -> tuple[tuple[str, ...], Callable[[Data], Floats]]:
    plan: list[tuple[str, str | None]] = []
    for column in data.columns:
        if column.kind in ("number", "integer"):
            plan.append((column.name, None))
        elif column.kind in ("category", "boolean"):
            common = data.frame[column.name].dropna().astype(str).value_counts().index[:MOST_VALUES]
            plan += [(column.name, str(value)) for value in common]
    if not plan:
        raise MissingCapability("no column of this table holds numbers or categories", accepted="one that does")

    def measure(items: Data) -> Floats:
        assert isinstance(items, TableData)
        return np.stack([_read(items.frame[name], value) for name, value in plan], axis=1)

    return tuple(name if value is None else f"{name} = {value}" for name, value in plan), measure


def _read(series: Any, value: str | None) -> Floats:
    if value is None:
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    return np.asarray([str(v) == value for v in series.astype(object)], dtype=np.float64)
