"""The cheapest generator: every column, every pixel or every symbol, drawn on its own.

It gets each part right and no connection between them; a model that does not beat it has learned no connection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pellucid.domains.frames import TableData
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures

__all__ = ["independent_columns", "independent_pixels", "independent_symbols"]


def independent_columns(train: TableData, n: int, *, seed: int = 0) -> TableData:
    """n rows, each cell from a training row of its own.

    >>> import pandas as pd
    >>> from pellucid.domains.columns import Column
    >>> two = TableData(frame=pd.DataFrame({"a": [1, 2]}),
    ...                 columns=(Column(name="a", kind="integer", stored="integer", missing=0, distinct=2),))
    >>> len(independent_columns(two, 5))
    5
    """
    generator = np.random.default_rng(seed)
    drawn = {name: train.frame[name].array.take(generator.integers(0, len(train), n)) for name in train.frame.columns}
    return replace(train, frame=type(train.frame)(drawn), source="independent columns")


def independent_pixels(train: Pictures, n: int, *, seed: int = 0) -> Pictures:
    """n pictures, each pixel (all its channels) and each label from a training picture of its own."""
    generator = np.random.default_rng(seed)
    height, width, channels = train.pixels.shape[1:]
    flat = train.pixels.reshape(len(train), height * width, channels)
    rows = generator.integers(0, len(train), (n, height * width))
    pixels = flat[rows, np.arange(height * width)].reshape(n, height, width, channels)
    labels = None
    if train.labels is not None:
        labels = tuple(train.labels[i] for i in generator.integers(0, len(train), n))
    return Pictures(pixels=pixels, labels=labels, levels=train.levels, source="independent pixels")


def independent_symbols(train: MoleculeData, n: int, *, seed: int = 0) -> MoleculeData:
    """n strings as long as training strings, each symbol that of a training string at the same place.

    >>> from pellucid.domains.molecule_files import molecules_of
    >>> [len(text) for text in independent_symbols(molecules_of(["CCO", "CCN"]), 2).texts()]
    [3, 3]
    """
    generator = np.random.default_rng(seed)
    lengths = train.lengths[generator.integers(0, len(train), n)]
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)[:-1])) if n else np.zeros(0, np.int64)
    place = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    order = np.argsort(train.lengths, kind="stable")  # the last of them are those that reach a place
    short = np.searchsorted(train.lengths[order], place, side="right")
    rows = order[short + (generator.random(len(place)) * (len(train) - short)).astype(np.int64)]
    codes = train.codes[train.starts[rows] + place]
    return replace(train, codes=codes, starts=starts, lengths=lengths, notices=(), source="independent symbols")
