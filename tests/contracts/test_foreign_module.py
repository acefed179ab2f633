"""A module trained elsewhere, behind a thin adapter: solvers, guidance and completion work on it unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Family, Part, Refusal, Training, offers
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.core.trace import Silent
from pellucid.domains.bridges.analog import Analog
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.tables import Tables
from pellucid.model import adopt
from pellucid.solvers.denoiser import at_condition
from pellucid.solvers.euler import euler
from pellucid.solvers.heun import heun
from pellucid.solvers.known import complete
from pellucid.testing import check_family
from tests.contracts.toys.foreign import ForeignAdapter, ForeignHow, NoisePredictor

MEAN = torch.tensor([1.0, -2.0, 0.5])
COVARIANCE = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]])
FOREIGN = NoisePredictor(MEAN, COVARIANCE)
ENGINE = ForeignAdapter(FOREIGN, FOREIGN.alphas_cumprod, 3)
N = 3000


def follows(x: Tensor, mean: Tensor, covariance: Tensor, share: float = 0.05) -> None:
    """Mean and covariance of x (B, D) within sampling error and a small share for the solver's steps."""
    n = len(x)
    error = covariance.diagonal().sqrt() / math.sqrt(n)
    assert ((x.mean(0) - mean).abs() < 5 * error + share * covariance.diagonal().sqrt()).all()
    assert (torch.cov(x.T).reshape(covariance.shape) - covariance).abs().max() < 5 * math.sqrt(2 / n) + share


def test_the_adapter_denoises_in_our_scale() -> None:
    """E[data | data + sigma noise] of a Gaussian, at the foreign model's own noise levels."""
    sigma = ENGINE.levels[torch.tensor([3, 150, 500, 800, 999])]
    x = MEAN + (1 + sigma)[:, None] * Rows(0, torch.arange(5)).normal(3)
    noisy = COVARIANCE + sigma[:, None, None] ** 2 * torch.eye(3)
    expected = MEAN + (COVARIANCE @ torch.linalg.solve(noisy, (x - MEAN)[..., None]))[..., 0]
    assert torch.allclose(ENGINE.denoise(x, sigma, Condition()), expected, atol=1e-3)


def test_it_offers_what_the_adapter_lists() -> None:
    assert offers(ENGINE) == ("Samples", "Denoises")
    assert offers(FOREIGN) == ()


@pytest.mark.parametrize("solver", [euler, heun])
def test_our_solvers_sample_it(solver: Callable[..., Tensor]) -> None:
    sigmas = ENGINE.sigmas(ForeignHow(steps=120))
    start = float(sigmas[0]) * Rows(1, torch.arange(N)).normal(3)
    follows(solver(at_condition(ENGINE, Condition()), start, sigmas), MEAN, COVARIANCE)


def test_its_own_sample_is_a_function_of_seed_and_id() -> None:
    whole = ENGINE.sample(Rows(2, torch.arange(N)), Condition(), ENGINE.settings(), Silent())
    follows(whole, MEAN, COVARIANCE)
    some = torch.tensor([77, 5])
    alone = ENGINE.sample(Rows(2, some), Condition(), ENGINE.settings(), Silent())
    assert torch.allclose(alone, whole[some], atol=1e-4)


def test_what_is_known_is_completed_around() -> None:
    """x_1 given: the rest is Gaussian with a mean and a covariance in closed form, approximately met."""
    known, mask = torch.tensor([[2.5, 0.0, 0.0]]).expand(N, 3), torch.tensor([[True, False, False]])
    done = complete(ENGINE, known, mask, Condition(), Rows(3, torch.arange(N)), ForeignHow(steps=40))
    assert done.exactness == "approximate"
    assert torch.equal(done.x[:, 0], known[:, 0])
    gain = COVARIANCE[1:, :1] / COVARIANCE[0, 0]
    mean = MEAN[1:] + gain[:, 0] * (2.5 - MEAN[0])
    follows(done.x[:, 1:], mean, COVARIANCE[1:, 1:] - gain @ COVARIANCE[:1, 1:], share=0.2)


def test_adopted_it_draws_rows_of_a_table() -> None:
    items = read_table(pd.DataFrame(Rows(4, torch.arange(300)).normal(3).numpy(), columns=["a", "b", "c"]))
    codec = Tables().learn(items)
    model = adopt(ENGINE, codec, Analog.learn(codec.space, codec.encode(items)), source="elsewhere")
    drawn = model.sample(20, seed=3).items
    assert isinstance(drawn, TableData)
    assert drawn.frame.shape == (20, 3)
    some = model.sample(ids=[7, 3], seed=3).items
    assert isinstance(some, TableData)
    assert np.allclose(some.frame, drawn.frame.iloc[[7, 3]], atol=1e-3)
    with pytest.raises(BadInput, match="lists no capability"):
        adopt(FOREIGN, codec)


@dataclass(frozen=True, kw_only=True)
class Foreign(Family):
    """A family of somebody else's: always the same module, for rows of three numbers.

    stretch: scales the spread of what it draws.
    """

    name: ClassVar[str] = "foreign"
    title: ClassVar[str] = "a module trained elsewhere"
    engine: ClassVar[type[nn.Module]] = ForeignAdapter

    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.stretch <= 100.0:
            raise BadInput(f"stretch is {self.stretch}", accepted="above 0, at most 100")

    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        if conditions:
            return Refusal("the module was trained without conditions")
        return None if space == Real((3,)) else Refusal("the module was trained on rows of three numbers")

    def parts(self) -> tuple[Part, ...]:
        return (Part("module", "It guesses the noise in a row of three numbers."),)

    def training(self, space: Space, items: int) -> Training:
        return Training()

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> nn.Module:
        refusal = self.accepts(space, conditions)
        if refusal is not None:
            raise BadInput(f"the space is {space}", why=refusal.reason)
        foreign = NoisePredictor(MEAN, self.stretch**2 * COVARIANCE)
        return ForeignAdapter(foreign, foreign.alphas_cumprod, 3)


def test_a_strangers_family_keeps_our_laws() -> None:
    check_family(Foreign(), Real((3,)))
    with pytest.raises(BadInput, match="none of the standard spaces"):
        check_family(Foreign())
