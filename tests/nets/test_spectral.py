"""Spectral normalisation against the singular values that linear algebra finds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from pellucid.core.rows import Rows
from pellucid.nets.critic import Critic
from pellucid.nets.spectral import Spectral, advance, normalise


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 3, 2)])
def test_sigma_is_the_largest_singular_value(shape: tuple[int, ...]) -> None:
    weight = Rows(1, torch.arange(shape[0])).normal(*shape[1:], dtype=torch.float64)
    with Rows(0, torch.zeros(1, dtype=torch.int64)).seeding():
        spectral = Spectral(weight)
    spectral.advance(weight, 200)
    true = torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.testing.assert_close(spectral.sigma(weight), true)
    torch.testing.assert_close(torch.linalg.matrix_norm(spectral(weight).flatten(1), 2), torch.ones_like(true))


def test_it_follows_weights_that_move_and_only_when_told() -> None:
    layer = nn.Linear(6, 5)
    normalise(layer)
    with torch.no_grad():
        dict(layer.named_parameters())["parametrizations.weight.original"].mul_(3).add_(0.05)
    before = layer.weight.clone()
    assert torch.equal(layer.weight, before), "a forward pass moves nothing"
    for _ in range(100):
        advance(layer)
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=1e-4)


def test_the_gradient_flows_through_sigma() -> None:
    """d/dW of f(W / sigma(W)) with u and v held fixed, against finite differences."""
    weight = Rows(1, torch.arange(4)).normal(3, dtype=torch.float64)
    with Rows(0, torch.zeros(1, dtype=torch.int64)).seeding():
        spectral = Spectral(weight)
    assert torch.autograd.gradcheck(spectral, weight.requires_grad_())


def test_a_layer_of_zeros_is_drawn_anew() -> None:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    normalise(layer)
    assert layer.weight.isfinite().all()
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("shape", "body"), [((1, 9, 12), "residual"), ((2, 8, 9), "dcgan"), ((5,), "dense")])
def test_a_whole_critic_is_normalised_and_maps_over_rows(shape: tuple[int, ...], body: str) -> None:
    critic = Critic(shape, steer=3, width=8, features=6, body=body, spectral=True)  # type: ignore[arg-type]
    layers = [m for m in critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for _ in range(60):
        advance(critic)
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)
    x, vector = Rows(0, torch.arange(4)).normal(*shape), Rows(1, torch.arange(4)).normal(3)
    weights = {k: v.detach() for k, v in critic.named_parameters()}

    def score(weights: dict[str, torch.Tensor], x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional_call(critic, weights, (x[None], vector[None]))
        return out.squeeze(0)

    mapped = vmap(grad(score), in_dims=(None, 0, 0))(weights, x, vector)
    alone = torch.autograd.grad(critic(x[2:3], vector[2:3]).sum(), list(critic.parameters()))
    for (name, _), slope in zip(critic.named_parameters(), alone, strict=True):
        torch.testing.assert_close(mapped[name][2], slope, rtol=1e-3, atol=1e-5)


def test_what_backward_needs_survives_a_step() -> None:
    layer = nn.Linear(3, 2)
    normalise(layer)
    loss = layer(torch.ones(1, 3)).sum()
    advance(layer)
    loss.backward()
    assert dict(layer.named_parameters())["parametrizations.weight.original"].grad is not None
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(torch.ones(1, 3)), layer(torch.ones(1, 3)))
