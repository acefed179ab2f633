"""Dense layers one after another: the nets of CTGAN's players, for rows of a table.

Xu et al. 2019 (https://arxiv.org/abs/1907.00503), section 4.4: two hidden layers of 256, each generator layer's input
carried along beside its output. Their batch normalisation is a normalisation of each row here, and none in the critic,
so that rows do not mix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Dense"]


class Dense(nn.Module):
    """(B, inputs) to (B, outputs).

    Args:
        width, depth: size and number of the hidden layers.
        carry: a generator's layers: RMSNorm and ReLU, with the input carried along; else leaky ReLU alone.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 256, depth: int = 2, carry: bool = False) -> None:
        super().__init__()
        self.carry = carry
        sizes = [inputs + (k * width if carry else width * (k > 0) - inputs * (k > 0)) for k in range(depth + 1)]
        self.layers = nn.ModuleList(nn.Linear(size, width) for size in sizes[:-1])
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(depth if carry else 0))
        self.act = nn.LeakyReLU(0.2)
        self.last = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for index, layer in enumerate(self.layers):
            out = layer(h)
            h = torch.cat((self.norms[index](out).relu(), h), dim=-1) if self.carry else self.act(out)
        out = self.last(h)
        return out
