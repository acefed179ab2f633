"""Randomness as a function: one counter-based stream per row, no state to save.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
128-bit counter and a 64-bit key into 128 random bits. Here the key comes from the seed and the path of forks,
the counter from the row's id and the position inside the row. So the number at (seed, fork, id, position) is
the same on every device, in every batch size and in every order of asking.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Rows", "philox4x32"]

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # round multipliers, table 2 of the paper
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl key increments: golden ratio and sqrt(3) - 1
_MASK = 0xFFFFFFFF
_KINDS = {"normal": 0, "uniform": 1, "gumbel": 2, "integers": 3}  # kinds never share counters


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int], rounds: int = 10
) -> tuple[Tensor, ...]:
    """Four 32-bit words (int64 tensors in [0, 2^32)) for each counter; shapes broadcast.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [f"{int(word):08x}" for word in philox4x32((zero, zero, zero, zero), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # int64 products wrap modulo 2^64, so masking after the shift recovers the unsigned halves exactly
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _key(*path: object) -> tuple[int, int]:
    digest = hashlib.sha256("\x1f".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


@dataclass(frozen=True)
class Rows:
    """Random numbers for rows `ids`, the same whenever (seed, forks, id, shape position) are the same.

    Asking twice gives the same numbers: fork by a name for each new purpose.

    Args:
        seed: any integer.
        ids: (B,) int64, one id a row, unique over the job; an id is a sample's name.

    >>> rows = Rows(7, torch.arange(3))
    >>> whole, alone = rows.normal(2), Rows(7, torch.tensor([2])).normal(2)
    >>> bool((whole[2] == alone[0]).all())
    True
    >>> bool((rows.fork("noise").normal(2) == whole).any())
    False
    """

    seed: int
    ids: Tensor
    key: tuple[int, int] = field(default=(0, 0))

    def __post_init__(self) -> None:
        if self.key == (0, 0):
            object.__setattr__(self, "key", _key("pellucid", self.seed))

    def __len__(self) -> int:
        return self.ids.shape[0]

    def fork(self, name: str, step: int = 0) -> Rows:
        """The stream of the same rows for another purpose."""
        return Rows(self.seed, self.ids, _key(*self.key, name, step))

    def take(self, index: Tensor | slice) -> Rows:
        """The same stream for some of the rows."""
        return Rows(self.seed, self.ids[index], self.key)

    def to(self, device: torch.device | str) -> Rows:
        """The same stream, drawn on `device`."""
        return Rows(self.seed, self.ids.to(device), self.key)

    def _words(self, kind: str, count: int) -> Tensor:
        """(B, count) words in [0, 2^32)."""
        blocks = -(-count // 4)
        ids = self.ids.to(torch.int64)[:, None]
        position = torch.arange(blocks, device=ids.device)[None, :]
        counter = (
            (position & _MASK).expand(ids.shape[0], blocks),
            torch.full_like(ids, _KINDS[kind]).expand(ids.shape[0], blocks),
            (ids & _MASK).expand(ids.shape[0], blocks),
            ((ids >> 32) & _MASK).expand(ids.shape[0], blocks),
        )
        words = torch.stack(philox4x32(counter, self.key), dim=-1)  # (B, blocks, 4)
        return words.reshape(ids.shape[0], blocks * 4)[:, :count]

    def uniform(self, *event: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *event) uniform in the open interval (0, 1)."""
        words = self._words("uniform", math.prod(event))
        # 23 (or 32) bits and half a step: neither end can be reached, so logarithms are safe; with 24 bits the
        # largest float32 word plus a half would round up, and the end 1 be reached
        bits = 23 if dtype == torch.float32 else 32
        return (((words >> (32 - bits)).to(dtype) + 0.5) * 2.0**-bits).reshape(len(self), *event)

    def normal(self, *event: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *event) standard normal, by Box and Muller's transform."""
        count = math.prod(event)
        words = self._words("normal", count + count % 2).unflatten(1, (-1, 2)).to(torch.float64)
        u = ((words + 0.5) * 2.0**-32).to(dtype)
        radius, angle = (-2.0 * u[..., 0].log()).sqrt(), (2.0 * math.pi) * u[..., 1]
        pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
        return pairs.flatten(1)[:, :count].reshape(len(self), *event)

    def gumbel(self, *event: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *event) standard Gumbel noise."""
        words = self._words("gumbel", math.prod(event)).to(torch.float64)
        return -(-((words + 0.5) * 2.0**-32).log()).log().to(dtype).reshape(len(self), *event)

    def categorical(self, logits: Tensor) -> Tensor:
        """One symbol a place: (B, ..., V) logits give (B, ...) int64, by the Gumbel-max trick."""
        noise = self.gumbel(*logits.shape[1:], dtype=torch.float64)
        return (logits.to(torch.float64) + noise).argmax(dim=-1)

    def integers(self, high: int, *event: int) -> Tensor:
        """(B, *event) int64 uniform in [0, high), high up to 2^31; the bias is below high / 2^32."""
        return ((self._words("integers", math.prod(event)) * high) >> 32).reshape(len(self), *event)

    @contextmanager
    def seeding(self) -> Iterator[None]:
        """Let torch's own initialisers draw from this stream.

        Modules draw their first weights (and dropout its masks) from torch's global generator; for the time of
        the block it is seeded from this stream's key and afterwards put back as it was.
        """
        devices = [self.ids.device] if self.ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.key[0] << 32 | self.key[1])
            yield
