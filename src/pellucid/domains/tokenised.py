"""Texts in the pieces of a vocabulary that was made elsewhere: of a tokenizer, or of a plain table of symbols.

The model has learned its own numbers for its own pieces, so a codec of ours takes them as they are. Where items end,
symbol 0 must be the end, and changes places with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core import report
from pellucid.core.batch import Condition
from pellucid.core.codec import Codec, Measures
from pellucid.core.errors import BadInput, shown
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed
from pellucid.core.space import Space, Tokens
from pellucid.domains.stored import no_tensors, stored_settings
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import separated

__all__ = ["TokenCodec", "Vocabulary", "vocabulary_of"]

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ANCHOR = "a"  # a piece before the one that is read, so that a space at its beginning is not dropped


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The pieces of a model, by its own numbers, and how a text is cut into them.

    pieces: (V,) strings; bytes that are no letter by themselves are kept as surrogates. cut: a text to numbers.
    start, end: the numbers that begin and end a text, None where there is none. table: is it a plain table?
    """

    pieces: tuple[str, ...]
    cut: Callable[[str], list[int]]
    start: int | None = None
    end: int | None = None
    table: bool = False

    def number(self, symbol: str | int) -> int:
        """The number of one symbol, that is named by itself or by its number."""
        if isinstance(symbol, int):
            if not 0 <= symbol < len(self.pieces):
                raise BadInput(f"symbol {symbol} does not exist", accepted=f"0 to {len(self.pieces) - 1}")
            return symbol
        found = [k for k, piece in enumerate(self.pieces) if piece == symbol]
        if not found:
            raise BadInput(f"{shown(symbol)} is no symbol of the model", accepted="one of its pieces, or a number")
        return found[0]


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer of transformers, or of a table: symbols in the order of their numbers, or a dict.

    Args:
        size: numbers that the model knows; those without a piece are written as <number>.

    Raises BadInput for anything else, or a table with more symbols than the model knows.

    >>> table = vocabulary_of(["<s>", "a", "b", "ab"], 5)
    >>> table.cut("abba"), table.pieces[4]
    ([3, 2, 1], '<4>')
    """
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return _of_tokenizer(tokenizer, size)
    if isinstance(tokenizer, Mapping):
        named = dict(tokenizer)
        if not all(isinstance(k, str) and isinstance(v, int) for k, v in named.items()):
            raise BadInput("a table came with other than names and numbers", accepted='{"a": 0, "b": 1}')
    elif isinstance(tokenizer, Sequence) and not isinstance(tokenizer, str):
        named = {str(symbol): k for k, symbol in enumerate(tokenizer)}
    else:
        raise BadInput(
            f"tokenizer is a {type(tokenizer).__name__}",
            accepted='a tokenizer of transformers, or a table of symbols such as ["a", "b"] or {"a": 0, "b": 1}',
        )
    if not named or "" in named or min(named.values()) < 0 or max(named.values()) >= size:
        raise BadInput(
            f"the table has {len(named)} symbols, the model {size}", accepted="numbers from 0 to those of the model"
        )
    pieces = [f"<{k}>" for k in range(size)]
    for symbol, number in named.items():
        pieces[number] = symbol
    return Vocabulary(tuple(pieces), _longest(named), table=True)


def _longest(named: Mapping[str, int]) -> Callable[[str], list[int]]:
    """Cut by taking the longest symbol that fits, from the left."""
    longest = max(map(len, named))

    def cut(text: str) -> list[int]:
        out, at = [], 0
        while at < len(text):
            fits = next((n for n in range(longest, 0, -1) if text[at : at + n] in named and at + n <= len(text)), 0)
            if not fits:
                raise BadInput(f"the model has no symbol for {shown(text[at])}", accepted="texts in its own symbols")
            out.append(named[text[at : at + fits]])
            at += fits
        return out

    return cut


def _of_tokenizer(tokenizer: Any, size: int) -> Vocabulary:
    known = min(size, len(tokenizer))
    names = tokenizer.convert_ids_to_tokens(list(range(known)))
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"][-1:]
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = tokenizer.decode(anchor, **plain)
    letters = _letters() if _writes_bytes(tokenizer) else None
    pieces = []
    for number in range(size):
        name = names[number] if number < known else None
        if name is None:
            pieces.append(f"<{number}>")
        elif match := BYTE.fullmatch(name):
            pieces.append(bytes([int(match[1], 16)]).decode("utf-8", "surrogateescape"))
        elif letters is not None and number not in tokenizer.all_special_ids and all(c in letters for c in name):
            pieces.append(bytes(letters[c] for c in name).decode("utf-8", "surrogateescape"))
        else:
            pieces.append(tokenizer.decode([*anchor, number], **plain)[len(before) :] or name)

    def cut(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id
    return Vocabulary(tuple(pieces), cut, end if start is None else start, end)


def _writes_bytes(tokenizer: Any) -> bool:
    """Does it write each byte as a letter, as GPT-2 does?"""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "ByteLevel" in repr(getattr(backend, "decoder", None)) or hasattr(tokenizer, "byte_decoder")


def _letters() -> dict[str, int]:
    """The letter of each byte: itself where it can be seen, else one from 256 on.

    Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2
    """
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + k): b for k, b in enumerate(rest)}


@dataclass(frozen=True, kw_only=True)
class _Stored:
    form: Literal["running", "lines"]
    length: int
    pieces: tuple[str, ...]
    end: int | None = None
    table: bool = False


class TokenCodec(Codec[TextData], Measures):
    """The model's own numbers are the symbols; where items end, its end and symbol 0 change places.

    Args:
        vocabulary: of the model. form: "running" or "lines". length: symbols of one event.
        end: the model's number of the end, for lines.

    >>> from pellucid.domains.text_files import text_of
    >>> codec = TokenCodec(vocabulary_of(["a", "b", "."], 3), "lines", 4, end=2)
    >>> names = codec.recut(text_of(["ab", "b"]))
    >>> codec.encode(names).tolist(), names.texts()
    ([[2, 1, 0, 0], [1, 0, 0, 0]], ['ab', 'b'])
    """

    kind = "text"

    def __init__(
        self, vocabulary: Vocabulary, form: Literal["running", "lines"], length: int, end: int | None = None
    ) -> None:
        if length < 1 or (form == "lines") != (end is not None):
            raise BadInput(
                f"items are {form} of {length} with the end {end}",
                accepted="1 symbol or more, and an end for lines alone",
            )
        self.vocabulary, self.form, self.end, self._length = vocabulary, form, end, length
        number = np.arange(len(vocabulary.pieces))
        if end is not None:
            number[0], number[end] = end, 0
        self._number = number  # of each symbol; its own inverse
        self._pieces = tuple(vocabulary.pieces[k] for k in number.tolist())  # of each symbol

    @property
    def space(self) -> Tokens:
        return Tokens(len(self._pieces), self._length, ends=self.form == "lines", running=self.form == "running")

    @property
    def conditions(self) -> Mapping[str, Space]:
        return {}

    def recut(self, items: TextData) -> TextData:
        """The same texts in the model's own pieces; a running text in windows of this codec's length.

        Raises BadInput for a text of the other form, one too short, or a line too long.
        """
        if items.form != self.form:
            raise BadInput(f"the text is {items.form}", accepted=self.form)
        rows = [self._symbols(text) for text in items.whole().texts()]
        if self.form == "running":
            starts = np.arange(0, len(rows[0]) - self._length + 1)
            lengths = np.full(len(starts), self._length)
            if not len(starts):
                raise BadInput(f"the text has {len(rows[0])} tokens", accepted=f"{self._length} or more")
        else:
            lengths = np.array([len(row) for row in rows], dtype=np.int64)
            starts = np.concatenate((np.zeros(1, np.int64), lengths.cumsum()))[:-1]
            if lengths.max(initial=0) >= self._length:
                text = items.texts()[int(lengths.argmax())]
                raise BadInput(f"an item has {lengths.max()} tokens: {shown(text)}", accepted=f"{self._length - 1}")
        said = Noticed(topic="tokens", text="The text was cut into the tokens of the model.", count=int(lengths.sum()))
        codes = np.concatenate([np.zeros(0, np.int64), *rows])
        return replace(
            items,
            codes=codes,
            pieces=self._pieces,
            starts=starts,
            lengths=lengths,
            unit="tokens",
            notices=(*items.notices, said),
        )

    def _symbols(self, text: str) -> NDArray[np.int64]:
        return np.asarray(self._number[np.asarray(self.vocabulary.cut(text), dtype=np.int64)], dtype=np.int64)

    def encode(self, items: TextData) -> Tensor:
        """(B, T); of lines the rest is 0. Texts in other pieces are cut first."""
        if items.unit == "tokens" and (items.pieces is self._pieces or items.pieces == self._pieces):
            codes = [items.codes[s : s + n] for s, n in zip(items.starts.tolist(), items.lengths.tolist(), strict=True)]
        else:
            codes = [self._symbols(text) for text in items.texts()]
        out = np.zeros((len(codes), self._length), dtype=np.int64)
        for row, found in zip(out, codes, strict=True):
            fits = len(found) < self._length if self.form == "lines" else len(found) == self._length
            if not fits:
                wanted = f"at most {self._length - 1}" if self.form == "lines" else f"{self._length}, as the model has"
                raise BadInput(f"an item has {len(found)} tokens", accepted=wanted)
            row[: len(found)] = found
        return torch.from_numpy(out)

    def known(self, items: TextData) -> Condition:
        return Condition()

    def asked(self, where: Mapping[str, object], rows: int) -> Condition:
        _no_words(where)
        return Condition()

    def prior(self, rows: Rows) -> Condition:
        return Condition()

    def decode(self, x: Tensor, condition: Condition, rows: Rows) -> TextData:
        """One text a row, in the model's own pieces."""
        symbols = x.detach().cpu().numpy().astype(np.int64)
        lengths = np.full(len(symbols), self._length)
        if self.form == "lines":
            ended = np.concatenate((symbols == 0, np.ones((len(symbols), 1), bool)), axis=1)
            lengths = ended.argmax(axis=1)
        return TextData(
            codes=symbols.reshape(-1),
            pieces=self._pieces,
            starts=np.arange(len(symbols)) * self._length,
            lengths=lengths,
            form=self.form,
            unit="tokens",
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
        found = self.vocabulary
        stored = {"form": self.form, "length": self._length, "pieces": list(found.pieces)}
        return stored | {"end": self.end, "table": found.table}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TokenCodec:
        """Of a table; how a tokenizer cuts stands nowhere but in the tokenizer."""
        no_tensors(tensors)
        stored = stored_settings(_Stored, plain)
        if not stored.table:
            raise BadInput("the codec was made of a tokenizer", accepted="one that was made of a table of symbols")
        return cls(vocabulary_of(list(stored.pieces), len(stored.pieces)), stored.form, stored.length, stored.end)


def _no_words(where: Mapping[str, object]) -> None:
    if where:
        raise BadInput(f"'{next(iter(where))}' was asked of a text", accepted="nothing: a text has no conditions")
