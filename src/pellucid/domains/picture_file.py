"""One picture file, decoded: upright, grey or RGB, at the size asked for, with a word on what had to be changed.

A file that is damaged says so and nothing more; one that claims to be enormous is refused before it is inflated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pellucid.core.errors import BadInput

__all__ = ["LARGEST_SIDE", "Colour", "Mode", "Pixels", "Seen", "decode", "is_picture", "sized"]

Colour = Literal["auto", "grey", "rgb"]
Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP")
LARGEST_PICTURE = 89_478_485  # pixels in one picture; where Pillow begins to suspect a decompression bomb
LARGEST_SIDE = 64  # pictures are not larger unless a size is asked for: small models on a CPU


class Mode(NamedTuple):
    """How to hand over one decoded picture."""

    colour: Colour
    fit: tuple[int, int] | None = None  # (height, width); None leaves the size alone
    small_only: bool = False  # decode only what needs no shrinking, so that a folder of small files is read once


@dataclass(kw_only=True)
class Seen:
    """One file of a folder: its size as it would be shown, what was done to it, and its pixels once decoded."""

    size: tuple[int, int] = (0, 0)
    done: list[str] = field(default_factory=list)
    pixels: Pixels | None = None  # (h, w) when grey, (h, w, 3) otherwise
    failed: bool = False


def is_picture(file: Path) -> bool:
    """Whether the first bytes are those of a PNG, JPEG or WebP file, whatever its name says."""
    try:
        with file.open("rb") as f:
            head = f.read(12)
    except OSError:  # not ours to read
        return False
    return head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def decode(file: Path, mode: Mode) -> Seen:
    """The picture in a file; with `small_only`, of a large one no more than its size."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            seen = Seen(size=_shown_size(image))
            large = max(seen.size) > LARGEST_SIDE
            if mode.small_only and large:
                return seen
            if mode.fit is not None and large:  # JPEG can be decoded at half size, a quarter, an eighth
                image.draft(None, (2 * max(mode.fit), 2 * max(mode.fit)))
            plain = _plain(image, seen.done)
            if mode.fit is not None and plain.size != mode.fit[::-1]:
                plain = ImageOps.fit(plain, mode.fit[::-1], Image.Resampling.LANCZOS)
            seen.pixels = _grey_if_grey(np.asarray(plain), mode.colour, seen.done)
            return seen
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadInput(
            f"the picture '{file.name}' claims to hold more than {LARGEST_PICTURE:,} pixels",
            why="A picture of that size is either broken or made to exhaust memory",
            next="Make it smaller or take it out of the folder",
        ) from error
    except Exception:  # Pillow's decoders raise many kinds of error on damaged bytes
        return Seen(failed=True)


def sized(file: Path, seen: Seen, mode: Mode) -> Seen:
    """The picture at its final size; one that was decoded already is only resized."""
    if seen.failed:
        return seen
    if seen.pixels is None:
        return decode(file, mode)
    assert mode.fit is not None
    if seen.pixels.shape[:2] != mode.fit:
        fitted = ImageOps.fit(Image.fromarray(seen.pixels), mode.fit[::-1], Image.Resampling.LANCZOS)
        seen.pixels = np.asarray(fitted)
    return seen


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) once the orientation noted by the camera is applied."""
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """1 upright; 2 to 8 mirrored or turned, from 5 on with the sides exchanged. Damaged metadata counts as upright."""
    try:
        found = image.getexif().get(0x0112, 1) if "exif" in image.info else 1
    except Exception:  # a picture is not refused for its metadata
        return 1
    return found if found in range(2, 9) else 1


def _plain(image: Image.Image, done: list[str]) -> Image.Image:
    """The picture upright, in mode L or RGB; `done` learns what had to be changed."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        done.append("animated, first frame taken")
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
        done.append("turned upright as the camera noted")
    if image.mode.startswith(("I", "F")):
        done.append("16-bit, divided by 257")
        return Image.fromarray((np.asarray(image, np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        done.append("transparent, laid on white")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    done.append({"1": "black and white", "P": "palette"}.get(image.mode, image.mode) + " converted")
    return image.convert("L" if image.mode == "1" else "RGB")


def _grey_if_grey(pixels: Pixels, colour: Colour, done: list[str]) -> Pixels:
    """(h, w) when the picture is grey or shall be, else (h, w, 3)."""
    if pixels.ndim == 2:
        return pixels
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        done.append("stored as RGB")
        return pixels[..., 0]
    return np.asarray(Image.fromarray(pixels).convert("L")) if colour == "grey" else pixels
