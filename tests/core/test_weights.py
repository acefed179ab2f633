"""A build of a stranger's settings: what is too large is refused before memory is asked for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.capabilities import Family
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.weights import bounded
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.ddpm import DDPM
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.masked import Masked

HUGE = 2**40  # numbers: torch would fail on it with an error of its own, or fill the machine
STORED = {"weight": torch.zeros(3)}


@pytest.mark.parametrize(
    "made", [torch.randn, torch.zeros, torch.ones, torch.rand, torch.empty], ids=lambda f: f.__name__
)
def test_a_tensor_that_is_filled_as_it_is_made_is_not_made(made: Callable[..., Tensor]) -> None:
    with pytest.raises(BadInput, match="far larger than its weights"), bounded(STORED):
        nn.Parameter(made(HUGE, 2))
    assert torch.zeros(5).sum() == 0.0


@pytest.mark.parametrize(
    ("family", "space"),
    [
        (Masked(net="transformer", width=HUGE), Tokens(5, 3)),
        (Autoregressive(width=HUGE), Tokens(5, 3)),
        (FlowMatching(net="dit", width=HUGE), Real((3,))),
        (DDPM(groups=HUGE), Real((6,))),
    ],
    ids=["positions", "first", "slots", "groups"],
)
def test_settings_of_families_are_bounded_in_the_same_words(family: Family, space: Space) -> None:
    rows = Rows(0, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(BadInput, match="far larger than its weights"), bounded(STORED):
        family.build(space, {}, rows)


def test_what_is_built_within_the_bound_is_what_is_built_without() -> None:
    def state() -> dict[str, Tensor]:
        rows = Rows(7, torch.zeros(1, dtype=torch.int64))
        return Masked(width=16, depth=1).build(Tokens(5, 3), {}, rows).state_dict()

    free = state()
    with bounded(STORED):
        held = state()
    assert free.keys() == held.keys()
    assert all(torch.equal(free[name], held[name]) for name in free)
