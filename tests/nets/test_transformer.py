"""The causal body: no look ahead, and the cache changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.core.rows import Rows
from pellucid.nets.transformer import Attention, Transformer, TransformerBlock, rotate, squared


def body() -> Transformer:
    torch.manual_seed(0)
    net = Transformer(16, heads=2, depth=3).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def slots(count: int, steps: int) -> torch.Tensor:
    return Rows(0, torch.arange(count)).normal(steps, 16, dtype=torch.float64)


def test_a_slot_does_not_see_later_slots() -> None:
    net, x = body(), slots(3, 7)
    changed = x.clone()
    changed[:, 4:] += 1.0
    before, after = net(x), net(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert (before[:, 4:] != after[:, 4:]).all()


def test_cached_steps_equal_the_full_pass() -> None:
    net, x = body(), slots(3, 7)
    cache, out = net.begin(3, 7, x), []
    for piece in (x[:, :2], x[:, 2:3], x[:, 3:7]):
        h, cache = net.step(piece, cache)
        out.append(h)
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(out, dim=1), net(x), rtol=1e-10, atol=1e-10)


def test_rotation_keeps_lengths_and_makes_products_depend_on_differences_alone() -> None:
    q, k = (Rows(s, torch.arange(1)).normal(2, 1, 8, dtype=torch.float64) for s in (1, 2))
    product = [(rotate(q, m) * rotate(k, m + 5)).sum(-1) for m in (0, 3, 40)]
    torch.testing.assert_close(product[0], product[1], rtol=1e-5, atol=1e-5)  # angles are float32
    torch.testing.assert_close(product[0], product[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(q, 11).norm(), q.norm(), rtol=1e-6, atol=1e-6)


def test_attention_maps_sum_to_one_and_rebuild_the_output() -> None:
    net, x = body(), slots(3, 5)
    block = net.blocks[1]
    assert isinstance(block, TransformerBlock)
    weights = net.attention(1, x)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights.triu(1) == 0).all()
    normed = block.norm1(net.blocks[0](x))
    value = block.attention.project(normed)[2]
    rebuilt = block.attention.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(rebuilt, block.attention(normed))


def test_a_fresh_body_passes_its_input_through() -> None:
    net, x = Transformer(16, heads=2, depth=2), slots(2, 3).float()
    torch.testing.assert_close(net(x), net.norm(x))


def test_short_rows_of_weights_are_the_plain_softmax() -> None:
    """Over 15 keys they are padded to a vector's width; nothing of that is to be seen."""
    attention = body().blocks[0].attention
    assert isinstance(attention, Attention)
    for count in (3, 15, 16, 21):
        q, k = (Rows(seed, torch.arange(4)).normal(2, count, 8, dtype=torch.float64) for seed in (0, 1))
        future = torch.full((count, count), -torch.inf).triu(1)
        found = attention.weights(q, k, future)
        torch.testing.assert_close(found, (q @ k.mT + future).softmax(-1))
        assert not (found.triu(1) != 0).any()


def test_the_gradient_of_relu_squared_is_autograds() -> None:
    block, x = body().blocks[0], slots(2, 5).requires_grad_()
    assert isinstance(block, TransformerBlock)
    inner = block.inner(x)
    ours = torch.autograd.grad(block.outer(squared(inner)).sum(), x, retain_graph=True)[0]
    theirs = torch.autograd.grad(block.outer(inner.relu().square()).sum(), x)[0]
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(squared, (slots(1, 3).requires_grad_(),))
