"""DCGAN's nets and the dense players: shapes that do not divide, and rows that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid.core.rows import Rows
from pellucid.nets.dcgan import DCGANDecoder, DCGANEncoder
from pellucid.nets.dense import Dense


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13), (2, 8, 30), (1, 2, 5)])
def test_any_sides_are_made_and_read(shape: tuple[int, ...]) -> None:
    decoder, encoder = DCGANDecoder(5, shape, width=4), DCGANEncoder(shape, 6, width=4)
    z = Rows(0, torch.arange(3)).normal(5)
    x = decoder(z)
    assert x.shape == (3, *shape)
    torch.testing.assert_close(decoder(z[1:2])[0], x[1], rtol=1e-4, atol=1e-5)
    h = encoder(x)
    assert h.shape == (3, 6)
    torch.testing.assert_close(encoder(x[1:2])[0], h[1], rtol=1e-4, atol=1e-5)
    moved = encoder(x + torch.eye(shape[-1])[-1])  # the last column of pixels
    assert not torch.allclose(moved, h), "the last column is seen although sides were padded"


def test_the_shape_of_28_pixels_is_the_one_that_tutorials_have() -> None:
    decoder = DCGANDecoder(100, (1, 28, 28), width=64)
    shapes = [tuple(p.shape) for layer in decoder.layers for p in layer.parameters() if p.ndim > 1]
    assert shapes == [(128, 64, 4, 4), (64, 1, 4, 4)]
    assert decoder.first.weight.shape == (128 * 7 * 7, 100)


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_dense_layers_follow_their_formula(carry: bool, depth: int) -> None:
    net = Dense(5, 3, width=7, depth=depth, carry=carry)
    x = Rows(0, torch.arange(4)).normal(5)
    h = x
    for index, layer in enumerate(net.layers):
        assert isinstance(layer, nn.Linear)
        out = h @ layer.weight.T + layer.bias
        if carry:
            scale = net.norms[index].weight
            assert isinstance(scale, torch.Tensor)
            norm = out / (out.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale
            h = torch.cat((norm.clamp_min(0), h), dim=-1)
        else:
            h = torch.where(out > 0, out, 0.2 * out)
    torch.testing.assert_close(net(x), h @ net.last.weight.T + net.last.bias)
