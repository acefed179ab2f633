"""Generated sets as a user's files would be: a folder of pictures by class, or a table, with the truth beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pellucid.core.errors import BadInput, nearest
from pellucid.domains.frames import TableData
from pellucid.domains.teaching.causal import GRAPHS, causal_table
from pellucid.domains.teaching.mixtures import mixture_table
from pellucid.domains.teaching.shapes import shapes

__all__ = ["SETS", "write"]


def write(name: str, out_dir: str | Path, n: int = 2000, seed: int = 0) -> Path:
    """Write n items of a set into a new folder and return it.

    shapes: one subfolder of PNGs a class, captions.csv, and masks.npz with the name of each picture.
    loans, linear: a .csv and the causal graph as .json. mixture: a .csv and its weights, means and covariances.

    Raises:
        BadInput: an unknown set, or a folder that exists.
    """
    if name not in SETS:
        raise BadInput(f"the set is '{name}'", accepted=", ".join(SETS), next=nearest(name, SETS))
    if n < 1:
        raise BadInput(f"n is {n}", accepted="1 or more")
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise BadInput(f"'{folder}' exists", accepted="a new folder", why="nothing is written over") from error
    SETS[name](name, folder, n, seed)
    return folder


def _shapes(name: str, folder: Path, n: int, seed: int) -> None:
    made = shapes(n, seed)
    files = []
    for i, (pixels, label) in enumerate(zip(made.pictures.pixels, made.pictures.labels or (), strict=True)):
        file = Path(label) / f"{i:06d}.png"
        (folder / label).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / file)
        files.append(file.as_posix())
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "caption"), *zip(files, made.captions, strict=True)])
    np.savez_compressed(folder / "masks.npz", masks=made.masks, files=np.array(files))


def _causal(name: str, folder: Path, n: int, seed: int) -> None:
    made = causal_table(name, n, seed)
    _table(made.data, folder / f"{name}.csv")
    _json(made.graph.plain(), folder / f"{name}.json")


def _mixture(name: str, folder: Path, n: int, seed: int) -> None:
    made = mixture_table(n, seed)
    _table(made.data, folder / f"{name}.csv")
    mixture = made.mixture
    truth = {
        "names": list(mixture.names),
        "weights": mixture.weights.tolist(),
        "means": mixture.means.tolist(),
        "covariances": mixture.covariances.tolist(),
    }
    _json(truth, folder / f"{name}.json")


def _table(data: TableData, path: Path) -> None:
    data.written().to_csv(path, index=False)


def _json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


SETS: dict[str, Callable[[str, Path, int, int], None]] = {
    "shapes": _shapes,
    "mixture": _mixture,
    **dict.fromkeys(GRAPHS, _causal),
}
