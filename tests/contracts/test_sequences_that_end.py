"""Sequences of unequal length: every one has a probability, they sum to one, and padding never matters."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Silent
from tests.contracts.toys.ending import FadingMemory

SPACE = Tokens(4, 5, ends=True)
ENGINE = FadingMemory(SPACE, 7).double()


def every_sequence() -> Tensor:
    """(N, 5): each sequence up to the full length once, padded by 0."""
    short = itertools.chain.from_iterable(itertools.product((1, 2, 3), repeat=n) for n in range(SPACE.length + 1))
    return torch.tensor([[*s, *[0] * (SPACE.length - len(s))] for s in short])


def log_p(x: Tensor) -> Tensor:
    return ENGINE.log_prob(Batch(x, torch.arange(len(x))), Rows(0, torch.arange(len(x)))).value


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    x = every_sequence()
    assert len(x) == sum(3**n for n in range(6)) == 364
    assert log_p(x).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_what_follows_the_end_never_matters() -> None:
    x = every_sequence()
    ended = ((x == 0).long().cumsum(1) - (x == 0).long()) > 0
    noisy = torch.where(ended, Rows(0, torch.arange(len(x))).integers(4, SPACE.length), x)
    assert (noisy != x).any()
    assert torch.equal(log_p(noisy), log_p(x))
    weights = tuple(ENGINE.parameters())
    for one, other in zip(*(torch.autograd.grad(log_p(y).sum(), weights) for y in (x, noisy)), strict=True):
        assert torch.equal(one, other)


def test_a_longer_space_gives_an_ended_sequence_the_same_probability() -> None:
    longer = FadingMemory(Tokens(4, 9, ends=True), 7).double()
    longer.load_state_dict(ENGINE.state_dict())
    x = every_sequence()
    x = x[(x == 0).any(1)]
    padded = torch.nn.functional.pad(x, (0, 4))
    there = longer.log_prob(Batch(padded, torch.arange(len(x))), Rows(0, torch.arange(len(x)))).value
    assert torch.allclose(there, log_p(x), atol=1e-12)


def test_samples_end_once_and_follow_the_probabilities() -> None:
    n = 20_000
    drawn = ENGINE.sample(Rows(1, torch.arange(n)), Condition(), How(), Silent())
    after = (drawn == 0).long().cumsum(1) > 0
    assert not drawn[after].any()
    place = (drawn * 4 ** torch.arange(SPACE.length)).sum(1)
    x = every_sequence()
    p = log_p(x).exp()
    likely = p > 50 / n
    counted = torch.stack([(place == (row * 4 ** torch.arange(SPACE.length)).sum()).sum() for row in x[likely]])
    z = (counted - n * p[likely]) / (n * p[likely] * (1 - p[likely])).sqrt()
    assert len(z) > 20
    assert z.abs().max() < 4.5


def test_a_sample_does_not_know_its_batch() -> None:
    whole = ENGINE.sample(Rows(1, torch.arange(11)), Condition(), How(), Silent())
    assert torch.equal(ENGINE.sample(Rows(1, torch.tensor([6, 2])), Condition(), How(), Silent()), whole[[6, 2]])
    assert ENGINE.sample(Rows(1, torch.arange(0)), Condition(), How(), Silent()).shape == (0, 5)
