"""How many bits does a model need for one number of unseen real data?

bits per dimension = -log p(item) / (D log 2), with log p in the data's own measure, so that families compare.

A lower bound of log p makes an upper bound of bits. Of an exact value and a bound a winner can be named only when the
bound itself is better: then the truth behind it is better still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pellucid.core.codec import Measures
from pellucid.core.errors import BadInput, MissingCapability
from pellucid.domains.frames import TableData
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures
from pellucid.evaluate.resampling import Estimate, check_rows, halves, of_rows
from pellucid.model import Fitted

__all__ = ["Bits", "BitsKind", "bits_per_dimension"]

BitsKind = Literal["exact", "upper_bound", "estimate"]


@dataclass(frozen=True)
class Bits:
    """Bits per dimension over real rows.

    kind: "exact", "upper_bound" (from a lower bound of log p) or "estimate".
    given: what is known beforehand, such as the class: log p(item | class). dimensions: numbers in one item.
    """

    bits: Estimate
    kind: BitsKind
    given: tuple[str, ...]
    dimensions: int


def bits_per_dimension(model: Fitted, items: Pictures | TableData | MoleculeData, *, seed: int = 0) -> Bits:
    """Mean over items, with its interval over half-samples of them; the same items and seed pair models.

    Raises:
        MissingCapability: the family has no likelihood, or the codec loses part of the data.
        BadInput: fewer than 10 items, or items that the model holds for impossible.
    """
    check_rows(len(items), "bits per dimension")
    if not isinstance(model.codec, Measures):
        raise MissingCapability("the encoding of the data is lossy", why="a likelihood is then undefined")
    found = model.log_prob(items, seed=seed)
    dimensions = model.codec.dimensions()
    bits = -found.value.detach().double().cpu().numpy() / (math.log(2) * dimensions)
    impossible = int((~np.isfinite(bits)).sum())
    if impossible:
        raise BadInput(
            f"{impossible:,} of {len(items):,} held-out items have probability zero or an undefined one",
            why="the mean is then infinite, as these items hold values that the model never saw",
        )
    estimate = of_rows(bits, halves(len(items), "likelihood", seed=seed))
    spread = estimate.spread
    if found.error is not None:  # the noise of each estimate, beside that of which items were drawn
        error = found.error.detach().double().cpu().numpy() / (math.log(2) * dimensions)
        noise = np.random.default_rng([seed, 1]).standard_normal(len(spread))
        spread = spread + noise * math.sqrt(float(np.square(error).sum())) / len(bits)
    kind: BitsKind = "upper_bound" if found.kind == "lower_bound" else found.kind
    given = tuple(model.codec.conditions)
    return Bits(Estimate(estimate.value, spread, estimate.n, kind=kind), kind, given, dimensions)
