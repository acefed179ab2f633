"""The transformer's step for one slot of one row on a CPU, written out by hand.

Writing a single text asks for one slot at a time. Its arithmetic is a few matrix-vector products, and a framework's
calls around each of them cost several times what they compute: 140 calls for 4 blocks. NumPy's calls are cheaper, and
they work on the same memory as the tensors do: weights and cache stay where they are. Equations: `transformer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from pellucid.nets.transformer import Cache, TransformerBlock

__all__ = ["SingleSlot", "fits"]

Floats = NDArray[np.float32]
SMALL = 1e-6  # as in `transformer.py`


def fits(x: Tensor) -> bool:
    """Is x (B, S, width) a single slot of a single row, in float32 on a CPU, and no gradient or autocast asked for?"""
    return (
        x.shape[0] == 1
        and x.shape[1] == 1
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class SingleSlot:
    """Blocks and a cache as arrays on the memory of their tensors.

    Args:
        blocks: of one width. cache: of one row; keys and values are written there.
    """

    def __init__(self, blocks: Sequence[TransformerBlock], cache: Cache) -> None:
        self.blocks = [_weights(block) for block in blocks]
        first = blocks[0].attention
        self.heads, self.size = first.heads, first.size
        self.keys, self.values, self.last = _array(cache.keys[:, 0]), _array(cache.values[:, 0]), _array(cache.last)
        cos, sin = cache.places.cos, cache.places.sin
        self.turns = None if cos is None or sin is None else (_array(cos), _array(sin))  # (slots, 1, size) each

    def step(self, x: Tensor, slot: int) -> Tensor:
        """x (1, 1, width), the slot's input, to its features (1, 1, width); slots before it are in the cache."""
        h = _array(x)[0, 0]
        for layer, w in enumerate(self.blocks):
            h = h + self._attended(w, layer, h, slot)
            read = self._shifted(_unit(h), w["mix2"], layer, 1)
            inner = np.maximum(w["inner"].dot(read), 0.0)
            h = h + w["outer"].dot(inner * inner)
        return torch.from_numpy(_unit(h))[None, None]

    def _attended(self, w: dict[str, Any], layer: int, h: Floats, slot: int) -> Floats:
        heads, size, half = self.heads, self.size, self.size // 2
        read = self._shifted(_unit(h), w["mix1"], layer, 0)
        qkv = w["qkv"].dot(read).reshape(3 * heads, size)
        both = qkv[: 2 * heads]
        both = both * ((np.einsum("hs,hs->h", both, both) / size + SMALL) ** -0.5)[:, None]
        if self.turns is not None:
            cos, sin = self.turns
            turned = both * cos[slot]
            turned[:, :half] += both[:, half:] * sin[slot, :, :half]
            turned[:, half:] += both[:, :half] * sin[slot, :, half:]
            both = turned
        keys, values = self.keys[layer], self.values[layer]  # (heads, slots, size)
        keys[:, slot], values[:, slot] = both[heads:], qkv[2 * heads :]
        q = both[:heads] * w["sharp"]
        scores = np.matmul(keys[:, : slot + 1], q[:, :, None])[..., 0]
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        mixed = np.matmul(weights[:, None], values[:, : slot + 1]).reshape(heads * size)
        return np.asarray(w["out"].dot(mixed), dtype=np.float32)

    def _shifted(self, x: Floats, mix: Floats | None, layer: int, which: int) -> Floats:
        if mix is None:
            return x
        last = self.last[layer, which, 0, 0]
        out = x + mix * (last - x)
        last[:] = x
        return np.asarray(out, dtype=np.float32)


def _weights(block: TransformerBlock) -> dict[str, Any]:
    a = block.attention
    linear = {"qkv": a.qkv, "out": a.out, "inner": block.inner, "outer": block.outer}
    found: dict[str, Any] = {name: _array(map_.weight) for name, map_ in linear.items()}
    found["sharp"] = np.exp(_array(a.sharp))[:, None] * np.float32(a.size**-0.5)
    found["mix1"], found["mix2"] = (None if m is None else _array(m) for m in (block.mix1, block.mix2))
    return found


def _unit(x: Floats) -> Floats:
    return x * np.float32((x.dot(x) / len(x) + SMALL) ** -0.5)


def _array(x: Tensor | nn.Parameter) -> Floats:
    return np.asarray(x.detach().numpy(), dtype=np.float32)
