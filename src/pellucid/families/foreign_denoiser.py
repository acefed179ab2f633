"""A denoiser made elsewhere: a diffusers pipeline, asked like an engine of our own and sampled by its own loop.

The network was trained on x' = sqrt(ab_t) data + sqrt(1 - ab_t) noise (Ho et al. 2020, arXiv:2006.11239, eq. 4), and
is brought to x_t = data + sigma * noise by

    x' = x_t / sqrt(1 + sigma^2),   sigma^2 = (1 - ab_t) / ab_t,   t between its steps by interpolating log sigma

Samples come from the pipeline itself. Each row gets a generator of its own, made of its seed and id, so that it does
not depend on its neighbours; what the loop shows its network and its scheduler is listened to, and nothing is changed.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import (
    Attends,
    Denoises,
    How,
    Learns,
    Part,
    Samples,
    Site,
    Turn,
    expand_like,
)
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.core.space import Real
from pellucid.core.trace import Trace
from pellucid.families.foreign_attention import Place, places_in, recording
from pellucid.solvers.denoiser import at_condition, keep_step
from pellucid.solvers.inversion import Inverted, invert, reversible_sigmas

__all__ = ["ForeignDenoiser", "ForeignHow", "generators"]

LEAST, MOST = 1e-8, 1 - 1e-10  # signal left, and kept: schedules that reach 0 or 1 have no finite noise level there
HIGHEST = 300.0  # noise so strong that nothing of an item is left, from which an inversion need not start higher
UNCLASSED = 1000  # the number by which DiTPipeline asks for no class
Answer = Literal["epsilon", "sample", "v_prediction"]
TARGETS = {"epsilon": "the noise", "sample": "the clean item", "v_prediction": "a mix of noise and item"}


@dataclass(frozen=True)
class ForeignHow(How):
    """How a pipeline's own loop is asked to sample.

    steps: of its scheduler. guidance: 1 follows the condition as learned; more only where the pipeline itself guides.
    """

    steps: int = 50
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise BadInput(f"steps is {self.steps}", accepted="a whole number of 1 or more")
        if not 0.0 <= self.guidance < float("inf"):
            raise BadInput(f"guidance is {self.guidance}", accepted="0 or more; 1 is the condition as learned")


def generators(rows: Rows) -> list[torch.Generator]:
    """One of torch's generators for each row, made of the row's seed and id.

    >>> whole, alone = generators(Rows(7, torch.arange(3))), generators(Rows(7, torch.tensor([2])))
    >>> bool(torch.equal(torch.randn(4, generator=whole[2]), torch.randn(4, generator=alone[0])))
    True
    """
    high, low = rows.fork("generator").integers(2**31, 2).cpu().unbind(1)
    return [torch.Generator().manual_seed(seed) for seed in ((high << 31) | low).tolist()]


class ForeignDenoiser(nn.Module, Learns, Samples, Denoises, Attends):
    """The network of a pipeline, with its schedule of noise and its sampling loop.

    Args:
        pipeline: one whose `__call__` takes a list of generators; what it is called with is said by `asks`.
        network: the part of it that denoises. space: Real, of what the network denoises.
        asks: "pixels" for loops that take a batch size (DDPM, DDIM), "classes" for those that take class numbers (DiT).
        classes: how many there are, 0 without. nothing: the number that stands for no class, None if there is none.
        steps: of the loop, when nobody says.
        clamp: whether samples are clamped to the ends of the grid, as pipelines do with pictures.
    """

    alphas: Tensor
    log_sigma: Tensor

    def __init__(
        self,
        pipeline: Any,
        network: nn.Module,
        space: Real,
        asks: Literal["pixels", "classes"],
        *,
        classes: int = 0,
        nothing: int | None = None,
        steps: int | None = None,
        clamp: bool = True,
    ) -> None:
        super().__init__()
        self.pipeline, self.network, self.space, self.asks = pipeline, network, space, asks
        self.classes, self.nothing, self.clamp = classes, nothing, clamp
        config = pipeline.scheduler.config
        self.answers: Answer = getattr(config, "prediction_type", "epsilon")
        alphas = getattr(pipeline.scheduler, "alphas_cumprod", None)
        if self.answers not in TARGETS or not isinstance(alphas, Tensor):
            raise BadInput(
                f"the scheduler is a {type(pipeline.scheduler).__name__} whose network answers '{self.answers}'",
                accepted=f"a schedule of alphas_cumprod, and an answer of {', '.join(TARGETS)}",
                why="Without them, what the network says cannot be read as a clean item.",
            )
        if float(getattr(pipeline.scheduler, "init_noise_sigma", 1.0)) != 1.0:
            raise BadInput(
                f"the scheduler is a {type(pipeline.scheduler).__name__}",
                accepted="one that starts from noise of spread 1, such as DDIM, DDPM or DPM-Solver",
                why=f"It starts from more, and the loop of {type(pipeline).__name__} does not scale its noise.",
            )
        alphas = alphas.double().cpu().clamp(LEAST, MOST)
        self.register_buffer("alphas", alphas, persistent=False)  # (T,) ab_t
        self.register_buffer("log_sigma", 0.5 * ((1 - alphas) / alphas).log(), persistent=False)  # (T,) rising
        clip = float(getattr(config, "clip_sample_range", 1.0)) if getattr(config, "clip_sample", False) else None
        self.clip = clip  # the loop clips its estimate of the clean item, so ours is
        own = inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default
        self.steps = steps or min(int(own), len(alphas))
        self.discrete = getattr(network.config, "time_embedding_type", "") == "learned"

    def parts(self) -> tuple[Part, ...]:
        """The five pieces of a diffusion model, as this pipeline has them."""
        loop, scheduler = type(self.pipeline).__name__, type(self.pipeline.scheduler).__name__
        target = TARGETS[self.answers]
        return (
            Part(
                "forward process",
                f"In {len(self.alphas):,} small steps noise takes the place of a real item until next to nothing of "
                "it is left; nothing is learned here.",
                "x_t = sqrt(ab_t) data + sqrt(1 - ab_t) noise",
                "Ho et al. 2020, arXiv:2006.11239, eq. 4",
            ),
            Part(
                "reverse process",
                "A sample starts as pure noise and goes back step by step towards what the network believes is "
                f"underneath; the steps are those of its own loop ({loop} with {scheduler}).",
            ),
            Part("network", f"The network looks at a noisy item and the step and answers {target}."),
            Part(
                "loss",
                f"The answer is compared with {target}, and the squared mistake is what is measured here. How it was "
                "weighted in training is known to those who trained it.",
                "|| network(x_t, t) - target ||^2,   t even over the steps",
                "Ho et al. 2020, arXiv:2006.11239, eq. 14",
            ),
            Part("training data", "Everything the model knows comes from the items that it was trained on."),
        )

    # -- conditions ----------------------------------------------------------------------------------------------

    def numbers(self, condition: Condition, rows: int) -> Tensor | None:
        """(B,) the class number of each row, that of no class where none is given; None for a model without classes.

        Raises MissingCapability where no class is given and no number says so.
        """
        if not self.classes:
            return None
        device = next(self.network.parameters()).device
        told = "class" in condition.values
        given = condition.given["class"].to(device) if told else torch.zeros(rows, dtype=torch.bool, device=device)
        if self.nothing is None:
            if not bool(given.all()):
                raise MissingCapability(
                    "the class was left unsaid",
                    accepted="a class for every row",
                    why="This model has no number that stands for no class, so it cannot be asked without one.",
                )
            return condition.values["class"].flatten().to(device)
        blank = torch.full((rows,), self.nothing, dtype=torch.int64, device=device)
        return torch.where(given, condition.values["class"].flatten().to(device), blank) if told else blank

    # -- Denoises ------------------------------------------------------------------------------------------------

    def answer(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the network says of x (B, *event) at steps t (B,), which may lie between two."""
        like = next(self.network.parameters())
        told: dict[str, Tensor] = {}
        numbers = self.numbers(condition, len(x))
        if numbers is not None:
            told["class_labels"] = numbers
        t = t.round().long() if self.discrete else t.to(like.dtype)
        out: Tensor = self.network(x.to(like.dtype), timestep=t, **told).sample
        return out[:, : x.shape[1]].to(x.dtype)  # some also answer the spread of the noise

    def clean(self, x: Tensor, alpha: Tensor, out: Tensor) -> Tensor:
        """The clean item in x (B, *event) at ab (B,), by the network's answer; clipped where the scheduler clips."""
        signal, noisiness = expand_like(alpha.sqrt(), x).to(x), expand_like((1 - alpha).sqrt(), x).to(x)
        if self.answers == "epsilon":
            data = (x - noisiness * out) / signal
        else:
            data = out if self.answers == "sample" else signal * x - noisiness * out
        return data if self.clip is None else data.clamp(-self.clip, self.clip)

    def at(self, log_sigma: Tensor) -> Tensor:
        """(B,) the steps, from 0 on, of these logarithms of noise levels (B,); beyond the ends the ends."""
        levels = self.log_sigma.double()
        right = torch.searchsorted(levels, log_sigma).clamp(1, len(levels) - 1)
        low, high = levels[right - 1], levels[right]
        return right - 1 + ((log_sigma - low) / (high - low)).clamp(0.0, 1.0)

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[data | x_t] for x_t = data + sigma * noise; x_t (B, *event), sigma (B,)."""
        s = sigma.to(self.log_sigma.device, torch.float64)
        alpha = 1 / (1 + s.square())
        x = x_t * expand_like(alpha.sqrt(), x_t).to(x_t)
        return self.clean(x, alpha, self.answer(x, self.at(s.clamp_min(1e-12).log()), condition))

    def sigmas(self, how: How) -> Tensor:
        """(K + 1,) the noise levels that the loop goes through, then 0.

        Raises MissingCapability for a scheduler that asks its network more than once at a level.
        """
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(self.own(how).steps)
        steps = torch.as_tensor(scheduler.timesteps).long().clamp(0, len(self.log_sigma) - 1).cpu()
        levels = self.log_sigma.double().cpu()[steps].exp()
        if len(levels) > 1 and not bool((levels[1:] < levels[:-1]).all()):
            raise MissingCapability(
                f"{type(scheduler).__name__} does not go straight from more noise to less",
                accepted="a scheduler that asks the network once at each noise level, such as DDIM, DDPM or DPM-Solver",
            )
        return torch.cat((levels, torch.zeros(1, dtype=torch.float64)))

    # -- Learns --------------------------------------------------------------------------------------------------

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoise", tuple(self.network.parameters()), self.losses),)

    def losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) mean squared mistake of the answer at a step drawn evenly."""
        x = batch.x
        t = rows.fork("step").integers(len(self.alphas))
        alpha = self.alphas.to(x.device)[t]
        signal, noisiness = expand_like(alpha.sqrt(), x).to(x), expand_like((1 - alpha).sqrt(), x).to(x)
        noise = rows.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        out = self.answer(signal * x + noisiness * noise, t.double(), batch.condition)
        right = {"epsilon": noise, "sample": x, "v_prediction": signal * noise - noisiness * x}[self.answers]
        return (out - right).square().flatten(1).mean(dim=1)

    # -- Samples -------------------------------------------------------------------------------------------------

    def settings(self) -> ForeignHow:
        return ForeignHow(self.steps)

    def own(self, how: How) -> ForeignHow:
        """The settings, refused unless they are this kind of engine's and its pipeline can follow them."""
        if not isinstance(how, ForeignHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="ForeignHow", next="Start from engine.settings()")
        if how.guidance != 1.0 and (self.asks == "pixels" or how.guidance < 1.0 or self.nothing != UNCLASSED):
            raise BadInput(
                f"guidance is {how.guidance:g} for {type(self.pipeline).__name__}",
                accepted="1 (or more, for a class-conditional pipeline that has learned to do without a class)",
                why="Samples come from the pipeline's own loop, which does not guide like this.",
            )
        return how

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event) from the pipeline's own loop.

        Raises MissingCapability where the loop draws from the one generator that all rows share.
        """
        how, numbers = self.own(how), self.numbers(condition, len(rows))
        like = next(self.network.parameters())
        if not len(rows):
            return torch.zeros(0, *self.space.shape, device=like.device)
        heard = _Heard(self, trace, len(rows), self.sigmas(how))
        with ExitStack() as stack:
            stack.enter_context(_quiet(self.pipeline))
            if numbers is not None and self.asks == "pixels":  # the loop of an unconditional pipeline says no class
                stack.enter_context(_told(self.network, numbers))
            stack.enter_context(heard.listening())
            state = torch.get_rng_state()
            asked: dict[str, Any] = {"num_inference_steps": how.steps, "output_type": "np"}
            asked["generator"] = generators(rows)
            if self.asks == "pixels":
                self.pipeline(batch_size=len(rows), **asked)
            else:
                assert numbers is not None
                self.pipeline(class_labels=numbers.tolist(), guidance_scale=how.guidance, **asked)
            if not torch.equal(state, torch.get_rng_state()):
                torch.set_rng_state(state)
                raise MissingCapability(
                    f"{type(self.pipeline).__name__} with {type(self.pipeline.scheduler).__name__} draws noise on its "
                    "way that is not its rows' own",
                    accepted="a scheduler that adds no noise, such as DDIM, or a loop that hands its generators on",
                    why="A sample would depend on those drawn beside it, and could not be drawn again alone.",
                )
        found = heard.final()
        found = found.clamp(self.space.low, self.space.high) if self.clamp else found
        keep_step(trace, heard.step, found, 0.0)
        return found

    def invert(self, x: Tensor, condition: Condition, steps: int = 50) -> tuple[Inverted, Tensor]:
        """The noise that leads to items x (B, *event), and the noise levels along which `euler` leads back to them."""
        sigmas = reversible_sigmas(steps, min(HIGHEST, float(self.log_sigma[-1].exp())))
        return invert(at_condition(self, condition), x, sigmas), sigmas

    # -- Attends -------------------------------------------------------------------------------------------------

    def places(self) -> tuple[Place, ...]:
        """Where the network attends; `recording(engine.places())` watches them while anything runs."""
        return places_in(self.network)

    def sites(self) -> tuple[Site, ...]:
        return tuple(place.site("places of the item", "places of the item") for place in self.places())

    @torch.no_grad()
    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        """(B, heads, N, N) of an item x (B, *event) under the least noise that the network knows."""
        places = {place.name: place for place in self.places()}
        if site.name not in places:
            raise BadInput(f"site is '{site.name}'", accepted=", ".join(places))
        with recording([places[site.name]]) as seen:
            least = float(self.log_sigma[0].exp())
            self.denoise(x, x.new_full((len(x),), least), condition)
        return seen.require().weights[site.name][0].to(x.device)


class _Heard:
    """What a loop showed its network and its scheduler: one noisy item and one answer a step."""

    def __init__(self, engine: ForeignDenoiser, trace: Trace, rows: int, sigmas: Tensor) -> None:
        self.engine, self.trace, self.rows, self.sigmas, self.step = engine, trace, rows, sigmas.tolist(), 0
        self.seen: Tensor | None = None  # (B, *event) what the network was shown last
        self.last: Tensor | None = None  # (B, *event) where the scheduler went last
        self.wants = any(trace.wants(name) for name in ("x_t", "denoised", "sigma"))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs: a hook before the network, and the scheduler's step passed through."""
        scheduler = self.engine.pipeline.scheduler
        real = scheduler.step

        def step(model_output: Tensor, timestep: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
            out = real(model_output, timestep, sample, *more, **named)
            self.last = (out.prev_sample if hasattr(out, "prev_sample") else out[0])[: self.rows]
            if self.wants:
                self._keep(model_output[: self.rows])
            self.step += 1
            return out

        handle = self.engine.network.register_forward_pre_hook(self._shown, with_kwargs=True)
        own = vars(scheduler).get("step")
        scheduler.step = step
        try:
            yield
        finally:
            handle.remove()
            if own is None:
                del scheduler.step
            else:
                scheduler.step = own

    def _shown(self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        x = given[0] if given else named.get("sample", named.get("hidden_states"))
        assert isinstance(x, Tensor)
        self.seen = x[: self.rows]  # where a loop guides, its rows stand there twice

    def _keep(self, out: Tensor) -> None:
        assert self.seen is not None
        x, sigma = self.seen, self.sigmas[self.step]
        alpha = x.new_full((len(x),), 1 / (1 + sigma**2), dtype=torch.float64)
        clean = self.engine.clean(x, alpha, out[:, : x.shape[1]])
        keep_step(self.trace, self.step, x / expand_like(alpha.sqrt(), x).to(x), sigma, clean)

    def final(self) -> Tensor:
        """(B, *event) where the loop ended."""
        assert self.last is not None
        return self.last


@contextmanager
def _told(network: nn.Module, numbers: Tensor) -> Iterator[None]:
    """Hand the class numbers to the network while a loop runs that knows of none."""

    def tell(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {**named, "class_labels": numbers}

    handle = network.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quiet(pipeline: Any) -> Iterator[None]:
    """The pipeline's own progress bar put aside while the block runs."""
    before = vars(pipeline).get("_progress_bar_config")
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = before
