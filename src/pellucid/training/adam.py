"""AdamW by torch's fused kernel, with less around the kernel: on tiny networks that is most of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Adam"]


class Adam(torch.optim.AdamW):
    """torch.optim.AdamW(fused=True), to the bit; on plain CPU tensors without its hooks, copies and checks.

    Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. Where a parameter is no plain CPU tensor, has no
    gradient or no state yet, torch's own step is taken.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)
        self._lists: list[tuple[Any, ...]] = []
        self._made_of: list[int] = []

    @torch.no_grad()
    def move(self) -> None:
        """`step` without the hooks that torch puts around every method of that name."""
        known = bool(self._lists) and [id(s) for s in self.state.values()] == self._made_of
        if not known and not self._collect():
            self.step()
            return
        gradients = [[p.grad for p in lists[1]] for lists in self._lists]
        if any(type(g) is not Tensor for some in gradients for g in some):
            self.step()
            return
        for (group, parameters, first, second, steps), own in zip(self._lists, gradients, strict=True):
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters,
                own,
                first,
                second,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _collect(self) -> bool:
        """List what the kernel takes; False while some parameter has no state or is no plain CPU tensor."""
        self._lists, self._made_of = [], []
        for group in self.param_groups:
            own = [self.state.get(p) for p in group["params"]]
            plain = all(type(p) is torch.nn.Parameter and p.device.type == "cpu" for p in group["params"])
            if not plain or not all(own):
                self._lists = []
                return False
            slots = [[s[name] for s in own if s] for name in ("exp_avg", "exp_avg_sq", "step")]
            self._lists.append((group, group["params"], *slots))
        self._made_of = [id(s) for s in self.state.values()]
        return True
