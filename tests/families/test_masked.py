"""Masked diffusion against enumeration: every order of filling, every set of hidden positions, every sequence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Run
from pellucid.core.space import Real, Tokens
from pellucid.core.trace import Recording, Silent
from pellucid.families.masked import Masked, MaskedEngine, MaskedHow
from pellucid.solvers.known import complete
from pellucid.solvers.unmasking import guided_fill, unmask
from pellucid.training.loop import train
from tests.contracts.toys.table import JointTable
from tests.families.rowwise import CLASS, batch_of, check_rowwise, stir

NETS = ["mlp", "transformer"]
SPACES = [Tokens(3, 3), Tokens((2, 4, 3), 3), Tokens(3, 3, ends=True), Tokens((3, 2, 3), 3, ends=True)]
BOTH = [(net, space) for net in NETS for space in SPACES]


def build(space: Tokens, net: str, **settings: float) -> MaskedEngine:
    family = Masked(net=net, width=16, depth=2, **settings)  # type: ignore[arg-type]
    engine = family.build(space, CLASS, Rows(0, torch.arange(1)))
    stir(engine, 0.4)
    return engine.eval()


def every(space: Tokens) -> Tensor:
    """(N, T) all events; after an end only padding."""
    x = torch.tensor(list(itertools.product(*map(range, space.sizes))))
    if space.ends:
        ended = (x == 0).cumsum(1) - (x == 0).long() > 0
        x = x[~(ended & (x != 0)).any(1)]
    return x


def log_p(engine: MaskedEngine, x: Tensor, known: tuple[int, ...], at: int) -> Tensor:
    """(N,) log p(x_at | the known positions of x), by one question."""
    mask = torch.tensor([t in known for t in range(x.shape[1])]).expand(x.shape)
    logits = engine.fill_logits(torch.where(mask, x, 0), mask, Condition())[:, at]
    return logits.log_softmax(-1).gather(-1, x[:, at, None])[:, 0]


def in_order(engine: MaskedEngine, x: Tensor, order: tuple[int, ...]) -> Tensor:
    """(N,) log-probability of filling x one position after another in this order."""
    return torch.stack([log_p(engine, x, order[:k], order[k]) for k in range(len(order))]).sum(0)


def over_orders(engine: MaskedEngine, x: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) exact log p(x) of filling in a random order, and the mean of log p over the orders."""
    each = torch.stack([in_order(engine, x, order) for order in itertools.permutations(range(x.shape[1]))])
    return each.logsumexp(0) - math.log(len(each)), each.mean(0)


def fits(drawn: Tensor, x: Tensor, p: Tensor) -> float:
    """p-value of a chi-square test of drawn (B, T) against the probabilities p (N,) of the events x (N, T)."""
    counts = (drawn[:, None] == x).all(-1).sum(0)
    assert int(counts.sum()) == len(drawn)  # nothing else was drawn
    usual = p * len(drawn) > 5
    counts, expected = counts[usual].double(), p[usual].double()
    return float(stats.chisquare(counts.numpy(), (expected * counts.sum() / expected.sum()).numpy()).pvalue)


def draws(engine: MaskedEngine, how: MaskedHow, count: int = 20_000) -> Tensor:
    return engine.sample(Rows(3, torch.arange(count)), Condition(), how, Silent())


@torch.no_grad()
@pytest.mark.parametrize(("net", "space"), BOTH)
def test_filling_in_any_order_is_a_distribution(net: str, space: Tokens) -> None:
    engine, x = build(space, net).double(), every(space)
    for order in itertools.permutations(range(3)):
        p = in_order(engine, x, order).exp()
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(p.max()) > 1.5 / len(x)  # far from even, or the sum would prove little


@torch.no_grad()
@pytest.mark.parametrize(("net", "space"), BOTH)
def test_one_position_a_step_draws_the_enumerated_distribution(net: str, space: Tokens) -> None:
    engine, x = build(space, net), every(space)
    forward, mixed = in_order(engine, x, (0, 1, 2)).exp(), over_orders(engine, x)[0].exp()
    assert fits(draws(engine, MaskedHow(steps=3, order="forward")), x, forward) > 1e-3
    assert fits(draws(engine, MaskedHow(steps=99)), x, mixed) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("net", NETS)
def test_one_step_draws_positions_independently(net: str) -> None:
    space = SPACES[1]
    engine, x = build(space, net), every(space)
    alone = torch.stack([log_p(engine, x, (), t) for t in range(3)]).sum(0).exp()
    found = draws(engine, MaskedHow(steps=1))
    assert fits(found, x, alone) > 1e-3
    assert fits(found, x, over_orders(engine, x)[0].exp()) < 1e-6  # and not as the model would one by one


@torch.no_grad()
@pytest.mark.parametrize("known", list(itertools.product([False, True], repeat=4))[1:-1])
def test_a_known_joint_is_completed_exactly(known: tuple[bool, ...]) -> None:
    engine, count = JointTable(Tokens((2, 3, 2, 3), 4)), 6000
    row, mask = torch.tensor([1, 2, 0, 1]).expand(count, 4), torch.tensor(known).expand(count, 4)
    drawn = unmask(engine, row, mask, Condition(), Rows(5, torch.arange(count)), steps=4)
    assert torch.equal(drawn[mask], row[mask])
    agree = (engine.events[:, list(known)] == row[0, list(known)]).all(1)
    p = torch.where(agree, engine.log_p.exp(), 0.0)
    assert fits(drawn, engine.events, p / p.sum()) > 1e-3 / 14


def test_a_known_joint_is_drawn_exactly() -> None:
    engine, count = JointTable(Tokens((2, 3, 2, 3), 4)), 20_000
    nothing = torch.zeros(count, 4, dtype=torch.int64)
    drawn = unmask(engine, nothing, nothing.bool(), Condition(), Rows(6, torch.arange(count)), steps=4)
    assert fits(drawn, engine.events, engine.log_p.exp()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("net", "space"), BOTH)
def test_the_bound_is_the_mean_over_orders_and_below_the_exact_value(net: str, space: Tokens) -> None:
    engine, x = build(space, net, forget=0.0).double(), every(space)[-5:]
    exact, bound = over_orders(engine, x)
    assert (bound <= exact + 1e-12).all()
    count = 4000
    for row in range(len(x)):
        batch = Batch(x[row].expand(count, -1), torch.arange(count))
        rows = Rows(row, batch.ids)
        found = engine.log_prob(batch, rows)
        losses = -space.length * engine.losses(batch, rows)
        assert found.kind == "lower_bound"
        for value in (found.value, losses):
            error = float(value.std()) / math.sqrt(count)
            assert float(value.mean()) == pytest.approx(float(bound[row]), abs=4.5 * error + 1e-9)


@torch.no_grad()
def test_the_bound_of_long_sequences_is_right_on_average() -> None:
    """More positions than passes: numbers of hidden positions are drawn, each alike often."""
    space, count = Tokens(2, 40), 3000
    engine = build(space, "mlp", forget=0.0).double()
    batch = Batch(Rows(0, torch.tensor([4])).integers(2, 40).expand(count, 40), torch.arange(count))
    few = engine.log_prob(batch, Rows(1, batch.ids)).value
    many = -40 * engine.losses(batch, Rows(2, batch.ids))
    error = math.hypot(float(few.std()), float(many.std())) / math.sqrt(count)
    assert float(few.mean()) == pytest.approx(float(many.mean()), abs=4.5 * error)
    assert float(few.std()) < 0.5 * float(many.std())


@pytest.mark.parametrize("net", NETS)
def test_a_fitted_model_fills_like_the_joint_that_it_learned(net: str) -> None:
    space = Tokens((2, 3, 2, 3), 4)
    truth, ids = JointTable(space), torch.arange(4000)
    x = truth.events[Rows(0, ids).categorical(truth.log_p.expand(len(ids), -1))]
    family = Masked(net=net, width=32, depth=2, dropout=0.0)  # type: ignore[arg-type]
    engine = family.build(space, {}, Rows(0, torch.arange(1)))
    train(engine, TensorExamples(x), settings=family.training(space, 4000), steps=400, seed=0, run=Run())
    assert distance(engine.eval(), truth) < 0.06
    assert distance(family.build(space, {}, Rows(0, torch.arange(1))).eval(), truth) > 0.2


@torch.no_grad()
def distance(engine: MaskedEngine, truth: JointTable) -> float:
    """Mean total variation between what both say of a hidden position, over all sets of known ones."""
    weight, apart, places = truth.log_p.exp(), 0.0, 0
    for known in list(itertools.product([False, True], repeat=4))[:-1]:
        mask = torch.tensor(known).expand(len(truth.events), 4)
        found, expected = (e.fill_logits(truth.events, mask, Condition()).softmax(-1) for e in (engine, truth))
        each = (found - expected).abs().sum(-1).div(2)  # (E, T)
        apart += float(weight @ each.masked_fill(mask, 0.0).sum(1))
        places += 4 - sum(known)
    return apart / places


def test_completing_keeps_what_is_known_and_says_that_it_is_exact() -> None:
    space = SPACES[1]
    engine, x = build(space, "mlp"), every(space)
    mask = torch.tensor([[True, False, True]])
    with torch.no_grad():
        done = complete(engine, x, mask, Condition(), Rows(0, torch.arange(len(x))), MaskedHow())
    assert (done.route, done.exactness) == ("Unmasks", "exact")
    assert torch.equal(done.x[:, [0, 2]], x[:, [0, 2]])


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("net", NETS)
def test_nothing_stands_behind_an_end(net: str, steps: int) -> None:
    space = Tokens(4, 6, ends=True)
    trace = Recording(["token"])
    x = build(space, net).sample(Rows(1, torch.arange(500)), Condition(), MaskedHow(steps=steps), trace)
    behind = (x == 0).cumsum(1) - (x == 0).long() > 0
    assert not x[behind].any()
    assert len(trace.kept["token"]) == steps
    assert torch.equal(trace.kept["token"][steps - 1], x)


@torch.no_grad()
def test_guidance_stretches_the_difference_of_logarithms() -> None:
    space = Tokens(3, 2)
    engine, condition = build(space, "mlp"), batch_of(space, 6).condition
    tokens, known = torch.zeros(6, 2, dtype=torch.int64), torch.tensor([[True, False]]).expand(6, 2)
    asked, unasked = (engine.fill_logits(tokens, known, c).log_softmax(-1) for c in (condition, condition.nothing()))
    found = guided_fill(engine, tokens, known, condition, 3.0)
    torch.testing.assert_close(found[:, 1], (unasked + 3.0 * (asked - unasked))[:, 1])
    assert (found[:, 0].argmax(-1) == tokens[:, 0]).all()
    assert torch.equal(found[0], engine.fill_logits(tokens, known, condition)[0].log_softmax(-1))  # nothing is given


def test_temperature_zero_takes_the_likeliest() -> None:
    space = Tokens(5, 1)
    engine = build(space, "mlp")
    likeliest = engine.fill_logits(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1).bool(), Condition()).argmax()
    assert (draws(engine, MaskedHow(temperature=0.0), 50) == likeliest).all()


def test_samples_do_not_depend_on_the_batch() -> None:
    space = Tokens((7, 9, 40, 3), 4)
    engine, rows, condition = build(space, "mlp"), Rows(1, torch.arange(30)), batch_of(space, 30).condition
    how = MaskedHow(steps=2, guidance=2.0)
    x = engine.sample(rows, condition, how, Silent())
    alone = [engine.sample(rows.take(slice(j, j + 1)), condition.take(slice(j, j + 1)), how, Silent())
             for j in range(30)]  # fmt: skip
    assert (x == torch.cat(alone)).all(1).double().mean() >= 0.99
    assert (x < torch.tensor(space.sizes)).all()


@pytest.mark.parametrize(("net", "space"), BOTH)
def test_losses_are_row_by_row(net: str, space: Tokens) -> None:
    check_rowwise(build(space, net), batch_of(space, 4).with_x(every(space)[-4:]))


def test_what_cannot_be_is_refused_in_words() -> None:
    refusal = Masked().accepts(Tokens(4, 2000), {})
    assert refusal is not None
    assert "max_length is 1024" in refusal.reason
    assert Masked().accepts(Real((3,)), {}) is not None
    for settings, words in (
        ({"net": "gru"}, "net is 'gru'"),
        ({"depth": 0}, "depth is 0"),
        ({"forget": 1.0}, "forget"),
    ):
        with pytest.raises(BadInput, match=words):
            Masked(**settings)
    for settings, words in (
        ({"steps": 0}, "steps is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"order": "likely"}, "order is 'likely'"),
    ):
        with pytest.raises(BadInput, match=words):
            MaskedHow(**settings)
