"""Rows for training that are not all held in memory: pictures are encoded when asked for, tables lie in a file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.core.batch import Batch, Condition, Examples, TensorExamples
from pellucid.core.codec import Codec
from pellucid.domains.frames import TableData
from pellucid.domains.held import most_held, release, spilled
from pellucid.domains.kinds import Data
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData
from pellucid.domains.texts import TextCodec, TextExamples

__all__ = ["Streamed", "examples_of"]

HELD = 2**25  # bytes of encoded pictures that are held: four times what the pictures take, and quickly made anew
CHUNK = 64  # rows encoded at once
EVERY = 8  # batches between two times that pages of a file are let go


def examples_of(codec: Codec[Any], data: Data, index: NDArray[np.int64]) -> Examples:
    """The items at these places as rows in the codec's space, in memory where they fit.

    Each row is the same, bit for bit, whichever way it is kept.
    """
    if isinstance(data, TextData):
        assert isinstance(codec, TextCodec)
        return TextExamples(codec, data.take(index))
    numbers = codec.encode(data.take(index[:1])).numel()
    size = 4 * numbers * len(index)
    known = _known(codec, data, index)
    if isinstance(data, Pictures) and size > min(HELD, most_held()):
        return Streamed(data, codec, index, known)
    if size > most_held():
        rows = spilled((len(index), numbers), np.float32)
        for at in range(0, len(index), CHUNK):
            rows[at : at + CHUNK] = codec.encode(data.take(index[at : at + CHUNK])).numpy()
        release(rows)
        return Streamed(rows, codec, np.arange(len(index)), known)
    return TensorExamples(codec.encode(data.take(index)), known)


def _known(codec: Codec[Any], data: Pictures | TableData, index: NDArray[np.int64]) -> Condition:
    if isinstance(data, Pictures):  # what is known of a picture does not hang on its pixels
        blank = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (len(data), 1, 1, 1))
        data = replace(data, pixels=blank)
    parts = [codec.known(data.take(index[at : at + CHUNK])) for at in range(0, len(index), CHUNK)]
    return Condition.cat(parts) if parts and parts[0] else Condition()


class Streamed(Examples):
    """Rows made when they are asked for.

    Args:
        source: pictures, which are encoded then; or encoded rows (N, size) in a file.
        index: (n,) places in the source. known: n rows.
    """

    def __init__(
        self, source: Pictures | NDArray[np.float32], codec: Codec[Any], index: NDArray[np.int64], known: Condition
    ) -> None:
        self.source, self.codec, self.index, self.known = source, codec, torch.from_numpy(index), known
        self._pages = source.pixels if isinstance(source, Pictures) else source
        self._taken = 0

    def __len__(self) -> int:
        return len(self.index)

    def take(self, ids: Tensor) -> Batch:
        at = self.index[ids].numpy()
        x = torch.cat([self._rows(at[k : k + CHUNK]) for k in range(0, len(at), CHUNK)] or [self._rows(at)])
        self._taken += 1
        if self._taken % EVERY == 0:
            release(self._pages)
        return Batch(x, ids, self.known.take(ids))

    def _rows(self, at: NDArray[np.int64]) -> Tensor:
        if len(at) == CHUNK:  # many are asked for: none of the pages that they lie on are needed soon
            release(self._pages)
        if isinstance(self.source, Pictures):
            return self.codec.encode(Pictures(pixels=self.source.pixels[at], levels=self.source.levels))
        return torch.from_numpy(np.array(self.source[at]))

    def held(self) -> int:
        tensors = [self.index, *self.known.values.values(), *self.known.given.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def fingerprint(self) -> str:
        """As that of the same rows in memory: how they are kept is no part of what they are."""
        digest = hashlib.sha256()
        parts = {f"given {k}": v for k, v in self.known.given.items()}
        parts |= {f"value {k}": v for k, v in self.known.values.items()}
        for name, tensor in sorted(parts.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        for at in range(0, len(self), CHUNK):
            x = self.take(torch.arange(at, min(at + CHUNK, len(self)))).x
            if not at:
                digest.update(f"x {x.dtype} {(len(self), *x.shape[1:])}".encode())
            digest.update(x.numpy().tobytes())
            release(self._pages)
        return digest.hexdigest()

    def groups(self) -> Tensor | None:
        return None
