"""Encodes a condition into one vector a row; a value that is not given becomes a learned vector of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens

__all__ = ["ConditionEncoder", "drop_conditions"]


class ConditionEncoder(nn.Module):
    """Sum over the named conditions of their embeddings (B, width).

    Tokens are embedded position by position and averaged, reals go through one linear map. Without any
    condition the vector is zero.

    Args:
        spaces: name -> space of each condition. width: size of the vector.
    """

    def __init__(self, spaces: Mapping[str, Space], width: int) -> None:
        super().__init__()
        self.width = width
        self.names = tuple(spaces)
        self.encode = nn.ModuleDict()
        self.absent = nn.ParameterDict()
        for index, space in enumerate(spaces.values()):
            if isinstance(space, Tokens):
                self.encode[f"c{index}"] = nn.Embedding(sum(space.sizes), width)
                self.register_buffer(f"start{index}", torch.tensor([0, *space.sizes[:-1]]).cumsum(0), persistent=False)
            else:
                self.encode[f"c{index}"] = nn.Sequential(nn.Flatten(1), nn.Linear(_flat(space), width))
            self.absent[f"c{index}"] = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, condition: Condition, like: Tensor) -> Tensor:
        """(B, width) for the B rows of `like` (B, *event), on its device and in its dtype."""
        out = like.new_zeros((like.shape[0], self.width))
        for index, name in enumerate(self.names):
            absent = self.absent[f"c{index}"].to(out.dtype).expand_as(out)
            if name not in condition.values:
                out = out + absent
                continue
            value, encode = condition.values[name], self.encode[f"c{index}"]
            if isinstance(encode, nn.Embedding):
                value = value.flatten(1) + self.get_buffer(f"start{index}")
                vector = encode(value).mean(dim=1)
            else:
                vector = encode(value.to(out.dtype))
            out = out + torch.where(condition.given[name][:, None], vector, absent)
        return out


def _flat(space: Real | Mixed) -> int:
    return space.size


def drop_conditions(condition: Condition, rows: Rows, share: float) -> Condition:
    """Forget each condition in a random `share` of the rows, so that the model also learns without it."""
    if share <= 0.0 or not condition:
        return condition
    keep = {name: rows.fork(f"drop {name}").uniform() >= share for name in condition.values}
    return condition.drop(keep)
