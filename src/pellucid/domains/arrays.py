"""Arrays of pictures in .npz and .npy files, with their labels.

Headers are read before contents, so that a small file that claims to be enormous is refused before it is inflated,
and so are arrays of Python objects, which only a pickle can hold.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed

__all__ = ["Raw", "as_uint8", "check_bytes", "label_texts", "read_npy", "read_npz"]

LARGEST_ARRAY = 8 * 2**30  # bytes of one array once inflated
CAPTIONS = ("captions", "caption", "texts", "text")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
IMAGES = ("images", "train_images", "x_train", "x", "train_x", "image", "pixels", "data", "arr_0")


class Raw(NamedTuple):
    """Pictures as an array, the label and the caption of each where there are any, and what was noticed."""

    array: NDArray[np.generic]
    labels: tuple[str, ...] | None
    captions: tuple[str, ...] | None
    said: list[Noticed]


def read_npz(path: Path, target: str | None) -> Raw:
    """The array of pictures of an .npz file, with labels and captions where arrays of them are found."""
    damaged = BadInput(f"'{path.name}' is not an .npz file, or is damaged", accepted="what numpy.savez writes")
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {i.filename.removesuffix(".npy"): _header(archive.open(i)) for i in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise damaged from error
    images = [n for n, (shape, dtype) in headers.items() if len(shape) in (3, 4) and dtype.kind in "uifb"]
    known = {n.lower(): n for n in images}
    name = next((known[n] for n in IMAGES if n in known), images[0] if len(images) == 1 else None)
    listing = ", ".join(f"{n} {dtype} {shape}" for n, (shape, dtype) in headers.items())
    if name is None:
        raise BadInput(
            f"'{path.name}' holds {listing or 'no arrays'}",
            accepted="pictures in an array named images, x, x_train or train_images: (N, H, W) or (N, H, W, C)",
        )
    if target is not None and target not in headers:
        raise BadInput(f"'{path.name}' has no array '{target}'", accepted=listing, next=nearest(target, headers))
    swaps = (name.replace("images", "labels"), name.replace("x", "y"), name.replace("X", "y"), *LABELS)
    label = target or next((s for s in swaps if s != name and s in headers), None)
    caption = next((c for c in CAPTIONS if c in headers and c != label and headers[c][1].kind in "USO"), None)
    for wanted in filter(None, (name, label, caption)):
        shape, dtype = headers[wanted]
        if dtype.hasobject:
            raise _pickled(path, wanted)
        check_bytes(path, int(np.prod(shape, dtype=object)) * dtype.itemsize)
    try:
        with np.load(path, allow_pickle=False) as archive:
            raw, found = archive[name], archive[label] if label else None
            sentences = archive[caption] if caption else None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError) as error:
        raise damaged from error
    text = f"{len(raw):,} pictures from the array '{name}'" + (f", labels from '{label}'" if label else ", no labels")
    said = [Noticed(topic="array", text=text, count=len(raw))]
    unused = [n for n in images if n != name]
    if unused:
        said.append(Noticed(topic="ignored", text=f"not read: {', '.join(unused)}", count=len(unused)))
    labels = None if found is None else label_texts(found, label or "", len(raw))
    captions = None if sentences is None else label_texts(sentences, caption or "", len(raw), "captions")
    return Raw(raw, labels, captions, said)


def read_npy(path: Path) -> Raw:
    """The one array of an .npy file, without labels, captions and notices."""
    try:
        with path.open("rb") as file:
            shape, dtype = _header(file)
        if dtype.hasobject:
            raise _pickled(path, path.stem)
        check_bytes(path, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        return Raw(np.load(path, allow_pickle=False), None, None, [])
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, BadInput):
            raise
        came = f"'{path.name}' is not an .npy file, or is damaged"
        raise BadInput(came, accepted="what numpy.save writes") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype of an .npy stream, without its contents."""
    with file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except Exception as error:  # a damaged header can fail in any way that Python's own parser can
            raise ValueError("its header cannot be read") from error
    return shape, dtype


def _pickled(path: Path, name: str) -> BadInput:
    return BadInput(
        f"the array '{name}' of '{path.name}' holds Python objects",
        accepted="arrays of numbers or text",
        why="Objects are stored as pickle, which can run code when it is read",
    )


def check_bytes(path: Path, size: int) -> None:
    """Refuse what claims to be larger than any set of pictures that is meant to be held in memory."""
    if size > LARGEST_ARRAY:
        raise BadInput(
            f"'{path.name}' claims to hold {size / 2**30:.1f} GB once unpacked",
            accepted=f"at most {LARGEST_ARRAY / 2**30:.0f} GB",
            why="It would not fit into memory, or is made to exhaust it",
        )


def label_texts(values: NDArray[np.generic], name: str, count: int, what: str = "labels") -> tuple[str, ...]:
    """Labels (or captions) as text, one a picture; whole numbers lose their point, so that 3.0 is the class "3"."""
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (count,):
        raise BadInput(
            f"the {what} '{name}' have shape {values.shape} for {count:,} pictures",
            accepted=f"one for each: ({count},)",
            next="Rows of zeros and one 1 become labels with array.argmax(1)" if values.ndim == 2 else "",
        )
    if values.dtype.kind == "f" and (values == np.round(values.astype(np.float64))).all():
        values = values.astype(np.int64)
    if values.dtype.kind == "S":
        return tuple(v.decode("utf-8", "replace") for v in values.tolist())
    return tuple(str(v) for v in values.tolist())


def as_uint8(raw: NDArray[np.generic], source: str, said: list[Noticed]) -> NDArray[np.uint8]:
    """Bytes as they are; floats from 0 to 1 or from 0 to 255 rounded to 256 levels, which `said` learns."""
    if raw.dtype == np.uint8:
        return raw.view(np.uint8)
    accepted = "uint8, or floats from 0 to 1 or from 0 to 255"
    if raw.dtype.kind != "f":
        raise BadInput(
            f"the array of '{source}' is {raw.dtype}",
            accepted=accepted,
            why="Other types do not say which value is white",
            next="Scale it to 0..255 and save it with .astype('uint8')",
        )
    low, high = float(raw.min()), float(raw.max())
    if not (low >= 0 and high <= 255):  # also false for NaN
        raise BadInput(
            f"the array of '{source}' is {raw.dtype} with values from {low:g} to {high:g}",
            accepted=accepted,
            next="Values from -1 to 1 become (x + 1) / 2",
        )
    unit = high <= 1
    text = f"{raw.dtype} values from 0 to {'1' if unit else '255'} rounded to 256 levels"
    said.append(Noticed(topic="converted", text=text, count=len(raw)))
    scaled = raw.astype(np.float32) * (255 if unit else 1)
    return scaled.round().astype(np.uint8)
