"""WaveNet over symbols: guess the next one from those before it through dilated causal convolutions.

    log p(x | c) = sum_t log p(x_t | x_1, ..., x_{t-1}, c)         van den Oord et al. 2016, arXiv:1609.03499, eq. 1

Layers look back 1, 2, 4, ... places, so that a few of them see all that came before; a fast queue for each layer makes
writing a symbol cost as many products as there are layers. Characters, the codes of a companded sound and quantised
pixels are such symbols; `wavenet_real.py` is the same network over numbers.
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
from pellucid.nets.dilated import Dilated, dilations
from pellucid.nets.inherit import inherit

__all__ = ["WaveNet", "WaveNetEngine", "wave_parts"]


@dataclass(frozen=True, kw_only=True)
class WaveNet(SymbolChainFamily):
    """Settings of a WaveNet over symbols.

    Args:
        cycles: how often the dilations 1, 2, 4, ... are gone through. dilation: the largest; fewer are taken where
            the items are shorter.
        width: channels of a layer; None: 64 up to 128 symbols, 128 beyond.
    """

    name: ClassVar[str] = "wavenet"
    title: ClassVar[str] = "WaveNet (dilated convolutions)"
    engine: ClassVar[type[SymbolChainEngine]]

    cycles: int = 2
    dilation: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in {"cycles": self.cycles, "dilation": self.dilation}.items():
            if value < 1:
                raise BadInput(f"{name} is {value}", accepted="1 or more")

    def parts(self) -> tuple[Part, ...]:
        return wave_parts(
            Part("next-symbol probabilities", "What all layers passed on gives every possible next symbol a "
                 "probability; training raises that of the symbol which really came next.", "softmax(W h_t)",
                 "van den Oord et al. 2016, https://arxiv.org/abs/1609.03499, section 2.2")
        )  # fmt: skip

    def training(self, space: Space, items: int) -> Training:
        if is_text(space):
            # on 180 kB of plays, after 6 CPU-seconds of one thread, 3.33 bits a character, against 3.67 with AdamW
            batch = max(8, min(256, 1536 // space.size))
            return Training(batch=batch, rate=4e-3, optimizer="muon", matrix_rate=0.02, betas=(0.9, 0.98), steps=2000)
        batch = max(8, min(256, 2048 // space.size))
        return Training(batch=batch, rate=3e-3, betas=(0.9, 0.98), weight_decay=0.01, steps=2000)

    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> WaveNetEngine:
        refusal = self.accepts(space, conditions)
        if refusal is not None or not isinstance(space, Tokens):
            raise BadInput(f"the space is {space}", accepted="Tokens", why=refusal.reason if refusal else "")
        with rows.seeding():
            engine = WaveNetEngine(self, space, conditions)
        inherit(engine, base)
        return engine


class WaveNetEngine(SymbolChainEngine):
    """The queues of the layers are all that the engine keeps of the symbols before."""

    def __init__(self, family: WaveNet, space: Tokens, conditions: Mapping[str, Space]) -> None:
        width = family.width or (64 if space.size <= 128 else 128)
        layers = dilations(space.length, family.dilation, family.cycles)
        super().__init__(family, space, conditions, Dilated(width, layers, conditioned=bool(conditions)))


WaveNet.engine = WaveNetEngine


def wave_parts(answer: Part) -> tuple[Part, ...]:
    """The pieces of a WaveNet; `answer` tells how the network's last layer becomes probabilities."""
    source = "van den Oord et al. 2016, https://arxiv.org/abs/1609.03499"
    return (
        Part("chain rule", "An item is a row. Its probability is the probability of the first place, times that of the "
             "second given the first, and so on. Nothing is approximated.",
             "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})", source + ", eq. 1"),
        Part("dilated convolutions", "Each layer puts together what stands at a place and at one place earlier: 1, "
             "then 2, 4, 8 places back, so that a few layers see far. None looks ahead.",
             "W * x = W_0 x_{t-d} + W_1 x_t", source + ", section 2.1"),
        Part("gated units", "One half of each layer says what there is to add, the other half how much of it passes. "
             "What is known of the item moves both.", "tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c)",
             source + ", eq. 2 and 3"),
        Part("skipping", "Every layer adds to what the next one reads, and passes its part to the end directly.",
             "x <- x + R y, skip <- skip + S y", source + ", fig. 4"),
        answer,
        Part("fast queues", "Draw the first place, then the second given the first, and so on. Each layer keeps what "
             "it read at the places it will look back to, and nothing is computed twice.",
             "x_t ~ p(. | x_1, ..., x_{t-1})", "Paine et al. 2016, https://arxiv.org/abs/1611.09482"),
    )  # fmt: skip
