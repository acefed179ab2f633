"""The steered network: it hears the time, what is given of the condition, pictures laid over, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.nets.choose import Wanted
from pellucid.nets.steered import Steered
from tests.families.rowwise import stir

PICTURE = Real((2, 6, 8), levels=17)
VECTOR = Real((5,))
SPACES: dict[str, Space] = {"class": Tokens(3, 1), "small": Real((3, 3, 4)), "size": Real((2,))}
B = 4


def rows(n: int = B) -> Rows:
    return Rows(3, torch.arange(n))


def said(n: int = B) -> Condition:
    given = torch.ones(n, dtype=torch.bool)
    values = {
        "class": torch.arange(n)[:, None] % 3,
        "small": rows(n).fork("small").normal(3, 3, 4),
        "size": rows(n).fork("size").normal(2),
    }
    return Condition(values, dict.fromkeys(values, given))


def network(space: Real, awake: bool = True, copies: int = 1) -> Steered:
    with rows(1).seeding():
        net = Steered(space, SPACES, width=8, depth=1, copies=copies)
    if awake:
        stir(net, 0.1)
    return net.eval()


def event(space: Real, copies: int = 1) -> Tensor:
    return rows().normal(copies * space.shape[0], *space.shape[1:])


both = pytest.mark.parametrize("space", [PICTURE, VECTOR], ids=["pictures", "rows"])


@both
@pytest.mark.parametrize("copies", [1, 2])
def test_it_answers_nothing_at_the_start_and_of_the_shape_of_one_event(space: Real, copies: int) -> None:
    out = network(space, awake=False, copies=copies)(event(space, copies), torch.rand(B), said())
    assert out.shape == (B, *space.shape)
    assert (out == 0).all()


@both
def test_it_hears_the_time_and_every_condition(space: Real) -> None:
    """Pictures condition rows of numbers too, where they cannot be laid over."""
    net, x, time = network(space), event(space), torch.linspace(0.1, 0.9, B)
    plain = net(x, time, said())
    assert not torch.allclose(plain, net(x, time + 0.1, said()), atol=1e-5)
    for name in SPACES:
        assert not torch.allclose(plain, net(x, time, said().without(name)), atol=1e-5), name


@both
def test_what_is_not_given_is_not_read(space: Real) -> None:
    net, x, time = network(space), event(space), torch.rand(B)
    for name in SPACES:
        some = said().without(name)
        other = Condition({**some.values, name: (some.values[name] * 0).to(some.values[name])}, some.given)
        assert torch.equal(net(x, time, some), net(x, time, other))
    torch.testing.assert_close(net(x, time, said().nothing()), net(x, time, Condition()))


@both
def test_rows_do_not_touch_each_other(space: Real) -> None:
    net, x, time = network(space).double(), event(space).double(), torch.linspace(0.1, 0.9, B).double()
    whole = net(x, time, said())
    alone = net(x[2:3], time[2:3], said().take(slice(2, 3)))
    torch.testing.assert_close(whole[2:3], alone, atol=1e-10, rtol=0.0)


def test_a_backbone_of_ones_own_is_told_what_it_gets() -> None:
    asked: list[Wanted] = []

    class Own(nn.Module):
        def __init__(self, wanted: Wanted) -> None:
            super().__init__()
            asked.append(wanted)
            self.seen = torch.zeros(0)

        def forward(self, x: Tensor, vector: Tensor) -> Tensor:
            self.seen = x
            return x[:, :2]

    net = Steered(PICTURE, SPACES, copies=2, make=Own)
    out = net(event(PICTURE, 2), torch.rand(B), said())
    assert (asked[0].role, asked[0].copies, asked[0].extra, asked[0].context) == ("denoiser", 2, 4, 0)
    assert isinstance(net.net, Own)
    assert net.net.seen.shape == (B, 2 * 2 + 4, 6, 8)
    torch.testing.assert_close(net.net.seen[:, 4:7, ::2, ::2], said().values["small"])
    assert (net.net.seen[:, 7] == 1).all()
    assert out.shape == (B, 2, 6, 8)
