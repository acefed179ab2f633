"""Words of the command line about what items shall be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pellucid.apps.words import wishes
from pellucid.core.errors import BadInput
from pellucid.core.space import Tokens


def model(**conditions: Tokens) -> SimpleNamespace:
    return SimpleNamespace(codec=SimpleNamespace(conditions=conditions))


def test_class_and_where_stand_together() -> None:
    both = model(**{"class": Tokens(3, 1)}, caption=Tokens(9, 4, ends=True))
    assert wishes(both, ["caption=a red circle"], "b") == {"caption": "a red circle", "class": "b"}
    assert wishes(both, None, None) == {}


def test_a_class_is_no_caption() -> None:
    with pytest.raises(BadInput, match="without classes.*--where caption="):
        wishes(model(caption=Tokens(9, 4, ends=True)), None, "red")
