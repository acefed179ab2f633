"""A report as Markdown for a model card, a commit or a mail: pictures inside the text, charts as tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import markupsafe

from pellucid.core.blocks import (
    Bars,
    Block,
    Code,
    Curve,
    Data,
    Details,
    Frames,
    Heading,
    Pictures,
    Prose,
    Row,
    Scatter,
    Table,
    Verdict,
)
from pellucid.core.chart_tables import numbers_of
from pellucid.core.pixels import data_uri, sheet
from pellucid.core.report import Report
from pellucid.core.wording import clean, paragraphs, spans, unmarked

__all__ = ["lower", "markdown"]

_SIGNS = {"best": "★ ", "ok": "✓ ", "note": "• ", "warn": "⚠ ", "fail": "✗ "}
_WORDS = {"ok": "✓ OK", "note": "• Note", "warn": "⚠ Caution", "fail": "✗ FAILED"}
_RULES = {"left": ":---", "right": "---:", "center": ":---:"}
_SPECIAL = re.compile(r"([\\`*_|~$]|\](?=[(\[:]))")  # a bracket alone is harmless; one before these makes a link
# At the start of a line these would begin a heading or a list.
_OPENING = re.compile(r"^(?:[#+-](?=[\s#-]|$)|=|\d+(?=[.)](?:\s|$)))")
_ROWS = 12  # of a chart's table
_SHEET = 16  # pictures in a row of the one picture that stands for many


def markdown(report: Report) -> str:
    """The whole report."""
    return f"# {_text(report.title)}\n\n{_all(report.blocks())}".rstrip() + "\n"


def _all(blocks: Iterable[Block]) -> str:
    return "".join(lower(block) for block in blocks)


@functools.singledispatch
def lower(block: Block) -> str:
    """Markdown of one block, which ends with an empty line."""
    raise TypeError(f"{type(block).__name__} has no Markdown form; register one in render_markdown.")


@lower.register
def _(block: Heading) -> str:
    return f"{'#' * block.level} {_text(block.text)}\n\n"


@lower.register
def _(block: Prose) -> str:
    return "".join(f"{_inline(text)}\n\n" for text in paragraphs(block.text))


@lower.register
def _(block: Verdict) -> str:
    text = "\n>\n> ".join(_inline(part) for part in paragraphs(block.text))
    return f"> **{_WORDS[block.level]}:** {text}\n\n"


@lower.register
def _(block: Code) -> str:
    text = clean(block.text)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{re.sub(r'[^a-zA-Z0-9_+-]', '', block.language)}\n{text}\n{fence}\n\n"


@lower.register
def _(block: Table) -> str:
    lines = [[_text(name) for name in block.columns], [_RULES[side] for side in block.sides()]]
    for r, row in enumerate(block.texts()):
        cells = [_SIGNS.get(block.highlight.get((r, c), ""), "") + _text(cell) for c, cell in enumerate(row)]
        lines.append([f"**{cell}**" if block.highlight.get((r, c)) == "best" else cell for c, cell in enumerate(cells)])
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines if line)
    small = block.small_print()
    return _caption(block.caption) + (body + "\n" if body else "") + (f"({_text(small)})\n\n" if small else "")


@lower.register
def _(block: Pictures) -> str:
    return _picture(block, block.columns or _SHEET, block.alt or block.caption) + _caption(block.caption)


@lower.register
def _(block: Frames) -> str:
    about, out = unmarked(block.alt or block.caption or "Pictures step by step").rstrip("."), ""
    if block.steps and all(step.images.shape == block.steps[0].images.shape for step in block.steps):
        import numpy as np

        if len(block.steps[0].images) == 1:  # one picture a step: the steps themselves are the strip
            strip = np.concatenate([step.images for step in block.steps])
            whole = Pictures(strip, block.labels, scale=block.steps[0].scale)
            return _picture(whole, _SHEET, about) + _caption(block.caption)
    for i, step in enumerate(block.steps):
        label = block.labels[i] if block.labels else f"step {i}"
        out += f"**{_text(label)}**\n\n{_picture(step, step.columns or _SHEET, f'{about}: {label}')}"
    return out + _caption(block.caption)


@lower.register(Curve)
@lower.register(Bars)
@lower.register(Scatter)
def _(block: Curve | Bars | Scatter) -> str:
    table = numbers_of(block, _ROWS)
    fewer = f"({_text(table.caption)})" if table.caption else ""
    said = " ".join(part for part in (_inline(block.caption), fewer) if part)
    marks = "" if isinstance(block, Scatter) else ", ".join(f"{m.label} at {m.at:.6g}" for m in block.markers)
    after = f"Marked: {_text(marks)}\n\n" if marks else ""
    return (f"*{said}*\n\n" if said else "") + lower(Table(table.columns, table.rows)) + after


@lower.register
def _(block: Details) -> str:
    summary = str(markupsafe.escape(clean(block.summary)))
    head = f"<details{' open' if block.open else ''}>\n<summary>{summary}</summary>"
    return f"{head}\n\n{_all(block.blocks)}</details>\n\n"


@lower.register
def _(block: Row) -> str:
    return _all(block.blocks)


@lower.register
def _(block: Data) -> str:
    return ""


def _picture(block: Pictures, columns: int, about: str) -> str:
    n, height, width = block.images.shape[:3]
    if not n * height * width:
        return "(no pictures)\n\n"
    scale = block.shown_scale()
    laid = sheet(block.images, columns, gap=1).repeat(scale, axis=0).repeat(scale, axis=1)
    alt = re.sub(r"(?<!\\)([\[\]])", r"\\\1", _text(unmarked(about))) or f"{n} pictures of {height} by {width} pixels"
    named = "; ".join(f"{i + 1}: {_text(text)}" for i, text in enumerate(block.captions))
    return f"![{alt}]({data_uri(laid)})\n\n" + (f"{named}\n\n" if named else "")


def _caption(text: str) -> str:
    return f"*{_inline(text)}*\n\n" if text.strip() else ""


def _text(text: str) -> str:
    """Text that means only itself: one line, with every character of Markdown and HTML made harmless.

    >>> _text("a*b | <script>")
    'a\\\\*b \\\\| &lt;script&gt;'
    """
    line = " ".join(clean(text).split())
    line = _SPECIAL.sub(r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return _OPENING.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", line)


def _inline(text: str) -> str:
    """Text with its bold and code; code needs a fence longer than the ticks inside it."""
    out = ""
    for span in spans(" ".join(clean(text).split())):
        if span.style == "code":
            out += f"`{span.text}`"
        elif span.style == "bold":
            out += f"**{_text(span.text)}**"
        else:
            before, after = (" " if span.text[:1] == " " else ""), (" " if span.text[-1:] == " " else "")
            out += f"{before}{_text(span.text)}{after}" if span.text.strip() else " "
    return out
