"""What a text holds, before anything is learned from it: how much, which pieces, and a look at it."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

import numpy as np

from pellucid.core import report
from pellucid.core.report import Block
from pellucid.core.run import Noticed
from pellucid.domains.pieces import visible
from pellucid.domains.text_files import TextData

__all__ = ["TextReport", "describe_text"]

SHOWN = 600  # characters of a running text, in the look at it
LINES = 20  # of a list
COMMONEST = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class TextReport(report.Report):
    """What a text holds.

    count: items: windows of a running text, or lines. pieces: of the whole text. distinct: different ones.
    commonest: (piece, how often). once: pieces that occur once. entropy: of single pieces, in bits.
    longest: pieces of the longest item. duplicates: lines equal to an earlier one; of a running text 0.
    scripts: letters of each script, the commonest first. look: the beginning.
    """

    kind: str = "text"
    form: str
    unit: str
    source: str
    fingerprint: str
    count: int
    pieces: int
    distinct: int
    commonest: tuple[tuple[str, int], ...]
    once: int
    entropy: float
    longest: int
    duplicates: int
    scripts: tuple[tuple[str, int], ...]
    look: str
    notices: tuple[Noticed, ...] = ()

    @property
    def title(self) -> str:
        return f"Data: {self.source}"

    def blocks(self) -> tuple[Block, ...]:
        """A sentence, what to look at, the beginning, the commonest pieces, and what was noticed while reading."""
        names, counts = zip(*self.commonest, strict=True) if self.commonest else ((), ())
        unit = self.unit.removesuffix("s")
        out: list[Block] = [report.Prose(self._sentence())]
        if self.duplicates:
            share = self.duplicates / self.count
            text = f"{self.duplicates:,} lines ({share:.1%}) are exact copies of an earlier one."
            out.append(report.Verdict("warn" if share > 0.05 else "note", text))
        if self.once:
            out.append(report.Verdict("note", f"{self.once:,} of {self.distinct:,} different {self.unit} occur once."))
        out += [
            report.Code(self.look),
            report.Heading("Pieces"),
            report.Bars(names, counts, caption=f"The {len(names)} commonest {self.unit}", value_label="times"),
            report.Prose(f"A {unit} by itself has {self.entropy:.2f} bits: what a model must get below."),
        ]
        if len(self.scripts) > 1:
            out.append(report.Table(("script", "letters"), self.scripts, align=("left", "right")))
        if self.notices:
            out += [
                report.Heading("Noticed while reading"),
                report.Table(("topic", "what"), [(n.topic, n.text) for n in self.notices]),
            ]
        return (*out, report.Prose(f"Fingerprint `{self.fingerprint}`."))

    def _sentence(self) -> str:
        if self.form == "lines":
            what = f"**{self.count:,} lines**, a list of short strings of at most {self.longest} {self.unit}"
        else:
            what = f"**One running text** of {self.pieces:,} {self.unit}, learned in windows of {self.longest}"
        return f"{what}; **{self.distinct:,} different {self.unit}**."


def describe_text(data: TextData) -> TextReport:
    """Counts, pieces and a look at the beginning."""
    whole = data.whole()
    if data.form == "running":
        at = int(whole.starts[0]) if len(whole) else 0
        codes = data.codes[at : at + whole.window]
    else:
        codes = np.concatenate([data.codes[s : s + n] for s, n in zip(data.starts, data.lengths, strict=True)])
    counts = np.bincount(codes, minlength=max(1, len(data.pieces)))
    order = np.argsort(-counts, kind="stable")[:COMMONEST]
    share = counts[counts > 0] / max(1, len(codes))
    texts = data.texts(LINES) if data.form == "lines" else [whole._string(int(whole.starts[0]), min(SHOWN, len(codes)))]
    repeated = len(data) - len(set(data.texts())) if data.form == "lines" else 0
    return TextReport(
        form=data.form,
        unit=data.unit,
        source=data.source,
        fingerprint=data.fingerprint(),
        count=len(data),
        pieces=len(codes),
        distinct=int((counts > 0).sum()),
        commonest=tuple((_named(data, int(k)), int(counts[k])) for k in order if counts[k]),
        once=int((counts == 1).sum()),
        entropy=float(-(share * np.log(share)).sum() / math.log(2)),
        longest=data.window,
        duplicates=repeated,
        scripts=_scripts(data, counts),
        look="\n".join(visible(text) for text in texts) + ("\n..." if len(data) > len(texts) else ""),
        notices=data.notices,
    )


def _named(data: TextData, code: int) -> str:
    """A piece as it is shown: white space by its name."""
    piece = chr(code) if data.unit == "bytes" and code < 128 else data.pieces[code] if data.pieces else f"byte {code}"
    return {" ": "space", "\n": "newline", "\t": "tab"}.get(piece, piece)


def _scripts(data: TextData, counts: np.ndarray) -> tuple[tuple[str, int], ...]:
    """Letters by script, from the first word of their Unicode names."""
    found: dict[str, int] = {}
    for piece, count in zip(data.pieces, counts.tolist(), strict=False):
        letter = next((c for c in piece if c.isalpha()), "")
        if letter and count:
            script = unicodedata.name(letter, "UNNAMED").split()[0].title()
            found[script] = found.get(script, 0) + count
    return tuple(sorted(found.items(), key=lambda item: -item[1]))
