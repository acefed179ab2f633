"""How a likelihood changes on its way back through a bridge: by a known amount, or to a bound."""

from __future__ import annotations

from torch import Tensor

from pellucid.core.capabilities import LogProb

__all__ = ["at_least", "exactly"]


def exactly(log_prob: LogProb, add: Tensor) -> LogProb:
    """The same kind of number after adding a known amount (B,)."""
    return LogProb(log_prob.value + add.to(log_prob.value.device), log_prob.kind, log_prob.error)


def at_least(log_prob: LogProb, add: Tensor) -> LogProb:
    """A lower bound of what an exact number or a bound became after adding (B,); an estimate stays an estimate."""
    value = log_prob.value + add.to(log_prob.value.device)
    return LogProb(value, "estimate" if log_prob.kind == "estimate" else "lower_bound", log_prob.error)
