"""What two molecules have in common: whether they are the same one, their fragments, their scaffolds.

Keys are numbers made of the graph and not of the string, so that one molecule has one key however it is written. They
leave out where double bonds were placed, as the main layer of an InChI does (Heller et al. 2015,
https://doi.org/10.1186/s13321-015-0068-4): atoms are told apart by element, charge, isotope and hydrogens. Colours of
atoms are refined by those of their neighbours until nothing changes (Weisfeiler & Leman 1968; Shervashidze et al. 2011,
https://www.jmlr.org/papers/v12/shervashidze11a.html), and each bond carries the size of the smallest ring it lies in,
which tells apart what refinement alone cannot, such as two rings of five from one of ten with a bridge. Handedness is
left out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

import numpy as np

from pellucid.core.smiles import Molecule

__all__ = ["cosine", "fragments", "key_of", "ring_sizes", "scaffold"]

Neighbours: TypeAlias = list[list[tuple[int, int]]]


def key_of(molecule: Molecule) -> int:
    """A number that is the same for every way to write a molecule.

    >>> from pellucid.core.smiles import read_smiles
    >>> key_of(read_smiles("OCC")) == key_of(read_smiles("C(O)C")) != key_of(read_smiles("COC"))
    True
    >>> key_of(read_smiles("c1ccccc1O")) == key_of(read_smiles("OC1=CC=CC=C1"))
    True
    """
    near = molecule.neighbours()
    return _refined(_colours(molecule, near), near, ring_sizes(molecule, near), range(len(molecule)))


def fragments(molecule: Molecule) -> list[int]:
    """Keys of the pieces that are left when single bonds outside rings are cut where one of their atoms is in a ring.

    Ring systems and the chains between them; a piece remembers at how many places it was cut.

    >>> from pellucid.core.smiles import read_smiles
    >>> len(fragments(read_smiles("c1ccccc1CCC1CC1"))), len(fragments(read_smiles("CCO")))
    (3, 1)
    """
    near, sizes = molecule.neighbours(), None
    ringed = [any(molecule.rings[k] for _, k in others) for others in near]
    cut = {
        k
        for k, (a, b, order) in enumerate(molecule.bonds)
        if order == 1 and not molecule.rings[k] and (ringed[a] or ringed[b])
    }
    sizes = ring_sizes(molecule, near)
    colours = _colours(molecule, near)
    kept: Neighbours = [[(b, k) for b, k in others if k not in cut] for others in near]
    return [_refined(colours, kept, sizes, piece) for piece in _pieces(kept)]


def scaffold(molecule: Molecule) -> int | None:
    """The key of a molecule's rings, what joins them, and atoms bound to those by double bonds; None without a ring.

    Bemis & Murcko 1996, https://doi.org/10.1021/jm9602928. Hydrogens do not count, orders of bonds do.
    """
    if not any(molecule.rings):
        return None
    near = molecule.neighbours()
    degree = [len(others) for others in near]
    gone: set[int] = set()
    waiting = [atom for atom, n in enumerate(degree) if n <= 1]
    while waiting:
        atom = waiting.pop()
        gone.add(atom)
        for other, _ in near[atom]:
            degree[other] -= 1
            if degree[other] == 1 and other not in gone:
                waiting.append(other)
    core = [atom for atom in range(len(molecule)) if atom not in gone]
    inside = set(core)
    beside = {
        other
        for atom in core
        for other, k in near[atom]
        if other not in inside and molecule.bonds[k][2] == 2 and not molecule.delocalised[k]
    }
    chosen = inside | beside
    kept: Neighbours = [[(b, k) for b, k in others if b in chosen] for others in near]
    sizes = ring_sizes(molecule, near)
    labels = [
        size * 8 + (5 if soft else order)
        for size, soft, (_, _, order) in zip(sizes, molecule.delocalised, molecule.bonds, strict=True)
    ]
    colours = [hash((_number(e), c)) for e, c in zip(molecule.elements, molecule.charges, strict=True)]
    return _refined(colours, kept, labels, sorted(chosen))


def cosine(first: Iterable[int], second: Iterable[int]) -> float:
    """Cosine of the angle between how often things occur here and there, 1 for the same shares, 0 for none in common.

    >>> cosine([1, 1, 2], [2, 1, 1]), cosine([1], [2])
    (1.0, 0.0)
    """
    a, b = Counter(first), Counter(second)
    length = float(np.sqrt(_dot(a, a) * _dot(b, b)))
    return _dot(a, b) / length if length else 0.0


def _dot(a: Mapping[int, int], b: Mapping[int, int]) -> float:
    return float(sum(count * b[key] for key, count in a.items() if key in b))


def ring_sizes(molecule: Molecule, near: Neighbours) -> list[int]:
    """Of each bond, atoms of the smallest ring it lies in; 0 outside rings."""
    sizes = [0] * len(molecule.bonds)
    for k, (a, b, _) in enumerate(molecule.bonds):
        if not molecule.rings[k]:
            continue
        far = {a: 1}
        waiting = deque([a])
        while b not in far:
            here = waiting.popleft()
            for other, j in near[here]:
                if j != k and other not in far and molecule.rings[j]:
                    far[other] = far[here] + 1
                    waiting.append(other)
        sizes[k] = far[b]
    return sizes


def _colours(molecule: Molecule, near: Neighbours) -> list[int]:
    rows = zip(molecule.elements, molecule.charges, molecule.isotopes, molecule.hydrogens, near, strict=True)
    return [hash((_number(e), c, i, h, len(others))) for e, c, i, h, others in rows]


def _number(element: str) -> int:
    """A number that does not depend on how Python hashes strings."""
    return int.from_bytes(element.encode(), "big")


def _refined(colours: list[int], near: Neighbours, labels: list[int], atoms: Collection[int]) -> int:
    """Colours of these atoms refined by those of their neighbours until no more are told apart, as one number."""
    now, distinct = {atom: colours[atom] for atom in atoms}, 0
    while distinct < (found := len(set(now.values()))):
        distinct = found
        now = {a: hash((now[a], *sorted([hash((labels[k], now[b])) for b, k in near[a]]))) for a in atoms}
    return hash(tuple(sorted(now.values())))


def _pieces(near: Neighbours) -> list[list[int]]:
    """Atoms that hang together."""
    left, found = set(range(len(near))), []
    while left:
        waiting = [left.pop()]
        piece = list(waiting)
        while waiting:
            for other, _ in near[waiting.pop()]:
                if other in left:
                    left.discard(other)
                    waiting.append(other)
                    piece.append(other)
        found.append(piece)
    return found
