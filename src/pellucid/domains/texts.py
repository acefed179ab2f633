"""Texts as events: each piece (a character, a byte, a word) is a symbol; windows of a running text, or lines that end.

Lines end with symbol 0; a running text does not end. Pieces that were not learned share one symbol, which is said
wherever it matters; bytes need none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Batch, Condition, Examples
from pellucid.core.codec import Codec, Domain, Measures
from pellucid.core.errors import BadInput, shown
from pellucid.core.rows import Rows
from pellucid.core.space import Space, Tokens
from pellucid.domains.pieces import Unit, visible
from pellucid.domains.stored import no_tensors, stored_settings
from pellucid.domains.text_files import TextData

__all__ = ["TextCodec", "TextExamples", "Texts", "separated"]

UNKNOWN = "\ufffd"  # how a piece that was not learned is written
RULE = "-" * 40  # between two samples of a running text


@dataclass(frozen=True, kw_only=True)
class Texts(Domain[TextData]):
    """Settings of the text domain.

    vocabulary: pieces that get a symbol of their own, at most; the most frequent ones.
    """

    kind = "text"

    vocabulary: int = 50_000

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise BadInput(f"vocabulary is {self.vocabulary}", accepted="1 or more")

    def learn(self, items: TextData) -> TextCodec:
        """A codec for texts of these pieces, and items of this length."""
        if not len(items):
            raise BadInput("there is no text", accepted="at least one item")
        length = items.window + (items.form == "lines")  # so that the longest line can end, too
        if items.unit == "bytes":
            return TextCodec(items.form, items.unit, length, ())
        counts = np.bincount(_covered(items), minlength=len(items.pieces))
        order = np.lexsort((np.arange(len(counts)), -counts))
        chosen = [items.pieces[i] for i in order.tolist() if counts[i] and items.pieces[i] != UNKNOWN]
        return TextCodec(items.form, items.unit, length, tuple(chosen[: self.vocabulary]))


@dataclass(frozen=True, kw_only=True)
class _Stored:
    form: Literal["running", "lines"]
    unit: Unit
    length: int
    pieces: tuple[str, ...]


class TextCodec(Codec[TextData], Measures):
    """Piece k of the vocabulary becomes symbol k + 1, or k + 2 where symbol 0 ends the lines; 0 (1) is the unknown one.

    Args:
        form: "running" or "lines". unit: what a piece is. length: symbols in one event.
        pieces: the vocabulary, the most frequent first; empty for bytes, which are their own symbols.

    >>> from pellucid.domains.text_files import text_of
    >>> names = text_of(["Ada", "Bo", "Abe"])
    >>> codec = Texts().learn(names)
    >>> codec.space, codec.encode(names)[1].tolist()
    (Tokens(vocab=9, length=4, ends=True), [3, 8, 0, 0])
    >>> codec.decode(codec.encode(names), Condition(), Rows(0, torch.arange(3))).texts()
    ['Ada', 'Bo', 'Abe']
    """

    kind = "text"

    def __init__(
        self, form: Literal["running", "lines"], unit: Unit, length: int, pieces: tuple[str, ...] = ()
    ) -> None:
        if length < 1 or len(set(pieces)) != len(pieces) or bool(pieces) == (unit == "bytes") or "" in pieces:
            raise BadInput(
                f"a text of {unit} has {len(pieces)} pieces and events of {length}",
                accepted="distinct pieces (none of bytes), and events of 1 or more",
            )
        self.form, self.unit, self.pieces, self._length = form, unit, pieces, length
        self._first = (form == "lines") + (unit != "bytes")  # symbol of the first piece
        self._symbol = {piece: k + self._first for k, piece in enumerate(pieces)}

    @property
    def space(self) -> Tokens:
        vocab = self._first + (256 if self.unit == "bytes" else len(self.pieces))
        return Tokens(vocab, self._length, ends=self.form == "lines", running=self.form == "running")

    @property
    def conditions(self) -> Mapping[str, Space]:
        return {}

    @property
    def unknown(self) -> int | None:
        """The symbol of pieces that were not learned; None for bytes."""
        return None if self.unit == "bytes" else self._first - 1

    def reading(self) -> dict[str, Any]:
        """How a text is read so that it fits this codec."""
        length = {"window": self._length} if self.form == "running" else {}
        return {"form": self.form, "unit": self.unit, **length}

    def symbols(self, items: TextData) -> NDArray[np.int32]:
        """(n,) the symbol of each piece of the text that the items are stretches of."""
        if items.unit != self.unit:
            raise BadInput(f"the text is cut into {items.unit}", accepted=f"{self.unit}, as in training")
        if self.unit == "bytes":
            return items.codes.astype(np.int32) + self._first
        table = np.array([self._symbol.get(piece, self._first - 1) for piece in items.pieces], np.int32)
        return table[items.codes] if len(table) else np.zeros(0, np.int32)

    def encode(self, items: TextData) -> Tensor:
        return TextExamples(self, items).take(torch.arange(len(items))).x

    def unlearned(self, items: TextData) -> dict[str, int]:
        """Pieces of the items that were not learned, and how often each occurs, the most frequent first."""
        if self.unit == "bytes":
            return {}
        counts = np.bincount(_covered(items), minlength=len(items.pieces))
        found = {p: int(c) for p, c in zip(items.pieces, counts.tolist(), strict=True) if c and p not in self._symbol}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def known(self, items: TextData) -> Condition:
        return Condition()

    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        _no_words(where)
        return Condition()

    def prior(self, rows: Rows) -> Condition:
        return Condition()

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> TextData:
        """One string a row; the unknown symbol becomes the replacement character."""
        symbols = x.detach().cpu().numpy().astype(np.int64)
        lengths = np.full(len(symbols), self._length)
        if self.form == "lines":
            ended = np.concatenate((symbols == 0, np.ones((len(symbols), 1), bool)), axis=1)
            lengths = ended.argmax(axis=1)
        # with an unknown symbol, codes count from it; symbol 0 that ends a line lies in no item
        codes = np.maximum(symbols - self._first + (self.unit != "bytes"), 0).reshape(-1)
        return TextData(
            codes=codes,
            pieces=() if self.unit == "bytes" else (UNKNOWN, *self.pieces),
            starts=np.arange(len(symbols)) * self._length,
            lengths=lengths,
            form=self.form,
            unit=self.unit,
            source="decoded",
        )

    def meets(self, items: TextData, where: Mapping[str, object]) -> NDArray[np.bool_]:
        _no_words(where)
        return np.ones(len(items), dtype=np.bool_)

    def tolerance(self) -> float:
        return 0.0

    def log_volume(self, x: Tensor) -> Tensor:
        """(B,) zeros: symbols have probabilities."""
        return torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)

    def dimensions(self) -> int:
        return self._length

    def show(self, items: TextData, limit: int = 64) -> report.Code:
        return report.Code(separated(items, limit))

    def plain(self) -> dict[str, Any]:
        return {"form": self.form, "unit": self.unit, "length": self._length, "pieces": list(self.pieces)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TextCodec:
        no_tensors(tensors)
        stored = stored_settings(_Stored, plain)
        return cls(stored.form, stored.unit, stored.length, stored.pieces)


class TextExamples(Examples):
    """Windows of a text, or lines, made of the text's symbols when they are asked for.

    Args:
        codec: learned on texts of these pieces. items: windows or lines, in the order of their ids.

    Raises BadInput for windows of another length, or a line that is longer than those learned from.
    """

    def __init__(self, codec: TextCodec, items: TextData) -> None:
        self.length, self.ends = codec.space.length, codec.space.ends
        longest = items.window
        if len(items) and not self.ends and (items.lengths != self.length).any():
            raise BadInput(f"windows have {longest} {items.unit}", accepted=f"{self.length}, as in training")
        if longest > self.length:
            text = items.take([int(items.lengths.argmax())]).texts()[0]
            raise BadInput(f"an item has {longest} {items.unit}: {shown(text)}", accepted=f"at most {self.length - 1}")
        self._symbols = torch.from_numpy(codec.symbols(items))
        self._starts, self._lengths = torch.from_numpy(items.starts), torch.from_numpy(items.lengths)

    def __len__(self) -> int:
        return len(self._starts)

    def take(self, ids: Tensor) -> Batch:
        """Windows that start one after another are views of one stretch: a hundred million cost no memory."""
        starts = self._starts[ids]
        if self.ends:
            place = torch.arange(self.length)
            there = place < self._lengths[ids, None]
            at = torch.where(there, starts[:, None] + place, 0)
            x = torch.where(there, self._symbols[at].long() if len(self._symbols) else at, 0)
            return Batch(x, ids)
        step = int(starts[1] - starts[0]) if len(ids) > 1 else 1
        if len(ids) and 0 < step <= self.length and bool((starts[1:] - starts[:-1] == step).all()):
            first = int(starts[0])
            x = self._symbols[first : first + (len(ids) - 1) * step + self.length].long().unfold(0, self.length, step)
        else:
            x = self._symbols[starts[:, None] + torch.arange(self.length)].long()
        return Batch(x, ids, fresh=self._fresh(ids, starts))

    def _fresh(self, ids: Tensor, starts: Tensor) -> Tensor:
        """(B,) symbols at a window's end that the window before it, in the order of ids, did not show."""
        before = self._starts[(ids - 1).clamp_min(0)]
        step = (starts - before).clamp(0, self.length)
        return torch.where((ids == 0) | (starts < before), self.length, step)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.length} {self.ends}".encode())
        for tensor in (self._symbols, self._starts, self._lengths):
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()

    def held(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self._symbols, self._starts, self._lengths))

    def groups(self) -> Tensor | None:
        return None


def separated(items: TextData, limit: int | None = None) -> str:
    """The items as one text: lines under one another, windows of a running text with a rule between."""
    return (f"\n{RULE}\n" if items.form == "running" else "\n").join(visible(text) for text in items.texts(limit))


def _covered(items: TextData) -> NDArray[np.integer]:
    """Codes that some item covers, each place once."""
    if not len(items):
        return items.codes[:0]
    places = len(items.codes) + 1
    marks = np.bincount(items.starts, minlength=places)
    marks -= np.bincount(items.starts + items.lengths, minlength=places)
    return items.codes[np.cumsum(marks[:-1]) > 0]


def _no_words(where: Mapping[str, object]) -> None:
    if where:
        raise BadInput(f"'{next(iter(where))}' was asked of a text", accepted="nothing: a text has no conditions")
