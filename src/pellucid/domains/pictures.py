"""Pictures as they come: a folder, an array file or an idx pair becomes one uint8 array, its labels, and what was noticed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.run import Noticed

__all__ = ["Pictures"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures of one size, read but not encoded.

    pixels: (N, H, W, C) uint8, C is 1 (grey) or 3 (RGB); values run from 0 to levels - 1.
    labels: N class names, or None when the pictures have no classes.
    levels: number of values a pixel can take (256; 17 for scikit-learn's digits).
    names: the file of each picture, or None when they came as an array.
    notices: what was inferred, converted or skipped while reading.
    source: a short label of where they came from.

    >>> black = Pictures(pixels=np.zeros((2, 4, 4, 1), np.uint8), labels=("b", "a"))
    >>> len(black), black.classes(), black.take([1]).labels
    (2, ('a', 'b'), ('a',))
    """

    pixels: NDArray[np.uint8]
    labels: tuple[str, ...] | None = None
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
        for field in ("labels", "names"):
            values = getattr(self, field)
            if values is not None and len(values) != shape[0]:
                raise BadInput(f"there are {len(values)} {field} for {shape[0]} pictures", accepted="one for each picture")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: NDArray[np.integer] | list[int]) -> Pictures:
        """The pictures at these positions, in this order."""
        at = np.asarray(index, dtype=np.int64)
        return replace(
            self,
            pixels=self.pixels[at],
            labels=None if self.labels is None else tuple(self.labels[i] for i in at),
            names=None if self.names is None else tuple(self.names[i] for i in at),
        )

    def shown(self) -> NDArray[np.uint8]:
        """Pixels for display, 0 to 255: (N, H, W) when grey, (N, H, W, 3) when RGB."""
        scale = (np.arange(256) * 255.0 / (self.levels - 1)).round().clip(0, 255).astype(np.uint8)
        pixels = self.pixels if self.levels == 256 else scale[self.pixels]
        return pixels[..., 0] if pixels.shape[3] == 1 else pixels

    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted; numerically when all are whole numbers. Empty without labels."""
        found = set(self.labels or ())
        if all(label.lstrip("-").isdecimal() for label in found):
            return tuple(sorted(found, key=int))
        return tuple(sorted(found))

    def fingerprint(self) -> str:
        """sha256 over shape, levels, pixels and labels: equal for equal data, wherever it was read from."""
        digest = hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype} {self.levels}".encode())
        digest.update(np.ascontiguousarray(self.pixels))
        for label in self.labels or ():
            digest.update(f"{len(label)}:{label}".encode())
        return digest.hexdigest()
