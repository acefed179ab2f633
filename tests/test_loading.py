"""Loading a run that a stranger made, or that was damaged: refused in one sentence, and nothing in it is executed."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from pellucid.core.bundle import seal, write_json
from pellucid.core.errors import BadBundle, PellucidError
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures
from pellucid.families.ngram import NGram
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.fitting import data_of, fit
from pellucid.model import Fitted, load

SMALL = VAE(latent=3, width=4, depth=1)


def pictures() -> Pictures:
    draw = np.random.default_rng(0)
    return Pictures(
        pixels=draw.integers(0, 256, (24, 4, 6, 1)).astype(np.uint8),
        labels=tuple("ab"[i % 2] for i in range(24)),
    )


def rows() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=60).strftime("%d.%m.%Y"),
            "height": np.where(draw.random(60) < 0.2, "", draw.normal(170, 9, 60).round(1).astype(str)),
            "word": draw.choice(["x", "y", "z"], 60),
            "always": "same",
            "ill": draw.choice(["no", "yes"], 60),
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of different make: pictures, a table over a bridge, counts, and a model in the latent space of another."""
    root = tmp_path_factory.mktemp("runs")
    rows().to_csv(root / "table.csv", index=False)
    base = fit(pictures(), SMALL, steps=1, seed=1, out=root / "pictures")
    fit(root / "table.csv", RealNVP(width=8, depth=1), steps=1, target="ill", out=root / "table")
    fit(root / "table.csv", NGram(order=2), out=root / "counts")
    fit(pictures(), RealNVP(width=8, depth=1), steps=1, through=base, out=root / "latent")
    return {p.name: p for p in root.iterdir() if p.is_dir()}


@pytest.fixture
def one(runs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a run to do harm to."""
    return Path(shutil.copytree(runs[getattr(request, "param", "pictures")], tmp_path / "run"))


every = pytest.mark.parametrize("one", ["pictures", "table", "counts", "latent"], indirect=True)


def reseal(folder: Path) -> None:
    """A manifest that fits what is there now."""
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    seal(folder, {k: v for k, v in facts.items() if k not in ("format", "files", "sha256")})


def change(folder: Path, name: str, how: Callable[[Any], object]) -> None:
    """Edit a JSON file and seal the folder again."""
    value = json.loads((folder / name).read_text())
    how(value)
    write_json(folder / name, value)
    reseal(folder)


def change_weights(folder: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "weights" / "engine.safetensors"
    weights = load_file(path)
    how(weights)
    save_file(weights, path)
    reseal(folder)


def refused(folder: Path, match: str | None = None) -> None:
    with pytest.raises(BadBundle, match=match) as caught:
        load(folder)
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900


@every
def test_a_run_comes_back_as_it_was(one: Path) -> None:
    model, again = load(one), load(one)
    a, b = model.sample(5, seed=2), again.sample(5, seed=2)
    assert torch.equal(a.x, b.x)
    assert model.describe().blocks() == again.describe().blocks()


@every
def test_a_flipped_bit_is_found_before_a_tensor_is_made(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors.torch, "load", lambda data: pytest.fail("a damaged run was read"))
    draw = random.Random(1)
    for path in sorted(p for p in one.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        places = [0, 1, 7, 8, 9, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(25))]
        for at in (p for p in places if p < len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(BadBundle):
                load(one)
        path.write_bytes(whole)


# ------------------------------------------------------------------------------------------- wrong values in JSON

WRONG: tuple[Any, ...] = (None, "", -1, 1e99, [], {})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def replaced(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    whole = copy.deepcopy(value)
    inner = whole
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = other
    return whole


def use(model: Fitted) -> None:
    """Ask a model everything that a command asks of it."""
    assert model.describe().to_json()
    draw = model.sample(2, seed=1)
    assert draw.report().to_json()


@every
@pytest.mark.parametrize("name", ["recipe.json", "codec.json", "outcome.json"])
def test_any_wrong_value_is_refused_or_harmless(one: Path, name: str) -> None:
    """Each value in turn is replaced; the manifest is made to fit, so that only the value itself is wrong."""
    value = json.loads((one / name).read_text())
    draw = random.Random(2)
    trials = [(at, other) for at in places(value) for other in WRONG]
    for at, other in draw.sample(trials, min(len(trials), 60)):
        write_json(one / name, replaced(value, at, other))
        reseal(one)
        said = ""
        try:
            model = load(one)
        except BadBundle as error:
            said = str(error)
        else:
            try:
                use(model)
            except PellucidError as error:
                said = str(error)
            except Exception as error:
                raise AssertionError(f"{name} with {other!r} at {at} gave {type(error).__name__}: {error}") from error
        assert said == "" or said.isprintable()


@pytest.mark.parametrize("other", WRONG)
@pytest.mark.parametrize(
    "at",
    [
        ("family",),
        ("settings", "latent"),
        ("settings", "free_bits"),
        ("seed",),
        ("space",),
        ("threads",),
        ("data", "items"),
    ],
)
def test_values_of_another_type_are_refused(one: Path, at: tuple[str, ...], other: object) -> None:
    if (at[-1], other) in (("seed", -1), ("free_bits", 1e99)):
        return  # values of the right type, odd as they are
    value = json.loads((one / "recipe.json").read_text())
    write_json(one / "recipe.json", replaced(value, at, other))
    reseal(one)
    refused(one)


@pytest.mark.parametrize("text", ["null", "[]", "1", '"x"', "", "[" * 5000, '{"family": "vae", "family": "gan"}', "{}"])
@pytest.mark.parametrize("name", ["recipe.json", "codec.json", "outcome.json", "source.json"])
def test_whole_files_of_another_make_are_refused(one: Path, name: str, text: str) -> None:
    (one / name).write_text(text)
    reseal(one)
    if name == "source.json":  # looked at only when the data is read again
        with pytest.raises(PellucidError):
            data_of(load(one).folder)
    elif (name, text) != ("outcome.json", "{}"):
        refused(one)


@pytest.mark.parametrize(
    ("name", "how", "match"),
    [
        ("recipe.json", lambda v: v.update(family="vea"), "family is 'vea'.*Did you mean 'vae'"),
        ("recipe.json", lambda v: v.update(family="os:system"), "family is 'os:system'"),
        ("recipe.json", lambda v: v.update(familly="vae"), "'familly' is no setting.*Did you mean 'family'"),
        ("recipe.json", lambda v: v["settings"].update(latnt=3), "'latnt' is no setting of VAE.*Did you mean 'latent'"),
        ("recipe.json", lambda v: v["settings"].update(latent=4), "weight '.*' of 'run' is"),
        ("recipe.json", lambda v: v["settings"].update(latent=3.5), "VAE.latent is 3.5. Accepted: a whole number"),
        ("recipe.json", lambda v: v["training"].update(optimizer="sgdd"), "Did you mean 'sgd'"),
        ("recipe.json", lambda v: v.pop("space"), "lacks space"),
        ("recipe.json", lambda v: v["space"].update(levels=17), "do not lead to the space of the recipe"),
        ("recipe.json", lambda v: v.update(conditions={}), "other conditions than the recipe"),
        ("recipe.json", lambda v: v["data"].update(kind="table"), "kind table, the codec of images"),
        ("recipe.json", lambda v: v.update(through={"family": "vae"}), "lacks settings, space, conditions"),
        ("codec.json", lambda v: v.update(kind="image"), "kind is 'image'.*Did you mean 'images'"),
        ("codec.json", lambda v: v["bridge"].update(name="latent"), "without the recipe of its engine"),
        ("codec.json", lambda v: v["bridge"].update(name="dequantize"), "Did you mean 'dequantise'"),
        ("codec.json", lambda v: v["bridge"].update(name="__class__"), "bridge is '__class__'"),
        ("codec.json", lambda v: v["bridge"].update(more=1), "'more' is no setting"),
        ("codec.json", lambda v: v["codec"].update(height=7), "does not start from the codec's space"),
        ("codec.json", lambda v: v["codec"].update(classes=["a", "b", "c"]), "3 classes with counts"),
        ("codec.json", lambda v: v["codec"].update(classes=["a", "\x1b[2J"]), None),
    ],
)
def test_what_does_not_fit_is_named(one: Path, name: str, how: Callable[[Any], object], match: str | None) -> None:
    change(one, name, how)
    if match is None:
        load(one)  # an odd name of a class is a name
        return
    refused(one, match)


# ------------------------------------------------------------------------------------- settings made to exhaust us

LONG = {"space": "Tokens", "vocab": 2, "length": 10**12, "ends": False}
BOMBS = [
    ("recipe.json", lambda v: v["settings"].update(latent=10**12)),
    ("recipe.json", lambda v: v["settings"].update(width=10**9)),
    ("recipe.json", lambda v: v["settings"].update(width=2**70)),
    ("recipe.json", lambda v: v["settings"].update(depth=10**9)),
    ("recipe.json", lambda v: v["settings"].update(latent=10**400)),
    ("recipe.json", lambda v: v["space"].update(shape=[1, 10**9, 10**9])),
    ("codec.json", lambda v: v["codec"].update(height=10**9)),
    ("codec.json", lambda v: v["codec"].update(levels=10**9)),
    ("codec.json", lambda v: v["bridge"]["plain"].update(space=LONG)),
    ("codec.json", lambda v: v["bridge"]["plain"].update(space={"space": "Real", "shape": [10**6] * 9})),
]  # fmt: skip


@pytest.mark.parametrize("bomb", range(len(BOMBS)))
def test_sizes_that_would_fill_the_machine_are_refused_at_once(one: Path, bomb: int) -> None:
    change(one, *BOMBS[bomb])
    began = time.process_time()
    refused(one)
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize("one", ["latent"], indirect=True)
def test_the_engine_of_a_latent_bridge_is_checked_like_any_other(one: Path) -> None:
    change(one, "recipe.json", lambda v: v["through"]["settings"].update(depth=10**9))
    refused(one, "depth is 1000000000")
    change(one, "recipe.json", lambda v: v["through"]["settings"].update(depth=64, width=4096))
    refused(one, "far larger than its weights")
    change(one, "recipe.json", lambda v: v["through"]["settings"].update(depth=1, width=None, latent=4))
    refused(one, "weight '.*' of 'the latent bridge'")
    change(one, "recipe.json", lambda v: v["through"].update(family="gan", settings={}))
    refused(one)
    change(one, "recipe.json", lambda v: v.update(through=None))
    refused(one, "without the recipe of its engine")


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("one", ["pictures", "table", "latent"], indirect=True)
@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda w: w.pop(sorted(w)[0]), "1 names differ"),
        (lambda w: w.update(strange=torch.zeros(2)), "the first is 'strange'"),
        (lambda w: w.update({"__reduce__": torch.zeros(2)}), "the first is '__reduce__'"),
        (lambda w: w.update({sorted(w)[0]: torch.zeros(7, 3)}), r"float32 \(7, 3\). Accepted: torch.float32"),
        (lambda w: w.update({k: v.double() for k, v in w.items()}), "float64"),
        (lambda w: w.update({k: v.half() for k, v in w.items()}), "float16"),
        (lambda w: w.clear(), "names differ"),
    ],
)
def test_weights_of_another_shape_are_refused(one: Path, how: Callable[[Any], object], match: str) -> None:
    change_weights(one, how)
    refused(one, match)


def test_weights_before_averaging_are_checked_too(one: Path) -> None:
    path = one / "weights" / "raw.safetensors"
    assert path.is_file()
    save_file({"strange": torch.zeros(1)}, path)
    reseal(one)
    refused(one, "names differ")


@pytest.mark.parametrize("one", ["counts"], indirect=True)
@pytest.mark.parametrize(
    "how",
    [
        lambda w: w.pop("grams"),
        lambda w: w.update(grams=w["grams"].float() * torch.nan),
        lambda w: w.update(grams=w["grams"] - 5),
        lambda w: w.update(grams=w["grams"] * 10**6),
        lambda w: w.update(grams=w["grams"][:, :1].contiguous()),
        lambda w: w.update(counts=-w["counts"]),
        lambda w: w.update(counts=w["counts"][:3].clone()),
        lambda w: w.update(more=torch.zeros(1)),
    ],
)
def test_counts_of_another_make_are_refused(one: Path, how: Callable[[Any], object]) -> None:
    change_weights(one, how)
    refused(one, "the counts of 'run' do not fit")


def header(text: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + body


HEADERS = [
    b"",
    b"\x01",
    header(b"{}", 2**63),
    header(b"{}", 2**64 - 1),
    header(b"{}", 200_000_000),
    header(b" " * 1000, 999),
    header(b"[]"),
    header(b"null"),
    header(b"[" * 5000),
    header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', body=b"\0" * 4),
    header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
    header(b'{"a":{"dtype":"F32","shape":[1e99],"data_offsets":[0,8]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"PICKLE","shape":[2],"data_offsets":[0,8]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"U16","shape":[4],"data_offsets":[0,8]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}', body=b"\0" * 8),
    header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', body=b"\0" * 80),
    header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
           body=b"\0" * 4),
    header(b'{"__metadata__":{"a":1}}'),
    header(b'{"__metadata__":{"format":"pickle"}}'),
    pickle.dumps({"a": 1}),
    b"PK\x03\x04" + b"\0" * 60,
]  # fmt: skip


@pytest.mark.parametrize("place", ["weights/engine.safetensors", "weights/raw.safetensors", "codec.safetensors"])
def test_hostile_headers_are_refused(one: Path, place: str) -> None:
    for data in HEADERS:
        if place == "codec.safetensors" and b"__metadata__" in data and b'"a"' not in data:
            continue  # no tensors is what this codec has
        (one / place).write_bytes(data)
        reseal(one)
        refused(one)


@pytest.mark.parametrize("one", ["table"], indirect=True)
def test_the_codec_has_only_its_own_tensors(one: Path) -> None:
    path = one / "codec.safetensors"
    tensors = load_file(path)
    for how in ({"strange": torch.zeros(1)}, {"codec.99.knots": torch.zeros(1)}, {"bridge.x": torch.zeros(1)}):
        save_file({**tensors, **how}, path)
        reseal(one)
        refused(one)
    for key, tensor in tensors.items():
        for other in (tensor.float(), tensor[:1].clone(), tensor * torch.nan, -tensor):
            save_file({**tensors, key: other}, path)
            reseal(one)
            refused(one)


# ------------------------------------------------------------------------------------------------ nothing executes

HOSTILE = r"""
import json, os, pickle, shutil, sys
from pathlib import Path

root, scratch, latent = map(Path, sys.argv[1:])
sys.path.insert(0, "")
from pellucid.core.bundle import seal, write_json
from pellucid.core.errors import PellucidError
from pellucid.model import load

class Canary:
    def __reduce__(self):
        return os.system, (f"touch '{scratch / 'executed'}'",)

def reseal(folder):
    (folder / "manifest.json").unlink()
    seal(folder, {})

for folder in (root, latent):
    load(folder).sample(2)  # whatever is imported late is imported now
attacks = []
for name in ("recipe.json", "codec.json", "codec.safetensors", "weights/engine.safetensors", "weights/raw.safetensors",
             "outcome.json", "manifest.json", "events.jsonl", "weights/engine.pkl", "model.pt", "__init__.py",
             "x.json"):
    folder = Path(shutil.copytree(root, scratch / f"pickle{len(attacks)}"))
    (folder / name).write_bytes(pickle.dumps(Canary()))
    if name != "manifest.json":
        reseal(folder)
    attacks.append(folder)
code = "__import__('os').system('touch executed')"
edits = [("family", code), ("family", "os:system"), ("family", "builtins:eval"), ("settings", {"latent": code}),
         ("objective", "os:system"), ("settings", {"__class__": "os"}), ("through", {"family": "os:system"})]
for key, value in edits:
    folder = Path(shutil.copytree(root, scratch / f"edit{len(attacks)}"))
    recipe = json.loads((folder / "recipe.json").read_text())
    write_json(folder / "recipe.json", {**recipe, key: value})
    reseal(folder)
    attacks.append(folder)
for where in ("kind", "bridge"):
    folder = Path(shutil.copytree(root, scratch / f"codec{len(attacks)}"))
    codec = json.loads((folder / "codec.json").read_text())
    codec[where] = "os:system" if where == "kind" else {"name": "os:system", "plain": {}}
    write_json(folder / "codec.json", codec)
    reseal(folder)
    attacks.append(folder)

seen = []
def watch(event, arguments):
    loud = ("exec", "compile", "pickle.find_class", "os.system", "os.exec", "os.spawn", "os.posix_spawn",
            "subprocess.Popen", "code.__new__", "marshal.loads", "ctypes.dlopen", "import")
    if event in loud or event.startswith("socket."):
        seen.append(f"{event} {str(arguments)[:80]}")
sys.addaudithook(watch)

codes = []
for folder in attacks:
    try:
        load(folder)
        codes.append(0)
    except PellucidError as error:
        codes.append(error.exit_code)
found = list(seen)
print(json.dumps({"codes": codes, "seen": found, "asserts": __debug__, "executed": (scratch / "executed").exists()}))
"""


@pytest.mark.parametrize("option", [[], ["-O"]], ids=["", "-O"])
def test_nothing_in_a_hostile_run_is_executed(runs: dict[str, Path], tmp_path: Path, option: list[str]) -> None:
    """A hook of Python's own reports code that is run, compiled, imported or unpickled, programs, and the network."""
    done = subprocess.run(
        [sys.executable, *option, "-c", HOSTILE, str(runs["pictures"]), str(tmp_path), str(runs["latent"])],
        cwd=tmp_path,
        env={**os.environ, "PELLUCID_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["asserts"] is not bool(option)
    harmless = 3  # a listed events.jsonl and x.json that nobody reads, and an objective's name, which is only shown
    assert sorted(found["codes"]) == [0] * harmless + [4] * (len(found["codes"]) - harmless)
    assert found["seen"] == []
    assert not found["executed"]
    assert not (tmp_path / "executed").exists()


def test_reading_the_table_again_uses_only_what_the_run_says(runs: dict[str, Path], tmp_path: Path) -> None:
    """source.json names the data and how it was read; the fingerprint decides whether it is the same."""
    one = Path(shutil.copytree(runs["table"], tmp_path / "run"))
    assert len(data_of(one)) == len(rows())
    other = tmp_path / "other.csv"
    rows().assign(word="x").to_csv(other, index=False)
    with pytest.raises(PellucidError, match="is not what it was"):
        data_of(one, other)
    change(one, "source.json", lambda v: v.update(path=str(tmp_path / "gone.csv")))
    with pytest.raises(PellucidError, match="no longer at .* Say where it is now: --data PATH"):
        data_of(one)
    for wrong in ({"path": 3}, {"path": "x", "more": 1}, {"path": "x", "size": "big"}):
        write_json(one / "source.json", wrong)
        reseal(one)
        with pytest.raises(BadBundle, match="does not say where the data is"):
            data_of(one)
    assert read_table(rows()).fingerprint() == read_table(rows()).fingerprint()
