"""An objective that teaches an engine what another one says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch
from pellucid.core.capabilities import Objective, Predicts, Turn
from pellucid.core.rows import Rows

__all__ = ["Distil"]


class Distil(Objective):
    """KL(base || engine) of the next symbol, summed over a row's places    Hinton et al. 2015, arXiv:1503.02531"""

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        assert isinstance(engine, Predicts)
        assert isinstance(base, Predicts)

        def losses(batch: Batch, rows: Rows) -> Tensor:
            with torch.no_grad():
                taught = base.next_logits(batch.x[:, :-1], batch.condition).log_softmax(-1)
            said = engine.next_logits(batch.x[:, :-1], batch.condition).log_softmax(-1)
            impossible = taught.isneginf()
            gap = taught.masked_fill(impossible, 0.0) - said.masked_fill(impossible, 0.0)
            return (taught.exp() * gap).sum((1, 2))

        return (Turn("imitate", tuple(engine.parameters()), losses),)
