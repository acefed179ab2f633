"""Low-rank adapters: a trained weight stays as it is, and a product of two thin matrices learns what is new.

    W' = W + (alpha / r) B A,   W (out, in),  B (out, r),  A (r, in)

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1. B starts at zero,
so that training starts from the model itself. A convolution's weight is taken as the matrix (out, in * height * width).
After training the product is added to W, so a finished model has plain weights and costs what it did before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows

__all__ = ["attach", "fold", "merge"]

_MARK = ".parametrizations.weight."


class LowRank(nn.Module):
    """Adds the product to a weight each time that it is read.

    Args:
        weight: (out, in, ...). rank: r, at most what the weight has. scale: alpha / r as asked for.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float, rows: Rows) -> None:
        super().__init__()
        out, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, out, inputs)
        self.scale = scale
        # unit variance of A x for x of unit variance
        down = rows.take(slice(0, rank)).normal(inputs) * inputs**-0.5
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in, ...) to the same shape."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def attach(engine: nn.Module, rank: int, alpha: float, seed: int) -> tuple[str, ...]:
    """Put an adapter on the weight of every `nn.Linear` and `nn.Conv2d`; gives the names of the adapters' parameters.

    Weights that several layers share are left alone, since an adapter would part them.

    Raises BadInput when there is no such layer.
    """
    owners = Counter(id(p) for m in engine.modules() for p in m.parameters(recurse=False))
    layers = {
        name: module
        for name, module in engine.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        and isinstance(module.weight, nn.Parameter)
        and owners[id(module.weight)] == 1
    }
    if not layers:
        raise BadInput(
            f"{type(engine).__name__} has no linear or convolutional layer to adapt",
            accepted="adapt='whole' or adapt='last' for this family",
        )
    rows = Rows(seed, torch.arange(rank))
    for name, module in layers.items():
        adapter = LowRank(module.weight.detach(), rank, alpha / rank, rows.fork(f"adapter {name}"))
        parametrize.register_parametrization(module, "weight", adapter)
    added = {f"{name}{_MARK}0.{part}" for name in layers for part in ("down", "up")}
    return tuple(name for name, _ in engine.named_parameters() if name in added)


def fold(state: Mapping[str, Tensor], rank: int, alpha: float) -> dict[str, Tensor]:
    """The state of an engine with adapters as that of the plain engine."""
    plain = {}
    for name, tensor in state.items():
        owner, mark, part = name.rpartition(_MARK)
        if not mark:
            plain[name] = tensor
        elif part == "original":
            up, down = state[f"{owner}{_MARK}0.up"], state[f"{owner}{_MARK}0.down"]
            plain[f"{owner}.weight"] = tensor + alpha / rank * (up @ down).view_as(tensor)
    return plain


@torch.no_grad()
def merge(engine: nn.Module, rank: int, alpha: float) -> None:
    """Add the adapters to the weights and take them off, in place.

    >>> layer = nn.Sequential(nn.Linear(3, 2))
    >>> names, x = attach(layer, 1, 2.0, seed=0), torch.ones(1, 3)
    >>> _ = layer[0].parametrizations.weight[0].up.data.fill_(1.0)
    >>> before = layer(x)
    >>> merge(layer, 1, 2.0)
    >>> bool(torch.allclose(layer(x), before)), sorted(layer.state_dict())
    (True, ['0.bias', '0.weight'])
    """
    plain = {name: tensor.clone() for name, tensor in fold(engine.state_dict(), rank, alpha).items()}
    for module in list(engine.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    engine.load_state_dict(plain)
