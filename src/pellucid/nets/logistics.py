"""A mixture of logistics over one number, as a network says it: K weights, K centres and K scales.

    p(x) = sum_k pi_k logistic(x; mu_k, s_k)                                           over continuous numbers
    P(x) = sum_k pi_k [sigmoid((x + d/2 - mu_k) / s_k) - sigmoid((x - d/2 - mu_k) / s_k)]    over levels d apart,
                                        Salimans et al. 2017 (PixelCNN++), https://arxiv.org/abs/1701.05517, eq. 2

where the cells of the outermost levels reach to infinity. What the network says are 3 K numbers: logits of the weights,
centres, logarithms of the scales.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["first_answer", "level_masses", "log_density", "log_mass", "number"]

NARROWEST, WIDEST = -7.0, 7.0  # logarithms of a scale: a density on constant numbers would grow without end


def first_answer(components: int, log_scale: float) -> Tensor:
    """(3 K,) to begin with: even weights, one scale, centres side by side, as alike they would stay alike."""
    beside = (2 * torch.arange(components) + 1 - components) / components
    return torch.cat((torch.zeros(components), beside, torch.full((components,), log_scale)))


def log_density(said: Tensor, x: Tensor) -> Tensor:
    """(...,) log p(x) for said (..., 3 K) and continuous x (...,).

    >>> round(float(log_density(torch.zeros(3), torch.zeros(()))), 4)  # a standard logistic has 1/4 at its middle
    -1.3863
    """
    weight, mu, log_s = _parts(said)
    z = (x[..., None] - mu) / log_s.exp()
    each = logsigmoid(z) + logsigmoid(-z) - log_s
    return (each + weight.log_softmax(-1)).logsumexp(-1)


def log_mass(said: Tensor, x: Tensor, cell: float) -> Tensor:
    """(...,) log P(x) for said (..., 3 K) and x (...,) on levels from -1 to 1, `cell` apart."""
    weight, mu, log_s = _parts(said)
    x, s = x[..., None], log_s.exp()
    above, below = (x + cell / 2 - mu) / s, (x - cell / 2 - mu) / s
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which never cancels
    inside = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1(-cell / s))
    edge = cell / 4
    each = torch.where(x < -1 + edge, logsigmoid(above), torch.where(x > 1 - edge, logsigmoid(-below), inside))
    return (each + weight.log_softmax(-1)).logsumexp(-1)


def level_masses(said: Tensor, levels: int) -> Tensor:
    """(..., levels) log P of every level, for said (..., 3 K)."""
    x = torch.linspace(-1.0, 1.0, levels, dtype=said.dtype, device=said.device)
    return log_mass(said[..., None, :], x.expand(*said.shape[:-1], levels), 2.0 / (levels - 1))


def number(said: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """(B,) one number a row, by inverting the distribution function.

    Args:
        said: (B, 3 K). u: (B, 2) uniform in (0, 1): which logistic, and where in it.
        temperature: 1 is the mixture itself; below 1 likelier logistics become likelier still and all narrower, 0 takes
            the centre of the likeliest.
    """
    weight, mu, log_s = _parts(said)
    if temperature == 0.0:
        return mu.gather(1, weight.argmax(-1, keepdim=True))[:, 0]
    upto = (weight / temperature).softmax(-1).cumsum(-1)
    picked = (upto <= u[:, :1] * upto[:, -1:]).sum(-1, keepdim=True)
    mu, s = mu.gather(1, picked)[:, 0], log_s.gather(1, picked)[:, 0].exp()
    return mu + temperature * s * u[:, 1].logit().to(mu)


def _parts(said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the weights, centres and logarithms of the scales, (..., K) each."""
    weight, mu, log_s = said.chunk(3, dim=-1)
    return weight, mu, log_s.clamp(NARROWEST, WIDEST)
