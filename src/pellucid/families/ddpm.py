"""DDPM: the diffusion of Ho et al. in T discrete steps, with the noise schedules and answers that followed it.

Ho et al. 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239. Letters as there: beta_t the noise of a
step, alpha_t = 1 - beta_t, alpha_bar_t their product, x_t = sqrt(alpha_bar_t) data + sqrt(1 - alpha_bar_t) noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, Part, expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.families.denoising import DenoisingEngine, DenoisingFamily, DiffusionHow
from pellucid.nets.choose import Factory

__all__ = ["DDPM", "DDPMEngine", "alpha_bars"]

MOST_LEFT = 0.01  # of an item after the last step, as alpha_bar
SIGMA_MAX = 80.0  # levels above are not sampled from: nothing of unit-size data is left there

Schedule = Literal["linear", "cosine", "custom"]
Answer = Literal["noise", "data", "v"]


@dataclass(frozen=True, kw_only=True)
class DDPM(DenoisingFamily):
    """Diffusion in T steps, for pictures and for rows of numbers.

    Settings: those of `DenoisingFamily`, without groups unless asked for, as in the paper, and:

    T: steps of the forward process. schedule: linear (Ho et al.), cosine (Nichol and Dhariwal), or custom.
    alpha_bar: for custom, values of alpha_bar at evenly spaced times from 1 to T, strictly falling within (0, 1).
    predicts: what the network answers: the noise, the data, or v.
    min_snr: cap of the signal-to-noise ratio in the loss's weight; None weighs all steps as the paper does.
    """

    name: ClassVar[str] = "ddpm"
    title: ClassVar[str] = "denoising diffusion (DDPM)"

    groups: int | None = 0
    T: int = 1000
    schedule: Schedule = "cosine"
    alpha_bar: tuple[float, ...] = ()
    predicts: Answer = "v"
    min_snr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.T <= 100_000:
            raise BadInput(f"T is {self.T}", accepted="from 2 to 100,000")
        for name, options in {"schedule": Schedule, "predicts": Answer}.items():
            if getattr(self, name) not in get_args(options):
                raise BadInput(f"{name} is {getattr(self, name)!r}", accepted=", ".join(get_args(options)))
        if (self.schedule == "custom") != bool(self.alpha_bar):
            raise BadInput(
                f"schedule is {self.schedule} with {len(self.alpha_bar)} values of alpha_bar",
                accepted="values for custom, none for the others",
            )
        falling = all(a > b for a, b in itertools.pairwise(self.alpha_bar))
        if self.alpha_bar and (
            len(self.alpha_bar) < 2 or not falling or not 0.0 < self.alpha_bar[-1] < self.alpha_bar[0] < 1.0
        ):
            raise BadInput(
                f"alpha_bar is {self.alpha_bar[:6]}",
                accepted="two values or more, strictly falling, between 0 and 1",
                why="it is the share of an item that is left, which noise can only make less",
            )
        if self.alpha_bar and self.alpha_bar[-1] > MOST_LEFT:
            raise BadInput(
                f"the last alpha_bar is {self.alpha_bar[-1]}",
                accepted=f"{MOST_LEFT} at most",
                why="samples start from noise alone, so the last step must leave next to nothing of an item",
            )
        if self.min_snr is not None and not 0.0 < self.min_snr < math.inf:
            raise BadInput(f"min_snr is {self.min_snr}", accepted="None, or more than 0; the paper takes 5")

    def parts(self) -> tuple[Part, ...]:
        answers = {
            "noise": ("the noise in it", "eps", "Ho et al. 2020, arXiv:2006.11239, eq. 14"),
            "data": ("the clean item under it", "data", "Salimans and Ho 2022, arXiv:2202.00512, section 4"),
            "v": (
                "a mix of noise and item that is equally hard at every step",
                "v = sqrt(ab_t) noise - sqrt(1 - ab_t) data",
                "Salimans and Ho 2022, arXiv:2202.00512, section 4",
            ),
        }
        plain, letter, source = answers[self.predicts]
        weight = "" if self.min_snr is None else f"min(SNR_t, {self.min_snr:g}) * "
        return (
            Part(
                "forward process",
                f"In {self.T:,} small steps noise takes the place of a real item until nothing of it is left; "
                "nothing is learned here.",
                "q(x_t | data) = N(sqrt(ab_t) data, (1 - ab_t) I),   ab_t = prod (1 - beta_s)",
                "Ho et al. 2020, arXiv:2006.11239, eq. 4"
                + (
                    "; cosine schedule: Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17"
                    * (self.schedule == "cosine")
                ),
            ),
            Part(
                "reverse process",
                "A sample starts as pure noise and goes back, some of the steps at a time, towards what the network "
                "believes is underneath.",
                "p(x_{t-1} | x_t) = N(mu(x_t, t), sigma_t^2 I)",
                "Ho et al. 2020, arXiv:2006.11239, eq. 1; fewer steps: Song et al. 2021, arXiv:2010.02502, eq. 12",
            ),
            Part("network", f"The network looks at a noisy item and the step and answers {plain}.", letter, source),
            Part(
                "loss",
                "The answer is compared with the truth, and the squared mistake is made smaller, item by item.",
                f"{weight}| network(x_t, t) - {letter.split(' ')[0]} |^2,   t even from 1 to {self.T:,}",
                "Ho et al. 2020, arXiv:2006.11239, eq. 14"
                + ("" if self.min_snr is None else "; weights: Hang et al. 2023, arXiv:2303.09556, eq. 6 to 8"),
            ),
            self.from_data(),
        )


def alpha_bars(schedule: Schedule, T: int, custom: tuple[float, ...] = ()) -> Tensor:
    """(T,) alpha_bar at t = 1 to T, in float64, strictly falling.

    linear: beta from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T       Ho et al. 2020, arXiv:2006.11239, section 4
    cosine: f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), s = 0.008, beta at most 0.999
                                                            Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17
    custom: the given values at evenly spaced t, and between them straight in log SNR.

    >>> [round(float(a), 4) for a in alpha_bars("linear", 1000)[[0, 499, 999]]]
    [0.9999, 0.0786, 0.0]
    """
    t = torch.arange(1, T + 1, dtype=torch.float64)
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
        return (1 - beta.clamp_max(0.999)).cumprod(0)
    if schedule == "cosine":
        f = ((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * torch.pi / 2).cos().square()
        return (f[1:] / f[:-1]).clamp_min(1 - 0.999).cumprod(0)
    given = torch.tensor(custom, dtype=torch.float64).logit()
    place = (t - 1) / max(1, T - 1) * (len(custom) - 1)
    left = place.floor().long().clamp_max(len(custom) - 2)
    return torch.lerp(given[left], given[left + 1], place - left).sigmoid()


class DDPMEngine(DenoisingEngine):
    """The network of DDPM; noise levels between its T steps are met by interpolating t.

    Args:
        family: settings. space: Real. conditions: name -> space.
        make: builds the network from a `Wanted`, for a net of your own.
    """

    mean: Tensor
    scale: Tensor
    alpha_bar: Tensor
    log_sigma: Tensor

    def __init__(self, family: DDPM, space: Real, conditions: Mapping[str, Space], make: Factory | None = None) -> None:
        super().__init__(family, space, conditions, make)
        self.family = family
        self.register_buffer("mean", torch.zeros(()))  # the paper's data lies around 0 with a spread near 1;
        self.register_buffer("scale", torch.ones(()))  # other data is brought there
        ab = alpha_bars(family.schedule, family.T, family.alpha_bar)
        self.register_buffer("alpha_bar", ab, persistent=False)
        self.register_buffer("log_sigma", 0.5 * ((1 - ab) / ab).log(), persistent=False)  # (T,) rising

    @property
    def centre(self) -> Tensor:  # type: ignore[override]
        return self.mean

    @property
    def highest(self) -> float:  # type: ignore[override]
        return min(SIGMA_MAX, float(self.log_sigma[-1].exp())) * float(self.scale)

    @property
    def lowest(self) -> float:  # type: ignore[override]
        return float(self.log_sigma[0].exp() * self.scale)

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        x = self.guard(batch.x)
        self.mean.copy_(x.mean())
        self.scale.copy_(x.std(correction=0).clamp_min(1e-6))

    def answer(self, x_t: Tensor, alpha_bar: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's answer for x_t (B, *event) = sqrt(ab) data + sqrt(1 - ab) noise at t (B,) in [1, T]."""
        out: Tensor = self.network(x_t, t / self.family.T, condition)
        return out

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) mean over numbers of the squared mistake of the answer, weighted by min-SNR if asked for.

        min-SNR weights, on the answer's own scale: min(SNR, g) / SNR for noise, min(SNR, g) for data,
        min(SNR, g) / (SNR + 1) for v                        Hang et al. 2023, arXiv:2303.09556, eq. 6 to 8
        """
        x = self.guard(batch.x)
        told = self.told(x, batch.condition, rows.fork("drop"))
        x = (x - self.mean) / self.scale
        t = rows.fork("step").integers(self.family.T)
        ab = self.alpha_bar[t].to(x.dtype)
        signal, noisiness = expand_like(ab.sqrt(), x), expand_like((1 - ab).sqrt(), x)
        noise = rows.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        out = self.answer(signal * x + noisiness * noise, ab, (t + 1).to(x.dtype), told)
        right = {"noise": noise, "data": x, "v": signal * noise - noisiness * x}[self.family.predicts]
        mistake = (out - right).square().flatten(1).mean(dim=1)
        if self.family.min_snr is None:
            return mistake
        snr = ab / (1 - ab)
        capped = snr.clamp_max(self.family.min_snr)
        return mistake * {"noise": capped / snr, "data": capped, "v": capped / (snr + 1)}[self.family.predicts]

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[data | x_t] for x_t = data + sigma * noise: alpha_bar = 1 / (1 + sigma^2) once data has unit scale.

        Levels below those of t = 1 are answered as t = 1, above t = T as T, with their own alpha_bar.
        """
        s = sigma.to(torch.float64) / self.scale
        where = s.clamp_min(1e-12).log()
        levels = self.log_sigma.to(torch.float64)  # an engine that was cast has them in fewer digits
        right = torch.searchsorted(levels, where).clamp(1, self.family.T - 1)
        low, high = levels[right - 1], levels[right]
        t = (right + ((where - low) / (high - low)).clamp(0.0, 1.0)).to(x_t.dtype)
        ab = (1 / (1 + s.square())).to(x_t.dtype)
        signal, noisiness = expand_like(ab.sqrt(), x_t), expand_like((1 - ab).sqrt(), x_t)
        x = (x_t - self.mean) / self.scale * signal
        out = self.answer(x, ab, t, condition)
        if self.family.predicts == "noise":
            data = (x - noisiness * out) / signal
        else:
            data = out if self.family.predicts == "data" else signal * x - noisiness * out
        return data * self.scale + self.mean

    def settings(self) -> DiffusionHow:
        """As for all denoisers, without a shift: the schedule spreads the levels."""
        return DiffusionHow(guidance=super().settings().guidance)

    def sigmas(self, how: How) -> Tensor:
        """(K + 1,) the levels of t = T, T - T / K, ... down to T / K, evenly taken as DDIM does, then 0.

        A shift above 1 moves the levels to more noise. Schedules that end beyond SIGMA_MAX are entered there.
        """
        how = self.own(how)
        u = torch.linspace(1.0, 0.0, how.steps + 1, dtype=torch.float64)[:-1]
        u = how.shift * u / (1 + (how.shift - 1) * u)
        log_sigma = self.log_sigma.cpu().to(torch.float64)
        log_sigma = log_sigma[: max(2, int((log_sigma <= math.log(SIGMA_MAX)).sum()))]
        place = u * (len(log_sigma) - 1)
        left = place.floor().long().clamp_max(len(log_sigma) - 2)
        levels = torch.lerp(log_sigma[left], log_sigma[left + 1], place - left).exp() * float(self.scale)
        return torch.cat((levels, torch.zeros(1, dtype=torch.float64)))


DDPM.engine = DDPMEngine
