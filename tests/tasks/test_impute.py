"""Missing cells are drawn from the model's own conditional, and nothing else in the table moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pellucid.apps.cli import app
from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.write import write_items
from pellucid.families.columns import Columns
from pellucid.fitting import fit
from pellucid.model import Fitted
from pellucid.tasks.impute import impute

N = 500


def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    city = random.choice(["Paris", "Lyon", "Rome"], N, p=[0.5, 0.3, 0.2])
    hot = np.where(random.random(N) < 0.95, city == "Rome", city == "Lyon")
    age = random.integers(18, 80, N)
    grade = pd.Series(random.choice(["a", "b"], N)).mask(random.random(N) < 0.2)
    return pd.DataFrame({"age": age, "city": city, "hot": np.where(hot, "yes", "no"), "grade": grade})


@pytest.fixture(scope="module")
def model() -> Fitted:
    return fit(read_table(frame()), Columns(width=32, depth=1, dropout=0.0), steps=120, held_out=0.0, watch=False)


def holed() -> TableData:
    data = frame()
    data["extra"] = np.arange(N)
    random = np.random.default_rng(1)
    for name in ("age", "city", "hot"):
        data[name] = data[name].astype(object).where(random.random(N) > 0.3)
    data.loc[0, ["age", "city", "hot", "grade"]] = None
    return read_table(data)


def test_every_missing_cell_is_filled_and_no_other_moves(model: Fitted) -> None:
    items = holed()
    done = impute(model, items, seed=3)
    before, after = items.frame, done.items.frame
    assert after.notna().all(axis=None)
    assert done.left == {}
    assert done.filled == {name: int(n) for name, n in before[["age", "city", "hot", "grade"]].isna().sum().items()}
    for name in before.columns:
        there = before[name].notna()
        assert (before[name][there] == after[name][there]).all()
    assert pd.to_numeric(after["age"]).between(18, 79).all()
    pd.testing.assert_frame_equal(impute(model, items, seed=3, batch=37).items.frame, after)
    assert not impute(model, items, seed=4).items.frame.equals(after)


def test_a_cell_is_filled_as_the_rest_of_its_row_says(model: Fitted) -> None:
    items, n = read_table(frame()), 400
    row = int(np.flatnonzero((items.frame["city"] == "Rome") & items.frame["grade"].notna())[0])
    many = items.take([row] * n)
    lost = dataclasses.replace(many, frame=many.frame.assign(hot=pd.Series([None] * n, dtype=many.frame["hot"].dtype)))
    share = float((impute(model, lost).items.frame["hot"] == "yes").mean())
    y, _ = model.event(items.take([row]), Rows(0, torch.zeros(1, dtype=torch.int64)))
    known = torch.tensor([[True, True, False, True]])
    with torch.no_grad():
        p = model.engine.fill_logits(y, known, Condition(), at=2)[0].softmax(-1)  # type: ignore[operator]
    said = float(p[y[0, 2]] if items.frame["hot"][row] == "yes" else 1 - p[y[0, 2]])
    assert said > 0.7
    assert abs(share - said) < 4 * (said * (1 - said) / n) ** 0.5 + 1e-3


def test_what_cannot_be_imputed_is_refused(model: Fitted) -> None:
    with pytest.raises(BadInput, match="no column 'city'"):
        impute(model, read_table(frame().drop(columns="city")))
    with pytest.raises(BadInput, match="items are"):
        impute(model, frame())  # type: ignore[arg-type]
    trees = fit(read_table(frame()), "ngram", watch=False)
    with pytest.raises(MissingCapability, match="columns, masked|masked.*columns"):
        impute(trees, holed())
    bound = fit(read_table(frame(), constraints=["age >= 18"]), Columns(width=16, depth=1), steps=2, watch=False)
    with pytest.raises(MissingCapability, match="age >= 18"):
        impute(bound, holed())
    whole = read_table(frame().dropna().reset_index(drop=True))
    assert impute(model, whole).items.frame.equals(whole.frame)


def test_the_command_writes_the_filled_table(model: Fitted, tmp_path: Path) -> None:
    run, table, out = model.save(tmp_path / "run"), tmp_path / "holed.csv", tmp_path / "filled.csv"
    write_items(holed(), table)
    said = CliRunner().invoke(app, ["impute", str(run), str(table), "--out", str(out), "--seed", "3"])
    assert said.exit_code == 0, said.output
    assert read_table(out).frame["city"].notna().all()
    again = CliRunner().invoke(app, ["impute", str(run), str(table), "--out", str(out)])
    assert isinstance(again.exception, BadInput)
    other = CliRunner().invoke(app, ["impute", str(run), str(table), "--out", str(tmp_path / "filled.png")])
    assert "cannot be written" in str(other.exception)
