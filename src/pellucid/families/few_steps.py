"""Few steps: a trained diffusion model learns to draw in 1 to 4 steps what it draws in 20.

The student starts as a copy of the model and keeps its network. It draws as `solvers/leap.py` does: a leap from noise
to an item, then strides from that item under fresh noise. A stride goes where several steps of the model end:

    strides    |D(x_sigma) - d| / sqrt(D),   d = (x' - after/sigma x_sigma) / (1 - after/sigma)

with x' the model's own way from sigma to the next level, guidance included (Salimans and Ho 2022, arXiv:2202.00512,
appendix G): one Euler step with d lands there. The leap's answer would be a mean of all items that fit; it shall be one
of them, so a critic helps:

    teacher    |G(x_sigma) - walk(x_sigma)| / sqrt(D)      walk: the model's own way from there to data, with guidance
    critic     softplus(C(G(x_sigma)) - C(data)) + gamma/2 * (|grad C(data)|^2 + |grad C(G(x_sigma))|^2)
    student    softplus(C(data) - C(G(x_sigma)))           x_sigma = data + sigma * noise, at the highest level

Strides are learned sooner than the leap, but taught at every step: with half as many lessons leap and strides both
became worse, for the contest pulls the network that they share away from its model (Fashion-MNIST, one seed).

The teacher says which noise becomes which item, and the critic that it shall look like data. The contest is that of
`gan.py`: Huang et al. 2024 (R3GAN), arXiv:2501.05441, eq. 2 to 4. That a critic lets a denoiser answer with items: Xu
et al. 2023 (UFOGen), arXiv:2311.09257; a regression onto the teacher's walk beside it: Yin et al. 2023 (DMD),
arXiv:2311.18828, eq. 9. The critic sees the item and, for pictures, also what the frozen teacher's way down sees of it
under a little noise: Sauer et al. 2024 (LADD), arXiv:2403.12015.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Family, Objective, Recasts, Turn, expand_like
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.families.flow_matching import MOST_FEW, FlowMatching, FlowMatchingEngine
from pellucid.nets.critic import Critic, MapCritic
from pellucid.solvers.guidance import guided

__all__ = ["FewSteps"]

ADVERSARIAL = (0.0, 0.99)  # betas of both players in the contest, as in `gan.py`
CRITIC_RATE = 2.0  # of the critic beside the student: it starts from nothing
LOOK = (-3.0, -0.5)  # logarithm of the noise under which the teacher looks, in the data's units, drawn evenly


@dataclass(frozen=True, kw_only=True)
class FewSteps(Objective, Recasts):
    """Distil a model of the family `diffusion` into one that draws in a few steps.

    steps: a leap and so many strides less one, when nothing else is asked; fewer, down to the leap alone, may be asked.
    gamma: weight of the critic's gradient penalties; more is steadier and blurrier.
    stride: steps of the teacher in one stride. walk: steps of its walk from noise to data, for the leap.
    every: steps of training between two of the teacher's lessons in leaping, 0 for none at all.
    guidance: of the teacher, which the student then has built in; None takes the model's own.
    width: channels of the critic's first stage (pictures).
    """

    steps: int = 4
    gamma: float = 0.05
    stride: int = 2
    walk: int = 6
    every: int = 2
    guidance: float | None = None
    width: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_FEW:
            raise BadInput(f"steps is {self.steps}", accepted=f"1 to {MOST_FEW}")
        if not 0.0 <= self.gamma < float("inf"):
            raise BadInput(f"gamma is {self.gamma}", accepted="0 or more")
        if min(self.stride, self.walk, self.width) < 1 or self.every < 0:
            raise BadInput(
                f"stride is {self.stride}, walk {self.walk}, every {self.every}, width {self.width}",
                accepted="a stride and a walk of 1 step or more, every 0 or more, a width of 1 or more",
            )
        if self.guidance is not None and not 0.0 <= self.guidance < float("inf"):
            raise BadInput(f"guidance is {self.guidance}", accepted="None, or 0 or more")

    def recast(self, family: Family) -> Family:
        """The same family that draws in few steps. Raises BadInput for another one, or one that does so already."""
        if not isinstance(family, FlowMatching):
            raise BadInput(f"the model to distil is of the family '{family.name}'", accepted=FlowMatching.name)
        if family.few:
            raise BadInput(
                f"the model to distil draws in {family.few} steps already",
                why="A teacher has to know the mean of all items that fit, and this one no longer does.",
                next="Start from the model that it was distilled from.",
            )
        return replace(family, few=self.steps)

    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        """Teacher, critic and student. Raises BadInput without a model to distil."""
        if not isinstance(engine, FlowMatchingEngine) or not isinstance(base, FlowMatchingEngine):
            raise BadInput(
                "there is no model to distil" if base is None else f"the engine is a {type(engine).__name__}",
                accepted="a fitted model of the family 'diffusion'",
                next="Name it: base=... or --from RUN.",
            )
        return _Lesson(self, engine, base).turns()


class _Judge(nn.Module):
    """The critic: of items, and of the teacher's maps of them where it has any; with its own reading of conditions.

    Of conditions that are pictures it only sees what the teacher's maps show.
    """

    def __init__(self, asked: FewSteps, engine: FlowMatchingEngine, base: FlowMatchingEngine) -> None:
        super().__init__()
        self.reading = copy.deepcopy(base.network.encode_condition)  # what classes mean is known already
        steer, width = self.reading.width, asked.width if engine.picture else 4 * asked.width
        self.items = Critic(engine.space.shape, steer=steer, width=width)
        self.maps = MapCritic(base.network.seen, steer=steer) if base.network.seen else None

    def forward(self, shown: Sequence[Tensor], vector: Tensor) -> Tensor:
        """Items (B, *event) followed by maps (B, C, h, w), and vector (B, steer), to (B,)."""
        score: Tensor = self.items(shown[0], vector)
        return score if self.maps is None else score + self.maps(shown[1:], vector)


class _Lesson:
    """What the three players share: the student, the frozen teacher, and the critic.

    The critic is shown what a sample shows: pictures clamped to their grid.
    """

    def __init__(self, asked: FewSteps, engine: FlowMatchingEngine, base: FlowMatchingEngine) -> None:
        self.asked, self.engine, self.base = asked, engine, base
        self.how = base.walk()
        self.guidance = self.how.guidance if asked.guidance is None else asked.guidance
        self.levels = engine.sigmas(engine.settings())[1:]  # of the strides
        like = next(engine.parameters())
        with Rows(0, torch.arange(1)).fork("critic").seeding():
            self.critic = _Judge(asked, engine, base).to(like)

    def turns(self) -> tuple[Turn, ...]:
        student = tuple(self.engine.parameters())
        critic = tuple(self.critic.parameters())
        contest = (
            Turn("critic", critic, self.critic_losses, rate=CRITIC_RATE, betas=ADVERSARIAL),
            Turn("student", student, self.student_losses, betas=ADVERSARIAL),
        )
        lessons = []
        if self.asked.steps > 1:
            lessons.append(Turn("strides", student, self.stride_losses, betas=(0.9, 0.99)))
        if self.asked.every:
            lessons.append(Turn("teacher", student, self.teacher_losses, every=self.asked.every, betas=(0.9, 0.99)))
        return (*lessons, *contest)

    def stride_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) root mean square distance to the answer whose Euler step lands where several of the teacher's do."""
        rows = rows.fork("stride")
        chosen = rows.integers(len(self.levels) - 1)
        levels = self.levels.to(batch.x)
        sigma, after = levels[chosen], levels[chosen + 1]
        x_t, told = self._noisy(batch, sigma, rows)
        with torch.no_grad():
            end = self._walked(x_t, sigma, after, told, self.asked.stride)
            kept = expand_like(after / sigma, x_t)
            aim = (end - kept * x_t) / (1 - kept)
        return _root(self.engine.denoise(x_t, sigma, told) - aim)

    def teacher_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) root mean square distance to where the teacher's walk from the same noise ends.

        Not squared, so that early, wrong answers do not outweigh all others.
        """
        x_t, sigma, told = self._start(batch, rows)
        with torch.no_grad():
            end = self._walked(x_t, sigma, torch.zeros_like(sigma), told, self.asked.walk)
        return _root(self.engine.denoise(x_t, sigma, told) - end)

    def critic_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the critic's side of the contest with both gradient penalties.

        The gradients are those by the item and by the teacher's maps of it, which costs no way through the teacher. A
        map has more numbers than the item, and a change of all of them is spread thinner over its gradient: the square
        counts times as many as there are more.
        """
        with torch.no_grad():
            fake, told = self._answer(batch, rows)
            shown = [
                torch.cat(pair)
                for pair in zip(self._shown(batch.x, told, rows), self._shown(fake, told, rows), strict=True)
            ]
        vector = self.critic.reading(told, fake).repeat(2, 1)
        slopes, scores = torch.func.grad(lambda s: _twice(_wide(self.critic(s, vector))), has_aux=True)(shown)
        real_score, fake_score = scores.chunk(2)
        size = batch.x[0].numel()
        squares = [_wide(s).flatten(1).square().sum(-1) * (s[0].numel() / size) for s in slopes]  # rows do not mix in C
        steepness = torch.stack(squares).sum(dim=0)
        real_steepness, fake_steepness = steepness.chunk(2)
        return softplus(fake_score - real_score) + self.asked.gamma / 2 * (real_steepness + fake_steepness)

    def student_losses(self, batch: Batch, rows: Rows) -> Tensor:
        """(B,) the student's side of the contest."""
        fake, told = self._answer(batch, rows)
        vector = self.critic.reading(told, fake)
        with torch.no_grad():
            real_score = _wide(self.critic(self._shown(batch.x, told, rows), vector))
        return softplus(real_score - _wide(self.critic(self._shown(fake, told, rows), vector)))

    def _start(self, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor, Condition]:
        """Items under all noise, x_t (B, *event), the level of a leap (B,), and what the network is told of them."""
        sigma = torch.full((len(batch.x),), self.engine.highest).to(batch.x)
        x_t, told = self._noisy(batch, sigma, rows)
        return x_t, sigma, told

    def _noisy(self, batch: Batch, sigma: Tensor, rows: Rows) -> tuple[Tensor, Condition]:
        """Items with noise of levels sigma (B,), and what the network is told of them."""
        x = self.engine.guard(batch.x)
        x_t = x + expand_like(sigma, x) * rows.fork("noise").normal(*x.shape[1:], dtype=x.dtype)
        return x_t, self.engine.told(x, batch.condition, rows.fork("drop"))

    def _answer(self, batch: Batch, rows: Rows) -> tuple[Tensor, Condition]:
        """The student's items (B, *event), as a sample shows them, and what they were asked by."""
        x_t, sigma, told = self._start(batch, rows)
        answer, space = self.engine.denoise(x_t, sigma, told), self.engine.space
        return (answer if space.levels is None else answer.clamp(space.low, space.high)), told

    def _shown(self, x: Tensor, told: Condition, rows: Rows) -> list[Tensor]:
        """What the critic sees of items x (B, *event): them, and the frozen teacher's maps of them under some noise."""
        if not self.base.network.seen:
            return [x]
        low, high = LOOK
        sigma = (low + (high - low) * rows.fork("look").uniform(dtype=x.dtype)).exp()
        noise = rows.fork("look noise").normal(*x.shape[1:], dtype=x.dtype)
        return [x, *(_wide(m) for m in self.base.look(x + expand_like(sigma, x) * noise, sigma, told))]

    def _walked(self, x: Tensor, sigma: Tensor, until: Tensor, told: Condition, steps: int) -> Tensor:
        """Where `steps` of the teacher's steps lead from x (B, *event) at sigma (B,): x at until (B,), which may be 0.

        DPM-Solver++ (2M) as in `solvers/dpm_solver.py`, with levels of its own for each row; the step to 0 is Euler's.
        """
        denoise, shift = guided(self.base, told, self.guidance), self.how.shift
        first, last = sigma / (shift + sigma), until / (shift + until)  # 1 - u, as in `FlowMatchingEngine.sigmas`
        before, was = x, sigma
        for k in range(steps):
            then = first + (last - first) * ((k + 1) / steps)
            after = shift * then / (1 - then) if k < steps - 1 else until
            denoised = ahead = denoise(x, sigma)
            if k > 0:
                bend = torch.where(after > 0, (sigma / after).log(), 0.0) / (2 * (was / sigma).log())
                ahead = denoised + expand_like(bend, x) * (denoised - before)
            x = ahead + expand_like(after / sigma, x) * (x - ahead)
            before, was, sigma = denoised, sigma, after
        return x


def _root(away: Tensor) -> Tensor:
    """(B, *event) to the root of the mean square (B,)."""
    return (_wide(away).square().flatten(1).mean(dim=1) + 1e-6).sqrt()


def _twice(score: Tensor) -> tuple[Tensor, Tensor]:
    return score.sum(), score


def _wide(x: Tensor) -> Tensor:
    """Float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
