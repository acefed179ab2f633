"""SMILES: molecules that everybody knows, what is refused and where, and the language whose strings make sense."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.language import State
from pellucid.core.smiles import read_bracket, read_smiles, valences
from pellucid.core.smiles_language import SmilesLanguage

KNOWN = {  # string: atoms, hydrogens, bonds in rings, charge
    "C": (1, 4, 0, 0),
    "CCO": (3, 6, 0, 0),
    "C1CCCCC1": (6, 12, 6, 0),
    "c1ccccc1": (6, 6, 6, 0),
    "C1=CC=CC=C1": (6, 6, 6, 0),
    "CC(=O)Oc1ccccc1C(=O)O": (13, 8, 6, 0),  # aspirin
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C": (14, 10, 10, 0),  # caffeine
    "c1ccc2[nH]ccc2c1": (9, 7, 10, 0),  # indole
    "c1ccc2ccccc2c1": (10, 8, 11, 0),
    "c1ccc(-c2ccccc2)cc1": (12, 10, 12, 0),
    "c1ccccc1c1ccccc1": (12, 10, 12, 0),
    "O=c1cc[nH]cc1": (7, 5, 6, 0),
    "c1cc[n+]([O-])cc1": (7, 5, 6, 0),
    "C[N+](C)(C)CC(=O)[O-]": (8, 11, 0, 0),
    "CN(=O)=O": (4, 3, 0, 0),
    "O=S(=O)(O)O": (5, 2, 0, 0),
    "F[P-](F)(F)(F)(F)F": (7, 0, 0, -1),
    "[Na+].[Cl-]": (2, 0, 0, 0),
    "N[C@@H](C)C(=O)O": (6, 7, 0, 0),
    "F/C=C\\F": (4, 2, 0, 0),
    "C1=CC=1": (3, 2, 3, 0),
    "C%12CC%12": (3, 6, 3, 0),
    "C1CC1C1CC1": (6, 10, 6, 0),
    "C1.C1": (2, 6, 0, 0),
    "[13CH4]": (1, 4, 0, 0),
    "[Fe+2]": (1, 0, 0, 2),
    "c1ccsc1": (5, 4, 5, 0),
    "c1ccoc1": (5, 4, 5, 0),
    "N#Cc1ccncc1": (8, 4, 6, 0),
    "C1CC2CCC1CC2": (8, 14, 9, 0),
    "S1C=CS(=O)C1": (6, 4, 5, 0),
    "[cH-]1cccc1": (5, 5, 5, -1),  # cyclopentadienyl: the charged atom lends its pair to the ring
    "O=Cc1ccc(O)c(OC)c1": (11, 8, 6, 0),  # vanillin
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O": (15, 18, 6, 0),  # ibuprofen
}


@pytest.mark.parametrize("text", KNOWN)
def test_atoms_hydrogens_rings_and_charges_of_known_molecules(text: str) -> None:
    found = read_smiles(text)
    assert (len(found), sum(found.hydrogens), sum(found.rings), sum(found.charges)) == KNOWN[text]


def test_the_double_bonds_of_aromatic_rings_find_their_places() -> None:
    found = read_smiles("c1ccc2c(c1)cc1ccccc1n2")
    sums = [0] * len(found)
    for a, b, order in found.bonds:
        sums[a] += order
        sums[b] += order
    for i, element in enumerate(found.elements):
        assert sums[i] + found.hydrogens[i] == valences(element)[0]  # type: ignore[index]
    biphenyl = read_smiles("c1ccccc1c1ccccc1")
    assert sum(biphenyl.delocalised) == 12
    assert [order for (_, _, order), ring in zip(biphenyl.bonds, biphenyl.rings, strict=True) if not ring] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing in it"),
        ("C(C", "at character 3, a branch that is never closed"),
        ("CC)", "at character 3, a ) that closes nothing"),
        ("C()C", "at character 3, an empty branch"),
        ("(C)C", "at character 1, a branch that leaves no atom"),
        ("C1CC", "at character 2, a ring 1 that is never closed"),
        ("C11", "at character 3, a ring 1 between two atoms that are bound already"),
        ("C1C1", "at character 4, a ring 1 between two atoms that are bound already"),
        ("C12CCC12", "at character 8, a ring 2 between two atoms that are bound already"),
        ("C=1CCC#1", "at character 8, a ring 1 that begins with the bond '='"),
        ("=C", "at character 1, a bond '=' with no atom before it"),
        ("C=", "at character 2, an end that waits"),
        ("C=)C", "at character 2, a bond '=' with no atom behind it"),
        ("C==C", "at character 3, a bond '='"),
        ("CXC", "at character 2, 'X'"),
        ("C*", "at character 2, '*'"),
        ("[Xx]", "at character 1, '[Xx]', which is no bracket atom"),
        ("C[NH", "at character 2, '['"),
        ("C(C)(C)(C)(C)C", "at character 1, C with 5 bonds, at most 4"),
        ("CO(C)C", "at character 2, O with 3 bonds, at most 2"),
        ("FF(F)", "F with 2 bonds"),
        ("C[NH4+]", "N with 5 bonds, at most 4"),
        ("CN(=O)C", "N with 4 bonds, at most 3"),
        ("c1cccc1", "aromatic rings whose double bonds find no place"),
        ("c1ccnc1", "aromatic rings whose double bonds find no place"),
        ("cC", "at character 1, an aromatic C outside all rings"),
        ("C.", "at character 2, an end that waits"),
    ],
    ids=lambda value: value if " " not in value else "",
)
def test_what_is_no_molecule_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_smiles(text)
    assert words in str(caught.value)


def test_long_strings_are_read_in_a_moment() -> None:
    many = read_smiles("c1ccc2ccccc2c1" * 300)
    assert (len(many), sum(many.hydrogens)) == (3000, 300 * 8 - 2 * 299)
    with pytest.raises(BadInput, match="aromatic atoms in a row of rings, at most 1000"):
        read_smiles("c1" + "c" * 1998 + "c1")


def test_brackets_are_read() -> None:
    found = read_bracket("[15NH3+:4]")
    assert found is not None
    assert (found.element, found.isotope, found.hydrogens, found.charge) == ("N", 15, 3, 1)
    assert read_bracket("[Cu++]").charge == 2  # type: ignore[union-attr]
    assert read_bracket("[O-2]").charge == -2  # type: ignore[union-attr]
    assert read_bracket("[se]").aromatic  # type: ignore[union-attr]
    assert [read_bracket(t) for t in ("[]", "[C", "[CH99]", "[q]", "C")] == [None] * 5


@pytest.mark.parametrize(
    "text",
    [
        t
        for t in KNOWN
        if t
        not in ("C%12CC%12", "C1.C1", "C1=CC=1", "[13CH4]", "[Fe+2]", "[Na+].[Cl-]", "F[P-](F)(F)(F)(F)F", "CN(=O)=O")
    ],
)
def test_the_language_leads_to_known_molecules_and_every_beginning_has_an_end(text: str) -> None:
    language = SmilesLanguage()
    state: State | None = language.start()
    for k, character in enumerate(text):
        assert state is not None
        language.closing(state)
        state = language.after(state, character)
        assert state is not None, text[: k + 1]
    assert state is not None
    assert language.complete(state)
    assert language.accepts(text)


@pytest.mark.parametrize(
    "symbols", ["C N O S F Cl Br ( ) = # 1 2 3 -", "C N O ( ) = 1 2 [ ] H + - @ . P S i l", "C O 1 2 3 4 = ( )"]
)
def test_without_aromatic_atoms_every_string_of_the_language_is_a_molecule(symbols: str) -> None:
    language, draw, alphabet = SmilesLanguage(aromatic=False), np.random.default_rng(0), symbols.split()
    for _ in range(150):
        state, text = language.start(), ""
        for _ in range(int(draw.integers(1, 25))):
            closing = language.closing(state)
            assert language.complete(state) is (closing == "")
            if closing:
                rest = language.after(state, closing[0])
                assert rest is not None
                assert language.closing(rest) == closing[1:]
            alive = []
            for symbol in alphabet:
                reached: State | None = state
                for character in symbol:
                    reached = None if reached is None else language.after(reached, character)
                if reached is not None:
                    alive.append((symbol, reached))
            if not alive:
                break
            symbol, state = alive[int(draw.integers(len(alive)))]
            text += symbol
        assert language.accepts(text + language.closing(state)), text + language.closing(state)


@pytest.mark.parametrize(
    "text", ["C1C1", "C11", "C12CCC12", "CF(", "C=(", "O#", "N(C)(C)(C)(", "C1CC(F)(F)(F", "(", "1", "c1ccccc=1", "CC)"]
)
def test_what_cannot_become_a_molecule_is_refused_at_its_last_character(text: str) -> None:
    language = SmilesLanguage()
    state: State | None = language.start()
    for character in text[:-1]:
        assert state is not None
        state = language.after(state, character)
    assert state is not None
    assert language.after(state, text[-1]) is None
