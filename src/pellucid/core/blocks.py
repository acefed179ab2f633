"""The blocks a report is made of: what is said, in frozen data; how it looks is the renderers' business.

A new kind of block is added to `Block` here and to each of the four renderers; a test fails until all of them know it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from pellucid.core.errors import BadInput, nearest
from pellucid.core.wording import clean, decimals_for, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers: TypeAlias = "Sequence[float] | NDArray[np.generic]"

__all__ = [
    "Bars",
    "Block",
    "Cell",
    "Code",
    "Curve",
    "Data",
    "Details",
    "Frames",
    "Heading",
    "Json",
    "Level",
    "Mark",
    "Marker",
    "Measured",
    "Pictures",
    "Prose",
    "Row",
    "Scatter",
    "Series",
    "Table",
    "Verdict",
]

Level: TypeAlias = Literal["ok", "note", "warn", "fail"]
Mark: TypeAlias = Literal["best", "ok", "note", "warn", "fail"]
Json: TypeAlias = "str | float | int | bool | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True)
class Measured:
    """A number with its interval.

    Args:
        value: the estimate.
        low, high: ends of the interval, when there is one.
        n: how many items it was measured on.
        unit: such as "bits/dim" or "%".
        kind: what the number or its interval is: "exact", "lower_bound", "estimate", "Wilson 95%".

    >>> str(Measured(0.9532, 0.938, 0.9651, n=1000))
    '0.953 [0.938, 0.965]'
    >>> str(Measured(3.08, unit="bits/dim", kind="lower_bound"))
    '≥ 3.08 bits/dim'
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        _set(self, value=_plain(self.value), low=_plain(self.low), high=_plain(self.high), n=_plain(self.n))

    def __str__(self) -> str:
        sign = {"lower_bound": "≥ ", "upper_bound": "≤ "}.get(self.kind, "")
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None or self.high is None:
            return f"{sign}{number(self.value)}{unit}"
        decimals = _interval_decimals(self.low, self.high)
        value, low, high = (number(float(v), decimals) for v in (self.value, self.low, self.high))
        return f"{sign}{value} [{low}, {high}]{unit}"

    def note(self) -> str:
        """The small print: how many items, and what kind of number.

        >>> Measured(0.5, 0.4, 0.6, n=1000, kind="Wilson 95%").note()
        'n = 1,000; Wilson 95%'
        """
        size = "" if self.n is None else f"n = {self.n:,}"
        return "; ".join(part for part in (size, self.kind.replace("_", " ")) if part)


Cell: TypeAlias = "str | float | int | bool | Measured | None"


@dataclass(frozen=True)
class Heading:
    """A heading inside the report; level 2 enters the table of contents (1 is the report's own title).

    Args:
        anchor: name for a link to this place; made from the text when empty.
    """

    text: str
    level: int = 2
    anchor: str = ""

    def __post_init__(self) -> None:
        if self.level not in (2, 3, 4):
            raise BadInput(f"Heading level is {self.level}", accepted="2, 3, 4", why="1 is the title of the report")


@dataclass(frozen=True)
class Prose:
    """Sentences. Blank lines part paragraphs; `**bold**` and `` `code` `` are the only markup."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Args:
        columns: C names.
        rows: each C cells.
        highlight: a mark for some cells, {(row, column): mark}; each mark has a sign beside its colour.
        align: "left", "right" or "center" per column; when empty, numbers stand right and the rest left.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]] = ()
    caption: str = ""
    highlight: Mapping[tuple[int, int], Mark] = field(default_factory=dict)
    align: Sequence[Literal["left", "right", "center"]] = ()

    def __post_init__(self) -> None:
        rows = tuple(tuple(_plain(cell) for cell in row) for row in self.rows)
        columns = tuple(self.columns)
        _set(self, columns=columns, rows=rows, align=tuple(self.align), highlight=dict(self.highlight))
        for i, row in enumerate(rows):
            if len(row) != len(columns):
                raise BadInput(f"Table row {i} has {len(row)} cells", accepted=f"{len(columns)} cells, one per column")
        _one_of("Table align", self.align, ("left", "right", "center"))
        _one_of("Table highlight", self.highlight.values(), get_args(Mark))
        if self.align and len(self.align) != len(columns):
            raise BadInput(f"Table align has {len(self.align)} entries", accepted=f"none, or {len(columns)}")

    def sides(self) -> tuple[Literal["left", "right", "center"], ...]:
        """Where each column stands: as asked for, or numbers right and the rest left."""
        columns = ([row[c] for row in self.rows if row[c] is not None] for c in range(len(self.columns)))
        numeric = (bool(cells) and all(map(_is_number, cells)) for cells in columns)
        return tuple(self.align) or tuple("right" if yes else "left" for yes in numeric)

    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The cells as people read them; the decimals of a column agree.

        >>> Table(["a", "b"], [[0.5, None], [0.125, True]]).texts()
        (('0.500', '–'), ('0.125', 'yes'))
        """
        floats = ([row[c] for row in self.rows] for c in range(len(self.columns)))
        decimals = [decimals_for(cell for cell in cells if isinstance(cell, float)) for cells in floats]
        return tuple(tuple(_cell_text(cell, d) for cell, d in zip(row, decimals, strict=True)) for row in self.rows)

    def small_print(self) -> str:
        """On how many items the measured cells rest, and what kind of numbers they are; or that there are no rows.

        >>> Table(["a"], [[Measured(0.5, n=10, kind="exact")], [Measured(0.1, n=2000)]]).small_print()
        'n = 10 to 2,000; exact'
        """
        measured = [cell for row in self.rows for cell in row if isinstance(cell, Measured)]
        sizes = sorted({cell.n for cell in measured if cell.n is not None})
        ends = " to ".join(f"{n:,}" for n in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
        kinds = sorted({clean(cell.kind).replace("_", " ") for cell in measured if cell.kind})
        said = "; ".join(part for part in (f"n = {ends}" if ends else "", ", ".join(kinds)) if part)
        return said if self.rows else "no rows"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures side by side, each pixel a square.

    Args:
        images: uint8, (N, H, W) grey or (N, H, W, 3) colour.
        captions: one short text per picture, or none.
        columns: pictures per row; None lets the page decide.
        scale: how many times larger than its pixels a picture is shown; None chooses, so that 8x8 digits are visible.
        alt: what is to be seen, for those who do not see it.
    """

    images: NDArray[np.uint8]
    captions: Sequence[str] = ()
    columns: int | None = None
    scale: int | None = None
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        import numpy as np

        images = np.array(self.images)
        if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
            raise BadInput(
                f"images are {images.dtype} of shape {images.shape}",
                accepted="uint8 of shape (N, H, W) or (N, H, W, 3)",
                next="Numbers from 0 to 1 become (x * 255).round().astype(numpy.uint8)",
            )
        images.setflags(write=False)
        _set(self, images=images, captions=tuple(self.captions))
        if self.captions and len(self.captions) != len(images):
            raise BadInput(f"{len(self.captions)} captions for {len(images)} pictures", accepted="none, or one each")
        for name, value in (("columns", self.columns), ("scale", self.scale)):
            if value is not None and value < 1:
                raise BadInput(f"Pictures {name} is {value}", accepted="1 or more, or None")

    def shown_scale(self) -> int:
        """The scale asked for, or the one that makes small pictures about 64 pixels large."""
        return self.scale or max(1, round(64 / max(1, *self.images.shape[1:3])))


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y), with a band from `low` to `high` when both are given."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None

    def __post_init__(self) -> None:
        _set(self, x=_floats(self.x), y=_floats(self.y), low=_maybe(self.low), high=_maybe(self.high))
        _same_length(f"Series '{self.name}'", x=self.x, y=self.y, low=self.low, high=self.high)


@dataclass(frozen=True)
class Marker:
    """A labelled line across a chart, at one value of its number axis."""

    at: float
    label: str = ""

    def __post_init__(self) -> None:
        _set(self, at=float(self.at))


@dataclass(frozen=True)
class Curve:
    """Lines over an axis of numbers.

    Args:
        markers: vertical lines with a label, such as the step at which something was decided.
        alt: what the chart shows; made from the series when empty.
    """

    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    caption: str = ""
    markers: Sequence[Marker] = ()
    alt: str = ""

    def __post_init__(self) -> None:
        _set(self, series=tuple(self.series), markers=tuple(self.markers))


@dataclass(frozen=True)
class Bars:
    """One bar per label, with an interval when `low` and `high` are given.

    Args:
        value_label: what the numbers are.
        markers: lines to compare with, such as a ceiling or a baseline.
    """

    labels: Sequence[str]
    values: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    caption: str = ""
    value_label: str = ""
    markers: Sequence[Marker] = ()
    alt: str = ""

    def __post_init__(self) -> None:
        _set(self, labels=tuple(self.labels), values=_floats(self.values), markers=tuple(self.markers))
        _set(self, low=_maybe(self.low), high=_maybe(self.high))
        _same_length("Bars", labels=self.labels, values=self.values, low=self.low, high=self.high)


@dataclass(frozen=True, eq=False)
class Scatter:
    """Points in the plane, in named groups.

    Args:
        groups: {name: (N, 2)}.
    """

    groups: Mapping[str, NDArray[np.floating[Any]]]
    x_label: str = ""
    y_label: str = ""
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        import numpy as np

        groups = {str(name): np.array(points, dtype=np.float64) for name, points in self.groups.items()}
        for name, points in groups.items():
            if not points.size:
                points = groups[name] = np.zeros((0, 2))
            if points.ndim != 2 or points.shape[1] != 2:
                raise BadInput(f"Scatter group '{name}' has shape {points.shape}", accepted="(N, 2)")
            points.setflags(write=False)
        _set(self, groups=groups)


@dataclass(frozen=True)
class Code:
    """Text to be read letter by letter: a command, an equation, a listing."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Verdict:
    """A judgement with its sign and colour; a failed faithfulness check is a red one."""

    level: Level
    text: str

    def __post_init__(self) -> None:
        _one_of("Verdict level", (self.level,), get_args(Level))


@dataclass(frozen=True)
class Frames:
    """Pictures step by step, with a slider where the medium has one and as a strip where it has not.

    Args:
        steps: S blocks of pictures, alike in size.
        labels: one per step, or none.
        start: the step shown first; None is the last.
    """

    steps: Sequence[Pictures]
    labels: Sequence[str] = ()
    caption: str = ""
    alt: str = ""
    start: int | None = None

    def __post_init__(self) -> None:
        _set(self, steps=tuple(self.steps), labels=tuple(self.labels))
        if self.labels and len(self.labels) != len(self.steps):
            raise BadInput(f"{len(self.labels)} labels for {len(self.steps)} frames", accepted="none, or one each")
        if self.start is not None and not 0 <= self.start < len(self.steps):
            raise BadInput(f"Frames start is {self.start}", accepted=f"0 to {len(self.steps) - 1}, or None")


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that opens them."""

    summary: str
    blocks: Sequence[Block]
    open: bool = False

    def __post_init__(self) -> None:
        _set(self, blocks=tuple(self.blocks))


@dataclass(frozen=True)
class Row:
    """Blocks side by side where there is room."""

    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        _set(self, blocks=tuple(self.blocks))


@dataclass(frozen=True)
class Data:
    """A JSON value for machines; people do not see it."""

    value: Json
    name: str = ""


Block: TypeAlias = (
    Heading | Prose | Table | Pictures | Curve | Bars | Scatter | Code | Verdict | Frames | Details | Row | Data
)


def _set(block: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(block, name, value)


def _plain(value: Any) -> Any:
    """Python's own number for a number of an array library; everything else as it is."""
    return value.item() if hasattr(value, "item") and not isinstance(value, (int, float, str)) else value


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float, Measured)) and not isinstance(cell, bool)


def _cell_text(cell: Cell, decimals: int | None) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, (str, Measured)):
        return clean(str(cell))
    return number(cell) if isinstance(cell, int) else number(cell, decimals)


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(math.nan if v is None else float(v) for v in values)


def _maybe(values: Iterable[Any] | None) -> tuple[float, ...] | None:
    return None if values is None else _floats(values)


def _same_length(what: str, **columns: Any) -> None:
    sizes = {name: len(values) for name, values in columns.items() if values is not None}
    if len(set(sizes.values())) > 1:
        came = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise BadInput(f"{what} has {came}", accepted="as many of each")
    if (columns["low"] is None) != (columns["high"] is None):
        raise BadInput(f"{what} has only one end of its interval", accepted="both low and high, or neither")


def _one_of(what: str, values: Iterable[str], accepted: Sequence[str]) -> None:
    for value in values:
        if value not in accepted:
            raise BadInput(f"{what} is '{value}'", accepted=", ".join(accepted), next=nearest(value, accepted))


def _interval_decimals(low: float, high: float) -> int | None:
    """Decimals that give half the interval two figures; None when the interval has no width."""
    half = (high - low) / 2
    return None if not 0 < half < math.inf else max(0, 1 - math.floor(math.log10(half)))
