"""Diffusion transformers: any size, a zero start that learns, every input used, rows that mind their own business."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.errors import BadInput
from pellucid.core.space import Real
from pellucid.nets.attention import Context
from pellucid.nets.choose import Flat, NetName, PooledOnly, Wanted, backbone
from pellucid.nets.dit import DiTSizes, PictureDiT, RowDiT, dit_sizes_for
from pellucid.nets.unet import UNet


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with random weights everywhere, so that zeros hide nothing; in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net.double()


def words(rows: int, width: int = 6) -> Context:
    known = torch.arange(4)[None] < torch.arange(1, rows + 1)[:, None]
    return Context(torch.randn(rows, 4, width, dtype=torch.float64), known)


def small(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "picture":
        return awake(PictureDiT(2, 1, (5, 7), sizes=DiTSizes(2, 16, 2), steer=3, context=6))
    if kind == "row":
        return awake(RowDiT(5, copies=2, extra=1, width=16, depth=2, steer=3, context=6))
    return awake(UNet(2, 1, (5, 7), steer=3, context=6))


def event(kind: str, rows: int) -> Tensor:
    return torch.randn(rows, 11, dtype=torch.float64) if kind == "row" else torch.randn(rows, 2, 5, 7).double()


KINDS = ("picture", "row", "unet")


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (28, 28), (16, 32), (64, 64)])
def test_any_size_comes_back_and_an_untrained_net_answers_zero(size: tuple[int, int]) -> None:
    net = PictureDiT(3, 2, size, steer=5)
    out = net(torch.randn(2, 3, *size), torch.randn(2, 5))
    assert out.shape == (2, 2, *size)
    assert (out == 0).all()


def test_28_pixels_need_no_padding_and_sizes_follow_the_resolution() -> None:
    assert [dit_sizes_for(n, n).patch for n in (8, 16, 28, 32, 64)] == [2, 2, 4, 4, 8]
    assert 28 % dit_sizes_for(28, 28).patch == 0
    with pytest.raises(BadInput, match="multiple of 8"):
        DiTSizes(2, 12, 1)


@pytest.mark.parametrize("steer", [0, 3])
@pytest.mark.parametrize("kind", ["picture", "row"])
def test_a_net_that_starts_at_zero_learns(kind: str, steer: int) -> None:
    """Two zeros in a row would never move: after some steps every parameter but those of no use has changed."""
    torch.manual_seed(1)
    net: nn.Module = (
        PictureDiT(1, 1, (4, 6), sizes=DiTSizes(2, 16, 1), steer=steer)
        if kind == "picture"
        else RowDiT(5, width=16, depth=1, steer=steer)
    )
    before = {name: p.clone() for name, p in net.named_parameters()}
    x = torch.randn(16, 1, 4, 6) if kind == "picture" else torch.randn(16, 5)
    vector = torch.randn(16, steer) if steer else None
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (net(x, vector) - x.flip(-1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, p in net.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_other_rows(kind: str) -> None:
    net, x, vector, context = small(kind), event(kind, 4), torch.randn(4, 3).double(), words(4)
    whole = net(x, vector, context)
    alone = net(x[2:3], vector[2:3], Context(context.tokens[2:3], context.known[2:3]))
    assert whole[2:3].abs().max() > 1e-3
    torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_the_vector_and_every_known_word_are_used(kind: str) -> None:
    net, context = small(kind), words(3)
    x, vector = event(kind, 3).requires_grad_(), torch.randn(3, 3).double().requires_grad_()
    tokens = context.tokens.requires_grad_()
    net(x, vector, context).flatten(1)[:, 0].sum().backward()
    assert x.grad is not None
    assert vector.grad is not None
    assert tokens.grad is not None
    assert (x.grad != 0).all(), "attention lets a corner hear of everything"
    assert (vector.grad != 0).all()
    assert (tokens.grad[context.known] != 0).all()
    assert (tokens.grad[~context.known] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_row_by_row_are_those_of_single_rows(kind: str) -> None:
    net, context = small(kind), words(3)
    x, vector = event(kind, 3), torch.randn(3, 3).double()
    params: dict[str, Tensor] = dict(net.named_parameters())

    def loss(p: dict[str, Tensor], x: Tensor, vector: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        out: Tensor = functional_call(net, p, (x[None], vector[None], Context(tokens[None], known[None])))
        return out.square().sum()

    many = vmap(grad(loss), (None, 0, 0, 0, 0))(params, x, vector, context.tokens, context.known)
    for i in range(3):
        one = grad(loss)(params, x[i], vector[i], context.tokens[i], context.known[i])
        for name in one:
            torch.testing.assert_close(many[name][i], one[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_near_float32(kind: str) -> None:
    net, x, vector, context = small(kind).float(), event(kind, 3).float(), torch.randn(3, 3), words(3)
    context = Context(context.tokens.float(), context.known)
    exact = net(x, vector, context)
    with torch.autocast("cpu", torch.bfloat16):
        fast = net(x, vector, context).float()
    assert (fast - exact).norm() / exact.norm() < 0.03


def test_columns_of_a_row_are_told_apart_and_long_rows_are_grouped() -> None:
    net = small("row")
    x = event("row", 2)
    swapped = x.clone()
    swapped[:, [0, 1, 5, 6]] = x[:, [1, 0, 6, 5]]
    assert (net(x)[:, 0] - net(swapped)[:, 1]).abs().max() > 1e-3
    long = RowDiT(130, copies=2, width=16, depth=1)
    assert long.group == 3
    assert long(torch.randn(2, 260)).shape == (2, 130)


@pytest.mark.parametrize("shape", [(1, 8, 8), (6,), (4, 3)])
@pytest.mark.parametrize("net", [None, "dit", "mlp"])
def test_every_net_takes_every_input(shape: tuple[int, ...], net: NetName | None) -> None:
    wanted = Wanted(role="denoiser", space=Real(shape), copies=2, extra=1, steer=3, context=6, net=net, width=16)
    made = backbone(wanted).double()
    x = torch.randn(2, 2 * shape[0] + 1, *shape[1:], dtype=torch.float64)
    for inputs in ((x, torch.randn(2, 3).double(), words(2)), (x, torch.randn(2, 3).double()), (x,)):
        assert made(*inputs).shape == (2, *shape)


def test_the_name_chooses_the_net() -> None:
    picture, row = Real((1, 8, 8)), Real((6,))
    assert isinstance(backbone(Wanted(role="denoiser", space=picture, net="dit")), PictureDiT)
    assert isinstance(backbone(Wanted(role="denoiser", space=picture, net="mlp")), Flat)
    assert isinstance(backbone(Wanted(role="denoiser", space=row, net="dit")), RowDiT)
    with pytest.raises(BadInput, match="Convolutions need channels"):
        backbone(Wanted(role="denoiser", space=row, net="unet"))
    with pytest.raises(BadInput, match="Did you mean 'dit'?"):
        backbone(Wanted(role="denoiser", space=row, net="dti"))  # type: ignore[arg-type]


class Own(nn.Module):
    """A net of a user's own: one convolution."""

    def __init__(self, wanted: Wanted, outputs: int = 1) -> None:
        super().__init__()
        self.line = nn.Conv2d(wanted.copies * wanted.space.shape[0] + wanted.extra, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        out: Tensor = self.norm(self.line(x))
        return out


class TestOwnNets:
    wanted = Wanted(role="denoiser", space=Real((1, 8, 6)), copies=2, steer=3)

    def test_one_that_fits_is_taken_as_it_is(self) -> None:
        made = backbone(self.wanted, Own)
        assert isinstance(made, Own)
        assert made.training
        assert made.state_dict()["norm.running_mean"].eq(0).all(), "the look moves no statistics"

    def test_a_wrong_shape_is_refused_with_the_right_one(self) -> None:
        with pytest.raises(BadInput, match=r"Own gives a tensor of shape \(2, 3, 8, 6\).*gives \(2, 1, 8, 6\)"):
            backbone(self.wanted, lambda wanted: Own(wanted, outputs=3))

    def test_one_that_fails_says_how_it_was_called(self) -> None:
        with pytest.raises(BadInput, match=r"fails on two rows of zeros.*forward\(x \(2, 2, 8, 6\), vector \(2, 3\)\)"):
            backbone(self.wanted, lambda wanted: nn.Linear(5, 5))
        with pytest.raises(BadInput, match="a tuple for two rows"):
            backbone(self.wanted, lambda wanted: _Two())

    def test_one_without_a_context_is_steered_by_the_vector_alone(self) -> None:
        wanted = Wanted(role="denoiser", space=Real((1, 8, 6)), copies=2, steer=3, context=6)
        made = backbone(wanted, Own)
        assert isinstance(made, PooledOnly)
        x = torch.randn(2, 2, 8, 6)
        assert made(x, torch.randn(2, 3), Context(torch.randn(2, 4, 6), torch.ones(2, 4).bool())).shape == (2, 1, 8, 6)


class _Two(nn.Module):
    """Answers with a pair."""

    def forward(self, x: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, x
