"""Randomness is a function of (seed, fork, id, position): the published vectors, the distributions and the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pellucid.core.rows import Rows, philox4x32

PI_COUNTER, PI_KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = 0xFFFFFFFF


# Random123, kat_vectors, "philox4x32 10" (Salmon, Moraes, Dror, Shaw, SC 2011)
@pytest.mark.parametrize(
    ("counter", "key", "published"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (PI_COUNTER, PI_KEY, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_published_vectors(counter: tuple[int, int, int, int], key: tuple[int, int], published: str) -> None:
    a, b, c, d = (torch.tensor([word]) for word in counter)
    assert " ".join(f"{int(word):08x}" for word in philox4x32((a, b, c, d), key)) == published


def test_the_words_agree_with_arithmetic_without_a_word_size() -> None:
    def plainly(counter: list[int], key: tuple[int, int]) -> list[int]:
        c, (k0, k1) = counter, key
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(p1 >> 32) ^ c[1] ^ k0, p1 & ONES, (p0 >> 32) ^ c[3] ^ k1, p0 & ONES]
            k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
        return c

    counters = np.random.default_rng(0).integers(0, 2**32, (200, 4), dtype=np.int64)
    a, b, c, d = torch.from_numpy(counters).unbind(1)
    ours = torch.stack(philox4x32((a, b, c, d), PI_KEY), dim=1)
    assert ours.tolist() == [plainly(row, PI_KEY) for row in counters.tolist()]


ROWS = Rows(5, torch.arange(3000))


def test_uniform_is_uniform() -> None:
    assert stats.kstest(ROWS.uniform(7).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(ROWS.fork("other").uniform(7, dtype=torch.float64).flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_is_normal() -> None:
    assert stats.kstest(ROWS.normal(7).flatten().numpy(), "norm").pvalue > 1e-3
    tails = ROWS.fork("tails").normal(300, dtype=torch.float64).flatten()
    for edge in (3.0, 4.0):
        expected = 2 * stats.norm.sf(edge) * len(tails)
        assert abs(int((tails.abs() > edge).sum()) - expected) < 5 * math.sqrt(expected)


def test_gumbel_integers_and_categorical_follow_their_laws() -> None:
    assert stats.kstest(ROWS.gumbel(3).flatten().numpy(), "gumbel_r").pvalue > 1e-3
    counted = torch.bincount(ROWS.integers(6, 5).flatten(), minlength=6)
    assert stats.chisquare(counted.numpy()).pvalue > 1e-3
    p = torch.tensor([0.5, 0.3, 0.0, 0.2])
    drawn = torch.bincount(ROWS.categorical(p.log().expand(3000, 5, 4)).flatten(), minlength=4)
    assert drawn[2] == 0
    assert stats.chisquare(drawn[p > 0].numpy(), (p[p > 0] * 15000).numpy()).pvalue > 1e-3


def test_rows_positions_forks_and_kinds_are_independent() -> None:
    """Correlations of n numbers stay within five of their standard errors, 1 / sqrt(n)."""
    n = 200_000
    x = Rows(9, torch.arange(n // 4)).normal(4, dtype=torch.float64)
    flat = x.flatten()
    pairs = {
        "neighbours in a row": (x[:, 0], x[:, 1]),
        "neighbouring blocks": (
            Rows(9, torch.arange(n // 4)).normal(8)[:, 3],
            Rows(9, torch.arange(n // 4)).normal(8)[:, 4],
        ),
        "neighbouring ids": (flat[:-4], flat[4:]),
        "forks": (x[:, 0], Rows(9, torch.arange(n // 4)).fork("other").normal(1)[:, 0]),
        "steps": (x[:, 0], Rows(9, torch.arange(n // 4)).fork("other", 1).normal(1)[:, 0]),
        "seeds": (x[:, 0], Rows(10, torch.arange(n // 4)).normal(1)[:, 0]),
        "kinds": (x[:, 0], Rows(9, torch.arange(n // 4)).uniform(1)[:, 0]),
        "squares of a pair": (x[:, 0] ** 2, x[:, 1] ** 2),
    }
    for name, (a, b) in pairs.items():
        found = np.corrcoef(a.numpy(), b.numpy())[0, 1]
        assert abs(found) < 5 / math.sqrt(len(a)), f"{name}: correlation {found:.4f}"


def test_a_row_does_not_know_its_batch() -> None:
    whole = Rows(7, torch.arange(11))
    alone = Rows(7, torch.tensor([8]))
    for draw in ("normal", "uniform", "gumbel"):
        assert torch.equal(getattr(whole, draw)(3, 2)[8], getattr(alone, draw)(3, 2)[0])
        assert torch.equal(getattr(whole.take(slice(8, 9)), draw)(3, 2), getattr(alone, draw)(3, 2))
    assert torch.equal(whole.take(torch.tensor([8, 2])).integers(9, 4)[0], alone.integers(9, 4)[0])
    shuffled = torch.tensor([4, 1, 3])
    assert torch.equal(Rows(7, shuffled).normal(5), whole.normal(5)[shuffled])


def test_asking_for_more_numbers_keeps_the_first() -> None:
    rows = Rows(7, torch.arange(4))
    for draw in ("normal", "uniform", "gumbel"):
        assert torch.equal(getattr(rows, draw)(9)[:, :5], getattr(rows, draw)(5))


def test_a_fork_is_named_by_its_whole_path_and_moves_nothing_elsewhere() -> None:
    rows = Rows(7, torch.arange(4))
    before = rows.fork("noise", 3).normal(2)
    rows.fork("new purpose").normal(1000)
    assert torch.equal(rows.fork("noise", 3).normal(2), before)
    paths = [
        rows,
        rows.fork("a"),
        rows.fork("a", 1),
        rows.fork("b"),
        rows.fork("a").fork("b"),
        rows.fork("b").fork("a"),
        rows.fork("a1"),
    ]
    assert len({path.key for path in paths}) == len(paths)


def test_ids_beyond_32_bits_and_any_seed() -> None:
    far = torch.tensor([1, 1 + 2**32, 1 + 2**40, 2**62, -1])
    drawn = Rows(0, far).normal(2)
    assert len({tuple(row) for row in drawn.tolist()}) == len(far)
    seeds = (0, -1, 1, -(2**70), 2**70, 2**32, 2**64)
    assert len({tuple(Rows(seed, far).normal(2).flatten().tolist()) for seed in seeds}) == len(seeds)


def test_float64_carries_32_bits_and_float32_is_its_rounding() -> None:
    rows = Rows(3, torch.arange(1000))
    fine, coarse = rows.normal(4, dtype=torch.float64), rows.normal(4)
    assert fine.dtype == torch.float64
    assert torch.allclose(fine.float(), coarse, atol=2e-5)
    assert (rows.uniform(4, dtype=torch.float64) - rows.uniform(4)).abs().max() < 2.0**-22


def test_no_uniform_number_reaches_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for the rarest words, which a million draws would not meet."""
    ends = torch.tensor([[0, ONES]])
    monkeypatch.setattr(Rows, "_words", lambda self, kind, count: ends[:, :count])
    for dtype in (torch.float32, torch.float64):
        low, high = Rows(0, torch.tensor([0])).uniform(2, dtype=dtype)[0]
        assert 0.0 < low < high < 1.0
        assert bool(Rows(0, torch.tensor([0])).normal(2, dtype=dtype).isfinite().all())
        assert bool(Rows(0, torch.tensor([0])).gumbel(2, dtype=dtype).isfinite().all())


def test_no_rows_and_no_numbers_give_empty_tensors() -> None:
    none, three = Rows(0, torch.arange(0)), Rows(0, torch.arange(3))
    for draw in ("normal", "uniform", "gumbel"):
        assert getattr(none, draw)(4, 2).shape == (0, 4, 2)
        assert getattr(none, draw)().shape == (0,)
        assert getattr(three, draw)(0).shape == (3, 0)
        assert getattr(three, draw)().shape == (3,)
    assert none.integers(5, 2).shape == (0, 2)
    assert none.categorical(torch.zeros(0, 2, 5)).shape == (0, 2)


def test_initial_weights_come_from_the_stream_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with Rows(4, torch.zeros(1, dtype=torch.int64)).seeding():
        first = torch.nn.Linear(3, 2).weight
    assert torch.equal(torch.rand(2), expected)
    with Rows(4, torch.zeros(1, dtype=torch.int64)).seeding():
        assert torch.equal(torch.nn.Linear(3, 2).weight, first)


def test_rows_draw_inside_vmap() -> None:
    """Per-row gradients run losses under vmap, with one id at a time."""
    ids = torch.arange(6)
    mapped = torch.func.vmap(lambda i: Rows(7, i[None]).fork("t").normal(3)[0])(ids)
    assert torch.equal(mapped, Rows(7, ids).fork("t").normal(3))
    logits = torch.linspace(-1, 1, 24).reshape(6, 4)
    symbols = torch.func.vmap(lambda i, row: Rows(7, i[None]).categorical(row[None])[0])(ids, logits)
    assert torch.equal(symbols, Rows(7, ids).categorical(logits))
