"""The index is held to brute force: the order of the endings, every count, every place, every longest run."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.explain.suffix_array import SuffixArray


@pytest.mark.parametrize("alphabet", [1, 2, 3, 50_000])
def test_the_endings_are_in_order(alphabet: int) -> None:
    random = np.random.default_rng(alphabet)
    for n in (0, 1, 2, 3, 17, 120):
        text = random.integers(0, alphabet, n)
        if n > 40:
            text[n // 2 : n // 2 + 20] = text[:20]  # a long repeat, and the text ends in one
            text[-9:] = text[:9]
        expected = sorted(range(n), key=lambda i: text[i:].tolist())
        assert SuffixArray.of(text).order.tolist() == expected


def places(text: list[int], run: list[int]) -> list[int]:
    return [i for i in range(len(text) - len(run) + 1) if text[i : i + len(run)] == run]


def test_every_run_is_counted_and_placed_as_by_brute_force() -> None:
    random = np.random.default_rng(1)
    for _ in range(60):
        alphabet = int(random.integers(1, 5))
        text = random.integers(0, alphabet, int(random.integers(1, 60)))
        query = random.integers(-1, alphabet + 1, int(random.integers(1, 25)))
        query[: len(text) // 2] = text[: len(query)][: len(text) // 2]
        index, said, asked = SuffixArray.of(text), text.tolist(), query.tolist()
        for length in (1, 2, 5):
            found = index.find(query, length)
            for i in range(len(asked) - length + 1):
                there = places(said, asked[i : i + length])
                assert found.count[i] == len(there)
                low, high = int(found.low[i]), int(found.high[i])
                assert index.places(low, high, 1000).tolist() == there
                assert index.places(low, high, 2).tolist() == there[:2]
        whole = index.find(query)
        for i, length in enumerate(index.longest(query).tolist()):
            beginnings = [k for k in range(1, len(asked) - i + 1) if places(said, asked[i : i + k])]
            assert length == max(beginnings, default=0) == whole.length[i]
            if length:
                assert int(whole.place[i]) in places(said, asked[i : i + length])


def test_what_is_no_row_of_symbols_is_refused() -> None:
    for wrong in (np.array([0.5]), np.array([[1]]), np.array([-1]), np.array([2**31])):
        with pytest.raises(BadInput, match="symbols"):
            SuffixArray.of(wrong)
