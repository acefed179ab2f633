"""Reads constraints as people write them.

    start <= end            an order between two columns (<=, <, >=, >), or a column and a number or a date
    total = a + b - c       a sum; the column on the left is computed from the others
    together: city, country only combinations that occur

A name is taken as it stands in the table, also with spaces, points or hyphens inside; quotation marks help where it
could be read otherwise. In a file each line holds one, and what follows a # is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pellucid.core.errors import BadInput, nearest
from pellucid.domains.cells import kind_of
from pellucid.domains.columns import Column
from pellucid.domains.constraints import Constraint, Order, Sum, Together

__all__ = ["constraint_lines", "read_constraint"]

ACCEPTED = "'start <= end', 'age >= 18', 'total = a + b', 'together: city, country'"
SIGNS = ("<=", ">=", "==", "<", ">", "=", "+", "-", ",")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?")
NUMBER = re.compile(r"\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?")
WORD = re.compile(r"[^\s<>=+,]+")


@dataclass(frozen=True)
class _Token:
    """A column, a number, a date or a sign, and where it begins (from 1)."""

    kind: str
    text: str
    at: int


def constraint_lines(source: str | Path | Iterable[str]) -> tuple[str, ...]:
    """Texts of constraints from a file, or as they are.

    >>> constraint_lines(["a <= b", "# a remark", ""])
    ('a <= b',)
    """
    if isinstance(source, Path):
        try:
            source = source.read_text("utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise BadInput(
                f"'{source}' cannot be read ({error})", accepted="a text file, one constraint a line"
            ) from error
    lines = [source] if isinstance(source, str) else list(source)
    if not all(isinstance(line, str) for line in lines):
        raise BadInput(f"constraints are {lines!r}", accepted=f"texts such as {ACCEPTED}")
    bare = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return tuple(line for line in bare if line)


def read_constraint(text: str, columns: Sequence[Column]) -> Constraint:
    """One constraint on these columns.

    Raises BadInput that names the place in the text, and the nearest column where a name is unknown.

    >>> age = Column(name="age", kind="integer", stored="integer", missing=0, distinct=9)
    >>> read_constraint("age >= 18", [age])
    Order(text='age >= 18', low=18.0, high='age', strict=False)
    """
    return _Reading(text.strip(), tuple(columns)).constraint()


class _Reading:
    """The text, its columns, and how far it was read."""

    def __init__(self, text: str, columns: tuple[Column, ...]) -> None:
        self.text, self.columns = text, {c.name: c for c in columns}
        self.tokens: list[_Token] = []

    def error(self, what: str, *, accepted: str = "", why: str = "", next: str = "") -> BadInput:
        return BadInput(f"constraint '{self.text}': {what}", accepted=accepted, why=why, next=next)

    def constraint(self) -> Constraint:
        if found := re.match(r"together\s*:", self.text):
            self.tokens = self.split(found.end())
            return self.together()
        self.tokens = self.split(0)
        signs = [k for k, t in enumerate(self.tokens) if t.kind == "sign" and t.text not in ("+", "-", ",")]
        if len(signs) != 1:
            came = (
                "it compares nothing" if not signs else f"a second '{self.tokens[signs[1]].text}' stands at character"
            )
            came += f" {self.tokens[signs[1]].at}" if signs else ""
            raise self.error(came, accepted=ACCEPTED)
        sign = self.tokens[signs[0]]
        left, right = self.side(self.tokens[: signs[0]], sign), self.side(self.tokens[signs[0] + 1 :], sign)
        if sign.text in ("=", "=="):
            return self.sum(left, right)
        return self.order(left, right, sign)

    def split(self, at: int) -> list[_Token]:
        """Tokens from this place on."""
        names, out = sorted(self.columns, key=len, reverse=True), []
        while at < len(self.text):
            rest = self.text[at:]
            if rest[0].isspace():
                at += 1
                continue
            token, length = self.token(rest, names, at)
            out.append(token)
            at += length
        return out

    def token(self, rest: str, names: Sequence[str], at: int) -> tuple[_Token, int]:
        if rest[0] in "\"'`":
            end = rest.find(rest[0], 1)
            if end < 0:
                raise self.error(f"the quotation mark at character {at + 1} is never closed", accepted='"a name"')
            if rest[1:end] in self.columns:
                return _Token("column", rest[1:end], at + 1), end + 1
            raise self.unknown(rest[1:end], at)
        for name in names:
            after = rest[len(name) : len(name) + 1]
            if rest.startswith(name) and not (after and name[-1:].isalnum() and (after.isalnum() or after == "_")):
                return _Token("column", name, at + 1), len(name)
        for kind, pattern in (("date", DATE), ("number", NUMBER)):
            if found := pattern.match(rest):
                return _Token(kind, found[0], at + 1), found.end()
        for sign in SIGNS:
            if rest.startswith(sign):
                return _Token("sign", sign, at + 1), len(sign)
        word = WORD.match(rest)
        raise self.unknown(word[0] if word else rest[0], at)

    def unknown(self, word: str, at: int) -> BadInput:
        names = list(self.columns)
        listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        return self.error(f"'{word}' at character {at + 1} is no column", accepted=listed, next=nearest(word, names))

    def together(self) -> Together:
        names, apart = self.tokens[::2], self.tokens[1::2]
        fits = len(names) == len(apart) + 1 >= 2
        if not fits or any(t.kind != "column" for t in names) or any(t.text != "," for t in apart):
            raise self.error("it lists no columns", accepted="two columns or more, with commas between them")
        for t in names:
            self.usable(t)
        if len({t.text for t in names}) < len(names):
            raise self.error("a column is named twice", accepted="each column once")
        return Together(text=self.text, columns=tuple(t.text for t in names))

    def usable(self, token: _Token) -> Column:
        column = self.columns[token.text]
        if column.kind in ("key", "empty"):
            what = "is an identifier, which is made anew" if column.kind == "key" else "holds no value"
            next_ = f"Say --column {column.name}=integer if it is no identifier." if column.kind == "key" else ""
            raise self.error(f"'{column.name}' at character {token.at} {what}", accepted="other columns", next=next_)
        return column

    def measured(self, token: _Token) -> Column:
        """The column, which must hold numbers or dates."""
        column = self.usable(token)
        if kind_of(column) not in ("number", "integer", "date"):
            raise self.error(
                f"'{column.name}' at character {token.at} is a {kind_of(column)} and has no order",
                accepted="columns of numbers or dates",
                next=f"Say --column {column.name}=number if it holds numbers, or use 'together:'.",
            )
        return column

    def side(self, tokens: Sequence[_Token], sign: _Token) -> list[tuple[int, _Token]]:
        """Signed terms of one side."""
        out: list[tuple[int, _Token]] = []
        factor, expected = 1, True
        for t in tokens:
            if t.kind == "sign" and t.text in ("+", "-"):
                if expected and out:
                    raise self.error(f"'{t.text}' at character {t.at} follows another sign", accepted="a column")
                factor, expected = (-1 if t.text == "-" else 1) * (factor if expected else 1), True
            elif t.kind == "sign":
                raise self.error(f"'{t.text}' stands at character {t.at}", accepted="+ or - between columns")
            elif not expected:
                raise self.error(f"'{t.text}' at character {t.at} follows no sign", accepted="+ or - between columns")
            else:
                out.append((factor, t))
                factor, expected = 1, False
        if expected:
            raise self.error(f"nothing stands beside '{sign.text}' at character {sign.at}", accepted=ACCEPTED)
        return out

    def order(self, left: list[tuple[int, _Token]], right: list[tuple[int, _Token]], sign: _Token) -> Order:
        for side in (left, right):
            if len(side) > 1 or (side[0][0] < 0 and side[0][1].kind != "number"):
                raise self.error(
                    f"a sum stands beside '{sign.text}' at character {sign.at}",
                    accepted="one column or one value on each side",
                    next="Declare the sum as a column of its own: total = a + b.",
                )
        ends = [self.end(side[0], other[0]) for side, other in ((left, right), (right, left))]
        if not any(isinstance(e, str) for e in ends):
            raise self.error("it names no column", accepted=ACCEPTED)
        if ends[0] == ends[1]:
            raise self.error(f"'{ends[0]}' is compared with itself", accepted="two columns")
        low, high = ends if sign.text[0] == "<" else ends[::-1]
        return Order(text=self.text, low=low, high=high, strict=len(sign.text) == 1)

    def end(self, term: tuple[int, _Token], other: tuple[int, _Token]) -> str | float:
        """A column's name, or the value that stands beside a column."""
        factor, token = term
        beside = self.measured(other[1]) if other[1].kind == "column" else None
        if token.kind == "column":
            dated = kind_of(self.measured(token)) == "date"
            if beside is not None and dated != (kind_of(beside) == "date"):
                raise self.error(
                    f"'{token.text}' and '{beside.name}' are a date and a number", accepted="two of one kind"
                )
            return token.text
        if beside is not None and (kind_of(beside) == "date") != (token.kind == "date"):
            wanted = "a date such as 2024-03-01" if kind_of(beside) == "date" else "a number"
            raise self.error(f"'{token.text}' stands at character {token.at}", accepted=wanted)
        return self.value(factor, token)

    def value(self, factor: int, token: _Token) -> float:
        if token.kind == "number":
            return factor * float(token.text)
        stamp = pd.to_datetime(token.text, format="ISO8601", errors="coerce")
        if not isinstance(stamp, pd.Timestamp) or pd.isna(stamp):
            raise self.error(f"'{token.text}' at character {token.at} is no date", accepted="a date such as 2024-03-01")
        return float(stamp.to_datetime64().astype("datetime64[us]").astype(np.int64))

    def sum(self, left: list[tuple[int, _Token]], right: list[tuple[int, _Token]]) -> Sum:
        if not (len(left) == 1 and left[0][0] > 0 and left[0][1].kind == "column"):
            left, right = right, left
        if not (len(left) == 1 and left[0][0] > 0 and left[0][1].kind == "column"):
            raise self.error("neither side is one column", accepted="a column on the left, as total = a + b")
        total, constant = self.measured(left[0][1]), 0.0
        plus: list[str] = []
        minus: list[str] = []
        for factor, token in right:
            if token.kind == "column":
                self.measured(token)
                (plus if factor > 0 else minus).append(token.text)
            elif token.kind == "number":
                constant += self.value(factor, token)
            else:
                raise self.error(
                    f"the date '{token.text}' stands at character {token.at}", accepted="columns and numbers"
                )
        names = [total.name, *plus, *minus]
        if len(names) == 1:
            raise self.error("the sum names no column", accepted="total = a + b")
        if len(set(names)) < len(names):
            raise self.error("a column is named twice", accepted="each column once")
        balance = [sum(kind_of(self.columns[n]) == "date" for n in part) for part in (plus, minus)]
        dated = kind_of(total) == "date"
        if balance[0] - balance[1] != int(dated) or not math.isfinite(constant):
            raise self.error(
                "dates and numbers do not add up",
                accepted="end = start + days, or days = end - start, with numbers in days",
            )
        return Sum(text=self.text, total=total.name, plus=tuple(plus), minus=tuple(minus), constant=constant)
