"""Every domain of the catalogue keeps the public laws, and a planted flaw in a codec is caught by the law it breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pellucid import catalog
from pellucid.core.batch import Condition
from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.frames import TableData, read_table
from pellucid.domains.images import ImageCodec, Images
from pellucid.domains.molecule_files import molecules_of
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import text_of
from pellucid.testing import LawBroken, check_domain


def pictures(levels: int = 256, channels: int = 3) -> Pictures:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, levels, (17, 5, 8, channels)).astype(np.uint8)
    pixels[0], pixels[1] = 0, levels - 1
    return Pictures(pixels=pixels, labels=(*"abbcabbcabbcabbc", ""), levels=levels)


def table(rows: int = 211) -> TableData:
    """Numbers with and without decimals, spikes, missing cells, dates, truths, a constant, texts, a target."""
    draw = np.random.default_rng(1)
    income = np.where(draw.random(rows) < 0.3, 0.0, np.exp(draw.normal(8, 1, rows)).round(2))
    frame = pd.DataFrame(
        {
            "age": draw.integers(17, 91, rows),
            "income": np.where(draw.random(rows) < 0.1, np.nan, income),
            "weight": draw.normal(70, 12, rows),
            "sex": draw.choice(["Female", "Male"], rows),
            "town": np.array(["Aix", "Bonn", "Cork", None])[draw.integers(0, 4, rows)],
            "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 900, rows), unit="D"),
            "smokes": draw.random(rows) < 0.2,
            "country": "X",
            "ill": draw.choice(["yes", "no"], rows, p=[0.2, 0.8]),
        }
    )
    return read_table(frame, target="ill")


ITEMS: dict[str, list[Callable[[], Any]]] = {
    "images": [pictures, lambda: pictures(17, 1)],
    "table": [table, lambda: read_table(table().frame[["weight", "sex"]])],
    "text": [
        lambda: text_of(["Ada", "B", "Zoë O'Neill"]),
        lambda: text_of(["to be or not", "to be, né?"], unit="words").take([0, 1, 1]),
        lambda: text_of(["Zoë", "中", "a b"], unit="bytes"),
        lambda: text_of("It was the best of times,\nit was the worst of times — née Ω.\n" * 3, window=7),
        lambda: text_of("so much depends upon a red wheel barrow " * 20, unit="words", window=5).take([3, 0, 9, 50]),
        lambda: text_of("Straße, 中文. " * 20, unit="bytes", window=6),
        lambda: text_of(["CCBr", "[nH]%12", "é"], unit="symbols"),
    ],
    "molecules": [lambda: molecules_of(["CCO", "c1ccccc1Br", "C[N+](C)(C)C", "C", "no molecule", "N#CCl"])],
}


def test_every_domain_of_the_catalogue_has_items() -> None:
    assert ITEMS.keys() == catalog.DOMAINS.keys()


@pytest.mark.parametrize("kind", catalog.DOMAINS)
def test_the_domain_keeps_its_laws(kind: str) -> None:
    domain: Any = catalog.domain_class(kind)()
    for make in ITEMS[kind]:
        items = make()
        check_domain(domain, items)
        assert type(domain.learn(items)) is catalog.codec_class(kind)


def test_two_items_are_too_few() -> None:
    with pytest.raises(BadInput, match="3 or more"):
        check_domain(Images(), pictures().take([0, 1]))


def broken_by(monkeypatch: pytest.MonkeyPatch, method: str, replacement: object) -> dict[str, str]:
    monkeypatch.setattr(ImageCodec, method, replacement)
    with pytest.raises(LawBroken, match="domain 'images'") as caught:
        check_domain(Images(), pictures())
    return caught.value.broken


def test_planted_flaws_are_caught_by_their_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, decode = ImageCodec.encode, ImageCodec.decode

    def between(self: ImageCodec, items: Pictures) -> Tensor:
        return encode(self, items) * 0.999

    def against_the_mean(self: ImageCodec, items: Pictures) -> Tensor:
        x = encode(self, items)
        return x - x.mean(0)

    def darker(self: ImageCodec, x: Tensor, condition: Condition, rows: Rows) -> Pictures:
        return decode(self, (x - 0.1).clamp(-1, 1), condition, rows)

    def by_the_place(self: ImageCodec, rows: Rows) -> Condition:
        symbols = torch.arange(len(rows))[:, None] % 3
        return Condition({"class": symbols}, {"class": torch.ones(len(rows), dtype=torch.bool)})

    def half_plain(self: ImageCodec) -> dict[str, Any]:
        return {"channels": 3, "height": 5, "width": 8, "levels": 256, "classes": [], "counts": []}

    flaws: list[tuple[str, object, str]] = [
        ("encode", between, "events_lie_in_their_space"),
        ("encode", against_the_mean, "rows_are_encoded_by_themselves"),
        ("decode", darker, "decoding_undoes_encoding"),
        ("prior", by_the_place, "drawn_conditions_ignore_the_batch"),
        ("plain", half_plain, "a_stored_codec_is_the_same"),
        ("log_volume", lambda self, x: torch.ones(len(x)), "volumes_are_one_a_row"),
        ("asked", lambda self, where, rows: Condition.blank(self.conditions, rows), "unknown_words_are_refused"),
        ("show", lambda self, items, limit=64: "pictures", "items_can_be_shown"),
    ]
    for method, replacement, law in flaws:
        with monkeypatch.context() as patch:
            broken = broken_by(patch, method, replacement)
        assert law in broken, f"{law} did not notice {method}: {broken}"
