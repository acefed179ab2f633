"""Mixtures of fitted models against sums over their members."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.catalog import families
from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import Family, offers
from pellucid.core.errors import BadBundle, BadInput, MissingCapability
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table
from pellucid.families.columns import Columns
from pellucid.families.trees import Trees
from pellucid.fitting import fit
from pellucid.mixing import ItemMixture, best_weights, responsibilities
from pellucid.model import Fitted
from pellucid.testing.families import laws
from pellucid.testing.subject import Subject

TABLE = dict.fromkeys("abc", "category")
WAYS = pytest.mark.parametrize("by", ["item", "symbol"])


def frame(n: int = 400, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    a = random.integers(0, 3, n)
    b = (a + random.integers(0, 2, n)) % 4
    return pd.DataFrame({"a": a.astype(str), "b": b.astype(str), "c": ((a + b) % 2).astype(str)})


@pytest.fixture(scope="module")
def models() -> dict[str, Fitted]:
    data = read_table(frame(), kinds=TABLE)
    how: dict[str, str | Family] = {
        "counts": "ngram",
        "tree": Trees(learner="cart"),
        "network": Columns(width=16, depth=1),
    }
    return {name: fit(data, family, watch=False, steps=20) for name, family in how.items()}


def every() -> tuple[list[tuple[str, str, str]], TableData]:
    rows = list(itertools.product("012", "0123", "01"))
    return rows, read_table(pd.DataFrame(rows, columns=["a", "b", "c"]), kinds=TABLE)


def sums(models: dict[str, Fitted], weights: dict[str, float], by: str) -> Tensor:
    """(24,) probability of every row, by hand."""
    _, items = every()
    if by == "item":
        return torch.stack([weights[k] * m.log_prob(items).value.exp() for k, m in models.items()]).sum(0)
    y, _ = next(iter(models.values())).event(items, Rows(0, torch.arange(24)))
    said = []
    for name, m in models.items():
        with torch.no_grad():
            logits = m.engine.next_logits(y[:, :-1], Condition())  # type: ignore[operator]
        said.append(weights[name] * logits.double().softmax(-1).gather(-1, y[..., None])[..., 0])
    return torch.stack(said).sum(0).prod(1)


@WAYS
def test_the_likelihood_is_the_weighted_sum_and_sums_to_one(models: dict[str, Fitted], by: str) -> None:
    weights = {"counts": 0.5, "tree": 0.2, "network": 0.3}
    found = pl.mix(models, weights, by=by).log_prob(every()[1])  # type: ignore[arg-type]
    assert found.kind == "exact"
    torch.testing.assert_close(found.value.exp(), sums(models, weights, by), rtol=1e-4, atol=1e-7)
    assert float(found.value.exp().sum()) == pytest.approx(1.0, abs=1e-4)


@WAYS
def test_rows_are_drawn_as_they_are_scored(models: dict[str, Fitted], by: str) -> None:
    rows, items = every()
    model, n = pl.mix(models, {"counts": 1, "tree": 0, "network": 3}, by=by), 4000  # type: ignore[arg-type]
    drawn = model.sample(n, seed=5).items
    assert isinstance(drawn, TableData)
    seen = drawn.frame.value_counts()
    for row, p in zip(rows, model.log_prob(items).value.exp().tolist(), strict=True):
        assert abs(seen.get(row, 0) / n - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1e-6
    asked = model.sample(50, where={"c": "1"}, seed=1)
    assert isinstance(asked.items, TableData)
    assert set(asked.items.frame["c"]) == {"1"}
    assert asked.promise == "exact"


@WAYS
def test_weights_are_the_best_on_what_was_held_out(models: dict[str, Fitted], by: str) -> None:
    model, items = pl.mix(models, by=by), read_table(frame(3000, seed=7), kinds=TABLE)  # type: ignore[arg-type]
    assert isinstance(model.family, ItemMixture) == (by == "item")
    again = pl.mix(models, held_out=items, by=by)  # type: ignore[arg-type]
    weights = {m.name: m.weight for m in again.family.members}  # type: ignore[union-attr]
    best = float(again.log_prob(items).value.mean())
    for name in models:  # a step towards any one member makes the items less likely
        moved = {k: 0.95 * w + 0.05 * (k == name) for k, w in weights.items()}
        assert float(pl.mix(models, moved, by=by).log_prob(items).value.mean()) < best + 1e-4  # type: ignore[arg-type]
    assert best >= max(float(m.log_prob(items).value.mean()) for m in models.values()) - 1e-4


def test_weights_of_a_known_mixture_are_found() -> None:
    """Items of two coins, mixed 0.3 to 0.7."""
    n, truth = 20_000, torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    u = Rows(0, torch.arange(n)).uniform(2, dtype=torch.float64)
    coin = (u[:, 0] > 0.3).long()
    side = (u[:, 1] > truth[coin, 0]).long()
    assert float(best_weights(truth.log()[:, side].T)[0]) == pytest.approx(0.3, abs=0.02)


@WAYS
def test_a_saved_mixture_comes_back(models: dict[str, Fitted], by: str, tmp_path: Path) -> None:
    model = pl.mix(models, {"counts": 0.5, "tree": 0.2, "network": 0.3}, by=by)  # type: ignore[arg-type]
    again = pl.load(model.save(tmp_path / "mixture"))
    items = every()[1]
    torch.testing.assert_close(again.log_prob(items).value, model.log_prob(items).value)
    for own, other in zip(model.sample(20, seed=3).items.frame.T, again.sample(20, seed=3).items.frame.T, strict=True):  # type: ignore[union-attr]
        assert own == other
    assert again.describe().facts == model.describe().facts
    words = json.dumps([p.sentence for p in again.describe().parts])
    assert "50.0%" in words
    assert "20.0%" in words
    (tmp_path / "mixture" / "weights" / "engine.safetensors").write_bytes(b"")
    with pytest.raises(BadBundle):
        pl.load(tmp_path / "mixture")


@WAYS
def test_a_mixture_keeps_the_laws_of_what_it_offers(models: dict[str, Fitted], by: str) -> None:
    model = pl.mix(models, {"counts": 0.5, "tree": 0.2, "network": 0.3}, by=by)  # type: ignore[arg-type]
    items = read_table(frame(), kinds=TABLE)
    y, condition = model.event(items, Rows(0, torch.arange(len(items))))
    whole = Batch(y, torch.arange(len(y)), condition)
    assert model.family is not None
    fresh = model.family.build(model.bridge.target, {}, Rows(0, torch.arange(1)))
    subject = Subject(model.family, model.bridge.target, {}, 0, fresh.eval(), model.engine, whole.take(torch.arange(7)),
                      whole)  # fmt: skip
    # a mixture is made of fitted models, so nobody trains it or goes on from it
    checked = [law for law in laws() if law.applies(model.engine) and "base" not in law.name]
    assert len(checked) > (36 if by == "symbol" else 25)
    assert {law.name: seen for law in checked if (seen := law.seen(subject)) is not None} == {}


@WAYS
def test_each_members_share_of_an_item_is_told(models: dict[str, Fitted], by: str) -> None:
    weights = {"counts": 0.5, "tree": 0.2, "network": 0.3}
    found = responsibilities(pl.mix(models, weights, by=by), every()[1])  # type: ignore[arg-type]
    assert list(found) == list(models)
    torch.testing.assert_close(sum(found.values(), torch.zeros(24)), torch.ones(24, dtype=torch.float64))
    if by == "item":
        p = torch.stack([weights[k] * m.log_prob(every()[1]).value.exp() for k, m in models.items()])
        torch.testing.assert_close(found["tree"], (p / p.sum(0))[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match="family 'ngram'"):
        responsibilities(models["counts"], every()[1])


def test_a_text_is_mixed_symbol_by_symbol(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(["banana", "bandana", "cabana", "nab", "abba", "can", "ban", "cab"] * 15))
    reading = {"form": "lines"}
    pair = {f"order {n}": n for n in (1, 4)}
    found = {name.replace(" ", ""): fit(path, "ngram", settings={"order": n}, text=reading, held_out=0.2, watch=False)
             for name, n in pair.items()}  # fmt: skip
    model = pl.mix(found)
    assert model.name == "symbol_mixture"
    assert {"Predicts", "Spells", "Blends"} <= set(offers(model.engine))
    assert {m.name: m.weight for m in model.family.members}["order4"] > 0.5  # type: ignore[union-attr]
    assert len(model.sample(5, seed=1)) == 5


def test_what_cannot_be_mixed_is_refused(models: dict[str, Fitted]) -> None:
    counts, tree = models["counts"], models["tree"]
    data = read_table(frame(), kinds=TABLE)
    with pytest.raises(BadInput, match="1 models came"):
        pl.mix({"a": counts})
    with pytest.raises(BadInput, match="named"):
        pl.mix({"a.b": counts, "c": tree}, {"a.b": 1, "c": 1})
    with pytest.raises(BadInput, match="weights are for a"):
        pl.mix({"a": counts, "c": tree}, {"a": 1})
    for bad in ({"a": 1.0, "c": -1.0}, {"a": 0.0, "c": 0.0}, {"a": float("nan"), "c": 1.0}):
        with pytest.raises(BadInput, match="weights are"):
            pl.mix({"a": counts, "c": tree}, bad)
    with pytest.raises(BadInput, match="one of them"):
        pl.mix({"a": counts, "c": tree}, {"a": 1, "c": 1}, held_out=data)
    other = fit(read_table(frame(seed=9).rename(columns={"a": "z"}), kinds=dict.fromkeys("zbc", "category")), "ngram")
    with pytest.raises(BadInput, match="different codecs"):
        pl.mix({"a": counts, "c": other})
    none = {k: fit(data, f, held_out=0.0, watch=False, steps=2) for k, f in (("a", "ngram"), ("b", "columns"))}
    with pytest.raises(BadInput, match="held out 0"):
        pl.mix(none)
    with pytest.raises(BadInput, match="by is 'word'"):
        pl.mix(models, by="word")  # type: ignore[arg-type]
    gan = fit(data, "gan", steps=2, watch=False)
    with pytest.raises((BadInput, MissingCapability)):
        pl.mix({"a": counts, "b": gan})
    masked = fit(data, "masked", steps=2, watch=False)
    with pytest.raises(MissingCapability, match="'b' does not predict"):
        pl.mix({"a": counts, "b": masked}, by="symbol")
    bound = pl.mix({"a": counts, "b": masked}, {"a": 1, "b": 1})
    assert bound.log_prob(data.take(range(5))).kind == "lower_bound"
    assert "mixture" not in families()
    with pytest.raises(BadInput, match="made of fitted models"):
        fit(data, "mixture")
