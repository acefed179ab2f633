"""Languages that are read from left to right, one character after another, and always know a way to end.

A regular expression is an automaton (core/patterns.py). What nests (JSON, the branches and rings of a SMILES string)
needs a memory that grows, so a state here is any value that can be hashed.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

__all__ = ["Language", "State"]

State = Hashable


class Language(Protocol):
    """Strings, told from others as they are read. `name` is what people call it.

    Every state that `after` gives can be completed. All characters outside ASCII are treated alike.
    """

    name: str

    def start(self) -> State:
        """Before the first character."""
        ...

    def after(self, state: State, character: str) -> State | None:
        """The state after one more character; None where no string of the language begins like that."""
        ...

    def complete(self, state: State) -> bool:
        """Is what was read a whole string of the language?"""
        ...

    def closing(self, state: State) -> str:
        """Characters that make it whole, "" where it is: the fewest that are known.

        Its first character leads to a state whose closing is the rest of it.
        """
        ...

    def accepts(self, text: str) -> bool:
        """Is the whole text in the language, by its strictest reading?"""
        ...
