"""A causal transformer body with a preallocated key/value cache.

Blocks are pre-normalised: x + attention(norm(x)), then x + W2 relu(W1 norm(x))^2 (So et al. 2021, "Primer",
https://arxiv.org/abs/2109.08668, section 4). Attention is written out as matrix products and a softmax: on CPUs that
is faster than the fused kernel, and it is the same arithmetic in every precision.

With `shift`, what attention and network read at a slot is mixed, channel by channel, with what stands one slot before
(Peng et al. 2023, "RWKV", https://arxiv.org/abs/2305.13048, section 3.1): pairs of neighbours cost no attention then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.nets.single_slot import SingleSlot, fits

__all__ = ["Attention", "Cache", "Norm", "Places", "Transformer", "TransformerBlock", "rotate", "squared"]

LANES, LONG = 16, 64  # float32 numbers in a vector register; keys from which on the rest of a vector matters little


@dataclass(frozen=True)
class Places:
    """What attention needs to know of the slots that are computed, made once for all blocks.

    Args:
        cos, sin: (S, 1, size), see `rotate`; None without rotation.
        future: (S, all) of 0 where a slot may look and -inf where it may not; None for a single slot, which may look
            at all.
    """

    cos: Tensor | None
    sin: Tensor | None
    future: Tensor | None

    @staticmethod
    def of(start: int, new: int, size: int, like: Tensor, *, rotary: bool = True) -> Places:
        """Of `new` slots from `start` on; size: of a head."""
        cos, sin = (a[:, None] for a in _angles(start, new, size, like)) if rotary else (None, None)
        if new == 1:
            return Places(cos, sin, None)
        future = torch.full((new, start + new), -math.inf, dtype=torch.float32, device=like.device).triu(start + 1)
        return Places(cos, sin, future)

    def at(self, slot: int) -> Places:
        """Of one slot, of places made for all of them."""
        if self.cos is None or self.sin is None:
            return Places(None, None, None)
        return Places(self.cos[slot : slot + 1], self.sin[slot : slot + 1], None)


@dataclass(frozen=True)
class Cache:
    """Keys and values of the slots seen so far.

    The buffers are written in place: a cache that has been stepped further may not be stepped a second time with
    other content.

    Args:
        keys, values: (layers, B, heads, slots, size), of which the first `length` slots are filled.
        last: (layers, 2, B, 1, width), what attention and network of each block read at the last slot.
        places: of all slots. single: the same of one row as arrays, once it was asked for; see `single_slot.py`.
    """

    keys: Tensor
    values: Tensor
    last: Tensor
    places: Places
    length: int = 0
    single: SingleSlot | None = None


class Norm(nn.Module):
    """Root mean square 1 along the last axis; no scale of its own, since a linear map follows everywhere.

    Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467, eq. 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) to the same shape; under autocast in its type, which the linear map would change it to."""
        y = _unit(x)
        kind = x.device.type
        return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y


class Attention(nn.Module):
    """Causal self-attention with rotary positions: softmax(q k' / sqrt(size)) v.

    Queries and keys are normalised (Dehghani et al. 2023, https://arxiv.org/abs/2302.05442, section 2), so that high
    learning rates cannot blow up the softmax.

    Args:
        width: a multiple of `heads`. rotary: rotate queries and keys by their slot's number; see `rotate`.
    """

    def __init__(self, width: int, heads: int, *, rotary: bool = True) -> None:
        super().__init__()
        self.heads, self.rotary, self.size = heads, rotary, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.sharp = nn.Parameter(torch.zeros(heads))  # logarithm of each head's inverse temperature
        nn.init.zeros_(self.out.weight)

    def project(self, x: Tensor, places: Places | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, width) to queries, keys and values (B, heads, S, size); without `places` the slots from 0 on."""
        b, s, _ = x.shape
        places = places or Places.of(0, s, self.size, x, rotary=self.rotary)
        both, v = self.qkv(x).view(b, s, 3 * self.heads, self.size).split([2 * self.heads, self.heads], dim=2)
        if places.cos is None or places.sin is None:
            both = _unit(both)
        elif torch.is_grad_enabled():
            both = _UnitTurned.apply(both, places.cos, places.sin)
        else:
            both = _turned(_plain(both), places.cos, places.sin)
        q, k = both.transpose(1, 2).chunk(2, dim=1)
        return q * (self.sharp.exp() * self.size**-0.5)[:, None, None].to(q.dtype), k, v.transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, future: Tensor | None = None) -> Tensor:
        """q (B, heads, S, size) and k (B, heads, all, size) to weights (B, heads, S, all); `future` as in `Places`."""
        scores = q @ k.transpose(-1, -2)
        scores = scores if future is None else scores + future.to(scores.dtype)
        short = -scores.shape[-1] % LANES
        if not short or scores.shape[-2] == 1 or scores.shape[-1] > LONG or scores.device.type != "cpu":
            return scores.softmax(dim=-1)
        # torch's softmax over a last axis that is no multiple of the vector width goes number by number
        return nn.functional.pad(scores, (0, short), value=-math.inf).softmax(dim=-1)[..., :-short]

    def forward(self, x: Tensor, places: Places | None = None, layer: int = 0, cache: Cache | None = None) -> Tensor:
        """x (B, S, width) to the same shape; with a cache, x are the slots that follow it and are written there."""
        places = places or Places.of(0, x.shape[1], self.size, x, rotary=self.rotary)
        q, k, v = self.project(x, places)
        if cache is not None:
            end = cache.length + x.shape[1]
            cache.keys[layer, :, :, cache.length : end] = k
            cache.values[layer, :, :, cache.length : end] = v
            if cache.length:
                k, v = cache.keys[layer, :, :, :end].to(q.dtype), cache.values[layer, :, :, :end]
        mixed = self.weights(q, k, places.future).to(v.dtype) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class TransformerBlock(nn.Module):
    """Attention, then a two-layer network at each slot; both start at zero, so the block starts as the identity."""

    def __init__(self, width: int, heads: int, *, rotary: bool = True, shift: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.attention = Attention(width, heads, rotary=rotary)
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.outer.weight)
        self.mix1 = nn.Parameter(torch.zeros(width)) if shift else None
        self.mix2 = nn.Parameter(torch.zeros(width)) if shift else None

    def read(self, x: Tensor, layer: int = 0, cache: Cache | None = None) -> Tensor:
        """What attention reads of the block's input x (B, S, width)."""
        return _shifted(self.norm1(x), self.mix1, None if cache is None else cache.last[layer, 0])

    def forward(
        self,
        x: Tensor,
        places: Places | None = None,
        layer: int = 0,
        cache: Cache | None = None,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x (B, S, width); keep: two (B, 1, width) factors on what attention and network add (dropout of channels)."""
        mixed = self.attention(self.read(x, layer, cache), places, layer, cache)
        x = x + (mixed if keep is None else mixed * keep[0])
        seen = _shifted(self.norm2(x), self.mix2, None if cache is None else cache.last[layer, 1])
        thought = self.outer(squared(self.inner(seen)))
        return x + (thought if keep is None else thought * keep[1])


class Transformer(nn.Module):
    """Embedded slots (B, S, width) to features (B, S, width); slot s sees slots 0 to s.

    Args:
        width, heads, depth: size of a slot, attention heads, blocks. rotary: see `Attention`.
        shift: mix what each slot reads with what stands one slot before.
    """

    def __init__(self, width: int, heads: int, depth: int, *, rotary: bool = True, shift: bool = False) -> None:
        super().__init__()
        self.width, self.heads, self.rotary = width, heads, rotary
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rotary=rotary, shift=shift) for _ in range(depth))
        self.norm = Norm()

    def begin(self, batch: int, slots: int, like: Tensor) -> Cache:
        """An empty cache for `slots` slots, on the device and in the dtype of `like`."""
        size = self.width // self.heads
        shape = (len(self.blocks), batch, self.heads, slots, size)
        places = Places.of(0, slots, size, like, rotary=self.rotary)
        last = like.new_zeros(len(self.blocks), 2, batch, 1, self.width)
        return Cache(like.new_zeros(shape), like.new_zeros(shape), last, places)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, S, width); keep (B, 2 * depth, width): factors on each addition's channels, or None."""
        places = self._places(x)
        for layer, block in enumerate(self.blocks):
            own = None if keep is None else (keep[:, None, 2 * layer], keep[:, None, 2 * layer + 1])
            x = block(x, places, layer, None, own)
        out: Tensor = self.norm(x)
        return out

    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """x (B, k, width), the slots after those in the cache, to features (B, k, width) and the longer cache."""
        if cache.length and fits(x):
            single = cache.single or SingleSlot(list(self._blocks()), cache)
            after = Cache(cache.keys, cache.values, cache.last, cache.places, cache.length + 1, single)
            return single.step(x, cache.length), after
        if x.shape[1] == 1:
            places = cache.places.at(cache.length)
        else:
            places = Places.of(cache.length, x.shape[1], self.width // self.heads, x, rotary=self.rotary)
        for layer, block in enumerate(self.blocks):
            x = block(x, places, layer, cache)
        return self.norm(x), replace(cache, length=cache.length + x.shape[1])

    def attention(self, layer: int, x: Tensor) -> Tensor:
        """Weights (B, heads, S, S) of a block, from embedded slots x (B, S, width)."""
        places = self._places(x)
        for index, block in enumerate(self._blocks()):
            if index == layer:
                q, k, _ = block.attention.project(block.read(x), places)
                return block.attention.weights(q, k, places.future)
            x = block(x, places)
        raise IndexError(layer)

    def _blocks(self) -> Iterator[TransformerBlock]:
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            yield block

    def _places(self, x: Tensor) -> Places:
        return Places.of(0, x.shape[1], self.width // self.heads, x, rotary=self.rotary)


def rotate(x: Tensor, start: int) -> Tensor:
    """Turn pairs of numbers by an angle that grows with the slot: only differences of slots matter afterwards.

    (a, b) -> (a cos m w_i - b sin m w_i, a sin m w_i + b cos m w_i), w_i = 10000^(-2i / size)
                                                    Su et al. 2021, https://arxiv.org/abs/2104.09864, eq. 34

    Args:
        x: (B, heads, S, size), size even. start: number of the first slot.
    """
    return _turned(x, *_angles(start, x.shape[-2], x.shape[-1], x))


def _angles(start: int, slots: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos of each slot's angles, and sin with the sign that the other half of the pair takes: (S, size) each."""
    half = size // 2
    slot = torch.arange(start, start + slots, device=like.device, dtype=torch.float32)
    angle = slot[:, None] * 10000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
    cos, sin = angle.cos().to(like.dtype), angle.sin().to(like.dtype)  # (S, half)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos.to(x.dtype), torch.cat((b, a), dim=-1), sin.to(x.dtype))


def _unit(x: Tensor) -> Tensor:
    """Root mean square 1 along the last axis."""
    out: Tensor = _Unit.apply(x) if torch.is_grad_enabled() else _plain(x)
    return out


def _plain(x: Tensor) -> Tensor:
    """`_unit` where no gradient is asked for, with one call."""
    return torch.rms_norm(x, x.shape[-1:], None, 1e-6)


def _scale(x: Tensor) -> Tensor:
    """1 / root mean square (..., 1), summed in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return (norm.square() / x.shape[-1] + 1e-6).rsqrt().to(x.dtype)


def _straightened(g: Tensor, u: Tensor, r: Tensor) -> Tensor:
    """The gradient at x of g at u = x r."""
    return r * torch.addcmul(g, u, (g * u).mean(-1, keepdim=True), value=-1)


class _Unit(torch.autograd.Function):
    """x / rms(x), with its gradient written out: a third of the passes that autograd would take over it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * _scale(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        r = _scale(x)
        return _straightened(grads[0], x * r, r)


class _UnitTurned(torch.autograd.Function):
    """`_unit`, then `_turned`; the gradient of a turn is the turn back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return _turned(x * _scale(x), cos, sin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, cos, sin = ctx.saved_tensors
        g, r = grads[0], _scale(x)
        a, b = (g * sin.to(g.dtype)).chunk(2, dim=-1)
        back = torch.addcmul(torch.cat((b, a), dim=-1), g, cos.to(g.dtype))
        return _straightened(back, x * r, r), None, None


def squared(x: Tensor) -> Tensor:
    """relu(x)^2."""
    if not torch.is_grad_enabled():
        return x.relu().square()
    out: Tensor = _SquaredReLU.apply(x)[0]
    return out


class _SquaredReLU(torch.autograd.Function):
    """relu(x)^2, with its gradient 2 relu(x) written out: two passes instead of the five that autograd takes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.relu()
        return y.square(), y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * y * 2


def _shifted(x: Tensor, mix: Tensor | None, last: Tensor | None = None) -> Tensor:
    """x_t + mix (x_{t-1} - x_t), for x (B, S, width).

    Args:
        mix: (width,), or None for x as it is.
        last: (B, 1, width), what stands before the first slot, and is given the last one; None for zeros.
    """
    if mix is None:
        return x
    first = torch.zeros_like(x[:, :1]) if last is None else last.to(x.dtype)
    before = torch.cat((first, x[:, :-1]), dim=1) if x.shape[1] > 1 else first
    out = torch.lerp(x, before, mix.to(x.dtype))
    if last is not None:
        last.copy_(x[:, -1:])
    return out
