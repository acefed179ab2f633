"""Every error a user can cause, in four parts: what came, what is accepted, why, and what to do next.

Each class carries the exit code that the command line returns for it; the list is in docs/exit_codes.md.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BadBundle",
    "BadInput",
    "MissingCapability",
    "MissingExtra",
    "NonFiniteLoss",
    "PellucidError",
    "Stopped",
    "fault",
    "nearest",
    "shown",
]


class PellucidError(Exception):
    """An error with a cause a user can act on.

    Args:
        came: what was received, with its name, shape or value.
        accepted: what would have been accepted.
        why: the reason, when it is not plain from the other two.
        next: what to do now.

    >>> print(BadInput("family is 'difusion'", accepted="vae, diffusion", next="Did you mean 'diffusion'?"))
    family is 'difusion'. Accepted: vae, diffusion. Did you mean 'diffusion'?
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, came: str, *, accepted: str = "", why: str = "", next: str = "") -> None:
        came, accepted, why, next = (_visible(part) for part in (came, accepted, why, next))
        self.came, self.accepted, self.why, self.next = came, accepted, why, next
        parts = (came, f"Accepted: {accepted}" if accepted else "", why, next)
        super().__init__(" ".join(_sentence(part) for part in parts if part))


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!", ":")) else text + "."


def _visible(text: str) -> str:
    r"""Text in which what steers a terminal, hides or cannot be written is spelled out: names may be a stranger's.

    >>> _visible("a\x1b[2Jb\udcff")
    'a\\x1b[2Jb\\udcff'
    """
    kept = "\n\t\u200c\u200d"  # the two joiners belong to the spelling of some languages
    odd = {c for c in text if c not in kept and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")}
    for c in odd:
        text = text.replace(c, c.encode("unicode_escape").decode("ascii"))
    return text


def shown(value: object, most: int = 80) -> str:
    """A value as an error shows it: its `repr`, cut where it would go on for longer than anybody reads.

    >>> shown("x" * 100, most=10)
    "'xxxxxxxxx..."
    """
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."


class BadInput(PellucidError, ValueError):
    """Input or a setting that is refused before anything is written."""

    exit_code = 2


class MissingCapability(PellucidError):
    """A model was asked for what its family does not offer; names what it offers and who would do."""

    exit_code = 2


class MissingExtra(PellucidError, ImportError):
    """An optional library is not installed; `next` is the install command."""

    exit_code = 2


class NonFiniteLoss(PellucidError, ArithmeticError):
    """Training met a loss that is not a finite number; the last good checkpoint is kept."""

    exit_code = 3


class BadBundle(PellucidError):
    """A run folder that is damaged, incomplete or not to be trusted; nothing in it was executed."""

    exit_code = 4


class Stopped(PellucidError):
    """A run was asked to stop; what was done is saved and can be resumed. `exit_code` is 128 + signal number."""

    exit_code = 130


def nearest(word: str, choices: Iterable[str]) -> str:
    """Sentence that offers the closest known name, or an empty string.

    >>> nearest("difusion", ["vae", "diffusion"])
    "Did you mean 'diffusion'?"
    >>> nearest("zzz", ["vae"])
    ''
    """
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"Did you mean '{found[0]}'?" if found else ""


def fault(error: BaseException) -> str:
    """Kind and first line of an error that is not ours, for the reason in one that is.

    >>> fault(ValueError("no\\nat line 3"))
    'ValueError: no'
    """
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}".removesuffix(": ")
