"""A report: a result that lists what it has to say as blocks, once, and shows itself in every medium.

The renderers are `render_html`, `render_terminal`, `render_markdown` and `render_json`; the blocks are in `blocks`, and
are named here too, so that whoever writes a report imports from one place.
"""

from __future__ import annotations

import abc
import inspect
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    Json,
    Level,
    Mark,
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
from pellucid.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.console import Console

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
    "Page",
    "Pictures",
    "Prose",
    "Report",
    "Row",
    "Scatter",
    "Series",
    "Table",
    "Verdict",
]


class Report(abc.ABC):
    """A result that shows itself: a frozen dataclass with a `title` and `blocks()`.

    >>> @dataclass(frozen=True)
    ... class Sizes(Report):
    ...     count: int
    ...     title = "Sizes"
    ...     def blocks(self) -> tuple[Block, ...]:
    ...         return (Prose(f"There are **{self.count}** rows."),)
    >>> Sizes(3)
    <Sizes 'Sizes'>
    >>> print(Sizes(3).to_markdown())
    # Sizes
    <BLANKLINE>
    There are **3** rows.
    <BLANKLINE>
    """

    if TYPE_CHECKING:  # at run time a property here would become the default of a dataclass field of the same name

        @property
        def title(self) -> str: ...

    @abc.abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """What the report says, from the first sentence to the small print."""
        ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not any("title" in vars(k) or "title" in inspect.get_annotations(k) for k in cls.__mro__):
            raise TypeError(f"{cls.__name__} needs a title: a field, a property or a class attribute.")
        if "__repr__" not in vars(cls):  # dataclass would print every array of the report
            cls.__repr__ = Report.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title!r}>"

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from pellucid.core.render_html import notebook

        return notebook(self)

    def to_html(self) -> str:
        """One page that needs nothing beside itself: no network, no other file."""
        from pellucid.core.render_html import page

        return page(self)

    def to_markdown(self) -> str:
        """The report as Markdown; pictures are inside the text, charts become tables."""
        from pellucid.core.render_markdown import markdown

        return markdown(self)

    def to_json(self) -> str:
        """The report as JSON, from which `render_json.read` makes a report again."""
        from pellucid.core.render_json import text

        return text(self)

    def to_text(self, width: int = 100) -> str:
        """The report as plain text of so many columns."""
        from pellucid.core.render_terminal import plain

        return plain(self, width)

    def to_terminal(self, console: Console | None = None) -> None:
        """Write the report to a rich console; None is the standard output."""
        from pellucid.core.render_terminal import show

        show(self, console)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report whole or not at all; the ending decides how (.html, .md, .json or .txt).

        Raises:
            BadInput: the ending is none of these.
        """
        path = Path(path)
        writers = {".html": self.to_html, ".md": self.to_markdown, ".json": self.to_json, ".txt": self.to_text}
        write = writers.get(path.suffix.lower())
        if write is None:
            raise BadInput(
                f"a report cannot be saved as '{path.name}'",
                accepted=", ".join(writers),
                why="the ending decides the form",
                next=nearest(path.suffix.lower(), writers),
            )
        _write_whole(path, write().encode("utf-8"))
        return path


@dataclass(frozen=True)
class Page(Report):
    """A report from a title and blocks, for those that need no class of their own."""

    title: str
    contents: Sequence[Block] = ()

    def blocks(self) -> tuple[Block, ...]:
        return tuple(self.contents)


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp gives 0600, and a report is made to be passed on
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
