"""Encodes what is known of an item: one vector a row for adaptive norms, and for captions also a sequence of words.

A value that is not given becomes a learned vector of its own, so that a model can be asked without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pellucid.core.batch import Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Space, Tokens
from pellucid.nets.attention import Context, MultiHeadAttention, heads_for

__all__ = ["CaptionReader", "ConditionEncoder", "Context", "Numbers", "drop_conditions", "is_caption"]

READER = 128  # width of the caption reader where no cross-attention sets it
FEW_NUMBERS = 32  # conditions of more numbers than this are pictures or curves, which one linear map reads
FREQUENCIES = 4


def is_caption(space: Space) -> bool:
    """Is this condition a sentence: symbols of one alphabet, as many as there are words?

    >>> is_caption(Tokens(90, 12, ends=True)), is_caption(Tokens(10, 1))
    (True, False)
    """
    return isinstance(space, Tokens) and space.ends and isinstance(space.vocab, int)


class ConditionEncoder(nn.Module):
    """Sum over the named conditions of their embeddings (B, width); `read` also gives the captions word by word.

    Symbols are embedded position by position and averaged, numbers go through `Numbers`, captions through a
    `CaptionReader` that is trained with the model. Without any condition the vector is zero.

    Args:
        spaces: name -> space of each condition. width: size of the vector.
        context: size of a slot of the sequence that `read` gives, 0 for no sequence.

    `captions` names the conditions that are sentences.
    """

    def __init__(self, spaces: Mapping[str, Space], width: int, context: int = 0) -> None:
        super().__init__()
        self.width, self.context = width, context
        self.names = tuple(spaces)
        self.captions = tuple(name for name, space in spaces.items() if is_caption(space))
        self.encode = nn.ModuleDict()
        self.absent = nn.ParameterDict()
        for index, space in enumerate(spaces.values()):
            if isinstance(space, Tokens) and is_caption(space):
                self.encode[f"c{index}"] = CaptionReader(space, context or READER, width)
            elif isinstance(space, Tokens):
                self.encode[f"c{index}"] = nn.Embedding(sum(space.sizes), width)
                self.register_buffer(f"start{index}", torch.tensor([0, *space.sizes[:-1]]).cumsum(0), persistent=False)
            elif isinstance(space, Real) and space.size <= FEW_NUMBERS:
                self.encode[f"c{index}"] = Numbers(space.size, width)
            else:
                self.encode[f"c{index}"] = nn.Sequential(nn.Flatten(1), nn.Linear(space.size, width))
            self.absent[f"c{index}"] = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, condition: Condition, like: Tensor) -> Tensor:
        """(B, width) for the B rows of `like` (B, *event), on its device and in its dtype."""
        return self.read(condition, like)[0]

    def read(self, condition: Condition, like: Tensor) -> tuple[Tensor, Context | None]:
        """The vector (B, width), and the words of all captions in a row, or None without captions or `context`.

        A caption that is not given leaves one slot, which holds a learned word of its own.
        """
        out = like.new_zeros((like.shape[0], self.width))
        words: list[Context] = []
        for index, name in enumerate(self.names):
            absent = self.absent[f"c{index}"].to(out.dtype).expand_as(out)
            value, encode = condition.values.get(name), self.encode[f"c{index}"]
            if isinstance(encode, CaptionReader) and self.context:
                given = None if value is None else condition.given[name]
                words.append(encode.words(value, given, like))
            if value is None:
                out = out + absent
                continue
            if isinstance(encode, CaptionReader):
                vector = encode(value, words[-1] if self.context else None)
            elif isinstance(encode, nn.Embedding):
                vector = encode(value.flatten(1) + self.get_buffer(f"start{index}")).mean(dim=1)
            else:
                vector = encode(value.to(out.dtype))
            out = out + torch.where(condition.given[name][:, None], vector, absent)
        if not words:
            return out, None
        return out, Context(torch.cat([w.tokens for w in words], dim=1), torch.cat([w.known for w in words], dim=1))


class Numbers(nn.Module):
    """(B, count) to (B, width): W x + b + W' [cos(f pi x), sin(f pi x)], f = 1/4, 1/2, 1, 2: a line and waves.

    The waves let a net tell 40 from 42 sharply where the codec has brought all numbers to about unit spread
    (Tancik et al. 2020, arXiv:2006.10739, section 5, with fixed frequencies).
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(count, width)
        self.waves = nn.Linear(2 * FREQUENCIES * count, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *event) of `count` numbers, to (B, width)."""
        flat = x.flatten(1)
        scale = math.pi * 2.0 ** torch.arange(-2, FREQUENCIES - 2, device=x.device, dtype=x.dtype)
        angle = (flat[:, :, None] * scale).flatten(1)
        out: Tensor = self.line(flat) + self.waves(torch.cat((angle.cos(), angle.sin()), dim=-1))
        return out


class CaptionReader(nn.Module):
    """A small transformer over the words of a sentence, every word seeing every other.

    Args:
        space: `Tokens` with an end; symbol 0 pads. width: size of a word. pooled: size of the whole sentence's vector.
    """

    def __init__(self, space: Tokens, width: int, pooled: int, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(space.symbols, width)
        self.place = nn.Parameter(0.02 * torch.randn(space.length, width))
        self.missing = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(ReaderBlock(width, heads_for(width)) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.pool = nn.Linear(width, pooled)

    def words(self, value: Tensor | None, given: Tensor | None, like: Tensor) -> Context:
        """Each word in the light of the others, (B, S, width); S is 1 when no row has a caption.

        Args:
            value: (B, S) symbols. given: (B,) bool. Both None when the batch knows nothing of captions.
        """
        x = self.missing.expand(like.shape[0], 1, -1)
        known = torch.ones(like.shape[0], 1, dtype=torch.bool, device=like.device)
        if value is not None and given is not None:
            first = torch.arange(value.shape[1], device=value.device) == 0
            known = ((value != 0) & given[:, None]) | first  # a softmax over nothing would be no number
            x = torch.where(given[:, None, None], self.embed(value) + self.place[: value.shape[1]], x)
        for block in self.blocks:
            x = cast(ReaderBlock, block)(x, known)
        return Context(self.norm(x), known)

    def forward(self, value: Tensor, words: Context | None = None) -> Tensor:
        """(B, pooled) for captions value (B, S); `words` if they have been read already."""
        if words is None:
            words = self.words(value, torch.ones_like(value[:, 0], dtype=torch.bool), value)
        share = words.known[..., None].to(words.tokens.dtype)
        out: Tensor = self.pool((words.tokens * share).sum(dim=1) / share.sum(dim=1))
        return out


class ReaderBlock(nn.Module):
    """x + attention(norm(x)), then x + W2 relu(W1 norm(x))^2; starts as the identity, as in `nets/transformer.py`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = MultiHeadAttention(width, heads)
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """x (B, S, width), known (B, S) bool, to (B, S, width)."""
        normed = self.norm1(x)
        x = x + self.attention(normed, Context(normed, known))
        out: Tensor = x + self.outer(self.inner(self.norm2(x)).relu().square())
        return out


def drop_conditions(condition: Condition, rows: Rows, share: float) -> Condition:
    """Forget each condition in a random `share` of the rows, so that the model also learns without it."""
    if share <= 0.0 or not condition:
        return condition
    keep = {name: rows.fork(f"drop {name}").uniform() >= share for name in condition.values}
    return condition.drop(keep)
