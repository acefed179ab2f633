"""Vectors of symbols: neighbours in a large alphabet begin alike, and everything can still be said."""

from __future__ import annotations

import torch

from pellucid.nets.bidirectional import Bidirectional
from pellucid.nets.symbol_table import SymbolTable


def test_the_curve_is_a_cosine_series_over_the_alphabet() -> None:
    table = SymbolTable((3, 20), 4, spread=0.0)
    with torch.no_grad():
        table.curve[0, 1, 2] = 1.0  # wave k = 2 into entry 2
    rows, v = table().detach(), torch.arange(20)
    expected = 0.5 * torch.cos(torch.pi * 2 * (v + 0.5) / 20)
    torch.testing.assert_close(rows[3:, 2], expected)
    assert float(rows.abs().sum()) == float(rows[3:, 2].abs().sum())


def test_neighbours_begin_more_alike_than_strangers() -> None:
    torch.manual_seed(0)
    rows = SymbolTable((60,), 64)()
    apart = torch.cdist(rows, rows)
    assert float(apart.diagonal(1).mean()) < 0.9 * float(apart.diagonal(15).mean())


def test_every_slot_sees_every_other() -> None:
    torch.manual_seed(0)
    body = Bidirectional(16, 1).double()
    for p in body.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: body(v)[0].sum(-1), x)[:, 0].abs().sum(-1)  # (5, 5)
    assert (jacobian > 1e-6).all()


def test_the_curve_leaves_names_alone_where_the_order_is_known() -> None:
    table = SymbolTable((12, 30), 4, spread=0.0, ordered=(0, 20))
    assert table.large == (1,)
    with torch.no_grad():
        table.curve[:] = 1.0
    rows = table().detach()
    assert not rows[:12].any()
    assert not rows[32:].any()  # spikes and the missing cell
    torch.testing.assert_close(rows[12:32], SymbolTable((20,), 4, spread=0.0).get_buffer("waves0") @ table.curve[0])
