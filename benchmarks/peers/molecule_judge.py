"""RDKit's measures of strings, in an environment of its own: what MOSES counts, by its definitions.

    python molecule_judge.py < job.json     {"samples": [...], "train": [...], "reference": [...]} -> one JSON object

valid: RDKit reads it. unique, novel: by canonical strings. diversity: 1 - mean Tanimoto similarity of Morgan
fingerprints of radius 2 and 1,024 bits, over the first 3,000. fragments (BRICS), scaffolds (Bemis-Murcko): cosine of
counts with the reference.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

FEWER = 3000


def cosine(a: Counter[str], b: Counter[str]) -> float:
    """Of the angle between two tables of counts."""
    lengths = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(v * b[k] for k, v in a.items()) / lengths if lengths else 0.0


def parts(molecules: list[Any]) -> tuple[Counter[str], Counter[str]]:
    """Fragments and scaffolds, each with how often it occurs."""
    fragments: Counter[str] = Counter()
    scaffolds: Counter[str] = Counter()
    for molecule in molecules:
        broken = BRICS.BreakBRICSBonds(molecule)
        fragments.update(Chem.MolToSmiles(part) for part in Chem.GetMolFrags(broken, asMols=True))
        scaffold = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)
        if scaffold:
            scaffolds[scaffold] += 1
    return fragments, scaffolds


def main() -> int:
    job = json.load(sys.stdin)
    with rdBase.BlockLogs():
        read = {name: [Chem.MolFromSmiles(text) if text else None for text in job[name]] for name in job}
    kept = {name: [m for m in molecules if m is not None] for name, molecules in read.items()}
    own = {Chem.MolToSmiles(m) for m in kept["samples"]}
    known = {Chem.MolToSmiles(m) for m in kept["train"]}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    bits = np.array([generator.GetFingerprintAsNumPy(m) for m in kept["samples"][:FEWER]], np.float32)
    both = bits @ bits.T
    sizes = bits.sum(1)
    alike = both / np.maximum(sizes[:, None] + sizes[None, :] - both, 1.0)
    here, there = parts(kept["samples"]), parts(kept["reference"])
    answer = {
        "valid": len(kept["samples"]) / len(job["samples"]),
        "unique": len(own) / max(1, len(kept["samples"])),
        "novel": len(own - known) / max(1, len(own)),
        "diversity": 1.0 - float(alike.mean()),
        "fragments": cosine(here[0], there[0]),
        "scaffolds": cosine(here[1], there[1]),
    }
    print(json.dumps({name: round(value, 4) for name, value in answer.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
