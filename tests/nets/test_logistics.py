"""A mixture of logistics against scipy's, against sums and integrals, and against its own draws."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.nets.logistics import first_answer, level_masses, log_density, log_mass, number

SAID = torch.tensor(
    [0.3, -0.5, 1.0, -0.7, 0.1, 0.8, -1.5, -0.3, -2.5], dtype=torch.float64
)  # 3 weights, centres, scales


def reference(x: Tensor, what: str) -> Tensor:
    """Density or distribution function of SAID by scipy."""
    weight, mu, s = SAID[:3].softmax(0), SAID[3:6], SAID[6:].exp()
    each = [float(w) * getattr(stats.logistic, what)(x.numpy(), float(m), float(k))
            for w, m, k in zip(weight, mu, s, strict=True)]  # fmt: skip
    return torch.as_tensor(sum(each))


def test_a_density_is_scipys() -> None:
    x = torch.linspace(-4, 4, 17, dtype=torch.float64)
    torch.testing.assert_close(log_density(SAID.expand(17, 9), x).exp(), reference(x, "pdf"))


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_levels_have_what_lies_in_their_cells(levels: int) -> None:
    cell = 2.0 / (levels - 1)
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    found = log_mass(SAID.expand(levels, 9), x, cell).exp()
    edges = reference(x[:-1] + cell / 2, "cdf")
    expected = torch.diff(torch.cat((torch.zeros(1), edges, torch.ones(1)))).double()
    torch.testing.assert_close(found, expected)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(level_masses(SAID, levels).exp(), found)


def test_far_away_the_logarithm_stays_finite() -> None:
    narrow = torch.tensor([0.0, 0.0, -20.0])
    assert log_mass(narrow.expand(3, 3), torch.tensor([-1.0, 0.5, 1.0]), 2 / 255).isfinite().all()
    assert log_density(narrow, torch.tensor(1e4)).isfinite()


def test_numbers_are_drawn_from_the_mixture() -> None:
    count = 20_000
    u = Rows(0, torch.arange(count)).uniform(2, dtype=torch.float64)
    drawn = number(SAID.expand(count, 9), u)
    found = stats.kstest(drawn.numpy(), lambda x: reference(torch.as_tensor(x), "cdf").numpy())
    assert found.pvalue > 1e-3


def test_a_temperature_of_zero_takes_the_centre_of_the_likeliest() -> None:
    u = torch.full((4, 2), 0.99, dtype=torch.float64)
    assert number(SAID.expand(4, 9), u, 0.0).tolist() == [0.8] * 4
    cold, warm = (number(SAID.expand(4, 9), u, t) for t in (0.5, 1.0))
    assert (cold < warm).all()


def test_the_first_answer_has_centres_side_by_side() -> None:
    said = first_answer(4, -2.0)
    assert said.tolist() == pytest.approx([0, 0, 0, 0, -0.75, -0.25, 0.25, 0.75, -2, -2, -2, -2])
