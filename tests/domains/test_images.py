"""The picture codec: nothing is lost, words are understood, and what is stored is checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Real, Tokens
from pellucid.domains.images import ImageCodec, Images
from pellucid.domains.pictures import Pictures


def pictures(
    n: int = 6, *, channels: int = 1, levels: int = 256, labels: tuple[str, ...] | None = None, seed: int = 0
) -> Pictures:
    pixels = np.random.default_rng(seed).integers(0, levels, (n, 5, 4, channels), dtype=np.uint8)
    return Pictures(pixels=pixels, levels=levels, labels=labels)


def rows(n: int) -> Rows:
    return Rows(7, torch.arange(n))


@given(channels=st.sampled_from([1, 3]), levels=st.integers(2, 256), labelled=st.booleans(), seed=st.integers(0, 2**31))
def test_decode_after_encode_returns_the_pictures(channels: int, levels: int, labelled: bool, seed: int) -> None:
    data = pictures(channels=channels, levels=levels, labels=tuple("abcabb") if labelled else None, seed=seed)
    codec = Images().learn(data)
    x = codec.encode(data)
    back = codec.decode(x, codec.known(data), rows(6))
    assert x.shape == (6, channels, 5, 4)
    assert back.fingerprint() == data.fingerprint()
    assert codec.tolerance() == 0.0


def test_levels_lie_on_the_grid_of_the_space() -> None:
    data = Pictures(pixels=np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))
    codec = Images().learn(data)
    x = codec.encode(data).flatten()
    exact = -1.0 + torch.arange(256, dtype=torch.float64) * 2.0 / 255.0
    assert codec.space == Real((1, 16, 16), levels=256)
    assert x.dtype == torch.float32
    assert torch.equal(x, exact.float())
    assert (float(x[0]), float(x[-1])) == (-1.0, 1.0)


def test_pixels_stay_in_their_places() -> None:
    data = pictures(channels=3)
    x = Images().learn(data).encode(data)
    assert float(x[2, 1, 4, 3]) == pytest.approx(-1 + int(data.pixels[2, 4, 3, 1]) * 2 / 255)


def test_decoding_takes_the_nearest_level_and_clamps() -> None:
    codec = Images().learn(pictures(levels=17))
    x = torch.full((1, 1, 5, 4), -3.0)
    x[0, 0, 0] = torch.tensor([torch.inf, 0.06, 0.07, -0.06])
    assert codec.decode(x, Condition(), rows(1)).pixels[0, 0, :, 0].tolist() == [16, 8, 9, 8]
    with pytest.raises(BadInput, match="NaN"):
        codec.decode(x * torch.nan, Condition(), rows(1))


def test_classes_become_a_condition() -> None:
    data = pictures(labels=("10", "9", "10", "2", "", "9"))
    codec = Images().learn(data)
    known = codec.known(data)
    assert codec.classes == ("2", "9", "10")
    assert codec.conditions == {"class": Tokens(3, 1)}
    assert known.values["class"].tolist() == [[2], [1], [2], [0], [0], [1]]
    assert known.given["class"].tolist() == [True, True, True, True, False, True]
    assert codec.decode(codec.encode(data), known, rows(6)).labels == data.labels
    assert codec.known(pictures()).given["class"].tolist() == [False] * 6
    assert codec.decode(codec.encode(data), known.nothing(), rows(6)).labels is None
    with pytest.raises(BadInput, match="class 'cat' was not in the training pictures"):
        codec.known(pictures(labels=("cat",) * 6))


def test_no_labels_no_condition() -> None:
    labelled = pictures(labels=tuple("aabbab"))
    for codec in (Images().learn(pictures()), Images(labels=False).learn(labelled)):
        assert codec.conditions == {}
        assert not codec.known(labelled)
        assert not codec.prior(rows(3))
        assert not codec.asked({}, 3)
        with pytest.raises(BadInput, match="these pictures have no classes"):
            codec.asked({"class": "a"}, 3)


def test_words_are_understood_or_refused_with_the_nearest_one() -> None:
    codec = Images().learn(pictures(labels=("shoe", "bag", "shoe", "coat", "bag", "bag")))
    asked = codec.asked({"class": "coat"}, 4)
    assert asked.values["class"].tolist() == [[1]] * 4
    assert asked.given["class"].tolist() == [True] * 4
    assert codec.asked({}, 4).given["class"].tolist() == [False] * 4
    with pytest.raises(BadInput, match="Accepted: bag, coat, shoe. Did you mean 'coat'?"):
        codec.asked({"class": "goat"}, 4)
    with pytest.raises(BadInput, match="condition 'clas' does not exist. Accepted: class. Did you mean 'class'?"):
        codec.asked({"clas": "coat"}, 4)


def test_numbers_are_words_too() -> None:
    codec = Images().learn(pictures(labels=tuple("123123")))
    assert codec.asked({"class": 3}, 1).values["class"].tolist() == [[2]]


def test_meets_compares_labels() -> None:
    data = pictures(labels=tuple("abcabb"))
    codec = Images().learn(data)
    assert codec.meets(data, {"class": "b"}).tolist() == [False, True, False, False, True, True]
    assert codec.meets(data, {}).all()
    assert not codec.meets(pictures(), {"class": "b"}).any()
    with pytest.raises(BadInput):
        codec.meets(data, {"colour": "red"})


def test_the_prior_has_the_training_frequencies() -> None:
    codec = Images().learn(pictures(8, labels=tuple("aaaaaabc")))
    prior = codec.prior(rows(4000))
    found = torch.bincount(prior.values["class"][:, 0], minlength=3) / 4000
    assert bool(prior.given["class"].all())
    assert found.tolist() == pytest.approx([0.75, 0.125, 0.125], abs=0.03)
    some = torch.tensor([17, 2999])
    assert torch.equal(codec.prior(rows(4000).take(some)).values["class"], prior.values["class"][some])


def test_likelihoods_are_those_of_pictures() -> None:
    codec = Images().learn(pictures(channels=3))
    assert codec.log_volume(codec.encode(pictures(channels=3))).tolist() == [0.0] * 6
    assert codec.dimensions() == 60


def test_pictures_of_another_kind_are_refused() -> None:
    codec = Images().learn(pictures())
    for other in (pictures(channels=3), pictures(levels=17)):
        with pytest.raises(BadInput, match="as in training"):
            codec.encode(other)
    with pytest.raises(BadInput, match="no pictures"):
        Images().learn(pictures(0))


def test_pictures_show_themselves_with_their_labels() -> None:
    data = pictures(levels=17, channels=3, labels=tuple("abcabb"))
    block = Images().learn(data).show(data, limit=4)
    assert block.images.shape == (4, 5, 4, 3)
    assert int(block.images.max()) == 255
    assert block.captions == ("a", "b", "c", "a")


def test_storing_changes_nothing_and_is_checked() -> None:
    data = pictures(labels=tuple("abcabb"))
    codec = Images().learn(data)
    plain = json.loads(json.dumps(codec.plain()))
    again = ImageCodec.from_plain(plain, codec.tensors())
    assert again.plain() == codec.plain()
    assert torch.equal(again.encode(data), codec.encode(data))
    assert torch.equal(again.prior(rows(9)).values["class"], codec.prior(rows(9)).values["class"])
    wrong = [
        {**plain, "size": 4},
        {k: v for k, v in plain.items() if k != "levels"},
        {**plain, "levels": 1},
        {**plain, "levels": "256"},
        {**plain, "channels": 2},
        {**plain, "classes": ["a", "a", "b"]},
        {**plain, "counts": [1, 2]},
        {**plain, "counts": [1, 2, -1]},
    ]
    for stored in wrong:
        with pytest.raises(BadInput):
            ImageCodec.from_plain(stored, {})
    with pytest.raises(BadInput):
        ImageCodec.from_plain(plain, {"weights": torch.zeros(1)})
