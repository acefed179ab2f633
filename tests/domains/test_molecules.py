"""Molecules as a kind of data: what is read and left out, what comes back, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pellucid.apps.cli import app
from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.core.smiles import read_smiles
from pellucid.domains.described import describe_data
from pellucid.domains.described_molecules import MoleculeReport
from pellucid.domains.molecule_files import MoleculeData, molecules_of, read_molecules, smiles_column
from pellucid.domains.molecules import Molecules
from pellucid.domains.read import read
from pellucid.domains.write import write_items
from pellucid.fitting import fit
from pellucid.model import load
from pellucid.tasks.constrained import within
from pellucid.tasks.likelihood import likelihood

SOME = [
    "CCO",
    "c1ccccc1Br",
    "CC(=O)Oc1ccccc1C(=O)O",
    "Clc1cc[nH]c1",
    "C[N+](C)(C)C",
    "N#CC",
    "FC(F)F",
    "C1CC1",
    "CSC",
    "OCC=C",
]


def saved(folder: Path, content: str | bytes, name: str = "molecules.smi") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_strings_are_cut_into_atoms_bonds_and_brackets() -> None:
    data = molecules_of(["ClCCBr", "C[N+](C)(C)C", "c1cc[nH]c1"])
    codec = Molecules().learn(data)
    assert {"Cl", "Br", "[N+]", "[nH]", "(", ")"} <= set(codec.pieces)
    assert codec.pieces[0] == "C"
    assert codec.encode(data).shape == (3, 10)
    back = codec.decode(codec.encode(data), Condition(), Rows(0, torch.arange(3)))
    assert isinstance(back, MoleculeData)
    assert back.texts() == data.texts()


def test_a_file_of_strings_with_names_and_a_header_is_read(tmp_path: Path) -> None:
    data = read(saved(tmp_path, "smiles name\nCCO ethanol\n\nc1ccccc1\tbenzene\r\nC1CC1\n"))
    assert isinstance(data, MoleculeData)
    assert data.texts() == ["CCO", "c1ccccc1", "C1CC1"]
    assert "its name ends in .smi" in data.notices[0].text
    packed = read(saved(tmp_path, gzip.compress(b"CCO\nCC\n"), "molecules.smi.gz"))
    assert packed.texts() == ["CCO", "CC"]  # type: ignore[union-attr]
    assert read_molecules(tmp_path / "molecules.smi", limit=2).texts() == ["CCO", "c1ccccc1"]


def test_a_table_with_a_column_of_strings_is_molecules_unless_asked_otherwise(tmp_path: Path) -> None:
    lines = "\n".join(f"{k},{text},{k / 7:.2f}" for k, text in enumerate(SOME))
    path = saved(tmp_path, f"id,SMILES,weight\n{lines}\n", "made.csv")
    assert smiles_column(path) == "SMILES"
    data = read(path)
    assert isinstance(data, MoleculeData)
    assert data.texts() == SOME
    assert "the column 'SMILES'; kind='table'" in data.notices[0].text
    assert type(read(path, kind="table")).__name__ == "TableData"
    packed = saved(tmp_path, gzip.compress(path.read_bytes()), "made.csv.gz")
    assert read(packed).texts() == SOME  # type: ignore[union-attr]
    other = saved(tmp_path, "a,b\n1,2\n", "other.csv")
    with pytest.raises(BadInput, match="has the columns 'a', 'b'. Accepted: a column named smiles"):
        read(other, kind="molecules")


def test_strings_that_are_no_molecules_are_left_out_counted_and_named(tmp_path: Path) -> None:
    wrong = ["C(C", "c1cccc1", "hello", "C1CC", "X" * 2000]
    data = read_molecules(saved(tmp_path, "\n".join([*SOME, *wrong]) + "\n"))
    assert data.texts() == SOME
    said = data.notices[0]
    assert (said.topic, said.count) == ("invalid", 5)
    assert "5 of 15 strings are no molecules" in said.text
    assert "line 11: the SMILES 'C(C' has, at character 3, a branch that is never closed" in said.text
    assert said.text.count("line") == 3


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "m.smi", "is empty"),
        ("smiles\n", "m.smi", "is empty"),
        ("hello\nworld\n", "m.smi", "none of 2 strings of 'm.smi' is a molecule"),
        (b"\x00\x01" * 99, "m.smi", "binary file"),
        (b"\x1f\x8b broken", "m.smi.gz", "cannot be unpacked"),
        ("smiles\n", "m.csv", "is empty"),
        ("CCO\nCC\n", "m.smi", "has 2 molecules. Accepted: 10 or more"),
    ],
    ids=["empty", "header", "words", "binary", "packed", "table", "few"],
)
def test_what_holds_no_molecules_is_refused(tmp_path: Path, content: str | bytes, name: str, words: str) -> None:
    path = saved(tmp_path, content, name)
    with pytest.raises(BadInput, match=words):
        fit(path, "ngram")
    with pytest.raises(BadInput, match=words + r"|unit is given|text is given|came with"):
        fit(path, "ngram", text={"unit": "words"})


def test_molecules_are_written_as_they_are_read(tmp_path: Path) -> None:
    data = molecules_of(SOME)
    for name in ("a.smi", "a.csv"):
        assert read(write_items(data, tmp_path / name)).texts() == SOME  # type: ignore[union-attr]
    assert (tmp_path / "a.csv").read_text().startswith("smiles\nCCO\n")
    with pytest.raises(BadInput, match="molecules cannot be written as 'a.png'"):
        write_items(data, tmp_path / "a.png")


def test_molecules_are_described() -> None:
    found = describe_data(molecules_of([*SOME, "CCO", "C.C"]))
    assert isinstance(found, MoleculeReport)
    assert (found.count, found.duplicates, found.atoms) == (12, 1, (2, 3.5, 13))
    assert dict(found.elements)["Br"] == pytest.approx(1 / 12)
    assert (found.ringed, found.aromatic, found.charged, found.parted) == tuple(k / 12 for k in (4, 3, 1, 1))
    assert "12 molecules" in found.to_text()
    assert found.to_html()


def test_they_are_fitted_sampled_scored_and_stored(tmp_path: Path) -> None:
    path = saved(tmp_path, "\n".join(SOME * 5) + "\nno molecule\n")
    run = CliRunner().invoke(app, ["fit", str(path), "--family", "ngram", "--out", str(tmp_path / "run"), "--json"])
    assert "1 of 51 strings are no molecules" in " ".join(json.loads(run.stdout)["notices"])
    model = load(tmp_path / "run")
    assert model.codec.kind == "molecules"
    free = model.sample(60, seed=1)
    assert isinstance(free.items, MoleculeData)
    assert "no molecule: " in free.report().to_text()
    kept = within(model, grammar="smiles").sample(25, seed=1).items.texts()  # type: ignore[union-attr]
    assert len([read_smiles(text) for text in kept]) == 25
    written = CliRunner().invoke(
        app,
        ["sample", str(tmp_path / "run"), "-n", "9", "--grammar", "smiles", "--out", str(tmp_path / "made.smi"), "-q"],
    )
    assert written.exit_code == 0
    assert len(read_molecules(tmp_path / "made.smi")) == 9
    assert likelihood(model, molecules_of(SOME)).symbols == sum(len(molecules_of([s]).codes) + 1 for s in SOME)
    longer = fit(path, "ngram", base=model)
    assert longer.codec.kind == "molecules"
