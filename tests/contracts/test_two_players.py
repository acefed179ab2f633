"""Two players with losses of their own: the loop knows turns, and each turn moves its own parameters alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pellucid.core.batch import Condition, TensorExamples
from pellucid.core.capabilities import How, Objective, Training, Turn
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.trace import Silent
from pellucid.training.loop import train
from pellucid.training.order import Order
from pellucid.training.schedule import Schedule
from tests.contracts.toys.duel import Duel

N, SEED = 500, 3
X = 2.0 + 0.5 * Rows(8, torch.arange(N)).normal(1)
PLAIN = Training(batch=40, rate=0.3, optimizer="sgd", momentum=0.0, clip=None, ema=None, warmup=0.0)


def by_hand(engine: Duel, steps: int) -> None:
    """The same steps written out: mean loss plus penalty, gradients of the turn's parameters, in turn."""
    order, schedule = Order(SEED, N, PLAIN.batch), Schedule(steps, PLAIN)
    for k in range(steps):
        batch = TensorExamples(X).take(order.ids(k))
        rows = Rows(SEED, batch.ids).fork("train", k)
        for turn in engine.turns():
            if k % turn.every:
                continue
            loss = turn.losses(batch, rows).mean()
            if turn.penalty is not None:
                loss = loss + turn.penalty(batch, rows)
            gradients = torch.autograd.grad(loss, list(turn.parameters))
            with torch.no_grad():
                for p, gradient in zip(turn.parameters, gradients, strict=True):
                    p.sub_(PLAIN.rate * turn.rate * schedule.factor(k) * gradient)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_turns_are_taken_in_order_with_their_own_parameters_rate_and_penalty(steps: int) -> None:
    trained, expected = Duel(), Duel()
    train(trained, TensorExamples(X), settings=PLAIN, steps=steps, seed=SEED, run=Run())
    by_hand(expected, steps)
    for (name, p), q in zip(trained.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6), name


class Free(Objective):
    """The duel's own turns without their penalties."""

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        assert isinstance(engine, Duel)
        return tuple(dataclasses.replace(turn, penalty=None) for turn in engine.turns())


def test_the_penalty_is_felt() -> None:
    sizes = []
    for objective in (None, Free()):
        engine = Duel()
        train(engine, TensorExamples(X), settings=PLAIN, steps=20, seed=SEED, run=Run(), objective=objective)
        sizes.append(engine.critic.weight.norm().item())
    assert sizes[0] < sizes[1]


def test_the_maker_reaches_the_target() -> None:
    engine = Duel()
    start = {name: p.detach().clone() for name, p in engine.named_parameters()}
    settings = Training(batch=100, rate=0.05, ema=0.99)
    outcome = train(engine, TensorExamples(X), settings=settings, steps=600, seed=SEED, run=Run())
    assert all(not torch.equal(p, start[name]) for name, p in engine.named_parameters())
    assert {turn: len(losses) for turn, losses in outcome.losses.items()} == {"critic": 600, "maker": 300}
    made = engine.sample(Rows(1, torch.arange(4000)), Condition(), How(), Silent())
    assert made.mean().item() == pytest.approx(2.0, abs=0.1)
    assert made.std().item() == pytest.approx(0.5, abs=0.15)
