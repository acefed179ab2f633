"""Rows of a table as the two players of a GAN see them, and the category that a row is asked to have.

The generator gives each number as it is and each symbol as a distribution; a symbol is drawn from it by Gumbel noise
in a way that keeps a gradient (Jang et al. 2017, https://arxiv.org/abs/1611.01144, eq. 2 and section 2.2),

    y = softmax((logits + g) / tau),  seen as one-hot(argmax y) forwards and as y backwards

so the critic sees of forged rows just what it sees of real ones: numbers, and zeros and ones. A number that does not
exist in a row is 0 for both. Where a column has very many symbols, so much noise would cost more than the nets: there
one number draws the symbol, and y backwards is the softmax itself (Bengio et al. 2013, arXiv:1308.3432, section 4).

Categories are asked for as CTGAN does (Xu et al. 2019, https://arxiv.org/abs/1907.00503, section 4.3): each row of
training names one of its symbols, one of its columns chosen evenly and the symbols of a column by the logarithm of
their counts, both players are told which, and the generator pays the cross-entropy of that symbol. They pick real rows
to match; here every row of the data comes by as often as any other, so it names the column j with probability
proportional to w_j = log-frequency / frequency of the symbol it has there, and its loss counts mean_j w_j times, which
is the same in expectation. New rows ask for symbols by their frequency.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.core.rows import Rows
from pellucid.core.space import Field, Mixed, Real, Tokens

__all__ = ["Asked", "Categories", "Items", "RowsOfTable"]

WIDE = 256  # symbols of a column above which players see a code instead of zeros and ones
CODE = 32  # numbers in such a code
HEAVIEST = 10.0  # times that a row's loss counts at most


class Items(nn.Module):
    """Real numbers: the players see them on the scale where a grid runs from -1 to 1, continuous ones as they are."""

    def __init__(self, space: Real) -> None:
        super().__init__()
        self.space, self.shape, self.outputs = space, space.shape, space.size
        on_grid = space.levels is not None
        self.middle = (space.low + space.high) / 2 if on_grid else 0.0
        self.reach = (space.high - space.low) / 2 if on_grid else 1.0

    def seen(self, x: Tensor) -> Tensor:
        """(B, *event) to what the critic sees of it."""
        return (x - self.middle) / self.reach

    def forged(self, raw: Tensor, rows: Rows) -> Tensor:
        """What the generator gives, (B, outputs) or (B, *event), to what the critic sees of it."""
        x = raw.reshape(-1, *self.shape)
        return x if self.space.levels is None else torch.tanh(x)  # the grid has ends, and flat ground lies on them

    def item(self, raw: Tensor, rows: Rows | None) -> Tensor:
        """What the generator gives to an event (B, *event)."""
        x = raw.reshape(-1, *self.shape)
        return (x if self.space.levels is None else torch.tanh(x)) * self.reach + self.middle


class RowsOfTable(nn.Module):
    """Numbers first, then each symbol; a symbol of more than 256 is seen as a fixed random code of length one.

    Args:
        space: Mixed, of continuous numbers and symbols. tau: temperature of the soft symbols.
    """

    codes: Tensor

    def __init__(self, space: Mixed, tau: float) -> None:
        super().__init__()
        self.space, self.tau = space, tau
        self.reals = [f for f in space.fields if isinstance(f.space, Real)]
        self.symbols = [f for f in space.fields if isinstance(f.space, Tokens)]
        self.numbers = sum(f.space.size for f in self.reals)
        self.sizes = [n for f in self.symbols for n in _tokens(f).sizes]
        self.widths = [n if n <= WIDE else CODE for n in self.sizes]
        self.outputs = self.numbers + sum(self.widths)
        self.shape = (self.outputs,)
        wide = [n for n in self.sizes if n > WIDE]
        self.read = nn.ModuleList(nn.Linear(CODE, n) for n in wide)  # codes to logits, the generator's
        self.register_buffer("codes", nn.functional.normalize(torch.randn(sum(wide), CODE), dim=-1))

    def seen(self, x: Tensor) -> Tensor:
        """(B, size) to (B, outputs)."""
        parts = self.space.split(x)
        numbers = [torch.where(self._there(parts, f), parts[f.name].flatten(1), 0.0) for f in self.reals]
        columns = torch.cat([x[:, :0].long(), *(parts[f.name] for f in self.symbols)], dim=-1)
        like = x[:, :1]
        return torch.cat([x[:, :0], *numbers, *self._shown(list(columns.unbind(1)), like)], dim=-1)

    def forged(self, raw: Tensor, rows: Rows) -> Tensor:
        """(B, outputs) of the generator to (B, outputs) as the critic sees a row; differentiable."""
        numbers, logits = self.said(raw)
        drawn = []
        for one, noise in zip(logits, self._noise(rows), strict=True):
            soft = ((one + noise) / self.tau).softmax(-1) if one.shape[-1] <= WIDE else one.softmax(-1)
            hard = torch.zeros_like(soft).scatter(-1, _picked(one, noise)[:, None], 1.0)
            drawn.append(hard + soft - soft.detach())
        at = dict(zip(self._places(), drawn, strict=True))
        exist = [n if f.present is None else n * at[(f.present[0], 0)][:, f.present[1], None]
                 for f, n in zip(self.reals, self._fields(numbers), strict=True)]  # fmt: skip
        codes = iter(self._codes())
        shown = [d if d.shape[-1] <= WIDE else d @ next(codes).to(d) for d in drawn]
        return torch.cat([raw[:, :0], *exist, *shown], dim=-1)

    def item(self, raw: Tensor, rows: Rows | None) -> Tensor:
        """(B, outputs) of the generator to an event (B, size); without `rows` the likeliest symbols."""
        numbers, logits = self.said(raw)
        noise = [None] * len(logits) if rows is None else self._noise(rows)
        picked = iter([_picked(one, n) for one, n in zip(logits, noise, strict=True)])
        parts: dict[str, Tensor] = {}
        for f in self.symbols:
            parts[f.name] = torch.stack([next(picked) for _ in range(f.space.size)], dim=-1)
        for f, value in zip(self.reals, self._fields(numbers), strict=True):
            parts[f.name] = value
        for f in self.reals:
            parts[f.name] = torch.where(self._there(parts, f), parts[f.name], 0.0)
        return self.space.join(parts).to(raw.dtype)

    def said(self, raw: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Numbers (B, N), and the logits (B, symbols) of each column."""
        pieces, read = raw[:, self.numbers :].split(self.widths, dim=-1) if self.sizes else (), iter(self.read)
        return raw[:, : self.numbers], [
            p if n <= WIDE else next(read)(p) for p, n in zip(pieces, self.sizes, strict=True)
        ]

    def _noise(self, rows: Rows) -> list[Tensor]:
        """What each column is drawn by: Gumbel noise (B, symbols), or one number (B, 1) between 0 and 1 for many."""
        few = [n for n in self.sizes if n <= WIDE]
        gumbel = iter(rows.fork("symbols").gumbel(sum(few), dtype=torch.float32).split(few, dim=-1) if few else ())
        uniform = iter(rows.fork("many symbols").uniform(max(1, len(self.read))).split(1, dim=-1))
        return [next(gumbel) if n <= WIDE else next(uniform) for n in self.sizes]

    def _shown(self, columns: list[Tensor], like: Tensor) -> list[Tensor]:
        """One (B, width) a column of symbols (B,)."""
        codes, out = iter(self._codes()), []
        for symbols, size in zip(columns, self.sizes, strict=True):
            symbols = symbols.clamp(0, size - 1)
            if size > WIDE:
                out.append(next(codes).to(like)[symbols])
            else:
                out.append(like.new_zeros((like.shape[0], size)).scatter(-1, symbols[:, None], 1.0))
        return out

    def _codes(self) -> tuple[Tensor, ...]:
        wide = [n for n in self.sizes if n > WIDE]
        return self.codes.split(wide) if wide else ()

    def _places(self) -> list[tuple[str, int]]:
        """(field, position) of each column."""
        return [(f.name, t) for f in self.symbols for t in range(f.space.size)]

    def _fields(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """Numbers (B, N) to one (B, size) a real field."""
        return numbers.split([f.space.size for f in self.reals], dim=-1) if self.reals else ()

    def _there(self, parts: dict[str, Tensor], field: Field) -> Tensor:
        return self.space.present(parts, field)[:, None]


class Asked:
    """The symbol that each row is asked to have: `index` (B,) among all symbols in a row, or `none`; `weight` (B,)."""

    def __init__(self, index: Tensor, weight: Tensor) -> None:
        self.index, self.weight = index, weight


class Categories(nn.Module):
    """How often each symbol occurs, and which one a row is asked to have.

    Args:
        table: the rows' layout; columns of at most 256 symbols can be asked for.

    `counts` (S,) are part of the weights: what `count` saw. `none` is the index that asks for nothing.
    """

    counts: Tensor
    starts: Tensor

    def __init__(self, table: RowsOfTable) -> None:
        super().__init__()
        self.columns = [j for j, n in enumerate(table.sizes) if 1 < n <= WIDE]
        self.sizes = [table.sizes[j] for j in self.columns]
        self.table, self.none = [table], sum(self.sizes)  # in a list: not a part of this module
        self.register_buffer("counts", torch.zeros(self.none))
        self.register_buffer("starts", torch.tensor([0, *self.sizes]).cumsum(0)[:-1], persistent=False)

    @torch.no_grad()
    def count(self, x: Tensor) -> None:
        """Count the symbols of rows x (B, size)."""
        self.counts.copy_(torch.bincount(self._symbols(x).flatten(), minlength=self.none).to(self.counts))

    def named(self, x: Tensor, rows: Rows, share: float) -> Asked:
        """One symbol of each row x (B, size), and how often the row's loss counts.

        Args:
            share: of the rows, which ask for nothing and count once.
        """
        index = self._symbols(x)
        heavy = self._heaviness()[index]  # (B, J)
        total = heavy.cumsum(-1)
        draws = rows.fork("asked").uniform(2).to(total)
        place = (total < draws[:, :1] * total[:, -1:]).sum(-1).clamp_max(index.shape[1] - 1)
        nothing = draws[:, 1] < share
        weight = heavy.mean(-1).clamp_max(HEAVIEST)
        picked = index.gather(1, place[:, None])[:, 0]
        return Asked(torch.where(nothing, self.none, picked), torch.where(nothing, 1.0, weight))

    def drawn(self, rows: Rows) -> Tensor:
        """(B,) a symbol for each new row: a column chosen evenly, its symbol by frequency."""
        share = torch.cat([_shares(c) for c in self.counts.split(self.sizes)]) / len(self.sizes)
        bounds = share.double().cumsum(0)
        at = rows.fork("asked").uniform(1, dtype=torch.float64)[:, 0] * bounds[-1]
        return torch.searchsorted(bounds, at, right=True).clamp_max(self.none - 1)

    def cross_entropy(self, logits: list[Tensor], asked: Tensor) -> Tensor:
        """(B,) -log P(the asked symbol), 0 where nothing is asked."""
        said = torch.cat([logits[j].log_softmax(-1) for j in self.columns], dim=-1)
        picked = -said.gather(1, asked.clamp_max(self.none - 1)[:, None])[:, 0]
        return torch.where(asked < self.none, picked, 0.0)

    def _symbols(self, x: Tensor) -> Tensor:
        """(B, J) index of each symbol among all."""
        table = self.table[0]
        parts = table.space.split(x)
        columns = torch.cat([parts[f.name] for f in table.symbols], dim=-1)[:, self.columns]
        most = torch.tensor(self.sizes, device=x.device) - 1
        return torch.minimum(columns.clamp_min(0), most) + self.starts

    def _heaviness(self) -> Tensor:
        """(S,) log-frequency / frequency of each symbol in its column, 1 on average over the data."""
        found = []
        for counts in self.counts.split(self.sizes):
            often = counts + 1  # a symbol that was not counted may still come
            found.append(_shares((1 + often).log()) / _shares(often))
        return torch.cat(found)


def _picked(logits: Tensor, noise: Tensor | None) -> Tensor:
    """(B,) the symbol drawn from logits (B, symbols): the largest of their sums with the noise, or for one number a row
    the first whose cumulated probability reaches it; the likeliest without noise."""
    if noise is None or noise.shape[-1] == logits.shape[-1]:
        return (logits if noise is None else logits + noise).argmax(-1)
    reach = logits.softmax(-1).cumsum(-1)
    return (reach < noise * reach[:, -1:]).sum(-1).clamp_max(logits.shape[-1] - 1)


def _shares(counts: Tensor) -> Tensor:
    """Counts to shares of their sum; all alike where nothing was counted."""
    total = counts.sum()
    return torch.where(total > 0, counts / total.clamp_min(1e-12), 1.0 / len(counts))


def _tokens(field: Field) -> Tokens:
    assert isinstance(field.space, Tokens)
    return field.space
