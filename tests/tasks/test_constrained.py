"""Models of texts on a leash: every sample of a molecule model is a molecule, and errors that name what is wrong."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.smiles import read_smiles
from pellucid.domains.frames import read_table
from pellucid.domains.text_files import text_of
from pellucid.drawing.within import Within
from pellucid.families.next_symbol import SymbolHow
from pellucid.families.ngram import NGram
from pellucid.fitting import fit
from pellucid.model import Fitted
from pellucid.tasks.constrained import symbols_of, within
from pellucid.tasks.continuation import go_on, go_on_many
from pellucid.tasks.rules import rules_model

MOLECULES = [
    "CCO",
    "c1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "c1ccc2[nH]ccc2c1",
    "N#Cc1ccncc1",
]
MOLECULES += ["ClCCBr", "C1CC1C(=O)N", "O=S(=O)(N)c1ccc(F)cc1", "C[N+](C)(C)CC(=O)[O-]", "FC(F)(F)c1cccs1", "CC(C)(C)O"]


@cache
def counted(unit: str = "characters") -> Fitted:
    return fit(text_of(MOLECULES * 4, unit=unit), NGram(order=3))  # type: ignore[arg-type]


def reads(text: str) -> bool:
    try:
        read_smiles(text)
    except BadInput:
        return False
    return True


@pytest.mark.parametrize(
    ("unit", "temperature", "n"),
    [("characters", 0.0, 2), ("characters", 1.0, 60), ("characters", 3.0, 30), ("bytes", 1.0, 12)],
)
def test_every_sample_is_a_molecule(unit: str, temperature: float, n: int) -> None:
    model = within(counted(unit), grammar="smiles")
    how = SymbolHow(temperature=temperature)
    texts = model.sample(n, seed=2, how=how).items.texts()  # type: ignore[union-attr]
    assert all(reads(text) for text in texts)
    assert max(map(len, texts)) <= counted(unit).codec.space.length  # type: ignore[union-attr]
    free = counted(unit).sample(60, seed=2, how=how).items.texts()  # type: ignore[union-attr]
    assert temperature == 0.0 or not all(reads(text) for text in free)


def test_rows_that_are_drawn_again_are_counted_and_rest_on_their_own_numbers() -> None:
    model = within(counted(), grammar="smiles")
    assert isinstance(model.engine, Within)
    draw = model.sample(40, seed=5)
    assert model.engine.again > 0
    alone = model.sample(ids=torch.tensor([17, 3]), seed=5)
    assert alone.items.texts() == [draw.items.texts()[17], draw.items.texts()[3]]  # type: ignore[union-attr]


def test_prompts_go_on_to_molecules() -> None:
    symbols = symbols_of(counted(), grammar="smiles")
    many = go_on_many(counted(), "c1ccc(", 6, length=12, seed=1, within=symbols)
    assert all(reads("c1ccc(" + text) for text in many)
    one = "".join(d.piece for d in go_on(counted(), "c1ccc(", length=12, seed=1, within=symbols, row=4))
    assert one == many[4]
    with pytest.raises(BadInput, match="nothing that begins with 'c1\\)'"):
        go_on_many(counted(), "c1)", 1, within=symbols)
    with pytest.raises(BadInput, match="at least 3 symbols, and there is room for 1"):
        go_on_many(counted(), "C1CC(", 1, length=1, within=symbols)


def test_a_grammar_needs_the_symbols_to_spell_it() -> None:
    names = fit(text_of(["ada", "eve", "bob"] * 5), NGram(order=2))
    with pytest.raises(BadInput, match="spell no JSON value"):
        within(names, grammar="json")
    with pytest.raises(BadInput, match="no token can satisfy SMILES"):
        within(names, grammar="smiles")
    with pytest.raises(BadInput, match="grammar is 'smile'. Accepted: smiles, json. Did you mean 'smiles'"):
        within(names, grammar="smile")
    with pytest.raises(BadInput, match="no constraint was given"):
        within(names)


def test_words_are_spelled_through_the_grammar() -> None:
    lines = [json.dumps(x) for x in ({"a": 1}, {"b": ["x y", 2]}, [True, None], {"a": {"b": -0.5}})] * 6
    model = within(fit(text_of(lines, unit="words"), NGram(order=2)), grammar="json")
    texts = model.sample(50, seed=1).items.texts()  # type: ignore[union-attr]
    assert len([json.loads(text) for text in texts]) == 50


def test_what_writes_no_text_is_refused(tmp_path: Path) -> None:
    table = fit(read_table(pd.DataFrame({"a": ["x", "y"] * 20, "b": ["u", "v"] * 20})), NGram(order=2))
    with pytest.raises(MissingCapability, match="writes no text"):
        within(table, match="a")
    (tmp_path / "rules.txt").write_text("a: hello | hi\n")
    with pytest.raises(MissingCapability, match="cannot keep a constraint"):
        within(rules_model(tmp_path / "rules.txt"), match="hi")
