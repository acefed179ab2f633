"""A number cut into bins: which bin, how dense inside it, and a draw from inside it.

Cuts lie half way between values that occur, so that a value that occurs often has a piece of its own and draws
from that piece round back to it. Each bin has a few pieces, even inside; pieces and bins hold equally many rows as
far as the values allow. The first and the last bin go on with an exponential tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.core.errors import BadInput
from pellucid.domains.stored import no_tensors, stored_tensor

__all__ = ["Bins"]

TAIL_ROWS = 0.5  # each tail counts as half a row
TAIL_LENGTH = 1.0 / 16.0  # mean of a tail, relative to the distance from the first to the last cut


@dataclass(frozen=True, eq=False)
class Bins:
    """Cuts in order, the rows between them, and which bin each piece belongs to.

    Args:
        cuts: (K + 1,) float64, strictly increasing.
        rows: (K,) float64, training rows in each piece, above 0.
        bin: (K,) int64, 0 to count - 1, going up by 0 or 1.

    >>> bins = Bins.learn(torch.arange(8.0), bins=4, pieces=2)
    >>> bins.count, bins.of(torch.tensor([-9.0, 1.4, 1.6, 7.0])).tolist()
    (4, [0, 0, 1, 3])
    """

    cuts: Tensor
    rows: Tensor
    bin: Tensor
    # with the tails as first and last piece: bin, log P(piece | bin), and bin + P(up to the piece's end | bin)
    _bin: Tensor = field(init=False, repr=False)
    _log_share: Tensor = field(init=False, repr=False)
    _upto: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        steps = torch.cat([self.bin[:1], self.bin.diff()])
        fits = len(self.cuts) == len(self.rows) + 1 == len(self.bin) + 1 and len(self.rows) > 0
        fits = fits and bool((self.cuts.diff() > 0).all() and (self.rows > 0).all())
        if not fits or int(self.bin[0]) != 0 or not bool(((steps == 0) | (steps == 1)).all()):
            raise BadInput(
                f"bins have {len(self.cuts)} cuts, {len(self.rows)} rows and {len(self.bin)} pieces",
                accepted="rising cuts, one piece between each two, rows above 0, bins counted from 0",
            )
        tail = self.rows.new_tensor([TAIL_ROWS])
        mass = torch.cat([tail, self.rows, tail])
        bin_ = torch.cat([self.bin[:1], self.bin, self.bin[-1:]])
        share = mass / mass.new_zeros(self.count).index_add_(0, bin_, mass)[bin_]
        last = torch.cat([bin_[1:] != bin_[:-1], torch.tensor([True])])
        upto = bin_ + torch.where(last, 1.0, (share.cumsum(0) - bin_).clamp(0.0, 1.0))
        object.__setattr__(self, "_bin", bin_)
        object.__setattr__(self, "_log_share", share.log())
        object.__setattr__(self, "_upto", upto)

    @classmethod
    def learn(cls, values: Tensor, bins: int, pieces: int) -> Bins:
        """At most so many bins of so many pieces, from values (N,); one bin from -1/2 to 1/2 when there are none."""
        if bins < 1 or pieces < 1:
            raise BadInput(f"bins is {bins} and pieces is {pieces}", accepted="1 or more of both")
        found = values.detach().cpu().to(torch.float64)
        if not len(found):
            return cls(torch.tensor([-0.5, 0.5]).double(), torch.ones(1).double(), torch.zeros(1, dtype=torch.int64))
        unique, counts = found.unique(return_counts=True)
        if len(unique) == 1:
            first, last = unique - 0.5, unique + 0.5
        else:
            first, last = unique[:1] - (unique[1] - unique[0]) / 2, unique[-1:] + (unique[-1] - unique[-2]) / 2
        cuts = torch.cat([first, (unique[1:] + unique[:-1]) / 2, last])  # (U + 1,)
        before = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).double()  # rows below each cut
        of_bins = _nearest(before, bins)
        chosen = torch.cat([of_bins, _nearest(before, bins * pieces)]).unique()
        inner = torch.isin(chosen[1:-1], of_bins)
        bin_ = torch.cat([torch.zeros(1, dtype=torch.int64), inner.long().cumsum(0)])
        return cls(cuts[chosen], before[chosen].diff(), bin_)

    @property
    def count(self) -> int:
        """How many bins."""
        return int(self.bin[-1]) + 1

    @property
    def _tail(self) -> float:
        """Mean length of a tail."""
        return float(self.cuts[-1] - self.cuts[0]) * TAIL_LENGTH

    def _piece(self, values: Tensor) -> Tensor:
        """(B,) to (B,): 0 is the lower tail, K + 1 the upper one."""
        return torch.searchsorted(self.cuts.to(values.device), values.to(torch.float64).contiguous(), right=True)

    def of(self, values: Tensor) -> Tensor:
        """The bin of each value: (B,) to (B,) int64."""
        return self._bin.to(values.device)[self._piece(values)]

    def log_density(self, values: Tensor) -> Tensor:
        """log p(value | its bin): (B,) to (B,) float64."""
        cuts, piece, values = self.cuts.to(values.device), self._piece(values), values.to(torch.float64)
        beyond = torch.maximum(cuts[0] - values, values - cuts[-1]).clamp(min=0.0)
        even = -cuts.diff().log()
        end = even.new_tensor([-math.log(self._tail)])
        size = torch.cat([end, even, end])[piece]
        return self._log_share.to(values.device)[piece] + size - beyond / self._tail

    def draw(self, symbols: Tensor, u: Tensor) -> Tensor:
        """A value of each bin: (B,) int64 and (B,) uniform in (0, 1) float64 to (B,) float64."""
        cuts, upto = self.cuts.to(u.device), self._upto.to(u.device)
        place = symbols.to(torch.float64) + u
        piece = torch.searchsorted(upto, place, right=True).clamp(max=len(upto) - 1)
        share = self._log_share.to(u.device)[piece].exp()
        inside = (1.0 - (upto[piece] - place) / share).clamp(1e-12, 1.0 - 1e-12)
        ends = len(upto) - 1
        low, high = cuts[(piece - 1).clamp(0, ends - 2)], cuts[piece.clamp(1, ends - 1)]
        even = low + inside * (high - low)
        below, above = cuts[0] + self._tail * inside.log(), cuts[-1] - self._tail * (1.0 - inside).log()
        return torch.where(piece == 0, below, torch.where(piece == ends, above, even))

    def tensors(self) -> dict[str, Tensor]:
        return {"cuts": self.cuts, "rows": self.rows, "bin": self.bin}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Bins:
        """The inverse of `tensors`."""
        no_tensors(tensors, "cuts", "rows", "bin")
        cuts, rows = stored_tensor(tensors, "cuts", (None,)), stored_tensor(tensors, "rows", (None,))
        return cls(cuts, rows, stored_tensor(tensors, "bin", (None,), torch.int64))


def _nearest(before: Tensor, parts: int) -> Tensor:
    """Positions of the cuts that come closest to cutting the rows into so many equal parts, both ends included."""
    wanted = torch.linspace(0.0, float(before[-1]), parts + 1, dtype=torch.float64)
    right = torch.searchsorted(before, wanted).clamp(1, len(before) - 1)
    left = right - 1
    found = torch.where(wanted - before[left] < before[right] - wanted, left, right)
    found[0], found[-1] = 0, len(before) - 1
    return found.unique()
