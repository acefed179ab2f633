"""A report shows the same blocks in every medium, and what is planted in its texts stays text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import html.parser
import io
import json
import math
import os
import re
import subprocess
import sys
import typing
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pellucid.core import chart_tables, charts, pixels, render_html, render_json, render_markdown, render_terminal
from pellucid.core.blocks import (
    Bars,
    Block,
    Code,
    Curve,
    Data,
    Details,
    Frames,
    Heading,
    Marker,
    Measured,
    Pictures,
    Prose,
    Row,
    Scatter,
    Series,
    Table,
    Verdict,
)
from pellucid.core.errors import BadInput
from pellucid.core.report import Page, Report

PLANTED = """<script>alert(1)</script>"><img src=x onerror=alert(2)>'&{0}\x1b[31m\x00</style></title>"""
KINDS = typing.get_args(Block)
RENDERERS: dict[str, typing.Any] = {
    "html": render_html.lower,
    "markdown": render_markdown.lower,
    "json": render_json.lower,
    "terminal": render_terminal.lower,
}


def digits(n: int, size: int = 8) -> np.ndarray[typing.Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 17, (n, size, size)).astype(np.uint8) * 15


def blocks(t: str) -> tuple[Block, ...]:
    """One block of each kind at least, with the text `t` in every field that holds text."""
    grey, colour = digits(3), np.repeat(digits(2)[..., None], 3, axis=-1)
    few = (Marker(1.5, t),)
    charts_ = (
        Curve(
            [Series(t, [0, 1, 2], [1, 2, 4], [0.5, 1, 3], [2, 3, 5]), Series(t, [0], [1])], t, t, caption=t, markers=few
        ),
        Bars([t, t], [0.5, -0.25], [0.4, -0.3], [0.6, -0.2], caption=t, value_label=t, markers=few, alt=t),
        Scatter({t: np.array([[0.0, 1.0], [2.0, 3.0]]), "other": np.zeros((0, 2))}, t, t, t, t),
    )
    return (
        Heading(t),
        Heading(t, 3, anchor=t),
        Prose(f"{t}\n\n**{t}** and {t}"),
        Table(
            [t, "n", "m"],
            [[t, 1, Measured(0.5, 0.4, 0.6, 10, t, t)], [t, None, True]],
            t,
            {(0, 0): "best", (1, 1): "fail"},
        ),
        Pictures(grey, [t, t, t], columns=2, scale=3, caption=t, alt=t),
        Pictures(colour, caption=t),
        *charts_,
        Code(t, language=t),
        *(Verdict(level, t) for level in ("ok", "note", "warn", "fail")),
        Frames([Pictures(grey[:1]), Pictures(grey[1:2])], [t, t], t, t, start=0),
        Frames([Pictures(grey), Pictures(grey)], caption=t),
        Details(t, [Prose(t), Row(charts_)], open=True),
        Row([Prose(t), Code(t)]),
        Data({t: [1, 2.5, None, t, {"x": float("inf")}]}, name=t),
    )


@pytest.fixture(scope="module")
def report() -> Page:
    return Page("Why a three?", blocks("plain words"))


@pytest.fixture(scope="module")
def planted() -> Page:
    return Page(PLANTED, blocks(PLANTED))


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.inside[self._open] = self.inside.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def policy(reader: Reader) -> str:
    return next(a["content"] for tag, a in reader.tags if tag == "meta" and "http-equiv" in a)


# Every block, every medium


def test_the_examples_hold_every_kind_of_block() -> None:
    assert {type(block) for block in blocks("")} == set(KINDS)


@pytest.mark.parametrize("medium", RENDERERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_renderer_knows_every_kind_of_block(medium: str, kind: type) -> None:
    assert kind in RENDERERS[medium].registry


@pytest.mark.parametrize("medium", RENDERERS)
def test_a_kind_that_a_renderer_lacks_is_an_error(medium: str) -> None:
    arguments = {"html": (render_html.Setting(),), "terminal": (render_terminal.Screen(80, False),)}.get(medium, ())
    with pytest.raises(TypeError, match="register"):
        RENDERERS[medium](object(), *arguments)


@pytest.mark.parametrize("block", blocks("word7"), ids=lambda block: type(block).__name__)
def test_the_words_of_a_block_reach_every_medium(block: Block) -> None:
    page = Page("title", (block,))
    out = {"html": page.to_html(), "md": page.to_markdown(), "txt": page.to_text(), "json": page.to_json()}
    hidden = isinstance(block, Data)
    assert [medium for medium, text in out.items() if "word7" in text] == (["json"] if hidden else [*out])


def test_the_terminal_paints_pictures_where_it_has_colours(report: Page) -> None:
    out = io.StringIO()
    report.to_terminal(Console(file=out, width=80, force_terminal=True, color_system="truecolor"))
    assert "▀" in out.getvalue()
    assert "48;2;" in out.getvalue()
    assert str(report) == report.to_text()


@pytest.mark.parametrize("width", [20, 40, 200])
def test_text_keeps_to_its_width(report: Page, width: int) -> None:
    assert max(map(len, report.to_text(width).splitlines())) <= width


# What is planted stays text


def test_html_runs_nothing_that_was_planted(planted: Page) -> None:
    reader, honest = Reader(planted.to_html()), Reader(Page("t", blocks("plain words " * 8)).to_html())
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in honest.tags]
    assert not [a for _, attrs in reader.tags for a in attrs if a.startswith("on") or a == "style"]
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in reader.tags if tag == "img")
    assert "\x1b" not in planted.to_html()


def test_markdown_and_terminal_pass_on_no_markup(planted: Page) -> None:
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", planted.to_markdown())
    assert "<script" not in outside
    assert "<img" not in outside
    assert "\x1b" not in planted.to_text() + planted.to_markdown()
    assert "[bold]x[/bold]" in Page("t", (Prose("[bold]x[/bold]"),)).to_text()


def test_a_code_block_cannot_be_left() -> None:
    text = Page("t", (Code("a\n```\n<b>\n````\n", "py`th\non"),)).to_markdown()
    assert text.count("`````") == 2
    assert "`````python\n" in text


@pytest.mark.parametrize(
    "text", ["# x", "1. x", "- x", "> x", "* x", "===", "---", "| a |", "[a](javascript:b)", "`", "$x$"]
)
def test_markdown_of_a_sentence_is_a_sentence(text: str) -> None:
    from markdown_it import MarkdownIt

    read = MarkdownIt("commonmark").enable("table").render(Page("t", (Prose(text),)).to_markdown())
    assert read.replace("\\$", "$") == f"<h1>t</h1>\n<p>{html.escape(text)}</p>\n"


def test_a_table_survives_markdown() -> None:
    from markdown_it import MarkdownIt

    table = Table(["a|b", "*c*"], [["x | y", 1], ["<i>", Measured(0.5, 0.4, 0.6)]])
    read = MarkdownIt("commonmark").enable("table").render(Page("t", (table,)).to_markdown())
    cells = [html.unescape(cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", read)]
    assert cells == ["a|b", "*c*", "x | y", "1", "<i>", "0.50 [0.40, 0.60]"]


# One file, nothing fetched


def test_a_page_asks_for_nothing_outside(report: Page, planted: Page) -> None:
    for page in (report, planted):
        reader = Reader(page.to_html())
        for tag, attrs in reader.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
            for name in ("src", "href", "srcset", "action", "xlink:href"):
                assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert not re.search(r"@import|url\(|@font-face", reader.inside["style"])
        assert not re.search(r"fetch|XMLHttp|import\(|innerHTML|eval|WebSocket", reader.inside["script"])


def test_the_policy_names_the_script_and_the_style_by_hash(report: Page) -> None:
    reader = Reader(report.to_html())
    assert "default-src 'none'" in policy(reader)
    assert "unsafe" not in policy(reader)
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(reader.inside[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy(reader)
        assert [tag for tag, _ in reader.tags].count(name) == 1


def test_a_page_without_frames_has_no_script() -> None:
    reader = Reader(Page("t", (Prose("x"),)).to_html())
    assert "script-src 'none'" in policy(reader)
    assert "script" not in reader.inside


def test_a_notebook_gets_the_page_in_a_sandbox(report: Page) -> None:
    (tag, attrs), *rest = Reader(report._repr_html_()).tags
    assert (tag, rest) == ("iframe", [])
    assert attrs["sandbox"] == "allow-scripts"
    assert attrs["srcdoc"] == report.to_html()


def test_ids_are_unique_and_links_inside_arrive(planted: Page) -> None:
    reader = Reader(planted.to_html())
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in reader.tags if tag == "a"} <= set(ids)
    named = [name for _, attrs in reader.tags for name in attrs.get("aria-labelledby", "").split()]
    assert set(named) <= set(ids)


def test_every_picture_and_chart_says_what_it_shows(report: Page) -> None:
    reader, around = Reader(report.to_html()), ""
    for tag, attrs in reader.tags:
        around = attrs.get("aria-label", "") if tag == "div" else around
        if tag == "img":
            assert attrs["alt"] or around
        if tag == "svg":
            assert attrs.get("role") == "img" or attrs["aria-hidden"] == "true"
    assert [a["lang"] for tag, a in reader.tags if tag == "html"] == ["en"]


def test_frames_are_all_there_without_the_script() -> None:
    steps = [Pictures(digits(1)) for _ in range(5)]
    tags = Reader(Page("t", (Frames(steps),)).to_html()).tags
    assert sum(tag == "img" for tag, _ in tags) == 5
    assert not [attrs for _, attrs in tags if "hidden" in attrs]


def test_four_hundred_digits_make_a_small_page() -> None:
    assert len(Page("Digits", (Pictures(digits(400)),)).to_html()) < 300_000


def test_text_and_ground_differ_enough_to_read() -> None:
    def light(colour: str) -> float:
        full = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
        parts = (int(full[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    def contrast(a: str, b: str) -> float:
        high, low = sorted((light(a), light(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    style = Reader(Page("t", ()).to_html()).inside["style"]
    themes = [
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+);", theme)) for theme in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        grounds = [theme["--ground"], theme["--raised"]]
        for name in ("--text", "--soft"):
            assert min(contrast(theme[name], ground) for ground in grounds) >= 4.5
        for name in ("ok", "note", "warn", "fail"):
            ground = theme[f"--{name}-ground"]
            assert min(contrast(theme[key], ground) for key in (f"--{name}", "--text", "--soft")) >= 4.5
        assert contrast(theme["--link"], theme["--ground"]) >= 4.5
        for name in (*(f"--c{i}" for i in range(7)), "--strong"):
            assert contrast(theme[name], theme["--ground"]) >= 3


# JSON


def test_json_is_read_back_whole(report: Page, planted: Page) -> None:
    for page in (report, planted):
        text = page.to_json()
        again = render_json.read(text)
        assert again.to_json() == text
        assert json.loads(text)["title"] == again.title
    again = render_json.read(report.to_json())
    assert (again.to_html(), again.to_markdown(), again.to_text()) == (
        report.to_html(),
        report.to_markdown(),
        report.to_text(),
    )


@pytest.mark.parametrize("shape", [(0, 8, 8), (3, 8, 8), (2, 5, 7, 3), (1, 1, 1), (2, 0, 4)])
def test_pictures_keep_every_pixel_through_json(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    (block,) = render_json.read(Page("t", (Pictures(images),)).to_json()).blocks()
    assert isinstance(block, Pictures)
    np.testing.assert_array_equal(block.images, images)


def test_json_writes_what_is_not_finite_as_null() -> None:
    bad = [math.nan, math.inf, -math.inf]
    page = Page(
        "t", (Curve([Series("s", bad, bad)]), Table(["a"], [[v] for v in bad]), Bars(["a", "b", "c"], bad), Data(bad))
    )
    curve, table, bars, data = json.loads(page.to_json())["blocks"]
    assert curve["series"][0]["y"] == bars["values"] == data["value"] == [None] * 3
    assert table["rows"] == [[None]] * 3
    assert render_json.read(page.to_json()).to_json() == page.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"pellucid_report": 2, "title": "t", "blocks": []}',
        '{"pellucid_report": 1, "title": 3, "blocks": []}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Report"}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Prose", "text": 1}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Prose", "text": "", "extra": 1}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Pictures", "shape": [1, 9, 9], "png": "AAAA"}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Pictures", "shape": [9, 99999, 99999], "png": ""}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": [{"type": "Row", "blocks": [{"type": "Series"}]}]}',
        '{"pellucid_report": 1, "title": "t", "blocks": ' + "[" * 100_000,
    ],
)
def test_json_that_is_not_a_report_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="not a whole report"):
        render_json.read(text)


# Numbers and words


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (Measured(0.9532, 0.938, 0.9651), "0.953 [0.938, 0.965]"),
        (Measured(0.5), "0.5"),
        (Measured(1234.5, 1200, 1270), "1,234 [1,200, 1,270]"),
        (Measured(3.0816, unit="bits/dim", kind="lower_bound"), "≥ 3.082 bits/dim"),
        (Measured(0.5, 0.5, 0.5), "0.5 [0.5, 0.5]"),
        (Measured(math.nan, math.nan, math.nan), "nan [nan, nan]"),
        (Measured(1e-9, 0.9e-9, 1.1e-9), "1e-09 [9e-10, 1.1e-09]"),
        (Measured(-0.001, -0.3, 0.3), "0.00 [-0.30, 0.30]"),
        (Measured(np.float32(0.5), n=np.int64(3)), "0.5"),  # type: ignore[arg-type]
    ],
)
def test_a_measured_number_is_said_with_its_interval(measured: Measured, said: str) -> None:
    assert str(measured) == said


def test_a_table_says_what_its_numbers_rest_on() -> None:
    table = Table(["m"], [[Measured(0.5, 0.4, 0.6, n=1000, kind="Wilson 95%")]])
    page = Page("t", (table,))
    assert all("n = 1,000; Wilson 95%" in text for text in (page.to_html(), page.to_markdown(), page.to_text()))


@pytest.mark.parametrize("columns", [[], ["a"], ["a", "b"]])
def test_an_empty_table_says_so(columns: list[str]) -> None:
    page = Page("t", (Table(columns),))
    assert all("no rows" in text for text in (page.to_html(), page.to_markdown(), page.to_text()))


def test_nothing_to_show_is_shown_as_nothing() -> None:
    none = np.zeros((0, 8, 8), np.uint8)
    hollow = (
        Pictures(none),
        Frames([]),
        Frames([Pictures(none)]),
        Bars([], []),
        Curve([]),
        Scatter({}),
        Row([]),
        Prose(""),
    )
    for page in (Page("t", ()), Page("t", hollow), Page("t", (Details("", []), Code(""), Data(None)))):
        assert render_json.read(page.to_json()).to_html() == page.to_html()
        assert page.to_text()
        assert page.to_markdown()


def test_other_scripts_and_broken_characters_are_written() -> None:
    page = Page("Größe 数字 🙂", blocks("éß — 文字 🙂 \ud800 عربي"))
    for text in (page.to_html(), page.to_markdown(), page.to_json(), page.to_text()):
        assert "文字 🙂 ? عربي" in text
        text.encode("utf-8")


# Charts


def values(*special: float) -> list[list[float]]:
    return [
        [],
        [1.0],
        [2.0, 2.0],
        [0.0],
        list(special),
        [1e-320, 1.0],
        [1.0, 1.0 + 1e-16],
        [-1e308, 1e308],
        [1e16, 1e16 + 2],
    ]


@pytest.mark.parametrize("y", values(math.nan, math.inf, -1.0, 0.0, 3.0), ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_make_a_chart(y: list[float], log: bool) -> None:
    x = list(range(len(y)))
    made = [
        charts.curve(
            Curve([Series("s", x, y, y, y)], "x", "y", log_x=log, log_y=log, markers=[Marker(0, "m")]), "i", "t", "d"
        ),
        charts.bars(Bars([str(v) for v in x], y, y, y), "i", "t", "d"),
        charts.scatter(Scatter({"s": np.array([x, y]).T}), "i", "t", "d"),
    ]
    for svg in made:
        xml.etree.ElementTree.fromstring(svg)
        assert not re.search(r"[^a-z](nan|inf)[^a-z]", re.sub(r"<text.*?</text>", "", svg))


def test_a_curve_goes_through_its_points() -> None:
    svg = charts.curve(Curve([Series("", [0, 1, 2], [0, 1, 4])]), "i", "t", "d")
    path = re.search(r'class="line c0 d0" d="M([^"]*)"', svg)
    assert path
    points = np.array([[float(v) for v in pair.split()] for pair in path[1].split("L")])
    across, up = np.diff(points[:, 0]), np.diff(points[:, 1])
    assert across[0] == pytest.approx(across[1], abs=0.2)
    assert up[1] / up[0] == pytest.approx(3, rel=0.02)
    assert (up < 0).all()  # larger values stand higher on the page


def test_a_missing_value_parts_the_line() -> None:
    svg = charts.curve(Curve([Series("", [0, 1, 2, 3, 4], [1, 2, math.nan, 2, 1])]), "i", "t", "d")
    path = re.search(r'class="line c0 d0" d="([^"]*)"', svg)
    assert path
    assert path[1].count("M") == 2


def test_a_long_curve_is_thinned_and_keeps_its_spike() -> None:
    y = np.zeros(100_000)
    y[54_321] = 1.0
    svg = charts.curve(Curve([Series("", np.arange(100_000), y)]), "i", "t", "d")
    assert len(svg) < 20_000
    path = re.search(r'class="line c0 d0" d="M([^"]*)"', svg)
    assert path
    heights = [float(pair.split()[1]) for pair in path[1].split("L")]
    assert sorted(heights)[0] < sorted(heights)[1]


def test_many_points_are_thinned_and_said_to_be() -> None:
    page = Page("t", (Scatter({"a": np.random.default_rng(0).standard_normal((50_000, 2))}),)).to_html()
    assert "2,000 of 50,000 points" in page
    assert len(page) < 100_000


@pytest.mark.parametrize("span", [(0, 1), (0.003, 0.0042), (-7, 12), (1e6, 3e6), (99.5, 100.5)])
def test_ticks_are_round_and_inside(span: tuple[float, float]) -> None:
    axis = charts.axis(span, 0, 100)
    at = [axis.at(value) for value, _ in axis.ticks]
    assert 3 <= len(at) <= 12
    assert min(at) >= 0
    assert max(at) <= 100
    assert len({label for _, label in axis.ticks}) == len(at)
    steps = np.diff([value for value, _ in axis.ticks])
    assert steps == pytest.approx(steps[0])
    assert round(steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.0001))) in (1, 2, 5)


def test_every_chart_has_its_table() -> None:
    for kind in (Curve, Bars, Scatter):
        assert kind in chart_tables.numbers_of.registry


# Pictures


def test_few_colours_are_packed_without_loss() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 2, (40, 40, 3)).astype(np.uint8) * 200
    with Image.open(io.BytesIO(pixels.png(image))) as packed:
        assert packed.mode == "P"
        np.testing.assert_array_equal(np.array(packed.convert("RGB")), image)


def test_pictures_are_copied_and_cannot_be_changed() -> None:
    images = digits(2)
    block = Pictures(images)
    images[:] = 0
    assert block.images.any()
    with pytest.raises(ValueError, match="read-only"):
        block.images[0] = 0


# What is refused


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Heading("a", 1),
        lambda: Verdict("bad", "a"),  # type: ignore[arg-type]
        lambda: Table(["a"], [[1, 2]]),
        lambda: Table(["a"], [[1]], align=["left", "left"]),
        lambda: Table(["a"], [[1]], highlight={(0, 0): "red"}),  # type: ignore[dict-item]
        lambda: Pictures(np.zeros((2, 8, 8), np.float32)),
        lambda: Pictures(np.zeros((8, 8), np.uint8)),
        lambda: Pictures(digits(2), ["one"]),
        lambda: Pictures(digits(2), scale=0),
        lambda: Series("s", [1, 2], [1]),
        lambda: Series("s", [1], [1], low=[1]),
        lambda: Bars(["a"], [1, 2]),
        lambda: Scatter({"a": np.zeros((3, 3))}),
        lambda: Frames([Pictures(digits(1))], start=1),
        lambda: Frames([Pictures(digits(1))], ["a", "b"]),
    ],
)
def test_a_block_that_cannot_be_shown_is_refused(wrong: typing.Callable[[], Block]) -> None:
    with pytest.raises(BadInput, match="Accepted"):
        wrong()


# The report itself


@dataclasses.dataclass(frozen=True)
class Loss(Report):
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        return f"Loss of {len(self.values)} steps"

    def blocks(self) -> tuple[Block, ...]:
        return (Curve([Series("loss", range(len(self.values)), self.values)]),)


def test_a_report_is_named_shortly_and_needs_blocks_and_a_title() -> None:
    assert repr(Loss((1.0,) * 1000)) == "<Loss 'Loss of 1000 steps'>"
    with pytest.raises(TypeError, match="needs a title"):
        type("Untitled", (Report,), {"blocks": lambda self: ()})
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (Report,), {"title": "t"})()


@pytest.mark.parametrize("ending", [".html", ".md", ".json", ".txt", ".HTML"])
def test_the_ending_decides_the_form(tmp_path: Path, report: Page, ending: str) -> None:
    path = report.save(tmp_path / "new" / f"report{ending}")
    made = {".html": report.to_html, ".md": report.to_markdown, ".json": report.to_json, ".txt": report.to_text}
    assert path.read_text(encoding="utf-8") == made[ending.lower()]()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.htm"])
def test_other_endings_are_refused_and_nothing_is_written(tmp_path: Path, report: Page, name: str) -> None:
    with pytest.raises(BadInput, match=r"\.html, \.md, \.json, \.txt"):
        report.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, report: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.save(tmp_path / "report.txt")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        Page("other").save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.txt"]


def test_the_same_report_gives_the_same_bytes(report: Page) -> None:
    again = Page("Why a three?", blocks("plain words"))
    assert again.to_json() == report.to_json()
    assert again.to_html() == report.to_html()


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = {"numpy", "PIL", "rich", "jinja2", "torch"}
    code = f"import sys, pellucid.core.report; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
