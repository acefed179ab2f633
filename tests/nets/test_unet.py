"""The U-Net: sizes, odd pictures, a zero start, and that a row minds its own business."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.errors import BadInput
from pellucid.core.space import Real
from pellucid.nets.choose import Flat, Wanted, backbone, is_picture
from pellucid.nets.gaussian import GaussianGuess
from pellucid.nets.mlp import MLP
from pellucid.nets.unet import OwnAttention, UNet, UNetSizes, sizes_for


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with random weights everywhere, so that zeros hide nothing; in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net.double()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (28, 28), (32, 30), (3, 5), (64, 64)])
def test_any_size_comes_back_and_an_untrained_net_answers_zero(size: tuple[int, int]) -> None:
    net = UNet(3, 2, size, steer=5)
    out = net(torch.randn(2, 3, *size), torch.randn(2, 5))
    assert out.shape == (2, 2, *size)
    assert (out == 0).all()


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_row_does_not_see_other_rows(size: tuple[int, int]) -> None:
    net = awake(UNet(2, 1, size, steer=3))
    x, vector = torch.randn(5, 2, *size, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    whole, alone = net(x, vector), net(x[3:4], vector[3:4])
    assert whole[3:4].abs().max() > 1e-3
    torch.testing.assert_close(whole[3:4], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 40, 56, 72])
def test_any_width_in_eights_has_heads_that_fit(channels: int) -> None:
    net = UNet(1, 1, (8, 8), sizes=sizes_for(8, 8, channels=channels))
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_the_vector_and_every_pixel_are_used() -> None:
    net = awake(UNet(1, 1, (8, 8), steer=3))
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    vector = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    net(x, vector)[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert vector.grad is not None
    assert (x.grad != 0).all(), "own-attention lets a corner hear of every pixel"
    assert (vector.grad != 0).all()


def test_gradients_row_by_row_are_those_of_single_rows() -> None:
    net = awake(UNet(1, 1, (6, 6), sizes=UNetSizes(1, (8, 16), 1), steer=2))
    x, vector = torch.randn(3, 1, 6, 6, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    params: dict[str, Tensor] = dict(net.named_parameters())

    def loss(p: dict[str, Tensor], x: Tensor, vector: Tensor) -> Tensor:
        out: Tensor = functional_call(net, p, (x[None], vector[None]))
        return out.square().sum()

    many = vmap(grad(loss), (None, 0, 0))(params, x, vector)
    for i in range(3):
        one = grad(loss)(params, x[i], vector[i])
        for name in one:
            torch.testing.assert_close(many[name][i], one[name], rtol=1e-9, atol=1e-9)


def test_attention_weights_sum_to_one_and_rebuild_the_output() -> None:
    attention = awake(OwnAttention(16, 2))
    assert isinstance(attention, OwnAttention)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    weights, values = attention.weights(x)
    assert weights.shape == (2, 2, 12, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 12, dtype=torch.float64))
    mixed = torch.einsum("bhqk,bhkd->bhqd", weights, values).permute(0, 1, 3, 2).reshape(2, 16, 3, 4)
    torch.testing.assert_close(attention(x), x + attention.out(mixed))


def test_softmax_stays_in_float32_under_autocast() -> None:
    attention = OwnAttention(16, 2)
    with torch.autocast("cpu", torch.bfloat16):
        weights, _ = attention.weights(torch.randn(1, 16, 4, 4))
    assert weights.dtype == torch.float32


def test_sizes_follow_the_resolution() -> None:
    assert [sizes_for(n, n).stem for n in (8, 28, 32, 64)] == [1, 2, 2, 4]
    assert sizes_for(28, 28, channels=16, depth=3) == UNetSizes(2, (16, 32), 3)
    with pytest.raises(BadInput, match="multiples of 8"):
        UNetSizes(1, (12,), 1)


def test_the_net_says_what_it_is() -> None:
    lines = UNet(1, 1, (28, 28)).describe()
    assert lines[0].startswith("fold 2x2")
    assert any("own-attention" in line and "7x7" in line for line in lines)


def test_the_space_chooses_the_net() -> None:
    assert isinstance(backbone(Wanted(role="denoiser", space=Real((1, 8, 8)))), UNet)
    assert isinstance(backbone(Wanted(role="denoiser", space=Real((6,)))), MLP)
    flat = backbone(Wanted(role="denoiser", space=Real((4, 3)), copies=2))
    assert isinstance(flat, Flat)
    assert flat(torch.zeros(2, 8, 3)).shape == (2, 4, 3)
    assert not is_picture(Real((1, 1, 9)))

    class Own(nn.Module):
        def __init__(self, wanted: Wanted) -> None:
            super().__init__()

        def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
            return x

    assert isinstance(backbone(Wanted(role="denoiser", space=Real((1, 8, 8))), Own), Own)


class TestGaussianGuess:
    """Against the conditional mean of jointly Gaussian data, written with full matrices."""

    def exact(self, mean: Tensor, cov: Tensor, x: Tensor, t: float) -> Tensor:
        """E[data - noise | x] for x = t data + (1 - t) noise."""
        eye = torch.eye(len(mean), dtype=torch.float64)
        gain = (t * cov - (1 - t) * eye) @ torch.linalg.inv(t**2 * cov + (1 - t) ** 2 * eye)
        return mean + (x - t * mean) @ gain.T

    @pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 0.99, 1.0])
    def test_closed_form(self, t: float) -> None:
        torch.manual_seed(0)
        data = torch.randn(200, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64) + 3
        guess = GaussianGuess(5).double()
        guess.fit(data)
        cov = guess.basis @ torch.diag(guess.variance) @ guess.basis.T
        x = torch.randn(4, 5, dtype=torch.float64)
        at = torch.full((4, 1), t, dtype=torch.float64)
        v, stray = guess(x, at, 1 - at)
        torch.testing.assert_close(v, self.exact(guess.mean, cov, x, t))
        eye = torch.eye(5, dtype=torch.float64)
        left = cov @ torch.linalg.inv(t**2 * cov + (1 - t) ** 2 * eye)
        torch.testing.assert_close(stray[0].square(), left.diagonal())
        torch.testing.assert_close(guess.spread().square(), cov.diagonal())

    def test_the_covariance_is_the_datas(self) -> None:
        torch.manual_seed(1)
        data = torch.randn(4000, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5])
        guess = GaussianGuess(3).double()
        guess.fit(data)
        torch.testing.assert_close(guess.spread(), data.std(0), rtol=0.02, atol=0.0)

    def test_fewer_rows_than_numbers(self) -> None:
        torch.manual_seed(2)
        guess = GaussianGuess(40).double()
        guess.fit(torch.randn(10, 40, dtype=torch.float64))
        assert torch.isfinite(guess(torch.zeros(1, 40).double(), torch.ones(1, 1), torch.zeros(1, 1))[0]).all()
        assert 0.5 < guess.spread().mean() < 1.5

    def test_constant_data_and_one_row(self) -> None:
        guess = GaussianGuess(4)
        guess.fit(torch.full((5, 4), 2.0))
        v, stray = guess(torch.full((1, 4), 2.0), torch.ones(1, 1), torch.zeros(1, 1))
        assert torch.isfinite(v).all()
        assert torch.isfinite(stray).all()
        guess.fit(torch.full((1, 4), 2.0))
        assert torch.isfinite(guess.variance).all()

    def test_many_numbers_keep_a_limited_rank(self) -> None:
        guess = GaussianGuess(1500)
        shape = guess.basis.shape
        guess.fit(torch.randn(30, 1500))
        assert guess.basis.shape == shape == (1500, 256)
