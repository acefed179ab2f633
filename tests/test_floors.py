"""The shape of the house, held by a test: floors, file names, `__all__`, and code that must never appear.

Every check is a function from source text to a list of complaints, so that the checks are tested too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pellucid"

# A unit is a package or a single module directly under pellucid. Lower floors know nothing of higher ones.
FLOORS = {
    "core": 0,
    "domains": 1,
    "nets": 1,
    "solvers": 1,
    "training": 1,
    "families": 2,
    "catalog": 3,
    "drawing": 3.5,
    "model": 4,
    "adopting": 4.1,
    "bridging": 4.2,
    "adapting": 4.3,
    "rereading": 4.4,
    "fitting": 4.5,
    "mixing": 4.6,
    "tasks": 5,
    "evaluate": 6,
    "explain": 7,
    "audit": 8,
    "release": 9,
    "apps": 10,
    "testing": 10,
}

# Lower, and still closed: a family never sees a table or the training loop. They meet at a Space.
CLOSED = {("families", "domains"), ("families", "training")}

EMPTY_NAMES = {"utils", "common", "helpers", "base", "misc"}

RUNS_DATA_AS_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NEVER_CALLED = {
    "eval",
    "exec",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
}


def module_of(path: Path) -> tuple[str, ...]:
    """Dotted name of a file under src/pellucid, as parts; a package keeps its `__init__`."""
    return ("pellucid", *path.relative_to(SOURCE).with_suffix("").parts)


def unit_of(module: tuple[str, ...]) -> str:
    """The package or single module directly under pellucid; `python -m pellucid` belongs to apps."""
    unit = module[1] if len(module) > 1 else ""
    return "apps" if unit == "__main__" else unit


def imported(source: str, module: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """(line, dotted module, name or "") of every import in the text, wherever it stands.

    `import a.b` gives ("a.b", ""), `from a import b` gives ("a", "b"); relative ones are made absolute.
    An `import_module("a.b")` with the name written out counts as `import a.b`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(module[: len(module) - node.level]) if node.level else ""
            target = ".".join(part for part in (start, node.module) if part)
            yield from ((node.lineno, target, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, ""


def floor_complaints(source: str, module: tuple[str, ...]) -> list[str]:
    """Imports that go up, sideways, or through a closed door."""
    if module == ("pellucid", "__init__"):
        return []  # re-exports lazily, from every floor
    unit = unit_of(module)
    if unit not in FLOORS:
        return [f"{'.'.join(module)}: '{unit}' is on no floor; give it one in FLOORS and in docs"]
    complaints = []
    for line, target, name in imported(source, module):
        parts = target.split(".")
        if parts[0] != "pellucid":
            continue
        if len(parts) == 1 and name == "__version__":
            continue
        other = parts[1] if len(parts) > 1 else name
        where = f"{'.'.join(module)}:{line} imports {'.'.join(filter(None, (target, name)))}"
        if other == "__main__":
            complaints.append(f"{where}: nothing imports the command's entry")
        elif other not in FLOORS:
            if FLOORS[unit] < max(FLOORS.values()):
                complaints.append(f"{where}: take it from the module that defines it, not from the top")
        elif other == unit:
            continue
        elif FLOORS[other] > FLOORS[unit]:
            complaints.append(f"{where}: floor {FLOORS[unit]} may not look up to floor {FLOORS[other]}")
        elif FLOORS[other] == FLOORS[unit]:
            complaints.append(f"{where}: packages on one floor never import each other")
        elif (unit, other) in CLOSED:
            complaints.append(f"{where}: {unit} never see {other}")
    return complaints


def name_complaints(path: Path) -> list[str]:
    """A file or package named after nothing."""
    named = {part.removesuffix(".py").strip("_") for part in path.parts} & EMPTY_NAMES
    return [f"{path}: name it after the idea it serves, not '{name}'" for name in sorted(named)]


def opening_complaints(source: str, module: tuple[str, ...]) -> list[str]:
    """A module without its docstring or its `__all__`."""
    if module[-1] in ("__init__", "__main__"):
        return []
    tree = ast.parse(source)
    complaints = []
    if not ast.get_docstring(tree):
        complaints.append(f"{'.'.join(module)}: opens without a docstring")
    targets: list[ast.expr] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
        complaints.append(f"{'.'.join(module)}: defines no __all__")
    return complaints


def danger_complaints(source: str, module: tuple[str, ...]) -> list[str]:
    """Code that would run what a data file says, and methods that only raise.

    Names are followed through `import torch as t` and `from torch import load`. `engine.eval()` is fine, and so is a
    sentence that says the word pickle: a refusal should be able to name what it refuses.
    """
    tree = ast.parse(source)
    complaints = []
    known: dict[str, str] = {}
    for line, target, name in imported(source, module):
        found = {target.split(".")[0], name} & RUNS_DATA_AS_CODE
        complaints += [f"{'.'.join(module)}:{line} imports {word}" for word in sorted(found)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.unparse(node.exc):
            complaints.append(f"{'.'.join(module)}:{node.lineno} NotImplementedError: leave the capability out instead")
        elif isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle"):
            complaints.append(f"{'.'.join(module)}:{node.lineno} uses {node.attr}")
        elif isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            called = ".".join([known.get(first, first), *rest]).removeprefix("builtins.")
            if called in NEVER_CALLED:
                complaints.append(f"{'.'.join(module)}:{node.lineno} calls {called}")
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    complaints.append(f"{'.'.join(module)}:{node.lineno} allows pickles")
    return complaints


FILES = sorted(SOURCE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])


def test_there_are_files() -> None:
    assert FILES, f"no Python file under {SOURCE}"


@each_file
def test_imports_go_down(path: Path) -> None:
    assert floor_complaints(path.read_text("utf-8"), module_of(path)) == []


@each_file
def test_names_say_something(path: Path) -> None:
    assert name_complaints(path.relative_to(SOURCE)) == []


@each_file
def test_opens_with_docstring_and_all(path: Path) -> None:
    assert opening_complaints(path.read_text("utf-8"), module_of(path)) == []


@each_file
def test_no_dangerous_code(path: Path) -> None:
    assert danger_complaints(path.read_text("utf-8"), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pellucid.core.space", "from pellucid.families.vae import VAE"),
        ("pellucid.core.space", "import pellucid.model"),
        ("pellucid.core.space", "from pellucid import model"),
        ("pellucid.core.space", "from ..model import Fitted"),
        ("pellucid.core.__init__", "from ..model import Fitted"),
        ("pellucid.core.space", "def f():\n    from pellucid.model import Fitted"),
        ("pellucid.core.space", "if TYPE_CHECKING:\n    from pellucid.model import Fitted"),
        ("pellucid.core.space", "importlib.import_module('pellucid.model')"),
        ("pellucid.core.space", "from pellucid import fit"),
        ("pellucid.core.space", "import pellucid as pl"),
        ("pellucid.nets.mlp", "from pellucid.solvers import euler"),
        ("pellucid.domains.images", "from ..training.loop import train"),
        ("pellucid.families.vae", "from pellucid.domains.tables import Table"),
        ("pellucid.families.vae", "from pellucid.training.loop import train"),
        ("pellucid.catalog", "from pellucid.model import Fitted"),
        ("pellucid.testing.laws", "from pellucid.apps.cli import main"),
        ("pellucid.apps.cli", "import pellucid.testing"),
        ("pellucid.__main__", "from pellucid.testing import check_family"),
        ("pellucid.apps.cli", "import pellucid.__main__"),
        ("pellucid.stray", "import math"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert len(floor_complaints(source, tuple(module.split(".")))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pellucid.__init__", "from pellucid.model import fit"),
        ("pellucid.__main__", "from pellucid.apps.cli import main"),
        ("pellucid.apps.cli", "import pellucid as pl\nfrom pellucid import fit"),
        ("pellucid.families.vae", "from pellucid.core.space import Real\nfrom .gan import GAN"),
        ("pellucid.families.vae", "from pellucid import core\nfrom pellucid.nets import mlp"),
        ("pellucid.release.manifest", "from pellucid import __version__"),
        ("pellucid.domains.teaching.__init__", "from ..images import Images\nimport numpy"),
    ],
)
def test_a_right_import_is_left_alone(module: str, source: str) -> None:
    assert floor_complaints(source, tuple(module.split("."))) == []


def test_an_empty_name_is_seen() -> None:
    assert name_complaints(Path("nets/utils.py"))
    assert name_complaints(Path("nets/_base.py"))
    assert name_complaints(Path("helpers/unet.py"))
    assert name_complaints(Path("nets/baseline.py")) == []


def test_a_missing_opening_is_seen() -> None:
    module = ("pellucid", "nets", "mlp")
    assert len(opening_complaints("import math", module)) == 2
    assert len(opening_complaints('"""A net."""', module)) == 1
    assert opening_complaints('"""A net."""\n__all__: list[str] = []', module) == []
    assert opening_complaints("", ("pellucid", "nets", "__init__")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "eval(text)",
        "exec(text)",
        "import builtins\nbuiltins.eval(text)",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=choice)",
        "import yaml\nyaml.load(text)",
        "frame.to_pickle(path)",
        "def sample(self):\n    raise NotImplementedError",
        "def sample(self):\n    raise NotImplementedError('later')",
        "importlib.import_module('pickle')",
    ],
)
def test_dangerous_code_is_seen(source: str) -> None:
    assert len(danger_complaints(source, ("pellucid", "core", "codec"))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "engine.eval()",
        '"""No pickle is ever read."""',
        "numpy.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "from safetensors.torch import load_file\nload_file(path)",
        "json.load(file)",
        "try:\n    archive.open(name)\nexcept NotImplementedError:  # zipfile raises it\n    names = []",
    ],
)
def test_harmless_code_is_left_alone(source: str) -> None:
    assert danger_complaints(source, ("pellucid", "core", "codec")) == []
