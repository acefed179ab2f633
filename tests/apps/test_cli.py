"""The command as people and schedulers meet it: words in, one answer out, and a code that never changes its meaning."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pellucid import __version__, catalog
from pellucid.apps import cli
from pellucid.apps.menu import few, menu
from pellucid.catalog import BRIDGES, DOMAINS, bridge_class, domain_class, families, family_class
from pellucid.core import errors
from pellucid.core.capabilities import CAPABILITIES
from pellucid.core.run import Run
from pellucid.domains.read import read
from pellucid.model import load

SMALL = ("--set", "latent=3", "--set", "width=4", "--set", "depth=1")
FLOW = ("--family", "flow", "--set", "width=8", "--set", "depth=1")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one object on standard output."""
        return json.loads(self.out)


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs `pellucid` with these words, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELLUCID_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["pellucid", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        done = capfd.readouterr()
        return Answer(int(stop.value.code or 0), done.out, done.err)

    return run


def photos(folder: Path, n: int = 20, size: tuple[int, int] = (6, 4)) -> Path:
    """A folder of pictures in two classes."""
    draw = np.random.default_rng(0)
    for i in range(n):
        path = folder / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (size[1], size[0]), dtype=np.uint8)).save(path)
    return folder


def people(n: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=n).strftime("%d.%m.%Y"),
            "height": np.where(draw.random(n) < 0.3, "", [f"{v:.1f}" for v in draw.normal(170, 9, n)]),
            "children": draw.integers(0, 5, n),
            "always": "same",
            "never": "",
            "sex": draw.choice(["Female", "Male"], n),
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on pictures and one on a table, made by the command."""
    root = tmp_path_factory.mktemp("made")
    photos(root / "photos")
    people().to_csv(root / "people.csv", index=False)
    for name, words in {
        "pictures": (root / "photos", "--family", "vae", *SMALL, "--steps", "2"),
        "table": (root / "people.csv", *FLOW, "--steps", "2", "--target", "sex"),
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["pellucid", "fit", *map(str, words), "--out", str(root / name), "--quiet"])
            patch.setenv("PELLUCID_THREADS", "1")
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code
    return {name: root / name for name in ("pictures", "table", "photos", "people.csv")}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def refused(call: Call, words: tuple[object, ...], match: str, code: int = 2) -> str:
    """The same refusal for people and for programs, and nothing on the disk is other than before."""
    before = tree(Path.cwd())
    plain, machine = call(*words), call(*words, "--json")
    assert (plain.code, machine.code) == (code, code), plain.err + machine.out
    assert tree(Path.cwd()) == before
    assert "Traceback" not in plain.err + machine.err
    assert plain.out == ""
    found = machine.json()["error"]
    assert found["exit_code"] == code
    assert re.search(match, found["message"]), found["message"]
    said = plain.err.replace("│", " ").split()
    assert all(word in said for word in found["message"].split()[:5])
    return str(found["message"])


# ------------------------------------------------------------------------------------------------------ the commands


def test_version_and_help(call: Call) -> None:
    answer = call("--version")
    assert (answer.code, answer.out.split()) == (0, ["pellucid", __version__])
    for words in (("--help",), ("-h",), ("fit", "--help")):
        answer = call(*words)
        assert answer.code == 0
        assert "Usage" in answer.out
    for command in ("fit", "sample", "compare", "explain", "describe", "families", "data", "demo"):
        assert command in call("--help").out


def test_every_command_takes_json_and_quiet() -> None:
    commands = [c.callback for c in cli.app.registered_commands if c.callback is not None]
    assert len(commands) >= 8
    for command in commands:
        words = inspect.signature(command).parameters
        assert {"as_json", "quiet"} <= set(words), command.__name__


def test_the_codes_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exit_codes.md").read_text()
    written = {int(found) for found in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    ours = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PellucidError)}
    assert ours | {0, 143} == written
    run = Run()
    run.stop(signal.SIGTERM)
    assert run.stopped("it stopped").exit_code == 143


def test_fit_says_what_it_made_and_what_comes_next(call: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    words = ("fit", "photos", "--family", "vae", *SMALL, "--steps", "2", "--seed", "7", "--device", "cpu")
    answer = call(*words, "--out", "run")
    assert answer.code == 0
    assert answer.out == "The model is in run. Next: pellucid sample run -n 64 --out samples\n"
    assert "read as images because the folder holds 20 .png files" in answer.err
    assert "train: 2 of 2" in answer.err
    assert load("run").recipe["seed"] == 7
    quiet = call(*words, "--out", "run2", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    told = call(*words, "--out", "run3", "--json")
    assert told.err == ""
    found = told.json()
    assert (found["run"], found["family"], found["steps"]) == ("run3", "vae", 2)
    assert any("2 classes" in text for text in found["notices"])
    again = call(*words, "--out", "run3", "--force", "--json").json()
    assert again["run"] == "run3"
    assert (Path("run") / "weights" / "engine.safetensors").read_bytes() == (
        Path("run3") / "weights" / "engine.safetensors"
    ).read_bytes()


def test_minutes_print_the_plan_before_training(call: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    answer = call("fit", "photos", "--family", "vae", *SMALL, "--minutes", "0.01", "--out", "run")
    assert answer.code == 0
    assert re.search(r"plan \d[\d,]* steps of .* parameters, about .*\n.*train", answer.err, re.DOTALL)


def test_pictures_are_written_in_every_form(call: Call, runs: dict[str, Path]) -> None:
    words = ("sample", runs["pictures"], "-n", "5", "--seed", "3")
    answer = call(*words, "--out", "samples")
    assert answer.out == f"5 samples of {runs['pictures']}, seed 3, in samples\n"
    assert len(list(Path("samples").rglob("*.png"))) == 5
    found = call(*words, "--out", "s.npz", "--json").json()
    assert found.items() >= {"out": "s.npz", "n": 5, "seed": 3, "route": "free", "promise": "exact"}.items()
    with np.load("s.npz", allow_pickle=False) as arrays:
        assert arrays["images"].dtype == np.uint8
        assert arrays["images"].shape == (5, 4, 6)
        assert set(arrays["labels"].tolist()) <= {"a", "b"}
    one = call(*words, "--class", "b", "--out", "b.npz", "--quiet")
    assert (one.code, one.out, one.err) == (0, "", "")
    with np.load("b.npz") as arrays:
        assert arrays["labels"].tolist() == ["b"] * 5
    assert call(*words, "--where", "class=b", "--out", "w.npz").code == 0
    assert Path("w.npz").read_bytes() == Path("b.npz").read_bytes()
    shown = call(*words, "--json").json()
    assert shown["title"] == "5 samples, seed 3"
    assert call(*words).code == 0


def test_samples_are_drawn_against_something(call: Call) -> None:
    small = ("--set", "width=8", "--set", "depth=1", "--steps", "1", "--quiet")
    assert call("fit", photos(Path("photos")), "--family", "diffusion", *small, "--out", "run").code == 0
    words = ("sample", "run", "-n", "3", "--class", "a", "--how", "steps=2", "--how", "guidance=2")
    assert call(*words, "--against", "class=b", "--out", "unlike").code == 0
    draw = load("run")
    how = replace(draw.how(), steps=2, guidance=2.0)  # type: ignore[call-arg]
    expected = draw.sample(3, where={"class": "a"}, against={"class": "b"}, how=how).items
    shown = sorted(Path("unlike").rglob("*.png"))
    assert len(shown) == 3
    for path, pixels in zip(shown, expected.pixels, strict=True):  # type: ignore[union-attr]
        assert (np.asarray(Image.open(path)) == pixels[..., 0]).all()
    refused(call, (*words, "--against", "class=c"), "class is 'c'. Accepted: a, b")
    refused(call, (*words, "--against", "sex=Female"), "condition 'sex' does not exist. Accepted: class")
    refused(call, (*words, "--how", "against=b"), "'against' is no setting of DiffusionHow")
    plain = ("sample", "run", "-n", "3", "--how", "guidance=1", "--against", "class=b")
    refused(call, plain, "guidance is 1 beside something to walk away from")


def test_rows_are_written_in_every_form(call: Call, runs: dict[str, Path]) -> None:
    words = ("sample", runs["table"], "-n", "400", "--seed", "3")
    for form in ("rows.csv", "rows.tsv", "rows.csv.gz", "rows.parquet"):
        assert call(*words, "--out", form).code == 0
    text = pd.read_csv("rows.csv", dtype=str, keep_default_na=False)
    assert list(text.columns) == list(people().columns)
    assert len(text) == 400
    assert text["when"].str.fullmatch(r"\d\d\.\d\d\.2024").all()
    assert text["height"].str.fullmatch(r"\d+\.\d|").all()
    assert set(text["always"]) == {"same"}
    assert set(text["never"]) == {""}
    assert set(text["children"].astype(int)) <= set(range(5))
    pd.testing.assert_frame_equal(pd.read_csv("rows.tsv", sep="\t", dtype=str, keep_default_na=False), text)
    pd.testing.assert_frame_equal(pd.read_csv("rows.csv.gz", dtype=str, keep_default_na=False), text)
    assert pd.read_parquet("rows.parquet")["children"].tolist() == text["children"].astype(int).tolist()
    only = call(*words, "--class", "Female", "--where", "children=>=1", "--out", "f.csv", "--json").json()
    assert only["route"] == "rejection"
    found = pd.read_csv("f.csv")
    assert len(found) == 400
    assert set(found["sex"]) == {"Female"}
    assert found["children"].min() >= 1
    assert call(*words, "--how", "temperature=0.5", "--out", "cold.csv").code == 0


def test_a_run_is_gone_on_with_from_its_folder_alone(
    call: Call, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while the second checkpoint is made; the resumed run is the unbroken one."""
    words = ("fit", runs["people.csv"], *FLOW, "--steps", "9", "--checkpoint-every", "2")
    assert call(*words, "--out", "whole").code == 0
    from pellucid.training.checkpoint import Checkpoints

    real, seen = Checkpoints.save, []

    def saved(self: Checkpoints, *rest: Any) -> Path:
        seen.append(path := real(self, *rest))
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return path

    monkeypatch.setattr(Checkpoints, "save", saved)
    answer = call(*words, "--out", "part", "--json")
    monkeypatch.setattr(Checkpoints, "save", real)
    assert answer.code == 143
    assert answer.json()["error"]["type"] == "Stopped"
    assert answer.json()["error"]["message"].endswith("Go on with: pellucid fit --resume part.")
    assert "pellucid fit --resume part" in refused(call, ("sample", "part", "-n", 3), "the run 'part' has not finished")
    moved = runs["people.csv"].rename(runs["people.csv"].with_name("moved.csv"))
    refused(call, ("fit", "--resume", "part"), r"no longer at .*people.csv'. Say where it is now: --data PATH")
    answer = call("fit", "--resume", "part", "--data", moved)
    moved.rename(runs["people.csv"])
    assert answer.code == 0
    assert "The model is in part" in answer.out
    left, right = load("whole"), load("part")
    assert torch.equal(left.sample(4).x, right.sample(4).x)
    done = call("fit", "--resume", "part")
    assert done.code == 0
    assert "is finished; there is nothing left to do" in done.err


def test_a_run_is_continued_from_another(call: Call, runs: dict[str, Path]) -> None:
    found = call("fit", runs["photos"], "--from", runs["pictures"], "--steps", "1", "--out", "on", "--json").json()
    assert found["family"] == "vae"
    model = load("on")
    assert model.recipe["base"]["family"] == "vae"
    assert model.family == load(runs["pictures"]).family
    refused(
        call,
        ("fit", runs["photos"], "--from", runs["pictures"], "--family", "gan", "--steps", 1, "--out", "x"),
        "the family is 'gan' but the model to go on from is 'vae'",
    )


def test_a_run_is_adapted_to_another_class(
    call: Call, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "c.npz", images=np.zeros((12, 4, 6), np.uint8), labels=np.array(["c"] * 12))
    words = ("fit", "c.npz", "--from", runs["pictures"], "--steps", "2", "--no-watch")
    answer = call(*words, "--adapt", "lora", "--set-adapt", "rank=1", "--out", "c")
    assert answer.code == 0, answer.err
    assert "New to the model: class c." in answer.err
    assert re.search(r"From the base: [\d,]+ of [\d,]+ weights could move", answer.err)
    assert load("c").recipe["base"]["adapt"]["rank"] == 1
    assert load("c").sample(3).codec.plain()["classes"] == ["a", "b", "c"]
    refused(call, (*words, "--adapt", "most", "--out", "x"), "Adapt.how is 'most'. Accepted: whole, last, lora")
    refused(call, (*words, "--set-adapt", "rnk=1", "--out", "x"), "'rnk' is no setting of Adapt.*'rank'")
    refused(call, ("fit", "c.npz", "--adapt", "last", "--out", "x"), "adapt is 'last' without a model to go on from")
    refused(call, (*words, "--objective", "few", "--out", "x"), "objective is 'few'")
    refused(call, (*words, "--set-objective", "a=1", "--out", "x"), "--set-objective came without --objective")
    monkeypatch.setitem(catalog.OBJECTIVES, "towards", "tests.test_adapting:Towards")
    answer = call(*words, "--objective", "towards", "--set-objective", "goal=0.25", "--out", "near")
    assert answer.code == 0, answer.err
    assert load("near").recipe["objective"] == {"name": "towards", "settings": {"goal": 0.25}}


def test_describe_and_data(call: Call, runs: dict[str, Path]) -> None:
    described = call("describe", runs["table"], "--json").json()
    assert described["kind"] == "Described"
    assert "sex" in call("describe", runs["table"]).out
    told = call("data", runs["people.csv"], "--json").json()
    assert told["pellucid_report"] == 1
    assert call("data", runs["photos"], "--out", "r.html", "--quiet") == Answer(0, "", "")
    assert Path("r.html").stat().st_size > 1000
    refused(call, ("data", runs["photos"], "--out", "r.html"), "'r.html' exists already")
    refused(call, ("data", runs["photos"], "--out", "r.pdf"), "--out is 'r.pdf'. Accepted: .html, .md, .json, .txt")
    refused(call, ("data", runs["photos"], "--out", "."), "Accepted: .html")


# ------------------------------------------------------------------------------------------------------- the menu


def test_the_menu_is_what_the_families_say(call: Call) -> None:
    """Family x kind x bridge, found again without the code under test."""
    told = call("families", "--json").json()
    takes, able = (b for b in told["blocks"] if b["type"] == "Table")
    assert takes["columns"] == ["family", "what it is", *DOMAINS]
    assert [row[0] for row in takes["rows"]] == list(families()) == [row[0] for row in able["rows"]]
    items = few()
    assert set(items) == set(DOMAINS)
    for row in takes["rows"]:
        family = family_class(row[0])()
        assert row[1] == family.title
        for kind, said in zip(DOMAINS, row[2:], strict=True):
            codec = domain_class(kind)().learn(items[kind])
            if family.accepts(codec.space, codec.conditions) is None:
                assert said == "as it is"
                continue
            ways = [b for b in BRIDGES if _leads(b, codec, items[kind], family)]
            assert said == f"through {ways[0]}" if ways else said.startswith("no: ")
    for row in able["rows"]:
        engine = family_class(row[0]).engine
        wanted = ["yes" if issubclass(engine, c) else "" for c in CAPABILITIES.values()]
        assert row[1:] == wanted
    assert menu().to_json() == menu().to_json()
    for name in families():
        assert name in call("families").out


def _leads(name: str, codec: Any, items: Any, family: Any) -> bool:
    kind: Any = bridge_class(name)
    if not kind.fits(codec.space):
        return False
    bridge = kind.learn(codec.space, codec.encode(items))
    return bool(family.accepts(bridge.target, codec.conditions) is None)


# ----------------------------------------------------------------------------------------------- refused: the words


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (
            ("fit",),
            "fit has no PATH to learn from. Accepted: pellucid fit PATH --out DIR, or pellucid fit --resume DIR",
        ),
        (("fit", "photos"), "fit has no --out"),
        (("fit", "photos", "--out", "r", "--steps", "0"), "steps is 0. Accepted: a whole number of at least 1"),
        (("fit", "photos", "--out", "r", "--steps", "-5"), "steps is -5"),
        (("fit", "photos", "--out", "r", "--steps", "2.5"), "--steps.*valid integer"),
        (("fit", "photos", "--out", "r", "--minutes", "-1"), "minutes is -1.0. Accepted: a finite number above 0"),
        (("fit", "photos", "--out", "r", "--minutes", "0"), "minutes is 0.0"),
        (("fit", "photos", "--out", "r", "--minutes", "nan"), "minutes is nan"),
        (("fit", "photos", "--out", "r", "--minutes", "inf"), "minutes is inf"),
        (("fit", "photos", "--out", "r", "--minutes", "soon"), "--minutes.*valid number"),
        (("fit", "photos", "--out", "r", "--minutes", "1", "--steps", "1"), "both minutes=1.0 and steps=1 were given"),
        (("fit", "photos", "--out", "r", "--seed", "x"), "valid integer"),
        (("fit", "photos", "--out", "r", "--family", "difusion"), "family is 'difusion'.*Did you mean 'diffusion'"),
        (("fit", "photos", "--out", "r", "--kind", "video"), "kind is 'video'. Accepted: auto, images, table"),
        (("fit", "photos", "--out", "r", "--kind", "table"), "kind is 'table', but the folder holds 20 .png"),
        (("fit", "photos", "--out", "r", "--target", "sex"), "target"),
        (("fit", "photos", "--out", "r", "--device", "gpu"), "device is 'gpu'. Accepted: auto, cpu, cuda"),
        (("fit", "photos", "--out", "r", "--precision", "half"), "precision is 'half'"),
        (("fit", "photos", "--out", "r", "--size", "0"), "size is 0"),
        (("fit", "photos", "--out", "r", "--set", "steps"), "--set is 'steps'. Accepted: NAME=VALUE"),
        (("fit", "photos", "--out", "r", "--set", "widht=3"), "'widht' is no setting of FlowMatching.*'width'"),
        (("fit", "photos", "--out", "r", "--set", "width=wide"), "FlowMatching.width is 'wide'"),
        (("fit", "photos", "--out", "r", "--set", "width=8", "--set", "width=9"), "--set names 'width' twice"),
        (("fit", "photos", "--out", "r", "--checkpoint-every", "0"), "checkpoint_every is 0"),
        (("fit", "photos", "--out", "r", "--from", "nowhere"), "there is no run folder 'nowhere'"),
        (("fit", "photos", "--out", "photos"), "the folder 'photos' exists already"),
        (("fit", "photos", "--out", "photos", "--force"), "'photos' is not a run folder: it holds 'a/000.png'"),
        (("fit", "photos", "--out", "people.csv"), "'people.csv' is a file. Accepted: a new folder"),
        (("fit", "photos", "--out", "people.csv/run"), "'people.csv' is a file, so"),
        (("fit", "photos", "--out", "r", "--data", "x"), "--data came without --resume"),
        (("fit", "photos", "--out", "r", "--resume", "r"), "'photos', --out came with --resume"),
        (("fit", "--resume", "r", "--steps", "9"), "--steps came with --resume.*A run goes on with the data"),
        (("fit", "--resume", "r"), "'r' holds no run to resume"),
        (("fit", "photo", "--out", "r"), "there is nothing at 'photo'.*Did you mean 'photos'"),
        (("fit", "people.csv", "--out", "r", "--target", "sexx"), "which is no column of 'people.csv'.*'sex'"),
        (("fit", "people.csv", "--out", "r", "--column", "sex=word"), "the kind of column 'sex' is 'word'"),
        (("fit", "people.csv", "--out", "r", "--column", "sx=category"), "a column 'sx' that the table does not have"),
        (("fit", "photos", "--familly", "vae"), "No such option: --familly"),
        (("fti", "photos"), "No such command 'fti'"),
        (("sample",), "Missing argument 'RUN'"),
        (("sample", "nowhere"), "there is no run folder 'nowhere'. Accepted: a folder that `pellucid fit --out` made"),
        (("sample", "photos"), "'photos' holds no manifest.json, so it is no finished run"),
        (("sample", "people.csv"), "there is no run folder 'people.csv'"),
        (("sample", "PICTURES", "-n", "0"), "-n is 0. Accepted: a whole number from 1 to 10,000,000"),
        (("sample", "PICTURES", "-n", "-3"), "-n is -3"),
        (("sample", "PICTURES", "-n", "1.5"), "valid integer"),
        (("sample", "PICTURES", "-n", "99999999999"), "-n is 99999999999"),
        (("sample", "PICTURES", "--class", "c"), "class is 'c'. Accepted: a, b"),
        (("sample", "PICTURES", "--class", "a", "--where", "class=b"), "both --class and --where class=... were given"),
        (("sample", "PICTURES", "--where", "sex=Female"), "condition 'sex' does not exist. Accepted: class"),
        (("sample", "PICTURES", "--where", "class"), "--where is 'class'. Accepted: NAME=VALUE"),
        (("sample", "PICTURES", "--against", "class=a"), "'vae' cannot draw against something"),
        (("sample", "PICTURES", "--against", "class"), "--against is 'class'. Accepted: NAME=VALUE"),
        (("sample", "PICTURES", "--how", "temprature=2"), "'temprature' is no setting.*'temperature'"),
        (("sample", "PICTURES", "--how", "temperature=-1"), "temperature is -1"),
        (("sample", "PICTURES", "--how", "temperature=nan"), "temperature is nan"),
        (("sample", "PICTURES", "--out", "s.csv"), "pictures cannot be written as 's.csv'. Accepted: a folder"),
        (("sample", "PICTURES", "--out", "s.txt"), ".txt is for texts"),
        (("sample", "PICTURES", "--out", "photos"), "'photos' exists already"),
        (("sample", "PICTURES", "--out", "people.csv"), "cannot be written as 'people.csv'"),
        (("sample", "TABLE", "--out", "rows"), "has no ending.*ends in .csv, .csv.gz, .tsv, .parquet"),
        (("sample", "TABLE", "--out", "rows.npz"), ".npz is for pictures"),
        (("sample", "TABLE", "--out", "people.csv"), "'people.csv' exists already"),
        (("sample", "TABLE", "--out", "people.csv/rows.csv"), "cannot be written"),
        (("sample", "TABLE", "--where", "children=many"), "children is 'many'. Accepted: a number, a range"),
        (("sample", "TABLE", "--where", "childen=1"), "no column 'childen'.*Did you mean 'children'"),
        (("sample", "TABLE", "--class", "Femal"), "sex is 'Femal'. Accepted: Female, Male. Did you mean 'Female'"),
        (("describe", "nowhere"), "there is no run folder"),
        (("explain", "PICTURES", "--index", "-1"), "--index is -1"),
        (
            ("explain", "PICTURES", "--class", "a", "--where", "class=b"),
            "both --class and --where class=... were given",
        ),
        (("explain", "PICTURES", "--out", "why.pdf"), "--out is 'why.pdf'"),
        (("compare", "photos", "--minutes", "nan"), "--minutes is nan"),
        (("compare", "photos", "-n", "0"), "-n is 0"),
        (("demo", "--minutes", "-1"), "--minutes is -1"),
        (("demo", "--out", "report.docx"), "--out is 'report.docx'"),
        (("data", "nowhere"), "there is nothing at 'nowhere'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_words_that_are_refused(
    call: Call, runs: dict[str, Path], tmp_path: Path, words: tuple[str, ...], match: str
) -> None:
    photos(tmp_path / "photos")
    people().to_csv(tmp_path / "people.csv", index=False)
    names = {"PICTURES": runs["pictures"], "TABLE": runs["table"]}
    refused(call, tuple(names.get(w, w) for w in words), match)


def test_samples_do_not_go_into_the_run(call: Call, runs: dict[str, Path], tmp_path: Path) -> None:
    before = tree(runs["pictures"])
    for words in (
        ("sample", runs["pictures"], "--out", runs["pictures"] / "samples"),
        ("explain", runs["pictures"], "--out", runs["pictures"] / "why.html"),
        ("sample", runs["pictures"], "--out", runs["pictures"], "--force"),
    ):
        refused(call, words, "lies inside the run.*Choose a place beside it")
    assert tree(runs["pictures"]) == before


def test_a_damaged_run_has_a_code_of_its_own(call: Call, runs: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs["table"], tmp_path / "run")
    path = tmp_path / "run" / "weights" / "engine.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for words in (("sample", "run", "-n", 2), ("describe", "run"), ("explain", "run")):
        refused(call, words, "'run/weights/engine.safetensors' was cut or changed", code=4)


def test_a_model_without_classes_says_what_can_be_asked(call: Call, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "people.csv", index=False)
    assert call("fit", "people.csv", *FLOW, "--steps", "1", "--out", "run").code == 0
    refused(call, ("sample", "run", "--class", "Female"), "Say --where COLUMN=VALUE, with a column of when, height")


# ----------------------------------------------------------------------------------------------- refused: the data


def huge_png() -> bytes:
    """A picture of 60,000 x 60,000 pixels, as far as its header goes."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + zlib.compress(bytes(10_000))) + chunk(b"IEND")


def text(path: Path, content: str | bytes) -> int:
    return path.write_bytes(content.encode() if isinstance(content, str) else content)


def lines(n: int = 60) -> list[str]:
    return ["a,b", *(f"{i % 7},{i % 3}" for i in range(n))]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p.mkdir(), "holds no pictures"),
        (lambda p: photos(p, n=9), "has 9 pictures. Accepted: 10 or more. A part is held out"),
        (lambda p: (photos(p), text(p / "big.png", huge_png())), "'big.png' claims to hold more than .* pixels"),
        (lambda p: (photos(p), [text(p / f"x{i}.png", b"\x89PNG") for i in range(3)]), "3 of 23 .* cannot be read"),
        (lambda p: (p.mkdir(), text(p / "t.csv", "a,b\n1,2\n")), "is a folder with t.csv.*Name one"),
    ],
    ids=["empty", "few", "huge", "unreadable", "tables"],
)  # fmt: skip
def test_folders_that_are_refused(call: Call, tmp_path: Path, make: Callable[[Path], object], match: str) -> None:
    make(tmp_path / "data")
    refused(call, ("fit", "data", "--family", "vae", *SMALL, "--steps", 1, "--out", "run"), match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "is empty. Accepted: a header and one row or more"),
        ("a,b\n", "has no rows"),
        ("a,b\n" + "1,2\n" * 9, "has 9 rows. Accepted: 10 or more"),
        ("a,a\n" + "1,2\n" * 20, "several columns named 'a'"),
        ("a,b\n" + ",?\n" * 20, "20 rows but no value in any column"),
        ("a,b\n" + "1,2\n" * 20, "no column of the table changes"),
        (bytes(range(256)) * 40, "is not text"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "is a picture"),
        (b"PK\x03\x04" + b"x" * 50, "archive or an Excel workbook"),
        ("\n".join([*lines(), "1,2,3"]), "1 of 61 rows .* do not have the 2 cells"),
        ('a,b\n1,"2\n' + "1,2\n" * 20, "quotation mark .* is never closed"),
        ("12,7\n" + "12,7\n13,8\n" * 20, "looks like data, not like names"),
    ],
    ids=[
        "empty",
        "header",
        "few",
        "twice",
        "missing",
        "constant",
        "binary",
        "png",
        "zip",
        "ragged",
        "quote",
        "no header",
    ],
)
def test_tables_that_are_refused(call: Call, tmp_path: Path, content: str | bytes, match: str) -> None:
    text(tmp_path / "data.csv", content)
    refused(call, ("fit", "data.csv", *FLOW, "--steps", 1, "--out", "run"), match)


def test_a_family_that_cannot_take_the_data(call: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos", n=12)
    said = refused(
        call,
        ("fit", "photos", "--size", "300", "--family", "gan", "--steps", 1, "--out", "run"),
        "family 'gan' cannot take this data. Accepted: families that can: ",
    )
    assert "90000 numbers, at most 65536" in said


# ---------------------------------------------------------------------------------------- accepted, with a notice


def notices(answer: Answer) -> str:
    assert answer.code == 0, answer.out
    return "\n".join(answer.json()["notices"])


def test_odd_pictures_among_good_ones(call: Call, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", n=40, size=(8, 8))
    draw = np.random.default_rng(1)
    whole = (folder / "a" / "000.png").read_bytes()
    text(folder / "a" / "cut.png", whole[: len(whole) // 2])
    text(folder / "b" / "not.jpg", b"hello")
    Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "a" / "colour.png")
    Image.fromarray(draw.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(folder / "a" / "clear.png")
    Image.fromarray(draw.integers(0, 256, (12, 10), dtype=np.uint8)).save(folder / "b" / "large.png")
    text(folder / "readme.txt", "hello")
    said = notices(call("fit", "photos", "--family", "vae", *SMALL, "--steps", 1, "--out", "run", "--json"))
    for part in (
        "2 unreadable pictures skipped: 'a/cut.png', 'b/not.jpg'",
        "1 picture cropped at the centre and resized to 8x8",
        "transparent, laid on white (1)",
        "grey pictures among 2 coloured: all read as RGB",
        "1 file ignored that are not PNG, JPEG or WebP: .txt (1)",
        "2 classes from subfolders: a (22), b (21)",
    ):
        assert part in said, said
    assert "2 unreadable pictures skipped" in call("data", "photos").out


def test_odd_tables_are_read_as_they_are_meant(call: Call, tmp_path: Path) -> None:
    n = 200
    draw = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "größe": [f"{v:.1f}" for v in draw.normal(170, 9, n)],
            "always": "same",
            "never": "",
            "rate": ["inf" if i == 3 else f"{v:.3f}" for i, v in enumerate(draw.random(n))],
            "mixed": ["n/k" if i % 50 == 0 else str(v) for i, v in enumerate(draw.integers(0, 9, n))],
        }
    )
    rows = frame.to_csv(index=False, sep=";").splitlines()
    rows.insert(5, "1;2")
    text(tmp_path / "odd.csv", "\n".join(rows).encode("latin-1"))
    said = notices(call("fit", "odd.csv", *FLOW, "--steps", 1, "--out", "run", "--json"))
    for part in (
        "cells are parted by semicolons",
        "read as cp1252, as it is not UTF-8",
        "1 rows skipped that do not have 5 cells",
        "with one value only, reproduced as they are: 'always'",
        "without any value, kept empty: 'never'",
        "read as missing because they are infinite: 'rate'",
        "of mixed types, kept as text: 'mixed'",
    ):
        assert part in said, said
    assert call("sample", "run", "-n", 50, "--out", "rows.csv").code == 0
    found = pd.read_csv("rows.csv", dtype=str, keep_default_na=False)
    assert list(found.columns) == list(frame.columns)
    assert set(found["always"]) == {"same"}
    assert set(found["never"]) == {""}


# --------------------------------------------------------------------------------------------------- signals, disks


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PELLUCID_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pellucid", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("signum", "code", "form"),
    [(signal.SIGINT, 130, ()), (signal.SIGTERM, 143, ("--json",))],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_leaves_a_checkpoint_and_a_way_on(
    call: Call, tmp_path: Path, signum: int, code: int, form: tuple[str, ...]
) -> None:
    photos(tmp_path / "photos")
    words = (
        "fit",
        "photos",
        "--family",
        "vae",
        *SMALL,
        "--steps",
        "1000000",
        "--checkpoint-every",
        "20",
        "--out",
        "run",
    )
    process = started(tmp_path, *words, "--out", "run", *form)
    try:
        until = time.monotonic() + 120
        while not list((tmp_path / "run" / "checkpoints").glob("*.safetensors")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signum)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    said = json.loads(out)["error"]["message"] if form else err.splitlines()[-1]
    assert re.search(r"training stopped after \d+ of 1000000 steps. A checkpoint was saved. Go on with: "
                     r"pellucid fit --resume run", said)  # fmt: skip
    assert "Traceback" not in err
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    assert "has not finished" in refused(call, ("describe", "run"), "pellucid fit --resume run")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from pellucid.apps.cli import main
sys.argv = ["pellucid", *sys.argv[1:]]
main()
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """No file may grow beyond 20 kB, which the operating system enforces as it does a full disk."""
    photos(tmp_path / "photos")
    words = ("fit", "photos", "--family", "vae", "--steps", "3", "--out", "run", "--json")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        cwd=tmp_path,
        env={**os.environ, "PELLUCID_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("the disk is full while saving.*Nothing that was saved before is lost", done.stdout)
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize(("name", "form"), [("table", "rows.csv"), ("pictures", "s.npz"), ("pictures", "s")])
def test_samples_on_a_full_disk_leave_the_old_ones(
    call: Call, runs: dict[str, Path], tmp_path: Path, name: str, form: str
) -> None:
    assert call("sample", runs[name], "-n", 3, "--out", form).code == 0
    before = tree(tmp_path)

    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(Path, "write_bytes", full)
        answer = call("sample", runs[name], "-n", 4, "--out", form, "--force")
    assert answer.code == 2
    assert "the disk is full while saving" in answer.err
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------ faults of our own


def test_a_fault_of_ours_is_one_line(call: Call, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: object, **named: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("pellucid.model.load", broken)
    answer = call("describe", runs["table"])
    assert answer.code == 1
    assert answer.err == (
        "pellucid: unexpected RuntimeError: first line. This is a fault of pellucid; PELLUCID_DEBUG=1 shows where.\n"
    )
    found = call("describe", runs["table"], "--json")
    assert found.code == 1
    assert found.json()["error"]["type"] == "Unexpected"
    monkeypatch.setenv("PELLUCID_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["pellucid", "describe", str(runs["table"])])
    with pytest.raises(RuntimeError, match="first line"):
        cli.main()


@pytest.mark.parametrize(
    ("error", "code", "match"),
    [
        (
            PermissionError(13, "Permission denied", "people.csv"),
            2,
            "'people.csv' cannot be read or written .Permission",
        ),
        (KeyboardInterrupt(), 130, "stopped. What was saved until now is kept"),
        (errors.NonFiniteLoss("loss is nan", next="Try less."), 3, "loss is nan. Try less."),
        (errors.MissingExtra("soundfile is not installed", next="pip install x"), 2, "soundfile is not installed"),
        (errors.BadBundle("evil \x1b[2J name"), 4, r"evil \\x1b\[2J name"),
        (MemoryError(), 1, "unexpected MemoryError. This is a fault"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_has_its_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, match: str
) -> None:
    def broken(*words: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("pellucid.model.load", broken)
    plain, machine = call("describe", "run"), call("describe", "run", "--json")
    assert (plain.code, machine.code, machine.json()["error"]["exit_code"]) == (code, code, code)
    assert re.search(match, machine.json()["error"]["message"])
    assert re.search(match, plain.err)
    assert plain.err.startswith("pellucid: ")
    assert plain.err.count("\n") == 1


def test_names_in_no_encoding_are_still_told(call: Call, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    refused(call, ("data", name), r"there is nothing at 'caf\\udce9'")
    refused(call, ("sample", "run\x1b[31m"), r"no run folder 'run\\x1b\[31m'")


def test_read_options_reach_the_reader(call: Call, tmp_path: Path) -> None:
    people().to_csv(tmp_path / "people.csv", index=False)
    words = ("--column", "children=category", "--column", "never=drop", "--target", "children")
    assert call("fit", "people.csv", *FLOW, *words, "--steps", 1, "--out", "run").code == 0
    model = load("run")
    assert list(model.codec.conditions) == ["children"]
    wanted = read(tmp_path / "people.csv", kinds={"children": "category", "never": "drop"}, target="children")
    assert model.recipe["data"]["fingerprint"] == wanted.fingerprint()
    assert call("sample", "run", "-n", 3, "--class", "2", "--out", "r.csv").code == 0
    assert set(pd.read_csv("r.csv")["children"]) == {2}
