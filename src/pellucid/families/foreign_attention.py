"""Attention inside networks made elsewhere: watched from outside, and computed again from their own queries and keys.

Hooks take what the network's own projections put out (queries, keys, values) and what its output projection is handed;
they change nothing. From the first,

    A = softmax(scale q k' + mask)            Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1

is computed again, and A v must be what the output projection was handed: that is the proof that these are the weights
that were used, under whatever implementation computed them. Where it is not, the maps are refused.

Known by their parts: `to_q, to_k, to_v, to_out` (diffusers), `c_attn, c_proj` (GPT-2), `q_proj, k_proj, v_proj`
and an output, with queries and keys that may be turned by their place (Llama and its relatives).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.core.capabilities import Site
from pellucid.core.errors import MissingCapability

__all__ = ["Place", "Recorded", "places_in", "recording"]

PLAIN = ("AttnProcessor", "AttnProcessor2_0")  # what diffusers computes attention with, unless something was put in
OUT = ("o_proj", "out_proj", "dense")  # names of the output projection beside q_proj, k_proj and v_proj
CLOSE, CLOSE_HALF = 1e-3, 3e-2  # largest difference of what is rebuilt, relative to its size; in 16 bits

Take = Callable[[str, Any], None]


class Place(abc.ABC):
    """One attention of a network: how to listen to it, and how its weights come of what was heard.

    Args:
        name: of the module. module: itself. heads: of the queries.
    """

    def __init__(self, name: str, module: nn.Module, heads: int) -> None:
        self.name, self.module, self.heads = name, module, heads

    @abc.abstractmethod
    def listen(self, take: Take) -> list[Any]:
        """Hooks that hand over what passes by: "handed" last, the output projection's input (B, N, width)."""

    @abc.abstractmethod
    def weights(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(B, heads, N, S) weights, each row summing to one, and the values (B, heads, S, size)."""

    def site(self, queries: str, keys: str) -> Site:
        """As the catalogue of capabilities describes it."""
        return Site(self.name, queries, keys, self.heads)


class Spatial(Place):
    """Places of a picture that see one another or a context, as diffusers writes it."""

    def listen(self, take: Take) -> list[Any]:
        m: Any = self.module
        return [
            *(_output(getattr(m, f"to_{part}"), part, take) for part in "qkv"),
            m.to_out[0].register_forward_pre_hook(lambda _, given: take("handed", given[0])),
        ]

    def weights(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        m: Any = self.module
        q, k, v = (rearrange(heard[part], "b n (h d) -> b h n d", h=self.heads) for part in "qkv")
        q = q if m.norm_q is None else m.norm_q(q)
        k = k if m.norm_k is None else m.norm_k(k)
        return (q.float() @ k.float().transpose(-1, -2) * m.scale).softmax(-1), v


class Causal(Place):
    """Symbols that see those before them. With a cache, keys and values of earlier calls are kept beside."""

    @abc.abstractmethod
    def parts(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, heads, N, size), keys and values (B, groups, N, size) of the symbols of this call."""

    def scale(self) -> float:
        """What the scores are multiplied by."""
        return float(self.module.scaling)  # type: ignore[arg-type]

    def weights(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        q, k, v = self.parts(heard)
        if int(heard["before"]):
            k, v = (torch.cat((old, new), dim=2) for old, new in zip(heard["past"], (k, v), strict=True))
        heard["keep"]((k, v))
        k, v = (x.repeat_interleave(self.heads // x.shape[1], 1) for x in (k, v))
        n, s = q.shape[2], k.shape[2]
        place = torch.arange(s - n, s, device=q.device)[:, None] - torch.arange(s, device=q.device)
        window = getattr(self.module, "sliding_window", None)
        hidden = (place < 0) if window is None else (place < 0) | (place >= window)
        scores = q.float() @ k.float().transpose(-1, -2) * self.scale()
        return scores.masked_fill(hidden, -torch.inf).softmax(-1), v

    def _called(self, take: Take) -> Any:
        """A hook that takes what the attention itself is given: its cache, and the rotation of places."""

        def called(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            past = named.get("past_key_values")
            index = getattr(self.module, "layer_idx", 0) or 0
            take("before", 0 if past is None else int(past.get_seq_length(index)))
            rotation = named.get("position_embeddings")
            if rotation is None:
                rotation = next((g for g in given if isinstance(g, tuple) and len(g) == 2), None)
            take("rotation", rotation)

        return self.module.register_forward_pre_hook(called, with_kwargs=True)


class Joint(Causal):
    """Queries, keys and values of one projection, as in GPT-2."""

    def listen(self, take: Take) -> list[Any]:
        m: Any = self.module
        handed = m.c_proj.register_forward_pre_hook(lambda _, given: take("handed", given[0]))
        return [self._called(take), _output(m.c_attn, "qkv", take), handed]

    def parts(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(heard["qkv"], "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v


class Apart(Causal):
    """A projection each. Where the module is given a rotation, queries and keys are turned by their place, as in Llama.

    Su et al. 2021, arXiv:2104.09864
    """

    def listen(self, take: Take) -> list[Any]:
        m: Any = self.module
        out = next(getattr(m, name) for name in OUT if hasattr(m, name))
        handed = out.register_forward_pre_hook(lambda _, given: take("handed", given[0]))
        projections = [_output(getattr(m, f"{part}_proj"), part, take) for part in "qkv"]
        return [self._called(take), *projections, handed]

    def parts(self, heard: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        m: Any = self.module
        q, k, v = (rearrange(heard[part], "b n (h d) -> b n h d", d=m.head_dim) for part in "qkv")
        q = m.q_norm(q) if hasattr(m, "q_norm") else q
        k = m.k_norm(k) if hasattr(m, "k_norm") else k
        q, k, v = (rearrange(x, "b n h d -> b h n d") for x in (q, k, v))
        if heard["rotation"] is None:
            return q, k, v
        cos, sin = (x[:, None] for x in heard["rotation"])
        return _turned(q, cos, sin), _turned(k, cos, sin), v


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, heads, N, size), its first numbers turned in pairs that lie half of them apart."""
    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    a, b = turned.chunk(2, dim=-1)
    return torch.cat((turned * cos + torch.cat((-b, a), dim=-1) * sin, rest), dim=-1)


def _output(module: nn.Module, name: str, take: Take) -> Any:
    return module.register_forward_hook(lambda _, given, out: take(name, out))


def places_in(net: nn.Module) -> tuple[Place, ...]:
    """Every attention of a network, in the order of its modules.

    Raises:
        MissingCapability: it has none, or one that is computed in a way that is not known here.
    """
    found: list[Place] = []
    for name, module in net.named_modules():
        has = set(dict(module.named_children()))
        heads = getattr(module, "heads", None) or getattr(module, "num_heads", None)
        if {"to_q", "to_out"} <= has:
            by = type(getattr(module, "processor", None)).__name__
            if by not in PLAIN or not {"to_k", "to_v"} <= has or not isinstance(heads, int):
                raise MissingCapability(
                    f"attention at '{name}' is computed by {by}",
                    accepted=", ".join(PLAIN),
                    why="Its maps could not be proved: this processor does more than weigh values by queries and keys.",
                    next="Set AttnProcessor2_0 in its place, or ask a question that needs no attention.",
                )
            found.append(Spatial(name, module, heads))
        elif {"c_attn", "c_proj"} <= has and not getattr(module, "is_cross_attention", False):
            found.append(Joint(name, module, int(heads or 0)))
        elif {"q_proj", "k_proj", "v_proj"} <= has and has & set(OUT) and hasattr(module, "head_dim"):
            q_proj: Any = module.q_proj
            found.append(Apart(name, module, int(q_proj.out_features // int(module.head_dim))))
    if not found:
        raise MissingCapability(
            f"{type(net).__name__} has no attention that is known here",
            accepted="that of diffusers' Attention, of GPT-2, or of Llama and its relatives",
            next="Ask a question that needs no attention.",
        )
    return tuple(found)


@dataclass(eq=False)
class Recorded:
    """What was seen while the network ran.

    weights: place -> one (rows, heads, N, S) a call, each row summing to one. rows: of each batch, the first ones;
    None is all. gap: largest difference between A v and what the output projection was handed, relative to its size.
    close: the largest gap that is rounding.
    """

    rows: int | None = None
    weights: dict[str, list[Tensor]] = field(default_factory=dict)
    gap: float = 0.0
    close: float = CLOSE

    def require(self) -> Recorded:
        """Itself, where the weights rebuild what the network computed.

        Raises MissingCapability where they do not: then they are not the weights that were used.
        """
        if not self.gap <= self.close:
            raise MissingCapability(
                "the attention of this network cannot be rebuilt from its queries and keys",
                accepted=f"a difference of {self.close:g} of its size at most",
                why=f"What the weights rebuild differs by {self.gap:.2g}, so they are not those that were used.",
                next="Ask a question that needs no attention.",
            )
        return self


@contextmanager
def recording(places: Sequence[Place], rows: int | None = None) -> Iterator[Recorded]:
    """Watch these attentions while the block runs; what the network computes is the same bit for bit."""
    seen = Recorded(rows)
    handles = [handle for place in places for handle in place.listen(_taker(place, seen))]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _taker(place: Place, seen: Recorded) -> Take:
    heard: dict[str, Any] = {"before": 0, "past": None}
    heard["keep"] = lambda past: heard.__setitem__("past", past)

    def take(name: str, value: Any) -> None:
        heard[name] = value
        if name == "handed":
            with torch.no_grad():
                _measure(place, heard, seen)

    return take


def _measure(place: Place, heard: dict[str, Any], seen: Recorded) -> None:
    if int(heard["before"]) and (heard["past"] is None or heard["past"][0].shape[2] != heard["before"]):
        raise MissingCapability(
            f"the symbols before were not recorded at '{place.name}'", accepted="a recording from the first symbol on"
        )
    weights, values = place.weights(heard)
    rebuilt = rearrange(weights @ values.float(), "b h n d -> b n (h d)")
    handed: Tensor = heard["handed"]
    size = float(handed.float().abs().max().clamp_min(1e-12))
    seen.gap = max(seen.gap, float((rebuilt - handed.float().reshape_as(rebuilt)).abs().max()) / size)
    if handed.dtype in (torch.float16, torch.bfloat16):
        seen.close = CLOSE_HALF
    seen.weights.setdefault(place.name, []).append(weights[: seen.rows].cpu())
