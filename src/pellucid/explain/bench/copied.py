"""Every copied run against brute force: recall and precision over planted outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.core.interval import wilson
from pellucid.explain.copies import Body

__all__ = ["BAR", "measure"]

BAR = "span recall and precision 1.0 against brute force"

Whole = NDArray[np.int64]


def measure(*, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Shares of the true maximal runs that are found, and of those found that are true with all their places."""
    true = found = hits = right = 0
    for trial in range(15 if quick else 80):
        output, training = _planted(np.random.default_rng([seed, trial]))
        expected = _brute(output.tolist(), [t.tolist() for t in training])
        runs = Body.of(training).copies(output)
        true, found = true + len(expected), found + len(runs)
        for run in runs:
            there = expected.get((run.start, run.end), [])
            hits += bool(there)
            right += run.count == len(there) and list(run.sources) == sorted(there)[: len(run.sources)]
    recall, precision = wilson(hits, true), wilson(right, found)
    return {
        "recall": [recall.value, round(recall.low, 4), recall.high, recall.n],
        "precision": [precision.value, round(precision.low, 4), precision.high, precision.n],
        "met": recall.value == 1.0 and precision.value == 1.0,
    }


def _planted(random: np.random.Generator) -> tuple[Whole, list[Whole]]:
    """A random output with pieces of random training items in it."""
    alphabet = int(random.integers(2, 7))
    training = [random.integers(0, alphabet, int(random.integers(1, 30))) for _ in range(6)]
    output = random.integers(0, alphabet + 1, 30)
    for _ in range(3):
        item = training[int(random.integers(0, 6))]
        length = int(random.integers(1, len(item) + 1))
        start, to = int(random.integers(0, len(item) - length + 1)), int(random.integers(0, 30))
        piece = item[start : start + length][: 30 - to]
        output[to : to + len(piece)] = piece
    return output, training


def _brute(output: list[int], training: list[list[int]]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(start, end) of every maximal run with all its places, by comparing everything with everything."""
    spans = {}
    for start in range(len(output)):
        for end in range(start + 1, len(output) + 1):
            there = [(k, p) for k, item in enumerate(training) for p in range(len(item) - (end - start) + 1)
                     if item[p : p + end - start] == output[start:end]]  # fmt: skip
            if not there:
                break  # what is longer stands nowhere either
            spans[start, end] = there
    covered = {(a, b) for a, b in spans if (a - 1, b) in spans or (a, b + 1) in spans}
    return {s: t for s, t in spans.items() if s not in covered}
