"""Pictures as they come: a folder, an array file or an idx pair becomes one uint8 array with its labels.

Everything that is inferred, converted or left out is said in a notice; what cannot be read honestly is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pellucid.core.errors import BadInput, nearest
from pellucid.core.run import Noticed
from pellucid.domains.arrays import as_uint8, label_texts, read_npy, read_npz
from pellucid.domains.caption_files import find_captions, without_words
from pellucid.domains.captions import caption_notices
from pellucid.domains.held import most_held, release, spilled
from pellucid.domains.idx import IDX, choose_idx, read_idx_pair
from pellucid.domains.picture_file import LARGEST_SIDE, Colour, Mode, Pixels, Seen, decode, is_picture, sized

__all__ = ["SUFFIXES", "Colour", "Pictures", "Size", "pictures_from_array", "read_pictures", "spread"]

Size = int | tuple[int, int] | None
T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_UNREADABLE = 0.1
CHUNK = 256  # pictures worked on at once where not all are held


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures of one size, read but not encoded.

    pixels: (N, H, W, C) uint8, C is 1 (grey) or 3 (RGB); values run from 0 to levels - 1.
    labels: N class names, or None when the pictures have no classes.
    captions: N sentences ("" where a picture has none), or None when no picture has one.
    levels: number of values a pixel can take (256; 17 for scikit-learn's digits).
    names: the file of each picture, or None when they came as an array.
    notices: what was inferred, converted or skipped while reading.
    source: a short label of where they came from.

    >>> black = Pictures(pixels=np.zeros((2, 4, 4, 1), np.uint8), labels=("b", "a"))
    >>> len(black), black.classes(), black.take([1]).labels
    (2, ('a', 'b'), ('a',))
    """

    pixels: Pixels
    labels: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    levels: int = 256
    names: tuple[str, ...] | None = None
    notices: tuple[Noticed, ...] = ()
    source: str = "array"

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise BadInput(
                f"pixels are {self.pixels.dtype} of shape {shape}",
                accepted="uint8 of shape (N, H, W, 1) or (N, H, W, 3)",
            )
        for name in ("labels", "captions", "names"):
            values = getattr(self, name)
            if values is not None and len(values) != shape[0]:
                raise BadInput(f"there are {len(values)} {name} for {shape[0]} pictures", accepted="one for each")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: NDArray[np.integer] | Sequence[int]) -> Pictures:
        """The pictures at these positions, in this order."""
        at = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            pixels=self.pixels[at],
            labels=None if self.labels is None else tuple(self.labels[i] for i in at),
            captions=None if self.captions is None else tuple(self.captions[i] for i in at),
            names=None if self.names is None else tuple(self.names[i] for i in at),
        )

    def shown(self) -> Pixels:
        """Pixels for display, 0 to 255: (N, H, W) when grey, (N, H, W, 3) when RGB.

        >>> Pictures(pixels=np.full((1, 1, 1, 1), 16, np.uint8), levels=17).shown().item()
        255
        """
        scale = (np.arange(256) * 255.0 / (self.levels - 1)).round().clip(0, 255).astype(np.uint8)
        pixels = self.pixels if self.levels == 256 else scale[self.pixels]
        return pixels[..., 0] if pixels.shape[3] == 1 else pixels

    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted; numerically when all are whole numbers. Empty without labels."""
        found = set(self.labels or ())
        if all(re.fullmatch(r"-?[0-9]+", label) for label in found):
            return tuple(sorted(found, key=int))
        return tuple(sorted(found))

    def fingerprint(self) -> str:
        """sha256 over shape, levels, pixels, labels and captions: equal for equal data, wherever it was read from."""
        digest = hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype} {self.levels}".encode())
        for at in range(0, len(self.pixels), CHUNK):  # a part at a time, as they may lie in a file
            digest.update(np.ascontiguousarray(self.pixels[at : at + CHUNK]).data)
            release(self.pixels)
        for label in self.labels or ():
            digest.update(f"{len(label)}:{label}".encode())
        for caption in self.captions or ():
            digest.update(f"caption {len(caption)}:{caption}".encode())
        return digest.hexdigest()

    def under(self) -> tuple[str, ...]:
        """What to write under each picture: its caption, else its class; empty when there are neither."""
        if self.captions is None:
            return self.labels or ()
        return tuple(
            caption or label for caption, label in zip(self.captions, self.labels or self.captions, strict=True)
        )


def read_pictures(
    path: str | os.PathLike[str],
    *,
    size: Size = None,
    colour: Colour = "auto",
    target: str | None = None,
    limit: int | None = None,
) -> Pictures:
    """Pictures from a folder (subfolders are classes), an `.npz` or `.npy` file, or MNIST's idx files.

    Captions are `.txt` files beside the pictures, a `metadata.csv` or `captions.csv` with the columns `file_name` and
    `text`, or the array `captions` of an `.npz`.

    Args:
        size: side of a square, or (height, width); None keeps equal pictures up to 64 and chooses a size otherwise.
        colour: "grey" or "rgb" converts; "auto" is grey when every picture is.
        target: name of the label array inside an `.npz`.
        limit: read so many, spread evenly over the set.

    Raises:
        BadInput: no pictures, damaged or enormous files, or arrays that are not pictures.
    """
    path = Path(path)
    height_width = _checked_size(size)
    if colour not in ("auto", "grey", "rgb"):
        raise BadInput(f"colour is {colour!r}", accepted="auto, grey, rgb", next=nearest(str(colour), ("grey", "rgb")))
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}", accepted="1 or more, or None for all pictures")
    if not path.exists():
        raise BadInput(f"there is nothing at '{path.name}'", accepted="a folder, .npz, .npy or idx file")
    if path.suffix.lower() in (".npz", ".npy") and path.is_file():
        raw, labels, captions, said = read_npz(path, target) if path.suffix.lower() == ".npz" else read_npy(path)
        return _from_array(raw, labels, height_width, colour, limit, said, path.name, captions)
    if target is not None:
        raise BadInput(
            f"target is '{target}' but '{path.name}' is not an .npz file",
            accepted="target for .npz files only",
            why="The classes of a folder are its subfolders, and idx files have their labels beside them",
        )
    if path.is_dir():
        idx = sorted(p.name for p in path.iterdir() if IDX.search(p.name) and p.is_file())
        if not idx:
            return _read_folder(path, height_width, colour, limit)
        path, said = choose_idx(path, idx)
    else:
        said = []
    raw, labels = read_idx_pair(path, said)
    return _from_array(raw, labels, height_width, colour, limit, said, path.name)


def pictures_from_array(
    array: NDArray[np.generic],
    labels: Sequence[object] | None = None,
    *,
    captions: Sequence[str] | None = None,
    size: Size = None,
    colour: Colour = "auto",
    limit: int | None = None,
    source: str = "array",
) -> Pictures:
    """Pictures from an array (N, H, W) or (N, H, W, C): uint8, or floats from 0 to 1 or from 0 to 255."""
    texts = None if labels is None else label_texts(np.asarray(labels), "labels", len(array))
    said = None if captions is None else label_texts(np.asarray(captions), "captions", len(array), "captions")
    return _from_array(np.asarray(array), texts, _checked_size(size), colour, limit, [], source, said)


def spread(count: int, limit: int | None) -> NDArray[np.int64]:
    """Positions of `limit` of `count` items, evenly spread, so that a set sorted by class keeps its classes.

    >>> spread(10, 4).tolist(), spread(3, 9).tolist()
    ([0, 2, 5, 7], [0, 1, 2])
    """
    if limit is None or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit


def _checked_size(size: Size) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, int) and 1 <= s <= 1024 for s in pair):
        raise BadInput(f"size is {size}", accepted="a side or (height, width), each from 1 to 1024 pixels")
    return pair[0], pair[1]


# ---------------------------------------------------------------------------------------------------- folders


def _read_folder(root: Path, size: tuple[int, int] | None, colour: Colour, limit: int | None) -> Pictures:
    files, linked = _files(root)
    said = [] if not linked else [_say("links", f"{_n(linked, 'symbolic link')} not followed", linked)]
    named = [f for f in files if f.lower().endswith(SUFFIXES) or is_picture(root / f)]
    others = sorted(set(files) - set(named))
    captions, used, written = find_captions(root, named, others)
    others = [f for f in others if f not in used]
    if others:
        kinds = Counter(Path(f).suffix.lower() or Path(f).name for f in others).most_common(4)
        text = f"{_n(len(others), 'file')} ignored that are not PNG, JPEG or WebP: {_counts(kinds)}"
        said.append(_say("ignored", text, len(others)))
    if not named:
        raise BadInput(
            f"the folder '{root.name}' holds no pictures" + (f" ({said[-1].text})" if said else ""),
            accepted="PNG, JPEG or WebP pictures, in the folder or in one subfolder per class",
        )
    chosen = [named[i] for i in spread(len(named), limit)]
    if len(chosen) < len(named):
        said.append(_say("limit", f"{len(chosen):,} of {len(named):,} pictures read, evenly spread", len(chosen)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # about metadata that plays no part here
        large = _bytes_of(len(chosen), size or (LARGEST_SIDE, LARGEST_SIDE)) > most_held()

        def first(file: str) -> Seen:
            return decode(root / file, Mode(colour, size, small_only=size is None))

        seen = _each(lambda file: _looked_at(first(file), large), chosen)
        sizes = Counter(s.size for s in seen if not s.failed)
        shape = size or (_choose_size(sizes) if sizes else (1, 1))
        pairs = list(zip(chosen, seen, strict=True))
        spill = _Spill(len(chosen), shape, colour) if large else None
        seen = []
        for at in range(0, len(pairs), CHUNK):
            part = pairs[at : at + CHUNK]
            if spill is not None:  # seen once more, in the very same way
                part = [(f, s) for (f, _), s in zip(part, _each(lambda p: first(p[0]), part), strict=True)]
            found = _each(lambda pair: sized(root / pair[0], pair[1], Mode(colour, shape)), part)
            seen += found if spill is None else [spill.keep(one) for one in found]
    pixels_of = {file: s.pixels for file, s in zip(chosen, seen, strict=True) if s.pixels is not None}
    _check_unreadable(root, [f for f in chosen if f not in pixels_of], len(chosen), said)
    good = [s for s in seen if s.pixels is not None]
    said += _folder_notices(good, shape)
    labels = _folder_labels(list(pixels_of), said)
    texts = tuple(captions.get(file, "") for file in pixels_of) if any(captions.values()) else None
    if texts is not None:
        said += [*caption_notices(texts, written), *without_words(list(pixels_of), captions)]
    arrays = list(pixels_of.values())
    rgb = colour == "rgb" or any(a.ndim == 3 for a in arrays)
    if spill is not None:
        pixels = spill.pixels(rgb)
        text = (
            f"the pictures take {pixels.nbytes / 2**20:,.0f} MB and lie in a file; PELLUCID_DATA_MEMORY sets the limit"
        )
        said.append(_say("memory", text, len(pixels)))
    else:
        pixels = np.empty((len(arrays), *shape, 3 if rgb else 1), np.uint8)
        for i, one in enumerate(arrays):
            pixels[i] = one if one.ndim == 3 else one[..., None]
    said += _grey_notices(good, rgb) if colour == "auto" else []
    source = root.resolve().name
    return Pictures(
        pixels=pixels,
        labels=labels,
        captions=texts,
        names=tuple(pixels_of),
        notices=tuple(said),
        source=source,
    )


class _Spill:
    """The pictures of a large folder, written to a file as they are decoded."""

    def __init__(self, count: int, shape: tuple[int, int], colour: Colour) -> None:
        self._rows = spilled((count, *shape, 1 if colour == "grey" else 3), np.uint8)
        self._count = 0

    def keep(self, seen: Seen) -> Seen:
        """Write the pixels down; of them only the number of axes stays in memory."""
        if seen.pixels is not None:
            self._rows[self._count] = seen.pixels if seen.pixels.ndim == 3 else seen.pixels[..., None]
            seen.pixels = np.empty((0,) * seen.pixels.ndim, np.uint8)
            self._count += 1
            if self._count % CHUNK == 0:
                release(self._rows)
        return seen

    def pixels(self, rgb: bool) -> Pixels:
        """(N, H, W, C) of all that were kept."""
        release(self._rows)
        return self._rows[: self._count] if rgb else self._rows[: self._count, ..., :1]


def _looked_at(seen: Seen, large: bool) -> Seen:
    """What is known of a file before the size of all is chosen; of a large folder its pixels are not kept."""
    if large:
        seen.pixels = None
    return seen


def _bytes_of(count: int, shape: tuple[int, int]) -> int:
    """At most: in colour."""
    return 3 * count * shape[0] * shape[1]


def _files(root: Path) -> tuple[list[str], int]:
    """Files under root relative to it, sorted, and how many links were left alone because they lead elsewhere."""
    inside, linked, found = root.resolve(), 0, []
    for folder, subfolders, names in os.walk(root, followlinks=False):
        linked += sum(os.path.islink(os.path.join(folder, s)) for s in subfolders)
        subfolders[:] = [s for s in subfolders if s != "__MACOSX"]
        top = Path(folder).relative_to(root).as_posix()
        for name in names:
            file = os.path.join(folder, name)
            if os.path.islink(file) and not Path(file).resolve().is_relative_to(inside):
                linked += 1
            elif os.path.isfile(file):
                found.append(name if top == "." else f"{top}/{name}")
    return sorted(found), linked


def _choose_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The one size there is, the most common small and nearly square one, or a square no larger than 64."""
    most = sizes.most_common(1)[0][0]
    if max(most) <= LARGEST_SIDE and (len(sizes) == 1 or max(most) <= 1.25 * min(most)):
        return most
    side = min(LARGEST_SIDE, int(np.median([min(s) for s in sizes.elements()])))
    side = side // 4 * 4 or side
    return side, side


def _check_unreadable(root: Path, failed: list[str], total: int, said: list[Noticed]) -> None:
    if not failed:
        return
    first = ", ".join(f"'{f}'" for f in failed[:3]) + (", ..." if len(failed) > 3 else "")
    if len(failed) > MOST_UNREADABLE * total:
        raise BadInput(
            f"{len(failed):,} of {total:,} pictures in '{root.name}' cannot be read: {first}",
            accepted=f"at most {MOST_UNREADABLE:.0%} unreadable pictures",
            why="They are cut short, damaged, or not PNG, JPEG or WebP inside",
            next="Copy the folder again, or take these files out",
        )
    said.append(_say("skipped", f"{_n(len(failed), 'unreadable picture')} skipped: {first}", len(failed)))


def _folder_notices(seen: list[Seen], shape: tuple[int, int]) -> list[Noticed]:
    said = []
    done = Counter(what for s in seen for what in s.done if what != "stored as RGB")
    if done:
        said.append(_say("converted", f"pictures converted: {_counts(done.most_common())}", sum(done.values())))
    changed = Counter(s.size for s in seen if s.size != shape)
    if changed:
        said.append(_resized(changed, shape))
    return said


def _grey_notices(seen: list[Seen], rgb: bool) -> list[Noticed]:
    grey = sum(s.pixels is not None and s.pixels.ndim == 2 for s in seen)
    stored = sum("stored as RGB" in s.done for s in seen)
    if rgb and grey:
        text = f"{_n(grey, 'grey picture')} among {len(seen) - grey:,} coloured: all read as RGB"
        return [_say("grey", text, grey)]
    if stored and not rgb:
        return [_say("grey", f"all pictures are grey, {stored:,} of them stored as RGB: read as grey", stored)]
    return []


def _folder_labels(files: list[str], said: list[Noticed]) -> tuple[str, ...] | None:
    """The first subfolder of each picture, unless that tells nothing or not all have one."""
    tops = [f.partition("/")[0] if "/" in f else "" for f in files]
    counts = Counter(tops)
    if set(counts) == {""}:
        return None
    if "" in counts:
        text = f"no classes: {counts['']:,} pictures lie beside the subfolders, {len(tops) - counts['']:,} inside them"
        said.append(_say("classes", text, 0))
        return None
    if len(counts) == 1:
        said.append(_say("classes", f"no classes: all pictures lie in the one subfolder '{tops[0]}'", 0))
        return None
    text = f"{len(counts)} classes from subfolders: {_counts(sorted(counts.items()))}"
    said.append(_say("classes", text, len(counts)))
    return tuple(tops)


# ----------------------------------------------------------------------------------------------------- arrays


def _from_array(
    raw: NDArray[np.generic],
    labels: tuple[str, ...] | None,
    size: tuple[int, int] | None,
    colour: Colour,
    limit: int | None,
    said: list[Noticed],
    source: str,
    captions: tuple[str, ...] | None = None,
) -> Pictures:
    if raw.ndim < 3 or not len(raw):
        raise BadInput(
            f"the array of '{source}' has shape {raw.shape}",
            accepted="one or more pictures: (N, H, W), (N, H, W, 1) or (N, H, W, 3)",
            next="One picture alone is array[None]" if raw.ndim == 2 else "",
        )
    if raw.ndim == 4 and raw.shape[1] in (1, 3) and raw.shape[3] not in (1, 3, 4):
        raw = np.moveaxis(raw, 1, 3)
        said.append(_say("channels", f"the channels came first and were moved last, to {raw.shape}"))
    raw = raw[..., None] if raw.ndim == 3 else raw
    if raw.ndim != 4 or raw.shape[3] not in (1, 3, 4) or 0 in raw.shape:
        raise BadInput(
            f"the array of '{source}' has shape {raw.shape}",
            accepted="(N, H, W), (N, H, W, 1) or (N, H, W, 3), with one picture or more",
        )
    at = spread(len(raw), limit)
    if len(at) < len(raw):
        said.append(_say("limit", f"{len(at):,} of {len(raw):,} pictures read, evenly spread", len(at)))
        raw, labels = raw[at], None if labels is None else tuple(labels[i] for i in at)
        captions = None if captions is None else tuple(captions[i] for i in at)
    pixels = as_uint8(raw, source, said)
    if pixels.shape[3] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        said.append(_say("converted", "transparent pictures were laid on white", len(pixels)))
    if pixels.shape[3] == 3 and colour == "auto" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
        said.append(_say("grey", f"all {len(pixels):,} pictures are grey but stored as RGB: read as grey", len(pixels)))
    found = (pixels.shape[1], pixels.shape[2])
    shape = size or _choose_size(Counter({found: len(pixels)}))
    to_grey = colour == "grey" and pixels.shape[3] == 3
    if to_grey or shape != found:
        pixels = np.stack(_each(lambda one: _refit(one, shape, to_grey), list(pixels)))
    if shape != found:
        said.append(_resized(Counter({found: len(pixels)}), shape))
    if colour == "rgb" and pixels.shape[3] == 1:
        pixels = np.repeat(pixels, 3, axis=3)
    captions = captions if captions is not None and any(caption.strip() for caption in captions) else None
    said += [] if captions is None else caption_notices(captions, "the array")
    return Pictures(
        pixels=np.ascontiguousarray(pixels), labels=labels, captions=captions, notices=tuple(said), source=source
    )


def _refit(one: Pixels, shape: tuple[int, int], to_grey: bool) -> Pixels:
    image = Image.fromarray(one[..., 0] if one.shape[2] == 1 else one)
    image = image.convert("L") if to_grey else image
    fitted = np.asarray(ImageOps.fit(image, shape[::-1], Image.Resampling.LANCZOS))
    return fitted if fitted.ndim == 3 else fitted[..., None]


# ---------------------------------------------------------------------------------------------------- wording


def _each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Two threads: Pillow decodes without holding the interpreter, and more would starve a small machine."""
    parts = [items[i : i + 64] for i in range(0, len(items), 64)]
    with ThreadPoolExecutor(2) as pool:
        return [one for part in pool.map(lambda part: [work(item) for item in part], parts) for one in part]


def _say(topic: str, text: str, count: int | None = None) -> Noticed:
    return Noticed(topic=topic, text=text, count=count)


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(pairs: Iterable[tuple[str, int]], most: int = 10) -> str:
    listed = list(pairs)
    text = ", ".join(f"{name} ({count:,})" for name, count in listed[:most])
    return text if len(listed) <= most else f"{text} and {len(listed) - most} more"


def _resized(changed: Counter[tuple[int, int]], shape: tuple[int, int]) -> Noticed:
    """Sizes are written width x height, as people do."""
    total = changed.total()
    sizes = _counts([(f"{w}x{h}", n) for (h, w), n in changed.most_common()], most=3)
    text = f"{_n(total, 'picture')} cropped at the centre and resized to {shape[1]}x{shape[0]}; they were {sizes}"
    return _say("resized", text + "; size changes it", total)
