"""Our AdamW takes torch's steps to the bit, whatever happens between them."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.core.rows import Rows
from pellucid.training.adam import Adam


def nets() -> tuple[nn.Module, nn.Module]:
    with Rows(0, torch.arange(1)).seeding():
        one = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    other = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    other.load_state_dict(one.state_dict())
    return one, other


def groups(net: nn.Module) -> list[dict[str, object]]:
    return [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


def move(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, Adam):
        optimizer.move()
    else:
        optimizer.step()


def gradients(net: nn.Module, k: int, skip: int | None = None) -> None:
    for i, p in enumerate(net.parameters()):
        p.grad = None if i == skip else Rows(k, torch.arange(p.shape[0])).normal(*p.shape[1:])


def test_its_steps_are_torchs() -> None:
    one, other = nets()
    ours = Adam(groups(one), lr=1e-2, betas=(0.9, 0.99))
    theirs = torch.optim.AdamW(groups(other), lr=1e-2, betas=(0.9, 0.99), fused=True)
    for k in range(7):
        for net, optimizer in ((one, ours), (other, theirs)):
            gradients(net, k, skip=1 if k == 4 else None)  # a parameter without a gradient keeps its state
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + k)
            move(optimizer)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(ours.state[a]["step"], theirs.state[b]["step"])
        assert torch.equal(ours.state[a]["exp_avg_sq"], theirs.state[b]["exp_avg_sq"])


def test_a_state_that_is_put_back_is_the_one_it_goes_on_from() -> None:
    one, other = nets()
    ours, theirs = Adam(groups(one), lr=1e-2), torch.optim.AdamW(groups(other), lr=1e-2, fused=True)
    for k in range(3):
        for net, optimizer in ((one, ours), (other, theirs)):
            gradients(net, k)
            move(optimizer)
    for net, optimizer in ((one, ours), (other, theirs)):
        for p in net.parameters():
            optimizer.state[p] = {name: torch.full_like(value, 2.0) for name, value in optimizer.state[p].items()}
        gradients(net, 9)
        move(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
