"""What the two players of a GAN are scored by: four contests and two kinds of gradient penalty.

With r = D(x, c) the score of a real item and f = D(G(z, c), c) that of one forged for the same condition:

    contest            critic                            generator            source
    relativistic       softplus(f - r)                   softplus(r - f)      Huang et al. 2024, arXiv:2501.05441, eq. 2
    non_saturating     softplus(-r) + softplus(f)        softplus(-f)         Goodfellow et al. 2014, arXiv:1406.2661,
                                                                              eq. 1 and the end of section 3
    wasserstein        f - r                             -f                   Gulrajani et al. 2017, arXiv:1704.00028,
                                                                              eq. 3
    hinge              max(0, 1 - r) + max(0, 1 + f)     -f                   Miyato et al. 2018, arXiv:1802.05957,
                                                                              eq. 16 and 17

softplus(-r) is -log sigmoid(r), so the second line is the classic game with D as a logit. All of it is row by row:
each real item is set against the one forged for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

__all__ = ["CONTESTS", "Contest", "Loss", "far_from_one", "steepness"]

Loss = Literal["relativistic", "non_saturating", "wasserstein", "hinge"]

Score = Callable[[Tensor], Tensor]  # items (B, *event) to their scores (B,); rows do not mix


@dataclass(frozen=True)
class Contest:
    """One way to score the players.

    critic: (r, f) -> (B,), what the critic wants small. generator: likewise; it reads r only where `paired`.
    gamma: weight of the gradient penalty unless the user sets one. spectral: is the critic normalised by default?
    between: is the penalty taken between real and forged items (a slope of 1 is wanted there) instead of at both?
    critic_steps: moves of the critic for each of the generator. rate, betas: of Adam for pictures, where the source
        has other ones than the relativistic contest.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool = False
    gamma: float = 0.0
    spectral: bool = False
    between: bool = False
    critic_steps: int = 1
    rate: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.99)
    formula: str = ""
    source: str = ""


CONTESTS: dict[str, Contest] = {
    "relativistic": Contest(
        lambda r, f: softplus(f - r),
        lambda r, f: softplus(r - f),
        paired=True,
        gamma=1.0,
        formula="softplus(D(fake) - D(real))",
        source="Huang et al. 2024, https://arxiv.org/abs/2501.05441, eq. 2",
    ),
    "non_saturating": Contest(
        lambda r, f: softplus(-r) + softplus(f),
        lambda r, f: softplus(-f),
        gamma=0.1,  # not in the paper: the bare game, gamma 0, need not settle (Mescheder et al. 2018, section 3)
        rate=3e-4,
        betas=(0.5, 0.99),
        formula="softplus(-D(real)) + softplus(D(fake))",
        source="Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, eq. 1",
    ),
    "wasserstein": Contest(
        lambda r, f: f - r,
        lambda r, f: -f,
        gamma=10.0,
        between=True,
        critic_steps=5,
        rate=3e-4,
        betas=(0.0, 0.9),
        formula="D(fake) - D(real)",
        source="Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028, eq. 3",
    ),
    "hinge": Contest(
        lambda r, f: relu(1 - r) + relu(1 + f),
        lambda r, f: -f,
        spectral=True,
        rate=3e-4,
        betas=(0.0, 0.9),
        formula="max(0, 1 - D(real)) + max(0, 1 + D(fake))",
        source="Miyato et al. 2018, https://arxiv.org/abs/1802.05957, eq. 16",
    ),
}
assert set(CONTESTS) == set(get_args(Loss))


def steepness(critic: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B,) of items x (B, *event), and |grad D(x)|^2 (B,), which both stay differentiable.

    Half of it, times gamma, is R1 at real items and R2 at forged ones (Mescheder et al. 2018, arXiv:1801.04406, eq. 9;
    Huang et al. 2024, eq. 3 and 4). Rows do not mix in D, so the gradient of the sum holds each row's own.

    >>> scores, slopes = steepness(lambda x: 3 * x.sum(-1), torch.ones(2, 4))
    >>> scores.tolist(), slopes.tolist()
    ([12.0, 12.0], [36.0, 36.0])
    """
    gradient, scores = torch.func.grad(lambda at: _twice(_wide(critic(at))), has_aux=True)(x)
    return scores, _wide(gradient).flatten(1).square().sum(-1)


def far_from_one(critic: Score, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """(B,) (|grad D(y)| - 1)^2 at y = share * real + (1 - share) * fake, share (B,): the second term of WGAN-GP.

    >>> far_from_one(lambda x: 3 * x[:, 0], torch.ones(2, 4), torch.zeros(2, 4), torch.tensor([0.2, 0.7])).tolist()
    [4.0, 4.0]
    """
    share = share.reshape(-1, *[1] * (real.ndim - 1)).to(real)
    slopes = steepness(critic, torch.lerp(fake.to(real), real, share))[1]  # forged items may come in bfloat16
    # the root of zero has no slope, and a critic that begins as a constant has a gradient of zero
    return ((slopes + 1e-12).sqrt() - 1).square()


def _twice(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.sum(), scores


def _wide(x: Tensor) -> Tensor:
    """Float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
