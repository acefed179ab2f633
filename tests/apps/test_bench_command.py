"""`pellucid bench explain`: rows are kept one by one, gone on with, and told met or missed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from pellucid.apps.cli import app
from pellucid.core.errors import BadInput, Stopped
from pellucid.core.run import Run
from pellucid.explain.bench import rows
from pellucid.explain.bench.rows import ROWS, run_rows

FAST = "directions,provenance,surprise,shapley"


def called(*words: object) -> Any:
    return CliRunner().invoke(app, ["bench", "explain", *map(str, words)])


def test_rows_are_measured_kept_and_told(tmp_path: Path) -> None:
    work = tmp_path / "work"
    found = called("--work", work, "--quick", "--rows", FAST, "--json", "--out", tmp_path / "bench.html")
    assert found.exit_code == 0, found.output
    assert "4 of 4 bars are met" in (tmp_path / "bench.html").read_text()
    stored = json.loads((work / "results.json").read_text())
    assert stored["met"]
    assert set(stored["rows"]) == set(FAST.split(","))
    assert {"cores", "versions", "date"} <= set(stored["machine"])
    assert sorted(p.name for p in work.iterdir()) == sorted([*(f"{n}.json" for n in FAST.split(",")), "results.json"])


def test_a_row_that_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake(target: str) -> SimpleNamespace:
        def measure(*, quick: bool, seed: int) -> dict[str, Any]:
            asked.append(target)
            return {"score": [0.5, 0.4, 0.6], "met": "b" not in target}

        return SimpleNamespace(BAR="a bar", measure=measure)

    monkeypatch.setattr(rows, "ROWS", {"a": "a", "b": "b"})
    monkeypatch.setattr(rows.importlib, "import_module", fake)
    first = run_rows(tmp_path, rows=["a"])
    report = run_rows(tmp_path)
    assert asked == ["a", "b"]
    assert [r.kept for r in report.rows] == [True, False]
    assert first.met
    assert not report.met
    assert "1 of 2 bars are met" in report.to_text()
    assert "MISSED" in report.to_text()
    run_rows(tmp_path, again=True)
    assert asked == ["a", "b", "a", "b"]
    with pytest.raises(BadInput, match="measured with seed 0, whole"):
        run_rows(tmp_path, seed=1)
    stop = Run()
    stop.stop()
    with pytest.raises(Stopped, match="before the row 'a'"):
        run_rows(tmp_path, run=stop)


def test_every_row_has_a_bar_and_every_bar_is_listed() -> None:
    found = called("--list")
    assert found.exit_code == 0
    for name, module in ROWS.items():
        assert f"{name} " in found.output
        assert rows.importlib.import_module(module).BAR in found.output


def test_wrong_words(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for words, said in (
        ((), "has no --work"),
        (("--work", file), "a file"),
        (("--work", tmp_path / "w", "--rows", "gates"), "there is no row 'gates'"),
    ):
        found = called(*words)
        assert isinstance(found.exception, BadInput)
        assert said in str(found.exception)
