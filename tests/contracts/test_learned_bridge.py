"""A learned bridge: a linear engine whose evidence is known in closed form carries a density of latents to items."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.capabilities import Decodes, Encodes, LogProb, Training, Weighs
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real, Tokens
from pellucid.domains.bridges.latent import LatentBridge, rebuild
from pellucid.training.loop import train
from tests.contracts.toys.counting import Neighbours
from tests.contracts.toys.linear import LinearLatent
from tests.contracts.toys.prepared import InOwnUnits

SIZE, LATENT, B = 5, 2, 7
SOURCE = Real((SIZE,))
ENGINE = LinearLatent(SIZE, LATENT).double()
X = 2 * Rows(1, torch.arange(B)).normal(SIZE, dtype=torch.float64)


def normal(z: Tensor, mean: Tensor, covariance: Tensor) -> LogProb:
    return LogProb(MultivariateNormal(mean, covariance).log_prob(z), "exact")


def evidence(mean: Tensor, covariance: Tensor) -> Tensor:
    """log p(x) when z ~ N(mean, covariance): x is Gaussian."""
    W, s2 = ENGINE.W.detach(), (2 * ENGINE.log_s.detach()).exp()
    return MultivariateNormal(W @ mean, W @ covariance @ W.T + s2 * torch.eye(SIZE)).log_prob(X)


STANDARD = torch.zeros(LATENT, dtype=torch.float64), torch.eye(LATENT, dtype=torch.float64)
LEARNED = torch.tensor([0.5, -1.0]).double(), torch.tensor([[1.5, 0.6], [0.6, 0.8]]).double()


def test_with_the_exact_posterior_every_draw_gives_the_evidence() -> None:
    bridge = LatentBridge(ENGINE, SOURCE)
    for seed in range(3):
        rows = Rows(seed, torch.arange(B))
        lifted = bridge.lift(normal(bridge.there(X, rows), *STANDARD), X, rows)
        assert lifted.kind == "lower_bound"
        assert torch.allclose(lifted.value, evidence(*STANDARD), atol=1e-9)


@pytest.mark.parametrize("slack", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("prior", [STANDARD, LEARNED], ids=["standard", "learned"])
def test_the_bound_is_below_the_evidence_by_a_divergence(slack: float, prior: tuple[Tensor, Tensor]) -> None:
    """E[lift] = log p(x) - KL(q(z | x) || p(z | x)), where both are Gaussian, so the gap is known."""
    engine = LinearLatent(SIZE, LATENT, slack=slack).double()
    bridge, n = LatentBridge(engine, SOURCE), 4000
    x, rows = X.repeat_interleave(n, 0), Rows(2, torch.arange(B * n))
    lifted = bridge.lift(normal(bridge.there(x, rows), *prior), x, rows).value.reshape(B, n)
    mean, factor = (part.detach() for part in engine.posterior(X))
    precision = prior[1].inverse() + engine.W.T @ engine.W * (-2 * engine.log_s).exp()
    pull = prior[1].inverse() @ prior[0] + (X @ engine.W) * (-2 * engine.log_s).exp()
    q = MultivariateNormal(mean, scale_tril=factor.expand(B, -1, -1))
    p = MultivariateNormal(pull @ precision.inverse(), precision_matrix=precision.expand(B, -1, -1))
    gap = torch.distributions.kl_divergence(q, p).detach()
    error = lifted.std(1) / math.sqrt(n)
    assert (lifted.mean(1) - (evidence(*prior) - gap)).abs().le(5 * error + 1e-9).all()


def test_the_bridge_draws_its_latents_and_decodes_their_mean() -> None:
    bridge, rows = LatentBridge(ENGINE, SOURCE), Rows(3, torch.arange(B))
    assert bridge.target == Real((LATENT,))
    z = bridge.there(X, rows)
    assert z.shape == (B, LATENT)
    assert torch.equal(bridge.there(X[3:4], rows.take(slice(3, 4))), z[3:4])
    assert not torch.equal(bridge.there(X, Rows(4, torch.arange(B))), z)
    assert torch.equal(bridge.back(z, rows), ENGINE.decode(z, Condition()))
    assert bridge.there(X[:0], rows.take(slice(0, 0))).shape == (0, LATENT)
    with pytest.raises(BadInput, match="accepted|Accepted"):
        bridge.there(X[:, 1:], rows)


def test_the_bridge_keeps_its_engine_as_it_was() -> None:
    engine = LinearLatent(SIZE, LATENT).double()
    bridge, rows = LatentBridge(engine, SOURCE), Rows(3, torch.arange(B))
    before = bridge.there(X, rows)
    with torch.no_grad():
        engine.W.add_(1.0)
    assert torch.equal(bridge.there(X, rows), before)
    assert not before.requires_grad
    assert engine.W.requires_grad
    slope = torch.autograd.grad(bridge.back(z := before.clone().requires_grad_(), rows).sum(), z)
    assert slope[0].shape == z.shape, "an explanation asks how a latent moves the item"


def test_a_stored_bridge_is_rebuilt_around_a_fresh_engine() -> None:
    bridge, rows = LatentBridge(ENGINE, SOURCE), Rows(3, torch.arange(B))
    again = rebuild(LinearLatent(SIZE, LATENT, seed=9).double(), bridge.plain(), bridge.tensors())
    assert again.source == SOURCE
    assert torch.equal(again.there(X, rows), bridge.there(X, rows))
    with pytest.raises(BadInput, match="other tensors than LinearLatent: W"):
        rebuild(LinearLatent(SIZE, LATENT + 1), bridge.plain(), bridge.tensors())
    with pytest.raises(BadInput, match="goes through LinearLatent"):
        rebuild(nn.Linear(2, 2), bridge.plain(), bridge.tensors())


class Unweighed(nn.Module, Encodes, Decodes):
    """Encodes and decodes, and knows no probabilities."""

    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        return x[:, :LATENT]

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        return nn.functional.pad(z, (0, SIZE - LATENT))

    def latent(self) -> Real:
        return Real((LATENT,))


def test_a_likelihood_is_refused_where_it_would_be_a_guess() -> None:
    rows = Rows(3, torch.arange(B))
    bridge = LatentBridge(Unweighed(), SOURCE)
    assert not isinstance(Unweighed(), Weighs)
    with pytest.raises(MissingCapability, match="bounds that of items only with"):
        bridge.lift(normal(bridge.there(X, rows), *STANDARD), X, rows)
    with pytest.raises(MissingCapability, match="an engine that offers Encodes and Decodes"):
        LatentBridge(Neighbours(Tokens(2, 3)), SOURCE)


def test_a_model_is_trained_through_a_learned_bridge() -> None:
    """The bridge is learned from items, a density over its latents; together they come near the items' own density."""
    mixing, n = Rows(5, torch.arange(SIZE)).normal(LATENT), 2000
    covariance = mixing @ mixing.T + 0.09 * torch.eye(SIZE)
    true = MultivariateNormal(torch.arange(SIZE).float(), covariance)
    x = true.mean + Rows(6, torch.arange(n)).normal(SIZE) @ torch.linalg.cholesky(covariance).T
    settings, latent = Training(batch=100, rate=0.05, ema=0.9), LinearLatent(SIZE, LATENT)
    train(latent, TensorExamples(x), settings=settings, steps=200, seed=0, run=Run())
    bridge, engine = LatentBridge(latent, SOURCE), InOwnUnits(LATENT)
    train(engine, TensorExamples(x), settings=settings, steps=100, seed=1, run=Run(), bridge=bridge)
    rows = Rows(7, torch.arange(n))
    z = bridge.there(x, rows)
    lifted = bridge.lift(engine.log_prob(Batch(z, rows.ids), rows), x, rows)
    assert lifted.kind == "lower_bound"
    lost = (true.log_prob(x) - lifted.value).mean().item()
    assert -0.02 < lost < 0.1
    drawn = bridge.back(engine.centre + engine.spread * rows.fork("new").normal(LATENT), rows)
    assert (drawn.mean(0) - true.mean).abs().max().item() < 0.2
