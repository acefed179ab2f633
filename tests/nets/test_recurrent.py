"""Recurrent layers against torch's own, and their written-out gradients against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from pellucid.core.rows import Rows
from pellucid.nets.recurrent import Recurrent, RecurrentLayer, gru_scan, lstm_scan

B, S, H = 2, 5, 3
ROWS = Rows(0, torch.arange(B))


def drawn(name: str, *shape: int) -> Tensor:
    """(shape) of float64 that ask for a gradient."""
    rows = Rows(1, torch.arange(shape[0])).fork(name)
    return rows.normal(*shape[1:], dtype=torch.float64).requires_grad_()


def test_an_lstm_is_torchs() -> None:
    layer, other = RecurrentLayer(H, "lstm").double(), nn.LSTM(H, H, batch_first=True).double()
    weights = dict(other.named_parameters())
    order = torch.cat([torch.arange(k * H, (k + 1) * H) for k in (0, 1, 3, 2)])  # torch has i, f, n, o
    with torch.no_grad():
        layer.inward.weight.copy_(weights["weight_ih_l0"][order])
        layer.inward.bias.copy_((weights["bias_ih_l0"] + weights["bias_hh_l0"])[order])
        layer.around.copy_(weights["weight_hh_l0"][order].t())
    x, h, c = drawn("x", B, S, H), drawn("h", B, H), drawn("c", B, H)
    found, (h_last, c_last) = layer(x, (h, c))
    expected, (h_torch, c_torch) = other(x, (h[None], c[None]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((h_last, c_last), (h_torch[0], c_torch[0]))
    for a, b in zip(torch.autograd.grad(found.square().sum(), (x, h, c)),
                    torch.autograd.grad(expected.square().sum(), (x, h, c)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_a_gru_is_torchs() -> None:
    layer, other = RecurrentLayer(H, "gru").double(), nn.GRU(H, H, batch_first=True).double()
    weights = dict(other.named_parameters())
    assert layer.reset is not None
    with torch.no_grad():
        layer.inward.weight.copy_(weights["weight_ih_l0"])
        layer.inward.bias.copy_(weights["bias_ih_l0"])
        layer.inward.bias[: 2 * H] += weights["bias_hh_l0"][: 2 * H]
        layer.reset.copy_(weights["bias_hh_l0"][2 * H :])
        layer.around.copy_(weights["weight_hh_l0"].t())
    x, h = drawn("x", B, S, H), drawn("h", B, H)
    found, (last,) = layer(x, (h,))
    expected, torchs = other(x, h[None])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(last, torchs[0])
    for a, b in zip(torch.autograd.grad(found.square().sum(), (x, h)),
                    torch.autograd.grad(expected.square().sum(), (x, h)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_first_and_second_gradients_are_those_of_differences() -> None:
    lstm = drawn("z", B, 3, 4 * H), drawn("around", H, 4 * H), drawn("h", B, H), drawn("c", B, H)
    gru = drawn("z", B, 3, 3 * H), drawn("around", H, 3 * H), drawn("bias", H), drawn("h", B, H)
    for scan, inputs in ((lstm_scan, lstm), (gru_scan, gru)):
        assert torch.autograd.gradcheck(scan, inputs)
        assert torch.autograd.gradgradcheck(scan, inputs)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rows_have_gradients_of_their_own_under_vmap(cell: str) -> None:
    layer = RecurrentLayer(H, cell).double()  # type: ignore[arg-type]
    x = drawn("x", 4, S, H).detach()
    state = (torch.zeros(1, H, dtype=torch.float64),) * layer.states

    def loss(around: Tensor, row: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"around": around}, (row[None], state))[0].square().sum()

    at_once = vmap(grad(loss), in_dims=(None, 0))(layer.around.detach(), x)
    for i in range(4):
        torch.testing.assert_close(at_once[i], grad(loss)(layer.around.detach(), x[i]))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_state_is_all_that_is_kept(cell: str) -> None:
    with ROWS.seeding():
        net = Recurrent(6, 2, cell, conditioned=True).double()  # type: ignore[arg-type]
    x, vector = drawn("x", B, 9, 6), drawn("vector", B, 6)
    with torch.no_grad():
        whole, parts, state = net(x, vector), [], net.begin(B, 9, x)
        for piece in x.split((1, 3, 5), dim=1):
            part, state = net.step(piece, state, vector)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert not torch.allclose(whole, net(x, -vector))
