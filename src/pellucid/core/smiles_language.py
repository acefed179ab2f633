"""SMILES as a language that is read from left to right: what may come next so that valences are kept and all closes.

Branches close, each ring bond is paired, and no atom gets more bonds than its valence allows, by construction. What is
decided only when the whole string is there is left to `accepts`: that aromatic atoms lie in rings and that their double
bonds find places. Without aromatic atoms (`aromatic=False`) every string is a molecule.

It is narrower than the reader (core/smiles.py): no % numbers, no quadruple bonds, no double bond of a ring that
only its second end tells, no ring number behind a branch, no `:`, and of bracket atoms those of the elements B C N O F
Si P S Cl Br I (and c n o p s) without isotope or class, and what else the vocabulary holds as one symbol.

A state is (at, here, bond, fresh, stack, rings, written):

    at      start (also behind a dot), atom, ring (behind a ring number), open (behind a bracket that opens a branch),
            closed (behind one that closes it), bond, ringed (a bond behind which a ring number may stand), inside (a
            bracket atom)
    here    the atom that goes on; None at the start
    bond    the order that is written, 0 for none
    fresh   a branch was opened and has no atom yet
    stack   the atoms that branches left
    rings   those that are open
    written the letters of a bracket atom so far, or C or B, which may become Cl or Br
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from pellucid.core.errors import BadInput
from pellucid.core.language import State
from pellucid.core.smiles import Bracket, read_bracket, read_smiles, valences

__all__ = ["SmilesLanguage"]

LETTERS = {"B": 3, "C": 4, "N": 3, "O": 2, "P": 5, "S": 6, "F": 1, "I": 1}
AROMATIC = {"b": 3, "c": 3, "n": 3, "o": 2, "p": 3, "s": 2}  # neighbours
TWO_LETTERS = {"Cl": 1, "Br": 1}
BONDS = {"-": 1, "/": 1, "\\": 1, "=": 2, "#": 3}
MOST_KEPT = 200_000  # ways to an end that are remembered


class _Atom(NamedTuple):
    """Bonds left; may one of them be double although the atom is aromatic? Its group among the atoms of open rings."""

    left: int
    double: bool
    aromatic: bool
    group: int


class _Ring(NamedTuple):
    """A ring that is open. group: its atom, told from others. bound: is that atom joined to the one that goes on?"""

    number: str
    order: int
    group: int
    bound: bool


class _State(NamedTuple):
    """See the head of this file."""

    at: str
    here: _Atom | None
    bond: int
    fresh: bool
    stack: tuple[_Atom, ...]
    rings: tuple[_Ring, ...]
    written: str


START = _State("start", None, 0, False, (), (), "")
GOES_ON = ("atom", "ring", "closed")  # places behind an atom


@dataclass(frozen=True)
class _Brackets:
    """Bracket atoms.

    endings: the shortest rest, by (what is written so far, order of the bond before it, must it have one bond more?).
    """

    atoms: dict[str, _Atom]
    endings: dict[tuple[str, int, bool], str]


class SmilesLanguage:
    """The language of SMILES strings that keep valences.

    Args:
        spelled: symbols of the vocabulary; bracket atoms among them are known beside the common ones.
        aromatic: may atoms be written in small letters?

    >>> language = SmilesLanguage()
    >>> state = language.start()
    >>> for character in "C1CC(=O":
    ...     state = language.after(state, character)
    >>> language.closing(state), language.after(state, "=")
    (')C1', None)
    """

    name = "SMILES"

    def __init__(self, spelled: Iterable[str] = (), *, aromatic: bool = True) -> None:
        self.aromatic = aromatic
        self._brackets = _known_brackets(tuple(sorted({s for s in spelled if s.startswith("[")})), aromatic)
        self._ways: dict[_State, str | None] = {}

    def start(self) -> State:
        return START

    def after(self, state: State, character: str) -> State | None:
        reached = self._step(_of(state), character)
        return reached if reached is not None and self._way(reached) is not None else None

    def complete(self, state: State) -> bool:
        s = _of(state)
        return s.at in GOES_ON and not s.stack and not s.rings

    def closing(self, state: State) -> str:
        way = self._way(_of(state))
        assert way is not None
        return way

    def accepts(self, text: str) -> bool:
        try:
            read_smiles(text)
        except BadInput:
            return False
        return True

    # ------------------------------------------------------------------------------------------- one more character

    def _step(self, s: _State, c: str) -> _State | None:
        """Whether the string can still be ended is not asked."""
        if s.at == "inside":
            return self._in_bracket(s, c)
        if s.written and s.written + c in TWO_LETTERS:
            return _longer(s, s.written + c)
        if c == "[":
            fits = s.here is None or s.at not in GOES_ON or s.here.left > 0
            return s._replace(at="inside", written=c) if fits else None
        if c in LETTERS:
            return _joined(s, _Atom(LETTERS[c], False, False, 0), c if c in "BC" else "")
        if c in AROMATIC:
            return _joined(s, _Atom(AROMATIC[c], c == "c", True, 0), "") if self.aromatic else None
        if s.here is None:
            return None
        goes_on = s.at in GOES_ON
        if c in BONDS:
            if not (goes_on or s.at == "open") or not _can(s.here, BONDS[c]):
                return None
            return s._replace(at="ringed" if s.at in ("atom", "ring") else "bond", bond=BONDS[c], written="")
        if c.isdecimal() and c.isascii():
            return _ringed(s, s.here, c)
        if not goes_on:
            return None
        if c == "(":
            return s._replace(at="open", fresh=True, written="") if s.here.left else None
        if c == ")":
            return s._replace(at="closed", here=s.stack[-1], stack=s.stack[:-1], written="") if s.stack else None
        return START if c == "." and not s.stack and not s.rings else None

    def _in_bracket(self, s: _State, c: str) -> _State | None:
        written = s.written + c
        if self._rest(s, written) is None:
            return None
        return s._replace(written=written) if c != "]" else _joined(s, self._brackets.atoms[written], "")

    def _rest(self, s: _State, written: str) -> str | None:
        """The shortest rest of a bracket atom that can be bound here, and go on where open rings ask for it."""
        order = 0 if s.here is None else s.bond or 1
        elsewhere = any(atom.left for atom in s.stack) or (s.fresh and s.here is not None and s.here.left > order)
        return self._brackets.endings.get((written, order, bool(s.rings) and not elsewhere))

    # --------------------------------------------------------------------------------------------------- a way to end

    def _way(self, state: _State) -> str | None:
        """Characters to the end, one after another by `_next`; None where it knows none."""
        if len(self._ways) > MOST_KEPT:
            self._ways.clear()
        path: list[tuple[_State, str]] = []
        here = state
        while here not in self._ways:
            sign = self._next(here)
            if not sign:
                self._ways[here] = sign
                break
            path.append((here, sign))
            reached = self._step(here, sign)
            assert reached is not None
            here = reached
        way = self._ways[here]
        for before, sign in reversed(path):
            way = None if way is None else sign + way
            self._ways[before] = way
        return way

    def _next(self, s: _State) -> str | None:
        """The next character on the way to the end: "" at the end, None where there is no way.

        Open rings are closed at atoms that keep a bond for what follows, and carbon goes on until all are closed: one
        after another has three bonds for the at most two that a ring takes. An atom without bonds is left by closing
        the branch it is in.
        """
        if s.at == "inside":
            rest = self._rest(s, s.written)
            return rest and rest[0]
        if s.at not in GOES_ON or s.here is None:
            return "C"
        if not s.rings:
            return ")" if s.stack else ""
        elsewhere = any(atom.left for atom in s.stack)
        if s.at != "closed":
            for ring in s.rings:
                last = len(s.rings) == 1 or elsewhere or s.here.left > ring.order
                if last and not ring.bound and _closes(s.here, ring):
                    return ring.number
        if s.here.left:
            return "C"
        return ")" if elsewhere else None


def _of(state: State) -> _State:
    assert isinstance(state, _State)
    return state


def _can(atom: _Atom, order: int) -> bool:
    """Has the atom a bond of this order left?"""
    if atom.aromatic:
        return atom.left > 0 and (order == 1 or (order == 2 and atom.double))
    return atom.left >= order


def _bound(atom: _Atom, order: int) -> _Atom:
    """The atom after one bond more."""
    if atom.aromatic:
        return atom._replace(left=atom.left - 1, double=atom.double and order == 1)
    return atom._replace(left=atom.left - order)


def _closes(here: _Atom, ring: _Ring) -> bool:
    return _can(here, ring.order) and not (ring.order > 1 and here.aromatic)


def _joined(s: _State, atom: _Atom, written: str) -> _State | None:
    """The atom bound to the one before it, which goes to the stack where a branch leaves it."""
    if s.here is None:
        return _State("atom", atom, 0, False, (), (), written)
    order = s.bond or 1
    if not _can(s.here, order) or not _can(atom, order) or (order > 1 and s.here.aromatic and atom.aromatic):
        return None
    before = _bound(s.here, order)
    rings = tuple(ring._replace(bound=ring.group == before.group) for ring in s.rings)
    stack = (*s.stack, before) if s.fresh else s.stack
    return _tidy(_State("atom", _bound(atom, order), 0, False, stack, rings, written))


def _longer(s: _State, name: str) -> _State | None:
    """C becomes Cl, or B becomes Br."""
    assert s.here is not None
    order = LETTERS[s.written] - s.here.left  # of the bond before it, 0 at the start
    left = TWO_LETTERS[name] - order
    return s._replace(here=s.here._replace(left=left), written="") if left >= 0 else None


def _ringed(s: _State, here: _Atom, number: str) -> _State | None:
    """A ring opened or closed at the atom that goes on."""
    if s.at not in ("atom", "ring", "ringed"):
        return None
    known = next((ring for ring in s.rings if ring.number == number), None)
    if known is None:
        order = s.bond or 1
        if order > 2 or not _can(here, order) or (order > 1 and here.aromatic):
            return None
        group = here.group or 1 + max((ring.group for ring in s.rings), default=0)
        here = _bound(here, order)._replace(group=group)
        rings = (*s.rings, _Ring(number, order, group, True))
    else:
        if s.bond not in (0, known.order) or known.bound or not _closes(here, known):
            return None
        here = _bound(here, known.order)
        rings = tuple(
            ring._replace(bound=ring.bound or ring.group == known.group) for ring in s.rings if ring is not known
        )
    return _tidy(s._replace(at="ring", here=here, bond=0, rings=rings, written=""))


def _tidy(s: _State) -> _State:
    """Rings in the order of their numbers, groups in the order of the rings, so that equal states look alike."""
    rings = sorted(s.rings)
    names = {0: 0}
    for ring in rings:
        names.setdefault(ring.group, len(names))
    assert s.here is not None
    return s._replace(
        here=s.here._replace(group=names.get(s.here.group, 0)),
        stack=tuple(atom._replace(group=names.get(atom.group, 0)) for atom in s.stack),
        rings=tuple(ring._replace(group=names[ring.group]) for ring in rings),
    )


@cache
def _known_brackets(spelled: tuple[str, ...], aromatic: bool) -> _Brackets:
    common = [
        f"[{element}{handed}{hydrogens}{charge}]"
        for element in ("B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I", "c", "n", "o", "p", "s")
        for handed in (("", "@", "@@") if element in ("C", "N", "Si", "P", "S") else ("",))
        for hydrogens in ("", "H", "H2", "H3", "H4")
        for charge in ("", "+", "-")
    ]
    atoms = {}
    for text in (*common, *spelled):
        bracket = read_bracket(text)
        atom = None if bracket is None else _atom_of(bracket)
        if atom is not None and (aromatic or not atom.aromatic):
            atoms[text] = atom
    endings: dict[tuple[str, int, bool], str] = {}
    for text in sorted(atoms, key=lambda t: (len(t), t)):
        for order in range(4):
            if order == 0 or _can(atoms[text], order):
                left = atoms[text].left if order == 0 else _bound(atoms[text], order).left
                for k in range(1, len(text) + 1):
                    for more in (False, True) if left else (False,):
                        endings.setdefault((text[:k], order, more), text[k:])
    return _Brackets(atoms, endings)


def _atom_of(bracket: Bracket) -> _Atom | None:
    """Bonds that a bracket atom has left; None where its hydrogens alone are too many."""
    known = valences(bracket.element, bracket.charge)
    if known is None:
        return _Atom(0, False, False, 0) if not (bracket.aromatic or bracket.hydrogens) else None
    if not bracket.aromatic:
        left = known[-1] - bracket.hydrogens
    else:  # neighbours: one bond of the valence is kept for the ring, where the element does not lend two electrons
        lends = bracket.element in ("O", "S", "Se", "Te")
        left = {4: 3, 3: 2 if lends else 3}.get(known[0], known[0]) - bracket.hydrogens
    return _Atom(left, False, bracket.aromatic, 0) if left >= 0 else None
