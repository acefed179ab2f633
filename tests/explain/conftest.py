"""Two models fitted in seconds, shared by the tests of this folder."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pellucid.domains.frames import TableData, read_table
from pellucid.domains.pictures import Pictures
from pellucid.domains.read import read
from pellucid.families.flow_matching import FlowMatching
from pellucid.fitting import fit
from pellucid.model import Fitted


@pytest.fixture(scope="session")
def digits() -> Pictures:
    found = read("digits", limit=900)
    assert isinstance(found, Pictures)
    return found


@pytest.fixture(scope="session")
def digits_model(digits: Pictures) -> Fitted:
    """Diffusion on small digits, trained long enough to be recognised."""
    return fit(digits, FlowMatching(width=16, depth=1), steps=120, held_out=0.2)


@pytest.fixture(scope="session")
def people() -> TableData:
    """A table in which the group decides the number."""
    generator = np.random.default_rng(0)
    group = generator.integers(0, 3, 600)
    frame = pd.DataFrame(
        {
            "group": np.array(["a", "b", "c"])[group],
            "height": 3.0 * group + generator.normal(0.0, 0.3, 600),
            "weight": generator.normal(0.0, 1.0, 600),
        }
    )
    return read_table(frame)


@pytest.fixture(scope="session")
def people_model(people: TableData) -> Fitted:
    return fit(people, FlowMatching(width=64, depth=2), steps=300, held_out=0.2)
