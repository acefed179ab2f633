"""Groups of alike items: planted clusters are found, drawn as often as they are met, and unused ones never."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from pellucid.core.rows import Rows
from pellucid.nets.groups import LEAST_ITEMS, Groups

SHARES = torch.tensor([0.5, 0.3, 0.2])


def rows(n: int, seed: int = 3) -> Rows:
    return Rows(seed, torch.arange(n))


def planted(n: int, size: int = 7, apart: float = 8.0) -> tuple[Tensor, Tensor]:
    """Rows (N, D) around three centres, and the cluster (N,) of each."""
    centres = apart * rows(3, 9).normal(size)
    cluster = rows(n).fork("cluster").categorical(SHARES.log().expand(n, 3))
    return centres[cluster] + rows(n).normal(size), cluster


def test_before_it_has_seen_data_all_are_in_the_first_group() -> None:
    groups = Groups(7, 5, classes=2)
    x, _ = planted(10)
    assert groups.of(x).tolist() == [0] * 10
    assert groups.draw(rows(10), None, None).tolist() == [0] * 10


@pytest.mark.parametrize("size", [2, 7, 50, 1200])
def test_planted_clusters_are_found(size: int) -> None:
    """Also with more numbers in an item than items, and more than directions are kept."""
    x, cluster = planted(600, size, 8.0 if size > 2 else 30.0)
    groups = Groups(size, 3)
    groups.fit(x, None)
    found = groups.of(x)
    together = torch.zeros(3, 3).index_put_((cluster, found), torch.ones(600), accumulate=True)
    assert (together > 0).sum() == 3, together  # each cluster is one group
    torch.testing.assert_close(groups.share[-1].sort().values, SHARES.sort().values, atol=0.06, rtol=0.0)
    # within one group only what is inside a cluster is left
    centre = torch.stack([x[found == g].mean(0) for g in range(3)])
    assert float((x - centre[found]).std()) == pytest.approx(1.0, abs=0.1)


def test_more_groups_leave_less_within_them() -> None:
    x, _ = planted(1000)
    within = []
    for count in (1, 3, 12, 40):
        groups = Groups(7, count)
        groups.fit(x, None)
        of = groups.of(x)
        centre = torch.stack([x[of == g].mean(0) if (of == g).any() else x[0] for g in range(count)])
        within.append(float((x - centre[of]).square().sum(1).mean()))
    assert within == sorted(within, reverse=True)
    assert within[3] < 0.6 * within[1]


def test_shares_are_those_of_each_class() -> None:
    x, cluster = planted(900)
    label = torch.where(cluster == 0, 0, torch.where(cluster == 1, 1, rows(900).fork("l").integers(2)))
    groups = Groups(7, 3, classes=4)
    groups.fit(x, label)
    of = groups.of(x)
    for c in (0, 1):
        counted = torch.bincount(of[label == c], minlength=3) / (label == c).sum()
        torch.testing.assert_close(groups.share[c], counted.float())
    overall = torch.bincount(of, minlength=3) / 900
    for c in (2, 3, 4):  # never met, never met, and all together
        torch.testing.assert_close(groups.share[c], overall.float())


def test_a_class_that_is_not_given_is_not_counted() -> None:
    x, cluster = planted(900)
    given = cluster != 0  # the first cluster says nothing of its class, and its values are noise
    groups = Groups(7, 3, classes=2)
    groups.fit(x, torch.zeros(900, dtype=torch.int64), given)
    missing = int(groups.of(x[cluster == 0])[0])
    assert float(groups.share[0, missing]) == 0.0
    assert float(groups.share[-1, missing]) == pytest.approx(0.5, abs=0.06)
    groups.fit(x, torch.zeros(900, dtype=torch.int64), torch.zeros(900, dtype=torch.bool))
    torch.testing.assert_close(groups.share[0], groups.share[-1])


def test_groups_are_drawn_as_often_as_they_are_met() -> None:
    x, cluster = planted(900)
    groups = Groups(7, 6, classes=3)
    groups.fit(x, cluster)
    n = 6000
    label, given = torch.arange(n) % 3, torch.arange(n) % 2 == 0
    drawn = groups.draw(rows(n), label, given)
    for c in range(3):
        asked = given & (label == c)
        share = torch.bincount(drawn[asked], minlength=6) / asked.sum()
        torch.testing.assert_close(share, groups.share[c], atol=4 * 0.5 / math.sqrt(n / 6), rtol=0.0)
        assert (share[groups.share[c] == 0] == 0).all()
    free = torch.bincount(drawn[~given], minlength=6) / (~given).sum()
    torch.testing.assert_close(free, groups.share[-1], atol=4 * 0.5 / math.sqrt(n / 2), rtol=0.0)
    alone = groups.draw(rows(n).take(torch.tensor([41])), label[41:42], given[41:42])
    assert alone[0] == drawn[41]


@pytest.mark.parametrize("n", [1, 2, LEAST_ITEMS, 3 * LEAST_ITEMS + 1, 1000])
def test_fewer_items_have_fewer_groups(n: int) -> None:
    x, _ = planted(n)
    groups = Groups(7, 40)
    groups.fit(x, None)
    most = max(1, min(40, n // LEAST_ITEMS))
    assert int(groups.of(x).max()) < most
    assert int(groups.of(50 * rows(500, 8).normal(7)).max()) < most
    assert (groups.share[:, most:] == 0).all()
    assert int(groups.draw(rows(2000), None, None).max()) < most
    torch.testing.assert_close(groups.share.sum(1), torch.ones(2))
    for name, value in groups.state_dict().items():
        assert value.isfinite().all(), name


def test_items_that_are_all_alike() -> None:
    groups = Groups(7, 4)
    groups.fit(torch.ones(200, 7), None)
    assert len(groups.of(torch.ones(3, 7)).unique()) == 1
    assert groups.share.isfinite().all()


def test_the_same_rows_give_the_same_groups_and_nothing_global_moves() -> None:
    x, _ = planted(300)
    before = torch.get_rng_state()
    one, other = Groups(7, 6), Groups(7, 6)
    one.fit(x, None)
    torch.rand(3)
    torch.set_rng_state(before)
    other.fit(x, None)
    assert torch.equal(one.centre, other.centre)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_group_of_an_item_does_not_depend_on_its_batch_nor_on_vmap() -> None:
    x, _ = planted(300)
    groups = Groups(7, 6)
    groups.fit(x, None)
    whole = groups.of(x)
    assert torch.equal(whole[17:18], groups.of(x[17:18]))
    assert torch.equal(vmap(lambda row: groups.of(row[None])[0])(x), whole)


def test_groups_are_part_of_the_state() -> None:
    x, _ = planted(300)
    one, other = Groups(7, 6), Groups(7, 6)
    one.fit(x, None)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.of(x), other.of(x))
    assert torch.equal(one.draw(rows(50), None, None), other.draw(rows(50), None, None))


def test_shares_are_counted_anew_and_classes_not_met_keep_theirs() -> None:
    """Going on with other data, groups stay and how often they are met follows the new data."""
    x = torch.cat((torch.zeros(60, 3), torch.full((60, 3), 9.0))) + 0.1 * Rows(0, torch.arange(120)).normal(3)
    label = torch.arange(120) % 2
    groups = Groups(3, 2, classes=2)
    groups.fit(x, label)
    before, first = groups.share.clone(), int(groups.of(x[:1]))
    groups.recount(x[:60], torch.zeros(60, dtype=torch.int64))
    assert float(groups.share[0, first]) == 1.0
    assert float(groups.share[-1, first]) == 1.0
    assert torch.equal(groups.share[1], before[1])
    assert before[1].tolist() == pytest.approx([0.5, 0.5])
