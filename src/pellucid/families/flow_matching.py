"""Diffusion by flow matching: a network learns the direction from noise to data, and samples follow it.

A training item is mixed with noise at a random time t, x_t = (1 - t) * noise + t * data, and the network guesses the
velocity data - noise of that straight line. Following the guessed velocity from pure noise (t = 0) to t = 1 draws a
new item. Lipman et al. 2023, arXiv:2210.02747.

What is around it, each with its source in place: times drawn logit-normal, the closed-form answer for Gaussian data
as a start (`nets/gaussian.py`), forgetting the condition now and then for guidance, and a guard band for pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, Part, Training, expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space
from pellucid.families.denoising import DenoisingEngine, DenoisingFamily, DiffusionHow
from pellucid.nets.choose import Factory, is_picture
from pellucid.nets.gaussian import GaussianGuess

__all__ = ["FlowMatching", "FlowMatchingEngine", "mix"]

Times = Literal["logit_normal", "uniform", "mode"]
LARGEST_MODE = 1.75  # beyond, two times would share one place and the density of mode sampling be none
MOST_FEW = 8  # steps; with more, plain walking does as well
COVER = 3.0  # noise over the item that a distilled model has leapt to, from which its strides begin
SIGMA_MAX = 300.0  # noise so strong that nothing of the data is left in float32 samples of ordinary scale


@dataclass(frozen=True, kw_only=True)
class FlowMatching(DenoisingFamily):
    """Diffusion trained by flow matching, for pictures and for rows of numbers.

    Settings: those of `DenoisingFamily`, and:

    gaussian: start from the closed-form answer for Gaussian data; False uses no statistics of the data for it.
    times: how training times are drawn. logit_normal: sigmoid(time_mean + time_spread * normal); uniform: evenly;
    mode: more at the middle or at both ends, by time_spread (Esser et al. 2024, arXiv:2403.03206, eq. 20).
    few: steps in which a model that was distilled draws (`few_steps.py`); 0 for one that walks from noise to data.
    """

    name: ClassVar[str] = "diffusion"
    title: ClassVar[str] = "flow-matching diffusion"

    gaussian: bool = True
    times: Times = "logit_normal"
    time_mean: float = 0.0
    time_spread: float = 1.0
    few: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_spread <= 0.0:
            raise BadInput(f"time_spread is {self.time_spread}", accepted="more than 0")
        if self.times == "mode" and self.time_spread > LARGEST_MODE:
            raise BadInput(f"time_spread is {self.time_spread} for times=mode", accepted=f"{LARGEST_MODE} at most")
        if not 0 <= self.few <= MOST_FEW:
            raise BadInput(f"few is {self.few}", accepted=f"0, or 1 to {MOST_FEW}")

    def parts(self) -> tuple[Part, ...]:
        return (
            Part(
                "forward process",
                "Noise is poured over a real item little by little until nothing of the item is left; "
                "nothing is learned here.",
                "x_t = (1 - t) * noise + t * data,   t from 1 (data) to 0 (noise)",
                "Lipman et al. 2023, arXiv:2210.02747, example II, with sigma_min = 0",
            ),
            Part(
                "reverse process",
                "A sample starts as pure noise, from which the network leaps to a finished item at once; further steps "
                "cover the item with fresh noise and take it off again, in strides of several of its teacher's steps.",
                "x_1 = D(x_0, sigma_0) + sigma_1 * noise,   "
                "x_k+1 = D(x_k, sigma_k) + sigma_k+1 / sigma_k (x_k - D(x_k, sigma_k))",
                "Song et al. 2023, arXiv:2303.01469, algorithm 1; Salimans and Ho 2022, arXiv:2202.00512",
            )
            if self.few
            else Part(
                "reverse process",
                "A sample starts as pure noise and takes small steps towards what the network believes is underneath; "
                "early steps settle the large forms, late steps the details.",
                "dx = v(x, t) dt,   from t = 0 to t = 1",
                "Lipman et al. 2023, arXiv:2210.02747, eq. 1; Karras et al. 2022, arXiv:2206.00364",
            ),
            Part(
                "network",
                "The network looks at a noisy item and the time and guesses the direction towards clean data; "
                + (
                    "it is told what a plain Gaussian would answer and learns only the difference."
                    if self.gaussian
                    else "it learns this from nothing."
                ),
                "v(x, t) = v_gauss(x, t) + s(t) * network(x, v_gauss, t, condition)",
                "U-Net: Ronneberger et al. 2015, arXiv:1505.04597; Dhariwal and Nichol 2021, arXiv:2105.05233",
            ),
            Part(
                "loss",
                "The guess is compared with the true direction from the noise to the item, and the squared mistake is "
                "made smaller, item by item.",
                "|| v(x_t, t) - (data - noise) ||^2 / || s(t) ||^2,   t = sigmoid(m + s * normal)",
                "Lipman et al. 2023, arXiv:2210.02747, eq. 9; times: Esser et al. 2024, arXiv:2403.03206, eq. 19",
            ),
            self.from_data(),
        )

    def training(self, space: Space, items: int) -> Training:
        if self.few:  # two players, as in `gan.py`
            batch = 64 if isinstance(space, Real) and is_picture(space) else 256
            ramp = 6.0  # a long average: in a contest the last weights are as good as those a while before
            return Training(batch=batch, rate=5e-4, betas=(0.0, 0.99), clip=None, ema_ramp=ramp, steps=1000)
        return super().training(space, items)


def mix(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Point at time t on the straight line from noise to data.

    x_t = (1 - t) * noise + t * data              Lipman et al. 2023, arXiv:2210.02747

    Args:
        noise, data: (B, *event), same shape.
        t: (B,), from 0 (noise) to 1 (data).

    >>> mix(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0.0, 0.5]))[:, 0]
    tensor([0.0000, 0.5000])
    """
    return torch.lerp(noise, data, expand_like(t, data))


class FlowMatchingEngine(DenoisingEngine):
    """The velocity network with the closed-form Gaussian answer inside; shown x and the Gaussian's estimate.

    Args:
        family: settings. space: Real. conditions: name -> space.
        make: builds the network from a `Wanted`, for a net of your own.
    """

    copies = 2
    highest = SIGMA_MAX
    lowest = 1e-3

    def __init__(
        self, family: FlowMatching, space: Real, conditions: Mapping[str, Space], make: Factory | None = None
    ) -> None:
        super().__init__(family, space, conditions, make)
        self.family = family
        self.few = family.few
        self.gauss = GaussianGuess(space.size)

    # -- the velocity --------------------------------------------------------------------------------------------

    def guess(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What a Gaussian knows: its velocity, how far the truth strays from it, and the network's two inputs.

        Args:
            x: (B, *event) on the straight path at t (B,).

        Returns:
            each (B, *event); the stray of pictures is one number a row, broadcast. The inputs are x and the
            Gaussian's estimate of the data, both at about unit scale.
        """
        flat, at = x.flatten(1), t[:, None]
        with torch.autocast(x.device.type, enabled=False):
            v, stray = self.gauss(flat, at, 1 - at)
            scale = self.gauss.spread()
            if self.picture:  # a U-Net treats all places alike, so it is given one scale for all of them
                stray = stray.square().mean(dim=1, keepdim=True).sqrt().expand_as(v)
                scale = scale.square().mean().sqrt().expand_as(scale)
            seen = (flat - at * self.gauss.mean) / (at.square() * scale.square() + (1 - at).square()).sqrt()
            believed = (flat + (1 - at) * v - self.gauss.mean) / scale
        return v.reshape_as(x), stray.reshape_as(x), [seen.reshape_as(x), believed.reshape_as(x)]

    def correct(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """The network's part: its output, the Gaussian velocity and the stray, each (B, *event) and in x's dtype."""
        v, stray, inputs = self.guess(x, t)
        return self.network(torch.cat(inputs, dim=1), t, condition), v, stray

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """E[data - noise | x] for x (B, *event) on the straight path at t (B,)."""
        out, v, stray = self.correct(x, t, condition)
        return v + stray * out

    def look(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, ...]:
        """What the network's way down sees of x_t = data + sigma * noise: maps of `self.network.seen` channels."""
        t = 1 / (1 + sigma.to(x_t.dtype))
        _, _, inputs = self.guess(expand_like(t, x_t) * x_t, t)
        return self.network.look(torch.cat(inputs, dim=1), t, condition)

    # -- Learns, Prepares ----------------------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        if self.family.gaussian:
            self.gauss.fit(self.guard(batch.x).flatten(1))

    def times(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """(B,) times to train at."""
        family, rows = self.family, rows.fork("time")
        if family.times == "logit_normal":
            return (family.time_mean + family.time_spread * rows.normal(dtype=dtype)).sigmoid()
        u = rows.uniform(dtype=dtype)
        if family.times == "uniform":
            return u
        return 1 - u - family.time_spread * ((torch.pi / 2 * u).cos().square() - 1 + u)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) mean squared mistake of each row, in units in which the Gaussian guess alone scores about 1.

        Mistakes count as they would in the velocity itself: in numbers that hardly vary, such as the cell of a rare
        category, they count little.
        """
        x = self.guard(batch.x)
        t = self.times(rows, x.dtype)
        noise = rows.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        out, v, stray = self.correct(mix(noise, x, t), t, self.told(x, batch.condition, rows.fork("drop")))
        mistake = stray * out - (x - noise - v)
        return mistake.square().flatten(1).mean(dim=1) / stray.square().flatten(1).mean(dim=1)

    # -- Samples -------------------------------------------------------------------------------------------------

    def walk(self) -> DiffusionHow:
        """How the model draws that walks from noise to data, also of one that was distilled since."""
        return super().settings()

    def settings(self) -> DiffusionHow:
        """As for all denoisers; a distilled model draws in its few steps and has the guidance built in."""
        if not self.few:
            return self.walk()
        return replace(self.walk(), steps=self.few, solver="leap", guidance=1.0)

    # -- Denoises ------------------------------------------------------------------------------------------------

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[data | x_t] for x_t = data + sigma * noise, by walking onto the straight path and back.

        t = 1 / (1 + sigma);   data = t * x_t + (1 - t) * v(t * x_t, t)

        Black and white of guarded pictures come out beyond the ends of the grid; clamp to read them as pixels.
        """
        t = 1 / (1 + sigma.to(x_t.dtype))
        x = expand_like(t, x_t) * x_t
        return x + expand_like(1 - t, x) * self.velocity(x, t, condition)

    def sigmas(self, how: How) -> Tensor:
        """(K + 1,) from SIGMA_MAX to 0, even in u where t = u / (u + shift * (1 - u)) and sigma = (1 - t) / t.

        A distilled model has the levels that it was taught: SIGMA_MAX, from which it leaps, and COVER and below for
        its strides, of which fewer steps take the last ones.
        The shift of time: Esser et al. 2024, arXiv:2403.03206, eq. 23.

        Raises:
            BadInput: more steps than a distilled model was taught.
        """
        how = self.own(how)
        if not self.few:
            return _even(SIGMA_MAX, how.steps, how.shift)
        if how.steps > self.few:
            raise BadInput(f"steps is {how.steps}", accepted=f"1 to {self.few}, which the model was distilled for")
        strides = _even(COVER, max(1, self.few - 1), self.walk().shift)
        return torch.cat((strides.new_tensor([SIGMA_MAX]), strides[len(strides) - how.steps :]))


def _even(first: float, steps: int, shift: float) -> Tensor:
    """(K + 1,) levels from `first` to 0, even in u."""
    u = torch.linspace(shift / (shift + first), 1.0, steps + 1, dtype=torch.float64)
    return shift * (1 - u) / u


FlowMatching.engine = FlowMatchingEngine
