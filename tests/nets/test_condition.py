"""Condition encoders: what is given counts, what is not is never read, and captions are read word by word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pellucid.core.batch import Condition
from pellucid.core.rows import Rows
from pellucid.core.space import Mixed, Real, Space, Tokens
from pellucid.nets.condition import CaptionReader, ConditionEncoder, Context, Numbers, drop_conditions

SPACES: dict[str, Space] = {
    "class": Tokens(3, 1),
    "caption": Tokens(11, 6, ends=True),
    "price": Real((1,)),
    "second": Tokens(7, 4, ends=True),
}
B = 5


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with random weights everywhere, so that zeros hide nothing; in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return net.double()


def encoder(context: int = 16) -> ConditionEncoder:
    torch.manual_seed(0)
    made = awake(ConditionEncoder(SPACES, 24, context))
    assert isinstance(made, ConditionEncoder)
    return made


def condition() -> Condition:
    caption = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6], [0] * 6, [9, 0, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0]])
    values = {
        "class": torch.tensor([[0], [1], [2], [0], [1]]),
        "caption": caption,
        "price": Rows(0, torch.arange(B)).normal(1, dtype=torch.float64),
        "second": torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 1], [2, 0, 0, 0], [6, 6, 0, 0]]),
    }
    return Condition(values, {name: torch.ones(B, dtype=torch.bool) for name in values})


LIKE = torch.zeros(B, 2, 3, dtype=torch.float64)


def both(encode: ConditionEncoder, what: Condition, like: Tensor = LIKE) -> tuple[Tensor, Context]:
    vector, context = encode.read(what, like)
    assert context is not None
    return vector, context


def test_the_sequence_holds_the_words_of_all_captions() -> None:
    vector, context = both(encoder(), condition())
    assert vector.shape == (B, 24)
    assert context.tokens.shape == (B, 6 + 4, 16)
    assert context.known.sum(1).tolist() == [3 + 2, 6 + 1, 1 + 4, 1 + 1, 2 + 2]
    assert context.known.any(1).all()
    assert encoder().captions == ("caption", "second")


def test_no_sequence_without_captions_or_without_cross_attention() -> None:
    assert encoder(context=0).read(condition(), LIKE)[1] is None
    plain = ConditionEncoder({"class": Tokens(3, 1), "row": Tokens((2, 5), 2)}, 8, context=16)
    assert plain.captions == ()
    assert plain.read(Condition(), LIKE)[1] is None


def test_the_vector_alone_is_that_of_read() -> None:
    encode = encoder()
    assert torch.equal(encode(condition(), LIKE), encode.read(condition(), LIKE)[0])


@pytest.mark.parametrize("context", [0, 16])
@pytest.mark.parametrize("name", SPACES)
def test_a_value_that_is_not_given_is_not_read(name: str, context: int) -> None:
    encode, what = encoder(context), condition().without(name)
    lies = Condition({**what.values, name: what.values[name].flip(0)}, what.given)
    absent = {k: v for k, v in what.values.items() if k != name}
    left_out = Condition(absent, {k: what.given[k] for k in absent})
    vector, words = encode.read(what, LIKE)
    for other in (lies, left_out):
        again, found = encode.read(other, LIKE)
        torch.testing.assert_close(again, vector)
        if words is not None and found is not None:
            assert found.known.sum() == words.known.sum()
            torch.testing.assert_close(found.tokens[found.known], words.tokens[words.known])
    assert (encode(condition(), LIKE) - vector).abs().max() > 1e-3


def test_a_row_and_its_padding_stand_alone() -> None:
    encode, what = encoder(), condition()
    vector, context = both(encode, what)
    for i in range(B):
        one, alone = both(encode, what.take(slice(i, i + 1)), LIKE[:1])
        torch.testing.assert_close(one[0], vector[i])
        torch.testing.assert_close(alone.tokens[0][alone.known[0]], context.tokens[i][context.known[i]])
    torch.manual_seed(0)
    reader = awake(CaptionReader(Tokens(11, 6, ends=True), 16, 8))
    assert isinstance(reader, CaptionReader)
    short = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(reader(short), reader(torch.tensor([[3, 4, 5, 0, 0, 0]])))


def test_the_order_of_words_and_every_word_count() -> None:
    torch.manual_seed(0)
    reader = awake(CaptionReader(Tokens(11, 6, ends=True), 16, 8))
    base = reader(torch.tensor([[3, 4, 5]]))
    for other in ([3, 5, 4], [3, 4, 6], [3, 4]):
        assert (reader(torch.tensor([other])) - base).abs().max() > 1e-3


def test_an_empty_caption_is_a_caption() -> None:
    encode, what = encoder(), condition()
    vector, context = both(encode, what)
    assert torch.isfinite(vector).all()
    assert torch.isfinite(context.tokens).all()
    assert (vector[2] - encode(what.without("caption"), LIKE)[2]).abs().max() > 1e-3


def test_gradients_row_by_row_are_those_of_single_rows() -> None:
    encode, what = encoder(), condition().drop({"caption": torch.arange(B) != 1, "price": torch.arange(B) != 4})
    params: dict[str, Tensor] = dict(encode.named_parameters())

    def loss(p: dict[str, Tensor], values: dict[str, Tensor], given: dict[str, Tensor]) -> Tensor:
        one = Condition({k: v[None] for k, v in values.items()}, {k: g[None] for k, g in given.items()})
        like = next(iter(p.values())).new_zeros(1, 2)
        vector, context = functional_call(_Read(encode), {f"encode.{k}": v for k, v in p.items()}, (one, like))
        return vector.square().sum() + (context.tokens.square().sum(-1) * context.known).sum()

    many = vmap(grad(loss), (None, 0, 0))(params, dict(what.values), dict(what.given))
    for i in range(B):
        alone = grad(loss)(params, {k: v[i] for k, v in what.values.items()}, {k: g[i] for k, g in what.given.items()})
        for name in alone:
            torch.testing.assert_close(many[name][i], alone[name], rtol=1e-9, atol=1e-9)


class _Read(nn.Module):
    """`read` as a forward, so that `functional_call` reaches it."""

    def __init__(self, encode: ConditionEncoder) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, condition: Condition, like: Tensor) -> tuple[Tensor, Context | None]:
        return self.encode.read(condition, like)


def test_numbers_are_a_line_and_waves() -> None:
    net = Numbers(1, 2).double()
    with torch.no_grad():
        net.line.weight.fill_(1.0)
        net.line.bias.zero_()
        net.waves.weight.zero_()
        net.waves.weight[1, 2] = 1.0  # cos(pi x): the third frequency
    x = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(net(x), torch.cat((x, x + torch.cos(torch.pi * x)), dim=1))


def test_a_function_that_bends_is_learned_better_than_by_a_line() -> None:
    """Least squares on what the encoder gives: a step at 0 within a few percent, where a line leaves a quarter."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 400, dtype=torch.float64)[:, None]
    step = (x > 0).double() * 2 - 1
    seen = Numbers(1, 64).double()(x).detach()
    error = (seen @ torch.linalg.lstsq(seen, step).solution - step).square().mean()
    plain = torch.cat((x, torch.ones_like(x)), dim=1)
    line = (plain @ torch.linalg.lstsq(plain, step).solution - step).square().mean()
    assert error < 0.1
    assert line > 0.2


def test_wide_reals_and_mixed_spaces_go_through_one_line() -> None:
    from pellucid.core.space import Field

    mixed = Mixed((Field("a", Real((2,))), Field("b", Tokens(3, 1))))
    encode = ConditionEncoder({"picture": Real((1, 8, 8)), "row": mixed}, 8)
    what = Condition(
        {"picture": torch.ones(2, 1, 8, 8), "row": torch.ones(2, 3)},
        {"picture": torch.tensor([True, False]), "row": torch.tensor([True, True])},
    )
    found = encode(what, torch.zeros(2, 1))
    assert found.shape == (2, 8)
    assert (found[0] != found[1]).any()


def test_conditions_are_forgotten_one_by_one_at_their_share() -> None:
    what = condition().take(torch.arange(B).repeat(400))
    kept = drop_conditions(what, Rows(1, torch.arange(len(what.given["class"]))), 0.3)
    shares = {name: float(given.double().mean()) for name, given in kept.given.items()}
    assert all(abs(share - 0.7) < 0.04 for share in shares.values())
    assert (kept.given["class"] != kept.given["caption"]).any()
