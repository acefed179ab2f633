"""Posterior variance against the definition, and its removal formula against leaving rows out."""

import numpy as np
import pytest

from pellucid.explain.posterior_variance import growing, joined, left_out, variance
from pellucid.explain.similarity import gaussian


def grounds(n=17, q=5, d=3):
    g = np.random.default_rng(4)
    a, b = g.normal(size=(n, d)), g.normal(size=(q, d))
    squared = lambda x, y: np.square(x[:, None] - y[None]).sum(-1)  # noqa: E731
    return gaussian(squared(a, a), 2.0), gaussian(squared(b, a), 2.0), np.ones(q)


def test_variance_is_the_definition():
    K, k, own = grounds()
    direct = own - np.einsum("qi,ij,qj->q", k, np.linalg.inv(K + 0.1 * np.eye(len(K))), k)
    np.testing.assert_allclose(variance(K, k, own, 0.1), direct, atol=1e-12)


def test_removal_equals_leaving_the_row_out():
    K, k, own = grounds()
    everything = variance(K, k, own, 0.05)
    found = left_out(K, k, 0.05)
    for i in range(len(K)):
        kept = np.ones(len(K), dtype=bool)
        kept[i] = False
        np.testing.assert_allclose(everything + found[:, i], variance(K, k, own, 0.05, kept), atol=1e-10)


def test_growing_is_the_variance_of_every_beginning():
    K, k, own = grounds()
    order = np.random.default_rng(1).permutation(len(K))
    found = growing(K, k, own, 0.05, order)
    assert found.shape == (len(K) + 1, len(k))
    for m in range(1, len(K) + 1):
        kept = np.isin(np.arange(len(K)), order[:m])
        np.testing.assert_allclose(found[m], variance(K, k, own, 0.05, kept), atol=1e-12)
    np.testing.assert_allclose(found[0], own)


def test_rows_that_are_not_kept_cannot_leave():
    K, k, _ = grounds()
    kept = np.arange(len(K)) % 2 == 0
    found = left_out(K, k, 0.1, kept)
    assert (found[:, ~kept] == 0).all()
    assert (found[:, kept] > 0).all()


def test_linear_gaussian_influence_in_closed_form():
    """Bayesian linear regression: the predictive variance from the weights' posterior, row by row left out."""
    g = np.random.default_rng(0)
    X, Q, lam = g.normal(size=(12, 4)), g.normal(size=(3, 4)), 0.3
    spread = lambda rows: lam * np.linalg.inv(rows.T @ rows + lam * np.eye(4))  # noqa: E731
    exact = np.stack(
        [np.einsum("qd,de,qe->q", Q, spread(np.delete(X, i, 0)) - spread(X), Q) for i in range(len(X))], axis=1
    )
    np.testing.assert_allclose(left_out(X @ X.T, Q @ X.T, lam), exact, atol=1e-9)


def test_an_item_with_an_equal_beside_it_still_has_worth():
    x = np.array([[0.0], [0.0], [3.0], [5.0]])
    K, k = gaussian(np.square(x - x.T), 1.0), gaussian(np.square(np.array([[0.0]]) - x.T), 1.0)
    alone, shared = left_out(K, k, 1e-4)[0], joined(K, k, 1e-4, times=100, seed=0)[0]
    assert alone[0] < 1e-3
    assert shared[0] > 0.2
    assert shared[0] == pytest.approx(shared[1], rel=0.2)
    assert shared[0] > 10 * shared[3]


@pytest.mark.parametrize("times", [1, 3])
def test_every_item_is_met_in_any_number_of_sets(times):
    K, k, _ = grounds(n=9)
    assert (joined(K, k, 0.1, times=times, seed=1) > 0).all()
