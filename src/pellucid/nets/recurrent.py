"""Recurrent layers, LSTM and GRU: what was read so far is held in a state of fixed size.

Each layer is added to what it reads, whose root mean square was brought to 1 before (`Norm`), so that layers can be
stacked; the papers' single layers need neither. The products with the inputs of all places are one matrix product, and
the gradient through time is written out, so that a place costs one small product forwards and one backwards; what a
row gets does not depend on the rows beside it, and `torch.func.vmap` goes through, which torch's own layers refuse.

    LSTM    i, f, o = sigmoid(W x_t + U h_{t-1} + b),  n = tanh(W x_t + U h_{t-1} + b)
            c_t = f c_{t-1} + i n,   h_t = o tanh(c_t)
                            Hochreiter & Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, appendix A.1;
                            with the forget gate f of Gers et al. 2000, https://doi.org/10.1162/089976600300015015
    GRU     r, u = sigmoid(W x_t + U h_{t-1} + b),  n = tanh(W x_t + b + r (U h_{t-1} + b'))
            h_t = n + u (h_{t-1} - n)                       Cho et al. 2014, https://arxiv.org/abs/1406.1078, eq. 5-8
The reset gate r stands behind the product with U, as in cuDNN and torch, so that one product serves all gates.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.nets.causal import Causal
from pellucid.nets.transformer import Norm

__all__ = ["Cell", "Recurrent", "RecurrentLayer", "gru_scan", "lstm_scan"]

Cell = Literal["lstm", "gru"]
State = tuple[Tensor, ...]  # of each layer (B, width): h, and of an LSTM c
FORGET = (
    1.0  # first bias of the forget gate: Jozefowicz et al. 2015, https://proceedings.mlr.press/v37/jozefowicz15.html
)


class Recurrent(Causal):
    """Slots (B, S, width) to features (B, S, width); slot s sees slots 0 to s.

    Args:
        width: numbers in a slot, and cells in a layer. depth: layers. cell: "lstm" or "gru".
        conditioned: is a vector (B, width) given that moves the gates of every layer?

    `masks`: how many (B, width) factors `keep` has, one for what each layer adds.
    """

    def __init__(self, width: int, depth: int, cell: Cell = "lstm", *, conditioned: bool = False) -> None:
        super().__init__()
        self.width, self.masks = width, depth
        self.layers = nn.ModuleList(RecurrentLayer(width, cell, conditioned=conditioned) for _ in range(depth))
        self.norm = Norm()

    def forward(self, x: Tensor, vector: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x (B, S, width), vector (B, width) or None; keep: factors (B, masks, width) on what layers add, or None."""
        return self._run(x, self.begin(len(x), x.shape[1], x), vector, keep)[0]

    def begin(self, batch: int, slots: int, like: Tensor) -> list[State]:
        """The state before any slot, on the device and in the dtype of `like`; its size does not depend on `slots`."""
        zero = like.new_zeros(batch, self.width)
        return [(zero,) * layer.states for layer in self._layers()]

    def step(self, x: Tensor, state: list[State], vector: Tensor | None = None) -> tuple[Tensor, list[State]]:
        """x (B, k, width), the slots after those in the state, to features (B, k, width) and the state behind them."""
        return self._run(x, state, vector, None)

    def _run(
        self, x: Tensor, state: list[State], vector: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, list[State]]:
        after = []
        for place, layer in enumerate(self._layers()):
            added, last = layer(self.norm(x), state[place], vector)
            after.append(last)
            x = x + (added if keep is None else added * keep[:, place, None])
        return self.norm(x), after

    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]


class RecurrentLayer(nn.Module):
    """One layer of cells, as many as the width.

    Args:
        width, cell, conditioned: as in `Recurrent`.

    `states`: how many tensors (B, width) its state has.
    """

    def __init__(self, width: int, cell: Cell, *, conditioned: bool = False) -> None:
        super().__init__()
        self.cell, self.states = cell, 2 if cell == "lstm" else 1
        gates = 4 if cell == "lstm" else 3
        self.inward = nn.Linear(width, gates * width)
        self.around = nn.Parameter(torch.empty(width, gates * width))  # U
        self.given = nn.Linear(width, gates * width, bias=False) if conditioned else None
        self.reset = nn.Parameter(torch.zeros(width)) if cell == "gru" else None  # b'
        for gate in self.around.data.split(width, dim=1):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.inward.bias)
        if cell == "lstm":
            self.inward.bias.data[width : 2 * width] = FORGET

    def forward(self, x: Tensor, state: State, vector: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, S, width) and the state before it to h (B, S, width) and the state behind it."""
        z = self.inward(x)
        if self.given is not None and vector is not None:
            z = z + self.given(vector)[:, None]
        # sums over many places are kept in float32, also where products are taken in bfloat16
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        with torch.autocast(z.device.type, enabled=False):
            if self.reset is None:
                h, c = lstm_scan(z, self.around, *state)
                return h, (h[:, -1], c[:, -1])
            h = gru_scan(z, self.around, self.reset, *state)
            return h, (h[:, -1],)


def lstm_scan(z: Tensor, around: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """All places of an LSTM.

    Args:
        z: (B, S, 4 H), W x + b of the gates i, f, o, n. around: (H, 4 H). h, c: (B, H) before the first place.

    Returns:
        h and c at each place, (B, S, H) each.
    """
    hs, cs, _ = _LSTM.apply(z, around, h.to(z.dtype), c.to(z.dtype))
    return hs, cs


def gru_scan(z: Tensor, around: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    """All places of a GRU.

    Args:
        z: (B, S, 3 H), W x + b of the gates r, u and of n. around: (H, 3 H). bias: (H,), b'. h: (B, H) before.

    Returns:
        h at each place, (B, S, H).
    """
    hs: Tensor = _GRU.apply(z, around, bias, h.to(z.dtype))[0]
    return hs


class _LSTM(torch.autograd.Function):
    """`lstm_scan`, and the gates after their nonlinearities (B, S, 4 H), which the gradient needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, around: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hs, cs, gates = [], [], []
        size = h.shape[1]
        for z_t in z.unbind(1):
            g = torch.addmm(z_t, h, around)
            s, n = g[:, : 3 * size].sigmoid(), g[:, 3 * size :].tanh()
            i, f, o = s.chunk(3, dim=1)
            c = torch.addcmul(f * c, i, n)
            h = o * c.tanh()
            hs.append(h)
            cs.append(c)
            gates.append(torch.cat((s, n), dim=1))
        return torch.stack(hs, dim=1), torch.stack(cs, dim=1), torch.stack(gates, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[1:], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        around, h_0, c_0, hs, cs, gates = ctx.saved_tensors
        size, places = h_0.shape[1], hs.shape[1]
        s, n = gates.split((3 * size, size), dim=2)
        i, f, o = s.chunk(3, dim=2)
        slope, round_c = s * (1 - s), cs.tanh()
        before = torch.cat((c_0[:, None], cs[:, :-1]), dim=1)
        # what a move of c_t does to the inputs of the gates i, f and n, and a move of h_t to those of o and to c_t
        by_c = torch.cat((n, before), dim=2) * slope[:, :, : 2 * size], i * (1 - n * n)
        by_h = round_c * slope[:, :, 2 * size :], o * (1 - round_c * round_c)
        if_c, n_c, o_h, c_h, keeps = (a.unbind(1) for a in (*by_c, *by_h, f))
        more_h, more_c = (_each(g, places) for g in grads[:2])
        asked = None if grads[2] is None else grads[2] * torch.cat((slope, 1 - n * n), dim=2)
        more_z, back = _each(asked, places), around.t()
        moves: list[Tensor] = []
        dh, dc = torch.zeros_like(hs[:, 0]), torch.zeros_like(hs[:, 0])
        for t in reversed(range(places)):
            dh, dc = _plus(dh, more_h[t]), _plus(dc, more_c[t])
            dc = torch.addcmul(dc, dh, c_h[t])
            dz = torch.cat((if_c[t] * torch.cat((dc, dc), dim=1), dh * o_h[t], dc * n_c[t]), dim=1)
            dz = _plus(dz, more_z[t])
            moves.append(dz)
            dh, dc = dz @ back, dc * keeps[t]
        gone = torch.stack(moves[::-1], dim=1)
        hidden = torch.cat((h_0[:, None], hs[:, :-1]), dim=1)
        return gone, hidden.flatten(0, 1).t() @ gone.flatten(0, 1), dh, dc


class _GRU(torch.autograd.Function):
    """`gru_scan`, and r, u, n and U h + b' of n, (B, S, 4 H), which the gradient needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, around: Tensor, bias: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        hs, gates = [], []
        size = h.shape[1]
        for z_t in z.unbind(1):
            a = h @ around
            s, held = (z_t[:, : 2 * size] + a[:, : 2 * size]).sigmoid(), a[:, 2 * size :] + bias
            r, u = s.chunk(2, dim=1)
            n = torch.addcmul(z_t[:, 2 * size :], r, held).tanh()
            h = torch.addcmul(n, u, h - n)
            hs.append(h)
            gates.append(torch.cat((s, n, held), dim=1))
        return torch.stack(hs, dim=1), torch.stack(gates, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[1], inputs[3], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        around, h_0, hs, gates = ctx.saved_tensors
        size, places = h_0.shape[1], hs.shape[1]
        r, u, n, held = gates.split(size, dim=2)
        before = torch.cat((h_0[:, None], hs[:, :-1]), dim=1)
        flat = 1 - n * n
        # what a move of h_t does to the inputs of u and n, and that of n to the input of r and to U h + b'
        u_h, n_h, r_n = (before - n) * u * (1 - u), (1 - u) * flat, held * r * (1 - r)
        u_h, n_h, r_n, r_t, keeps = (a.unbind(1) for a in (u_h, n_h, r_n, r, u))
        asked = [None] * 4 if grads[1] is None else list(grads[1].split(size, dim=2))
        factors = (r * (1 - r), u * (1 - u), flat, torch.ones_like(r))
        more = [_each(None if g is None else g * by, places) for g, by in zip(asked, factors, strict=True)]
        more_h, back = _each(grads[0], places), around.t()
        moves, inner = [], []
        dh = torch.zeros_like(hs[:, 0])
        for t in reversed(range(places)):
            dh = _plus(dh, more_h[t])
            dn = _plus(dh * n_h[t], more[2][t])
            ds = torch.cat((_plus(dn * r_n[t], more[0][t]), _plus(dh * u_h[t], more[1][t])), dim=1)
            da = torch.cat((ds, _plus(dn * r_t[t], more[3][t])), dim=1)
            moves.append(torch.cat((ds, dn), dim=1))
            inner.append(da)
            dh = torch.addmm(dh * keeps[t], da, back)
        gone, around_gone = torch.stack(moves[::-1], dim=1), torch.stack(inner[::-1], dim=1)
        weight = before.flatten(0, 1).t() @ around_gone.flatten(0, 1)
        return gone, weight, around_gone[:, :, 2 * size :].sum((0, 1)), dh


def _each(g: Tensor | None, places: int) -> tuple[Tensor | None, ...]:
    """(B, S, H) place by place; None at each where nothing is asked."""
    return (None,) * places if g is None else g.unbind(1)


def _plus(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b
