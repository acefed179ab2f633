"""Per-row gradients equal those of autograd, one row after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, TensorExamples
from pellucid.core.capabilities import Learns, Turn
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.training.per_example import flat_per_example_gradients, per_example_gradients
from tests.training.toys import Dropping, Mean, rows_of_numbers

IDS = torch.tensor([3, 30, 11, 12, 3, 0])


def noise() -> Rows:
    return Rows(5, IDS).fork("train", 9)


def test_the_closed_form() -> None:
    """loss_i = |x_i - m|^2 / 2, so its gradient is m - x_i."""
    engine, batch = Mean(), rows_of_numbers().take(IDS)
    with torch.no_grad():
        engine.m.copy_(torch.arange(5.0))
    found = per_example_gradients(engine, "mean", batch, noise())
    assert set(found) == {"m"}
    assert torch.allclose(found["m"], engine.m - batch.x, atol=1e-6)


@pytest.mark.parametrize("turn", ["body", "judge", 0, 1])
@pytest.mark.parametrize("chunk", [None, 4])
def test_each_row_has_the_gradient_it_has_alone(turn: str | int, chunk: int | None) -> None:
    engine, batch, rows = Dropping().eval(), rows_of_numbers().take(IDS), noise()
    found = per_example_gradients(engine, turn, batch, rows, chunk)
    move = next(t for i, t in enumerate(engine.turns()) if turn in (i, t.name))
    names = {id(p): name for name, p in engine.named_parameters()}
    assert list(found) == [names[id(p)] for p in move.parameters]
    for i in range(len(IDS)):
        one = slice(i, i + 1)
        expected = torch.autograd.grad(move.losses(batch.take(one), rows.take(one)).sum(), list(move.parameters))
        for p, g in zip(move.parameters, expected, strict=True):
            assert torch.allclose(found[names[id(p)]][i], g, atol=1e-6)
    flat = flat_per_example_gradients(engine, turn, batch, rows)
    assert flat.shape == (len(IDS), sum(p.numel() for p in move.parameters))
    assert torch.allclose(flat, torch.cat([g.flatten(1) for g in found.values()], 1), atol=1e-6)
    assert all(p.grad is None for p in engine.parameters())


def test_their_mean_is_the_gradient_of_training() -> None:
    engine, batch, rows = Dropping().eval(), rows_of_numbers().take(IDS), noise()
    engine.turns()[0].losses(batch, rows).mean().backward()
    found = per_example_gradients(engine, "body", batch, rows)
    for name, p in engine.body.named_parameters():
        assert p.grad is not None
        assert torch.allclose(found[f"body.{name}"].mean(0), p.grad, atol=1e-6)


class Ragged(nn.Module, Learns):
    """Uses whatever a batch may carry: conditions given or not, lengths, ids, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(3, 4)
        self.out = nn.Linear(4, 3, bias=False)
        self.out.weight = self.words.weight

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("all", list(self.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        assert batch.lengths is not None
        known = batch.condition.given["class"][:, None]
        seen = torch.where(known, self.words(batch.condition.values["class"][:, 0]), 0.1 * batch.ids[:, None].float())
        inside = torch.arange(batch.x.shape[1]) < batch.lengths[:, None]
        total = (batch.x * inside).sum(1, keepdim=True) + rows.fork("z").normal(3)
        return (self.out(seen) * total).sum(-1).square()


def test_conditions_lengths_and_tied_weights_go_along() -> None:
    plain = rows_of_numbers().take(torch.arange(37))
    condition = plain.condition.drop({"class": torch.arange(37) % 2 == 0})
    data = TensorExamples(plain.x, condition, lengths=torch.arange(37) % 5 + 1)
    engine, batch, rows = Ragged(), data.take(IDS), noise()
    found = per_example_gradients(engine, "all", batch, rows)
    assert list(found) == ["words.weight"]
    for i in range(len(IDS)):
        one = slice(i, i + 1)
        (expected,) = torch.autograd.grad(engine.losses(batch.take(one), rows.take(one)).sum(), [engine.out.weight])
        assert torch.allclose(found["words.weight"][i], expected, rtol=1e-5, atol=1e-6)


def test_a_turn_of_ones_own() -> None:
    engine, batch = Mean(), rows_of_numbers().take(IDS)
    turn = Turn("cubes", [engine.m], lambda batch, rows: (engine.m * batch.x**3).sum(-1))
    assert torch.allclose(per_example_gradients(engine, turn, batch, noise())["m"], batch.x**3)


def test_layers_that_mix_rows_are_refused() -> None:
    engine = Mean()
    engine.norm = nn.BatchNorm1d(5)
    with pytest.raises(BadInput, match="'norm' is a BatchNorm1d in training mode.*GroupNorm"):
        per_example_gradients(engine, "mean", rows_of_numbers().take(IDS), noise())
    per_example_gradients(engine.eval(), "mean", rows_of_numbers().take(IDS), noise())
