"""An engine that counts: shards in any order, a checkpoint between any two, and nothing lost on the way."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from tests.contracts.toys.counting import Neighbours

SPACE = Tokens(3, 4)
N = 50
X = Rows(1, torch.arange(N)).categorical(torch.tensor([0.5, 0.0, -1.0]).expand(N, 4, 3))
SHARDS = [Batch(X[i:j], torch.arange(i, j)) for i, j in ((0, 20), (20, 21), (21, 21), (21, 50))]


def counted(shards: list[Batch]) -> Neighbours:
    engine = Neighbours(SPACE)
    for shard in shards:
        engine.absorb(shard)
    return engine


def log_p(engine: Neighbours) -> Tensor:
    engine.settle()
    return engine.log_prob(Batch(X, torch.arange(N)), Rows(0, torch.arange(N))).value


EXPECTED = log_p(counted([Batch(X, torch.arange(N))]))


def test_the_order_of_shards_does_not_matter() -> None:
    for order in itertools.permutations(SHARDS):
        assert torch.equal(log_p(counted(list(order))), EXPECTED)


def test_probabilities_are_those_of_the_counts() -> None:
    """By hand: the share of first symbols, one added to each count."""
    engine = counted(SHARDS)
    engine.settle()
    first = (torch.bincount(X[:, 0], minlength=3).double() + 1) / (N + 3)
    assert torch.allclose(engine.log_p[3].exp(), first)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    value = engine.log_prob(Batch(every, torch.arange(81)), Rows(0, torch.arange(81))).value
    assert value.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("done", range(len(SHARDS) + 1))
def test_a_restart_between_two_shards_loses_nothing(done: int) -> None:
    stored = counted(SHARDS[:done]).tables()
    engine = Neighbours(SPACE)
    engine.restore(stored)
    for shard in SHARDS[done:]:
        engine.absorb(shard)
    assert torch.equal(log_p(engine), EXPECTED)


def test_restore_undoes_tables_and_keeps_its_own_copy() -> None:
    engine, again = counted(SHARDS), Neighbours(SPACE)
    tables = engine.tables()
    again.restore(tables)
    assert all(torch.equal(table, again.tables()[name]) for name, table in tables.items())
    tables["counts"] += 7
    assert torch.equal(log_p(again), EXPECTED)
    assert torch.equal(log_p(engine), EXPECTED)


@pytest.mark.parametrize(
    "counts",
    [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(4, 3), -torch.ones(4, 3, dtype=torch.int64)],
    ids=["size", "kind", "sign"],
)
def test_tables_that_do_not_fit_are_refused(counts: Tensor) -> None:
    with pytest.raises(BadInput, match="table of counts"):
        Neighbours(SPACE).restore({"counts": counts})
