"""Gaussian classes moved by a shift: a denoiser in closed form, with either condition given or left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Denoises, How, Samples, expand_like
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Trace
from pellucid.solvers.guidance import guided
from pellucid.solvers.heun import heun

__all__ = ["GaussianClasses", "Walk"]


@dataclass(frozen=True, kw_only=True)
class Walk(How):
    steps: int = 40
    guidance: float = 1.0


class GaussianClasses(nn.Module, Denoises, Samples):
    """x | class k, shift c ~ N(mean_k + c, s^2 I); the K classes are equally likely and c ~ N(0, t^2 I)."""

    def __init__(self, means: Tensor, s: float = 0.4, t: float = 0.8) -> None:
        super().__init__()
        self.means, self.s, self.t = nn.Buffer(means), s, t
        self.conditions: dict[str, Space] = {"class": Tokens(len(means), 1), "shift": Real(tuple(means.shape[1:]))}

    def mixture(self, condition: Condition, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """log weights (B, K), centres (B, K, D) and variance (B,) of x given what is given in each row."""
        known = condition if condition else Condition.blank(self.conditions, rows)
        k, c = known.values["class"][:, 0], known.values["shift"].to(self.means)
        uniform = torch.full((rows, len(self.means)), -math.log(len(self.means)), dtype=self.means.dtype)
        one = nn.functional.one_hot(k, len(self.means)).to(uniform).log()
        log_weight = torch.where(known.given["class"][:, None], one, uniform)
        centres = self.means + torch.where(known.given["shift"][:, None], c, 0.0)[:, None]
        return log_weight, centres, self.s**2 + torch.where(known.given["shift"], 0.0, self.t**2).to(uniform)

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        log_weight, centres, variance = self.mixture(condition, len(x_t))
        total = variance + sigma**2
        closeness = log_weight - (x_t[:, None] - centres).square().sum(-1) / (2 * total[:, None])
        centre = (closeness.softmax(-1)[..., None] * centres).sum(1)  # (B, D)
        return (expand_like(sigma**2, x_t) * centre + expand_like(variance, x_t) * x_t) / expand_like(total, x_t)

    def sigmas(self, how: How) -> Tensor:
        assert isinstance(how, Walk)
        return torch.cat((torch.logspace(1.0, -2.0, how.steps), torch.zeros(1)))

    def settings(self) -> Walk:
        return Walk()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        assert isinstance(how, Walk)
        noise = rows.fork("start").normal(self.means.shape[1], dtype=self.means.dtype)
        start, denoise = 10.0 * noise, guided(self, condition, how.guidance)
        return heun(denoise, start, self.sigmas(how), rows, trace)
