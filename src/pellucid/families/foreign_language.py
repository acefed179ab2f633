"""A language model made elsewhere: a causal model of transformers, asked like an engine of our own.

    log p(x) = sum_t log p(x_t | start, x_1, ..., x_{t-1})

exactly, by the chain rule. The model is shown a start symbol of its own (its `bos`) and then the text. Samples come
from its own `generate`, which picks the likeliest symbol; what it may pick from is handed to it step by step, as drawn
from the model's own chances with the row's own random numbers. So a row does not depend on its neighbours, and nothing
of the loop, the cache or the weights is changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Attends, How, LogProb, Part, Predicts, Samples, Scores, Site, Spells
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Trace
from pellucid.families.foreign_attention import Place, places_in, recording
from pellucid.families.next_symbol import SymbolHow, draw_symbols

__all__ = ["AttendingLanguage", "ForeignLanguage", "LanguageCache"]


@dataclass(frozen=True)
class LanguageCache:
    """What the model keeps of the symbols so far.

    Args:
        past: its own cache, None while empty. ended: (B,) bool, rows whose symbol 0 has come. slots: filled so far.
    """

    past: Any
    ended: Tensor
    slots: int


class ForeignLanguage(nn.Module, Samples, Scores, Spells, Predicts):
    """A causal language model behind symbols of ours.

    Args:
        model: of transformers, with a head over its vocabulary and a `generate`.
        space: Tokens of one alphabet, as large as the model's. Where it ends, symbol 0 is the model's `end`.
        start: the model's number of the symbol that it is shown before a text.
        end: the model's number of the symbol that ends a text, None for a running text.
    """

    symbol_rows: Tensor

    def __init__(self, model: nn.Module, space: Tokens, start: int, end: int | None = None) -> None:
        super().__init__()
        if space.ends != (end is not None) or not isinstance(space.vocab, int):
            raise BadInput(f"the space is {space} and end is {end}", accepted="one alphabet, and an end if it ends")
        self.model, self.space, self.start = model, space, start
        numbers = torch.arange(space.vocab)
        if end is not None:  # symbol 0 and the end change places
            numbers[0], numbers[end] = end, 0
        self.register_buffer("symbol_rows", numbers, persistent=False)  # (V,) of each symbol; its own inverse

    def parts(self) -> tuple[Part, ...]:
        """The pieces of a causal language model, as this one has them."""
        name = type(self.model).__name__
        return (
            Part("chain rule", "A text is a row of symbols. Its probability is the probability of the first, times "
                 "that of the second given the first, and so on. Nothing is approximated.",
                 "p(x) = product over t of p(x_t | x_1, ..., x_{t-1})"),
            Part("network", f"At each place the network ({name}) looks back at earlier places and gives every "
                 "possible next symbol a probability.", "softmax(W h_t)"),
            Part("sampling", "The model's own loop writes one symbol after another, each drawn by the probabilities "
                 "that the model gives.", "x_t ~ p(. | x_1, ..., x_{t-1})"),
        )  # fmt: skip

    # -- Predicts ------------------------------------------------------------------------------------------------

    def next_logits(self, tokens: Tensor, condition: Condition, at: int | None = None) -> Tensor:
        """tokens (B, T) to (B, T + 1, V), or (B, V) with `at`. Past the last position every symbol is -inf."""
        logits, ended = self._logits(tokens[:, : self.space.length - 1]), self._ended_before(tokens)
        wanted = range(tokens.shape[1] + 1) if at is None else [at]
        found = [self._padded(logits[:, t] if t < self.space.length else None, ended[:, t]) for t in wanted]
        return torch.stack(found, dim=1) if at is None else found[0]

    def begin(self, condition: Condition, batch: int) -> LanguageCache:
        return LanguageCache(None, torch.zeros(batch, dtype=torch.bool, device=self.symbol_rows.device), 0)

    @torch.no_grad()
    def step(self, cache: LanguageCache, tokens: Tensor) -> tuple[Tensor, LanguageCache]:
        """tokens (B, k) to the logits (B, V) of the next symbol; the cache that came in stays as it was."""
        seen = max(0, cache.slots - 1) + tokens.shape[1]
        ended = cache.ended | (tokens == 0).any(dim=1) if self.space.ends else cache.ended
        new = self.symbol_rows[tokens]
        if not cache.slots:
            new = torch.cat((new.new_full((len(tokens), 1), self.start), new), dim=1)
        new = new[:, : self.space.length - cache.slots]  # the last symbol of all has no slot: nothing follows it
        past, logits = cache.past, None
        if new.shape[1]:
            mask = new.new_ones(len(new), cache.slots + new.shape[1])
            out = self.model(input_ids=new, attention_mask=mask, past_key_values=_own(past), use_cache=True)
            past = out.past_key_values
            logits = _wide(out.logits[:, -1])[:, self.symbol_rows] if seen < self.space.length else None
        return self._padded(logits, ended), LanguageCache(past, ended, cache.slots + new.shape[1])

    def _logits(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) to (B, T + 1, V): row t says what follows the t symbols before."""
        shown = self._shown(tokens)
        out = self.model(input_ids=shown, attention_mask=torch.ones_like(shown), use_cache=False)
        return _wide(out.logits)[..., self.symbol_rows]

    def _shown(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) to what the model reads, (B, T + 1): the start first."""
        return torch.cat((tokens.new_full((len(tokens), 1), self.start), self.symbol_rows[tokens]), dim=1)

    def _padded(self, logits: Tensor | None, ended: Tensor) -> Tensor:
        """(B, V); None for the position after the last. Ended rows go on with 0 for certain."""
        if logits is None:
            return torch.full((len(ended), self.space.symbols), -math.inf, device=ended.device)
        if not self.space.ends:
            return logits
        certain = torch.where(torch.arange(logits.shape[1], device=logits.device) == 0, 0.0, -math.inf)
        return torch.where(ended[:, None], certain.to(logits.dtype), logits)

    def _ended_before(self, tokens: Tensor) -> Tensor:
        """(B, T + 1) bool: has symbol 0 come before position t?"""
        if not self.space.ends:
            return torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.bool, device=tokens.device)
        ended = (tokens == 0).cumsum(1) > 0
        return torch.cat((ended.new_zeros(len(tokens), 1), ended), dim=1)

    # -- Scores, Spells ------------------------------------------------------------------------------------------

    def spell(self, batch: Batch, rows: Rows) -> Tensor:
        each = self._logits(batch.x[:, :-1]).log_softmax(-1).gather(-1, batch.x[..., None]).squeeze(-1)
        return torch.where(self._ended_before(batch.x)[:, :-1], 0.0, each) if self.space.ends else each

    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(self.spell(batch, rows).sum(-1), "exact")

    # -- Samples -------------------------------------------------------------------------------------------------

    def settings(self) -> SymbolHow:
        return SymbolHow()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T) from the model's own `generate`; of rows that ended the rest is 0."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        length, device = self.space.length, self.symbol_rows.device
        tokens = torch.zeros(len(rows), length, dtype=torch.int64, device=device)
        if not len(rows):
            return tokens
        draw = _Drawn(self, rows, how, trace)
        shown = tokens.new_full((len(rows), 1), self.start)
        with _asked(self.model, length, int(self.symbol_rows[0]) if self.space.ends else None):
            made = self.model.generate(  # type: ignore[operator]
                shown, attention_mask=torch.ones_like(shown), logits_processor=[draw]
            )
        written = self.symbol_rows[made[:, 1 : length + 1]]
        tokens[:, : written.shape[1]] = written
        return tokens


class AttendingLanguage(ForeignLanguage, Attends):
    """The same, of a model whose attention is known and can be rebuilt."""

    def places(self) -> tuple[Place, ...]:
        """Where the model attends; `recording(engine.places())` watches them while anything runs."""
        return places_in(self.model)

    def sites(self) -> tuple[Site, ...]:
        return tuple(place.site("next symbols", "symbols, the start first") for place in self.places())

    @torch.no_grad()
    def attention(self, site: Site, x: Tensor, condition: Condition) -> Tensor:
        """x (B, T) to (B, heads, T, T): row t is where the guess of symbol t looked, column 0 the start."""
        places = {place.name: place for place in self.places()}
        if site.name not in places:
            raise BadInput(f"site is '{site.name}'", accepted=", ".join(places))
        with recording([places[site.name]]) as seen:
            self._logits(x[:, :-1])
        return seen.require().weights[site.name][0].to(x.device)


class _Drawn:
    """Leaves `generate` one symbol to pick: the one that the row's random number draws."""

    def __init__(self, engine: ForeignLanguage, rows: Rows, how: SymbolHow, trace: Trace) -> None:
        self.engine, self.how, self.trace = engine, how, trace
        length, device = engine.space.length, engine.symbol_rows.device
        self.u = rows.fork("symbols").uniform(length, dtype=torch.float64).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, t + 1), scores (B, V) to scores that leave one symbol a row."""
        numbers, before = self.engine.symbol_rows, self.engine.symbol_rows[input_ids[:, 1:]]
        t, logits = before.shape[1], _wide(scores)[:, numbers]
        symbols = draw_symbols(logits, self.u[:, t], self.how, before)
        for name, value in (("logits", logits), ("token", symbols)):
            if self.trace.wants(name):
                self.trace.keep(name, t, value)
        return torch.full_like(scores, -math.inf).scatter(1, numbers[symbols][:, None], 0.0)


@contextmanager
def _asked(model: Any, length: int, end: int | None) -> Iterator[None]:
    """The model's settings of `generate` put aside: so many symbols, the likeliest each time, no other filter."""
    before = model.generation_config
    asked = type(before)(max_new_tokens=length, do_sample=False, num_beams=1, use_cache=True)
    asked.eos_token_id, asked.pad_token_id = end, end
    model.generation_config = asked
    try:
        yield
    finally:
        model.generation_config = before


def _own(past: Any) -> Any:
    """A cache that may grow without the one it was taken from: tensors are shared, and never written into."""
    if past is None:
        return None
    twin = copy.copy(past)
    twin.layers = [copy.copy(layer) for layer in past.layers]
    return twin


def _wide(x: Tensor) -> Tensor:
    """Float32 at least: sums of many logarithms need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
