"""Ways to draw the next symbol, on distributions small enough to know the answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.families.next_symbol import SymbolHow, draw_symbols

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def shares(how: SymbolHow, before: list[int] | None = None, p: Tensor = P) -> Tensor:
    count = 20_000
    u = Rows(0, torch.arange(count)).uniform(dtype=torch.float64)
    seen = None if before is None else torch.tensor(before).expand(count, -1)
    return draw_symbols(p.log().expand(count, 4), u, how, seen).bincount(minlength=4) / count


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double() / expected.sum(), rtol=0, atol=0.015)
    assert (found[expected == 0] == 0).all()


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    near(shares(SymbolHow(min_p=0.4)), torch.tensor([0.5, 0.3, 0.0, 0.0]))
    near(shares(SymbolHow(min_p=1.0)), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    near(shares(SymbolHow(min_p=0.0)), P)


def test_a_penalty_is_taken_off_for_each_time_a_symbol_stands_among_the_last() -> None:
    how = SymbolHow(penalty=1.0, span=3)
    near(shares(how, [0, 0, 1, 0]), P * torch.tensor([-2.0, -1.0, 0.0, 0.0]).exp())
    near(shares(how, []), P)
    near(shares(SymbolHow(penalty=100.0, temperature=0.0), [0, 1]), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_a_run_is_not_written_twice() -> None:
    how = SymbolHow(no_repeat=2)
    near(shares(how, [1, 0, 2, 1]), torch.tensor([0.0, 0.3, 0.15, 0.05]))  # 1 0 has been written
    near(shares(how, [1, 0, 2]), P)
    near(shares(SymbolHow(no_repeat=1), [0, 3]), torch.tensor([0.0, 0.3, 0.15, 0.0]))
    near(shares(SymbolHow(no_repeat=1), [0, 1, 2, 3]), P)  # nothing would be left, so nothing is held back


def test_rows_are_held_back_one_by_one() -> None:
    logits = torch.zeros(2, 3)
    drawn = draw_symbols(
        logits, torch.tensor([0.01, 0.01], dtype=torch.float64), SymbolHow(no_repeat=1), torch.tensor([[0], [2]])
    )
    assert drawn.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", -1.0), ("top_p", 0.0), ("top_p", 1.5), ("top_k", 0), ("min_p", -0.1), ("min_p", 1.1),
     ("penalty", -1.0), ("span", 0), ("no_repeat", 0), ("temperature", float("nan"))],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{setting} is"):
        SymbolHow(**{setting: value})  # type: ignore[arg-type]
