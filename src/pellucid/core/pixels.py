"""Pictures as small PNG files, and many pictures laid out as one."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["data_uri", "from_png", "png", "sheet"]


def png(image: NDArray[np.uint8]) -> bytes:
    """PNG of one picture (H, W) or (H, W, 3), grey or with a palette where nothing is lost by it.

    >>> import numpy
    >>> grey = numpy.arange(64, dtype=numpy.uint8).reshape(8, 8)
    >>> png(numpy.stack([grey] * 3, axis=-1)) == png(grey)
    True
    """
    import numpy as np
    from PIL import Image

    if image.ndim == 3 and bool((image == image[..., :1]).all()):
        image = image[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(image))
    if image.ndim == 3:
        colours, codes = np.unique(image.reshape(-1, 3) @ np.array([65536, 256, 1]), return_inverse=True)
        if len(colours) <= min(256, codes.size // 2):
            picture = Image.fromarray(codes.astype(np.uint8).reshape(image.shape[:2]))
            picture.putpalette(b"".join(int(colour).to_bytes(3) for colour in colours))
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def data_uri(image: NDArray[np.uint8]) -> str:
    """The picture inside an address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")


def from_png(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The picture of a PNG, refused before it is unpacked when it is not of the shape (H, W) or (H, W, 3).

    Raises:
        ValueError: not a PNG, or of another size.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.size != (shape[1], shape[0]):
                raise ValueError(f"the PNG is {picture.size[1]} by {picture.size[0]}, not {shape[0]} by {shape[1]}")
            return np.array(picture.convert("L" if len(shape) == 2 else "RGB"))
    except Exception as error:  # a damaged file can fail in as many ways as the format has parts
        raise ValueError(f"not a whole PNG: {error}") from error


def sheet(images: NDArray[np.uint8], columns: int, *, gap: int = 1, ground: int = 255) -> NDArray[np.uint8]:
    """Pictures (N, H, W) or (N, H, W, 3) laid out in rows as one picture, `gap` pixels of `ground` between them.

    >>> import numpy
    >>> sheet(numpy.zeros((5, 8, 8), numpy.uint8), columns=3).shape
    (17, 26)
    """
    import numpy as np

    n, height, width = images.shape[:3]
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    size = (max(0, rows * (height + gap) - gap), max(0, columns * (width + gap) - gap))
    out = np.full(size + images.shape[3:], ground, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        out[top : top + height, left : left + width] = image
    return out
