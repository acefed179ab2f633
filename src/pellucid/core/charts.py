"""Charts as SVG text: they need no script, and look the same on a screen, on paper and in a notebook.

Colours and fonts come from `report.css` by class (`c0` to `c6`, in the order of Okabe and Ito 2008, "Color universal
design"), so a chart follows light and dark. No colour stands alone: lines differ in dash and points in shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pellucid.core.blocks import Bars, Curve, Marker, Scatter, Series
from pellucid.core.wording import clean, decimals_for, number

__all__ = ["MOST_POINTS", "Axis", "axis", "bars", "curve", "kept", "scatter"]

MOST_POINTS = (
    2000  # an SVG of 10,000 marks takes a browser more than twice as long to draw, one of 50,000 most of a second
)
WIDTH = 440  # user units; report.css shows a chart from 306 to 640 pixels wide, with smaller letters where it is wide
_LETTER = 6.4  # average width of a letter at 12 units, the largest used, for leaving room
_COLOURS = 7
_SHAPES = (  # drawn from the middle of the point
    "h0",
    "m-2.6-2.6h5.2v5.2h-5.2z",
    "m0-3.4l3.2 5.6h-6.4z",
    "m0-3.6l3.6 3.6-3.6 3.6-3.6-3.6z",
    "m0 3.4l3.2-5.6h-6.4z",
    "m-3 0h6m-3-3v6",
    "m-2.4-2.4l4.8 4.8m0-4.8l-4.8 4.8",
)


@dataclass(frozen=True)
class Axis:
    """Numbers to places: `low` to `high` in the data's units, on `start` to `end` in the drawing's."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return _drawable(value, self.log)


def axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    pad: float = 0.03,
    ticks: int = 5,
) -> Axis:
    """Axis a little longer than these values need, with about so many round ticks; `zero` makes it hold zero too.

    >>> [label for _, label in axis([0.0, 0.97], 0, 100).ticks]
    ['0.0', '0.2', '0.4', '0.6', '0.8']
    >>> [label for _, label in axis([1.0, 2000.0], 0, 100, log=True).ticks]
    ['1', '10', '100', '1,000']
    """
    held = [v for v in values if _drawable(v, log)] + ([0.0] if zero else [])
    low, high = (min(held), max(held)) if held else (1.0, 10.0)
    if log:
        return _log_axis(low, high, start, end, pad, ticks)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _round_step((high - low) / ticks)
    more = (high - low) * pad
    low, high = (low if zero and low == 0 else low - more), (high if zero and high == 0 else high + more)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [
        (i * step, number(i * step, decimals))
        for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return Axis(low, high, start, end, False, _short(marks))


def _drawable(value: float, log: bool = False) -> bool:
    """Whether a number has a place on an axis; beyond these bounds the arithmetic of the axis itself would overflow."""
    return (1e-290 < abs(value) < 1e300 or value == 0) and (value > 0 or not log)


def _round_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the nearest above."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _log_axis(low: float, high: float, start: float, end: float, pad: float, ticks: int) -> Axis:
    a, b = math.log10(low), math.log10(high)
    if b - a < 0.5:  # less than that holds no two ticks
        a, b = (a + b) / 2 - 0.25, (a + b) / 2 + 0.25
    a, b = a - (b - a) * pad, b + (b - a) * pad
    stride = max(1, math.ceil((b - a) / ticks))
    within = (1, 2, 5) if b - a <= 2.5 else (1,)
    powers = range(math.floor(a), math.ceil(b) + 1)
    values = [m * 10.0**p for p in powers if p % stride == 0 for m in within if a <= math.log10(m) + p <= b]
    return Axis(10.0**a, 10.0**b, start, end, True, tuple((v, _power(v)) for v in values))


def _power(value: float) -> str:
    exponent = round(math.log10(value))
    if -3 <= exponent <= 3 or not math.isclose(value, 10.0**exponent):
        return number(value)
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _short(marks: Sequence[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Ticks of great or tiny numbers in powers, where plain labels would not fit."""
    fits = max((len(label) for _, label in marks), default=0) <= 9
    return tuple(marks) if fits else tuple((v, f"{v:.3g}") for v, _ in marks)


def curve(block: Curve, ident: str, title: str, description: str) -> Markup:
    """Lines with their bands. `ident` makes the ids inside unlike those of the page's other charts."""
    ys = [v for s in block.series for line in (s.y, s.low, s.high) if line is not None for v in line]
    xs = [v for s in block.series for v in s.x]
    named = [] if len(block.series) == 1 and block.y_label else [s.name for s in block.series]
    legend, top = _legend(named, "line")
    flags = 14 if any(m.label for m in block.markers) else 0
    top += (18 if block.y_label else 6) + flags
    bottom = top + 190
    y = axis(ys, bottom, top, log=block.log_y)
    left = _left(y)
    x = axis([*xs, *(m.at for m in block.markers)], left, WIDTH - 14, log=block.log_x, pad=0)
    if not any(x.holds(a) and y.holds(b) for s in block.series for a, b in zip(s.x, s.y, strict=True)):
        return _nothing(ident, title, description)
    parts = [legend, _grid(x, y, bottom), *(_line(s, i, x, y) for i, s in enumerate(block.series))]
    parts += [_vertical(m, x, top, bottom) for m in block.markers if x.holds(m.at)]
    parts.append(_axis_names(block.x_label, block.y_label, bottom, top - flags))
    return _svg(bottom + (44 if block.x_label else 26), parts, ident, title, description)


def bars(block: Bars, ident: str, title: str, description: str) -> Markup:
    """Lying bars with their intervals, the number at the end of each."""
    if not block.labels:
        return _nothing(ident, title, description)
    ends = [v for side in (block.values, block.low, block.high) if side is not None for v in side]
    names = [_cut(clean(label), 20) for label in block.labels]
    left = 12 + max(map(len, names)) * _LETTER
    decimals = decimals_for(block.values)
    numbers = [number(v, decimals) for v in block.values]
    top = 22 if any(m.label for m in block.markers) else 6
    bottom = top + 26 * len(names)
    room = 14 + max(map(len, numbers)) * _LETTER
    x = axis([*ends, *(m.at for m in block.markers)], left, WIDTH - room, zero=True)
    parts, texts = [_grid(x, None, bottom, top)], []
    for i, (label, name, value) in enumerate(zip(block.labels, names, block.values, strict=True)):
        middle = top + 26 * i + 13
        full = Markup("<title>{}</title>").format(clean(label)) if name != label else Markup()
        parts.append(
            Markup('<text class="name" x="{}" y="{}">{}{}</text>').format(_n(left - 8), _n(middle + 4), full, name)
        )
        reach = x.at(0)
        if x.holds(value):
            a, b = sorted((x.at(0), x.at(value)))
            bar = '<rect class="bar c0" x="{}" y="{}" width="{}" height="16" rx="2"/>'
            parts.append(Markup(bar).format(_n(a), _n(middle - 8), _n(max(b - a, 0.5))))
            reach = max(reach, b)
        if block.low is not None and block.high is not None and x.holds(block.low[i]) and x.holds(block.high[i]):
            a, b = x.at(block.low[i]), x.at(block.high[i])
            path = f"M{_n(a)} {_n(middle)}H{_n(b)}M{_n(a)} {_n(middle - 4)}v8M{_n(b)} {_n(middle - 4)}v8"
            parts.append(Markup('<path class="halo" d="{0}"/><path class="whisker" d="{0}"/>').format(path))
            reach = max(reach, b)
        texts.append(
            Markup('<text class="value" x="{}" y="{}">{}</text>').format(_n(reach + 7), _n(middle + 4), numbers[i])
        )
    parts += [_vertical(m, x, top, bottom) for m in block.markers if x.holds(m.at)]
    parts += [*texts, _axis_names(block.value_label, "", bottom, top)]
    return _svg(bottom + (44 if block.value_label else 26), parts, ident, title, description)


def scatter(block: Scatter, ident: str, title: str, description: str) -> Markup:
    """Points in groups, each group in its own colour and shape; at most `MOST_POINTS`, evenly taken."""
    total = sum(map(len, block.groups.values()))
    points = {name: kept(values.tolist(), total) for name, values in block.groups.items()}
    legend, top = _legend(list(points), "point")
    top += 18 if block.y_label else 6
    bottom = top + 270
    y = axis([b for group in points.values() for _, b in group], bottom, top)
    x = axis([a for group in points.values() for a, _ in group], _left(y), WIDTH - 14)
    parts, drawn = [legend, _grid(x, y, bottom)], 0
    for i, group in enumerate(points.values()):
        held = [(a, b) for a, b in group if x.holds(a) and y.holds(b)]
        drawn += len(held)
        path = "".join(f"M{_n(x.at(a))} {_n(y.at(b))}{_SHAPES[i % len(_SHAPES)]}" for a, b in held)
        parts.append(Markup('<path class="{} c{}" d="{}"/>').format(_point_kind(i), i % _COLOURS, path))
    if not drawn:
        return _nothing(ident, title, description)
    parts.append(_axis_names(block.x_label, block.y_label, bottom, top))
    return _svg(bottom + (44 if block.x_label else 26), parts, ident, title, description)


def _left(y: Axis) -> float:
    """Where the drawing begins, right of the labels of its vertical axis."""
    return 14 + max((len(label) for _, label in y.ticks), default=0) * _LETTER


def kept(points: list[list[float]], total: int) -> list[list[float]]:
    """This group's even share of the points that are drawn.

    >>> len(kept([[0.0, 0.0]] * 9000, 10_000))
    1800
    """
    if total <= MOST_POINTS:
        return points
    share = max(1, round(len(points) * MOST_POINTS / total)) if points else 0
    return [points[i * len(points) // share] for i in range(share)]


def _line(series: Series, i: int, x: Axis, y: Axis) -> Markup:
    rows = _thinned(series)
    runs: list[list[int]] = [[]]
    for row in rows:  # a value that is missing or cannot stand on the axis parts the line
        if x.holds(series.x[row]) and y.holds(series.y[row]):
            runs[-1].append(row)
        elif runs[-1]:
            runs.append([])
    runs = [run for run in runs if run]
    place: Callable[[int, float], str] = lambda row, value: f"{_n(x.at(series.x[row]))} {_n(y.at(value))}"  # noqa: E731
    low, high, band = series.low, series.high, ""
    if low is not None and high is not None:
        for run in runs:
            sure = [row for row in run if y.holds(low[row]) and y.holds(high[row])]
            if len(sure) > 1:
                there = "L".join(place(row, high[row]) for row in sure)
                band += f"M{there}L{'L'.join(place(row, low[row]) for row in reversed(sure))}z"
    line = "".join(
        f"M{'L'.join(place(row, series.y[row]) for row in run)}{'h0' if len(run) == 1 else ''}" for run in runs
    )
    dots = "".join(f"M{place(row, series.y[row])}h0" for run in runs for row in run) if len(rows) <= 24 else ""
    out = Markup('<path class="band c{}" d="{}"/>').format(i % _COLOURS, band) if band else Markup()
    out += Markup('<path class="line c{} d{}" d="{}"/>').format(i % _COLOURS, i % 4, line) if line else Markup()
    return out + (Markup('<path class="dots c{}" d="{}"/>').format(i % _COLOURS, dots) if dots else Markup())


def _thinned(series: Series, buckets: int = 300) -> list[int]:
    """Rows to draw: all of few points, and of many the lowest and the highest of each stretch, so no spike is lost."""
    n = len(series.x)
    if n <= 2 * buckets:
        return list(range(n))
    rows: set[int] = {0, n - 1}
    for b in range(buckets):
        stretch = range(b * n // buckets, (b + 1) * n // buckets)
        sure = [row for row in stretch if math.isfinite(series.y[row])]
        rows |= {min(sure, key=series.y.__getitem__), max(sure, key=series.y.__getitem__)} if sure else {stretch[0]}
    return sorted(rows)


def _legend(names: Sequence[str], kind: str) -> tuple[Markup, float]:
    """Samples with names, in as many lines as they need, and the height they take."""
    shown = [_cut(clean(name), 40) for name in names]
    if not any(shown) or (len(shown) < 2 and kind == "point"):
        return Markup(), 4
    out, left, top = Markup(), 6.0, 14.0
    for i, name in enumerate(shown):
        width = 32 + len(name) * _LETTER
        if left > 6 and left + width > WIDTH:
            left, top = 6.0, top + 18
        if kind == "line":
            out += Markup('<path class="line c{} d{}" d="M{} {}h20"/>').format(
                i % _COLOURS, i % 4, _n(left), _n(top - 4)
            )
        else:
            sample = f"M{_n(left + 10)} {_n(top - 4)}{_SHAPES[i % len(_SHAPES)]}"
            out += Markup('<path class="{} c{}" d="{}"/>').format(_point_kind(i), i % _COLOURS, sample)
        out += Markup('<text class="key" x="{}" y="{}">{}</text>').format(_n(left + 26), _n(top), name)
        left += width + 10
    return out, top + 10


def _point_kind(i: int) -> str:
    shape = _SHAPES[i % len(_SHAPES)]
    return "round" if shape == "h0" else "point" if shape.endswith("z") else "cross"


def _grid(x: Axis, y: Axis | None, bottom: float, top: float = 0) -> Markup:
    """Tick labels, and lines across the drawing at the ticks of the axis that carries the measure."""
    out = Markup()
    for value, label in y.ticks if y else ():
        line = '<path class="grid" d="M{} {}H{}"/><text class="tick y" x="{}" y="{}">{}</text>'
        out += (
            Markup(line).format(_n(x.start), _n(y.at(value)), _n(x.end), _n(x.start - 7), _n(y.at(value) + 4), label)
            if y
            else ""
        )
    for value, label in x.ticks:
        place = _n(x.at(value))
        mark = Markup('<path class="grid" d="M{} {}V{}"/>').format(place, _n(top), _n(bottom))
        out += Markup('<path class="axis" d="M{} {}v4"/>').format(place, _n(bottom)) if y else mark
        out += Markup('<text class="tick x" x="{}" y="{}">{}</text>').format(place, _n(bottom + 17), label)
    if y:
        return out + Markup('<path class="axis" d="M{} {}H{}"/>').format(_n(x.start), _n(bottom), _n(x.end))
    zero = _n(x.at(0) if x.low <= 0 <= x.high else x.start)
    return out + Markup('<path class="axis" d="M{} {}V{}"/>').format(zero, _n(top), _n(bottom))


def _vertical(marker: Marker, x: Axis, top: float, bottom: float) -> Markup:
    place, label = x.at(marker.at), _cut(clean(marker.label), 30)
    half = len(label) * _LETTER / 2
    middle = min(max(place, half + 2), WIDTH - half - 2)
    out = Markup('<path class="marker" d="M{} {}V{}"/>').format(_n(place), _n(top - 3), _n(bottom))
    return out + (
        Markup('<text class="flag" x="{}" y="{}">{}</text>').format(_n(middle), _n(top - 8), label) if label else ""
    )


def _axis_names(x_label: str, y_label: str, bottom: float, top: float) -> Markup:
    out = (
        Markup('<text class="label x" x="{}" y="{}">{}</text>').format(WIDTH - 14, _n(bottom + 36), clean(x_label))
        if x_label
        else Markup()
    )
    return out + (
        Markup('<text class="label" x="6" y="{}">{}</text>').format(_n(top - 10), clean(y_label)) if y_label else ""
    )


def _nothing(ident: str, title: str, description: str) -> Markup:
    text = Markup('<text class="nothing" x="{}" y="34">no finite values to draw</text>').format(WIDTH // 2)
    return _svg(60, [text], ident, title, description)


def _svg(height: float, parts: Sequence[Markup], ident: str, title: str, description: str) -> Markup:
    head = Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{i}-t {i}-d">'
        '<title id="{i}-t">{t}</title><desc id="{i}-d">{d}</desc>'
    ).format(w=WIDTH, h=_n(height), i=ident, t=title, d=description)
    return head + Markup("").join(parts) + Markup("</svg>")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _n(value: float) -> str:
    """A coordinate, to a tenth of a unit.

    >>> _n(3.0), _n(2.345)
    ('3', '2.3')
    """
    return f"{value:.1f}".removesuffix(".0")
