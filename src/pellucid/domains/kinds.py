"""What data can be: one type for each kind, and the kind's name."""

from __future__ import annotations

from pellucid.core.errors import BadInput
from pellucid.domains.frames import TableData
from pellucid.domains.molecule_files import MoleculeData
from pellucid.domains.pictures import Pictures
from pellucid.domains.text_files import TextData

__all__ = ["Data", "kind_of_data", "words_for"]

Data = Pictures | TableData | TextData

_KINDS: dict[type, str] = {Pictures: "images", TableData: "table", TextData: "text", MoleculeData: "molecules"}
_WORDS = {"images": "pictures", "table": "rows", "text": "pieces of text", "molecules": "molecules"}


def kind_of_data(data: object) -> str:
    """The kind's name, as the catalogue of domains lists it; BadInput for anything that is no data."""
    if type(data) not in _KINDS:
        raise BadInput(f"data is a {type(data).__name__}", accepted="what pellucid.read returns")
    return _KINDS[type(data)]


def words_for(kind: str) -> str:
    """What items of a kind are called."""
    return _WORDS[kind]
