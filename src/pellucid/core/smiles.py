"""SMILES strings: read as a graph of atoms and bonds, or refused with the place and the reason.

The grammar is that of OpenSMILES (http://opensmiles.org/opensmiles.html): atoms of the organic subset, bracket atoms
with isotope, handedness, hydrogens, charge and class, branches, ring bonds and parts apart. A string is a molecule here
if it also makes chemical sense:

    valences       of B C N O F Si P S Cl As Se Br Te I, charged or not; an ion binds as the element with as many
                   electrons (N+ as C). Other elements are not checked. A neutral N of valence 5 beside a double-bonded
                   O (nitro groups as they were written once) is taken, as most programs do.
    aromatic atoms lie in a ring, and their double bonds can be placed: each atom that needs one shares it with a
                   neighbour in a ring (a perfect matching, found by search). Whether 4n + 2 electrons go round is not
                   asked.
    handedness     is read and not checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pellucid.core.errors import BadInput

__all__ = ["ATOM", "BRACKET", "Molecule", "read_bracket", "read_smiles", "valences"]

ATOM = r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFI]|[bcnops]"  # one symbol
BRACKET = re.compile(
    r"\[(?P<isotope>\d{1,3})?(?P<element>[A-Z][a-z]?|se|as|te|[bcnops])(?P<handed>@{0,2})"
    r"(?P<hydrogens>H\d?)?(?P<charge>\+\+?|--?|[+-]\d{1,2})?(?::(?P<class>\d{1,4}))?\]"
)
_TOKEN = re.compile(rf"(?P<atom>{ATOM})|(?P<bond>[-=#$:/\\])|(?P<ring>%\d\d|\d)|(?P<other>[().])")
ORDERS = {"-": 1, "/": 1, "\\": 1, "=": 2, "#": 3, "$": 4, ":": 1}
ELEMENTS = frozenset(
    re.findall(
        "[A-Z][a-z]?",
        "HHeLiBeBCNOFNeNaMgAlSiPSClArKCaScTiVCrMnFeCoNiCuZnGaGeAsSeBrKrRbSrYZrNbMoTcRuRhPdAgCdInSnSbTeIXeCsBaLaCePrNd"
        "PmSmEuGdTbDyHoErTmYbLuHfTaWReOsIrPtAuHgTlPbBiPoAtRnFrRaAcThPaUNpPuAmCmBkCfEsFmMdNoLrRfDbSgBhHsMtDsRgCnNhFlMcLv"
        "TsOg",
    )
)
VALENCES: Mapping[str, tuple[int, ...]] = {  # OpenSMILES, section 3.1.5; N without 5, see above
    **{"H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Ne": (0,)},
    **{"Al": (3,), "Si": (4,), "P": (3, 5), "S": (2, 4, 6), "Cl": (1,), "Ar": (0,)},
    **{"Ge": (4,), "As": (3, 5), "Se": (2, 4, 6), "Br": (1,), "Kr": (0,)},
    **{"Te": (2, 4, 6), "I": (1, 3, 5), "Xe": (0,)},
}
ROWS = (
    ("B", "C", "N", "O", "F", "Ne"),
    ("Al", "Si", "P", "S", "Cl", "Ar"),
    ("Ga", "Ge", "As", "Se", "Br", "Kr"),
    ("In", "Sn", "Sb", "Te", "I", "Xe"),
)
CHECKED = frozenset(("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "Te", "I"))
MOST_SEARCHED = 100_000  # placements of double bonds that are tried
MOST_JOINED = 1000  # aromatic atoms of one system of rings


@dataclass(frozen=True, slots=True)
class Molecule:
    """Atoms, and the bonds between them.

    Args:
        elements: such as "C" or "Cl", one an atom. aromatic: was it written in small letters?
        charges, isotopes: 0 where none is written. hydrogens: that belong to each atom and are not atoms themselves.
        bonds: (atom, atom, order), the double bonds of aromatic rings placed somewhere.
        delocalised: of each bond, does it lie between two aromatic atoms in a ring?
        rings: of each bond, does it lie in a ring?
    """

    elements: tuple[str, ...]
    aromatic: tuple[bool, ...]
    charges: tuple[int, ...]
    isotopes: tuple[int, ...]
    hydrogens: tuple[int, ...]
    bonds: tuple[tuple[int, int, int], ...]
    delocalised: tuple[bool, ...]
    rings: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.elements)

    def neighbours(self) -> list[list[tuple[int, int]]]:
        """Of each atom: (neighbour, number of the bond)."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.elements]
        for k, (a, b, _) in enumerate(self.bonds):
            found[a].append((b, k))
            found[b].append((a, k))
        return found


@dataclass(frozen=True, slots=True)
class Bracket:
    """What stands in a bracket atom."""

    element: str
    aromatic: bool
    isotope: int
    hydrogens: int
    charge: int


def valences(element: str, charge: int = 0) -> tuple[int, ...] | None:
    """Numbers of bonds that an element of this charge has, hydrogens counted; None where they are not checked.

    >>> valences("N"), valences("N", 1), valences("O", -1), valences("Fe")
    ((3,), (4,), (1,), None)
    """
    if element not in CHECKED:
        return None
    if not charge:
        return VALENCES[element]
    for row in ROWS:
        if element in row:
            place = row.index(element) - charge
            return VALENCES.get(row[place], (0,)) if 0 <= place < len(row) else (0,)
    return (0,)  # H+ and H-


def read_bracket(text: str) -> Bracket | None:
    """A bracket atom; None where it is none.

    >>> read_bracket("[13CH3-]")
    Bracket(element='C', aromatic=False, isotope=13, hydrogens=3, charge=-1)
    """
    match = BRACKET.fullmatch(text)
    if match is None:
        return None
    name = match["element"]
    element = name.title()
    if element not in ELEMENTS:
        return None
    count, sign = match["hydrogens"] or "", match["charge"] or ""
    size = 0 if not sign else len(sign) if sign.strip("+-") == "" else int(sign[1:])
    return Bracket(
        element,
        name[0].islower(),
        int(match["isotope"] or 0),
        int(count[1:] or 1) if count else 0,
        -size if sign.startswith("-") else size,
    )


def read_smiles(text: str) -> Molecule:
    """The molecule that a string writes.

    Raises:
        BadInput: names the place of what is no SMILES, or the atom that makes no sense.

    >>> ethanol = read_smiles("CCO")
    >>> ethanol.hydrogens, ethanol.bonds
    ((3, 2, 1), ((0, 1, 1), (1, 2, 1)))
    >>> read_smiles("c1cccc1")
    Traceback (most recent call last):
    ...
    pellucid.core.errors.BadInput: the SMILES 'c1cccc1' has aromatic rings whose double bonds find no place. ...
    """
    return _Reader(text).molecule()


class _Reader:
    """Reads one string; atoms are numbered in the order in which they are written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.elements: list[str] = []
        self.aromatic: list[bool] = []
        self.given: list[Bracket | None] = []  # None for atoms of the organic subset
        self.places: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self.bonds: list[tuple[int, int, int]] = []  # the order, 0 where none is written
        self.up: list[int] = []  # the bond to the parent
        self.closures: list[int] = []  # bonds that close rings
        self.odd: set[int] = set()  # bonds that cannot be delocalised: an order other than : is written

    def wrong(self, what: str, at: int | None = None) -> BadInput:
        text = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        place = "" if at is None else f", at character {at + 1},"
        return BadInput(f"the SMILES '{text}' has{place} {what}", accepted="a molecule as OpenSMILES writes it")

    def molecule(self) -> Molecule:
        self._read()
        return self._checked()

    def _read(self) -> None:
        text, stack, rings = self.text, list[int](), dict[str, tuple[int, str, int]]()
        here, bond, at, before = -1, "", 0, ""
        if not text:
            raise self.wrong("nothing in it")
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.wrong(f"'{text[at]}', which begins no atom, bond or ring", at)
            token, kind = match.group(), match.lastgroup
            if kind == "atom":
                here = self._atom(token, at, here, bond)
                bond = ""
            elif kind == "bond":
                if here < 0 or bond:
                    raise self.wrong(f"a bond '{token}' with no atom before it", at)
                bond = token
            elif kind == "ring":
                if here < 0 or before == "(":
                    raise self.wrong(f"a ring {token} with no atom before it", at)
                self._ring(token.removeprefix("%").lstrip("0") or "0", at, here, bond, rings)
                bond = ""
            elif bond:
                raise self.wrong(f"a bond '{bond}' with no atom behind it", at - 1)
            elif token == "(":
                if here < 0 or before == "(":
                    raise self.wrong("a branch that leaves no atom", at)
                stack.append(here)
            elif token == ")":
                if not stack or before == "(":
                    raise self.wrong("a ) that closes nothing" if not stack else "an empty branch", at)
                here = stack.pop()
            else:
                if here < 0 or before == "(" or stack:
                    raise self.wrong("a dot inside a branch or behind nothing", at)
                here = -1
            before = token
            at = match.end()
        if bond or here < 0:
            raise self.wrong("an end that waits for an atom", len(text) - 1)
        if stack:
            raise self.wrong("a branch that is never closed", len(text) - 1)
        if rings:
            number, (_, _, place) = next(iter(rings.items()))
            raise self.wrong(f"a ring {number} that is never closed", place)

    def _atom(self, token: str, at: int, before: int, bond: str) -> int:
        number = len(self.elements)
        if token[0] == "[":
            bracket = read_bracket(token)
            if bracket is None:
                raise self.wrong(f"'{token}', which is no bracket atom", at)
            self.elements.append(bracket.element)
            self.aromatic.append(bracket.aromatic)
            self.given.append(bracket)
        else:
            self.elements.append(token.capitalize())
            self.aromatic.append(token.islower())
            self.given.append(None)
        self.places.append(at)
        self.parent.append(before)
        self.depth.append(0 if before < 0 else self.depth[before] + 1)
        self.up.append(len(self.bonds) if before >= 0 else -1)
        if before >= 0:
            self._bond(before, number, bond)
        return number

    def _bond(self, a: int, b: int, sign: str) -> None:
        if sign and sign != ":":
            self.odd.add(len(self.bonds))
        self.bonds.append((a, b, ORDERS[sign] if sign else 1))

    def _ring(self, number: str, at: int, here: int, bond: str, rings: dict[str, tuple[int, str, int]]) -> None:
        if number not in rings:
            rings[number] = (here, bond, at)
            return
        there, sign, _ = rings.pop(number)
        if sign and bond and ORDERS[sign] != ORDERS[bond]:
            raise self.wrong(f"a ring {number} that begins with the bond '{sign}' and ends with '{bond}'", at)
        if there == here or self.parent[here] == there or self.parent[there] == here or self._joined(there, here):
            raise self.wrong(f"a ring {number} between two atoms that are bound already, or one with itself", at)
        self.closures.append(len(self.bonds))
        self._bond(there, here, sign or bond)

    def _joined(self, a: int, b: int) -> bool:
        return any({a, b} == set(self.bonds[k][:2]) for k in self.closures)

    def _in_rings(self) -> list[bool]:
        """Of each bond: a bond of the tree lies in a ring if it lies between the two ends of one that closes a ring."""
        found = [False] * len(self.bonds)
        parent, depth, up = self.parent, self.depth, self.up
        for k in self.closures:
            a, b, _ = self.bonds[k]
            path = [k]
            while a != b and a >= 0 and b >= 0:
                if depth[a] < depth[b]:
                    a, b = b, a
                path.append(up[a])
                a = parent[a]
            for bond in path:
                if bond >= 0:
                    found[bond] = True
        return found

    def _checked(self) -> Molecule:
        count, bonds = len(self.elements), self.bonds
        rings = self._rings_across_parts() if "." in self.text and self.closures else self._in_rings()
        delocalised = [
            rings[k] and k not in self.odd and self.aromatic[a] and self.aromatic[b]
            for k, (a, b, _) in enumerate(bonds)
        ]
        sums = [0] * count  # orders of the bonds of each atom, aromatic ones as 1
        for a, b, order in bonds:
            sums[a] += order
            sums[b] += order
        placed = self._placed(sums, rings, delocalised) if any(self.aromatic) else set()
        for k in placed:
            sums[bonds[k][0]] += 1
            sums[bonds[k][1]] += 1
        hydrogens = [self._hydrogens(i, sums[i]) for i in range(count)]
        return Molecule(
            tuple(self.elements),
            tuple(self.aromatic),
            tuple(0 if g is None else g.charge for g in self.given),
            tuple(0 if g is None else g.isotope for g in self.given),
            tuple(hydrogens),
            tuple((a, b, 2 if k in placed else order) for k, (a, b, order) in enumerate(bonds)),
            tuple(delocalised),
            tuple(rings),
        )

    def _rings_across_parts(self) -> list[bool]:
        """The same where a ring may join parts that a dot keeps apart: the ends of a bond meet without it."""
        found = []
        for k, (a, b, _) in enumerate(self.bonds):
            reached, waiting = {a}, [a]
            while waiting:
                here = waiting.pop()
                for j, (c, d, _) in enumerate(self.bonds):
                    if j != k and here in (c, d):
                        other = d if here == c else c
                        if other not in reached:
                            reached.add(other)
                            waiting.append(other)
            found.append(b in reached)
        return found

    def _hydrogens(self, i: int, total: int) -> int:
        """Hydrogens of an atom whose bonds have these orders in all."""
        given = self.given[i]
        known = valences(self.elements[i], given.charge if given else 0)
        have = total + (given.hydrogens if given else 0)
        if known is None:
            return given.hydrogens if given else 0
        if have > known[-1] and not (have == 5 and self._oxide(i)):
            raise self.wrong(f"{self.elements[i]} with {have} bonds, at most {known[-1]}", self.places[i])
        if given:
            return given.hydrogens
        return next((v - total for v in known if v >= total), 0)

    def _oxide(self, i: int) -> bool:
        """Is it a neutral nitrogen with a double bond to an oxygen, which then has a valence of 5?"""
        given = self.given[i]
        if self.elements[i] != "N" or (given is not None and (given.charge or given.hydrogens)):
            return False
        ends = [(b if a == i else a) for a, b, order in self.bonds if order == 2 and i in (a, b)]
        return any(self.elements[j] == "O" for j in ends)

    def _placed(self, sums: list[int], rings: list[bool], delocalised: list[bool]) -> set[int]:
        """Delocalised bonds that are double in one way to write the molecule without aromatic atoms."""
        ringed = {atom for k, (a, b, _) in enumerate(self.bonds) if rings[k] for atom in (a, b)}
        needs = set()
        for i, small in enumerate(self.aromatic):
            if small:
                if i not in ringed:
                    raise self.wrong(f"an aromatic {self.elements[i]} outside all rings", self.places[i])
                if self._needs_one(i, sums[i]):
                    needs.add(i)
        near: dict[int, list[tuple[int, int]]] = {i: [] for i in needs}
        for k, (a, b, _) in enumerate(self.bonds):
            if delocalised[k] and a in needs and b in needs:
                near[a].append((b, k))
                near[b].append((a, k))
        placed: set[int] = set()
        for atoms in _parts(near):
            if len(atoms) > MOST_JOINED:
                raise self.wrong(f"{len(atoms):,} aromatic atoms in a row of rings, at most {MOST_JOINED}")
            found = _matched({atom: near[atom] for atom in atoms})
            if found is None:
                raise self.wrong("aromatic rings whose double bonds find no place")
            placed |= found
        return placed

    def _needs_one(self, i: int, total: int) -> bool:
        given = self.given[i]
        known = valences(self.elements[i], given.charge if given else 0)
        have = total + (given.hydrogens if given else 0)
        if known is None:
            return False
        if have < known[-1]:
            return have not in known
        single = all(order == 1 for a, b, order in self.bonds if i in (a, b))
        if self.elements[i] == "C" and single and given and given.charge:
            return False  # it lends its pair, or an empty place, to the ring
        if (self.elements[i] == "C" and single) or (self.elements[i] == "N" and have == 5):
            raise self.wrong(f"an aromatic {self.elements[i]} with no bond left for its ring", self.places[i])
        return have == 4 and self._oxide(i)


def _parts(near: dict[int, list[tuple[int, int]]]) -> list[set[int]]:
    """Atoms that hang together."""
    left, found = set(near), []
    while left:
        waiting = [left.pop()]
        part = set(waiting)
        while waiting:
            for other, _ in near[waiting.pop()]:
                if other in left:
                    left.discard(other)
                    part.add(other)
                    waiting.append(other)
        found.append(part)
    return found


def _matched(near: dict[int, list[tuple[int, int]]]) -> set[int] | None:
    """Bonds that pair each atom with one neighbour: near[atom] lists (neighbour, bond). None where there is no way."""
    free = {atom: {other for other, _ in others} for atom, others in near.items()}
    bond = {(atom, other): k for atom, others in near.items() for other, k in others}
    chosen: list[int] = []
    tried = 0

    def search() -> bool:
        nonlocal tried
        if not free:
            return True
        tried += 1
        atom = min(free, key=lambda i: len(free[i]))  # the one with the fewest ways, which fails first
        if tried > MOST_SEARCHED:
            return False
        for other in tuple(free[atom]):
            gone = {i: free.pop(i) for i in (atom, other)}
            touched = [(i, j) for j in gone for i in gone[j] if i in free]
            for i, j in touched:
                free[i].discard(j)
            chosen.append(bond[atom, other])
            if search():
                return True
            chosen.pop()
            for i, j in touched:
                free[i].add(j)
            free.update(gone)
        return False

    return set(chosen) if search() else None
