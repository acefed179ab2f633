"""Samples that satisfy a constraint, always: symbols that would break it are left out while drawing.

The spelling of each symbol of the vocabulary (a character, a byte, a word, a pair of bytes) is fed through an
automaton or a language. Before a symbol is drawn, those are left out after which nothing can match any more, or nothing
that fits into the length that is left; the others keep their proportions:

    p(x | C) = prod_t p(x_t | x_<t) 1[x_t in A_t] / sum_{v in A_t} p(v | x_<t)
    A_t = {v: what begins with x_<t v can still satisfy C in time}

This is the locally renormalised distribution and not p(x) given that x satisfies C, which weighs each beginning by how
often the model itself would go on to satisfy it. With an automaton that accepts everything nothing is left out, and
the samples are bit for bit the unconstrained ones.

For a language that is wider than what its `accepts` takes, rows that it does not take are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How, Predicts, Samples
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.language import Language, State
from pellucid.core.patterns import Automaton
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.core.trace import Trace
from pellucid.families.next_symbol import SymbolHow, draw_symbols

__all__ = ["NEVER", "TRIES", "Finite", "Leash", "Nested", "Spelling", "Symbols", "Within", "too_long"]

Spelling: TypeAlias = str | bytes | None  # of a symbol; None for the one that ends a text

NEVER = 2**30  # symbols to a match that cannot be reached
MOST_CELLS = 2**26  # states times symbols
KEPT = 20_000  # states of a language whose symbols are remembered
TRIES = 50  # draws of a row that the language takes and its strictest reading does not


class Symbols(Protocol):
    """A constraint as it looks to a model: states, and what each symbol of its vocabulary makes of them."""

    name: str
    strict: bool  # is `reads` narrower than what the states lead to?

    def start(self) -> State:
        """Before the first symbol."""
        ...

    def costs(self, states: Sequence[State]) -> NDArray[np.int32]:
        """(B, V): symbols that are needed after each symbol to satisfy the constraint, `NEVER` where none will do."""
        ...

    def after(self, state: State, symbol: int) -> State:
        """The state after a symbol whose cost is below `NEVER`."""
        ...

    def cost(self, state: State) -> int:
        """Symbols that are needed from a state on; 0 where the constraint is satisfied."""
        ...

    def complete(self, state: State) -> bool:
        """Is the constraint satisfied if the text ends here?"""
        ...

    def reads(self, symbols: Sequence[int]) -> bool:
        """Is a text of these symbols, which end here, taken by the strictest reading of the constraint?"""
        ...


class Finite:
    """The symbols of a vocabulary on an automaton; the costs are the fewest symbols that there are.

    Args:
        spellings: V, as text for an automaton of characters and as bytes for one of bytes.

    >>> from pellucid.core.patterns import compiled
    >>> finite = Finite(compiled("(ab)+"), ["a", "b", "ab"])
    >>> finite.cost(0), [cost if cost < NEVER else None for cost in finite.costs([0])[0].tolist()]
    (1, [1, None, 0])
    """

    def __init__(self, automaton: Automaton, spellings: Sequence[Spelling]) -> None:
        self.automaton, self.spellings, self.strict = automaton, spellings, False
        self.name = f"the pattern '{automaton.pattern}'"
        states = automaton.states
        if states * len(spellings) > MOST_CELLS:
            raise BadInput(
                f"{self.name} has {states:,} states and the model {len(spellings):,} symbols",
                accepted=f"at most {MOST_CELLS:,} pairs of a state and a symbol",
                next="Make the pattern simpler, or repeat less.",
            )
        units = [[] if s is None else list(s) if isinstance(s, bytes) else [ord(c) for c in s] for s in spellings]
        longest = max(map(len, units), default=0)
        padded = np.array([u + [0] * (longest - len(u)) for u in units], np.int64).reshape(len(units), longest)
        sizes = np.array([len(u) for u in units])
        reached = np.repeat(np.arange(states, dtype=np.int32)[:, None], len(units), axis=1)
        for k in range(longest):
            reached = np.where(k < sizes, automaton.after(reached, padded[:, k]), reached)
        reached[:, sizes == 0] = -1
        self.following: NDArray[np.int32] = reached  # (S, V)
        self.left = self._distances()  # (S + 1,), the last for the state -1

    def _distances(self) -> NDArray[np.int32]:
        """Fewest symbols from each state to a match, backwards from the matches."""
        states = self.automaton.states
        froms, symbols = np.nonzero(self.following >= 0)
        edges = np.unique(froms * states + self.following[froms, symbols])
        back: list[list[int]] = [[] for _ in range(states)]
        for edge in edges.tolist():
            back[edge % states].append(edge // states)
        left = np.full(states + 1, NEVER, np.int32)
        waiting = np.flatnonzero(self.automaton.accepting).tolist()
        left[waiting] = 0
        for state in waiting:  # grows while it is read: nearest first
            for before in back[state]:
                if left[before] == NEVER:
                    left[before] = left[state] + 1
                    waiting.append(before)
        return left

    def start(self) -> State:
        return 0

    def costs(self, states: Sequence[State]) -> NDArray[np.int32]:
        return self.left[self.following[np.array(states, np.int64)]]

    def after(self, state: State, symbol: int) -> State:
        assert isinstance(state, int)
        return int(self.following[state, symbol])

    def cost(self, state: State) -> int:
        assert isinstance(state, int)
        return int(self.left[state])

    def complete(self, state: State) -> bool:
        assert isinstance(state, int)
        return bool(self.automaton.accepting[state])

    def reads(self, symbols: Sequence[int]) -> bool:
        state = 0
        for symbol in symbols:
            state = int(self.following[state, symbol]) if state >= 0 else -1
        return state >= 0 and bool(self.automaton.accepting[state])


class Nested:
    """The symbols of a vocabulary on a language with a memory; costs are those of the closings that it knows.

    Args:
        spellings: V; bytes are read as UTF-8. strict: is what the language `accepts` narrower than what it leads to?
    """

    def __init__(self, language: Language, spellings: Sequence[Spelling], *, strict: bool = False) -> None:
        self.name, self.spellings, self.strict = language.name, spellings, strict
        in_bytes = any(isinstance(s, bytes) for s in spellings)
        self.language: Language = _InBytes(language) if in_bytes else language
        self._tree: dict[str, _Branch] = {}
        self._symbol: dict[str, int] = {}
        for symbol, spelling in enumerate(spellings):
            if spelling:
                word = spelling.decode("latin-1") if isinstance(spelling, bytes) else spelling
                self._symbol.setdefault(word, symbol)
                here = self._tree
                for character in word[:-1]:
                    here = here.setdefault(character, _Branch([], {})).more
                here.setdefault(word[-1], _Branch([], {})).ends.append(symbol)
        self._longest = max(map(len, self._symbol), default=0)
        self._rows: dict[State, NDArray[np.int32]] = {}
        self._costs: dict[str, int] = {"": 0}

    def start(self) -> State:
        return self.language.start()

    def costs(self, states: Sequence[State]) -> NDArray[np.int32]:
        found = []
        for state in states:
            row = self._rows.get(state)
            if row is None:
                row = np.full(len(self.spellings), NEVER, np.int32)
                self._walk(state, self._tree, row)
                if len(self._rows) >= KEPT:
                    self._rows.clear()
                self._rows[state] = row
            found.append(row)
        return np.stack(found) if found else np.zeros((0, len(self.spellings)), np.int32)

    def _walk(self, state: State, tree: dict[str, _Branch], row: NDArray[np.int32]) -> None:
        for character, branch in tree.items():
            reached = self.language.after(state, character)
            if reached is not None:
                if branch.ends:
                    row[branch.ends] = self.cost(reached)
                self._walk(reached, branch.more, row)

    def after(self, state: State, symbol: int) -> State:
        spelling = self.spellings[symbol]
        assert spelling is not None
        for character in spelling.decode("latin-1") if isinstance(spelling, bytes) else spelling:
            reached = self.language.after(state, character)
            assert reached is not None
            state = reached
        return state

    def cost(self, state: State) -> int:
        closing = self.language.closing(state)
        if closing not in self._costs:
            if len(self._costs) >= KEPT:
                self._costs = {"": 0}
            fewest = [0] + [NEVER] * len(closing)  # symbols that spell its first characters
            for stop in range(1, len(closing) + 1):
                for size in range(1, min(stop, self._longest) + 1):
                    if fewest[stop - size] < NEVER and closing[stop - size : stop] in self._symbol:
                        fewest[stop] = min(fewest[stop], fewest[stop - size] + 1)
            self._costs[closing] = fewest[-1]
        return self._costs[closing]

    def complete(self, state: State) -> bool:
        return self.language.complete(state)

    def reads(self, symbols: Sequence[int]) -> bool:
        words = [self.spellings[symbol] or "" for symbol in symbols]
        return self.language.accepts("".join(w.decode("latin-1") if isinstance(w, bytes) else w for w in words))


@dataclass(frozen=True)
class _Branch:
    """Symbols that end at a character, and the characters that may follow it."""

    ends: list[int]
    more: dict[str, _Branch]


class _InBytes:
    """A language read from UTF-8 bytes, each a character of Latin-1; a state: the language's, bytes of a character."""

    def __init__(self, language: Language) -> None:
        self.language, self.name = language, language.name

    def start(self) -> State:
        return self.language.start(), b""

    def after(self, state: State, character: str) -> State | None:
        inner, pending = _halves(state)
        if not pending and character < "\x80":
            reached = self.language.after(inner, character)
            return None if reached is None else (reached, b"")
        pending += character.encode("latin-1")
        whole = _filled(pending)
        if whole is None:
            return None
        # all characters outside ASCII are alike to the language
        reached = self.language.after(inner, whole.decode())
        if reached is None:
            return None
        return (reached, b"") if len(whole) == len(pending) else (inner, pending)

    def complete(self, state: State) -> bool:
        inner, pending = _halves(state)
        return not pending and self.language.complete(inner)

    def closing(self, state: State) -> str:
        inner, pending = _halves(state)
        if not pending:
            return self.language.closing(inner)
        whole = _filled(pending)
        assert whole is not None
        reached = self.language.after(inner, whole.decode())
        return whole[len(pending) :].decode("latin-1") + self.language.closing(reached)

    def accepts(self, text: str) -> bool:
        try:
            return self.language.accepts(text.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError:
            return False


def _halves(state: State) -> tuple[State, bytes]:
    assert isinstance(state, tuple)
    return state


def _filled(pending: bytes) -> bytes | None:
    """The first UTF-8 character that begins with these bytes; None where none does."""
    for more in (b"", b"\x80", b"\x80\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80"):
        try:
            if len((pending + more).decode()) == 1:
                return pending + more
        except UnicodeDecodeError:
            continue
    return None


class Leash:
    """Where each row of a batch stands with its constraint, while symbols are drawn.

    Args:
        rows: B. ends: symbol 0 ends a text and pads what follows; else a text is over where it satisfies the constraint
            and nothing that fits can follow, or where no room is left.
        start: the state from which every row begins.
    """

    def __init__(self, symbols: Symbols, rows: int, *, ends: bool, start: State | None = None) -> None:
        self.symbols, self.ends = symbols, ends
        self.states: list[State] = [symbols.start() if start is None else start] * rows
        self.over = np.zeros(rows, bool)

    def narrow(self, logits: Tensor, room: int) -> Tensor:
        """logits (B, V) with -inf for what would break the constraint; `room` symbols are left, this one included.

        Rows that are over stay as they are. Raises BadInput where the model has no symbol that would do.
        """
        allowed = self.symbols.costs(self.states) < room
        whole = np.array([self.symbols.complete(state) for state in self.states], bool)
        if self.ends:
            allowed[:, 0] = whole
            allowed[self.over] = np.arange(allowed.shape[1]) == 0
        else:
            self.over |= whole & ~allowed.any(axis=1)
            allowed[self.over] = True
        if allowed.all():
            return logits
        narrowed = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -math.inf)
        if bool(narrowed.isneginf().all(dim=-1).any()):
            raise BadInput(
                f"no symbol that the model holds possible keeps {self.symbols.name}",
                next="Allow more, or leave the constraint out.",
            )
        return narrowed

    def took(self, symbols: Tensor) -> None:
        """Go on with the symbols (B,) that were drawn."""
        for row, symbol in enumerate(symbols.tolist()):
            if self.over[row]:
                continue
            if self.ends and symbol == 0:
                self.over[row] = True
            else:
                self.states[row] = self.symbols.after(self.states[row], symbol)


class Within(nn.Module, Samples):
    """An engine whose samples satisfy a constraint.

    Args:
        engine: predicts the next symbol, and draws by `SymbolHow`. space: its own; texts that end.
        symbols: the constraint. last: the same for rows that were drawn `TRIES` times in vain, whose every string is
            taken by the strictest reading; None where that is no narrower.

    again: rows that were drawn again so far. forced: those that only `last` made.
    """

    def __init__(self, engine: nn.Module, space: Tokens, symbols: Symbols, last: Symbols | None = None) -> None:
        super().__init__()
        if not isinstance(engine, Predicts) or not isinstance(engine, Samples):
            raise MissingCapability(f"{type(engine).__name__} does not predict its next symbol", accepted="Predicts")
        if not isinstance(engine.settings(), SymbolHow):
            raise MissingCapability(f"{type(engine).__name__} does not draw by SymbolHow", accepted="SymbolHow")
        if not space.ends:
            raise BadInput("the space is one of running text", accepted="texts that end", next="Go on with a prompt.")
        least = symbols.cost(symbols.start())
        if least > space.length:
            raise too_long(symbols, least, space.length)
        self.inner, self.space, self.symbols, self.last = engine, space, symbols, last
        self.again = self.forced = 0

    def settings(self) -> How:
        assert isinstance(self.inner, Samples)
        return self.inner.settings()

    @torch.no_grad()
    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        """(B, T)."""
        if not isinstance(how, SymbolHow):
            raise BadInput(f"how is {type(how).__name__}", accepted="SymbolHow", next="Start from engine.settings()")
        tokens = self._drawn(self.symbols, rows, condition, how, trace)
        if self.last is None:
            return tokens
        left = torch.arange(len(rows), device=tokens.device)  # rows that are still to be looked at
        for turn in range(TRIES + 1):
            left = left[torch.tensor([not self._accepted(row) for row in tokens[left].tolist()], dtype=torch.bool)]
            if not len(left):
                break
            # a likeliest text comes out the same again
            hopeless = turn == TRIES or how.temperature == 0.0
            self.again, self.forced = self.again + len(left), self.forced + hopeless * len(left)
            symbols = self.last if hopeless else self.symbols
            fresh = rows.take(left.to(rows.ids.device)).fork("again", turn)
            tokens[left] = self._drawn(symbols, fresh, condition.take(left), how, trace)
        return tokens

    def _accepted(self, row: list[int]) -> bool:
        return self.symbols.reads(row[: row.index(0)] if 0 in row else row)

    def _drawn(self, symbols: Symbols, rows: Rows, condition: Condition, how: SymbolHow, trace: Trace) -> Tensor:
        """(B, T), with the numbers that the engine's own `sample` would take."""
        engine, size = self.inner, self.space.length
        assert isinstance(engine, Predicts)
        cache, leash = engine.begin(condition, len(rows)), Leash(symbols, len(rows), ends=True)
        device = next((p.device for p in engine.parameters()), torch.device("cpu"))
        u = rows.fork("symbols").uniform(size, dtype=torch.float64).to(device)
        tokens = torch.zeros(len(rows), size, dtype=torch.int64, device=device)
        for t in range(size):
            logits, cache = engine.step(cache, tokens[:, max(0, t - 1) : t])
            tokens[:, t] = draw_symbols(leash.narrow(logits, size - t), u[:, t], how, tokens[:, :t])
            leash.took(tokens[:, t])
            if trace.wants("logits"):
                trace.keep("logits", t, logits)
            if trace.wants("token"):
                trace.keep("token", t, tokens[:, t])
            if leash.over.all():
                break  # the rest is padding
        return tokens


def too_long(symbols: Symbols, least: int, room: int) -> BadInput:
    """The error for a constraint that nothing satisfies in so many symbols."""
    if least >= NEVER:
        return BadInput(
            f"no token can satisfy {symbols.name}",
            why="Symbols of the model's vocabulary spell no text of that form.",
            next="Ask for what the model was trained on, or fit it on texts of that form.",
        )
    return BadInput(
        f"what satisfies {symbols.name} has at least {least} symbols, and there is room for {room}",
        accepted="a constraint that shorter texts satisfy",
    )
