"""Habits of the project, held by a test: files of one sitting, no test left out, no unfinished note, words for what
is public, silence in the library, and dependencies that are declared where they are used.

Every check is a function from source text to a list of complaints, so that the checks are tested too.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "pellucid"
LONGEST = 600  # lines; most files have 100 to 400
STILL_LONGER: dict[str, int] = {}  # files that wait to be split: one may shrink until it leaves, and none joins

# Packages whose every public function and class explains itself: other code is read with these at hand.
EXPLAINED = ("core", "solvers", "evaluate")

# A test that is left out proves nothing, and nobody notices. Markers deselect what takes long or needs a device.
LEFT_OUT = {
    "skip",
    "skipif",
    "xfail",
    "importorskip",
    "skipIf",
    "skipUnless",
    "SkipTest",
    "skipTest",
    "expectedFailure",
}

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\): \S)")

MODULES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}  # where the import has another name


def length_complaints(source: str, most: int = LONGEST) -> list[str]:
    """A file that nobody reads in one sitting."""
    lines = len(source.splitlines())
    return [f"{lines} lines, at most {most}: it holds more than one idea, split it"] if lines > most else []


def left_out_complaints(source: str) -> list[str]:
    """Tests that are skipped or expected to fail, by decorator, by mark or by call."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in LEFT_OUT:
            owner = ast.unparse(node.value)
            if owner in ("pytest", "pytest.mark", "mark", "unittest", "self"):
                complaints.append(f"line {node.lineno} uses {owner}.{node.attr}: make it pass, or take it out")
        elif isinstance(node, ast.ImportFrom) and node.module in ("pytest", "unittest"):
            names = sorted({alias.name for alias in node.names} & LEFT_OUT)
            complaints += [f"line {node.lineno} imports {name}" for name in names]
    return complaints


def unfinished_complaints(source: str) -> list[str]:
    """Comments that promise work without saying where it is kept; "(#12): the reason" after the word says it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        f"line {token.start[0]} has a bare note: {token.string}"
        for token in tokens
        if token.type == tokenize.COMMENT and UNFINISHED.search(token.string)
    ]


def unexplained_complaints(source: str) -> list[str]:
    """Public functions and classes of a module without a docstring; overloads and methods are not asked."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        f"line {node.lineno}: {node.name} has no docstring"
        for node in ast.parse(source).body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and not any(ast.unparse(d).split(".")[-1] == "overload" for d in node.decorator_list)
        and not ast.get_docstring(node)
    ]


def print_complaints(source: str) -> list[str]:
    """Calls of print: the library speaks through events, and whoever listens decides what is shown."""
    return [
        f"line {node.lineno} prints: emit an event, or return a report"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("builtins.") == "print"
    ]


def foreign_modules(source: str) -> set[str]:
    """Top names of the modules from other projects that the text imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"pellucid"}


def module_of(requirement: str) -> str:
    """What `import` says for a requirement such as "scikit-learn>=1.4"."""
    name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()
    return MODULES.get(name, name.replace("-", "_"))


def python_files(folders: Iterable[str]) -> Iterator[Path]:
    """Our Python files under these folders of the project, in order."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def each(*folders: str) -> pytest.MarkDecorator:
    paths = list(python_files(folders))
    return pytest.mark.parametrize("path", paths, ids=[path.relative_to(ROOT).as_posix() for path in paths])


@each("src")
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    most = STILL_LONGER.get(path.relative_to(SOURCE).as_posix(), LONGEST)
    assert length_complaints(path.read_text("utf-8"), most) == []


def test_a_file_that_was_split_leaves_the_list() -> None:
    assert [name for name in STILL_LONGER if not length_complaints((SOURCE / name).read_text("utf-8"))] == []


@each("tests")
def test_no_test_is_left_out(path: Path) -> None:
    assert left_out_complaints(path.read_text("utf-8")) == []


@each("src", "tests", "benchmarks", "docs")
def test_no_note_is_left_behind(path: Path) -> None:
    assert unfinished_complaints(path.read_text("utf-8")) == []


@each(*(f"src/pellucid/{package}" for package in EXPLAINED))
def test_what_is_public_is_explained(path: Path) -> None:
    assert unexplained_complaints(path.read_text("utf-8")) == []


@each("src")
def test_the_library_is_silent(path: Path) -> None:
    if path.relative_to(SOURCE).parts[0] != "apps":
        assert print_complaints(path.read_text("utf-8")) == []


def test_dependencies_are_those_that_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    core = {module_of(requirement) for requirement in project["dependencies"]}
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "dev"}
    optional = {module_of(requirement) for wanted in extras.values() for requirement in wanted}
    imported = set().union(*(foreign_modules(path.read_text("utf-8")) for path in python_files(["src"])))
    assert core - imported == set(), "declared, but no file of src imports it"
    assert imported - core - optional == set(), "imported, but declared neither in dependencies nor in an extra"


def test_tested_versions_cover_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *(r for wanted in project["optional-dependencies"].values() for r in wanted)]
    pinned = {
        module_of(line)
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if line and line[0] != "#"
    }
    assert {module_of(requirement) for requirement in declared if "pellucid[" not in requirement} - pinned == set()


def test_a_long_file_is_seen() -> None:
    assert length_complaints("x = 1\n" * LONGEST) == []
    assert length_complaints("x = 1\n" * (LONGEST + 1))


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip\ndef test(): ...",
        "@pytest.mark.skipif(True, reason='')\ndef test(): ...",
        "pytestmark = pytest.mark.xfail",
        "def test():\n    pytest.skip('later')",
        "torch = pytest.importorskip('torch')",
        "from pytest import importorskip",
        "@unittest.skipUnless(ready, '')\ndef test(): ...",
        "class T(TestCase):\n    def test(self):\n        self.skipTest('')",
    ],
)
def test_a_test_left_out_is_seen(source: str) -> None:
    assert len(left_out_complaints(source)) == 1


def test_a_test_that_is_deselected_is_left_alone() -> None:
    source = "@pytest.mark.slow\ndef test():\n    assert nets.skip(2) and engine.skip.weight"
    assert left_out_complaints(source) == []


@pytest.mark.parametrize("note", ["TODO", "TODO: later", "FIXME tidy up", "x TODO(me): tidy up", "XXX", "TODO(#4)"])
def test_a_note_left_behind_is_seen(note: str) -> None:
    assert len(unfinished_complaints(f"x = 1  # {note}\n")) == 1


def test_a_note_with_its_place_is_left_alone() -> None:
    assert unfinished_complaints("x = 1  # TODO(#12): torch 3 makes this needless\n") == []
    assert unfinished_complaints("x = 'TODO'  # what people write in an empty field\n") == []


def test_a_missing_docstring_is_seen() -> None:
    assert len(unexplained_complaints("def f(): ...\nclass C:\n    x = 1\nasync def g(): ...\n")) == 3
    assert unexplained_complaints('def f():\n    """Say it."""\ndef _g(): ...\nx = 1\n') == []
    assert unexplained_complaints('@overload\ndef f(): ...\ndef f():\n    """Say it."""\n') == []


def test_a_print_is_seen() -> None:
    assert len(print_complaints("def f():\n    print(1)\n    builtins.print(2)")) == 2
    assert print_complaints("console.print(1)\n'print(1)'\nblueprint(2)") == []


def test_a_foreign_import_is_seen() -> None:
    source = "import os, torch.nn\nfrom PIL import Image\nfrom . import x\nfrom pellucid.core import y\n"
    assert foreign_modules(source) == {"torch", "PIL"}
    assert foreign_modules("def f():\n    import einops") == {"einops"}
    assert [module_of(r) for r in ("scikit-learn>=1.4", "opacus[x]>=1 ; python_version<'3.14'")] == [
        "sklearn",
        "opacus",
    ]
