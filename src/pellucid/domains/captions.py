"""Captions as symbols: words and punctuation of the training captions, one symbol each.

A sentence is put into small letters and cut into words and signs. Symbol 0 ends it and pads what follows, symbol 1
stands for words that are too rare to have one of their own, and the words follow by how often they occur.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pellucid.core.errors import BadInput, nearest
from pellucid.core.rows import Rows
from pellucid.core.run import Noticed
from pellucid.core.space import Tokens

__all__ = ["CaptionBook", "caption_notices", "learn_captions", "words_of"]

LONGEST = 32  # words and signs of a caption; the rest is cut
MOST_WORDS = 4000
MOST_PICTURES = 2**53  # beyond, float64 counts no longer
KEPT = 2000  # different training captions that are drawn from when none is asked for
UNKNOWN, FIRST = 1, 2  # symbols
UNKNOWN_AS = "…"
_PIECE = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")
_SHOWN = 8  # words named in one sentence


def words_of(caption: str) -> list[str]:
    """Small words and single signs.

    >>> words_of("A small, RED circle: it's here")
    ['a', 'small', ',', 'red', 'circle', ':', "it's", 'here']
    """
    return _PIECE.findall(unicodedata.normalize("NFC", caption).lower().replace("’", "'"))


@dataclass(frozen=True, kw_only=True)
class CaptionBook:
    """What was learned from the captions of a training set.

    words: those that have a symbol, which is their place here plus 2.
    length: of the longest caption, at most 32. rare: training words without a symbol of their own.
    sentences, of_class, counts: different captions, the class of their pictures ("" for none) and how many pictures
        had both; what is drawn from when no caption is asked for. Training captions are kept here word for word.

    >>> book = learn_captions(("a red circle", "a blue cross"), None)
    >>> book.write(["a blue circle"]).tolist(), book.text(torch.tensor([2, 4, 0]))
    ([[2, 3, 4]], 'a circle')
    """

    words: tuple[str, ...]
    length: int
    rare: int
    sentences: tuple[str, ...]
    of_class: tuple[str, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        good = len(set(self.words)) == len(self.words) <= MOST_WORDS and 1 <= self.length <= LONGEST and self.rare >= 0
        good = good and all(self.words)
        alike = len(self.sentences) == len(self.of_class) == len(self.counts) >= 1
        if not (good and alike and all(n >= 1 for n in self.counts) and sum(self.counts) <= MOST_PICTURES):
            raise BadInput(
                f"captions have {len(self.words)} words, length {self.length}, {len(self.sentences)} sentences",
                accepted=f"distinct words, none empty, a length from 1 to {LONGEST}, a class and a count a sentence",
            )
        if list(self.of_class) != sorted(self.of_class):
            raise BadInput("captions are stored out of order", accepted="captions sorted by class")

    @property
    def space(self) -> Tokens:
        return Tokens(len(self.words) + FIRST, self.length, ends=True)

    def write(self, captions: Sequence[str]) -> Tensor:
        """(N, length) int64. Words never seen are symbol 1 where rare words taught it a meaning, else left out."""
        place = {word: k + FIRST for k, word in enumerate(self.words)}
        out = np.zeros((len(captions), self.length), dtype=np.int64)
        for i, caption in enumerate(captions):
            found = [place.get(word, UNKNOWN) for word in words_of(caption)]
            found = [symbol for symbol in found if self.rare or symbol != UNKNOWN][: self.length]
            out[i, : len(found)] = found
        return torch.from_numpy(out)

    def text(self, symbols: Tensor) -> str:
        """One row of symbols as a sentence, up to its end."""
        found = []
        for symbol in symbols.tolist():
            if symbol == 0:
                break
            found.append(UNKNOWN_AS if symbol == UNKNOWN else self.words[symbol - FIRST])
        return " ".join(found)

    def asked(self, caption: str) -> Tensor:
        """(1, length): a caption that a user asks for.

        Raises:
            BadInput: no word of it was seen in training.
        """
        pieces = words_of(caption)
        if not set(pieces) & set(self.words):
            some = [word for word in self.words if word[0].isalnum()]
            raise BadInput(
                f"caption is '{caption}'" if pieces else "caption is empty",
                accepted=f"words of the training captions, such as {', '.join(some[:12])}",
                why="None of its words was seen in training" if pieces else "",
                next=next(filter(None, (nearest(word, self.words) for word in pieces)), ""),
            )
        return self.write([caption])

    def remarks(self, captions: Sequence[str]) -> tuple[Noticed, ...]:
        """What is to be said about captions that are taken all the same: words never seen, and sentences too long."""
        known, said = set(self.words), []
        strange = list(dict.fromkeys(word for caption in captions for word in words_of(caption) if word not in known))
        if strange:
            names = ", ".join(f"'{word}'" for word in strange[:_SHOWN]) + (", ..." if len(strange) > _SHOWN else "")
            done = "read as one unknown word" if self.rare else "left out"
            text = f"never seen in the training captions and {done}: {names}"
            said.append(Noticed(topic="caption words", text=text, count=len(strange)))
        kept = [[word for word in words_of(caption) if self.rare or word in known] for caption in captions]
        if long := sum(len(pieces) > self.length for pieces in kept):
            text = (
                f"{long:,} caption{'s are' if long > 1 else ' is'} cut after {self.length} words, the most in training"
            )
            said.append(Noticed(topic="caption cut", text=text, count=long))
        return tuple(said)

    def prior(self, rows: Rows, classes: Sequence[str] | None) -> Tensor:
        """(B, length): training captions at their frequencies, each of the given class where such a one has any."""
        many = np.cumsum([0, *self.counts]).astype(np.float64)
        low, high = np.zeros(len(rows)), np.full(len(rows), many[-1])
        if classes is not None:
            edge: Mapping[str, tuple[float, float]] = {
                name: (
                    many[self.of_class.index(name)],
                    many[len(self.of_class) - self.of_class[::-1].index(name)],
                )
                for name in dict.fromkeys(self.of_class)
            }
            for i, name in enumerate(classes):
                low[i], high[i] = edge.get(name, (low[i], high[i]))
        u = rows.fork("prior caption").uniform(dtype=torch.float64).cpu().numpy()
        at = np.searchsorted(many, low + u * (high - low), side="right") - 1
        written = self.write(self.sentences)
        return written[torch.from_numpy(at.clip(0, len(self.sentences) - 1))].to(rows.ids.device)


def learn_captions(captions: Sequence[str], labels: Sequence[str] | None) -> CaptionBook | None:
    """The book of a set's captions, one a picture, "" for none; None when no picture has words.

    Args:
        labels: class of each picture, "" for none.
    """
    pieces = [words_of(caption)[:LONGEST] for caption in captions]
    counted = Counter(word for found in pieces for word in found)
    if not counted:
        return None
    words = tuple(sorted(counted, key=lambda word: (-counted[word], word))[:MOST_WORDS])
    rare = len(counted) - len(words)
    known = set(words)
    pairs = Counter(
        (label, " ".join(word if word in known else UNKNOWN_AS for word in found))
        for label, found in zip(labels or [""] * len(captions), pieces, strict=True)
        if found
    )
    kept = list(pairs)
    if len(kept) > KEPT:
        kept = [kept[i * len(kept) // KEPT] for i in range(KEPT)]  # spread: a set may be sorted by class
    kept.sort()
    return CaptionBook(
        words=words,
        length=max(map(len, pieces)),
        rare=rare,
        sentences=tuple(sentence for _, sentence in kept),
        of_class=tuple(label for label, _ in kept),
        counts=tuple(pairs[pair] for pair in kept),
    )


def caption_notices(captions: Sequence[str], source: str) -> list[Noticed]:
    """What was read: how many pictures have a caption, how many words there are, what is cut or too rare."""
    pieces = [found for found in map(words_of, captions) if found]
    counted = Counter(word for found in pieces for word in found[:LONGEST])
    longest = max(map(len, pieces), default=0)
    text = f"captions from {source} for {len(pieces):,} of {len(captions):,} pictures: "
    text += f"{len(counted):,} different words, the longest caption has {longest}"
    said = [Noticed(topic="captions", text=text, count=len(pieces))]
    if long := sum(len(found) > LONGEST for found in pieces):
        text = f"{long:,} caption{'s are' if long > 1 else ' is'} cut after {LONGEST} words"
        said.append(Noticed(topic="caption cut", text=text, count=long))
    if len(counted) > MOST_WORDS:
        text = f"the {len(counted) - MOST_WORDS:,} rarest words of the captions are read as one unknown word"
        said.append(Noticed(topic="caption words", text=text, count=len(counted) - MOST_WORDS))
    return said
