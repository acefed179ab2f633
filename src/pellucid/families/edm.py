"""EDM: diffusion with the network's inputs, outputs and loss scaled so that each is of unit size at every noise level.

Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364. Letters as
in its table 1: P_mean and P_std of the training noise, sigma_data, rho of the sampling levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, Part, expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.families.denoising import DenoisingEngine, DenoisingFamily, DiffusionHow
from pellucid.nets.choose import Factory

__all__ = ["EDM", "EDMEngine"]


@dataclass(frozen=True, kw_only=True)
class EDM(DenoisingFamily):
    """Diffusion as Karras et al. set it up, for pictures and for rows of numbers.

    Settings: those of `DenoisingFamily`, without groups unless asked for, as in the paper, and:

    P_mean, P_std: ln(sigma / sigma_data) of training noise is normal with this mean and spread.
    sigma_min, sigma_max: ends of the noise when sampling, in units of sigma_data. rho: more of it, more steps at
    low noise.
    """

    name: ClassVar[str] = "edm"
    title: ClassVar[str] = "EDM diffusion"

    groups: int | None = 0
    P_mean: float = -0.5
    P_std: float = 1.2
    sigma_min: float = 0.004
    sigma_max: float = 160.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.P_mean):
            raise BadInput(f"P_mean is {self.P_mean}", accepted="a finite number")
        if not (0.0 < self.P_std < math.inf and 0.0 < self.rho < math.inf):
            raise BadInput(f"P_std is {self.P_std}, rho {self.rho}", accepted="more than 0")
        if not 0.0 < self.sigma_min < self.sigma_max < float("inf"):
            raise BadInput(f"sigma_min is {self.sigma_min}, sigma_max {self.sigma_max}", accepted="0 < min < max")

    def parts(self) -> tuple[Part, ...]:
        return (
            Part(
                "forward process",
                "Noise is added to a real item until nothing of the item can be seen; nothing is learned here.",
                "x_t = data + sigma * noise,   sigma from 0 to sigma_max",
                "Karras et al. 2022, arXiv:2206.00364, eq. 1 with sigma(t) = t",
            ),
            Part(
                "reverse process",
                "A sample starts as pure noise and moves, level by level, towards what the network believes is "
                "underneath; early steps settle the large forms, late steps the details.",
                "dx / dsigma = (x - D(x; sigma)) / sigma",
                "Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3, algorithm 1",
            ),
            Part(
                "network",
                "At little noise the network corrects the noisy item, at much noise it guesses the item; what it sees "
                "and what it answers is always of the same size.",
                "D(x; sigma) = c_skip(sigma) x + c_out(sigma) network(c_in(sigma) x; c_noise(sigma))",
                "Karras et al. 2022, arXiv:2206.00364, eq. 7 and table 1",
            ),
            Part(
                "loss",
                "The guess is compared with the true item and the squared mistake made smaller, weighed so that every "
                "noise level counts the same at the start.",
                "lambda(sigma) |D(data + sigma * noise; sigma) - data|^2,   ln(sigma / s) ~ N(P_mean, P_std^2)",
                "Karras et al. 2022, arXiv:2206.00364, eq. 8 and table 1",
            ),
            self.from_data(),
        )


class EDMEngine(DenoisingEngine):
    """The preconditioned denoiser; `sigma_data` is measured on the first rows.

    Args:
        family: settings. space: Real. conditions: name -> space.
        make: builds the network from a `Wanted`, for a net of your own.
    """

    mean: Tensor
    sigma_data: Tensor

    def __init__(self, family: EDM, space: Real, conditions: Mapping[str, Space], make: Factory | None = None) -> None:
        super().__init__(family, space, conditions, make)
        self.family = family
        self.register_buffer("mean", torch.zeros(()))  # the paper's data is centred; other data is centred here
        self.register_buffer("sigma_data", torch.ones(()))

    @property
    def centre(self) -> Tensor:  # type: ignore[override]
        return self.mean

    @property
    def highest(self) -> float:  # type: ignore[override]
        return self.family.sigma_max * float(self.sigma_data)

    @property
    def lowest(self) -> float:  # type: ignore[override]
        return self.family.sigma_min * float(self.sigma_data)

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        x = self.guard(batch.x)
        self.mean.copy_(x.mean())
        self.sigma_data.copy_(x.std(correction=0).clamp_min(1e-6))

    def network_at(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """F(c_in x; c_noise), c_skip and c_out, for x (B, *event) around the data's mean and sigma (B,).

        c_skip = s^2 / (sigma^2 + s^2),   c_out = sigma s / sqrt(sigma^2 + s^2),   c_in = 1 / sqrt(sigma^2 + s^2),
        c_noise = ln(sigma) / 4,   s = sigma_data                                  arXiv:2206.00364, table 1
        """
        s = self.sigma_data.to(x.dtype)
        total = (sigma.square() + s.square()).sqrt()
        c_noise = (sigma / s).clamp_min(1e-6).log() / 4
        out = self.network(x / expand_like(total, x), c_noise, condition)
        return out, expand_like((s / total).square(), x), expand_like(sigma * s / total, x)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) mean over numbers of lambda(sigma) |D - data|^2, which is |F - target|^2 of eq. 8."""
        x = self.guard(batch.x)
        told = self.told(x, batch.condition, rows.fork("drop"))
        x = x - self.mean
        log = self.family.P_mean + self.family.P_std * rows.fork("level").normal(dtype=x.dtype)
        sigma = log.exp() * self.sigma_data.to(x.dtype)
        noisy = x + expand_like(sigma, x) * rows.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        out, c_skip, c_out = self.network_at(noisy, sigma, told)
        return (out - (x - c_skip * noisy) / c_out).square().flatten(1).mean(dim=1)

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """D(x; sigma) of eq. 7, for x_t = data + sigma * noise."""
        x = x_t - self.mean.to(x_t.dtype)
        out, c_skip, c_out = self.network_at(x, sigma.to(x_t.dtype), condition)
        return c_skip * x + c_out * out + self.mean.to(x_t.dtype)

    def settings(self) -> DiffusionHow:
        """As for all denoisers, without a shift: rho spreads the levels."""
        own = super().settings()
        return DiffusionHow(solver="heun" if not self.picture else "euler", guidance=own.guidance)

    def sigmas(self, how: How) -> Tensor:
        """(K + 1,) sigma_i = (sigma_max^(1/rho) + i / (K - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0.

        arXiv:2206.00364, eq. 5. A shift above 1 moves the levels to more noise.
        """
        how = self.own(how)
        ramp = torch.linspace(0.0, 1.0, how.steps, dtype=torch.float64) if how.steps > 1 else torch.zeros(1).double()
        ramp = ramp / (how.shift + (1 - how.shift) * ramp)
        high, low = self.highest ** (1 / self.family.rho), self.lowest ** (1 / self.family.rho)
        return torch.cat(((high + ramp * (low - high)) ** self.family.rho, torch.zeros(1, dtype=torch.float64)))


EDM.engine = EDMEngine
