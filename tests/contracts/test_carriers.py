"""Spaces, conditions and batches carry rows without losing, mixing or inventing anything."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from pellucid.core.batch import Batch, Condition, TensorExamples
from pellucid.core.errors import BadInput
from pellucid.core.space import Field, Mixed, Real, Space, Tokens, space_from_plain, space_to_plain, zeros

TABLE = Mixed(
    (
        Field("income", Real((1,)), present=("has income", 1)),
        Field("has income", Tokens(2, 1)),
        Field("curve", Real((2, 3))),
        Field("codes", Tokens((4, 300), 2)),
        Field("limit", Real((1,)), present=("codes", 3)),
    )
)
B = 5


def table_rows() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "income": torch.randn(B, 1, generator=draw),
        "has income": torch.tensor([[1], [0], [1], [0], [1]]),
        "curve": torch.randn(B, 2, 3, generator=draw),
        "codes": torch.tensor([[3, 299], [0, 1], [3, 0], [2, 5], [1, 298]]),
        "limit": torch.randn(B, 1, generator=draw),
    }


def test_split_undoes_join() -> None:
    parts = table_rows()
    x = TABLE.join(parts)
    assert x.shape == (B, *TABLE.shape) == (B, 1 + 1 + 6 + 2 + 1)
    again = TABLE.split(x)
    for name, part in parts.items():
        assert torch.equal(again[name], part)
        assert again[name].dtype == part.dtype
    assert torch.equal(TABLE.join(again), x)


def test_split_rounds_symbols_that_a_model_left_near_a_whole_number() -> None:
    x = TABLE.join(table_rows())
    assert torch.equal(TABLE.split(x + 0.3)["codes"], table_rows()["codes"])


def test_join_keeps_double_precision_and_symbols_up_to_the_limit() -> None:
    fine = {name: part.double() if part.is_floating_point() else part for name, part in table_rows().items()}
    assert TABLE.join(fine).dtype == torch.float64
    large = Mixed((Field("code", Tokens(2**24, 1)), Field("x", Real((1,)))))
    top = torch.tensor([[2**24 - 1]])
    assert torch.equal(large.split(large.join({"code": top, "x": torch.zeros(1, 1)}))["code"], top)
    with pytest.raises(BadInput, match="2\\^24"):
        Mixed((Field("code", Tokens(2**24 + 1, 1)),))


def test_present_follows_the_first_symbol_of_the_named_field() -> None:
    parts = table_rows()
    fields = {field.name: field for field in TABLE.fields}
    assert TABLE.present(parts, fields["income"]).tolist() == [True, False, True, False, True]
    assert TABLE.present(parts, fields["limit"]).tolist() == [True, False, True, False, False]
    assert TABLE.present(parts, fields["curve"]).all()


def test_no_rows() -> None:
    parts = TABLE.split(zeros(TABLE, 0))
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "income": (0, 1),
        "has income": (0, 1),
        "curve": (0, 2, 3),
        "codes": (0, 2),
        "limit": (0, 1),
    }
    assert TABLE.join(parts).shape == (0, 11)


@pytest.mark.parametrize(
    "space",
    [
        TABLE,
        Real((3, 5, 7), levels=256),
        Real((1, 9), ragged=True, levels=17, low=0.0, high=2.0),
        Tokens(5, 7, ends=True),
        Tokens((2, 3, 4), 3),
    ],
    ids=lambda space: type(space).__name__,
)
def test_a_space_survives_json(space: Space) -> None:
    assert space_from_plain(json.loads(json.dumps(space_to_plain(space)))) == space


def test_a_space_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="one a position"):
        Tokens((2, 3), 3)
    with pytest.raises(BadInput, match="names distinct"):
        Mixed((Field("a", Real((1,))), Field("a", Real((1,)))))
    with pytest.raises(BadInput, match="depends on 'nothing'"):
        Mixed((Field("a", Real((1,)), present=("nothing", 1)),))
    with pytest.raises(BadInput, match="2 levels"):
        Real((2,), levels=1)
    with pytest.raises(BadInput, match="at least one axis"):
        Real((0,))


SPACES: dict[str, Space] = {"class": Tokens(3, 1), "low": Real((2, 4))}


def conditions() -> Condition:
    values = {"class": torch.tensor([[0], [1], [2], [1], [0]]), "low": torch.arange(40.0).reshape(B, 2, 4)}
    given = {
        "class": torch.tensor([True, True, False, True, False]),
        "low": torch.tensor([True, False, True, True, True]),
    }
    return Condition(values, given)


def same(a: Condition, b: Condition) -> bool:
    return a.values.keys() == b.values.keys() and all(
        torch.equal(a.values[k], b.values[k]) and torch.equal(a.given[k], b.given[k]) for k in a.values
    )


def test_cat_undoes_taking_apart() -> None:
    c = conditions()
    assert same(Condition.cat([c.take(slice(0, 2)), c.take(slice(2, 2)), c.take(slice(2, None))]), c)
    order = torch.tensor([3, 0, 4])
    assert same(c.take(order), Condition.cat([c.take(order[i : i + 1]) for i in range(3)]))


def test_repeat_keeps_a_row_with_its_copies() -> None:
    c = conditions()
    assert same(c.repeat(3), c.take(torch.arange(B).repeat_interleave(3)))
    assert same(c.repeat(1), c)


def test_without_and_drop_only_ever_take_away() -> None:
    c = conditions()
    assert not c.without("class").given["class"].any()
    assert torch.equal(c.without("class").given["low"], c.given["low"])
    assert same(c.without("class").without("low"), c.nothing())
    with pytest.raises(BadInput, match="Did you mean 'class'"):
        c.without("clas")
    keep = {"class": torch.tensor([True, False, True, True, True])}
    dropped = c.drop(keep)
    assert dropped.given["class"].tolist() == [True, False, False, True, False]
    assert torch.equal(dropped.given["low"], c.given["low"])
    assert same(c.drop({"class": torch.ones(B, dtype=torch.bool)}), c)
    assert c.given["class"].sum() == 3, "the condition itself was changed"


def test_nothing_and_blank_give_nothing_in_the_spaces_own_dtype() -> None:
    blank = Condition.blank(SPACES, 3)
    assert same(blank, conditions().nothing(3))
    assert blank.values["class"].dtype == torch.int64
    assert not any(flag.any() for flag in blank.given.values())
    assert Condition.blank(SPACES, 0).values["low"].shape == (0, 2, 4)
    assert not Condition()


def test_a_value_without_its_flag_is_refused() -> None:
    with pytest.raises(BadInput, match="the same names"):
        Condition({"class": torch.zeros(2, 1)}, {})


def test_a_batch_takes_everything_along() -> None:
    x, ids = torch.arange(B * 6.0).reshape(B, 2, 3), torch.arange(100, 100 + B)
    batch = Batch(x, ids, conditions(), lengths=torch.tensor([1, 2, 3, 1, 2]), weight=torch.linspace(0, 1, B))
    order = torch.tensor([4, 1])
    some = batch.take(order)
    assert len(some) == 2
    assert torch.equal(some.x, x[order])
    assert some.ids.tolist() == [104, 101]
    assert same(some.condition, batch.condition.take(order))
    assert some.lengths is not None
    assert some.lengths.tolist() == [2, 2]
    assert some.weight is not None
    assert some.weight.tolist() == [1.0, 0.25]
    assert len(batch.take(slice(0, 0))) == 0
    other = batch.with_x(torch.zeros(B, 1))
    assert other.x.shape == (B, 1)
    assert torch.equal(other.ids, ids)
    assert other.weight is batch.weight


def test_examples_name_their_content() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    examples = TensorExamples(x, groups=torch.tensor([0, 0, 1, 1]))
    taken = examples.take(torch.tensor([3, 1]))
    assert torch.equal(taken.x, x[[3, 1]])
    assert taken.ids.tolist() == [3, 1]
    assert examples.fingerprint() == TensorExamples(x.clone()).fingerprint()
    changed = x.clone()
    changed[0, 0] += 1e-6
    others = [
        TensorExamples(changed),
        TensorExamples(x.double()),
        TensorExamples(x.reshape(3, 4)),
        TensorExamples(x, weight=torch.ones(4)),
        TensorExamples(x, Condition({"c": torch.zeros(4, 1)}, {"c": torch.ones(4, dtype=torch.bool)})),
    ]
    assert len({examples.fingerprint(), *(other.fingerprint() for other in others)}) == 1 + len(others)
