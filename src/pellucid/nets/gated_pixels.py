"""Gated masked convolutions over a picture: what is said of a pixel depends on the pixels before it in reading order.

Two stacks look at what is known. The vertical one sees the rows above, as wide as its kernels reach; the horizontal
one sees what is left of the pixel in its own row, and reads the vertical one at every layer: there is no blind spot.

    y = tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c)      van den Oord et al. 2016, arXiv:1606.05328, eq. 2 and 4

with c a vector that describes the picture. Departures from the paper: the masks are shifts and kernels of half the
size, which waste no products; the vertical stack has residuals, too; places are told by a vector for each row and
column.

When pixels come one by one, the vertical stack is computed a row at a time, and the horizontal one keeps what it read
at the last pixels: a pixel costs as many small products as there are layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

__all__ = ["GatedPixels", "PixelCache"]


@dataclass(frozen=True)
class PixelCache:
    """What was computed for the pixels so far; all tensors are written in place.

    Args:
        known: (B, width, n + 1 + H, n + 1 + W), embedded pixels behind n + 1 zeros, n half the kernel.
        above: of each layer (B, width, n, W), what the vertical stack read at the last n rows.
        down: (B, width, W), with what the horizontal stack starts in this row.
        told: of each layer (B, 2 width, W), what the vertical stack says to the horizontal one in this row.
        left: of each layer (B, width, n + W), what the horizontal stack read in this row, behind n zeros.
        given: of each layer (B, 4 width), what the condition adds to the gates; () without conditions.
    """

    known: Tensor
    above: tuple[Tensor, ...]
    down: Tensor
    told: tuple[Tensor, ...]
    left: tuple[Tensor, ...]
    given: tuple[Tensor, ...]


class GatedPixels(nn.Module):
    """Embedded pixels (B, width, H, W) to features (B, width, H, W), each of the pixels before it alone.

    Args:
        width: channels. depth: layers. kernel: odd; a layer sees kernel // 2 rows up and so far to both sides.
        height, across: H and W. conditioned: is a vector (B, width) given that moves the gates of every layer?

    `masks`: how many (B, width) factors `keep` has, one for what each layer adds.
    """

    def __init__(
        self, width: int, depth: int, kernel: int, height: int, across: int, *, conditioned: bool = False
    ) -> None:
        super().__init__()
        self.width, self.masks, self.reach = width, depth, kernel // 2
        self.row_place = nn.Parameter(0.1 * torch.randn(width, height, 1))
        self.column_place = nn.Parameter(0.1 * torch.randn(width, 1, across))
        up, side = (self.reach + 1, kernel), (1, self.reach + 1)
        self.start_up = nn.Conv2d(width, width, up)
        self.start_left = nn.Conv2d(width, width, side)
        self.up = nn.ModuleList(nn.Conv2d(width, 2 * width, up) for _ in range(depth))
        self.left = nn.ModuleList(nn.Conv2d(width, 2 * width, side) for _ in range(depth))
        self.told = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 1, bias=False) for _ in range(depth))
        self.up_on = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth - 1))
        self.left_on = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        given = (nn.Linear(width, 4 * width, bias=False) for _ in range(depth))
        self.given = nn.ModuleList(given) if conditioned else None
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, vector: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x (B, width, H, W), vector (B, width) or None; keep: (B, masks, width) factors on what is added, or None."""
        n, place = self.reach, self.row_place + self.column_place
        v = self.start_up(pad(x, (n, n, n + 1, 0))[:, :, :-1]) + place
        h = self.start_left(pad(x, (n + 1, 0))[..., :-1]) + v
        for k in range(self.masks):
            up = self.up[k](pad(v, (n, n, n, 0)))
            left = self.left[k](pad(h, (n, 0))) + self.told[k](up)
            if self.given is not None and vector is not None:
                for_up, for_left = self.given[k](vector)[:, :, None, None].chunk(2, dim=1)
                up, left = up + for_up, left + for_left
            factor = 1.0 if keep is None else keep[:, k, :, None, None]
            if k + 1 < self.masks:
                v = v + self.up_on[k](_gated(up))
            h = h + self.left_on[k](_gated(left)) * factor
        out: Tensor = self.last(h.relu()).relu()
        return out

    def begin(self, batch: int, vector: Tensor | None, like: Tensor) -> PixelCache:
        """Nothing known yet of `batch` pictures; vector (B, width) or None, `like` for device and dtype."""
        height, across = self.row_place.shape[1], self.column_place.shape[2]
        given: tuple[Tensor, ...] = ()
        if self.given is not None and vector is not None:
            given = tuple(layer(vector) for layer in self.given)
        each, n = range(self.masks), self.reach
        return PixelCache(
            like.new_zeros(batch, self.width, n + 1 + height, n + 1 + across),
            tuple(like.new_zeros(batch, self.width, n, across) for _ in each),
            like.new_zeros(batch, self.width, across),
            tuple(like.new_zeros(batch, 2 * self.width, across) for _ in each),
            tuple(like.new_zeros(batch, self.width, n + across) for _ in each),
            given,
        )

    def row(self, cache: PixelCache, r: int) -> None:
        """Get ready for the pixels of row r, once all rows above are known."""
        n = self.reach
        window = cache.known[:, :, r : r + n + 1, n + 1 :]
        v = self.start_up(pad(window, (n, n))) + (self.row_place[:, r : r + 1] + self.column_place)
        cache.down.copy_(v[:, :, 0])
        for k in range(self.masks):
            read = torch.cat((cache.above[k], v), dim=2)
            cache.above[k].copy_(read[:, :, 1:])
            cache.left[k].zero_()
            up = self.up[k](pad(read, (n, n)))
            cache.told[k].copy_(self.told[k](up)[:, :, 0])
            if cache.given:
                up = up + cache.given[k][:, : 2 * self.width, None, None]
            if k + 1 < self.masks:
                v = v + self.up_on[k](_gated(up))

    def pixel(self, cache: PixelCache, r: int, c: int) -> Tensor:
        """(B, width) features of the pixel in row r and column c, once all before it are known."""
        n = self.reach
        known = cache.known[:, :, r + n + 1, c : c + n + 1]
        h = _product(self.start_left, known) + cache.down[:, :, c]
        for k in range(self.masks):
            cache.left[k][:, :, c + n] = h
            left = _product(self.left[k], cache.left[k][:, :, c : c + n + 1]) + cache.told[k][:, :, c]
            if cache.given:
                left = left + cache.given[k][:, 2 * self.width :]
            h = h + _product(self.left_on[k], _gated(left)[..., None])
        return _product(self.last, h.relu()[..., None]).relu()

    def put(self, cache: PixelCache, r: int, c: int, embedded: Tensor) -> None:
        """The pixel in row r and column c is known: embedded (B, width)."""
        cache.known[:, :, r + self.reach + 1, c + self.reach + 1] = embedded


def _gated(z: Tensor) -> Tensor:
    f, g = z.chunk(2, dim=1)
    return f.tanh() * g.sigmoid()


def _product(layer: nn.Module, window: Tensor) -> Tensor:
    """What a convolution of one row says at one place, window (B, in, kernel), to (B, out)."""
    assert isinstance(layer, nn.Conv2d)
    return linear(window.flatten(1), layer.weight.flatten(1), layer.bias)
