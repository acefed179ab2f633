"""Reading texts: what is inferred and said, what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.described import describe_data
from pellucid.domains.described_text import TextReport
from pellucid.domains.pieces import UNITS, Unit, cut, joined
from pellucid.domains.read import read
from pellucid.domains.text_files import TextData, TextReading, read_text, text_of
from pellucid.domains.texts import TextCodec, TextExamples, Texts
from pellucid.domains.write import write_items

PROSE = "It was a dark night, and the wind — née breeze — blew.\nNobody slept; the clock didn't strike.\n\n" * 5
NAMES = "\n".join(["Ada", "Zoë", "Bo", "Jean-Luc", "Ng", "Olga", "Ed", "Mia", "Lev", "Ines", "Kim", "Ada"]) + "\n"


def saved(folder: Path, content: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def said(data: TextData) -> dict[str, str]:
    return {notice.topic: notice.text for notice in data.notices}


@pytest.mark.parametrize("unit", UNITS)
def test_pieces_joined_are_the_text(unit: Unit) -> None:
    text = PROSE + "\ttabs  and   spaces\u2003中文 naïve 😀 " + "x" * 100
    codes, pieces = cut(text, unit)
    assert joined(codes, pieces, unit) == text
    assert cut("", unit)[0].tolist() == []


def test_a_running_text_is_windows_that_start_at_every_character(tmp_path: Path) -> None:
    data = read(saved(tmp_path, PROSE))
    assert isinstance(data, TextData)
    assert (data.form, data.unit) == ("running", "characters")
    assert len(data) == len(PROSE) - data.window + 1
    assert data.take([0, 7]).texts() == [PROSE[: data.window], PROSE[7 : 7 + data.window]]
    assert "one running text" in said(data)["form"]
    assert data.whole().texts() == [PROSE]


def test_short_lines_are_a_list_and_both_can_be_overridden(tmp_path: Path) -> None:
    path = saved(tmp_path, NAMES)
    names = read(path)
    assert isinstance(names, TextData)
    assert (names.form, len(names), names.texts(3)) == ("lines", 12, ["Ada", "Zoë", "Bo"])
    assert "--text form=running" in said(names)["form"]
    forced = read(saved(tmp_path, PROSE, "prose.txt"), text={"form": "lines", "unit": "words"})
    assert isinstance(forced, TextData)
    assert forced.form == "lines"
    assert "5 empty lines" in said(forced)["empty"]
    with pytest.raises(BadInput, match=r"list of lines"):
        TextReading(form="lines", window=8)
    with pytest.raises(BadInput, match=r"columns of a table|texts only"):
        read("digits", text={"unit": "words"})


def test_line_ends_and_encodings_are_made_one_and_said(tmp_path: Path) -> None:
    mixed = PROSE.replace("\n", "\r\n", 3).replace("slept;", "slept\r", 2).encode()
    data = read_text(saved(tmp_path, mixed))
    assert "several kinds" in said(data)["line ends"]
    assert "\r" not in data.whole().texts()[0]
    western = read_text(saved(tmp_path, PROSE.replace("—", "-").encode("latin-1")))
    assert "Windows-1252" in said(western)["encoding"]
    assert "née" in western.whole().texts()[0]
    assert read_text(saved(tmp_path, PROSE.encode("utf-16"))).whole().texts() == [PROSE]
    assert read_text(saved(tmp_path, b"\xef\xbb\xbf" + PROSE.encode())).whole().texts() == [PROSE]
    with pytest.raises(BadInput, match="no text in utf-8"):
        read_text(saved(tmp_path, b"caf\xe9 " * 50), TextReading(encoding="utf-8"))
    with pytest.raises(BadInput, match="encoding is 'klingon'"):
        TextReading(encoding="klingon")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\n \n", "white space only"),
        (b"one line\n", "has 9 characters. Accepted: 100 or more"),
        (bytes(range(256)) * 8, "binary file"),
        (b"PK\x03\x04 and more", "zip archive"),
        (b"%PDF-1.7 and more", "is a PDF"),
        (b"\xff\xfea", "begins as utf-16"),
    ],
    ids=["empty", "blank", "one line", "binary", "zip", "pdf", "half utf-16"],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(saved(tmp_path, content))


def test_one_long_line_is_a_running_text_and_no_item_of_a_list(tmp_path: Path) -> None:
    path = saved(tmp_path, "word " * 50_000)
    data = read_text(path)
    assert (data.form, len(data.codes)) == ("running", 250_000)
    with pytest.raises(BadInput, match="a line has 250,000 characters"):
        read_text(path, TextReading(form="lines"))


def test_a_folder_of_texts_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    saved(tmp_path, "second " * 20, "b.txt")
    saved(tmp_path, "first " * 20, "a.md")
    data = read(tmp_path)
    assert isinstance(data, TextData)
    assert data.whole().texts()[0].startswith("first")
    assert "2 files" in said(data)["files"]


def test_the_last_share_of_a_text_is_held_out() -> None:
    data = text_of("abcdefghij" * 40, window=8)
    kept, aside = data.halves(0.1)
    assert data.take(kept).starts.max() + 8 <= 360
    assert data.take(aside).starts.tolist() == [360, 368, 376, 384, 392]
    assert len(data.halves(0.0)[1]) == 0


def test_what_was_never_learned_is_one_symbol_and_is_counted() -> None:
    codec = Texts(vocabulary=3).learn(text_of(["aaab", "abc", "da"]))
    assert codec.pieces == ("a", "b", "c")
    odd = text_of(["ax中", "b"])
    assert codec.unlearned(odd) == {"x": 1, "中": 1}
    back = codec.decode(codec.encode(odd), Condition(), Rows(0, torch.arange(2)))
    assert back.texts() == ["a\ufffd\ufffd", "b"]
    with pytest.raises(BadInput, match="at most 4"):
        codec.encode(text_of(["aaaaaaa"]))
    with pytest.raises(BadInput, match="cut into words"):
        codec.encode(text_of(["aa"], unit="words"))
    with pytest.raises(BadInput, match="windows have"):
        Texts().learn(text_of(PROSE, window=9)).encode(text_of(PROSE, window=8))


def test_windows_are_the_same_one_by_one_and_as_a_view_of_the_text() -> None:
    data = text_of(PROSE, window=9)
    codec = Texts().learn(data)
    examples = TextExamples(codec, data)
    stretch = examples.take(torch.arange(20, 60))
    mixed = examples.take(torch.tensor([59, 20, 33]))
    assert torch.equal(stretch.x[[39, 0, 13]], mixed.x)
    assert stretch.x.untyped_storage().nbytes() < 8 * 60, "forty windows share one stretch of memory"
    assert stretch.fresh is not None
    assert stretch.fresh.tolist() == [1] * 40
    assert int(examples.take(torch.tensor([0])).fresh) == 9  # type: ignore[arg-type]
    assert examples.fingerprint() != TextExamples(codec, data.take(np.arange(30))).fingerprint()


def test_texts_are_written_as_they_are_read(tmp_path: Path) -> None:
    names = text_of(["Ada", "Bo"])
    assert write_items(names, tmp_path / "names.txt").read_text() == "Ada\nBo\n"
    windows = text_of(PROSE, window=5).take([0, 5])
    assert write_items(windows, tmp_path / "prose.txt").read_text() == f"It wa\n{'-' * 40}\ns a d\n"
    halves = TextCodec("lines", "bytes", 3).decode(
        torch.tensor([[1 + 0xC3, 0, 0]]), Condition(), Rows(0, torch.arange(1))
    )
    assert write_items(halves, tmp_path / "bytes.txt").read_text() == "\ufffd\n"
    with pytest.raises(BadInput, match="cannot be written"):
        write_items(names, tmp_path / "names.csv")


def test_a_text_is_described() -> None:
    found = describe_data(text_of(["Ada", "Bo", "Ада", "Ada"]))
    assert isinstance(found, TextReport)
    assert (found.count, found.duplicates, found.longest, dict(found.scripts)) == (4, 1, 3, {"Latin": 8, "Cyrillic": 3})
    running = describe_data(text_of(PROSE))
    assert isinstance(running, TextReport)
    assert running.pieces == len(PROSE)
    for report in (found, running):
        assert report.to_text()
        assert report.to_html()


def test_equal_texts_have_equal_fingerprints(tmp_path: Path) -> None:
    assert read_text(saved(tmp_path, PROSE)).fingerprint() == text_of(PROSE).fingerprint()
    assert text_of(PROSE).fingerprint() != text_of(PROSE + "!").fingerprint()
    assert text_of(["ab", "c"]).fingerprint() != text_of(["a", "bc"]).fingerprint()
