"""Pieces of a text: characters, bytes, words or symbols, as numbers and back; joined, the pieces are the text again.

Symbols are those of SMILES strings: atoms such as Br, Cl and [nH], bonds, ring numbers, brackets of branches.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.smiles import ATOM

__all__ = ["UNITS", "Unit", "cut", "joined", "visible"]

Unit: TypeAlias = Literal["characters", "bytes", "words", "symbols", "tokens"]  # tokens: cut by a model's own tokenizer
UNITS: tuple[Unit, ...] = ("characters", "bytes", "words", "symbols")
CHUNK = 2**22  # characters that are numbered at once
# a word takes the space before it along, so that words joined are the text; newlines and signs stand alone
WORD = re.compile(r" ?\w{1,40}(?:['’]\w{1,8})?| ?[^\w\s]|\n|[^\S\n]{1,16}")
SYMBOL = re.compile(rf"{ATOM}|%\d\d|.", re.DOTALL)


def cut(text: str, unit: Unit) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """The number of each piece (n,), and what each number stands for; bytes stand for themselves.

    >>> codes, pieces = cut("to be, to do", "words")
    >>> codes.tolist(), pieces
    ([0, 1, 2, 3, 4], ('to', ' be', ',', ' to', ' do'))
    >>> cut("abba", "characters")[0].tolist()
    [0, 1, 1, 0]
    """
    if unit == "tokens":
        raise BadInput("unit is 'tokens'", accepted=", ".join(UNITS), why="Only the model that has them can cut them.")
    if unit == "bytes":
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8), ()
    if unit in ("words", "symbols"):
        cutting = WORD if unit == "words" else SYMBOL
        numbers: dict[str, int] = {}
        found = (numbers.setdefault(match.group(), len(numbers)) for match in cutting.finditer(text))
        codes = np.fromiter(found, np.int32)
        return codes, tuple(numbers)
    parts = [_points(text[at : at + CHUNK]) for at in range(0, len(text), CHUNK)]
    seen = np.zeros(0x110000, dtype=bool)
    for part in parts:
        seen[part] = True
    points = np.flatnonzero(seen)
    rank = np.cumsum(seen, dtype=np.int32) - 1
    kind = np.uint8 if len(points) <= 2**8 else np.uint16 if len(points) <= 2**16 else np.int32
    codes_of = [rank[part].astype(kind) for part in parts]
    return np.concatenate(codes_of or [np.zeros(0, kind)]), tuple(map(chr, points.tolist()))


def joined(codes: NDArray[np.integer], pieces: tuple[str, ...], unit: Unit) -> str:
    """The text of these pieces; bytes that are no UTF-8 are kept as surrogates, see `visible`."""
    if unit == "bytes":
        return codes.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape")
    return "".join([pieces[code] for code in codes.tolist()])


def visible(text: str) -> str:
    r"""The text as it can be written: bytes that are no UTF-8 become the replacement character.

    >>> visible("a\udcff")
    'a\ufffd'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _points(text: str) -> NDArray[np.uint32]:
    """Code points (n,), in four bytes each for a moment only."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
