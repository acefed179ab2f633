"""Couplings: steps that keep one half of the numbers and bend the other half by what a network reads from the first.

    y_keep = x_keep,   y_move = bend(x_move; net(x_keep, c))
                                    Dinh et al. 2017, https://arxiv.org/abs/1605.08803, eq. 4 to 8

Which curve bends is the family's own (`realnvp.py`: a line, `spline_flow.py`: a spline). Here are the coupling, which
half each one keeps, its networks, and how couplings are laid out over pictures and rows.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pellucid.core.space import Real
from pellucid.families.reversible import (
    ActNorm,
    Arrange,
    Flatten,
    FlowFamily,
    Squash,
    Squeeze,
    Step,
    unrounded,
)
from pellucid.nets.choose import is_picture
from pellucid.nets.convolution import ConvBlock

__all__ = ["Bend", "ConvNet", "Coupling", "RowNet", "chain_of_couplings", "keeps", "squeezed_chain"]

MOST_TOLD = 8192  # numbers that couplings over the whole of a picture are told by their networks


class Bend(nn.Module, abc.ABC):
    """How a coupling moves numbers: a rising function of one number, given by `needs` numbers of the network.

    by_column: it reads rows of the network's numbers (B, outputs) fastest where each column lies together.
    """

    needs: int
    by_column: bool = False

    @abc.abstractmethod
    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, ...) and raw (B, needs * C, ...), first of all channels the first number, to y (B, C, ...) and the
        sum of log-slopes (B,)."""

    @abc.abstractmethod
    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """y (B, C, ...) back to x."""


class Coupling(Step):
    """y_keep = x_keep, y_move = bend(x_move; net(x_keep, c)): half of the channels, or numbers of a row, stay.

    The kept half is still there afterwards, so the same network undoes the step, and its Jacobian is triangular:
    Dinh et al. 2017, https://arxiv.org/abs/1605.08803, eq. 4 to 8.

    Args:
        sizes: how many channels stand first and last. last: the last ones move; otherwise the first ones.
        net: from (B, kept, ...) and the condition's vector to (B, needs * moved, ...).
    """

    def __init__(self, sizes: tuple[int, int], net: nn.Module, bend: Bend, *, last: bool = True) -> None:
        super().__init__()
        self.sizes, self.last, self.net, self.bend = sizes, last, net, bend

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=1)
        raw = self._raw(first if self.last else second, vector)
        with unrounded(x):
            y, log_scale = self.bend(second if self.last else first, raw)
        return torch.cat((first, y) if self.last else (y, second), dim=1), log_scale

    def inverse(self, y: Tensor, vector: Tensor) -> Tensor:
        first, second = y.split(self.sizes, dim=1)
        raw = self._raw(first if self.last else second, vector)
        with unrounded(y):
            x = self.bend.inverse(second if self.last else first, raw)
        return torch.cat((first, x) if self.last else (x, second), dim=1)

    def _raw(self, kept: Tensor, vector: Tensor) -> Tensor:
        raw: Tensor = self.net(kept, vector)
        return raw.to(kept.dtype)


def squeezed_chain(family: FlowFamily, space: Real, steer: int, bend: Callable[[int], Bend]) -> Iterator[Step]:
    """Couplings over squeezed pictures, then over all numbers as one row: from (B, *event) to (B, size).

    A picture is squeezed as long as its sides are even and stay at 4 or above, with convolutional couplings after each
    squeeze; then all its numbers are one row, as everything else is from the start, with couplings that see it whole.
    Dinh et al. 2017 end at 4x4 pixels and set half of the channels aside at each scale; so few numbers need no such
    thrift.

    Args:
        steer: size of the condition's vector, 0 for none. bend: of so many moving channels.
    """
    shape, picture = space.shape, is_picture(space)
    if family.squashes(space):
        yield Squash(family.margin)
    if picture:
        channels, height, wide = shape
        width, depth = family.width or (48 if min(height, wide) < 16 else 32), family.depth or 1

        def convolutional(kept: int, moved: int) -> tuple[nn.Module, Bend]:
            moves = bend(moved)
            return ConvNet(kept, moves.needs * moved, steer=steer, width=width, depth=depth), moves

        while height % 2 == 0 and wide % 2 == 0 and min(height, wide) >= 8:
            channels, height, wide = 4 * channels, height // 2, wide // 2
            yield Squeeze()
            yield from chain_of_couplings(channels, family.steps, convolutional, norm=True)
        shape = (channels, height, wide)
    yield Flatten(shape)
    if not picture or bend(1).needs * space.size <= MOST_TOLD:

        def of_rows(kept: int, moved: int) -> tuple[nn.Module, Bend]:
            moves = bend(moved)
            sizes = {"width": family.width or 128, "depth": family.depth or 2}
            return RowNet(kept, moves.needs * moved, steer=steer, by_column=moves.by_column, **sizes), moves

        yield ActNorm(space.size)
        yield from chain_of_couplings(space.size, family.steps, of_rows)


def chain_of_couplings(
    count: int, steps: int, make: Callable[[int, int], tuple[nn.Module, Bend]], *, norm: bool = False
) -> Iterator[Step]:
    """Couplings over `count` channels that keep, one after another, what `keeps` says.

    Two couplings share one order of the channels: what the first keeps, the second moves. At the end the channels
    stand as they stood before.

    Args:
        make: (kept, moved) -> network and bend of one coupling. norm: an ActNorm before each pair of couplings.
    """
    order = torch.arange(count)
    for step in range(steps):
        keep = keeps(count, step - step % 2)
        wanted = torch.cat((keep.nonzero().flatten(), (~keep).nonzero().flatten()))
        if not torch.equal(order, wanted):
            yield Arrange(order.argsort()[wanted])
            order = wanted
        if norm and step % 2 == 0:
            yield ActNorm(count)
        kept = int(keep.sum())
        sizes = (kept, count - kept)
        last = step % 2 == 0 or kept == 0  # a single number has no other half: it moves at every step
        net, bend = make(*(sizes if last else sizes[::-1]))
        yield Coupling(sizes, net, bend, last=last)
    if not torch.equal(order, torch.arange(count)):
        yield Arrange(order.argsort())


def keeps(count: int, step: int) -> Tensor:
    """(count,) bool: what coupling number `step` keeps; every second one keeps the complement of the one before.

    Channel k keeps by one binary digit of k, another digit for each pair of steps, the first pair by the sum of the
    two lowest: after `Squeeze` that is the checkerboard, then rows, columns and channels. Any two numbers are thus
    told apart by some pair.
    """
    k = torch.arange(count)
    digits = max(1, (count - 1).bit_length())
    pair = step // 2 % (digits + 1)
    bit = (k ^ (k >> 1)) & 1 if pair == 0 and count > 2 else (k >> (pair - 1 if count > 2 else 0)) & 1
    return (bit == 0) == (step % 2 == 0) if count > 1 else torch.zeros(1, dtype=torch.bool)


class RowNet(nn.Module):
    """Kept numbers (B, inputs) to (B, outputs): `depth` hidden layers, an output of zero at the start.

    Plain layers with ReLU, as the peers have them: of nets with equal parameters they take the least time.

    Args:
        steer: size of the condition's vector, which is added to the first hidden layer; 0 for none.
        by_column: lay the outputs out in memory column by column; their shape stays (B, outputs).
    """

    def __init__(
        self, inputs: int, outputs: int, *, steer: int, width: int, depth: int, by_column: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.by_column = inputs, by_column
        self.first = nn.Linear(max(1, inputs), width)
        self.steer = nn.Linear(steer, width, bias=False) if steer else None
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        if self.inputs == 0:  # rows of width 1: nothing is kept, and the condition alone decides
            kept = kept.new_ones(kept.shape[0], 1)
        h = self.first(kept)
        if self.steer is not None:
            h = h + self.steer(vector.to(kept.dtype))
        for layer in self.hidden:
            h = layer(h.relu_())
        if self.by_column:
            h = h.relu_()
            return (torch.mm(self.last.weight, h.t()) + self.last.bias[:, None]).t()
        out: Tensor = self.last(h.relu_())
        return out


class ConvNet(nn.Module):
    """Kept channels (B, inputs, H, W) to (B, outputs, H, W) through residual blocks; zero at the start."""

    def __init__(self, inputs: int, outputs: int, *, steer: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(width, steer) for _ in range(depth))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, kept: Tensor, vector: Tensor) -> Tensor:
        h = self.first(kept)
        for block in self.blocks:
            h = block(h, vector)
        out: Tensor = self.last(nn.functional.silu(h))
        return out
