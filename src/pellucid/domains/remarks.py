"""What was noticed while columns were read, gathered into one notice for each topic.

A table may have thousands of columns: a notice names the first few and counts the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.core.run import Noticed

__all__ = ["Remark", "notices", "quoted"]

SENTENCES = {
    "missing": "cells read as missing",
    "infinite": "values read as missing because they are infinite",
    "spaces": "values with spaces around them, removed",
    "whole": "columns of decimal numbers that are all whole, read as integers",
    "comma": "columns of numbers with a decimal comma; they are written back with a point",
    "text-numbers": "columns of text that holds only numbers, read as numbers",
    "zeros": "columns of digits with leading zeros, kept as text",
    "long": "columns of numbers with more digits than can be held exactly, kept as text",
    "mixed": "columns of mixed types, kept as text",
    "dates": "columns read as dates",
    "ambiguous": "columns of dates that can be read day first or month first, read day first (kinds={name: "
    "'date:%m/%d/%Y'} changes it)",
    "utc": "columns of times from several time zones, turned into UTC",
    "seconds": "columns of time spans, read as seconds",
    "identifier": "columns whose values hardly ever repeat: identifiers or free text, which a model can only copy "
    "(--column NAME=key makes new ones, NAME=drop leaves the column out; kinds={name: 'key'} in Python)",
    "key": "columns of identifiers, which are not learned and made anew for new rows (--column NAME=KIND, or "
    "kinds={name: KIND} in Python, reads a column as something else)",
    "paired": "groups of columns that say the same in other words (--constraint 'together: A, B' keeps them so)",
    "constant": "columns with one value only, reproduced as they are",
    "empty": "columns without any value, kept empty",
    "asked": "columns whose kind is as you asked",
    "dropped": "columns left out as you asked",
}


@dataclass(frozen=True)
class Remark:
    """One thing about one column: how many cells it touches, and what they hold."""

    topic: str
    column: str
    count: int = 1
    detail: str = ""


def quoted(texts: Sequence[str], most: int = 3) -> str:
    """The first few of some values, for a sentence.

    >>> quoted(["a", "b", "c", "d"])
    "'a', 'b', 'c', ..."
    """
    return ", ".join(f"'{t}'" for t in texts[:most]) + (", ..." if len(texts) > most else "")


def notices(remarks: Sequence[Remark]) -> tuple[Noticed, ...]:
    """One notice for each topic, which names the first columns and counts the rest."""
    said = []
    for topic in dict.fromkeys(remark.topic for remark in remarks):
        group = [remark for remark in remarks if remark.topic == topic]
        total = sum(remark.count for remark in group)
        first = []
        for remark in group[:6]:
            counted = f"{remark.count:,}" if remark.count != 1 else ""
            inside = ", ".join(part for part in (counted, remark.detail) if part)
            first.append(f"'{remark.column}'" + (f" ({inside})" if inside else ""))
        sentence = SENTENCES[topic]
        if total == 1:
            sentence = re.sub(r"^(columns|values|cells|groups)", lambda m: m[0][:-1], sentence)
        more = f" and {len(group) - 6} more" if len(group) > 6 else ""
        said.append(Noticed(topic=topic, text=f"{total:,} {sentence}: {', '.join(first)}{more}", count=total))
    return tuple(said)
