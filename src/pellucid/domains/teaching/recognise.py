"""What stands in a picture of one shape, by the rules that drew it: the inverse of `shapes`, without any learning.

For each colour, the share of each pixel that it covers is read off; for each form and size, the shape is put where the
covered pixels have their centre and drawn again. What redraws the picture best is what stands in it.

The generator looks at 4 x 4 points of a pixel, so squares and crosses look the same wherever their edges fall between
the same points: a centre is known to half the distance of two points, an eighth of a pixel, and a thing so near to the
border of two places counts for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.domains.teaching.shapes import BACKGROUND, COLOURS, FINE, FORMS, SIZES, Thing, cover_of

__all__ = ["Judged", "judge", "recognise"]

FAINT = 0.2  # covered shares below this are noise of the background and do not move the centre
WORST = 0.3  # share of the shape's own contrast that redrawing may miss; real pictures miss less than 0.02
STEPS = (0.01, 0.006, 0.004, 0.0025, 0.0015)  # of the picture's side

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Which of N pictures are as their captions say: (N,) bool each; a picture without one clear shape is wrong."""

    colour: NDArray[np.bool_]
    form: NDArray[np.bool_]
    place: NDArray[np.bool_]
    size: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Colour, form and place."""
        return np.asarray(self.colour & self.form & self.place, dtype=np.bool_)


def judge(pixels: NDArray[np.uint8], wanted: Sequence[Thing]) -> Judged:
    """Compare pictures (N, H, H, 3) with the things that were asked for, one each.

    Of a wish's x and y only the place in words counts, such as "top left", to an eighth of a pixel.

    >>> from pellucid.domains.teaching.shapes import shapes
    >>> made = shapes(5, seed=2)
    >>> judge(made.pictures.pixels, [group[0] for group in made.things]).right.all()
    np.True_
    """
    if len(pixels) != len(wanted):
        raise BadInput(f"there are {len(pixels)} pictures and {len(wanted)} wishes", accepted="one wish a picture")
    seen = recognise(pixels)
    pairs, near = list(zip(seen, wanted, strict=True)), 0.5 / (FINE * max(1, pixels.shape[1]))
    return Judged(
        colour=np.array([s is not None and s.colour == w.colour for s, w in pairs], dtype=np.bool_),
        form=np.array([s is not None and s.form == w.form for s, w in pairs], dtype=np.bool_),
        place=np.array([s is not None and w.place() in _places(s, near) for s, w in pairs], dtype=np.bool_),
        size=np.array([s is not None and s.size == w.size for s, w in pairs], dtype=np.bool_),
    )


def _places(thing: Thing, near: float) -> set[str]:
    """The places that a centre may lie in which is known to `near`."""
    around = [(thing.x + a * near, thing.y + b * near) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    return {replace(thing, x=x, y=y).place() for x, y in around if min(x, y) >= 0.0 and max(x, y) <= 1.0}


def recognise(pixels: NDArray[np.uint8]) -> tuple[Thing | None, ...]:
    """The shape in each picture (N, H, H, 3) uint8, or None where no single shape redraws it well enough."""
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise BadInput(f"pixels have shape {pixels.shape}", accepted="(N, H, H, 3)")
    return tuple(_one(picture.astype(np.float64)) for picture in pixels)


def _one(picture: Numbers) -> Thing | None:
    """picture (H, H, 3), 0 to 255."""
    best: tuple[float, Thing] | None = None
    ground = np.array(BACKGROUND, dtype=np.float64)
    away = picture - ground
    for colour, levels in COLOURS.items():
        direction = np.array(levels, dtype=np.float64) - ground
        covered = (away @ direction / (direction @ direction)).clip(0.0, 1.0)  # (H, H)
        contrast = float(direction @ direction)
        stray = float(np.square(away - covered[..., None] * direction).sum())  # what is of another colour
        if best is not None and stray > best[0] * contrast * np.square(covered).sum():
            continue
        for form in FORMS:
            for size in SIZES:
                thing, drawn = _placed(covered, form, colour, size)
                if thing is None:
                    continue
                miss = float(np.square(away - drawn[..., None] * direction).sum()) / (contrast * np.square(drawn).sum())
                if best is None or miss < best[0]:
                    best = miss, thing
    return None if best is None or best[0] > WORST else _refined(best[1], away)


def _refined(thing: Thing, away: Numbers) -> Thing:
    """The same shape, moved by ever smaller steps to where it redraws the picture best."""
    direction = np.array(COLOURS[thing.colour], dtype=np.float64) - np.array(BACKGROUND, dtype=np.float64)

    def miss(x: float, y: float) -> float:
        drawn = cover_of(replace(thing, x=x, y=y), away.shape[0])
        return float(np.square(away - drawn[..., None] * direction).sum())

    x, y, least = thing.x, thing.y, miss(thing.x, thing.y)
    for step in STEPS:
        around = [(x + a * step, y + b * step) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
        for at in around:
            if min(at) >= 0.0 and max(at) <= 1.0 and (found := miss(*at)) < least:
                least, (x, y) = found, at
    return replace(thing, x=x, y=y)


def _placed(covered: Numbers, form: str, colour: str, size: str) -> tuple[Thing | None, Numbers]:
    """The shape where its covered pixels (H, H) have their centre, and what it then covers."""
    target = _centre(covered)
    if target is None:
        return None, covered
    x, y = target
    thing, drawn = None, covered
    for _ in range(2):  # the centre of what is drawn is not the centre of the shape: a triangle's lies lower
        thing = Thing(form=form, colour=colour, size=size, x=min(1.0, max(0.0, x)), y=min(1.0, max(0.0, y)))
        drawn = cover_of(thing, covered.shape[0])
        found = _centre(drawn)
        if found is None:
            return None, covered
        x, y = x + target[0] - found[0], y + target[1] - found[1]
    return thing, drawn


def _centre(covered: Numbers) -> tuple[float, float] | None:
    """x and y from 0 to 1, weighted by what is covered; None when nothing is."""
    weight = (covered - FAINT).clip(0.0) / (1.0 - FAINT)
    total = float(weight.sum())
    if total < 1.0:  # less than one pixel
        return None
    at = (np.arange(covered.shape[0]) + 0.5) / covered.shape[0]
    return float(weight.sum(axis=0) @ at / total), float(weight.sum(axis=1) @ at / total)
