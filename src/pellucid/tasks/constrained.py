"""Texts that satisfy a regular expression or a grammar, always: a fitted model with its symbols on a leash.

How symbols are left out, and which distribution that is, stands in drawing/within.py.
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
from pellucid.domains.texts import UNKNOWN, TextCodec
from pellucid.drawing.within import Finite, Nested, Spelling, Symbols, Within
from pellucid.model import Fitted

__all__ = ["GRAMMARS", "spellings", "symbols_of", "within"]

GRAMMARS = ("json",)


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
    return replace(model, engine=Within(model.engine, model.codec.space, symbols))


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
    return Nested(_language(str(grammar), spelled), spelled)


def spellings(codec: TextCodec) -> list[Spelling]:
    """What each symbol writes: text, for bytes a byte, for the end of a line None.

    >>> spellings(TextCodec("lines", "characters", 4, ("a", "b")))
    [None, '\ufffd', 'a', 'b']
    """
    end: list[Spelling] = [None] if codec.form == "lines" else []
    if codec.unit == "bytes":
        return [*end, *(bytes([byte]) for byte in range(256))]
    return [*end, UNKNOWN, *codec.pieces]


def _language(name: str, spelled: Sequence[Spelling]) -> Language:
    alphabet = {c for s in spelled if s for c in (s.decode("latin-1") if isinstance(s, bytes) else s)}
    if name == "json":
        return JsonText(alphabet)
    raise BadInput(f"grammar is '{name}'", accepted=", ".join(GRAMMARS), next=nearest(name, GRAMMARS))
