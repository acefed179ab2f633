"""Pictures of coloured shapes of which everything is known: what stands where, in words and pixel by pixel.

A picture is a list of things, and drawing is a function of that list, so that "the same picture, but blue" can be
drawn as well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.rows import Rows
from pellucid.domains.pictures import Pictures

__all__ = ["COLOURS", "FINE", "FORMS", "Shapes", "Thing", "cover_of", "draw_things", "held_out_pairs", "shapes"]

COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 80),
    "blue": (38, 84, 200),
    "yellow": (240, 190, 20),
}
FORMS = ("circle", "square", "triangle", "cross")
SIZES = {"small": 0.11, "large": 0.2}  # half width, relative to the picture's side
BACKGROUND = (244, 244, 240)
FINE = 4  # a pixel is drawn as 4 x 4 points: edges are as soft as those of photographs
MOST_THINGS = 4


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape. x, y: its centre, from 0 to 1, rightwards and downwards.

    >>> Thing(form="circle", colour="red", size="small", x=0.2, y=0.8).words()
    'a small red circle at the bottom left'
    """

    form: str
    colour: str
    size: str
    x: float
    y: float

    def __post_init__(self) -> None:
        for name, value, known in (
            ("form", self.form, FORMS),
            ("colour", self.colour, tuple(COLOURS)),
            ("size", self.size, tuple(SIZES)),
        ):
            if value not in known:
                raise BadInput(f"{name} is '{value}'", accepted=", ".join(known))
        if not (0.0 <= self.x <= 1.0 and 0.0 <= self.y <= 1.0):
            raise BadInput(f"the centre is ({self.x}, {self.y})", accepted="numbers from 0 to 1")

    def place(self) -> str:
        """Where it is, in words."""
        column = ("left", "", "right")[int(min(2, self.x * 3))]
        row = ("top", "", "bottom")[int(min(2, self.y * 3))]
        return " ".join(word for word in (row, column) if word) or "centre"

    def label(self) -> str:
        """Colour and form: "red circle"."""
        return f"{self.colour} {self.form}"

    def words(self) -> str:
        """The whole thing in words."""
        return f"a {self.size} {self.label()} at the {self.place()}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shapes:
    """Pictures and the truth about them.

    pictures: labelled by colour and form ("red circle"; "blue cross and red circle"), without captions.
    captions: N sentences.
    masks: (N, K, H, W) bool, the visible pixels of each thing; later things lie on top of earlier ones.
    things: N lists of K things, in the order they were drawn.
    """

    pictures: Pictures
    captions: tuple[str, ...]
    masks: NDArray[np.bool_] = field(repr=False)
    things: tuple[tuple[Thing, ...], ...] = field(repr=False)

    def captioned(self) -> Pictures:
        """The pictures with their captions instead of their labels, which a caption holds already."""
        return replace(self.pictures, labels=None, captions=self.captions)


def shapes(
    n: int = 2000, seed: int = 0, *, size: int = 32, things: int = 1, without: Collection[tuple[str, str]] = ()
) -> Shapes:
    """n pictures of `things` shapes each; picture i depends on seed, `things`, `without` and i alone.

    Args:
        without: pairs of colour and form that are never drawn, such as ("red", "circle").

    >>> made = shapes(3, seed=1)
    >>> made.pictures.pixels.shape, made.masks.shape, len(made.captions)
    ((3, 32, 32, 3), (3, 1, 32, 32), 3)
    """
    if n < 1 or not 1 <= things <= MOST_THINGS:
        raise BadInput(f"n is {n} and things is {things}", accepted=f"n of 1 or more, 1 to {MOST_THINGS} things")
    allowed = [
        (c, f) for c, colour in enumerate(COLOURS) for f, form in enumerate(FORMS) if (colour, form) not in without
    ]
    if strange := [pair for pair in without if pair[0] not in COLOURS or pair[1] not in FORMS]:
        raise BadInput(f"without names {strange[0]}", accepted=f"({', '.join(COLOURS)}) with ({', '.join(FORMS)})")
    if not allowed:
        raise BadInput("without names all pairs of colour and form", accepted="at least one pair left to draw")
    rows = Rows(seed, torch.arange(n)).fork("shapes")
    forms = rows.fork("form").integers(len(FORMS), things).tolist()
    colours = rows.fork("colour").integers(len(COLOURS), things).tolist()
    if without:
        pairs = torch.tensor(allowed)[rows.fork("pair").integers(len(allowed), things)]  # (n, things, 2)
        colours, forms = pairs[..., 0].tolist(), pairs[..., 1].tolist()
    sizes = rows.fork("size").integers(len(SIZES), things).tolist()
    places = rows.fork("place").uniform(things, 2, dtype=torch.float64).tolist()
    made = tuple(
        tuple(_thing(forms[i][k], colours[i][k], sizes[i][k], places[i][k][0], places[i][k][1]) for k in range(things))
        for i in range(n)
    )
    pixels, masks = draw_things(made, size)
    labels = tuple(" and ".join(sorted(thing.label() for thing in group)) for group in made)
    captions = tuple(" and ".join(thing.words() for thing in group) for group in made)
    pictures = Pictures(pixels=pixels, labels=labels, source="shapes")
    return Shapes(pictures=pictures, captions=captions, masks=masks, things=made)


def held_out_pairs(count: int = 4) -> tuple[tuple[str, str], ...]:
    """Pairs of colour and form to leave out of training so that every colour and every form stays in it.

    >>> held_out_pairs()
    (('red', 'circle'), ('green', 'square'), ('blue', 'triangle'), ('yellow', 'cross'))
    """
    if not 1 <= count <= 4:
        raise BadInput(f"count is {count}", accepted="1 to 4 pairs, each of another colour and another form")
    return tuple(zip(COLOURS, FORMS, strict=True))[:count]


def _thing(form: int, colour: int, size: int, u: float, v: float) -> Thing:
    """u, v in (0, 1) become a centre from which the whole shape fits into the picture."""
    size_name = tuple(SIZES)[size]
    edge = SIZES[size_name]
    x, y = edge + u * (1.0 - 2.0 * edge), edge + v * (1.0 - 2.0 * edge)
    return Thing(form=FORMS[form], colour=tuple(COLOURS)[colour], size=size_name, x=x, y=y)


def draw_things(things: Sequence[Sequence[Thing]], size: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (N, size, size, 3) and visible masks (N, K, size, size); every list has K things."""
    if not 8 <= size <= 1024:
        raise BadInput(f"size is {size}", accepted="a side from 8 to 1024 pixels")
    if len({len(group) for group in things}) != 1:
        raise BadInput("the lists of things differ in length, or there is none", accepted="lists of one length")
    pixels = np.empty((len(things), size, size, 3), dtype=np.uint8)
    masks = np.zeros((len(things), len(things[0]), size, size), dtype=np.bool_)
    for i, group in enumerate(things):
        picture = np.empty((size, size, 3))
        picture[:] = BACKGROUND
        for k, thing in enumerate(group):
            cover = cover_of(thing, size)
            picture += cover[..., None] * (np.array(COLOURS[thing.colour]) - picture)
            masks[i, : k + 1] &= cover < 0.5
            masks[i, k] = cover >= 0.5
        pixels[i] = picture.round().astype(np.uint8)
    return pixels, masks


def cover_of(thing: Thing, size: int) -> NDArray[np.float64]:
    """(size, size): which share of each pixel the shape covers, from 0 to 1."""
    points = (np.arange(size * FINE) + 0.5) / (size * FINE)
    inside = _inside(thing, points[None, :] - thing.x, points[:, None] - thing.y)
    return np.asarray(inside.reshape(size, FINE, size, FINE).mean(axis=(1, 3)), dtype=np.float64)


def _inside(thing: Thing, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points, given relative to the centre, lie in the shape; x (1, W) and y (H, 1)."""
    half = SIZES[thing.size]
    if thing.form == "circle":
        inside = x**2 + y**2 <= half**2
    elif thing.form == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) <= 0.88 * half  # about the circle's area
    elif thing.form == "triangle":
        inside = (y <= 0.8 * half) & (np.abs(x) <= (y + half) * 0.58)
    else:
        arms = np.minimum(np.abs(x), np.abs(y)) <= 0.32 * half
        inside = arms & (np.maximum(np.abs(x), np.abs(y)) <= half)
    return np.asarray(inside, dtype=np.bool_)
