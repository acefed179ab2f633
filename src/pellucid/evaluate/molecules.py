"""What sampled molecules are measured by: are they molecules, different ones, new ones, of the kind that was learned?

The measures are those of MOSES (Polykovskiy et al. 2020, https://doi.org/10.3389/fphar.2020.565644), with parts of our
own: the validity check of core/smiles.py, keys of graphs in place of canonical strings, circular fingerprints, and
fragments that are cut where single bonds leave rings instead of by BRICS. Figures of other programs differ a little, so
samples are to be compared with the rows 'real' beside them. Where RDKit is installed (the extra `molecules`), its
verdict on each string stands beside ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.interval import wilson
from pellucid.core.smiles import Molecule, read_smiles
from pellucid.evaluate.fingerprints import fingerprints, similarities
from pellucid.evaluate.molecule_parts import cosine, fragments, key_of, scaffold
from pellucid.evaluate.resampling import FEWEST, REPLICATES, Estimate, Flags, check_rows, halves, share

__all__ = ["Known", "MoleculeQuality", "measure_molecules", "strict_verdicts"]

Floats = NDArray[np.float64]

COMPARED = 3000  # molecules of internal diversity, whose cost grows with the square
FEWER = 40  # half-samples of the similarities, which count parts anew for each


@dataclass(frozen=True, eq=False)
class Known:
    """What samples are held against, read once.

    keys: of the training molecules. fragments, scaffolds: of reference molecules that no model saw; of each, its own.
    """

    keys: frozenset[int]
    fragments: tuple[tuple[int, ...], ...]
    scaffolds: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, train: Sequence[str], reference: Sequence[str]) -> Known:
        """From strings; those that are no molecules are left out."""
        known = [m for m in map(_molecule, reference) if m is not None]
        keys = frozenset(key_of(m) for m in map(_molecule, train) if m is not None)
        return cls(keys, tuple(tuple(fragments(m)) for m in known), tuple(map(_own, known)))


@dataclass(frozen=True, eq=False)
class MoleculeQuality:
    """What was measured of n strings.

    valid: share that are molecules. strict: the same by RDKit, None where it is not installed.
    unique: of the valid ones, the share that are the first of their kind. novel: of the different ones among these, the
    share that is not in the training data. diversity: 1 less the mean similarity of two of them. fragments, scaffolds:
    cosine of how often each occurs here and in the reference. What no molecule was left for is None.
    """

    n: int
    valid: Estimate
    strict: Estimate | None
    unique: Estimate | None
    novel: Estimate | None
    diversity: Estimate | None
    fragments: Estimate | None
    scaffolds: Estimate | None


def measure_molecules(strings: Sequence[str], known: Known, *, seed: int = 0, name: str = "samples") -> MoleculeQuality:
    """Measure sampled strings.

    Args:
        seed, name: of the half-samples that intervals come from.

    Raises BadInput for fewer strings than an interval needs.
    """
    count = len(strings)
    check_rows(count, "a measure of molecules")
    molecules = [_molecule(text) for text in strings]
    masks = halves(count, name, seed=seed)
    strict = strict_verdicts(strings)
    rows = np.array([row for row, m in enumerate(molecules) if m is not None], np.int64)
    kept = [m for m in molecules if m is not None]
    first: dict[int, int] = {}
    for row, molecule in zip(rows.tolist(), kept, strict=True):
        first.setdefault(key_of(molecule), row)
    there, own, new = np.zeros(count), np.zeros(count), np.zeros(count)
    there[rows] = 1.0
    own[list(first.values())] = 1.0
    new[[row for key, row in first.items() if key not in known.keys]] = 1.0
    enough = len(rows) >= FEWEST
    some = rows[:COMPARED]
    return MoleculeQuality(
        count,
        share(there, masks),
        None if strict is None else share(strict.astype(np.float64), masks),
        _share_of(own, there, masks) if enough else None,
        _share_of(new, own, masks) if len(first) >= FEWEST else None,
        _diversity(kept[: len(some)], some, masks) if enough else None,
        _alike([tuple(fragments(m)) for m in kept], rows, known.fragments, count, seed, name) if enough else None,
        _alike([_own(m) for m in kept], rows, known.scaffolds, count, seed, name) if enough else None,
    )


def strict_verdicts(strings: Sequence[str]) -> Flags | None:
    """(N,) bool: which strings RDKit takes; None where it is not installed."""
    if importlib.util.find_spec("rdkit") is None:
        return None
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return np.array([bool(text) and Chem.MolFromSmiles(text) is not None for text in strings], bool)


def _molecule(text: str) -> Molecule | None:
    try:
        return read_smiles(text)
    except BadInput:
        return None


def _own(molecule: Molecule) -> tuple[int, ...]:
    found = scaffold(molecule)
    return () if found is None else (found,)


def _share_of(hits: Floats, base: Floats, masks: Flags) -> Estimate:
    """Share of the rows of `base` (N,) that are `hits` (N,), both 0 or 1, with the Wilson interval of these rows."""
    value = float(hits.sum() / base.sum())
    found = masks @ hits / np.maximum(masks @ base, 1.0)
    score = wilson(float(hits.sum()), float(base.sum()))
    return Estimate(value, found - found.mean(), len(hits), (0.0, 1.0), (score.low, score.high), "Wilson 95%")


def _diversity(molecules: Sequence[Molecule], rows: NDArray[np.int64], masks: Flags) -> Estimate:
    """1 - mean Tanimoto similarity of all pairs, each with itself too, as MOSES counts."""
    bits = fingerprints(molecules)
    each = 1.0 - similarities(bits, bits)
    inside = masks[:, rows]
    found = inside @ each / np.maximum(inside.sum(1), 1)
    # each molecule stands on both sides of a pair
    return Estimate(float(each.mean()), 2.0 * (found - found.mean()), masks.shape[1], (0.0, 1.0))


def _alike(
    samples: Sequence[tuple[int, ...]],
    rows: NDArray[np.int64],
    reference: Sequence[tuple[int, ...]],
    count: int,
    seed: int,
    name: str,
) -> Estimate | None:
    """Cosine of the counts of parts here, in the valid `rows` of `count`, and there; half-samples of the rows."""
    there = [part for parts in reference for part in parts]
    if not there or not any(samples):
        return None
    value = cosine([part for parts in samples for part in parts], there)
    masks = halves(count, name, seed=seed, times=FEWER)[:, rows]
    found = np.array([cosine([p for k in np.flatnonzero(mask).tolist() for p in samples[k]], there) for mask in masks])
    return Estimate(value, np.resize(found - found.mean(), REPLICATES), count, (0.0, 1.0))
