"""The Python in the README runs as it stands, with a smaller budget."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert found
    for text in found:
        shorter, fits = re.subn(r"(pl\.fit\(.*)minutes=[\d.]+", r"\1steps=12", text)
        shorter, comparisons = re.subn(r"(pl\.compare\(.*)minutes=[\d.]+", r"\1minutes=0.05, n=60", shorter)
        assert (fits, comparisons) == (1, 1), "the examples have changed"
        names: dict[str, object] = {}
        exec(compile(shorter, "README.md", "exec"), names)
    assert len(list((tmp_path / "sevens").rglob("*.png"))) == 100
    assert "decided" in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_the_readme_opens_with_the_two_commands() -> None:
    first = README.read_text(encoding="utf-8")[:600]
    assert "make demo" in first
    assert "make test" in first


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), f"{target} is not there"
