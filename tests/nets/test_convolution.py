"""The convolutional pyramids: any side from 8 to 64, rows apart, and nothing at the start."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

from pellucid.core.rows import Rows
from pellucid.nets.convolution import ConvBlock, ConvDecoder, ConvEncoder, map_size
from pellucid.nets.critic import Critic

SHAPES = [(1, 8, 8), (3, 9, 14), (1, 28, 28), (2, 33, 64), (1, 5, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [True, False])
def test_pictures_go_in_and_come_out_at_their_size(shape: tuple[int, ...], norm: bool) -> None:
    rows = Rows(0, torch.arange(3))
    vector = rows.normal(5)
    encoder = ConvEncoder(shape, 7, width=8, steer=5, norm=norm)
    decoder = ConvDecoder(7, shape, width=8, steer=5, norm=norm)
    z = encoder(rows.normal(*shape), vector)
    assert z.shape == (3, 7)
    assert decoder(z, vector).shape == (3, *shape)


def test_every_pixel_reaches_the_code() -> None:
    encoder = ConvEncoder((1, 9, 11), 4, width=8)
    x = Rows(0, torch.arange(2)).normal(1, 9, 11).requires_grad_()
    (slope,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (slope != 0).all()


def test_a_block_starts_as_the_identity() -> None:
    x = Rows(0, torch.arange(2)).normal(8, 4, 4)
    torch.testing.assert_close(ConvBlock(8, steer=3)(x, torch.ones(2, 3)), x)


def test_the_steering_vector_moves_a_block() -> None:
    block = ConvBlock(8, steer=3)
    torch.nn.init.normal_(block.conv2.weight)
    assert block.steer is not None
    torch.nn.init.normal_(block.steer.weight)
    x = Rows(0, torch.arange(2)).normal(8, 4, 4)
    assert (block(x, torch.ones(2, 3)) - block(x, -torch.ones(2, 3))).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (4,)])
def test_the_critic_keeps_rows_apart_even_in_the_gradient_of_its_gradient(shape: tuple[int, ...]) -> None:
    critic = Critic(shape, steer=3, width=8, features=6).double()
    for index, p in enumerate(critic.parameters()):
        p.data += 0.1 * Rows(index, torch.arange(1)).normal(*p.shape)[0]
    weights = {k: v.detach() for k, v in critic.named_parameters()}
    x, vector = (Rows(s, torch.arange(4)).normal(*e, dtype=torch.float64) for s, e in ((0, shape), (1, (3,))))

    def steepness(weights: dict[str, torch.Tensor], x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        slope = grad(lambda x: functional_call(critic, weights, (x[None], vector[None])).sum())(x)
        return slope.square().sum()

    mapped = vmap(grad(steepness), in_dims=(None, 0, 0))(weights, x, vector)
    whole = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(critic(whole, vector).sum(), whole, create_graph=True)
    for j in range(4):
        expected = torch.autograd.grad(
            slopes[j].square().sum(), list(critic.parameters()), retain_graph=True, allow_unused=True
        )
        for (name, p), value in zip(critic.named_parameters(), expected, strict=True):
            torch.testing.assert_close(mapped[name][j], torch.zeros_like(p) if value is None else value)


@pytest.mark.parametrize(
    ("shape", "squeeze", "sides"),
    [((1, 8, 8), 1, (8, 8)), ((1, 8, 8), 2, (4, 4)), ((3, 28, 30), 4, (7, 8)), ((2, 17, 33), 8, (3, 5))],
)
def test_with_squeeze_a_grid_stands_in_the_middle(
    shape: tuple[int, int, int], squeeze: int, sides: tuple[int, int]
) -> None:
    encoder = ConvEncoder(shape, 5, width=8, squeeze=squeeze)
    decoder = ConvDecoder(5, shape, width=8, squeeze=squeeze)
    for many in (4, 1, 0):
        z = encoder(torch.randn(many, *shape))
        assert z.shape == (many, 5, *sides) == (many, 5, *map_size(shape, squeeze))
        assert decoder(z).shape == (many, *shape)


def test_a_place_of_the_grid_sees_its_own_part_of_the_picture_most() -> None:
    """Moving the picture by one square moves the grid by one place, away from the border."""
    encoder = ConvEncoder((1, 32, 32), 3, width=8, squeeze=4, norm=False)
    x = torch.randn(1, 1, 32, 32)
    z, moved = encoder(x), encoder(x.roll(4, dims=-1))
    torch.testing.assert_close(z[..., 3:-4, 3:-4], moved[..., 3:-4, 4:-3], rtol=1e-4, atol=1e-5)
