"""How a number, an interval and a line of text are written, the same in every medium."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["Span", "clean", "decimals_for", "number", "paragraphs", "spans", "unmarked"]

_MARKED = re.compile(r"\*\*(?P<bold>.+?)\*\*|`(?P<code>[^`]+)`", re.DOTALL)
# Control characters can drive a terminal or break XML; tab and newline are the two that mean something in a text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Span(NamedTuple):
    """A stretch of text in one style."""

    text: str
    style: Literal["plain", "bold", "code"] = "plain"


def spans(text: str) -> tuple[Span, ...]:
    """Text with `**bold**` and `` `code` `` split into its stretches; there is no other markup.

    >>> spans("a **b** and `c*`")
    (Span(text='a ', style='plain'), Span(text='b', style='bold'), Span(text=' and ', style='plain'), \
Span(text='c*', style='code'))
    """
    out: list[Span] = []
    end = 0
    for found in _MARKED.finditer(text):
        if found.start() > end:
            out.append(Span(text[end : found.start()]))
        bold = found["bold"]
        out.append(Span(bold, "bold") if bold is not None else Span(found["code"], "code"))
        end = found.end()
    if end < len(text):
        out.append(Span(text[end:]))
    return tuple(out)


def unmarked(text: str) -> str:
    """Text with the marks of bold and code left out, for places that have no styles.

    >>> unmarked("a **b** and `c`")
    'a b and c'
    """
    return "".join(span.text for span in spans(clean(text)))


def paragraphs(text: str) -> tuple[str, ...]:
    """Paragraphs of a text: parted by blank lines, single line breaks read as spaces.

    >>> paragraphs("one\\ntwo\\n\\nthree")
    ('one two', 'three')
    """
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return tuple(part for part in parts if part)


def clean(text: str) -> str:
    r"""Text without control characters and lone surrogates, which no medium can show.

    >>> clean("a\x1b[31mb\x00")
    'a[31mb'
    """
    return _CONTROLS.sub("", text.replace("\r\n", "\n")).encode("utf-8", "replace").decode("utf-8")


def decimals_for(values: Iterable[float]) -> int | None:
    """Decimals that show the largest of these numbers to five figures at most, without zeros that none of them needs.

    None when the numbers are of such different sizes that each is better written by itself.

    >>> decimals_for([0.5, 0.712]), decimals_for([12345.6]), decimals_for([0.012, 4000.0])
    (3, 0, None)
    """
    plain = [v for v in values if math.isfinite(v) and _is_plain(v)]
    sizes = [abs(v) for v in plain if v]
    if sizes and max(sizes) > 1e4 * min(sizes):
        return None
    wanted = max((_own_decimals(v) for v in plain), default=0)
    return min(wanted, max(0, 4 - math.floor(math.log10(max(sizes))))) if sizes else wanted


def number(value: float, decimals: int | None = None) -> str:
    """A number as people read it: four figures, or so many decimals.

    >>> number(12345), number(0.51234), number(1234.5), number(3.2e-9), number(float("nan"))
    ('12,345', '0.5123', '1,234', '3.2e-09', 'nan')
    >>> number(0.5, decimals=3)
    '0.500'
    """
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if not _is_plain(value):
        return f"{value:.4g}"
    text = f"{value:,.{_own_decimals(value) if decimals is None else decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def _is_plain(value: float) -> bool:
    return value == 0 or 1e-4 <= abs(value) < 1e7


def _own_decimals(value: float) -> int:
    if value == 0:
        return 0
    most = max(0, 3 - math.floor(math.log10(abs(value))))
    return len(f"{value:.{most}f}".rstrip("0").partition(".")[2]) if most else 0
