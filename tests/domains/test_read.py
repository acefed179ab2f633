"""The one door: kinds are inferred and said, and can be replaced; a wrong name meets the nearest right one."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData
from pellucid.domains.kinds import Data
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read, require_items

Refuses = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """A block that must raise BadInput with these words, and leave the folder as it was."""

    @contextmanager
    def block(words: str) -> Iterator[None]:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(BadInput, match=words):
            yield
        assert sorted(tmp_path.rglob("*")) == before

    return block


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text("name,age\n" + "".join(f"{n},{a}\n" for n, a in zip("abcabcabcabc", range(20, 32), strict=True)))
    return path


def why(data: Data) -> str:
    """The first notice says the kind."""
    assert data.notices[0].topic == "kind"
    return data.notices[0].text


def test_a_folder_of_pictures(photos: Path) -> None:
    data = read(photos)
    assert isinstance(data, Pictures)
    assert why(data) == "read as images because the folder holds 12 .png files"
    assert len(read(str(photos), limit=5, size=4, colour="grey")) == 5


def test_a_table(people: Path) -> None:
    data = read(people, target="age", kinds={"name": "category"})
    assert isinstance(data, TableData)
    assert data.target == "age"
    assert why(data) == "read as a table because its name ends in .csv"
    (people.parent / "b.csv.gz").write_bytes(gzip.compress(people.read_bytes()))
    assert why(read(people.parent / "b.csv.gz")) == "read as a table because its name ends in .csv.gz"


def test_array_files_and_idx_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4), np.uint8), sex=np.array(["f", "m", "f"]))
    data = read(tmp_path / "a.npz", target="sex")
    assert isinstance(data, Pictures)
    assert data.labels == ("f", "m", "f")
    idx = b"\0\0\x08\x03" + struct.pack(">3I", 2, 4, 4) + bytes(32)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx))
    assert why(read(tmp_path / "train-images-idx3-ubyte.gz")) == "read as images because it is named as an idx file"
    (tmp_path / "pictures").write_bytes(idx)
    assert why(read(tmp_path / "pictures")) == "read as images because it is an idx file inside"


def test_a_folder_of_idx_files(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2, 4, 4) + bytes(32))
    assert why(read(tmp_path)) == "read as images because the folder holds idx files"


def test_objects(people: Path) -> None:
    frame = pd.read_csv(people)
    assert why(read(frame)) == "read as a table because it is a data frame"
    assert why(read(pa.Table.from_pandas(frame))) == "read as a table because it streams Arrow"
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    data = read(pixels)
    assert isinstance(data, Pictures)
    assert why(data) == "read as images because it is an array of shape (2, 4, 5, 3)"
    assert read(data) is data


def test_the_kind_can_be_asked_for(people: Path) -> None:
    plain = people.rename(people.with_suffix(".txt"))
    assert why(read(plain, kind="table")) == "read as a table as asked"


def test_digits_have_seventeen_levels() -> None:
    data = read("digits")
    assert isinstance(data, Pictures)
    assert data.pixels.shape == (1797, 8, 8, 1)
    assert (data.levels, int(data.pixels.max()), int(data.shown().max())) == (17, 16, 255)
    assert data.classes() == tuple("0123456789")
    assert data.source == "digits"
    large = read("digits", size=16, limit=10)
    assert isinstance(large, Pictures)
    assert (large.pixels.shape, large.levels) == ((10, 16, 16, 1), 256)


def test_a_missing_path_meets_the_nearest_name(people: Path, refuses: Refuses) -> None:
    with refuses("nothing at '.*peple.csv'.*Did you mean 'people.csv'"):
        read(people.with_name("peple.csv"))
    with refuses("photoss' does not exist"):
        read(people.parent / "photoss" / "cats" / "1.png")


def test_a_folder_of_tables_asks_for_one(people: Path, refuses: Refuses) -> None:
    (people.parent / "b.csv.gz").write_bytes(b"")
    with refuses("folder with b.csv.gz, people.csv.*Name one: .*b.csv.gz"):
        read(people.parent)


def test_tables_beside_pictures_do_not_mislead(photos: Path) -> None:
    (photos / "labels.csv").write_text("a,b\n1,2\n")
    data = read(photos)
    assert isinstance(data, Pictures)
    assert any(".csv (1)" in n.text for n in data.notices if n.topic == "ignored")


def test_what_has_no_kind_is_refused(tmp_path: Path, photos: Path, refuses: Refuses) -> None:
    (tmp_path / "poem.odd").write_text("roses are red\n")
    with refuses(r"ending '.odd', which says nothing.*kind='table'"):
        read(tmp_path / "poem.odd")
    with refuses("is one picture.*folder"):
        read(photos / "01.png")
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04 and so on")
    with refuses("archive or a workbook.*Unpack"):
        read(tmp_path / "photos.zip")
    with refuses(r"shape \(4, 4\).*DataFrame"):
        read(np.zeros((4, 4), np.uint8))
    with refuses("data is a list"):
        read([1, 2])  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with refuses("holds no pictures"):
        read(tmp_path / "empty")


def test_options_of_the_other_kind_are_refused(people: Path, photos: Path, refuses: Refuses) -> None:
    with refuses("size and colour is given for a table"):
        read(people, size=32, colour="grey")
    with refuses("kinds is given for images"):
        read(photos, kinds={"a": "number"})
    with refuses("kind is 'table', but the folder holds"):
        read(photos, kind="table")
    with refuses("kind is 'images', but its name ends in .csv"):
        read(people, kind="images")
    with refuses("kind is 'pictures'"):
        read(people, kind="pictures")  # type: ignore[arg-type]
    with refuses("target is 'x' for 'digits'"):
        read("digits", target="x")


def test_too_few_items_for_a_split_are_refused(people: Path) -> None:
    data = read(people)
    require_items(data)
    with pytest.raises(BadInput, match="'people.csv' has 12 rows. Accepted: 13 or more"):
        require_items(data, 13)
    with pytest.raises(BadInput, match="'array' has 2 pictures"):
        require_items(read(np.zeros((2, 4, 4), np.uint8)))
