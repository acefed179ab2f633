"""Which columns are identifiers, and of what form: numbers that name a row hold nothing that a model could learn.

A model that learned them could only copy them, and a copied identifier points at a person. So they are never learned;
new rows get new ones of the same form (`keys.py`).
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.core.errors import BadInput

__all__ = ["Form", "form_of_numbers", "form_of_texts", "is_identifier"]

FEWEST_NAMED = 10  # different values from which the name of a column is believed
FEWEST = 50  # different values from which their form alone is believed
ROOM = 10**6  # so many times more codes than rows: a drawn one is then hardly ever one that is taken

NAMED = re.compile(
    r"(?i:(^|[\W_])(id|ids|key|uuid|guid|nr|no|number|identifier|serial|rownum|index)$|^(id|key|uuid)[\W_])"
    r"|[a-z](Id|ID|Key|No|Nr|Uuid|UUID|Guid|GUID)$"
)
UUID = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
NUMBERED = re.compile(r"(?s)(.*?)(\d+)(\D*)")
DIGITS, SMALL = "0123456789", "abcdefghijklmnopqrstuvwxyz"
_SMALLEST = (DIGITS, DIGITS + SMALL[:6], DIGITS + SMALL[:6].upper(), SMALL, SMALL.upper(), DIGITS + SMALL)
ALPHABETS = (*_SMALLEST, DIGITS + SMALL.upper(), SMALL + SMALL.upper(), DIGITS + SMALL + SMALL.upper())


@dataclass(frozen=True, kw_only=True)
class Form:
    """How new identifiers are made.

    how: "number" goes on beyond the largest one; "numbered" does so between `prefix` and `suffix`, with leading zeros
        up to `width`; "uuid" is drawn at random; "code" has one letter of places[i] at each place i.
    start: the first new number. upper: are the letters of a uuid large?
    """

    how: Literal["number", "numbered", "uuid", "code"]
    start: int = 1
    prefix: str = ""
    suffix: str = ""
    width: int = 0
    places: tuple[str, ...] = ()
    upper: bool = False

    def __post_init__(self) -> None:
        if self.width < 0 or (self.how == "code" and not all(self.places)) or (self.how == "code") != bool(self.places):
            raise BadInput(
                f"identifiers of the form {self.how} with {len(self.places)} places", accepted="letters for each place"
            )

    def words(self) -> str:
        """The form as people say it.

        >>> Form(how="numbered", prefix="P", start=61, width=4).words()
        'P0061, P0062, ...'
        """
        if self.how == "uuid":
            return "uuids drawn at random"
        if self.how == "code":
            return "codes of the same pattern, drawn at random"
        first, second = (str(self.made(0, i)) for i in (0, 1))
        return f"{first}, {second}, ..."

    def made(self, seed: int, row: int) -> int | str:
        """The identifier of the sample of this name: different names, different identifiers.

        >>> Form(how="number", start=101).made(7, 3)
        104
        """
        if self.how == "number":
            return self.start + row
        if self.how == "numbered":
            return f"{self.prefix}{self.start + row:0{self.width}d}{self.suffix}"
        if self.how == "uuid":
            text = str(uuid.UUID(bytes=hashlib.blake2b(f"{seed} {row}".encode(), digest_size=16).digest(), version=4))
            return text.upper() if self.upper else text
        return self._code(seed, row)

    def _code(self, seed: int, row: int) -> str:
        """A number below all that the places can write, by a walk that meets each of them once."""
        many = math.prod(len(p) for p in self.places)
        step = int(many * 0.6180339887) | 1
        while math.gcd(step, many) != 1:
            step += 2
        start = int.from_bytes(hashlib.blake2b(f"code {seed}".encode(), digest_size=16).digest(), "little")
        at, out = (start + step * row) % many, []
        for letters in reversed(self.places):
            at, k = divmod(at, len(letters))
            out.append(letters[k])
        return "".join(reversed(out))


def is_identifier(name: str, distinct: int, running: bool, text: bool) -> bool:
    """Does a column whose values all differ name its rows?

    By its name; or because it holds running whole numbers, or texts. Whole numbers that merely all differ may as well
    be measured (populations, amounts) and are not taken for identifiers.

    >>> is_identifier("PassengerId", 10, running=True, text=False), is_identifier("amount", 900, False, False)
    (True, False)
    """
    if distinct >= FEWEST_NAMED and NAMED.search(name):
        return True
    return distinct >= FEWEST and (running or text)


def form_of_numbers(high: int) -> Form:
    """New whole numbers follow the largest one, or the largest that 62 bits hold."""
    return Form(how="number", start=min(high, 2**62) + 1)


def form_of_texts(texts: Sequence[str], name: str) -> Form:
    """The form that all texts have; the column's name with a number where they have none.

    >>> form_of_texts(["A-007", "A-012"], "case").words()
    'A-013, A-014, ...'
    >>> form_of_texts(["red", "a fish"], "thing").words()
    'thing-1, thing-2, ...'
    """
    if all(UUID.fullmatch(t) for t in texts):
        return Form(how="uuid", upper=any(c.isupper() for t in texts[:100] for c in t))
    found = [NUMBERED.fullmatch(t) for t in texts]
    # the last run of digits that is the only one: "A1-07" is no numbered text, but may be a code
    if all(m is not None for m in found):
        parts = [m.groups() for m in found if m is not None]
        heads, digits, tails = {p[0] for p in parts}, [p[1] for p in parts], {p[2] for p in parts}
        if len(heads) == len(tails) == 1:
            widths = {len(d) for d in digits}
            padded = any(len(d) > 1 and d[0] == "0" for d in digits)
            if len(widths) == 1 or not padded:
                width = widths.pop() if padded else 0
                start = max(map(int, digits)) + 1
                return Form(how="numbered", prefix=heads.pop(), suffix=tails.pop(), width=width, start=start)
    if len({len(t) for t in texts}) == 1:
        places = [_alphabet({t[i] for t in texts}) for i in range(len(texts[0]))]
        if all(places) and math.prod(map(len, places)) >= ROOM * len(texts):
            return Form(how="code", places=tuple(places))
    return Form(how="numbered", prefix=f"{name}-")


def _alphabet(letters: set[str]) -> str:
    """The smallest usual alphabet that holds these letters; a letter alone stays; empty where none does."""
    if len(letters) == 1:
        return next(iter(letters))
    return next((a for a in ALPHABETS if letters <= set(a)), "")
