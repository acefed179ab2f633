"""Tables are read from files and frames with every guess said, or refused with a reason; nothing is ever written."""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pellucid.core.errors import BadInput
from pellucid.domains import frames
from pellucid.domains.frames import TableData, read_table

Refuses = Callable[[str], AbstractContextManager[None]]

PEOPLE = "name,age,height\nAnn,31,1.70\nBob,,1.82\nCem,52,1.75\n"


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """A block that must raise BadInput with these words, and leave the folder as it was."""

    def listing() -> list[tuple[str, int]]:
        return sorted((str(p), p.stat().st_size) for p in tmp_path.rglob("*"))

    @contextmanager
    def block(words: str) -> Iterator[None]:
        before = listing()
        with pytest.raises(BadInput, match=words):
            yield
        assert listing() == before

    return block


def said(data: TableData, topic: str) -> str:
    """The text of the one notice on this topic."""
    found = [notice for notice in data.notices if notice.topic == topic]
    assert len(found) == 1, data.notices
    return found[0].text


def topics(data: TableData) -> set[str]:
    return {notice.topic for notice in data.notices}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ------------------------------------------------------------------------------------------------------ the data class


def test_a_csv_file_becomes_a_table(tmp_path: Path) -> None:
    data = read_table(write(tmp_path / "people.csv", PEOPLE), target="age")
    assert [(c.name, c.kind, c.missing) for c in data.columns] == [
        ("name", "category", 0),
        ("age", "integer", 1),
        ("height", "number", 0),
    ]
    assert (len(data), data.source, data.target) == (3, "people.csv", "age")
    assert topics(data) == {"missing", "rare"}  # each age has one row


def test_rows_are_taken_in_order_and_columns_stay() -> None:
    data = read_table(io_frame(PEOPLE))
    some = data.take(np.array([2, 0]))
    assert some.frame["name"].tolist() == ["Cem", "Ann"]
    assert some.frame.index.tolist() == [0, 1]
    assert some.columns == data.columns
    assert len(data.take([])) == 0


def test_a_file_is_written_as_it_was_read(tmp_path: Path) -> None:
    text = (
        "id,price,day,ok,note\n007,1.50,24.12.2020,true,a\n012,2.00,31.01.2021,false,?\n100,12.25,01.02.2021,true,b\n"
    )
    data = read_table(write(tmp_path / "a.csv", text))
    assert data.written().to_csv(index=False) == text
    assert data.given()["day"].tolist() == ["24.12.2020", "31.01.2021", "01.02.2021"]


def test_a_column_is_found_by_name(tmp_path: Path) -> None:
    data = read_table(io_frame(PEOPLE))
    assert data.column("age").kind == "integer"
    with pytest.raises(BadInput, match="'agee'.*Did you mean 'age'"):
        data.column("agee")


def test_the_fingerprint_sees_names_kinds_and_values(tmp_path: Path) -> None:
    base = read_table(write(tmp_path / "a.csv", PEOPLE))
    assert base.fingerprint() == read_table(write(tmp_path / "b.tsv", PEOPLE.replace(",", "\t"))).fingerprint()
    changed = [
        PEOPLE.replace("31", "32"),
        PEOPLE.replace("Ann,31", "Ann,"),
        PEOPLE.replace("age", "years"),
        PEOPLE.replace("Bob", "Bo"),
        PEOPLE + "Ann,31,1.70\n",
    ]
    prints = {read_table(write(tmp_path / "c.csv", text)).fingerprint() for text in changed}
    prints.add(read_table(tmp_path / "a.csv", kinds={"age": "category"}).fingerprint())
    assert len(prints | {base.fingerprint()}) == 7
    assert len(base.take([0, 1]).fingerprint()) == 64


def io_frame(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


# ------------------------------------------------------------------------------------------------- forms of text files


def test_gzip_tsv_and_other_separators(tmp_path: Path) -> None:
    expected = read_table(write(tmp_path / "a.csv", PEOPLE)).frame
    forms = {
        "a.csv.gz": (gzip.compress(PEOPLE.encode(), mtime=0), None),
        "a.tsv": (PEOPLE.replace(",", "\t").encode(), "cells are parted by tabs"),
        "b.csv": (PEOPLE.replace(",", ";").encode(), "cells are parted by semicolons"),
        "c.txt": (PEOPLE.replace(",", "|").encode(), "cells are parted by vertical bars"),
        "d.csv": (PEOPLE.replace("\n", "\r\n").encode(), None),
    }
    for name, (content, notice) in forms.items():
        data = read_table(write(tmp_path / name, content))
        pd.testing.assert_frame_equal(data.frame, expected)
        assert (said(data, "delimiter") if notice else None) == notice, name
        assert ("delimiter" in topics(data)) == (notice is not None), name


def test_a_separator_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a:b\n1:2\n3:4\n")
    assert read_table(path, delimiter=":").frame.columns.tolist() == ["a", "b"]


def test_commas_in_quotes_do_not_mislead(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'town;note\n"Ulm, Donau";"a ""b"", c"\n"Bonn, Rhein";"d\ne, f"\n')
    frame = read_table(path).frame
    assert frame["town"].tolist() == ["Ulm, Donau", "Bonn, Rhein"]
    assert frame["note"].tolist() == ['a "b", c', "d\ne, f"]


@pytest.mark.parametrize(
    ("encoding", "notice"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "read as utf-16; check names with accents"),
        ("utf-16-le", "read as utf-16-le; check names with accents"),
        ("utf-16-be", "read as utf-16-be; check names with accents"),
        ("cp1252", "read as cp1252, as it is not UTF-8; check names with accents"),
    ],
)
def test_encodings_are_found_and_said(tmp_path: Path, encoding: str, notice: str | None) -> None:
    text = "größe,stadt\n1,Köln\n2,São Paulo\n3,Köln\n"
    data = read_table(write(tmp_path / "a.csv", text.encode(encoding)))
    assert data.frame.columns.tolist() == ["größe", "stadt"]
    assert data.frame["stadt"].tolist() == ["Köln", "São Paulo", "Köln"]
    assert (said(data, "encoding") if notice else None) == notice


def test_an_encoding_can_be_given(tmp_path: Path, refuses: Refuses) -> None:
    path = write(tmp_path / "a.csv", "a,b\nж,1\nж,2\n".encode("cp1251"))
    assert read_table(path, encoding="cp1251").frame["a"].tolist() == ["ж", "ж"]
    with refuses("cannot be read as utf-8"):
        read_table(path, encoding="utf-8")
    with refuses("cannot be read as utf-99"):
        read_table(path, encoding="utf-99")


def test_bytes_that_cp1252_lacks_are_read_as_latin_1(tmp_path: Path) -> None:
    data = read_table(write(tmp_path / "a.csv", b"a,b\n\xe9\x81,1\nx,2\n"))
    assert "latin-1" in said(data, "encoding")


def test_one_column_and_nameless_columns(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.csv", "age\n31\n52\n")).frame["age"].tolist() == [31, 52]
    data = read_table(write(tmp_path / "b.csv", ",age\n0,31\n1,52\n"))
    assert data.frame.columns.tolist() == ["column 1", "age"]
    assert said(data, "names") == "columns without a name are called column 1"


def test_a_single_column_is_said_to_be_one(tmp_path: Path) -> None:
    data = read_table(write(tmp_path / "a.csv", "a b\n1 2\n3 4\n"))
    assert said(data, "delimiter").startswith("one column only: no comma")
    assert read_table(tmp_path / "a.csv", delimiter=" ").frame["b"].tolist() == [2, 4]


@pytest.mark.parametrize(
    "text", ["sep=;\na;b\n1;2\n3;4\n", "a,b\r1,2\r3,4\r", "\n\na,b\n\n1,2\n3,4", '"a","b"\n"1","2"\n"3",4\n']
)
def test_habits_of_other_programs(tmp_path: Path, text: str) -> None:
    assert read_table(write(tmp_path / "a.csv", text)).frame.to_dict("list") == {"a": [1, 3], "b": [2, 4]}


def test_years_and_wavelengths_are_names(tmp_path: Path) -> None:
    data = read_table(write(tmp_path / "a.csv", "2019,2020,2021\n1,2,3\n4,5,6\n"))
    assert data.frame.columns.tolist() == ["2019", "2020", "2021"]


def test_a_few_ragged_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5}" for i in range(300)]
    rows[10], rows[20] = "1", "1,2,3"
    data = read_table(write(tmp_path / "a.csv", "a,b\n" + "\n".join(rows) + "\n"))
    assert len(data) == 298
    assert said(data, "skipped") == "2 rows skipped that do not have 2 cells (1 with 1, 1 with 3), the first is '1'"


def test_a_limit_is_spread_over_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n" + "\n".join(str(i) for i in range(100)) + "\n")
    data = read_table(path, limit=4)
    assert data.frame["a"].tolist() == [0, 25, 50, 75]
    assert said(data, "limit") == "4 of 100 rows read, evenly spread"


# --------------------------------------------------------------------------------------------------- refused text files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "'a.csv' is empty"),
        (b"  \n\n", "'a.csv' is empty"),
        (b"a,b\n", "'a.csv' has no rows"),
        (b"a,b,a\n1,2,3\n", "several columns named 'a'"),
        (b"a, a\n1,2\n", "several columns named 'a'"),
        (b"a,b\n,\nNA,?\n", "2 rows but no value in any column"),
        (b"a,b\n1,\x00\n", "not text: it holds zero bytes"),
        (bytes(range(256)) * 4, "not text"),
        (b"\x01\x02\x03\x04\x05\x06" * 50, "binary format"),
        (b"PK\x03\x04 and so on", "zip archive or an Excel workbook.*Save the sheet as CSV"),
        (b"%PDF-1.7 and so on", "is a PDF"),
        (b"\x89PNG\r\n\x1a\n and so on", "is a picture"),
        (b"PAR1 and then nothing", "damaged Parquet file"),
        (b"\x1f\x8b\x08 and then nothing", "cut short or damaged"),
        (gzip.compress(PEOPLE.encode(), mtime=0)[:-9], "cut short or damaged"),
        (
            b"39,State-gov,Male\n50,Private,Male\n38,State-gov,Female\n",
            "first line.*looks like data.*39, State-gov, Male",
        ),
        (b"5.1,3.5,setosa\n4.9,3.0,setosa\n4.7,3.2,virginica\n", "looks like data, not like names"),
        (b"red,small\nred,large\nblue,small\n", "looks like data, not like names"),
        (b"7\n3\n7\n", "looks like data, not like names"),
        (b"a,b\n1,2\n3\n4,5,6\n", "2 of 3 rows .* do not have the 2 cells of the header .1 with 1, 1 with 3."),
        (b"a,b\n1,2,3\n4,5,6\n", "2 of 2 rows.*Check the delimiter, and that the first line names each column"),
        (b'a,b\n1,"2\n3,4\n5,6\n', "quotation mark in row 1 .*never closed"),
        (b",,\n1,2,3\n", "first line of 'a.csv' is empty"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, refuses: Refuses, content: bytes, words: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with refuses(words):
        read_table(path)


def test_wrong_settings_are_refused(tmp_path: Path, refuses: Refuses) -> None:
    path = write(tmp_path / "a.csv", PEOPLE)
    with refuses("target is 'hight', which is no column.*name, age, height.*Did you mean 'height'"):
        read_table(path, target="hight")
    with refuses("target is 'age', which kinds drops"):
        read_table(path, target="age", kinds={"age": "drop"})
    with refuses("kinds names a column 'agee'.*Did you mean 'age'"):
        read_table(path, kinds={"agee": "number"})
    with refuses("column 'name' cannot be read as number"):
        read_table(path, kinds={"name": "number"})
    with refuses("delimiter is ';;'"):
        read_table(path, delimiter=";;")
    with refuses("limit is 0"):
        read_table(path, limit=0)
    with refuses("no file 'b.csv'"):
        read_table(tmp_path / "b.csv")
    with refuses("a table was expected, a list came"):
        read_table([1, 2])  # type: ignore[arg-type]


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "LARGEST_TEXT", 1 << 20)
    path = write(tmp_path / "a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * (1 << 20)))
    with refuses("more than 0.0 GB once unpacked.*made to exhaust it"):
        read_table(path)


# ------------------------------------------------------------------------------------------------- frames and Parquet


def test_parquet_keeps_types_and_missing_integers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array([1, None, 2**60 + 1], pa.int64()),
            "t": pa.array(["a", "b", None]),
            "d": pa.array([0, 1, 2], pa.date32()),
            "c": pa.array(["x", "y", "x"]).dictionary_encode(),
            "b": pa.array([True, None, False]),
        }
    )
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    data = read_table(tmp_path / "a.parquet")
    assert [c.kind for c in data.columns] == ["integer", "category", "date", "category", "boolean"]
    assert data.frame["n"].iloc[2] == 2**60 + 1
    assert data.frame["n"].isna().tolist() == [False, True, False]


def test_anything_that_streams_arrow_is_a_table() -> None:
    class Polars:
        """Offers its columns as polars does."""

        def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
            return pa.table({"a": [1, 2, 3], "b": ["x", "y", "x"]}).__arrow_c_stream__(requested_schema)

    data = read_table(Polars())
    assert [(c.name, c.kind) for c in data.columns] == [("a", "integer"), ("b", "category")]
    assert data.source == "Arrow table"
    with pytest.raises(BadInput, match="several columns named 'a'"):
        read_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))


def test_a_data_frame_is_left_as_it_was() -> None:
    frame = pd.DataFrame({1: ["1", "?"], "b": [" x", "y"]}, index=pd.Index(["r", "s"], name="row"))
    before = frame.copy()
    data = read_table(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert data.frame.columns.tolist() == ["1", "b"]
    assert "the index 'row' of the data frame is not part of the table" in said(data, "index")


@pytest.mark.parametrize("dtype", ["object", "str", "string", "string[pyarrow]", "category"])
def test_every_way_to_store_text_is_the_same(dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.Series(["x", "y", None], dtype=dtype)})
    data = read_table(frame)
    assert data.columns[0].levels == ("x", "y")
    assert data.frame["a"].isna().tolist() == [False, False, True]
    assert data.fingerprint() == read_table(pd.DataFrame({"a": ["x", "y", None]})).fingerprint()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"a": []}), "no rows"),
        (pd.DataFrame(), "no columns"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns named 'a'"),
        (pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])), "2 levels.*Join"),
        (pd.DataFrame({"a": [None, None]}), "no value in any column"),
        (pd.DataFrame({"a": [[1], [2]]}), "holds a list"),
    ],
)
def test_frames_that_are_no_tables_are_refused(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_table(frame)


def test_large_tables_are_read_quickly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"n{i}": rng.normal(size=100_000).round(4) for i in range(4)})
    frame["code"] = [f"code {i}" for i in rng.integers(0, 10_000, 100_000)]
    frame["k"] = rng.integers(0, 50, 100_000)
    frame.to_csv(tmp_path / "a.csv", index=False)
    began = time.perf_counter()
    data = read_table(tmp_path / "a.csv")
    assert data.column("code").distinct == 10_000
    assert data.column("n0").step == pytest.approx(1e-4)
    assert time.perf_counter() - began < 10  # well under one second on an idle machine
