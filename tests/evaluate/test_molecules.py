"""Measures of molecules against what can be counted by hand, and a comparison of families on molecules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.smiles import read_smiles
from pellucid.domains.molecule_files import molecules_of
from pellucid.evaluate.baseline import independent_symbols
from pellucid.evaluate.compare import compare, divide
from pellucid.evaluate.fingerprints import circular, fingerprints, similarities
from pellucid.evaluate.molecule_parts import cosine, fragments, key_of, ring_sizes, scaffold
from pellucid.evaluate.molecules import Known, measure_molecules, strict_verdicts

SAME = [  # each row: ways to write one molecule
    ["CC(=O)Oc1ccccc1C(=O)O", "O=C(C)OC1=CC=CC=C1C(O)=O", "c1cccc(C(O)=O)c1OC(C)=O"],
    ["c1ccc2ccccc2c1", "C1=CC2=CC=CC=C2C=C1"],
    ["C1CCC2CCCCC2C1", "C12CCCCC1CCCC2"],
    ["C1CCCC1C1CCCC1", "C1CCC(C1)C1CCCC1"],
    ["N[C@@H](C)C(=O)O", "OC(=O)[C@H](C)N"],
    ["CCO", "OCC", "C(O)C"],
    ["COC", "O(C)C"],
    ["C[N+](=O)[O-]", "[O-][N+](C)=O"],
    ["[13CH4]"],
    ["C"],
    ["c1cc[nH]c1", "[nH]1cccc1"],
]


def made(n: int, seed: int = 0) -> list[str]:
    """Molecules put together at random: a ring, a chain, an end."""
    draw = np.random.default_rng(seed)
    rings, chains = (
        ["c1ccccc1", "C1CC1", "c1ccncc1", "C1CCOC1", "c1ccsc1"],
        ["C", "CC", "CO", "C(C)", "CN", "C(=O)N", "O"],
    )
    ends = ["C", "F", "Cl", "Br", "N#C", "O", "OC(=O)", "c1ccccc1"]
    return [f"{draw.choice(ends)}{draw.choice(chains)}{draw.choice(rings)}" for _ in range(n)]


def test_keys_tell_molecules_apart_and_not_the_ways_to_write_them() -> None:
    keys = [{key_of(read_smiles(text)) for text in row} for row in SAME]
    assert [len(row) for row in keys] == [1] * len(SAME)
    assert len(set.union(*keys)) == len(SAME)
    for row in SAME:
        assert len({tuple(sorted(fragments(read_smiles(text)))) for text in row}) == 1
        assert len({frozenset(circular(read_smiles(text))) for text in row if "1=" not in text}) == 1


def test_rings_have_the_size_of_the_smallest_around_a_bond() -> None:
    decalin = read_smiles("C1CCC2CCCCC2C1")
    assert set(ring_sizes(decalin, decalin.neighbours())) == {6}
    joined = read_smiles("C1CC1CC1CCCC1")
    assert sorted(ring_sizes(joined, joined.neighbours())) == [0, 0, 3, 3, 3, 5, 5, 5, 5, 5]


def test_fragments_are_cut_at_rings_and_scaffolds_lose_their_ends() -> None:
    found = read_smiles("Cc1ccc(CCC2CC2)cc1F")
    assert len(fragments(found)) == 5  # methyl, benzene, the chain, cyclopropane, fluorine
    assert scaffold(found) == scaffold(read_smiles("c1ccc(CCC2CC2)cc1"))
    assert scaffold(found) != scaffold(read_smiles("c1ccc(CC2CC2)cc1"))
    assert scaffold(read_smiles("CC1CCC(=O)CC1")) == scaffold(read_smiles("O=C1CCCCC1"))
    assert scaffold(read_smiles("CC1CCCCC1C(=O)C")) == scaffold(read_smiles("C1CCCCC1"))
    assert scaffold(read_smiles("CCO")) is None
    assert cosine([1, 1, 2], [1, 2, 2]) == pytest.approx(4 / 5)


def test_similarities_are_those_of_sets() -> None:
    found = [read_smiles(text) for text in made(12)]
    bits = fingerprints(found)
    sets = [{number % 1024 for number in circular(m)} for m in found]
    by_hand = [np.mean([len(a & b) / len(a | b) for b in sets]) for a in sets]
    assert np.allclose(similarities(bits, bits), by_hand)
    # CC: one surrounding of an atom alone, one of the whole; methane: one
    assert [len(circular(read_smiles(text))) for text in ("C", "CC", "CCC", "C1CC1")] == [1, 2, 4, 3]


def test_measures_are_those_counted_by_hand() -> None:
    train, reference = made(60, seed=1), made(60, seed=2)
    samples = [*made(30, seed=3), "C(C", "c1cccc1", "CCO", "OCC", *train[:6]]
    found = measure_molecules(samples, Known.of(train, reference), seed=1)
    valid = [text for text in samples if text not in ("C(C", "c1cccc1")]
    keys = [key_of(read_smiles(text)) for text in valid]
    known = {key_of(read_smiles(text)) for text in train}
    assert found.valid.value == pytest.approx(38 / 40)
    assert found.unique is not None
    assert found.unique.value == pytest.approx(len(set(keys)) / 38)
    assert found.novel is not None
    assert found.novel.value == pytest.approx(len(set(keys) - known) / len(set(keys)))
    bits = fingerprints([read_smiles(text) for text in valid])
    assert found.diversity is not None
    assert found.diversity.value == pytest.approx(1 - similarities(bits, bits).mean())
    here = [part for text in valid for part in fragments(read_smiles(text))]
    there = [part for text in reference for part in fragments(read_smiles(text))]
    assert found.fragments is not None
    assert found.fragments.value == pytest.approx(cosine(here, there))
    for estimate in (found.valid, found.unique, found.novel, found.diversity, found.fragments, found.scaffolds):
        assert estimate is not None
        interval = estimate.interval()
        assert 0.0 <= interval.low <= estimate.value <= interval.high <= 1.0
        assert estimate.n == 40


def test_strings_of_which_none_is_a_molecule_have_no_further_measures() -> None:
    found = measure_molecules(["C(C"] * 20, Known.of(made(20), made(20)))
    assert found.valid.value == 0.0
    assert (found.unique, found.novel, found.diversity, found.fragments) == (None, None, None, None)
    with pytest.raises(BadInput, match="10 or more"):
        measure_molecules(["C"] * 3, Known.of(["C"], ["C"]))


def test_the_strict_judge_agrees_or_is_not_there() -> None:
    verdicts = strict_verdicts(["CCO", "C(C", "c1cccc1", "c1ccccc1", ""])
    assert verdicts is None or verdicts.tolist() == [True, False, False, True, False]


def test_copies_stay_on_one_side() -> None:
    data = molecules_of(made(40) * 3)
    kept, aside = divide(data, seed=3)
    assert not set(data.take(kept).texts()) & set(data.take(aside).texts())


def test_symbols_are_drawn_for_themselves() -> None:
    data = molecules_of(made(50))
    found = independent_symbols(data, 200, seed=1)
    lengths = set(data.lengths.tolist())
    assert set(found.lengths.tolist()) <= lengths
    at = {k: set() for k in range(max(lengths))}  # type: ignore[var-annotated]
    for row in range(len(data)):
        for k, code in enumerate(data.codes[data.starts[row] : data.starts[row] + data.lengths[row]]):
            at[k].add(code)
    for start, size in zip(found.starts, found.lengths, strict=True):
        assert all(found.codes[start + k] in at[k] for k in range(size))


def test_families_are_compared_on_molecules() -> None:
    report = compare(molecules_of(made(400)), families=["ngram"], minutes=0.05)
    values = {
        key: {name: getattr(r, "estimate", None) for name, r in rows.items()} for key, rows in report.results.items()
    }
    assert values["valid"]["real, unseen"].value == 1.0  # type: ignore[union-attr]
    assert values["valid"]["independent symbols"].value < values["valid"]["ngram"].value  # type: ignore[union-attr]
    assert {"unique", "novel", "diversity", "fragments", "scaffolds", "bits"} <= report.results.keys()
    assert "independent symbols" in report.to_text()
    assert list(itertools.islice(report.results, 1)) == ["valid"]
