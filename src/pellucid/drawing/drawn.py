"""What was drawn, and everything that made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from pellucid.core.batch import Condition
from pellucid.core.capabilities import How
from pellucid.core.codec import Codec
from pellucid.core.report import Block, Report, Verdict
from pellucid.core.run import Noticed
from pellucid.domains.kinds import Data
from pellucid.domains.write import write_items
from pellucid.drawing.words import Where

__all__ = ["Draw", "Promise", "Shown"]

Promise = Literal["exact", "approximate"]


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples, and everything that made them.

    items: what the user sees. x: (B, *event) in the codec's space. condition: what was asked or drawn.
    ids: (B,) names of the samples: sample i depends on (model, seed, ids[i], condition, how) alone.
    route: how what was asked for was met: "free" (nothing was), "condition", "completion" or "rejection".
    against: what they were to be unlike.
    notices: what was taken only in part, such as words of a caption that were never seen in training, and what the
        route cost.
    promise: "exact": drawn from the model's own distribution given what was asked; "approximate": near it.
    tried: candidates that were drawn for these samples.
    """

    items: Data
    x: Tensor
    condition: Condition
    ids: Tensor
    seed: int
    how: How
    route: str
    codec: Codec[Any]
    notices: tuple[Noticed, ...] = ()
    against: Where = field(default_factory=dict)
    promise: Promise = "exact"
    tried: int = 0

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def acceptance(self) -> float:
        """Share of the candidates that were kept; 1 where none had to be left out."""
        return len(self) / self.tried if self.tried else 1.0

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the items; the ending decides the form (a folder, .npz, .png | .csv, .tsv, .parquet)."""
        return write_items(self.items, path, force=force)

    def report(self) -> Report:
        """The items as people look at them."""
        return Shown(self)

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


@dataclass(frozen=True)
class Shown(Report):
    """The items of a draw, as people look at them."""

    draw: Draw

    @property
    def title(self) -> str:
        return f"{len(self.draw)} samples, seed {self.draw.seed}"

    def blocks(self) -> tuple[Block, ...]:
        said = tuple(Verdict("note", notice.text) for notice in self.draw.notices)
        return (*said, self.draw.codec.show(self.draw.items))
