"""A grammar file is a model as it is written: adopted, not trained, and asked like any other."""

from __future__ import annotations

from pathlib import Path

from pellucid.core.errors import BadInput
from pellucid.domains.text_files import TextReading, read_text
from pellucid.domains.texts import TextCodec
from pellucid.families.grammar import DEPTH, GrammarEngine, read_grammar
from pellucid.model import Fitted, adopt

__all__ = ["rules_model"]


def rules_model(path: str | Path, *, depth: int = DEPTH) -> Fitted:
    """The model that a grammar file's rules are: it draws sentences and says exactly how likely one is.

    Args:
        depth: how many rules may lie inside one another.

    Raises:
        BadInput: no text file, or rules that are broken, missing or endless; names the rule and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file '{path}'", accepted="a grammar: a text file of rules")
    lines = read_text(path, TextReading(form="running"), fewest=1).whole().texts()[0]
    grammar = read_grammar(lines, path.name, depth)
    alphabet = grammar.alphabet
    if not alphabet:
        raise BadInput(f"the rules of '{path.name}' make nothing but empty sentences", accepted="some text")
    engine = GrammarEngine(grammar, alphabet)
    codec = TextCodec("lines", "characters", engine.space.length, alphabet)
    return adopt(engine, codec, name="grammar", source=str(path))
