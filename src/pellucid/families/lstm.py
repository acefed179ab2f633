"""LSTM and GRU: guess the next symbol from a state of fixed size that was carried along from all before it.

    h_t = cell(h_{t-1}, x_{t-1}, c),   p(x_t | x_1, ..., x_{t-1}, c) = softmax(W h_t)

A recurrent network as a language model: Mikolov et al. 2010, https://doi.org/10.21437/Interspeech.2010-343, with cells
that hold on to what they read: Sundermeyer et al. 2012, https://doi.org/10.21437/Interspeech.2012-65. A symbol costs
the same at every place, and what is known of an item moves the gates of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pellucid.core.capabilities import Part, Training
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.families.symbol_chain import SymbolChainEngine, SymbolChainFamily, is_text
from pellucid.nets.inherit import inherit
from pellucid.nets.recurrent import Cell, Recurrent

__all__ = ["LSTM", "LSTMEngine"]


@dataclass(frozen=True, kw_only=True)
class LSTM(SymbolChainFamily):
    """Settings of a recurrent network over symbols.

    Args:
        cell: "lstm", or "gru" with three quarters of the weights. depth: layers.
        width: cells in a layer; None: 128 up to 128 symbols, 256 beyond.
    """

    name: ClassVar[str] = "lstm"
    title: ClassVar[str] = "recurrent network (LSTM, GRU)"
    engine: ClassVar[type[SymbolChainEngine]]

    cell: Cell = "lstm"
    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cell not in ("lstm", "gru"):
            raise BadInput(f"cell is '{self.cell}'", accepted="lstm, gru")
        if self.depth < 1:
            raise BadInput(f"depth is {self.depth}", accepted="1 or more")

    def parts(self) -> tuple[Part, ...]:
        cells = {
            "lstm": Part("cells", "Each cell holds a number. Gates decide at every symbol how much of it is forgotten, "
                         "how much of what is new is taken in, and how much is shown.",
                         "c_t = f c_{t-1} + i n, h_t = o tanh(c_t)",
                         "Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735; Gers et al. 2000"),
            "gru": Part("cells", "Each cell holds a number. Gates decide at every symbol how much of it stays, and how "
                        "much of it is seen when the new number is made.", "h_t = n + u (h_{t-1} - n)",
                        "Cho et al. 2014, https://arxiv.org/abs/1406.1078, eq. 5-8"),
        }  # fmt: skip
        return (
            Part("chain rule", "An item is a row of symbols. Its probability is the probability of the first, times "
                 "that of the second given the first, and so on. Nothing is approximated.",
                 "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})"),
            Part("embedding", "Each symbol, and in items of a fixed length each position, becomes a list of learned "
                 "numbers.", "slot_t = symbol(x_{t-1}) + position(t)"),
            cells[self.cell],
            Part("layers", "Each layer reads what those below made of the symbols so far, and adds to it.",
                 "x <- x + layer(norm(x))"),
            Part("next-symbol probabilities", "The last layer gives every possible next symbol a probability; training "
                 "raises that of the symbol which really came next.", "softmax(W h_t)"),
            Part("sampling", "Draw the first symbol, then the second given the first, and so on. All that is kept of "
                 "earlier symbols is the state of the cells.", "x_t ~ p(. | x_1, ..., x_{t-1})"),
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        # AdamW at a high rate: on 180 kB of plays, after 6 CPU-seconds of one thread, 3.06 bits a character at 12e-3,
        # 3.29 at 4e-3, and 3.35 with Muon for the matrices, which helps where matrices are not four gates side by side
        batch = max(8, min(256, (1536 if is_text(space) else 2048) // space.size))
        rate = 1e-2 if is_text(space) else 4e-3
        return Training(batch=batch, rate=rate, betas=(0.9, 0.98), weight_decay=0.01, steps=2000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> LSTMEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = LSTMEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class LSTMEngine(SymbolChainEngine):
    """The cells' numbers are all that the engine keeps of the symbols before."""

    def __init__(self, family: LSTM, space: Tokens, conditions: Mapping[str, Space]) -> None:
        width = family.width or (128 if space.size <= 128 else 256)
        super().__init__(
            family, space, conditions, Recurrent(width, family.depth, family.cell, conditioned=bool(conditions))
        )


LSTM.engine = LSTMEngine
