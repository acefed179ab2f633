r"""JSON as a language that is read from left to right: RFC 8259, any value, nested as deeply as it comes.

There is no space around the whole value, since a text with space behind it is never surely at its end.

A state is (what is open, where we are): the open brackets as a string of `{` and `[`, and one of

    value first     before a value; before the first value of an array, which may end instead
    pair key colon  before the first name of an object, which may end instead; before a name; before its colon
    after           behind a value
    " '                          in a string, in a name: as usual; with \ behind it, or the digits of \u to come
    - 0 1 . 2 e + 3              in a number: the sign, a leading zero, digits, the point, decimals, the exponent
    =rest                        in true, false or null, with the rest to come
"""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.core.errors import BadInput
from pellucid.core.language import State

__all__ = ["JsonText"]

SPACE = " \t\n\r"
DIGITS = "0123456789"
ESCAPED = '"\\/bfnrt'
HEX = "0123456789abcdefABCDEF"
WORDS = {"t": "true", "f": "false", "n": "null"}
NUMBER = ("-", "0", "1", ".", "2", "e", "+", "3")
ENDS = ("0", "1", "2", "3")  # places in a number at which it may end
FILLERS = ("0", "1", '""', "[]", "{}", "2", "3", "4", "5", "6", "7", "8", "9", "null", "true", "false")


class JsonText:
    """The language of JSON texts.

    Args:
        alphabet: characters that can be written; the shortest value that they spell fills what must hold a value.

    >>> json_text = JsonText("[]{}0,")
    >>> state = json_text.start()
    >>> for character in "[{":
    ...     state = json_text.after(state, character)
    >>> json_text.closing(state), json_text.after(state, "0")
    ('}]', None)
    """

    name = "JSON"

    def __init__(self, alphabet: Iterable[str]) -> None:
        known = set(alphabet)
        fitting = [filler for filler in FILLERS if set(filler) <= known]
        if not fitting:
            raise BadInput(
                f"the model's {len(known)} characters spell no JSON value",
                accepted="an alphabet with a digit, two quotes or brackets, or the letters of null",
            )
        self._filler = min(fitting, key=len)
        self._digit = next((digit for digit in DIGITS if digit in known), "0")
        self._escape = next((sign for sign in ESCAPED if sign in known), "n")

    def start(self) -> State:
        return "", "value"

    def after(self, state: State, character: str) -> State | None:
        open_, at = _state(state)
        kind = at[0]
        if kind in "\"'":
            return _in_string(open_, at, character)
        if kind == "=":
            return (open_, "=" + at[2:] if at[2:] else "after") if at[1] == character else None
        if at in NUMBER:
            number = _in_number(at, character)
            if number:
                return open_, number
            if at not in ENDS:
                return None
            at = "after"  # whatever follows a number follows the value
        if character in SPACE:  # around the whole value none, or a text would never be at its end
            return (open_, at) if open_ else None
        return self._between(open_, at, character)

    def _between(self, open_: str, at: str, character: str) -> State | None:
        """Behind a whole token."""
        if at in ("value", "first"):
            if character == "]" and at == "first":
                return open_[:-1], "after"
            return _begun(open_, character)
        if at in ("pair", "key"):
            if character == "}" and at == "pair":
                return open_[:-1], "after"
            return (open_, "'") if character == '"' else None
        if at == "colon":
            return (open_, "value") if character == ":" else None
        if not open_:
            return None
        if character == ",":
            return open_, "key" if open_[-1] == "{" else "value"
        return (open_[:-1], "after") if character == {"{": "}", "[": "]"}[open_[-1]] else None

    def complete(self, state: State) -> bool:
        open_, at = _state(state)
        return not open_ and (at == "after" or at in ENDS)

    def closing(self, state: State) -> str:
        open_, at = _state(state)
        rest = {
            "value": self._filler,
            "key": f'"":{self._filler}',
            "colon": f":{self._filler}",
            "-": self._digit,
            ".": self._digit,
            "e": self._digit,
            "+": self._digit,
        }.get(at, "")
        if at[0] == "=":
            rest = at[1:]
        elif at[0] in "\"'":
            inside = self._escape if at[1:] == "\\" else self._digit * int(at[1:] or 0)
            rest = inside + '"' + (f":{self._filler}" if at[0] == "'" else "")
        return rest + "".join("}" if bracket == "{" else "]" for bracket in reversed(open_))

    def accepts(self, text: str) -> bool:
        state: State | None = self.start()
        for character in text:
            state = self.after(state, character)
            if state is None:
                return False
        return self.complete(state)


def _state(state: State) -> tuple[str, str]:
    assert isinstance(state, tuple)
    return state


def _begun(open_: str, character: str) -> State | None:
    """A value begins."""
    if character in "{[":
        return open_ + character, "pair" if character == "{" else "first"
    if character == '"':
        return open_, '"'
    if character == "-" or character in DIGITS:
        return open_, "1" if character in "123456789" else character
    return (open_, "=" + WORDS[character][1:]) if character in WORDS else None


def _in_string(open_: str, at: str, character: str) -> State | None:
    kind, inside = at[0], at[1:]
    if inside == "\\":
        if character == "u":
            return open_, kind + "4"
        return (open_, kind) if character in ESCAPED else None
    if inside:
        left = int(inside) - 1
        return (open_, kind + (str(left) if left else "")) if character in HEX else None
    if character == "\\":
        return open_, kind + "\\"
    if character == '"':
        return open_, "after" if kind == '"' else "colon"
    return (open_, at) if character >= " " else None


def _in_number(at: str, character: str) -> str:
    """The place in the number after one more character; "" where it is none of the number's."""
    if character in DIGITS:
        if at == "-":
            return "0" if character == "0" else "1"
        return {"1": "1", ".": "2", "2": "2", "e": "3", "+": "3", "3": "3"}.get(at, "")
    if character == "." and at in "01":
        return "."
    if character in "eE" and at in ("0", "1", "2"):
        return "e"
    return "+" if character in "+-" and at == "e" else ""
