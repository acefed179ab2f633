"""Circular fingerprints of molecules: which surroundings of atoms occur, as bits.

Each atom begins with a number made of what it is; in each round it takes up the numbers of its neighbours and of the
bonds to them, as Morgan 1965 (https://doi.org/10.1021/c160017a018) refined atoms; every number that comes up sets a
bit. Extended-connectivity fingerprints, Rogers & Hahn 2010, https://doi.org/10.1021/ci100050t: surroundings that hold
the same bonds as ones seen before set no bit of their own. The hash is ours (CRC-32), so bits differ from those of
other programs, and similarities hardly do.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pellucid.core.smiles import Molecule

__all__ = ["circular", "fingerprints", "similarities"]

RADIUS = 2
BITS = 1024
ROWS = 1000  # compared at once


def circular(molecule: Molecule, radius: int = RADIUS) -> set[int]:
    """The numbers of all surroundings of up to `radius` bonds around each atom.

    >>> from pellucid.core.smiles import read_smiles
    >>> len(circular(read_smiles("CC"))), circular(read_smiles("OCC")) == circular(read_smiles("CCO"))
    (2, True)
    """
    near = molecule.neighbours()
    kinds = [5 if soft else order for soft, (_, _, order) in zip(molecule.delocalised, molecule.bonds, strict=True)]
    numbers = []
    for i, others in enumerate(near):
        ringed = any(molecule.rings[k] for _, k in others)
        bonds = sum(molecule.bonds[k][2] for _, k in others)
        what = (len(others), bonds, molecule.elements[i], molecule.isotopes[i], molecule.charges[i])
        numbers.append(_hash(what, molecule.hydrogens[i], ringed))
    found = set(numbers)
    around = [0] * len(numbers)  # bonds of each atom's surroundings, as bits
    seen = {0}
    for turn in range(1, radius + 1):
        fresh, wider = [], []
        for i, others in enumerate(near):
            reach = around[i]
            for other, k in others:
                reach |= around[other] | 1 << k
            fresh.append(_hash(turn, numbers[i], sorted((kinds[k], numbers[other]) for other, k in others)))
            wider.append(reach)
        # of equal surroundings the smallest number stands for all, whatever the order of the atoms
        for reach, number in sorted(zip(wider, fresh, strict=True)):
            if reach not in seen:
                seen.add(reach)
                found.add(number)
        numbers, around = fresh, wider
    return found


def fingerprints(molecules: Sequence[Molecule], *, radius: int = RADIUS, bits: int = BITS) -> NDArray[np.bool_]:
    """(N, bits): the surroundings of each molecule, folded into so many bits."""
    out = np.zeros((len(molecules), bits), bool)
    for row, molecule in enumerate(molecules):
        out[row, [number % bits for number in circular(molecule, radius)]] = True
    return out


def similarities(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) the mean Tanimoto similarity of each row of the first (N, bits) to all of the second (M, bits).

    |a and b| / |a or b|, Rogers & Tanimoto 1960, https://doi.org/10.1126/science.132.3434.1115

    >>> similarities(np.array([[True, True, False]]), np.array([[True, False, False], [False, False, True]]))
    array([0.25])
    """
    other = second.astype(np.float32).T
    sizes = second.sum(1)
    out = np.empty(len(first))
    for at in range(0, len(first), ROWS):
        some = first[at : at + ROWS]
        both = some.astype(np.float32) @ other
        either = some.sum(1)[:, None] + sizes[None, :] - both
        out[at : at + ROWS] = (both / np.maximum(either, 1)).mean(1)
    return out


def _hash(*what: object) -> int:
    return zlib.crc32(repr(what).encode())
