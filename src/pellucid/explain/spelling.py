"""Items of any kind as rows of numbered symbols, so that runs of one can be looked up in others.

A string is spelled in its characters, a text of the text domain in its own pieces, a row of a table in its cells from
the first column to the last, and whole numbers are symbols already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.domains.frames import TableData
from pellucid.domains.pictures import Pictures
from pellucid.domains.pieces import joined, visible
from pellucid.domains.text_files import TextData
from pellucid.explain.places import cell_in_words

__all__ = ["Sequences", "Spelling", "spelling_of"]

Whole = NDArray[np.int64]
Sequences: TypeAlias = "Sequence[str] | Sequence[NDArray[np.integer[Any]]] | TextData | TableData"


@dataclass(frozen=True, eq=False)
class Spelling:
    """How items become symbols, and symbols text.

    unit: what a symbol is, in the plural. write: items to one (m,) row of symbols each, -1 for what was never seen.
    read: (k,) symbols as people read them. private: items are about somebody, so those trained on are not shown.
    training: the items that were spelled first, windows of one text joined where they meet; see `names`.
    names: what each of them is called.
    """

    unit: str
    write: Callable[[Any], list[Whole]]
    read: Callable[[Whole], str]
    training: list[Whole]
    names: tuple[str, ...]
    private: bool = False


def spelling_of(items: Sequences, names: Sequence[int] | None = None) -> Spelling:
    """The spelling that these items, the training items, need.

    Args:
        names: number of each item, as the user counts them; 0, 1, 2, ... when None.

    >>> spelling = spelling_of(["to be", "or not"])
    >>> spelling.names, spelling.read(spelling.write(["bet"])[0])
    (('item 0', 'item 1'), 'bet')
    """
    numbers = range(len(items)) if names is None else names
    called = tuple(f"item {k}" for k in numbers)
    if isinstance(items, TextData):
        return _of_text(items, called)
    if isinstance(items, TableData):
        return _of_table(items, tuple(f"row {k}" for k in numbers))
    if isinstance(items, Pictures):
        raise MissingCapability(
            "a picture is no row of symbols",
            accepted="texts, strings, rows of a table, or whole numbers",
            why="Runs of equal pixels in reading order say little about copying.",
        )
    if isinstance(items, str) or not len(items):
        raise BadInput("one string came" if isinstance(items, str) else "no items came", accepted="a list of items")
    if all(isinstance(item, str) for item in items):
        return Spelling("characters", _points, lambda s: "".join(map(chr, s.tolist())), _points(items), called)
    return Spelling("symbols", _numbers, lambda s: " ".join(map(str, s.tolist())), _numbers(items), called)


def _points(texts: Sequence[Any]) -> list[Whole]:
    """The code points of each string."""
    if not all(isinstance(text, str) for text in texts):
        raise BadInput("an item is no string", accepted="strings, as in training")
    return [np.frombuffer(t.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64) for t in texts]


def _numbers(rows: Sequence[Any]) -> list[Whole]:
    """Whole numbers as they are."""
    for row in rows:
        if isinstance(row, str) or np.ndim(row) != 1 or np.asarray(row).dtype.kind not in "iu":
            raise BadInput(f"an item is a {type(row).__name__}", accepted="strings, or rows of whole numbers")
    return [np.asarray(row, dtype=np.int64) for row in rows]


def _of_text(items: TextData, called: tuple[str, ...]) -> Spelling:
    """Pieces in the numbering of the training text; windows that meet become one stretch."""
    number = {piece: k for k, piece in enumerate(items.pieces)}

    def write(others: TextData) -> list[Whole]:
        if others.unit != items.unit:
            raise BadInput(f"the text is cut into {others.unit}", accepted=f"{items.unit}, as in training")
        codes = others.codes.astype(np.int64)
        if others.pieces:
            codes = np.array([number.get(piece, -1) for piece in others.pieces], np.int64)[codes]
        return [codes[s : s + n] for s, n in zip(others.starts.tolist(), others.lengths.tolist(), strict=True)]

    def read(symbols: Whole) -> str:
        return visible(joined(symbols, items.pieces, items.unit))

    if items.form == "lines":
        return Spelling(items.unit, write, read, write(items), called)
    joint = _stretches(items)
    names = tuple(f"the text from its {items.unit[:-1]} {int(s):,} on" for s in joint.starts)
    return Spelling(items.unit, write, read, write(joint), names)


def _stretches(items: TextData) -> TextData:
    """The parts of a running text that windows cover, each as one item."""
    order = np.argsort(items.starts, kind="stable")
    starts, ends = items.starts[order], np.maximum.accumulate((items.starts + items.lengths)[order])
    first = np.concatenate(([True], starts[1:] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    found = starts[first]
    return TextData(
        codes=items.codes,
        pieces=items.pieces,
        starts=found,
        lengths=ends[last] - found,
        form=items.form,
        unit=items.unit,
        source=items.source,
    )


def _of_table(items: TableData, called: tuple[str, ...]) -> Spelling:
    """Each different value of each column is a symbol."""
    columns = [c.name for c in items.columns]
    number: dict[tuple[str, str], int] = {}
    texts: list[str] = []

    def cells(others: TableData) -> list[list[tuple[str, str]]]:
        missing = [name for name in columns if name not in others.frame.columns]
        if missing:
            raise BadInput(f"the table has no column '{missing[0]}'", accepted=", ".join(columns))
        said = [[(name, cell_in_words(value)) for value in others.frame[name].astype(object)] for name in columns]
        return [list(row) for row in zip(*said, strict=True)]

    rows = cells(items)
    for row in rows:
        for cell in row:
            if number.setdefault(cell, len(texts)) == len(texts):
                texts.append(f"{cell[0]} = {cell[1]}")

    def write(others: TableData) -> list[Whole]:
        found = rows if others is items else cells(others)
        return [np.array([number.get(cell, -1) for cell in row], np.int64) for row in found]

    return Spelling("cells", write, lambda s: ", ".join(texts[k] for k in s.tolist()), write(items), called, True)
