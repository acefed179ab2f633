"""Going on with a text: symbols after a prompt, one after another, as they are drawn.

A model of windows sees the last of them: when a window is full, its newer half stays as the context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import Predicts
from pellucid.core.codec import Identity
from pellucid.core.errors import BadInput, MissingCapability, shown
from pellucid.core.language import State
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.pieces import joined
from pellucid.domains.text_files import text_of
from pellucid.domains.texts import TextCodec
from pellucid.drawing.within import NEVER, TRIES, Leash, Symbols, too_long
from pellucid.families.next_symbol import SymbolHow, draw_symbols
from pellucid.model import Fitted

__all__ = ["Drawn", "Next", "after_prompt", "given_by", "go_on", "go_on_many", "piece_of", "slides", "written"]


@dataclass(frozen=True)
class Drawn:
    """A piece that was drawn, its probability to the model, and the likeliest piece with its own."""

    piece: str
    probability: float
    likeliest: str
    highest: float


@dataclass(frozen=True)
class Next:
    """What was drawn next: symbols (B,) and the logits (B, V) that they were drawn from.

    over: (B,) bool: rows that had ended before, as a constraint says; their symbols do not count.
    """

    symbols: Tensor
    logits: Tensor
    over: NDArray[np.bool_]


def go_on(
    model: Fitted,
    prompt: str,
    *,
    length: int = 300,
    seed: int = 0,
    how: SymbolHow | None = None,
    stop: Sequence[str] = (),
    within: Symbols | None = None,
    row: int = 0,
) -> Iterator[Drawn]:
    """What the model writes after a prompt, piece by piece as it is drawn; a list's item ends where it ends.

    Args:
        prompt: may be empty; what the model never learned is read as its unknown piece.
        length: pieces, at most. how: temperature, top_k, top_p, min_p, penalty, no_repeat.
        stop: strings before which it ends; they are not given. Pieces that may begin one are held back until sure.
        within: what prompt and continuation satisfy together, see `constrained.symbols_of`; it holds for what is
            written without a stop. A running text ends where it is satisfied and nothing that fits can follow.
        row: whose random numbers are taken, see `go_on_many`.

    Raises:
        MissingCapability: no model of text that predicts its next symbol.
        BadInput: length below 1, an empty stop, a prompt of a list that leaves no room, or a constraint that nothing
            satisfies after this prompt in this length.
    """
    codec, given = given_by(model, prompt, length, stop)
    rows = Rows(seed, torch.tensor([row]))
    if within is None or not within.strict:
        yield from _once(model, codec, given, length, rows, how, stop, within)
        return
    for turn in range(TRIES):
        drawn = list(_once(model, codec, given, length, _again(rows, turn), how, stop, within))
        if within.reads(_symbols(codec, prompt + "".join(d.piece for d in drawn))):
            yield from drawn
            return
    raise _refused(within, prompt)


def _once(
    model: Fitted,
    codec: TextCodec,
    given: Tensor,
    length: int,
    rows: Rows,
    how: SymbolHow | None,
    stop: Sequence[str],
    within: Symbols | None,
) -> Iterator[Drawn]:
    """Pieces as they are drawn, until a stop or an end."""
    held: list[Drawn] = []
    for found in _going(model, codec, given, length, rows, how, within):
        symbol = int(found.symbols[0])
        if found.over[0] or (codec.form == "lines" and symbol == 0):
            break
        p = found.logits.softmax(-1)[0]
        likeliest = int(p.argmax())
        held.append(Drawn(piece_of(codec, symbol), float(p[symbol]), piece_of(codec, likeliest), float(p[likeliest])))
        text = "".join(drawn.piece for drawn in held)
        if any(word in text for word in stop):
            yield from _before(held, min(text.index(word) for word in stop if word in text))
            return
        # as much of the end as may begin a stop is kept back
        waiting = max((n for word in stop for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
        sure = len(text) - waiting
        while held and len(held[0].piece) <= sure:
            sure -= len(held[0].piece)
            yield held.pop(0)
    yield from held


def go_on_many(
    model: Fitted,
    prompt: str,
    count: int,
    *,
    length: int = 300,
    seed: int = 0,
    how: SymbolHow | None = None,
    stop: Sequence[str] = (),
    within: Symbols | None = None,
) -> list[str]:
    """`count` continuations of a prompt, written side by side. Arguments and errors as of `go_on`.

    Number i is what `go_on` would draw with row i's random numbers, whatever the count.
    """
    codec, given = given_by(model, prompt, length, stop)
    if count < 1:
        raise BadInput(f"count is {count}", accepted="1 or more")
    rows = Rows(seed, torch.arange(count))
    texts = _side_by_side(model, codec, given, length, rows, how, stop, within)
    if within is None or not within.strict:
        return texts
    for turn in range(TRIES):
        left = [i for i, text in enumerate(texts) if not within.reads(_symbols(codec, prompt + text))]
        if not left:
            return texts
        fresh = _again(rows.take(torch.tensor(left)), turn + 1)
        for i, text in zip(left, _side_by_side(model, codec, given, length, fresh, how, stop, within), strict=True):
            texts[i] = text
    raise _refused(within, prompt)


def _side_by_side(
    model: Fitted,
    codec: TextCodec,
    given: Tensor,
    length: int,
    rows: Rows,
    how: SymbolHow | None,
    stop: Sequence[str],
    within: Symbols | None,
) -> list[str]:
    """One text a row."""
    count = len(rows)
    texts, over = [""] * count, np.zeros(count, bool)
    for found in _going(model, codec, given.expand(count, -1), length, rows, how, within):
        for i, symbol in enumerate(found.symbols.tolist()):
            if over[i] or found.over[i] or (codec.form == "lines" and symbol == 0):
                over[i] = True
                continue
            texts[i] += piece_of(codec, symbol)
            places = [at for word in stop if (at := texts[i].find(word)) >= 0]
            if places:
                texts[i], over[i] = texts[i][: min(places)], True
        if over.all():
            break
    return texts


def slides(model: Fitted, prompt: str, length: int) -> str | None:
    """What is to be said where prompt and continuation are longer than the model sees at once; None where they fit."""
    codec = model.codec
    if not isinstance(codec, TextCodec) or codec.form == "lines":
        return None
    size = codec.space.length
    if len(codec.symbols(text_of([prompt], unit=codec.unit)) if prompt else ()) + length <= size:
        return None
    return (
        f"The model sees at most {size} {codec.unit} at once: what is longer goes on from the last {size // 2} to "
        f"{size - 1}, and what stands before is forgotten."
    )


@torch.no_grad()
def written(
    engine: Predicts,
    space: Tokens,
    given: Tensor,
    length: int,
    rows: Rows,
    how: SymbolHow,
    never: int | None = None,
    leash: Leash | None = None,
) -> Iterator[Next]:
    """Symbols after `given`, one after another for all rows at once.

    Args:
        given: (B, t) what stands before, of which a window's symbols are seen. rows: B, whose numbers are drawn.
        never: a symbol that is not to be drawn. leash: keeps a constraint; it stands behind `given`.

    When a window is full, its newer half stays as the context and the older half is forgotten.
    """
    size, tokens, cache = space.length, given, None
    most = min(length, size - given.shape[1]) if space.ends else length
    over = np.zeros(len(given), bool)
    u = rows.fork("go on").uniform(length, dtype=torch.float64).to(given.device)
    for k in range(length):
        if tokens.shape[1] >= size and not (cache is None and space.ends):
            if space.ends:
                return
            tokens, cache = tokens[:, -(size // 2) :], None
        new = tokens if cache is None else tokens[:, -1:]
        if cache is None:
            cache = engine.begin(Condition(), len(tokens))
        logits, cache = engine.step(cache, new)
        if never is not None:
            logits[:, never] = -math.inf
        if leash is not None:
            logits = leash.narrow(logits, most - k)
            over = leash.over.copy()
        symbols = draw_symbols(logits, u[:, k], how, tokens)
        tokens = torch.cat((tokens, symbols[:, None]), dim=1)
        if leash is not None:
            leash.took(symbols)
        yield Next(symbols, logits, over)


def given_by(model: Fitted, prompt: str, length: int, stop: Sequence[str]) -> tuple[TextCodec, Tensor]:
    """The codec, and the prompt's symbols (1, t). Raises what `go_on` raises."""
    codec = model.codec
    model.need(Predicts, "go on with a text")
    if not isinstance(codec, TextCodec) or not isinstance(model.bridge, Identity):
        raise MissingCapability(f"'{model.name}' learned no text", accepted="a run that was fitted on a text")
    if length < 1:
        raise BadInput(f"length is {length}", accepted="1 or more")
    if "" in stop:
        raise BadInput("a stop is empty", accepted="one character or more", why="it would stand everywhere")
    given = codec.symbols(text_of([prompt], unit=codec.unit)).astype(np.int64) if prompt else np.zeros(0, np.int64)
    if codec.form == "lines" and len(given) >= codec.space.length:
        raise BadInput(f"the prompt has {len(given)} {codec.unit}", accepted=f"at most {codec.space.length - 1}")
    return codec, torch.from_numpy(given)[None]


def _going(
    model: Fitted,
    codec: TextCodec,
    given: Tensor,
    length: int,
    rows: Rows,
    how: SymbolHow | None,
    within: Symbols | None = None,
) -> Iterator[Next]:
    device = next((p.device for p in model.engine.parameters()), given.device)
    model.engine.eval()
    engine = model.need(Predicts, "go on with a text")
    leash = None
    if within is not None:
        state = after_prompt(within, codec, given, length)
        leash = Leash(within, len(given), ends=codec.space.ends, start=state)
    # what was never learned cannot be written
    for found in written(engine, codec.space, given.to(device), length, rows, how or SymbolHow(), codec.unknown, leash):
        yield replace(found, symbols=found.symbols.cpu(), logits=found.logits.cpu().double())


def after_prompt(within: Symbols, codec: TextCodec, given: Tensor, length: int) -> State:
    """The state in which a prompt (B, t), the same in all rows, leaves a constraint.

    Raises BadInput where nothing satisfies it after this prompt, or nothing of this length.
    """
    state = within.start()
    for k, symbol in enumerate(given[0].tolist()):
        if within.costs([state])[0, symbol] >= NEVER:
            text = "".join(piece_of(codec, s) for s in given[0, : k + 1].tolist())
            raise BadInput(f"nothing that begins with {shown(text)} satisfies {within.name}", next="Change the prompt.")
        state = within.after(state, symbol)
    room = min(length, codec.space.length - given.shape[1]) if codec.space.ends else length
    if within.cost(state) > room:
        raise too_long(within, within.cost(state), room)
    return state


def _again(rows: Rows, turn: int) -> Rows:
    return rows.fork("again", turn - 1) if turn else rows


def _symbols(codec: TextCodec, text: str) -> list[int]:
    if not text:
        return []
    found: list[int] = codec.symbols(text_of([text], unit=codec.unit)).tolist()
    return found


def _refused(within: Symbols, prompt: str) -> BadInput:
    return BadInput(
        f"none of {TRIES} texts that begin with {shown(prompt)} is {within.name} by its strictest reading",
        next="Change the prompt, or give it more room.",
    )


def _before(held: list[Drawn], length: int) -> Iterator[Drawn]:
    """The pieces of the first `length` characters; one that reaches further is cut."""
    for drawn in held:
        if length <= 0:
            return
        yield drawn if len(drawn.piece) <= length else replace(drawn, piece=drawn.piece[:length])
        length -= len(drawn.piece)


def piece_of(codec: TextCodec, symbol: int) -> str:
    """What a symbol writes; nothing for the end of a line."""
    if codec.form == "lines" and symbol == 0:
        return ""
    if codec.unit == "bytes":
        return joined(np.array([symbol - (codec.form == "lines")]), (), "bytes")
    return codec.pieces[symbol - (codec.unknown or 0) - 1]
