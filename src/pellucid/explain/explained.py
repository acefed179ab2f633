"""One sample explained: what the model is made of, and how noise became this sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.core.capabilities import Denoises
from pellucid.core.report import Block, Heading, Report, Verdict
from pellucid.core.run import Run
from pellucid.explain.process import process
from pellucid.explain.trajectory import trajectory

if TYPE_CHECKING:
    from pellucid.model import Data, Fitted

__all__ = ["Explained", "explain_sample"]


@dataclass(frozen=True)
class Explained(Report):
    """Several explanations of one sample, one after the other; what cannot be asked of the family is said."""

    subject: str
    reports: tuple[Report, ...]
    missing: tuple[str, ...]

    @property
    def title(self) -> str:
        return "What this model is made of" if self.missing else f"Why {self.subject} came out like this"

    def blocks(self) -> tuple[Block, ...]:
        found: list[Block] = []
        for report in self.reports:
            found += [Heading(report.title), *report.blocks()]
        return (*(Verdict("note", text) for text in self.missing), *found)


def explain_sample(
    model: Fitted,
    data: Data,
    *,
    seed: int = 0,
    index: int = 0,
    where: Mapping[str, object] | None = None,
    run: Run | None = None,
) -> Explained:
    """Every explanation that the model's capabilities allow, of the sample (seed, index).

    Args:
        data: the items the model was fitted on: judges and comparisons are made from them.
        where: what was asked of the sample, as in `model.sample`.
    """
    run = run or Run()
    reports: list[Report] = [process(model, seed=seed, data=data)]
    missing = []
    if isinstance(model.engine, Denoises):
        reports.append(trajectory(model, data=data, seed=seed, index=index, where=where, run=run))
    else:
        missing.append(
            f"There is no explanation of a single sample for '{model.name}' yet: the way from noise to a sample exists "
            "only for families that denoise. Below is what the model is made of."
        )
    return Explained(f"sample {index} of seed {seed}", tuple(reports), tuple(missing))
