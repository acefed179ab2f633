"""A run folder is trusted only whole: every cut, flip, stranger and trick is found before a value is used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pellucid.core.bundle import canonical, disk_errors, open_bundle, seal, write_atomic, write_json
from pellucid.core.errors import BadBundle, BadInput, PellucidError

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([0.5, -1.0])}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small bundle."""
    folder = tmp_path / "run"
    write_json(folder / "recipe.json", {"family": "vae", "rate": 1e-05, "widths": [32, 64], "name": "Zoë"})
    write_atomic(folder / "events.jsonl", b'{"step":0}\n')
    write_atomic(folder / "weights" / "engine.safetensors", save(TENSORS))
    seal(folder, {"seed": 3, "versions": {"pellucid": "0"}})
    return folder


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda body: None) -> None:
    """The manifest of what is there now, as an attacker who knows our code would write it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    seal(folder, {"seed": 3, "versions": {}})
    body = json.loads((folder / "manifest.json").read_text())
    del body["sha256"]
    change(body)
    write_json(folder / "manifest.json", {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


def refused(folder: Path, match: str | None = None) -> BadBundle:
    with pytest.raises(BadBundle, match=match) as caught:
        open_bundle(folder)
    text = str(caught.value)
    assert caught.value.exit_code == 4
    assert text.isprintable()
    assert len(text) < 700
    return caught.value


def test_what_was_sealed_is_read_back(run: Path) -> None:
    bundle = open_bundle(run)
    assert bundle.json("recipe.json") == {"family": "vae", "rate": 1e-05, "widths": [32, 64], "name": "Zoë"}
    found = bundle.tensors("weights/engine.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], v) for k, v in TENSORS.items())
    assert bundle.manifest["seed"] == 3
    assert bundle.has("events.jsonl")
    assert not bundle.has("manifest.json")
    with pytest.raises(BadBundle, match="does not list it"):
        bundle.json("other.json")


def test_every_flipped_bit_is_found(run: Path) -> None:
    draw = random.Random(0)
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(BadBundle):
                open_bundle(run)
        path.write_bytes(whole)
    open_bundle(run)


def test_a_change_that_leaves_every_value_as_it_was_is_found(run: Path) -> None:
    path = run / "manifest.json"
    whole = path.read_bytes()
    for other in (
        whole + b"\n",
        whole.replace(b"\n", b"\r\n"),
        whole.replace(b'"seed"', b'"\\u0073eed"'),
        b" " + whole,
    ):
        path.write_bytes(other)
        refused(run, "changed after it was written")


@pytest.mark.parametrize("name", ["manifest.json", "recipe.json", "events.jsonl", "weights/engine.safetensors"])
def test_cut_grown_and_missing_files_are_found(run: Path, name: str) -> None:
    path = run / name
    whole = path.read_bytes()
    for part in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\0", whole + whole):
        path.write_bytes(part)
        refused(run)
    path.unlink()
    if name == "manifest.json":
        with pytest.raises(BadInput, match="no finished run"):
            open_bundle(run)
    else:
        refused(run, f"lacks '{name}'")


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


NAMES = [
    *("weights.pkl", "weights.pickle", "weights.p", "model.pt", "model.pth", "model.bin", "model.ckpt", "model.joblib"),
    *("model.npy", "model.npz", "model.h5", "weights.safetensors", "extra.json", "notes.txt", "noending", "run.py"),
    *("data.dill", "sub/deep/engine.safetensors", ".hidden", "weights/engine.safetensors.bak", "MANIFEST.JSON", "a b"),
    *("checkpoints/000000001.safetensors", "resume.json", "é.json", "weights/raw.safetensors", "conftest.py", "so.so"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_listed_is_refused_whatever_its_name(run: Path, name: str, tmp_path: Path) -> None:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Canary(tmp_path / "executed")))
    refused(run, "does not list")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [n for n in NAMES if not n.lower().endswith((".json", ".safetensors"))])
def test_a_listed_file_must_be_of_a_kind_that_cannot_execute(run: Path, name: str, tmp_path: Path) -> None:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Canary(tmp_path / "executed")))
    reseal(run)
    refused(run, "Other files could execute")
    assert not (tmp_path / "executed").exists()


def test_a_listed_pickle_is_not_read_as_anything_else(run: Path, tmp_path: Path) -> None:
    data = pickle.dumps(Canary(tmp_path / "executed"))
    (run / "recipe.json").write_bytes(data)
    (run / "weights" / "engine.safetensors").write_bytes(data)
    reseal(run)
    bundle = open_bundle(run)
    with pytest.raises(BadBundle, match="not JSON as pellucid writes it"):
        bundle.json("recipe.json")
    with pytest.raises(BadBundle, match="not a safetensors file"):
        bundle.tensors("weights/engine.safetensors")
    assert not (tmp_path / "executed").exists()


def test_links_and_devices_are_refused(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_bytes((run / "recipe.json").read_bytes())
    (run / "recipe.json").unlink()
    (run / "recipe.json").symlink_to(outside)
    refused(run, "a link or a device")
    (run / "recipe.json").unlink()
    os.link(outside, run / "recipe.json")  # the same bytes under their own name: nothing to refuse
    open_bundle(run)
    (run / "weights").rename(tmp_path / "weights")
    (run / "weights").symlink_to(tmp_path / "weights")
    refused(run, "a link or a device")
    (run / "weights").unlink()
    (tmp_path / "weights").rename(run / "weights")
    os.mkfifo(run / "pipe.json")
    refused(run, "a link or a device")
    (run / "pipe.json").unlink()
    (run / "manifest.json").rename(tmp_path / "m.json")
    (run / "manifest.json").symlink_to(tmp_path / "m.json")
    refused(run, "a link or a device")


OUTSIDE = [
    *("../outside.json", "a/../../outside.json", "/etc/passwd.json", "//server/share.json", "..\\outside.json"),
    *("C:\\x.json", "C:x.json", "a\\b.json", "x\0.json", "nul\0", "", ".", "..", "/", "weights", "~/x.txt", "x.json/"),
    *("weights//engine.safetensors", "./recipe.json", "recipe.json ", "RECIPE.JSON", "file:x.json", "\x1b[2J.json"),
    *("x" * 5000 + ".json", "‮gpj.json", "con.json"),
]


@pytest.mark.parametrize("name", OUTSIDE, ids=range(len(OUTSIDE)))
def test_names_that_lead_elsewhere_are_refused(run: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text("{}")
    entry = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    reseal(run, lambda body: body["files"].update({name: entry}))
    refused(run)


def put(run: Path, text: str | bytes) -> Path:
    path = run / "manifest.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '"manifest"', "1", '{"files": []}', '{"files": {}}', '{"files": null, "format": 1}',
        "[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, '{"files": {}, "x": ' + "[" * 60 + "]" * 60 + "}",
        '{"files": {}, "files": {}}', '{"files": {"a.json": {}, "a.json": {}}}', '{"files": {}, "x": NaN}',
        '{"files": {}, "x": 1e999}', '{"files": {}, "x": -Infinity}', '{"files": {}, "x": "\\ud800"}',
        '{"files": {}, "x": ' + "9" * 5000 + "}", "{'files': {}}", '{"files": {}} {}', "\ufeff{}",
        b'\xff\xfe{\x00}\x00', b"\x80\x04\x95", b"\x00" * 100,
        b'{"files": {"\xff": 1}}', b'{"files": {"\xed\xa0\x80": 1}}',
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_what_is_no_manifest_is_refused(run: Path, text: str | bytes) -> None:
    put(run, text)
    refused(run)


def test_a_name_said_twice_is_refused_even_under_a_fitting_hash(run: Path) -> None:
    text = (run / "manifest.json").read_text()
    put(run, text.replace('"seed": 3', '"seed": 4,\n  "seed": 3'))
    refused(run, "two values named 'seed'")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: b.update(format=2), "format 2. Accepted: format 1. Update pellucid"),
        (lambda b: b.update(format=True), "has format True"),
        (lambda b: b.update(format="1"), "has format '1'"),
        (lambda b: b.pop("format"), "has format None"),
        (lambda b: b["files"].update({"recipe.json": None}), "without its size and hash"),
        (lambda b: b["files"].update({"recipe.json": []}), "without its size and hash"),
        (lambda b: b["files"]["recipe.json"].pop("sha256"), "without its size and hash"),
        (lambda b: b["files"]["recipe.json"].update(sha256=None), "without its size and hash"),
        (lambda b: b["files"]["recipe.json"].update(sha256="0" * 64), "cut or changed"),
        (lambda b: b["files"]["recipe.json"].update(bytes=True), "without its size and hash"),
        (lambda b: b["files"]["recipe.json"].update(bytes=-1), "without its size and hash"),
        (lambda b: b["files"]["recipe.json"].update(bytes=1), "cut or changed"),
        (lambda b: b["files"]["recipe.json"].update(bytes=10**30), "cut or changed"),
        (lambda b: b["files"].pop("recipe.json"), "does not list"),
    ],
)
def test_a_sealed_manifest_must_say_what_a_manifest_says(
    run: Path, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    reseal(run, change)
    refused(run, match)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["files", "format", "sha256", "seed", "x.json"]), JSON), st.booleans())
def test_any_json_in_place_of_the_manifest_is_refused(
    tmp_path_factory: pytest.TempPathFactory, body: dict[str, Any], sealed: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    try:
        body = {k: v for k, v in body.items() if k != "sha256"} if sealed else body
        digest = {"sha256": hashlib.sha256(canonical(body)).hexdigest()} if sealed else {}
        (folder / "x.json").write_text("{}")
        write_json(folder / "manifest.json", {**body, **digest})
    except ValueError:  # half a letter, or an infinity: not JSON that we would write
        return
    with pytest.raises(PellucidError) as caught:
        open_bundle(folder)
    assert caught.value.exit_code in (2, 4)


def test_nothing_is_swapped_between_check_and_use(run: Path) -> None:
    bundle = open_bundle(run)
    path = run / "weights" / "engine.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadBundle, match="cut or changed"):
        bundle.tensors("weights/engine.safetensors")
    (run / "recipe.json").write_bytes(b" " * 10**6)
    with pytest.raises(BadBundle, match="size that is allowed"):
        bundle.json("recipe.json")
    path.unlink()
    with pytest.raises(BadBundle, match="cannot be read"):
        bundle.tensors("weights/engine.safetensors")


def test_no_run_is_said_plainly(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(BadInput, match="there is no run folder"):
            open_bundle(path)
    with pytest.raises(BadInput, match=r"holds no manifest.json, so it is no finished run"):
        open_bundle(tmp_path)
    (tmp_path / "resume.json").write_text("{}")
    with pytest.raises(BadInput, match=rf"has not finished. Resume it: pellucid fit --resume {tmp_path}"):
        open_bundle(tmp_path)


def test_a_partial_manifest_covers_what_it_lists(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", {"a": 1})
    (tmp_path / "events.jsonl").write_text("")
    seal(tmp_path, {}, "resume.json", only=["recipe.json"])
    bundle = open_bundle(tmp_path, "resume.json", partial=True)
    assert bundle.json("recipe.json") == {"a": 1}
    with pytest.raises(BadBundle, match="does not list"):
        open_bundle(tmp_path, "resume.json")
    with pytest.raises(BadInput, match=r"interrupted while it tidied up. Let it finish: pellucid fit --resume"):
        open_bundle(tmp_path, "resume.json", leftovers=("events.jsonl",))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_text("")
    with pytest.raises(BadInput, match="tidied up"):
        open_bundle(tmp_path, "resume.json", leftovers=("events.jsonl", "checkpoints/"))


# ------------------------------------------------------------------------------------------------------ writing


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    monkeypatch.setattr(os, where, full)
    with pytest.raises(BadInput, match=r"the disk is full while saving a.json. Nothing that was saved before is lost"):
        write_json(path, {"old": False})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(BadInput, match="cannot be written"):
        write_json(tmp_path / ("x" * 300) / "a.json", {})
    for number in (errno.EROFS, errno.EACCES, errno.EIO, errno.EISDIR):
        with pytest.raises(BadInput, match="Choose a folder you may write to"), disk_errors("it"):
            raise OSError(number, "no")
    with pytest.raises(ValueError, match="other"), disk_errors("it"):
        raise ValueError("other")


def test_json_is_written_without_nan_and_equal_for_equal_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    assert canonical({"b": 1.5, "a": "é"}) == canonical({"a": "é", "b": 1.5}) == '{"a":"é","b":1.5}'.encode()
