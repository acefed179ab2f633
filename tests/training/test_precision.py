"""What changes arithmetic is measured, set for a while, put back and recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Learns, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed, Run
from pellucid.training import precision, threads
from pellucid.training.checkpoint import Checkpoints
from pellucid.training.loop import train
from pellucid.training.precision import matmul_route, route_error, suits_onednn
from tests.training.toys import SETTINGS, Mean, rows_of_numbers

WIDE = 320


class Attending(nn.Module, Learns):
    """Matrix products of a chosen width, and attention fused or spelled out."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.inside, self.fused = nn.Linear(5, width), fused
        self.through, self.out = nn.Linear(width, width), nn.Linear(width, 1)
        self.precision_seen: set[str] = set()

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("all", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        self.precision_seen.add(torch.get_float32_matmul_precision())
        h = self.through(torch.tanh(self.inside(batch.x)))
        q = h.reshape(len(batch), 1, 4, -1)
        if self.fused:
            q = nn.functional.scaled_dot_product_attention(q, q, q)
        else:
            q = torch.softmax(q @ q.mT, -1) @ q
        out: Tensor = self.out(q.reshape(len(batch), -1))
        return out[:, 0].square()


def batch_of(n: int) -> tuple[Batch, Rows]:
    data = rows_of_numbers()
    ids = torch.arange(n) % 37
    return data.take(ids), Rows(0, ids)


def test_the_default_route_is_float32() -> None:
    assert route_error("default") < 3e-6
    assert route_error("onednn") < 2e-2, "bfloat16 at the worst"


def test_sizes_and_fused_attention_decide_the_route() -> None:
    batch, rows = batch_of(128)
    assert suits_onednn(Attending(WIDE, fused=False), batch, rows)
    assert not suits_onednn(Attending(WIDE, fused=True), batch, rows)
    assert not suits_onednn(Attending(16, fused=False), batch, rows)
    assert not suits_onednn(Attending(WIDE, fused=False), *batch_of(2))


def test_looking_leaves_the_engine_and_the_generator_alone() -> None:
    engine, generator = Attending(16, fused=False), torch.get_rng_state()
    before = {k: t.clone() for k, t in engine.state_dict().items()}
    suits_onednn(engine, *batch_of(3))
    assert engine.precision_seen == set()
    assert torch.get_rng_state().equal(generator)
    assert all(torch.equal(t, before[k]) for k, t in engine.state_dict().items())


@pytest.mark.parametrize("error", [1e-6, 4e-3])
def test_training_takes_the_route_only_where_it_is_exact(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(precision, "route_error", lambda route: error)
    engine, settings = Attending(WIDE, fused=False), replace(SETTINGS, batch=128)
    outcome = train(engine, rows_of_numbers(), settings=settings, steps=2, seed=0, run=Run())
    assert outcome.arithmetic is not None
    assert outcome.arithmetic.matmul == ("onednn" if error < 1e-5 else "default")
    assert outcome.arithmetic.matmul_error == error
    assert engine.precision_seen == {"medium" if error < 1e-5 else "highest"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_both_routes_train_the_same_to_rounding() -> None:
    losses = []
    for route in ("default", "onednn"):
        torch.manual_seed(0)
        engine, settings = Attending(64, fused=False), replace(SETTINGS, rate=0.001)
        probe = train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=1, seed=0, run=Run()).arithmetic
        assert probe is not None
        chosen = replace(probe, matmul=route)
        outcome = train(engine, rows_of_numbers(), settings=settings, steps=9, seed=0, run=Run(), arithmetic=chosen)
        losses.append(torch.tensor(list(outcome.losses["all"].values())))
    tolerance = 1e-3 if route_error("onednn") < 1e-5 else 0.1
    assert torch.allclose(losses[0], losses[1], rtol=tolerance, atol=tolerance)


def test_the_route_is_put_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), matmul_route("onednn"):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


def test_going_on_with_other_threads_is_said(tmp_path: Path) -> None:
    keep, told = Checkpoints(tmp_path), []
    with threads.threads(1):
        train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=2, seed=0, run=Run(), keep=keep)
    run = Run(listeners=[lambda e: told.append(e.topic) if isinstance(e, Noticed) else None])
    for count in (1, 2):
        with threads.threads(count):
            start = keep.latest(run)
            train(Mean(), rows_of_numbers(), settings=SETTINGS, steps=2, seed=0, run=run, start=start)
        assert told == ["arithmetic"] * (count - 1)


# Threads


def test_threads_by_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "_cores", lambda: 2)
    for busy, count in ((0.0, 2), (0.9, 2), (1.0, 1), (2.0, 1), (9.0, 1)):
        monkeypatch.setattr(threads, "busy_cores", lambda busy=busy: busy)
        assert threads.choose_threads() == count


def test_threads_by_the_users_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert threads.choose_threads() == 3
    for odd in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv(threads.VARIABLE, odd)
        with pytest.raises(BadInput, match=f"PELLUCID_THREADS is '{odd}'"):
            threads.choose_threads()


def test_busy_cores_are_a_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(100, 400), (115, 420)])
    monkeypatch.setattr(threads, "_ticks", lambda: next(ticks))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert threads.busy_cores() == 1.5
    monkeypatch.setattr(threads, "_ticks", lambda: None)
    assert threads.busy_cores() >= 0.0
