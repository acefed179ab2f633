"""Gated masked convolutions: what a pixel sees, and the same pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.core.rows import Rows
from pellucid.nets.gated_pixels import GatedPixels

H, W = 6, 5


def net(kernel: int, depth: int, *, conditioned: bool = False) -> GatedPixels:
    with Rows(0, torch.arange(1)).seeding():
        return GatedPixels(4, depth, kernel, H, W, conditioned=conditioned).double()


def numbers(*shape: int) -> Tensor:
    return Rows(2, torch.arange(shape[0])).normal(*shape[1:], dtype=torch.float64)


def seen(body: GatedPixels, r: int, c: int) -> Tensor:
    """(H, W) bool: which pixels move what is said of this one."""
    x = numbers(1, 4, H, W).requires_grad_()
    told = torch.autograd.grad(body(x)[0, :, r, c].square().sum(), x)[0]
    return told[0].abs().sum(0) > 0


@pytest.mark.parametrize(("kernel", "depth"), [(3, 6), (5, 3)])
def test_a_pixel_sees_all_before_it_and_nothing_else(kernel: int, depth: int) -> None:
    body = net(kernel, depth)
    for r, c in ((0, 0), (0, 3), (3, 0), (3, 4), (5, 2)):
        before = torch.arange(H * W).reshape(H, W) < r * W + c
        assert torch.equal(seen(body, r, c), before)


def test_fewer_layers_see_less_but_have_no_blind_spot() -> None:
    """van den Oord et al. 2016, fig. 1: masked convolutions alone miss what stands above and to the right."""
    found = seen(net(3, 1), 5, 2)
    assert found[2:5].all()  # two rows by the start, one more by the layer, two columns to both sides
    assert not found[:2].any()


@pytest.mark.parametrize("kernel", [3, 5])
def test_pixel_by_pixel_gives_what_all_at_once_gives(kernel: int) -> None:
    body, x, vector = net(kernel, 3, conditioned=True), numbers(2, 4, H, W), numbers(2, 4)
    with torch.no_grad():
        whole, cache, found = body(x, vector), body.begin(2, vector, x), torch.zeros(2, 4, H, W, dtype=x.dtype)
        for r in range(H):
            body.row(cache, r)
            for c in range(W):
                found[:, :, r, c] = body.pixel(cache, r, c)
                body.put(cache, r, c, x[:, :, r, c])
    torch.testing.assert_close(found, whole)
    assert not torch.allclose(whole, body(x, -vector))
