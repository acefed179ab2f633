"""Starting from another model's weights."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["inherit"]


@torch.no_grad()
def inherit(module: nn.Module, base: nn.Module | None) -> None:
    """Copy into `module` every weight and buffer of `base` whose name and shape agree; leave the others as they are.

    >>> a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> inherit(a, b)
    >>> bool((a.weight == b.weight).all())
    True
    """
    if base is None:
        return
    ours = module.state_dict()
    for name, value in base.state_dict().items():
        if name in ours and ours[name].shape == value.shape:
            ours[name].copy_(value)
