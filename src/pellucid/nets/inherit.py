"""Starting from another model's weights."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.nets.groups import Groups

__all__ = ["grow", "inherit"]


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


@torch.no_grad()
def grow(module: nn.Module, base: nn.Module, old: int, new: int) -> tuple[str, ...]:
    """Copy into `module` the weights of `base` that differ from its own in one axis alone, `old` there and `new` here.

    The further places along that axis start at the mean of the old ones: a new class as an average of those known.
    Shares of groups have a row for each class and one for all, and grow by themselves.

    Returns:
        the names of what has grown, weights and buffers.

    >>> small, large = nn.Embedding(2, 3), nn.Embedding(3, 3)
    >>> grow(large, small, 2, 3)
    ('weight',)
    >>> bool((large.weight[:2] == small.weight).all()), bool(torch.allclose(large.weight[2], small.weight.mean(0)))
    (True, True)
    """
    grown, ours = [], module.state_dict()
    for name, value in base.state_dict().items():
        if name not in ours or ours[name].ndim != value.ndim:
            continue
        axes = [d for d in range(value.ndim) if ours[name].shape[d] != value.shape[d]]
        if len(axes) == 1 and (value.shape[axes[0]], ours[name].shape[axes[0]]) == (old, new):
            ours[name].narrow(axes[0], 0, old).copy_(value)
            ours[name].narrow(axes[0], old, new - old).copy_(value.mean(axes[0], keepdim=True))
            grown.append(name)
    theirs = dict(base.named_modules())
    for name, groups in module.named_modules():
        old_groups = theirs.get(name)
        if not isinstance(groups, Groups) or not isinstance(old_groups, Groups) or groups.count != old_groups.count:
            continue
        if len(groups.share) > len(old_groups.share):
            groups.widen(old_groups)
            grown.append(f"{name}.share")
    return tuple(grown)
