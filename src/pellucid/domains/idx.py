"""The idx files that MNIST and its kin come in: unsigned bytes behind a short header, labels in a file beside them."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pellucid.core.errors import BadInput
from pellucid.core.run import Noticed
from pellucid.domains.arrays import check_bytes, label_texts

__all__ = ["IDX", "choose_idx", "read_idx_pair"]

IDX = re.compile(r"idx[13][-.]ubyte(\.gz)?$")


def choose_idx(folder: Path, names: list[str]) -> tuple[Path, list[Noticed]]:
    """The one file of images among the idx files of a folder; the training set where a test set lies beside it."""
    images = [n for n in names if "idx3" in n]
    train = [n for n in images if n.startswith("train")]
    chosen = train or images
    if len({n.removesuffix(".gz") for n in chosen}) != 1:
        raise BadInput(
            f"the folder '{folder.name}' holds {', '.join(names)}",
            accepted="one file of images, or one whose name begins with train",
            next="Name the file of images itself",
        )
    text = f"read from '{chosen[0]}', of {len(names)} idx files in the folder"
    return folder / chosen[0], [Noticed(topic="idx", text=text, count=len(names))]


def read_idx_pair(path: Path, said: list[Noticed]) -> tuple[NDArray[np.uint8], tuple[str, ...] | None]:
    """Pixels (N, H, W) of a file of images, and the labels of the file beside it where there is one."""
    pixels = _read_idx(path, 3)
    plain = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = next((p for p in (path.with_name(plain), path.with_name(plain + ".gz")) if p.is_file()), None)
    if beside is None or beside.name == path.name:
        text = f"no labels: there is no '{plain}' or '{plain}.gz' beside it"
        said.append(Noticed(topic="labels", text=text, count=0))
        return pixels, None
    said.append(Noticed(topic="labels", text=f"labels from '{beside.name}'", count=len(pixels)))
    return pixels, label_texts(_read_idx(beside, 1), beside.name, len(pixels))


def _read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """Unsigned bytes of an idx file: 0, 0, type 8, number of dimensions, then each size as 4 bytes, big end first."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if zipped else file  # type: ignore[assignment]
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] != dims:
                raise BadInput(
                    f"'{path.name}' begins with the bytes {magic.hex(' ') or '(none)'}",
                    accepted=f"an idx file of {'images' if dims == 3 else 'labels'}: 00 00 08 0{dims}",
                    next="This is a file of labels: name the images" if dims == 3 and magic == b"\0\0\x08\1" else "",
                )
            sizes = stream.read(4 * dims)
            if len(sizes) < 4 * dims:
                raise EOFError("its header has no end")
            shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
            size = int(np.prod(shape, dtype=object))
            check_bytes(path, size)
            content = stream.read(size + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise BadInput(
            f"'{path.name}' is cut short or damaged ({error})", accepted="a whole idx file", next="Copy it again"
        ) from error
    if len(content) != size:
        came = "more" if len(content) > size else f"{len(content):,}"
        raise BadInput(f"'{path.name}' holds {came} bytes, its header says {shape}", accepted=f"{size:,} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape)
