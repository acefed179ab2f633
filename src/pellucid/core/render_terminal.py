"""A report in a terminal: tables and bars of characters, pictures of half blocks where there is colour."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table as Grid
from rich.text import Text

from pellucid.core.blocks import (
    Bars,
    Block,
    Code,
    Curve,
    Data,
    Details,
    Frames,
    Heading,
    Measured,
    Pictures,
    Prose,
    Row,
    Scatter,
    Table,
    Verdict,
)
from pellucid.core.chart_tables import numbers_of
from pellucid.core.pixels import sheet
from pellucid.core.report import Report
from pellucid.core.wording import clean, decimals_for, number, paragraphs, spans

__all__ = ["lower", "plain", "show"]

_COLOURS = {"best": "bold green", "ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
_SIGNS = {"best": "★ ", "ok": "✓ ", "note": "• ", "warn": "! ", "fail": "✗ "}
_WORDS = {"ok": "✓ OK: ", "note": "• Note: ", "warn": "! Caution: ", "fail": "✗ FAILED: "}
_STYLES = {"plain": "", "bold": "bold", "code": "cyan"}
_SPARKS = "▁▂▃▄▅▆▇█"
_GREYS = " .:-=+*#%@"  # from dark to light, for a dark ground
_ROWS_OF_PICTURES = 3
_MOST_TURNS = 6  # of a table on its side: what a few screens hold
_MOST_COLUMNS = 7  # a table with more is turned on its side when the screen is too narrow for it


class Screen(NamedTuple):
    """What a block must know of the terminal: its columns, and whether pictures can be in colour."""

    width: int
    colour: bool


def show(report: Report, console: Console | None = None) -> None:
    """Write the report to a console; None is the standard output."""
    console = console or Console()
    screen = Screen(console.width, console.color_system in ("truecolor", "256"))
    console.print(Text(clean(report.title), style="bold underline"), "", *_all(report.blocks(), screen), sep="\n")


def plain(report: Report, width: int = 100) -> str:
    """The report as text of so many columns, without colours and without spaces at the ends of its lines."""
    out = io.StringIO()
    show(report, Console(file=out, width=width, color_system=None, legacy_windows=False, force_terminal=False))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().rstrip().splitlines())


def _all(blocks: Iterable[Block], screen: Screen) -> list[RenderableType]:
    return [lower(block, screen) for block in blocks if not isinstance(block, Data)]


@functools.singledispatch
def lower(block: Block, screen: Screen) -> RenderableType:
    """One block for this screen; text of a report is never read as markup."""
    raise TypeError(f"{type(block).__name__} has no terminal form; register one in render_terminal.")


@lower.register
def _(block: Heading, screen: Screen) -> RenderableType:
    text = Text(clean(block.text), style="bold" if block.level < 4 else "italic")
    if block.level == 2:
        text.append("\n" + "─" * min(screen.width, max(4, text.cell_len)), style="dim")
    return Padding(text, (1, 0, 0 if block.level == 2 else 1, 0))


@lower.register
def _(block: Prose, screen: Screen) -> RenderableType:
    return Group(*(Padding(_inline(text), (0, 0, 1, 0)) for text in paragraphs(block.text)))


@lower.register
def _(block: Verdict, screen: Screen) -> RenderableType:
    text = Text(_WORDS[block.level], style=_COLOURS[block.level])
    text.append_text(Text("\n").join(_inline(part) for part in paragraphs(block.text)))
    return Padding(text, (0, 0, 1, 0))


@lower.register
def _(block: Code, screen: Screen) -> RenderableType:
    return Padding(Text(clean(block.text).expandtabs(4), style="cyan", no_wrap=True, overflow="fold"), (0, 0, 1, 4))


@lower.register
def _(block: Table, screen: Screen) -> RenderableType:
    texts = list(block.texts())
    if len(block.columns) > _MOST_COLUMNS and _wanted_width(block.columns, texts) > screen.width:
        return _turned(block, texts, screen)
    grid = Grid(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for name, side in zip(block.columns, block.sides(), strict=True):
        grid.add_column(Text(clean(name)), justify=side, overflow="fold")
    for r, row in enumerate(texts):
        marks = [block.highlight.get((r, c), "") for c in range(len(row))]
        cells = zip(row, marks, strict=True)
        grid.add_row(*(Text(_SIGNS.get(mark, "") + cell, style=_COLOURS.get(mark, "")) for cell, mark in cells))
    small = block.small_print()
    return _said(grid, block.caption, Text(small, style="dim") if small else None)


def _wanted_width(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that the table would fill without folding a cell."""
    return sum(2 + max(len(name), *(len(row[c]) for row in texts), 0) for c, name in enumerate(columns))


def _turned(block: Table, texts: Sequence[Sequence[str]], screen: Screen) -> RenderableType:
    """A table with too many columns for the screen, on its side: a line a column, its rows in as many turns as fit."""
    first = 2 + max(len(name) for name in block.columns)
    turns: list[list[int]] = [[]]
    used = first
    for r, row in enumerate(texts):
        wide = 2 + max(1, *(len(cell) + 2 for cell in row))
        if turns[-1] and used + wide > screen.width:
            turns.append([])
            used = first
        turns[-1].append(r)
        used += wide
    grids: list[RenderableType] = []
    for shown in turns[:_MOST_TURNS]:
        grid = Grid(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, show_edge=False)
        grid.add_column(style="bold")
        for _ in shown:
            grid.add_column(overflow="fold")
        for c, name in enumerate(block.columns):
            marks = [block.highlight.get((r, c), "") for r in shown]
            cells = (
                Text(_SIGNS.get(m, "") + texts[r][c], style=_COLOURS.get(m, ""))
                for r, m in zip(shown, marks, strict=True)
            )
            grid.add_row(Text(clean(name)), *cells)
        grids += [grid, Text("")]
    left = sum(len(shown) for shown in turns[_MOST_TURNS:])
    small = " ".join(part for part in (block.small_print(), f"{left} more are not shown." if left else "") if part)
    return _said(Group(*grids[:-1]), block.caption, Text(small, style="dim") if small else None)


@lower.register
def _(block: Pictures, screen: Screen) -> RenderableType:
    return _said(_pictures(block, screen), block.caption)


@lower.register
def _(block: Frames, screen: Screen) -> RenderableType:
    import numpy as np

    if not block.steps:
        return _said(Text("no pictures", style="dim"), block.caption)
    last = len(block.steps) - 1
    chosen = sorted({round(k * last / 7) for k in range(8)})
    labels = [block.labels[i] if block.labels else f"step {i}" for i in chosen]
    if len({block.steps[i].images.shape[1:] for i in chosen}) == 1:  # the first picture of each step, as one strip
        strip = np.concatenate([block.steps[i].images[:1] for i in chosen])
        return _said(_pictures(Pictures(strip), screen), block.caption, Text(clean(" → ".join(labels)), style="dim"))
    parts = [part for i, label in zip(chosen, labels, strict=True) for part in (clean(label), block.steps[i])]
    return _said(Group(*(Text(p) if isinstance(p, str) else _pictures(p, screen) for p in parts)), block.caption)


@lower.register
def _(block: Curve, screen: Screen) -> RenderableType:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for s in block.series:
        finite = [v for v in s.y if math.isfinite(v)]
        ends = f"{number(finite[0])} → {number(finite[-1])}" if finite else "no finite values"
        reach = f"lowest {number(min(finite))}, highest {number(max(finite))}" if finite else ""
        line = _spark(tuple(s.y), block.log_y, min(40, max(8, screen.width - 60)))
        name = Text(clean(s.name or block.y_label))
        grid.add_row(name, Text(line, style="cyan"), Text(ends), Text(reach, style="dim"))
    axes = " over ".join(clean(label) for label in (block.y_label, block.x_label) if label)
    marks = "; ".join(f"{clean(m.label)} at {number(m.at)}" for m in block.markers)
    small = "; ".join(part for part in (axes, marks) if part)
    return _said(grid, block.caption, Text(small, style="dim") if small else None)


@lower.register
def _(block: Bars, screen: Screen) -> RenderableType:
    if not block.labels:
        return _said(Text("no bars", style="dim"), block.caption)
    decimals = decimals_for(block.values)
    ends = [abs(v) for v in (*block.values, *(m.at for m in block.markers)) if math.isfinite(v)]
    most = max(ends, default=0.0) or 1.0
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for label, value, row in zip(block.labels, block.values, numbers_of(block).rows, strict=True):
        said = str(row[1]) if isinstance(row[1], Measured) else number(value, decimals)
        bar = Text("█" * _length(value, most), style="cyan" if value >= 0 else "magenta")
        grid.add_row(Text(clean(label), justify="right"), bar, Text(said))
    for m in block.markers:
        line, said = Text("┈" * _length(m.at, most), style="dim"), number(m.at, decimals)
        grid.add_row(Text(clean(m.label), justify="right"), line, Text(said, style="dim"))
    return _said(grid, block.caption, Text(clean(block.value_label), style="dim") if block.value_label else None)


@lower.register
def _(block: Scatter, screen: Screen) -> RenderableType:
    return _said(lower(numbers_of(block), screen), block.caption)


@lower.register
def _(block: Details, screen: Screen) -> RenderableType:
    inside = Padding(Group(*_all(block.blocks, Screen(max(20, screen.width - 2), screen.colour))), (0, 0, 0, 2))
    return Group(Text("▾ ", style="dim").append_text(_inline(block.summary)), inside)


@lower.register
def _(block: Row, screen: Screen) -> RenderableType:
    return Group(*_all(block.blocks, screen))


@lower.register
def _(block: Data, screen: Screen) -> RenderableType:
    return Text("")


def _said(content: RenderableType, caption: str, small: Text | None = None) -> RenderableType:
    """A figure: its caption, what it shows, its small print, an empty line."""
    parts = [_inline(caption, "italic") if caption else None, content, small]
    return Padding(Group(*(part for part in parts if part is not None)), (0, 0, 1, 0))


def _inline(text: str, style: str = "") -> Text:
    return Text(style=style).join(Text(span.text, style=_STYLES[span.style]) for span in spans(clean(text)))


def _length(value: float, most: float) -> int:
    return round(32 * min(1.0, abs(value) / most)) if math.isfinite(value) else 0


def _spark(values: Sequence[float], log: bool, width: int) -> str:
    """A line of blocks, each the mean of its stretch of values.

    >>> _spark([0, 1, 2, 3, 4, 5, 6, 7], False, 8)
    '▁▂▃▄▅▆▇█'
    """
    held = [math.log(v) if log and v > 0 else math.nan if log else v for v in values]
    width = min(width, len(held))
    means = []
    for k in range(width):
        stretch = [v for v in held[k * len(held) // width : (k + 1) * len(held) // width] if math.isfinite(v)]
        means.append(sum(v / len(stretch) for v in stretch) if stretch else math.nan)
    finite = [v for v in means if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    step = (high - low) / 7 or 1.0
    return "".join(_SPARKS[round((v - low) / step)] if math.isfinite(v) else " " for v in means)


def _pictures(block: Pictures, screen: Screen) -> RenderableType:
    """Two pixels per character, one above the other: in their colours, or as one sign for how light they are."""
    n, height, width = block.images.shape[:3]
    if not n * height * width:
        return Text("no pictures", style="dim")
    shrink = max(1, math.ceil(max(height, width) / 32))
    images = block.images[:, ::shrink, ::shrink]
    columns = max(1, min(block.columns or n, (screen.width + 2) // (images.shape[2] + 2)))
    shown = images[: columns * _ROWS_OF_PICTURES]
    laid = sheet(shown, columns, gap=2 - images.shape[1] % 2, ground=0)  # each picture starts on a line of its own
    text = Text(no_wrap=True, overflow="crop")
    grey = laid if laid.ndim == 3 else laid[..., None].repeat(3, axis=-1)
    pixels = grey.tolist()
    for top in range(0, len(pixels), 2):
        below = pixels[top + 1] if top + 1 < len(pixels) else pixels[top]
        for upper, lower_ in zip(pixels[top], below, strict=True):
            if screen.colour:
                text.append("▀", style=Style(color=_rgb(upper), bgcolor=_rgb(lower_)))
            else:
                text.append(_GREYS[(sum(upper) + sum(lower_)) * len(_GREYS) // (6 * 256)])
        text.append("\n")
    text.rstrip()
    fewer = f"{len(shown)} of {n} pictures" if len(shown) < n else ""
    named = "; ".join(map(clean, block.captions[: len(shown)]))
    small = ". ".join(part for part in (fewer, named) if part)
    return Group(text, Text(small, style="dim")) if small else text


def _rgb(pixel: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)
