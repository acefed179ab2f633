"""What a fitted model can be asked: samples that are functions of their ids, words met exactly, files read back."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pellucid.catalog import families, family_class
from pellucid.core.batch import Batch, Condition
from pellucid.core.capabilities import How, LogProb, Samples, Scores
from pellucid.core.errors import BadInput, MissingCapability, Stopped
from pellucid.core.rows import Rows
from pellucid.core.run import Event, Progress, Run
from pellucid.core.trace import Recording, Trace
from pellucid.domains.bridges.dequantise import Dequantise
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.images import Images
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read
from pellucid.domains.wishes import Others
from pellucid.domains.write import write_items
from pellucid.families.autoregressive import Autoregressive
from pellucid.families.flow_matching import FlowMatching
from pellucid.families.gan import GAN
from pellucid.families.ngram import NGram
from pellucid.families.realnvp import RealNVP
from pellucid.families.vae import VAE
from pellucid.fitting import fit
from pellucid.model import Draw, Fitted, adopt, load

N = 60


def pictures(labels: bool = True, channels: int = 1) -> Pictures:
    draw = np.random.default_rng(0)
    return Pictures(
        pixels=draw.integers(0, 256, (24, 4, 6, channels)).astype(np.uint8),
        labels=tuple("abb"[i % 3] for i in range(24)) if labels else None,
    )


def frame() -> pd.DataFrame:
    """As a file of text would hold it: every kind of column, in an order that is not the alphabet's."""
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "when": pd.date_range("2023-12-01", periods=N, freq="D").strftime("%d.%m.%Y"),
            "height": np.where(draw.random(N) < 0.2, "?", [f"{v:.2f}" for v in draw.normal(170, 9, N)]),
            "children": draw.integers(0, 5, N).astype(str),
            "account": draw.integers(10**6, 10**7, N).astype(str),
            "word": draw.choice(["x, y", 'say "z"', "café"], N),
            "smokes": draw.choice(["TRUE", "FALSE"], N),
            "always": "same",
            "never": "",
            "postcode": draw.choice(["02139", "10115"], N),
            "ill": np.array(["no", "no", "yes"])[np.arange(N) % 3],
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableData:
    path = tmp_path_factory.mktemp("data") / "table.csv"
    frame().to_csv(path, index=False)
    found = read(path, target="ill")
    assert isinstance(found, TableData)
    return found


@pytest.fixture(scope="module")
def images_model() -> Fitted:
    return fit(pictures(), VAE(latent=3, width=4, depth=1), steps=2, seed=5)


@pytest.fixture(scope="module")
def table_model(table: TableData) -> Fitted:
    return fit(table, RealNVP(width=8, depth=1), steps=2, seed=5)


@pytest.fixture(scope="module")
def counts_model() -> Fitted:
    """Two columns whose joint probabilities can be written down from the engine."""
    draw = np.random.default_rng(1)
    a = draw.integers(0, 3, 300)
    b = (a + draw.integers(0, 2, 300)) % 4
    pairs = pd.DataFrame({"a": a.astype(str), "b": b.astype(str)})
    return fit(read_table(pairs, kinds=dict.fromkeys("ab", "category")), "ngram")


SMALL = {
    "vae": VAE(latent=3, width=4, depth=1),
    "gan": GAN(latent=3, width=4, depth=1),
    "flow": RealNVP(width=8, depth=1),
    "autoregressive": Autoregressive(width=8, depth=1),
    "diffusion": FlowMatching(width=8),
    "ngram": NGram(order=2),
}


@pytest.mark.parametrize("kind", ["images", "table"])
@pytest.mark.parametrize("name", families())
def test_fit_save_load_sample(name: str, kind: str, table: TableData, tmp_path: Path) -> None:
    """The laws of a whole model, for every family of the catalogue and every kind of data: a saved model is the same
    model, and sample i depends on its id, not on its neighbours."""
    data = pictures() if kind == "images" else table
    try:
        model = fit(data, SMALL.get(name, name), steps=1, seed=2)
    except BadInput as refused:  # a family for pictures alone, or for tables alone, says so
        assert "cannot take this data" in str(refused)  # noqa: PT017
        return
    draw = model.sample(7, seed=3)
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert torch.equal(again.sample(7, seed=3).x, draw.x)
    assert again.recipe == model.recipe
    assert again.family == model.family
    alone = again.sample(ids=[5, 0, 3], seed=3, batch=2)
    apart = again.sample(7, seed=3, batch=3)
    for other, ids in ((alone, [5, 0, 3]), (apart, list(range(7)))):
        near = torch.isclose(other.x, draw.x[ids].to(other.x), atol=1e-4 * draw.x.abs().max().item())
        assert near.flatten(1).all(1).float().mean() > 0.8  # a score on an edge between two cells may fall either way
    assert len(draw.items) == 7
    assert not torch.equal(again.sample(7, seed=4).x, draw.x)
    if isinstance(model.engine, Scores):
        items = data.take(range(5))
        told = model.log_prob(items, seed=1)
        heard = again.log_prob(items, seed=1)
        assert told.kind == heard.kind
        assert torch.equal(told.value, heard.value)
        assert torch.isfinite(told.value).all()
        assert torch.allclose(model.log_prob(items, seed=1, batch=2).value, told.value, atol=1e-3)
    else:
        able = [n for n in families() if issubclass(family_class(n).engine, Scores)]
        with pytest.raises(MissingCapability, match=f"families that can: {', '.join(able)}") as caught:
            model.log_prob(data)
        assert f"'{name}' cannot say how likely an item is" in str(caught.value)
        assert caught.value.exit_code == 2


# ------------------------------------------------------------------------------------------------------ sampling


def test_few_rows_and_none(images_model: Fitted, table_model: Fitted) -> None:
    for model in (images_model, table_model):
        assert len(model.sample(0).items) == 0
        assert len(model.sample(1).items) == 1
        assert len(model.sample(0, where={}).items) == 0
    assert len(table_model.sample(0, where={"word": "café"}).items) == 0
    empty = images_model.log_prob(pictures().take([]))
    assert empty.value.shape == (0,)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"n": -1}, "n is -1. Accepted: a whole number of at least 0"),
        ({"n": None}, "n is None"),
        ({"n": 2.5}, "n is 2.5"),
        ({"n": True}, "n is True"),
        ({"n": 3, "ids": [1, 2]}, "n is 3 but there are 2 ids"),
        ({"ids": [0.5]}, "ids are torch.float32"),
        ({"n": 3, "batch": 0}, "batch is 0"),
        ({"n": 3, "how": How()}, "how is a How. Accepted: a VAEHow"),
        ({"n": 3, "where": {"class": "c"}}, "class is 'c'. Accepted: a, b"),
        ({"n": 3, "where": {"clas": "a"}}, "condition 'clas' does not exist"),
        ({"n": 3, "where": {"class": ["a", "b"]}}, r"where\['class'\] lists 2 values. Accepted: one value, or 3"),
        ({"n": 3, "where": {"class": ["a", "b", "a", "b"]}}, "lists 4 values"),
        ({"n": 3, "where": {"class": ["a", "b", "c"]}}, "class is 'c'"),
    ],
)
def test_wrong_words_are_refused(images_model: Fitted, words: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        images_model.sample(**words)


def test_a_class_is_a_condition(images_model: Fitted) -> None:
    draw = images_model.sample(6, where={"class": "b"})
    assert isinstance(draw.items, Pictures)
    assert draw.items.labels == ("b",) * 6
    assert draw.route == "condition"
    assert bool(draw.condition.given["class"].all())
    free = images_model.sample(400, seed=1)
    assert isinstance(free.items, Pictures)
    assert free.route == "free"
    share = sum(label == "b" for label in free.items.labels or ()) / 400
    assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / 400), "without words, classes come as often as in the data"


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda v: pd.Series(v)])
def test_a_list_gives_one_value_a_row(images_model: Fitted, make: Any) -> None:
    wanted = ["a", "b", "b", "a", "b"]
    draw = images_model.sample(5, where={"class": make(wanted)}, batch=2)
    assert isinstance(draw.items, Pictures)
    assert draw.items.labels == tuple(wanted)
    one = images_model.sample(5, where={"class": "b"})
    assert torch.allclose(draw.x[[1, 2, 4]], one.x[[1, 2, 4]], atol=1e-4), "a row depends on its own condition alone"


def test_a_target_column_is_a_condition(table_model: Fitted) -> None:
    draw = table_model.sample(9, where={"ill": "yes"})
    assert isinstance(draw.items, TableData)
    assert draw.items.frame["ill"].tolist() == ["yes"] * 9
    assert draw.route == "condition"


def test_a_trace_sees_all_rows_in_one_batch(images_model: Fitted) -> None:
    model = fit(pictures(), FlowMatching(width=8), steps=1)
    trace = Recording(["x_t"])
    how: Any = model.how()
    draw = model.sample(5, trace=trace, batch=2, how=replace(how, steps=3))
    assert {len(x) for x in trace.kept["x_t"].values()} == {5}
    assert len(draw) == 5


def test_sampling_tells_how_far_it_is_and_stops_when_asked(images_model: Fitted) -> None:
    seen: list[Event] = []
    run = Run(listeners=[seen.append])
    images_model.sample(10, batch=4, run=run)
    assert [(e.done, e.total) for e in seen if isinstance(e, Progress)] == [(0, 10), (4, 10), (8, 10), (10, 10)]
    run.listeners.append(lambda event: run.stop(15))
    with pytest.raises(Stopped, match="sampling stopped after 4 of 10 samples") as caught:
        images_model.sample(10, batch=4, run=run)
    assert caught.value.exit_code == 143


# ------------------------------------------------------------------------------------------------------ rejection


def joint(model: Fitted) -> dict[tuple[str, str], float]:
    """P(a, b) of every pair, from the model's own likelihood."""
    pairs = list(itertools.product("012", "0123"))
    items = read_table(pd.DataFrame(pairs, columns=["a", "b"]), kinds=dict.fromkeys("ab", "category"))
    values = model.log_prob(items).value.exp().tolist()
    assert abs(sum(values) - 1.0) < 1e-9
    return dict(zip(pairs, values, strict=True))


def test_words_about_other_columns_are_met_exactly(counts_model: Fitted) -> None:
    """Rejection draws from P(a | b = 1): compared with the probabilities by enumeration."""
    n, wanted = 2000, "1"
    draw = counts_model.sample(n, where={"b": wanted}, seed=3)
    assert isinstance(draw.items, TableData)
    assert draw.route == "rejection"
    assert set(draw.items.frame["b"]) == {wanted}
    p = {a: v for (a, b), v in joint(counts_model).items() if b == wanted}
    total = sum(p.values())
    seen = draw.items.frame["a"].value_counts()
    for a, v in p.items():
        share = v / total
        assert abs(seen.get(a, 0) / n - share) < 5 * math.sqrt(share * (1 - share) / n) + 1e-9


def test_rejection_keeps_the_candidates_that_a_free_draw_has(counts_model: Fitted) -> None:
    free = counts_model.sample(300, seed=3)
    assert isinstance(free.items, TableData)
    good = np.flatnonzero((free.items.frame["b"] != "0") & (free.items.frame["b"] != "2"))
    for batch, n in ((7, 20), (250, 20), (250, 31)):
        draw = counts_model.sample(n, where={"b": Others(("0", "2"))}, seed=3, batch=batch)
        assert draw.ids.tolist()[:20] == good.tolist()[:20]
        assert torch.equal(draw.x, free.x[draw.ids]) if n == 20 else len(draw) == 31
    again = counts_model.sample(ids=draw.ids, seed=3)
    assert torch.equal(again.x, draw.x), "its ids name a sample wherever it was found"


def test_conditions_and_rejection_together(table_model: Fitted) -> None:
    draw = table_model.sample(5, where={"ill": "yes", "children": ">=1", "when": "2023-01-01..2025-01-01"}, seed=1)
    assert isinstance(draw.items, TableData)
    assert draw.route == "rejection"
    assert (draw.items.frame["ill"] == "yes").all()
    assert (draw.items.frame["children"] >= 1).all()


def test_what_rejection_cannot_do_is_said_before_any_work(
    counts_model: Fitted, table_model: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(counts_model.engine), "sample", lambda *a: pytest.fail("sampled before checking"))
    with pytest.raises(BadInput, match=r"where\['b'\] is a list"):
        counts_model.sample(3, where={"b": ["1", "2", "1"]})
    with pytest.raises(BadInput, match=r"where\['ill'\] is a list.*word is no condition"):
        table_model.sample(2, where={"ill": ["yes", "no"], "word": "café"})
    with pytest.raises(BadInput, match="ids were given together with where b=1"):
        counts_model.sample(ids=[1, 2], where={"b": "1"})
    with pytest.raises(BadInput, match="b is '7'. Accepted: 0, 1, 2, 3"):
        counts_model.sample(3, where={"b": "7"})
    with pytest.raises(BadInput, match="no column 'bb'.*Did you mean 'b'"):
        counts_model.sample(3, where={"bb": "1"})


def test_rows_that_are_too_rare_are_given_up(counts_model: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.drawing.sampler.CANDIDATES", 1)
    monkeypatch.setattr(type(counts_model.codec), "meets", lambda self, items, where: np.zeros(len(items), bool))
    with pytest.raises(BadInput, match=r"only 0 of 20,000 candidates met b=1.*fit with --target b"):
        counts_model.sample(3, where={"b": "1"}, batch=5000)


# ------------------------------------------------------------------------------------------------ pictures as files


def test_pictures_come_back_from_every_form(images_model: Fitted, tmp_path: Path) -> None:
    draw = images_model.sample(9, seed=1)
    items = draw.items
    assert isinstance(items, Pictures)
    assert draw.save(tmp_path / "s.npz") == tmp_path / "s.npz"
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert found["images"].dtype == np.uint8
        assert found["images"].shape == (9, 4, 6)
        assert tuple(found["labels"].tolist()) == items.labels
    again = read(tmp_path / "s.npz")
    assert isinstance(again, Pictures)
    assert np.array_equal(again.pixels, items.pixels)
    assert again.labels == items.labels
    draw.save(tmp_path / "new" / "folder")
    files = sorted(p.relative_to(tmp_path / "new" / "folder").as_posix() for p in (tmp_path / "new").rglob("*.png"))
    assert files == sorted(f"{label}/{i:05d}.png" for i, label in enumerate(items.labels or ()))
    back = read(tmp_path / "new" / "folder")
    assert isinstance(back, Pictures)
    order = np.argsort([str(name).split("/")[1] for name in back.names or ()])
    assert np.array_equal(back.take(order).pixels, items.pixels)
    assert back.take(order).labels == items.labels
    draw.save(tmp_path / "sheet.PNG")
    from PIL import Image

    with Image.open(tmp_path / "sheet.PNG") as sheet:
        assert sheet.size == (3 * 7 + 1, 3 * 5 + 1)
        assert np.array_equal(np.asarray(sheet)[1:5, 1:7], items.pixels[0, ..., 0])


def test_colours_and_no_labels(tmp_path: Path) -> None:
    items = pictures(labels=False, channels=3)
    write_items(items, tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        assert found["images"].shape == (24, 4, 6, 3)
        assert "labels" not in found
    write_items(items, tmp_path / "folder")
    back = read(tmp_path / "folder")
    assert isinstance(back, Pictures)
    assert np.array_equal(back.pixels, items.pixels)
    assert back.labels is None


def test_odd_class_names_stay_apart_as_folders(tmp_path: Path) -> None:
    labels = ["a/b", "a:b", "..", "", "x" * 400, "x" * 400 + "y", "new\nline", "A:B", "con", "ü"]
    items = Pictures(pixels=np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), labels=tuple(labels))
    write_items(items, tmp_path / "odd")
    folders = sorted(p.name for p in (tmp_path / "odd").iterdir())
    assert len(folders) == len(labels) == len({f.casefold() for f in folders})
    assert len(list((tmp_path / "odd").rglob("*.png"))) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["odd"], "nothing was written beside it"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "s.csv",
            r"pictures cannot be written as 's.csv'. Accepted: a folder .*\.npz, \.png. \.csv is for rows of a table",
        ),
        ("s.txt", ".txt is for texts"),
        ("s.nzp", "Did you mean '.npz'"),
        ("s.jpg", "Accepted: a folder"),
    ],
)
def test_endings_that_do_not_fit_are_refused(images_model: Fitted, tmp_path: Path, name: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        images_model.sample(2).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_table_needs_an_ending(table_model: Fitted, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no ending, which says how.*ends in .csv, .csv.gz, .tsv, .parquet"):
        table_model.sample(2).save(tmp_path / "rows")
    with pytest.raises(BadInput, match=r"\.npz is for pictures"):
        table_model.sample(2).save(tmp_path / "rows.npz")
    with pytest.raises(BadInput, match=".txt is for texts"):
        table_model.sample(2).save(tmp_path / "rows.txt")


def test_only_samples_are_replaced(images_model: Fitted, tmp_path: Path) -> None:
    draw = images_model.sample(3)
    draw.save(tmp_path / "s")
    draw.save(tmp_path / "s.npz")
    for path in (tmp_path / "s", tmp_path / "s.npz"):
        with pytest.raises(BadInput, match="exists already. Choose another name, or add --force"):
            draw.save(path)
        images_model.sample(2, seed=9).save(path, force=True)
    assert len(list((tmp_path / "s").rglob("*.png"))) == 2
    (tmp_path / "s" / "thesis.docx").write_text("x")
    with pytest.raises(BadInput, match="holds more than sample pictures: 'thesis.docx'"):
        draw.save(tmp_path / "s", force=True)
    assert (tmp_path / "s" / "thesis.docx").read_text() == "x"
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(BadInput, match="is a folder and cannot be replaced by a file"):
        draw.save(tmp_path / "dir.npz", force=True)
    (tmp_path / "plain").write_text("x")
    with pytest.raises(BadInput, match="is a file and cannot be replaced by a folder"):
        draw.save(tmp_path / "plain", force=True)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    with pytest.raises(BadInput, match="is a link"):
        draw.save(tmp_path / "link", force=True)
    with pytest.raises(BadInput, match="cannot be written"):
        draw.save(tmp_path / "plain" / "inside.npz")
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


# ---------------------------------------------------------------------------------------------------- tables as files


def test_a_written_table_looks_like_the_one_that_was_read(table: TableData, tmp_path: Path) -> None:
    """Not samples but the table itself, so that every cell can be compared with the file."""
    write_items(table, tmp_path / "again.csv")
    wanted = frame()
    found = pd.read_csv(tmp_path / "again.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(found, wanted.astype(found.dtypes))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_sampled_rows_come_back_from_every_form(table_model: Fitted, tmp_path: Path, ending: str) -> None:
    draw = table_model.sample(200, seed=2)
    assert isinstance(draw.items, TableData)
    path = draw.save(tmp_path / f"rows{ending}")
    data = read(path, target="ill")
    assert isinstance(data, TableData)
    assert list(data.frame.columns) == list(frame().columns)
    assert [c.kind for c in data.columns] == [c.kind for c in draw.items.columns]
    for name in frame().columns:
        left, right = draw.items.frame[name], data.frame[name]
        if left.dtype == np.float64:
            assert np.allclose(left, right, equal_nan=True, atol=1e-9)
        else:
            assert left.astype(str).tolist() == right.astype(str).tolist()


def test_samples_keep_what_the_columns_are(table_model: Fitted, table: TableData, tmp_path: Path) -> None:
    n = 2000
    table_model.sample(n, seed=2).save(tmp_path / "rows.csv")
    text = pd.read_csv(tmp_path / "rows.csv", dtype=str, keep_default_na=False)
    assert set(text["always"]) == {"same"}
    assert set(text["never"]) == {""}
    assert set(text["postcode"]) <= {"02139", "10115"}
    assert set(text["smokes"]) <= {"TRUE", "FALSE"}
    assert set(text["word"]) <= {"x, y", 'say "z"', "café"}
    assert text["when"].str.fullmatch(r"\d\d\.\d\d\.\d{4}").all()
    assert text["height"].str.fullmatch(r"\d+\.\d\d|\?").all()
    assert text["children"].str.fullmatch(r"[0-4]").all()
    assert text["account"].str.fullmatch(r"\d{7}").all()
    heights = frame()["height"]
    low, high = (f(heights[heights != "?"].astype(float)) for f in (min, max))
    assert text["height"][text["height"] != "?"].astype(float).between(low, high).all()
    parquet = table_model.sample(9).save(tmp_path / "rows.parquet")
    types = pd.read_parquet(parquet).dtypes
    assert pd.api.types.is_integer_dtype(types["children"])
    assert pd.api.types.is_float_dtype(types["height"])


def test_missing_cells_come_as_often_as_in_the_data() -> None:
    """Counts know the share of missing cells nearly exactly; so must the rows drawn from them."""
    draw = np.random.default_rng(3)
    values = np.where(draw.random(400) < 0.3, np.nan, draw.integers(0, 50, 400))
    model = fit(read_table(pd.DataFrame({"a": values, "b": draw.integers(0, 9, 400)})), "ngram")
    items = model.sample(3000, seed=1).items
    assert isinstance(items, TableData)
    share, seen = float(np.isnan(values).mean()), float(items.frame["a"].isna().mean())
    error = math.sqrt(share * (1 - share) * (1 / 3000 + 1 / 360))
    assert abs(seen - share) < 5 * error
    assert str(items.frame["a"].dtype) == "Int64"


# ------------------------------------------------------------------------------------------------------ adopt, describe


class Half(nn.Module, Samples):
    """Knows nothing but the middle of the scale."""

    def settings(self) -> How:
        return How()

    def sample(self, rows: Rows, condition: Condition, how: How, trace: Trace) -> Tensor:
        return torch.zeros(len(rows), 1, 4, 6)


def test_a_module_of_others_is_adopted(tmp_path: Path) -> None:
    codec = Images().learn(pictures())
    model = adopt(Half(), codec, Dequantise(codec.space), name="half", source="nowhere")
    draw = model.sample(3, where={"class": "b"})
    assert isinstance(draw.items, Pictures)
    assert draw.items.labels == ("b", "b", "b")
    assert model.offers() == ("Samples",)
    assert "half" in model.describe().to_text()
    with pytest.raises(MissingCapability, match="'half' cannot say how likely"):
        model.log_prob(pictures())
    with pytest.raises(BadInput, match="adopted model, which cannot be saved as a run"):
        model.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="Linear lists no capability.*Wrap it in a class"):
        adopt(nn.Linear(2, 2), codec)
    with pytest.raises(BadInput, match="the bridge starts from"):
        adopt(Half(), codec, Dequantise(replace(codec.space, shape=(1, 2, 2))))


def test_a_lossy_codec_gives_no_likelihood(images_model: Fitted) -> None:
    class Lossy:
        conditions: Mapping[str, object] = {}

    with pytest.raises(MissingCapability, match="lossy"):
        replace(images_model, codec=Lossy()).log_prob(pictures())  # type: ignore[arg-type]


class Guess(Half, Scores):
    def log_prob(self, batch: Batch, rows: Rows) -> LogProb:
        return LogProb(torch.zeros(len(batch)), "estimate", torch.full((len(batch),), 0.5))


def test_the_error_of_an_estimate_is_kept() -> None:
    codec = Images().learn(pictures())
    told = adopt(Guess(), codec).log_prob(pictures(), batch=7)
    assert told.kind == "estimate"
    assert told.error is not None
    assert told.error.tolist() == [0.5] * 24


def test_describe_says_what_a_model_is(images_model: Fitted, counts_model: Fitted, tmp_path: Path) -> None:
    text = images_model.describe().to_text()
    for said in ("variational autoencoder (vae)", "24 items of kind images", "class", "2", "Real 1x4x6, 256 levels"):
        assert said in text
    assert "It offers Learns, Samples, Scores, Encodes, Decodes" in images_model.describe().to_text(width=200)
    counted = counts_model.describe()
    assert counted.parameters > 0
    images_model.save(tmp_path / "run")
    assert load(tmp_path / "run").describe() == images_model.describe()


def test_a_draw_shows_itself(images_model: Fitted, table_model: Fitted) -> None:
    for model in (images_model, table_model):
        draw = model.sample(3, seed=8)
        assert isinstance(draw, Draw)
        assert len(draw) == 3
        assert draw.report().title == "3 samples, seed 8"
        assert "<" in draw._repr_html_()
        assert draw.report().to_text()


# ------------------------------------------------------------------------------------------------------------ saving


def test_saving_replaces_runs_only(images_model: Fitted, tmp_path: Path) -> None:
    run = images_model.save(tmp_path / "run")
    with pytest.raises(BadInput, match="exists already. Choose another folder, or add --force to replace it"):
        images_model.save(run)
    again = load(run)
    again.save(run, force=True)
    assert torch.equal(load(run).sample(3).x, images_model.sample(3).x)
    again.save(tmp_path / "copy")
    for name in ("weights/engine.safetensors", "weights/raw.safetensors", "recipe.json", "codec.json", "outcome.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (run / name).read_bytes()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not a run folder: it holds 'notes.txt'. Only runs are replaced"):
        images_model.save(run, force=True)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(BadInput, match="is not a run folder"):
        images_model.save(tmp_path / "web", force=True)
    assert (tmp_path / "web" / "manifest.json").read_text() == '{"name": "an app"}'
    (tmp_path / "file").write_text("x")
    for path, match in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "run", "is a file, so")):
        with pytest.raises(BadInput, match=match):
            images_model.save(path, force=True)
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(BadInput, match="is a link"):
        images_model.save(tmp_path / "link", force=True)
    (tmp_path / "empty").mkdir()
    images_model.save(tmp_path / "empty")
    assert load(tmp_path / "empty").name == "vae"
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_full_disk_brings_the_old_run_back(
    images_model: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    run = images_model.save(tmp_path / "run")
    other = fit(pictures(), VAE(latent=3, width=4, depth=1), steps=1, seed=77)
    calls, sync = itertools.count(1), os.fsync

    def full(handle: int) -> None:
        if next(calls) >= 2 * fails_at:  # each file is synced, and then its folder
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="the disk is full while saving") as caught:
        other.save(run, force=True)
    assert caught.value.exit_code == 2
    with pytest.raises(BadInput, match="the disk is full while saving"):
        other.save(tmp_path / "new")
    monkeypatch.undo()
    assert torch.equal(load(run).sample(3).x, images_model.sample(3).x)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_model_put_together_by_hand_is_saved_too(images_model: Fitted, tmp_path: Path) -> None:
    bare = Fitted(images_model.family, images_model.engine, images_model.codec, images_model.bridge)
    bare.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run").sample(3).x, images_model.sample(3).x)
    bare.recipe["mine"] = 1
    with pytest.raises(BadInput, match="'mine' is no setting"):
        bare.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
