"""What a decoder says about an item: a distribution p(x | z) over all its numbers and symbols, given some parameters.

Each model here takes the parameters as one row (B, outputs) and gives log-probabilities, the centre, or a draw. The
numbers and symbols of an item are independent given the latent vector, so what they share must be in it.

    logistic      whole levels, such as pixels: a logistic (or a few) cut into cells
    bernoulli     the same levels by one number each: with two levels a coin
    gaussian      real numbers
    fields        a row of a table: Gaussians, and a category for each symbol
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens

__all__ = [
    "OBSERVATIONS",
    "BernoulliObservation",
    "FieldsObservation",
    "GaussianObservation",
    "LogisticObservation",
    "Observation",
    "ObservationName",
    "observation_of",
    "refused_observation",
]

ObservationName: TypeAlias = Literal["logistic", "bernoulli", "gaussian"]
OBSERVATIONS: tuple[ObservationName, ...] = ("logistic", "bernoulli", "gaussian")
NARROWEST, WIDEST = -7.0, 7.0  # logarithms of a logistic's scale in half-ranges: one of 256 levels, and all alike
SEGMENTED = 1024  # alphabets up to this size share one softmax; beyond, the product with their places costs more


def refused_observation(space: Space, name: ObservationName | None) -> str:
    """Why items of this space cannot be observed so; empty if they can.

    >>> refused_observation(Real((3,)), "bernoulli")
    'a bernoulli observation is over whole levels, and these numbers are continuous'
    >>> refused_observation(Real((3,), levels=2), "bernoulli")
    ''
    """
    if isinstance(space, Tokens):
        return "symbols have no observation of their own here"
    grid = isinstance(space, Real) and space.levels is not None
    if name in ("logistic", "bernoulli") and not grid:
        what = (
            "these rows hold several kinds of columns" if isinstance(space, Mixed) else "these numbers are continuous"
        )
        return f"a {name} observation is over whole levels, and {what}"
    if name == "gaussian" and grid:
        return "a gaussian observation is a density, and these items lie on whole levels"
    return ""


def observation_of(
    space: Space, name: ObservationName | None = None, *, spread: float | None = None, components: int = 1
) -> Observation:
    """The observation of this name, None for the usual one: logistic on a grid of levels, else Gaussian.

    Args:
        spread: standard deviation of every Gaussian, in the space's units; None learns one for each number.
        components: logistics in the mixture of each number.

    Raises:
        BadInput: it does not suit the space (`refused_observation` says why).
    """
    refused = refused_observation(space, name)
    if refused:
        raise BadInput(f"the observation is {name or 'the usual one'} and the space is {space}", why=refused)
    if isinstance(space, Mixed):
        return FieldsObservation(space, spread=spread)
    assert isinstance(space, Real)
    if space.levels is None:
        return GaussianObservation(space, spread=spread)
    return BernoulliObservation(space) if name == "bernoulli" else LogisticObservation(space, components)


class LogisticObservation(nn.Module):
    """A logistic around a centre, cut into the cells of a grid; the outermost cells take the tails.

    P(x) = sum_k pi_k [sigmoid((x + step/2 - mu_k) / s_k) - sigmoid((x - step/2 - mu_k) / s_k)]
                                        Salimans et al. 2017 (PixelCNN++), https://arxiv.org/abs/1701.05517, eq. 2

    with weights pi, centres mu and scales s of each number from the decoder. Channels of a pixel are independent here,
    as nothing is drawn before anything else.

    Args:
        space: Real with levels. components: how many logistics a number; parameters are (B, copies * size): centres,
            then logarithms of scales, in half-ranges, with several of them logits of the weights first.
    """

    def __init__(self, space: Real, components: int = 1) -> None:
        super().__init__()
        self.space, self.inputs, self.components = space, space.size, components
        self.copies = 2 if components == 1 else 3 * components
        self.outputs = self.copies * space.size
        self.middle, self.reach = (space.low + space.high) / 2, (space.high - space.low) / 2
        self.cell = space.step / self.reach
        # alike at the start they would stay alike, so the centres begin side by side
        beside = (2 * torch.arange(components, dtype=torch.float32) + 1 - components) / components
        self.register_buffer("beside", beside[:, None], persistent=False)

    def read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size) between -1 and 1."""
        return (x.flatten(1) - self.middle) / self.reach

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,) log-probability of the levels."""
        weight, mu, log_s = self._logistics(said)
        x, s = self.read(x).to(mu)[:, None], log_s.exp()
        above, below = (x + self.cell / 2 - mu) / s, (x - self.cell / 2 - mu) / s
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which never cancels
        inside = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1(-self.cell / s))
        edge = self.cell / 4
        each = torch.where(x < -1 + edge, logsigmoid(above), torch.where(x > 1 - edge, logsigmoid(-below), inside))
        if weight is not None:
            each = (each + weight.log_softmax(1)).logsumexp(1)
        return each.flatten(1).sum(-1)

    def centre(self, said: Tensor) -> Tensor:
        """(B, *event) the median of a single logistic, the mean of the centres of several."""
        weight, mu, _ = self._logistics(said)
        return self._event(mu[:, 0] if weight is None else (weight.softmax(1) * mu).sum(1))

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, *event) on the grid."""
        weight, mu, log_s = self._logistics(said)
        if weight is not None:
            cold = weight.transpose(1, 2) / max(temperature, 1e-6)
            picked = rows.fork("component").categorical(cold)[:, None]
            mu, log_s = mu.gather(1, picked), log_s.gather(1, picked)
        noise = rows.uniform(self.space.size, dtype=mu.dtype).logit()  # standard logistic
        x = self._event(mu[:, 0] + temperature * log_s[:, 0].exp() * noise)
        return ((x - self.space.low) / self.space.step).round() * self.space.step + self.space.low

    def _logistics(self, said: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Logits of the weights (None for a single one), centres and logarithms of scales, each (B, K, size)."""
        parts = said.unflatten(1, (self.copies, self.space.size)).split(self.components, 1)
        mu, log_s = parts[-2:]
        log_s = (log_s - 2.0).clamp(NARROWEST, WIDEST)
        return (None, mu, log_s) if len(parts) == 2 else (parts[0], mu + self.get_buffer("beside"), log_s)

    def _event(self, mu: Tensor) -> Tensor:
        x = mu.clamp(-1, 1) * self.reach + self.middle
        return x.reshape(-1, *self.space.shape)


class BernoulliObservation(nn.Module):
    """One number l for each level x between 0 and 1: with two levels a coin, with n the same tilt over all of them.

    P(x) = e^(l x) / sum_j e^(l j / (n - 1)),   x = 0, 1/(n - 1), ..., 1
                            Loaiza-Ganem and Cunningham 2019, https://arxiv.org/abs/1907.06845, section 3, on a grid

    Binary cross-entropy of grey levels, as it is often used, leaves out the sum and is no log-probability.

    Args:
        space: Real with levels. Parameters are (B, size), the l.
    """

    copies = 1

    def __init__(self, space: Real) -> None:
        super().__init__()
        assert space.levels is not None
        self.space, self.inputs, self.outputs, self.levels = space, space.size, space.size, space.levels

    def read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size) between -1 and 1."""
        return 2.0 * self._unit(x) - 1.0

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,) log-probability of the levels."""
        x = self._unit(x).to(said)
        if self.levels == 2:  # the same, without detours
            return (x * said - nn.functional.softplus(said)).sum(-1)
        tilt = said / (self.levels - 1)  # from one level to the next
        # the geometric sum is e^(l / 2) sinh(n tilt / 2) / sinh(tilt / 2)
        total = said / 2 + _log_sinhc(self.levels * tilt / 2) - _log_sinhc(tilt / 2) + math.log(self.levels)
        return (x * said - total).sum(-1)

    def centre(self, said: Tensor) -> Tensor:
        """(B, *event) the mean."""
        half = said / (self.levels - 1) / 2
        mean = (self.levels * _slope(self.levels * half) - _slope(half)) / (self.levels - 1)
        return self._event((1.0 + mean) / 2)

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, *event) on the grid, by inverting the distribution function of a geometric row of levels."""
        n = self.levels
        tilt = said.double() / max(temperature, 1e-6) / (n - 1)
        u, fall = rows.uniform(self.space.size, dtype=torch.float64), -tilt.abs().clamp_min(1e-9)
        from_likeliest = (torch.log1p(u * torch.expm1(n * fall)) / fall).floor().clamp(0, n - 1)
        level = torch.where(tilt > 0, n - 1 - from_likeliest, from_likeliest)
        return self._event(level / (n - 1)).to(said.dtype)

    def _unit(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size) between 0 and 1."""
        return (x.flatten(1) - self.space.low) / (self.space.high - self.space.low)

    def _event(self, unit: Tensor) -> Tensor:
        x = unit * (self.space.high - self.space.low) + self.space.low
        return x.reshape(-1, *self.space.shape)


def _log_sinhc(u: Tensor) -> Tensor:
    """log(sinh(u) / u), which is even in u and 0 at 0."""
    near = u.abs() < 0.1
    small, large = torch.where(near, u, 0.0).square(), torch.where(near, 1.0, u.abs())
    series = small / 6 - small.square() / 180 + small * small.square() / 2835
    return torch.where(near, series, large + torch.log(-torch.expm1(-2 * large)) - torch.log(2 * large))


def _slope(u: Tensor) -> Tensor:
    """Its derivative, coth(u) - 1 / u."""
    near = u.abs() < 0.1
    small, large = torch.where(near, u, 0.0), torch.where(near, 1.0, u)
    series = small / 3 - small**3 / 45 + 2 * small**5 / 945
    return torch.where(near, series, 1 / torch.tanh(large) - 1 / large)


class GaussianObservation(nn.Module):
    """N(x; mu, s^2): centres mu (B, size) from the decoder, and a scale s for each number.

    Args:
        space: continuous Real. spread: s of all numbers; None learns one for each.
    """

    copies = 1

    def __init__(self, space: Real, spread: float | None = None) -> None:
        super().__init__()
        self.space, self.inputs, self.outputs, self.spread = space, space.size, space.size, spread
        self.log_s: nn.Parameter | None = None
        if spread is None:
            self.log_s = nn.Parameter(torch.full((space.size,), -0.5))

    def read(self, x: Tensor) -> Tensor:
        """(B, *event) to (B, size)."""
        return x.flatten(1)

    def each(self, said: Tensor, x: Tensor) -> Tensor:
        """(B, size) log-density of each number."""
        log_s = self._scale(said)
        return -0.5 * ((x.flatten(1).to(said) - said) / log_s.exp()).square() - log_s - 0.5 * math.log(2 * math.pi)

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,) log-density."""
        if self.spread is not None:  # one number for all: squared distances suffice
            away = (x.flatten(1).to(said) - said).square().sum(-1)
            return -0.5 * away / self.spread**2 - self.space.size * (
                math.log(self.spread) + 0.5 * math.log(2 * math.pi)
            )
        return self.each(said, x).sum(-1)

    def centre(self, said: Tensor) -> Tensor:
        """(B, *event)."""
        return said.reshape(-1, *self.space.shape)

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, *event)."""
        noise = rows.normal(self.space.size, dtype=said.dtype)
        return self.centre(said + temperature * self._scale(said).exp() * noise)

    def _scale(self, said: Tensor) -> Tensor:
        """(size,) logarithms of the scales, within bounds: a density on constant columns would grow without end."""
        if self.log_s is None:
            assert self.spread is not None
            return said.new_full((self.space.size,), math.log(self.spread))
        return self.log_s.to(said).clamp(-6.0, 4.0)


class FieldsObservation(nn.Module):
    """A row of a table: each field is independent given the latent vector.

    Reals are Gaussian and count only where they are present; symbols are categories. Parameters are (B, outputs): all
    reals first, then the logits of each symbol, field by field.

    Args:
        space: Mixed. embed: numbers in which the encoder reads a symbol. spread: as in `GaussianObservation`.
    """

    copies = 1

    def __init__(self, space: Mixed, embed: int = 8, spread: float | None = None) -> None:
        super().__init__()
        self.space = space
        at, number_at, symbol_at, first = 0, [], [], {}
        sizes: list[int] = []
        for f in space.fields:
            places = list(range(at, at + f.space.size))
            if isinstance(f.space, Tokens):
                first[f.name] = len(sizes)
                sizes += f.space.sizes
                symbol_at += places
            else:
                number_at += places
            at += f.space.size
        needs = [f.present for f in space.fields if isinstance(f.space, Real) for _ in range(f.space.size)]
        self.sizes, self.numbers = sizes, len(number_at)
        self.gaussian = GaussianObservation(Real((max(1, self.numbers),)), spread)
        self.embed = nn.Embedding(max(1, sum(sizes)), embed)
        self.inputs, self.outputs = self.numbers + embed * len(sizes), self.numbers + sum(sizes)
        fixed = {
            "number_at": torch.tensor(number_at, dtype=torch.int64),  # places in an event
            "symbol_at": torch.tensor(symbol_at, dtype=torch.int64),
            "start": torch.tensor([0, *sizes[:-1]]).cumsum(0),  # of each symbol's alphabet among all of them
            # a number is there where this symbol column holds this symbol; -1: always
            "told_by": torch.tensor([first[n[0]] if n else 0 for n in needs], dtype=torch.int64),
            "told": torch.tensor([n[1] if n else -1 for n in needs], dtype=torch.int64),
        }
        few = [k for k, size in enumerate(sizes) if size <= SEGMENTED]
        column = torch.repeat_interleave(
            torch.arange(len(few)), torch.tensor([sizes[k] for k in few], dtype=torch.int64)
        )
        fixed["column"] = column  # which of the small alphabets a logit belongs to
        for name, value in fixed.items():
            self.register_buffer(name, value, persistent=False)
        self.few = few

    def read(self, x: Tensor) -> Tensor:
        """(B, size) to (B, inputs): numbers, then an embedding of each symbol."""
        numbers, symbols, _ = self._parts(x)
        if not self.sizes:
            return numbers
        embedded = self.embed(symbols + self.get_buffer("start")).flatten(1)
        return torch.cat((numbers.to(embedded), embedded), dim=-1)

    def log_prob(self, said: Tensor, x: Tensor) -> Tensor:
        """(B,)"""
        numbers, symbols, there = self._parts(x)
        total = said.new_zeros(said.shape[0])
        if self.numbers:
            total = total + torch.where(there, self.gaussian.each(said[:, : self.numbers], numbers), 0.0).sum(-1)
        if self.sizes:
            picked = said.gather(1, symbols + (self.get_buffer("start") + self.numbers))
            total = total + picked.sum(-1) - self._log_totals(said)
        return total

    def centre(self, said: Tensor) -> Tensor:
        """(B, size): mean of each number, likeliest symbol of each column."""
        return self._join(said[:, : self.numbers], [logits.argmax(-1) for logits in self._logits(said)])

    def draw(self, said: Tensor, rows: Rows, temperature: float) -> Tensor:
        """(B, size)"""
        numbers = said[:, : self.numbers]
        if self.numbers:
            numbers = self.gaussian.draw(numbers, rows.fork("numbers"), temperature)
        symbols = []
        for column, logits in enumerate(self._logits(said)):
            cold = logits / max(temperature, 1e-6)
            symbols.append(rows.fork("symbol", column).categorical(cold))
        return self._join(numbers, symbols)

    def _log_totals(self, said: Tensor) -> Tensor:
        """(B,) sum over columns of log sum_v exp(logit_v), all small alphabets at once."""
        logits = self._logits(said)
        total = said.new_zeros(said.shape[0])
        for each in logits:
            if each.shape[1] > SEGMENTED:
                total = total + each.logsumexp(-1)
        if not self.few:
            return total
        column, small = self.get_buffer("column"), [logits[k] for k in self.few]
        together = said[:, self.numbers :] if len(small) == len(logits) else torch.cat(small, dim=-1)
        largest = torch.stack([each.detach().amax(-1) for each in small], dim=-1)  # (B, columns)
        places = (column[:, None] == torch.arange(len(small), device=said.device)).to(said)  # (logits, columns)
        with torch.autocast(said.device.type, enabled=False):
            sums = (together - largest[:, column]).exp() @ places
        return total + (sums.log() + largest).sum(-1)

    def _logits(self, said: Tensor) -> tuple[Tensor, ...]:
        return said[:, self.numbers :].split(self.sizes, dim=-1) if self.sizes else ()

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers (B, N), symbols (B, S) int64, and where numbers are present (B, N) bool."""
        symbols = x[:, self.get_buffer("symbol_at")].round().long()
        return x[:, self.get_buffer("number_at")], symbols, self._there(symbols)

    def _there(self, symbols: Tensor) -> Tensor:
        """(B, S) to (B, N) bool."""
        told = self.get_buffer("told")
        if not self.sizes:
            return (told < 0).expand(symbols.shape[0], -1)
        return (symbols[:, self.get_buffer("told_by")] == told) | (told < 0)

    def _join(self, numbers: Tensor, symbols: list[Tensor]) -> Tensor:
        """Numbers (B, N) and one (B,) a symbol column to an event, absent numbers at 0."""
        together = torch.stack(symbols, dim=-1) if symbols else numbers.new_zeros((len(numbers), 0), dtype=torch.int64)
        x = numbers.new_zeros((len(numbers), self.space.size))
        x[:, self.get_buffer("symbol_at")] = together.to(x)
        x[:, self.get_buffer("number_at")] = torch.where(self._there(together), numbers, 0.0)
        return x


Observation: TypeAlias = LogisticObservation | BernoulliObservation | GaussianObservation | FieldsObservation
