"""The judge of generated shapes, against the truth of the generator and against pictures that are no shapes."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.core.errors import BadInput
from pellucid.domains.teaching.recognise import judge, recognise
from pellucid.domains.teaching.shapes import COLOURS, FORMS, Thing, draw_things, held_out_pairs, shapes


@pytest.mark.parametrize("size", [16, 32])
def test_real_pictures_are_called_right(size: int) -> None:
    made = shapes(100, seed=11, size=size)
    found = judge(made.pictures.pixels, [group[0] for group in made.things])
    assert found.colour.all()
    assert found.size.all()
    assert found.form.mean() >= 0.985
    assert found.right.mean() >= 0.99


def test_the_border_of_two_places_is_blurred_by_an_eighth_of_a_pixel_and_no_more() -> None:
    wish = Thing(form="circle", colour="red", size="large", x=0.25, y=0.5)
    for beyond, right in ((0.002, True), (0.02, False)):
        pixels, _ = draw_things([[Thing(form="circle", colour="red", size="large", x=1 / 3 + beyond, y=0.5)]])
        assert judge(pixels, [wish]).place.tolist() == [right]


def test_a_little_noise_changes_nothing_and_much_is_no_shape() -> None:
    made = shapes(20, seed=12, size=16)
    noise = np.random.default_rng(0).normal(size=made.pictures.pixels.shape)
    things = [group[0] for group in made.things]
    for strength, share in ((8, 0.9), (200, 0.0)):
        noisy = (made.pictures.pixels + strength * noise).clip(0, 255).astype(np.uint8)
        found = judge(noisy, things).right.mean()
        assert found >= share if share else found <= 0.05


def test_each_wrong_wish_is_seen() -> None:
    thing = Thing(form="circle", colour="red", size="large", x=0.25, y=0.25)
    pixels, _ = draw_things([[thing]])
    wishes = {
        "colour": Thing(form="circle", colour="blue", size="large", x=0.25, y=0.25),
        "form": Thing(form="cross", colour="red", size="large", x=0.25, y=0.25),
        "place": Thing(form="circle", colour="red", size="large", x=0.75, y=0.25),
        "size": Thing(form="circle", colour="red", size="small", x=0.25, y=0.25),
    }
    assert judge(pixels, [thing]).right.all()
    for name, wish in wishes.items():
        found = judge(pixels, [wish])
        assert {n for n in wishes if not getattr(found, n).all()} == {name}


def test_empty_two_things_and_another_colour_are_nothing() -> None:
    empty = np.full((1, 32, 32, 3), (244, 244, 240), np.uint8)
    apart = [Thing(form="square", colour=c, size="large", x=x, y=x) for c, x in (("red", 0.25), ("blue", 0.75))]
    pink, _ = draw_things([[Thing(form="circle", colour="red", size="large", x=0.5, y=0.5)]])
    pink = np.where(pink == 40, 180, pink)
    for pixels in (empty, draw_things([apart])[0], pink.astype(np.uint8)):
        assert recognise(pixels) == (None,)
    with pytest.raises(BadInput, match="one wish a picture"):
        judge(empty, [])
    with pytest.raises(BadInput, match="pixels have shape"):
        recognise(empty[0])


def test_pairs_left_out_are_never_drawn_and_the_rest_is_even() -> None:
    held = held_out_pairs()
    things = [group[0] for group in shapes(1200, seed=1, size=8, without=held).things]
    seen = {(thing.colour, thing.form) for thing in things}
    assert not seen & set(held)
    assert len(seen) == 12
    assert {colour for colour, _ in seen} == set(COLOURS)
    assert {form for _, form in seen} == set(FORMS)
    counts = [sum((t.colour, t.form) == pair for t in things) for pair in seen]
    assert min(counts) > 60
    with pytest.raises(BadInput, match="at least one pair left"):
        shapes(1, without=[(c, f) for c in COLOURS for f in FORMS])
    with pytest.raises(BadInput, match="pink"):
        shapes(1, without=[("pink", "circle")])
    with pytest.raises(BadInput, match="1 to 4 pairs"):
        held_out_pairs(5)
