"""Molecules as events: SMILES strings, each symbol (an atom, a bond, a ring number, a bracket) a token, that end.

A codec of molecules is one of texts whose items are molecules: what goes on with, scores or explains a list of strings
does so with molecules too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Condition
from pellucid.core.codec import Domain
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.smiles import read_smiles
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import TextCodec

__all__ = ["MoleculeCodec", "Molecules"]


@dataclass(frozen=True, kw_only=True)
class Molecules(Domain[TextData]):
    """Settings of the molecule domain: it has none. Symbols that occur get a token each, the most frequent first."""

    kind = "molecules"

    def learn(self, items: TextData) -> MoleculeCodec:
        """A codec for strings of these symbols, and as long as the longest of them."""
        if not len(items):
            raise BadInput("there is no molecule", accepted="at least one item")
        counts = np.zeros(len(items.pieces), np.int64)
        for start, size in zip(items.starts.tolist(), items.lengths.tolist(), strict=True):
            counts += np.bincount(items.codes[start : start + size], minlength=len(counts))
        order = np.lexsort((np.arange(len(counts)), -counts))
        pieces = tuple(items.pieces[i] for i in order.tolist() if counts[i])
        return MoleculeCodec("lines", "symbols", items.window + 1, pieces)


class MoleculeCodec(TextCodec):
    """The codec of texts, of which each item is a molecule or was meant to be one.

    >>> from pellucid.domains.molecule_files import molecules_of
    >>> codec = Molecules().learn(molecules_of(["CCBr", "CC"]))
    >>> codec.space, codec.pieces
    (Tokens(vocab=4, length=4, ends=True), ('C', 'Br'))
    """

    kind = "molecules"

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> MoleculeData:
        """One string a row, whether it is a molecule or not."""
        found = super().decode(x, condition, rows)
        return MoleculeData(**{f.name: getattr(found, f.name) for f in fields(found)})

    def show(self, items: TextData, limit: int = 64) -> report.Code:
        """The strings, with what is wrong with those that are no molecules."""
        return report.Code("\n".join(_said(text) for text in items.texts(limit)))


def _said(text: str) -> str:
    try:
        read_smiles(text)
    except BadInput as error:
        return f"{text}    no molecule: {error.came.partition(' has ')[2].removeprefix(', ')}"
    return text
