"""A report as one HTML page that needs nothing beside itself.

The page carries its own content policy: nothing is fetched, and the only script and style that run are those whose
sha256 the policy names. Every text of a report passes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources

from markupsafe import Markup, escape

from pellucid.core import charts
from pellucid.core.blocks import (
    Bars,
    Block,
    Cell,
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
from pellucid.core.pixels import data_uri
from pellucid.core.report import Report
from pellucid.core.wording import clean, paragraphs, spans, unmarked

__all__ = ["lower", "notebook", "page"]

WORDS = {"ok": "OK", "note": "Note", "warn": "Caution", "fail": "Failed", "best": "Best"}
_SIGNS = {  # strokes in a square of 16 units
    "ok": "M3.5 8.5l3 3 6-7",
    "note": "M8 7.2v4.3M8 4.4v.2",
    "warn": "M8 4v5M8 11.6v.2",
    "fail": "M4.5 4.5l7 7m0-7l-7 7",
    "best": "M8 3l1.5 3.2 3.5.4-2.6 2.4.7 3.5L8 10.8l-3.1 1.7.7-3.5L3 6.6l3.5-.4z",
}


@dataclass
class Setting:
    """What one page has used so far: ids, headings for the contents, picture grids, whether frames need the script."""

    anchors: set[str] = field(default_factory=set)
    contents: list[tuple[str, str]] = field(default_factory=list)
    grids: set[int] = field(default_factory=set)
    scripted: bool = False

    def anchor(self, text: str) -> str:
        """An id for this text that no other part of the page has."""
        plain = unicodedata.normalize("NFKD", clean(text)).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "part"
        name, again = stem, 1
        while name in self.anchors:
            again += 1
            name = f"{stem}-{again}"
        self.anchors.add(name)
        return name


def page(report: Report) -> str:
    """The whole page."""
    setting = Setting(anchors={"content", "contents"})
    body = _all(report.blocks(), setting)
    style = _asset("report.css") + "".join(
        f".g{n}{{grid-template-columns:repeat({n},minmax(0,max-content))}}" for n in sorted(setting.grids)
    )
    script = _asset("report.js") if setting.scripted else ""
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_digest(style)}'; script-src {repr(_digest(script)) if script else repr('none')}; "
        "base-uri 'none'; form-action 'none'"
    )
    title = clean(report.title)
    whole = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="Pellucid">\n'
        "<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the report</a>\n<div class="page">\n'
        '<header><h1>{title}</h1></header>\n{contents}<main id="content">\n{body}</main>\n'
        "</div>\n{script}</body>\n</html>\n"
    ).format(
        policy=Markup(policy),  # its own quotes are single ones
        title=title,
        style=Markup(style),
        contents=_contents(setting),
        body=body,
        script=Markup("<script>{}</script>\n").format(Markup(script)) if script else "",
    )
    return str(whole)


def notebook(report: Report) -> str:
    """The page inside a frame of a notebook: its style cannot leak out, and its script reaches nothing else."""
    height = min(900, 220 + 120 * len(report.blocks()))
    frame = '<iframe srcdoc="{}" sandbox="allow-scripts" width="100%" height="{}" frameborder="0" title="{}"></iframe>'
    return str(Markup(frame).format(page(report), height, clean(report.title)))


def _contents(setting: Setting) -> Markup:
    if len(setting.contents) < 2:
        return Markup()
    links = Markup("").join(Markup('<li><a href="#{}">{}</a></li>\n').format(a, t) for a, t in setting.contents)
    return Markup('<nav aria-labelledby="contents"><p id="contents">Contents</p>\n<ol>\n{}</ol></nav>\n').format(links)


def _all(blocks: Iterable[Block], setting: Setting) -> Markup:
    return Markup("").join(lower(block, setting) for block in blocks)


@functools.singledispatch
def lower(block: Block, setting: Setting) -> Markup:
    """HTML of one block, everything in it escaped."""
    raise TypeError(f"{type(block).__name__} has no HTML form; register one in render_html.")


@lower.register
def _(block: Heading, setting: Setting) -> Markup:
    anchor = setting.anchor(block.anchor or block.text)
    if block.level == 2:
        setting.contents.append((anchor, clean(block.text)))
    return Markup('<h{0} id="{1}">{2}</h{0}>\n').format(block.level, anchor, clean(block.text))


@lower.register
def _(block: Prose, setting: Setting) -> Markup:
    return Markup("").join(Markup("<p>{}</p>\n").format(_inline(text)) for text in paragraphs(block.text))


@lower.register
def _(block: Verdict, setting: Setting) -> Markup:
    text = Markup("<br>").join(_inline(part) for part in paragraphs(block.text))
    return Markup('<p class="verdict {0}">{1}<span><b>{2}:</b> {3}</span></p>\n').format(
        block.level, _sign(block.level), WORDS[block.level], text
    )


@lower.register
def _(block: Code, setting: Setting) -> Markup:
    language = re.sub(r"[^\w+-]", "", block.language)
    shown = Markup('<span class="language">{}</span>').format(language) if language else ""
    return Markup('<div class="code">{}<pre tabindex="0"><code>{}</code></pre></div>\n').format(
        shown, clean(block.text)
    )


@lower.register
def _(block: Table, setting: Setting) -> Markup:
    return _figure("table", _table(block), block.caption, above=True)


@lower.register
def _(block: Pictures, setting: Setting) -> Markup:
    return _figure("pictures", _pictures(block, setting), block.caption)


@lower.register
def _(block: Frames, setting: Setting) -> Markup:
    setting.scripted = setting.scripted or len(block.steps) > 1
    about = unmarked(block.alt or block.caption or "Pictures step by step").rstrip(".")
    frames = Markup("")
    for i, step in enumerate(block.steps):
        label = clean(block.labels[i]) if block.labels else f"step {i}"
        named = Markup('<li class="frame">{}<span class="label">{}</span></li>\n')
        frames += named.format(_pictures(step, setting, f"{about}: {label}"), label)
    start = len(block.steps) - 1 if block.start is None else block.start
    alone = "single" if all(len(step.images) == 1 for step in block.steps) else "many"
    strip = Markup('<ol class="strip {}" data-start="{}" data-about="{}">\n{}</ol>\n').format(
        alone, start, about, frames
    )
    return _figure("frames", strip, block.caption)


@lower.register
def _(block: Curve, setting: Setting) -> Markup:
    names = ", ".join(clean(s.name) for s in block.series if s.name)
    about = unmarked(block.alt) or _sentence("Lines", names, block.y_label, block.x_label)
    return _chart(charts.curve(block, *_texts(block, setting, about)), numbers_of(block), block.caption)


@lower.register
def _(block: Bars, setting: Setting) -> Markup:
    about = unmarked(block.alt) or _sentence("Bars", f"{len(block.labels)} values", block.value_label, "")
    return _chart(charts.bars(block, *_texts(block, setting, about)), numbers_of(block), block.caption)


@lower.register
def _(block: Scatter, setting: Setting) -> Markup:
    about = unmarked(block.alt) or _sentence(
        "Points", ", ".join(map(clean, block.groups)), block.y_label, block.x_label
    )
    drawing = charts.scatter(block, *_texts(block, setting, about))
    total = sum(map(len, block.groups.values()))
    fewer = f"{charts.MOST_POINTS:,} of {total:,} points are drawn." if total > charts.MOST_POINTS else ""
    return _chart(drawing, numbers_of(block), " ".join(part for part in (block.caption, fewer) if part))


@lower.register
def _(block: Details, setting: Setting) -> Markup:
    inside = '<details{}><summary>{}</summary>\n<div class="inside">\n{}</div></details>\n'
    return Markup(inside).format(
        Markup(" open") if block.open else "", _inline(block.summary), _all(block.blocks, setting)
    )


@lower.register
def _(block: Row, setting: Setting) -> Markup:
    cells = Markup("").join(Markup("<div>\n{}</div>\n").format(lower(inner, setting)) for inner in block.blocks)
    small = bool(block.blocks) and all(isinstance(inner, Pictures) for inner in block.blocks)
    return Markup('<div class="{}">\n{}</div>\n').format("row pictures" if small else "row", cells)


@lower.register
def _(block: Data, setting: Setting) -> Markup:
    return Markup()


def _texts(block: Curve | Bars | Scatter, setting: Setting, about: str) -> tuple[str, str, str]:
    """Id, title and description of a chart."""
    return setting.anchor("chart"), unmarked(block.caption) or "Chart", about


def _chart(drawing: Markup, numbers: Table, caption: str) -> Markup:
    table = Markup('<details class="numbers"><summary>Numbers</summary>\n{}</details>\n').format(_table(numbers))
    return _figure("chart", Markup('<div class="scroll">{}</div>\n').format(drawing), caption, table)


def _figure(kind: str, content: Markup, caption: str, after: Markup = Markup(), *, above: bool = False) -> Markup:  # noqa: B008
    said = Markup("<figcaption>{}</figcaption>\n").format(_inline(caption)) if caption else Markup()
    parts = said + content if above else content + said
    return Markup('<figure class="{}">\n{}{}</figure>\n').format(f"is-{kind}", parts, after)


def _pictures(block: Pictures, setting: Setting, about: str = "") -> Markup:
    scale, (n, height, width) = block.shown_scale(), block.images.shape[:3]
    alt = unmarked(about or block.alt or block.caption) or f"{n} pictures of {height} by {width} pixels"
    if block.columns:
        setting.grids.add(block.columns)
    named = Markup('<figure class="picture">{}<figcaption>{}</figcaption></figure>')
    out = []
    for i, image in enumerate(block.images if height and width else ()):
        img = Markup('<img{} src="{}" width="{}" height="{}" alt="{}">').format(
            Markup(' class="px"') if scale > 1 else "",
            data_uri(image),
            width * scale,
            height * scale,
            alt if n == 1 else "",
        )
        out.append(named.format(img, _inline(block.captions[i])) if block.captions else img)
    if not out:
        return Markup('<p class="empty">no pictures</p>\n')
    role = (
        Markup() if n == 1 else Markup(' role="{}" aria-label="{}"').format("group" if block.captions else "img", alt)
    )
    kind = f"grid g{block.columns}" if block.columns else "flow"
    return Markup('<div class="{}"{}>{}</div>\n').format(kind, role, Markup("").join(out))


def _table(block: Table) -> Markup:
    aligned = block.sides()
    head = Markup("").join(
        Markup('<th scope="col" class="{}">{}</th>').format(side, clean(name))
        for side, name in zip(aligned, block.columns, strict=True)
    )
    titled = len(block.columns) > 1 and all(isinstance(row[0], str) and row[0] for row in block.rows)
    body, small = Markup(""), block.small_print()
    for r, (row, texts) in enumerate(zip(block.rows, block.texts(), strict=True)):
        body += Markup("<tr>")
        for c, (cell, text) in enumerate(zip(row, texts, strict=True)):
            mark = block.highlight.get((r, c))
            content = _cell(cell, text)
            if mark:
                content = Markup('{}<span class="hidden">{}: </span>{}').format(_sign(mark), WORDS[mark], content)
            tag = "th" if c == 0 and titled else "td"
            scope = Markup(' scope="row"') if tag == "th" else ""
            kind = f"{aligned[c]} marked {mark}" if mark else aligned[c]
            body += Markup('<{0}{1} class="{2}">{3}</{0}>').format(tag, scope, kind, content)
        body += Markup("</tr>\n")
    if not block.rows:
        body = Markup('<tr><td class="empty" colspan="{}">{}</td></tr>\n').format(max(1, len(block.columns)), small)
    label = unmarked(block.caption) or "Table"
    noted = Markup('<p class="small">{}</p>\n').format(small) if small and block.rows else Markup()
    return Markup(
        '<div class="scroll" role="group" tabindex="0" aria-label="{}"><table>\n<thead><tr>{}</tr></thead>\n'
        "<tbody>\n{}</tbody></table></div>\n{}"
    ).format(label, head, body, noted)


def _cell(cell: Cell, text: str) -> Markup:
    if cell is None:
        return Markup('<span class="none">{}</span>').format(text)
    if not isinstance(cell, Measured):
        return escape(text)
    value, bracket, rest = text.partition(" [")
    interval = Markup(' <span class="interval">[{}</span>').format(rest) if bracket else Markup()
    title = Markup(' title="{}"').format(clean(cell.note())) if cell.note() else ""
    return Markup('<span class="measured"{}>{}{}</span>').format(title, value, interval)


def _inline(text: str) -> Markup:
    tags = {"plain": Markup("{}"), "bold": Markup("<strong>{}</strong>"), "code": Markup("<code>{}</code>")}
    return Markup("").join(tags[span.style].format(span.text) for span in spans(clean(text)))


def _sign(level: str) -> Markup:
    sign = '<svg class="sign" viewBox="0 0 16 16" aria-hidden="true"><path d="{}"/></svg>'
    return Markup(sign).format(_SIGNS[level])


def _sentence(what: str, names: str, y: str, x: str) -> str:
    axes = " over ".join(clean(label) for label in (y, x) if label)
    return f"{what}: {names or 'unnamed'}" + (f"; {axes}." if axes else ".")


@functools.cache
def _asset(name: str) -> str:
    return resources.files("pellucid.core").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
