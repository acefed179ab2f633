"""The commands for texts as a user types them: data, fit, sample, likelihood, chat."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pellucid.apps.cli import app
from pellucid.core.errors import BadInput

VERSE = "the cat sat on the mat and the dog sat on the cat; then the rat ran off.\n" * 12


def run(*words: str | Path, said: str | None = None) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], input=said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "verse.txt").write_text(VERSE)
    words = ("--family", "ngram", "--set", "order=4", "--text", "window=20", "--out", folder / "run", "-q")
    run("fit", folder / "verse.txt", *words)
    return folder


def test_a_text_is_looked_at_fitted_sampled_and_scored(fitted: Path, tmp_path: Path) -> None:
    assert "One running text" in run("data", fitted / "verse.txt").stdout
    shown = run("sample", fitted / "run", "-n", "2").stdout
    assert shown.count("-" * 40) == 1
    run("sample", fitted / "run", "-n", "3", "--out", tmp_path / "samples.txt")
    assert (tmp_path / "samples.txt").read_text().count("-" * 40) == 2
    found = json.loads(run("likelihood", fitted / "run", fitted / "verse.txt", "--json").stdout)
    assert found["symbols"] == len(VERSE)
    assert 0.0 < found["bits_per_symbol"] < 1.0
    assert found["bits_per_symbol"] == pytest.approx(found["nats_per_symbol"] / 0.6931471805599453)
    run("likelihood", fitted / "run", fitted / "verse.txt", "--out", tmp_path / "report.html", "-q")
    assert "bits/character" in (tmp_path / "report.html").read_text()


def test_a_list_of_strings_is_sampled_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(["ada", "bob", "eve", "al"] * 10))
    run("fit", tmp_path / "names.txt", "--family", "ngram", "--out", tmp_path / "run", "-q")
    lines = run("sample", tmp_path / "run", "-n", "5").stdout.splitlines()
    assert len(lines) == 5
    assert all(len(line) <= 4 for line in lines)


def test_a_grammar_is_sampled_and_scored_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "greet.txt").write_text("a: Hello, <b>! | Hi!\nb: you | world\n")
    lines = run("sample", tmp_path / "greet.txt", "-n", "4", "--seed", "2").stdout.splitlines()
    assert set(lines) <= {"Hello, you!", "Hello, world!", "Hi!"}
    run("sample", tmp_path / "greet.txt", "-n", "4", "--seed", "2", "--out", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text().splitlines() == lines
    found = json.loads(run("likelihood", tmp_path / "greet.txt", tmp_path / "out.txt", "--json").stdout)
    assert found["kind"] == "exact"
    (tmp_path / "broken.txt").write_text("a: <b>\n")
    with pytest.raises(BadInput, match="line 1: rule 'b' is missing"):
        run("sample", tmp_path / "broken.txt")


def test_the_doctor_listens_and_explains() -> None:
    out = run("chat", said="I need help\n/why\n\n/help\nbye\nnot heard\n").stdout.splitlines()
    assert out[0].startswith("Hello.")
    assert out[1] == "What would change for you if you got help?"
    assert "keyword 'i'" in out[2]
    assert out[3].startswith("/why:")
    assert out[4].startswith("Goodbye")
    assert len(out) == 5


def test_a_script_and_a_run_of_texts_can_be_talked_to(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("hello: Yes?\nnone:\n  -> Tell me.\n")
    assert run("chat", tmp_path / "own.txt", said="x\n/quit\n").stdout.splitlines() == ["Yes?", "Tell me."]
    out = run("chat", fitted / "run", "--length", "30", "-q", said="the cat\n/why\n").stdout
    assert "30 pieces drawn" in out
    (tmp_path / "broken.txt").write_text("key: x\n  [a\n    -> b\nnone:\n  -> c\n")
    with pytest.raises(BadInput, match="line 2: the pattern"):
        run("chat", tmp_path / "broken.txt", said="")
    with pytest.raises(BadInput, match="nothing at"):
        run("chat", tmp_path / "none.txt", said="")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("temperature=-1", "temperature is -1"),
        ("top_p=0", "top_p is 0"),
        ("top_p=1.5", "top_p is 1.5"),
        ("top_k=0", "top_k"),
    ],
)
def test_ways_to_sample_out_of_range_are_refused(fitted: Path, how: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        run("sample", fitted / "run", "--how", how)


def test_temperature_zero_writes_the_likeliest(fitted: Path) -> None:
    one, other = (run("sample", fitted / "run", "-n", "1", "--seed", s, "--how", "temperature=0").stdout for s in "12")
    assert one == other


def test_a_prompt_goes_on_in_the_terminal(fitted: Path) -> None:
    asked = ("sample", fitted / "run", "--prompt", "the ", "--length", "40", "--how", "temperature=0")
    alone = run(*asked).stdout
    assert alone.startswith("the ")
    assert len(alone) == 4 + 40 + 1
    found = json.loads(run(*asked, "-n", "2", "--json").stdout)
    assert found["texts"] == [alone[4:-1]] * 2
    stopped = run(*asked, "--stop", alone[10:14]).stdout
    assert stopped == alone[: alone.index(alone[10:14], 4)] + "\n"
    beams = (*asked[:6], "--beams", "1")
    assert run(*beams).stdout == alone
    assert json.loads(run(*beams, "--json").stdout)["texts"][0]["text"] == alone[4:-1]
    with pytest.raises(BadInput, match="-n is 3 with 1 beams"):
        run(*beams, "-n", "3")
    with pytest.raises(BadInput, match="--beams came with --how"):
        run(*asked, "--beams", "2")
    with pytest.raises(BadInput, match="--stop came without --prompt"):
        run("sample", fitted / "run", "--stop", "x")
    with pytest.raises(BadInput, match="--out came with --prompt"):
        run(*asked, "--out", str(fitted / "x.txt"))


def test_samples_of_a_list_satisfy_a_pattern_or_a_grammar(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(["ada", "bob", "eve", "al", "[1]", "[0,1]", '"a"'] * 10))
    run("fit", tmp_path / "names.txt", "--family", "ngram", "--set", "order=2", "--out", tmp_path / "run", "-q")
    asked = ("sample", tmp_path / "run", "-n", "30")
    assert all(
        re.fullmatch("[ab]l?[a-d]+", line) for line in run(*asked, "--match", "[ab]l?[a-d]+").stdout.splitlines()
    )
    run(*asked, "--grammar", "json", "--out", tmp_path / "made.txt", "-q")
    made = (tmp_path / "made.txt").read_text().splitlines()
    assert len([json.loads(line) for line in made]) == 30
    streamed = run(*asked[:2], "--stream", "-n", "2", "--match", "a.*|b", "--seed", "3").stdout.splitlines()
    side_by_side = json.loads(
        run(*asked[:2], "--prompt", "", "-n", "2", "--match", "a.*|b", "--seed", "3", "--json").stdout
    )
    assert streamed == side_by_side["texts"]
    for words, said in (
        (("--match", "a(b"), "at character 2"),
        (("--match", "z+"), "no token can satisfy the pattern 'z\\+'"),
        (("--match", "a", "--grammar", "json"), "both given"),
        (("--grammar", "jsn"), "Did you mean 'json'"),
        (("--prompt", "e", "--match", "a.*"), "nothing that begins with 'e'"),
        (("--prompt", "", "--length", "2", "--match", "a{3}"), "at least 3 symbols"),
        (("--stream", "--json"), "--stream came with --json"),
    ):
        with pytest.raises(BadInput, match=said):
            run(*asked, *words)


@pytest.mark.parametrize("unit", ["characters", "words", "bytes"])
def test_a_running_text_ends_where_its_constraint_is_satisfied(unit: str, tmp_path: Path) -> None:
    (tmp_path / "verse.txt").write_text(VERSE)
    words = ("--family", "ngram", "--set", "order=4", "--text", "window=20", "--text", f"unit={unit}")
    run("fit", tmp_path / "verse.txt", *words, "--out", tmp_path / "run", "-q")
    pattern = "the (cat|dog|rat)( sat)? on the mat"
    found = json.loads(run("sample", tmp_path / "run", "-n", "8", "--match", pattern, "--json").stdout)["texts"]
    assert len(found) == 8
    assert all(re.fullmatch(pattern, text) for text in found)
    after = run(
        "sample", tmp_path / "run", "--prompt", "the cat", "--match", pattern + "[a-z ]*", "--length", "40"
    ).stdout
    assert re.fullmatch(pattern + "[a-z ]*\n", after)


def test_texts_are_compared_by_likelihood(fitted: Path) -> None:
    with pytest.raises(BadInput, match="pellucid likelihood"):
        run("compare", fitted / "verse.txt", "--families", "ngram")


def test_what_steers_a_terminal_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("a: x\x1b[2Jy | x\x1b[2Jz\n")
    with pytest.raises(BadInput, match="binary file"):
        run("sample", tmp_path / "odd.txt")
    assert io.StringIO(run("sample", _spaced(tmp_path), "-n", "1").stdout).read().count("\x1b") == 0


def _spaced(folder: Path) -> Path:
    path = folder / "long.txt"
    path.write_text("a: " + "word " * 100 + "\x1b[2J\n")
    return path
