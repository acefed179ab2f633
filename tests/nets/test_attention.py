"""Attention without an order: weights that sum to one, places that may not be seen, places of a grid told apart."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.core.rows import Rows
from pellucid.nets.attention import Context, MultiHeadAttention, grid_positions, weigh


def numbers(seed: int, rows: int, *event: int) -> torch.Tensor:
    return Rows(seed, torch.arange(rows)).normal(*event, dtype=torch.float64)


def attention(context: int = 0) -> MultiHeadAttention:
    torch.manual_seed(0)
    net = MultiHeadAttention(12, 3, context=context).double()
    nn.init.normal_(net.out.weight, std=0.3)
    nn.init.normal_(net.sharp, std=0.3)
    return net


def test_weights_are_the_softmax_of_the_products() -> None:
    q, k = numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 6, 5)
    known = torch.tensor([[True, True, False, True, True, False], [False, True, False, False, False, False]])
    found = weigh(q, k, known)
    for b in range(2):
        for h in range(3):
            scores = (q[b, h] @ k[b, h].T / 5**0.5)[:, known[b]]
            torch.testing.assert_close(found[b, h][:, known[b]], scores.softmax(-1))
    assert (found[:, :, :, 2] == 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))


def test_softmax_stays_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        weights, _ = MultiHeadAttention(8, 2).weights(torch.randn(1, 4, 8))
    assert weights.dtype == torch.float32


def test_the_output_is_rebuilt_from_weights_and_values() -> None:
    net, x = attention(context=7), numbers(2, 2, 5, 12)
    context = Context(numbers(3, 2, 4, 7), torch.tensor([[True, True, True, False], [True, False, False, False]]))
    weights, values = net.weights(x, context)
    assert weights.shape == (2, 3, 5, 4)
    rebuilt = torch.einsum("bhns,bhsd->bnhd", weights, values).flatten(2)
    torch.testing.assert_close(net(x, context), net.out(rebuilt))


def test_what_is_not_known_is_not_seen_and_all_else_is() -> None:
    net, x = attention(context=7), numbers(2, 2, 5, 12)
    tokens, known = numbers(3, 2, 4, 7), torch.tensor([[True, True, False, True], [True, True, True, True]])
    moved = tokens.clone()
    moved[0, 2] += 1.0
    assert torch.equal(net(x, Context(tokens, known)), net(x, Context(moved, known)))
    moved[0, 1] += 1.0
    assert (net(x, Context(tokens, known))[0] != net(x, Context(moved, known))[0]).all()


def test_a_fresh_attention_gives_zero() -> None:
    assert (MultiHeadAttention(8, 2)(torch.randn(2, 3, 8)) == 0).all()


def test_places_of_a_grid_are_told_apart_row_by_column() -> None:
    table = grid_positions(7, 9, 16, torch.zeros(1, dtype=torch.float64)).double()
    assert table.shape == (63, 16)
    apart = torch.cdist(table, table) + torch.eye(63) * 9
    assert apart.min() > 0.1
    grid = table.reshape(7, 9, 16)
    assert torch.equal(grid[2, 3, :8], grid[2, 5, :8])  # one row: the first half alike
    assert torch.equal(grid[2, 3, 8:], grid[6, 3, 8:])  # one column: the second half alike
