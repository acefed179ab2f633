"""The description of a data set counts what is there, and shows itself in every medium."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pellucid.core.errors import BadInput
from pellucid.core.run import Noticed
from pellucid.domains.described import DataReport, describe_data
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures


@pytest.fixture
def pictures() -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
    pixels[7] = pixels[8] = pixels[9] = pixels[0]
    labels = ["b" if i % 3 else "a" for i in range(30)]
    return Pictures(pixels=pixels, labels=tuple(labels), notices=(Noticed(topic="kind", text="read as images"),))


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": np.arange(100),
            "age": rng.integers(18, 90, 100),
            "income": rng.lognormal(9, 2, 100).round(2),
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], 100),
            "ill": rng.random(100) < 0.2,
            "seen": pd.date_range("2020-01-01", periods=100).to_series().to_numpy(),
            "unit": ["mg"] * 100,
            "name": [f"patient {i}" for i in range(100)],
        }
    )
    return frame


def test_pictures_are_counted(pictures: Pictures) -> None:
    found = describe_data(pictures)
    assert (found.kind, found.count, found.shape, found.levels) == ("images", 30, (5, 4, 3), 256)
    assert found.classes == (("a", 10), ("b", 20))
    assert found.duplicates == 3
    assert found.conflicting == 4  # 0 and 9 are called a, 7 and 8 are called b
    assert found.fingerprint == pictures.fingerprint()


def test_the_look_at_pictures_spreads_over_the_classes(pictures: Pictures) -> None:
    found = describe_data(pictures.take(list(range(30)) * 4))
    assert found.samples is not None
    assert found.samples.shape == (40, 5, 4, 3)
    assert found.captions == ("a",) * 14 + ("b",) * 26


def test_a_table_is_counted(table: pd.DataFrame) -> None:
    table.loc[3, "town"] = None
    table.loc[50, ["age", "income", "town", "ill", "name"]] = table.loc[49, ["age", "income", "town", "ill", "name"]]
    table["seen"] = table["seen"].where(table.index != 50, table["seen"][49])
    found = describe_data(read_table(table, target="town"))
    assert (found.kind, found.count, found.missing, found.target) == ("table", 100, 1, "town")
    assert found.ignored == ("id",)
    assert found.duplicates == 1
    assert sum(count for _, count in found.classes) == 99


def test_histograms_count_every_known_value(table: pd.DataFrame) -> None:
    found = {h.name: h for h in describe_data(read_table(table)).histograms}
    for name in ("age", "income", "town", "ill", "seen"):
        assert sum(found[name].counts) == 100
        assert len(found[name].labels) == len(found[name].counts) == len(set(found[name].labels))
    assert found["seen"].labels[0] == "2020-01-01"
    assert found["unit"].labels == found["name"].labels == ()


def test_many_categories_are_gathered() -> None:
    frame = pd.DataFrame({"a": [f"w{i % 20}" for i in range(200)]})
    histogram = describe_data(read_table(frame)).histograms[0]
    assert histogram.labels[-1] == "8 others"
    assert sum(histogram.counts) == 200


def test_narrow_numbers_have_different_labels() -> None:
    frame = pd.DataFrame({"a": 1_000_000 + np.arange(50) / 100})
    assert len(set(describe_data(read_table(frame)).histograms[0].labels)) == 12


def test_a_class_target_may_be_a_code_but_not_a_measure(table: pd.DataFrame) -> None:
    table["stage"] = np.arange(100) % 4
    assert len(describe_data(read_table(table, target="stage")).classes) == 4
    assert describe_data(read_table(table, target="age")).classes == ()
    assert describe_data(read_table(table, target="income")).classes == ()


def test_the_report_reads_well(table: pd.DataFrame, pictures: Pictures) -> None:
    text = describe_data(read_table(table, target="ill")).to_text(width=160)
    assert "100 rows of 8 columns" in text
    assert "No two rows are equal, not counting 'id'" in text
    assert "long tail of high values" in text
    assert "always mg" in text
    text = describe_data(pictures).to_text()
    assert "30 colour pictures of 4 x 5 pixels in 2 classes" in text
    assert "3 pictures (10.0%) are exact copies" in text
    assert "4 pictures have an equal with another label" in text
    assert "read as images" in text


@pytest.mark.parametrize("which", ["table", "pictures"])
def test_the_report_shows_itself_everywhere(which: str, table: pd.DataFrame, pictures: Pictures) -> None:
    found = describe_data(pictures if which == "pictures" else read_table(table))
    assert isinstance(found, DataReport)
    assert "<html" in found.to_html()
    assert found.to_markdown().startswith("# Data: ")
    assert json.loads(found.to_json())


def test_no_pictures_and_odd_tables() -> None:
    none = describe_data(Pictures(pixels=np.zeros((0, 4, 4, 1), np.uint8)))
    assert none.count == none.duplicates == 0
    assert none.blocks()
    odd = read_table(pd.DataFrame({"a": [1], "b": [None], "c": ["x"]}))
    assert describe_data(odd).blocks()
    numbered = describe_data(read_table(pd.DataFrame({"a": [1, 2, 3]})))
    assert (numbered.duplicates, numbered.ignored) == (0, ())


def test_other_things_are_refused() -> None:
    with pytest.raises(BadInput, match="data is a list"):
        describe_data([1, 2])  # type: ignore[call-overload]
