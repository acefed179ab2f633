"""Where did each place look? Cross-attention recomputed from the queries and keys of the run itself.

Hooks watch every cross-attention while a sample is drawn; they change nothing. From what went in, weights are computed
again; with the values they must give what came out, which proves that these are the weights that were used.

    out(n) = W sum_s a(n, s) v(s)      so that word s brings  W a(n, s) v(s)  to place n, over all heads
                                        Kobayashi et al. 2020, arXiv:2004.10102, eq. 5, for a context

The length of what a word brings is its map: a weight counts as much as the value that it carries, which weighs heads,
layers and steps against one another (an attention to a word whose value is nothing says nothing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.core.capabilities import Site
from pellucid.core.errors import MissingCapability
from pellucid.nets.attention import Context, MultiHeadAttention

__all__ = ["Looks", "cross_sites", "grid_of_places", "head_maps", "looking", "maps_of", "sites_of"]


@dataclass(eq=False)
class Looks:
    """What was seen at every site, in the order of calls.

    rows: how many rows of each batch, the first ones.
    weights: site -> one (rows, heads, N, S) a call, each summing to one over the words.
    brought: site -> one (rows, N, S) a call, the length of what word s brought to place n.
    carried: site -> one (rows, heads) a call, the mean length of what each head brought: its weight among heads.
    largest: largest difference between what a site put out and what these weights rebuild, relative to its size.
    """

    rows: int
    weights: dict[str, list[Tensor]] = field(default_factory=dict)
    brought: dict[str, list[Tensor]] = field(default_factory=dict)
    carried: dict[str, list[Tensor]] = field(default_factory=dict)
    largest: float = 0.0

    @property
    def calls(self) -> int:
        """Looks at one site."""
        return max((len(calls) for calls in self.weights.values()), default=0)


def cross_sites(engine: nn.Module) -> dict[str, MultiHeadAttention]:
    """The engine's cross-attentions by name, in the order data meets them."""
    return {n: m for n, m in engine.named_modules() if isinstance(m, MultiHeadAttention) and m.crosses}


def sites_of(engine: nn.Module) -> tuple[Site, ...]:
    """The same as the catalogue of capabilities describes sites."""
    return tuple(
        Site(n, "places of the picture", "words of the caption", m.heads) for n, m in cross_sites(engine).items()
    )


@contextmanager
def looking(engine: nn.Module, rows: int = 1) -> Iterator[Looks]:
    """Watch the cross-attentions for the first rows of each batch while the block runs.

    In a batch doubled by guidance the asked rows come first.

    Raises:
        MissingCapability: the engine has no cross-attention.
    """
    sites = cross_sites(engine)
    if not sites:
        raise MissingCapability(
            "the network looks at no words",
            accepted="diffusion, edm and ddpm on pictures with captions",
            why="It has no attention from places to words.",
            next="The ablation map needs none.",
        )
    seen = Looks(rows)
    handles = [site.register_forward_hook(_hook(seen, name)) for name, site in sites.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _hook(seen: Looks, name: str) -> Any:
    def keep(site: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(site, MultiHeadAttention)
        x, context = arguments[0], arguments[1]
        one = slice(0, seen.rows)
        context = Context(context.tokens[one], context.known[one])
        with torch.no_grad():
            attention, values = site.weights(x[one], context)
            mixed = attention.to(values.dtype) @ values
            rebuilt = site.out(rearrange(mixed, "b h n d -> b n (h d)"))
            size = float(output[one].float().abs().max().clamp_min(1e-12))
            seen.largest = max(seen.largest, float((rebuilt - output[one]).float().abs().max()) / size)
            out = rearrange(site.out.weight.float(), "o (h d) -> h d o", h=site.heads)
            through = values.float() @ out  # (rows, heads, S, width): each head's value of each word, as it comes out
            brought = torch.einsum("bhns,bhso->bnso", attention.float(), through).norm(dim=-1)
            carried = torch.einsum("bhns,bhso->bhno", attention.float(), through).norm(dim=-1).mean(-1)
        seen.weights.setdefault(name, []).append(attention.float().cpu())
        seen.brought.setdefault(name, []).append(brought.cpu())
        seen.carried.setdefault(name, []).append(carried.cpu())

    return keep


def maps_of(looks: Looks, size: tuple[int, int]) -> Tensor:
    """(rows, S, H, W) share of a word in all that was brought to the picture: the mean over sites and looks.

    Args:
        size: (H, W) of the picture.
    """
    parts = []
    for calls in looks.brought.values():
        for brought in calls:
            share = brought / brought.sum(dim=(1, 2), keepdim=True).clamp_min(1e-12)
            parts.append(_spread(share[:, None], size)[:, 0])
    return torch.stack(parts).mean(0)


def head_maps(looks: Looks, size: tuple[int, int], stages: int = 4) -> Tensor:
    """(rows, S, K, H, W) attention of each of K pieces, every one with mean 0 and spread 1 over the picture.

    A piece is one head of one site in one stage of the way, of which there are `stages` of equal length: the first
    one at the most noise.
    """
    pieces = []
    for calls in looks.weights.values():
        stacked = torch.stack(calls)  # (calls, rows, heads, N, S)
        for part in stacked.tensor_split(min(stages, len(stacked))):
            pieces.append(_spread(part.mean(0), size))
    found = torch.cat(pieces, dim=1).transpose(1, 2)  # (rows, S, K, H, W)
    centred = found - found.mean(dim=(-2, -1), keepdim=True)
    return centred / centred.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-9)


def _spread(part: Tensor, size: tuple[int, int]) -> Tensor:
    """(rows, heads, N, S) over places to (rows, heads, S, H, W) over pixels."""
    height, width = grid_of_places(part.shape[2], size)
    grid = rearrange(part, "b k (h w) s -> (b k) s h w", h=height, w=width)
    grown = nn.functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    return rearrange(grown, "(b k) s h w -> b k s h w", b=part.shape[0])


def grid_of_places(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of so many places over a picture of this size.

    >>> grid_of_places(64, (16, 16)), grid_of_places(8, (8, 16))
    ((8, 8), (2, 4))
    """
    wanted = size[0] / size[1]
    shapes = [(h, places // h) for h in range(1, places + 1) if places % h == 0]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] / wanted)))
