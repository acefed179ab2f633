"""How many rows each value of a column gets, where a draw is to be balanced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.core.codec import Codec, Completes
from pellucid.core.errors import BadInput, nearest
from pellucid.domains.wishes import Others

__all__ = ["groups_of"]


def groups_of(
    codec: Codec[Any], n: int, balance: str | None, shares: Mapping[str, Mapping[str, float]]
) -> tuple[str, list[tuple[object, int]]]:
    """The column that is shared out, and how many rows each of its values gets."""
    if not isinstance(codec, Completes):
        raise BadInput(f"shares came for {codec.kind}", accepted="tables", next="Give a list: where={'class': [...]}")
    names = [*([balance] if balance is not None else []), *shares]
    if len(names) != 1:
        raise BadInput(f"{', '.join(names)} are to be shared out", accepted="one column at a time")
    name = names[0]
    levels = codec.levels(name)
    if balance is not None and len(levels) > n > 0:
        raise BadInput(
            f"{n} rows are to be balanced over the {len(levels)} values of {name}",
            accepted=f"{len(levels)} rows or more, or shares of some of the values",
        )
    if balance is not None:
        wanted: dict[object, float] = dict.fromkeys(levels, 1.0 / len(levels))
    else:
        wanted = {}
        for word, share in shares[name].items():
            if str(word) not in levels:
                listed = ", ".join(levels[:12]) + (", ..." if len(levels) > 12 else "")
                raise BadInput(f"a share of {name} is for '{word}'", accepted=listed, next=nearest(str(word), levels))
            if not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
                raise BadInput(f"the share of {name}:{word} is {share}", accepted="a number from 0 to 1")
            wanted[str(word)] = float(share)
        left = 1.0 - sum(wanted.values())
        rest = [level for level in levels if level not in wanted]
        if left < -1e-9 or (left > 1e-9 and not rest):
            raise BadInput(
                f"the shares of {name} sum to {1.0 - left:g}",
                accepted="at most 1" if rest else "1, as every value has a share",
            )
        if left > 1e-9:  # the others keep their own proportions
            wanted[rest[0] if len(rest) == 1 else Others(tuple(map(str, wanted)))] = left
    return name, _counted(wanted, n)


def _counted(wanted: Mapping[object, float], n: int) -> list[tuple[object, int]]:
    """Whole numbers that sum to n, by the largest remainders."""
    exact = {word: share * n for word, share in wanted.items()}
    counts = {word: math.floor(value + 1e-9) for word, value in exact.items()}
    left = n - sum(counts.values())
    for word in sorted(exact, key=lambda w: counts[w] - exact[w])[:left]:
        counts[word] += 1
    return list(counts.items())
