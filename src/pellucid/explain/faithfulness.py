"""An explanation's check of itself: a score, the best score there could be, and what the cheapest guess scores."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.core.interval import Interval
from pellucid.core.report import Bars, Block, Marker, Verdict

__all__ = ["Faithfulness"]


@dataclass(frozen=True)
class Faithfulness:
    """A check that can fail, and is shown in red when it does.

    question: what was tested, in one plain sentence. score: of the explanation, with its interval.
    ceiling: the best that could be expected. baseline: what the cheapest alternative scores.
    alternative: what that is. share: of the ceiling that the score must reach.
    margin: score minus baseline, question by question, where both answered the same ones; such a paired difference is
        sharper than two intervals side by side, and decides instead of them.

    >>> sure, guess = Interval(0.97, 0.93, 0.99, 64), Interval(0.1, 0.05, 0.2, 64)
    >>> Faithfulness("Does it hold?", sure, 0.98, guess, "a guess").passed
    True
    >>> Faithfulness("Does it hold?", guess, 0.98, guess, "a guess").passed
    False
    """

    question: str
    score: Interval
    ceiling: float
    baseline: Interval
    alternative: str
    share: float = 0.9
    margin: Interval | None = None

    @property
    def passed(self) -> bool:
        """Clearly above the baseline, and near enough to the ceiling."""
        return self._above and self._near

    @property
    def _near(self) -> bool:
        return self.score.value >= self.share * self.ceiling

    @property
    def _above(self) -> bool:
        return self.score.low > self.baseline.high if self.margin is None else self.margin.low > 0.0

    def lacks(self) -> str:
        """Why the check failed, in words; empty where it passed.

        >>> sure, guess = Interval(0.7, 0.6, 0.8, 64), Interval(0.1, 0.05, 0.2, 64)
        >>> Faithfulness("Does it hold?", sure, 1.0, guess, "a guess").lacks()
        'It is not within reach of the ceiling: 0.90 was needed'
        """
        lacking = [] if self._above else [f"it is not surely above {self.alternative}"]
        if not self._near:
            lacking.append(f"it is not within reach of the ceiling: {self.share * self.ceiling:.2f} was needed")
        return _capital(" and ".join(lacking))

    def verdict(self) -> Verdict:
        """The judgement with its numbers."""
        numbers = (
            f"score {self.score.value:.2f} [{self.score.low:.2f}, {self.score.high:.2f}], ceiling {self.ceiling:.2f}, "
            f"{self.alternative} {self.baseline.value:.2f} [{self.baseline.low:.2f}, {self.baseline.high:.2f}], "
            f"n = {self.score.n:,}"
        )
        if self.margin is not None:
            paired = f"{self.margin.value:.2f} [{self.margin.low:.2f}, {self.margin.high:.2f}]"
            numbers += f", difference {paired} where both answered the same"
        if self.passed:
            return Verdict("ok", f"Faithfulness check passed. {self.question} {_capital(numbers)}.")
        return Verdict(
            "fail",
            f"Faithfulness check failed: do not rely on this explanation. {self.question} {_capital(numbers)}. "
            f"{self.lacks()}.",
        )

    def blocks(self) -> tuple[Block, ...]:
        """The verdict, and the numbers as bars."""
        return (
            self.verdict(),
            Bars(
                ("this explanation", self.alternative),
                (self.score.value, self.baseline.value),
                (self.score.low, self.baseline.low),
                (self.score.high, self.baseline.high),
                caption="Faithfulness check, with 95% intervals.",
                markers=(Marker(self.ceiling, "ceiling"),),
            ),
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
