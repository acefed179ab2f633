"""Which cells a user's words leave possible, and what of an event they fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pellucid.core.errors import BadInput, nearest
from pellucid.domains.arranged import Arrangement, Joined
from pellucid.domains.cells import Bools, Cells, Fixed, Symbols, kind_of, series_of
from pellucid.domains.columns import Column
from pellucid.domains.constraints import Order
from pellucid.domains.keys import Keys
from pellucid.domains.rulers import Numbers
from pellucid.domains.wishes import Others, fulfils, range_of

__all__ = ["check_orders", "fixed", "joint", "meeting", "never", "values_of"]

SHOWN = 12  # accepted values named in an error


def values_of(cells: Symbols) -> pd.Series:
    """(k,) the cell that each symbol stands for."""
    return cells.read([np.arange(cells.size, dtype=np.float64)], cells.size)


def meeting(cells: Cells, word: object) -> Bools:
    """(k,) bool: symbols that fulfil the word; (1,) for other columns: can a cell fulfil it?

    Raises BadInput for a word that no cell can fulfil.
    """
    column = cells.column
    if isinstance(cells, Keys):
        raise BadInput(
            f"'{column.name}' is an identifier",
            accepted="other columns",
            why="Identifiers are made anew for each row.",
            next=f"Fit with --column {column.name}=category if it is none.",
        )
    if isinstance(cells, Symbols):
        found = fulfils(values_of(cells), column, word)
        said = [str(v) for v in cells.values]
    elif isinstance(cells, Fixed):
        series = cells.read([], 1)
        found, said = fulfils(series, column, word), ["nothing" if cells.value is None else str(cells.value)]
    elif isinstance(cells, Numbers):
        found, said = np.array([_within(cells, word)]), _ends(cells)
    else:
        found, said = np.ones(1, dtype=np.bool_), []
    if not found.any():
        raise never(column, word, said)
    return found


def never(column: Column, word: object, said: Sequence[str]) -> BadInput:
    """The error for a word that no row of the training data fulfils."""
    came = f"{column.name} is missing" if word is None else f"{column.name} is '{word}'"
    more = f", ... ({len(said):,} values)" if len(said) > SHOWN else ""
    return BadInput(
        f"{came}, as no row of the training data is",
        accepted=", ".join(said[:SHOWN]) + more,
        next=nearest(str(word), said) if isinstance(word, str) else "",
    )


def _ends(cells: Numbers) -> list[str]:
    pair = np.array([cells.rule.low, cells.rule.high])
    shown = series_of(pair, np.zeros(2, np.bool_), cells.dtype)
    return [f"{shown.iloc[0]} to {shown.iloc[1]}" + (", or missing" if cells.rule.gap else "")]


def _within(cells: Numbers, word: object) -> bool:
    if word is None:
        return cells.rule.gap
    if isinstance(word, Others) or (isinstance(word, str) and word.startswith("!=")):
        return True
    low, high = range_of(cells.column, word)
    return low <= high and high >= cells.rule.low and low <= cells.rule.high


def fixed(cells: Cells, word: object) -> list[float] | None:
    """The numbers of the one cell that the word names, one a field; None where it names several."""
    if isinstance(cells, Symbols):
        found = np.flatnonzero(meeting(cells, word))
        return [float(found[0])] if len(found) == 1 else None
    if not isinstance(cells, Numbers) or not _within(cells, word):
        return None
    value = 0.0
    if word is not None:
        if isinstance(word, Others) or (isinstance(word, str) and word.lstrip()[:1] in "!<>="):
            return None
        low, high = range_of(cells.column, word)
        if isinstance(word, str) and ".." in word and low != high:
            return None
        if kind_of(cells.column) != "number" and low != high:
            return None
        value = (low + high) / 2 if low != high else low
    kind = np.float64 if cells.dtype == "float64" else np.int64
    series = series_of(np.array([value]).astype(kind), np.array([word is None]), cells.dtype)
    parts = [float(part[0]) for part in cells.write(series)]
    back = cells.read([np.array([part]) for part in parts], 1)
    return parts if fulfils(back, cells.column, word).all() else None


def joint(group: Joined, words: Mapping[str, object]) -> Bools:
    """(k,) bool: combinations that fulfil the words about their columns. Raises BadInput where none does."""
    numbers = np.array(group.combinations).reshape(-1, len(group.cells))
    found = np.ones(len(numbers), dtype=np.bool_)
    said: list[str] = []
    for j, cells in enumerate(group.cells):
        name = cells.column.name
        if name not in words:
            continue
        after = found & meeting(cells, words[name])[numbers[:, j]]
        if not after.any():
            values = values_of(cells)
            seen = list(dict.fromkeys(str(values[k]) for k in numbers[found, j]))
            raise BadInput(
                f"{name} is '{words[name]}' never occurs together with {', '.join(said)}",
                accepted=f"{name}: {', '.join(seen[:SHOWN])}" + (", ..." if len(seen) > SHOWN else ""),
                why=f"'{group.name}' was declared to hold only combinations that occur.",
            )
        found = after
        said.append(f"{name}={words[name]}")
    return found


def check_orders(arranged: Arrangement, where: Mapping[str, object]) -> None:
    """Raises BadInput for words about numbers that contradict a declared order."""
    for order in arranged.constraints:
        if not isinstance(order, Order) or any(where.get(n) is None for n in order.names):
            continue
        ends: list[tuple[float, float]] = []
        for side in (order.low, order.high):
            word = where[side] if isinstance(side, str) else None
            if isinstance(word, Others) or (isinstance(word, str) and word.startswith("!=")):
                break
            ends.append(range_of(arranged.by_name[side], word) if isinstance(side, str) else (side, side))
        if len(ends) == 2 and (ends[0][0] > ends[1][1] or (order.strict and ends[0][0] >= ends[1][1])):
            said = " and ".join(f"{n}={where[n]}" for n in order.names)
            raise BadInput(f"{said} break the constraint '{order.text}'", accepted="words that it allows")
