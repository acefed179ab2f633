"""A model that was shown captions: asked in words, it says what it could not read, and keeps its words on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.run import Event, Noticed, Run
from pellucid.domains.frames import read_table
from pellucid.domains.pictures import Pictures, read_pictures
from pellucid.domains.teaching.shapes import shapes
from pellucid.fitting import fit
from pellucid.model import Fitted, load


@pytest.fixture(scope="module")
def model() -> Fitted:
    """Two steps are enough to be asked; classes and captions both are conditions."""
    made = shapes(40, seed=3, size=8)
    data = replace(made.pictures, captions=made.captions)
    return fit(data, "diffusion", steps=2, settings={"width": 16, "depth": 1}, held_out=0.0)


def test_every_row_may_have_a_caption_of_its_own(model: Fitted) -> None:
    captions = ["a red circle", "A small BLUE cross", "a red circle"]
    draw = model.sample(3, where={"caption": captions}, seed=1)
    assert isinstance(draw.items, Pictures)
    assert draw.items.captions == ("a red circle", "a small blue cross", "a red circle")
    assert draw.route == "condition"
    alone = model.sample(ids=torch.tensor([1]), where={"caption": captions[1]}, seed=1)
    torch.testing.assert_close(alone.x[0], draw.x[1], rtol=0, atol=1e-3)


def test_a_caption_alone_leaves_the_class_open(model: Fitted) -> None:
    draw = model.sample(4, where={"caption": "a red circle"})
    assert not draw.condition.given["class"].any()
    assert draw.condition.given["caption"].all()
    free = model.sample(4)
    assert free.condition.given["class"].all()
    assert isinstance(free.items, Pictures)
    assert free.items.captions is not None
    assert free.items.labels is not None
    assert all(label in caption for label, caption in zip(free.items.labels, free.items.captions, strict=True))


def test_words_never_seen_are_said_and_the_rest_is_heard(model: Fitted) -> None:
    heard: list[Event] = []
    draw = model.sample(2, where={"caption": "a purple circle"}, run=Run(listeners=[heard.append]))
    text = "never seen in the training captions and left out: 'purple'"
    assert [event.text for event in heard if isinstance(event, Noticed)] == [text]
    assert [notice.text for notice in draw.notices] == [text]
    assert text in draw.report().to_markdown()
    assert torch.equal(draw.x, model.sample(2, where={"caption": "a circle"}).x)
    assert model.sample(1, where={"caption": "a red circle"}).notices == ()
    with pytest.raises(BadInput, match="None of its words was seen"):
        model.sample(1, where={"caption": "zebra"})


def test_words_are_kept_with_the_model(model: Fitted, tmp_path: Path) -> None:
    again = load(model.save(tmp_path / "run"))
    assert again.codec.conditions == model.codec.conditions
    asked = {"caption": "a large green triangle at the top"}
    assert torch.equal(again.sample(2, where=asked).x, model.sample(2, where=asked).x)
    assert torch.equal(again.sample(3).condition.values["caption"], model.sample(3).condition.values["caption"])


def test_samples_carry_their_captions_into_a_folder(model: Fitted, tmp_path: Path) -> None:
    folder = model.sample(3, where={"caption": "a green circle", "class": "green circle"}).save(tmp_path / "samples")
    assert (folder / "captions.csv").read_text().splitlines()[1] == "green circle/00000.png,a green circle"
    assert read_pictures(folder).captions == ("a green circle",) * 3


def test_nan_in_a_condition_is_one_clear_error(model: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"price": np.linspace(0, 1, 40), "size": np.random.default_rng(0).normal(size=40)})
    table = fit(read_table(frame, target="price"), "diffusion", steps=1, settings={"width": 16, "depth": 1})
    for word in (float("nan"), "nan", "inf"):
        with pytest.raises(BadInput, match="price is"):
            table.sample(1, where={"price": word})
    bad = Condition({"price": torch.full((2, 1), torch.nan)}, {"price": torch.ones(2, dtype=torch.bool)})
    monkeypatch.setattr(type(table.codec), "prior", lambda codec, rows: bad)
    with pytest.raises(BadInput, match="condition 'price' holds NaN or an infinite number"):
        table.sample(2)
