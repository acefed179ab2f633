"""Shares of players against the definition: averages over all orders, written out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.explain.shapley import gains_of, shapley


def gaussian(d: int) -> Callable[[Tensor], Tensor]:
    """Surprise of some coordinates of one point under a correlated normal."""
    generator = torch.Generator().manual_seed(d)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    covariance = mix @ mix.T / d + torch.eye(d, dtype=torch.float64)
    x = 1.5 * torch.randn(d, generator=generator, dtype=torch.float64)

    def value(inside: Tensor) -> Tensor:
        out = []
        for row in inside:
            at = row.nonzero()[:, 0]
            normal = torch.distributions.MultivariateNormal
            zero = torch.zeros(len(at), dtype=torch.float64)
            out.append(-normal(zero, covariance[at][:, at]).log_prob(x[at]) if len(at) else x.new_zeros(()))
        return torch.stack(out)

    return value


@pytest.mark.parametrize("d", [1, 2, 4, 5])
def test_all_subsets_give_the_average_over_all_orders(d: int) -> None:
    value = gaussian(d)
    total = torch.zeros(d, dtype=torch.float64)
    orders = list(itertools.permutations(range(d)))
    for order in orders:
        inside = torch.zeros(1, d, dtype=torch.bool)
        for player in order:
            before = value(inside)
            inside[0, player] = True
            total[player] += (value(inside) - before)[0]
    found = shapley(gains_of(value), d)
    torch.testing.assert_close(found.phi, total / len(orders), rtol=0.0, atol=1e-12)
    assert found.exact
    assert float(found.phi.sum()) == pytest.approx(float(value(torch.ones(1, d, dtype=torch.bool))))


def test_drawn_orders_come_within_a_hundredth_of_enumeration() -> None:
    value = gaussian(8)
    exact = shapley(gains_of(value), 8)
    drawn = shapley(gains_of(value), 8, orders=1500, most_exact=4)
    assert not drawn.exact
    assert float((drawn.phi - exact.phi).abs().max()) < 0.01
    assert float(drawn.phi.sum()) == pytest.approx(float(exact.phi.sum())), "every order adds up to the whole"


def test_the_errors_of_drawn_orders_are_as_large_as_they_say() -> None:
    value = gaussian(6)
    exact = shapley(gains_of(value), 6).phi
    far = [shapley(gains_of(value), 6, orders=64, seed=s, most_exact=2) for s in range(40)]
    scaled = torch.stack([(f.phi - exact) / f.error for f in far])
    assert 0.7 < float(scaled.square().mean().sqrt()) < 1.4


def test_one_who_adds_nothing_gets_nothing_and_twins_get_the_same() -> None:
    found = shapley(gains_of(lambda s: (s[:, 0] & s[:, 1]).double() * 3.0), 3).phi
    assert found.tolist() == pytest.approx([1.5, 1.5, 0.0])


def test_each_subset_is_asked_once() -> None:
    asked: list[bytes] = []

    def value(inside: Tensor) -> Tensor:
        asked.extend(row.numpy().tobytes() for row in inside)
        return inside.double().sum(1)

    shapley(gains_of(value), 5)
    assert len(asked) == len(set(asked)) == 2**5


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(BadInput, match="players"):
        shapley(gains_of(lambda s: s.double().sum(1)), 0)
    with pytest.raises(BadInput, match="orders"):
        shapley(gains_of(lambda s: s.double().sum(1)), 12, orders=7)
