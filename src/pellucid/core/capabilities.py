"""What an engine can do: one abstract class a capability, abstract methods only.

A family is frozen settings without weights; the engine it builds is an `nn.Module` whose class line lists its
capabilities, so a forgotten method fails at construction and nothing passes for a capability by accident.

Letters: B rows, T tokens, V symbols, event the shape of one item.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.core.trace import Trace

__all__ = [
    "CAPABILITIES",
    "Attends",
    "Blends",
    "Contends",
    "Counts",
    "Decodes",
    "Denoises",
    "Encodes",
    "Family",
    "Grows",
    "How",
    "Learns",
    "LogProb",
    "Objective",
    "Part",
    "Predicts",
    "Prepares",
    "Quantises",
    "Recasts",
    "Refusal",
    "Samples",
    "Scores",
    "Site",
    "Spells",
    "Surveys",
    "Training",
    "Turn",
    "Unmasks",
    "Weighs",
    "expand_like",
    "offers",
    "parameters_of",
]


@dataclass(frozen=True)
class LogProb:
    """Log-probability in nats, and what kind of number it is.

    Args:
        value: (B,), summed over the event, in float32 at least.
        kind: "exact"; "lower_bound" (the true value is not lower, in expectation over the rows' noise);
            "estimate" (with `error`).
        error: (B,) standard error of `value` over the draws behind it, None where nothing is known of that: always
            there for an estimate, possible for a bound (whose distance from the truth it does not say), never exact.
    """

    value: Tensor
    kind: Literal["exact", "lower_bound", "estimate"]
    error: Tensor | None = None


@dataclass(frozen=True)
class Turn:
    """One player's move in training; a one-player engine has one turn.

    Args:
        name: stable name, such as "denoise" or "critic".
        parameters: the parameters this turn moves.
        losses: (Batch, Rows) -> (B,), row by row and vmap-safe: they feed training, private training, membership
            and influence alike.
        penalty: (Batch, Rows) -> () for terms of no single row (batch statistics, weight averaging), or None.
        every: take the turn only at steps divisible by this.
        rate: multiplies the learning rate. betas: replaces the optimizer's, as adversarial training wants.
        tables: those of the parameters that are looked up or looked up in, an embedding or a head: they have two sides
            and are no matrices to Muon, which leaves them to AdamW.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    losses: Callable[[Batch, Rows], Tensor]
    penalty: Callable[[Batch, Rows], Tensor] | None = None
    every: int = 1
    rate: float = 1.0
    betas: tuple[float, float] | None = None
    tables: Sequence[nn.Parameter] = ()


@dataclass(frozen=True)
class How:
    """How to sample: subclassed by each engine with its own settings (steps, solver, guidance | temperature)."""


@dataclass(frozen=True)
class Site:
    """A place where attention happens: its name, and what its queries and keys stand for."""

    name: str
    queries: str
    keys: str
    heads: int


@dataclass(frozen=True)
class Part:
    """A piece of a family that `explain.process` shows: its name, one plain sentence, and the formula if any."""

    name: str
    sentence: str
    formula: str = ""
    source: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a family does not take a space, as data: shown in a menu, a table, an error."""

    reason: str
    instead: str = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How an engine likes to be trained; every field can be overridden by the user.

    Learning rate warms up linearly over `warmup` of the steps and then follows half a cosine down to
    `final_rate` of itself. `ema` averages the weights with decay min(ema, (1 + k) / (ema_ramp + k)).
    """

    batch: int = 64
    rate: float = 1e-3
    optimizer: Literal["adam", "sgd", "muon"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = 0.9  # SGD's; Muon's is .95
    matrix_rate: float = 0.02  # Muon's rate for matrices; `rate` is that of all other parameters then
    weight_decay: float = 0.0
    clip: float | None = 1.0
    ema: float | None = 0.999
    ema_ramp: float = 25.0
    warmup: float = 0.02
    final_rate: float = 0.01
    steps: int = 2000  # when the user gives no budget


class Learns(abc.ABC):
    """Trained by gradients, in turns."""

    @abc.abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """The players, in the order they move at each step."""


class Prepares(abc.ABC):
    """Looks at data once before step 0 (ActNorm, data scale)."""

    @abc.abstractmethod
    def prepare(self, batch: Batch) -> None:
        """Set what the first rows decide. Called once; what it sets is part of the weights."""


class Surveys(abc.ABC):
    """Trained by gradients, beside tables that are made of all training rows before step 0.

    The tables have no fixed size, so they are no part of the `state_dict`; what makes them is fast and sure, so a run
    that goes on makes them again, and a checkpoint does without.
    """

    @abc.abstractmethod
    def survey(self, rows: Callable[[Tensor], Batch], items: int) -> None:
        """Make the tables of rows 0 to items - 1, which `rows` gives by their ids, on top of those that were restored.

        Called once, before training begins or goes on.
        """

    @abc.abstractmethod
    def surveyed(self) -> dict[str, Tensor]:
        """The tables as a bundle stores them, {} where the settings ask for none."""

    @abc.abstractmethod
    def restore_surveyed(self, tables: Mapping[str, Tensor]) -> None:
        """The inverse of `surveyed`; checked here, as their sizes depend on data."""


class Counts(abc.ABC):
    """Fitted by counting, shard by shard, instead of gradients."""

    @abc.abstractmethod
    def absorb(self, batch: Batch) -> None:
        """Add these rows to the counts; the order of rows does not matter."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Turn the counts into probabilities; called once after the last shard."""

    @abc.abstractmethod
    def tables(self) -> dict[str, Tensor]:
        """Everything counted so far: what a checkpoint and a bundle store."""

    @abc.abstractmethod
    def restore(self, tables: Mapping[str, Tensor]) -> None:
        """The inverse of `tables`; their sizes depend on data, so they are checked here."""


class Grows(Counts):
    """Counts whose settling takes long: it goes piece by piece, and more pieces make a better model.

    `settle` grows the pieces of a model of the usual size where none was grown before.
    """

    @abc.abstractmethod
    def pieces(self) -> tuple[int, int]:
        """How many pieces make a whole model, and how many there can be at most."""

    @abc.abstractmethod
    def grow(self, piece: int, seconds: float | None = None) -> None:
        """Learn this piece from all that was counted, the pieces in order from 0; `seconds` is how long it may take."""


class Samples(abc.ABC):
    """Draws new items."""

    @abc.abstractmethod
    def settings(self) -> How:
        """The engine's own way to sample, which the user may change field by field."""

    @abc.abstractmethod
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, *event), one event for each row id; row i depends on seed, id, condition and how alone."""


class Scores(abc.ABC):
    """Knows the log-probability of a given event, or a bound, or an estimate."""

    @abc.abstractmethod
    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        """In nats, with respect to the space's own measure.

        Counting measure for symbols and for reals on a grid of levels, Lebesgue measure for continuous reals.
        """


class Spells(abc.ABC):
    """Says what each symbol of a sequence costs, given those before it."""

    @abc.abstractmethod
    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, T) of log p(x_t | x_1, ..., x_{t-1}, c) in nats, 0 after an end; a row sums to its log_prob."""


class Blends(abc.ABC):
    """Is made of parts that each say something of every symbol, and knows how much each added."""

    @abc.abstractmethod
    def blend(self, batch: Batch, rows: Rows) -> dict[str, Tensor]:
        """Part -> (B, T) nats that it added to log p of each symbol over an even chance; 0 after an end.

        The parts' nats add up to what `spell` says, plus log V.
        """


class Encodes(abc.ABC):
    """Maps events to latent vectors."""

    @abc.abstractmethod
    def encode(self, x: Tensor, condition: Condition, rows: Rows | None = None) -> Tensor:
        """(B, *event) to (B, *latent); the mean when `rows` is None, else a draw."""

    @abc.abstractmethod
    def latent(self) -> Real:
        """Space of the latent vectors."""


class Decodes(abc.ABC):
    """Maps latent vectors to events."""

    @abc.abstractmethod
    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, *latent) to (B, *event)."""

    @abc.abstractmethod
    def latent(self) -> Real:
        """Space of the latent vectors."""


class Weighs(abc.ABC):
    """Knows what a latent vector costs; without it a density of latents says nothing about items."""

    @abc.abstractmethod
    def log_weight(self, x: Tensor, z: Tensor, condition: Condition) -> Tensor:
        """(B,) log p(x | z) - log q(z | x) for x (B, *event) and z (B, *latent)."""


class Quantises(abc.ABC):
    """Writes an item in a few symbols and rebuilds it from them: a model of symbols works through it."""

    @abc.abstractmethod
    def symbols(self) -> Tokens:
        """Space of the symbols."""

    @abc.abstractmethod
    def quantise(self, x: Tensor) -> Tensor:
        """(B, *event) to symbols (B, T) int64, a function of the item alone."""

    @abc.abstractmethod
    def rebuild(self, codes: Tensor) -> Tensor:
        """(B, T) to the typical item (B, *event) of these symbols."""

    @abc.abstractmethod
    def log_rebuilt(self, x: Tensor, codes: Tensor) -> Tensor:
        """(B,) log p(x | codes), so that log p(x) >= log P(quantise(x)) + log p(x | quantise(x))."""


class Denoises(abc.ABC):
    """Predicts clean data from noisy data, in Real spaces, always in the scale x_t = data + sigma * noise.

    Engines trained on another path rescale inside. Solvers know only this.
    """

    @abc.abstractmethod
    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[data | x_t] as the network sees it: (B, *event) and sigma (B,) to (B, *event)."""

    @abc.abstractmethod
    def sigmas(self, how: How) -> Tensor:
        """(K + 1,) noise levels, finite, largest first, for K steps; the last may be 0."""


class Predicts(abc.ABC):
    """Next-symbol probabilities, left to right."""

    @abc.abstractmethod
    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V): row t is the logits of symbol t given symbols before t.

        With `at`, only that row: (B, V). Symbols a position does not have are -inf; so is all of row T when the
        tokens are already as long as the space allows.
        """

    @abc.abstractmethod
    def begin(self, condition: Condition, batch: int) -> Any:
        """An empty cache for `batch` sequences."""

    @abc.abstractmethod
    def step(self, cache: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Append tokens (B, k), k = 0 only on an empty cache; give the next symbol's logits (B, V), and the cache."""


class Unmasks(abc.ABC):
    """Fills unknown positions given known ones, in any order."""

    @abc.abstractmethod
    def fill_logits(self, tokens: Tensor, known: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) and known (B, T) bool to (B, T, V): each position's logits given the known ones only."""


class Contends(abc.ABC):
    """Trained as a contest of two players, whose balance can be watched."""

    @abc.abstractmethod
    def balance(self, batch: Batch, rows: Rows) -> dict[str, float]:
        """What each player has over the other on these rows: name -> number, such as mean scores and an accuracy."""


class Attends(abc.ABC):
    """Has attention maps, recomputed from the run's own queries and keys."""

    @abc.abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Every place with attention."""

    @abc.abstractmethod
    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        """(B, heads, queries, keys) weights at the site, each row summing to one, that rebuild the site's output."""


CAPABILITIES: dict[str, type] = {
    c.__name__: c
    for c in (
        Learns,
        Prepares,
        Surveys,
        Counts,
        Grows,
        Samples,
        Scores,
        Spells,
        Blends,
        Encodes,
        Decodes,
        Weighs,
        Quantises,
        Denoises,
        Predicts,
        Unmasks,
        Attends,
    )
}


def offers(engine: object | type) -> tuple[str, ...]:
    """Names of the capabilities an engine (or engine class) lists."""
    cls = engine if isinstance(engine, type) else type(engine)
    return tuple(name for name, capability in CAPABILITIES.items() if issubclass(cls, capability))


class Family(abc.ABC):
    """Frozen settings of one kind of model, without weights. Subclasses are frozen, keyword-only dataclasses.

    name: the catalogue's name. title: how people call it. engine: the class that `build` returns.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    engine: ClassVar[type[nn.Module]]

    @abc.abstractmethod
    def accepts(self, space: Space, conditions: Mapping[str, Space]) -> Refusal | None:
        """None if an engine can be built for this space as it is, else the reason. Bridges are tried by the caller."""

    @abc.abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The pieces this family is made of, in the order a newcomer should meet them."""

    @abc.abstractmethod
    def training(self, space: Space, items: int) -> Training:
        """How an engine for this space likes to be trained on this many items."""

    @abc.abstractmethod
    def build(
        self, space: Space, conditions: Mapping[str, Space], rows: Rows, base: nn.Module | None = None
    ) -> nn.Module:
        """A fresh engine; first weights come from `rows` (one row), or from `base` where shapes agree."""


class Objective(abc.ABC):
    """Another way to train an engine than its own: distillation, preference, adaptation."""

    @abc.abstractmethod
    def turns(self, engine: nn.Module, base: nn.Module | None) -> tuple[Turn, ...]:
        """Turns that replace the engine's own; `base` is the frozen model the run started from."""


class Recasts(abc.ABC):
    """An objective after which a model is of other settings than its base, such as one that draws in few steps."""

    @abc.abstractmethod
    def recast(self, family: Family) -> Family:
        """The base's family as the trained model will have it. Raises BadInput for a family it cannot train."""


def parameters_of(module: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def expand_like(t: Tensor, x: Tensor) -> Tensor:
    """(B,) made to broadcast against x (B, *event). The only place where times and noise levels are expanded.

    >>> import torch
    >>> expand_like(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return t.reshape(t.shape[0], *([1] * (x.ndim - 1)))
