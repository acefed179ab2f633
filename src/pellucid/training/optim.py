"""Optimizers: Adam, SGD with momentum, or Muon, all with decoupled weight decay that touches matrices alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pellucid.core.capabilities import Training, Turn
from pellucid.core.errors import BadInput
from pellucid.training.adam import Adam
from pellucid.training.muon import Muon, is_matrix

__all__ = ["clip", "gradient_norm", "optimizer_for", "update"]


def optimizer_for(turn: Turn, parameters: Mapping[str, nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """The optimizer of one turn.

    Adam is Loshchilov and Hutter's AdamW (arXiv:1711.05101, algorithm 2) in torch's fused form, SGD their SGDW
    (algorithm 1): `update` decays its weights, since torch's own SGD would mix the decay into the momentum.

    Args:
        parameters: the turn's parameters by name. Vectors (biases, norms) are not decayed: the pull towards 0 is
            meant for the matrices that multiply data.
    """
    matrices = [p for p in parameters.values() if p.ndim >= 2 or not settings.weight_decay]
    others = [p for p in parameters.values() if p.ndim < 2 and settings.weight_decay]
    groups = [{"params": p, "decay": d} for p, d in ((matrices, settings.weight_decay), (others, 0.0)) if p]
    rate = settings.rate * turn.rate
    if settings.optimizer == "adam":
        adam = [{"params": g["params"], "weight_decay": g["decay"]} for g in groups]
        return Adam(adam, lr=rate, betas=turn.betas or settings.betas)
    if settings.optimizer == "muon":
        tables = {id(p) for p in turn.tables}
        return Muon(
            [p for p in parameters.values() if is_matrix(p) and id(p) not in tables],
            [p for p in parameters.values() if not is_matrix(p) or id(p) in tables],
            lr=rate,
            ratio=settings.matrix_rate / settings.rate,
            betas=turn.betas or settings.betas,
            decay=settings.weight_decay,
        )
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, foreach=True)
    raise BadInput(f"optimizer is '{settings.optimizer}'", accepted="adam, sgd, muon")


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Move the parameters by their gradients, at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if group.get("decay"):
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1.0 - rate * group["decay"])
    if isinstance(optimizer, Adam):
        optimizer.move()
    else:
        optimizer.step()


def gradient_norm(parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """() Euclidean norm over all gradients there are."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    if gradients and all(type(g) is Tensor and g.device.type == "cpu" for g in gradients):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # the same, less around it
    norm = get_total_norm(gradients, foreach=True)
    # over sharded parameters each process knows a part of it
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def clip(parameters: Mapping[str, nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale all gradients together so that their norm is at most `largest` (Pascanu et al. 2013, algorithm 1)."""
    clip_grads_with_norm_(parameters.values(), largest, norm, foreach=True)
