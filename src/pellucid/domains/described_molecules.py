"""What a set of molecules holds, before anything is learned from it: sizes, elements, rings, and a look at it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pellucid.core import report
from pellucid.core.report import Block
from pellucid.core.run import Noticed
from pellucid.core.smiles import read_smiles
from pellucid.domains.molecule_files import MoleculeData

__all__ = ["MoleculeReport", "describe_molecules"]

LINES = 20  # strings, in the look at it
MOST_READ = 5000  # molecules whose atoms are counted, spread evenly


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeReport(report.Report):
    """What a set of molecules holds.

    count: strings. duplicates: strings equal to an earlier one. symbols: different ones. longest: of a string.
    read: molecules that the rest was counted on. atoms: (fewest, median, most) without hydrogen.
    elements: (element, share of molecules that hold it). ringed, aromatic, charged, parted: shares of molecules with a
    ring, an aromatic ring, a charged atom, several parts. look: the first strings.
    """

    kind: str = "molecules"
    source: str
    fingerprint: str
    count: int
    duplicates: int
    symbols: int
    longest: int
    read: int
    atoms: tuple[int, float, int]
    elements: tuple[tuple[str, float], ...]
    ringed: float
    aromatic: float
    charged: float
    parted: float
    look: str
    notices: tuple[Noticed, ...] = ()

    @property
    def title(self) -> str:
        return f"Data: {self.source}"

    def blocks(self) -> tuple[Block, ...]:
        """A sentence, what to look at, the first strings, elements, and what was noticed while reading."""
        low, middle, high = self.atoms
        out: list[Block] = [
            report.Prose(
                f"**{self.count:,} molecules** as SMILES strings of {self.symbols} different symbols, "
                f"at most {self.longest} each; {low} to {high} atoms without hydrogen, {middle:g} in the middle."
            )
        ]
        if self.duplicates:
            share = self.duplicates / self.count
            text = f"{self.duplicates:,} strings ({share:.1%}) are exact copies of an earlier one."
            out.append(report.Verdict("warn" if share > 0.05 else "note", text))
        shares = [("a ring", self.ringed), ("an aromatic ring", self.aromatic), ("a charged atom", self.charged)]
        rows = [(name, f"{share:.1%}") for name, share in [*shares, ("several parts", self.parted)]]
        names, values = zip(*self.elements, strict=True) if self.elements else ((), ())
        out += [
            report.Code(self.look),
            report.Heading("Atoms and rings"),
            report.Bars(names, values, caption=f"Share of {self.read:,} molecules that hold an element"),
            report.Table(("molecules with", "share"), rows, align=("left", "right")),
        ]
        if self.notices:
            out += [
                report.Heading("Noticed while reading"),
                report.Table(("topic", "what"), [(n.topic, n.text) for n in self.notices]),
            ]
        return (*out, report.Prose(f"Fingerprint `{self.fingerprint}`."))


def describe_molecules(data: MoleculeData) -> MoleculeReport:
    """Counts and shares; of many molecules, those of `MOST_READ` spread evenly."""
    few = data if len(data) <= MOST_READ else data.take(np.arange(MOST_READ) * len(data) // MOST_READ)
    molecules = [read_smiles(text) for text in few.texts()]
    sizes = [len(m) for m in molecules] or [0]
    holds = Counter(element for m in molecules for element in set(m.elements))
    n = max(1, len(molecules))
    texts = data.texts()
    return MoleculeReport(
        source=data.source,
        fingerprint=data.fingerprint(),
        count=len(data),
        duplicates=len(texts) - len(set(texts)),
        symbols=len({code for s, k in zip(data.starts, data.lengths, strict=True) for code in data.codes[s : s + k]}),
        longest=data.window,
        read=len(molecules),
        atoms=(min(sizes), float(np.median(sizes)), max(sizes)),
        elements=tuple((element, count / n) for element, count in holds.most_common(12)),
        ringed=sum(any(m.rings) for m in molecules) / n,
        aromatic=sum(any(m.delocalised) for m in molecules) / n,
        charged=sum(any(m.charges) for m in molecules) / n,
        parted=sum("." in text for text in few.texts()) / n,
        look="\n".join(texts[:LINES]) + ("\n..." if len(texts) > LINES else ""),
        notices=data.notices,
    )
