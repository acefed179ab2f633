"""Dilated causal convolutions against torch's convolution, their reach, and their queues."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core.rows import Rows
from pellucid.nets.dilated import Dilated, DilatedLayer, dilations


def numbers(*shape: int) -> Tensor:
    return Rows(2, torch.arange(shape[0])).normal(*shape[1:], dtype=torch.float64)


def net(*layers: int, conditioned: bool = False) -> Dilated:
    with Rows(0, torch.arange(1)).seeding():
        return Dilated(5, layers, conditioned=conditioned).double()


def test_a_layer_is_a_gated_causal_convolution() -> None:
    """van den Oord et al. 2016, eq. 2, with torch's own convolution of kernel size 2."""
    with Rows(0, torch.arange(1)).seeding():
        layer = DilatedLayer(5, 3).double()
    x = numbers(2, 11, 5)
    kernel = torch.stack((layer.before.weight, layer.here.weight), dim=-1)  # (out, in, 2), the earlier place first
    read = nn.functional.pad(layer.norm(x).transpose(1, 2), (3, 0))
    f, g = nn.functional.conv1d(read, kernel, layer.here.bias, dilation=3).transpose(1, 2).chunk(2, dim=-1)
    y = f.tanh() * g.sigmoid()
    onward, skip = layer(x, None, None, None)
    torch.testing.assert_close(onward, x + layer.onward(y))
    torch.testing.assert_close(skip, layer.skip(y))


def test_a_place_sees_as_far_as_its_dilations_reach() -> None:
    body, x = net(1, 2, 4), numbers(1, 20, 5).requires_grad_()
    assert body.reach == 8
    seen = torch.autograd.grad(body(x)[0, 15].square().sum(), x)[0][0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(8, 16))


def test_dilations_are_those_that_the_slots_need() -> None:
    for slots in range(1, 40):
        once = dilations(slots, 512, 1)
        assert 1 + sum(once) >= slots
        assert len(once) == 1 or 1 + sum(once[:-1]) < slots
    assert dilations(1000, 16, 1) == (1, 2, 4, 8, 16)


def test_queues_give_what_all_places_at_once_give() -> None:
    body, x, vector = net(1, 2, 4, 1, 2, conditioned=True), numbers(3, 17, 5), numbers(3, 5)
    with torch.no_grad():
        whole = body(x, vector)
        for sizes in ((1,) * 17, (2,) * 8 + (1,), (1, 6, 3, 7), (17,)):
            state, parts = body.begin(3, 17, x), []
            for piece in x.split(sizes, dim=1):
                part, state = body.step(piece, state, vector)
                parts.append(part)
            torch.testing.assert_close(torch.cat(parts, dim=1), whole)
            assert state.length == 17
        assert not torch.allclose(whole, body(x, -vector))


def test_a_queue_is_as_long_as_its_dilation() -> None:
    body, x = net(1, 2, 4), numbers(3, 1, 5)
    assert [ring.shape for ring in body.begin(3, 10_000, x).rings] == [(3, d, 5) for d in (1, 2, 4)]
