"""Captions: words become symbols and come back, strange words are said, and files carry them both ways."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.blocks import Pictures as Shown
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.space import Tokens
from pellucid.domains.captions import CaptionBook, learn_captions, words_of
from pellucid.domains.described import describe_data
from pellucid.domains.images import ImageCodec, Images
from pellucid.domains.pictures import Pictures, pictures_from_array, read_pictures
from pellucid.domains.read import read
from pellucid.domains.write import write_items
from pellucid.testing.domains import check_domain

SENTENCES = ("A red circle.", "a blue cross", "", "a red cross", "A  RED circle .", "blue!")


def book() -> CaptionBook:
    found = learn_captions(SENTENCES, None)
    assert found is not None
    return found


def pictures(captions: tuple[str, ...] | None = SENTENCES, labels: tuple[str, ...] | None = None) -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 1), dtype=np.uint8)
    return Pictures(pixels=pixels, captions=captions, labels=labels)


def rows(n: int) -> Rows:
    return Rows(7, torch.arange(n))


# -------------------------------------------------------------------------------------------------------------- words


def test_words_are_small_and_signs_stand_alone() -> None:
    assert words_of("It’s a Café-bar, 2 doors_down…") == [
        *("it's", "a", "café", "-", "bar", ",", "2", "doors", "_", "down", "…"),
    ]
    assert words_of("e\u0301") == words_of("\u00e9")
    assert words_of(" \n\t") == []


def test_common_words_come_first_and_sentences_come_back() -> None:
    learned = book()
    assert learned.words[:2] == ("a", "red")  # 4 and 3 times
    assert learned.space == Tokens(len(learned.words) + 2, 4, ends=True)
    assert learned.write(["a red circle."]).tolist()[0][:2] == [2, 3]
    for sentence in SENTENCES:
        symbols = learned.write([sentence])[0]
        assert learned.text(symbols) == " ".join(words_of(sentence))
        assert torch.equal(learned.write([learned.text(symbols)])[0], symbols)


def test_words_that_are_new_are_left_out_and_said() -> None:
    learned = book()
    assert torch.equal(learned.asked("a purple circle"), learned.write(["a circle"]))
    (said,) = learned.remarks(["a purple circle", "blue purple sun"])
    assert said.topic == "caption words"
    assert said.text == "never seen in the training captions and left out: 'purple', 'sun'"
    assert said.count == 2
    assert learned.remarks(["a RED cross"]) == ()
    with pytest.raises(BadInput, match="None of its words was seen in training. Did you mean 'circle'?"):
        learned.asked("purple circel")
    with pytest.raises(BadInput, match="caption is empty"):
        learned.asked("  ")


def test_rare_words_share_a_symbol_that_training_knows() -> None:
    found = learn_captions([f"the w{i} the" for i in range(4100)], None)
    assert found is not None
    assert (len(found.words), found.rare) == (4000, 101)
    assert found.write(["the zebra"]).tolist() == [[2, 1, 0]]
    assert "read as one unknown word: 'zebra'" in found.remarks(["the zebra"])[0].text
    assert len(found.sentences) == 2000


def test_long_captions_are_cut_and_said() -> None:
    found = learn_captions(["word " * 40, "one two"], None)
    assert found is not None
    assert found.length == 32
    assert found.write(["word " * 40]).tolist() == [[2] * 32]
    (said,) = found.remarks(["word " * 33])
    assert said.text == "1 caption is cut after 32 words, the most in training"
    data = pictures_from_array(np.zeros((2, 4, 4), np.uint8), captions=["word " * 40, "one two"])
    assert [n.text for n in data.notices if n.topic == "caption cut"] == ["1 caption is cut after 32 words"]


def test_no_words_no_book() -> None:
    assert learn_captions(["", " "], None) is None
    assert "caption" not in Images().learn(pictures(captions=("",) * 6)).conditions


def test_captions_are_drawn_as_often_as_they_occur_and_for_their_class() -> None:
    captions = ("red",) * 6 + ("dark red",) * 2 + ("blue",) * 4
    found = learn_captions(captions, ("a",) * 8 + ("b",) * 4)
    assert found is not None
    n = 3000
    free = Counter(found.text(row) for row in found.prior(rows(n), None))
    assert free["red"] / n == pytest.approx(6 / 12, abs=0.03)
    assert free["dark red"] / n == pytest.approx(2 / 12, abs=0.03)
    told = found.prior(rows(n), ["a", "b", "c"] * (n // 3))
    by_class = [Counter(found.text(row) for row in told[k::3]) for k in range(3)]
    assert by_class[0]["red"] / (n // 3) == pytest.approx(0.75, abs=0.05)
    assert by_class[0]["blue"] == 0
    assert set(by_class[1]) == {"blue"}
    assert set(by_class[2]) == {"red", "dark red", "blue"}


def test_a_stored_book_is_checked() -> None:
    good = book()
    for wrong in (
        {"words": ("a", "a")},
        {"length": 0},
        {"length": 99},
        {"counts": (1,)},
        {"counts": tuple(0 for _ in good.counts)},
        {"of_class": ("b", *("a",) * (len(good.counts) - 1))},
    ):
        with pytest.raises(BadInput):
            replace(good, **wrong)


# -------------------------------------------------------------------------------------------------------------- codec


@pytest.mark.parametrize("labels", [None, ("x", "y", "x", "y", "", "x")])
def test_pictures_with_captions_keep_the_laws_of_a_domain(labels: tuple[str, ...] | None) -> None:
    check_domain(Images(), pictures(labels=labels))


def test_captions_become_a_condition_beside_the_class() -> None:
    data = pictures(labels=("x", "y", "x", "y", "", "x"))
    codec = Images().learn(data)
    known = codec.known(data)
    assert list(codec.conditions) == ["class", "caption"]
    assert known.given["caption"].tolist() == [True, True, False, True, True, True]
    back = codec.decode(codec.encode(data), known, rows(6))
    assert back.labels == data.labels
    assert back.captions == ("a red circle .", "a blue cross", "", "a red cross", "a red circle .", "blue !")
    assert not codec.known(pictures(captions=None)).given["caption"].any()
    assert "caption" not in Images(captions=False).learn(data).conditions
    assert list(Images(labels=False).learn(data).conditions) == ["caption"]


def test_what_is_asked_for_is_given_and_found_again() -> None:
    data = pictures(labels=("x", "y", "x", "y", "", "x"))
    codec = Images().learn(data)
    asked = codec.asked({"caption": "A red circle."}, 3)
    assert asked.given["caption"].tolist() == [True] * 3
    assert asked.given["class"].tolist() == [False] * 3
    assert codec.meets(data, {"caption": "a red circle."}).tolist() == [True, False, False, False, True, False]
    assert codec.meets(data, {"caption": "a red circle.", "class": "x"}).tolist() == [True] + [False] * 5
    assert codec.remarks({"caption": ["a cat", "a red dog"]})[0].count == 2
    assert codec.remarks({"class": "x"}) == ()


def test_the_stored_codec_says_the_same() -> None:
    codec = Images().learn(pictures(labels=("x", "y", "x", "y", "", "x")))
    again = ImageCodec.from_plain(json.loads(json.dumps(codec.plain())), {})
    assert again.conditions == codec.conditions
    for name, value in codec.prior(rows(9)).values.items():
        assert torch.equal(again.prior(rows(9)).values[name], value)


def test_the_caption_stands_under_the_picture() -> None:
    data = pictures(labels=("x", "y", "x", "y", "z", "x"))
    block = Images().learn(data).show(data)
    assert isinstance(block, Shown)
    assert block.captions == ("A red circle.", "a blue cross", "x", "a red cross", "A  RED circle .", "blue!")
    found = describe_data(data)
    assert found.captioned == 5
    assert "5 with a caption" in found.to_markdown()


def test_captions_are_part_of_the_data() -> None:
    data = pictures()
    assert data.take([3, 0]).captions == ("a red cross", "A red circle.")
    assert data.fingerprint() != pictures(captions=None).fingerprint()
    assert data.fingerprint() != pictures(captions=SENTENCES[::-1]).fingerprint()
    with pytest.raises(BadInput, match="5 captions for 6 pictures"):
        pictures(captions=SENTENCES[:5])


# -------------------------------------------------------------------------------------------------------------- files


def drawn(folder: Path, name: str, level: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(folder / name)


def test_text_files_beside_the_pictures(tmp_path: Path) -> None:
    for i in range(4):
        drawn(tmp_path, f"{i}.png", 40 * i)
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f" picture\nnumber {i} ")
    (tmp_path / "readme.txt").write_text("about these pictures")
    data = read_pictures(tmp_path)
    assert data.captions == ("picture number 0", "picture number 1", "picture number 2", "")
    said = {n.topic: n.text for n in data.notices}
    assert said["captions"] == (
        "captions from .txt files beside them for 3 of 4 pictures: 5 different words, the longest caption has 3"
    )
    assert said["caption missing"] == "1 of 4 pictures have no caption, such as '3.png'"
    assert said["ignored"].startswith("1 file ignored")


@pytest.mark.parametrize("header", ["file_name,text", "file,caption", "\ufeffText,File_Name"])
@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_table_of_captions(tmp_path: Path, name: str, header: str) -> None:
    for i in range(3):
        drawn(tmp_path, f"{'ab'[i % 2]}/{i}.png", 40 * i)
    table = [(f"{'ab'[i % 2]}/{i}.png", f'a "{i}", really') for i in range(3)] + [("gone.png", "nothing")]
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as stream:
        stream.write(header + "\n")
        csv.writer(stream).writerows(row[::-1] if "Text" in header else row for row in table)
    data = read_pictures(tmp_path)
    assert data.labels == ("a", "a", "b")
    assert data.captions == ('a "0", really', 'a "2", really', 'a "1", really')
    assert not [n for n in data.notices if n.topic == "ignored"]


def test_a_table_of_a_subfolder_names_files_beside_it(tmp_path: Path) -> None:
    drawn(tmp_path, "train/x.png", 10)
    drawn(tmp_path, "train/y.png", 90)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\nx.png,first\ny.png,second\n")
    (tmp_path / "train" / "x.txt").write_text("the table speaks first")
    assert read_pictures(tmp_path).captions == ("first", "second")


def test_a_table_about_something_else_is_left_alone(tmp_path: Path) -> None:
    drawn(tmp_path, "x.png", 10)
    (tmp_path / "metadata.csv").write_text("name,price\nx.png,3\n")
    data = read_pictures(tmp_path)
    assert data.captions is None
    assert [n.topic for n in data.notices] == ["ignored"]


@pytest.mark.parametrize("labels", [None, ("x", "y", "x", "y", "z", "x")])
def test_samples_are_written_with_their_captions_and_read_again(tmp_path: Path, labels: tuple[str, ...] | None) -> None:
    data = pictures(labels=labels)
    folder = write_items(data, tmp_path / "samples")
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.reader(stream))
    assert table[0] == ["file_name", "text"]
    assert [text for _, text in table[1:]] == list(SENTENCES)
    again = read_pictures(folder)
    assert again.names is not None
    order = [again.names.index(name) for name, _ in table[1:]]
    assert again.take(order).captions == data.captions
    assert again.take(order).labels == labels
    write_items(data.take([0, 1, 2]), tmp_path / "samples", force=True)
    assert len(read_pictures(folder)) == 3
    npz = write_items(data, tmp_path / "samples.npz")
    assert read_pictures(npz).captions == data.captions


def test_an_array_file_with_captions(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, captions=np.array(["one", "two", "", "four"]))
    assert read_pictures(tmp_path / "a.npz", limit=2).captions == ("one", "")
    np.savez(tmp_path / "b.npz", images=pixels, captions=np.array(["one", "two"]))
    with pytest.raises(BadInput, match="captions 'captions' have shape"):
        read_pictures(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=pixels, captions=np.array(["one", 2, None, 4], dtype=object))
    with pytest.raises(BadInput, match="Python objects"):
        read_pictures(tmp_path / "c.npz")


@pytest.mark.parametrize("wrong", [{"words": ["a", ""]}, {"counts": [10**400]}, {"length": 33}, {"rare": -1}])
def test_a_stored_book_of_another_make_is_refused(wrong: dict[str, object]) -> None:
    plain = Images().learn(Pictures(pixels=np.zeros((2, 4, 4, 1), np.uint8), captions=("a b", "a b"))).plain()
    assert ImageCodec.from_plain(plain, {}).plain() == plain
    with pytest.raises(BadInput, match="captions have"):
        ImageCodec.from_plain({**plain, "captions": {**plain["captions"], **wrong}}, {})


def test_shapes_come_by_name_with_captions() -> None:
    data = read("shapes", limit=30, size=16)
    assert isinstance(data, Pictures)
    assert data.pixels.shape == (30, 16, 16, 3)
    assert data.captions is not None
    assert all(caption.startswith(("a small ", "a large ")) for caption in data.captions)
    assert data.labels is None
    assert data.fingerprint() == read("shapes", limit=30, size=16).fingerprint()
    with pytest.raises(BadInput, match="shapes stand in squares"):
        read("shapes", size=(16, 8))
