"""What is unusual is pointed at: wrong cells, defects and symbols that were planted, on models fitted in a moment."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pellucid.core.errors import BadInput, MissingCapability
from pellucid.core.report import Bars, Pictures, Table, Verdict
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.pictures import Pictures as PictureData
from pellucid.domains.text_files import text_of
from pellucid.explain.parts import PartsReport, parts
from pellucid.explain.places import places_of
from pellucid.explain.planting import plant
from pellucid.families.masked import Masked
from pellucid.families.ngram import NGram
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.fitting import fit
from pellucid.model import Fitted

KINDS = np.array(["a", "b", "c", "d"])


def linked(n: int, seed: int) -> pd.DataFrame:
    """Three columns that all say the same hidden thing, in symbols and in a number, and one that says nothing."""
    random = np.random.default_rng(seed)
    hidden = random.integers(0, 4, n)
    return pd.DataFrame(
        {
            "kind": KINDS[hidden],
            "colour": np.array(["red", "green", "blue", "grey"])[hidden],
            "size": 10.0 * hidden + random.normal(0.0, 1.0, n),
            "side": np.array(["left", "right"])[random.integers(0, 2, n)],
        }
    )


@pytest.fixture(scope="module")
def rows() -> TableData:
    return read_table(linked(1200, 0))


@pytest.fixture(scope="module")
def counts(rows: TableData) -> Fitted:
    return fit(rows, NGram(order=5), held_out=0.2)


def with_wrong_cells(n: int) -> tuple[TableData, list[str]]:
    """Rows of the same kind, each with one cell of another hidden state."""
    frame, random, wrong = linked(n, 9), np.random.default_rng(4), []
    for i in range(n):
        column = ["kind", "colour", "size"][int(random.integers(0, 3))]
        other = linked(200, 100 + i)
        other = other[other["kind"] != frame.loc[i, "kind"]]
        frame.loc[i, column] = other[column].iloc[0]
        wrong.append(column)
    return read_table(pd.concat([frame, linked(50, 10)], ignore_index=True)), wrong


def test_a_wrong_cell_comes_first_in_95_of_100_rows(counts: Fitted) -> None:
    items, wrong = with_wrong_cells(40)
    found = [parts(counts, items=items, index=i, share=False) for i in range(40)]
    first = [r.places.names[r.order[0]] for r in found]
    assert sum(a == b for a, b in zip(first, wrong, strict=True)) >= 38
    assert found[0].route == "rest"
    assert found[0].exactness == "exact"


def test_the_route_can_be_chosen_and_the_chain_rule_adds_up(counts: Fitted, rows: TableData) -> None:
    found = parts(counts, items=rows, index=3, route="before")
    y, _ = counts.event(rows.take([3]), Rows(0, torch.arange(1)))
    from pellucid.core.batch import Batch

    whole = counts.engine.log_prob(Batch(y, torch.arange(1)), Rows(0, torch.arange(1))).value  # type: ignore[operator]
    assert float(found.amount.sum()) == pytest.approx(-float(whole[0]))
    assert found.route == "before"
    assert "what stands before it" in found.to_text() or "Nothing about this item" in found.to_text()


def test_an_ordinary_row_is_called_ordinary(counts: Fitted, rows: TableData) -> None:
    said = [parts(counts, items=rows, index=i, share=False).to_text() for i in range(8)]
    assert sum("Nothing about this item stands out" in text for text in said) >= 6


@pytest.fixture(scope="module")
def filled(rows: TableData) -> Fitted:
    return fit(rows, Masked(width=48, depth=1), steps=250, held_out=0.2)


@pytest.fixture(scope="module")
def odd(filled: Fitted) -> PartsReport:
    items, _ = with_wrong_cells(1)
    return parts(filled, items=items, index=0)


def test_a_model_that_fills_gaps_shares_the_surprise_out(odd: PartsReport) -> None:
    assert odd.route == "rest"
    assert odd.capability == "Unmasks"
    assert odd.shares is not None
    assert odd.shares.exact
    assert any(isinstance(b, Bars) for b in odd.blocks())


def test_the_shares_add_up_to_the_surprise_in_every_order(odd: PartsReport, filled: Fitted) -> None:
    """The mean over all 24 orders of the sum of conditional surprises, read one after the other."""
    import itertools

    from pellucid.explain.surprise import given

    items, _ = with_wrong_cells(1)
    y, told = filled.event(items.take([0]), Rows(0, torch.arange(1)))
    totals = []
    with torch.no_grad():
        for order in itertools.permutations(range(4)):
            inside, total = torch.zeros(1, 4, dtype=torch.bool), 0.0
            for part in order:
                total += float(given(filled.engine, y, told, inside, odd.places.groups, y.shape[1])[0, part])  # type: ignore[arg-type]
                inside[0, part] = True
            totals.append(total)
    assert odd.shares is not None
    assert float(odd.shares.phi.sum()) == pytest.approx(float(np.mean(totals)), rel=1e-4)


def test_any_number_can_be_shared_out_with_the_model_drawing_what_is_left_out(filled: Fitted, rows: TableData) -> None:
    """Whether the row is red: told by kind, colour and size alike, and not by the side."""

    def red(items: object) -> list[float]:
        assert isinstance(items, TableData)
        return [float(v == "red") for v in items.frame["colour"]]

    index = int(np.flatnonzero(rows.frame["colour"] == "red")[0])
    found = parts(filled, items=rows, index=index, of=red)
    assert found.shares is not None
    phi = dict(zip(found.places.names, found.shares.phi.tolist(), strict=True))
    base = float(np.mean(red(rows)))
    assert sum(phi.values()) == pytest.approx(1.0 - base, abs=0.2), "from the model's own share of red to certain"
    assert abs(phi["side"]) < 0.05
    assert min(phi["kind"], phi["colour"], phi["size"]) > 0.08


def test_columns_that_depend_on_each_other_in_symbols_and_numbers_are_told_apart(filled: Fitted) -> None:
    items, _ = with_wrong_cells(1)
    y, _ = filled.event(items.take([0]), Rows(0, torch.arange(1)))
    assert filled.data is not None
    places = places_of(filled, items.take([0]), y, filled.data)
    assert places.names == ("kind", "colour", "size", "side")
    assert [len(g) for g in places.groups] == [1, 1, 1, 1]
    assert len(set(torch.cat(places.groups).tolist())) == 4


def test_planted_values_are_wrong_by_the_data(filled: Fitted, rows: TableData) -> None:
    item = rows.take([0])
    y, _ = filled.event(item, Rows(0, torch.arange(1)))
    places = places_of(filled, item, y, rows)
    x, others = filled.codec.encode(item), filled.codec.encode(rows)
    planted = plant(filled, places, x, others, 0)
    assert planted is not None
    names = [places.names[int(row.nonzero()[0, 0])] for row in planted.wrong]
    assert "side" not in names, "no side is wrong: similar rows have either"
    assert set(names) == {"kind", "colour", "size"}
    assert bool((planted.x != x).any(1).all())


@pytest.fixture(scope="module")
def defect(digits_model: Fitted, digits: PictureData) -> PartsReport:
    pixels = np.array(digits.pixels[:4])
    pixels[0, 2:4, 1:3] = 16 - pixels[0, 2:4, 1:3]
    return parts(digits_model, items=dataclasses.replace(digits.take(range(4)), pixels=pixels), index=0)


def test_defects_in_pictures_are_found_by_a_denoiser(
    defect: PartsReport, digits_model: Fitted, digits: PictureData
) -> None:
    assert defect.route == "residual"
    assert any(isinstance(b, Pictures) and "brightest" in "".join(b.captions) for b in defect.blocks())
    assert {divmod(k, 8) for k in defect.order[:3]} <= {(r, c) for r in (2, 3) for c in (1, 2)}
    assert defect.check is not None
    assert defect.check.passed
    areas = []
    for i in range(1, 6):
        pixels = np.array(digits.pixels[i : i + 1])
        sharp = np.abs(16 - 2 * pixels[0, :, :, 0].astype(int)) >= 8
        whole = sharp[:-1, :-1] & sharp[1:, :-1] & sharp[:-1, 1:] & sharp[1:, 1:]
        top, left = np.argwhere(whole)[len(np.argwhere(whole)) // 2]
        pixels[0, top : top + 2, left : left + 2] = 16 - pixels[0, top : top + 2, left : left + 2]
        changed = (pixels[0] != digits.pixels[i]).reshape(-1)
        found = parts(digits_model, items=dataclasses.replace(digits.take([i]), pixels=pixels), index=0)
        score = found.excess.numpy()
        areas.append((score[changed][:, None] > score[~changed]).mean())
    assert np.mean(areas) > 0.8, "after 120 steps of a small net; benchmarks/unusual_parts.py has the bar"


def test_an_autoencoder_shows_what_it_would_have_made(digits: PictureData) -> None:
    model = fit(digits, VAE(), steps=30, held_out=0.2)
    found = parts(model, seed=1, index=2)
    assert found.capability == "Encodes and Decodes"
    assert found.exactness == "approximate"
    assert found.places.shape == (8, 8)
    assert found.to_html()


def test_symbols_of_a_text() -> None:
    random = np.random.default_rng(0)
    names = ["".join(random.choice(["ba", "de", "fi", "go"], 5)) for _ in range(400)]
    model = fit(text_of(names), NGram(order=4), held_out=0.2)
    found = parts(model, items=text_of(["badefxgo" if k == 0 else names[k] for k in range(5)]), index=0)
    assert found.places.kind == "symbol"
    assert found.order[0] in (5, 6), "the wrong symbol, or the one that can not follow it"
    assert found.check is not None
    assert found.to_text()


def test_it_carries_method_cost_check_and_numbers(odd: PartsReport) -> None:
    text = " ".join(odd.to_text().split())
    for word in ("1705.07874", "events through the network", "given all other", "Unmasks, exact"):
        assert word in text.replace("| all", "given all"), word
    assert '"shapley"' in odd.to_json()
    assert isinstance(next(b for b in odd.blocks() if isinstance(b, Table)), Table)


def test_a_model_that_learned_nothing_is_shown_in_red(rows: TableData) -> None:
    model = fit(rows, Masked(width=8, depth=1), steps=1, held_out=0.2)
    found = parts(model, items=rows, index=0)
    assert found.check is not None
    assert not found.check.passed
    assert any(isinstance(b, Verdict) and b.level == "fail" for b in found.blocks())


def test_what_cannot_be_asked_is_refused(counts: Fitted, rows: TableData) -> None:
    with pytest.raises(MissingCapability, match="residual"):
        parts(counts, items=rows, route="residual")
    with pytest.raises(MissingCapability, match="given any others"):
        parts(counts, items=rows, of=lambda items: [0.0] * len(items))
    with pytest.raises(BadInput, match="index"):
        parts(counts, items=rows, index=len(rows))
    with pytest.raises(BadInput, match="no data"):
        parts(dataclasses.replace(counts, data=None), items=rows)
    flow = fit(rows, RealNVP(), steps=2, held_out=0.2)
    with pytest.raises(MissingCapability, match="rebuilt as it is"):
        parts(flow, items=rows)


def test_a_flow_of_numbers_is_asked_for_its_conditionals() -> None:
    random = np.random.default_rng(0)
    first = random.normal(0.0, 1.0, 400)
    frame = pd.DataFrame({"a": first, "b": first + random.normal(0.0, 0.3, 400), "c": random.normal(0.0, 1.0, 400)})
    model = fit(read_table(frame), RealNVP(), steps=20, held_out=0.2)
    found = parts(model, seed=0, index=0)
    assert found.route == "rest"
    assert found.capability == "Scores"
    assert found.exactness == "exact"


def test_columns_that_a_constraint_keeps_together_are_one_part(rows: TableData) -> None:
    """They are learned as one symbol: no column of them can be blamed alone, and none is left out."""
    bound = read_table(linked(300, 0), constraints=["together: kind, colour"])
    found = parts(fit(bound, NGram(order=4), held_out=0.2), items=bound, index=3, share=False)
    kept = [name for name in rows.frame.columns if name not in ("kind", "colour")]
    assert sorted(found.places.names) == sorted(["kind & colour", *kept])
    value = found.places.values[found.places.names.index("kind & colour")]
    assert value == f"{bound.frame['kind'][3]} & {bound.frame['colour'][3]}"
    assert found.check is not None


def test_amounts_are_written_without_the_dust_of_rounding(counts: Fitted, rows: TableData) -> None:
    found = parts(counts, items=rows, index=0, share=False)
    table = replace(found, usual=found.usual * 0 + 2.4e-08)
    assert "e-08" not in table.to_text()
