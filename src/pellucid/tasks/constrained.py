"""Texts that satisfy a regular expression or a grammar, always: a fitted model with its symbols on a leash.

How symbols are left out, and which distribution that is, stands in drawing/within.py. SMILES strings keep their
valences, rings and branches by construction; strings whose aromatic rings make no sense even so are drawn again, and
after fifty such draws a row is drawn without aromatic atoms, so that every sample is a molecule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pellucid.core.capabilities import Predicts
from pellucid.core.codec import Identity
from pellucid.core.errors import BadInput, MissingCapability, nearest
from pellucid.core.json_text import JsonText
from pellucid.core.language import Language
from pellucid.core.patterns import compiled
from pellucid.core.smiles_language import SmilesLanguage
from pellucid.domains.texts import UNKNOWN, TextCodec
from pellucid.drawing.within import Finite, Nested, Spelling, Symbols, Within
from pellucid.model import Fitted

__all__ = ["GRAMMARS", "spellings", "symbols_of", "within"]

GRAMMARS = ("smiles", "json")


def within(model: Fitted, *, match: str | None = None, grammar: str | None = None) -> Fitted:
    """The same model, of which every sample satisfies a constraint.

    Args:
        model: of a list of texts, that predicts its next symbol; a running text goes on with `go_on` instead.
        match: a regular expression that the whole text matches, see `core.patterns`. grammar: one of `GRAMMARS`.

    Raises:
        MissingCapability: the model does not write texts symbol by symbol.
        BadInput: a pattern that is none, an unknown grammar, or a constraint that no text of the model satisfies.
    """
    symbols = symbols_of(model, match=match, grammar=grammar)
    assert isinstance(model.codec, TextCodec)
    last = None
    if grammar == "smiles":  # what has no aromatic atoms is a molecule by construction
        spelled = spellings(model.codec)
        last = Nested(SmilesLanguage(_words(spelled), aromatic=False), spelled)
    return replace(model, engine=Within(model.engine, model.codec.space, symbols, last))


def symbols_of(model: Fitted, *, match: str | None = None, grammar: str | None = None) -> Symbols:
    """The constraint over the symbols of the model. Arguments and errors as of `within`."""
    model.need(Predicts, "keep a constraint while it writes")
    if not isinstance(model.codec, TextCodec) or not isinstance(model.bridge, Identity):
        raise MissingCapability(f"'{model.name}' writes no text", accepted="a run that was fitted on a text")
    if (match is None) == (grammar is None):
        raise BadInput("a pattern and a grammar were both given" if match is not None else "no constraint was given",
                       accepted="match or grammar")  # fmt: skip
    spelled = spellings(model.codec)
    if match is not None:
        return Finite(compiled(match, "bytes" if model.codec.unit == "bytes" else "characters"), spelled)
    return Nested(_language(str(grammar), spelled), spelled, strict=grammar == "smiles")


def spellings(codec: TextCodec) -> list[Spelling]:
    """What each symbol writes: text, for bytes a byte, for the end of a line None.

    >>> spellings(TextCodec("lines", "characters", 4, ("a", "b")))
    [None, '\ufffd', 'a', 'b']
    """
    end: list[Spelling] = [None] if codec.form == "lines" else []
    if codec.unit == "bytes":
        return [*end, *(bytes([byte]) for byte in range(256))]
    return [*end, UNKNOWN, *codec.pieces]


def _words(spelled: Sequence[Spelling]) -> list[str]:
    return [s.decode("latin-1") if isinstance(s, bytes) else s for s in spelled if s]


def _language(name: str, spelled: Sequence[Spelling]) -> Language:
    words = _words(spelled)
    if name == "json":
        return JsonText("".join(words))
    if name == "smiles":
        return SmilesLanguage(words)
    raise BadInput(f"grammar is '{name}'", accepted=", ".join(GRAMMARS), next=nearest(name, GRAMMARS))
