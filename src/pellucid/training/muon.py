"""Muon: matrices move by their momentum with all its directions made equally long; everything else moves by AdamW.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.errors import BadInput
from pellucid.training.adam import Adam

__all__ = ["Muon", "is_matrix", "orthogonalised"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings singular values near 1 soonest, ibid.
ROUNDS = 5


def is_matrix(p: Tensor) -> bool:
    """Has it two sides, once a convolution's kernel is flattened to (out, in * height * width)?"""
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 1


@torch.no_grad()
def orthogonalised(matrices: Tensor) -> Tensor:
    """(K, m, n) to matrices of the same singular vectors with singular values near 1, by Newton and Schulz's iteration.

    X <- a X + (b A + c A^2) X,   A = X X'

    In bfloat16, which is exact enough here: values between about 0.7 and 1.2 serve as well as 1.

    >>> u = orthogonalised(torch.tensor([[[3.0, 0.0], [0.0, 0.01]]]))
    >>> bool((u[0].diagonal() > 0.5).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # laid out row by row: products of transposed views take half as long again
    x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16().contiguous()
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices, AdamW in torch's fused form for all other parameters.

    The source gives embeddings, first and last layers to AdamW too. Here they are moved as matrices: a parameter does
    not say which layer it belongs to, and on pictures the figures were measured this way.

    Args:
        matrices, others: parameters. lr: AdamW's rate; the matrices' rate is `lr * ratio`.
        momentum: of the matrices, with Nesterov's look ahead. betas: AdamW's. decay: of the matrices' weights,
            decoupled from the gradient.

    Raises BadInput for parameters sharded over processes, since an update needs whole matrices.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        lr: float,
        ratio: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        decay: float = 0.0,
    ) -> None:
        if any(hasattr(p, "full_tensor") for p in matrices):
            raise BadInput(
                "the optimizer is muon and the model is sharded over processes",
                accepted="adam, sgd",
                why="Muon needs whole matrices.",
            )
        groups: list[dict[str, Any]] = []
        if matrices:
            groups.append({"params": list(matrices), "matrices": True, "shrink": decay})
        if others:
            groups.append({"params": list(others), "matrices": False, "shrink": 0.0})
        super().__init__(groups, {"lr": lr})
        self.ratio, self.momentum = ratio, momentum
        self._adam = Adam(list(others), lr=lr, betas=betas, weight_decay=0.0) if others else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            if group["matrices"]:
                self._move(group)
            elif self._adam is not None:
                self._adam.state = self.state  # one state for both, so that a checkpoint finds all of it here
                for own in self._adam.param_groups:
                    own["lr"] = group["lr"]
                self._adam.move()

    def _move(self, group: dict[str, Any]) -> None:
        """p <- p - rate * sqrt(max(1, m / n)) * orthogonalised(g + momentum * buffer), alike shapes together."""
        alike: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in group["params"]:
            if p.grad is not None:
                alike.setdefault((p.shape[0], p[0].numel()), []).append(p)
        for (m, n), some in alike.items():
            ahead = []
            for p in some:
                own = self.state[p]
                if "momentum_buffer" not in own:
                    own["momentum_buffer"] = torch.zeros_like(p)
                buffer = own["momentum_buffer"]
                buffer.lerp_(p.grad, 1 - self.momentum)
                ahead.append(torch.lerp(p.grad, buffer, self.momentum).reshape(m, n))  # type: ignore[arg-type]
            rate = group["lr"] * self.ratio
            moves = orthogonalised(torch.stack(ahead)) * (rate * math.sqrt(max(1.0, m / n)))
            for p, move in zip(some, moves, strict=True):
                if group["shrink"]:
                    p.mul_(1 - rate * group["shrink"])
                p.sub_(move.reshape(p.shape))
